// What follows the affine map, and what it lets through of a gradient. Knows neither memory nor
// channels.
#pragma once

#include "block.hpp"
#include "data.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

// Applies the activation of z to `value`: z itself, or a gradient. NaN passes. Register by
// register: of a whole block chosen by a branch g++ 12 makes a copy in memory, and waits for it.
template <class C>
inline void pass_through(const Activation<C>& activation, const Block<C>& z, Block<C>& value) {
    const bool leaky = activation.kind == ActivationKind::leaky_relu;
    const Vec<C> slope = Vec<C>::broadcast(activation.slope);
#pragma GCC unroll 8
    for (int k = 0; k < Block<C>::registers; ++k) {
        Vec<C> otherwise = Vec<C>::broadcast(C(0));
        if (leaky) otherwise = value.part[k] * slope;
        value.part[k] = Vec<C>::unless_positive(z.part[k], value.part[k], otherwise);
    }
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
