// The least and the largest of a tile's values that have weight, and whether one of those is NaN,
// added to what is known of its channels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/table.hpp"
#include "simd/block.hpp"
#include "simd/prefetch.hpp"
#include "simd/tile.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

// The range of what came by in each lane, and whether all of it were numbers.
template <class X>
struct RangeBlock {
    Block<X> min;
    Block<X> max;
    typename Vec<X>::Mask numbers[Block<X>::registers];

    void clear() {
        min = broadcast(static_cast<X>(__builtin_inf()));
        max = broadcast(static_cast<X>(-__builtin_inf()));
        for (auto& all : numbers) all = Vec<X>::numbers(Vec<X>::broadcast(X(0)));
    }
    void add(int k, Vec<X> x) { add(k, x, x, x); }
    void add(int k, Vec<X> x, typename Vec<X>::Mask mask) {
        add(k, Vec<X>::select(mask, x, min.reg[k]), Vec<X>::select(mask, x, max.reg[k]),
            Vec<X>::keep(mask, x));
    }

    // Adds lane j to channel j, of n,
    void add_to_columns(const ValueRange& range, std::ptrdiff_t n) const {
        X low[lanes];
        X high[lanes];
        X ones[lanes];
        store_lanes(low, high, ones);
#pragma omp simd
        for (std::ptrdiff_t j = 0; j < n; ++j) add_lane(low[j], high[j], ones[j], range, j);
    }
    // or all lanes to one channel, the upper half to the lower, four times.
    void add_to_channel(const ValueRange& range) const {
        X low[lanes];
        X high[lanes];
        X ones[lanes];
        store_lanes(low, high, ones);
        FASTBN_UNROLL
        for (std::ptrdiff_t half = lanes / 2; half > 0; half /= 2) {
            FASTBN_UNROLL
            for (std::ptrdiff_t i = 0; i < half; ++i) {
                low[i] = low[i + half] < low[i] ? low[i + half] : low[i];
                high[i] = high[i + half] > high[i] ? high[i + half] : high[i];
                ones[i] *= ones[i + half];
            }
        }
        add_lane(low[0], high[0], ones[0], range, 0);
    }

private:
    // `ones`: 1 where all were numbers, else 0.
    void store_lanes(X* low, X* high, X* ones) const {
        store(low, Full{}, min);
        store(high, Full{}, max);
        FASTBN_UNROLL
        for (int k = 0; k < Block<X>::registers; ++k) {
            Vec<X>::keep(numbers[k], Vec<X>::broadcast(X(1))).store(ones + k * Vec<X>::width);
        }
    }
    static void add_lane(X least, X largest, X all_numbers, const ValueRange& range,
                         std::ptrdiff_t channel) {
        const double low = static_cast<double>(least);
        const double high = static_cast<double>(largest);
        range.min[channel] = low < range.min[channel] ? low : range.min[channel];
        range.max[channel] = high > range.max[channel] ? high : range.max[channel];
        range.has_nan[channel] = all_numbers == X(0) ? 1.0 : range.has_nan[channel];
    }

    void add(int k, Vec<X> least, Vec<X> largest, Vec<X> number) {
        min.reg[k] = Vec<X>::lesser(least, min.reg[k]);
        max.reg[k] = Vec<X>::greater(largest, max.reg[k]);
        numbers[k] = Vec<X>::both(numbers[k], Vec<X>::numbers(number));
    }
};

template <class X>
inline void copy(const RangeBlock<X>& from, RangeBlock<X>& to) {
    copy(from.min, to.min);
    copy(from.max, to.max);
    FASTBN_UNROLL
    for (int k = 0; k < Block<X>::registers; ++k) to.numbers[k] = from.numbers[k];
}

// As many ones as there are lanes, then as many zeros.
constexpr std::uint8_t first_lanes[2 * lanes] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

template <bool masked>
inline const std::uint8_t* mask_at(Tile<const std::uint8_t> mask, std::ptrdiff_t r,
                                   std::ptrdiff_t i) {
    return masked ? mask.data + r * mask.stride + i : nullptr;
}

// Adds the block of n columns at `at`, whose mask, if there is one, is at `mask`.
template <bool masked, class X, class N>
inline void add_range_of_block(RangeBlock<X>& range, const X* at, const std::uint8_t* mask, N n) {
    const Block<X> x = load<X>(at, n);
    FASTBN_UNROLL
    for (int k = 0; k < Block<X>::registers; ++k) {
        if constexpr (is_full<N> && !masked) {
            range.add(k, x.reg[k]);
        } else if constexpr (is_full<N>) {
            range.add(k, x.reg[k], load_mask<X>(mask, k, n));
        } else if constexpr (!masked) {
            range.add(k, x.reg[k], load_mask<X>(first_lanes + lanes - n, k, Full{}));
        } else {
            range.add(k, x.reg[k], load_mask<X>(mask, k, in_register<X>(n, k)));
        }
    }
}

template <bool masked, class X>
inline void add_range_of_tile(Tile<const X> x, Tile<const std::uint8_t> mask, std::ptrdiff_t rows,
                              std::ptrdiff_t cols, const ValueRange& range) {
    const RowPrefetch<X> next(x, cols);
    RangeBlock<X> block;
    block.clear();
    for (std::ptrdiff_t r = 0; r < rows; ++r) {
        const X* const row = x.data + r * x.stride;
        each_block(0, cols, [&](std::ptrdiff_t i, auto n) {
            next.at(row, i);
            add_range_of_block<masked>(block, row + i, mask_at<masked>(mask, r, i), n);
        });
    }
    block.add_to_channel(range);
}

template <class X>
FASTBN_FLATTEN void range_of_tile(Tile<const void> x, Tile<const std::uint8_t> mask,
                                  std::ptrdiff_t rows, std::ptrdiff_t cols,
                                  ValueRange range) noexcept {
    if (mask.data == nullptr) {
        add_range_of_tile<false>(typed<const X>(x), mask, rows, cols, range);
    } else {
        add_range_of_tile<true>(typed<const X>(x), mask, rows, cols, range);
    }
}

// So many columns at once: their ranges are kept here.
constexpr std::ptrdiff_t cols_at_once = 256;

template <bool masked, class X>
inline void add_range_of_columns(Tile<const X> x, Tile<const std::uint8_t> mask,
                                 std::ptrdiff_t rows, std::ptrdiff_t cols,
                                 const ValueRange& range) {
    RangeBlock<X> blocks[cols_at_once / lanes];
    for (RangeBlock<X>& block : blocks) block.clear();
    ColumnPrefetch<X> ahead(x, cols);
    const auto begin = [&](std::ptrdiff_t r) { ahead.begin_group(r); };
    each_row_group(rows, cols, 0, begin,
                   [&](std::ptrdiff_t r, std::ptrdiff_t end, std::ptrdiff_t i, auto n) {
                       RangeBlock<X> group;
                       copy(blocks[i / lanes], group);
                       for (std::ptrdiff_t row = r; row < end; ++row) {
                           ahead.next_block();
                           add_range_of_block<masked>(group, x.data + row * x.stride + i,
                                                      mask_at<masked>(mask, row, i), n);
                       }
                       copy(group, blocks[i / lanes]);
                   });
    each_block(0, cols, [&](std::ptrdiff_t i, auto n) {
        blocks[i / lanes].add_to_columns(from(range, i), count_of(n));
    });
}

template <class X>
FASTBN_FLATTEN void range_of_columns(Tile<const void> untyped_x, Tile<const std::uint8_t> mask,
                                     std::ptrdiff_t rows, std::ptrdiff_t cols,
                                     ValueRange range) noexcept {
    const Tile<const X> x = typed<const X>(untyped_x);
    for (std::ptrdiff_t left = 0; left < cols; left += cols_at_once) {
        const std::ptrdiff_t width = cols - left < cols_at_once ? cols - left : cols_at_once;
        const Tile<const X> columns{x.data + left, x.stride};
        const ValueRange here = from(range, left);
        if (mask.data == nullptr) {
            add_range_of_columns<false>(columns, mask, rows, width, here);
        } else {
            add_range_of_columns<true>(columns, {mask_at<true>(mask, 0, left), mask.stride}, rows,
                                       width, here);
        }
    }
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
