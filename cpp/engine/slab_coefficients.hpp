// Coefficients of a slab's channels, put where each of its entries finds its own.
#pragma once

#include <algorithm>
#include <cstddef>

#include "engine/coefficients.hpp"
#include "engine/plan.hpp"
#include "engine/workspace.hpp"

namespace fastbn {

// Gives all entries of a slab's channels the `fields` coefficients that the first ones have.
template <class C>
void spread_coefficients(const Plan& plan, const Slab& slab, int fields,
                         const Entries<C>& entries) noexcept {
    const std::ptrdiff_t repeat = plan.layout.repeat;
    const std::ptrdiff_t columns = slab.channels * repeat;
    for (int i = 0; i < fields; ++i) {
        C* const all = entries.coefficient(i, slab.entry);
        for (std::ptrdiff_t c = slab.channels - 1; c >= 0 && repeat > 1; --c) {
            const C value = all[c];
            std::fill_n(all + c * repeat, repeat, value);
        }
        for (std::ptrdiff_t e = columns; e < slab.entries; e += columns) {
            std::copy_n(all, columns, all + e);
        }
    }
}

// The coefficients that apply_affine takes,
template <class C>
void store_affine(const AffineSource& source, const Plan& plan, const Slab& slab,
                  const Entries<C>& entries) noexcept {
    const auto field = [&](int i) { return entries.coefficient(i, slab.entry); };
    fold_affine<C>(source, {field(0), field(1), field(2), field(3)}, slab.channels);
    spread_coefficients(plan, slab, 4, entries);
}

// and apply_input_gradient.
template <class C>
void store_input_gradient(const InputGradientSource& source, const Plan& plan, const Slab& slab,
                          const Entries<C>& entries) noexcept {
    const auto field = [&](int i) { return entries.coefficient(i, slab.entry); };
    fold_input_gradient<C>(source, {field(0), field(1), field(2), field(3), field(4), field(5)},
                           slab.channels);
    spread_coefficients(plan, slab, 6, entries);
}

}  // namespace fastbn
