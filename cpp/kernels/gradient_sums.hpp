// The backward reduction: sum(dy) and sum(dy * xhat) of a tile, added to those of its channels.
// Sees tiles and per-channel arrays; knows neither threads nor what the sums are for.
#pragma once

#include "block.hpp"
#include "halving.hpp"
#include "prefetch.hpp"
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
        each_register(n, [&](int k, auto in) {
            const Vec<double> dy_k = load_register(dy_at, k, in, Wide{});
            const Vec<double> x_k = load_register(x_at, k, in, mean);
            const Vec<double> xhat = subtract_by_fma(x_k, mean.part[k]) * invstd.part[k];
            dy.part[k] = add_evenly(k, dy.part[k], dy_k);
            dy_xhat.part[k] = dy_xhat.part[k] + dy_k * xhat;
        });
    }
};

template <class T>
[[gnu::flatten]] void gradient_sums_rows(Tile<const T> dy, Tile<const T> x, std::ptrdiff_t rows,
                                         std::ptrdiff_t cols, GradientSums sums) noexcept {
    const Wide mean = broadcast(*sums.mean);
    const Wide invstd = broadcast(*sums.invstd);
    const NextRow<T> next_dy(dy, cols);
    const NextRow<T> next_x(x, cols);
    GradientBlocks blocks{};
    for (std::ptrdiff_t r = 0; r < rows; ++r) {
        const T* dy_row = dy.data + r * dy.stride;
        const T* x_row = x.data + r * x.stride;
        each_block(0, cols, [&](std::ptrdiff_t i, auto n) {
            next_dy.ask(dy_row + i);
            next_x.ask(x_row + i);
            blocks.add(dy_row + i, x_row + i, n, mean, invstd);
        });
    }
    *sums.sum_dy += halve(blocks.dy);
    *sums.sum_dy_xhat += halve(blocks.dy_xhat);
}

template <class T>
[[gnu::flatten]] void gradient_sums_columns(Tile<const T> dy, Tile<const T> x, std::ptrdiff_t rows,
                                            std::ptrdiff_t cols, GradientSums sums) noexcept {
    ReadAhead<T> dy_ahead(dy, cols);
    ReadAhead<T> x_ahead(x, cols);
    const auto begin = [&](std::ptrdiff_t r) {
        dy_ahead.begin_group(r);
        x_ahead.begin_group(r);
    };
    each_row_group(rows, cols, begin, [&](auto group, std::ptrdiff_t r, std::ptrdiff_t i, auto n) {
        const GradientSums here{sums.mean + i, sums.invstd + i, sums.sum_dy + i,
                                sums.sum_dy_xhat + i};
        const Wide mean = load<double>(here.mean, n);
        const Wide invstd = load<double>(here.invstd, n);
        GradientBlocks blocks{load<double>(here.sum_dy, n), load<double>(here.sum_dy_xhat, n)};
        for (std::ptrdiff_t row = r; row < r + group.size; ++row) {
            dy_ahead.next_block();
            x_ahead.next_block();
            blocks.add(dy.data + row * dy.stride + i, x.data + row * x.stride + i, n, mean, invstd);
        }
        store(here.sum_dy, n, blocks.dy);
        store(here.sum_dy_xhat, n, blocks.dy_xhat);
    });
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
