// Statistics of two sets of values put together, when the values themselves are gone.
#include <cmath>
#include <cstddef>

#include "engine/channels.hpp"
#include "engine/dispatch.hpp"
#include "engine/errors.hpp"
#include "engine/memory.hpp"
#include "engine/operations.hpp"
#include "engine/statistics.hpp"

namespace fastbn {
namespace {

// The arrays of a set, to be read.
struct SetReader {
    explicit SetReader(const SetStatistics& set)
        : count(set.count, set.count_of_each),
          mean(set.mean, 0.0),
          mean_lo(set.mean_lo, 0.0),
          m2(set.m2, 0.0),
          m2_lo(set.m2_lo, 0.0),
          min(set.min, not_a_number),
          max(set.max, not_a_number) {}

    // Those of n channels from `first` on; `memory` is for copies of what cannot be read in place.
    CentralMoments<const double*> moments(std::ptrdiff_t first, std::ptrdiff_t n,
                                          Arrays& memory) const noexcept {
        return {count.read(first, n, memory.doubles(n)), mean.read(first, n, memory.doubles(n)),
                mean_lo.read(first, n, memory.doubles(n)), m2.read(first, n, memory.doubles(n)),
                m2_lo.read(first, n, memory.doubles(n))};
    }

    ChannelParameter count;
    ChannelParameter mean;
    ChannelParameter mean_lo;
    ChannelParameter m2;
    ChannelParameter m2_lo;
    ChannelParameter min;
    ChannelParameter max;
};

void check_set(const char* name, const SetStatistics& set, const ArrayRef& mean) {
    for (const ArrayRef* array :
         {&set.count, &set.mean, &set.mean_lo, &set.m2, &set.m2_lo, &set.min, &set.max}) {
        if (*array && !array->has_shape_of(mean)) {
            refuse(name, "have arrays of the shape " + shown_shape(mean.shape, mean.ndim),
                   shown_shape(array->shape, array->ndim));
        }
    }
}

void check_counts(const SetReader& a, const SetReader& b, std::ptrdiff_t channels) {
    constexpr std::ptrdiff_t bytes = 2 * (bytes_of_doubles(channels_at_once) + red_zone);
    each_channels(channels, [&](std::ptrdiff_t first, std::ptrdiff_t n) {
        const Buffer<bytes> memory(bytes);
        Arrays arrays(memory.data());
        const double* const count_a = a.count.read(first, n, arrays.doubles(n));
        const double* const count_b = b.count.read(first, n, arrays.doubles(n));
        for (std::ptrdiff_t i = 0; i < n; ++i) {
            const double count = count_a[i] + count_b[i];
            if (!std::isfinite(count)) refuse("count", "be finite and >= 0", shown(count));
        }
    });
}

// The least values of both sets (sign 1), or the largest ones (-1). Where a set has no values of a
// channel, the other's counts; else NaN, which says that there is NaN among the values, remains.
void merge_extremes(const double* count_a, const double* a, const double* count_b, const double* b,
                    double sign, double* to, std::ptrdiff_t n) noexcept {
    for (std::ptrdiff_t i = 0; i < n; ++i) {
        const bool is_first = sign * a[i] < sign * b[i] || std::isnan(a[i]);
        const double of_both = is_first ? a[i] : b[i];
        to[i] = count_a[i] == 0.0 ? b[i] : (count_b[i] == 0.0 ? a[i] : of_both);
    }
}

}  // namespace

void merge(const SetStatistics& a, const SetStatistics& b, CentralMoments<double*> out, double* min,
           double* max) {
    check_set("a", a, a.mean);
    check_set("b", b, a.mean);
    const SetReader set_a(a);
    const SetReader set_b(b);
    const std::ptrdiff_t channels = a.mean.size();
    if (a.count || b.count) check_counts(set_a, set_b, channels);
    // For a count that is not asked for, and for copies of the seven arrays of each set.
    constexpr std::ptrdiff_t bytes = 15 * (bytes_of_doubles(channels_at_once) + red_zone);
    each_channels(channels, [&](std::ptrdiff_t first, std::ptrdiff_t n) {
        const Buffer<bytes> memory(bytes);
        Arrays arrays(memory.data());
        double* const count = arrays.doubles(n);
        const CentralMoments<const double*> of_a = set_a.moments(first, n, arrays);
        const CentralMoments<const double*> of_b = set_b.moments(first, n, arrays);
        moments_table().merge_central(
            of_a, of_b,
            {out.count == nullptr ? count : out.count + first, out.mean + first,
             out.mean_lo + first, out.m2 + first, out.m2_lo + first},
            n);
        if (min == nullptr) return;
        merge_extremes(of_a.count, set_a.min.read(first, n, arrays.doubles(n)), of_b.count,
                       set_b.min.read(first, n, arrays.doubles(n)), 1.0, min + first, n);
        merge_extremes(of_a.count, set_a.max.read(first, n, arrays.doubles(n)), of_b.count,
                       set_b.max.read(first, n, arrays.doubles(n)), -1.0, max + first, n);
    });
}

}  // namespace fastbn
