// Arrays as the engine sees them: memory, a type, a shape, strides. No owner, no Python.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastbn {

enum class DType { float32, float64 };

inline std::ptrdiff_t size_of(DType dtype) { return dtype == DType::float32 ? 4 : 8; }

// The one switch over element types: calls f with a value of the type.
template <class F>
auto visit_dtype(DType dtype, F&& f) {
    return dtype == DType::float32 ? f(float{}) : f(double{});
}

constexpr int max_dimensions = 64;  // NumPy's own limit

struct ArrayRef {
    char* data = nullptr;
    DType dtype = DType::float64;
    int ndim = 0;
    const std::ptrdiff_t* shape = nullptr;
    const std::ptrdiff_t* strides = nullptr;  // in bytes

    explicit operator bool() const { return data != nullptr; }
};

}  // namespace fastbn
