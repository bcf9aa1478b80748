// What operations are made of: summing moments or gradients over a span's tiles, and transforming
// one tile. Each rounds off one kernel with its operands, sums and coefficients.
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

template <class T>
MomentsState moments_at(const Entries<T>& entries, std::ptrdiff_t span, std::ptrdiff_t entry) {
    const auto field = [&](int i) { return entries.sum(i, span, entry); };
    return {field(0), field(1), field(2), field(3), field(4), field(5)};
}

// Moments of x, in six sums per entry.
template <class T>
void sum_moments(const Plan& plan, const Operand& x, const Slab& slab, std::ptrdiff_t span,
                 const Entries<T>& entries, const Scratch<T>& scratch) noexcept {
    const KernelTable<T>& kernels = kernels_for<T>();
    const std::ptrdiff_t begin = plan.count_before(plan.first_position(span));
    each_tile(plan, slab, span, [&](const TileRange& tile, std::ptrdiff_t position) {
        const Tile<const T> in = input_tile(x, tile, scratch.tile[0]);
        const MomentsState state = moments_at(entries, span, tile.entry);
        const double count = static_cast<double>(plan.count_before(position) - begin);
        if (plan.layout.channels_first()) {
            kernels.moments_rows(in, tile.rows, tile.cols, count, state);
        } else {
            kernels.moments_columns(in, tile.kernel_rows(), tile.kernel_cols(), count, state,
                                    scratch.column_sums);
        }
    });
}

// Sums of dy and dy * xhat, in two sums per entry; mean and invstd per entry of all of x.
template <class T>
void sum_gradients(const Plan& plan, const Operand& dy, const Operand& x, const double* mean,
                   const double* invstd, const Slab& slab, std::ptrdiff_t span,
                   const Entries<T>& entries, const Scratch<T>& scratch) noexcept {
    const KernelTable<T>& kernels = kernels_for<T>();
    const auto kernel =
        plan.layout.channels_first() ? kernels.gradient_sums_rows : kernels.gradient_sums_columns;
    std::fill_n(entries.sum(0, span, slab.entry), slab.entries, 0.0);
    std::fill_n(entries.sum(1, span, slab.entry), slab.entries, 0.0);
    each_tile(plan, slab, span, [&](const TileRange& tile, std::ptrdiff_t) {
        const Tile<const T> dy_in = input_tile(dy, tile, scratch.tile[0]);
        const Tile<const T> x_in = input_tile(x, tile, scratch.tile[1]);
        kernel(dy_in, x_in, tile.kernel_rows(), tile.kernel_cols(),
               {mean + tile.entry, invstd + tile.entry, entries.sum(0, span, tile.entry),
                entries.sum(1, span, tile.entry)});
    });
}

// Whether any of n coefficients is not 1.
template <class T>
bool any_scaled(const T* coefficients, std::ptrdiff_t n) noexcept {
    bool scaled = false;
    for (std::ptrdiff_t i = 0; i < n; ++i) scaled |= coefficients[i] != T(1);
    return scaled;
}

// So many columns of a tile share their coefficients.
inline std::ptrdiff_t run_of(const Plan& plan, const TileRange& tile) {
    return plan.layout.channels_first() ? tile.cols : 1;
}

// How far on the next slab's values are, if a tile's transform should ask for them: where results
// drain to memory, reading has room. In elements; 0 for none.
inline std::ptrdiff_t ahead_of(const Plan& plan, const Operand& x) {
    const bool slabs_in_a_row = plan.fused && x.in_runs;
    return plan.stream && slabs_in_a_row ? plan.layout.cols * plan.slab_entries : 0;
}

// A tile of y from x, by the coefficients pre, center, scale, shift.
template <class T>
void apply_affine(const Plan& plan, const Operand& x, const Operand& y, const TileRange& tile,
                  const Entries<T>& entries, const Scratch<T>& scratch) noexcept {
    const auto field = [&](int i) { return entries.coefficient(i, tile.entry); };
    const T* pre = any_scaled(field(0), plan.entries_of(tile)) ? field(0) : nullptr;
    const Tile<const T> in = input_tile(x, tile, scratch.tile[0]);
    const Tile<T> out = output_tile(y, tile, scratch.tile[1]);
    kernels_for<T>().transform(in, out, tile.kernel_rows(), tile.kernel_cols(), run_of(plan, tile),
                               {pre, field(1), field(2), field(3)}, ahead_of(plan, x),
                               plan.stream && y.direct);
    finish_output(y, tile, scratch.tile[1]);
}

// A tile of dx from dy and x, by the coefficients pre, dy_pre, center, slope, level, scale.
template <class T>
void apply_input_gradient(const Plan& plan, const Operand& dy, const Operand& x, const Operand& dx,
                          const TileRange& tile, const Entries<T>& entries,
                          const Scratch<T>& scratch) noexcept {
    const auto field = [&](int i) { return entries.coefficient(i, tile.entry); };
    const std::ptrdiff_t n = plan.entries_of(tile);
    const bool scaled = any_scaled(field(0), n) || any_scaled(field(1), n);
    const InputGradient<T> coefficients{scaled ? field(0) : nullptr,
                                        scaled ? field(1) : nullptr,
                                        field(2),
                                        field(3),
                                        field(4),
                                        field(5)};
    const Tile<const T> dy_in = input_tile(dy, tile, scratch.tile[0]);
    const Tile<const T> x_in = input_tile(x, tile, scratch.tile[1]);
    const Tile<T> out = output_tile(dx, tile, scratch.tile[2]);
    kernels_for<T>().input_gradient(dy_in, x_in, out, tile.kernel_rows(), tile.kernel_cols(),
                                    run_of(plan, tile), coefficients, ahead_of(plan, x),
                                    plan.stream && dx.direct);
    finish_output(dx, tile, scratch.tile[2]);
}

}  // namespace fastbn
