// Coefficients of channels, whatever their magnitude: kernels/folding.hpp has the arithmetic, this
// the units of a power of two in which it fits the data's type.
#pragma once

#include <cstddef>

#include "kernels/table.hpp"

namespace fastbn {

// y = (x * pre - center) * scale + shift, for n channels.
template <class T>
void fold_affine(const AffineSource& from, const AffineOut<T>& to, std::ptrdiff_t n) noexcept;

// dx = (dy * dy_pre - ((x * pre - center) * slope + level)) * scale, for n channels.
template <class T>
void fold_input_gradient(const InputGradientSource& from, const InputGradientOut<T>& to,
                         std::ptrdiff_t n) noexcept;

// Whether any of n coefficients is not 1.
template <class C>
bool any_scaled(const C* coefficients, std::ptrdiff_t n) noexcept {
    bool scaled = false;
    for (std::ptrdiff_t i = 0; i < n; ++i) scaled |= coefficients[i] != C(1);
    return scaled;
}

}  // namespace fastbn
