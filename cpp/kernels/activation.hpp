// Activations: the value, and what the derivative makes of a gradient, apart, so that either may be
// any function of z. Both work register by register: of a whole block chosen by a branch g++ 12
// makes a copy in memory, and waits for it.
#pragma once

#include "kernels/table.hpp"
#include "simd/block.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

// An activation for values of type C.
template <class C>
struct ActivationOf {
    bool is_leaky;
    Vec<C> slope;

    // `of` is one: its kind is not `none`.
    explicit ActivationOf(const Activation& of)
        : is_leaky(of.kind == ActivationKind::leaky_relu),
          slope(Vec<C>::broadcast(static_cast<C>(of.slope))) {}

    // activation(z)
    Block<C> value(const Block<C>& z) const {
        Block<C> y;
        FASTBN_UNROLL
        for (int k = 0; k < Block<C>::registers; ++k) {
            const Vec<C> v = z.reg[k];
            y.reg[k] = is_leaky ? Vec<C>::unless_positive(v, v, v * slope)
                                : Vec<C>::zero_unless_positive(v, v);
        }
        return y;
    }
    // dy * activation'(z), where the derivative at 0 is the one from below, and at NaN 1.
    Block<C> gradient(const Block<C>& z, const Block<C>& dy) const {
        Block<C> dz;
        FASTBN_UNROLL
        for (int k = 0; k < Block<C>::registers; ++k) {
            const Vec<C> g = dy.reg[k];
            dz.reg[k] = is_leaky ? Vec<C>::unless_positive(z.reg[k], g, g * slope)
                                 : Vec<C>::zero_unless_positive(z.reg[k], g);
        }
        return dz;
    }
};

// The same for relu, which needs no slope and has loops of its own.
template <class C>
inline Block<C> relu(const Block<C>& z) {
    Block<C> y;
    FASTBN_UNROLL
    for (int k = 0; k < Block<C>::registers; ++k) {
        y.reg[k] = Vec<C>::zero_unless_positive(z.reg[k], z.reg[k]);
    }
    return y;
}
template <class C>
inline Block<C> relu_gradient(const Block<C>& z, const Block<C>& dy) {
    Block<C> dz;
    FASTBN_UNROLL
    for (int k = 0; k < Block<C>::registers; ++k) {
        dz.reg[k] = Vec<C>::zero_unless_positive(z.reg[k], dy.reg[k]);
    }
    return dz;
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
