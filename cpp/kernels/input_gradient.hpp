// The elementwise pass backward: dx from dy and x, and dz beside it where the activation's input
// had another summand. Sees tiles and folded coefficients; knows nothing of how those came about.
#pragma once

#include "activation.hpp"
#include "block.hpp"
#include "mapping.hpp"
#include "prefetch.hpp"
#include "table.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

// The options of a call. Their branches go the same way for a whole tile.
template <class Y>
struct GradientOptions {
    using C = Computed<Y>;
    Gate<Y> gate;
    Tile<Y> dz;
    GradientShares<C> shares;

    bool is_gated() const { return gate.activation.kind != ActivationKind::none; }
    bool are_needed() const {
        return is_gated() || dz.data != nullptr || shares.data != nullptr;
    }

    // From dy, and z without its residual.
    template <class N>
    Block<C> gated(const Block<C>& dy, Block<C> z, std::ptrdiff_t r, std::ptrdiff_t i, N n) const {
        if (!is_gated()) return dy;
        if (gate.residual.data != nullptr) {
            z = z + load<C>(gate.residual.data + r * gate.residual.stride + i, n);
        }
        const Block<C> passed = through(gate.activation, z, dy);
        if (dz.data != nullptr) store(dz.data + r * dz.stride + i, n, passed);
        return passed;
    }

    // The share that a value has in what flows back through the statistics: none of it, whatever
    // that is, where the value did not count.
    template <class N>
    Block<C> shared(const Block<C>& flow, std::ptrdiff_t r, std::ptrdiff_t i, N n) const {
        if (shares.data == nullptr) return flow;
        const C* const at = shares.data + r * shares.stride;
        const Block<C> share = shares.per_row ? broadcast(*at) : load<C>(at + i, n);
        return unless_positive(share, share * flow, broadcast(C(0)));
    }
};

template <class X, class Y>
[[gnu::flatten]] void input_gradient(Tile<const Y> dy, Tile<const X> x, Tile<Y> dx, Elementwise e,
                                     InputGradient<Computed<Y>> g, Gate<Y> gate, Tile<Y> dz,
                                     GradientShares<Computed<Y>> shares) noexcept {
    using C = Computed<Y>;
    const AskAhead<X> next_x(e.ahead);
    const AskAhead<Y> next_dy(e.ahead);
    const GradientOptions<Y> options{gate, dz, shares};
    if (g.pre == nullptr && !options.are_needed()) {
        const CoefficientArrays<C, 4> arrays{{g.center, g.slope, g.level, g.scale}};
        map(dx, e, arrays,
            [=](std::ptrdiff_t r, std::ptrdiff_t i, auto n, const Coefficients<C, 4>& c) {
                next_x.ask(x.data + r * x.stride + i);
                next_dy.ask(dy.data + r * dy.stride + i);
                const Block<C> xi = load<C>(x.data + r * x.stride + i, n);
                const Block<C> dyi = load<C>(dy.data + r * dy.stride + i, n);
                return (dyi - ((xi - c.of[0]) * c.of[1] + c.of[2])) * c.of[3];
            });
    } else if (g.pre == nullptr) {
        // A channel that is worked on in no unit of its own has the same center and scale here as
        // on the way forward. Without an activation there is no shift, and any array will do.
        const C* const shift = options.is_gated() ? gate.z.shift : g.level;
        const CoefficientArrays<C, 5> arrays{{g.center, g.slope, g.level, g.scale, shift}};
        map(dx, e, arrays,
            Outlined{[=](std::ptrdiff_t r, std::ptrdiff_t i, auto n, const Coefficients<C, 5>& c) {
                next_x.ask(x.data + r * x.stride + i);
                next_dy.ask(dy.data + r * dy.stride + i);
                const Block<C> centred = load<C>(x.data + r * x.stride + i, n) - c.of[0];
                const Block<C> dyi = load<C>(dy.data + r * dy.stride + i, n);
                const Block<C> dzi = options.gated(dyi, centred * c.of[3] + c.of[4], r, i, n);
                const Block<C> flow = options.shared(centred * c.of[1] + c.of[2], r, i, n);
                return (dzi - flow) * c.of[3];
            }});
    } else {
        const Affine<C>& z = options.is_gated() ? gate.z : Affine<C>{g.pre, g.pre, g.pre, g.pre};
        const CoefficientArrays<C, 10> arrays{{g.center, g.slope, g.level, g.scale, g.pre, g.dy_pre,
                                               z.center, z.scale, z.shift, z.pre}};
        map(dx, e, arrays,
            Outlined{[=](std::ptrdiff_t r, std::ptrdiff_t i, auto n, const Coefficients<C, 10>& c) {
                const Block<C> xi = load<C>(x.data + r * x.stride + i, n);
                const Block<C> dyi = load<C>(dy.data + r * dy.stride + i, n);
                const Block<C> zi = (xi * c.of[9] - c.of[6]) * c.of[7] + c.of[8];
                const Block<C> dzi = options.gated(dyi, zi, r, i, n);
                const Block<C> flow = (xi * c.of[4] - c.of[0]) * c.of[1] + c.of[2];
                return (dzi * c.of[5] - options.shared(flow, r, i, n)) * c.of[3];
            }});
    }
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
