// The least and the largest of a tile's values that count, and whether one of those is NaN, folded
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

    // Lane j into channel j,
    void fold_columns(const ValueRange& range, std::ptrdiff_t n) const {
        const Lanes of(*this);
#pragma omp simd
        for (std::ptrdiff_t j = 0; j < n; ++j) of.fold(j, range, j);
    }
    // or all of them into one.
    void fold_channel(const ValueRange& range) const {
        Lanes of(*this);
        of.reduce();
        of.fold(0, range, 0);
    }

private:
    struct Lanes {
        X min[lanes];
        X max[lanes];
        X numbers[lanes];  // 1 or 0

        explicit Lanes(const RangeBlock& block) {
            store(min, Full{}, block.min);
            store(max, Full{}, block.max);
            FASTBN_UNROLL
            for (int k = 0; k < Block<X>::registers; ++k) {
                Vec<X>::keep(block.numbers[k], Vec<X>::broadcast(X(1)))
                    .store(numbers + k * Vec<X>::width);
            }
        }
        // The upper half into the lower, four times.
        void reduce() {
            FASTBN_UNROLL
            for (std::ptrdiff_t half = lanes / 2; half > 0; half /= 2) {
                FASTBN_UNROLL
                for (std::ptrdiff_t i = 0; i < half; ++i) {
                    min[i] = min[i + half] < min[i] ? min[i + half] : min[i];
                    max[i] = max[i + half] > max[i] ? max[i + half] : max[i];
                    numbers[i] *= numbers[i + half];
                }
            }
        }
        void fold(std::ptrdiff_t j, const ValueRange& range, std::ptrdiff_t channel) const {
            const double low = static_cast<double>(min[j]);
            const double high = static_cast<double>(max[j]);
            range.min[channel] = low < range.min[channel] ? low : range.min[channel];
            range.max[channel] = high > range.max[channel] ? high : range.max[channel];
            range.has_nan[channel] = numbers[j] == X(0) ? 1.0 : range.has_nan[channel];
        }
    };

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
            next.at(row + i);
            add_range_of_block<masked>(block, row + i, mask_at<masked>(mask, r, i), n);
        });
    }
    block.fold_channel(range);
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
        blocks[i / lanes].fold_columns({range.min + i, range.max + i, range.has_nan + i},
                                       count_of(n));
    });
}

template <class X>
FASTBN_FLATTEN void range_of_columns(Tile<const void> untyped_x, Tile<const std::uint8_t> mask,
                                     std::ptrdiff_t rows, std::ptrdiff_t cols,
                                     ValueRange range) noexcept {
    const Tile<const X> x = typed<const X>(untyped_x);
    for (std::ptrdiff_t left = 0; left < cols; left += strip_cols) {
        const std::ptrdiff_t width = cols - left < strip_cols ? cols - left : strip_cols;
        const Tile<const X> strip{x.data + left, x.stride};
        const ValueRange here{range.min + left, range.max + left, range.has_nan + left};
        if (mask.data == nullptr) {
            add_range_of_strip<false>(strip, mask, rows, width, here);
        } else {
            add_range_of_strip<true>(strip, {mask_at<true>(mask, 0, left), mask.stride}, rows,
                                     width, here);
        }
    }
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
