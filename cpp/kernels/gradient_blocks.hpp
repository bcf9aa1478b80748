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
    static constexpr bool is_plain = false;
    ActivationInput<Y> in;
    bool skip_zeros;
    bool skips_zeros() const { return !relu_alone && skip_zeros; }

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
            const AffineBlocks<C>& c = in.affine;
            apply_relu_gradient((x - c.center) * c.scale + c.shift, block);
        } else {
            in.apply(block, x, r, i, n);
        }
        return block;
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
        body(ActivatedGradient<Y, true>{ActivationInput<Y>(of, at), false});
    } else {
        body(ActivatedGradient<Y, false>{ActivationInput<Y>(of, at), of.skip_zeros});
    }
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
