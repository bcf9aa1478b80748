// Which kernels serve arrays of which types: those that read and write the arrays' own where there
// are such, else those of float or double, to and from which tiles are converted.
#pragma once

#include <cstdint>
#include <type_traits>

#include "engine/array.hpp"

namespace fastbn {

// x as its moments are taken, x and y as they are transformed.
template <class S, class X, class Y>
struct KernelTypes {
    using Moments = S;
    using Input = X;
    using Output = Y;
};

// 24 bits do not hold these.
inline bool needs_double(DType dtype) { return dtype == DType::float64 || dtype == DType::int32; }

// Calls f with a value of the type that x's moments are taken in.
template <class F>
void visit_moments_type(DType x, F&& f) {
    if (needs_double(x)) return f(double{});
    switch (x) {
        case DType::float16:
            return f(Float16{});
        case DType::bfloat16:
            return f(Bfloat16{});
        case DType::uint8:
            return f(std::uint8_t{});
        default:
            return f(float{});
    }
}

// Calls f with the KernelTypes for x and y. Moments of float and of a narrower type's values
// converted to it are the same to the bit.
template <class F>
void visit_kernel_types(DType x, DType y, F&& f) {
    if (needs_double(x)) return f(KernelTypes<double, double, double>{});
    if (y == DType::float64) return f(KernelTypes<float, double, double>{});
    if (x == DType::float16 && y == x) return f(KernelTypes<Float16, Float16, Float16>{});
    if (x == DType::bfloat16 && y == x) return f(KernelTypes<Bfloat16, Bfloat16, Bfloat16>{});
    if (x == DType::uint8 && y == DType::float32) {
        return f(KernelTypes<std::uint8_t, std::uint8_t, float>{});
    }
    return f(KernelTypes<float, float, float>{});
}

}  // namespace fastbn
