// From dy and x to dx, elementwise, and to dz beside it where the activation's input had another
// summand:
//
//     dz = dy * activation'((x * z.pre - z.center) * z.scale + z.shift + residual)
//     dx = (dz * dy_pre - flow) * scale,  flow = w * ((x * pre - center) * coef_x + coef_const)
//
// where flow is what comes back through the statistics, and w the value's weight in them. How the
// coefficients follow from the formula of batch normalization: write_input_gradient.
#pragma once

#include "kernels/activation.hpp"
#include "kernels/elementwise.hpp"
#include "kernels/table.hpp"
#include "simd/block.hpp"
#include "simd/prefetch.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

// ---- Coefficients ----

template <class C>
struct InputGradientBlocks {
    Block<C> center;
    Block<C> coef_x;
    Block<C> coef_const;
    Block<C> scale;
};

template <class C, class At>
inline InputGradientBlocks<C> input_gradient_blocks(const InputGradient<const C>& from,
                                                    const At& at) {
    return {at(from.center), at(from.coef_x), at(from.coef_const), at(from.scale)};
}

template <class C>
inline InputGradientBlocks<C> blend(std::ptrdiff_t n, const InputGradientBlocks<C>& a,
                                    const InputGradientBlocks<C>& b) {
    return {blend(n, a.center, b.center), blend(n, a.coef_x, b.coef_x),
            blend(n, a.coef_const, b.coef_const), blend(n, a.scale, b.scale)};
}

// With what the sign of z takes besides.
template <class C>
struct ActivatedBlocks {
    InputGradientBlocks<C> dx;
    Block<C> z_shift;
};

template <class C>
inline ActivatedBlocks<C> blend(std::ptrdiff_t n, const ActivatedBlocks<C>& a,
                                const ActivatedBlocks<C>& b) {
    return {blend(n, a.dx, b.dx), blend(n, a.z_shift, b.z_shift)};
}

// ---- What a formula reads, and its options ----

template <class X, class Y>
struct GradientInput {
    using C = Computed<Y>;
    Tile<const Y> dy;
    Tile<const X> x;
    SlabPrefetch<Y> next_dy;
    SlabPrefetch<X> next_x;
    InputGradient<const C> dx;
    Affine<const C> z;

    template <class N>
    Block<C> load_x(std::ptrdiff_t r, std::ptrdiff_t i, N n) const {
        next_x.at(x.data + r * x.stride + i);
        return load<C>(x.data + r * x.stride + i, n);
    }
    template <class N>
    Block<C> load_dy(std::ptrdiff_t r, std::ptrdiff_t i, N n) const {
        next_dy.at(dy.data + r * dy.stride + i);
        return load<C>(dy.data + r * dy.stride + i, n);
    }
};

// The branches go the same way for a whole tile.
template <class Y>
struct GradientOptions {
    using C = Computed<Y>;
    bool has_activation;
    ActivationOf<C> activation;
    Tile<const Y> residual;
    SlabPrefetch<Y> next_residual;
    Tile<Y> dz;
    bool streams_dz;
    GradientWeights weights;
    double rows_per_column;  // 1 / weights.row_width

    bool has_weights() const {
        return weights.frozen || weights.rows != nullptr || weights.mask.data != nullptr ||
               weights.elements.data != nullptr;
    }

    // From dy to dz, by z without its residual.
    template <class N>
    void activate(Block<C>& dy, Block<C> z, std::ptrdiff_t r, std::ptrdiff_t i, N n) const {
        if (!has_activation) return;
        if (residual.data != nullptr) {
            const Y* const at = residual.data + r * residual.stride + i;
            next_residual.at(at);
            z = z + load<C>(at, n);
        }
        activation.apply_gradient(z, dy);
        if (dz.data != nullptr) put_dz(dz.data + r * dz.stride + i, n, dy);
    }

    // Multiplies what flows back through the statistics by the value's weight in them: 0 where the
    // value did not count, even if the flow is NaN or infinite.
    template <class N>
    void weigh(Block<C>& flow, std::ptrdiff_t r, std::ptrdiff_t i, N n) const {
        if (weights.frozen) {
            FASTBN_UNROLL
            for (Vec<C>& reg : flow.reg) reg = Vec<C>::broadcast(C(0));
        } else if (weights.mask.data != nullptr) {
            keep(load<C>(weights.mask.data + r * weights.mask.stride + i, n), flow, flow);
        } else if (weights.rows != nullptr) {
            const Block<C> weight = row_weights(r, i, count_of(n));
            keep(weight, weight * flow, flow);
        } else if (weights.elements.data != nullptr) {
            const Tile<const C> elements = typed<const C>(weights.elements);
            const Block<C> weight = load<C>(elements.data + r * elements.stride + i, n);
            keep(weight, weight * flow, flow);
        }
    }

private:
    // A tile's row may consist of several that have a weight each, none narrower than a block.
    Block<C> row_weights(std::ptrdiff_t r, std::ptrdiff_t i, std::ptrdiff_t n) const {
        // The 0.5 keeps the product half a column from an integer: rounding moves it far less.
        const auto before =
            static_cast<std::ptrdiff_t>((static_cast<double>(i) + 0.5) * rows_per_column);
        const double* const row = weights.rows + r + before;
        const std::ptrdiff_t left = (before + 1) * weights.row_width - i;
        const Block<C> here = broadcast(static_cast<C>(row[0]));
        return left >= n ? here : blend(left, here, broadcast(static_cast<C>(row[1])));
    }
    template <class N>
    void put_dz(Y* to, N n, const Block<C>& block) const {
        if constexpr (is_full<N>) {
            if (streams_dz) return stream(to, block);
        }
        store(to, n, block);
    }
    static void keep(const Block<C>& weight, const Block<C>& weighted, Block<C>& flow) {
        FASTBN_UNROLL
        for (int k = 0; k < Block<C>::registers; ++k) {
            flow.reg[k] = Vec<C>::zero_unless_positive(weight.reg[k], weighted.reg[k]);
        }
    }
};

// ---- The formulas ----

template <class X, class Y>
struct PlainInputGradient {
    using C = Computed<Y>;
    using Coefficients = InputGradientBlocks<C>;
    GradientInput<X, Y> in;

    template <class At>
    Coefficients coefficients(const At& at) const {
        return input_gradient_blocks(in.dx, at);
    }
    template <class N>
    Block<C> operator()(std::ptrdiff_t r, std::ptrdiff_t i, N n, const Coefficients& c) const {
        const Block<C> flow = (in.load_x(r, i, n) - c.center) * c.coef_x + c.coef_const;
        return (in.load_dy(r, i, n) - flow) * c.scale;
    }
};

// With an activation of z alone. A channel in range has the same center and scale here as in the
// forward pass.
template <class X, class Y>
struct ActivatedInputGradient {
    using C = Computed<Y>;
    using Coefficients = ActivatedBlocks<C>;
    GradientInput<X, Y> in;
    ActivationOf<C> activation;

    template <class At>
    Coefficients coefficients(const At& at) const {
        return {input_gradient_blocks(in.dx, at), at(in.z.shift)};
    }
    template <class N>
    Block<C> operator()(std::ptrdiff_t r, std::ptrdiff_t i, N n, const Coefficients& c) const {
        const Block<C> centred = in.load_x(r, i, n) - c.dx.center;
        Block<C> dz = in.load_dy(r, i, n);
        activation.apply_gradient(centred * c.dx.scale + c.z_shift, dz);
        return (dz - (centred * c.dx.coef_x + c.dx.coef_const)) * c.dx.scale;
    }
};

template <class X, class Y>
struct InputGradientWithOptions {
    using C = Computed<Y>;
    using Coefficients = ActivatedBlocks<C>;
    GradientInput<X, Y> in;
    GradientOptions<Y> options;

    // Without an activation z has no arrays and is not used: any array that there is will do.
    template <class At>
    Coefficients coefficients(const At& at) const {
        return {input_gradient_blocks(in.dx, at),
                at(options.has_activation ? in.z.shift : in.dx.coef_const)};
    }
    template <class N>
    Block<C> operator()(std::ptrdiff_t r, std::ptrdiff_t i, N n, const Coefficients& c) const {
        const Block<C> centred = in.load_x(r, i, n) - c.dx.center;
        Block<C> dz = in.load_dy(r, i, n);
        options.activate(dz, centred * c.dx.scale + c.z_shift, r, i, n);
        Block<C> flow = centred * c.dx.coef_x + c.dx.coef_const;
        options.weigh(flow, r, i, n);
        return (dz - flow) * c.dx.scale;
    }
};

// With channels out of range.
template <class X, class Y>
struct ScaledInputGradient {
    using C = Computed<Y>;
    GradientInput<X, Y> in;
    GradientOptions<Y> options;

    // Without an activation z has no arrays: it is computed of ones, and not used.
    template <class N, class At>
    Block<C> operator()(std::ptrdiff_t r, std::ptrdiff_t i, N n, const At& at) const {
        const Block<C> x = in.load_x(r, i, n);
        Block<C> dz = in.load_dy(r, i, n);
        const Block<C> z = (x * at(in.z.pre) - at(in.z.center)) * at(in.z.scale) + at(in.z.shift);
        options.activate(dz, z, r, i, n);
        Block<C> flow =
            (x * at(in.dx.pre) - at(in.dx.center)) * at(in.dx.coef_x) + at(in.dx.coef_const);
        options.weigh(flow, r, i, n);
        return (dz * at(in.dx.dy_pre) - flow) * at(in.dx.scale);
    }
};

// Whether dz may go past the caches where dx does: its blocks must lie on the same boundaries.
template <class Y>
inline bool aligned_alike(Tile<Y> dx, Tile<Y> dz) {
    constexpr std::uintptr_t boundary = 64;
    return dz.stride == dx.stride &&
           (reinterpret_cast<std::uintptr_t>(dz.data) - reinterpret_cast<std::uintptr_t>(dx.data)) %
                   boundary ==
               0;
}

template <class X, class Y>
FASTBN_FLATTEN void input_gradient(Tile<const void> dy, Tile<const void> x, Tile<void> untyped_dx,
                                   Tile<void> dz, Elementwise e,
                                   InputGradient<const void> coefficients,
                                   ActivationGradient activation,
                                   GradientWeights weights) noexcept {
    using C = Computed<Y>;
    const Tile<Y> dx = typed<Y>(untyped_dx);
    const GradientInput<X, Y> in{typed<const Y>(dy),           typed<const X>(x),
                                 SlabPrefetch<Y>(e.prefetch),  SlabPrefetch<X>(e.prefetch),
                                 typed<const C>(coefficients), typed<const C>(activation.z)};
    const bool scaled = in.dx.pre != nullptr || in.z.pre != nullptr;
    const GradientOptions<Y> options{activation.activation.kind != ActivationKind::none,
                                     ActivationOf<C>(activation.activation),
                                     typed<const Y>(activation.residual),
                                     SlabPrefetch<Y>(e.prefetch),
                                     typed<Y>(dz),
                                     !scaled && e.stream && aligned_alike(dx, typed<Y>(dz)),
                                     weights,
                                     1.0 / static_cast<double>(weights.row_width)};
    if (scaled) {
        write_by_blocks<C>(dx, e, ScaledInputGradient<X, Y>{in, options});
    } else if (!options.has_activation && !options.has_weights()) {
        write_fast<C>(dx, e, PlainInputGradient<X, Y>{in});
    } else if (options.residual.data == nullptr && options.dz.data == nullptr &&
               !options.has_weights()) {
        write_fast<C>(dx, e, Outlined{ActivatedInputGradient<X, Y>{in, options.activation}});
    } else {
        write_fast<C>(dx, e, Outlined{InputGradientWithOptions<X, Y>{in, options}});
    }
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
