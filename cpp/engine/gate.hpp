// What the backward pass knows of the forward one, for each entry of its sums: statistics, and the
// coefficients from which the activation's input follows again. Knows no gradients.
#pragma once

#include <cstddef>
#include <vector>

#include "engine/coefficients.hpp"
#include "engine/features.hpp"
#include "engine/layout.hpp"
#include "engine/passes.hpp"

namespace fastbn {

// Channels' values per entry: each as often as the channel has columns, and all as often as rows
// are abreast.
template <class C>
class PerEntry {
public:
    PerEntry(const C* values, std::ptrdiff_t channels, const Layout& layout) : data_(values) {
        const std::ptrdiff_t copies = layout.repeat * layout.abreast;
        if (copies == 1) return;
        repeated_.reserve(static_cast<std::size_t>(channels * copies));
        for (std::ptrdiff_t i = 0; i < layout.abreast; ++i) {
            for (std::ptrdiff_t c = 0; c < channels; ++c) {
                repeated_.insert(repeated_.end(), static_cast<std::size_t>(layout.repeat),
                                 values[c]);
            }
        }
        data_ = repeated_.data();
    }
    PerEntry(const PerEntry&) = delete;
    PerEntry& operator=(const PerEntry&) = delete;

    const C* data() const { return data_; }

private:
    std::vector<C> repeated_;
    const C* data_;
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
