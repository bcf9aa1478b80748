// The elementwise pass backward: dx from dy and x, and dz beside it where the activation's input
// had another summand. Sees tiles and folded coefficients; knows nothing of how those came about.
#pragma once

#include "activation.hpp"
#include "block.hpp"
#include "block_memory.hpp"
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
        return is_gated() || shares.frozen || shares.rows != nullptr ||
               shares.mask.data != nullptr || shares.elements.data != nullptr;
    }

    bool are_a_gate_alone() const {
        return is_gated() && gate.residual.data == nullptr && !shares.frozen &&
               shares.rows == nullptr && shares.mask.data == nullptr &&
               shares.elements.data == nullptr;
    }

    // From dy to dz, by z without its residual.
    template <class N>
    void pass(Block<C>& dy, Block<C> z, std::ptrdiff_t r, std::ptrdiff_t i, N n) const {
        if (!is_gated()) return;
        if (gate.residual.data != nullptr) {
            z = z + load<C>(gate.residual.data + r * gate.residual.stride + i, n);
        }
        pass_through(gate.activation, z, dy);
        if (dz.data != nullptr) store(dz.data + r * dz.stride + i, n, dy);
    }

    // Leaves of what flows back through the statistics a value's own share: nothing, whatever that
    // is, where the value did not count.
    template <class N>
    void keep_share(Block<C>& flow, std::ptrdiff_t r, std::ptrdiff_t i, N n) const {
        if (shares.frozen) {
            for (Vec<C>& part : flow.part) part = Vec<C>::broadcast(C(0));
        } else if (shares.mask.data != nullptr) {
            keep(load<C>(shares.mask.data + r * shares.mask.stride + i, n), flow, flow);
        } else if (shares.rows != nullptr) {
            const Block<C> share = broadcast(shares.rows[r]);
            keep(share, share * flow, flow);
        } else if (shares.elements.data != nullptr) {
            const Block<C> share =
                load<C>(shares.elements.data + r * shares.elements.stride + i, n);
            keep(share, share * flow, flow);
        }
    }

private:
    static void keep(const Block<C>& share, const Block<C>& part, Block<C>& flow) {
#pragma GCC unroll 8
        for (int k = 0; k < Block<C>::registers; ++k) {
            flow.part[k] =
                Vec<C>::unless_positive(share.part[k], part.part[k], Vec<C>::broadcast(C(0)));
        }
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
    } else if (g.pre == nullptr && options.are_a_gate_alone()) {
        const CoefficientArrays<C, 5> arrays{{g.center, g.slope, g.level, g.scale, gate.z.shift}};
        map(dx, e, arrays,
            Outlined{[=](std::ptrdiff_t r, std::ptrdiff_t i, auto n, const Coefficients<C, 5>& c) {
                next_x.ask(x.data + r * x.stride + i);
                next_dy.ask(dy.data + r * dy.stride + i);
                const Block<C> centred = load<C>(x.data + r * x.stride + i, n) - c.of[0];
                Block<C> dzi = load<C>(dy.data + r * dy.stride + i, n);
                pass_through(gate.activation, centred * c.of[3] + c.of[4], dzi);
                return (dzi - (centred * c.of[1] + c.of[2])) * c.of[3];
            }});
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
                Block<C> dzi = load<C>(dy.data + r * dy.stride + i, n);
                options.pass(dzi, centred * c.of[3] + c.of[4], r, i, n);
                Block<C> flow = centred * c.of[1] + c.of[2];
                options.keep_share(flow, r, i, n);
                return (dzi - flow) * c.of[3];
            }});
    } else {
        const Affine<C>& z = options.is_gated() ? gate.z : Affine<C>{g.pre, g.pre, g.pre, g.pre};
        enum : int { center, slope, level, scale, pre, dy_pre, z_center, z_scale, z_shift, z_pre };
        const CoefficientArrays<C, 10> arrays{{g.center, g.slope, g.level, g.scale, g.pre, g.dy_pre,
                                               z.center, z.scale, z.shift, z.pre}};
        map(dx, e, arrays,
            Outlined{[=](std::ptrdiff_t r, std::ptrdiff_t i, auto n, const Coefficients<C, 10>& c) {
                const Block<C> xi = load<C>(x.data + r * x.stride + i, n);
                Block<C> dzi = load<C>(dy.data + r * dy.stride + i, n);
                options.pass(dzi,
                             (xi * c.of[z_pre] - c.of[z_center]) * c.of[z_scale] + c.of[z_shift], r,
                             i, n);
                Block<C> flow = (xi * c.of[pre] - c.of[center]) * c.of[slope] + c.of[level];
                options.keep_share(flow, r, i, n);
                return (dzi * c.of[dy_pre] - flow) * c.of[scale];
            }});
    }
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
