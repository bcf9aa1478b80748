// The kernels of statistics of integers of 8 and 16 bits: sums of them and of their squares, which
// are whole numbers, in which no order of addition shows. A kernel adds up at most 65,536 values of
// a channel in elements of 32 bits, and then hands them on as double-doubles. See moments.cpp for
// how this is compiled.
#include <cstddef>
#include <cstdint>

#include "kernels/table.hpp"
#include "numerics/dtype.hpp"
#include "numerics/moments_math.hpp"
#include "simd/prefetch.hpp"
#include "simd/tile.hpp"
#include "simd/vec.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

// ---- Types ----

// Registers add unsigned bytes and signed 16-bit numbers. Of other types the highest bit is
// flipped, which subtracts `offset` from each value; add_sums puts it back.
template <class X>
constexpr std::uint16_t flipped_bits = 0;
template <>
constexpr std::uint16_t flipped_bits<std::int8_t> = 0x8080;
template <>
constexpr std::uint16_t flipped_bits<std::uint16_t> = 0x8000;

template <class X>
constexpr std::int64_t offset = 0;
template <>
constexpr std::int64_t offset<std::int8_t> = -128;
template <>
constexpr std::int64_t offset<std::uint16_t> = 32768;

template <class X>
inline Bytes without_offset(Bytes stored) {
    if constexpr (is_same<X, Boolean>) {
        return Bytes::lesser_of_bytes(stored, Bytes::broadcast(0x0101));
    } else if constexpr (flipped_bits<X> != 0) {
        return stored ^ Bytes::broadcast(flipped_bits<X>);
    } else {
        return stored;
    }
}

template <class X>
constexpr std::ptrdiff_t elements_of = sizeof(Bytes) / sizeof(X);

template <class X>
inline Bytes read(const X* p) {
    return without_offset<X>(Bytes::load(reinterpret_cast<const char*>(p)));
}
// The first n elements, and zeros.
template <class X>
[[gnu::noinline]] Bytes read(const X* p, std::ptrdiff_t n) {
    alignas(64) char part[sizeof(Bytes)];
    Bytes::broadcast(flipped_bits<X>).store(part);
    __builtin_memcpy(part, p, static_cast<std::size_t>(n) * sizeof(X));
    return without_offset<X>(Bytes::load(part));
}

// The sums of n values, of which `offset` was subtracted before they were added up.
template <class X>
inline void add_sums(const IntegerSums& to, std::ptrdiff_t i, std::ptrdiff_t n, double sum,
                     double squares) {
    constexpr auto subtracted = static_cast<double>(offset<X>);
    const double all = subtracted * static_cast<double>(n);
    add_integers(to, i, sum + all, squares + subtracted * (2.0 * sum + all));
}

// Squares of 16-bit numbers fill 32 bits, so that their lower and their upper sixteen bits are
// added up in elements of their own, the lower first.
inline Bytes lower_halves(Bytes squares) { return Bytes::interleave_lower<2>(squares, Bytes{}); }
inline Bytes upper_halves(Bytes squares) { return Bytes::interleave_upper<2>(squares, Bytes{}); }
inline double from_halves(std::uint32_t lower, std::uint32_t upper) {
    return static_cast<double>(lower) + static_cast<double>(upper) * 0x1p16;
}

inline Bytes squares_of_pairs(Bytes a) { return Bytes::sums_of_products(a, a); }

// Sums of values in n registers, and of their squares in twice as many.
template <int n>
struct RegisterSums {
    Bytes sum[n]{};
    Bytes squares[2 * n]{};
};
inline void add_words(Bytes& to, Bytes a) { to = Bytes::add<4>(to, a); }

// ---- A tile of one channel ----

template <class X>
inline void add_register(RegisterSums<1>& sums, Bytes x) {
    if constexpr (sizeof(X) == 1) {
        add_words(sums.sum[0], Bytes::sums_of_bytes(x));
        add_words(sums.squares[0], squares_of_pairs(Bytes::interleave_lower<1>(x, Bytes{})));
        add_words(sums.squares[1], squares_of_pairs(Bytes::interleave_upper<1>(x, Bytes{})));
    } else {
        add_words(sums.sum[0], Bytes::sums_of_products(x, Bytes::broadcast(1)));
        const Bytes pairs = squares_of_pairs(x);
        add_words(sums.squares[0], lower_halves(pairs));
        add_words(sums.squares[1], upper_halves(pairs));
    }
}

constexpr std::ptrdiff_t words = sizeof(Bytes) / sizeof(std::uint32_t);

inline void store_words(Bytes a, std::uint32_t* p) { a.store(reinterpret_cast<char*>(p)); }

template <class X>
void add_tile_sums(const RegisterSums<1>& sums, std::ptrdiff_t n, const IntegerSums& to) {
    std::uint32_t sum[words];
    std::uint32_t squares[2 * words];
    store_words(sums.sum[0], sum);
    store_words(sums.squares[0], squares);
    store_words(sums.squares[1], squares + words);
    std::int64_t total = 0;
    std::uint64_t total_squares = 0;
    for (const std::uint32_t part : sum) total += static_cast<std::int32_t>(part);
    for (std::ptrdiff_t i = 0; i < 2 * words; ++i) {
        const bool is_upper_half = sizeof(X) == 2 && i % 2 != 0;
        total_squares += std::uint64_t{squares[i]} << (is_upper_half ? 16U : 0U);
    }
    add_sums<X>(to, 0, n, static_cast<double>(total), static_cast<double>(total_squares));
}

template <class X>
FASTBN_FLATTEN void sums_of_tile(Tile<const void> untyped_x, std::ptrdiff_t rows,
                                 std::ptrdiff_t cols, IntegerSums to) noexcept {
    const Tile<const X> x = typed<const X>(untyped_x);
    constexpr std::ptrdiff_t width = elements_of<X>;
    RegisterSums<1> sums;
    for (std::ptrdiff_t r = 0; r < rows; ++r) {
        const X* const row = x.data + r * x.stride;
        std::ptrdiff_t i = 0;
        for (; i + width <= cols; i += width) add_register<X>(sums, read(row + i));
        if (i < cols) add_register<X>(sums, read(row + i, cols - i));
    }
    add_tile_sums<X>(sums, rows * cols, to);
}

// ---- A tile of columns ----

// The sums of a register's columns are taken of two rows at a time. Each of two registers of sums
// has half of every group's columns, each of four registers of squares a quarter.

// a, b: bytes of two rows, widened to elements of two bytes, which hold the sums of 256 rows at
// most.
inline void add_bytes(RegisterSums<2>& sums, std::ptrdiff_t half, Bytes a, Bytes b) {
    sums.sum[half] = Bytes::add<2>(sums.sum[half], Bytes::add<2>(a, b));
    add_words(sums.squares[2 * half], squares_of_pairs(Bytes::interleave_lower<2>(a, b)));
    add_words(sums.squares[2 * half + 1], squares_of_pairs(Bytes::interleave_upper<2>(a, b)));
}
inline void add_shorts(RegisterSums<2>& sums, std::ptrdiff_t half, Bytes pairs) {
    add_words(sums.sum[half], Bytes::sums_of_products(pairs, Bytes::broadcast(1)));
    add_words(sums.squares[2 * half], lower_halves(squares_of_pairs(pairs)));
    add_words(sums.squares[2 * half + 1], upper_halves(squares_of_pairs(pairs)));
}
template <class X>
inline void add_rows(RegisterSums<2>& sums, Bytes a, Bytes b) {
    if constexpr (sizeof(X) == 1) {
        add_bytes(sums, 0, Bytes::interleave_lower<1>(a, Bytes{}),
                  Bytes::interleave_lower<1>(b, Bytes{}));
        add_bytes(sums, 1, Bytes::interleave_upper<1>(a, Bytes{}),
                  Bytes::interleave_upper<1>(b, Bytes{}));
    } else {
        add_shorts(sums, 0, Bytes::interleave_lower<2>(a, b));
        add_shorts(sums, 1, Bytes::interleave_upper<2>(a, b));
    }
}

// Group g of n registers one after the other, then group g + 1.
template <int n, int g = 0>
inline void store_by_groups(const Bytes (&from)[n], char* to) {
    if constexpr (g < Bytes::groups) {
        FASTBN_UNROLL
        for (int k = 0; k < n; ++k) {
            from[k].template store_group<g>(to + (g * n + k) * group_bytes);
        }
        store_by_groups<n, g + 1>(from, to);
    }
}

// What a column's sum is stored as: two bytes for bytes, which have no sign, else four.
template <std::size_t size>
constexpr auto zero_sum() {
    if constexpr (size == 1) {
        return std::uint16_t{0};
    } else {
        return std::int32_t{0};
    }
}

// Adds columns `first` to `end` of a register that begins with column 0 of `to`.
template <class X>
inline void add_columns(const RegisterSums<2>& columns, std::ptrdiff_t first, std::ptrdiff_t end,
                        std::ptrdiff_t rows, const IntegerSums& to) {
    using Sum = decltype(zero_sum<sizeof(X)>());
    alignas(64) Sum sum[elements_of<X>];
    alignas(64) std::uint32_t squares[4 * words];
    static_assert(sizeof(sum) == 2 * sizeof(Bytes));
    store_by_groups(columns.sum, reinterpret_cast<char*>(sum));
    store_by_groups(columns.squares, reinterpret_cast<char*>(squares));
#pragma omp simd
    for (std::ptrdiff_t i = first; i < end; ++i) {
        if constexpr (sizeof(X) == 1) {
            add_sums<X>(to, i, rows, static_cast<double>(sum[i]), static_cast<double>(squares[i]));
        } else {
            add_sums<X>(to, i, rows, static_cast<double>(sum[i]),
                        from_halves(squares[2 * i], squares[2 * i + 1]));
        }
    }
}

// The sums of a register of columns, each of its rows by read_row(row).
template <class X, class ReadRow>
inline RegisterSums<2> sums_of_rows(Tile<const X> x, std::ptrdiff_t rows, const ReadRow& read_row) {
    RegisterSums<2> sums;
    std::ptrdiff_t r = 0;
    for (; r + 2 <= rows; r += 2) {
        const X* const row = x.data + r * x.stride;
        add_rows<X>(sums, read_row(row), read_row(row + x.stride));
    }
    if (r < rows) add_rows<X>(sums, read_row(x.data + r * x.stride), Bytes{});
    return sums;
}

// A tile of at most 256 rows. Where columns do not fill the last register, it begins earlier.
template <class X>
FASTBN_FLATTEN void sums_of_columns(Tile<const void> untyped_x, std::ptrdiff_t rows,
                                    std::ptrdiff_t cols, IntegerSums to) noexcept {
    const Tile<const X> x = typed<const X>(untyped_x);
    constexpr std::ptrdiff_t width = elements_of<X>;
    if (cols < width) {
        const auto read_part = [=](const X* row) { return read(row, cols); };
        return add_columns<X>(sums_of_rows(x, rows, read_part), 0, cols, rows, to);
    }
    // No hardware prefetcher follows a walk down a tile's rows, a register of columns at a time:
    // for each register that is read, one of what comes after the tile, in the order of memory.
    const auto row_bytes = static_cast<std::uintptr_t>(cols) * sizeof(X);
    const auto step = static_cast<std::uintptr_t>(x.stride) * sizeof(X);
    auto next_row =
        reinterpret_cast<std::uintptr_t>(x.data) + static_cast<std::uintptr_t>(rows) * step;
    std::uintptr_t at = 0;
    const auto read_all = [&](const X* row) {
        prefetch(next_row + at);
        at += sizeof(Bytes);
        if (at >= row_bytes) {
            next_row += step;
            at = 0;
        }
        return read(row);
    };
    for (std::ptrdiff_t i = 0; i < cols; i += width) {
        const std::ptrdiff_t begin = i + width <= cols ? i : cols - width;
        const Tile<const X> columns{x.data + begin, x.stride};
        add_columns<X>(sums_of_rows(columns, rows, read_all), i - begin, width, rows,
                       from(to, begin));
    }
}

// ---- The table ----

template <class X>
constexpr MomentsKernels integers_row(DType x) {
    MomentsKernels kernels{};
    kernels.x = x;
    kernels.integer_sums = {sums_of_tile<X>, sums_of_columns<X>};
    return kernels;
}

}  // namespace

extern constexpr MomentsKernels integers_table[integers_rows] = {
    integers_row<std::uint8_t>(DType::uint8), integers_row<std::int8_t>(DType::int8),
    integers_row<std::uint16_t>(DType::uint16), integers_row<std::int16_t>(DType::int16),
    integers_row<Boolean>(DType::boolean)};

}  // namespace fastbn::FASTBN_ISA
