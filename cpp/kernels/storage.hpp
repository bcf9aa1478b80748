// The types that arrays are stored in beside float and double, and which type a result is computed
// in. Knows no arithmetic; half_conversion.hpp does.
#pragma once

#include <cstdint>

namespace fastbn {

// IEEE 754 binary16: 5 bits of exponent, 10 of mantissa.
struct Float16 {
    std::uint16_t bits;
};
// The upper half of a binary32: 8 bits of exponent, 7 of mantissa.
struct Bfloat16 {
    std::uint16_t bits;
};

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
