// The arithmetic of one chunk: sums about a shift, an exact sum, and the moments that follow from
// them. Knows neither memory nor tiles.
#pragma once

#include "block.hpp"
#include "halving.hpp"
#include "welford.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

// A chunk (one tile of one channel, or one column of a tile) is summed about a shift, sum(d) and
// sum(d^2) with d = x - shift, and m2 = sum(d^2) - sum(d)^2 / n.
//
// In float32 the shift is the chunk's first value. Being one of the values, it is no further from
// their mean than sqrt(m2), so sum(d^2) <= (n + 1) m2 whatever the data. With k additions in a row
// in one lane, k <= 2048 for n = 4096, the relative error of m2 is at most (n + 1) (k + 4) 2^-53 =
// 1e-9: beyond float32. Squares of float32 values fit float64, whatever their size.
//
// In float64 that would not do for a result in float64: a first pass takes the chunk's mean, and
// the second, from cache, sums about it; nothing cancels, and (k + 4) 2^-53 remain, with k <= 512
// for n = 1024 and 24 for columns. The first pass sums with the rounding errors (two_sum), since y
// near zero is a small difference and wants the mean to more than float64's precision.
template <class T>
constexpr bool two_passes = sizeof(T) == sizeof(double);

// Of one channel (V = double) or of a block (V = Wide), to which values come by the register.
template <class V>
struct ShiftedSums {
    V d;
    V d2;

    void add(int k, Vec<double> x, const Wide& shift) {
        const Vec<double> centred = subtract_by_fma(x, shift.part[k]);
        d.part[k] = add_evenly(k, d.part[k], centred);
        d2.part[k] = d2.part[k] + centred * centred;
    }

    // A group is summed from zero and then added to the rest: fewer roundings in a row.
    void begin_group() { *this = {}; }
    void end_group(const ShiftedSums& rest) {
        d = d + rest.d;
        d2 = d2 + rest.d2;
    }
};

template <class V>
struct ExactSum {
    V high;
    V low;

    // two_sum, half of it by the multipliers.
    void add(int k, Vec<double> x) {
        const Vec<double> before = high.part[k];
        const Vec<double> sum = before + x;
        const Vec<double> seen = subtract_by_fma(sum, before);
        const Vec<double> error = add_by_fma(before - (sum - seen), subtract_by_fma(x, seen));
        high.part[k] = sum;
        low.part[k] = add_evenly(k, low.part[k], error);
    }

    void begin_group() {}
    void end_group(const ExactSum&) {}
};

inline ShiftedSums<double> halve(const ShiftedSums<Wide>& sums) {
    return {halve(sums.d), halve(sums.d2)};
}

inline ExactSum<double> halve(const ExactSum<Wide>& sum) {
    ExactSum<double> one{};
    one.high = halve(sum.high, sum.low, one.low);
    return one;
}

template <class V>
inline Partial<V> partial_of(const ShiftedSums<V>& sums, double count, const V& shift,
                             const ExactSum<V>& total) {
    const V offset = sums.d * (1.0 / count);
    const V m2 = clamp_negative(sums.d2 - sums.d * offset);
    return {shift, offset, m2, V{}, total.high, total.low};
}

// The sum of x from the sum of d; count * shift is exact in float64, 13 bits times float32's 24.
template <class V>
inline ExactSum<V> total_of(const ShiftedSums<V>& sums, double count, const V& shift) {
    ExactSum<V> total;
    total.high = two_sum(shift * count, sums.d, total.low);
    return total;
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
