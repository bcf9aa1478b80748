#include "engine/plan.hpp"

#include <algorithm>

#include "engine/machine.hpp"
#include "engine/threads.hpp"

namespace fastbn {
namespace {

// Tiles of one channel: small enough for two reads from the first-level cache, and for the error
// bounds of the chunk sums (kernels/chunk_sums.hpp).
constexpr std::ptrdiff_t chunk_float32 = 4096;
constexpr std::ptrdiff_t chunk_float64 = 1024;

// Tiles of columns: rows bound the error likewise; as many columns as are wanted to have slabs that
// stay in cache, or else the whole row, which is easier on memory.
constexpr std::ptrdiff_t column_tile_rows = 128;
constexpr std::ptrdiff_t column_tile_cols = 256;
constexpr std::ptrdiff_t most_column_tile_cols = 1024;
constexpr std::ptrdiff_t packed_tile_rows = 32;

// Strips: long enough for a kernel call, short enough for its coefficients to stay in cache.
constexpr std::ptrdiff_t max_strip_cols = 2048;
constexpr std::ptrdiff_t wanted_strip_values = 8192;
constexpr std::ptrdiff_t max_strip_values = 32768;
// Rows of more columns are not taken as one row for the kernels.
constexpr std::ptrdiff_t max_dense_cols = 8192;
// Transposed tiles are narrow and tall: a column is contiguous in the array, and a long one is a
// long write.
constexpr std::ptrdiff_t transposed_strip_cols = 32;
// Writing and reading a column's coefficients takes about as long as so many of its values.
constexpr std::ptrdiff_t few_rows = 16;

// Enough items of work to keep this many threads busy, where the data allow it.
constexpr std::ptrdiff_t wanted_items = 64;

// Entries of the channel buffers over all spans, to keep sums small beside the data; but two spans
// at least.
constexpr std::ptrdiff_t most_sums = 16384;

// What a slab may have to stay in any core's second-level cache between its two reads; less is too
// little work. Slabs fix the spans, and with them bits: they are cut alike on every machine.
constexpr std::ptrdiff_t slab_bytes = std::ptrdiff_t{256} << 10;
constexpr std::ptrdiff_t min_slab_bytes = std::ptrdiff_t{64} << 10;

// Results are written past the caches in stretches from this size on.
constexpr std::ptrdiff_t min_streamed_row = 1024;

// The size by which tiles and slabs are cut: that of float32 for all types of its precision, which
// then have the same sums.
std::ptrdiff_t nominal_size(DType dtype) { return needs_double(dtype) ? 8 : 4; }

std::ptrdiff_t ceil_div(std::ptrdiff_t a, std::ptrdiff_t b) { return (a + b - 1) / b; }

void tile_one_channel(Plan& plan, DType x) {
    const Layout& layout = plan.layout;
    const std::ptrdiff_t chunk = nominal_size(x) == 4 ? chunk_float32 : chunk_float64;
    if (layout.cols > chunk) {
        const std::ptrdiff_t even = ceil_div(layout.cols, ceil_div(layout.cols, chunk));
        plan.tile_cols = ceil_div(even, lanes) * lanes;
        plan.tiles_per_row = ceil_div(layout.cols, plan.tile_cols);
    } else {
        plan.tile_cols = layout.cols;
        plan.tile_rows = std::min(layout.rows, chunk / layout.cols);
    }
    // Neighbouring channels together, while they fit the cache: longer stretches of memory. But no
    // more than leaves enough slabs for all threads, unless those are too little work.
    const std::ptrdiff_t channel_bytes = layout.count * nominal_size(x);
    const std::ptrdiff_t fair =
        std::max(ceil_div(layout.channels, wanted_items), min_slab_bytes / channel_bytes);
    plan.slab_buffer_size =
        std::clamp<std::ptrdiff_t>(std::min(slab_bytes / channel_bytes, fair), 1, layout.channels);
}

void tile_columns(Plan& plan, DType x, std::ptrdiff_t rows) {
    const Layout& layout = plan.layout;
    const std::ptrdiff_t col_bytes = layout.rows * nominal_size(x);
    const bool in_cache = col_bytes * column_tile_cols <= slab_bytes;
    const bool many = layout.cols >= wanted_items * most_column_tile_cols;
    const bool short_columns = layout.rows <= column_tile_rows;  // no bits depend on the width then
    const bool wide = !in_cache || (many && short_columns);
    const std::ptrdiff_t cols = layout.direct && wide ? most_column_tile_cols : column_tile_cols;
    const std::ptrdiff_t whole_channels = std::max<std::ptrdiff_t>(1, cols / layout.inner_fold);
    plan.tile_rows = std::min(layout.rows - layout.leftover_rows(), rows * layout.row_fold);
    plan.tile_cols = std::min(layout.cols, whole_channels * layout.inner_fold);
    plan.slab_buffer_size = plan.tile_cols * layout.row_fold;
}

// Folded rows need a single tile across; strips of several channels have whole rows of each.
static_assert(max_folded_cols <= column_tile_cols && chunk_float32 <= wanted_strip_values);
// Weights of a strip's rows are packed where a tile's elements would be; integers are summed in 32
// bits, which hold the squares of so many rows.
static_assert(max_strip_values <= column_tile_rows * lanes * lanes);
static_assert(max_folded_cols <= 256 && column_tile_rows <= 256);

void split_into_spans(Plan& plan) {
    const std::ptrdiff_t leftover = plan.layout.leftover_rows();
    plan.slabs = ceil_div(plan.buffer_size(), plan.slab_buffer_size);
    plan.positions = ceil_div(plan.layout.rows - leftover, plan.tile_rows) * plan.tiles_per_row;
    const std::ptrdiff_t most_spans = std::max<std::ptrdiff_t>(2, most_sums / plan.buffer_size());
    const std::ptrdiff_t wanted = std::clamp<std::ptrdiff_t>(
        std::min(wanted_items / plan.slabs, most_spans), 1, plan.positions);
    plan.positions_per_span = ceil_div(plan.positions, wanted);
    plan.spans = ceil_div(plan.positions, plan.positions_per_span);
    if (leftover > 0) {
        ++plan.positions;
        ++plan.spans;
    }
}

void choose_threads(Plan& plan, DType x, const Work& work) {
    const std::ptrdiff_t items = std::max(plan.slabs * plan.spans, plan.positions);
    const std::ptrdiff_t readings = work.reduces && work.transforms() ? 2 : 1;
    const std::ptrdiff_t touched =
        plan.values() * std::max(size_of(x), work.result_size) * readings;
    plan.team = choose_team(touched, items);
}

// Whether each slab goes through all phases at once.
void choose_fusion(Plan& plan, DType x, const Work& work) {
    const Layout& layout = plan.layout;
    const std::ptrdiff_t size = size_of(x);
    const std::ptrdiff_t threads = plan.team.threads;
    const bool enough_slabs = threads == 1 || plan.slabs >= 2 * threads;
    // Channels are far apart in memory, and a thread's part of the third-level cache may hold what
    // the second does not; but columns are neighbours, and a slab of them alone is a bad walk.
    const std::ptrdiff_t bytes = plan.slab_buffer_size * layout.count * size;
    const std::ptrdiff_t column_bytes = layout.rows * plan.tile_cols * size;
    const bool in_cache =
        layout.channels_first() ? bytes <= l3_cache() / 4 : column_bytes <= l2_cache() / 2;
    // Where all arrays stay in the threads' own caches, slabs of columns would only make rows
    // shorter; but with few values to a column, coefficients are as much as the values. (Sums alone
    // have no array to transform, and touch nothing twice.)
    const std::ptrdiff_t all_bytes = plan.values() * work.touched;
    const bool all_in_cache = !layout.channels_first() && layout.rows >= column_tile_rows &&
                              work.transforms() && all_bytes <= l2_cache() * threads;
    // Without sums there is nothing to read twice, and the order of memory is best; but of few long
    // rows, coefficients are too many to be kept until they are used.
    const bool few_long_rows = !layout.channels_first() && work.all_direct &&
                               layout.rows <= few_rows && layout.cols > max_dense_cols;
    plan.fused = enough_slabs && (work.reduces ? in_cache && !all_in_cache : few_long_rows);
}

// Whether channels or rows become one row for the kernels where results are written.
void join_rows(Plan& plan, const Work& work) {
    const Layout& layout = plan.layout;
    plan.adjacent_channels = work.adjacent_channels && plan.tiles_per_row == 1;
    // A packed tile of whole rows has to fit the staging buffer.
    const bool whole_rows = work.all_direct ? layout.cols <= max_dense_cols
                                            : !work.transposes && plan.tile_cols == layout.cols;
    plan.dense_rows = work.dense_rows && !layout.channels_first() && plan.buffer_size() >= lanes &&
                      (plan.fused ? plan.slabs == 1 : whole_rows);
}

// Strips of `wanted` values or so, channels first.
void cut_channels(Plan& plan, const Work& work, std::ptrdiff_t wanted) {
    const Layout& layout = plan.layout;
    // Weights of rows are packed where a tile's elements would be, so there may be no more rows
    // than those: of float64, tiles are small.
    const std::ptrdiff_t most_rows = std::min(layout.rows, plan.tile_elements());
    plan.strip_rows = 1;
    if (plan.adjacent_channels) {
        const std::ptrdiff_t at_once = wanted / layout.cols;
        plan.strip_channels = std::clamp<std::ptrdiff_t>(at_once, 1, layout.channels);
        plan.strip_rows = std::clamp<std::ptrdiff_t>(at_once / layout.channels, 1, most_rows);
    }
    if (work.all_direct) {
        const std::ptrdiff_t channels = plan.adjacent_channels ? plan.slab_buffer_size : 1;
        plan.strip_cols = std::min(layout.cols, wanted);
        plan.positions_at_once = std::clamp<std::ptrdiff_t>(
            max_strip_values / (plan.tile_elements() * channels), 1, plan.tile_cols);
    }
}

// Strips of `wanted` values or so, channels last. Where rows are folded, strips are tiles.
void cut_columns(Plan& plan, const Work& work, std::ptrdiff_t wanted) {
    const Layout& layout = plan.layout;
    if (plan.dense_rows) {
        const std::ptrdiff_t most_rows = work.all_direct ? layout.rows : plan.tile_rows;
        plan.strip_cols = layout.cols;
        plan.strip_rows = std::clamp<std::ptrdiff_t>(wanted / layout.cols, 1, most_rows);
    } else if (work.all_direct) {
        if (layout.row_fold == 1) plan.strip_cols = std::min(layout.cols, max_strip_cols);
    } else if (work.transposes && layout.row_fold == 1) {
        plan.strip_cols = std::min(plan.tile_cols, transposed_strip_cols);
        plan.strip_rows =
            std::min(layout.rows, std::min(wanted, plan.tile_elements()) / plan.strip_cols);
    } else {  // packed tiles are to stay in cache
        const std::ptrdiff_t rows = wanted / (plan.strip_cols * layout.row_fold);
        plan.strip_rows =
            std::min(plan.strip_rows, std::max<std::ptrdiff_t>(1, rows) * layout.row_fold);
    }
}

// Cuts x into strips for phases that only transform; and chooses how much of a fused slab is
// transformed at once, for the same reasons.
void cut_strips(Plan& plan, const Work& work) {
    // What is not packed may be as long as leaves enough strips: results past the caches wait for
    // memory at a strip's end.
    const std::ptrdiff_t most = work.all_direct ? max_strip_values : wanted_strip_values;
    const std::ptrdiff_t wanted =
        std::clamp(plan.values() / wanted_items, wanted_strip_values, most);
    plan.strip_rows = plan.tile_rows;
    plan.strip_cols = plan.tile_cols;
    if (!plan.layout.channels_first()) {
        cut_columns(plan, work, wanted);
    } else if (plan.layout.cols >= lanes) {
        cut_channels(plan, work, wanted);
    }
}

// Values that are written side by side.
std::ptrdiff_t written_row(const Plan& plan, const Work& work) {
    if (work.result_column > 0) {
        return std::min(work.result_column, plan.fused ? plan.tile_rows : plan.strip_rows);
    }
    if (plan.adjacent_channels) {
        return plan.layout.cols * (plan.fused ? plan.slab_buffer_size : plan.strip_channels);
    }
    if (plan.dense_rows) return plan.layout.cols * (plan.fused ? plan.tile_rows : plan.strip_rows);
    return (plan.fused ? plan.tile_cols : plan.strip_cols) * plan.layout.row_fold;
}

// A plain store reads a line that is in no cache before it changes it; one past the caches leaves
// it where the next reader has farthest to go. So a transform's results go past them if not all
// that it touches fits the last cache, of which a fifth is left to others. After sums they do so
// sooner: what is stored would push out x, which is read again. What replaces an argument has its
// line in cache already.
void choose_stores(Plan& plan, const Work& work) {
    const std::ptrdiff_t values = plan.values();
    const bool beyond_caches = work.reduces ? values * work.result_size > l3_cache() / 4
                                            : values * work.touched > l3_cache() / 5 * 4;
    plan.stream = !work.in_place && beyond_caches &&
                  written_row(plan, work) * work.result_size >= min_streamed_row;
}

}  // namespace

Slab Plan::slab(std::ptrdiff_t index) const {
    const std::ptrdiff_t first = index * slab_buffer_size;
    const std::ptrdiff_t n = std::min(slab_buffer_size, buffer_size() - first);
    const std::ptrdiff_t columns_per_channel = layout.inner_fold * layout.row_fold;
    Slab slab{};
    slab.channel = first / columns_per_channel;
    slab.channels = n / columns_per_channel;
    slab.buffer_index = first;
    slab.buffer_size = n;
    return slab;
}

TileRange Plan::tile(const Slab& slab, std::ptrdiff_t position, std::ptrdiff_t channel,
                     std::ptrdiff_t consecutive) const {
    TileRange tile{};
    tile.channels = 1;
    tile.row_fold = 1;
    // A division takes longer than the rest of this function, and small channels have one tile.
    const bool divides = tiles_per_row > 1;
    tile.row = (divides ? position / tiles_per_row : position) * tile_rows;
    tile.rows = std::min(tile_rows, layout.rows - tile.row);
    if (layout.channels_first()) {
        tile.channel = tile.buffer_index = slab.channel + channel;
        tile.col = divides ? position % tiles_per_row * tile_cols : 0;
        if (divides) {
            tile.cols = std::min(tile_cols * consecutive, layout.cols - tile.col);
        } else {
            tile.cols = layout.cols;
            tile.rows = std::min(tile_rows * consecutive, layout.rows - tile.row);
        }
        return tile;
    }
    tile.col = tile.buffer_index = slab.buffer_index;
    tile.cols = slab.buffer_size / layout.row_fold;
    const std::ptrdiff_t first_leftover = layout.rows - layout.leftover_rows();
    if (position == positions - 1 && layout.leftover_rows() > 0) {
        tile.row = first_leftover;
        tile.rows = layout.leftover_rows();
    } else {
        tile.rows = std::min(tile.rows, first_leftover - tile.row);
        tile.row_fold = layout.row_fold;
    }
    return tile;
}

std::ptrdiff_t Plan::first_at_once(std::ptrdiff_t end) const {
    const std::ptrdiff_t first_in_row =
        tiles_per_row > 1 ? (end - 1) / tiles_per_row * tiles_per_row : 0;
    return std::max(first_in_row, end - positions_at_once);
}

std::ptrdiff_t Plan::first_position(std::ptrdiff_t span) const {
    return span < main_spans() ? span * positions_per_span : positions - 1;
}

std::ptrdiff_t Plan::end_position(std::ptrdiff_t span) const {
    if (span >= main_spans()) return positions;
    return std::min(positions - (spans - main_spans()), (span + 1) * positions_per_span);
}

std::ptrdiff_t Plan::count_before(std::ptrdiff_t position) const {
    const std::ptrdiff_t main_rows = layout.rows - layout.leftover_rows();
    if (tiles_per_row == 1) {
        const std::ptrdiff_t row = std::min(main_rows, position * tile_rows);
        return layout.channels_first() ? row * layout.cols : row / layout.row_fold;
    }
    const std::ptrdiff_t row = std::min(main_rows, position / tiles_per_row * tile_rows);
    return row * layout.cols + position % tiles_per_row * tile_cols;
}

std::ptrdiff_t Plan::span_count(std::ptrdiff_t span) const {
    if (span >= main_spans()) return layout.leftover_rows();
    return count_before(end_position(span)) - count_before(first_position(span));
}

std::ptrdiff_t Plan::strips() const {
    const std::ptrdiff_t leftover = dense_rows ? 0 : layout.leftover_rows();
    const std::ptrdiff_t strips_of_rows =
        ceil_div(layout.rows - leftover, strip_rows) + (leftover > 0 ? 1 : 0);
    const std::ptrdiff_t of_channel = strips_of_rows * ceil_div(layout.cols, strip_cols);
    return layout.channels_first() ? ceil_div(layout.channels, strip_channels) * of_channel
                                   : of_channel;
}

TileRange Plan::strip(std::ptrdiff_t index) const {
    TileRange tile{};
    tile.channels = 1;
    tile.row_fold = 1;
    const std::ptrdiff_t per_row = ceil_div(layout.cols, strip_cols);
    tile.col = index % per_row * strip_cols;
    tile.cols = std::min(strip_cols, layout.cols - tile.col);
    index /= per_row;
    if (layout.channels_first()) {
        const std::ptrdiff_t groups = ceil_div(layout.channels, strip_channels);
        tile.buffer_index = tile.channel = index % groups * strip_channels;
        tile.channels = std::min(strip_channels, layout.channels - tile.channel);
        index /= groups;
        tile.row = index * strip_rows;
        tile.rows = std::min(strip_rows, layout.rows - tile.row);
        return tile;
    }
    tile.buffer_index = tile.col;
    if (dense_rows) {
        tile.row = index * strip_rows;
        tile.rows = std::min(strip_rows, layout.rows - tile.row);
        tile.row_fold = tile.rows;
        return tile;
    }
    const std::ptrdiff_t first_leftover = layout.rows - layout.leftover_rows();
    tile.row = std::min(index * strip_rows, first_leftover);
    tile.rows = std::min(strip_rows, first_leftover - tile.row);
    tile.row_fold = layout.row_fold;
    if (tile.rows == 0) {
        tile.rows = layout.leftover_rows();
        tile.row_fold = 1;
    }
    return tile;
}

void Work::touch(const Operand& operand) {
    touched += size_of(operand.dtype);
    all_direct = all_direct && operand.direct;
    transposes = transposes || operand.transposed;
    dense_rows = dense_rows && operand.dense_rows;
    adjacent_channels = adjacent_channels && operand.adjacent_channels;
}

void Work::read(const Operand& operand) {
    if (!operand) return;
    touch(operand);
    ++inputs;
}

void Work::write(const Operand& operand, std::initializer_list<const Operand*> sources) {
    if (!operand) return;
    touch(operand);
    result_size = size_of(operand.dtype);
    if (operand.transposed) result_column = operand.rows.dim[operand.rows.n - 1].size;
    for (const Operand* source : sources) in_place = in_place || operand.base == source->base;
}

Plan plan_of(const Layout& layout, DType x, const Work& work) {
    Plan plan;
    plan.layout = layout;
    plan.reduces = work.reduces;
    plan.inputs = work.inputs;
    if (layout.channels_first()) {
        tile_one_channel(plan, x);
    } else {
        tile_columns(plan, x, work.packed_sums ? packed_tile_rows : column_tile_rows);
    }
    split_into_spans(plan);
    choose_threads(plan, x, work);
    choose_fusion(plan, x, work);
    join_rows(plan, work);
    cut_strips(plan, work);
    choose_stores(plan, work);
    return plan;
}

}  // namespace fastbn
