// The statistics half of a forward pass: x's moments, span by span, then each channel's mean and
// variance from them. Knows nothing of y.
#pragma once

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include "engine/dispatch.hpp"
#include "engine/merging.hpp"
#include "engine/operations.hpp"
#include "engine/passes.hpp"
#include "engine/statistics.hpp"

namespace fastbn {

template <class T>
class MomentsPass {
public:
    MomentsPass(const Plan& plan, const ArrayRef& x, double eps, const StatisticsOut& out)
        : plan_(plan), array_(x), x_(operand_of(x, plan.layout)), eps_(eps), out_(out) {}

    const Operand& x() const { return x_; }

    void reduce(const Slab& slab, std::ptrdiff_t span, const Entries<T>& entries,
                const Scratch<T>& scratch) const noexcept {
        sum_moments(plan_, x_, slab, span, entries, scratch);
    }

    // Leaves the statistics of the slab's channels in the memory of their sums, side by side.
    Statistics finalize(const Slab& slab, const Entries<T>& entries) const noexcept {
        merge_slab(plan_, slab, [&](const Merge& m) {
            kernels_for<T>().merge_moments(
                moments_at(entries, 0, slab.entry), static_cast<double>(m.before),
                moments_at(entries, m.span, m.entry), static_cast<double>(m.count), m.n);
        });
        const MomentsState sums = moments_at(entries, 0, slab.entry);
        if (plan_.layout.repeat > 1) merge_columns(sums, slab.channels, plan_.layout);
        const Statistics s{sums.ref, sums.offset, sums.m2, sums.m2_lo, sums.sum};
        const double count = static_cast<double>(plan_.layout.count);
        kernels_for<T>().finalize_moments(sums, count, eps_, s, slab.channels);
        if (std::is_same_v<T, double>) scan_extreme_channels(slab, s);
        copy_out(s.mean, slab, out_.mean);
        copy_out(s.var, slab, out_.var);
        copy_out(s.invstd, slab, out_.invstd);
        copy_out(s.m2, slab, out_.m2);
        return s;
    }

private:
    static void copy_out(const double* values, const Slab& slab, double* to) noexcept {
        if (to) std::copy_n(values, slab.channels, to + slab.channel);
    }

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
