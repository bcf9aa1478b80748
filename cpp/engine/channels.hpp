// What there is one of for each channel: parameters and running statistics, out of arrays of any
// layout and back; and the origins of 64-bit integers.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/array.hpp"
#include "engine/batch.hpp"
#include "engine/layout.hpp"
#include "engine/memory.hpp"
#include "engine/plan.hpp"
#include "engine/weights.hpp"
#include "numerics/coefficient_math.hpp"
#include "numerics/moments_math.hpp"

namespace fastbn {

// Raises std::invalid_argument for what the caller may have got wrong. allow_single: a channel
// whose weights add up to too little for an unbiased variance has its biased one remembered.
void check_running(const Running& running, const Batch& batch, const Weights& weights,
                   bool allow_single);

// A parameter, with a value for each channel, or `otherwise` for all of them where there is no
// array. It is read for some channels at a time, when their turn comes: of many channels with few
// values each, parameters are most of what there is to read. The array outlives it.
class ChannelParameter {
public:
    explicit ChannelParameter(double otherwise) : otherwise_(otherwise) {}
    ChannelParameter(const ArrayRef& array, double otherwise)
        : array_(array ? &array : nullptr),
          doubles_(array ? as_doubles(array) : nullptr),
          otherwise_(otherwise) {}
    ChannelParameter(ArrayRef&& array, double otherwise) = delete;

    explicit operator bool() const { return array_ != nullptr; }
    // The values of n channels from `first` on, as float64: where they are in the array, or written
    // to memory.
    const double* read(std::ptrdiff_t first, std::ptrdiff_t n, double* memory) const noexcept;
    void copy(std::ptrdiff_t first, std::ptrdiff_t n, double* to) const noexcept;

    // To read a slab's values at a time: takes staging memory for so many channels, in which they
    // are where they cannot be read in place.
    void take_staging(std::ptrdiff_t channels, Staging& staging) {
        staging_begin_ = staging.take_doubles(channels);
    }
    double* staged(std::byte* staging) const noexcept {
        return reinterpret_cast<double*>(staging + staging_begin_);
    }
    const double* read(const Slab& slab, std::byte* staging) const noexcept {
        return read(slab.channel, slab.channels, staged(staging));
    }

private:
    const ArrayRef* array_ = nullptr;
    const double* doubles_ = nullptr;  // null where they are not to be read in place
    double otherwise_;
    std::ptrdiff_t staging_begin_ = 0;
};

// visit(first, n) for all channels, so many at a time that their values fit the stack.
constexpr std::ptrdiff_t channels_at_once = 256;
template <class Visit>
void each_channels(std::ptrdiff_t channels, const Visit& visit) {
    for (std::ptrdiff_t first = 0; first < channels; first += channels_at_once) {
        visit(first, std::min(channels_at_once, channels - first));
    }
}

// Raises std::invalid_argument if any of n channels' values is negative.
void check_not_negative(const char* name, const ChannelParameter& parameter, std::ptrdiff_t n);

// Blends a batch's statistics into the running ones. statistics.count: null in unweighted
// statistics.
void update_running(const Running& running, const Statistics& statistics, const Features& features,
                    bool allow_single) noexcept;

// Of 64-bit integers, an integer near each channel's values, which the kernels see less that
// integer (engine/tiles.cpp). Differences of up to 2^53 are exact; larger ones are rounded to a
// digit that is small beside the channel's spread. Empty for every other type.
class ChannelOrigins {
public:
    // Where statistics of x are taken: of each channel the middle one of three values that have
    // weight, so that it is no outlier that stands alone, or 0 where none has.
    ChannelOrigins(const ArrayRef& x, const Layout& layout, const Weights& weights);
    // Where statistics are given: the integers nearest to the means.
    ChannelOrigins(const ArrayRef& x, const Layout& layout, const ChannelParameter& means);

    explicit operator bool() const { return !of_channel_.empty(); }
    // For the operand that is x: null for every other type.
    const std::uint64_t* data() const { return *this ? of_channel_.data() : nullptr; }

    // From given means, and their low parts, to those of what the kernels see of a slab's channels:
    // less the channels' origins, or the same where x is of another type.
    void read_means(const ChannelParameter& means, const ChannelParameter& means_lo,
                    const Slab& slab, std::byte* staging, ChannelParameters& to) const noexcept;
    // From the means of what the kernels see to those of the integers, of n channels from `first`
    // on. Either array may be null.
    void write_means(const Statistics& seen, std::ptrdiff_t first, std::ptrdiff_t n, double* mean,
                     double* mean_lo) const noexcept;

private:
    ChannelOrigins(const ArrayRef& x, const Layout& layout);

    DType dtype_;
    std::vector<std::uint64_t> of_channel_;  // as the bits of dtype_
};

}  // namespace fastbn
