// The backward reduction: sum(dy) and sum(dy * xhat) of a tile, added to those of its channels.
// Sees tiles and per-channel arrays; knows neither threads nor what the sums are for.
#pragma once

#include "block.hpp"
#include "block_memory.hpp"
#include "data.hpp"
#include "gradient_blocks.hpp"
#include "halving.hpp"
#include "prefetch.hpp"
#include "row_groups.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

template <class X, class Y>
[[gnu::flatten]] void gradient_sums_rows(Tile<const Y> dy, Tile<const X> x, std::ptrdiff_t rows,
                                         std::ptrdiff_t cols, GradientSums sums,
                                         Gate<Y> gate) noexcept {
    const Wide mean = broadcast(*sums.mean);
    const Wide invstd = broadcast(*sums.invstd);
    const NextRow<Y> next_dy(dy, cols);
    const NextRow<X> next_x(x, cols);
    GradientBlocks blocks{};
    with_gate(gate, [&](const auto& gated) {
        for (std::ptrdiff_t r = 0; r < rows; ++r) {
            const Y* dy_row = dy.data + r * dy.stride;
            const X* x_row = x.data + r * x.stride;
            each_block(0, cols, [&](std::ptrdiff_t i, auto n) {
                next_dy.ask(dy_row + i);
                next_x.ask(x_row + i);
                gated.add(blocks, dy_row + i, x_row + i, r, i, n, mean, invstd);
            });
        }
    });
    *sums.sum_dy += halve(blocks.dy);
    *sums.sum_dy_xhat += halve(blocks.dy_xhat);
}

template <class X, class Y>
[[gnu::flatten]] void gradient_sums_columns(Tile<const Y> dy, Tile<const X> x, std::ptrdiff_t rows,
                                            std::ptrdiff_t cols, GradientSums sums,
                                            Gate<Y> gate) noexcept {
    ReadAhead<Y> dy_ahead(dy, cols);
    ReadAhead<X> x_ahead(x, cols);
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
        const auto add_rows = [&](const auto& gated) {
            for (std::ptrdiff_t row = r; row < r + group.size; ++row) {
                dy_ahead.next_block();
                x_ahead.next_block();
                gated.add(blocks, dy.data + row * dy.stride + i, x.data + row * x.stride + i, row,
                          i, n, mean, invstd);
            }
        };
        with_gate(gate, add_rows, i, n);
        store(here.sum_dy, n, blocks.dy);
        store(here.sum_dy_xhat, n, blocks.dy_xhat);
    });
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
