// Moments, training and inference: statistics from x or from the caller, then y from x.
#include <algorithm>
#include <atomic>

#include "engine/channels.hpp"
#include "engine/coefficients.hpp"
#include "engine/dispatch.hpp"
#include "engine/errors.hpp"
#include "engine/executor.hpp"
#include "engine/memory.hpp"
#include "engine/operations.hpp"
#include "engine/statistics.hpp"
#include "engine/tiles.hpp"
#include "engine/weights.hpp"

namespace fastbn {
namespace {

// The statistics of all channels that y is normalized by, where they are not x's own.
struct GivenStatistics {
    GivenStatistics(const ArrayRef& mean_array, const ArrayRef& mean_lo_array,
                    const ArrayRef& var_array)
        : mean(mean_array, 0.0), mean_lo(mean_lo_array, 0.0), var(var_array, 1.0) {}

    ChannelParameter mean;
    ChannelParameter mean_lo;
    ChannelParameter var;
    double eps = 0.0;
    double* invstd = nullptr;  // written to, if it is not null
    const ChannelOrigins* origins = nullptr;

    void take_staging(const Plan& plan, Staging& staging) {
        const std::ptrdiff_t channels = plan.slab_channels();
        for (ChannelParameter* parameter : {&mean, &mean_lo, &var}) {
            parameter->take_staging(channels, staging);
        }
    }
    // Those of a slab's channels; the means are of what the kernels see.
    void read(const Slab& slab, std::byte* staging, ChannelParameters& to) const noexcept {
        const std::ptrdiff_t n = slab.channels;
        double* const inverse = invstd != nullptr ? invstd + slab.channel : var.staged(staging);
        moments_table().invert_std(var.read(slab.channel, n, inverse), eps, inverse, n);
        to.invstd = inverse;
        origins->read_means(mean, mean_lo, slab, staging, to);
    }
};

// Statistics from x or from the caller, then y from x; or one half of that. Null, or an operand
// without an array, for what a call does not ask for.
class ForwardOperation final : public Operation {
public:
    explicit ForwardOperation(const Plan& plan) : plan_(plan) {}

    // What is asked of x alone: its moments, its values' range, or both in one reading.
    Operand x;
    Weights* weights = nullptr;
    const MomentsReduction* moments = nullptr;
    ValueRangeReduction* range = nullptr;

    // y, by statistics from `moments`, or else by those that are given.
    NormalizeTransform* transforms_x = nullptr;
    GivenStatistics* given = nullptr;
    std::atomic<bool>* infinite = nullptr;  // set if x holds infinity, where that is asked for

    void reduce(const Slab& slab, std::ptrdiff_t span,
                const Memory& memory) const noexcept override {
        const Buffers buffers = buffers_in(memory.buffers);
        if (moments != nullptr) moments->begin(slab, span, buffers.moments, memory);
        if (range != nullptr) range->begin(slab, span, buffers.range, memory);
        // Ranges and sums of integers are taken of one channel at a time.
        const bool together = x.adjacent_channels && weights->suit_adjacent_channels() &&
                              range == nullptr && moments->takes_adjacent_channels();
        each_tile(plan_, slab, span, together, [&](const TileRange& tile, std::ptrdiff_t position) {
            const Tile<const void> values = input_tile(x, tile, memory.staging);
            const Tile<const void> of_values =
                weights->tile(tile, values, x.kernel_dtype, memory.staging);
            if (moments != nullptr) {
                moments->add(tile, span, position, values, of_values, buffers.moments, memory);
            }
            if (range != nullptr) range->add(tile, span, values, of_values, buffers.range, memory);
        });
    }

    void finalize(const Slab& slab, const Memory& memory) const noexcept override {
        const Buffers buffers = buffers_in(memory.buffers);
        Statistics s;
        if (moments != nullptr) s = moments->finalize(slab, buffers.moments, memory);
        if (range != nullptr) range->finalize(slab, buffers.range, memory);
        if (transforms_x == nullptr) return;
        ChannelParameters channels{};
        if (moments != nullptr) {
            channels.mean = s.mean;
            channels.mean_lo = s.mean_lo;
            channels.invstd = s.invstd;
        } else {
            given->read(slab, memory.staging, channels);
        }
        transforms_x->fold(plan_, channels, slab, buffers.affine, memory);
    }

    void transform(const TileRange& tile, const Memory& memory) const noexcept override {
        bool here = false;
        transforms_x->apply(plan_, tile, buffers_in(memory.buffers).affine, memory,
                            infinite == nullptr ? nullptr : &here);
        if (here) infinite->store(true, std::memory_order_relaxed);
    }

    void take_staging(Staging& staging) noexcept override {
        fastbn::take_staging(x, staging);
        if (weights != nullptr) weights->take_staging(staging);
        if (range != nullptr) range->take_staging(staging);
        if (transforms_x == nullptr) return;
        transforms_x->take_staging(plan_, staging);
        if (given != nullptr) given->take_staging(plan_, staging);
    }
    std::ptrdiff_t buffer_bytes() const noexcept override { return buffers_in(nullptr).bytes; }
    bool transforms() const noexcept override { return transforms_x != nullptr; }
    bool sums_columns() const noexcept override { return moments != nullptr; }

private:
    struct Buffers {
        MomentsReduction::Buffers moments;
        ValueRange range;
        Affine<void> affine;
        std::ptrdiff_t bytes;
    };
    Buffers buffers_in(std::byte* memory) const noexcept {
        Arrays arrays(memory);
        Buffers buffers;
        if (moments != nullptr) buffers.moments = moments->take_buffers(arrays);
        if (range != nullptr) buffers.range = range->take_buffers(arrays);
        if (transforms_x != nullptr) buffers.affine = transforms_x->take_buffers(arrays, plan_);
        buffers.bytes = arrays.bytes();
        return buffers;
    }

    const Plan& plan_;
};

void fill_undefined(const Features& features, const Statistics& out) {
    const auto fill = [&](double* to, double value) {
        if (to != nullptr) std::fill_n(to, features.channels, value);
    };
    fill(out.mean, not_a_number);
    fill(out.mean_lo, 0.0);
    fill(out.var, not_a_number);
    fill(out.invstd, not_a_number);
    fill(out.m2, 0.0);
    fill(out.count, 0.0);
    fill(out.min, not_a_number);
    fill(out.max, not_a_number);
}

// Counts, and their weight in m2, where values do not differ in weight.
void apply_common_weight(const Features& features, const Weights& weights, const Statistics& out) {
    const double weight = weights.common_weight();
    if (out.count != nullptr) {
        std::fill_n(out.count, features.channels, static_cast<double>(features.count) * weight);
    }
    for (std::ptrdiff_t c = 0; c < features.channels && out.m2 != nullptr; ++c) {
        out.m2[c] = scaled_m2(out.m2[c], weight);
    }
}

// The layout for a transform alone, which may go by y as well as by x. Tiles of many neighbouring
// channels can be transposed on their way to the other array; a tile of one channel cannot.
Layout transform_layout(const ArrayRef& x, const ArrayRef& y, const Features& features) {
    const Layout layout = layout_of(x, features);
    if (!layout.channels_first()) return layout;
    const Layout layout_of_y = layout_of(y, features);
    const bool has_neighbours = !layout_of_y.channels_first() && layout_of_y.inner_fold == 1;
    return has_neighbours ? layout_of_y : layout;
}

Layout arranged_layout(const ArrayRef& x, const Features& features, Weights& weights) {
    Layout layout = layout_of(x, features);
    weights.arrange(layout, true);
    return layout;
}

// The range of x's values in a reading of its own, by weights that are arranged for the layout.
void range_alone(const ArrayRef& x, const Layout& layout, Weights& weights, double* min,
                 double* max) {
    Work work;
    work.reduces = true;
    const Plan plan = plan_of(layout, x.dtype, work);
    const DType x_type = value_range_kernels(x.dtype).x;
    ValueRangeReduction range(plan, x_type, weights, min, max);
    ForwardOperation operation(plan);
    operation.x = operand_of(x, layout, x_type);
    operation.weights = &weights;
    operation.range = &range;
    execute(plan, operation);
}

}  // namespace

void check_weights(const Batch& batch) { const Weights weights(batch); }

void moments(const Batch& batch, const Statistics& out) {
    const ArrayRef& x = batch.x;
    const Features& features = batch.features;
    Weights weights(batch);
    if (features.empty()) return fill_undefined(features, out);
    const Layout layout = arranged_layout(x, features, weights);
    const ChannelOrigins origins(x, layout, weights);
    // The range of values is not that of their differences, once those are rounded; and integers
    // that are summed as they are have their range taken of floating-point numbers.
    const bool range_apart = origins || integer_sums_kernels(x.dtype, weights.form()) != nullptr;
    if (range_apart && out.min != nullptr) range_alone(x, layout, weights, out.min, out.max);
    const bool wants_range = out.min != nullptr && !range_apart;
    const DType x_type =
        wants_range ? value_range_kernels(x.dtype).x : moments_type(x.dtype, weights.form());
    Work work;
    work.reduces = true;
    work.packed_sums = weights.form() == WeightsForm::by_element;
    const Plan plan = plan_of(layout, x.dtype, work);
    const MomentsReduction moments(plan, x, x_type, weights, origins, 0.0, out);
    ValueRangeReduction range(plan, x_type, weights, out.min, out.max);
    ForwardOperation operation(plan);
    operation.x = operand_of(x, layout, x_type, origins.data());
    operation.weights = &weights;
    operation.moments = &moments;
    if (wants_range) operation.range = &range;
    execute(plan, operation);
    if (!weights.differ()) return apply_common_weight(features, weights, out);
    for (std::ptrdiff_t c = 0; c < features.channels; ++c) {
        if (out.count[c] == 0.0) out.mean[c] = not_a_number;
    }
}

void value_range(const Batch& batch, double* min, double* max) {
    const Features& features = batch.features;
    Weights weights(batch);
    Statistics out;
    out.min = min;
    out.max = max;
    if (features.empty()) return fill_undefined(features, out);
    const Layout layout = arranged_layout(batch.x, features, weights);
    range_alone(batch.x, layout, weights, min, max);
}

void train(const Batch& batch, const ArrayRef& y, double eps, const Running& running,
           bool allow_single, const Statistics& out) {
    const ArrayRef& x = batch.x;
    const Features& features = batch.features;
    check_same_shape("out", y, x);
    check_shapes(batch);
    check_eps(eps);
    Weights weights(batch);
    if (!allow_single) check_trainable(features, weights.largest_total());
    if (running.mean) check_running(running, batch, weights, allow_single);
    if (features.empty()) return fill_undefined(features, out);

    const Layout layout = arranged_layout(x, features, weights);
    const ChannelOrigins origins(x, layout, weights);
    NormalizeTransform transform(batch, y, layout, origins);
    Work work = transform.work();
    work.reduces = true;
    work.packed_sums = weights.form() == WeightsForm::by_element;
    const Plan plan = plan_of(layout, x.dtype, work);
    const DType x_type = moments_type(x.dtype, weights.form());
    const MomentsReduction moments(plan, x, x_type, weights, origins, eps, out);
    ForwardOperation operation(plan);
    operation.x = operand_of(x, layout, x_type, origins.data());
    operation.weights = &weights;
    operation.moments = &moments;
    operation.transforms_x = &transform;
    execute(plan, operation);
    if (!weights.differ()) apply_common_weight(features, weights, out);
    if (running.mean) update_running(running, out, features, allow_single);
}

bool normalize(const Batch& batch, const ArrayRef& y, const ArrayRef& mean, const ArrayRef& mean_lo,
               const ArrayRef& var, double eps, bool look_for_infinity, const char* mean_name,
               const char* var_name, double* invstd) {
    const ArrayRef& x = batch.x;
    const Features& features = batch.features;
    check_same_shape("out", y, x);
    check_parameter_shape(mean_name, mean, features);
    if (mean_lo) check_parameter_shape("mean_lo", mean_lo, features);
    check_parameter_shape(var_name, var, features);
    check_shapes(batch);
    check_eps(eps);
    const double clip = batch.epilogue.clip;
    if (!(clip >= 0.0)) refuse("clip", "be >= 0", shown(clip));
    GivenStatistics given(mean, mean_lo, var);
    given.eps = eps;
    given.invstd = invstd;
    check_not_negative(var_name, given.var, features.channels);
    if (features.empty()) return false;

    const Layout layout = transform_layout(x, y, features);
    const ChannelOrigins origins(x, layout, given.mean);
    given.origins = &origins;
    NormalizeTransform transform(batch, y, layout, origins);
    const Plan plan = plan_of(layout, x.dtype, transform.work());
    std::atomic<bool> infinite{false};
    ForwardOperation operation(plan);
    operation.transforms_x = &transform;
    operation.given = &given;
    if (look_for_infinity) operation.infinite = &infinite;
    execute(plan, operation);
    return infinite.load(std::memory_order_relaxed);
}

}  // namespace fastbn
