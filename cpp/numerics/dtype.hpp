// The types that arrays are stored in, the switch over all of them, the other order of their bytes,
// and conversion from and to those of sixteen bits. Every instruction set's object includes this
// file, so its functions are static: the linker must not keep one object's copy for all.
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

// Whether the results of an operation may have the type: the first four.
static inline bool is_float(DType dtype) { return dtype <= DType::bfloat16; }

// Whether the type has values that the 24 bits of float32's mantissa do not hold.
static inline bool needs_double(DType dtype) {
    return dtype == DType::float64 || (DType::int32 <= dtype && dtype <= DType::uint64);
}

// Whether it has values that the 53 bits of float64's mantissa do not hold.
static inline bool is_wide_integer(DType dtype) {
    return dtype == DType::int64 || dtype == DType::uint64;
}

// The bits of a 64-bit integer as an unsigned number, greater ones for greater values: the highest
// bit of signed ones is flipped. The same once more gives the bits back.
static inline std::uint64_t sortable(std::uint64_t bits, DType dtype) {
    return dtype == DType::int64 ? bits ^ (std::uint64_t{1} << 63) : bits;
}

// An element's bytes in reverse order.
static inline std::uint8_t reversed(std::uint8_t bits) { return bits; }
static inline std::uint16_t reversed(std::uint16_t bits) { return __builtin_bswap16(bits); }
static inline std::uint32_t reversed(std::uint32_t bits) { return __builtin_bswap32(bits); }
static inline std::uint64_t reversed(std::uint64_t bits) { return __builtin_bswap64(bits); }

template <class T>
extern const DType dtype_of;
template <>
inline constexpr DType dtype_of<float> = DType::float32;
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
static constexpr auto computed_zero() {
    if constexpr (sizeof(Y) == sizeof(double)) {
        return 0.0;
    } else {
        return 0.0F;
    }
}
template <class Y>
using Computed = decltype(computed_zero<Y>());

// ---- The sixteen-bit types, one value at a time ----
//
// By integer arithmetic: what processors with instructions for it do, NaN's payload included.
// Rounds to nearest, ties to even. Functions here are static, as in moments_math.hpp and for the
// same reason.

static inline std::uint32_t bits_of(float value) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float float_of(std::uint32_t bits) {
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}

static inline float widen(Bfloat16 value) { return float_of(std::uint32_t{value.bits} << 16U); }

static inline float widen(Float16 value) {
    const std::uint32_t sign = (value.bits & 0x8000U) << 16U;
    const std::uint32_t exponent = (value.bits >> 10U) & 0x1fU;
    const std::uint32_t mantissa = value.bits & 0x3ffU;
    if (exponent == 0) {  // zero and the subnormals, in units of 2^-24
        const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;
        return float_of(sign | bits_of(magnitude));
    }
    if (exponent == 0x1fU) {
        const std::uint32_t quiet = mantissa != 0 ? 0x400000U : 0U;
        return float_of(sign | 0x7f800000U | quiet | (mantissa << 13U));
    }
    return float_of(sign | ((exponent + 112U) << 23U) | (mantissa << 13U));
}

// bits / 2^cut, rounded to nearest, ties to even.
static inline std::uint32_t round_off(std::uint32_t bits, std::uint32_t cut) {
    const std::uint32_t below_half = (1U << (cut - 1U)) - 1U;
    return (bits + below_half + ((bits >> cut) & 1U)) >> cut;
}

static inline void narrow(float value, Bfloat16& to) {
    const std::uint32_t bits = bits_of(value);
    const bool is_nan = (bits & 0x7fffffffU) > 0x7f800000U;
    to.bits = static_cast<std::uint16_t>(is_nan ? (bits >> 16U) | 0x40U : round_off(bits, 16));
}

static inline void narrow(float value, Float16& to) {
    const std::uint32_t sign = (bits_of(value) >> 16U) & 0x8000U;
    const std::uint32_t bits = bits_of(value) & 0x7fffffffU;
    constexpr std::uint32_t infinity = 0x7f800000U;
    constexpr std::uint32_t overflow = 0x47800000U;         // 2^16
    constexpr std::uint32_t smallest_normal = 0x38800000U;  // 2^-14
    std::uint32_t magnitude;
    if (bits > infinity) {
        magnitude = 0x7e00U | ((bits >> 13U) & 0x3ffU);
    } else if (bits >= overflow) {
        magnitude = 0x7c00U;
    } else if (bits >= smallest_normal) {
        magnitude = round_off(bits - (112U << 23U), 13);
    } else {  // adding 1/2 rounds to units of 2^-24, and leaves them in the sum's last bits
        magnitude = bits_of(float_of(bits) + 0.5F) - bits_of(0.5F);
    }
    to.bits = static_cast<std::uint16_t>(sign | magnitude);
}

// A double on its way to a sixteen-bit type, as float. Rounding to nearest here could land halfway
// between two such numbers, and the second rounding would go wrong. Rounding to odd (cut off, and
// set the last bit if anything was lost) cannot (Boldo & Melquiond 2008).
static inline float round_to_odd(double value) {
    const auto nearest = static_cast<float>(value);
    const double seen = static_cast<double>(nearest);
    if (value != value || seen == value) return nearest;
    std::uint32_t bits = bits_of(nearest);
    if (__builtin_fabs(seen) > __builtin_fabs(value)) --bits;
    return float_of(bits | 1U);
}

}  // namespace fastbn
