#include "engine/weights.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "engine/errors.hpp"
#include "engine/survey.hpp"

namespace fastbn {
namespace {

bool is_broadcast(const Dims& dims) {
    return std::all_of(dims.dim, dims.dim + dims.n, [](const Dim& d) { return d.stride == 0; });
}

// Names the first weight in the order of the axes that is none.
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
    refuse("weights", "be finite and not negative", to_text(bad));
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

Weights::Weights(const Weighting& weighting, const ArrayRef& x, const Features& features)
    : where_(weighting.where),
      weights_(weighting.weights),
      omit_nan_(weighting.omit_nan && is_float(x.dtype)),
      largest_total_(static_cast<double>(features.count)) {
    // A mask that leaves nothing out is none.
    if (where_ && all_true(where_)) where_.data = nullptr;
    if (weights_) scan_weights(features, x);
}

// Weights that are all the same, but not 0, are none. Others are divided by a power of two by which
// the largest is between 1 and 2, or below if it is subnormal: their products with squares then
// stay within float64's range if the squares do.
void Weights::scan_weights(const Features& features, const ArrayRef& x) {
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
        refuse("weights", "have a finite sum in each channel", to_text(largest_total_));
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

void Weights::arrange(Layout& layout) {
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
    rows_alike_ = each([](const Operand& o) { return is_broadcast(o.cols); });
    same_in_channels_ = layout.channels_first()
                            ? each([](const Operand& o) { return is_broadcast(o.channels); })
                            : rows_alike_;
    const bool per_row = rows_alike_ && (values_ || !omit_nan_);
    if (per_row && layout.cols % lanes == 0) layout.row_fold = 1;
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

void Weights::take_staging(StagingBuffers& staging) {
    if (is_direct()) return;
    const bool is_mask = form_ == WeightsForm::by_mask;
    staging_ = staging.add(is_mask ? 1 : sizeof(double));
    if (is_mask && rows_alike_) row_bytes_staging_ = staging.add(1);
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

const double* Weights::rows(const TileRange& range, const Scratch& scratch) const noexcept {
    TileRange first_column = range;
    first_column.cols = 1;
    return pack(first_column, scratch);
}

Tile<const std::uint8_t> Weights::mask(const TileRange& range,
                                       const Scratch& scratch) const noexcept {
    if (is_direct()) return typed<const std::uint8_t>(direct_tile(mask_, range));
    auto* const to = reinterpret_cast<std::uint8_t*>(scratch.staging + staging_);
    TileRange part = range;
    if (rows_alike_) part.cols = 1;
    auto* const packed =
        rows_alike_ ? reinterpret_cast<std::uint8_t*>(scratch.staging + row_bytes_staging_) : to;
    pack_tile(mask_, part, packed);
    if (rows_alike_) repeat_each(packed, range.rows, range.cols, to);
    return {to, range.kernel_cols()};
}

Tile<const double> Weights::elements(const TileRange& range,
                                     const Scratch& scratch) const noexcept {
    if (!rows_alike_) return {pack(range, scratch), range.kernel_cols()};
    TileRange first_column = range;
    first_column.cols = 1;
    double* const to = pack(first_column, scratch);
    repeat_each(to, range.rows, range.cols);
    return {to, range.kernel_cols()};
}

double* Weights::pack(const TileRange& range, const Scratch& scratch) const noexcept {
    auto* const to = reinterpret_cast<double*>(scratch.staging + staging_);
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
                               const Scratch& scratch) const noexcept {
    switch (form_) {
        case WeightsForm::none:
        case WeightsForm::omit_nan:
            break;
        case WeightsForm::by_row:
        case WeightsForm::by_row_omit_nan:
            return {rows(range, scratch), 1};
        case WeightsForm::by_mask: {
            const Tile<const std::uint8_t> packed = mask(range, scratch);
            if (omit_nan_)
                fastbn::omit_nan(range, x, x_type, const_cast<std::uint8_t*>(packed.data));
            return {packed.data, packed.stride};
        }
        case WeightsForm::by_element: {
            const Tile<const double> packed = elements(range, scratch);
            if (omit_nan_) fastbn::omit_nan(range, x, x_type, const_cast<double*>(packed.data));
            return {packed.data, packed.stride};
        }
    }
    return {nullptr, 0};
}

void Weights::write_mask(const TileRange& range, Tile<const void> weights,
                         std::uint8_t* mask) const noexcept {
    const std::ptrdiff_t cols = range.kernel_cols();
    for (std::ptrdiff_t r = 0; r < range.kernel_rows(); ++r) {
        const double* const from = static_cast<const double*>(weights.data) + r * weights.stride;
        std::uint8_t* const to = mask + r * cols;
        if (form_ != WeightsForm::by_element) {
            std::memset(to, *from > 0.0 ? 1 : 0, static_cast<std::size_t>(cols));
        } else {
            for (std::ptrdiff_t i = 0; i < cols; ++i) to[i] = from[i] > 0.0 ? 1 : 0;
        }
    }
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

GradientWeights Weights::gradient_tile(const TileRange& range, DType computed,
                                       const Scratch& scratch) const noexcept {
    GradientWeights result{};
    result.row_width = range.kernel_cols() / range.row_fold;
    if (form_ == WeightsForm::by_row) {
        result.rows = rows(range, scratch);
    } else if (form_ == WeightsForm::by_mask) {
        result.mask = mask(range, scratch);
    } else if (form_ == WeightsForm::by_element) {
        const Tile<const double> packed = elements(range, scratch);
        result.elements = {packed.data, packed.stride};
        if (computed == DType::float32) {
            narrow_in_place(const_cast<double*>(packed.data), range.rows * range.cols);
        }
    }
    return result;
}

namespace {

// The first index from `begin` on of a channel's elements, in the order of reduced_dims, that is
// not 0, or their number if there is none.
std::ptrdiff_t next_nonzero(const ArrayRef& array, const Layout& layout, std::ptrdiff_t channel,
                            std::ptrdiff_t begin) {
    if (!array) return begin;
    constexpr std::ptrdiff_t at_once = 1024;
    const char* const first =
        first_element(array, layout) + channel_dims(array, layout).offset(channel);
    const Dims dims = reduced_dims(array, layout);
    const auto copy = ElementCopy::reading(array.dtype, array.swapped, DType::float64);
    double values[at_once];
    for (; begin < layout.count; begin += at_once) {
        std::ptrdiff_t read = 0;
        each_stretch(dims, begin, std::min(at_once, layout.count - begin),
                     [&](std::ptrdiff_t offset, std::ptrdiff_t length, std::ptrdiff_t stride) {
                         copy(first + offset, stride, reinterpret_cast<char*>(values + read),
                              sizeof(double), length);
                         read += length;
                     });
        const double* const found =
            std::find_if(values, values + read, [](double value) { return value != 0.0; });
        if (found != values + read) return begin + (found - values);
    }
    return layout.count;
}

}  // namespace

std::ptrdiff_t Weights::next_counted(const Layout& layout, std::ptrdiff_t channel,
                                     std::ptrdiff_t index) const noexcept {
    for (std::ptrdiff_t before = -1; index != before && index < layout.count;) {
        before = index;
        index = next_nonzero(where_, layout, channel, index);
        index = next_nonzero(weights_, layout, channel, index);
    }
    return index;
}

double Weights::weight(const Layout& layout, std::ptrdiff_t channel,
                       std::ptrdiff_t index) const noexcept {
    const auto element = [&](const ArrayRef& array) {
        return first_element(array, layout) + channel_dims(array, layout).offset(channel) +
               reduced_dims(array, layout).offset(index);
    };
    if (where_ && *element(where_) == 0) return 0.0;
    return weights_ ? element_at(weights_, element(weights_)) * scale_ : 1.0;
}

}  // namespace fastbn
