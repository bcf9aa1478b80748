// The least and the largest of a tile's values that count, and how many of those are NaN, folded
// into what is known of its channels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/table.hpp"
#include "simd/block.hpp"
#include "simd/prefetch.hpp"
#include "simd/tile.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

// The range of what came by in each lane. NaN are counted in X, which for a float is exact up to
// 2^24: no more than `most_blocks` are added before the lanes are folded into doubles.
constexpr std::ptrdiff_t most_blocks = std::ptrdiff_t{1} << 20;

template <class X>
struct RangeBlock {
    Block<X> min;
    Block<X> max;
    Block<X> nans;

    void clear() {
        min = broadcast(static_cast<X>(__builtin_inf()));
        max = broadcast(static_cast<X>(-__builtin_inf()));
        nans = broadcast(X(0));
    }
    void add(int k, Vec<X> x) {
        min.reg[k] = Vec<X>::lesser(x, min.reg[k]);
        max.reg[k] = Vec<X>::greater(x, max.reg[k]);
        nans.reg[k] = Vec<X>::add_one_where_nan(nans.reg[k], x);
    }
    void add(int k, Vec<X> x, typename Vec<X>::Mask mask) {
        min.reg[k] = Vec<X>::lesser(Vec<X>::select(mask, x, min.reg[k]), min.reg[k]);
        max.reg[k] = Vec<X>::greater(Vec<X>::select(mask, x, max.reg[k]), max.reg[k]);
        nans.reg[k] = Vec<X>::add_one_where_nan(nans.reg[k], Vec<X>::keep(mask, x));
    }

    // Lane j into channel j,
    void fold_columns(const ValueRange& range, std::ptrdiff_t n) const {
        X values[3][lanes];
        store(values[0], Full{}, min);
        store(values[1], Full{}, max);
        store(values[2], Full{}, nans);
        for (std::ptrdiff_t j = 0; j < n; ++j) {
            fold(range, j, values[0][j], values[1][j], values[2][j]);
        }
    }
    // or all of them into one.
    void fold_channel(const ValueRange& range) const {
        X values[3][lanes];
        store(values[0], Full{}, min);
        store(values[1], Full{}, max);
        store(values[2], Full{}, nans);
        for (std::ptrdiff_t j = 0; j < lanes; ++j) {
            fold(range, 0, values[0][j], values[1][j], values[2][j]);
        }
    }

private:
    static void fold(const ValueRange& range, std::ptrdiff_t channel, X least, X largest, X nan) {
        const double low = static_cast<double>(least);
        const double high = static_cast<double>(largest);
        range.min[channel] = low < range.min[channel] ? low : range.min[channel];
        range.max[channel] = high > range.max[channel] ? high : range.max[channel];
        range.nans[channel] += static_cast<double>(nan);
    }
};

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

// The tile is cut so that no more than most_blocks come together.
template <bool masked, class X>
inline void add_range_of_tile(Tile<const X> x, Tile<const std::uint8_t> mask, std::ptrdiff_t rows,
                              std::ptrdiff_t cols, const ValueRange& range) {
    const RowPrefetch<X> next(x, cols);
    const std::ptrdiff_t width = cols < most_blocks * lanes ? cols : most_blocks * lanes;
    const std::ptrdiff_t height = most_blocks / ((width + lanes - 1) / lanes);
    for (std::ptrdiff_t left = 0; left < cols; left += width) {
        const std::ptrdiff_t right = left + width < cols ? left + width : cols;
        for (std::ptrdiff_t top = 0; top < rows; top += height) {
            const std::ptrdiff_t bottom = top + height < rows ? top + height : rows;
            RangeBlock<X> block;
            block.clear();
            for (std::ptrdiff_t r = top; r < bottom; ++r) {
                const X* const row = x.data + r * x.stride;
                each_block(left, right, [&](std::ptrdiff_t i, auto n) {
                    next.at(row + i);
                    add_range_of_block<masked>(block, row + i, mask_at<masked>(mask, r, i), n);
                });
            }
            block.fold_channel(range);
        }
    }
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

// A strip of columns whose ranges are kept here.
constexpr std::ptrdiff_t strip_cols = 256;

template <bool masked, class X>
inline void add_range_of_strip(Tile<const X> x, Tile<const std::uint8_t> mask, std::ptrdiff_t rows,
                               std::ptrdiff_t cols, const ValueRange& range) {
    RangeBlock<X> blocks[strip_cols / lanes];
    for (RangeBlock<X>& block : blocks) block.clear();
    ColumnPrefetch<X> ahead(x, cols);
    const auto begin = [&](std::ptrdiff_t r) { ahead.begin_group(r); };
    each_row_group(rows, cols, begin,
                   [&](std::ptrdiff_t r, std::ptrdiff_t end, std::ptrdiff_t i, auto n) {
                       RangeBlock<X> group = blocks[i / lanes];
                       for (std::ptrdiff_t row = r; row < end; ++row) {
                           ahead.next_block();
                           add_range_of_block<masked>(group, x.data + row * x.stride + i,
                                                      mask_at<masked>(mask, row, i), n);
                       }
                       blocks[i / lanes] = group;
                   });
    each_block(0, cols, [&](std::ptrdiff_t i, auto n) {
        blocks[i / lanes].fold_columns({range.min + i, range.max + i, range.nans + i}, count_of(n));
    });
}

template <class X>
FASTBN_FLATTEN void range_of_columns(Tile<const void> untyped_x, Tile<const std::uint8_t> mask,
                                     std::ptrdiff_t rows, std::ptrdiff_t cols,
                                     ValueRange range) noexcept {
    const Tile<const X> x = typed<const X>(untyped_x);
    for (std::ptrdiff_t top = 0; top < rows; top += most_blocks) {
        const std::ptrdiff_t height = rows - top < most_blocks ? rows - top : most_blocks;
        for (std::ptrdiff_t left = 0; left < cols; left += strip_cols) {
            const std::ptrdiff_t width = cols - left < strip_cols ? cols - left : strip_cols;
            const Tile<const X> strip{x.data + top * x.stride + left, x.stride};
            const ValueRange here{range.min + left, range.max + left, range.nans + left};
            if (mask.data == nullptr) {
                add_range_of_strip<false>(strip, mask, height, width, here);
            } else {
                add_range_of_strip<true>(strip, {mask_at<true>(mask, top, left), mask.stride},
                                         height, width, here);
            }
        }
    }
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
