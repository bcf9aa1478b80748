#include "engine/statistics.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace fastbn {
namespace {

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
constexpr ChannelStatistics undefined{not_a_number, not_a_number, not_a_number, not_a_number,
                                      not_a_number};

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
    each_run(values, 0, count,
             [&](std::ptrdiff_t offset, std::ptrdiff_t length, std::ptrdiff_t stride) {
                 for (std::ptrdiff_t i = 0; i < length; ++i) {
                     double value;
                     std::memcpy(&value, first + offset + i * stride, sizeof value);
                     visit(value);
                 }
             });
}

// With var = scaled_var * 4^e. Only values whose spread is subnormal meet the cap.
double invstd_of_scaled(double scaled_var, int e, double eps) {
    const double scaled_eps = std::ldexp(eps, -2 * e);
    if (!std::isfinite(scaled_eps)) return 1.0 / std::sqrt(eps);
    return std::min(std::ldexp(1.0 / std::sqrt(scaled_var + scaled_eps), -e),
                    std::numeric_limits<double>::max());
}

}  // namespace

Partial<double> merge_parts(const Partial<double>& a, double count_a, const Partial<double>& b,
                            double count_b) {
    return merge(a, count_a, b, count_b);
}

Partial<double> merge_columns(const Partial<double>* columns, std::ptrdiff_t n, double count) {
    double offsets[max_repeat];
    double squares[max_repeat];
    const double ref = columns[0].ref;
    Partial<double> all{};
    for (std::ptrdiff_t i = 0; i < n; ++i) {
        offsets[i] = (columns[i].ref - ref) + columns[i].offset;
        squares[i] = columns[i].m2 + columns[i].m2_lo;
        double error;
        all.sum = two_sum(all.sum, columns[i].sum, error);
        all.sum_lo += columns[i].sum_lo + error;
    }
    const double offset = sum_pairwise(offsets, n) / static_cast<double>(n);
    for (std::ptrdiff_t i = 0; i < n; ++i) {
        const double delta = offsets[i] - offset;
        squares[i] += delta * delta * count;
    }
    all.ref = ref;
    all.offset = offset;
    all.m2 = sum_pairwise(squares, n);
    return all;
}

double invstd_of(double var, double eps) {
    const double spread = var + eps;
    return spread == 0.0 ? 0.0 : 1.0 / std::sqrt(spread);
}

ChannelStatistics finish_channel(const Partial<double>& moments, double count, double eps) {
    if (!std::isfinite(moments.m2) || !std::isfinite(moments.sum)) return undefined;
    ChannelStatistics s{};
    if (moments.m2 == 0.0) {
        s.mean = moments.ref;
    } else {
        divide(moments.sum, moments.sum_lo, count, s.mean, s.mean_lo);
    }
    s.m2 = moments.m2 + moments.m2_lo;
    s.var = s.m2 / count;
    s.invstd = invstd_of(s.var, eps);
    return s;
}

bool is_extreme(const Partial<double>& moments) {
    return !std::isfinite(moments.m2) || !std::isfinite(moments.sum) ||
           moments.m2 < smallest_safe_m2;
}

ChannelStatistics scan_channel(const char* first, const Dims& values, std::ptrdiff_t count,
                               double eps) {
    double low = std::numeric_limits<double>::infinity();
    double high = -low;
    bool finite = true;
    each_value(first, values, count, [&](double value) {
        finite = finite && std::isfinite(value);
        low = std::min(low, value);
        high = std::max(high, value);
    });
    if (!finite) return undefined;
    if (low == high) return {low, 0.0, 0.0, 0.0, invstd_of(0.0, eps)};

    // In units of 2^e, half the range is between 1/2 and 1, and no value exceeds 2^54: a range is
    // at least one unit in the last place of its ends.
    int e = 0;
    std::frexp(high / 2 - low / 2, &e);
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
    m2 += m2_lo;
    const double var = m2 / static_cast<double>(count);
    return {std::ldexp(mean, e), std::ldexp(mean_lo, e), std::ldexp(m2, 2 * e),
            std::ldexp(var, 2 * e), invstd_of_scaled(var, e, eps)};
}

}  // namespace fastbn
