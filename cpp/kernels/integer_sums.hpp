// Sums of integers of 8 and 16 bits, and of their squares: whole numbers, in which no order of
// addition shows, so that the compiler may choose the registers. Double-doubles hold them exactly.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/per_channel.hpp"
#include "kernels/table.hpp"
#include "numerics/moments_math.hpp"
#include "simd/tile.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

// What an element counts as: a truth value other than 0 is 1.
template <class X>
inline X number(X value) {
    return value;
}
struct Truth {
    std::uint8_t byte;
};
inline std::uint8_t number(Truth value) { return value.byte != 0 ? 1 : 0; }

// A square, and the type it fits. Squares of 16 bits are added up in two halves: of the sum of
// either, 32 bits hold 65,536 of them.
template <class X>
constexpr bool is_short = sizeof(X) == 2;
template <class X>
struct SquareOf {
    using Type = std::uint16_t;
};
template <>
struct SquareOf<std::int16_t> {
    using Type = std::uint32_t;
};
template <>
struct SquareOf<std::uint16_t> {
    using Type = std::uint32_t;
};
template <class X>
inline std::uint32_t square(X stored) {
    using Square = typename SquareOf<X>::Type;
    const auto value = static_cast<Square>(number(stored));
    return static_cast<Square>(value * value);
}
inline std::uint32_t lower(std::uint32_t square) { return square & 0xffffU; }
inline std::uint32_t upper(std::uint32_t square) { return square >> 16U; }

// ---- A tile of one channel ----

// Folds a tile of at most 65,536 values into the sums.
template <class X>
FASTBN_FLATTEN void sums_of_tile(Tile<const void> untyped_x, std::ptrdiff_t rows,
                                 std::ptrdiff_t cols, IntegerSums sums, void*) noexcept {
    const Tile<const X> x = typed<const X>(untyped_x);
    std::int64_t total = 0;
    std::uint64_t squares = 0;
    for (std::ptrdiff_t r = 0; r < rows; ++r) {
        const X* const row = x.data + r * x.stride;
        std::int32_t sum = 0;
        std::uint32_t low = 0;
        std::uint32_t high = 0;
#pragma omp simd reduction(+ : sum, low, high)
        for (std::ptrdiff_t i = 0; i < cols; ++i) {
            sum += number(row[i]);
            if constexpr (is_short<X>) {
                low += lower(square(row[i]));
                high += upper(square(row[i]));
            } else {
                low += square(row[i]);
            }
        }
        total += sum;
        squares += low + (std::uint64_t{high} << 16U);
    }
    add_integers(sums, 0, static_cast<double>(total), static_cast<double>(squares));
}

// ---- A tile of columns ----

// Each column's sums, in three arrays.
struct ColumnIntegers {
    std::int32_t* sum;
    std::uint32_t* low;
    std::uint32_t* high;

    // Adds `count` rows from x on.
    template <int count, class X>
    void add_rows(const X* x, std::ptrdiff_t stride, std::ptrdiff_t cols) const {
#pragma omp simd
        for (std::ptrdiff_t i = 0; i < cols; ++i) {
            std::int32_t rows_sum = 0;
            std::uint32_t rows_low = 0;
            std::uint32_t rows_high = 0;
            FASTBN_UNROLL
            for (int r = 0; r < count; ++r) {
                const X value = x[r * stride + i];
                rows_sum += number(value);
                if constexpr (is_short<X>) {
                    rows_low += lower(square(value));
                    rows_high += upper(square(value));
                } else {
                    rows_low += square(value);
                }
            }
            sum[i] += rows_sum;
            low[i] += rows_low;
            if constexpr (is_short<X>) high[i] += rows_high;
        }
    }
};

// The same for a tile of as many rows.
template <class X>
FASTBN_FLATTEN void sums_of_columns(Tile<const void> untyped_x, std::ptrdiff_t rows,
                                    std::ptrdiff_t cols, IntegerSums sums, void* scratch) noexcept {
    constexpr int at_once = 8;
    const Tile<const X> x = typed<const X>(untyped_x);
    auto* const low = static_cast<std::uint32_t*>(scratch);
    std::uint32_t* const high = low + cols;
    auto* const sum = reinterpret_cast<std::int32_t*>(high + cols);
    static_assert(lanes * 3 * sizeof(*low) <= column_scratch_bytes);
    for (std::ptrdiff_t i = 0; i < cols; ++i) {
        sum[i] = 0;
        low[i] = high[i] = 0;
    }
    const ColumnIntegers columns{sum, low, high};
    std::ptrdiff_t r = 0;
    for (; r + at_once <= rows; r += at_once) {
        columns.add_rows<at_once>(x.data + r * x.stride, x.stride, cols);
    }
    for (; r < rows; ++r) columns.add_rows<1>(x.data + r * x.stride, x.stride, cols);
#pragma omp simd
    for (std::ptrdiff_t i = 0; i < cols; ++i) {
        const double squares = static_cast<double>(low[i]) + static_cast<double>(high[i]) * 0x1p16;
        add_integers(sums, i, static_cast<double>(sum[i]), squares);
    }
}

// ---- Once per channel ----

FASTBN_FLATTEN inline void merge_integer_sums(IntegerSums a, IntegerSums b,
                                              std::ptrdiff_t n) noexcept {
#pragma omp simd
    for (std::ptrdiff_t i = 0; i < n; ++i) {
        add_integers(a, i, b.sum[i], b.squares[i]);
        a.squares_lo[i] += b.squares_lo[i];
    }
}

FASTBN_FLATTEN inline void finalize_integer_sums(IntegerSums sums, double count, double eps,
                                                 Statistics out, std::ptrdiff_t n) noexcept {
#pragma omp simd
    for (std::ptrdiff_t i = 0; i < n; ++i) {
        ExactSum<double> mean{};
        mean.high = quotient(sums.sum[i], 0.0, count, mean.low);
        finalize_one(moments_of_integers(sums, i, mean.high, count), count, mean, eps, out, i);
    }
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
