// What operations are made of: summing moments or gradients over a span's tiles, and transforming
// one tile. Each supplies one kernel with its operands, sums and coefficients.
#pragma once

#include <algorithm>
#include <cstddef>

#include "engine/dispatch.hpp"
#include "engine/pack.hpp"
#include "engine/plan.hpp"
#include "engine/workspace.hpp"

namespace fastbn {

template <class Visit>
void each_tile(const Plan& plan, const Slab& slab, std::ptrdiff_t span, Visit&& visit) {
    const std::ptrdiff_t channels = plan.tiles_at_position(slab);
    for (std::ptrdiff_t i = plan.first_position(span); i < plan.end_position(span); ++i) {
        for (std::ptrdiff_t c = 0; c < channels; ++c) visit(plan.tile(slab, i, c), i);
    }
}

template <class C>
MomentsState moments_at(const Entries<C>& entries, std::ptrdiff_t span, std::ptrdiff_t entry) {
    const auto field = [&](int i) { return entries.sum(i, span, entry); };
    return {field(0), field(1), field(2), field(3), field(4), field(5)};
}

// Moments of x, in six sums per entry.
template <class X, class C>
void sum_moments(const Plan& plan, const Operand& x, const Slab& slab, std::ptrdiff_t span,
                 const Entries<C>& entries, const Scratch& scratch) noexcept {
    const MomentsKernels<X>& kernels = moments_kernels<X>();
    const std::ptrdiff_t begin = plan.count_before(plan.first_position(span));
    each_tile(plan, slab, span, [&](const TileRange& tile, std::ptrdiff_t position) {
        const Tile<const X> in = input_tile<X>(x, tile, scratch);
        const MomentsState state = moments_at(entries, span, tile.entry);
        const double count = static_cast<double>(plan.count_before(position) - begin);
        if (plan.layout.channels_first()) {
            kernels.rows(in, tile.rows, tile.cols, count, state);
        } else {
            kernels.columns(in, tile.kernel_rows(), tile.kernel_cols(), count, state,
                            scratch.column_sums);
        }
    });
}

// The operands of the backward pass.
struct GradientOperands {
    Operand dy;
    Operand x;
    Operand residual;
    Operand dx;
    Operand dz;
};

// Which of a gradient the activation let through: coefficients of a whole call's entries.
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

// Whether any of n coefficients is not 1.
template <class C>
bool any_scaled(const C* coefficients, std::ptrdiff_t n) noexcept {
    bool scaled = false;
    for (std::ptrdiff_t i = 0; i < n; ++i) scaled |= coefficients[i] != C(1);
    return scaled;
}

// How a tile is gone over: so many columns share their coefficients, and so far on the next slab's
// values are, if it is to ask for them: where results drain to memory, reading has room.
inline Elementwise extent_of(const Plan& plan, const Operand& x, const Operand& y,
                             const TileRange& tile) {
    const bool slabs_in_a_row = plan.fused && x.in_runs;
    return {tile.kernel_rows(), tile.kernel_cols(), plan.layout.channels_first() ? tile.cols : 1,
            plan.stream && slabs_in_a_row ? plan.layout.cols * plan.slab_entries : 0,
            plan.stream && y.direct};
}

// A tile of y from x, by the coefficients pre, center, scale, shift; and what follows. `infinite`:
// see TransformKernels.
template <class X, class Y>
void apply_affine(const Plan& plan, const Operand& x, const Operand& residual, const Operand& y,
                  Activation<Computed<Y>> activation, const TileRange& tile,
                  const Entries<Computed<Y>>& entries, const Scratch& scratch,
                  bool* infinite = nullptr) noexcept {
    const auto field = [&](int i) { return entries.coefficient(i, tile.entry); };
    const Computed<Y>* pre = any_scaled(field(0), plan.entries_of(tile)) ? field(0) : nullptr;
    transform_kernels<X, Y>().transform(
        input_tile<X>(x, tile, scratch), input_tile<Y>(residual, tile, scratch),
        output_tile<Y>(y, tile, scratch), extent_of(plan, x, y, tile),
        {pre, field(1), field(2), field(3)}, activation, infinite);
    finish_output<Y>(y, tile, scratch);
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
