// The two halves of the backward pass on tiles: sums of a gradient, and dx from them. Each supplies
// one kernel with its operands, sums and coefficients.
#pragma once

#include <algorithm>
#include <cstddef>

#include "engine/dispatch.hpp"
#include "engine/gate.hpp"
#include "engine/pack.hpp"
#include "engine/passes.hpp"
#include "engine/plan.hpp"
#include "engine/workspace.hpp"

namespace fastbn {

// The operands of the backward pass.
struct GradientOperands {
    Operand dy;
    Operand x;
    Operand residual;
    Operand dx;
    Operand dz;
};

// Sums of dz and dz * xhat, in two sums per entry; mean and invstd per entry of all of x.
template <class X, class Y, class C>
void sum_gradients(const Plan& plan, const GradientOperands& of, const double* mean,
                   const double* invstd, const GateCoefficients<C>& gate, const Slab& slab,
                   std::ptrdiff_t span, const Entries<C>& entries,
                   const Scratch& scratch) noexcept {
    const TransformKernels<X, Y>& kernels = transform_kernels<X, Y>();
    const auto kernel =
        plan.layout.channels_first() ? kernels.gradient_sums_rows : kernels.gradient_sums_columns;
    std::fill_n(entries.sum(0, span, slab.entry), slab.entries, 0.0);
    std::fill_n(entries.sum(1, span, slab.entry), slab.entries, 0.0);
    each_tile(plan, slab, span, [&](const TileRange& tile, std::ptrdiff_t) {
        const Tile<const Y> dy = input_tile<Y>(of.dy, tile, scratch);
        const Tile<const X> x = input_tile<X>(of.x, tile, scratch);
        const Tile<const Y> residual = input_tile<Y>(of.residual, tile, scratch);
        kernel(dy, x, tile.kernel_rows(), tile.kernel_cols(),
               {mean + tile.entry, invstd + tile.entry, entries.sum(0, span, tile.entry),
                entries.sum(1, span, tile.entry)},
               gate.at(tile.entry, residual));
    });
}

// A tile of dx from dy and x, by the coefficients pre, dy_pre, center, slope, level, scale; and of
// dz where it is wanted.
template <class X, class Y>
void apply_input_gradient(const Plan& plan, const GradientOperands& of,
                          const GateCoefficients<Computed<Y>>& gate,
                          GradientShares<Computed<Y>> shares, const TileRange& tile,
                          const Entries<Computed<Y>>& entries, const Scratch& scratch) noexcept {
    using C = Computed<Y>;
    const auto field = [&](int i) { return entries.coefficient(i, tile.entry); };
    const std::ptrdiff_t n = plan.entries_of(tile);
    const bool scaled = any_scaled(field(0), n) || any_scaled(field(1), n) ||
                        (gate.scaled && any_scaled(gate.z.pre + tile.entry, n));
    const InputGradient<C> coefficients{scaled ? field(0) : nullptr,
                                        scaled ? field(1) : nullptr,
                                        field(2),
                                        field(3),
                                        field(4),
                                        field(5)};
    const Tile<const Y> residual = input_tile<Y>(of.residual, tile, scratch);
    transform_kernels<X, Y>().input_gradient(
        input_tile<Y>(of.dy, tile, scratch), input_tile<X>(of.x, tile, scratch),
        output_tile<Y>(of.dx, tile, scratch), extent_of(plan, of.x, of.dx, tile), coefficients,
        gate.at(tile.entry, residual), output_tile<Y>(of.dz, tile, scratch), shares);
    finish_output<Y>(of.dx, tile, scratch);
    finish_output<Y>(of.dz, tile, scratch);
}

}  // namespace fastbn
