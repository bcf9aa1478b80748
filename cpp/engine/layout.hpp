// How an array's axes become the loops of the kernels: x as (outer, channel, inner). Where there
// are sums, it is decided from x and the form of its weights alone, so that which values are summed
// in which order does not depend on where the result goes; a transform without sums may go by y.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/array.hpp"
#include "engine/batch.hpp"
#include "simd/tile.hpp"

namespace fastbn {

// Channels of up to so many neighbouring values may be taken as that many columns each.
constexpr std::ptrdiff_t max_inner_fold = 127;

// Rows of few columns are folded into one of up to so many.
constexpr std::ptrdiff_t max_folded_cols = 256;

// For each channel (channels first) or once for all (channels last), x is rows x cols.
struct Layout {
    // A tile's columns are channels, or `inner_fold` neighbours are one channel; else they are
    // values of one channel.
    bool channels_last = false;
    std::ptrdiff_t channels = 0;
    std::ptrdiff_t count = 0;  // values per channel
    std::ptrdiff_t rows = 1;
    std::ptrdiff_t cols = 1;
    std::ptrdiff_t inner_fold = 1;  // channels_last: neighbouring columns that are one channel
    std::ptrdiff_t row_fold = 1;    // channels_last: rows of few columns that kernels take as one
    bool direct = false;            // the array's own memory can be given to the kernels

    AxisList reduced_axes;  // in the order of the loops
    AxisList channel_axes;
    int inner_axes = 0;  // how many of reduced_axes make up the columns
    bool flipped[max_dimensions] = {};

    // The rows that are left over where others are folded.
    std::ptrdiff_t leftover_rows() const { return rows % row_fold; }
    bool channels_first() const { return !channels_last; }
};

Layout layout_of(const ArrayRef& x, const Features& features);

// An array of x's shape, seen through x's layout, for kernels that read or write `kernel_dtype`.
struct Operand {
    char* base = nullptr;
    DType dtype = DType::float64;
    bool swapped = false;
    DType kernel_dtype = DType::float64;
    // What the kernels see of 64-bit integers is each value's difference from an integer near it,
    // its channel's origin: a double holds that where it does not hold the value. One for each
    // channel, as the bits of dtype; null where dtype is another.
    const std::uint64_t* origins = nullptr;
    bool channels_last = false;  // a tile's columns are channels
    Dims rows;
    Dims cols;
    Dims channels;                  // channels_first only: where each channel's tile begins
    std::ptrdiff_t row_stride = 0;  // in bytes, where walkable
    bool walkable = false;          // columns are side by side in memory, rows evenly spaced
    bool direct = false;            // walkable, and of kernel_dtype: kernels take it as it is
    bool dense_rows = false;        // a row begins where the one before it ends, or it is packed so
    bool adjacent_channels = false;  // channels_first: channels follow each other along a row
    bool transposed = false;         // not columns, but rows are side by side in memory
    // Where not direct: where its staging buffer begins in a thread's memory, and where transposed
    // and converted another one.
    std::ptrdiff_t staging_begin = 0;
    std::ptrdiff_t stored_staging_begin = 0;

    bool converted() const { return swapped || dtype != kernel_dtype; }

    explicit operator bool() const { return base != nullptr; }
};

// An empty operand for an empty array.
Operand operand_of(const ArrayRef& array, const Layout& layout, DType kernel_dtype,
                   const std::uint64_t* origins = nullptr);

// The loops over one channel's values, and over the channels, whichever come first.
Dims reduced_dims(const ArrayRef& array, const Layout& layout);
Dims channel_dims(const ArrayRef& array, const Layout& layout);
// The array's first element in the order of the loops: the far end of every flipped axis.
char* first_element(const ArrayRef& array, const Layout& layout);
// n of a channel's elements from `begin` on, in the order of reduced_dims, as float64.
void read_channel(const ArrayRef& array, const Layout& layout, std::ptrdiff_t channel,
                  std::ptrdiff_t begin, std::ptrdiff_t n, double* to) noexcept;

}  // namespace fastbn
