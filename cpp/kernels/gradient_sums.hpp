// The backward reduction: sum(dz) and sum(dz * xhat) of a tile, added to those of its channels.
#pragma once

#include "kernels/gradient_blocks.hpp"
#include "kernels/table.hpp"
#include "simd/block.hpp"
#include "simd/prefetch.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

template <class X, class Y>
FASTBN_FLATTEN void gradient_sums_of_tile(Tile<const void> untyped_dy, Tile<const void> untyped_x,
                                          std::ptrdiff_t rows, std::ptrdiff_t cols,
                                          const double* means, const double* invstds,
                                          GradientSums sums,
                                          ActivationGradient activation) noexcept {
    using C = Computed<Y>;
    const Tile<const Y> dy = typed<const Y>(untyped_dy);
    const Tile<const X> x = typed<const X>(untyped_x);
    const Wide mean = broadcast(*means);
    const Wide invstd = broadcast(*invstds);
    const RowPrefetch<Y> next_dy(dy, cols);
    const RowPrefetch<X> next_x(x, cols);
    const RowPrefetch<Y> next_residual(typed<const Y>(activation.residual), cols);
    GradientBlocks blocks{};
    const auto at = [](const C* array) { return broadcast(*array); };
    with_gradient<Y>(activation, at, [&](const auto& gradient) {
        for (std::ptrdiff_t r = 0; r < rows; ++r) {
            const Y* dy_row = dy.data + r * dy.stride;
            const X* x_row = x.data + r * x.stride;
            each_block(0, cols, [&](std::ptrdiff_t i, auto n) {
                next_dy.at(dy_row + i);
                next_x.at(x_row + i);
                gradient.prefetch_residual([&](Tile<const Y> residual) {
                    next_residual.at(residual.data + r * residual.stride + i);
                });
                gradient.add(blocks, dy_row + i, x_row + i, r, i, n, mean, invstd);
            });
        }
    });
    *sums.dy += horizontal_sum(blocks.dz);
    *sums.dy_xhat += horizontal_sum(blocks.dz_xhat);
}

template <class X, class Y>
FASTBN_FLATTEN void gradient_sums_of_columns(Tile<const void> untyped_dy,
                                             Tile<const void> untyped_x, std::ptrdiff_t rows,
                                             std::ptrdiff_t cols, const double* means,
                                             const double* invstds, GradientSums sums,
                                             ActivationGradient activation) noexcept {
    using C = Computed<Y>;
    const Tile<const Y> dy = typed<const Y>(untyped_dy);
    const Tile<const X> x = typed<const X>(untyped_x);
    ColumnPrefetch<Y> dy_ahead(dy, cols);
    ColumnPrefetch<X> x_ahead(x, cols);
    ColumnPrefetch<Y> residual_ahead(typed<const Y>(activation.residual), cols);
    const auto begin = [&](std::ptrdiff_t r) {
        dy_ahead.begin_group(r);
        x_ahead.begin_group(r);
        residual_ahead.begin_group(r);
    };
    each_row_group(
        rows, cols, columns_before_line(x, cols), begin,
        [&](std::ptrdiff_t r, std::ptrdiff_t end, std::ptrdiff_t i, auto n) {
            const Wide mean = load<double>(means + i, n);
            const Wide invstd = load<double>(invstds + i, n);
            GradientBlocks blocks{load<double>(sums.dy + i, n),
                                  load<double>(sums.dy_xhat + i, n)};
            const auto at = [=](const C* array) { return load<C>(array + i, n); };
            with_gradient<Y>(activation, at, [&](const auto& gradient) {
                for (std::ptrdiff_t row = r; row < end; ++row) {
                    dy_ahead.next_block();
                    x_ahead.next_block();
                    gradient.prefetch_residual([&](Tile<const Y>) { residual_ahead.next_block(); });
                    gradient.add(blocks, dy.data + row * dy.stride + i, x.data + row * x.stride + i,
                                 row, i, n, mean, invstd);
                }
            });
            store(sums.dy + i, n, blocks.dz);
            store(sums.dy_xhat + i, n, blocks.dz_xhat);
        });
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
