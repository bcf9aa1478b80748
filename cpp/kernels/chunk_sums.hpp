// The arithmetic of one chunk, which is a tile of one channel or a column of a tile: sums about a
// shift, exact sums, and the moments that follow from them. Values come by the register, each with
// what says how much they count.
#pragma once

#include "numerics/moments_math.hpp"
#include "simd/block.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

// A chunk is summed about a shift, sum(p d) and sum(p d^2) with d = x - shift and p the values'
// weights, and m2 = sum(p d^2) - sum(p d)^2 / sum(p).
//
// In float32 the shift is the value with the largest weight, of those the first. It is no further
// from the mean than sqrt(m2 / p), and n weights add up to n p at most, so sum(p d^2) <= (n + 1) m2
// whatever the data. With k additions in a row in one lane, k <= 2048 for n = 4096, the relative
// error of m2 is at most (n + 1) (k + 4) 2^-53 = 1e-9: beyond float32. Squares of float32 values
// fit float64, whatever their size.
//
// In float64 that would not do for a result in float64: a first pass takes the chunk's mean, and
// the second, from cache, sums about it; nothing cancels, and (k + 4) 2^-53 remain, with k <= 512
// for n = 1024 and 31 for columns. The first pass sums with the rounding errors (two_sum), those of
// products with weights too, since y near zero is a small difference and wants the mean to more
// than float64's precision.
template <class T>
constexpr bool two_passes = sizeof(T) == sizeof(double);

// ---- How much the values of a register count ----

struct Once {};
// Once in some lanes and not at all in the others.
struct OnceIf {
    Vec<double>::Mask mask;
};
// A number of times, which is more than 0,
struct Times {
    Vec<double> weight;
};
// or may be 0;
struct TimesOrNot {
    Vec<double> weight;
};
// or that in some lanes, and not at all in the others.
struct TimesIf {
    Vec<double>::Mask mask;
    Vec<double> weight;
};

inline Vec<double> number(OnceIf by) {
    return Vec<double>::keep(by.mask, Vec<double>::broadcast(1.0));
}
inline Vec<double> number(Times by) { return by.weight; }
inline Vec<double> number(TimesOrNot by) { return by.weight; }
inline Vec<double> number(TimesIf by) { return Vec<double>::keep(by.mask, by.weight); }

// What counts of a register: 0 in lanes of weight 0, whatever was there.
inline Vec<double> counted(Vec<double> x, Once) { return x; }
inline Vec<double> counted(Vec<double> x, OnceIf by) { return Vec<double>::keep(by.mask, x); }
inline Vec<double> counted(Vec<double> x, Times) { return x; }
inline Vec<double> counted(Vec<double> x, TimesOrNot by) {
    return Vec<double>::zero_unless_positive(by.weight, x);
}
inline Vec<double> counted(Vec<double> x, TimesIf by) { return Vec<double>::keep(by.mask, x); }

// That times its weights.
inline Vec<double> weighted(Vec<double> x, Once) { return x; }
inline Vec<double> weighted(Vec<double> x, OnceIf) { return x; }
inline Vec<double> weighted(Vec<double> x, Times by) { return x * by.weight; }
inline Vec<double> weighted(Vec<double> x, TimesOrNot by) { return x * by.weight; }
inline Vec<double> weighted(Vec<double> x, TimesIf by) { return x * by.weight; }

// ---- Sums, of one channel (V = double) or of a block (V = Wide) ----

template <class V>
struct ShiftedSums {
    V d;
    V d2;

    // `centred`: what counts of x - shift.
    template <class By>
    void add(int k, Vec<double> centred, By by) {
        const Vec<double> part = weighted(centred, by);
        d.reg[k] = add_evenly(k, d.reg[k], part);
        d2.reg[k] = d2.reg[k] + part * centred;
    }
};

// The bits of all differences to the shift: 0, of either sign, where every difference was.
struct Differences {
    Wide bits;

    void add(int k, Vec<double> centred) { bits.reg[k] = bits.reg[k] | centred; }
    // Of all lanes: 0, or what is not.
    double over_lanes() const {
        double values[lanes];
        store(values, Full{}, bits);
        double different = 0.0;
        for (const double value : values) different = value == 0.0 ? different : value;
        return different;
    }
};

// A double-double.
template <class V>
struct ExactSum {
    V high;
    V low;

    // two_sum, half of it by the multipliers.
    void add(int k, Vec<double> x) {
        const Vec<double> before = high.reg[k];
        const Vec<double> sum = before + x;
        const Vec<double> seen = subtract_by_fma(sum, before);
        const Vec<double> error = add_by_fma(before - (sum - seen), subtract_by_fma(x, seen));
        high.reg[k] = sum;
        low.reg[k] = add_evenly(k, low.reg[k], error);
    }
    void add(int k, Vec<double> x, Once) { add(k, x); }
    void add(int k, Vec<double> x, OnceIf by) { add(k, counted(x, by)); }
    template <class By>
    void add(int k, Vec<double> x, By by) {
        const Vec<double> value = counted(x, by);
        const Vec<double> product = value * by.weight;
        add(k, product);
        low.reg[k] = low.reg[k] + product_error(value, by.weight, product);
    }
};

// The sum of the lanes, as horizontal_sum of a block.
[[gnu::noinline]] inline ExactSum<double> sum_of_lanes(double* high, double* low) {
    FASTBN_UNROLL
    for (std::ptrdiff_t half = lanes / 2; half > 0; half /= 2) {
        FASTBN_UNROLL
        for (std::ptrdiff_t i = 0; i < half; ++i) {
            double error;
            high[i] = two_sum(high[i], high[i + half], error);
            low[i] = (low[i] + low[i + half]) + error;
        }
    }
    return {high[0], low[0]};
}
inline ExactSum<double> horizontal_sum(const ExactSum<Wide>& sum) {
    double high[lanes];
    double low[lanes];
    store(high, Full{}, sum.high);
    store(low, Full{}, sum.low);
    return sum_of_lanes(high, low);
}

inline ShiftedSums<double> horizontal_sum(const ShiftedSums<Wide>& sums) {
    return {horizontal_sum(sums.d), horizontal_sum(sums.d2)};
}

inline void copy(const ExactSum<Wide>& from, ExactSum<Wide>& to) {
    copy(from.high, to.high);
    copy(from.low, to.low);
}
inline void copy(const Differences& from, Differences& to) { copy(from.bits, to.bits); }

// `weight`: the sum of the values' weights, more than 0; where each counts once, their number. Any
// other number may be so small that float64 does not hold 1 / weight.
template <bool any_number, class V>
inline Moments<V> moments_from(const ShiftedSums<V>& sums, double weight, const V& shift,
                               const ExactSum<V>& total) {
    V offset;
    if constexpr (any_number) {
        offset = sums.d / weight;
    } else {
        offset = sums.d * (1.0 / weight);
    }
    const V m2 = clamp_negative(sums.d2 - sums.d * offset);
    return {shift, offset, m2, V{}, total.high, total.low};
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
