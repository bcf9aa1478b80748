// Statistics where the kernels' plain arithmetic does not reach: channels that are several columns,
// and float64 data whose squares are no float64 numbers.
#pragma once

#include <cstddef>

#include "engine/dims.hpp"
#include "engine/layout.hpp"
#include "engine/operations.hpp"
#include "engine/plan.hpp"
#include "engine/shares.hpp"
#include "kernels/data.hpp"

namespace fastbn {

// Each channel's layout.repeat neighbouring columns into one entry per channel. All columns hold
// equally many values, layout.rows of them, which needs no divisions; and many columns add up
// pairwise to fewer roundings than in one merge after the other.
void merge_columns(const MomentsState& columns, std::ptrdiff_t channels,
                   const Layout& layout) noexcept;
// The same where columns count differently, one merge after the other.
void merge_weighted_columns(const WeightedState& columns, std::ptrdiff_t channels,
                            const Layout& layout) noexcept;

// Whether squares that add up to m2 can have lost nothing to float64's range.
bool is_safe(double m2) noexcept;

// Channel c's statistics from a slow scan of its values, scaled to be moderate.
void scan_channel(const char* first, const Dims& values, std::ptrdiff_t count, double eps,
                  const Statistics& out, std::ptrdiff_t c) noexcept;
// The same of x's channel `channel`, some of whose values count.
void scan_weighted_channel(const ArrayRef& x, const Shares& shares, const Layout& layout,
                           std::ptrdiff_t channel, double eps, const Statistics& out,
                           std::ptrdiff_t c) noexcept;

// The statistics of a slab's channels to where the caller wants them.
void copy_statistics(const Statistics& statistics, const Slab& slab,
                     const StatisticsOut& out) noexcept;

}  // namespace fastbn
