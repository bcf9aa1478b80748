#include "engine/shares.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "engine/elements.hpp"
#include "engine/errors.hpp"

namespace fastbn {
namespace {

// The loops over an array's elements, those that are broadcast once.
Dims distinct_elements(const ArrayRef& array, std::ptrdiff_t& count) {
    Dims dims;
    count = 1;
    for (int i = 0; i < array.ndim; ++i) {
        if (array.shape[i] == 0) count = 0;
        if (array.strides[i] == 0) continue;
        dims.push(array.shape[i], array.strides[i]);
        count *= array.shape[i];
    }
    return dims;
}

// visit(value) for each of them, until it returns false.
template <class T, class Visit>
void each_distinct(const ArrayRef& array, const Visit& visit) {
    std::ptrdiff_t count;
    const Dims dims = distinct_elements(array, count);
    bool go_on = true;
    each_stretch(dims, 0, count,
                 [&](std::ptrdiff_t offset, std::ptrdiff_t length, std::ptrdiff_t stride) {
                     const char* const from = array.data + offset;
                     for (std::ptrdiff_t i = 0; i < length && go_on; ++i) {
                         go_on = visit(read_element<T>(from + i * stride));
                     }
                 });
}

bool is_broadcast(const Dims& dims) {
    return std::all_of(dims.dim, dims.dim + dims.n, [](const Dim& d) { return d.stride == 0; });
}

struct WeightRange {
    double least = std::numeric_limits<double>::infinity();
    double most = 0.0;
    double sum = 0.0;
};

WeightRange range_of(const ArrayRef& weights) {
    WeightRange range;
    visit_dtype(weights.dtype, [&](auto zero) {
        each_distinct<decltype(zero)>(weights, [&](auto value) {
            const auto weight = converted<double>(value);
            if (!(weight >= 0.0 && std::isfinite(weight))) {
                refuse("weights", "be finite and not negative", to_text(weight));
            }
            range.least = std::min(range.least, weight);
            range.most = std::max(range.most, weight);
            range.sum += weight;
            return true;
        });
    });
    return range;
}

}  // namespace

Shares::Shares(const Counting& counting, const ArrayRef& x, const Features& features)
    : where_(counting.where),
      weights_(counting.weights),
      most_counted_(std::numeric_limits<double>::infinity()) {
    if (where_) scan_where();
    if (weights_) scan_weights(features, x);
}

// A mask that leaves nothing out is none.
void Shares::scan_where() {
    bool all = true;
    each_distinct<char>(where_, [&](char counts) { return all = counts != 0; });
    if (all) where_.data = nullptr;
}

// Weights that are all the same, but not 0, are none. Others are taken in units of a power of two in
// which the largest is between 1/2 and 1: sums of them and of their products with squares then stay
// within float64's range if those of the squares do.
void Shares::scan_weights(const Features& features, const ArrayRef& x) {
    const WeightRange range = range_of(weights_);
    bool vary_in_channels = false;
    double repeats = 1.0;
    for (int i = 0; i < x.ndim; ++i) {
        if (x.shape[i] == 1 || features.is_feature[i]) {
            vary_in_channels = vary_in_channels || (x.shape[i] > 1 && weights_.strides[i] != 0);
        } else if (weights_.strides[i] == 0) {
            repeats *= static_cast<double>(x.shape[i]);
        }
    }
    if (!vary_in_channels) most_counted_ = range.sum * repeats;
    if (range.least == range.most && range.most > 0.0) {
        weight_ = range.most;
        unit_ = weight_;
        weights_.data = nullptr;
    } else if (range.most > 0.0) {
        unit_ = std::ldexp(1.0, std::ilogb(range.most) + 1);
    }
}

void Shares::arrange(const Layout& layout) {
    mask_ = operand_of(where_, layout, DType::boolean);
    values_ = operand_of(weights_, layout, DType::float64);
    const auto each = [&](const auto& holds) {
        return (!mask_ || holds(mask_)) && (!values_ || holds(values_));
    };
    by_row_ = layout.abreast == 1 && each([](const Operand& o) { return is_broadcast(o.cols); });
    same_in_channels_ = layout.channels_first()
                            ? each([](const Operand& o) { return is_broadcast(o.channels); })
                            : by_row_;
    is_direct_mask_ = mask_.direct && !values_ && !by_row_;
}

template <class T>
void Shares::pack(const TileRange& tile, T* to) const noexcept {
    TileRange part = tile;
    if (by_row_) part.cols = 1;
    const std::ptrdiff_t n = packed_size(tile);
    if (!values_) {
        std::fill_n(to, n, T(1));
    } else {
        // Weights that T cannot hold may be shares that it can. The one is written where the other
        // was, or before.
        auto* const weights = reinterpret_cast<double*>(to);
        auto* const bytes = reinterpret_cast<char*>(to);
        pack_tile(values_, part, weights);
        for (std::ptrdiff_t i = 0; i < n; ++i) {
            const auto weight = read_element<double>(bytes + i * std::ptrdiff_t{sizeof(double)});
            write_element(bytes + i * std::ptrdiff_t{sizeof(T)}, static_cast<T>(weight / unit_));
        }
    }
    if (mask_) mask_tile(mask_, part, to);
}

Operand Shares::packed() {
    static char somewhere;
    Operand operand;
    operand.base = &somewhere;
    operand.kernel_dtype = DType::float64;
    return operand;
}

double Shares::share(const Layout& layout, std::ptrdiff_t channel,
                     std::ptrdiff_t index) const noexcept {
    const auto element = [&](const ArrayRef& array) {
        return first_element(array, layout) + channel_dims(array, layout).offset(channel) +
               reduced_dims(array, layout).offset(index);
    };
    if (where_ && read_element<char>(element(where_)) == 0) return 0.0;
    if (!weights_) return 1.0;
    return visit_dtype(weights_.dtype, [&](auto zero) {
        return converted<double>(read_element<decltype(zero)>(element(weights_))) / unit_;
    });
}

template void Shares::pack(const TileRange&, float*) const noexcept;
template void Shares::pack(const TileRange&, double*) const noexcept;

}  // namespace fastbn
