// Tiles in memory: an operand's own where the kernels can walk it, else a packed copy of one tile
// in a buffer that stays in cache, converted if need be. Unaligned arrays, and types that no kernel
// reads, come to the kernels only through here.
#pragma once

#include "engine/plan.hpp"
#include "engine/workspace.hpp"
#include "kernels/data.hpp"

namespace fastbn {

// To and from T, the operand's kernel_dtype.
template <class T>
void pack_tile(const Operand& operand, const TileRange& tile, T* buffer) noexcept;
template <class T>
void unpack_tile(const Operand& operand, const TileRange& tile, const T* buffer) noexcept;

// Sets values of a packed tile to 0 where `mask`, of bytes, is 0.
template <class T>
void mask_tile(const Operand& mask, const TileRange& tile, T* values) noexcept;

// Where a tile begins in an operand that is direct.
char* tile_address(const Operand& operand, const TileRange& tile) noexcept;

template <class T>
Tile<T> direct_tile(const Operand& operand, const TileRange& tile) noexcept {
    constexpr std::ptrdiff_t size = sizeof(T);
    return {reinterpret_cast<T*>(tile_address(operand, tile)),
            operand.row_stride / size * tile.abreast};
}

// The tile's memory, without its values: the operand's own, or its room. None without an operand.
template <class T>
Tile<T> output_tile(const Operand& operand, const TileRange& tile,
                    const Scratch& scratch) noexcept {
    if (!operand) return {nullptr, 0};
    if (operand.direct) return direct_tile<T>(operand, tile);
    return {scratch.room<T>(operand), tile.cols * tile.abreast};
}

// The tile with its values, to be read.
template <class T>
Tile<const T> input_tile(const Operand& operand, const TileRange& tile,
                         const Scratch& scratch) noexcept {
    const Tile<T> found = output_tile<T>(operand, tile, scratch);
    if (operand && !operand.direct) pack_tile(operand, tile, found.data);
    return {found.data, found.stride};
}

// Completes a write to output_tile's memory.
template <class T>
void finish_output(const Operand& operand, const TileRange& tile, const Scratch& scratch) noexcept {
    if (operand && !operand.direct) unpack_tile<T>(operand, tile, scratch.room<T>(operand));
}

}  // namespace fastbn
