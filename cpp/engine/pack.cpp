#include "engine/pack.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "engine/dispatch.hpp"

namespace fastbn {
namespace {

std::ptrdiff_t channel_offset(const Operand& operand, const TileRange& tile) {
    return operand.channels.offset(tile.channel);
}

// visit(address in the operand, its stride, index in the packed tile, length) for every stretch of
// the tile that is evenly spaced in both.
template <class Visit>
void each_tile_stretch(const Operand& operand, const TileRange& tile, Visit&& visit) {
    char* const base = operand.base + channel_offset(operand, tile);
    std::ptrdiff_t packed = 0;
    const auto visit_next = [&](char* at, std::ptrdiff_t length, std::ptrdiff_t stride) {
        visit(at, stride, packed, length);
        packed += length;
    };
    const auto columns_of = [&](char* row) {
        each_stretch(operand.cols, tile.col, tile.cols,
                     [&](std::ptrdiff_t offset, std::ptrdiff_t length, std::ptrdiff_t stride) {
                         visit_next(row + offset, length, stride);
                     });
    };
    // Evenly spaced columns need no search for their stretches, and rows of them may be one.
    const bool even = operand.cols.n <= 1;
    const std::ptrdiff_t step = operand.cols.n == 1 ? operand.cols.dim[0].stride : 0;
    each_stretch(operand.rows, tile.row, tile.rows,
                 [&](std::ptrdiff_t offset, std::ptrdiff_t length, std::ptrdiff_t stride) {
                     char* const first = base + offset + tile.col * step;
                     if (even && tile.cols == 1) return visit_next(first, length, stride);
                     if (even && stride == tile.cols * step) {
                         return visit_next(first, length * tile.cols, step);
                     }
                     for (std::ptrdiff_t r = 0; r < length; ++r) {
                         if (even) {
                             visit_next(first + r * stride, tile.cols, step);
                         } else {
                             columns_of(base + offset + r * stride);
                         }
                     }
                 });
}

template <class T>
bool is_aligned(const char* data) {
    return reinterpret_cast<std::uintptr_t>(data) % alignof(T) == 0;
}

template <class T>
struct Strided {
    char* data;
    std::ptrdiff_t stride;  // in bytes
    bool is_dense() const {
        return stride == static_cast<std::ptrdiff_t>(sizeof(T)) && is_aligned<T>(data);
    }
    T* dense() const { return reinterpret_cast<T*>(data); }
};

template <class T>
Strided<T> dense(std::byte* values) {
    return {reinterpret_cast<char*>(values), sizeof(T)};
}

template <class T, class S>
void copy_stretch(const Strided<T>& to, const Strided<S>& from, std::ptrdiff_t n) noexcept {
    if (to.is_dense() && from.is_dense()) {
        if constexpr (std::is_same_v<T, S>) {
            std::memcpy(to.data, from.data, static_cast<std::size_t>(n) * sizeof(T));
            return;
        } else if constexpr (is_half<S> && std::is_same_v<T, float>) {
            return conversion_kernels(dtype_of<S>).widen(from.dense(), to.dense(), n);
        } else if constexpr (is_half<T> && std::is_same_v<S, float>) {
            return conversion_kernels(dtype_of<T>).narrow(from.dense(), to.dense(), n);
        } else {
            const S* const values = from.dense();
            T* const results = to.dense();
            for (std::ptrdiff_t i = 0; i < n; ++i) results[i] = converted<T>(values[i]);
            return;
        }
    }
    if (to.is_dense() && from.stride == 0) {  // a broadcast axis, in one store for many values
        std::fill_n(to.dense(), n, converted<T>(read_element<S>(from.data)));
        return;
    }
    for (std::ptrdiff_t i = 0; i < n; ++i) {
        const S value = read_element<S>(from.data + i * from.stride);
        write_element(to.data + i * to.stride, converted<T>(value));
    }
}

// visit(a value of the type that the operand has in memory, one of the type that kernels see it
// as).
template <class Visit>
void visit_types(const Operand& operand, const Visit& visit) {
    const auto with_stored = [&](auto seen) {
        visit_stored(operand.dtype, operand.swapped, [&](auto stored) { visit(stored, seen); });
    };
    if (operand.kernel_dtype == DType::float64) {
        with_stored(double{});
    } else if (operand.kernel_dtype == DType::float32) {
        with_stored(float{});
    } else {  // the sixteen-bit types and bytes are seen as they are
        visit_dtype(operand.kernel_dtype, [&](auto seen) {
            if constexpr (sizeof seen > 1) {
                if (operand.swapped) return visit(Swapped<decltype(seen)>{seen}, seen);
            }
            visit(seen, seen);
        });
    }
}

// value - origin, rounded once: whatever the two are, the size of their difference fits 64 bits.
template <class T>
double difference(T value, T origin) {
    const auto up = static_cast<std::uint64_t>(value) - static_cast<std::uint64_t>(origin);
    const double size = static_cast<double>(value < origin ? 0 - up : up);
    return value < origin ? -size : size;
}

// A tile of 64-bit integers as differences from their channels' origins, by a kernel where values
// lie side by side and differences are small.
template <class S>
void pack_differences(const Operand& operand, const TileRange& tile, double* buffer) noexcept {
    const auto value_at = [](const char* from) {
        const S stored = read_element<S>(from);
        if constexpr (is_swapped<S>) {
            return reverse_bytes(stored.reversed);
        } else {
            return stored;
        }
    };
    using T = decltype(value_at(nullptr));
    const DifferenceKernels& kernels = difference_kernels(operand.dtype);
    const bool by_column = operand.origins.by_column;
    each_tile_stretch(
        operand, tile,
        [&](const char* at, std::ptrdiff_t stride, std::ptrdiff_t index, std::ptrdiff_t length) {
            const std::uint64_t* const origins =
                operand.origins.of_channel + (by_column ? tile.col : tile.channel);
            const bool side_by_side =
                !is_swapped<S> && stride == std::ptrdiff_t{sizeof(T)} && is_aligned<T>(at);
            if (side_by_side && !by_column &&
                kernels.from_origin(at, *origins, length, buffer + index)) {
                return;
            }
            for (std::ptrdiff_t i = 0; i < length; ++i) {
                const std::uint64_t origin = origins[by_column ? (index + i) % tile.cols : 0];
                buffer[index + i] = difference(value_at(at + i * stride), static_cast<T>(origin));
            }
        });
}

// The same of columns with an origin each, all rows at once, which may be short; false where that
// cannot be.
bool pack_rows_of_differences(const Operand& operand, const TileRange& tile,
                              double* buffer) noexcept {
    if (!operand.walkable || !operand.origins.by_column) return false;
    TileRange rows = tile;
    rows.row_fold = 1;  // origins are for each of the columns that x has
    const Tile<void> x = direct_tile(operand, rows);
    return difference_kernels(operand.dtype)
        .from_origins({x.data, x.stride}, operand.origins.of_channel + tile.col, tile.rows,
                      tile.cols, buffer);
}

void pack_differences(const Operand& operand, const TileRange& tile, double* buffer) noexcept {
    if (pack_rows_of_differences(operand, tile, buffer)) return;
    const auto pack = [&](auto value) {
        if (operand.swapped) {
            pack_differences<Swapped<decltype(value)>>(operand, tile, buffer);
        } else {
            pack_differences<decltype(value)>(operand, tile, buffer);
        }
    };
    if (operand.dtype == DType::int64) return pack(std::int64_t{});
    pack(std::uint64_t{});
}

// From a contiguous tile.
void unpack_tile(const Operand& operand, const TileRange& tile, void* buffer) noexcept {
    visit_types(operand, [&](auto stored, auto seen) {
        using S = decltype(stored);
        using T = decltype(seen);
        each_tile_stretch(
            operand, tile,
            [&](char* at, std::ptrdiff_t stride, std::ptrdiff_t index, std::ptrdiff_t length) {
                char* const from = reinterpret_cast<char*>(static_cast<T*>(buffer) + index);
                copy_stretch(Strided<S>{at, stride}, Strided<T>{from, sizeof(T)}, length);
            });
    });
}

// visit(the packed rows x cols, their place in the array, rows, cols) for every part of the tile of
// a transposed operand whose rows are side by side in the array, and whose columns evenly spaced.
template <class Visit>
void each_transposed_part(const Operand& operand, const TileRange& tile, char* packed,
                          const Visit& visit) {
    const std::ptrdiff_t size = size_of(operand.dtype);
    char* const base = operand.base + channel_offset(operand, tile);
    std::ptrdiff_t row = 0;
    each_stretch(operand.rows, tile.row, tile.rows,
                 [&](std::ptrdiff_t row_offset, std::ptrdiff_t rows, std::ptrdiff_t) {
                     std::ptrdiff_t col = 0;
                     each_stretch(
                         operand.cols, tile.col, tile.cols,
                         [&](std::ptrdiff_t offset, std::ptrdiff_t cols, std::ptrdiff_t stride) {
                             visit(Tile<void>{packed + (row * tile.cols + col) * size, tile.cols},
                                   Tile<void>{base + row_offset + offset, stride / size}, rows,
                                   cols);
                             col += cols;
                         });
                     row += rows;
                 });
}

void pack_transposed(const Operand& operand, const TileRange& tile,
                     const Scratch& scratch) noexcept {
    std::byte* const seen_values = scratch.staging + operand.staging;
    std::byte* const stored_values =
        operand.converted() ? scratch.staging + operand.stored_staging : seen_values;
    const TransposeKernels& kernels = transpose_kernels(size_of(operand.dtype));
    each_transposed_part(
        operand, tile, reinterpret_cast<char*>(stored_values),
        [&](Tile<void> packed, Tile<void> array, std::ptrdiff_t rows, std::ptrdiff_t cols) {
            kernels.pack({array.data, array.stride}, packed, rows, cols);
        });
    if (!operand.converted()) return;
    visit_types(operand, [&](auto stored, auto seen) {
        copy_stretch(dense<decltype(seen)>(seen_values), dense<decltype(stored)>(stored_values),
                     tile.rows * tile.cols);
    });
}

void unpack_transposed(const Operand& operand, const TileRange& tile, const Scratch& scratch,
                       bool stream) noexcept {
    std::byte* const seen_values = scratch.staging + operand.staging;
    std::byte* stored_values = seen_values;
    if (operand.converted()) {
        stored_values = scratch.staging + operand.stored_staging;
        visit_types(operand, [&](auto stored, auto seen) {
            copy_stretch(dense<decltype(stored)>(stored_values), dense<decltype(seen)>(seen_values),
                         tile.rows * tile.cols);
        });
    }
    const TransposeKernels& kernels = transpose_kernels(size_of(operand.dtype));
    each_transposed_part(
        operand, tile, reinterpret_cast<char*>(stored_values),
        [&](Tile<void> packed, Tile<void> array, std::ptrdiff_t rows, std::ptrdiff_t cols) {
            kernels.unpack({packed.data, packed.stride}, array, rows, cols, stream);
        });
}

}  // namespace

Tile<void> direct_tile(const Operand& operand, const TileRange& tile) noexcept {
    const std::ptrdiff_t size = size_of(operand.dtype);
    char* const first = operand.base + channel_offset(operand, tile) +
                        tile.row * operand.row_stride + tile.col * size;
    return {first, operand.row_stride / size * tile.row_fold};
}

void pack_tile(const Operand& operand, const TileRange& tile, void* buffer) noexcept {
    if (operand.origins) return pack_differences(operand, tile, static_cast<double*>(buffer));
    visit_types(operand, [&](auto stored, auto seen) {
        using S = decltype(stored);
        using T = decltype(seen);
        each_tile_stretch(
            operand, tile,
            [&](char* at, std::ptrdiff_t stride, std::ptrdiff_t index, std::ptrdiff_t length) {
                char* const to = reinterpret_cast<char*>(static_cast<T*>(buffer) + index);
                copy_stretch(Strided<T>{to, sizeof(T)}, Strided<S>{at, stride}, length);
            });
    });
}

void mask_tile(const Operand& mask, const TileRange& tile, double* values) noexcept {
    each_tile_stretch(
        mask, tile,
        [&](const char* at, std::ptrdiff_t stride, std::ptrdiff_t index, std::ptrdiff_t length) {
            double* const masked = values + index;
            if (stride == 1) {  // a loop for the compiler to vectorize
                for (std::ptrdiff_t i = 0; i < length; ++i) {
                    masked[i] = at[i] != 0 ? masked[i] : 0.0;
                }
            } else {
                for (std::ptrdiff_t i = 0; i < length; ++i) {
                    if (at[i * stride] == 0) masked[i] = 0.0;
                }
            }
        });
}

Tile<void> output_tile(const Operand& operand, const TileRange& tile,
                       const Scratch& scratch) noexcept {
    if (!operand) return {nullptr, 0};
    if (operand.direct) return direct_tile(operand, tile);
    return {scratch.staging + operand.staging, tile.cols * tile.row_fold};
}

Tile<const void> input_tile(const Operand& operand, const TileRange& tile,
                            const Scratch& scratch) noexcept {
    const Tile<void> found = output_tile(operand, tile, scratch);
    if (operand && operand.transposed && !operand.origins) {
        pack_transposed(operand, tile, scratch);
    } else if (operand && !operand.direct) {
        pack_tile(operand, tile, found.data);
    }
    return {found.data, found.stride};
}

void finish_output(const Operand& operand, const TileRange& tile, const Scratch& scratch,
                   bool stream) noexcept {
    if (!operand || operand.direct) return;
    if (operand.transposed) return unpack_transposed(operand, tile, scratch, stream);
    unpack_tile(operand, tile, scratch.staging + operand.staging);
}

}  // namespace fastbn
