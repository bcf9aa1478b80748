// Arrays as the engine sees them: memory, a type, a shape, strides. No owner, no Python.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/storage.hpp"

namespace fastbn {

enum class DType {
    float32,
    float64,
    float16,
    bfloat16,
    uint8,
    int8,
    uint16,
    int16,
    int32,
    boolean,
};

// The one switch over element types: calls f with a value of the type. A boolean is a byte.
template <class F>
auto visit_dtype(DType dtype, F&& f) {
    switch (dtype) {
        case DType::float32:
            return f(float{});
        case DType::float16:
            return f(Float16{});
        case DType::bfloat16:
            return f(Bfloat16{});
        case DType::uint8:
        case DType::boolean:
            return f(std::uint8_t{});
        case DType::int8:
            return f(std::int8_t{});
        case DType::uint16:
            return f(std::uint16_t{});
        case DType::int16:
            return f(std::int16_t{});
        case DType::int32:
            return f(std::int32_t{});
        case DType::float64:
            break;
    }
    return f(double{});
}

inline std::ptrdiff_t size_of(DType dtype) {
    return visit_dtype(dtype, [](auto zero) { return std::ptrdiff_t{sizeof zero}; });
}

// Those that the results of an operation may have: the first four.
inline bool is_float(DType dtype) { return dtype <= DType::bfloat16; }

// The types that kernels read and write.
template <class T>
constexpr DType dtype_of();
template <>
constexpr DType dtype_of<float>() {
    return DType::float32;
}
template <>
constexpr DType dtype_of<double>() {
    return DType::float64;
}
template <>
constexpr DType dtype_of<Float16>() {
    return DType::float16;
}
template <>
constexpr DType dtype_of<Bfloat16>() {
    return DType::bfloat16;
}
template <>
constexpr DType dtype_of<std::uint8_t>() {
    return DType::uint8;
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
