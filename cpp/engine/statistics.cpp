#include "engine/statistics.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/dispatch.hpp"
#include "numerics/moments_math.hpp"

namespace fastbn {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

// Below this, squares of deviations may have lost bits to gradual underflow.
constexpr double smallest_in_range_m2 = 0x1p-900;

// Below this, products of weights and squares of float32 values may have.
constexpr double smallest_in_range_weight = 0x1p-600;

// Whether the squares that add up to m2 lost nothing to float64's range. Where it is 0 all values
// are equal.
bool in_range(double m2) { return m2 == 0.0 || (m2 >= smallest_in_range_m2 && std::isfinite(m2)); }

// The entries from i on, of those statistics that follow from moments.
Statistics from(const Statistics& s, std::ptrdiff_t i) {
    Statistics moved;
    moved.mean = s.mean + i;
    moved.mean_lo = s.mean_lo + i;
    moved.m2 = s.m2 + i;
    moved.var = s.var + i;
    moved.invstd = s.invstd + i;
    return moved;
}

double sum_pairwise(const double* values, std::ptrdiff_t n) {
    constexpr std::ptrdiff_t short_enough = 8;
    if (n > short_enough) {
        return sum_pairwise(values, n / 2) + sum_pairwise(values + n / 2, n - n / 2);
    }
    double sum = 0.0;
    for (std::ptrdiff_t i = 0; i < n; ++i) sum += values[i];
    return sum;
}

// Merges each channel's layout.inner_fold neighbouring columns into one entry per channel. The
// columns hold equally many values, for which the formula of `merge` needs no divisions; and many
// columns add up pairwise to fewer roundings than in one merge after the other.
void fold_equal_columns(const MomentsSums& columns, std::ptrdiff_t channels,
                        const Layout& layout) noexcept {
    double offsets[max_inner_fold];
    double squares[max_inner_fold];
    const std::ptrdiff_t n = layout.inner_fold;
    const double count = static_cast<double>(layout.rows);
    for (std::ptrdiff_t c = 0; c < channels; ++c) {
        const std::ptrdiff_t first = c * n;
        const double ref = columns.ref[first];
        double sum = 0.0;
        double sum_lo = 0.0;
        for (std::ptrdiff_t i = 0; i < n; ++i) {
            const std::ptrdiff_t column = first + i;
            offsets[i] = (columns.ref[column] - ref) + columns.offset[column];
            squares[i] = columns.m2[column] + columns.m2_lo[column];
            double error;
            sum = two_sum(sum, columns.sum[column], error);
            sum_lo += columns.sum_lo[column] + error;
        }
        const double offset = sum_pairwise(offsets, n) / static_cast<double>(n);
        for (std::ptrdiff_t i = 0; i < n; ++i) {
            const double delta = offsets[i] - offset;
            squares[i] += delta * delta * count;
        }
        columns.ref[c] = ref;
        columns.offset[c] = offset;
        columns.m2[c] = sum_pairwise(squares, n);
        columns.m2_lo[c] = 0.0;
        columns.sum[c] = sum;
        columns.sum_lo[c] = sum_lo;
    }
}

// The same where columns weigh differently, one merge after the other.
void fold_weighted_columns(const MomentsSums& columns, std::ptrdiff_t channels,
                           const Layout& layout) noexcept {
    for (std::ptrdiff_t c = 0; c < channels; ++c) {
        const std::ptrdiff_t first = c * layout.inner_fold;
        for (std::ptrdiff_t i = first + 1; i < first + layout.inner_fold; ++i) {
            merge_weighted_at(columns, first, at(columns, i),
                              {columns.weight[i], columns.weight_lo[i]});
        }
        put(columns, c, at(columns, first));
        columns.weight[c] = columns.weight[first];
        columns.weight_lo[c] = columns.weight_lo[first];
    }
}

void fold_columns(const IntegerSums& columns, std::ptrdiff_t channels,
                  const Layout& layout) noexcept {
    for (std::ptrdiff_t c = 0; c < channels; ++c) {
        const IntegerSums first = from(columns, c * layout.inner_fold);
        for (std::ptrdiff_t i = 1; i < layout.inner_fold; ++i) {
            moments_table().merge_integers(first, from(first, i), 1);
        }
        const IntegerSums to = from(columns, c);
        *to.sum = *first.sum;
        *to.squares = *first.squares;
        *to.squares_lo = *first.squares_lo;
    }
}

// With var = scaled_var * 4^e. Only values whose spread is subnormal meet the cap.
double invstd_of_scaled(double scaled_var, int e, double eps) {
    const double scaled_eps = std::ldexp(eps, -2 * e);
    if (!std::isfinite(scaled_eps)) return 1.0 / std::sqrt(eps);
    return std::min(std::ldexp(1.0 / std::sqrt(scaled_var + scaled_eps), -e),
                    std::numeric_limits<double>::max());
}

void copy(const double* values, std::ptrdiff_t n, double* to, std::ptrdiff_t first) {
    if (to != nullptr) std::copy_n(values, n, to + first);
}

}  // namespace

MomentsReduction::MomentsReduction(const Plan& plan, const ArrayRef& x, DType x_type,
                                   const Weights& weights, const ChannelOrigins& origins,
                                   double eps, const Statistics& out)
    : plan_(plan),
      x_(x),
      weights_(weights),
      origins_(origins),
      kernels_(moments_kernels(x_type, weights.form()).moments[static_cast<int>(weights.form())]),
      integers_(integer_sums_kernels(x_type, weights.form())),
      eps_(eps),
      out_(out) {}

MomentsReduction::Buffers MomentsReduction::take_buffers(Arrays& arrays) const noexcept {
    const std::ptrdiff_t n = plan_.spans * Workspace::buffer_size(plan_);
    const std::ptrdiff_t channels = Workspace::channels(plan_);
    Buffers b{};
    if (integers_ != nullptr) {
        for (double** sums : {&b.integers.sum, &b.integers.squares, &b.integers.squares_lo}) {
            *sums = arrays.doubles(n);
        }
    } else {
        for (double** sums : {&b.sums.ref, &b.sums.offset, &b.sums.m2, &b.sums.m2_lo, &b.sums.sum,
                              &b.sums.sum_lo}) {
            *sums = arrays.doubles(n);
        }
    }
    if (weights_.differ()) {
        b.sums.weight = arrays.doubles(n);
        b.sums.weight_lo = arrays.doubles(n);
    }
    Statistics& s = b.statistics;
    for (double** statistic : {&s.mean, &s.mean_lo, &s.m2, &s.var, &s.invstd}) {
        *statistic = arrays.doubles(channels);
    }
    if (x_.dtype == DType::float64) b.nonfinite = static_cast<std::uint8_t*>(arrays.take(n, 1));
    return b;
}

void MomentsReduction::begin(const Slab& slab, std::ptrdiff_t span, const Buffers& buffers,
                             const Memory& memory) const noexcept {
    const std::ptrdiff_t first = memory.at(span, slab.buffer_index);
    if (buffers.nonfinite != nullptr) {
        std::fill_n(buffers.nonfinite + first, slab.buffer_size, std::uint8_t{0});
    }
    if (integers_ != nullptr) {
        const IntegerSums s = from(buffers.integers, first);
        for (double* sums : {s.sum, s.squares, s.squares_lo}) {
            std::fill_n(sums, slab.buffer_size, 0.0);
        }
    }
    if (!weights_.differ()) return;
    const MomentsSums s = from(buffers.sums, first);
    for (double* sums : {s.ref, s.offset, s.m2, s.m2_lo, s.sum, s.sum_lo, s.weight, s.weight_lo}) {
        std::fill_n(sums, slab.buffer_size, 0.0);
    }
}

void MomentsReduction::add(const TileRange& tile, std::ptrdiff_t span, std::ptrdiff_t position,
                           Tile<const void> x, Tile<const void> weights, const Buffers& buffers,
                           const Memory& memory) const noexcept {
    const std::ptrdiff_t i = memory.at(span, tile.buffer_index);
    const bool one_channel = plan_.layout.channels_first();
    if (integers_ != nullptr) {
        const IntegerSumsKernel kernel = one_channel ? integers_->tile : integers_->columns;
        return kernel(x, tile.kernel_rows(), tile.kernel_cols(), from(buffers.integers, i));
    }
    const std::ptrdiff_t before =
        plan_.count_before(position) - plan_.count_before(plan_.first_position(span));
    const MomentsKernel kernel = one_channel ? kernels_.tile : kernels_.columns;
    kernel(x, weights, tile.kernel_rows(), tile.kernel_cols(), tile.channels,
           static_cast<double>(before), from(buffers.sums, i), memory.column_scratch);
    for (std::ptrdiff_t c = 0; c < tile.channels && buffers.nonfinite != nullptr; ++c) {
        note_nonfinite(tile, c, x, weights, buffers.sums.m2 + i + c, buffers.nonfinite + i + c);
    }
}

// Notes whether NaN or infinity is in the tile of one channel: the tile's own number `channel`,
// from 0. The tile is in cache now; later only a walk over all of the channel would tell.
void MomentsReduction::note_nonfinite(const TileRange& tile, std::ptrdiff_t channel,
                                      Tile<const void> x, Tile<const void> weights,
                                      const double* m2, std::uint8_t* nonfinite) const noexcept {
    const bool one_channel = plan_.layout.channels_first();
    const std::ptrdiff_t rows = tile.kernel_rows();
    const std::ptrdiff_t cols = tile.kernel_cols();
    bool is_new = false;
    for (std::ptrdiff_t i = 0; i < (one_channel ? 1 : cols); ++i) {
        is_new |= !std::isfinite(m2[i]) && nonfinite[i] == 0;
    }
    if (!is_new) return;
    const auto* const values = static_cast<const double*>(x.data) + channel * cols;
    const bool omits_nan = weights_.omits_nan();
    const auto has_weight = [&](std::ptrdiff_t r, std::ptrdiff_t i) {
        switch (weights_.form()) {
            case WeightsForm::by_row:
            case WeightsForm::by_row_omit_nan:
                return static_cast<const double*>(weights.data)[r] > 0.0;
            case WeightsForm::by_mask:
                return static_cast<const std::uint8_t*>(weights.data)[r * weights.stride + i] != 0;
            case WeightsForm::by_element:
                return static_cast<const double*>(weights.data)[r * weights.stride + i] > 0.0;
            default:
                return true;
        }
    };
    for (std::ptrdiff_t r = 0; r < rows; ++r) {
        for (std::ptrdiff_t i = 0; i < cols; ++i) {
            const double value = values[r * x.stride + i];
            if (std::isfinite(value) || (omits_nan && std::isnan(value)) || !has_weight(r, i))
                continue;
            nonfinite[one_channel ? 0 : i] = 1;
        }
    }
}

bool MomentsReduction::holds_nonfinite(const Slab& slab, std::ptrdiff_t channel,
                                       const Buffers& buffers,
                                       const Memory& memory) const noexcept {
    const Layout& layout = plan_.layout;
    const std::ptrdiff_t columns = slab.buffer_size / layout.row_fold;
    const std::ptrdiff_t first = channel * layout.inner_fold;
    for (std::ptrdiff_t span = 0; span < plan_.spans; ++span) {
        const std::uint8_t* const flags = buffers.nonfinite + memory.at(span, slab.buffer_index);
        for (std::ptrdiff_t i = first; i < slab.buffer_size; i += columns) {
            for (std::ptrdiff_t j = 0; j < layout.inner_fold; ++j) {
                if (flags[i + j] != 0) return true;
            }
        }
    }
    return false;
}

// visit(values, weights, n) for the values of a channel that have weight, a chunk at a time, and
// their weights times 2^weight_exponent; those are 1 in unweighted statistics.
template <class Visit>
void MomentsReduction::each_chunk(std::ptrdiff_t channel, int weight_exponent,
                                  const Visit& visit) const {
    // As many as the error bounds of the chunk sums for float64 allow (kernels/chunk_sums.hpp).
    constexpr std::ptrdiff_t chunk = 1024;
    static_assert(chunk <= Weights::read_at_once);
    const Layout& layout = plan_.layout;
    double values[chunk];
    double weights[chunk];
    for (std::ptrdiff_t begin = 0; begin < layout.count; begin += chunk) {
        const std::ptrdiff_t n = std::min(chunk, layout.count - begin);
        read_channel(x_, layout, channel, begin, n, values);
        weights_.read(layout, channel, begin, n, weights);
        std::ptrdiff_t kept = weights_.differ() ? 0 : n;
        for (std::ptrdiff_t i = kept; i < n; ++i) {
            if (weights[i] == 0.0 || (weights_.omits_nan() && std::isnan(values[i]))) continue;
            values[kept] = values[i];
            weights[kept++] = std::ldexp(weights[i], weight_exponent);
        }
        if (kept > 0) visit(values, weights, kept);
    }
}

// Writes a channel's statistics where float64 does not hold its squares, or their products with
// weights.
void MomentsReduction::scan_channel(std::ptrdiff_t channel, int weight_exponent,
                                    const Statistics& out) const noexcept {
    double low = infinity;
    double high = -infinity;
    double has_nan = 0.0;
    const ValueRange range{&low, &high, &has_nan};
    const ValueRangeKernel kernel = value_range_kernels(DType::float64).value_range.tile;
    each_chunk(channel, weight_exponent,
               [&](const double* values, const double*, std::ptrdiff_t n) {
                   kernel({values, n}, {nullptr, 0}, 1, n, range);
               });
    const bool finite = has_nan == 0.0 && std::isfinite(low) && std::isfinite(high);
    if (finite && low != high) return scan_scaled(channel, weight_exponent, low, high, out);
    *out.mean = finite ? low : not_a_number;
    *out.mean_lo = *out.m2 = *out.var = finite ? 0.0 : not_a_number;
    *out.invstd = finite ? (eps_ == 0.0 ? 0.0 : 1.0 / std::sqrt(eps_)) : not_a_number;
}

// The same where all values are finite, by way of values divided by the power of two 2^e by which
// half their range is between 1/2 and 1. None of them then exceeds 2^54, since a range is at least
// one unit in the last place of its ends.
void MomentsReduction::scan_scaled(std::ptrdiff_t channel, int weight_exponent, double low,
                                   double high, const Statistics& out) const noexcept {
    int e = 0;
    // Half of a range beyond float64's is finite; half of a subnormal one would be inexact.
    if (std::isfinite(high - low)) {
        std::frexp(high - low, &e);
        --e;
    } else {
        std::frexp(high / 2 - low / 2, &e);
    }
    Moments<double> merged{};
    DoubleDouble<double> weight{};
    MomentsSums sums = sums_of(merged);
    sums.weight = &weight.high;
    sums.weight_lo = &weight.low;
    const int form = static_cast<int>(WeightsForm::by_element);
    const MomentsKernel kernel =
        moments_kernels(DType::float64, WeightsForm::by_element).moments[form].tile;
    each_chunk(channel, weight_exponent,
               [&](double* values, const double* weights, std::ptrdiff_t n) {
                   for (std::ptrdiff_t i = 0; i < n; ++i) values[i] = std::ldexp(values[i], -e);
                   kernel({values, n}, {weights, n}, 1, n, 1, 0.0, sums, nullptr);
               });
    moments_table().finalize(sums, 0.0, 0.0, out, 1);
    *out.invstd = invstd_of_scaled(*out.var, e, eps_);
    *out.mean = std::ldexp(*out.mean, e);
    *out.mean_lo = std::ldexp(*out.mean_lo, e);
    *out.m2 = std::max(std::ldexp(*out.m2, 2 * e), lost_square);
    *out.var = std::ldexp(*out.var, 2 * e);
}

void MomentsReduction::rescan_out_of_range(const Slab& slab, const Buffers& buffers,
                                           const Statistics& statistics,
                                           const Memory& memory) const noexcept {
    for (std::ptrdiff_t c = 0; c < slab.channels; ++c) {
        const double m2 = statistics.m2[c];
        // Weights that add up to less than 1 may make a variance infinite whose m2 is not.
        const bool fits = m2 == 0.0 || std::isfinite(statistics.var[c]);
        if (in_range(m2) && fits) continue;
        if (!std::isfinite(m2) && holds_nonfinite(slab, c, buffers, memory)) continue;
        scan_channel(slab.channel + c, 0, from(statistics, c));
    }
}

// Writes the statistics of channels whose weights are small beside other channels' once more, by
// weights that are multiplied by a power of two.
void MomentsReduction::rescan_light(const Slab& slab, const MomentsSums& sums,
                                    const Statistics& statistics) const noexcept {
    for (std::ptrdiff_t c = 0; c < slab.channels; ++c) {
        const double weight = sums.weight[c];
        if (weight == 0.0 || weight >= smallest_in_range_weight) continue;
        const int e = std::ilogb(weight);
        scan_channel(slab.channel + c, -e, from(statistics, c));
        statistics.m2[c] = scaled_m2(statistics.m2[c], std::ldexp(1.0, e));
    }
}

// A slab's sums into one entry for each channel, from its first on.
MomentsSums MomentsReduction::merge(const Slab& slab, const MomentsSums& sums,
                                    const Memory& memory) const noexcept {
    merge_slab(
        plan_, slab, memory,
        [&](std::ptrdiff_t a, double count_a, std::ptrdiff_t b, double count_b, std::ptrdiff_t n) {
            moments_table().merge(from(sums, a), count_a, from(sums, b), count_b, n);
        });
    const MomentsSums merged = from(sums, memory.at(0, slab.buffer_index));
    if (plan_.layout.inner_fold > 1) {
        const bool weighted = sums.weight != nullptr;
        (weighted ? fold_weighted_columns : fold_equal_columns)(merged, slab.channels,
                                                                plan_.layout);
    }
    return merged;
}

IntegerSums MomentsReduction::merge(const Slab& slab, const IntegerSums& sums,
                                    const Memory& memory) const noexcept {
    merge_slab(plan_, slab, memory,
               [&](std::ptrdiff_t a, double, std::ptrdiff_t b, double, std::ptrdiff_t n) {
                   moments_table().merge_integers(from(sums, a), from(sums, b), n);
               });
    const IntegerSums merged = from(sums, memory.at(0, slab.buffer_index));
    if (plan_.layout.inner_fold > 1) fold_columns(merged, slab.channels, plan_.layout);
    return merged;
}

Statistics MomentsReduction::finalize(const Slab& slab, const Buffers& buffers,
                                      const Memory& memory) const noexcept {
    const std::ptrdiff_t n = slab.channels;
    const Statistics s = from(buffers.statistics, slab.channel - memory.first_channel);
    const double count = static_cast<double>(plan_.layout.count);
    MomentsSums sums{};
    if (integers_ != nullptr) {
        moments_table().finalize_integers(merge(slab, buffers.integers, memory), count, eps_, s, n);
    } else {
        sums = merge(slab, buffers.sums, memory);
        moments_table().finalize(sums, count, eps_, s, n);
    }
    if (buffers.nonfinite != nullptr) rescan_out_of_range(slab, buffers, s, memory);
    if (sums.weight != nullptr) {
        if (!origins_) rescan_light(slab, sums, s);
        for (std::ptrdiff_t c = 0; c < n; ++c) {
            out_.count[slab.channel + c] =
                (sums.weight[c] + sums.weight_lo[c]) * weights_.divisor();
            if (out_.m2 != nullptr) s.m2[c] = scaled_m2(s.m2[c], weights_.divisor());
        }
    }
    if (origins_) {
        origins_.write_means(s, slab.channel, n, out_.mean, out_.mean_lo);
    } else {
        copy(s.mean, n, out_.mean, slab.channel);
        copy(s.mean_lo, n, out_.mean_lo, slab.channel);
    }
    copy(s.m2, n, out_.m2, slab.channel);
    copy(s.var, n, out_.var, slab.channel);
    copy(s.invstd, n, out_.invstd, slab.channel);
    return s;
}

ValueRangeReduction::ValueRangeReduction(const Plan& plan, DType x_type, const Weights& weights,
                                         double* min, double* max)
    : plan_(plan),
      weights_(weights),
      kernels_(value_range_kernels(x_type).value_range),
      min_(min),
      max_(max) {}

ValueRange ValueRangeReduction::take_buffers(Arrays& arrays) const noexcept {
    const std::ptrdiff_t n = plan_.spans * Workspace::buffer_size(plan_);
    double* const min = arrays.doubles(n);
    double* const max = arrays.doubles(n);
    return {min, max, arrays.doubles(n)};
}

bool ValueRangeReduction::needs_mask() const noexcept { return has_numbers(weights_.form()); }

void ValueRangeReduction::take_staging(Staging& staging) {
    if (needs_mask()) mask_begin_ = staging.take_tile(1);
}

void ValueRangeReduction::begin(const Slab& slab, std::ptrdiff_t span, const ValueRange& buffers,
                                const Memory& memory) const noexcept {
    const ValueRange range = from(buffers, memory.at(span, slab.buffer_index));
    std::fill_n(range.min, slab.buffer_size, infinity);
    std::fill_n(range.max, slab.buffer_size, -infinity);
    std::fill_n(range.has_nan, slab.buffer_size, 0.0);
}

void ValueRangeReduction::add(const TileRange& tile, std::ptrdiff_t span, Tile<const void> x,
                              Tile<const void> weights, const ValueRange& buffers,
                              const Memory& memory) const noexcept {
    Tile<const std::uint8_t> mask{nullptr, 0};
    if (weights_.form() == WeightsForm::by_mask) {
        mask = typed<const std::uint8_t>(weights);
    } else if (needs_mask()) {
        auto* const bytes = reinterpret_cast<std::uint8_t*>(memory.staging + mask_begin_);
        if (weights_.write_mask(tile, weights, bytes)) mask = {bytes, tile.kernel_cols()};
    }
    const auto kernel = plan_.layout.channels_first() ? kernels_.tile : kernels_.columns;
    kernel(x, mask, tile.kernel_rows(), tile.kernel_cols(),
           from(buffers, memory.at(span, tile.buffer_index)));
}

void ValueRangeReduction::finalize(const Slab& slab, const ValueRange& buffers,
                                   const Memory& memory) const noexcept {
    const auto take_in = [](const ValueRange& to, const ValueRange& other) {
        *to.min = std::min(*to.min, *other.min);
        *to.max = std::max(*to.max, *other.max);
        *to.has_nan = std::max(*to.has_nan, *other.has_nan);
    };
    merge_slab(plan_, slab, memory,
               [&](std::ptrdiff_t a, double, std::ptrdiff_t b, double, std::ptrdiff_t n) {
                   for (std::ptrdiff_t i = 0; i < n; ++i) {
                       take_in(from(buffers, a + i), from(buffers, b + i));
                   }
               });
    const std::ptrdiff_t inner = plan_.layout.inner_fold;
    for (std::ptrdiff_t c = 0; c < slab.channels; ++c) {
        const ValueRange all = from(buffers, memory.at(0, slab.buffer_index) + c * inner);
        for (std::ptrdiff_t i = 1; i < inner; ++i) take_in(all, from(all, i));
        const bool defined = *all.min <= *all.max && (weights_.omits_nan() || *all.has_nan == 0.0);
        min_[slab.channel + c] = defined ? *all.min : not_a_number;
        max_[slab.channel + c] = defined ? *all.max : not_a_number;
    }
}

}  // namespace fastbn
