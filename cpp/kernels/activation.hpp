// What follows the affine map, and what it lets through of a gradient. Knows neither memory nor
// channels.
#pragma once

#include "block.hpp"
#include "data.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

// `passed` where z > 0 (or NaN), otherwise what the activation makes of it.
template <class C>
inline Block<C> through(const Activation<C>& activation, const Block<C>& z,
                        const Block<C>& passed) {
    switch (activation.kind) {
        case ActivationKind::relu:
            return unless_positive(z, passed, broadcast(C(0)));
        case ActivationKind::leaky_relu:
            return unless_positive(z, passed, passed * activation.slope);
        default:
            return passed;
    }
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
