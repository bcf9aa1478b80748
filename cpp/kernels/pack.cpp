// The kernels between arrays and packed tiles: transposition, and 64-bit integers less an integer
// near them. See moments.cpp for how this is compiled.
#include <cstddef>
#include <cstdint>

#include "kernels/table.hpp"
#include "simd/tile.hpp"
#include "simd/vec.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

// ---- Transposition ----
//
// Between a packed tile, rows x cols, and an array in which a column's elements lie side by side:
// as a tile of its own it is cols x rows. Blocks of sixteen bytes by as many elements as those hold
// are transposed in registers, several at once.

// Elements of `size` bytes: a group of a register holds so many, and a block has as many registers.
template <int size>
constexpr int block_side = static_cast<int>(group_bytes) / size;

// In each group element i of register k becomes element k of register i. Of n registers that are
// interleaved with those n / 2 further on, one after the other, again and again, each element
// comes to its place: what a perfect shuffle does to the bits of its index.
template <int size>
inline void transpose_groups(Bytes (&block)[block_side<size>]) {
    constexpr int n = block_side<size>;
    FASTBN_UNROLL
    for (int done = 1; done < n; done *= 2) {
        Bytes next[n];
        FASTBN_UNROLL
        for (int i = 0; i < n / 2; ++i) {
            next[2 * i] = Bytes::interleave_lower<size>(block[i], block[i + n / 2]);
            next[2 * i + 1] = Bytes::interleave_upper<size>(block[i], block[i + n / 2]);
        }
        FASTBN_UNROLL
        for (int i = 0; i < n; ++i) block[i] = next[i];
    }
}

// Here tiles are of bytes, and so many of them lead to the next row.
template <int size>
inline Tile<const char> byte_tile(Tile<const void> tile) {
    return {static_cast<const char*>(tile.data), tile.stride * size};
}
template <int size>
inline Tile<char> byte_tile(Tile<void> tile) {
    return {static_cast<char*>(tile.data), tile.stride * size};
}

template <class Byte>
inline Byte* row(Tile<Byte> tile, std::ptrdiff_t i) {
    return tile.data + i * tile.stride;
}
// What begins at a row and so many bytes along it.
template <class Byte>
inline Tile<Byte> from(Tile<Byte> tile, std::ptrdiff_t i, std::ptrdiff_t bytes) {
    return {row(tile, i) + bytes, tile.stride};
}

// A block's rows in the packed tile, and its columns.
template <int size>
constexpr std::ptrdiff_t block_rows = Bytes::groups * block_side<size>;
template <int size>
constexpr std::ptrdiff_t block_cols = block_side<size>;

// Columns `done` to n of a block, each by put(address, register).
template <int size, class Put>
inline void unpack_block(Tile<const char> packed, Tile<char> array, std::ptrdiff_t done,
                         std::ptrdiff_t n, const Put& put) {
    constexpr int side = block_side<size>;
    Bytes block[side];
    FASTBN_UNROLL
    for (int k = 0; k < side; ++k) {
        block[k] = Bytes::load_groups(row(packed, k), side * packed.stride);
    }
    transpose_groups<size>(block);
    FASTBN_UNROLL
    for (int k = 0; k < side; ++k) {
        if (k >= done && k < n) put(row(array, k), block[k]);
    }
}

template <int size, int g = 0>
inline void store_rows(const Bytes (&block)[block_side<size>], Tile<char> packed) {
    if constexpr (g < Bytes::groups) {
        FASTBN_UNROLL
        for (int k = 0; k < block_side<size>; ++k) {
            block[k].template store_group<g>(row(packed, g * block_side<size> + k));
        }
        store_rows<size, g + 1>(block, packed);
    }
}

// The first n columns of a block the other way. Whole groups are written to the packed rows: what
// is too much the next row overwrites.
template <int size>
inline void pack_block(Tile<const char> array, Tile<char> packed, std::ptrdiff_t n) {
    constexpr int side = block_side<size>;
    Bytes block[side];
    FASTBN_UNROLL
    for (int k = 0; k < side; ++k) block[k] = Bytes::load(row(array, k < n ? k : 0));
    transpose_groups<size>(block);
    store_rows<size>(block, packed);
}

// visit(first column, how many of the block's were in the one before, how many it has) for every
// block of columns. The last one begins earlier, rather than be narrower.
template <int size, class Visit>
inline void each_block_of_columns(std::ptrdiff_t cols, const Visit& visit) {
    constexpr std::ptrdiff_t width = block_cols<size>;
    if (cols <= width) return visit(std::ptrdiff_t{0}, std::ptrdiff_t{0}, cols);
    for (std::ptrdiff_t c = 0; c < cols; c += width) {
        const std::ptrdiff_t first = c < cols - width ? c : cols - width;
        visit(first, c - first, width);
    }
}

// Fewer rows than a block has, by way of blocks of memory of its own.
template <int size>
[[gnu::noinline]] void unpack_few(Tile<const char> packed, Tile<char> array, std::ptrdiff_t rows,
                                  std::ptrdiff_t cols) {
    char few[block_rows<size> * group_bytes] = {};
    char columns[block_rows<size> * group_bytes];
    const Tile<char> few_rows{few, group_bytes};
    const Tile<char> few_cols{columns, block_rows<size> * size};
    each_block_of_columns<size>(cols, [&](std::ptrdiff_t c, std::ptrdiff_t, std::ptrdiff_t n) {
        for (std::ptrdiff_t r = 0; r < rows; ++r) {
            __builtin_memcpy(row(few_rows, r), row(packed, r) + c * size, group_bytes);
        }
        unpack_block<size>({few, group_bytes}, few_cols, 0, n,
                           [](char* p, Bytes a) { a.store(p); });
        for (std::ptrdiff_t k = 0; k < n; ++k) {
            __builtin_memcpy(row(array, c + k), row(few_cols, k),
                             static_cast<std::size_t>(rows * size));
        }
    });
}
template <int size>
[[gnu::noinline]] void pack_few(Tile<const char> array, Tile<char> packed, std::ptrdiff_t rows,
                                std::ptrdiff_t cols) {
    char columns[block_rows<size> * group_bytes] = {};
    char few[block_rows<size> * group_bytes];
    const Tile<char> few_cols{columns, block_rows<size> * size};
    const Tile<char> few_rows{few, group_bytes};
    each_block_of_columns<size>(cols, [&](std::ptrdiff_t c, std::ptrdiff_t, std::ptrdiff_t n) {
        for (std::ptrdiff_t k = 0; k < n; ++k) {
            __builtin_memcpy(row(few_cols, k), row(array, c + k),
                             static_cast<std::size_t>(rows * size));
        }
        pack_block<size>({columns, few_cols.stride}, few_rows, n);
        for (std::ptrdiff_t r = 0; r < rows; ++r) {
            __builtin_memcpy(row(packed, r) + c * size, row(few_rows, r),
                             static_cast<std::size_t>(n * size));
        }
    });
}

// visit(first row) for every block of rows, the last of which begins earlier likewise.
template <int size, class Visit>
inline void each_block_of_rows(std::ptrdiff_t rows, const Visit& visit) {
    constexpr std::ptrdiff_t height = block_rows<size>;
    for (std::ptrdiff_t r = 0; r < rows; r += height) {
        visit(r < rows - height ? r : rows - height);
    }
}

// Rows before the first at which all columns of the array are on a boundary of a register, or -1 if
// there is no such row.
template <int size>
inline std::ptrdiff_t rows_before_boundary(Tile<char> array) {
    constexpr auto boundary = static_cast<std::ptrdiff_t>(sizeof(Bytes));
    const auto past =
        static_cast<std::ptrdiff_t>(reinterpret_cast<std::uintptr_t>(array.data) % sizeof(Bytes));
    if (past % size != 0 || array.stride % boundary != 0) return -1;
    return (boundary - past) % boundary / size;
}

// Goes down all rows of a few columns at a time: each column is a stream of its own to the memory.
template <int size>
FASTBN_FLATTEN void unpack(Tile<const void> packed_tile, Tile<void> array_tile, std::ptrdiff_t rows,
                           std::ptrdiff_t cols, bool stream) noexcept {
    constexpr std::ptrdiff_t height = block_rows<size>;
    const Tile<const char> packed = byte_tile<size>(packed_tile);
    const Tile<char> array = byte_tile<size>(array_tile);
    if (rows < height) return unpack_few<size>(packed, array, rows, cols);
    const std::ptrdiff_t before = streams && stream ? rows_before_boundary<size>(array) : -1;
    if (before < 0) {
        const auto store = [](char* p, Bytes a) { a.store(p); };
        return each_block_of_columns<size>(
            cols, [&](std::ptrdiff_t c, std::ptrdiff_t done, std::ptrdiff_t n) {
                each_block_of_rows<size>(rows, [&](std::ptrdiff_t r) {
                    unpack_block<size>(from(packed, r, c * size), from(array, c, r * size), done, n,
                                       store);
                });
            });
    }
    const std::ptrdiff_t after = before + (rows - before) / height * height;
    if (before > 0) unpack_few<size>(packed, array, before, cols);
    each_block_of_columns<size>(cols, [&](std::ptrdiff_t c, std::ptrdiff_t done, std::ptrdiff_t n) {
        for (std::ptrdiff_t r = before; r < after; r += height) {
            unpack_block<size>(from(packed, r, c * size), from(array, c, r * size), done, n,
                               [](char* p, Bytes a) { a.stream(p); });
        }
    });
    stream_fence();
    if (after == rows) return;
    unpack_few<size>(from(packed, after, 0), from(array, 0, after * size), rows - after, cols);
}

template <int size>
FASTBN_FLATTEN void pack(Tile<const void> array_tile, Tile<void> packed_tile, std::ptrdiff_t rows,
                         std::ptrdiff_t cols) noexcept {
    constexpr std::ptrdiff_t height = block_rows<size>;
    const Tile<const char> array = byte_tile<size>(array_tile);
    const Tile<char> packed = byte_tile<size>(packed_tile);
    if (rows < height) return pack_few<size>(array, packed, rows, cols);
    if (cols < block_cols<size> && packed_tile.stride != cols) {  // others' columns are between
        for (std::ptrdiff_t r = 0; r < rows; r += height) {
            const std::ptrdiff_t n = rows - r < height ? rows - r : height;
            pack_few<size>(from(array, 0, r * size), from(packed, r, 0), n, cols);
        }
        return;
    }
    each_block_of_columns<size>(cols, [&](std::ptrdiff_t c, std::ptrdiff_t, std::ptrdiff_t n) {
        each_block_of_rows<size>(rows, [&](std::ptrdiff_t r) {
            pack_block<size>(from(array, c, r * size), from(packed, r, c * size), n);
        });
    });
}

// ---- Differences ----
//
// 64-bit integers less an integer near them, as doubles: at once where all differences are below
// 2^51. Added to the bits of 1.5 * 2^52 they are the last bits of its mantissa.

// Writes n differences and returns whether they are right. origin_at(i): the bits of value i's.
template <class T, class OriginAt>
inline bool write_differences(const T* values, const OriginAt& origin_at, std::ptrdiff_t n,
                              double* to) {
    constexpr double middle = 0x1.8p52;
    constexpr std::uint64_t middle_bits = 0x4338000000000000;
    constexpr std::uint64_t limit = std::uint64_t{1} << 51;
    // Flipping the highest bit puts unsigned integers in the order of signed ones.
    constexpr std::uint64_t other_sign = T(-1) < T(0) ? 0 : std::uint64_t{1} << 63;
    std::uint64_t too_large = 0;
#pragma omp simd reduction(| : too_large)
    for (std::ptrdiff_t i = 0; i < n; ++i) {
        const std::uint64_t value = static_cast<std::uint64_t>(values[i]) ^ other_sign;
        const std::uint64_t origin = origin_at(i) ^ other_sign;
        const std::uint64_t up = value - origin;
        const std::uint64_t overflow = (value ^ origin) & (value ^ up);
        too_large |= (overflow >> 63) | ((up + limit) >> 52);
        const std::uint64_t bits = up + middle_bits;
        double shifted;
        __builtin_memcpy(&shifted, &bits, sizeof shifted);
        to[i] = shifted - middle;
    }
    return too_large == 0;
}

template <class T>
bool from_origin(const void* values, std::uint64_t origin, std::ptrdiff_t n, double* to) noexcept {
    const auto origin_at = [=](std::ptrdiff_t) { return origin; };
    return write_differences(static_cast<const T*>(values), origin_at, n, to);
}

template <class T>
bool from_origins(Tile<const void> x, const std::uint64_t* origins, std::ptrdiff_t rows,
                  std::ptrdiff_t cols, double* to) noexcept {
    const Tile<const T> values = typed<const T>(x);
    // Short rows that follow each other without a gap are taken several at a time.
    constexpr std::ptrdiff_t long_enough = 64;
    std::uint64_t repeated[long_enough] = {};
    std::ptrdiff_t at_once = 1;
    if (values.stride == cols && 2 * cols <= long_enough) {
        at_once = long_enough / cols;
        for (std::ptrdiff_t i = 0; i < at_once * cols; ++i) repeated[i] = origins[i % cols];
        origins = repeated;
    }
    const auto origin_at = [=](std::ptrdiff_t i) { return origins[i]; };
    bool right = true;
    for (std::ptrdiff_t r = 0; r < rows; r += at_once) {
        const std::ptrdiff_t n = rows - r < at_once ? rows - r : at_once;
        right &=
            write_differences(values.data + r * values.stride, origin_at, n * cols, to + r * cols);
    }
    return right;
}

// ---- The table ----

void pack_any(std::ptrdiff_t size, Tile<const void> array, Tile<void> packed, std::ptrdiff_t rows,
              std::ptrdiff_t cols) noexcept {
    if (size == 1) return pack<1>(array, packed, rows, cols);
    if (size == 2) return pack<2>(array, packed, rows, cols);
    if (size == 4) return pack<4>(array, packed, rows, cols);
    pack<8>(array, packed, rows, cols);
}
void unpack_any(std::ptrdiff_t size, Tile<const void> packed, Tile<void> array, std::ptrdiff_t rows,
                std::ptrdiff_t cols, bool stream) noexcept {
    if (size == 1) return unpack<1>(packed, array, rows, cols, stream);
    if (size == 2) return unpack<2>(packed, array, rows, cols, stream);
    if (size == 4) return unpack<4>(packed, array, rows, cols, stream);
    unpack<8>(packed, array, rows, cols, stream);
}

bool from_origin_any(DType x, const void* values, std::uint64_t origin, std::ptrdiff_t n,
                     double* to) noexcept {
    return x == DType::int64 ? from_origin<std::int64_t>(values, origin, n, to)
                             : from_origin<std::uint64_t>(values, origin, n, to);
}
bool from_origins_any(DType x, Tile<const void> values, const std::uint64_t* origins,
                      std::ptrdiff_t rows, std::ptrdiff_t cols, double* to) noexcept {
    return x == DType::int64 ? from_origins<std::int64_t>(values, origins, rows, cols, to)
                             : from_origins<std::uint64_t>(values, origins, rows, cols, to);
}

}  // namespace

extern constexpr PackTable pack_table = {pack_any, unpack_any, from_origin_any, from_origins_any};

}  // namespace fastbn::FASTBN_ISA
