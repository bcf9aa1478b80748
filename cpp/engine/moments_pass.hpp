// The statistics half of a forward pass: x's moments, span by span, then each channel's mean and
// variance from them. Knows nothing of y.
#pragma once

#include <cstddef>
#include <type_traits>

#include "engine/operations.hpp"
#include "engine/passes.hpp"
#include "engine/statistics.hpp"

namespace fastbn {

template <class T>
class MomentsPass {
public:
    MomentsPass(const Plan& plan, const ArrayRef& x, double eps, const StatisticsOut& out)
        : plan_(plan),
          x_(operand_of(x, plan.layout)),
          first_(first_element(x, plan.layout)),
          channels_(channel_dims(x, plan.layout)),
          values_(reduced_dims(x, plan.layout)),
          eps_(eps),
          out_(out) {}

    const Operand& x() const { return x_; }

    void reduce(const Slab& slab, std::ptrdiff_t span, const Entries<T>& entries,
                const Scratch<T>& scratch) const noexcept {
        sum_moments(plan_, x_, slab, span, entries, scratch);
    }

    ChannelStatistics finalize(std::ptrdiff_t channel, const Entries<T>& entries) const noexcept {
        const Partial<double> merged = merge_channel(channel, entries);
        const double count = static_cast<double>(plan_.layout.count);
        const bool rescue = std::is_same_v<T, double> && is_extreme(merged);
        const ChannelStatistics s = rescue ? scan_channel(first_ + channels_.offset(channel),
                                                          values_, plan_.layout.count, eps_)
                                           : finish_channel(merged, count, eps_);
        if (out_.mean) out_.mean[channel] = s.mean;
        if (out_.var) out_.var[channel] = s.var;
        if (out_.invstd) out_.invstd[channel] = s.invstd;
        if (out_.m2) out_.m2[channel] = s.m2;
        return s;
    }

private:
    Partial<double> merge_channel(std::ptrdiff_t channel, const Entries<T>& entries) const {
        const std::ptrdiff_t repeat = plan_.layout.repeat;
        if (repeat == 1) return merge_spans(channel, entries);
        Partial<double> columns[max_repeat];
        for (std::ptrdiff_t i = 0; i < repeat; ++i) {
            columns[i] = merge_spans(channel * repeat + i, entries);
        }
        return merge_columns(columns, repeat, static_cast<double>(plan_.layout.rows));
    }

    Partial<double> merge_spans(std::ptrdiff_t entry, const Entries<T>& entries) const {
        Partial<double> all = read(entries, 0, entry);
        std::ptrdiff_t count = plan_.span_count(0);
        for (std::ptrdiff_t span = 1; span < plan_.spans; ++span) {
            const std::ptrdiff_t more = plan_.span_count(span);
            all = merge_parts(all, static_cast<double>(count), read(entries, span, entry),
                              static_cast<double>(more));
            count += more;
        }
        return all;
    }

    static Partial<double> read(const Entries<T>& entries, std::ptrdiff_t span,
                                std::ptrdiff_t entry) {
        const auto field = [&](int i) { return *entries.sum(i, span, entry); };
        return {field(0), field(1), field(2), field(3), field(4), field(5)};
    }

    const Plan& plan_;
    Operand x_;
    const char* first_;
    Dims channels_;
    Dims values_;
    double eps_;
    StatisticsOut out_;
};

}  // namespace fastbn
