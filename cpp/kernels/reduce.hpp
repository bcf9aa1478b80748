// The reductions: moments of x for the forward pass, the two sums of the backward one. They see a
// tile and per-channel arrays; they know no threads, no eps, no chunk but the one they are given.
#pragma once

#include "block.hpp"
#include "table.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

using Wide = Block<double>;

// Rows of a column tile that are folded into one round trip of the accumulators to memory. That
// walk, down some rows and then one block to the right, no hardware prefetcher follows: the kernels
// ask for the next group themselves.
constexpr std::ptrdiff_t row_group = 8;

// Sums of one chunk of values about a shift, for one channel (V = double) or a block of them. The
// shift is one of the values, so (shift - mean)^2 <= m2 and sum(d^2) <= (n + 1) m2: subtracting
// sum(d)^2 / n loses no more than log2(n + 1) of float64's 53 bits, whatever the data.
template <class T, class V>
struct ChunkSums;

// Squares of float32 values neither overflow nor underflow in float64.
template <class V>
struct ChunkSums<float, V> {
    V d;
    V d2;

    template <class N>
    void add(const float* p, N n, const V& shift) {
        const V centred = load<double>(p, n, shift) - shift;
        d = d + centred;
        d2 = d2 + centred * centred;
    }

    // count * shift is exact: 13 bits times 24.
    V total(double count, const V& shift, V& low) const { return two_sum(shift * count, d, low); }
};

// y near zero is a small difference, so the mean must be known beyond float64's precision: x is
// summed once more, together with the rounding errors of that sum.
template <class V>
struct ChunkSums<double, V> {
    V d;
    V d2;
    V sum;
    V sum_lo;

    template <class N>
    void add(const double* p, N n, const V& shift) {
        const V centred = load<double>(p, n, shift) - shift;
        d = d + centred;
        d2 = d2 + centred * centred;
        V error;
        sum = two_sum(sum, load<double>(p, n), error);
        sum_lo = sum_lo + error;
    }

    V total(double, const V&, V& low) const {
        low = sum_lo;
        return sum;
    }
};

inline ChunkSums<float, double> halve(const ChunkSums<float, Wide>& sums) {
    return {halve(sums.d), halve(sums.d2)};
}

inline ChunkSums<double, double> halve(const ChunkSums<double, Wide>& sums) {
    ChunkSums<double, double> one{halve(sums.d), halve(sums.d2), 0.0, 0.0};
    one.sum = halve(sums.sum, sums.sum_lo, one.sum_lo);
    return one;
}

template <class T, class V>
inline Partial<V> finish(const ChunkSums<T, V>& sums, double count, const V& shift) {
    Partial<V> chunk;
    chunk.ref = shift;
    chunk.offset = sums.d * (1.0 / count);
    chunk.m2 = clamp_negative(sums.d2 - sums.d * chunk.offset);
    chunk.sum = sums.total(count, shift, chunk.sum_lo);
    return chunk;
}

inline Partial<double> read(const MomentsState& s) {
    return {*s.ref, *s.offset, *s.m2, *s.sum, *s.sum_lo};
}

inline void write(const MomentsState& s, const Partial<double>& p) {
    *s.ref = p.ref;
    *s.offset = p.offset;
    *s.m2 = p.m2;
    *s.sum = p.sum;
    *s.sum_lo = p.sum_lo;
}

template <class N>
inline Partial<Wide> read(const MomentsState& s, N n) {
    return {load<double>(s.ref, n), load<double>(s.offset, n), load<double>(s.m2, n),
            load<double>(s.sum, n), load<double>(s.sum_lo, n)};
}

template <class N>
inline void write(const MomentsState& s, N n, const Partial<Wide>& p) {
    store(s.ref, n, p.ref);
    store(s.offset, n, p.offset);
    store(s.m2, n, p.m2);
    store(s.sum, n, p.sum);
    store(s.sum_lo, n, p.sum_lo);
}

template <class T>
void moments_rows(Tile<const T> x, std::ptrdiff_t rows, std::ptrdiff_t cols, double count,
                  MomentsState state) noexcept {
    const double first = x.data[0];
    const Wide shift = broadcast(first);
    ChunkSums<T, Wide> sums{};
    for (std::ptrdiff_t r = 0; r < rows; ++r) {
        const T* row = x.data + r * x.stride;
        each_block(0, cols, [&](std::ptrdiff_t i, auto n) { sums.add(row + i, n, shift); });
    }
    const double size = static_cast<double>(rows * cols);
    const Partial<double> chunk = finish(halve(sums), size, first);
    write(state, count == 0.0 ? chunk : merge(read(state), count, chunk, size));
}

template <std::ptrdiff_t rows, class T>
inline void add_row_group(const T* first, const T* data, std::ptrdiff_t stride, std::ptrdiff_t cols,
                          ChunkSums<T, Wide>* sums) {
    each_block(0, cols, [&](std::ptrdiff_t i, auto n) {
        const Wide shift = load<double>(first + i, n);
        ChunkSums<T, Wide> block = sums[i / lanes];
        for (std::ptrdiff_t r = 0; r < rows; ++r) {
            const T* here = data + r * stride + i;
            prefetch(here + rows * stride);
            block.add(here, n, shift);
        }
        sums[i / lanes] = block;
    });
}

template <class T>
void moments_columns(Tile<const T> x, std::ptrdiff_t rows, std::ptrdiff_t cols, double count,
                     MomentsState state, void* scratch) noexcept {
    auto* sums = static_cast<ChunkSums<T, Wide>*>(scratch);
    each_block(0, cols, [&](std::ptrdiff_t i, auto) { sums[i / lanes] = {}; });
    std::ptrdiff_t r = 0;
    for (; r + row_group <= rows; r += row_group) {
        add_row_group<row_group>(x.data, x.data + r * x.stride, x.stride, cols, sums);
    }
    for (; r < rows; ++r) add_row_group<1>(x.data, x.data + r * x.stride, x.stride, cols, sums);

    const double size = static_cast<double>(rows);
    each_block(0, cols, [&](std::ptrdiff_t i, auto n) {
        const Wide shift = load<double>(x.data + i, n);
        const Partial<Wide> chunk = finish(sums[i / lanes], size, shift);
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

template <std::ptrdiff_t rows, class T>
inline void add_gradient_row_group(Tile<const T> dy, Tile<const T> x, std::ptrdiff_t cols,
                                   const GradientSums& sums) {
    each_block(0, cols, [&](std::ptrdiff_t i, auto n) {
        const GradientSums here = at(sums, i);
        const Wide mean = load<double>(here.mean, n);
        const Wide invstd = load<double>(here.invstd, n);
        GradientBlocks blocks{load<double>(here.sum_dy, n), load<double>(here.sum_dy_xhat, n)};
        for (std::ptrdiff_t r = 0; r < rows; ++r) {
            const T* dy_here = dy.data + r * dy.stride + i;
            const T* x_here = x.data + r * x.stride + i;
            prefetch(dy_here + rows * dy.stride);
            prefetch(x_here + rows * x.stride);
            blocks.add(dy_here, x_here, n, mean, mean, invstd);
        }
        store(here.sum_dy, n, blocks.dy);
        store(here.sum_dy_xhat, n, blocks.dy_xhat);
    });
}

template <class T>
void gradient_sums_columns(Tile<const T> dy, Tile<const T> x, std::ptrdiff_t rows,
                           std::ptrdiff_t cols, GradientSums sums) noexcept {
    std::ptrdiff_t r = 0;
    for (; r + row_group <= rows; r += row_group) {
        add_gradient_row_group<row_group, T>({dy.data + r * dy.stride, dy.stride},
                                             {x.data + r * x.stride, x.stride}, cols, sums);
    }
    for (; r < rows; ++r) {
        add_gradient_row_group<1, T>({dy.data + r * dy.stride, dy.stride},
                                     {x.data + r * x.stride, x.stride}, cols, sums);
    }
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
