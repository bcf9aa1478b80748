// The plan of one call: which tiles there are, which of them belong together, how many threads
// work on them. Tiles and spans follow from x's layout alone, never from the threads or the
// machine: they fix the order of every sum, and with it the bits of every result.
#pragma once

#include <cstddef>

#include "engine/layout.hpp"

namespace fastbn {

// One tile: rows x cols of a channel (channels_first) or of columns (channels_last).
struct TileRange {
    std::ptrdiff_t channel;  // channels_first only
    std::ptrdiff_t row;
    std::ptrdiff_t rows;
    std::ptrdiff_t col;
    std::ptrdiff_t cols;
};

// Channels that are reduced, finalized and transformed together: one (channels_first), or those of
// some neighbouring columns (channels_last). Sums and coefficients are held in entries: one per
// channel or one per column.
struct Slab {
    std::ptrdiff_t channel;
    std::ptrdiff_t channels;
    std::ptrdiff_t entry;
    std::ptrdiff_t entries;
};

struct Plan {
    Layout layout;
    DType dtype = DType::float32;

    std::ptrdiff_t tile_rows = 1;
    std::ptrdiff_t tile_cols = 1;
    std::ptrdiff_t tiles_per_row = 1;
    std::ptrdiff_t tiles = 1;           // per slab
    std::ptrdiff_t tiles_per_span = 1;
    std::ptrdiff_t spans = 1;           // per slab: stretches of tiles with sums of their own
    std::ptrdiff_t slab_entries = 1;
    std::ptrdiff_t slabs = 1;

    int threads = 1;
    bool fused = false;  // each slab goes through all phases on one thread, while it is in cache

    std::ptrdiff_t entries() const {
        return layout.channels_first() ? layout.channels : layout.cols;
    }
    std::ptrdiff_t tile_elements() const {
        return tile_rows * (layout.channels_first() ? tile_cols : slab_entries);
    }
    std::ptrdiff_t bytes() const { return layout.channels * layout.count * size_of(dtype); }

    Slab slab(std::ptrdiff_t index) const;
    TileRange tile(const Slab& slab, std::ptrdiff_t index) const;
    std::ptrdiff_t first_tile(std::ptrdiff_t span) const { return span * tiles_per_span; }
    std::ptrdiff_t end_tile(std::ptrdiff_t span) const;
    // Values per channel and repeat in tiles 0 .. end of a span.
    std::ptrdiff_t span_count(std::ptrdiff_t span) const;
};

Plan plan_of(const ArrayRef& x, const Features& features);

// Whether results of this size are better written past the caches.
bool worth_streaming(const Plan& plan);

}  // namespace fastbn
