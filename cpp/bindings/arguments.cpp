#include "bindings/arguments.hpp"

#include <algorithm>
#include <climits>
#include <memory>
#include <numeric>
#include <stdexcept>

#include "engine/pool.hpp"

namespace fastbn::bindings {
namespace {

static_assert(sizeof(py::ssize_t) == sizeof(std::ptrdiff_t));

constexpr int numpy_float32 = 11;  // NPY_FLOAT and NPY_DOUBLE of NumPy's ndarraytypes.h
constexpr int numpy_float64 = 12;

// The value as Python shows it, shortened.
std::string shown(const py::handle& value) {
    constexpr std::size_t most = 80;
    std::string text = py::cast<std::string>(py::repr(value));
    return text.size() > most ? text.substr(0, most) + "..." : text;
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

DType dtype_of(const char* name, const py::array& array) {
    const py::dtype dtype = array.dtype();
    const bool native = dtype.byteorder() == '=';
    if (native && dtype.num() == numpy_float32) return DType::float32;
    if (native && dtype.num() == numpy_float64) return DType::float64;
    wrong_type(name, "have dtype float32 or float64", py::cast<std::string>(py::str(dtype)));
}

ArrayArg describe(const char* name, const py::array& array) {
    ArrayRef ref;
    ref.dtype = dtype_of(name, array);
    ref.data = static_cast<char*>(const_cast<void*>(array.data()));
    ref.ndim = static_cast<int>(array.ndim());
    ref.shape = reinterpret_cast<const std::ptrdiff_t*>(array.shape());
    ref.strides = reinterpret_cast<const std::ptrdiff_t*>(array.strides());
    return {name, array, ref};
}

py::array as_array(const char* name, const py::object& value) {
    if (value.is_none()) wrong_type(name, "be an array", "None");
    try {
        return py::array(py::module_::import("numpy").attr("asarray")(value));
    } catch (const py::error_already_set& error) {
        if (!error.matches(PyExc_TypeError) && !error.matches(PyExc_ValueError)) throw;
        wrong_type(name, "be an array", shown(value));
    }
}

// The bytes an array reaches over, from its first to behind its last.
struct Extent {
    const char* begin;
    const char* end;
};

Extent extent_of(const ArrayRef& array) {
    Extent extent{array.data, array.data + size_of(array.dtype)};
    for (int i = 0; i < array.ndim; ++i) {
        if (array.shape[i] == 0) return {array.data, array.data};
        const std::ptrdiff_t reach = (array.shape[i] - 1) * array.strides[i];
        (reach < 0 ? extent.begin : extent.end) += reach;
    }
    return extent;
}

bool share_memory(const ArrayArg& a, const ArrayArg& b) {
    const Extent ea = extent_of(a.ref);
    const Extent eb = extent_of(b.ref);
    if (ea.begin >= eb.end || eb.begin >= ea.end) return false;
    // Interleaved, perhaps. NumPy gives up where it would have to search for long.
    constexpr int most_work = 10000;
    try {
        return py::cast<bool>(py::module_::import("numpy").attr("shares_memory")(
            a.owner, b.owner, py::arg("max_work") = most_work));
    } catch (py::error_already_set&) {
        return true;
    }
}

bool same_memory(const ArrayRef& a, const ArrayRef& b) {
    bool same = a.data == b.data && a.dtype == b.dtype && a.ndim == b.ndim;
    for (int i = 0; same && i < a.ndim; ++i) {
        same = a.shape[i] == b.shape[i] && (a.shape[i] == 1 || a.strides[i] == b.strides[i]);
    }
    return same;
}

// Every stride must step over all that the smaller ones reach.
bool overlaps_itself(const ArrayRef& array) {
    std::vector<std::pair<std::ptrdiff_t, std::ptrdiff_t>> steps;
    for (int i = 0; i < array.ndim; ++i) {
        if (array.shape[i] == 0) return false;
        if (array.shape[i] > 1) steps.emplace_back(std::abs(array.strides[i]), array.shape[i]);
    }
    std::sort(steps.begin(), steps.end());
    std::ptrdiff_t reach = size_of(array.dtype);
    for (const auto& [stride, size] : steps) {
        if (stride < reach) return true;
        reach += stride * (size - 1);
    }
    return false;
}

// Strides of a dense array of this shape whose axes are in memory in the order of like's.
std::vector<py::ssize_t> dense_strides(const py::array& like) {
    const std::size_t ndim = static_cast<std::size_t>(like.ndim());
    std::vector<std::size_t> order(ndim);
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
        return std::abs(like.strides()[a]) > std::abs(like.strides()[b]);
    });
    std::vector<py::ssize_t> strides(ndim);
    py::ssize_t stride = like.itemsize();
    for (std::size_t i = ndim; i-- > 0;) {
        strides[order[i]] = stride;
        stride *= std::max<py::ssize_t>(like.shape()[order[i]], 1);
    }
    return strides;
}

// A block of the pool, given back when the last array on it goes.
struct PooledBlock {
    char* data;
    std::ptrdiff_t bytes;
};

py::array pooled_like(const py::array& like, std::ptrdiff_t bytes) {
    auto block = std::make_unique<PooledBlock>(PooledBlock{take_block(bytes), bytes});
    const char* const data = block->data;
    const py::capsule base(block.release(), [](void* pointer) {
        const std::unique_ptr<PooledBlock> last(static_cast<PooledBlock*>(pointer));
        give_back(last->data, last->bytes);
    });
    const std::vector<py::ssize_t> shape(like.shape(), like.shape() + like.ndim());
    return py::array(like.dtype(), shape, dense_strides(like), data, base);
}

bool is_broadcast(const py::array& array) {
    const auto* strides = array.strides();
    return std::any_of(strides, strides + array.ndim(), [](py::ssize_t s) { return s == 0; });
}

py::array empty_like(const py::array& like) {
    const std::ptrdiff_t bytes = like.size() * like.itemsize();
    if (bytes >= pooled_from && !is_broadcast(like)) return pooled_like(like, bytes);
    if ((like.flags() & py::array::c_style) != 0) {
        return py::array(like.dtype(),
                         std::vector<py::ssize_t>(like.shape(), like.shape() + like.ndim()));
    }
    return py::array(
        py::module_::import("numpy").attr("empty_like")(like, py::arg("subok") = false));
}

std::ptrdiff_t integer(const char* name, const py::handle& value, const char* rule) {
    const py::object index = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
    if (!index) {
        PyErr_Clear();
        wrong_type(name, rule, shown(value));
    }
    // Beyond its range this saturates, which no check of a range lets pass.
    return PyNumber_AsSsize_t(index.ptr(), nullptr);
}

}  // namespace

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

ArrayArg writable_argument(const char* name, const py::object& value) {
    if (!py::isinstance<py::array>(value)) {
        wrong_type(name, "be a numpy.ndarray", type_name(value));
    }
    refuse_masked(name, value);
    const ArrayArg argument = describe(name, py::reinterpret_borrow<py::array>(value));
    if (!argument.array().writeable()) wrong_value(name, "be writable", "a read-only array");
    if (overlaps_itself(argument.ref)) {
        wrong_value(name, "not overlap itself", "strides " + shown(value.attr("strides")));
    }
    return argument;
}

double real_argument(const char* name, const py::object& value) {
    const double number = PyFloat_AsDouble(value.ptr());
    if (number == -1.0 && PyErr_Occurred() != nullptr) {
        PyErr_Clear();
        wrong_type(name, "be a real number", shown(value));
    }
    return number;
}

bool bool_argument(const char* name, const py::object& value) {
    if (value.ptr() == Py_True) return true;
    if (value.ptr() == Py_False) return false;
    if (!py::isinstance(value, py::module_::import("numpy").attr("bool_"))) {
        wrong_type(name, "be a bool", shown(value));
    }
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

ArrayArg output_argument(const py::object& out, const ArrayArg& like,
                         const std::vector<const ArrayArg*>& sources,
                         const std::vector<const ArrayArg*>& others) {
    if (out.is_none()) return describe("out", empty_like(like.array()));
    const ArrayArg output = writable_argument("out", out);
    if (output.ref.dtype != like.ref.dtype) {
        wrong_type("out",
                   std::string("have ") + like.name + "'s dtype " + shown(like.array().dtype()),
                   shown(output.array().dtype()));
    }
    for (const ArrayArg* source : sources) {
        if (!same_memory(output.ref, source->ref)) check_disjoint(output, *source);
    }
    for (const ArrayArg* other : others) check_disjoint(output, *other);
    return output;
}

void check_disjoint(const ArrayArg& written, const ArrayArg& other) {
    if (written && other && share_memory(written, other)) {
        wrong_value(written.name, std::string("share no memory with ") + other.name,
                    "overlapping arrays");
    }
}

py::array_t<double> statistic_array(const Features& features) {
    return py::array_t<double>(
        std::vector<py::ssize_t>(features.shape.begin(), features.shape.end()));
}

}  // namespace fastbn::bindings
