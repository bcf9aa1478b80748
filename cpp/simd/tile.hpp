// A block of memory as a kernel sees it, the number of lanes that every kernel is written on, and
// the size of a line of the caches.
// Every instruction set's object includes this file, so nothing in it may generate code of its own.
#pragma once

#include <cstddef>

namespace fastbn {

// Values that every kernel works on at a time, whatever registers hold them.
constexpr std::ptrdiff_t lanes = 16;

// A line of the caches.
constexpr std::ptrdiff_t line_bytes = 64;

// Contiguous columns, rows `stride` elements apart. Tile<void> and Tile<const void> are tiles whose
// type the caller keeps: kernels are called with them, so that one signature serves all types.
template <class T>
struct Tile {
    T* data;
    std::ptrdiff_t stride;
};

// The same tile with its type, at a kernel's door.
template <class T, class V>
static inline Tile<T> typed(Tile<V> tile) {
    return {static_cast<T*>(tile.data), tile.stride};
}

}  // namespace fastbn
