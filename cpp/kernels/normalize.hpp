// From x to y = activation((x * pre - center) * scale + shift + residual), elementwise, and clipped
// where that is asked for.
#pragma once

#include "kernels/activation.hpp"
#include "kernels/elementwise.hpp"
#include "kernels/table.hpp"
#include "simd/block.hpp"
#include "simd/prefetch.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

// What every formula reads.
template <class X, class C>
struct NormalizeInput {
    Tile<const X> x;
    SlabPrefetch<X> next;
    Affine<const C> affine;

    template <class N>
    Block<C> operator()(std::ptrdiff_t r, std::ptrdiff_t i, N n) const {
        next.at(x.data + r * x.stride + i);
        return load<C>(x.data + r * x.stride + i, n);
    }
};

template <class C>
inline Block<C> normalized(const Block<C>& x, const AffineBlocks<C>& c) {
    return (x - c.center) * c.scale + c.shift;
}

// Without an epilogue, or with relu alone.
template <class X, class C, bool with_relu>
struct Normalized {
    using Coefficients = AffineBlocks<C>;
    NormalizeInput<X, C> x;

    template <class At>
    Coefficients coefficients(const At& at) const {
        return affine_blocks(x.affine, at);
    }
    template <class N>
    Block<C> operator()(std::ptrdiff_t r, std::ptrdiff_t i, N n, const Coefficients& c) const {
        Block<C> z = normalized(x(r, i, n), c);
        if constexpr (with_relu) apply_relu(z);
        return z;
    }
};

// What else a call may ask for. The branches go the same way for a whole tile.
template <class Y>
struct NormalizeOptions {
    using C = Computed<Y>;
    Tile<const Y> residual;
    SlabPrefetch<Y> next_residual;
    bool has_activation;
    ActivationOf<C> activation;
    bool has_clip;
    Vec<C> clip;
    bool* infinite;

    void inspect(const Block<C>& x) const {
        if (infinite != nullptr && any_infinite(x)) *infinite = true;
    }
    template <class N>
    Block<C> finish(Block<C> z, std::ptrdiff_t r, std::ptrdiff_t i, N n) const {
        if (residual.data != nullptr) {
            const Y* const at = residual.data + r * residual.stride + i;
            next_residual.at(at);
            z = z + load<C>(at, n);
        }
        if (has_activation) activation.apply(z);
        if (has_clip) {
            const Vec<C> lowest = Vec<C>::broadcast(C(0)) - clip;
            FASTBN_UNROLL
            for (int k = 0; k < Block<C>::registers; ++k) {
                z.reg[k] = Vec<C>::greater(lowest, Vec<C>::lesser(clip, z.reg[k]));
            }
        }
        return z;
    }
};

template <class X, class Y>
struct NormalizedWithOptions {
    using C = Computed<Y>;
    using Coefficients = AffineBlocks<C>;
    NormalizeInput<X, C> x;
    NormalizeOptions<Y> options;

    template <class At>
    Coefficients coefficients(const At& at) const {
        return affine_blocks(x.affine, at);
    }
    template <class N>
    Block<C> operator()(std::ptrdiff_t r, std::ptrdiff_t i, N n, const Coefficients& c) const {
        const Block<C> xi = x(r, i, n);
        options.inspect(xi);
        return options.finish(normalized(xi, c), r, i, n);
    }
};

// With channels out of range.
template <class X, class Y>
struct ScaledNormalized {
    using C = Computed<Y>;
    NormalizeInput<X, C> x;
    NormalizeOptions<Y> options;

    template <class N, class At>
    Block<C> operator()(std::ptrdiff_t r, std::ptrdiff_t i, N n, const At& at) const {
        const Block<C> xi = x(r, i, n);
        options.inspect(xi);
        const Block<C> z = normalized(xi * at(x.affine.pre), affine_blocks(x.affine, at));
        return options.finish(z, r, i, n);
    }
};

template <class X, class Y>
FASTBN_FLATTEN void normalize(Tile<const void> x, Tile<void> untyped_y, Elementwise e,
                              Affine<const void> untyped_affine,
                              Epilogue<Tile<const void>> epilogue, bool* infinite) noexcept {
    using C = Computed<Y>;
    const Tile<Y> y = typed<Y>(untyped_y);
    const NormalizeInput<X, C> input{typed<const X>(x), SlabPrefetch<X>(e.prefetch),
                                     typed<const C>(untyped_affine)};
    const ActivationKind activation = epilogue.activation.kind;
    const NormalizeOptions<Y> options{typed<const Y>(epilogue.residual),
                                      SlabPrefetch<Y>(e.prefetch),
                                      activation != ActivationKind::none,
                                      ActivationOf<C>(epilogue.activation),
                                      epilogue.clip < __builtin_inf(),
                                      Vec<C>::broadcast(static_cast<C>(epilogue.clip)),
                                      infinite};
    const bool has_options =
        options.residual.data != nullptr || options.has_clip || infinite != nullptr;
    if (input.affine.pre != nullptr) {
        write_by_blocks<C>(y, e, ScaledNormalized<X, Y>{input, options});
    } else if (!has_options && activation == ActivationKind::none) {
        write_fast<C>(y, e, Normalized<X, C, false>{input});
    } else if (!has_options && activation == ActivationKind::relu) {
        write_fast<C>(y, e, Outlined{Normalized<X, C, true>{input}});
    } else {
        write_fast<C>(y, e, Outlined{NormalizedWithOptions<X, Y>{input, options}});
    }
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
