// How much each value counts, one policy for each form in which the engine says so (WeightsForm).
// A policy says what counts in a register, what stands past a row's end, and what the weights add
// up to.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/chunk_sums.hpp"
#include "numerics/half.hpp"
#include "numerics/moments_math.hpp"
#include "simd/block.hpp"
#include "simd/tile.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

// ---- Sums of weights ----

// Where the sum is known beforehand.
struct NoWeightSum {
    template <class By>
    void add(int, By) {}
};

inline void copy(NoWeightSum, NoWeightSum&) {}

// Where each value counts once or not at all: exact.
struct CountSum {
    Vec<double>::Count reg[Wide::registers];
    void add(int k, OnceIf by) { reg[k] = Vec<double>::add_one(by.mask, reg[k]); }
    Wide sum() const {
        Wide values;
        FASTBN_UNROLL
        for (int k = 0; k < Wide::registers; ++k) values.reg[k] = Vec<double>::value_of(reg[k]);
        return values;
    }
};

// Of other numbers: for statistics of float64 a double-double, for float32 rounded.
struct RoundedWeightSum {
    Wide sum;
    template <class By>
    void add(int k, By by) {
        sum.reg[k] = add_evenly(k + 1, sum.reg[k], number(by));
    }
};
struct ExactWeightSum {
    ExactSum<Wide> sum;
    template <class By>
    void add(int k, By by) {
        sum.add(k, number(by));
    }
};

inline void copy(const CountSum& from, CountSum& to) {
    FASTBN_UNROLL
    for (int k = 0; k < Wide::registers; ++k) to.reg[k] = from.reg[k];
}
inline void copy(const RoundedWeightSum& from, RoundedWeightSum& to) { copy(from.sum, to.sum); }
inline void copy(const ExactWeightSum& from, ExactWeightSum& to) { copy(from.sum, to.sum); }

inline ExactSum<double> total_of(const CountSum& weights) {
    return {horizontal_sum(weights.sum()), 0.0};
}
inline ExactSum<double> total_of(const RoundedWeightSum& weights) {
    return {horizontal_sum(weights.sum), 0.0};
}
inline ExactSum<double> total_of(const ExactWeightSum& weights) {
    return horizontal_sum(weights.sum);
}
inline ExactSum<Wide> lanes_of(const CountSum& weights) { return {weights.sum(), broadcast(0.0)}; }
inline ExactSum<Wide> lanes_of(const RoundedWeightSum& weights) {
    return {weights.sum, broadcast(0.0)};
}
inline ExactSum<Wide> lanes_of(const ExactWeightSum& weights) { return weights.sum; }

template <bool exact>
struct ElementWeightSum {
    using Type = RoundedWeightSum;
};
template <>
struct ElementWeightSum<true> {
    using Type = ExactWeightSum;
};

// ---- Policies ----

// Every value counts once. There is nothing to find: a chunk of float32 is summed about its first
// value.
struct Unweighted {
    static constexpr bool all_count = true;
    static constexpr bool any_number = false;  // weights other than 0 and 1
    template <bool exact>
    using WeightSum = NoWeightSum;

    Unweighted(Tile<const void>, std::ptrdiff_t) {}
    static Wide fill(const Wide& neutral) { return neutral; }
    static ExactSum<double> tile_weight(NoWeightSum, std::ptrdiff_t rows, std::ptrdiff_t cols) {
        return {static_cast<double>(rows * cols), 0.0};
    }
    template <class N>
    static Once of(std::ptrdiff_t, std::ptrdiff_t, int, N, Vec<double>) {
        return {};
    }
};

// What the policies for elements have in common, besides the types of their sums.
struct EachElement {
    static constexpr bool all_count = false;

    template <class WeightSum>
    static ExactSum<double> tile_weight(const WeightSum& weights, std::ptrdiff_t, std::ptrdiff_t) {
        return total_of(weights);
    }
    template <class WeightSum>
    static ExactSum<Wide> column_weights(const WeightSum& weights) {
        return lanes_of(weights);
    }
};

// Every value that is not NaN counts once. Past a row's end there is NaN.
struct OmitNan : EachElement {
    static constexpr bool any_number = false;
    template <bool exact>
    using WeightSum = CountSum;

    OmitNan(Tile<const void>, std::ptrdiff_t) {}
    static Wide fill(const Wide&) { return broadcast(__builtin_nan("")); }
    template <class N>
    static OnceIf of(std::ptrdiff_t, std::ptrdiff_t, int, N, Vec<double> x) {
        return {Vec<double>::numbers(x)};
    }
};

// A byte for each element: those that are not 0 count once.
struct MaskWeights : EachElement {
    static constexpr bool any_number = false;
    template <bool exact>
    using WeightSum = CountSum;

    MaskWeights(Tile<const void> mask, std::ptrdiff_t) : mask_(typed<const std::uint8_t>(mask)) {}
    static Wide fill(const Wide& neutral) { return neutral; }
    template <class N>
    OnceIf of(std::ptrdiff_t r, std::ptrdiff_t i, int k, N n, Vec<double>) const {
        return {load_mask<double>(mask_.data + r * mask_.stride + i, k, n)};
    }

private:
    Tile<const std::uint8_t> mask_;
};

// A double for each element.
struct ElementWeights : EachElement {
    static constexpr bool any_number = true;
    template <bool exact>
    using WeightSum = typename ElementWeightSum<exact>::Type;

    ElementWeights(Tile<const void> weights, std::ptrdiff_t)
        : weights_(typed<const double>(weights)) {}
    static Wide fill(const Wide& neutral) { return neutral; }
    template <class N>
    TimesOrNot of(std::ptrdiff_t r, std::ptrdiff_t i, int k, N n, Vec<double>) const {
        return {load_register(weights_.data + r * weights_.stride + i, k, n, Wide{})};
    }

private:
    Tile<const double> weights_;
};

// A double for each row. Their sum is known before the first value is looked at.
struct RowWeights {
    static constexpr bool all_count = false;
    static constexpr bool any_number = true;
    template <bool exact>
    using WeightSum = NoWeightSum;

    RowWeights(Tile<const void> weights, std::ptrdiff_t rows)
        : weights_(static_cast<const double*>(weights.data)) {
        double largest = 0.0;
        for (std::ptrdiff_t r = 0; r < rows; ++r) {
            heaviest_ = weights_[r] > largest ? r : heaviest_;
            largest = weights_[r] > largest ? weights_[r] : largest;
            double error;
            sum_.high = two_sum(sum_.high, weights_[r], error);
            sum_.low += error;
        }
    }
    double weight(std::ptrdiff_t r) const { return weights_[r]; }
    static Wide fill(const Wide& neutral) { return neutral; }
    template <class N>
    Times of(std::ptrdiff_t r, std::ptrdiff_t, int, N, Vec<double>) const {
        return {Vec<double>::broadcast(weights_[r])};
    }
    ExactSum<double> tile_weight(NoWeightSum, std::ptrdiff_t, std::ptrdiff_t cols) const {
        const double n = static_cast<double>(cols);
        ExactSum<double> weight{};
        weight.high = two_product(sum_.high, n, weight.low);
        weight.low += sum_.low * n;
        return weight;
    }
    ExactSum<Wide> column_weights(NoWeightSum) const {
        return {broadcast(sum_.high), broadcast(sum_.low)};
    }
    std::ptrdiff_t heaviest() const { return heaviest_; }

private:
    const double* weights_;
    std::ptrdiff_t heaviest_ = 0;
    ExactSum<double> sum_{};
};

// The same, and NaN counts as nothing. Past a row's end there is NaN.
struct RowWeightsOmitNan : EachElement {
    static constexpr bool any_number = true;
    template <bool exact>
    using WeightSum = typename ElementWeightSum<exact>::Type;

    RowWeightsOmitNan(Tile<const void> weights, std::ptrdiff_t rows) : rows_(weights, rows) {}
    static Wide fill(const Wide&) { return broadcast(__builtin_nan("")); }
    template <class N>
    TimesIf of(std::ptrdiff_t r, std::ptrdiff_t, int, N, Vec<double> x) const {
        return {Vec<double>::numbers(x), Vec<double>::broadcast(rows_.weight(r))};
    }
    const RowWeights& rows() const { return rows_; }

private:
    RowWeights rows_;
};

// body(policy) for the values of row r, unless none of them counts. Where the row weighs 1 they are
// added as without weights: the same bits, since no product with 1 is rounded, for less.
template <class Policy, class Body>
inline void in_row(const Policy& by, std::ptrdiff_t, const Body& body) {
    body(by);
}
template <class Body>
inline void in_row(const RowWeights& by, std::ptrdiff_t r, const Body& body) {
    const double weight = by.weight(r);
    if (weight == 1.0) {
        body(Unweighted({}, 0));
    } else if (weight != 0.0) {
        body(by);
    }
}

template <class Body>
inline void in_row(const RowWeightsOmitNan& by, std::ptrdiff_t r, const Body& body) {
    if (by.rows().weight(r) != 0.0) body(by);
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

    template <class By>
    void add(int k, Vec<double> x, By by) {
        const Vec<double> other = number(by);
        const Vec<double> more = other - weight.reg[k];
        value.reg[k] = Vec<double>::unless_positive(more, x, value.reg[k]);
        weight.reg[k] = Vec<double>::unless_positive(more, other, weight.reg[k]);
    }
    template <class X, class Policy, class N>
    void add_block(const X* at, const Policy& by, std::ptrdiff_t r, std::ptrdiff_t i, N n) {
        const Wide fill = by.fill(Wide{});
        each_register(n, [&](int k, auto in) {
            const Vec<double> x = load_register(at, k, in, fill);
            add(k, x, by.of(r, i, k, in, x));
        });
    }
    // Of all lanes, the first with the largest weight; returns that.
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

// In a whole tile; false if nothing counts. Of weights that are all 1, the first will do.
template <class X>
inline bool find_shift(Tile<const X> x, const Unweighted&, std::ptrdiff_t, std::ptrdiff_t,
                       double& shift) {
    shift = first_value(x.data);
    return true;
}
template <class X>
inline bool find_shift(Tile<const X> x, const RowWeights& by, std::ptrdiff_t rows, std::ptrdiff_t,
                       double& shift) {
    if (rows == 0 || by.weight(by.heaviest()) == 0.0) return false;
    shift = first_value(x.data + by.heaviest() * x.stride);
    return true;
}
template <class X, class Policy>
[[gnu::noinline]] bool find_heaviest(Tile<const X> x, const Policy& by, std::ptrdiff_t rows,
                                     std::ptrdiff_t cols, double& shift) {
    Heaviest heaviest{};
    bool found = false;
    for (std::ptrdiff_t r = 0; r < rows && !found; ++r) {
        each_block(0, cols, [&](std::ptrdiff_t i, auto n) {
            if (found) return;
            heaviest.add_block(x.data + r * x.stride + i, by, r, i, n);
            found = !Policy::any_number && heaviest.over_lanes(shift) > 0.0;
        });
    }
    return found || heaviest.over_lanes(shift) > 0.0;
}

template <class X, class Policy>
inline bool find_shift(Tile<const X> x, const Policy& by, std::ptrdiff_t rows, std::ptrdiff_t cols,
                       double& shift) {
    return find_heaviest(x, by, rows, cols, shift);
}
// The heaviest row's first number, unless it has none.
template <class X>
inline bool find_shift(Tile<const X> x, const RowWeightsOmitNan& by, std::ptrdiff_t rows,
                       std::ptrdiff_t cols, double& shift) {
    if (!find_shift(x, by.rows(), rows, cols, shift)) return false;
    const X* const row = x.data + by.rows().heaviest() * x.stride;
    for (std::ptrdiff_t i = 0; i < cols; ++i) {
        shift = first_value(row + i);
        if (!__builtin_isnan(shift)) return true;
    }
    return find_heaviest(x, by, rows, cols, shift);
}

// 1 in the lanes that are not NaN, 0 in the others.
inline Wide numbers_of(const Wide& values) {
    Wide numbers;
    FASTBN_UNROLL
    for (int k = 0; k < Wide::registers; ++k) {
        numbers.reg[k] = number(OnceIf{Vec<double>::numbers(values.reg[k])});
    }
    return numbers;
}

// In each of the n columns from i on; any number where nothing counts.
template <class X, class N>
inline Wide column_shifts(Tile<const X> x, const Unweighted&, std::ptrdiff_t, std::ptrdiff_t i,
                          N n) {
    return load<double>(x.data + i, n);
}
template <class X, class N>
inline Wide column_shifts(Tile<const X> x, const RowWeights& by, std::ptrdiff_t rows,
                          std::ptrdiff_t i, N n) {
    return rows > 0 ? load<double>(x.data + by.heaviest() * x.stride + i, n) : broadcast(0.0);
}
template <class X, class Policy, class N>
[[gnu::noinline]] Wide heaviest_of_columns(Tile<const X> x, const Policy& by, std::ptrdiff_t rows,
                                           std::ptrdiff_t i, N n) {
    Heaviest heaviest{};
    for (std::ptrdiff_t r = 0; r < rows; ++r) {
        heaviest.add_block(x.data + r * x.stride + i, by, r, i, n);
        if (!Policy::any_number && all_positive(heaviest.weight, n)) break;
    }
    return heaviest.value;
}

template <class X, class Policy, class N>
inline Wide column_shifts(Tile<const X> x, const Policy& by, std::ptrdiff_t rows, std::ptrdiff_t i,
                          N n) {
    return heaviest_of_columns(x, by, rows, i, n);
}
template <class X, class N>
inline Wide column_shifts(Tile<const X> x, const RowWeightsOmitNan& by, std::ptrdiff_t rows,
                          std::ptrdiff_t i, N n) {
    const Wide values = column_shifts(x, by.rows(), rows, i, n);
    const Wide numbers = numbers_of(values);
    return all_positive(numbers, n) ? values : heaviest_of_columns(x, by, rows, i, n);
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
