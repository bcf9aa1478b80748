// Adding up the sixteen lanes of a block, always in the same order.
#pragma once

#include "block.hpp"
#include "block_memory.hpp"
#include "welford.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

// The sum of the lanes: the upper half onto the lower, four times.
inline double halve(const Block<double>& b) {
    double a[lanes];
    store(a, Full{}, b);
    for (std::ptrdiff_t half = lanes / 2; half > 0; half /= 2) {
        for (std::ptrdiff_t i = 0; i < half; ++i) a[i] += a[i + half];
    }
    return a[0];
}

// The same for an unevaluated sum hi + lo; leaves the low part in `lo`.
inline double halve(const Block<double>& hi, const Block<double>& lo_lanes, double& lo) {
    double a[lanes];
    double b[lanes];
    store(a, Full{}, hi);
    store(b, Full{}, lo_lanes);
    for (std::ptrdiff_t half = lanes / 2; half > 0; half /= 2) {
        for (std::ptrdiff_t i = 0; i < half; ++i) {
            double error;
            a[i] = two_sum(a[i], a[i + half], error);
            b[i] = (b[i] + b[i + half]) + error;
        }
    }
    lo = b[0];
    return a[0];
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
