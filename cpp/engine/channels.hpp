// What there is one of for each channel: parameters and running statistics, out of arrays of any
// layout and back; and the origins of 64-bit integers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/array.hpp"
#include "engine/batch.hpp"
#include "engine/layout.hpp"
#include "engine/memory.hpp"
#include "engine/weights.hpp"
#include "kernels/table.hpp"
#include "numerics/moments_math.hpp"

namespace fastbn {

// Raises std::invalid_argument for what the caller may have got wrong. allow_single: a channel of
// which too little counts for an unbiased variance has its biased one remembered.
void check_running(const Running& running, const Batch& batch, const Weights& weights,
                   bool allow_single);

// A parameter's values in order, one per channel, as float64; `otherwise` for all of them where
// there is none.
class ChannelValues {
public:
    ChannelValues(const ArrayRef& parameter, const Features& features, double otherwise);
    // Where there is none, data() is null.
    ChannelValues(const ArrayRef& parameter, const Features& features);

    std::ptrdiff_t size() const { return size_; }
    double* data() const { return size_ == 0 ? nullptr : memory_.doubles(); }
    double& operator[](std::ptrdiff_t i) const { return data()[i]; }

private:
    std::ptrdiff_t size_;
    Buffer<1024> memory_;
};

// Raises std::invalid_argument if any is negative.
void check_not_negative(const char* name, const ChannelValues& channels);

// Blends a batch's statistics into the running ones, of which mean and var are the values that were
// read before anything was written. statistics.count: null where all values count once.
void update_running(const Running& running, const Statistics& statistics, const Features& features,
                    bool allow_single, const ChannelValues& mean,
                    const ChannelValues& var) noexcept;

// Of 64-bit integers, an integer near each channel's values, which the kernels see less that
// integer (engine/memory.cpp). Differences of up to 2^53 are exact; larger ones are rounded to a
// digit that is small beside the channel's spread. Empty for every other type.
class ChannelOrigins {
public:
    // Of each channel the middle one of three values that count, so that it is no outlier that
    // stands alone, or 0 where none counts: statistics of x are taken.
    ChannelOrigins(const ArrayRef& x, const Layout& layout, const Weights& weights);
    // The integers nearest to the means, from which they are then subtracted: x is seen less its
    // means, which are double-doubles.
    ChannelOrigins(const ArrayRef& x, const Layout& layout, double* means, double* means_lo);

    explicit operator bool() const { return !of_channel_.empty(); }
    // For the operand that is x: null for every other type.
    const std::uint64_t* data() const { return *this ? of_channel_.data() : nullptr; }

    // n channels' means, to what they are of the integers themselves. Either array may be null.
    void write_means(const Statistics& seen, std::ptrdiff_t first, std::ptrdiff_t n, double* mean,
                     double* mean_lo) const noexcept;

private:
    ChannelOrigins(const ArrayRef& x, const Layout& layout);

    DType dtype_;
    std::vector<std::uint64_t> of_channel_;  // as the bits of dtype_
};

}  // namespace fastbn
