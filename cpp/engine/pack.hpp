// Tiles in memory: an operand's own where the kernels can walk it, else a packed copy of one tile
// in a buffer that stays in cache. Unaligned x, dy and y reach the kernels only through here.
#pragma once

#include "engine/plan.hpp"
#include "kernels/table.hpp"

namespace fastbn {

void pack_tile(const Operand& operand, const TileRange& tile, std::ptrdiff_t element_size,
               char* buffer) noexcept;
void unpack_tile(const Operand& operand, const TileRange& tile, std::ptrdiff_t element_size,
                 const char* buffer) noexcept;

// Where a tile begins in an operand that is direct.
char* tile_address(const Operand& operand, const TileRange& tile,
                   std::ptrdiff_t element_size) noexcept;

// The tile's memory, without its values: the operand's own, or the buffer.
template <class T>
Tile<T> output_tile(const Operand& operand, const TileRange& tile, T* buffer) noexcept {
    constexpr std::ptrdiff_t size = sizeof(T);
    if (!operand.direct) return {buffer, tile.cols * tile.abreast};
    return {reinterpret_cast<T*>(tile_address(operand, tile, size)),
            operand.row_stride / size * tile.abreast};
}

// The tile with its values, to be read.
template <class T>
Tile<const T> input_tile(const Operand& operand, const TileRange& tile, T* buffer) noexcept {
    if (!operand.direct) pack_tile(operand, tile, sizeof(T), reinterpret_cast<char*>(buffer));
    const Tile<T> found = output_tile(operand, tile, buffer);
    return {found.data, found.stride};
}

// Completes a write to output_tile's memory.
template <class T>
void finish_output(const Operand& operand, const TileRange& tile, const T* buffer) noexcept {
    if (!operand.direct)
        unpack_tile(operand, tile, sizeof(T), reinterpret_cast<const char*>(buffer));
}

}  // namespace fastbn
