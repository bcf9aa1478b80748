// One element of an array at a time: out of memory of any alignment, from one type to another.
#pragma once

#include <cmath>
#include <cstring>
#include <type_traits>

#include "kernels/half_conversion.hpp"

namespace fastbn {

template <class T>
T read_element(const char* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

template <class T>
void write_element(char* to, T value) {
    std::memcpy(to, &value, sizeof value);
}

template <class T>
constexpr bool is_half = std::is_same_v<T, Float16> || std::is_same_v<T, Bfloat16>;

// The float on a number's way to a narrower type: rounded to nearest it could come to lie halfway
// between two of those, and be rounded once more. Cut off, with a last bit that says so, it cannot
// (Boldo & Melquiond 2008, rounding to odd).
inline float toward_narrower(double value) {
    const auto nearest = static_cast<float>(value);
    if (std::isnan(value) || static_cast<double>(nearest) == value) return nearest;
    std::uint32_t bits = bits_of(nearest);
    if (std::fabs(static_cast<double>(nearest)) > std::fabs(value)) --bits;
    return float_of(bits | 1U);
}

// To T, rounded once.
template <class T, class S>
T converted(S value) {
    if constexpr (std::is_same_v<T, S>) {
        return value;
    } else if constexpr (is_half<S>) {
        return converted<T>(widen(value));
    } else if constexpr (is_half<T>) {
        T half;
        narrow(toward_narrower(static_cast<double>(value)), half);
        return half;
    } else {
        return static_cast<T>(value);
    }
}

}  // namespace fastbn
