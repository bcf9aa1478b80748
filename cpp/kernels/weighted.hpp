// The forward reduction where each value counts with a share of its own: moments of a tile,
// folded into what is known of its channels. Sees tiles and per-channel arrays; knows neither where
// shares come from nor what they mean.
//
// A chunk is summed about a shift as in chunk_sums.hpp. The shift is the value with the largest
// share: it is no further from the mean than sqrt(m2 / share), and n shares add up to n of the
// largest at most, so the bound there holds. Float64 takes a mean first, from differences to that
// value rather than from exact sums: products with shares are not exact anyhow, and the mean's
// error is a rounding of the spread. A value without a share leaves no trace, whatever it is.
#pragma once

#include "block.hpp"
#include "block_memory.hpp"
#include "channels.hpp"
#include "chunk_sums.hpp"
#include "data.hpp"
#include "halving.hpp"
#include "prefetch.hpp"
#include "row_groups.hpp"
#include "share_policies.hpp"
#include "welford.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

// One chunk's moments from its sums, without the sum of its values, of which no use is made.
inline Partial<double> chunk_of(double d, double d2, double count, double shift) {
    const double divisor = count > 0.0 ? count : 1.0;
    const double offset = d / divisor;
    const double m2 = clamp_negative(d2 - d * offset);
    return {shift, offset, m2, 0.0, 0.0, 0.0};
}

// Folds a chunk into the state of channel i.
inline void fold_in(const WeightedState& state, std::ptrdiff_t i, const Partial<double>& chunk,
                    double count) {
    const Partial<double> both = merge_counted(at(state.moments, i), state.count[i], chunk, count);
    put(state.moments, i, both);
    state.count[i] += count;
}

template <class X, class By>
inline WeightedSums tile_sums(Tile<const X> x, const By& by, std::ptrdiff_t rows,
                              std::ptrdiff_t cols, double shift) {
    const Wide shifts = broadcast(shift);
    const NextRow<X> next(x, cols);
    WeightedSums sums{};
    for (std::ptrdiff_t r = 0; r < rows; ++r) {
        if (by.skips(r)) continue;
        const X* const row = x.data + r * x.stride;
        each_block(0, cols, [&](std::ptrdiff_t i, auto n) {
            next.ask(row + i);
            by.add(sums, row + i, r, i, n, shifts);
        });
    }
    return sums;
}

template <class X, class Shares>
[[gnu::flatten]] void weighted_rows(Tile<const X> x, Shares shares, std::ptrdiff_t rows,
                                    std::ptrdiff_t cols, WeightedState state) noexcept {
    const auto by = policy_of(shares, rows);
    double shift = 0.0;
    if (!find_shift(by, x, rows, cols, shift)) return;
    if constexpr (two_passes<X>) {
        const WeightedSums first = tile_sums(x, by, rows, cols, shift);
        shift += halve(first.d) / by.count(first, cols);
    }
    const WeightedSums sums = tile_sums(x, by, rows, cols, shift);
    const double count = by.count(sums, cols);
    fold_in(state, 0, chunk_of(halve(sums.d), halve(sums.d2), count, shift), count);
}

// What a column tile keeps per block of columns.
struct WeightedColumns {
    Wide shift;
    WeightedSums sums;
};

template <class X, class By>
inline void add_columns(Tile<const X> x, const By& by, std::ptrdiff_t rows, std::ptrdiff_t cols,
                        WeightedColumns* columns) {
    each_block(0, cols, [&](std::ptrdiff_t i, auto) { columns[i / lanes].sums = {}; });
    ReadAhead<X> ahead(x, cols);
    const auto begin = [&](std::ptrdiff_t r) { ahead.begin_group(r); };
    each_row_group(rows, cols, begin, [&](auto group, std::ptrdiff_t r, std::ptrdiff_t i, auto n) {
        WeightedColumns& c = columns[i / lanes];
        WeightedSums sums;
        copy(c.sums, sums);
        for (std::ptrdiff_t row = r; row < r + group.size; ++row) {
            ahead.next_block();
            by.add(sums, x.data + row * x.stride + i, row, i, n, c.shift);
        }
        copy(sums, c.sums);
    });
    each_block(0, cols, [&](std::ptrdiff_t i, auto) {
        WeightedSums& sums = columns[i / lanes].sums;
        sums.count = by.counts(sums);
    });
}

// The arrays of one block of columns, a channel each.
struct ColumnLanes {
    alignas(64) double d[lanes];
    alignas(64) double d2[lanes];
    alignas(64) double count[lanes];
    alignas(64) double shift[lanes];

    explicit ColumnLanes(const WeightedColumns& c) {
        store(d, Full{}, c.sums.d);
        store(d2, Full{}, c.sums.d2);
        store(count, Full{}, c.sums.count);
        store(shift, Full{}, c.shift);
    }
};

// Shifts moved onto the columns' means.
inline void move_shifts(WeightedColumns& c) {
    ColumnLanes a(c);
#pragma omp simd
    for (std::ptrdiff_t j = 0; j < lanes; ++j) {
        const double divisor = a.count[j] > 0.0 ? a.count[j] : 1.0;
        a.shift[j] += a.d[j] / divisor;
    }
    c.shift = load<double>(a.shift, Full{});
}

template <class X, class Shares>
[[gnu::flatten]] void weighted_columns(Tile<const X> x, Shares shares, std::ptrdiff_t rows,
                                       std::ptrdiff_t cols, WeightedState state,
                                       void* scratch) noexcept {
    const auto by = policy_of(shares, rows);
    auto* const columns = static_cast<WeightedColumns*>(scratch);
    each_block(0, cols, [&](std::ptrdiff_t i, auto n) {
        columns[i / lanes].shift = shifts_of(by, x, rows, i, n);
    });
    if constexpr (two_passes<X>) {
        add_columns(x, by, rows, cols, columns);
        each_block(0, cols, [&](std::ptrdiff_t i, auto) { move_shifts(columns[i / lanes]); });
    }
    add_columns(x, by, rows, cols, columns);
    each_block(0, cols, [&](std::ptrdiff_t i, auto) {
        const ColumnLanes a(columns[i / lanes]);
        const std::ptrdiff_t n = cols - i < lanes ? cols - i : lanes;
#pragma omp simd
        for (std::ptrdiff_t j = 0; j < n; ++j) {
            fold_in(state, i + j, chunk_of(a.d[j], a.d2[j], a.count[j], a.shift[j]), a.count[j]);
        }
    });
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
