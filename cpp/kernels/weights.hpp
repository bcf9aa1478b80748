// How much each value counts, in the form in which the engine says so (WeightsForm): what counts in
// a register, what stands past a row's end, what the weights add up to, and about which value a
// chunk of float32 is summed.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/chunk_sums.hpp"
#include "numerics/dtype.hpp"
#include "numerics/moments_math.hpp"
#include "simd/block.hpp"
#include "simd/tile.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

// ---- Sums of weights ----

// Where the sum is known before the first value is looked at.
struct KnownSum {};

// Where each value counts once or not at all: exact.
struct CountSum {
    Vec<double>::Count reg[Wide::registers];
};

// Of other numbers a double-double for statistics of float64, and a rounded sum for float32.

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

    // What stands past a row's end: `neutral`, or NaN where NaN is omitted.
    static Wide fill(const Wide& neutral) {
        if constexpr (omits_nan(form)) {
            return broadcast(__builtin_nan(""));
        } else {
            return neutral;
        }
    }

    // Of register k of the block of row r that begins at column i, and holds x.
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

    // What all of the tile weighs, or each column; `sum`: what was added up.
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

// body(weights) for the values of row r, unless none of them counts. Where the row weighs 1 they
// are added as without weights: the same bits, since no product with 1 is rounded, for less.
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

template <class X, WeightsForm form>
[[gnu::noinline]] bool find_heaviest(Tile<const X> x, const TileWeights<form>& by,
                                     std::ptrdiff_t rows, std::ptrdiff_t cols, double& shift) {
    Heaviest heaviest{};
    bool found = false;
    for (std::ptrdiff_t r = 0; r < rows && !found; ++r) {
        each_block(0, cols, [&](std::ptrdiff_t i, auto n) {
            if (found) return;
            heaviest.add_block(x.data + r * x.stride + i, by, r, i, n);
            found = !has_numbers(form) && heaviest.over_lanes(shift) > 0.0;
        });
    }
    return found || heaviest.over_lanes(shift) > 0.0;
}

// In a whole tile; false if nothing counts. Of weights that are all 1, the first will do; of row
// weights the heaviest row's first number, unless it has none.
template <class X, WeightsForm form>
inline bool find_shift(Tile<const X> x, const TileWeights<form>& by, std::ptrdiff_t rows,
                       std::ptrdiff_t cols, double& shift) {
    if constexpr (form == WeightsForm::none) {
        shift = first_value(x.data);
        return true;
    } else if constexpr (has_row_weights(form)) {
        if (rows == 0 || by.row_weight(by.heaviest_row()) == 0.0) return false;
        const X* const row = x.data + by.heaviest_row() * x.stride;
        shift = first_value(row);
        if constexpr (omits_nan(form)) {
            for (std::ptrdiff_t i = 1; i < cols && __builtin_isnan(shift); ++i) {
                shift = first_value(row + i);
            }
            if (__builtin_isnan(shift)) return find_heaviest(x, by, rows, cols, shift);
        }
        return true;
    } else {
        return find_heaviest(x, by, rows, cols, shift);
    }
}

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

// In each of the n columns from i on; any number where nothing counts.
template <class X, WeightsForm form, class N>
inline Wide column_shifts(Tile<const X> x, const TileWeights<form>& by, std::ptrdiff_t rows,
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
