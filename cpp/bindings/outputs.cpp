#include "bindings/outputs.hpp"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <optional>
#include <utility>

#include "bindings/dtypes.hpp"
#include "engine/pool.hpp"

namespace fastbn::bindings {
namespace {

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
    } catch (const py::error_already_set& error) {
        const auto too_hard = py::module_::import("numpy.exceptions").attr("TooHardError");
        if (!error.matches(too_hard)) throw;
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
std::vector<py::ssize_t> dense_strides(const py::array& like, py::ssize_t itemsize) {
    const std::size_t ndim = static_cast<std::size_t>(like.ndim());
    std::vector<std::size_t> order(ndim);
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
        const py::ssize_t step_a = std::abs(like.strides()[a]);
        const py::ssize_t step_b = std::abs(like.strides()[b]);
        return step_a > step_b || (step_a == step_b && a < b);
    });
    std::vector<py::ssize_t> strides(ndim);
    py::ssize_t stride = itemsize;
    for (std::size_t i = ndim; i-- > 0;) {
        strides[order[i]] = stride;
        stride *= std::max<py::ssize_t>(like.shape()[order[i]], 1);
    }
    return strides;
}

// A block of the pool, given back when the last array on it goes.
struct PooledBlock {
    explicit PooledBlock(std::ptrdiff_t n) : data(take_block(n)), bytes(n) {}
    ~PooledBlock() { give_back(data, bytes); }
    PooledBlock(const PooledBlock&) = delete;
    PooledBlock& operator=(const PooledBlock&) = delete;

    char* data;
    std::ptrdiff_t bytes;
};

py::array pooled_like(const py::array& like, const py::dtype& dtype, std::ptrdiff_t bytes) {
    auto block = std::make_unique<PooledBlock>(bytes);
    const py::capsule base(block.get(), [](void* pointer) {
        const std::unique_ptr<PooledBlock> last(static_cast<PooledBlock*>(pointer));
    });
    const char* const data = block.release()->data;
    const std::vector<py::ssize_t> shape(like.shape(), like.shape() + like.ndim());
    return py::array(dtype, shape, dense_strides(like, dtype.itemsize()), data, base);
}

// A C-ordered array of NumPy's own memory, without the detours of py::array.
py::array fresh_array(py::dtype dtype, const py::ssize_t* shape, std::size_t ndim) {
    auto& numpy = py::detail::npy_api::get();
    const auto made = py::reinterpret_steal<py::object>(numpy.PyArray_NewFromDescr_(
        numpy.PyArray_Type_, dtype.release().ptr(), static_cast<int>(ndim),
        const_cast<Py_intptr_t*>(shape), nullptr, nullptr, 0, nullptr));
    if (!made) throw py::error_already_set();
    return py::reinterpret_borrow<py::array>(made);
}

bool is_broadcast(const py::array& array) {
    const auto* strides = array.strides();
    return std::any_of(strides, strides + array.ndim(), [](py::ssize_t s) { return s == 0; });
}

py::array empty_like(const py::array& like, const py::dtype& dtype) {
    const std::ptrdiff_t bytes = like.size() * dtype.itemsize();
    if (bytes >= pooled_from && !is_broadcast(like)) return pooled_like(like, dtype, bytes);
    if ((like.flags() & py::array::c_style) != 0) {
        return fresh_array(dtype, like.shape(), static_cast<std::size_t>(like.ndim()));
    }
    return py::array(py::module_::import("numpy").attr("empty_like")(like, py::arg("dtype") = dtype,
                                                                     py::arg("subok") = false));
}

py::dtype natural_dtype(const ArrayArg& like) {
    return is_float(like.ref.dtype) ? like.array().dtype() : py::dtype::of<float>();
}

}  // namespace

ArrayArg writable_argument(const char* name, const py::object& value) {
    if (!py::isinstance<py::array>(value)) {
        wrong_type(name, "be a numpy.ndarray", type_name(value));
    }
    const ArrayArg argument = described(name, py::reinterpret_borrow<py::array>(value));
    if (!argument.array().writeable()) wrong_value(name, "be writable", "a read-only array");
    if (overlaps_itself(argument.ref)) {
        wrong_value(name, "not overlap itself", "strides " + shown(value.attr("strides")));
    }
    return argument;
}

ArrayArg output_argument(const py::object& out, const py::object& dtype, const ArrayArg& like,
                         const std::vector<const ArrayArg*>& sources,
                         const std::vector<const ArrayArg*>& others) {
    const std::optional<py::dtype> wanted = result_dtype_argument(dtype);
    if (out.is_none()) {
        return described("out", empty_like(like.array(), wanted ? *wanted : natural_dtype(like)));
    }
    const ArrayArg output = writable_argument("out", out);
    if (wanted && engine_dtype(*wanted) != output.ref.dtype) {
        wrong_type("out", "have dtype " + name_of(*wanted), dtype_name(output));
    }
    for (const ArrayArg* source : sources) {
        if (*source && !same_memory(output.ref, source->ref)) check_disjoint(output, *source);
    }
    for (const ArrayArg* other : others) check_disjoint(output, *other);
    return output;
}

ArrayArg output_like(const char* name, const ArrayArg& like, const ArrayArg& typed) {
    return described(name, empty_like(like.array(), typed.array().dtype()));
}

void check_disjoint(const ArrayArg& written, const ArrayArg& other) {
    if (written && other && share_memory(written, other)) {
        wrong_value(written.name, std::string("share no memory with ") + other.name,
                    "overlapping arrays");
    }
}

py::array_t<double> statistic_array(const Features& features) {
    return fresh_array(py::dtype::of<double>(), features.shape.data(), features.shape.size());
}

}  // namespace fastbn::bindings
