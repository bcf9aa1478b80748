#include "engine/statistics.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/dispatch.hpp"
#include "engine/elements.hpp"
#include "kernels/welford.hpp"

namespace fastbn {
namespace {

// Below this, squares of deviations may have lost bits to gradual underflow.
constexpr double smallest_safe_m2 = 0x1p-900;

// (sum + sum_lo) / count as mean + mean_lo, to twice float64's precision.
void divide(double sum, double sum_lo, double count, double& mean, double& mean_lo) {
    double low;
    const double high = two_sum(sum, sum_lo, low);
    mean = quotient(high, low, count, mean_lo);
}

double sum_pairwise(const double* values, std::ptrdiff_t n) {
    constexpr std::ptrdiff_t short_enough = 8;
    if (n > short_enough) {
        return sum_pairwise(values, n / 2) + sum_pairwise(values + n / 2, n - n / 2);
    }
    double sum = 0.0;
    for (std::ptrdiff_t i = 0; i < n; ++i) sum += values[i];
    return sum;
}

template <class Visit>
void each_value(const char* first, const Dims& values, std::ptrdiff_t count, Visit&& visit) {
    each_stretch(values, 0, count,
                 [&](std::ptrdiff_t offset, std::ptrdiff_t length, std::ptrdiff_t stride) {
                     for (std::ptrdiff_t i = 0; i < length; ++i) {
                         visit(read_element<double>(first + offset + i * stride));
                     }
                 });
}

// visit(value, share) for those of a channel's values that count.
template <class Visit>
void each_counted(const ArrayRef& x, const Shares& shares, const Layout& layout,
                  std::ptrdiff_t channel, Visit&& visit) {
    const char* const first = first_element(x, layout) + channel_dims(x, layout).offset(channel);
    const Dims values = reduced_dims(x, layout);
    for (std::ptrdiff_t i = 0; i < layout.count; ++i) {
        const double share = shares.share(layout, channel, i);
        if (share > 0.0) visit(read_element<double>(first + values.offset(i)), share);
    }
}

struct Range {
    double low = std::numeric_limits<double>::infinity();
    double high = -std::numeric_limits<double>::infinity();
    bool finite = true;

    void add(double value) {
        finite = finite && std::isfinite(value);
        low = std::min(low, value);
        high = std::max(high, value);
    }
    // In units of 2^e, half the range is between 1/2 and 1, and no value exceeds 2^54: a range is
    // at least one unit in the last place of its ends.
    int exponent() const {
        int e = 0;
        std::frexp(high / 2 - low / 2, &e);
        return e;
    }
};

// With var = scaled_var * 4^e. Only values whose spread is subnormal meet the cap.
double invstd_of_scaled(double scaled_var, int e, double eps) {
    const double scaled_eps = std::ldexp(eps, -2 * e);
    if (!std::isfinite(scaled_eps)) return 1.0 / std::sqrt(eps);
    return std::min(std::ldexp(1.0 / std::sqrt(scaled_var + scaled_eps), -e),
                    std::numeric_limits<double>::max());
}

void write(const Statistics& out, std::ptrdiff_t c, double mean, double mean_lo, double m2,
           double var, double invstd) {
    out.mean[c] = mean;
    out.mean_lo[c] = mean_lo;
    out.m2[c] = m2;
    out.var[c] = var;
    out.invstd[c] = invstd;
}

// Of a channel that has NaN or infinity, or one value only; returns whether it was one.
bool write_if_plain(const Range& range, double eps, const Statistics& out, std::ptrdiff_t c) {
    constexpr double none = std::numeric_limits<double>::quiet_NaN();
    if (!range.finite) {
        write(out, c, none, none, none, none, none);
    } else if (range.low == range.high) {
        write(out, c, range.low, 0.0, 0.0, 0.0, eps == 0.0 ? 0.0 : 1.0 / std::sqrt(eps));
    } else {
        return false;
    }
    return true;
}

// Of values in units of 2^e.
void write_scaled(const Statistics& out, std::ptrdiff_t c, int e, double mean, double mean_lo,
                  double m2, double count, double eps) {
    const double var = m2 / count;
    write(out, c, std::ldexp(mean, e), std::ldexp(mean_lo, e), std::ldexp(m2, 2 * e),
          std::ldexp(var, 2 * e), invstd_of_scaled(var, e, eps));
}

}  // namespace

void merge_columns(const MomentsState& columns, std::ptrdiff_t channels,
                   const Layout& layout) noexcept {
    double offsets[max_repeat];
    double squares[max_repeat];
    const std::ptrdiff_t n = layout.repeat;
    const double count = static_cast<double>(layout.rows);
    for (std::ptrdiff_t c = 0; c < channels; ++c) {
        const std::ptrdiff_t first = c * n;
        const double ref = columns.ref[first];
        double sum = 0.0;
        double sum_lo = 0.0;
        for (std::ptrdiff_t i = 0; i < n; ++i) {
            const std::ptrdiff_t column = first + i;
            offsets[i] = (columns.ref[column] - ref) + columns.offset[column];
            squares[i] = columns.m2[column] + columns.m2_lo[column];
            double error;
            sum = two_sum(sum, columns.sum[column], error);
            sum_lo += columns.sum_lo[column] + error;
        }
        const double offset = sum_pairwise(offsets, n) / static_cast<double>(n);
        for (std::ptrdiff_t i = 0; i < n; ++i) {
            const double delta = offsets[i] - offset;
            squares[i] += delta * delta * count;
        }
        columns.ref[c] = ref;
        columns.offset[c] = offset;
        columns.m2[c] = sum_pairwise(squares, n);
        columns.m2_lo[c] = 0.0;
        columns.sum[c] = sum;
        columns.sum_lo[c] = sum_lo;
    }
}

void merge_weighted_columns(const WeightedState& columns, std::ptrdiff_t channels,
                            const Layout& layout) noexcept {
    const auto at = [](const WeightedState& s, std::ptrdiff_t i) {
        const MomentsState& m = s.moments;
        return WeightedState{
            {m.ref + i, m.offset + i, m.m2 + i, m.m2_lo + i, m.sum + i, m.sum_lo + i}, s.count + i};
    };
    for (std::ptrdiff_t c = 0; c < channels; ++c) {
        const WeightedState first = at(columns, c * layout.repeat);
        for (std::ptrdiff_t i = 1; i < layout.repeat; ++i) {
            channel_kernels().merge_weighted(first, at(columns, c * layout.repeat + i), 1);
        }
        const WeightedState to = at(columns, c);
        *to.moments.ref = *first.moments.ref;
        *to.moments.offset = *first.moments.offset;
        *to.moments.m2 = *first.moments.m2;
        *to.moments.m2_lo = *first.moments.m2_lo;
        *to.moments.sum = *first.moments.sum;
        *to.moments.sum_lo = *first.moments.sum_lo;
        *to.count = *first.count;
    }
}

bool is_safe(double m2) noexcept { return m2 >= smallest_safe_m2 && std::isfinite(m2); }

void scan_channel(const char* first, const Dims& values, std::ptrdiff_t count, double eps,
                  const Statistics& out, std::ptrdiff_t c) noexcept {
    Range range;
    each_value(first, values, count, [&](double value) { range.add(value); });
    if (write_if_plain(range, eps, out, c)) return;
    const int e = range.exponent();
    double sum = 0.0;
    double sum_lo = 0.0;
    each_value(first, values, count, [&](double value) {
        double error;
        sum = two_sum(sum, std::ldexp(value, -e), error);
        sum_lo += error;
    });
    double mean;
    double mean_lo;
    divide(sum, sum_lo, static_cast<double>(count), mean, mean_lo);
    double m2 = 0.0;
    double m2_lo = 0.0;
    each_value(first, values, count, [&](double value) {
        const double d = (std::ldexp(value, -e) - mean) - mean_lo;
        double error;
        m2 = two_sum(m2, d * d, error);
        m2_lo += error;
    });
    write_scaled(out, c, e, mean, mean_lo, m2 + m2_lo, static_cast<double>(count), eps);
}

void scan_weighted_channel(const ArrayRef& x, const Shares& shares, const Layout& layout,
                           std::ptrdiff_t channel, double eps, const Statistics& out,
                           std::ptrdiff_t c) noexcept {
    Range range;
    const auto each = [&](const auto& visit) { each_counted(x, shares, layout, channel, visit); };
    double largest = 0.0;
    double shift = 0.0;  // the value with the largest share, as in kernels/weighted.hpp
    each([&](double value, double share) {
        range.add(value);
        shift = share > largest ? value : shift;
        largest = std::max(largest, share);
    });
    if (write_if_plain(range, eps, out, c)) return;
    const int e = range.exponent();
    shift = std::ldexp(shift, -e);
    double sum = 0.0;
    double count = 0.0;
    each([&](double value, double share) {
        sum += share * (std::ldexp(value, -e) - shift);
        count += share;
    });
    double mean_lo;
    const double mean = two_sum(shift, sum / count, mean_lo);
    double m2 = 0.0;
    each([&](double value, double share) {
        const double d = (std::ldexp(value, -e) - mean) - mean_lo;
        m2 += share * (d * d);
    });
    write_scaled(out, c, e, mean, mean_lo, m2, count, eps);
}

void copy_statistics(const Statistics& statistics, const Slab& slab,
                     const StatisticsOut& out) noexcept {
    const auto copy = [&](const double* values, double* to) {
        if (to != nullptr) std::copy_n(values, slab.channels, to + slab.channel);
    };
    copy(statistics.mean, out.mean);
    copy(statistics.mean_lo, out.mean_lo);
    copy(statistics.var, out.var);
    copy(statistics.invstd, out.invstd);
    copy(statistics.m2, out.m2);
}

}  // namespace fastbn
