// The statistics half of a forward pass: x's moments, span by span, then each channel's mean and
// variance from them. Knows nothing of y.
#pragma once

#include <cstddef>

#include "engine/dispatch.hpp"
#include "engine/merging.hpp"
#include "engine/operations.hpp"
#include "engine/passes.hpp"
#include "engine/statistics.hpp"

namespace fastbn {

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

// X: what x's values are read as, its own type or one that they are converted to.
template <class X>
class MomentsPass {
public:
    static constexpr int fields = 6;

    MomentsPass(const Plan& plan, const ArrayRef& x, double eps, const StatisticsOut& out)
        : plan_(plan), array_(x), x_(operand_of<X>(x, plan.layout)), eps_(eps), out_(out) {}

    void take_rooms(Rooms& rooms) { rooms.add(x_); }

    template <class C>
    void reduce(const Slab& slab, std::ptrdiff_t span, const Entries<C>& entries,
                const Scratch& scratch) const noexcept {
        sum_moments<X>(plan_, x_, slab, span, entries, scratch);
    }

    // Leaves the statistics of the slab's channels in the memory of their sums, side by side.
    template <class C>
    Statistics finalize(const Slab& slab, const Entries<C>& entries) const noexcept {
        merge_slab(plan_, slab, [&](const Merge& m) {
            channel_kernels().merge_moments(
                moments_at(entries, 0, slab.entry), static_cast<double>(m.before),
                moments_at(entries, m.span, m.entry), static_cast<double>(m.count), m.n);
        });
        const MomentsState state = moments_at(entries, 0, slab.entry);
        if (plan_.layout.repeat > 1) merge_columns(state, slab.channels, plan_.layout);
        const Statistics s{state.ref, state.offset, state.m2, state.m2_lo, state.sum};
        const double count = static_cast<double>(plan_.layout.count);
        channel_kernels().finalize_moments(state, count, eps_, s, slab.channels);
        if (array_.dtype == DType::float64) scan_extreme_channels(slab, s);
        copy_statistics(s, slab, out_);
        return s;
    }

private:
    // Those whose squares may have left float64's range, above or below.
    void scan_extreme_channels(const Slab& slab, const Statistics& s) const noexcept {
        for (std::ptrdiff_t c = 0; c < slab.channels; ++c) {
            if (is_safe(s.m2[c])) continue;
            const std::ptrdiff_t offset =
                channel_dims(array_, plan_.layout).offset(slab.channel + c);
            scan_channel(first_element(array_, plan_.layout) + offset,
                         reduced_dims(array_, plan_.layout), plan_.layout.count, eps_, s, c);
        }
    }

    const Plan& plan_;
    ArrayRef array_;
    Operand x_;
    double eps_;
    StatisticsOut out_;
};

}  // namespace fastbn
