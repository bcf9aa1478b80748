#include "engine/plan.hpp"

#include <algorithm>

#include "engine/parallel.hpp"
#include "kernels/table.hpp"

namespace fastbn {
namespace {

// Tiles of one channel: small enough for two reads from the first-level cache, and for the error
// bounds of the chunk sums (kernels/moments.hpp).
constexpr std::ptrdiff_t chunk_float32 = 4096;
constexpr std::ptrdiff_t chunk_float64 = 1024;

// Tiles of columns: rows bound the error likewise, columns keep the accumulators in cache.
constexpr std::ptrdiff_t column_tile_rows = 128;
constexpr std::ptrdiff_t column_tile_cols = 256;
constexpr std::ptrdiff_t packed_tile_cols = 64;
constexpr std::ptrdiff_t repeated_tile_cols = 1024;

// Strips: long enough for a kernel call, short enough for its coefficients to stay in cache.
constexpr std::ptrdiff_t min_strip_cols = 128;
constexpr std::ptrdiff_t max_strip_cols = 2048;

// Enough pieces of work to keep this many threads busy, where the data allow it.
constexpr std::ptrdiff_t wanted_units = 64;

// What a slab may have to stay in a core's second-level cache between its two reads.
constexpr std::ptrdiff_t slab_bytes = std::ptrdiff_t{512} << 10;
constexpr std::ptrdiff_t stream_from = std::ptrdiff_t{16} << 20;
constexpr std::ptrdiff_t min_streamed_row = 1024;

std::ptrdiff_t ceil_div(std::ptrdiff_t a, std::ptrdiff_t b) { return (a + b - 1) / b; }

void tile_one_channel(Plan& plan) {
    const Layout& layout = plan.layout;
    const std::ptrdiff_t chunk = plan.dtype == DType::float32 ? chunk_float32 : chunk_float64;
    if (layout.cols > chunk) {
        const std::ptrdiff_t even = ceil_div(layout.cols, ceil_div(layout.cols, chunk));
        plan.tile_cols = ceil_div(even, lanes) * lanes;
        plan.tiles_per_row = ceil_div(layout.cols, plan.tile_cols);
    } else {
        plan.tile_cols = layout.cols;
        plan.tile_rows = std::min(layout.rows, chunk / layout.cols);
    }
    // Neighbouring channels together, while they fit the cache: longer stretches of memory.
    const std::ptrdiff_t channel_bytes = layout.count * size_of(plan.dtype);
    plan.slab_entries = std::clamp<std::ptrdiff_t>(slab_bytes / channel_bytes, 1, layout.channels);
    const std::ptrdiff_t fair = ceil_div(layout.channels, wanted_units);
    plan.slab_entries = std::min(plan.slab_entries, fair);
}

void tile_columns(Plan& plan) {
    const Layout& layout = plan.layout;
    const std::ptrdiff_t in_cache = slab_bytes / (layout.rows * size_of(plan.dtype));
    const std::ptrdiff_t cols = !layout.direct      ? packed_tile_cols
                                : layout.repeat > 1 ? std::min(repeated_tile_cols, in_cache)
                                                    : column_tile_cols;
    plan.tile_rows = std::min(layout.rows, column_tile_rows);
    plan.slab_entries =
        std::min(layout.cols, std::max<std::ptrdiff_t>(1, cols / layout.repeat) * layout.repeat);
    plan.tile_cols = plan.slab_entries;
}

void split_into_spans(Plan& plan) {
    plan.slabs = ceil_div(plan.entries(), plan.slab_entries);
    plan.positions = ceil_div(plan.layout.rows, plan.tile_rows) * plan.tiles_per_row;
    const std::ptrdiff_t wanted =
        std::clamp<std::ptrdiff_t>(wanted_units / plan.slabs, 1, plan.positions);
    plan.positions_per_span = ceil_div(plan.positions, wanted);
    plan.spans = ceil_div(plan.positions, plan.positions_per_span);
}

}  // namespace

Slab Plan::slab(std::ptrdiff_t index) const {
    const std::ptrdiff_t entry = index * slab_entries;
    const std::ptrdiff_t n = std::min(slab_entries, entries() - entry);
    const std::ptrdiff_t repeat = layout.repeat;
    return {entry / repeat, n / repeat, entry, n};
}

TileRange Plan::tile(const Slab& slab, std::ptrdiff_t position, std::ptrdiff_t channel) const {
    TileRange tile{};
    tile.row = position / tiles_per_row * tile_rows;
    tile.rows = std::min(tile_rows, layout.rows - tile.row);
    if (layout.channels_first()) {
        tile.channel = tile.entry = slab.channel + channel;
        tile.col = position % tiles_per_row * tile_cols;
        tile.cols = std::min(tile_cols, layout.cols - tile.col);
    } else {
        tile.col = tile.entry = slab.entry;
        tile.cols = slab.entries;
    }
    return tile;
}

std::ptrdiff_t Plan::end_position(std::ptrdiff_t span) const {
    return std::min(positions, (span + 1) * positions_per_span);
}

std::ptrdiff_t Plan::count_before(std::ptrdiff_t position) const {
    const std::ptrdiff_t row = std::min(layout.rows, position / tiles_per_row * tile_rows);
    if (!layout.channels_first()) return row;
    return row * layout.cols + position % tiles_per_row * tile_cols;
}

std::ptrdiff_t Plan::strips() const {
    const std::ptrdiff_t pieces =
        ceil_div(layout.rows, strip_rows) * ceil_div(layout.cols, strip_cols);
    return layout.channels_first() ? layout.channels * pieces : pieces;
}

TileRange Plan::strip(std::ptrdiff_t index) const {
    TileRange tile{};
    const std::ptrdiff_t pieces = ceil_div(layout.cols, strip_cols);
    tile.col = index % pieces * strip_cols;
    tile.cols = std::min(strip_cols, layout.cols - tile.col);
    index /= pieces;
    if (layout.channels_first()) {
        tile.entry = tile.channel = index % layout.channels;
        index /= layout.channels;
    } else {
        tile.entry = tile.col;
    }
    tile.row = index * strip_rows;
    tile.rows = std::min(strip_rows, layout.rows - tile.row);
    return tile;
}

Plan plan_of(const ArrayRef& x, const Features& features) {
    Plan plan;
    plan.layout = layout_of(x, features);
    plan.dtype = x.dtype;
    if (plan.layout.channels_first()) {
        tile_one_channel(plan);
    } else {
        tile_columns(plan);
    }
    split_into_spans(plan);

    return plan;
}

void choose_path(Plan& plan, bool reduces, bool all_direct) {
    const std::ptrdiff_t units = std::max(plan.slabs * plan.spans, plan.positions);
    plan.threads = static_cast<int>(std::min<std::ptrdiff_t>(threads_for(plan.bytes()), units));
    const Layout& layout = plan.layout;
    const bool enough_slabs = plan.threads == 1 || plan.slabs >= 2 * std::ptrdiff_t{plan.threads};
    const std::ptrdiff_t bytes = layout.rows * plan.slab_entries * size_of(plan.dtype);
    const bool in_cache = layout.channels_first() || bytes <= slab_bytes;
    // Without sums there is nothing to read twice, and the order of memory is best; but repeated
    // columns have too many coefficients to keep them all.
    plan.fused = enough_slabs && in_cache && (reduces || layout.repeat > 1);

    plan.strip_rows = plan.tile_rows;
    plan.strip_cols = plan.tile_cols;
    if (layout.channels_first() && layout.cols >= min_strip_cols) {
        plan.strip_rows = 1;
    } else if (!layout.channels_first() && all_direct) {
        plan.strip_cols = std::min(layout.cols, max_strip_cols);
    }
}

bool worth_streaming(const Plan& plan) {
    return plan.bytes() >= stream_from && plan.tile_cols * size_of(plan.dtype) >= min_streamed_row;
}

}  // namespace fastbn
