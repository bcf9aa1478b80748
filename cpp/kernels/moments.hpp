// The forward reduction: moments of a tile's values, folded into what is known of its channels;
// one implementation for all types and for all that says how much values count (weights.hpp).
#pragma once

#include "kernels/chunk_sums.hpp"
#include "kernels/per_channel.hpp"
#include "kernels/table.hpp"
#include "kernels/weights.hpp"
#include "numerics/moments_math.hpp"
#include "simd/block.hpp"
#include "simd/prefetch.hpp"
#include "simd/tile.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

// ---- What one reading of a tile adds up ----

// Of float64, the first time.
template <class WeightSum>
struct Totals {
    ExactSum<Wide> total;
    WeightSum weight;

    template <class By>
    void add(int k, Vec<double> x, By by, const Wide&) {
        total.add(k, x, by);
        weight.add(k, by);
    }
    void begin_group() {}
    void end_group(const Totals&) {}
};

// Of float64 the second time, when the weights' sum is known; of float32 the only time.
template <class WeightSum>
struct Deviations {
    ShiftedSums<Wide> sums;
    WeightSum weight;

    template <class By>
    void add(int k, Vec<double> x, By by, const Wide& shift) {
        sums.add(k, x, by, shift);
        weight.add(k, by);
    }
    void begin_group() { sums.begin_group(); }
    void end_group(const Deviations& before) { sums.end_group(before.sums); }
};

template <class X, class Policy>
using TotalsOf = Totals<typename Policy::template WeightSum<true>>;
template <class X, class Policy, bool twice = two_passes<X>>
struct DeviationsFor {
    using Type = Deviations<typename Policy::template WeightSum<false>>;
};
template <class X, class Policy>
struct DeviationsFor<X, Policy, true> {
    using Type = Deviations<NoWeightSum>;
};
template <class X, class Policy>
using DeviationsOf = typename DeviationsFor<X, Policy>::Type;

// ---- A tile of one channel ----

// Adds all of a tile; past a row's end there is `neutral`.
template <class X, class Policy, class Sums>
inline void add_tile(Sums& sums, Tile<const X> x, const Policy& by, std::ptrdiff_t rows,
                     std::ptrdiff_t cols, const Wide& shift, const Wide& neutral) {
    const RowPrefetch<X> next(x, cols);
    const Wide fill = by.fill(neutral);
    for (std::ptrdiff_t r = 0; r < rows; ++r) {
        if (by.skips(r)) continue;
        const X* const row = x.data + r * x.stride;
        each_block(0, cols, [&](std::ptrdiff_t i, auto n) {
            next.at(row + i);
            each_register(n, [&](int k, auto in) {
                const Vec<double> value = load_register(row + i, k, in, fill);
                sums.add(k, value, by.of(r, i, k, in, value), shift);
            });
        });
    }
}

// ---- Float64 channels without spread ----
//
// An m2 of 0 is to say that all values that count are equal (see MomentsSums). In float64 it may
// also come from squares, or products with weights, that were too small. Of a chunk whose m2 is 0:
// if no weight is a fraction and the shift, which is then the mean, is not too small, differences
// have squares that are not lost, and all is well. Otherwise the values are looked at once more,
// unless the shift is so small that the engine has to look anyway.

inline bool has_exact_squares(double shift) {
    return __builtin_fabs(shift) >= smallest_with_exact_squares;
}

template <class Policy>
inline bool must_look(double shift) {
    return has_exact_squares(shift) ? Policy::any_number : shift == 0.0;
}

// `different`: the bits of the differences to the shift, where the values had to be looked at.
template <class Policy>
inline double confirmed_m2(double shift, double different) {
    const bool equal = must_look<Policy>(shift) ? different == 0.0 : has_exact_squares(shift);
    return equal ? 0.0 : lost_square;
}

// The bits of what differs from the shift among what counts.
struct Differences {
    Wide bits;

    template <class By>
    void add(int k, Vec<double> x, By by, const Wide& shift) {
        bits.reg[k] = bits.reg[k] | counted(x - shift.reg[k], by);
    }
};

// The m2 of a chunk for which that came out as 0.
template <class X, class Policy>
[[gnu::noinline]] double confirm_zero(Tile<const X> x, const Policy& by, std::ptrdiff_t rows,
                                      std::ptrdiff_t cols, double shift) {
    double different = 0.0;
    if (must_look<Policy>(shift)) {
        Differences differences{};
        const Wide shifts = broadcast(shift);
        add_tile(differences, x, by, rows, cols, shifts, shifts);
        double bits[lanes];
        store(bits, Full{}, differences.bits);
        for (const double b : bits) different = b == 0.0 ? different : b;
    }
    return confirmed_m2<Policy>(shift, different);
}

// The same for a block of columns, in those of which m2 is 0.
template <class X, class Policy, class N>
[[gnu::noinline]] void confirm_zeros(Tile<const X> x, const Policy& by, std::ptrdiff_t rows,
                                     std::ptrdiff_t i, N n, const Wide& shift, double* m2) {
    double shifts[lanes];
    store(shifts, Full{}, shift);
    bool look = false;
    for (std::ptrdiff_t j = 0; j < lanes; ++j) {
        look = look || (m2[j] == 0.0 && must_look<Policy>(shifts[j]));
    }
    Differences differences{};
    const Wide fill = by.fill(shift);
    for (std::ptrdiff_t r = 0; r < rows && look; ++r) {
        if (by.skips(r)) continue;
        each_register(n, [&](int k, auto in) {
            const Vec<double> value = load_register(x.data + r * x.stride + i, k, in, fill);
            differences.add(k, value, by.of(r, i, k, in, value), shift);
        });
    }
    double bits[lanes];
    store(bits, Full{}, differences.bits);
    for (std::ptrdiff_t j = 0; j < lanes; ++j) {
        if (m2[j] == 0.0) m2[j] = confirmed_m2<Policy>(shifts[j], bits[j]);
    }
}

// ---- The kernel for a tile of one channel ----

// Every value counts once.
template <class X>
inline Moments<double> chunk_moments(Tile<const X> x, std::ptrdiff_t rows, std::ptrdiff_t cols,
                                     double count) {
    const Unweighted by({}, rows);
    double shift = first_value(x.data);
    ExactSum<double> total{};
    if constexpr (two_passes<X>) {
        TotalsOf<X, Unweighted> totals{};
        add_tile(totals, x, by, rows, cols, Wide{}, Wide{});
        total = horizontal_sum(totals.total);
        double low;
        shift = quotient(total.high, total.low, count, low);
    }
    const Wide shifts = broadcast(shift);
    DeviationsOf<X, Unweighted> deviations{};
    add_tile(deviations, x, by, rows, cols, shifts, shifts);
    const ShiftedSums<double> sums = horizontal_sum(deviations.sums);
    if constexpr (!two_passes<X>) total = total_from_shifted(sums, count, shift);
    Moments<double> chunk = moments_from(sums, count, shift, total);
    if constexpr (two_passes<X>) {
        if (chunk.m2 == 0.0) chunk.m2 = confirm_zero(x, by, rows, cols, shift);
    }
    return chunk;
}

// Folds a tile into the state, unless nothing in it counts.
template <class X, class Policy>
inline void fold_weighted_tile(Tile<const X> x, const Policy& by, std::ptrdiff_t rows,
                               std::ptrdiff_t cols, const MomentsSums& state) {
    double shift = 0.0;
    ExactSum<double> total{};
    ExactSum<double> weight{};
    if constexpr (two_passes<X>) {
        TotalsOf<X, Policy> totals{};
        add_tile(totals, x, by, rows, cols, Wide{}, Wide{});
        weight = by.tile_weight(totals.weight, cols);
        if (weight.high == 0.0) return;
        total = horizontal_sum(totals.total);
        double low;
        shift = quotient(total.high, total.low, weight.high, weight.low, low);
    } else if (!find_shift(x, by, rows, cols, shift)) {
        return;
    }
    const Wide shifts = broadcast(shift);
    DeviationsOf<X, Policy> deviations{};
    add_tile(deviations, x, by, rows, cols, shifts, shifts);
    const ShiftedSums<double> sums = horizontal_sum(deviations.sums);
    if constexpr (!two_passes<X>) {
        weight = by.tile_weight(deviations.weight, cols);
        total = weighted_total_from_shifted(sums.d, weight.high, shift);
    }
    Moments<double> chunk = moments_from(sums, weight.high, shift, total);
    if constexpr (two_passes<X>) {
        if (chunk.m2 == 0.0) chunk.m2 = confirm_zero(x, by, rows, cols, shift);
    }
    fold_weighted(state, 0, chunk, weight);
}

template <class X, class Policy>
FASTBN_FLATTEN void moments_of_tile(Tile<const void> x, Tile<const void> weights,
                                    std::ptrdiff_t rows, std::ptrdiff_t cols, double count,
                                    MomentsSums state, void*) noexcept {
    if constexpr (Policy::all_count) {
        const double size = static_cast<double>(rows * cols);
        const Moments<double> chunk = chunk_moments(typed<const X>(x), rows, cols, size);
        put(state, 0, count == 0.0 ? chunk : merge(at(state, 0), count, chunk, size));
    } else {
        fold_weighted_tile(typed<const X>(x), Policy(weights, rows), rows, cols, state);
    }
}

// ---- A tile of columns ----

// What is kept for each block of columns.
template <class X, class Policy>
struct ColumnSums {
    Wide shift;
    DeviationsOf<X, Policy> deviations;
    TotalsOf<X, Policy> totals;  // two_passes only
};

// Adds every row to `sums` of its block of columns.
template <class X, class Policy, class Sums>
inline void add_columns(Sums ColumnSums<X, Policy>::* sums, Tile<const X> x, const Policy& by,
                        std::ptrdiff_t rows, std::ptrdiff_t cols, ColumnSums<X, Policy>* columns) {
    ColumnPrefetch<X> ahead(x, cols);
    const Wide fill = by.fill(Wide{});
    const auto begin = [&](std::ptrdiff_t r) { ahead.begin_group(r); };
    each_row_group(rows, cols, begin,
                   [&](std::ptrdiff_t r, std::ptrdiff_t end, std::ptrdiff_t i, auto n) {
                       ColumnSums<X, Policy>& column = columns[i / lanes];
                       Sums group = column.*sums;
                       group.begin_group();
                       for (std::ptrdiff_t row = r; row < end; ++row) {
                           ahead.next_block();
                           if (by.skips(row)) continue;
                           const X* const here = x.data + row * x.stride + i;
                           each_register(n, [&](int k, auto in) {
                               const Vec<double> value = load_register(here, k, in, fill);
                               group.add(k, value, by.of(row, i, k, in, value), column.shift);
                           });
                       }
                       group.end_group(column.*sums);
                       column.*sums = group;
                   });
}

template <class N>
inline Moments<Wide> read(const MomentsSums& s, N n) {
    return {load<double>(s.ref, n),   load<double>(s.offset, n), load<double>(s.m2, n),
            load<double>(s.m2_lo, n), load<double>(s.sum, n),    load<double>(s.sum_lo, n)};
}

template <class N>
inline void write(const MomentsSums& s, N n, const Moments<Wide>& p) {
    store(s.ref, n, p.ref);
    store(s.offset, n, p.offset);
    store(s.m2, n, p.m2);
    store(s.m2_lo, n, p.m2_lo);
    store(s.sum, n, p.sum);
    store(s.sum_lo, n, p.sum_lo);
}

// Every value counts once.
template <class X, class N>
inline void fold_column_block(const ColumnSums<X, Unweighted>& c, Tile<const X> x,
                              std::ptrdiff_t rows, std::ptrdiff_t i, N n, double count,
                              const MomentsSums& state) {
    const double size = static_cast<double>(rows);
    const ShiftedSums<Wide>& sums = c.deviations.sums;
    const ExactSum<Wide> total =
        two_passes<X> ? c.totals.total : total_from_shifted(sums, size, c.shift);
    Moments<Wide> chunk = moments_from(sums, size, c.shift, total);
    if constexpr (two_passes<X>) {
        if (!all_positive(chunk.m2, n)) {
            alignas(64) double m2[lanes];
            store(m2, Full{}, chunk.m2);
            confirm_zeros(x, Unweighted({}, rows), rows, i, n, c.shift, m2);
            chunk.m2 = load<double>(m2, Full{});
        }
    }
    write(state, n, count == 0.0 ? chunk : merge(read(state, n), count, chunk, size));
}

// The arrays of one block of columns, a channel each.
struct WeightedLanes {
    alignas(64) double d[lanes];
    alignas(64) double d2[lanes];
    alignas(64) double shift[lanes];
    alignas(64) double total[lanes];
    alignas(64) double total_lo[lanes];
    alignas(64) double weight[lanes];
    alignas(64) double weight_lo[lanes];
    alignas(64) double m2[lanes];

    template <class X, class Policy>
    WeightedLanes(const ColumnSums<X, Policy>& c, const Policy& by) {
        store(d, Full{}, c.deviations.sums.d);
        store(d2, Full{}, c.deviations.sums.d2);
        store(shift, Full{}, c.shift);
        ExactSum<Wide> weights;
        if constexpr (two_passes<X>) {
            store(total, Full{}, c.totals.total.high);
            store(total_lo, Full{}, c.totals.total.low);
            weights = by.column_weights(c.totals.weight);
        } else {
            weights = by.column_weights(c.deviations.weight);
        }
        store(weight, Full{}, weights.high);
        store(weight_lo, Full{}, weights.low);
    }
    // The weight to divide by.
    double divisor(std::ptrdiff_t j) const { return weight[j] > 0.0 ? weight[j] : 1.0; }
    Moments<double> moments(std::ptrdiff_t j) const {
        const ShiftedSums<double> sums{d[j], d2[j]};
        return moments_from(sums, divisor(j), shift[j], ExactSum<double>{total[j], total_lo[j]});
    }
};

// The means of the columns, once their totals are known.
template <class X, class Policy>
[[gnu::noinline]] void set_shift(ColumnSums<X, Policy>& c, const Policy& by) {
    WeightedLanes a(c, by);
#pragma omp simd
    for (std::ptrdiff_t j = 0; j < lanes; ++j) {
        double low;
        a.shift[j] = quotient(a.total[j], a.total_lo[j], a.divisor(j), a.weight_lo[j], low);
    }
    c.shift = load<double>(a.shift, Full{});
}

template <class X, class Policy, class N>
[[gnu::noinline]] void fold_column_block(const ColumnSums<X, Policy>& c, Tile<const X> x,
                                         const Policy& by, std::ptrdiff_t rows, std::ptrdiff_t i,
                                         N n, const MomentsSums& state) {
    WeightedLanes a(c, by);
    bool any_zero = false;
    for (std::ptrdiff_t j = 0; j < lanes; ++j) {
        if constexpr (!two_passes<X>) {
            const ExactSum<double> total =
                weighted_total_from_shifted(a.d[j], a.weight[j], a.shift[j]);
            a.total[j] = total.high;
            a.total_lo[j] = total.low;
        }
        a.m2[j] = a.moments(j).m2;
        any_zero = any_zero || (a.m2[j] == 0.0 && a.weight[j] > 0.0);
    }
    if (two_passes<X> && any_zero) confirm_zeros(x, by, rows, i, n, c.shift, a.m2);
    for (std::ptrdiff_t j = 0; j < count_of(n); ++j) {
        Moments<double> chunk = a.moments(j);
        chunk.m2 = a.m2[j];
        fold_weighted(state, j, chunk, {a.weight[j], a.weight_lo[j]});
    }
}

template <class X, class Policy>
FASTBN_FLATTEN void moments_of_columns(Tile<const void> x_any, Tile<const void> weights,
                                       std::ptrdiff_t rows, std::ptrdiff_t cols, double count,
                                       MomentsSums state, void* scratch) noexcept {
    using Sums = ColumnSums<X, Policy>;
    static_assert(sizeof(Sums) <= column_scratch_bytes);
    const Tile<const X> x = typed<const X>(x_any);
    const Policy by(weights, rows);
    auto* const columns = static_cast<Sums*>(scratch);
    each_block(0, cols, [&](std::ptrdiff_t i, auto n) {
        Sums& c = columns[i / lanes];
        c.deviations = {};
        if constexpr (two_passes<X>) {
            c.totals = {};
        } else {
            c.shift = column_shifts(x, by, rows, i, n);
        }
    });
    if constexpr (two_passes<X>) {
        add_columns(&Sums::totals, x, by, rows, cols, columns);
        each_block(0, cols, [&](std::ptrdiff_t i, auto) {
            Sums& c = columns[i / lanes];
            if constexpr (Policy::all_count) {
                Wide low;
                c.shift = quotient(c.totals.total.high, c.totals.total.low,
                                   static_cast<double>(rows), low);
            } else {
                set_shift(c, by);
            }
        });
    }
    add_columns(&Sums::deviations, x, by, rows, cols, columns);
    each_block(0, cols, [&](std::ptrdiff_t i, auto n) {
        const MomentsSums here = state_from(state, i);
        if constexpr (Policy::all_count) {
            fold_column_block(columns[i / lanes], x, rows, i, n, count, here);
        } else {
            fold_column_block(columns[i / lanes], x, by, rows, i, n, here);
        }
    });
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
