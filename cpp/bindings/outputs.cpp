#include "bindings/outputs.hpp"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <utility>

#include "bindings/numpy.hpp"
#include "bindings/pool.hpp"

namespace fastbn::bindings {
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
    const auto shared = optional_owned(PyObject_CallFunctionObjArgs(
        shares_memory.ptr(), a.owner.ptr(), b.owner.ptr(), most_work.ptr(), nullptr));
    if (shared) return shared.ptr() == Py_True;
    if (PyErr_ExceptionMatches(too_hard.ptr()) == 0) throw PythonError();
    PyErr_Clear();
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
    std::pair<std::ptrdiff_t, std::ptrdiff_t> steps[max_dimensions];  // stride, size
    auto* end = steps;
    for (int i = 0; i < array.ndim; ++i) {
        if (array.shape[i] == 0) return false;
        if (array.shape[i] > 1) *end++ = {std::abs(array.strides[i]), array.shape[i]};
    }
    std::sort(steps, end);
    std::ptrdiff_t reach = size_of(array.dtype);
    return std::any_of(steps, end, [&](const auto& step) {
        if (step.first < reach) return true;
        reach += step.first * (step.second - 1);
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
    if (fields_of_array(like.owner.ptr()).c_contiguous) {
        return new_array(dtype, like.ref.ndim, like.ref.shape);
    }
    const py::object order = to_python("K");
    const py::object subclass = to_python(false);
    return call(imported("numpy", "empty_like"), like.owner.ptr(), dtype, order.ptr(),
                subclass.ptr());
}

// A fresh C-contiguous array.
py::object empty(const ResultType& type, int ndim, const std::ptrdiff_t* shape) {
    const std::ptrdiff_t itemsize = size_of(type.engine);
    std::ptrdiff_t strides[max_dimensions];
    std::ptrdiff_t bytes = itemsize;
    for (int i = ndim; i-- > 0;) {
        strides[i] = bytes;
        bytes *= shape[i];
    }
    if (bytes < pool::pooled_from) return new_array(type.numpy.ptr(), ndim, shape);
    return pooled_array(type.numpy.ptr(), ndim, shape, strides, bytes);
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
    wrong_value(output.name, "have the result's shape " + shape_text(shape, ndim),
                shape_text(array.shape, array.ndim));
}

// The rules of output_argument for an array that is given, seen with its axes in the order of the
// sources'.
void check_output(const ArrayArg& output, const ResultType& type,
                  std::initializer_list<const ArrayArg*> sources,
                  std::initializer_list<const ArrayArg*> others) {
    if (type && type.engine != output.ref.dtype) {
        wrong_type(output.name, "have dtype " + name_of(type.numpy.ptr()),
                   name_of(numpy_dtype(output)));
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
        wrong_type(name, "have this machine's byte order", name_of(numpy_dtype(array)));
    }
    if (!fields_of_array(array.owner.ptr()).writeable) {
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
        const py::object array = empty(own, order.n, shape);
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
    const ArrayFields fields = fields_of_array(array.ptr());
    return {name, std::move(array),
            ArrayRef(fields.data, type.engine, fields.ndim, fields.shape, fields.strides)};
}

ResultType result_type_of(const ArrayArg& data) {
    const DType type = data.ref.dtype;
    if (is_wide_integer(type)) return {borrowed(float64_dtype()), DType::float64};
    if (!is_float(type)) return {borrowed(float32_dtype()), DType::float32};
    PyObject* const own = numpy_dtype(data);
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

StatisticArray::StatisticArray(const Features& features)
    : array_(new_array(float64_dtype(), features.ndim, features.shape)),
      data_(reinterpret_cast<double*>(fields_of_array(array_.ptr()).data)) {}

}  // namespace fastbn::bindings
