// The statistics half of a forward pass in which values differ in how much they count: see
// moments_pass.hpp for the one in which they do not. Knows nothing of y.
#pragma once

#include <algorithm>
#include <cstddef>

#include "engine/dispatch.hpp"
#include "engine/merging.hpp"
#include "engine/operations.hpp"
#include "engine/passes.hpp"
#include "engine/shares.hpp"
#include "engine/statistics.hpp"

namespace fastbn {

// X: float or double, to which x is converted if it is neither.
template <class X>
class WeightedPass {
public:
    static constexpr int fields = 7;

    WeightedPass(const Plan& plan, const ArrayRef& x, const Shares& shares, double eps,
                 const StatisticsOut& out)
        : plan_(plan),
          array_(x),
          shares_(shares),
          x_(operand_of<X>(x, plan.layout)),
          eps_(eps),
          out_(out) {}

    void take_rooms(Rooms& rooms) {
        rooms.add(x_);
        if (!shares_.is_direct()) rooms.add(packed_shares_);
    }

    template <class C>
    void reduce(const Slab& slab, std::ptrdiff_t span, const Entries<C>& entries,
                const Scratch& scratch) const noexcept {
        for (int i = 0; i < fields; ++i) {
            std::fill_n(entries.sum(i, span, slab.entry), slab.entries, 0.0);
        }
        const WeightedMoments<X>& kernels = weighted_kernels<X>();
        each_tile(plan_, slab, span, [&](const TileRange& tile, std::ptrdiff_t) {
            const WeightedState state = state_at(entries, span, tile.entry);
            auto* const room = scratch.room<std::byte>(packed_shares_);
            switch (shares_.form()) {
                case Shares::Form::by_row:
                    return fold(kernels.by_row, RowShares{shares_.rows<double>(tile, room)}, tile,
                                state, scratch);
                case Shares::Form::by_mask:
                    return fold(kernels.by_mask,
                                ElementShares<std::uint8_t>{shares_.mask(tile, room)}, tile, state,
                                scratch);
                case Shares::Form::by_element:
                    return fold(kernels.by_element,
                                ElementShares<double>{shares_.elements<double>(tile, room)}, tile,
                                state, scratch);
            }
        });
    }

    // Leaves the statistics of the slab's channels in the memory of their sums, side by side.
    template <class C>
    Statistics finalize(const Slab& slab, const Entries<C>& entries) const noexcept {
        merge_slab(plan_, slab, [&](const Merge& m) {
            channel_kernels().merge_weighted(state_at(entries, 0, slab.entry),
                                             state_at(entries, m.span, m.entry), m.n);
        });
        const WeightedState state = state_at(entries, 0, slab.entry);
        if (plan_.layout.repeat > 1) merge_weighted_columns(state, slab.channels, plan_.layout);
        const MomentsState& sums = state.moments;
        const Statistics s{sums.ref, sums.offset, sums.m2, sums.m2_lo, sums.sum};
        channel_kernels().finalize_weighted(state, eps_, s, slab.channels);
        if (array_.dtype == DType::float64) scan_extreme_channels(slab, s, state.count);
        for (std::ptrdiff_t c = 0; c < slab.channels; ++c) {
            out_.count[slab.channel + c] = state.count[c] * shares_.unit();
            if (out_.m2) s.m2[c] *= shares_.unit();
        }
        copy_statistics(s, slab, out_);
        return s;
    }

private:
    template <class C>
    static WeightedState state_at(const Entries<C>& entries, std::ptrdiff_t span,
                                  std::ptrdiff_t entry) {
        return {moments_at(entries, span, entry), entries.sum(6, span, entry)};
    }

    template <class S>
    void fold(const WeightedKernels<X, S>& kernels, const S& shares, const TileRange& tile,
              const WeightedState& state, const Scratch& scratch) const noexcept {
        const Tile<const X> in = input_tile<X>(x_, tile, scratch);
        if (plan_.layout.channels_first()) {
            kernels.rows(in, shares, tile.rows, tile.cols, state);
        } else {
            kernels.columns(in, shares, tile.kernel_rows(), tile.kernel_cols(), state,
                            scratch.column_sums);
        }
    }

    void scan_extreme_channels(const Slab& slab, const Statistics& s,
                               const double* counts) const noexcept {
        for (std::ptrdiff_t c = 0; c < slab.channels; ++c) {
            if (is_safe(s.m2[c]) || counts[c] == 0.0) continue;
            scan_weighted_channel(array_, shares_, plan_.layout, slab.channel + c, eps_, s, c);
        }
    }

    const Plan& plan_;
    ArrayRef array_;
    const Shares& shares_;
    Operand x_;
    Operand packed_shares_ = Shares::packed();
    double eps_;
    StatisticsOut out_;
};

}  // namespace fastbn
