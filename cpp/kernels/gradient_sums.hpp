// The backward reduction: sum(dz) and sum(dz * xhat) of a tile, added to those of its channels.
#pragma once

#include "kernels/gradient_blocks.hpp"
#include "kernels/table.hpp"
#include "simd/block.hpp"
#include "simd/prefetch.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

// Whether dz is not in memory as it is added up.
template <class Gradient, class Y>
constexpr bool is_computed = !Gradient::is_plain || sizeof(Y) < sizeof(Computed<Y>);

// Some blocks of dz and x as they are added up. In memory: from there they are widened with fewer
// operations than from registers.
template <class C>
struct BlockValues {
    C dz[group_rows][lanes];
    C x[group_rows][lanes];

    template <class X, class Y, class Gradient, class N>
    void set(std::ptrdiff_t j, const Gradient& gradient, const Y* dy, const X* x_at,
             std::ptrdiff_t r, std::ptrdiff_t i, N n) {
        const Block<C> x_block = load<C>(x_at, n);
        store(dz[j], Full{}, gradient.dz(dy, x_block, r, i, n));
        store(x[j], Full{}, x_block);
    }

    // Adds rows of a block of n columns to their sums. Two registers of these at a time, since some
    // processors have too few for the sums and statistics of a block.
    template <class N>
    void add_to(const double* means, const double* invstds, const GradientSums& sums,
                std::ptrdiff_t rows, N n, bool skip_zeros) const {
        constexpr int registers = Wide::registers < 2 ? 1 : 2;
        const Wide mean = load<double>(means, n);
        const Wide invstd = load<double>(invstds, n);
        GradientBlocks blocks{load<double>(sums.dy, n), load<double>(sums.dy_xhat, n)};
        FASTBN_UNROLL
        for (int first = 0; first < Wide::registers; first += registers) {
            for (std::ptrdiff_t r = 0; r < rows; ++r) {
                FASTBN_UNROLL
                for (int k = first; k < first + registers; ++k) {
                    const std::ptrdiff_t at = k * Wide::width;
                    GradientBlocks::add(k, blocks.dz.reg[k], blocks.dz_xhat.reg[k],
                                        Vec<double>::load(dz[r] + at), Vec<double>::load(x[r] + at),
                                        mean.reg[k], invstd.reg[k], skip_zeros);
                }
            }
        }
        store(sums.dy, n, blocks.dz);
        store(sums.dy_xhat, n, blocks.dz_xhat);
    }
};

// Adds row r of a tile of one channel.
template <class X, class Y, class Gradient, class Prefetch>
inline void add_row(GradientBlocks& blocks, const Gradient& gradient, const Y* dy, const X* x,
                    std::ptrdiff_t r, std::ptrdiff_t cols, const Wide& mean, const Wide& invstd,
                    const Prefetch& prefetch_block) {
    using C = Computed<Y>;
    const auto add = [&](std::ptrdiff_t i, auto n) {
        prefetch_block(i);
        gradient.add(blocks, dy + i, x + i, r, i, n, mean, invstd);
    };
    if constexpr (is_computed<Gradient, Y>) {
        std::ptrdiff_t i = 0;
        while (i + lanes <= cols) {
            BlockValues<C> values;
            std::ptrdiff_t n = 0;
            for (; n < group_rows && i + lanes <= cols; ++n, i += lanes) {
                prefetch_block(i);
                values.set(n, gradient, dy + i, x + i, r, i, Full{});
            }
            for (std::ptrdiff_t j = 0; j < n; ++j) {
                blocks.add(values.dz[j], values.x[j], Full{}, mean, invstd, gradient.skips_zeros());
            }
        }
        if (i < cols) add(i, cols - i);
    } else {
        each_block(0, cols, add);
    }
}

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
            const auto prefetch_block = [&](std::ptrdiff_t i) {
                next_dy.at(dy_row + i);
                next_x.at(x_row + i);
                gradient.prefetch_residual([&](Tile<const Y> residual) {
                    next_residual.at(residual.data + r * residual.stride + i);
                });
            };
            add_row(blocks, gradient, dy_row, x_row, r, cols, mean, invstd, prefetch_block);
        }
    });
    *sums.dy += horizontal_sum(blocks.dz);
    *sums.dy_xhat += horizontal_sum(blocks.dz_xhat);
}

// Adds a block of n columns from i on, of rows `begin` to `end`, to the sums of these columns.
template <class X, class Y, class Gradient, class N, class Prefetch>
inline void add_group(const Gradient& gradient, Tile<const Y> dy, Tile<const X> x,
                      std::ptrdiff_t begin, std::ptrdiff_t end, std::ptrdiff_t i, N n,
                      const double* means, const double* invstds, const GradientSums& sums,
                      const Prefetch& prefetch_row) {
    using C = Computed<Y>;
    if constexpr (!is_computed<Gradient, Y> && is_full<N>) {
        const Wide mean = load<double>(means, n);
        const Wide invstd = load<double>(invstds, n);
        GradientBlocks blocks{load<double>(sums.dy, n), load<double>(sums.dy_xhat, n)};
        for (std::ptrdiff_t r = begin; r < end; ++r) {
            prefetch_row();
            gradient.add(blocks, dy.data + r * dy.stride + i, x.data + r * x.stride + i, r, i, n,
                         mean, invstd);
        }
        store(sums.dy, n, blocks.dz);
        store(sums.dy_xhat, n, blocks.dz_xhat);
    } else {
        BlockValues<C> values;
        for (std::ptrdiff_t r = begin; r < end; ++r) {
            prefetch_row();
            values.set(r - begin, gradient, dy.data + r * dy.stride + i, x.data + r * x.stride + i,
                       r, i, n);
        }
        values.add_to(means, invstds, sums, end - begin, n, gradient.skips_zeros());
    }
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
            const auto at = [=](const C* array) { return load<C>(array + i, n); };
            const GradientSums here{sums.dy + i, sums.dy_xhat + i};
            with_gradient<Y>(activation, at, [&](const auto& gradient) {
                const auto prefetch_row = [&] {
                    dy_ahead.next_block();
                    x_ahead.next_block();
                    gradient.prefetch_residual([&](Tile<const Y>) { residual_ahead.next_block(); });
                };
                add_group(gradient, dy, x, r, end, i, n, means + i, invstds + i, here,
                          prefetch_row);
            });
        });
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
