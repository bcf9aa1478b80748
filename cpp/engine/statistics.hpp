// From sums to statistics: one channel's mean, variance and 1/std, from the moments of its parts.
#pragma once

#include <cstddef>

#include "engine/dims.hpp"
#include "engine/layout.hpp"
#include "kernels/welford.hpp"

namespace fastbn {

struct ChannelStatistics {
    double mean;
    double mean_lo;  // what float64 cannot hold of the mean
    double m2;
    double var;
    double invstd;
};

// welford.hpp's merge, out of line: that one is private to each file that includes it.
Partial<double> merge_parts(const Partial<double>& a, double count_a, const Partial<double>& b,
                            double count_b);

// Moments of the values of n <= max_repeat columns that hold `count` values each and are one
// channel. Equal counts need no divisions, and hundreds of columns add up pairwise to fewer
// roundings than in one merge after the other.
Partial<double> merge_columns(const Partial<double>* columns, std::ptrdiff_t n, double count);

// 1 / sqrt(var + eps); 0 where there is no spread at all, so that xhat is 0 and no NaN arises.
double invstd_of(double var, double eps);

// A channel that has NaN or infinity among its values gets NaN for every statistic.
ChannelStatistics finish_channel(const Partial<double>& moments, double count, double eps);

// Whether a float64 channel's squares may have left float64's range, above or below.
bool is_extreme(const Partial<double>& moments);

// The same statistics for such a channel, from a slow scan of its values, scaled to be moderate.
ChannelStatistics scan_channel(const char* first, const Dims& values, std::ptrdiff_t count,
                               double eps);

}  // namespace fastbn
