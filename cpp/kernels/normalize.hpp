// The elementwise pass forward: y from x. Sees tiles and folded coefficients, one set for a run of
// columns or one per column; knows nothing of how those came about.
#pragma once

#include "activation.hpp"
#include "block.hpp"
#include "block_memory.hpp"
#include "data.hpp"
#include "mapping.hpp"
#include "prefetch.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

// From z to y: what is added, and the activation. The branches go the same way for a whole tile.
template <class Y>
struct Finish {
    using C = Computed<Y>;
    Tile<const Y> residual;
    Activation<C> activation;

    bool is_needed() const {
        return residual.data != nullptr || activation.kind != ActivationKind::none;
    }
    bool is_relu_alone() const {
        return residual.data == nullptr && activation.kind == ActivationKind::relu;
    }
    template <class N>
    Block<C> operator()(Block<C> z, std::ptrdiff_t r, std::ptrdiff_t i, N n) const {
        if (residual.data != nullptr) {
            z = z + load<C>(residual.data + r * residual.stride + i, n);
        }
        if (activation.kind != ActivationKind::none) pass_through(activation, z, z);
        return z;
    }
};

// x, and whether it holds infinity.
template <class X, class C>
struct Inspected {
    Tile<const X> x;
    bool* infinite;

    template <class N>
    Block<C> operator()(std::ptrdiff_t r, std::ptrdiff_t i, N n) const {
        const Block<C> xi = load<C>(x.data + r * x.stride + i, n);
        if (infinite != nullptr && any_infinite(xi)) *infinite = true;
        return xi;
    }
};

template <class X, class Y>
[[gnu::flatten]] void transform(Tile<const X> x, Tile<const Y> residual, Tile<Y> y, Elementwise e,
                                Affine<Computed<Y>> a, Activation<Computed<Y>> act,
                                bool* infinite) noexcept {
    using C = Computed<Y>;
    const AskAhead<X> next(e.ahead);
    const Finish<Y> finish{residual, act};
    const Inspected<X, C> inspected{x, infinite};
    const CoefficientArrays<C, 3> arrays{{a.center, a.scale, a.shift}};
    if (a.pre == nullptr && !finish.is_needed() && infinite == nullptr) {
        map(y, e, arrays,
            [=](std::ptrdiff_t r, std::ptrdiff_t i, auto n, const Coefficients<C, 3>& c) {
                next.ask(x.data + r * x.stride + i);
                const Block<C> xi = load<C>(x.data + r * x.stride + i, n);
                return (xi - c.of[0]) * c.of[1] + c.of[2];
            });
    } else if (a.pre == nullptr && finish.is_relu_alone() && infinite == nullptr) {
        map(y, e, arrays,
            Outlined{[=](std::ptrdiff_t r, std::ptrdiff_t i, auto n, const Coefficients<C, 3>& c) {
                next.ask(x.data + r * x.stride + i);
                const Block<C> xi = load<C>(x.data + r * x.stride + i, n);
                Block<C> z = (xi - c.of[0]) * c.of[1] + c.of[2];
                pass_relu(z, z);
                return z;
            }});
    } else if (a.pre == nullptr) {
        map(y, e, arrays,
            Outlined{[=](std::ptrdiff_t r, std::ptrdiff_t i, auto n, const Coefficients<C, 3>& c) {
                next.ask(x.data + r * x.stride + i);
                const Block<C> xi = inspected(r, i, n);
                return finish((xi - c.of[0]) * c.of[1] + c.of[2], r, i, n);
            }});
    } else {
        const CoefficientArrays<C, 4> scaled{{a.center, a.scale, a.shift, a.pre}};
        map(y, e, scaled,
            Outlined{[=](std::ptrdiff_t r, std::ptrdiff_t i, auto n, const Coefficients<C, 4>& c) {
                const Block<C> xi = inspected(r, i, n) * c.of[3];
                return finish((xi - c.of[0]) * c.of[1] + c.of[2], r, i, n);
            }});
    }
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
