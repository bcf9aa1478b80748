// The backward reduction: sum(dz) and sum(dz * xhat) of a tile, added to those of its channels. dz
// is dy, or what the activation let through of it.
#pragma once

#include "kernels/elementwise.hpp"
#include "kernels/table.hpp"
#include "simd/block.hpp"
#include "simd/prefetch.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

// ---- What is added for a block ----

// sum(dz) and sum(dz * xhat), xhat = (x - mean) * invstd. Multiplying by invstd here, rather than
// once at the end, costs nothing beside the loads and keeps float64 products from overflowing.
//
// skip_zeros: where dz is 0 nothing is added, whatever x is. It may be NaN, in values that do not
// count and whose y nobody looks at.
struct GradientBlocks {
    Wide dz;
    Wide dz_xhat;

    // Adds the values of registers k to the sums that such registers hold.
    static void add(int k, Vec<double>& sum_dz, Vec<double>& sum_dz_xhat, Vec<double> dz_k,
                    Vec<double> x_k, Vec<double> mean, Vec<double> invstd, bool skip_zeros) {
        const Vec<double> xhat = subtract_by_fma(x_k, mean) * invstd;
        Vec<double> product = dz_k * xhat;
        if (skip_zeros) product = Vec<double>::zero_where_zero(dz_k, product);
        sum_dz = add_evenly(k, sum_dz, dz_k);
        sum_dz_xhat = sum_dz_xhat + product;
    }
    template <class Y, class X, class N>
    void add(const Y* dz_at, const X* x_at, N n, const Wide& mean, const Wide& invstd,
             bool skip_zeros) {
        each_register(n, [&](int k, auto in) {
            add(k, load_register(dz_at, k, in, Wide{}), load_register(x_at, k, in, mean), mean,
                invstd, skip_zeros);
        });
    }

private:
    void add(int k, Vec<double> dz_k, Vec<double> x_k, const Wide& mean, const Wide& invstd,
             bool skip_zeros) {
        add(k, dz.reg[k], dz_xhat.reg[k], dz_k, x_k, mean.reg[k], invstd.reg[k], skip_zeros);
    }
};

// dz = dy, without an activation.
template <class Y, bool skip_zeros>
struct PlainGradient {
    using C = Computed<Y>;
    static constexpr bool is_plain = true;
    static constexpr bool skips_zeros() { return skip_zeros; }

    template <class X, class N>
    void add(GradientBlocks& blocks, const Y* dy, const X* x_at, std::ptrdiff_t, std::ptrdiff_t,
             N n, const Wide& mean, const Wide& invstd) const {
        blocks.add(dy, x_at, n, mean, invstd, skip_zeros);
    }
    template <class N>
    Block<C> dz(const Y* dy, const Block<C>&, std::ptrdiff_t, std::ptrdiff_t, N n) const {
        return load<C>(dy, n);
    }
    template <class Prefetch>
    void prefetch_residual(const Prefetch&) const {}
};

// With an activation, by the sign of z, which is the forward pass's own. relu_alone: what most are,
// with a loop of its own.
template <class Y, bool relu_alone>
struct ActivatedGradient {
    using C = Computed<Y>;
    static constexpr bool is_plain = false;
    ActivationOf<C> activation;
    Tile<const Y> residual;
    Block<C> pre;
    AffineBlocks<C> affine;
    bool skip_zeros;
    bool skips_zeros() const { return !relu_alone && skip_zeros; }

    // at(array): a block of a coefficient's array, for the columns at hand or one for all.
    template <class At>
    ActivatedGradient(const ActivationGradient& of, const At& at)
        : activation(of.activation),
          residual(typed<const Y>(of.residual)),
          pre(of.z.pre != nullptr ? at(static_cast<const C*>(of.z.pre)) : broadcast(C(1))),
          affine(affine_blocks(typed<const C>(of.z), at)),
          skip_zeros(of.skip_zeros) {}

    // Adds the dz and dz * xhat of a part of a block.
    template <class X>
    void add(GradientBlocks& blocks, const Y* dy, const X* x, std::ptrdiff_t r, std::ptrdiff_t i,
             std::ptrdiff_t n, const Wide& mean, const Wide& invstd) const {
        C values[lanes];
        store(values, Full{}, dz(dy, load<C>(x, n), r, i, n));
        blocks.add(values, x, n, mean, invstd, skips_zeros());
    }
    template <class N>
    Block<C> dz(const Y* dy, const Block<C>& x, std::ptrdiff_t r, std::ptrdiff_t i, N n) const {
        Block<C> block = load<C>(dy, n);
        if constexpr (relu_alone) {
            apply_relu_gradient((x - affine.center) * affine.scale + affine.shift, block);
        } else {
            Block<C> z = (x * pre - affine.center) * affine.scale + affine.shift;
            if (residual.data != nullptr) {
                z = z + load<C>(residual.data + r * residual.stride + i, n);
            }
            activation.apply_gradient(z, block);
        }
        return block;
    }
    // Calls prefetch(residual) if there is one.
    template <class Prefetch>
    void prefetch_residual(const Prefetch& prefetch) const {
        if (!relu_alone && residual.data != nullptr) prefetch(residual);
    }
};

inline bool is_relu_alone(const ActivationGradient& of) {
    return of.activation.kind == ActivationKind::relu && of.residual.data == nullptr &&
           of.z.pre == nullptr && !of.skip_zeros;
}

// Calls body(gradient), where gradient.dz(dy, x, r, i, n) is a block's dz, and gradient.add(blocks,
// dy, x, r, i, n, mean, invstd) adds a block that is not computed first, or a part of any.
template <class Y, class At, class Body>
inline void with_gradient(const ActivationGradient& of, const At& at, const Body& body) {
    const bool is_activated = of.activation.kind != ActivationKind::none;
    if (!is_activated && !of.skip_zeros) {
        body(PlainGradient<Y, false>{});
    } else if (!is_activated) {
        body(PlainGradient<Y, true>{});
    } else if (is_relu_alone(of)) {
        body(ActivatedGradient<Y, true>(of, at));
    } else {
        body(ActivatedGradient<Y, false>(of, at));
    }
}

// ---- The loops ----

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
                    const Prefetch& prefetch_all) {
    using C = Computed<Y>;
    const auto add = [&](std::ptrdiff_t i, auto n) {
        prefetch_all(i);
        gradient.add(blocks, dy + i, x + i, r, i, n, mean, invstd);
    };
    if constexpr (is_computed<Gradient, Y>) {
        std::ptrdiff_t i = 0;
        while (i + lanes <= cols) {
            BlockValues<C> values;
            std::ptrdiff_t n = 0;
            for (; n < group_rows && i + lanes <= cols; ++n, i += lanes) {
                prefetch_all(i);
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
    const std::ptrdiff_t next_dy = distance_to_next(dy, cols);
    const std::ptrdiff_t next_x = distance_to_next(x, cols);
    const std::ptrdiff_t next_residual =
        distance_to_next(typed<const Y>(activation.residual), cols);
    GradientBlocks blocks{};
    const auto at = [](const C* array) { return broadcast(*array); };
    with_gradient<Y>(activation, at, [&](const auto& gradient) {
        for (std::ptrdiff_t r = 0; r < rows; ++r) {
            const Y* dy_row = dy.data + r * dy.stride;
            const X* x_row = x.data + r * x.stride;
            const auto prefetch_all = [&](std::ptrdiff_t i) {
                prefetch_block(dy_row + i, next_dy);
                prefetch_block(x_row + i, next_x);
                gradient.prefetch_residual([&](Tile<const Y> residual) {
                    prefetch_block(residual.data + r * residual.stride + i, next_residual);
                });
            };
            add_row(blocks, gradient, dy_row, x_row, r, cols, mean, invstd, prefetch_all);
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
            const GradientSums here = from(sums, i);
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
