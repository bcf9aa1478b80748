// The reductions: moments of x for the forward pass, the two sums of the backward one. They see a
// tile and per-channel arrays; they know no threads, no eps, no chunk but the one they are given.
#pragma once

#include "block.hpp"
#include "table.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

using Wide = Block<double>;

// A chunk (one tile of one channel, or one column of a tile) is summed about a shift, sum(d) and
// sum(d^2) with d = x - shift, and m2 = sum(d^2) - sum(d)^2 / n.
//
// In float32 the shift is the chunk's first value. Being one of the values, it is no further from
// their mean than sqrt(m2), so sum(d^2) <= (n + 1) m2 and no more than log2(n + 1) of float64's 53
// bits cancel, whatever the data. Squares of float32 values fit float64, whatever their size.
//
// In float64 that would not do for a result in float64: a first pass takes the chunk's mean, and
// the second, from cache, sums about it. The first pass sums with the rounding errors (two_sum),
// since y near zero is a small difference and wants the mean to more than float64's precision.
template <class T>
constexpr bool two_passes = sizeof(T) == sizeof(double);

template <class V>
struct ShiftedSums {
    V d;
    V d2;

    void add(const V& x, const V& shift) {
        const V centred = x - shift;
        d = d + centred;
        d2 = d2 + centred * centred;
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

    void add(const V& x) {
        V error;
        high = two_sum(high, x, error);
        low = low + error;
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
inline Partial<V> finish(const ShiftedSums<V>& sums, double count, const V& shift,
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

inline Partial<double> read(const MomentsState& s) {
    return {*s.ref, *s.offset, *s.m2, *s.m2_lo, *s.sum, *s.sum_lo};
}

inline void write(const MomentsState& s, const Partial<double>& p) {
    *s.ref = p.ref;
    *s.offset = p.offset;
    *s.m2 = p.m2;
    *s.m2_lo = p.m2_lo;
    *s.sum = p.sum;
    *s.sum_lo = p.sum_lo;
}

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

// body(p, n) for every block of a tile.
template <class T, class Body>
inline void each_tile_block(Tile<const T> x, std::ptrdiff_t rows, std::ptrdiff_t cols,
                            const Body& body) {
    for (std::ptrdiff_t r = 0; r < rows; ++r) {
        const T* row = x.data + r * x.stride;
        each_block(0, cols, [&](std::ptrdiff_t i, auto n) { body(row + i, n); });
    }
}

template <class T>
inline Partial<double> chunk_moments(Tile<const T> x, std::ptrdiff_t rows, std::ptrdiff_t cols,
                                     double count) {
    double shift = x.data[0];
    ExactSum<double> total{};
    if constexpr (two_passes<T>) {
        ExactSum<Wide> sum{};
        each_tile_block(x, rows, cols, [&](const T* p, auto n) { sum.add(load<double>(p, n)); });
        total = halve(sum);
        double rest;
        shift = quotient(total.high, total.low, count, rest);
    }
    const Wide wide_shift = broadcast(shift);
    ShiftedSums<Wide> sums{};
    each_tile_block(x, rows, cols, [&](const T* p, auto n) {
        sums.add(load<double>(p, n, wide_shift), wide_shift);
    });
    const ShiftedSums<double> folded = halve(sums);
    if constexpr (!two_passes<T>) total = total_of(folded, count, shift);
    return finish(folded, count, shift, total);
}

template <class T>
void moments_rows(Tile<const T> x, std::ptrdiff_t rows, std::ptrdiff_t cols, double count,
                  MomentsState state) noexcept {
    const double size = static_cast<double>(rows * cols);
    const Partial<double> chunk = chunk_moments(x, rows, cols, size);
    write(state, count == 0.0 ? chunk : merge(read(state), count, chunk, size));
}

// Rows of a column tile that are folded into one round trip of the accumulators to memory. That
// walk, down some rows and then one block to the right, no hardware prefetcher follows: the kernels
// ask for rows ahead themselves.
constexpr std::ptrdiff_t rows_ahead = 32;

template <std::ptrdiff_t n>
struct RowGroup {
    static constexpr std::ptrdiff_t size = n;
};
using WholeGroup = RowGroup<8>;

// body(group, r, i, n) for every group of rows from r on and every block of columns.
template <class Body>
inline void each_row_group(std::ptrdiff_t rows, std::ptrdiff_t cols, const Body& body) {
    std::ptrdiff_t r = 0;
    for (; r + WholeGroup::size <= rows; r += WholeGroup::size) {
        each_block(0, cols, [&](std::ptrdiff_t i, auto n) { body(WholeGroup{}, r, i, n); });
    }
    for (; r < rows; ++r) {
        each_block(0, cols, [&](std::ptrdiff_t i, auto n) { body(RowGroup<1>{}, r, i, n); });
    }
}

// What a column tile keeps per block of columns.
template <class T>
struct ColumnSums {
    Wide shift;
    ShiftedSums<Wide> sums;
    ExactSum<Wide> total;  // two_passes only
};

// Adds every row to the accumulator(i) of its block: add(accumulator, values, block).
template <class T, class Accumulator, class Add>
inline void accumulate_columns(Tile<const T> x, std::ptrdiff_t rows, std::ptrdiff_t cols,
                               const Accumulator& accumulator, const Add& add) {
    each_row_group(rows, cols, [&](auto group, std::ptrdiff_t r, std::ptrdiff_t i, auto n) {
        auto& in_memory = accumulator(i / lanes);
        auto sums = in_memory;
        sums.begin_group();
        for (std::ptrdiff_t k = 0; k < group.size; ++k) {
            const T* here = x.data + (r + k) * x.stride + i;
            prefetch(here + rows_ahead * x.stride);
            add(sums, load<double>(here, n), i / lanes);
        }
        sums.end_group(in_memory);
        in_memory = sums;
    });
}

template <class T>
inline void start_columns(Tile<const T> x, std::ptrdiff_t rows, std::ptrdiff_t cols, double count,
                          ColumnSums<T>* columns) {
    each_block(0, cols, [&](std::ptrdiff_t i, auto n) {
        columns[i / lanes] = {};
        columns[i / lanes].shift = load<double>(x.data + i, n);
    });
    if constexpr (two_passes<T>) {
        accumulate_columns(
            x, rows, cols, [=](std::ptrdiff_t b) -> auto& { return columns[b].total; },
            [](ExactSum<Wide>& sum, const Wide& v, std::ptrdiff_t) { sum.add(v); });
        each_block(0, cols, [&](std::ptrdiff_t i, auto) {
            ColumnSums<T>& c = columns[i / lanes];
            Wide rest;
            c.shift = quotient(c.total.high, c.total.low, count, rest);
        });
    }
}

template <class T>
void moments_columns(Tile<const T> x, std::ptrdiff_t rows, std::ptrdiff_t cols, double count,
                     MomentsState state, void* scratch) noexcept {
    auto* columns = static_cast<ColumnSums<T>*>(scratch);
    const double size = static_cast<double>(rows);
    start_columns(x, rows, cols, size, columns);
    accumulate_columns(
        x, rows, cols, [=](std::ptrdiff_t b) -> auto& { return columns[b].sums; },
        [=](ShiftedSums<Wide>& sums, const Wide& v, std::ptrdiff_t b) {
            sums.add(v, columns[b].shift);
        });
    each_block(0, cols, [&](std::ptrdiff_t i, auto n) {
        const ColumnSums<T>& c = columns[i / lanes];
        const ExactSum<Wide> total = two_passes<T> ? c.total : total_of(c.sums, size, c.shift);
        const Partial<Wide> chunk = finish(c.sums, size, c.shift, total);
        const MomentsState here = at(state, i);
        write(here, n, count == 0.0 ? chunk : merge(read(here, n), count, chunk, size));
    });
}

// sum(dy) and sum(dy * xhat), xhat = (x - mean) * invstd. Multiplying by invstd here, rather than
// once at the end, costs nothing beside the loads and keeps float64 products from overflowing.
struct GradientBlocks {
    Wide dy;
    Wide dy_xhat;

    template <class T, class N>
    void add(const T* dy_at, const T* x_at, N n, const Wide& fill, const Wide& mean,
             const Wide& invstd) {
        const Wide dy_block = load<double>(dy_at, n);
        const Wide xhat = (load<double>(x_at, n, fill) - mean) * invstd;
        dy = dy + dy_block;
        dy_xhat = dy_xhat + dy_block * xhat;
    }
};

template <class T>
void gradient_sums_rows(Tile<const T> dy, Tile<const T> x, std::ptrdiff_t rows, std::ptrdiff_t cols,
                        GradientSums sums) noexcept {
    const Wide mean = broadcast(*sums.mean);
    const Wide invstd = broadcast(*sums.invstd);
    const Wide fill = broadcast(static_cast<double>(x.data[0]));
    GradientBlocks blocks{};
    for (std::ptrdiff_t r = 0; r < rows; ++r) {
        const T* dy_row = dy.data + r * dy.stride;
        const T* x_row = x.data + r * x.stride;
        each_block(0, cols, [&](std::ptrdiff_t i, auto n) {
            blocks.add(dy_row + i, x_row + i, n, fill, mean, invstd);
        });
    }
    *sums.sum_dy += halve(blocks.dy);
    *sums.sum_dy_xhat += halve(blocks.dy_xhat);
}

template <class T>
void gradient_sums_columns(Tile<const T> dy, Tile<const T> x, std::ptrdiff_t rows,
                           std::ptrdiff_t cols, GradientSums sums) noexcept {
    each_row_group(rows, cols, [&](auto group, std::ptrdiff_t r, std::ptrdiff_t i, auto n) {
        const GradientSums here = at(sums, i);
        const Wide mean = load<double>(here.mean, n);
        const Wide invstd = load<double>(here.invstd, n);
        GradientBlocks blocks{load<double>(here.sum_dy, n), load<double>(here.sum_dy_xhat, n)};
        for (std::ptrdiff_t k = 0; k < group.size; ++k) {
            const T* dy_here = dy.data + (r + k) * dy.stride + i;
            const T* x_here = x.data + (r + k) * x.stride + i;
            prefetch(dy_here + rows_ahead * dy.stride);
            prefetch(x_here + rows_ahead * x.stride);
            blocks.add(dy_here, x_here, n, mean, mean, invstd);
        }
        store(here.sum_dy, n, blocks.dy);
        store(here.sum_dy_xhat, n, blocks.dy_xhat);
    });
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
