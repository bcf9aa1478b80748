// What the backward reduction adds for one block: dz, which is dy or what the activation let
// through of it, and its product with xhat.
#pragma once

#include "kernels/activation.hpp"
#include "kernels/elementwise.hpp"
#include "kernels/table.hpp"
#include "simd/block.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

// sum(dz) and sum(dz * xhat), xhat = (x - mean) * invstd. Multiplying by invstd here, rather than
// once at the end, costs nothing beside the loads and keeps float64 products from overflowing.
//
// skip_zeros: where dz is 0 nothing is added, whatever x is. It may be NaN, in values that do not
// count and whose y nobody looks at.
struct GradientBlocks {
    Wide dz;
    Wide dz_xhat;

    template <class Y, class X, class N>
    void add(const Y* dz_at, const X* x_at, N n, const Wide& mean, const Wide& invstd,
             bool skip_zeros) {
        each_register(n, [&](int k, auto in) {
            add(k, load_register(dz_at, k, in, Wide{}), load_register(x_at, k, in, mean), mean,
                invstd, skip_zeros);
        });
    }
    // The same from registers, x's where it has been loaded.
    template <class C, class X>
    void add(const Block<C>& dz_block, const X* x_at, const Block<C>& x, const Wide& mean,
             const Wide& invstd, bool skip_zeros) {
        each_register(Full{}, [&](int k, Full n) {
            // To widen what memory holds is cheaper than to take a register apart.
            const Vec<double> x_k =
                sizeof(X) < sizeof(C) ? widened(x, k) : load_register(x_at, k, n, Wide{});
            add(k, widened(dz_block, k), x_k, mean, invstd, skip_zeros);
        });
    }

private:
    void add(int k, Vec<double> dz_k, Vec<double> x_k, const Wide& mean, const Wide& invstd,
             bool skip_zeros) {
        const Vec<double> xhat = subtract_by_fma(x_k, mean.reg[k]) * invstd.reg[k];
        Vec<double> product = dz_k * xhat;
        if (skip_zeros) product = Vec<double>::zero_where_zero(dz_k, product);
        dz.reg[k] = add_evenly(k, dz.reg[k], dz_k);
        dz_xhat.reg[k] = dz_xhat.reg[k] + product;
    }
};

// dz = dy, without an activation.
template <bool skip_zeros>
struct PlainGradient {
    template <class Y, class X, class N>
    void add(GradientBlocks& blocks, const Y* dy, const X* x_at, std::ptrdiff_t, std::ptrdiff_t,
             N n, const Wide& mean, const Wide& invstd) const {
        blocks.add(dy, x_at, n, mean, invstd, skip_zeros);
    }
    template <class Prefetch>
    void prefetch_residual(const Prefetch&) const {}
};

// What the sign of z takes, which is the forward pass's own.
template <class Y>
struct ActivationInput {
    using C = Computed<Y>;
    ActivationOf<C> activation;
    Tile<const Y> residual;
    Block<C> pre;
    AffineBlocks<C> affine;

    // at(array): a block of a coefficient's array, for the columns at hand or one for all.
    template <class At>
    ActivationInput(const ActivationGradient& of, const At& at)
        : activation(of.activation),
          residual(typed<const Y>(of.residual)),
          pre(of.z.pre != nullptr ? at(static_cast<const C*>(of.z.pre)) : broadcast(C(1))),
          affine(affine_blocks(typed<const C>(of.z), at)) {}

    // From dy to dz.
    template <class N>
    void apply(Block<C>& dy, const Block<C>& x, std::ptrdiff_t r, std::ptrdiff_t i, N n) const {
        Block<C> z = (x * pre - affine.center) * affine.scale + affine.shift;
        if (residual.data != nullptr) {
            z = z + load<C>(residual.data + r * residual.stride + i, n);
        }
        activation.apply_gradient(z, dy);
    }
};

// With an activation. relu_alone: what most are, with a loop of its own.
template <class Y, bool relu_alone>
struct ActivatedGradient {
    using C = Computed<Y>;
    ActivationInput<Y> in;
    bool skip_zeros;

    // Adds a block's dz and dz * xhat.
    template <class X, class N>
    void add(GradientBlocks& blocks, const Y* dy_at, const X* x_at, std::ptrdiff_t r,
             std::ptrdiff_t i, N n, const Wide& mean, const Wide& invstd) const {
        const Block<C> x = load<C>(x_at, n);
        Block<C> dz = load<C>(dy_at, n);
        if constexpr (relu_alone) {
            const AffineBlocks<C>& c = in.affine;
            apply_relu_gradient((x - c.center) * c.scale + c.shift, dz);
        } else {
            in.apply(dz, x, r, i, n);
        }
        const bool skip = !relu_alone && skip_zeros;
        if constexpr (is_full<N>) {
            blocks.add(dz, x_at, x, mean, invstd, skip);
        } else {
            C values[lanes];
            store(values, Full{}, dz);
            blocks.add(values, x_at, n, mean, invstd, skip);
        }
    }
    // Calls prefetch(residual) if there is one.
    template <class Prefetch>
    void prefetch_residual(const Prefetch& prefetch) const {
        if (!relu_alone && in.residual.data != nullptr) prefetch(in.residual);
    }
};

inline bool is_relu_alone(const ActivationGradient& of) {
    return of.activation.kind == ActivationKind::relu && of.residual.data == nullptr &&
           of.z.pre == nullptr && !of.skip_zeros;
}

// Calls body(gradient), where gradient.add(blocks, dy, x, r, i, n, mean, invstd) adds a block.
template <class Y, class At, class Body>
inline void with_gradient(const ActivationGradient& of, const At& at, const Body& body) {
    const bool is_activated = of.activation.kind != ActivationKind::none;
    if (!is_activated && !of.skip_zeros) {
        body(PlainGradient<false>{});
    } else if (!is_activated) {
        body(PlainGradient<true>{});
    } else if (is_relu_alone(of)) {
        body(ActivatedGradient<Y, true>{ActivationInput<Y>(of, at), false});
    } else {
        body(ActivatedGradient<Y, false>{ActivationInput<Y>(of, at), of.skip_zeros});
    }
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
