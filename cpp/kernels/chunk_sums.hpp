// The arithmetic of one chunk, which is a tile of one channel or a column of a tile: sums about a
// ref, exact sums, and the moments that follow from them. Values come one register at a time with
// their weights (WeightsForm): what has no weight is masked, lanes past a row's end are filled,
// the weights are added up, and the value is chosen about which a chunk of float32 is summed.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/table.hpp"
#include "numerics/dtype.hpp"
#include "numerics/moments_math.hpp"
#include "simd/block.hpp"
#include "simd/tile.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

// A chunk is summed about a ref, sum(p d) and sum(p d^2) with d = x - ref and p the values'
// weights, and m2 = sum(p d^2) - sum(p d)^2 / sum(p).
//
// In float32 the ref is the value with the largest weight, of those the first. It is no further
// from the mean than sqrt(m2 / p), and n weights add up to n p at most, so sum(p d^2) <= (n + 1) m2
// whatever the data. With k additions in a row in one lane, k <= 2048 for n = 4096, the relative
// error of m2 is at most (n + 1) (k + 4) 2^-53 = 1e-9: beyond float32. Squares of float32 values
// fit float64, whatever their size.
//
// For a result in float64 that would not do: a first reading takes the chunk's mean, and
// a second, out of the cache, sums about it; nothing cancels, and (k + 4) 2^-53 remain, with k <=
// 512 for n = 1024 and 47 for columns. The first reading adds up the rounding errors too (two_sum),
// and those of products with weights, since y near zero is a small difference and wants the mean to
// more than float64's precision.
template <class T>
constexpr bool reads_twice = sizeof(T) == sizeof(double);

// ---- The weights of the values of a register ----

constexpr bool omits_nan(WeightsForm form) {
    return form == WeightsForm::omit_nan || form == WeightsForm::by_row_omit_nan;
}
// Lanes that may have no weight are found by a mask; a weight by element says so itself.
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

// The weights as numbers: 0 in lanes without weight.
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

// The values of a register times their weights.
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

    // `centred`: x - ref, or 0 where there is no weight.
    template <WeightsForm form>
    void add(int k, Vec<double> centred, RegisterWeight<form> by) {
        const Vec<double> part = weighted(centred, by);
        d.reg[k] = add_evenly(k, d.reg[k], part);
        d2.reg[k] = d2.reg[k] + part * centred;
    }
};

// Collects the bits of differences from the ref: a lane stays 0, of either sign, if all of its
// differences are 0.
inline void add_difference(Wide& bits, int k, Vec<double> centred) {
    bits.reg[k] = bits.reg[k] | centred;
}
// 0 if all lanes are 0, else a lane that is not.
inline double any_difference(const Wide& bits) {
    double values[lanes];
    store(values, Full{}, bits);
    double different = 0.0;
    for (const double value : values) different = value == 0.0 ? different : value;
    return different;
}

// two_sum, half of whose additions go to the multipliers (see add_evenly).
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

// The sum of the lanes, in the order of horizontal_sum of a block.
using Pair = DoubleDouble<Vec<double>>;
inline Pair sum_exactly(const Pair& a, const Pair& b) {
    Vec<double> error;
    const Vec<double> high = two_sum(a.high, b.high, error);
    return {high, (a.low + b.low) + error};
}
template <std::ptrdiff_t n = Vec<double>::width>
inline DoubleDouble<double> sum_of_lanes(const Pair& a) {
    if constexpr (n == 1) {
        return {Vec<double>::first(a.high), Vec<double>::first(a.low)};
    } else {
        const Pair upper{Vec<double>::upper_half<n>(a.high), Vec<double>::upper_half<n>(a.low)};
        return sum_of_lanes<n / 2>(sum_exactly(a, upper));
    }
}
inline DoubleDouble<double> horizontal_sum(const DoubleDouble<Wide>& sum) {
    Pair pairs[Wide::registers];
    FASTBN_UNROLL
    for (int k = 0; k < Wide::registers; ++k) pairs[k] = {sum.high.reg[k], sum.low.reg[k]};
    FASTBN_UNROLL
    for (int half = Wide::registers / 2; half > 0; half /= 2) {
        FASTBN_UNROLL
        for (int k = 0; k < half; ++k) pairs[k] = sum_exactly(pairs[k], pairs[k + half]);
    }
    return sum_of_lanes(pairs[0]);
}

inline ShiftedSums<double> horizontal_sum(const ShiftedSums<Wide>& sums) {
    return {horizontal_sum(sums.d), horizontal_sum(sums.d2)};
}

inline void copy(const DoubleDouble<Wide>& from, DoubleDouble<Wide>& to) {
    copy(from.high, to.high);
    copy(from.low, to.low);
}

// `weight`: the sum of the values' weights, more than 0; in unweighted statistics, their number.
// any_number: it is a sum of other weights, and may be so small that float64 does not hold 1 /
// weight.
template <bool any_number, class V>
inline Moments<V> moments_from(const ShiftedSums<V>& sums, double weight, const V& ref,
                               const DoubleDouble<V>& total) {
    Moments<V> moments;
    moments.ref = ref;
    if constexpr (any_number) {
        moments.offset = sums.d / weight;
    } else {
        moments.offset = sums.d * (1.0 / weight);
    }
    moments.m2 = clamp_negative(sums.d2 - sums.d * moments.offset);
    moments.m2_lo = V{};
    moments.sum = total.high;
    moments.sum_lo = total.low;
    return moments;
}

// ---- Sums of weights ----

// Where the sum is known before the first value is looked at.
struct KnownSum {};

// Where each weight is 0 or 1: exact.
struct CountSum {
    Vec<double>::Count reg[Wide::registers];
};

// Where weights are other numbers, the sum is a DoubleDouble<Wide> for statistics of float64, and a
// Wide, which is rounded, for those of float32.

template <WeightsForm form>
inline void add_weight(KnownSum&, int, RegisterWeight<form>) {}
template <WeightsForm form>
inline void add_weight(CountSum& sum, int k, RegisterWeight<form> by) {
    sum.reg[k] = Vec<double>::add_one(by.mask, sum.reg[k]);
}
template <WeightsForm form>
inline void add_weight(Wide& sum, int k, RegisterWeight<form> by) {
    sum.reg[k] = add_evenly(k + 1, sum.reg[k], numbers_of(by));
}
template <WeightsForm form>
inline void add_weight(DoubleDouble<Wide>& sum, int k, RegisterWeight<form> by) {
    add_exactly(sum, k, numbers_of(by));
}

inline void copy(KnownSum, KnownSum&) {}
inline void copy(const CountSum& from, CountSum& to) {
    FASTBN_UNROLL
    for (int k = 0; k < Wide::registers; ++k) to.reg[k] = from.reg[k];
}

inline Wide numbers_of(const CountSum& sum) {
    Wide values;
    FASTBN_UNROLL
    for (int k = 0; k < Wide::registers; ++k) values.reg[k] = Vec<double>::value_of(sum.reg[k]);
    return values;
}

inline DoubleDouble<double> total_of(const Wide& sum) { return {horizontal_sum(sum), 0.0}; }
inline DoubleDouble<double> total_of(const CountSum& sum) { return total_of(numbers_of(sum)); }
inline DoubleDouble<double> total_of(const DoubleDouble<Wide>& sum) { return horizontal_sum(sum); }

inline DoubleDouble<Wide> lanes_of(const Wide& sum) { return {sum, broadcast(0.0)}; }
inline DoubleDouble<Wide> lanes_of(const CountSum& sum) { return lanes_of(numbers_of(sum)); }
inline DoubleDouble<Wide> lanes_of(const DoubleDouble<Wide>& sum) { return sum; }

// exact: the statistics are float64's.
template <WeightsForm form, bool exact>
constexpr auto empty_weight_sum() {
    if constexpr (form == WeightsForm::none || form == WeightsForm::by_row) {
        return KnownSum{};
    } else if constexpr (!has_numbers(form)) {
        return CountSum{};
    } else if constexpr (exact) {
        return DoubleDouble<Wide>{};
    } else {
        return Wide{};
    }
}
template <WeightsForm form, bool exact>
using WeightSum = decltype(empty_weight_sum<form, exact>());

// ---- A tile's weights ----

template <WeightsForm form>
class TileWeights {
public:
    TileWeights(Tile<const void> weights, std::ptrdiff_t rows) : weights_(weights) {
        if constexpr (has_row_weights(form)) look_over_rows(rows);
    }

    // What lanes past a row's end are filled with: `neutral`, or NaN where NaN is omitted.
    static Wide fill(const Wide& neutral) {
        if constexpr (omits_nan(form)) {
            return broadcast(__builtin_nan(""));
        } else {
            return neutral;
        }
    }

    // The weights of register k, which holds x, of the block of row r that begins at column i.
    template <class N>
    RegisterWeight<form> of([[maybe_unused]] std::ptrdiff_t r, [[maybe_unused]] std::ptrdiff_t i,
                            [[maybe_unused]] int k, [[maybe_unused]] N n,
                            [[maybe_unused]] Vec<double> x) const {
        RegisterWeight<form> by{};
        if constexpr (omits_nan(form)) by.mask = Vec<double>::numbers(x);
        if constexpr (has_row_weights(form)) by.weight = Vec<double>::broadcast(row_weight(r));
        if constexpr (form == WeightsForm::by_mask) {
            const Tile<const std::uint8_t> mask = typed<const std::uint8_t>(weights_);
            by.mask = load_mask<double>(mask.data + r * mask.stride + i, k, n);
        }
        if constexpr (form == WeightsForm::by_element) {
            const Tile<const double> elements = typed<const double>(weights_);
            by.weight = load_register(elements.data + r * elements.stride + i, k, n, Wide{});
        }
        return by;
    }

    // The sum of the weights of the whole tile, and those of its columns. `sum`: what add_weight
    // has added up.
    template <class Sum>
    DoubleDouble<double> of_tile([[maybe_unused]] const Sum& sum, std::ptrdiff_t rows,
                                 std::ptrdiff_t cols) const {
        const double n = static_cast<double>(cols);
        if constexpr (form == WeightsForm::none) {
            return {static_cast<double>(rows * cols), 0.0};
        } else if constexpr (form == WeightsForm::by_row) {
            DoubleDouble<double> weight{};
            weight.high = two_product(of_rows_.high, n, weight.low);
            weight.low += of_rows_.low * n;
            return weight;
        } else {
            return total_of(sum);
        }
    }
    template <class Sum>
    DoubleDouble<Wide> of_columns([[maybe_unused]] const Sum& sum) const {
        if constexpr (form == WeightsForm::by_row) {
            return {broadcast(of_rows_.high), broadcast(of_rows_.low)};
        } else {
            return lanes_of(sum);
        }
    }

    // Where rows have weights.
    double row_weight(std::ptrdiff_t r) const {
        return static_cast<const double*>(weights_.data)[r];
    }
    std::ptrdiff_t heaviest_row() const { return heaviest_row_; }

private:
    void look_over_rows(std::ptrdiff_t rows) {
        double largest = 0.0;
        for (std::ptrdiff_t r = 0; r < rows; ++r) {
            const double weight = row_weight(r);
            heaviest_row_ = weight > largest ? r : heaviest_row_;
            largest = weight > largest ? weight : largest;
            double error;
            of_rows_.high = two_sum(of_rows_.high, weight, error);
            of_rows_.low += error;
        }
    }

    Tile<const void> weights_;
    std::ptrdiff_t heaviest_row_ = 0;
    DoubleDouble<double> of_rows_{};
};

// body(weights) for the values of row r, unless none of them has weight. Where the row weighs 1
// they are added as without weights: the same bits, since no product with 1 is rounded, for less.
template <WeightsForm form, class Body>
inline void in_row(const TileWeights<form>& by, [[maybe_unused]] std::ptrdiff_t r,
                   const Body& body) {
    if constexpr (has_row_weights(form)) {
        const double weight = by.row_weight(r);
        if constexpr (form == WeightsForm::by_row) {
            if (weight == 1.0) return body(TileWeights<WeightsForm::none>({}, 0));
        }
        if (weight != 0.0) body(by);
    } else {
        body(by);
    }
}

// ---- The value with the largest weight, about which a chunk of float32 is summed ----

inline double first_value(const float* p) { return static_cast<double>(*p); }
inline double first_value(const double* p) { return *p; }
template <class H>
inline double first_value(const H* p) {
    return static_cast<double>(widen(*p));
}

// In each lane the first of the values with the largest weight; a weight of 0 is none.
struct Heaviest {
    Wide weight;
    Wide value;

    template <class X, WeightsForm form, class N>
    void add_block(const X* at, const TileWeights<form>& by, std::ptrdiff_t r, std::ptrdiff_t i,
                   N n) {
        const Wide fill = by.fill(Wide{});
        each_register(n, [&](int k, auto in) {
            const Vec<double> x = load_register(at, k, in, fill);
            const Vec<double> other = numbers_of(by.of(r, i, k, in, x));
            const Vec<double> more = other - weight.reg[k];
            value.reg[k] = Vec<double>::unless_positive(more, x, value.reg[k]);
            weight.reg[k] = Vec<double>::unless_positive(more, other, weight.reg[k]);
        });
    }
    // The value of the first lane with the largest weight; returns that weight.
    double over_lanes(double& heaviest) const {
        double weights[lanes];
        double values[lanes];
        store(weights, Full{}, weight);
        store(values, Full{}, value);
        std::ptrdiff_t best = 0;
        for (std::ptrdiff_t j = 1; j < lanes; ++j) best = weights[j] > weights[best] ? j : best;
        heaviest = values[best];
        return weights[best];
    }
};

// The value of a whole tile; returns whether any value has weight. Where weights are 0 or 1, the
// first that has will do.
template <class X, WeightsForm form>
[[gnu::noinline]] bool find_heaviest(Tile<const X> x, const TileWeights<form>& by,
                                     std::ptrdiff_t rows, std::ptrdiff_t cols, double& ref) {
    Heaviest heaviest{};
    bool found = false;
    for (std::ptrdiff_t r = 0; r < rows && !found; ++r) {
        each_block(0, cols, [&](std::ptrdiff_t i, auto n) {
            if (found) return;
            heaviest.add_block(x.data + r * x.stride + i, by, r, i, n);
            found = !has_numbers(form) && heaviest.over_lanes(ref) > 0.0;
        });
    }
    return found || heaviest.over_lanes(ref) > 0.0;
}

// The ref of a whole tile; false if no value has weight. Without weights it is the first value;
// with row weights the heaviest row's first number, unless all of that row is NaN.
template <class X, WeightsForm form>
inline bool find_ref(Tile<const X> x, const TileWeights<form>& by, std::ptrdiff_t rows,
                     std::ptrdiff_t cols, double& ref) {
    if constexpr (form == WeightsForm::none) {
        ref = first_value(x.data);
        return true;
    } else if constexpr (has_row_weights(form)) {
        if (rows == 0 || by.row_weight(by.heaviest_row()) == 0.0) return false;
        const X* const row = x.data + by.heaviest_row() * x.stride;
        ref = first_value(row);
        if constexpr (omits_nan(form)) {
            for (std::ptrdiff_t i = 1; i < cols && __builtin_isnan(ref); ++i) {
                ref = first_value(row + i);
            }
            if (__builtin_isnan(ref)) return find_heaviest(x, by, rows, cols, ref);
        }
        return true;
    } else {
        return find_heaviest(x, by, rows, cols, ref);
    }
}

// The value of each of the n columns from i on.
template <class X, WeightsForm form, class N>
[[gnu::noinline]] Wide heaviest_of_columns(Tile<const X> x, const TileWeights<form>& by,
                                           std::ptrdiff_t rows, std::ptrdiff_t i, N n) {
    Heaviest heaviest{};
    for (std::ptrdiff_t r = 0; r < rows; ++r) {
        heaviest.add_block(x.data + r * x.stride + i, by, r, i, n);
        if (!has_numbers(form) && all_positive(heaviest.weight, n)) break;
    }
    return heaviest.value;
}

// 1 in the lanes that are not NaN, 0 in the others.
inline Wide ones_at_numbers(const Wide& values) {
    Wide ones;
    FASTBN_UNROLL
    for (int k = 0; k < Wide::registers; ++k) {
        const auto numbers = Vec<double>::numbers(values.reg[k]);
        ones.reg[k] = Vec<double>::keep(numbers, Vec<double>::broadcast(1.0));
    }
    return ones;
}

// The ref of each of the n columns from i on; any number for a column without weight.
template <class X, WeightsForm form, class N>
inline Wide column_refs(Tile<const X> x, const TileWeights<form>& by, std::ptrdiff_t rows,
                        std::ptrdiff_t i, N n) {
    if constexpr (form == WeightsForm::none) {
        return load<double>(x.data + i, n);
    } else if constexpr (has_row_weights(form)) {
        const Wide values =
            rows > 0 ? load<double>(x.data + by.heaviest_row() * x.stride + i, n) : broadcast(0.0);
        if constexpr (omits_nan(form)) {
            if (!all_positive(ones_at_numbers(values), n)) {
                return heaviest_of_columns(x, by, rows, i, n);
            }
        }
        return values;
    } else {
        return heaviest_of_columns(x, by, rows, i, n);
    }
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
