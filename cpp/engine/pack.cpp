#include "engine/pack.hpp"

#include <cstring>

namespace fastbn {
namespace {

template <std::size_t size>
void copy_strided(char* to, std::ptrdiff_t to_stride, const char* from, std::ptrdiff_t from_stride,
                  std::ptrdiff_t n) noexcept {
    for (std::ptrdiff_t i = 0; i < n; ++i) {
        std::memcpy(to + i * to_stride, from + i * from_stride, size);
    }
}

void copy_run(char* to, std::ptrdiff_t to_stride, const char* from, std::ptrdiff_t from_stride,
              std::ptrdiff_t n, std::ptrdiff_t size) noexcept {
    if (to_stride == size && from_stride == size) {
        std::memcpy(to, from, static_cast<std::size_t>(n * size));
    } else if (size == 4) {
        copy_strided<4>(to, to_stride, from, from_stride, n);
    } else {
        copy_strided<8>(to, to_stride, from, from_stride, n);
    }
}

std::ptrdiff_t channel_offset(const Operand& operand, const TileRange& tile) {
    return operand.channels.offset(tile.channel);
}

// run(address in the operand, its stride, index in the packed tile, length) for every stretch of
// the tile that is evenly spaced in both.
template <class Run>
void each_tile_stretch(const Operand& operand, const TileRange& tile, Run&& run) {
    char* const base = operand.base + channel_offset(operand, tile);
    std::ptrdiff_t packed = 0;
    const auto columns_of = [&](char* row) {
        each_stretch(operand.cols, tile.col, tile.cols,
                     [&](std::ptrdiff_t offset, std::ptrdiff_t length, std::ptrdiff_t stride) {
                         run(row + offset, stride, packed, length);
                         packed += length;
                     });
    };
    each_stretch(operand.rows, tile.row, tile.rows,
                 [&](std::ptrdiff_t offset, std::ptrdiff_t length, std::ptrdiff_t stride) {
                     for (std::ptrdiff_t r = 0; r < length; ++r) {
                         columns_of(base + offset + r * stride);
                     }
                 });
}

}  // namespace

void pack_tile(const Operand& operand, const TileRange& tile, std::ptrdiff_t size,
               char* buffer) noexcept {
    each_tile_stretch(
        operand, tile,
        [&](const char* at, std::ptrdiff_t stride, std::ptrdiff_t index, std::ptrdiff_t length) {
            copy_run(buffer + index * size, size, at, stride, length, size);
        });
}

void unpack_tile(const Operand& operand, const TileRange& tile, std::ptrdiff_t size,
                 const char* buffer) noexcept {
    each_tile_stretch(
        operand, tile,
        [&](char* at, std::ptrdiff_t stride, std::ptrdiff_t index, std::ptrdiff_t length) {
            copy_run(at, stride, buffer + index * size, size, length, size);
        });
}

char* tile_address(const Operand& operand, const TileRange& tile,
                   std::ptrdiff_t element_size) noexcept {
    return operand.base + channel_offset(operand, tile) + tile.row * operand.row_stride +
           tile.col * element_size;
}

}  // namespace fastbn
