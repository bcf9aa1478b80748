// Conversion from and to the sixteen-bit types, one value at a time, by integer arithmetic: what
// processors with instructions for it do, NaN's payload included. Rounds to nearest, ties to even.
// Included by kernels and engine.
#pragma once

#include <cstdint>

#include "numerics/dtype.hpp"

namespace fastbn {

// Functions here are static, as in moments_math.hpp and for the same reason.

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

}  // namespace fastbn
