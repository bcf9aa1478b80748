#include "engine/origins.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/threads.hpp"
#include "numerics/moments_math.hpp"

namespace fastbn {
namespace {

std::uint64_t bits_at(const char* element, bool swapped) {
    std::uint64_t bits;
    std::memcpy(&bits, element, sizeof bits);
    return swapped ? __builtin_bswap64(bits) : bits;
}

// The second largest of three integers.
std::uint64_t middle_of(std::uint64_t a, std::uint64_t b, std::uint64_t c, DType dtype) {
    // Flipping the highest bit puts signed integers in the order of unsigned ones.
    const std::uint64_t flipped = dtype == DType::int64 ? std::uint64_t{1} << 63 : 0;
    a ^= flipped;
    b ^= flipped;
    c ^= flipped;
    return std::max(std::min(a, b), std::min(std::max(a, b), c)) ^ flipped;
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
            const std::ptrdiff_t start = weights.next_counted(layout, c, 0);
            if (start == layout.count) continue;
            const auto value_from = [&](std::ptrdiff_t from) {
                const std::ptrdiff_t next = weights.next_counted(layout, c, from);
                const std::ptrdiff_t i = next == layout.count ? start : next;
                return bits_at(first + channels.offset(c) + values.offset(i), x.swapped);
            };
            of_channel_.data()[c] =
                middle_of(value_from(start), value_from(std::max(start, layout.count / 3)),
                          value_from(std::max(start, layout.count / 3 * 2)), x.dtype);
        }
    });
}

ChannelOrigins::ChannelOrigins(const ArrayRef& x, const Layout& layout, double* means,
                               double* means_lo)
    : ChannelOrigins(x, layout) {
    if (!*this) return;
    for (std::ptrdiff_t c = 0; c < layout.channels; ++c) {
        const std::uint64_t origin = nearest(means[c], dtype_);
        of_channel_.data()[c] = origin;
        double low;
        const double less = means[c] - in_two_parts(origin, dtype_, low);  // whose low part is 0
        means[c] = two_sum(less, means_lo[c], means_lo[c]);
    }
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
