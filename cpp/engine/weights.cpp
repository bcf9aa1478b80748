#include "engine/weights.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <mutex>
#include <numeric>

#include "engine/dispatch.hpp"
#include "engine/errors.hpp"
#include "engine/threads.hpp"
#include "engine/tiles.hpp"
#include "numerics/moments_math.hpp"

namespace fastbn {
namespace {

// ---- What all elements of an array have in common ----
//
// Whatever axes it has: found by all threads in one reading of its memory.

// Elements that a thread looks at together: few enough to be converted on its stack.
constexpr std::ptrdiff_t chunk = 4096;

// An array's distinct elements in the order of memory, as one row of columns.
struct FlatArray {
    Operand elements;
    std::ptrdiff_t count = 1;

    FlatArray(const ArrayRef& array, DType kernel_dtype) {
        elements.base = array.data;
        elements.dtype = array.dtype;
        elements.swapped = array.swapped;
        elements.kernel_dtype = kernel_dtype;
        Dim dims[max_dimensions];
        int n = 0;
        for (int i = 0; i < array.ndim; ++i) {
            if (array.shape[i] == 0) count = 0;
            if (array.shape[i] <= 1 || array.strides[i] == 0) continue;
            count *= array.shape[i];
            if (array.strides[i] < 0) {
                elements.base += (array.shape[i] - 1) * array.strides[i];
            }
            dims[n++] = {array.shape[i], std::abs(array.strides[i])};
        }
        std::sort(dims, dims + n, [](const Dim& a, const Dim& b) {
            return a.stride != b.stride ? a.stride > b.stride : a.size > b.size;
        });
        for (int i = 0; i < n; ++i) elements.cols.push(dims[i].size, dims[i].stride);
        const std::ptrdiff_t size = size_of(array.dtype);
        const bool dense =
            elements.cols.n == 0 || (elements.cols.n == 1 && elements.cols.dim[0].stride == size);
        elements.direct = array.dtype == kernel_dtype && !array.swapped && dense &&
                          is_aligned(elements.base, size);
    }

    std::ptrdiff_t chunks() const { return (count + chunk - 1) / chunk; }
    Team team() const { return choose_team(count * size_of(elements.dtype), chunks()); }
    TileRange range(std::ptrdiff_t index) const {
        TileRange range{};
        range.rows = range.channels = range.row_fold = 1;
        range.col = index * chunk;
        range.cols = std::min(chunk, count - range.col);
        return range;
    }
};

using Sum = DoubleDouble<double>;

struct ArraySurvey {
    double min = std::numeric_limits<double>::infinity();
    double max = -std::numeric_limits<double>::infinity();
    bool has_nan = false;
    double sum = 0.0;  // of a double-double; the same for any number of threads
};

// Finds the least and the largest value of chunks `begin` to `end`, and whether there is NaN.
// Writes the sum of each chunk, unless `sums` is null.
ArraySurvey survey_chunks(const FlatArray& flat, std::ptrdiff_t begin, std::ptrdiff_t end,
                          Sum* sums) noexcept {
    const MomentsKernels& kernels = value_range_kernels(flat.elements.kernel_dtype);
    const MomentsKernel moments = kernels.moments[static_cast<int>(WeightsForm::none)].tile;
    alignas(64) std::byte staging[chunk * sizeof(double)];
    ArraySurvey found;
    double has_nan = 0.0;
    for (std::ptrdiff_t i = begin; i < end; ++i) {
        const TileRange range = flat.range(i);
        const Tile<const void> values = input_tile(flat.elements, range, staging);
        kernels.value_range.tile(values, {nullptr, 0}, 1, range.cols,
                                 {&found.min, &found.max, &has_nan});
        if (sums == nullptr) continue;
        Moments<double> of_chunk;
        moments(values, {nullptr, 0}, 1, range.cols, 1, 0.0, sums_of(of_chunk), nullptr);
        sums[i] = {of_chunk.sum, of_chunk.sum_lo};
    }
    found.has_nan = has_nan != 0.0;
    return found;
}

// An element that is broadcast, by a stride of 0, is taken once.
ArraySurvey survey(const ArrayRef& array, bool with_sum) {
    const FlatArray flat(array, value_range_kernels(array.dtype).x);
    const std::ptrdiff_t count = with_sum ? flat.chunks() : 0;
    const Buffer<1024> memory(count * std::ptrdiff_t{sizeof(Sum)});
    Sum* const sums = reinterpret_cast<Sum*>(memory.data());
    ArraySurvey found;
    std::mutex of_found;
    parallel_ranges(flat.team(), flat.chunks(), [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
        const ArraySurvey part = survey_chunks(flat, begin, end, with_sum ? sums : nullptr);
        const std::scoped_lock lock(of_found);
        found.min = std::min(found.min, part.min);
        found.max = std::max(found.max, part.max);
        found.has_nan = found.has_nan || part.has_nan;
    });
    double low = 0.0;
    for (std::ptrdiff_t i = 0; i < count; ++i) {
        double error;
        found.sum = two_sum(found.sum, sums[i].high, error);
        low += error + sums[i].low;
    }
    if (std::isfinite(found.sum)) found.sum += low;
    return found;
}

// Whether no byte is 0.
bool all_true(const ArrayRef& mask) {
    const FlatArray flat(mask, DType::boolean);
    std::atomic<bool> all{true};
    const auto look = [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
        for (std::ptrdiff_t i = begin; i < end && all.load(std::memory_order_relaxed); ++i) {
            const TileRange range = flat.range(i);
            each_stretch(flat.elements.cols, range.col, range.cols,
                         [&](std::ptrdiff_t offset, std::ptrdiff_t length, std::ptrdiff_t stride) {
                             const char* const bytes = flat.elements.base + offset;
                             bool here = true;
                             if (stride == 1) {
                                 here = std::memchr(bytes, 0, static_cast<std::size_t>(length)) ==
                                        nullptr;
                             } else {
                                 for (std::ptrdiff_t j = 0; j < length; ++j)
                                     here &= bytes[j * stride] != 0;
                             }
                             if (!here) all.store(false, std::memory_order_relaxed);
                         });
        }
    };
    // Most masks leave out one of their first elements, and need no other thread to say so.
    look(0, std::min<std::ptrdiff_t>(1, flat.chunks()));
    if (all) parallel_ranges(flat.team(), flat.chunks(), look);
    return all;
}

// ---- Weights ----

// Names the first value, in the order of the axes, that cannot be a weight.
[[noreturn]] void refuse_weight(const ArrayRef& weights) {
    Dims dims;
    std::ptrdiff_t count = 1;
    for (int i = 0; i < weights.ndim; ++i) {
        if (weights.strides[i] == 0) continue;
        dims.push(weights.shape[i], weights.strides[i]);
        count *= weights.shape[i];
    }
    double bad = 0.0;
    for (std::ptrdiff_t i = 0; i < count && bad >= 0.0 && std::isfinite(bad); ++i) {
        bad = element_at(weights, weights.data + dims.offset(i));
    }
    refuse("weights", "be finite and not negative", shown(bad));
}

bool is_same_in_channels(const ArrayRef& array, const Layout& layout) {
    return !array || channel_dims(array, layout).is_broadcast();
}

double largest_channel_sum(const ArrayRef& weights, const Features& features) {
    Dims channels;
    ArrayRef one = weights;
    for (int i = 0; i < weights.ndim; ++i) {
        if (!features.is_feature[i]) continue;
        channels.push(weights.shape[i], weights.strides[i]);
        one.shape[i] = 1;
    }
    double largest = 0.0;
    for (std::ptrdiff_t c = 0; c < features.channels; ++c) {
        one.data = weights.data + channels.offset(c);
        largest = std::max(largest, survey(one, true).sum);
    }
    return largest;
}

}  // namespace

Weights::Weights(const Batch& batch)
    : where_(batch.where),
      weights_(batch.weights),
      omit_nan_(batch.omit_nan),
      largest_total_(static_cast<double>(batch.features.count)) {
    // A mask that leaves nothing out is dropped.
    if (where_ && all_true(where_)) where_.data = nullptr;
    if (weights_) scan_weights(batch);
}

// Weights that are all the same, but not 0, are dropped: common_weight() remembers them. Others are
// divided by a power of two by which the largest is between 1 and 2, or below if it is subnormal:
// their products with squares then stay within float64's range if the squares do.
void Weights::scan_weights(const Batch& batch) {
    const Features& features = batch.features;
    const ArrayRef& x = batch.x;
    bool vary_in_channels = false;
    double copies = 1.0;
    for (int i = 0; i < x.ndim; ++i) {
        const bool same = weights_.strides[i] == 0 || x.shape[i] == 1;
        if (features.is_feature[i]) {
            vary_in_channels = vary_in_channels || !same;
        } else if (same) {
            copies *= static_cast<double>(x.shape[i]);
        }
    }
    const ArraySurvey found = survey(weights_, !vary_in_channels);
    if (found.has_nan || found.min < 0.0 || found.max == std::numeric_limits<double>::infinity())
        refuse_weight(weights_);
    const double most = std::max(found.max, 0.0);
    largest_total_ =
        vary_in_channels ? most * static_cast<double>(features.count) : found.sum * copies;
    if (vary_in_channels && !std::isfinite(largest_total_)) {
        largest_total_ = copies * largest_channel_sum(weights_, features);
    }
    if (!std::isfinite(largest_total_))
        refuse("weights", "have a finite sum in each channel", shown(largest_total_));
    if (found.min == most && most > 0.0) {
        common_weight_ = most;
        divisor_ = common_weight_;
        weights_.data = nullptr;
    } else if (most > 0.0) {
        // Of a subnormal number float64 may not hold the inverse.
        divisor_ = std::ldexp(1.0, std::max(std::ilogb(most), -1022));
        scale_ = 1.0 / divisor_;
    }
}

double Weights::largest_total(double enough, const Batch& batch) const {
    if (!where_ || batch.features.empty() || largest_total_ <= enough) return largest_total_;
    const Layout layout = layout_of(batch.x, batch.features);
    const bool same = is_same_in_channels(where_, layout) && is_same_in_channels(weights_, layout);
    if (!same) return largest_total_;
    double values[read_at_once];
    double total = 0.0;
    for (std::ptrdiff_t i = 0; i < layout.count && total <= enough; i += read_at_once) {
        const std::ptrdiff_t n = std::min(read_at_once, layout.count - i);
        read(layout, 0, i, n, values);
        total += std::accumulate(values, values + n, 0.0) * divisor_;
    }
    return total;
}

void Weights::arrange(Layout& layout, bool for_moments) {
    if (!differ()) return;
    if (!where_ && !weights_) {
        form_ = WeightsForm::omit_nan;
        return;
    }
    mask_ = operand_of(where_, layout, DType::boolean);
    values_ = operand_of(weights_, layout, DType::float64);
    const auto each = [&](const auto& holds) {
        return (!mask_ || holds(mask_)) && (!values_ || holds(values_));
    };
    rows_alike_ = each([](const Operand& o) { return o.cols.is_broadcast(); });
    by_column_ = !layout.channels_first();
    same_in_channels_ = layout.channels_first()
                            ? each([](const Operand& o) { return o.channels.is_broadcast(); })
                            : rows_alike_;
    const bool per_row = rows_alike_ && (values_ || !omit_nan_);
    // Rows that are no whole blocks have ends, which take time: less than moments with a weight for
    // each element do, but more than those with a mask, or the gradient.
    const bool has_whole_blocks = layout.cols % lanes == 0;
    const bool outweighs_ends = for_moments && values_ && layout.cols > lanes;
    if (per_row && (has_whole_blocks || outweighs_ends)) layout.row_fold = 1;
    if (per_row && layout.row_fold == 1) {
        form_ = omit_nan_ ? WeightsForm::by_row_omit_nan : WeightsForm::by_row;
    } else {
        form_ = values_ ? WeightsForm::by_element : WeightsForm::by_mask;
    }
}

bool Weights::is_direct() const {
    if (form_ == WeightsForm::by_mask) return mask_.direct && !omit_nan_;
    return form_ == WeightsForm::none || form_ == WeightsForm::omit_nan;
}

void Weights::take_staging(Staging& staging) {
    if (is_direct()) return;
    const bool is_mask = form_ == WeightsForm::by_mask;
    staging_begin_ = staging.take_tile(is_mask ? 1 : sizeof(double));
    if (is_mask && rows_alike_) row_bytes_begin_ = staging.take_tile(1);
}

namespace {

// Each of n values `times` times in a row, in place, from the last on.
void repeat_each(double* values, std::ptrdiff_t n, std::ptrdiff_t times) {
    for (std::ptrdiff_t i = n; i-- > 0;) {
        const double value = values[i];
        std::fill_n(values + i * times, times, value);
    }
}

// The same of bytes, to `to`, from the first on: short stretches by stores of one length, of which
// the next one overwrites what is too much. The last ones are written exactly, so that nothing is
// written past the end.
void repeat_each(const std::uint8_t* values, std::ptrdiff_t n, std::ptrdiff_t times,
                 std::uint8_t* to) {
    constexpr std::ptrdiff_t stretch = 32;
    const std::ptrdiff_t by_stretch = times <= stretch ? n - stretch : 0;
    for (std::ptrdiff_t i = 0; i < n; ++i) {
        std::memset(to + i * times, values[i],
                    static_cast<std::size_t>(i < by_stretch ? stretch : times));
    }
}

// Sets to 0 what belongs to NaN, in a contiguous tile of weights.
template <class X, class W>
void omit_nan(const TileRange& range, Tile<const void> x_tile, W* weights) {
    const Tile<const X> x = typed<const X>(x_tile);
    const std::ptrdiff_t cols = range.kernel_cols();
    for (std::ptrdiff_t r = 0; r < range.kernel_rows(); ++r) {
        const X* const row = x.data + r * x.stride;
        W* const of_row = weights + r * cols;
        for (std::ptrdiff_t i = 0; i < cols; ++i) of_row[i] = std::isnan(row[i]) ? W(0) : of_row[i];
    }
}

template <class W>
void omit_nan(const TileRange& range, Tile<const void> x, DType x_type, W* weights) {
    if (x_type == DType::float64) {
        omit_nan<double>(range, x, weights);
    } else {
        omit_nan<float>(range, x, weights);
    }
}

}  // namespace

double* Weights::rows(const TileRange& range, std::byte* staging) const noexcept {
    TileRange first_column = range;
    first_column.cols = 1;
    return pack(first_column, staging);
}

Tile<const std::uint8_t> Weights::mask(const TileRange& range, std::byte* staging) const noexcept {
    if (is_direct()) return typed<const std::uint8_t>(direct_tile(mask_, range));
    auto* const to = reinterpret_cast<std::uint8_t*>(staging + staging_begin_);
    TileRange part = range;
    if (rows_alike_) part.cols = 1;
    auto* const packed =
        rows_alike_ ? reinterpret_cast<std::uint8_t*>(staging + row_bytes_begin_) : to;
    pack_tile(mask_, part, packed);
    if (rows_alike_) repeat_each(packed, range.rows, range.cols, to);
    return {to, range.kernel_cols()};
}

double* Weights::elements(const TileRange& range, std::byte* staging) const noexcept {
    if (!rows_alike_) return pack(range, staging);
    double* const to = rows(range, staging);
    repeat_each(to, range.rows, range.cols);
    return to;
}

double* Weights::pack(const TileRange& range, std::byte* staging) const noexcept {
    auto* const to = reinterpret_cast<double*>(staging + staging_begin_);
    const std::ptrdiff_t n = range.rows * range.cols;
    if (values_) {
        pack_tile(values_, range, to);
        for (std::ptrdiff_t i = 0; i < n; ++i) to[i] *= scale_;
    } else {
        std::fill_n(to, n, 1.0);
    }
    if (mask_) mask_tile(mask_, range, to);
    return to;
}

Tile<const void> Weights::tile(const TileRange& range, Tile<const void> x, DType x_type,
                               std::byte* staging) const noexcept {
    switch (form_) {
        case WeightsForm::none:
        case WeightsForm::omit_nan:
            break;
        case WeightsForm::by_row:
        case WeightsForm::by_row_omit_nan:
            return {rows(range, staging), 1};
        case WeightsForm::by_mask: {
            const Tile<const std::uint8_t> packed = mask(range, staging);
            if (omit_nan_)
                fastbn::omit_nan(range, x, x_type, const_cast<std::uint8_t*>(packed.data));
            return {packed.data, packed.stride};
        }
        case WeightsForm::by_element: {
            double* const packed = elements(range, staging);
            if (omit_nan_) fastbn::omit_nan(range, x, x_type, packed);
            return {packed, range.kernel_cols()};
        }
    }
    return {nullptr, 0};
}

bool Weights::write_mask(const TileRange& range, Tile<const void> weights,
                         std::uint8_t* mask) const noexcept {
    const Tile<const double> numbers = typed<const double>(weights);
    const std::ptrdiff_t rows = range.kernel_rows();
    const std::ptrdiff_t cols = range.kernel_cols();
    if (form_ == WeightsForm::by_element) {
        int all = 1;
        for (std::ptrdiff_t r = 0; r < rows; ++r) {
            const double* const from = numbers.data + r * numbers.stride;
            for (std::ptrdiff_t i = 0; i < cols; ++i) {
                const int has_weight = from[i] > 0.0 ? 1 : 0;
                mask[r * cols + i] = static_cast<std::uint8_t>(has_weight);
                all &= has_weight;
            }
        }
        return all == 0;
    }
    if (std::all_of(numbers.data, numbers.data + rows, [](double row) { return row > 0.0; })) {
        return false;
    }
    for (std::ptrdiff_t r = 0; r < rows; ++r) {
        std::memset(mask + r * cols, numbers.data[r] > 0.0 ? 1 : 0, static_cast<std::size_t>(cols));
    }
    return true;
}

namespace {

// To float: each is written where its double was, or before.
void narrow_in_place(double* values, std::ptrdiff_t n) {
    constexpr std::ptrdiff_t at_once = 64;
    char* const to = reinterpret_cast<char*>(values);
    for (std::ptrdiff_t begin = 0; begin < n; begin += at_once) {
        float narrowed[at_once];
        const std::ptrdiff_t size = std::min(at_once, n - begin);
        for (std::ptrdiff_t i = 0; i < size; ++i) {
            narrowed[i] = static_cast<float>(values[begin + i]);
        }
        std::memcpy(to + begin * std::ptrdiff_t{sizeof(float)}, narrowed,
                    static_cast<std::size_t>(size) * sizeof(float));
    }
}

}  // namespace

GradientWeights Weights::gradient_tile(const TileRange& range, DType computed, const double* scales,
                                       std::byte* staging) const noexcept {
    GradientWeights result{};
    result.row_width = range.cols * range.channels;
    if (form_ == WeightsForm::by_row) {
        double* const packed = rows(range, staging);
        // Where a tile has several channels they have the same weights, so the same total and
        // scale.
        for (std::ptrdiff_t r = 0; r < range.rows && scales != nullptr; ++r) packed[r] *= *scales;
        result.rows = packed;
    } else if (form_ == WeightsForm::by_mask) {
        result.mask = mask(range, staging);
    } else if (form_ == WeightsForm::by_element) {
        double* const packed = elements(range, staging);
        for (std::ptrdiff_t r = 0; r < range.rows && scales != nullptr; ++r) {
            double* const row = packed + r * range.cols;
            for (std::ptrdiff_t i = 0; i < range.cols; ++i) row[i] *= scales[by_column_ ? i : 0];
        }
        if (computed == DType::float32) narrow_in_place(packed, range.rows * range.cols);
        result.elements = {packed, range.kernel_cols()};
    }
    return result;
}

namespace {

// How many of a mask's elements are true: counted in bytes, as far as a byte holds the number.
double count_true(const std::uint8_t* mask, std::ptrdiff_t n) noexcept {
    constexpr std::ptrdiff_t most = 255;
    std::ptrdiff_t total = 0;
    for (std::ptrdiff_t i = 0; i < n; i += most) {
        const std::ptrdiff_t end = std::min(i + most, n);
        std::uint8_t part = 0;
#pragma omp simd reduction(+ : part)
        for (std::ptrdiff_t j = i; j < end; ++j) {
            part = static_cast<std::uint8_t>(part + (mask[j] != 0 ? 1 : 0));
        }
        total += part;
    }
    return static_cast<double>(total);
}

// Adds how many of each column's elements are true, counted in bytes likewise.
void add_counts(Tile<const std::uint8_t> mask, std::ptrdiff_t rows, std::ptrdiff_t cols,
                double* sums) noexcept {
    constexpr std::ptrdiff_t most = 255;
    constexpr std::ptrdiff_t width = 1024;
    std::uint8_t counts[width];
    for (std::ptrdiff_t first = 0; first < cols; first += width) {
        const std::ptrdiff_t n = std::min(width, cols - first);
        for (std::ptrdiff_t begin = 0; begin < rows; begin += most) {
            std::fill_n(counts, n, std::uint8_t{0});
            for (std::ptrdiff_t r = begin; r < std::min(begin + most, rows); ++r) {
                const std::uint8_t* const row = mask.data + r * mask.stride + first;
#pragma omp simd
                for (std::ptrdiff_t i = 0; i < n; ++i) {
                    counts[i] = static_cast<std::uint8_t>(counts[i] + (row[i] != 0 ? 1 : 0));
                }
            }
            for (std::ptrdiff_t i = 0; i < n; ++i) sums[first + i] += counts[i];
        }
    }
}

// The sum by several partial sums, which do not wait for each other.
double sum_of(const double* values, std::ptrdiff_t n) noexcept {
    constexpr int at_once = 8;
    double parts[at_once] = {};
    std::ptrdiff_t i = 0;
    for (; i + at_once <= n; i += at_once) {
#pragma GCC unroll 8
        for (int k = 0; k < at_once; ++k) parts[k] += values[i + k];
    }
    for (; i < n; ++i) parts[0] += values[i];
    return ((parts[0] + parts[1]) + (parts[2] + parts[3])) +
           ((parts[4] + parts[5]) + (parts[6] + parts[7]));
}

}  // namespace

void Weights::add_totals(const TileRange& range, std::byte* staging,
                         double* totals) const noexcept {
    const std::ptrdiff_t row_count = range.kernel_rows();
    const std::ptrdiff_t cols = range.kernel_cols();
    if (form_ == WeightsForm::by_row) {
        // All columns have the same total.
        const double* const of_rows = rows(range, staging);
        double total = *totals;
        const double times = by_column_ ? 1.0 : static_cast<double>(cols);
        for (std::ptrdiff_t r = 0; r < row_count; ++r) total += of_rows[r] * times;
        std::fill_n(totals, by_column_ ? cols : 1, total);
    } else if (form_ == WeightsForm::by_mask) {
        const Tile<const std::uint8_t> bytes = mask(range, staging);
        if (by_column_) return add_counts(bytes, row_count, cols, totals);
        for (std::ptrdiff_t r = 0; r < row_count; ++r) {
            *totals += count_true(bytes.data + r * bytes.stride, cols);
        }
    } else if (form_ == WeightsForm::by_element) {
        const double* row = elements(range, staging);
        for (std::ptrdiff_t r = 0; r < row_count; ++r, row += cols) {
            if (by_column_) {
                for (std::ptrdiff_t i = 0; i < cols; ++i) totals[i] += row[i];
            } else {
                *totals += sum_of(row, cols);
            }
        }
    }
}

void Weights::read(const Layout& layout, std::ptrdiff_t channel, std::ptrdiff_t begin,
                   std::ptrdiff_t n, double* to) const noexcept {
    std::fill_n(to, n, 1.0);
    if (weights_) {
        read_channel(weights_, layout, channel, begin, n, to);
        for (std::ptrdiff_t i = 0; i < n; ++i) to[i] *= scale_;
    }
    if (!where_) return;
    double mask[read_at_once];
    read_channel(where_, layout, channel, begin, n, mask);
    for (std::ptrdiff_t i = 0; i < n; ++i) to[i] = mask[i] != 0.0 ? to[i] : 0.0;
}

std::ptrdiff_t Weights::next_with_weight(const Layout& layout, std::ptrdiff_t channel,
                                         std::ptrdiff_t index) const noexcept {
    if (!where_ && !weights_) return index;
    double values[read_at_once];
    for (; index < layout.count; index += read_at_once) {
        const std::ptrdiff_t n = std::min(read_at_once, layout.count - index);
        read(layout, channel, index, n, values);
        for (std::ptrdiff_t i = 0; i < n; ++i) {
            if (values[i] != 0.0) return index + i;
        }
    }
    return layout.count;
}

}  // namespace fastbn
