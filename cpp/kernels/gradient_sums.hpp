// The backward reduction: sum(dy) and sum(dy * xhat) of a tile, added to those of its channels.
// Sees tiles and per-channel arrays; knows neither threads nor what the sums are for.
#pragma once

#include "block.hpp"
#include "row_groups.hpp"
#include "table.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

// sum(dy) and sum(dy * xhat), xhat = (x - mean) * invstd. Multiplying by invstd here, rather than
// once at the end, costs nothing beside the loads and keeps float64 products from overflowing.
struct GradientBlocks {
    Wide dy;
    Wide dy_xhat;

    template <class T, class N>
    void add(const T* dy_at, const T* x_at, N n, const Wide& mean, const Wide& invstd) {
        const Wide dy_block = load<double>(dy_at, n);
        const Wide xhat = (load<double>(x_at, n, mean) - mean) * invstd;
        dy = dy + dy_block;
        dy_xhat = dy_xhat + dy_block * xhat;
    }
};

template <class T>
void gradient_sums_rows(Tile<const T> dy, Tile<const T> x, std::ptrdiff_t rows, std::ptrdiff_t cols,
                        GradientSums sums) noexcept {
    const Wide mean = broadcast(*sums.mean);
    const Wide invstd = broadcast(*sums.invstd);
    GradientBlocks blocks{};
    for (std::ptrdiff_t r = 0; r < rows; ++r) {
        const T* dy_row = dy.data + r * dy.stride;
        const T* x_row = x.data + r * x.stride;
        each_block(0, cols, [&](std::ptrdiff_t i, auto n) {
            prefetch_ahead(dy_row + i, dy.stride, 1);
            prefetch_ahead(x_row + i, x.stride, 1);
            blocks.add(dy_row + i, x_row + i, n, mean, invstd);
        });
    }
    *sums.sum_dy += halve(blocks.dy);
    *sums.sum_dy_xhat += halve(blocks.dy_xhat);
}

template <class T>
void gradient_sums_columns(Tile<const T> dy, Tile<const T> x, std::ptrdiff_t rows,
                           std::ptrdiff_t cols, GradientSums sums) noexcept {
    each_row_group(rows, cols, [&](auto group, std::ptrdiff_t r, std::ptrdiff_t i, auto n) {
        const GradientSums here{sums.mean + i, sums.invstd + i, sums.sum_dy + i,
                                sums.sum_dy_xhat + i};
        const Wide mean = load<double>(here.mean, n);
        const Wide invstd = load<double>(here.invstd, n);
        GradientBlocks blocks{load<double>(here.sum_dy, n), load<double>(here.sum_dy_xhat, n)};
        for (std::ptrdiff_t k = 0; k < group.size; ++k) {
            const T* dy_here = dy.data + (r + k) * dy.stride + i;
            const T* x_here = x.data + (r + k) * x.stride + i;
            prefetch_ahead(dy_here, dy.stride);
            prefetch_ahead(x_here, x.stride);
            blocks.add(dy_here, x_here, n, mean, invstd);
        }
        store(here.sum_dy, n, blocks.dy);
        store(here.sum_dy_xhat, n, blocks.dy_xhat);
    });
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
