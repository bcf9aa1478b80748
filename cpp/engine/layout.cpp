#include "engine/layout.hpp"

#include <algorithm>
#include <cstdint>

#include "engine/dispatch.hpp"

namespace fastbn {
namespace {

// Rows of few columns leave a kernel nothing but their beginnings and ends. Several are folded into
// one if there are so many rows of the result that sums for each of its columns pay.
constexpr std::ptrdiff_t min_folded_rows = 64;

std::ptrdiff_t magnitude(std::ptrdiff_t stride) { return stride < 0 ? -stride : stride; }

std::ptrdiff_t loop_stride(const ArrayRef& array, const Layout& layout, int axis) {
    return layout.flipped[axis] ? -array.strides[axis] : array.strides[axis];
}

void push_axes(Dims& dims, const ArrayRef& array, const Layout& layout, const AxisList& axes,
               int begin, int end) {
    for (int i = begin; i < end; ++i) {
        const int axis = axes.axis[i];
        dims.push(array.shape[axis], loop_stride(array, layout, axis));
    }
}

// Whether elements are whole numbers of elements apart.
bool has_whole_strides(const ArrayRef& array) {
    const std::ptrdiff_t size = size_of(array.dtype);
    bool whole = true;
    for (int i = 0; i < array.ndim; ++i) {
        whole = whole && (array.shape[i] == 1 || array.strides[i] % size == 0);
    }
    return whole;
}

// Whether each element can be loaded as it is.
bool is_loadable(const ArrayRef& array) {
    return !array.swapped && is_aligned(array.data, size_of(array.dtype)) &&
           has_whole_strides(array);
}

// Sums may run in any order, so reduced axes are put by descending stride, all of them positive;
// broadcast ones (stride 0) outermost.
void sort_reduced(const ArrayRef& x, Layout& layout) {
    AxisList& axes = layout.reduced_axes;
    const auto before = [&](int a, int b) {
        const std::ptrdiff_t sa = magnitude(x.strides[a]);
        const std::ptrdiff_t sb = magnitude(x.strides[b]);
        return sb != 0 && (sa == 0 || sa > sb);
    };
    for (int i = 0; i < axes.n; ++i) {
        layout.flipped[axes.axis[i]] = x.strides[axes.axis[i]] < 0;
        for (int j = i; j > 0 && before(axes.axis[j], axes.axis[j - 1]); --j) {
            const int moved = axes.axis[j];
            axes.axis[j] = axes.axis[j - 1];
            axes.axis[j - 1] = moved;
        }
    }
}

// How many reduced axes, from the innermost out, are one loop of unit stride.
int contiguous_axes(const ArrayRef& x, const Layout& layout) {
    std::ptrdiff_t expected = size_of(x.dtype);
    int n = 0;
    for (int i = layout.reduced_axes.n - 1; i >= 0; --i) {
        const int axis = layout.reduced_axes.axis[i];
        if (loop_stride(x, layout, axis) != expected) break;
        expected *= x.shape[axis];
        ++n;
    }
    return n;
}

std::ptrdiff_t smallest_stride(const ArrayRef& x, const AxisList& axes) {
    std::ptrdiff_t smallest = PTRDIFF_MAX;
    for (int i = 0; i < axes.n; ++i) {
        const std::ptrdiff_t stride = magnitude(x.strides[axes.axis[i]]);
        if (stride != 0 && stride < smallest) smallest = stride;
    }
    return smallest;
}

// Whether channels of `inner` neighbouring values each are better taken as `inner` columns each,
// which are merged at the end. Fewer values than a block has leave vectors half empty when a tile
// is one channel, and a channel's own steps take longer than they do; nor could a block that holds
// parts of three channels be written. Channels of more values are columns where they have many
// short rows, which lie far apart when a tile is one channel, and beside which merging is little.
bool suits_columns(std::ptrdiff_t rows, std::ptrdiff_t channels, std::ptrdiff_t inner) {
    constexpr std::ptrdiff_t most_columns = 1024;
    constexpr std::ptrdiff_t least_rows = 128;
    constexpr std::ptrdiff_t rows_per_column = 4;
    const bool many_rows = rows >= std::max(least_rows, rows_per_column * inner);
    return inner < lanes ||
           (many_rows && inner <= max_inner_fold && channels * inner <= most_columns);
}

// Splits the reduced axes into rows and columns, or gives all columns to the channels.
void choose_columns(const ArrayRef& x, Layout& layout) {
    const std::ptrdiff_t size = size_of(x.dtype);
    const Dims reduced = reduced_dims(x, layout);
    const Dims channels = channel_dims(x, layout);
    const bool one_channel_loop = channels.n <= 1;
    const bool unit_reduced = reduced.n > 0 && reduced.dim[reduced.n - 1].stride == size;
    const bool unit_channel = channels.n == 1 && channels.dim[0].stride == size;
    const bool aligned = is_loadable(x) && moments_type(x.dtype) == x.dtype;

    if (aligned && reduced.n <= 1 && (unit_channel || (channels.n == 0 && reduced.n == 0))) {
        layout.channels_last = true;
        layout.direct = true;
    } else if (aligned && one_channel_loop && unit_reduced && reduced.n <= 2) {
        layout.direct = true;
        layout.inner_axes = contiguous_axes(x, layout);
        const Dim inner = reduced.dim[reduced.n - 1];
        const bool packed_channels = channels.n == 1 && channels.dim[0].stride == inner.size * size;
        const std::ptrdiff_t rows = reduced.n == 2 ? reduced.dim[0].size : 1;
        if (packed_channels && suits_columns(rows, layout.channels, inner.size)) {
            layout.channels_last = true;
            layout.inner_fold = inner.size;
        }
    } else if ((channels.n > 0 && channels.is_broadcast()) ||
               smallest_stride(x, layout.channel_axes) < smallest_stride(x, layout.reduced_axes)) {
        layout.channels_last = true;
    } else {
        layout.inner_axes = layout.reduced_axes.n;
    }
}

// How many rows of x, one after the other in memory, to fold into one.
std::ptrdiff_t row_fold_of(const ArrayRef& x, const Layout& layout) {
    if (layout.channels_first() || !layout.direct) return 1;
    const Dims reduced = reduced_dims(x, layout);
    const bool dense = reduced.n > 0 && reduced.dim[0].stride == layout.cols * size_of(x.dtype);
    std::ptrdiff_t fold = 1;
    while (dense && 2 * fold * layout.cols <= max_folded_cols &&
           2 * fold * min_folded_rows <= layout.rows) {
        fold *= 2;
    }
    return fold;
}

}  // namespace

Layout layout_of(const ArrayRef& x, const Features& features) {
    Layout layout;
    layout.channels = features.channels;
    layout.count = features.count;
    for (int i = 0; i < x.ndim; ++i) {
        if (x.shape[i] == 1) continue;
        (features.is_feature[i] ? layout.channel_axes : layout.reduced_axes).push(i);
    }
    sort_reduced(x, layout);
    choose_columns(x, layout);

    std::ptrdiff_t inner = 1;
    for (int i = 0; i < layout.inner_axes; ++i) {
        inner *= x.shape[layout.reduced_axes.axis[layout.reduced_axes.n - 1 - i]];
    }
    layout.rows = layout.count / inner;
    layout.cols = layout.channels_first() ? inner : layout.channels * layout.inner_fold;
    layout.row_fold = row_fold_of(x, layout);
    return layout;
}

Operand operand_of(const ArrayRef& array, const Layout& layout, DType kernel_dtype,
                   const std::uint64_t* origins) {
    Operand operand;
    if (!array) return operand;
    operand.base = first_element(array, layout);
    operand.dtype = array.dtype;
    operand.swapped = array.swapped;
    operand.kernel_dtype = kernel_dtype;
    operand.origins = origins;
    operand.channels_last = layout.channels_last;
    const AxisList& reduced = layout.reduced_axes;
    const AxisList& channels = layout.channel_axes;
    const int split = reduced.n - layout.inner_axes;
    push_axes(operand.rows, array, layout, reduced, 0, split);
    Dims& channel_loops = layout.channels_first() ? operand.channels : operand.cols;
    push_axes(channel_loops, array, layout, channels, 0, channels.n);
    push_axes(operand.cols, array, layout, reduced, split, reduced.n);

    const Dims& cols = operand.cols;
    const bool unit_cols =
        cols.n == 0 || (cols.n == 1 && cols.dim[0].stride == size_of(array.dtype));
    operand.row_stride = operand.rows.n == 1 ? operand.rows.dim[0].stride : 0;
    const std::ptrdiff_t row_bytes = layout.cols * size_of(array.dtype);
    const bool dense = operand.rows.n == 0 || operand.row_stride == row_bytes;
    operand.walkable =
        is_loadable(array) && unit_cols && operand.rows.n <= 1 && (dense || layout.row_fold == 1);
    operand.direct = operand.walkable && array.dtype == kernel_dtype;
    operand.dense_rows = dense || !operand.direct;
    const bool unit_rows =
        operand.rows.n > 0 && operand.rows.dim[operand.rows.n - 1].stride == size_of(array.dtype);
    operand.transposed = unit_rows && !unit_cols && has_whole_strides(array);
    const Dims& next = operand.channels;
    operand.adjacent_channels = operand.direct && layout.channels_first() && layout.cols >= lanes &&
                                next.n == 1 && next.dim[0].stride == row_bytes;
    return operand;
}

Dims reduced_dims(const ArrayRef& array, const Layout& layout) {
    Dims dims;
    push_axes(dims, array, layout, layout.reduced_axes, 0, layout.reduced_axes.n);
    return dims;
}

Dims channel_dims(const ArrayRef& array, const Layout& layout) {
    Dims dims;
    push_axes(dims, array, layout, layout.channel_axes, 0, layout.channel_axes.n);
    return dims;
}

char* first_element(const ArrayRef& array, const Layout& layout) {
    char* first = array.data;
    for (int i = 0; i < array.ndim; ++i) {
        if (layout.flipped[i]) first += (array.shape[i] - 1) * array.strides[i];
    }
    return first;
}

void read_channel(const ArrayRef& array, const Layout& layout, std::ptrdiff_t channel,
                  std::ptrdiff_t begin, std::ptrdiff_t n, double* to) noexcept {
    const char* const first =
        first_element(array, layout) + channel_dims(array, layout).offset(channel);
    const auto copy = ElementCopy::reading(array.dtype, array.swapped, DType::float64);
    each_stretch(reduced_dims(array, layout), begin, n,
                 [&](std::ptrdiff_t offset, std::ptrdiff_t length, std::ptrdiff_t stride) {
                     copy(first + offset, stride, reinterpret_cast<char*>(to), sizeof(double),
                          length);
                     to += length;
                 });
}

}  // namespace fastbn
