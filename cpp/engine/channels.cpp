#include "engine/channels.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "engine/dispatch.hpp"
#include "engine/errors.hpp"
#include "engine/threads.hpp"

namespace fastbn {

// ---- Parameters and running statistics ----

const double* ChannelParameter::read(std::ptrdiff_t first, std::ptrdiff_t n,
                                     double* memory) const noexcept {
    if (doubles_ != nullptr) return doubles_ + first;
    copy(first, n, memory);
    return memory;
}

void ChannelParameter::copy(std::ptrdiff_t first, std::ptrdiff_t n, double* to) const noexcept {
    if (array_ != nullptr) {
        read_elements(*array_, first, n, to);
    } else {
        std::fill_n(to, n, otherwise_);
    }
}

void check_not_negative(const char* name, const ChannelParameter& parameter, std::ptrdiff_t n) {
    double memory[channels_at_once];
    const ValueRangeKernel find_range = value_range_kernels(DType::float64).value_range.tile;
    each_channels(n, [&](std::ptrdiff_t first, std::ptrdiff_t at_once) {
        const double* const values = parameter.read(first, at_once, memory);
        double least = 0.0;
        double largest = 0.0;
        double has_nan = 0.0;
        find_range({values, at_once}, {nullptr, 0}, 1, at_once, {&least, &largest, &has_nan});
        for (std::ptrdiff_t i = 0; i < at_once && least < 0.0; ++i) {
            if (values[i] < 0.0) {
                refuse(name, "not be negative",
                       shown(values[i]) + " in channel " + std::to_string(first + i));
            }
        }
    });
}

void check_running(const Running& running, const Batch& batch, const Weights& weights,
                   bool allow_single) {
    const Features& features = batch.features;
    check_parameter_shape("running_mean", running.mean, features);
    check_parameter_shape("running_var", running.var, features);
    if (!(running.momentum >= 0.0 && running.momentum <= 1.0)) {
        refuse("momentum", "be between 0 and 1", shown(running.momentum));
    }
    if (!(running.correction >= 0.0)) {
        refuse("correction", "not be negative", shown(running.correction));
    }
    if (features.empty() || allow_single) return;
    const double most = weights.largest_total(running.correction, batch);
    // Where no value has weight it is an empty batch.
    if (most > running.correction || most == 0.0) return;
    if (weights.largest_total() > running.correction) {
        refuse("where",
               "leave more than the correction of " + shown(running.correction) +
                   " where running statistics are given (so must lengths, which make a mask)",
               shown(most));
    }
    if (weights.differ() || weights.common_weight() != 1.0) {
        refuse("weights",
               "sum to more than the correction of " + shown(running.correction) +
                   " where running statistics are given",
               shown(most));
    }
    refuse("correction",
           "be less than the " + std::to_string(features.count) + " values per channel",
           shown(running.correction));
}

void update_running(const Running& running, const Statistics& statistics, const Features& features,
                    bool allow_single) noexcept {
    const auto is_finite = [](double value) { return std::isfinite(value); };
    const std::ptrdiff_t n = features.channels;
    const bool finite = std::all_of(statistics.mean, statistics.mean + n, is_finite) &&
                        std::all_of(statistics.var, statistics.var + n, is_finite);
    if (running.skip_nonfinite && !finite) return;
    const auto blend = [&](double old, double now) {
        return (1.0 - running.momentum) * old + running.momentum * now;
    };
    double mean[channels_at_once];
    double var[channels_at_once];
    each_channels(n, [&](std::ptrdiff_t first, std::ptrdiff_t at_once) {
        read_elements(running.mean, first, at_once, mean);
        read_elements(running.var, first, at_once, var);
        for (std::ptrdiff_t i = 0; i < at_once; ++i) {
            const std::ptrdiff_t c = first + i;
            const double count = statistics.count != nullptr ? statistics.count[c]
                                                             : static_cast<double>(features.count);
            const bool has_unbiased = count > running.correction;
            if (count == 0.0 || !(has_unbiased || allow_single)) continue;
            const double unbiased = has_unbiased ? count / (count - running.correction) : 1.0;
            mean[i] = blend(mean[i], statistics.mean[c]);
            var[i] = blend(var[i], statistics.var[c] * unbiased);
        }
        write_elements(mean, running.mean, first, at_once);
        write_elements(var, running.var, first, at_once);
    });
}

// ---- Origins ----

namespace {

std::uint64_t bits_at(const char* element, bool swapped) {
    std::uint64_t bits;
    std::memcpy(&bits, element, sizeof bits);
    return swapped ? __builtin_bswap64(bits) : bits;
}

// The second largest of three integers.
std::uint64_t middle_of(std::uint64_t a, std::uint64_t b, std::uint64_t c, DType dtype) {
    a = sortable(a, dtype);
    b = sortable(b, dtype);
    c = sortable(c, dtype);
    return sortable(std::max(std::min(a, b), std::min(std::max(a, b), c)), dtype);
}

// The integer nearest to a mean, of those that float64 and the type both hold; 0 for NaN.
std::uint64_t nearest(double mean, DType dtype) {
    if (std::isnan(mean)) return 0;
    const double whole = std::rint(mean);
    if (dtype == DType::int64) {
        return static_cast<std::uint64_t>(
            static_cast<std::int64_t>(std::clamp(whole, -0x1p63, 0x1p63 - 1024.0)));
    }
    return static_cast<std::uint64_t>(std::clamp(whole, 0.0, 0x1p64 - 2048.0));
}

// The integer exactly, as a double-double.
double in_two_parts(std::uint64_t bits, DType dtype, double& low) {
    constexpr int half = 32;
    const std::uint64_t lower = bits & 0xffffffffU;
    const double upper = dtype == DType::int64
                             ? static_cast<double>(static_cast<std::int64_t>(bits - lower))
                             : static_cast<double>(bits - lower);
    static_assert(half + half == 64);
    return two_sum(upper, static_cast<double>(lower), low);
}

}  // namespace

ChannelOrigins::ChannelOrigins(const ArrayRef& x, const Layout& layout)
    : dtype_(x.dtype),
      of_channel_(is_wide_integer(x.dtype) ? static_cast<std::size_t>(layout.channels) : 0) {}

ChannelOrigins::ChannelOrigins(const ArrayRef& x, const Layout& layout, const Weights& weights)
    : ChannelOrigins(x, layout) {
    if (!*this) return;
    const char* const first = first_element(x, layout);
    const Dims channels = channel_dims(x, layout);
    const Dims values = reduced_dims(x, layout);
    const std::ptrdiff_t bytes = layout.channels * layout.count * size_of(x.dtype);
    const Team team = weights.differ() ? choose_team(bytes, layout.channels) : Team{};
    parallel_ranges(team, layout.channels, [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
        for (std::ptrdiff_t c = begin; c < end; ++c) {
            const std::ptrdiff_t start = weights.next_with_weight(layout, c, 0);
            if (start == layout.count) continue;
            const auto value_from = [&](std::ptrdiff_t from) {
                const std::ptrdiff_t next = weights.next_with_weight(layout, c, from);
                const std::ptrdiff_t i = next == layout.count ? start : next;
                return bits_at(first + channels.offset(c) + values.offset(i), x.swapped);
            };
            of_channel_.data()[c] =
                middle_of(value_from(start), value_from(std::max(start, layout.count / 3)),
                          value_from(std::max(start, layout.count / 3 * 2)), x.dtype);
        }
    });
}

ChannelOrigins::ChannelOrigins(const ArrayRef& x, const Layout& layout,
                               const ChannelParameter& means)
    : ChannelOrigins(x, layout) {
    if (!*this) return;
    double values[channels_at_once];
    each_channels(layout.channels, [&](std::ptrdiff_t first, std::ptrdiff_t n) {
        means.copy(first, n, values);
        for (std::ptrdiff_t i = 0; i < n; ++i) {
            of_channel_.data()[first + i] = nearest(values[i], dtype_);
        }
    });
}

void ChannelOrigins::read_means(const ChannelParameter& means, const ChannelParameter& means_lo,
                                const Slab& slab, std::byte* staging,
                                ChannelParameters& to) const noexcept {
    to.mean = means.read(slab, staging);
    to.mean_lo = means_lo.read(slab, staging);
    if (!*this) return;
    double* const seen = means.staged(staging);
    double* const seen_lo = means_lo.staged(staging);
    for (std::ptrdiff_t i = 0; i < slab.channels; ++i) {
        double low;  // 0, since float64 holds an origin that is near a mean
        const std::uint64_t origin = of_channel_.data()[slab.channel + i];
        const double less = to.mean[i] - in_two_parts(origin, dtype_, low);
        seen[i] = two_sum(less, to.mean_lo[i], seen_lo[i]);
    }
    to.mean = seen;
    to.mean_lo = seen_lo;
}

void ChannelOrigins::write_means(const Statistics& seen, std::ptrdiff_t first, std::ptrdiff_t n,
                                 double* mean, double* mean_lo) const noexcept {
    for (std::ptrdiff_t i = 0; i < n; ++i) {
        double origin_lo;
        const double origin = in_two_parts(of_channel_.data()[first + i], dtype_, origin_lo);
        double error;
        const double high = two_sum(origin, seen.mean[i], error);
        double low;
        const double sum = two_sum(high, error + (origin_lo + seen.mean_lo[i]), low);
        if (mean != nullptr) mean[first + i] = sum;
        if (mean_lo != nullptr) mean_lo[first + i] = low;
    }
}

}  // namespace fastbn
