// The plan of one call: which tiles there are, which of them belong together, how many threads
// work on them. Tiles and spans follow from x's layout and the form of its weights alone, never
// from the threads or the machine: they fix the order of every sum, and with it the bits of every
// result.
#pragma once

#include <cstddef>
#include <initializer_list>

#include "engine/layout.hpp"
#include "engine/threads.hpp"

namespace fastbn {

// One tile: rows x cols of each of its channels (channels_first), or of columns (channels_last), as
// x has them.
struct TileRange {
    std::ptrdiff_t buffer_index;  // where its sums and coefficients begin in the channel buffers
    std::ptrdiff_t channel;       // channels_first only
    std::ptrdiff_t row;
    std::ptrdiff_t rows;
    std::ptrdiff_t col;
    std::ptrdiff_t cols;
    std::ptrdiff_t channels;  // channels_first: several in a row, each with all its columns
    std::ptrdiff_t row_fold;  // rows that the kernels see as one

    std::ptrdiff_t kernel_rows() const { return rows / row_fold; }
    std::ptrdiff_t kernel_cols() const { return cols * row_fold; }                // of each channel
    std::ptrdiff_t kernel_row_width() const { return kernel_cols() * channels; }  // of all channels
};

// Channels that are reduced, finalized and transformed together, and their part of the channel
// buffers, which have an entry for each channel (channels_first) or for each column of the kernels'
// tiles (channels_last).
struct Slab {
    std::ptrdiff_t channel;
    std::ptrdiff_t channels;
    std::ptrdiff_t buffer_index;
    std::ptrdiff_t buffer_size;
};

// What a call does with its arrays, as far as the plan depends on it.
struct Work {
    bool reduces = false;      // sums are taken, before results are written or without any
    bool packed_sums = false;  // sums are taken from packed tiles, which had better be small
    // The arrays that results are computed from and written to:
    bool all_direct = true;          // none of them needs packing
    bool transposes = false;         // some need their tiles transposed
    bool dense_rows = true;          // the rows of each follow each other without a gap
    bool adjacent_channels = true;   // all have their channels one after the other along a row
    bool in_place = false;           // a result replaces an argument
    std::ptrdiff_t result_size = 4;  // bytes of a value in a result
    std::ptrdiff_t touched = 0;      // bytes of a value in all arrays together
    std::ptrdiff_t inputs = 0;       // how many of them are read
    // Values of a column that are side by side in a result whose tiles are transposed, else 0.
    std::ptrdiff_t result_column = 0;

    bool transforms() const { return touched > 0; }  // else sums are all that is asked for

    // Takes in operands that results are computed from or are.
    void read(const Operand& operand);
    void write(const Operand& operand, std::initializer_list<const Operand*> sources);

private:
    void touch(const Operand& operand);
};

struct Plan {
    Layout layout;

    // What fixes the bits.
    std::ptrdiff_t tile_rows = 1;
    std::ptrdiff_t tile_cols = 1;
    std::ptrdiff_t tiles_per_row = 1;
    std::ptrdiff_t positions = 1;
    std::ptrdiff_t positions_per_span = 1;
    std::ptrdiff_t spans = 1;
    std::ptrdiff_t slab_buffer_size = 1;
    std::ptrdiff_t slabs = 1;

    // What does not.
    Team team;
    bool reduces = false;
    bool fused = false;   // each slab goes through all phases on one thread
    bool stream = false;  // results are better written past the caches
    // channels_first: a tile to transform may have several channels; channels_last: rows to
    // transform are one row for the kernels.
    bool adjacent_channels = false;
    bool dense_rows = false;
    std::ptrdiff_t inputs = 0;             // how many arrays a transform reads
    std::ptrdiff_t positions_at_once = 1;  // of a fused slab, that are transformed together
    std::ptrdiff_t strip_rows = 1;
    std::ptrdiff_t strip_cols = 1;
    std::ptrdiff_t strip_channels = 1;

    std::ptrdiff_t buffer_size() const {
        return layout.channels_first() ? layout.channels : layout.cols * layout.row_fold;
    }
    // Of each slab but the last, which may have fewer.
    std::ptrdiff_t slab_channels() const {
        return slab_buffer_size / (layout.inner_fold * layout.row_fold);
    }
    std::ptrdiff_t tile_elements() const { return tile_rows * tile_cols; }
    std::ptrdiff_t values() const { return layout.channels * layout.count; }

    Slab slab(std::ptrdiff_t index) const;
    // Tiles of a slab lie at `positions` along its rows and columns; at each, channels_first has
    // one tile per channel. Consecutive positions make a span, which has sums of its own. Rows that
    // are left over from those that are folded are a last position, and a last span.
    std::ptrdiff_t tiles_at_position(const Slab& slab) const {
        return layout.channels_first() ? slab.channels : 1;
    }
    // channels_first: of so many consecutive positions, which are whole rows or all in one row.
    TileRange tile(const Slab& slab, std::ptrdiff_t position, std::ptrdiff_t channel,
                   std::ptrdiff_t consecutive = 1) const;
    // The first of the positions before `end` that are transformed together with the last of them.
    std::ptrdiff_t first_at_once(std::ptrdiff_t end) const;
    std::ptrdiff_t first_position(std::ptrdiff_t span) const;
    std::ptrdiff_t end_position(std::ptrdiff_t span) const;
    std::ptrdiff_t main_spans() const { return spans - (layout.leftover_rows() > 0 ? 1 : 0); }
    // Values that an entry of the channel buffers has before a position, and in a span.
    std::ptrdiff_t count_before(std::ptrdiff_t position) const;
    std::ptrdiff_t span_count(std::ptrdiff_t span) const;

    // All of x once more, cut for a phase that only transforms: tiles in the order of memory.
    std::ptrdiff_t strips() const;
    TileRange strip(std::ptrdiff_t index) const;
};

Plan plan_of(const Layout& layout, DType x, const Work& work);

}  // namespace fastbn
