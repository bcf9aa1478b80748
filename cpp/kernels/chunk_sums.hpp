// The arithmetic of one chunk, which is a tile of one channel or a column of a tile: sums about a
// shift, exact sums, and the moments that follow from them. Values come by the register, each with
// what says how much they count.
#pragma once

#include "kernels/table.hpp"
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

constexpr bool has_row_weights(WeightsForm form) {
    return form == WeightsForm::by_row || form == WeightsForm::by_row_omit_nan;
}
// Weights other than 0 and 1.
constexpr bool has_numbers(WeightsForm form) {
    return has_row_weights(form) || form == WeightsForm::by_element;
}
constexpr bool omits_nan(WeightsForm form) {
    return form == WeightsForm::omit_nan || form == WeightsForm::by_row_omit_nan;
}
// Lanes that may not count are found by a mask; a weight by element says so itself.
constexpr bool has_mask(WeightsForm form) {
    return omits_nan(form) || form == WeightsForm::by_mask;
}

// The weights of a register's values: `mask` is set in forms with a mask, `weight` in forms with
// numbers. A row's weight is above 0 here, since rows of weight 0 are skipped.
template <WeightsForm form>
struct RegisterWeight {
    Vec<double>::Mask mask;
    Vec<double> weight;
};

// The weights, of 0 where nothing counts.
template <WeightsForm form>
inline Vec<double> numbers_of(RegisterWeight<form> by) {
    static_assert(form != WeightsForm::none);
    if constexpr (!has_numbers(form)) {
        return Vec<double>::keep(by.mask, Vec<double>::broadcast(1.0));
    } else if constexpr (has_mask(form)) {
        return Vec<double>::keep(by.mask, by.weight);
    } else {
        return by.weight;
    }
}

// The values of a register, with 0 in lanes of weight 0, whatever was there.
template <WeightsForm form>
inline Vec<double> masked(Vec<double> x, RegisterWeight<form> by) {
    if constexpr (has_mask(form)) {
        return Vec<double>::keep(by.mask, x);
    } else if constexpr (form == WeightsForm::by_element) {
        return Vec<double>::zero_unless_positive(by.weight, x);
    } else {
        return x;
    }
}

// That times its weights.
template <WeightsForm form>
inline Vec<double> weighted(Vec<double> x, RegisterWeight<form> by) {
    if constexpr (has_numbers(form)) {
        return x * by.weight;
    } else {
        return x;
    }
}

// ---- Sums, of one channel (V = double) or of a block (V = Wide) ----

template <class V>
struct ShiftedSums {
    V d;
    V d2;

    // `centred`: what counts of x - shift.
    template <WeightsForm form>
    void add(int k, Vec<double> centred, RegisterWeight<form> by) {
        const Vec<double> part = weighted(centred, by);
        d.reg[k] = add_evenly(k, d.reg[k], part);
        d2.reg[k] = d2.reg[k] + part * centred;
    }
};

// The bits of all differences to the shift are collected in a block: 0, of either sign, where every
// difference was.
inline void add_difference(Wide& bits, int k, Vec<double> centred) {
    bits.reg[k] = bits.reg[k] | centred;
}
// Of all lanes: 0, or what is not.
inline double any_difference(const Wide& bits) {
    double values[lanes];
    store(values, Full{}, bits);
    double different = 0.0;
    for (const double value : values) different = value == 0.0 ? different : value;
    return different;
}

// two_sum, half of it by the multipliers.
inline void add_exactly(DoubleDouble<Wide>& sum, int k, Vec<double> x) {
    const Vec<double> before = sum.high.reg[k];
    const Vec<double> after = before + x;
    const Vec<double> seen = subtract_by_fma(after, before);
    const Vec<double> error = add_by_fma(before - (after - seen), subtract_by_fma(x, seen));
    sum.high.reg[k] = after;
    sum.low.reg[k] = add_evenly(k, sum.low.reg[k], error);
}
template <WeightsForm form>
inline void add_exactly(DoubleDouble<Wide>& sum, int k, Vec<double> x, RegisterWeight<form> by) {
    const Vec<double> value = masked(x, by);
    if constexpr (has_numbers(form)) {
        const Vec<double> product = value * by.weight;
        add_exactly(sum, k, product);
        sum.low.reg[k] = sum.low.reg[k] + product_error(value, by.weight, product);
    } else {
        add_exactly(sum, k, value);
    }
}

// The sum of the lanes, as horizontal_sum of a block.
[[gnu::noinline]] inline DoubleDouble<double> sum_of_lanes(double* high, double* low) {
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
inline DoubleDouble<double> horizontal_sum(const DoubleDouble<Wide>& sum) {
    double high[lanes];
    double low[lanes];
    store(high, Full{}, sum.high);
    store(low, Full{}, sum.low);
    return sum_of_lanes(high, low);
}

inline ShiftedSums<double> horizontal_sum(const ShiftedSums<Wide>& sums) {
    return {horizontal_sum(sums.d), horizontal_sum(sums.d2)};
}

inline void copy(const DoubleDouble<Wide>& from, DoubleDouble<Wide>& to) {
    copy(from.high, to.high);
    copy(from.low, to.low);
}

// `weight`: the sum of the values' weights, more than 0; where each counts once, their number. Any
// other number may be so small that float64 does not hold 1 / weight.
template <bool any_number, class V>
inline Moments<V> moments_from(const ShiftedSums<V>& sums, double weight, const V& shift,
                               const DoubleDouble<V>& total) {
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
