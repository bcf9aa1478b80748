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
      most_counted_(static_cast<double>(features.count)) {
    if (where_) scan_where();
    if (weights_) scan_weights(features, x);
}

// A mask that leaves nothing out is none.
void Shares::scan_where() {
    bool all = true;
    each_distinct<char>(where_, [&](char counts) { return all = counts != 0; });
    if (all) where_.data = nullptr;
}

// Weights that are all the same, but not 0, are none. Others are taken in units of a power of two
// in which the largest is between 1 and 2: their products with squares then stay within float64's
// range if the squares do.
void Shares::scan_weights(const Features& features, const ArrayRef& x) {
    const WeightRange range = range_of(weights_);
    bool vary_in_channels = false;
    double repeats = 1.0;
    for (int i = 0; i < x.ndim; ++i) {
        const bool same = weights_.strides[i] == 0 || x.shape[i] == 1;
        if (features.is_feature[i]) {
            vary_in_channels = vary_in_channels || !same;
        } else if (same) {
            repeats *= static_cast<double>(x.shape[i]);
        }
    }
    const double sum = range.sum * repeats;
    if (!std::isfinite(sum)) refuse("weights", "have a finite sum", to_text(sum));
    const double bound = range.most * static_cast<double>(features.count);
    most_counted_ = vary_in_channels ? bound : sum;
    if (range.least == range.most && range.most > 0.0) {
        weight_ = range.most;
        unit_ = weight_;
        weights_.data = nullptr;
    } else if (range.most > 0.0) {
        unit_ = std::ldexp(1.0, std::ilogb(range.most));
    }
}

void Shares::arrange(Layout& layout) {
    mask_ = operand_of(where_, layout, DType::boolean);
    values_ = operand_of(weights_, layout, DType::float64);
    const auto each = [&](const auto& holds) {
        return (!mask_ || holds(mask_)) && (!values_ || holds(values_));
    };
    rows_alike_ = each([](const Operand& o) { return is_broadcast(o.cols); });
    same_in_channels_ = layout.channels_first()
                            ? each([](const Operand& o) { return is_broadcast(o.channels); })
                            : rows_alike_;
    if (rows_alike_ && layout.cols % lanes == 0) layout.abreast = 1;
    if (rows_alike_ && layout.abreast == 1) {
        form_ = Form::by_row;
    } else {
        form_ = values_ ? Form::by_element : Form::by_mask;
    }
}

// Each of n values `times` times in a row, in place, from the last on.
template <class T>
static void spread(T* values, std::ptrdiff_t n, std::ptrdiff_t times) {
    for (std::ptrdiff_t i = n; i-- > 0;) std::fill_n(values + i * times, times, T{values[i]});
}

// The same of bytes, to `to`, from the first on: short stretches by stores of one length, of which
// the next one overwrites what is too much. Up to the last that may come near the end of the room.
static void spread_bytes(const std::uint8_t* values, std::ptrdiff_t n, std::ptrdiff_t times,
                         std::uint8_t* to) {
    constexpr std::ptrdiff_t stretch = 32;
    const std::ptrdiff_t by_stretch = times <= stretch ? n - stretch : 0;
    for (std::ptrdiff_t i = 0; i < n; ++i) {
        std::memset(to + i * times, values[i],
                    static_cast<std::size_t>(i < by_stretch ? stretch : times));
    }
}

template <class T>
const T* Shares::rows(const TileRange& tile, std::byte* room) const noexcept {
    TileRange first_column = tile;
    first_column.cols = 1;
    return pack<T>(first_column, room);
}

Tile<const std::uint8_t> Shares::mask(const TileRange& tile, std::byte* room) const noexcept {
    if (is_direct()) return direct_tile<const std::uint8_t>(mask_, tile);
    auto* const to = reinterpret_cast<std::uint8_t*>(room);
    const std::ptrdiff_t n = tile.rows * tile.cols;
    TileRange part = tile;
    if (rows_alike_) part.cols = 1;
    // The room is for doubles: at its end there is place for a byte for each row.
    std::uint8_t* const packed = rows_alike_ ? to + 7 * n : to;
    pack_tile(mask_, part, packed);
    if (rows_alike_) spread_bytes(packed, tile.rows, tile.cols, to);
    return {to, tile.kernel_cols()};
}

template <class T>
Tile<const T> Shares::elements(const TileRange& tile, std::byte* room) const noexcept {
    if (!rows_alike_) return {pack<T>(tile, room), tile.kernel_cols()};
    T* const to = const_cast<T*>(rows<T>(tile, room));
    spread(to, tile.rows, tile.cols);
    return {to, tile.kernel_cols()};
}

// Weights that T cannot hold may be shares that it can. The one is written where the other was, or
// before.
template <class T>
T* Shares::pack(const TileRange& tile, std::byte* room) const noexcept {
    T* const to = reinterpret_cast<T*>(room);
    const std::ptrdiff_t n = tile.rows * tile.cols;
    if (!values_) {
        std::fill_n(to, n, T(1));
    } else {
        char* const bytes = reinterpret_cast<char*>(room);
        pack_tile(values_, tile, reinterpret_cast<double*>(room));
        for (std::ptrdiff_t i = 0; i < n; ++i) {
            const auto weight = read_element<double>(bytes + i * std::ptrdiff_t{sizeof(double)});
            write_element(bytes + i * std::ptrdiff_t{sizeof(T)}, static_cast<T>(weight / unit_));
        }
    }
    if (mask_) mask_tile(mask_, tile, to);
    return to;
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

template const float* Shares::rows(const TileRange&, std::byte*) const noexcept;
template const double* Shares::rows(const TileRange&, std::byte*) const noexcept;
template Tile<const float> Shares::elements(const TileRange&, std::byte*) const noexcept;
template Tile<const double> Shares::elements(const TileRange&, std::byte*) const noexcept;

}  // namespace fastbn
