// Tiles of operands in memory: the operand's own where the kernels can walk it, else a packed copy
// of one tile in a staging buffer that stays in cache, converted if need be. Unaligned arrays, and
// types that no kernel reads, come to the kernels only through here.
#pragma once

#include <cstddef>

#include "engine/layout.hpp"
#include "engine/memory.hpp"
#include "engine/plan.hpp"
#include "simd/tile.hpp"

namespace fastbn {

// Takes staging memory for what must be packed of an operand, if it has an array at all.
void take_staging(Operand& operand, Staging& staging);

// To a contiguous tile of the operand's kernel_dtype.
void pack_tile(const Operand& operand, const TileRange& tile, void* buffer) noexcept;

// Sets values of a packed tile to 0 where `mask`, of bytes, is 0.
void mask_tile(const Operand& mask, const TileRange& tile, double* values) noexcept;

// A tile of an operand that is walkable, in the operand's own memory.
Tile<void> direct_tile(const Operand& operand, const TileRange& tile) noexcept;

// Where the tile is to be written: in the operand's own memory, or in its staging buffer. Null
// without an operand.
Tile<void> output_tile(const Operand& operand, const TileRange& tile, std::byte* staging) noexcept;
// The same memory with the tile's values in it.
Tile<const void> input_tile(const Operand& operand, const TileRange& tile,
                            std::byte* staging) noexcept;
// Brings what was written to output_tile's memory to the operand's own. stream: past the caches, if
// the operand is transposed.
void finish_output(const Operand& operand, const TileRange& tile, std::byte* staging,
                   bool stream) noexcept;

}  // namespace fastbn
