#include "engine/statistics.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

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
                         double value;
                         std::memcpy(&value, first + offset + i * stride, sizeof value);
                         visit(value);
                     }
                 });
}

struct Range {
    double low = std::numeric_limits<double>::infinity();
    double high = -std::numeric_limits<double>::infinity();
    bool finite = true;
};

Range range_of(const char* first, const Dims& values, std::ptrdiff_t count) {
    Range range;
    each_value(first, values, count, [&](double value) {
        range.finite = range.finite && std::isfinite(value);
        range.low = std::min(range.low, value);
        range.high = std::max(range.high, value);
    });
    return range;
}

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

bool is_safe(double m2) noexcept { return m2 >= smallest_safe_m2 && std::isfinite(m2); }

void scan_channel(const char* first, const Dims& values, std::ptrdiff_t count, double eps,
                  const Statistics& out, std::ptrdiff_t c) noexcept {
    const Range range = range_of(first, values, count);
    if (!range.finite) {
        constexpr double none = std::numeric_limits<double>::quiet_NaN();
        return write(out, c, none, none, none, none, none);
    }
    if (range.low == range.high) {
        return write(out, c, range.low, 0.0, 0.0, 0.0, eps == 0.0 ? 0.0 : 1.0 / std::sqrt(eps));
    }

    // In units of 2^e, half the range is between 1/2 and 1, and no value exceeds 2^54: a range is
    // at least one unit in the last place of its ends.
    int e = 0;
    std::frexp(range.high / 2 - range.low / 2, &e);
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
    write(out, c, std::ldexp(mean, e), std::ldexp(mean_lo, e), std::ldexp(m2, 2 * e),
          std::ldexp(var, 2 * e), invstd_of_scaled(var, e, eps));
}

}  // namespace fastbn
