// What follows the affine map, and what it lets through of a gradient. Knows neither memory nor
// channels.
#pragma once

#include "block.hpp"
#include "data.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

// Applies the activation of z, which must be one, to `value`: z itself, or a gradient. NaN passes.
// Register by
// register: of a whole block chosen by a branch g++ 12 makes a copy in memory, and waits for it.
template <class C>
inline void pass_through(const Activation<C>& activation, const Block<C>& z, Block<C>& value) {
    const bool leaky = activation.kind == ActivationKind::leaky_relu;
    const Vec<C> slope = Vec<C>::broadcast(activation.slope);
#pragma GCC unroll 8
    for (int k = 0; k < Block<C>::registers; ++k) {
        const Vec<C> a = value.part[k];
        value.part[k] = leaky ? Vec<C>::unless_positive(z.part[k], a, a * slope)
                              : Vec<C>::zero_unless_positive(z.part[k], a);
    }
}

// The same for relu, which needs no slope.
template <class C>
inline void pass_relu(const Block<C>& z, Block<C>& value) {
#pragma GCC unroll 8
    for (int k = 0; k < Block<C>::registers; ++k) {
        value.part[k] = Vec<C>::zero_unless_positive(z.part[k], value.part[k]);
    }
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
