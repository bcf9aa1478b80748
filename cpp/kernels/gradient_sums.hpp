// The backward reduction: sum(dy) and sum(dy * xhat) of a tile, added to those of its channels.
// Sees tiles and per-channel arrays; knows neither threads nor what the sums are for.
#pragma once

#include "activation.hpp"
#include "block.hpp"
#include "block_memory.hpp"
#include "data.hpp"
#include "halving.hpp"
#include "prefetch.hpp"
#include "row_groups.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

// sum(dy) and sum(dy * xhat), xhat = (x - mean) * invstd. Multiplying by invstd here, rather than
// once at the end, costs nothing beside the loads and keeps float64 products from overflowing.
struct GradientBlocks {
    Wide dy;
    Wide dy_xhat;

    // sparse: where dz is 0 nothing is added, whatever x is. It may be NaN, in values that do not
    // count and whose y nobody looks at.
    template <bool sparse = false, class Y, class X, class N>
    void add(const Y* dy_at, const X* x_at, N n, const Wide& mean, const Wide& invstd) {
        each_register(n, [&](int k, auto in) {
            add<sparse>(k, load_register(dy_at, k, in, Wide{}), load_register(x_at, k, in, mean),
                        mean, invstd);
        });
    }
    template <bool sparse, class C, class X>
    void add(const Block<C>& dz, const X* x_at, const Block<C>& x, const Wide& mean,
             const Wide& invstd) {
        each_register(Full{}, [&](int k, Full n) {
            // To widen what memory holds is cheaper than to take a register apart.
            const Vec<double> x_k =
                sizeof(X) < sizeof(C) ? widened(x, k) : load_register(x_at, k, n, Wide{});
            add<sparse>(k, widened(dz, k), x_k, mean, invstd);
        });
    }

private:
    template <bool sparse>
    void add(int k, Vec<double> dy_k, Vec<double> x_k, const Wide& mean, const Wide& invstd) {
        const Vec<double> xhat = subtract_by_fma(x_k, mean.part[k]) * invstd.part[k];
        Vec<double> product = dy_k * xhat;
        if constexpr (sparse) product = Vec<double>::zero_where_zero(dy_k, product);
        dy.part[k] = add_evenly(k, dy.part[k], dy_k);
        dy_xhat.part[k] = dy_xhat.part[k] + product;
    }
};

// Whether a gate is what most are, for which there is a loop of its own.
template <class Y>
inline bool is_plain(const Gate<Y>& gate) {
    return gate.activation.kind == ActivationKind::relu && gate.residual.data == nullptr &&
           !gate.scaled && !gate.sparse;
}

// dz for a block: dy, and what of it the activation let through.
template <class Y, bool plain>
struct GateAt {
    using C = Computed<Y>;
    const Gate<Y>& gate;
    Block<C> pre, center, scale, shift;

    // `entry` and n: the columns' own coefficients, or one entry for all.
    template <class N>
    GateAt(const Gate<Y>& g, std::ptrdiff_t entry, N n)
        : gate(g),
          pre(load<C>(g.z.pre + entry, n)),
          center(load<C>(g.z.center + entry, n)),
          scale(load<C>(g.z.scale + entry, n)),
          shift(load<C>(g.z.shift + entry, n)) {}
    explicit GateAt(const Gate<Y>& g)
        : gate(g),
          pre(broadcast(*g.z.pre)),
          center(broadcast(*g.z.center)),
          scale(broadcast(*g.z.scale)),
          shift(broadcast(*g.z.shift)) {}

    // Adds a block's dz and dz * xhat.
    template <class X, class N>
    void add(GradientBlocks& blocks, const Y* dy, const X* x_at, std::ptrdiff_t r, std::ptrdiff_t i,
             N n, const Wide& mean, const Wide& invstd) const {
        const Block<C> x = load<C>(x_at, n);
        Block<C> dz = load<C>(dy, n);
        if constexpr (plain) {
            pass_relu((x - center) * scale + shift, dz);
        } else {
            Block<C> z = (x * pre - center) * scale + shift;
            if (gate.residual.data != nullptr) {
                z = z + load<C>(gate.residual.data + r * gate.residual.stride + i, n);
            }
            pass_through(gate.activation, z, dz);
        }
        if constexpr (is_full<N>) {
            if (!plain && gate.sparse) {
                blocks.template add<true>(dz, x_at, x, mean, invstd);
            } else {
                blocks.template add<false>(dz, x_at, x, mean, invstd);
            }
        } else {
            C part[lanes];
            store(part, Full{}, dz);
            blocks.template add<true>(part, x_at, n, mean, invstd);
        }
    }
};

template <class X, class Y>
[[gnu::flatten]] void gradient_sums_rows(Tile<const Y> dy, Tile<const X> x, std::ptrdiff_t rows,
                                         std::ptrdiff_t cols, GradientSums sums,
                                         Gate<Y> gate) noexcept {
    const Wide mean = broadcast(*sums.mean);
    const Wide invstd = broadcast(*sums.invstd);
    const NextRow<Y> next_dy(dy, cols);
    const NextRow<X> next_x(x, cols);
    GradientBlocks blocks{};
    const auto each_row_block = [&](const auto& add) {
        for (std::ptrdiff_t r = 0; r < rows; ++r) {
            const Y* dy_row = dy.data + r * dy.stride;
            const X* x_row = x.data + r * x.stride;
            each_block(0, cols, [&](std::ptrdiff_t i, auto n) {
                next_dy.ask(dy_row + i);
                next_x.ask(x_row + i);
                add(dy_row + i, x_row + i, r, i, n);
            });
        }
    };
    if (gate.activation.kind == ActivationKind::none && !gate.sparse) {
        each_row_block([&](const Y* dy_at, const X* x_at, std::ptrdiff_t, std::ptrdiff_t, auto n) {
            blocks.add(dy_at, x_at, n, mean, invstd);
        });
    } else if (gate.activation.kind == ActivationKind::none) {
        each_row_block([&](const Y* dy_at, const X* x_at, std::ptrdiff_t, std::ptrdiff_t, auto n) {
            blocks.template add<true>(dy_at, x_at, n, mean, invstd);
        });
    } else if (is_plain(gate)) {
        const GateAt<Y, true> gated(gate);
        each_row_block([&](const Y* dy_at, const X* x_at, std::ptrdiff_t r, std::ptrdiff_t i,
                           auto n) { gated.add(blocks, dy_at, x_at, r, i, n, mean, invstd); });
    } else {
        const GateAt<Y, false> gated(gate);
        each_row_block([&](const Y* dy_at, const X* x_at, std::ptrdiff_t r, std::ptrdiff_t i,
                           auto n) { gated.add(blocks, dy_at, x_at, r, i, n, mean, invstd); });
    }
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
    const bool is_gated = gate.activation.kind != ActivationKind::none;
    each_row_group(rows, cols, begin, [&](auto group, std::ptrdiff_t r, std::ptrdiff_t i, auto n) {
        const GradientSums here{sums.mean + i, sums.invstd + i, sums.sum_dy + i,
                                sums.sum_dy_xhat + i};
        const Wide mean = load<double>(here.mean, n);
        const Wide invstd = load<double>(here.invstd, n);
        GradientBlocks blocks{load<double>(here.sum_dy, n), load<double>(here.sum_dy_xhat, n)};
        const auto each_row = [&](const auto& add) {
            for (std::ptrdiff_t row = r; row < r + group.size; ++row) {
                dy_ahead.next_block();
                x_ahead.next_block();
                add(dy.data + row * dy.stride + i, x.data + row * x.stride + i, row);
            }
        };
        if (!is_gated && !gate.sparse) {
            each_row([&](const Y* dy_at, const X* x_at, std::ptrdiff_t) {
                blocks.add(dy_at, x_at, n, mean, invstd);
            });
        } else if (!is_gated) {
            each_row([&](const Y* dy_at, const X* x_at, std::ptrdiff_t) {
                blocks.template add<true>(dy_at, x_at, n, mean, invstd);
            });
        } else if (is_plain(gate)) {
            const GateAt<Y, true> gated(gate, i, n);
            each_row([&](const Y* dy_at, const X* x_at, std::ptrdiff_t row) {
                gated.add(blocks, dy_at, x_at, row, i, n, mean, invstd);
            });
        } else {
            const GateAt<Y, false> gated(gate, i, n);
            each_row([&](const Y* dy_at, const X* x_at, std::ptrdiff_t row) {
                gated.add(blocks, dy_at, x_at, row, i, n, mean, invstd);
            });
        }
        store(here.sum_dy, n, blocks.dy);
        store(here.sum_dy_xhat, n, blocks.dy_xhat);
    });
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
