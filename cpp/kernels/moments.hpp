// The forward reduction: moments of a tile, folded into what is known of its channels. Sees a tile
// and per-channel arrays; knows no threads, no eps, no chunk but the one it is given.
#pragma once

#include "block.hpp"
#include "block_memory.hpp"
#include "channels.hpp"
#include "chunk_sums.hpp"
#include "data.hpp"
#include "prefetch.hpp"
#include "row_groups.hpp"
#include "welford.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

template <class N>
inline Partial<Wide> read(const MomentsState& s, N n) {
    return {load<double>(s.ref, n),   load<double>(s.offset, n), load<double>(s.m2, n),
            load<double>(s.m2_lo, n), load<double>(s.sum, n),    load<double>(s.sum_lo, n)};
}

template <class N>
inline void write(const MomentsState& s, N n, const Partial<Wide>& p) {
    store(s.ref, n, p.ref);
    store(s.offset, n, p.offset);
    store(s.m2, n, p.m2);
    store(s.m2_lo, n, p.m2_lo);
    store(s.sum, n, p.sum);
    store(s.sum_lo, n, p.sum_lo);
}

// add(k, values) for every register of a tile; lanes past a row's end get fill's.
template <class T, class Add>
inline void each_tile_register(Tile<const T> x, std::ptrdiff_t rows, std::ptrdiff_t cols,
                               const Wide& fill, const Add& add) {
    const NextRow<T> next(x, cols);
    for (std::ptrdiff_t r = 0; r < rows; ++r) {
        const T* row = x.data + r * x.stride;
        each_block(0, cols, [&](std::ptrdiff_t i, auto n) {
            next.ask(row + i);
            each_register(n, [&](int k, auto in) { add(k, load_register(row + i, k, in, fill)); });
        });
    }
}

template <class T>
inline Partial<double> chunk_moments(Tile<const T> x, std::ptrdiff_t rows, std::ptrdiff_t cols,
                                     double count) {
    double shift = first_value(x.data);
    ExactSum<double> total{};
    if constexpr (two_passes<T>) {
        ExactSum<Wide> sum{};
        each_tile_register(x, rows, cols, Wide{},
                           [&](int k, Vec<double> values) { sum.add(k, values); });
        total = halve(sum);
        double rest;
        shift = quotient(total.high, total.low, count, rest);
    }
    const Wide wide_shift = broadcast(shift);
    ShiftedSums<Wide> sums{};
    each_tile_register(x, rows, cols, wide_shift,
                       [&](int k, Vec<double> values) { sums.add(k, values, wide_shift); });
    const ShiftedSums<double> folded = halve(sums);
    if constexpr (!two_passes<T>) total = total_of(folded, count, shift);
    return partial_of(folded, count, shift, total);
}

template <class T>
[[gnu::flatten]] void moments_rows(Tile<const T> x, std::ptrdiff_t rows, std::ptrdiff_t cols,
                                   double count, MomentsState state) noexcept {
    const double size = static_cast<double>(rows * cols);
    const Partial<double> chunk = chunk_moments(x, rows, cols, size);
    put(state, 0, count == 0.0 ? chunk : merge(at(state, 0), count, chunk, size));
}

// What a column tile keeps per block of columns.
template <class T>
struct ColumnSums {
    Wide shift;
    ShiftedSums<Wide> sums;
    ExactSum<Wide> total;  // two_passes only
};

// Adds every row to the accumulator(i) of its block: add(accumulator, block, k, values).
template <class T, class Accumulator, class Add>
inline void accumulate_columns(Tile<const T> x, std::ptrdiff_t rows, std::ptrdiff_t cols,
                               const Accumulator& accumulator, const Add& add) {
    ReadAhead<T> ahead(x, cols);
    const auto begin = [&](std::ptrdiff_t r) { ahead.begin_group(r); };
    each_row_group(rows, cols, begin, [&](auto group, std::ptrdiff_t r, std::ptrdiff_t i, auto n) {
        auto& in_memory = accumulator(i / lanes);
        auto sums = in_memory;
        sums.begin_group();
        for (std::ptrdiff_t row = r; row < r + group.size; ++row) {
            const T* here = x.data + row * x.stride + i;
            ahead.next_block();
            each_register(n, [&](int k, auto in) {
                add(sums, i / lanes, k, load_register(here, k, in, Wide{}));
            });
        }
        sums.end_group(in_memory);
        in_memory = sums;
    });
}

template <class T>
inline void start_columns(Tile<const T> x, std::ptrdiff_t rows, std::ptrdiff_t cols, double count,
                          ColumnSums<T>* columns) {
    each_block(0, cols, [&](std::ptrdiff_t i, auto n) {
        ColumnSums<T>& c = columns[i / lanes];
        c.shift = load<double>(x.data + i, n);
        c.sums = {broadcast(0.0), broadcast(0.0)};
        if constexpr (two_passes<T>) c.total = {broadcast(0.0), broadcast(0.0)};
    });
    if constexpr (two_passes<T>) {
        accumulate_columns(
            x, rows, cols, [=](std::ptrdiff_t b) -> auto& { return columns[b].total; },
            [](ExactSum<Wide>& sum, std::ptrdiff_t, int k, Vec<double> v) { sum.add(k, v); });
        each_block(0, cols, [&](std::ptrdiff_t i, auto) {
            ColumnSums<T>& c = columns[i / lanes];
            Wide rest;
            c.shift = quotient(c.total.high, c.total.low, count, rest);
        });
    }
}

template <class T>
[[gnu::flatten]] void moments_columns(Tile<const T> x, std::ptrdiff_t rows, std::ptrdiff_t cols,
                                      double count, MomentsState state, void* scratch) noexcept {
    auto* columns = static_cast<ColumnSums<T>*>(scratch);
    const double size = static_cast<double>(rows);
    start_columns(x, rows, cols, size, columns);
    accumulate_columns(
        x, rows, cols, [=](std::ptrdiff_t b) -> auto& { return columns[b].sums; },
        [=](ShiftedSums<Wide>& sums, std::ptrdiff_t b, int k, Vec<double> v) {
            sums.add(k, v, columns[b].shift);
        });
    each_block(0, cols, [&](std::ptrdiff_t i, auto n) {
        const ColumnSums<T>& c = columns[i / lanes];
        const ExactSum<Wide> total = two_passes<T> ? c.total : total_of(c.sums, size, c.shift);
        const Partial<Wide> chunk = partial_of(c.sums, size, c.shift, total);
        const MomentsState here{state.ref + i,   state.offset + i, state.m2 + i,
                                state.m2_lo + i, state.sum + i,    state.sum_lo + i};
        write(here, n, count == 0.0 ? chunk : merge(read(here, n), count, chunk, size));
    });
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
