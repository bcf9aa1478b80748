// Activations: the value, and what the derivative makes of a gradient, apart, so that either may be
// any function of z.
#pragma once

#include "kernels/table.hpp"
#include "simd/block.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

// An activation of values of type C, which is not `none`. Blocks are changed in place, register by
// register: of a whole block chosen by a branch g++ 12 makes a copy in memory, and waits for it.
template <class C>
class ActivationOf {
public:
    explicit ActivationOf(const Activation& of)
        : is_leaky_(of.kind == ActivationKind::leaky_relu),
          slope_(Vec<C>::broadcast(static_cast<C>(of.slope))) {}

    // z becomes activation(z),
    void apply(Block<C>& z) const {
        FASTBN_UNROLL
        for (int k = 0; k < Block<C>::registers; ++k) z.reg[k] = value(z.reg[k]);
    }
    // and dy the gradient dz.
    void apply_gradient(const Block<C>& z, Block<C>& dy) const {
        FASTBN_UNROLL
        for (int k = 0; k < Block<C>::registers; ++k) dy.reg[k] = gradient(z.reg[k], dy.reg[k]);
    }

private:
    Vec<C> value(Vec<C> z) const {
        return is_leaky_ ? Vec<C>::unless_positive(z, z, z * slope_)
                         : Vec<C>::zero_unless_positive(z, z);
    }
    // dy * activation'(z). The derivative at 0 is the one from below, and at NaN 1.
    Vec<C> gradient(Vec<C> z, Vec<C> dy) const {
        return is_leaky_ ? Vec<C>::unless_positive(z, dy, dy * slope_)
                         : Vec<C>::zero_unless_positive(z, dy);
    }

    bool is_leaky_;
    Vec<C> slope_;
};

// The same for relu, which needs no slope and has loops of its own.
template <class C>
inline void apply_relu(Block<C>& z) {
    FASTBN_UNROLL
    for (int k = 0; k < Block<C>::registers; ++k) {
        z.reg[k] = Vec<C>::zero_unless_positive(z.reg[k], z.reg[k]);
    }
}
template <class C>
inline void apply_relu_gradient(const Block<C>& z, Block<C>& dy) {
    FASTBN_UNROLL
    for (int k = 0; k < Block<C>::registers; ++k) {
        dy.reg[k] = Vec<C>::zero_unless_positive(z.reg[k], dy.reg[k]);
    }
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
