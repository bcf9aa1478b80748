#include "engine/tiles.hpp"

#include <algorithm>
#include <cstdint>

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

// The tile's elements to a contiguous tile of the type that kernels see, and back.
ElementCopy reading(const Operand& operand) {
    return ElementCopy::reading(operand.dtype, operand.swapped, operand.kernel_dtype);
}
ElementCopy writing(const Operand& operand) {
    return ElementCopy::writing(operand.kernel_dtype, operand.dtype, operand.swapped);
}

// value - origin, rounded once: whatever the two are, the size of their difference fits 64 bits.
double difference(std::uint64_t value, std::uint64_t origin, DType dtype) {
    const bool below = sortable(value, dtype) < sortable(origin, dtype);
    const double size = static_cast<double>(below ? origin - value : value - origin);
    return below ? -size : size;
}

// Packs a tile of 64-bit integers, channels last, as differences from its columns' origins: all
// rows at once, since they may be short. False if no kernel can.
bool pack_rows_of_differences(const Operand& operand, const TileRange& tile,
                              double* buffer) noexcept {
    if (!operand.walkable || !operand.channels_last) return false;
    TileRange rows = tile;
    rows.row_fold = 1;  // origins are for each of the columns that x has
    const Tile<void> x = direct_tile(operand, rows);
    return pack_table().from_origins(operand.dtype, {x.data, x.stride}, operand.origins + tile.col,
                                     tile.rows, tile.cols, buffer);
}

// Packs a tile of 64-bit integers as differences from their channels' origins: by a kernel where
// the differences are small, else one by one.
void pack_differences(const Operand& operand, const TileRange& tile, double* buffer) noexcept {
    if (pack_rows_of_differences(operand, tile, buffer)) return;
    constexpr std::ptrdiff_t at_once = 256;
    constexpr std::ptrdiff_t size = sizeof(std::uint64_t);
    const auto copy = ElementCopy::reading(operand.dtype, operand.swapped, operand.dtype);
    const DType dtype = operand.dtype;
    const bool by_column = operand.channels_last;
    const std::uint64_t* const origins = operand.origins + (by_column ? tile.col : tile.channel);
    const auto pack = [&](const char* at, std::ptrdiff_t stride, std::ptrdiff_t index,
                          std::ptrdiff_t n) {
        std::uint64_t copied[at_once];
        const bool in_place = stride == size && !operand.swapped && is_aligned(at, size);
        if (!in_place) copy(at, stride, reinterpret_cast<char*>(copied), size, n);
        const std::uint64_t* const values =
            in_place ? reinterpret_cast<const std::uint64_t*>(at) : copied;
        if (!by_column && pack_table().from_origin(dtype, values, *origins, n, buffer + index)) {
            return;
        }
        for (std::ptrdiff_t i = 0; i < n; ++i) {
            const std::uint64_t origin = origins[by_column ? (index + i) % tile.cols : 0];
            buffer[index + i] = difference(values[i], origin, dtype);
        }
    };
    each_tile_stretch(
        operand, tile,
        [&](const char* at, std::ptrdiff_t stride, std::ptrdiff_t index, std::ptrdiff_t length) {
            for (std::ptrdiff_t i = 0; i < length; i += at_once) {
                pack(at + i * stride, stride, index + i, std::min(at_once, length - i));
            }
        });
}

// From a contiguous tile.
void unpack_tile(const Operand& operand, const TileRange& tile, const std::byte* buffer) noexcept {
    const ElementCopy copy = writing(operand);
    const std::ptrdiff_t size = size_of(operand.kernel_dtype);
    const char* const values = reinterpret_cast<const char*>(buffer);
    each_tile_stretch(
        operand, tile,
        [&](char* at, std::ptrdiff_t stride, std::ptrdiff_t index, std::ptrdiff_t length) {
            copy(values + index * size, size, at, stride, length);
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

void pack_transposed(const Operand& operand, const TileRange& tile, std::byte* staging) noexcept {
    std::byte* const seen_values = staging + operand.staging_begin;
    std::byte* const stored_values =
        operand.converted() ? staging + operand.stored_staging_begin : seen_values;
    const PackTable& kernels = pack_table();
    const std::ptrdiff_t size = size_of(operand.dtype);
    each_transposed_part(
        operand, tile, reinterpret_cast<char*>(stored_values),
        [&](Tile<void> packed, Tile<void> array, std::ptrdiff_t rows, std::ptrdiff_t cols) {
            kernels.pack(size, {array.data, array.stride}, packed, rows, cols);
        });
    if (!operand.converted()) return;
    reading(operand).dense(stored_values, seen_values, tile.rows * tile.cols);
}

void unpack_transposed(const Operand& operand, const TileRange& tile, std::byte* staging,
                       bool stream) noexcept {
    std::byte* const seen_values = staging + operand.staging_begin;
    std::byte* stored_values = seen_values;
    if (operand.converted()) {
        stored_values = staging + operand.stored_staging_begin;
        writing(operand).dense(seen_values, stored_values, tile.rows * tile.cols);
    }
    const PackTable& kernels = pack_table();
    const std::ptrdiff_t size = size_of(operand.dtype);
    each_transposed_part(
        operand, tile, reinterpret_cast<char*>(stored_values),
        [&](Tile<void> packed, Tile<void> array, std::ptrdiff_t rows, std::ptrdiff_t cols) {
            kernels.unpack(size, {packed.data, packed.stride}, array, rows, cols, stream);
        });
}

}  // namespace

void take_staging(Operand& operand, Staging& staging) {
    if (!operand || operand.direct) return;
    operand.staging_begin = staging.take_tile(size_of(operand.kernel_dtype));
    // Origins are subtracted on the way, whatever lies side by side.
    if (operand.transposed && operand.converted() && operand.origins == nullptr) {
        operand.stored_staging_begin = staging.take_tile(size_of(operand.dtype));
    }
}

Tile<void> direct_tile(const Operand& operand, const TileRange& tile) noexcept {
    const std::ptrdiff_t size = size_of(operand.dtype);
    char* const first = operand.base + channel_offset(operand, tile) +
                        tile.row * operand.row_stride + tile.col * size;
    return {first, operand.row_stride / size * tile.row_fold};
}

void pack_tile(const Operand& operand, const TileRange& tile, void* buffer) noexcept {
    if (operand.origins != nullptr) {
        return pack_differences(operand, tile, static_cast<double*>(buffer));
    }
    const ElementCopy copy = reading(operand);
    const std::ptrdiff_t size = size_of(operand.kernel_dtype);
    char* const values = static_cast<char*>(buffer);
    each_tile_stretch(
        operand, tile,
        [&](const char* at, std::ptrdiff_t stride, std::ptrdiff_t index, std::ptrdiff_t length) {
            copy(at, stride, values + index * size, size, length);
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

Tile<void> output_tile(const Operand& operand, const TileRange& tile, std::byte* staging) noexcept {
    if (!operand) return {nullptr, 0};
    if (operand.direct) return direct_tile(operand, tile);
    return {staging + operand.staging_begin, tile.cols * tile.row_fold};
}

Tile<const void> input_tile(const Operand& operand, const TileRange& tile,
                            std::byte* staging) noexcept {
    const Tile<void> found = output_tile(operand, tile, staging);
    if (operand && operand.transposed && operand.origins == nullptr) {
        pack_transposed(operand, tile, staging);
    } else if (operand && !operand.direct) {
        pack_tile(operand, tile, found.data);
    }
    return {found.data, found.stride};
}

void finish_output(const Operand& operand, const TileRange& tile, std::byte* staging,
                   bool stream) noexcept {
    if (!operand || operand.direct) return;
    if (operand.transposed) return unpack_transposed(operand, tile, staging, stream);
    unpack_tile(operand, tile, staging + operand.staging_begin);
}

}  // namespace fastbn
