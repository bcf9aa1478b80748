// What the backward reduction adds for one block: dy, or what the activation let through of it, and
// its product with xhat. Sees a block's values; knows neither tiles nor where sums are kept.
#pragma once

#include "activation.hpp"
#include "block.hpp"
#include "block_memory.hpp"
#include "data.hpp"

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
inline bool is_relu_alone(const Gate<Y>& gate) {
    return gate.activation.kind == ActivationKind::relu && gate.residual.data == nullptr &&
           !gate.scaled && !gate.sparse;
}

// dz for a block: dy, and what of it the activation let through.
template <class Y, bool relu_alone>
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
        if constexpr (relu_alone) {
            pass_relu((x - center) * scale + shift, dz);
        } else {
            Block<C> z = (x * pre - center) * scale + shift;
            if (gate.residual.data != nullptr) {
                z = z + load<C>(gate.residual.data + r * gate.residual.stride + i, n);
            }
            pass_through(gate.activation, z, dz);
        }
        if (!relu_alone && gate.sparse) {
            add_to<true>(blocks, dz, x_at, x, n, mean, invstd);
        } else {
            add_to<false>(blocks, dz, x_at, x, n, mean, invstd);
        }
    }

private:
    template <bool sparse, class X, class N>
    static void add_to(GradientBlocks& blocks, const Block<C>& dz, const X* x_at, const Block<C>& x,
                       N n, const Wide& mean, const Wide& invstd) {
        if constexpr (is_full<N>) {
            blocks.template add<sparse>(dz, x_at, x, mean, invstd);
        } else {
            C part[lanes];
            store(part, Full{}, dz);
            blocks.template add<sparse>(part, x_at, n, mean, invstd);
        }
    }
};

// Where there is no activation.
template <bool sparse>
struct NoGate {
    template <class Y, class X, class N>
    void add(GradientBlocks& blocks, const Y* dy, const X* x_at, std::ptrdiff_t, std::ptrdiff_t,
             N n, const Wide& mean, const Wide& invstd) const {
        blocks.template add<sparse>(dy, x_at, n, mean, invstd);
    }
};

// Calls run(gated), where gated.add(blocks, dy, x, r, i, n, mean, invstd) adds a block. `entry`: as
// in GateAt.
template <class Y, class Run, class... Entry>
inline void with_gate(const Gate<Y>& gate, const Run& run, Entry... entry) {
    const bool is_gated = gate.activation.kind != ActivationKind::none;
    if (!is_gated && !gate.sparse) {
        run(NoGate<false>{});
    } else if (!is_gated) {
        run(NoGate<true>{});
    } else if (is_relu_alone(gate)) {
        run(GateAt<Y, true>(gate, entry...));
    } else {
        run(GateAt<Y, false>(gate, entry...));
    }
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
