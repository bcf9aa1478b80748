// What the backward pass knows of the forward one, for each entry of its sums: statistics, and the
// coefficients from which the activation's input follows again. Knows no gradients.
#pragma once

#include <cstddef>
#include <vector>

#include "engine/coefficients.hpp"
#include "engine/features.hpp"
#include "engine/per_entry.hpp"

namespace fastbn {

// By which coefficients z, and with it what the activation let through, is found again: those of a
// whole call's entries.
template <class C>
struct GateCoefficients {
    Activation<C> activation{ActivationKind::none, C(0)};
    Affine<C> z{};
    bool scaled = false;  // see Gate, here and below
    bool sparse = false;

    template <class Y>
    Gate<Y> at(std::ptrdiff_t entry, Tile<const Y> residual) const {
        if (activation.kind == ActivationKind::none) {
            return {activation, {}, residual, scaled, sparse};
        }
        return {activation,
                {z.pre + entry, z.center + entry, z.scale + entry, z.shift + entry},
                residual,
                scaled,
                sparse};
    }
};

// The forward pass's own coefficients, from which the sign of z follows as it did there.
template <class C>
class GateMemory {
public:
    GateMemory(const Activation<double>& activation, const AffineSource& source,
               const Features& features, const Layout& layout)
        : activation_{activation.kind, static_cast<C>(activation.slope)},
          n_(activation.kind == ActivationKind::none ? 0 : features.channels),
          values_(static_cast<std::size_t>(4 * n_)),
          pre_(folded(source), n_, layout),
          center_(values_.data() + n_, n_, layout),
          scale_(values_.data() + 2 * n_, n_, layout),
          shift_(values_.data() + 3 * n_, n_, layout) {}

    GateCoefficients<C> coefficients(bool sparse) const {
        return {activation_,
                {pre_.data(), center_.data(), scale_.data(), shift_.data()},
                any_scaled(values_.data(), n_),
                sparse};
    }

private:
    const C* folded(const AffineSource& source) {
        C* const to = values_.data();
        fold_affine<C>(source, {to, to + n_, to + 2 * n_, to + 3 * n_}, n_);
        return to;
    }

    Activation<C> activation_;
    std::ptrdiff_t n_;
    std::vector<C> values_;
    PerEntry<C> pre_;
    PerEntry<C> center_;
    PerEntry<C> scale_;
    PerEntry<C> shift_;
};

}  // namespace fastbn
