// The elementwise pass backward: dx from dy and x, and dz beside it where the activation's input
// had another summand. Sees tiles and folded coefficients; knows nothing of how those came about.
#pragma once

#include "activation.hpp"
#include "block.hpp"
#include "block_memory.hpp"
#include "data.hpp"
#include "mapping.hpp"
#include "prefetch.hpp"

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
    bool have_shares() const {
        return shares.frozen || shares.rows != nullptr || shares.mask.data != nullptr ||
               shares.elements.data != nullptr;
    }
    bool are_needed() const { return is_gated() || have_shares(); }
    bool are_a_gate_alone() const {
        return is_gated() && gate.residual.data == nullptr && !have_shares();
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
            flow.part[k] = Vec<C>::zero_unless_positive(share.part[k], part.part[k]);
        }
    }
};

// One tile, by whichever formula its options and its channels' magnitude ask for.
template <class X, class Y>
struct GradientPass {
    using C = Computed<Y>;
    Tile<const Y> dy;
    Tile<const X> x;
    Tile<Y> dx;
    Elementwise extent;
    InputGradient<C> g;
    GradientOptions<Y> options;

    template <class N>
    Block<C> load_x(std::ptrdiff_t r, std::ptrdiff_t i, N n) const {
        AskAhead<X>(extent.ahead).ask(x.data + r * x.stride + i);
        return load<C>(x.data + r * x.stride + i, n);
    }
    template <class N>
    Block<C> load_dy(std::ptrdiff_t r, std::ptrdiff_t i, N n) const {
        AskAhead<Y>(extent.ahead).ask(dy.data + r * dy.stride + i);
        return load<C>(dy.data + r * dy.stride + i, n);
    }

    void without_options() const {
        const CoefficientArrays<C, 4> arrays{{g.center, g.slope, g.level, g.scale}};
        map(dx, extent, arrays,
            [self = *this](std::ptrdiff_t r, std::ptrdiff_t i, auto n,
                           const Coefficients<C, 4>& c) {
                const Block<C> flow = (self.load_x(r, i, n) - c.of[0]) * c.of[1] + c.of[2];
                return (self.load_dy(r, i, n) - flow) * c.of[3];
            });
    }

    // A channel that is worked on in no unit of its own has the same center and scale here as on
    // the way forward.
    void gated() const {
        const CoefficientArrays<C, 5> arrays{
            {g.center, g.slope, g.level, g.scale, options.gate.z.shift}};
        map(dx, extent, arrays,
            Outlined{[self = *this](std::ptrdiff_t r, std::ptrdiff_t i, auto n,
                                    const Coefficients<C, 5>& c) {
                const Block<C> centred = self.load_x(r, i, n) - c.of[0];
                Block<C> dz = self.load_dy(r, i, n);
                pass_through(self.options.gate.activation, centred * c.of[3] + c.of[4], dz);
                return (dz - (centred * c.of[1] + c.of[2])) * c.of[3];
            }});
    }

    // Without an activation there is no shift, and any array will do.
    void with_options() const {
        const C* const shift = options.is_gated() ? options.gate.z.shift : g.level;
        const CoefficientArrays<C, 5> arrays{{g.center, g.slope, g.level, g.scale, shift}};
        map(dx, extent, arrays,
            Outlined{[self = *this](std::ptrdiff_t r, std::ptrdiff_t i, auto n,
                                    const Coefficients<C, 5>& c) {
                const Block<C> centred = self.load_x(r, i, n) - c.of[0];
                Block<C> dz = self.load_dy(r, i, n);
                self.options.pass(dz, centred * c.of[3] + c.of[4], r, i, n);
                Block<C> flow = centred * c.of[1] + c.of[2];
                self.options.keep_share(flow, r, i, n);
                return (dz - flow) * c.of[3];
            }});
    }

    void scaled() const {
        enum : int { center, slope, level, scale, pre, dy_pre, z_center, z_scale, z_shift, z_pre };
        const Affine<C> any{g.pre, g.pre, g.pre, g.pre};
        const Affine<C> z = options.is_gated() ? options.gate.z : any;
        const CoefficientArrays<C, 10> arrays{{g.center, g.slope, g.level, g.scale, g.pre, g.dy_pre,
                                               z.center, z.scale, z.shift, z.pre}};
        map(dx, extent, arrays,
            Outlined{[self = *this](std::ptrdiff_t r, std::ptrdiff_t i, auto n,
                                    const Coefficients<C, 10>& c) {
                const Block<C> xi = self.load_x(r, i, n);
                Block<C> dz = self.load_dy(r, i, n);
                const Block<C> zi = (xi * c.of[z_pre] - c.of[z_center]) * c.of[z_scale];
                self.options.pass(dz, zi + c.of[z_shift], r, i, n);
                Block<C> flow = (xi * c.of[pre] - c.of[center]) * c.of[slope] + c.of[level];
                self.options.keep_share(flow, r, i, n);
                return (dz * c.of[dy_pre] - flow) * c.of[scale];
            }});
    }
};

template <class X, class Y>
[[gnu::flatten]] void input_gradient(Tile<const Y> dy, Tile<const X> x, Tile<Y> dx, Elementwise e,
                                     InputGradient<Computed<Y>> g, Gate<Y> gate, Tile<Y> dz,
                                     GradientShares<Computed<Y>> shares) noexcept {
    const GradientOptions<Y> options{gate, dz, shares};
    const GradientPass<X, Y> pass{dy, x, dx, e, g, options};
    if (g.pre != nullptr) {
        pass.scaled();
    } else if (!options.are_needed()) {
        pass.without_options();
    } else if (options.are_a_gate_alone()) {
        pass.gated();
    } else {
        pass.with_options();
    }
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
