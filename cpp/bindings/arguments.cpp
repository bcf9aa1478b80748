#include "bindings/arguments.hpp"

#include <climits>
#include <cmath>
#include <optional>

#include "bindings/dtypes.hpp"

namespace fastbn::bindings {
namespace {

static_assert(sizeof(py::ssize_t) == sizeof(std::ptrdiff_t));

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

bool is_kind(DType dtype, Kind kind) {
    if (kind == Kind::boolean) return dtype == DType::boolean;
    return is_float(dtype) || (kind != Kind::floating && dtype != DType::boolean);
}

DType checked_dtype(const char* name, const py::array& array, Kind kind) {
    const py::dtype dtype = array.dtype();
    const std::optional<DType> known = engine_dtype(dtype);
    if (known && is_kind(*known, kind)) return *known;
    std::string rule = "have dtype float32, float64, float16 or bfloat16";
    if (kind == Kind::numbers) {
        rule = "have a native dtype of real numbers";
    } else if (kind == Kind::data) {
        rule =
            "have dtype float32, float64, float16, bfloat16, uint8, int8, uint16, int16 or int32";
    }
    wrong_type(name, kind == Kind::boolean ? "have dtype bool" : rule, name_of(dtype));
}

ArrayArg describe(const char* name, const py::array& array, Kind kind) {
    const ArrayRef ref(static_cast<char*>(const_cast<void*>(array.data())),
                       checked_dtype(name, array, kind), static_cast<int>(array.ndim()),
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

// Integers of 64 bits, and unsigned ones of 32, as float64; everything else as it is.
py::object as_double(const char* name, const py::object& value) {
    refuse_masked(name, value);
    py::array array = as_array(name, value);
    const bool integers = array.dtype().kind() == 'i' || array.dtype().kind() == 'u';
    if (!integers || engine_dtype(array.dtype())) return array;
    return array.attr("astype")("float64");
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

ArrayArg described(const char* name, const py::array& array, Kind kind) {
    refuse_masked(name, array);
    return describe(name, array, kind);
}

ArrayArg array_argument(const char* name, const py::object& value, Kind kind) {
    if (is_plain_array(value)) {
        return describe(name, py::reinterpret_borrow<py::array>(value), kind);
    }
    refuse_masked(name, value);
    return describe(name, as_array(name, value), kind);
}

std::string dtype_name(const ArrayArg& argument) { return name_of(argument.array().dtype()); }

ArrayArg optional_argument(const char* name, const py::object& value, Kind kind) {
    return value.is_none() ? ArrayArg{name, value, {}} : array_argument(name, value, kind);
}

ArrayArg broadcast_argument(const char* name, const py::object& value, Kind kind,
                            const ArrayArg& x) {
    if (value.is_none()) return {name, value, {}};
    ArrayArg given =
        array_argument(name, kind == Kind::numbers ? as_double(name, value) : value, kind);
    const int missing = x.ref.ndim - given.ref.ndim;
    bool fits = missing >= 0;
    std::ptrdiff_t strides[max_dimensions] = {};
    for (int i = 0; fits && i < given.ref.ndim; ++i) {
        const std::ptrdiff_t size = given.ref.shape[i];
        const std::ptrdiff_t wanted = x.ref.shape[i + missing];
        fits = size == wanted || size == 1;
        strides[i + missing] = size == 1 ? 0 : given.ref.strides[i];
    }
    if (!fits) {
        wrong_value(name, "be broadcastable to x's shape " + shown(x.owner.attr("shape")),
                    shown(given.owner.attr("shape")));
    }
    given.ref = ArrayRef(given.ref.data, given.ref.dtype, x.ref.ndim, x.ref.shape, strides);
    return given;
}

Activation<double> activation_argument(const py::object& name, const py::object& negative_slope) {
    const double slope = real_argument("negative_slope", negative_slope);
    if (!std::isfinite(static_cast<float>(slope))) {
        wrong_value("negative_slope", "be finite in float32", shown(negative_slope));
    }
    if (name.is_none()) return {ActivationKind::none, 0.0};
    constexpr const char* rule = "be 'relu', 'leaky_relu' or None";
    if (!py::isinstance<py::str>(name)) wrong_type("activation", rule, shown(name));
    const auto is = [&](const char* other) { return name.equal(py::str(other)); };
    if (is("relu")) return {ActivationKind::relu, 0.0};
    if (is("leaky_relu")) return {ActivationKind::leaky_relu, slope};
    wrong_value("activation", rule, shown(name));
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
