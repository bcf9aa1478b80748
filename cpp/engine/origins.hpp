// Origins of 64-bit integers: for each channel an integer near its values, which the kernels see
// less that integer (engine/pack.cpp). Differences of up to 2^53 are exact; larger ones are rounded
// to a digit that is small beside the channel's spread. Empty for every other type.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/array.hpp"
#include "engine/layout.hpp"
#include "engine/weights.hpp"
#include "kernels/table.hpp"

namespace fastbn {

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
