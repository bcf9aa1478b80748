// Arrays as the engine sees them: memory, a type, a shape, strides. No owner, no Python.
#pragma once

#include <algorithm>
#include <cstddef>

namespace fastbn {

enum class DType { float32, float64 };

inline std::ptrdiff_t size_of(DType dtype) { return dtype == DType::float32 ? 4 : 8; }

// The one switch over element types: calls f with a value of the type.
template <class F>
auto visit_dtype(DType dtype, F&& f) {
    return dtype == DType::float32 ? f(float{}) : f(double{});
}

constexpr int max_dimensions = 64;  // NumPy's own limit

// Shape and strides are copies: others may change an array's own while a call runs.
struct ArrayRef {
    char* data = nullptr;
    DType dtype = DType::float64;
    int ndim = 0;
    std::ptrdiff_t shape[max_dimensions];    // only the first ndim are ever read, or copied
    std::ptrdiff_t strides[max_dimensions];  // in bytes

    ArrayRef() = default;
    ArrayRef(char* memory, DType type, int n, const std::ptrdiff_t* sizes,
             const std::ptrdiff_t* steps)
        : data(memory), dtype(type), ndim(n) {
        std::copy_n(sizes, n, shape);
        std::copy_n(steps, n, strides);
    }
    ArrayRef(const ArrayRef& other)
        : ArrayRef(other.data, other.dtype, other.ndim, other.shape, other.strides) {}
    ArrayRef& operator=(const ArrayRef& other) {
        if (this == &other) return *this;
        data = other.data;
        dtype = other.dtype;
        ndim = other.ndim;
        std::copy_n(other.shape, ndim, shape);
        std::copy_n(other.strides, ndim, strides);
        return *this;
    }

    explicit operator bool() const { return data != nullptr; }
};

}  // namespace fastbn
