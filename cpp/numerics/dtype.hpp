// The types that arrays are stored in, and the switch over all of them. Every instruction set's
// object includes this file, so nothing in it may generate code of its own.
#pragma once

#include <cstddef>
#include <cstdint>

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
    uint32,
    int64,
    uint64,
    boolean,
};

// IEEE 754 binary16: 5 bits of exponent, 10 of mantissa.
struct Float16 {
    std::uint16_t bits;
};
// The upper half of a binary32: 8 bits of exponent, 7 of mantissa.
struct Bfloat16 {
    std::uint16_t bits;
};
// A truth value: any byte but 0 is true, which is 1.
struct Boolean {
    std::uint8_t byte;
};

// Calls f with a value of the type; of a boolean's, with its byte.
template <class F>
static inline auto visit_dtype(DType dtype, F&& f) {
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
        case DType::uint32:
            return f(std::uint32_t{});
        case DType::int64:
            return f(std::int64_t{});
        case DType::uint64:
            return f(std::uint64_t{});
        case DType::float64:
            break;
    }
    return f(double{});
}

static inline std::ptrdiff_t size_of(DType dtype) {
    return visit_dtype(dtype, [](auto zero) { return std::ptrdiff_t{sizeof zero}; });
}

// Those that the results of an operation may have: the first four.
static inline bool is_float(DType dtype) { return dtype <= DType::bfloat16; }

// Those whose values the 24 bits of float32's mantissa do not hold.
static inline bool needs_double(DType dtype) {
    return dtype == DType::float64 || (DType::int32 <= dtype && dtype <= DType::uint64);
}

// Those whose values the 53 bits of float64's mantissa do not hold.
static inline bool is_wide_integer(DType dtype) {
    return dtype == DType::int64 || dtype == DType::uint64;
}

template <class T>
inline constexpr DType dtype_of = DType::float32;
template <>
inline constexpr DType dtype_of<double> = DType::float64;
template <>
inline constexpr DType dtype_of<Float16> = DType::float16;
template <>
inline constexpr DType dtype_of<Bfloat16> = DType::bfloat16;
template <>
inline constexpr DType dtype_of<std::uint8_t> = DType::uint8;

// What results of type Y are computed in, and then rounded once.
template <class Y>
struct ComputedIn {
    using Type = float;
};
template <>
struct ComputedIn<double> {
    using Type = double;
};
template <class Y>
using Computed = typename ComputedIn<Y>::Type;

}  // namespace fastbn
