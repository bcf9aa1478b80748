// Coefficients of channels, whatever their magnitude, put where each column finds its own; and the
// transform that computes y by them. numerics/coefficient_math.hpp has the arithmetic of
// coefficients; this the powers of two by which it fits the data's type.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "engine/batch.hpp"
#include "engine/channels.hpp"
#include "engine/executor.hpp"
#include "engine/layout.hpp"
#include "engine/memory.hpp"
#include "engine/plan.hpp"
#include "kernels/table.hpp"
#include "numerics/coefficient_math.hpp"

namespace fastbn {

// The arrays of each kind of coefficients: what is done with all of them goes by these lists.
inline std::array<void**, 4> arrays_of(Affine<void>& a) {
    return {&a.pre, &a.center, &a.scale, &a.shift};
}
inline std::array<void**, 6> arrays_of(InputGradient<void>& g) {
    return {&g.pre, &g.dy_pre, &g.center, &g.coef_x, &g.coef_const, &g.scale};
}

// The coefficients from entry i on.
template <class Coefficients>
Coefficients from(Coefficients coefficients, DType computed, std::ptrdiff_t i) {
    for (void** const array : arrays_of(coefficients)) {
        *array = static_cast<char*>(*array) + i * size_of(computed);
    }
    return coefficients;
}

// Affine<void> or InputGradient<void> with arrays of n coefficients of type `computed`, float32 or
// float64, and memory for `lanes` more. They lie in cache lines as the result's first row does, so
// that blocks which begin on a line there find their coefficients on one.
template <class Coefficients>
Coefficients take_coefficients(Arrays& arrays, DType computed, std::ptrdiff_t n,
                               const Operand& result) {
    constexpr std::uintptr_t line = line_bytes;
    const std::ptrdiff_t size = size_of(computed);
    const bool alike = result.direct && size_of(result.dtype) == size;
    const auto first = reinterpret_cast<std::uintptr_t>(result.base);
    const std::ptrdiff_t past = alike ? static_cast<std::ptrdiff_t>(first % line) / size : 0;
    Coefficients taken{};
    for (void** const array : arrays_of(taken)) *array = arrays.take(past + n + lanes, size);
    return from(taken, computed, past);
}

// Where several rows are one to the kernels (Elementwise::period), and the slab is the one that
// holds the first columns: writes the first `lanes` of all coefficients behind the last.
template <class Coefficients>
void wrap_round(Coefficients coefficients, DType computed, const Plan& plan,
                const Slab& slab) noexcept {
    if (!plan.dense_rows || slab.buffer_index != 0) return;
    Coefficients end = from(coefficients, computed, plan.buffer_size());
    const auto first = arrays_of(coefficients);
    const auto behind = arrays_of(end);
    for (std::size_t k = 0; k < first.size(); ++k) {
        std::memcpy(*behind[k], *first[k], static_cast<std::size_t>(lanes * size_of(computed)));
    }
}

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

// y = (x - mean) * invstd * weight + bias, then the epilogue: the transform of training and
// inference; and from dy to dx, where statistics are constants.
struct NormalizeTransform {
    NormalizeTransform(const Batch& batch, const ArrayRef& y_array, const Layout& layout,
                       const ChannelOrigins& origins);
    NormalizeTransform(const NormalizeKernels& row, const ArrayRef& dy, const ArrayRef& dx,
                       const ArrayRef& weight_array, const Layout& layout);

    const NormalizeKernels& kernels;
    Operand x;
    Operand y;
    ChannelParameter weight;
    ChannelParameter bias{0.0};
    Epilogue<Operand> epilogue;

    Work work() const { return elementwise_work({&x, &epilogue.residual}, {&y}); }

    // With the plan that was made for its work:
    void take_staging(const Plan& plan, Staging& staging);
    Affine<void> take_buffers(Arrays& arrays, const Plan& plan) const {
        return take_coefficients<Affine<void>>(arrays, kernels.computed,
                                               Workspace::buffer_size(plan), y);
    }
    // Folds the coefficients of a slab's channels from their statistics, which `channels` has, and
    // their weight and bias, which it reads.
    void fold(const Plan& plan, ChannelParameters& channels, const Slab& slab,
              const Affine<void>& affine, const Memory& memory) const noexcept;
    // infinite: see NormalizeKernel.
    void apply(const Plan& plan, const TileRange& tile, const Affine<void>& affine,
               const Memory& memory, bool* infinite) const noexcept;
};

}  // namespace fastbn
