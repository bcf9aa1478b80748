#include "bindings/arguments.hpp"

#include <algorithm>
#include <atomic>
#include <climits>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <memory>
#include <numeric>
#include <optional>
#include <utility>

#include "bindings/dlpack.hpp"
#include "bindings/pool.hpp"

namespace fastbn::bindings {
namespace {

// ---- Errors ----

// Python's error, which is no longer set then.
py::object take_error() {
#if PY_VERSION_HEX >= 0x030C0000
    return optional_owned(PyErr_GetRaisedException());
#else
    PyObject* type = nullptr;
    PyObject* value = nullptr;
    PyObject* traceback = nullptr;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return optional_owned(value);
#endif
}

// What a conversion's error says, if it can be made to.
std::string take_reason() {
    expect_error_about_value();
    const py::object error = take_error();
    const auto text = optional_owned(in_python(PyObject_Str, error.ptr()));
    if (text) return utf8(text.ptr());
    clear_error_about_value();
    return type_name(error.ptr());
}

// ---- Dtypes ----

constexpr char native_order = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? '<' : '>';

bool is_kind(DType dtype, Kind kind) {
    if (kind == Kind::boolean) return dtype == DType::boolean;
    return kind == Kind::data || is_float(dtype);
}

// A type known by its name. The numbers found are remembered, since the name of a dtype takes a
// microsecond; nothing is lost if two threads look for one at the same time.
std::optional<DType> user_dtype(PyObject* dtype, int num) {
    static std::atomic<int> found[std::size(storage_types)];  // 0, which is bool's, until found
    for (std::size_t i = 0; i < std::size(storage_types); ++i) {
        if (found[i].load(std::memory_order_relaxed) == num) return storage_types[i].dtype;
    }
    const std::string name = name_of(dtype);
    for (std::size_t i = 0; i < std::size(storage_types); ++i) {
        if (storage_types[i].num != known_by_name || name != storage_types[i].name) continue;
        found[i].store(num, std::memory_order_relaxed);
        return storage_types[i].dtype;
    }
    return std::nullopt;
}

// "float32, float64, float16 or bfloat16".
std::string names_of(Kind kind) {
    std::string names;
    std::string last;
    for (const StorageType& type : storage_types) {
        if (!is_kind(type.dtype, kind)) continue;
        if (!last.empty()) names += (names.empty() ? "" : ", ") + last;
        last = type.name;
    }
    return names.empty() ? last : names + " or " + last;
}

// The machine's own order may be spelled out.
bool is_swapped(PyObject* dtype) {
    const char order = byteorder_of(dtype);
    return order != '=' && order != '|' && order != native_order;
}

// Of values in either byte order. Empty for a dtype that the engine does not have.
std::optional<DType> engine_dtype(PyObject* dtype) {
    const int num = num_of(dtype);
    if (num >= numpy_first_user_type) return user_dtype(dtype, num);
    for (const StorageType& type : storage_types) {
        if (type.num == usual_num(num)) return type.dtype;
    }
    return std::nullopt;
}

DType checked_dtype(const char* name, PyObject* dtype, Kind kind) {
    const std::optional<DType> known = engine_dtype(dtype);
    if (known && is_kind(*known, kind)) return *known;
    std::string got = name_of(dtype);
    if (got == "object") {
        got +=
            " (of a data frame select the columns of numbers, or use fastbn.stream, which does;"
            " if all are numbers, of Python or of pandas' own types, give .astype(float))";
    }
    wrong_type(name, "have dtype " + names_of(kind), got);
}

// ---- Arrays ----

void refuse_masked(const char* name, PyObject* value) {
    if (is_exactly_array(value)) return;
    if (is_instance(value, imported("numpy.ma", "MaskedArray"))) {
        const bool is_x = std::strcmp(name, "x") == 0;
        wrong_type(name,
                   std::string("not be a masked array") +
                       (is_x ? " (give x.data, and where=~x.mask where statistics are taken)" : ""),
                   type_name(value));
    }
}

// The value of an attribute that may not be there, and may raise.
py::object attribute_or_none(PyObject* value, const char* name) {
    auto found = optional_owned(in_python(PyObject_GetAttrString, value, name));
    if (found) return found;
    clear_error_about_value();
    return none();
}

bool is_true(PyObject* value, const char* attribute_name) {
    return attribute_or_none(value, attribute_name).ptr() == Py_True;
}

[[noreturn]] void refuse_path(const Argument& argument) {
    wrong_type(argument.name, "be an array",
               shown(argument.value) +
                   " (fastbn.Moments.load reads files of Moments, fastbn.stream those of data)");
}

// What NumPy makes no array of, or one object, may say why.
void refuse_known(const Argument& argument) {
    PyObject* const value = argument.value;
    if (PyType_Check(value) != 0) return;
    if (PyMethod_Check(value) != 0 || PyCFunction_Check(value) != 0) {
        wrong_type(argument.name, "be an array",
                   "a method (" + utf8(attribute(value, "__name__").ptr()) + "() calls it)");
    }
    if (attribute_or_none(value, "__fspath__").ptr() != Py_None) refuse_path(argument);
    const py::object fields = attribute_or_none(value, "_fields");
    if (PyTuple_Check(fields.ptr()) != 0) {
        wrong_type(
            argument.name, "be an array",
            "a " + type_name(value) + " (one of its fields may be: " + shown(fields.ptr()) + ")");
    }
    if (is_true(value, "requires_grad")) {
        wrong_type(argument.name, "not require a gradient: give .detach() of it",
                   "a " + type_name(value) + " that does");
    }
    if (attribute_or_none(value, "nnz").ptr() != Py_None || is_true(value, "is_sparse") ||
        is_true(value, "is_sparse_csr")) {
        wrong_type(argument.name, "be dense: make an array of it first",
                   "a sparse " + type_name(value));
    }
}

bool equals(PyObject* text, const char* ascii) {
    return PyUnicode_CompareWithASCIIString(text, ascii) == 0;
}

// PyTorch's own way to NumPy copies nothing either, and takes a third of the time; but it has no
// bfloat16.
bool is_of_torch(PyObject* value) {
    const py::object module =
        attribute_or_none(reinterpret_cast<PyObject*>(Py_TYPE(value)), "__module__");
    return PyUnicode_Check(module.ptr()) != 0 &&
           (equals(module.ptr(), "torch") || equals(module.ptr(), "torch.nn.parameter"));
}

// What None is. Written by fields, since braces would fill a kilobyte of shape and strides with
// zeros.
ArrayArg absent(const char* name) {
    ArrayArg argument;
    argument.name = name;
    return argument;
}

// Where missing last axes are why an array is not broadcast, says what adds them.
std::string missing_last_axes(const ArrayArg& array, PyObject* given, const ArrayArg& x) {
    const int n = array.ref.ndim;
    const bool begins_alike =
        n > 0 && n < x.ref.ndim && std::equal(array.ref.shape, array.ref.shape + n, x.ref.shape);
    if (!begins_alike) return "";
    std::string hint = std::string(" (") + array.name;
    if (!is_array(given)) {
        const bool converts = attribute_or_none(given, "to_numpy").ptr() != Py_None;
        hint = converts ? hint + ".to_numpy()" : std::string(" (np.asarray(") + array.name + ")";
    }
    hint += n == 1 ? "[:" : "[...";
    for (int i = n; i < x.ref.ndim; ++i) hint += ", None";
    return hint + "] has the axes that are missing)";
}

// ---- Numbers ----

bool is_bool(PyObject* value) {
    if (PyBool_Check(value) != 0) return true;
    if (PyFloat_Check(value) != 0 || PyLong_Check(value) != 0) return false;
    return is_instance(value, imported("numpy", "bool_"));
}

std::ptrdiff_t integer(const char* name, PyObject* value, const char* rule) {
    if (PyBool_Check(value) != 0) wrong_type(name, rule, shown(value));
    const auto index = optional_owned(in_python(PyNumber_Index, value));
    if (!index) {
        clear_error_about_value();
        wrong_type(name, rule, shown(value));
    }
    // Beyond its range this saturates, which no check of a range lets pass.
    return PyNumber_AsSsize_t(index.ptr(), nullptr);
}

}  // namespace

// The value as Python shows it, shortened.
std::string shown(PyObject* value) {
    constexpr Py_ssize_t most = 80;
    const auto text = optional_owned(in_python(PyObject_Repr, value));
    if (!text) {
        clear_error_about_value();
        return "a " + type_name(value);
    }
    const py::object start = owned(PyUnicode_Substring(text.ptr(), 0, most));
    return utf8(start.ptr()) + (PyUnicode_GET_LENGTH(text.ptr()) > most ? "..." : "");
}

[[noreturn]] void wrong_type(const std::string& name, const std::string& rule,
                             const std::string& value) {
    raise(PyExc_TypeError, name + " must " + rule + ", got " + value);
}

[[noreturn]] void wrong_value(const std::string& name, const std::string& rule,
                              const std::string& value) {
    raise(PyExc_ValueError, name + " must " + rule + ", got " + value);
}

std::string type_name(PyObject* value) {
    auto* const type = reinterpret_cast<PyObject*>(Py_TYPE(value));
    return utf8(attribute(type, "__name__").ptr());
}

std::string name_of(PyObject* dtype) { return utf8(owned(in_python(PyObject_Str, dtype)).ptr()); }

ResultType dtype_argument(const Argument& argument) {
    if (argument.is_none()) return {};
    const py::object convert = imported("numpy", "dtype");
    auto dtype = optional_owned(in_python(PyObject_CallOneArg, convert.ptr(), argument.value));
    if (!dtype) clear_error_about_value();
    const std::optional<DType> known = dtype ? engine_dtype(dtype.ptr()) : std::nullopt;
    if (known && is_float(*known) && !is_swapped(dtype.ptr())) return {std::move(dtype), *known};
    wrong_type(argument.name, "be " + names_of(Kind::floating) + " (once ml_dtypes is imported)",
               shown(argument.value));
}

ArrayArg described(const char* name, py::object array, Kind kind) {
    refuse_masked(name, array.ptr());
    PyObject* const object = array.ptr();
    PyObject* const dtype = dtype_of_array(object);
    const DType type = checked_dtype(name, dtype, kind);
    return {name, std::move(array), array_ref(object, type, is_swapped(dtype))};
}

py::object as_array(const Argument& argument) {
    if (argument.is_none()) {
        const bool is_var = std::strcmp(argument.name, "var") == 0;
        wrong_type(argument.name, "be an array",
                   is_var ? "None (give it with mean, or Moments as mean)" : "None");
    }
    if (is_array(argument.value)) return borrowed(argument.value);
    if (PyUnicode_Check(argument.value) != 0) refuse_path(argument);
    const bool torch_first = is_of_torch(argument.value);
    py::object exported = torch_first ? py::object() : array_from_dlpack(argument.value);
    if (exported) return exported;
    const py::object convert = imported("numpy", "asarray");
    auto array = optional_owned(in_python(PyObject_CallOneArg, convert.ptr(), argument.value));
    if (!array) {
        const std::string reason = take_reason();
        if (torch_first) exported = array_from_dlpack(argument.value);
        if (exported) return exported;
        refuse_known(argument);
        wrong_type(argument.name, "be an array", shown(argument.value) + " (" + reason + ")");
    }
    const bool holds_objects = kind_of(dtype_of_array(array.ptr())) == 'O';
    if (holds_objects && array_ref(array.ptr(), DType::float64).ndim == 0) {
        refuse_known(argument);
        wrong_type(argument.name, "be an array", shown(argument.value));
    }
    return array;
}

ArrayArg array_argument(const Argument& argument, Kind kind) {
    return described(argument.name, as_array(argument), kind);
}

ArrayArg optional_argument(const Argument& argument, Kind kind) {
    return argument.is_none() ? absent(argument.name) : array_argument(argument, kind);
}

ArrayArg broadcast_argument(const Argument& argument, Kind kind, const ArrayArg& x) {
    if (argument.is_none()) return absent(argument.name);
    ArrayArg array = array_argument(argument, kind);
    const int missing = x.ref.ndim - array.ref.ndim;
    bool fits = missing >= 0;
    std::ptrdiff_t strides[max_dimensions] = {};
    for (int i = 0; fits && i < array.ref.ndim; ++i) {
        const std::ptrdiff_t size = array.ref.shape[i];
        const std::ptrdiff_t wanted = x.ref.shape[i + missing];
        fits = size == wanted || size == 1;
        strides[i + missing] = size == 1 ? 0 : array.ref.strides[i];
    }
    if (!fits) {
        wrong_value(
            argument.name,
            "be broadcastable to x's shape " + shown(attribute(x.owner.ptr(), "shape").ptr()),
            shown(attribute(array.owner.ptr(), "shape").ptr()) +
                missing_last_axes(array, argument.value, x));
    }
    array.ref = ArrayRef(array.ref.data, array.ref.dtype, x.ref.ndim, x.ref.shape, strides,
                         array.ref.swapped);
    return array;
}

AxisList axes_argument(const ArrayArg& x, const Argument& axis) {
    const int ndim = x.ref.ndim;
    if (ndim < 2) {
        wrong_value("x",
                    "have at least 2 dimensions (one feature: x[:, None], of a pandas Series "
                    "x.to_frame(), one sample: x[None, :])",
                    std::to_string(ndim));
    }
    AxisList axes;
    bool marked[max_dimensions] = {};
    // The next axis; negative ones are counted from the end.
    const auto take = [&](PyObject* value) {
        const std::ptrdiff_t given =
            integer(axis.name, value, "be an integer or a tuple of integers");
        if (given < -ndim || given >= ndim) {
            wrong_value(axis.name,
                        "be between " + std::to_string(-ndim) + " and " + std::to_string(ndim - 1) +
                            " for x of " + std::to_string(ndim) + " dimensions",
                        shown(value));
        }
        const auto index = static_cast<int>(given < 0 ? given + ndim : given);
        if (marked[index]) wrong_value(axis.name, "name each axis once", shown(value) + " again");
        marked[index] = true;
        axes.push(index);
    };
    if (PyTuple_Check(axis.value) == 0 && PyList_Check(axis.value) == 0) {
        take(axis.value);
        return axes;
    }
    const py::object items = owned(in_python(PySequence_Tuple, axis.value));
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(items.ptr()); ++i) {
        take(PyTuple_GET_ITEM(items.ptr(), i));
    }
    return axes;
}

AxisList axis_order_argument(const ArrayArg& x, const Argument& axis, const Argument& out_axis) {
    AxisList order;
    if (out_axis.is_none()) return order;
    const AxisList from = axes_argument(x, axis);
    const AxisList to = axes_argument(x, out_axis);
    if (from.n != to.n) {
        wrong_value(out_axis.name, "name as many axes as axis, " + std::to_string(from.n),
                    std::to_string(to.n));
    }
    constexpr int free = -1;
    std::fill_n(order.axis, x.ref.ndim, free);
    order.n = x.ref.ndim;
    bool moved[max_dimensions] = {};
    for (int i = 0; i < from.n; ++i) {
        order.axis[to.axis[i]] = from.axis[i];
        moved[from.axis[i]] = true;
    }
    int next = 0;
    for (int i = 0; i < order.n; ++i) {
        if (order.axis[i] != free) continue;
        while (moved[next]) ++next;
        order.axis[i] = next++;
    }
    return order;
}

Activation activation_argument(const Argument& activation, const Argument& negative_slope) {
    const double slope = real_argument(negative_slope);
    if (!std::isfinite(static_cast<float>(slope))) {
        wrong_value(negative_slope.name, "be finite in float32", shown(negative_slope.value));
    }
    if (activation.is_none()) return {ActivationKind::none, 0.0};
    constexpr const char* rule = "be 'relu', 'leaky_relu' or None";
    if (PyUnicode_Check(activation.value) == 0) {
        wrong_type(activation.name, rule, shown(activation.value));
    }
    if (equals(activation.value, "relu")) return {ActivationKind::relu, 0.0};
    if (equals(activation.value, "leaky_relu")) return {ActivationKind::leaky_relu, slope};
    wrong_value(activation.name, rule, shown(activation.value));
}

double real_argument(const Argument& argument) {
    if (is_bool(argument.value)) {
        wrong_type(argument.name, "be a real number", shown(argument.value));
    }
    const double number = in_python(PyFloat_AsDouble, argument.value);
    if (number == -1.0 && PyErr_Occurred() != nullptr) {
        if (PyErr_ExceptionMatches(PyExc_OverflowError) != 0) {
            PyErr_Clear();
            wrong_value(argument.name, "fit float64", shown(argument.value));
        }
        clear_error_about_value();
        wrong_type(argument.name, "be a real number", shown(argument.value));
    }
    return number;
}

bool bool_argument(const Argument& argument) {
    if (argument.value == Py_True) return true;
    if (argument.value == Py_False) return false;
    if (!is_bool(argument.value)) wrong_type(argument.name, "be a bool", shown(argument.value));
    const int answer = in_python(PyObject_IsTrue, argument.value);
    if (answer < 0) throw PythonError();
    return answer == 1;
}

std::string text_argument(const Argument& argument) {
    if (PyUnicode_Check(argument.value) == 0) {
        wrong_type(argument.name, "be a str", shown(argument.value));
    }
    return utf8(argument.value);
}

std::ptrdiff_t bytes_argument(const Argument& argument) {
    const std::ptrdiff_t n = integer(argument.name, argument.value, "be an integer");
    if (n < 0) wrong_value(argument.name, "not be negative", shown(argument.value));
    return n;
}

int threads_argument(const Argument& argument) {
    if (argument.is_none()) return 0;
    const std::ptrdiff_t n = integer(argument.name, argument.value, "be an integer or None");
    if (n < 1 || n > INT_MAX) {
        wrong_value(argument.name, "be between 1 and " + std::to_string(INT_MAX),
                    shown(argument.value));
    }
    return static_cast<int>(n);
}

// ---- Arrays that are written to ----

namespace {

// The bytes an array reaches over: its first, and that behind its last.
std::pair<const char*, const char*> memory_of(const ArrayRef& array) {
    const char* begin = array.data;
    const char* end = array.data + size_of(array.dtype);
    for (int i = 0; i < array.ndim; ++i) {
        if (array.shape[i] == 0) return {array.data, array.data};
        const std::ptrdiff_t reach = (array.shape[i] - 1) * array.strides[i];
        (reach < 0 ? begin : end) += reach;
    }
    return {begin, end};
}

bool share_memory(const ArrayArg& a, const ArrayArg& b) {
    const auto [begin_a, end_a] = memory_of(a.ref);
    const auto [begin_b, end_b] = memory_of(b.ref);
    if (begin_a >= end_b || begin_b >= end_a) return false;
    // Interleaved, perhaps. NumPy gives up where it would have to search for long.
    const py::object most_work = to_python(10000);
    const py::object too_hard = imported("numpy.exceptions", "TooHardError");
    const py::object shares_memory = imported("numpy", "shares_memory");
    const auto shared =
        optional_owned(in_python(PyObject_CallFunctionObjArgs, shares_memory.ptr(), a.owner.ptr(),
                                 b.owner.ptr(), most_work.ptr(), nullptr));
    if (shared) return shared.ptr() == Py_True;
    clear_error(too_hard.ptr());
    return true;
}

bool same_memory(const ArrayRef& a, const ArrayRef& b) {
    bool same = a.data == b.data && a.dtype == b.dtype && a.has_shape_of(b);
    for (int i = 0; same && i < a.ndim; ++i) {
        same = a.shape[i] == 1 || a.strides[i] == b.strides[i];
    }
    return same;
}

// Every stride must step over all that the smaller ones reach.
bool overlaps_itself(const ArrayRef& array) {
    Dim steps[max_dimensions];
    Dim* end = steps;
    for (int i = 0; i < array.ndim; ++i) {
        if (array.shape[i] == 0) return false;
        if (array.shape[i] > 1) *end++ = {array.shape[i], std::abs(array.strides[i])};
    }
    std::sort(steps, end, [](const Dim& a, const Dim& b) { return a.stride < b.stride; });
    std::ptrdiff_t reach = size_of(array.dtype);
    return std::any_of(steps, end, [&](const Dim& step) {
        if (step.stride < reach) return true;
        reach += step.stride * (step.size - 1);
        return false;
    });
}

// Strides of a dense array of like's shape whose axes are in memory in the order of like's.
void set_dense_strides(const ArrayRef& like, std::ptrdiff_t itemsize, std::ptrdiff_t* strides) {
    int order[max_dimensions];
    std::iota(order, order + like.ndim, 0);
    std::sort(order, order + like.ndim, [&](int a, int b) {
        const std::ptrdiff_t step_a = std::abs(like.strides[a]);
        const std::ptrdiff_t step_b = std::abs(like.strides[b]);
        return step_a > step_b || (step_a == step_b && a < b);
    });
    std::ptrdiff_t stride = itemsize;
    for (int i = like.ndim; i-- > 0;) {
        strides[order[i]] = stride;
        stride *= std::max<std::ptrdiff_t>(like.shape[order[i]], 1);
    }
}

// On a block of the pool, which it gives back when the last array on it goes.
py::object pooled_array(PyObject* dtype, int ndim, const std::ptrdiff_t* shape,
                        const std::ptrdiff_t* strides, std::ptrdiff_t bytes) {
    auto block = std::make_unique<pool::Block>(bytes);
    const py::object base = owned(PyCapsule_New(block.get(), nullptr, [](PyObject* capsule) {
        delete static_cast<pool::Block*>(PyCapsule_GetPointer(capsule, nullptr));
    }));
    char* const data = block.release()->data;
    return new_array_on(data, base.ptr(), dtype, ndim, shape, strides, true);
}

bool repeats_elements(const ArrayRef& array) {
    const std::ptrdiff_t* const end = array.strides + array.ndim;
    return std::find(array.strides, end, 0) != end;
}

py::object empty_like(const ArrayArg& like, const ResultType& type) {
    PyObject* const dtype = type.numpy.ptr();
    const std::ptrdiff_t itemsize = size_of(type.engine);
    const std::ptrdiff_t bytes = like.ref.size() * itemsize;
    if (bytes >= pool::pooled_from && !repeats_elements(like.ref)) {
        std::ptrdiff_t strides[max_dimensions];
        set_dense_strides(like.ref, itemsize, strides);
        return pooled_array(dtype, like.ref.ndim, like.ref.shape, strides, bytes);
    }
    if (is_c_contiguous(like.owner.ptr())) {
        return new_array(dtype, like.ref.ndim, like.ref.shape);
    }
    const py::object order = to_python("K");
    const py::object subclass = to_python(false);
    return call(imported("numpy", "empty_like"), like.owner.ptr(), dtype, order.ptr(),
                subclass.ptr());
}

// A fresh C-contiguous array.
py::object empty(PyObject* dtype, std::ptrdiff_t itemsize, int ndim, const std::ptrdiff_t* shape) {
    std::ptrdiff_t strides[max_dimensions];
    std::ptrdiff_t bytes = itemsize;
    for (int i = ndim; i-- > 0;) {
        strides[i] = bytes;
        bytes *= shape[i];
    }
    if (bytes < pool::pooled_from) return new_array(dtype, ndim, shape);
    return pooled_array(dtype, ndim, shape, strides, bytes);
}

// An array whose axis i is axis order.axis[i] of another one, seen with its axes in the other's
// order.
ArrayArg in_order_of_axes(const ArrayArg& array, const AxisList& order) {
    ArrayArg seen = array;
    for (int i = 0; i < order.n; ++i) {
        seen.ref.shape[order.axis[i]] = array.ref.shape[i];
        seen.ref.strides[order.axis[i]] = array.ref.strides[i];
    }
    return seen;
}

void check_shape(const ArrayArg& output, int ndim, const std::ptrdiff_t* shape) {
    const ArrayRef& array = output.ref;
    if (array.ndim == ndim && std::equal(shape, shape + ndim, array.shape)) return;
    wrong_value(output.name, "have the result's shape " + shown_shape(shape, ndim),
                shown_shape(array.shape, array.ndim));
}

// The rules of output_argument for an array that is given, seen with its axes in the order of the
// sources'.
void check_output(const ArrayArg& output, const ResultType& type,
                  std::initializer_list<const ArrayArg*> sources,
                  std::initializer_list<const ArrayArg*> others) {
    if (type && type.engine != output.ref.dtype) {
        wrong_type(output.name, "have dtype " + name_of(type.numpy.ptr()),
                   name_of(dtype_of_array(output.owner.ptr())));
    }
    for (const ArrayArg* source : sources) {
        if (*source && !same_memory(output.ref, source->ref)) check_disjoint(output, *source);
    }
    for (const ArrayArg* other : others) check_disjoint(output, *other);
}

}  // namespace

ArrayArg writable_argument(const Argument& argument) {
    const char* const name = argument.name;
    if (!is_array(argument.value)) {
        wrong_type(name, "be a numpy.ndarray", type_name(argument.value));
    }
    const ArrayArg array = described(name, borrowed(argument.value), Kind::floating);
    if (array.ref.swapped) {
        wrong_type(name, "have this machine's byte order",
                   name_of(dtype_of_array(array.owner.ptr())));
    }
    if (!is_writeable(array.owner.ptr())) {
        wrong_value(name, "be writable", "a read-only array");
    }
    if (overlaps_itself(array.ref)) {
        wrong_value(name, "not overlap itself",
                    "strides " + shown(attribute(array.owner.ptr(), "strides").ptr()));
    }
    return array;
}

ArrayArg output_argument(const Argument& out, const ResultType& type, const ArrayArg& like,
                         std::initializer_list<const ArrayArg*> sources,
                         std::initializer_list<const ArrayArg*> others) {
    if (out.is_none()) {
        return output_like(out.name, like, type ? type : result_type_of(like));
    }
    const ArrayArg output = writable_argument(out);
    check_output(output, type, sources, others);
    return output;
}

ArrayArg output_argument(const Argument& out, const ResultType& type, const ArrayArg& like,
                         const AxisList& order, std::initializer_list<const ArrayArg*> sources,
                         std::initializer_list<const ArrayArg*> others) {
    if (order.n == 0) return output_argument(out, type, like, sources, others);
    std::ptrdiff_t shape[max_dimensions];
    for (int i = 0; i < order.n; ++i) shape[i] = like.ref.shape[order.axis[i]];
    if (out.is_none()) {
        const ResultType own = type ? type : result_type_of(like);
        const py::object array = empty(own.numpy.ptr(), size_of(own.engine), order.n, shape);
        return in_order_of_axes(described(out.name, array, Kind::floating), order);
    }
    const ArrayArg output = writable_argument(out);
    check_shape(output, order.n, shape);
    const ArrayArg seen = in_order_of_axes(output, order);
    check_output(seen, type, sources, others);
    return seen;
}

ArrayArg output_like(const char* name, const ArrayArg& like, const ResultType& type) {
    py::object array = empty_like(like, type);
    PyObject* const object = array.ptr();
    return {name, std::move(array), array_ref(object, type.engine)};
}

ResultType result_type_of(const ArrayArg& data) {
    const DType type = data.ref.dtype;
    if (is_wide_integer(type)) return {borrowed(float64_dtype()), DType::float64};
    if (!is_float(type)) return {borrowed(float32_dtype()), DType::float32};
    PyObject* const own = dtype_of_array(data.owner.ptr());
    if (!data.ref.swapped) return {borrowed(own), type};
    const py::object native = to_python("=");
    return {call(attribute(own, "newbyteorder"), native.ptr()), type};
}

void check_disjoint(const ArrayArg& written, const ArrayArg& other) {
    if (written && other && share_memory(written, other)) {
        wrong_value(written.name, std::string("share no memory with ") + other.name,
                    "overlapping arrays");
    }
}

py::object statistic_array(const Features& features) {
    return empty(float64_dtype(), sizeof(double), features.ndim, features.shape);
}

py::object statistic_array(const ArrayRef& like) {
    return empty(float64_dtype(), sizeof(double), like.ndim, like.shape);
}

}  // namespace fastbn::bindings
