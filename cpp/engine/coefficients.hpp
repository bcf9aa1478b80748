// Coefficients of channels, whatever their magnitude, put where each column finds its own.
// numerics/coefficient_math.hpp has the arithmetic; this the powers of two by which it fits the
// data's type.
#pragma once

#include <cstddef>

#include "engine/layout.hpp"
#include "engine/memory.hpp"
#include "kernels/table.hpp"
#include "numerics/coefficient_math.hpp"

namespace fastbn {

// Arrays of n coefficients of type `computed`, float32 or float64, with memory for `lanes` more.
Affine<void> take_affine(Arrays& arrays, DType computed, std::ptrdiff_t n);
InputGradient<void> take_input_gradient(Arrays& arrays, DType computed, std::ptrdiff_t n);

// The coefficients from entry i on.
Affine<void> from(Affine<void> a, DType computed, std::ptrdiff_t i);
InputGradient<void> from(InputGradient<void> g, DType computed, std::ptrdiff_t i);

// Writes the first `lanes` of n coefficients behind the last, for kernels to which several rows are
// one (Elementwise::period).
void wrap_round(const Affine<void>& a, DType computed, std::ptrdiff_t n) noexcept;
void wrap_round(const InputGradient<void>& g, DType computed, std::ptrdiff_t n) noexcept;

// What kernels are called with. `pre` is left out unless some channel's is not 1.
Affine<const void> kernel_view(const Affine<void>& a, bool out_of_range);
InputGradient<const void> kernel_view(const InputGradient<void>& g, bool out_of_range);

// Coefficients of n channels, each of which is then found at all of its columns (see Layout).
// Return whether some channel's `pre` is not 1.
bool fold_affine(const ChannelParameters& channels, DType computed, std::ptrdiff_t n,
                 const Layout& layout, const Affine<void>& to) noexcept;
// count: what the sums are divided by.
bool fold_input_gradient(const ChannelParameters& channels, const GradientSums& sums, double count,
                         DType computed, std::ptrdiff_t n, const Layout& layout,
                         const InputGradient<void>& to) noexcept;

// Channels' values at the beginning of an array, to the places of all their columns, where there
// are several for a channel.
void replicate_columns(double* values, std::ptrdiff_t channels, const Layout& layout) noexcept;

}  // namespace fastbn
