// The plan of one call: which tiles there are, which of them belong together, how many threads
// work on them. Tiles and spans follow from x's layout alone, never from the threads or the
// machine: they fix the order of every sum, and with it the bits of every result.
#pragma once

#include <cstddef>

#include "engine/layout.hpp"

namespace fastbn {

// One tile: rows x cols of each of its channels (channels_first), or of columns (channels_last), as
// x has them.
struct TileRange {
    std::ptrdiff_t entry;    // the first entry that its sums and coefficients are in
    std::ptrdiff_t channel;  // channels_first only
    std::ptrdiff_t row;
    std::ptrdiff_t rows;
    std::ptrdiff_t col;
    std::ptrdiff_t cols;
    std::ptrdiff_t channels;  // channels_first: several in a row, each with all its columns
    std::ptrdiff_t abreast;   // rows that the kernels see as one

    std::ptrdiff_t kernel_rows() const { return rows / abreast; }
    std::ptrdiff_t kernel_cols() const { return cols * channels * abreast; }
};

// Channels that are reduced, finalized and transformed together. Sums and coefficients are held in
// entries: one per channel (channels_first) or one per column of the kernels' tiles
// (channels_last).
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
    std::ptrdiff_t positions = 1;
    std::ptrdiff_t positions_per_span = 1;
    std::ptrdiff_t spans = 1;  // stretches of positions with sums of their own
    std::ptrdiff_t slab_entries = 1;
    std::ptrdiff_t slabs = 1;

    int threads = 1;
    bool stream = false;   // results are better written past the caches
    bool fused = false;    // each slab goes through all phases on one thread
    bool in_runs = false;  // channels_first: a tile to transform may have several channels
    std::ptrdiff_t strip_rows = 1;
    std::ptrdiff_t strip_cols = 1;
    std::ptrdiff_t strip_channels = 1;

    std::ptrdiff_t entries() const {
        return layout.channels_first() ? layout.channels : layout.cols * layout.abreast;
    }
    std::ptrdiff_t tile_elements() const { return tile_rows * tile_cols; }
    std::ptrdiff_t values() const { return layout.channels * layout.count; }

    Slab slab(std::ptrdiff_t index) const;
    // Tiles of a slab lie at `positions` along its rows and columns; at each, channels_first has
    // one tile per channel. Rows that are left over from those abreast are a last position, and a
    // last span, of their own.
    std::ptrdiff_t tiles_at_position(const Slab& slab) const {
        return layout.channels_first() ? slab.channels : 1;
    }
    TileRange tile(const Slab& slab, std::ptrdiff_t position, std::ptrdiff_t channel) const;
    // All channels of a slab at a position, where they run on along a row.
    TileRange all_channels(const Slab& slab, std::ptrdiff_t position) const;
    std::ptrdiff_t first_position(std::ptrdiff_t span) const;
    std::ptrdiff_t end_position(std::ptrdiff_t span) const;
    std::ptrdiff_t main_spans() const { return spans - (layout.leftover_rows() > 0 ? 1 : 0); }
    // Values that an entry has before a position.
    std::ptrdiff_t count_before(std::ptrdiff_t position) const;
    // Values that an entry has in a span.
    std::ptrdiff_t span_count(std::ptrdiff_t span) const;
    // Sums and coefficients that a tile has.
    std::ptrdiff_t entries_of(const TileRange& tile) const {
        return layout.channels_first() ? tile.channels : tile.kernel_cols();
    }

    // All of x once more, cut for a pass that only transforms: tiles in the order of memory.
    std::ptrdiff_t strips() const;
    TileRange strip(std::ptrdiff_t index) const;
};

// What operands have in common.
struct Access {
    bool all_direct = true;          // none of them needs packing
    bool in_runs = true;             // all have their channels one after the other along a row
    bool in_place = false;           // a result replaces an argument
    std::ptrdiff_t result_size = 4;  // bytes of a value
};

// What fixes the bits: tiles, spans, slabs. packed_sums: sums are taken from packed tiles, which
// had better be small.
Plan plan_of(const Layout& layout, DType dtype, bool packed_sums = false);
// Chooses what does not fix the bits: threads, fused, in_runs, stream, strips.
// reduces: the operation sums before it transforms.
void choose_path(Plan& plan, bool reduces, const Access& access);

}  // namespace fastbn
