#include "bindings/arguments.hpp"

#include <climits>

namespace fastbn::bindings {
namespace {

static_assert(sizeof(py::ssize_t) == sizeof(std::ptrdiff_t));

constexpr int numpy_float32 = 11;  // NPY_FLOAT and NPY_DOUBLE of NumPy's ndarraytypes.h
constexpr int numpy_float64 = 12;

// Whether an error that a conversion ended in says something of the value.
bool is_about_value(const py::error_already_set& error) {
    return error.matches(PyExc_Exception) && !error.matches(PyExc_MemoryError);
}

bool is_plain_array(const py::object& value) {
    return reinterpret_cast<PyObject*>(Py_TYPE(value.ptr())) ==
           reinterpret_cast<PyObject*>(py::detail::npy_api::get().PyArray_Type_);
}

void refuse_masked(const char* name, const py::object& value) {
    if (is_plain_array(value)) return;
    const auto masked_array = py::module_::import("numpy.ma").attr("MaskedArray");
    if (py::isinstance(value, masked_array)) {
        wrong_type(name, "not be a masked array", type_name(value));
    }
}

bool is_bool(const py::object& value) {
    if (PyBool_Check(value.ptr()) != 0) return true;
    if (PyFloat_Check(value.ptr()) != 0 || PyLong_Check(value.ptr()) != 0) return false;
    return py::isinstance(value, py::module_::import("numpy").attr("bool_"));
}

// Clears the error that a conversion ended in, if it is about the value; others are passed on.
void clear_conversion_error() {
    const py::error_already_set error;
    if (!is_about_value(error)) throw error;
}

DType dtype_of(const char* name, const py::array& array) {
    const py::dtype dtype = array.dtype();
    const bool native = dtype.byteorder() == '=';
    if (native && dtype.num() == numpy_float32) return DType::float32;
    if (native && dtype.num() == numpy_float64) return DType::float64;
    wrong_type(name, "have dtype float32 or float64", py::cast<std::string>(py::str(dtype)));
}

ArrayArg describe(const char* name, const py::array& array) {
    const ArrayRef ref(static_cast<char*>(const_cast<void*>(array.data())), dtype_of(name, array),
                       static_cast<int>(array.ndim()),
                       reinterpret_cast<const std::ptrdiff_t*>(array.shape()),
                       reinterpret_cast<const std::ptrdiff_t*>(array.strides()));
    return {name, array, ref};
}

// What an error says, if it can be made to.
std::string reason_of(const py::error_already_set& error) {
    try {
        const py::bytes text = py::str(error.value()).attr("encode")("utf-8", "backslashreplace");
        return std::string(text);
    } catch (const py::error_already_set& another) {
        if (!is_about_value(another)) throw;
        return type_name(error.value());
    }
}

py::array as_array(const char* name, const py::object& value) {
    if (value.is_none()) wrong_type(name, "be an array", "None");
    try {
        return py::array(py::module_::import("numpy").attr("asarray")(value));
    } catch (const py::error_already_set& error) {
        if (!is_about_value(error)) throw;
        wrong_type(name, "be an array", shown(value) + " (" + reason_of(error) + ")");
    }
}

std::ptrdiff_t integer(const char* name, const py::handle& value, const char* rule) {
    if (PyBool_Check(value.ptr()) != 0) wrong_type(name, rule, shown(value));
    const py::object index = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
    if (!index) {
        clear_conversion_error();
        wrong_type(name, rule, shown(value));
    }
    // Beyond its range this saturates, which no check of a range lets pass.
    return PyNumber_AsSsize_t(index.ptr(), nullptr);
}

}  // namespace

// The value as Python shows it, shortened.
std::string shown(const py::handle& value) {
    constexpr std::size_t most = 80;
    try {
        const py::str text = py::repr(value);
        const py::object start = text[py::slice(0, most, 1)];
        const py::bytes bytes = start.attr("encode")("utf-8", "backslashreplace");
        return std::string(bytes) + (py::len(text) > most ? "..." : "");
    } catch (const py::error_already_set& error) {
        if (!is_about_value(error)) throw;
        return "a " + type_name(value);
    }
}

[[noreturn]] void wrong_type(const std::string& name, const std::string& rule,
                             const std::string& value) {
    throw py::type_error(name + " must " + rule + ", got " + value);
}

[[noreturn]] void wrong_value(const std::string& name, const std::string& rule,
                              const std::string& value) {
    throw py::value_error(name + " must " + rule + ", got " + value);
}

std::string type_name(const py::handle& value) {
    return py::cast<std::string>(py::type::handle_of(value).attr("__name__"));
}

ArrayArg described(const char* name, const py::array& array) {
    refuse_masked(name, array);
    return describe(name, array);
}

ArrayArg array_argument(const char* name, const py::object& value) {
    if (is_plain_array(value)) {
        return describe(name, py::reinterpret_borrow<py::array>(value));
    }
    refuse_masked(name, value);
    return describe(name, as_array(name, value));
}

ArrayArg optional_argument(const char* name, const py::object& value) {
    return value.is_none() ? ArrayArg{name, value, {}} : array_argument(name, value);
}

double real_argument(const char* name, const py::object& value) {
    if (is_bool(value)) wrong_type(name, "be a real number", shown(value));
    const double number = PyFloat_AsDouble(value.ptr());
    if (number == -1.0 && PyErr_Occurred() != nullptr) {
        if (PyErr_ExceptionMatches(PyExc_OverflowError) != 0) {
            PyErr_Clear();
            wrong_value(name, "fit float64", shown(value));
        }
        clear_conversion_error();
        wrong_type(name, "be a real number", shown(value));
    }
    return number;
}

bool bool_argument(const char* name, const py::object& value) {
    if (value.ptr() == Py_True) return true;
    if (value.ptr() == Py_False) return false;
    if (!is_bool(value)) wrong_type(name, "be a bool", shown(value));
    return PyObject_IsTrue(value.ptr()) == 1;
}

std::vector<std::ptrdiff_t> axis_argument(const py::object& value) {
    constexpr const char* rule = "be an integer or a tuple of integers";
    if (!py::isinstance<py::tuple>(value) && !py::isinstance<py::list>(value)) {
        return {integer("axis", value, rule)};
    }
    std::vector<std::ptrdiff_t> axes;
    for (const py::handle& item : value) axes.push_back(integer("axis", item, rule));
    return axes;
}

std::ptrdiff_t bytes_argument(const char* name, const py::object& value) {
    const std::ptrdiff_t n = integer(name, value, "be an integer");
    if (n < 0) wrong_value(name, "not be negative", shown(value));
    return n;
}

int threads_argument(const py::object& value) {
    if (value.is_none()) return 0;
    const std::ptrdiff_t n = integer("n", value, "be an integer or None");
    if (n < 1 || n > INT_MAX) {
        wrong_value("n", "be between 1 and " + std::to_string(INT_MAX), shown(value));
    }
    return static_cast<int>(n);
}

}  // namespace fastbn::bindings
