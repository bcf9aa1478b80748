// What all operations go by: the tiles of a span, how a kernel goes over one, and y of one from x.
// Knows no sums.
#pragma once

#include <cstddef>

#include "engine/coefficients.hpp"
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

// How a kernel walks a tile. It asks ahead for the next slab only where results go past the caches,
// since reading has room then.
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

}  // namespace fastbn
