// Moments, training and inference: statistics from x or from the caller, then y from x.
#include <algorithm>
#include <atomic>
#include <limits>

#include "engine/coefficients.hpp"
#include "engine/dispatch.hpp"
#include "engine/errors.hpp"
#include "engine/executor.hpp"
#include "engine/operations.hpp"
#include "engine/origins.hpp"
#include "engine/pack.hpp"
#include "engine/parameters.hpp"
#include "engine/statistics.hpp"
#include "engine/weights.hpp"

namespace fastbn {
namespace {

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

// x's tiles with their weights, as the reductions take them.
struct WeightedInput {
    const Weights& weights;
    Operand x;

    void take_staging(StagingBuffers& staging, Weights& owner) {
        staging.add(x);
        owner.take_staging(staging);
    }
    // visit(tile, position, x's values, their weights) for all tiles of a span.
    template <class Visit>
    void each_tile(const Plan& plan, const Slab& slab, std::ptrdiff_t span, const Scratch& scratch,
                   const Visit& visit) const {
        fastbn::each_tile(plan, slab, span, [&](const TileRange& tile, std::ptrdiff_t position) {
            const Tile<const void> values = input_tile(x, tile, scratch);
            visit(tile, position, values, weights.tile(tile, values, x.kernel_dtype, scratch));
        });
    }
};

// What is asked of x alone: its moments, its values' range, or both in one reading.
class StatisticsOperation final : public Operation {
public:
    // Null for what is not asked for.
    StatisticsOperation(const Plan& plan, const WeightedInput& input,
                        const MomentsReduction* moments, const ValueRangeReduction* range)
        : plan_(plan), input_(input), moments_(moments), range_(range) {}

    void reduce(const Slab& slab, std::ptrdiff_t span,
                const Memory& memory) const noexcept override {
        const Buffers buffers = place(memory.buffers);
        if (moments_ != nullptr) moments_->begin(slab, span, buffers.moments, memory);
        if (range_ != nullptr) range_->begin(slab, span, buffers.range, memory);
        input_.each_tile(plan_, slab, span, memory.scratch,
                         [&](const TileRange& tile, std::ptrdiff_t position, Tile<const void> x,
                             Tile<const void> weights) {
                             if (moments_ != nullptr) {
                                 moments_->add(tile, span, position, x, weights, buffers.moments,
                                               memory);
                             }
                             if (range_ == nullptr) return;
                             range_->add(tile, span, x, weights, buffers.range, memory);
                         });
    }
    void finalize(const Slab& slab, const Memory& memory) const noexcept override {
        const Buffers buffers = place(memory.buffers);
        if (moments_ != nullptr) moments_->finalize(slab, buffers.moments, memory);
        if (range_ != nullptr) range_->finalize(slab, buffers.range, memory);
    }
    std::ptrdiff_t buffer_bytes() const noexcept override { return place(nullptr).bytes; }
    bool transforms() const noexcept override { return false; }
    bool sums_columns() const noexcept override { return moments_ != nullptr; }

private:
    struct Buffers {
        MomentsReduction::Buffers moments;
        ValueRange range;
        std::ptrdiff_t bytes;
    };
    Buffers place(std::byte* memory) const noexcept {
        Arrays arrays(memory);
        Buffers buffers{};
        if (moments_ != nullptr) buffers.moments = moments_->place(arrays);
        if (range_ != nullptr) buffers.range = range_->place(arrays);
        buffers.bytes = arrays.bytes();
        return buffers;
    }

    const Plan& plan_;
    const WeightedInput& input_;
    const MomentsReduction* moments_;
    const ValueRangeReduction* range_;
};

// y from x, by coefficients that are there: the transform of training and inference.
struct NormalizeTransform {
    NormalizeTransform(const ArrayRef& x_array, const ArrayRef& y_array,
                       const EpilogueRef& epilogue, const Layout& layout,
                       const ChannelOrigins& origins)
        : kernels(normalize_kernels(x_array.dtype, y_array.dtype)),
          x(operand_of(x_array, layout, kernels.x, origins.origins())),
          residual(operand_of(epilogue.residual, layout, kernels.y)),
          y(operand_of(y_array, layout, kernels.y)),
          activation(epilogue.activation),
          clip(epilogue.clip) {}

    const NormalizeKernels& kernels;
    Operand x;
    Operand residual;
    Operand y;
    Activation activation;
    double clip;

    Work work() const { return elementwise_work({&x, &residual}, {&y}); }
    void take_staging(StagingBuffers& staging) {
        for (Operand* operand : {&x, &residual, &y}) staging.add(*operand);
    }

    // With the plan that was made for its work:
    Affine<void> place(Arrays& arrays, const Plan& plan) const {
        return place_affine(arrays, kernels.computed, Workspace::buffer_size(plan));
    }
    // Folds the coefficients of a slab's channels, given from its first one on.
    void fold(const Plan& plan, const ChannelParameters& channels, const Slab& slab,
              const Affine<void>& affine, const Memory& memory) const noexcept {
        const bool out_of_range =
            fold_affine(channels, kernels.computed, slab.channels, plan.layout,
                        from(affine, kernels.computed, memory.at(slab.buffer_index)));
        if (plan.repeats(slab)) {
            repeat_first(affine, kernels.computed, Workspace::buffer_size(plan));
        }
        note_out_of_range(plan, memory, out_of_range);
    }
    // infinite: see NormalizeKernel.
    void apply(const Plan& plan, const TileRange& tile, const Affine<void>& affine,
               const Memory& memory, bool* infinite) const noexcept {
        const Affine<void> here = from(affine, kernels.computed, memory.at(tile.buffer_index));
        kernels.normalize(input_tile(x, tile, memory.scratch), output_tile(y, tile, memory.scratch),
                          elementwise_loop(plan, x, y, tile),
                          kernel_view(here, memory.out_of_range->load(std::memory_order_relaxed)),
                          {input_tile(residual, tile, memory.scratch), activation, clip}, infinite);
        finish_output(y, tile, memory.scratch, plan.stream);
    }
};

class TrainingOperation final : public Operation {
public:
    TrainingOperation(const Plan& plan, const WeightedInput& input, const MomentsReduction& moments,
                      const NormalizeTransform& transform, const ChannelValues& weight,
                      const ChannelValues& bias)
        : plan_(plan),
          input_(input),
          moments_(moments),
          transform_(transform),
          weight_(weight),
          bias_(bias) {}

    void reduce(const Slab& slab, std::ptrdiff_t span,
                const Memory& memory) const noexcept override {
        const Buffers buffers = place(memory.buffers);
        moments_.begin(slab, span, buffers.moments, memory);
        input_.each_tile(plan_, slab, span, memory.scratch,
                         [&](const TileRange& tile, std::ptrdiff_t position, Tile<const void> x,
                             Tile<const void> weights) {
                             moments_.add(tile, span, position, x, weights, buffers.moments,
                                          memory);
                         });
    }
    void finalize(const Slab& slab, const Memory& memory) const noexcept override {
        const Buffers buffers = place(memory.buffers);
        const Statistics s = moments_.finalize(slab, buffers.moments, memory);
        transform_.fold(plan_,
                        {s.mean, s.mean_lo, s.invstd, weight_.data() + slab.channel,
                         bias_.data() + slab.channel},
                        slab, buffers.affine, memory);
    }
    void transform(const TileRange& tile, const Memory& memory) const noexcept override {
        transform_.apply(plan_, tile, place(memory.buffers).affine, memory, nullptr);
    }
    std::ptrdiff_t buffer_bytes() const noexcept override { return place(nullptr).bytes; }
    bool sums_columns() const noexcept override { return true; }

private:
    struct Buffers {
        MomentsReduction::Buffers moments;
        Affine<void> affine;
        std::ptrdiff_t bytes;
    };
    Buffers place(std::byte* memory) const noexcept {
        Arrays arrays(memory);
        Buffers buffers{};
        buffers.moments = moments_.place(arrays);
        buffers.affine = transform_.place(arrays, plan_);
        buffers.bytes = arrays.bytes();
        return buffers;
    }

    const Plan& plan_;
    const WeightedInput& input_;
    const MomentsReduction& moments_;
    const NormalizeTransform& transform_;
    const ChannelValues& weight_;
    const ChannelValues& bias_;
};

class InferenceOperation final : public Operation {
public:
    // infinite: set if x holds infinity; null where that is not asked for.
    InferenceOperation(const Plan& plan, const NormalizeTransform& transform,
                       const ChannelParameters& channels, double* invstd, const double* var,
                       double eps, std::atomic<bool>* infinite)
        : plan_(plan),
          transform_(transform),
          channels_(channels),
          invstd_(invstd),
          var_(var),
          eps_(eps),
          infinite_(infinite) {}

    void finalize(const Slab& slab, const Memory& memory) const noexcept override {
        const std::ptrdiff_t c = slab.channel;
        channel_kernels().invert_std(var_ + c, eps_, invstd_ + c, slab.channels);
        transform_.fold(plan_,
                        {channels_.mean + c, channels_.mean_lo + c, channels_.invstd + c,
                         channels_.weight + c, channels_.bias + c},
                        slab, affine(memory.buffers), memory);
    }
    void transform(const TileRange& tile, const Memory& memory) const noexcept override {
        bool here = false;
        transform_.apply(plan_, tile, affine(memory.buffers), memory,
                         infinite_ == nullptr ? nullptr : &here);
        if (here) infinite_->store(true, std::memory_order_relaxed);
    }
    std::ptrdiff_t buffer_bytes() const noexcept override {
        Arrays arrays(nullptr);
        transform_.place(arrays, plan_);
        return arrays.bytes();
    }

private:
    Affine<void> affine(std::byte* memory) const noexcept {
        Arrays arrays(memory);
        return transform_.place(arrays, plan_);
    }

    const Plan& plan_;
    const NormalizeTransform& transform_;
    ChannelParameters channels_;
    double* invstd_;
    const double* var_;
    double eps_;
    std::atomic<bool>* infinite_;
};

void fill_undefined(const Features& features, const StatisticsOut& out) {
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

// Counts, and their weight in m2, where values do not differ in how much they count.
void apply_common_weight(const Features& features, const Weights& weights,
                         const StatisticsOut& out) {
    const double weight = weights.common_weight();
    if (out.count != nullptr) {
        std::fill_n(out.count, features.channels, static_cast<double>(features.count) * weight);
    }
    for (std::ptrdiff_t c = 0; c < features.channels && out.m2 != nullptr; ++c) {
        out.m2[c] *= weight;
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
    weights.arrange(layout);
    return layout;
}

}  // namespace

void check_weights(const Weighting& weighting, const ArrayRef& x, const Features& features) {
    const Weights weights(weighting, x, features);
}

void moments(const ArrayRef& x, const Features& features, const Weighting& weighting,
             const StatisticsOut& out) {
    Weights weights(weighting, x, features);
    if (features.empty()) return fill_undefined(features, out);
    const Layout layout = arranged_layout(x, features, weights);
    const ChannelOrigins origins(x, layout, weights);
    // The range of values is not that of their differences, once those are rounded; and integers
    // that are summed as they are have their range taken of floating-point numbers.
    const bool range_apart = origins || integer_sums_kernels(x.dtype, weights.form()) != nullptr;
    if (range_apart && out.min != nullptr) {
        value_range(x, features, weighting, out.min, out.max);
    }
    const bool wants_range = out.min != nullptr && !range_apart;
    const DType x_type =
        wants_range ? value_range_kernels(x.dtype).x : moments_type(x.dtype, weights.form());
    Work work;
    work.reduces = true;
    work.packed_sums = weights.form() == WeightsForm::by_element;
    const Plan plan = plan_of(layout, x.dtype, work);
    WeightedInput input{weights, operand_of(x, layout, x_type, origins.origins())};
    const MomentsReduction moments(plan, x, x_type, weights, origins, 0.0, out);
    ValueRangeReduction range(plan, x_type, weights, weighting.omit_nan, out.min, out.max);
    StagingBuffers staging(plan);
    input.take_staging(staging, weights);
    if (wants_range) range.take_staging(staging);
    execute(plan, staging,
            StatisticsOperation(plan, input, &moments, wants_range ? &range : nullptr));
    if (!weights.differ()) return apply_common_weight(features, weights, out);
    for (std::ptrdiff_t c = 0; c < features.channels; ++c) {
        if (out.count[c] == 0.0) out.mean[c] = not_a_number;
    }
}

void value_range(const ArrayRef& x, const Features& features, const Weighting& weighting,
                 double* min, double* max) {
    Weights weights(weighting, x, features);
    StatisticsOut out;
    out.min = min;
    out.max = max;
    if (features.empty()) return fill_undefined(features, out);
    const Layout layout = arranged_layout(x, features, weights);
    Work work;
    work.reduces = true;
    const Plan plan = plan_of(layout, x.dtype, work);
    const DType x_type = value_range_kernels(x.dtype).x;
    WeightedInput input{weights, operand_of(x, layout, x_type)};
    ValueRangeReduction range(plan, x_type, weights, weighting.omit_nan, min, max);
    StagingBuffers staging(plan);
    input.take_staging(staging, weights);
    range.take_staging(staging);
    execute(plan, staging, StatisticsOperation(plan, input, nullptr, &range));
}

void train(const ArrayRef& x, const ArrayRef& y, const Features& features,
           const Weighting& weighting, const EpilogueRef& epilogue, const Parameters& parameters,
           double eps, const Running& running, bool allow_single, const StatisticsOut& out) {
    check_same_shape("out", y, x);
    if (epilogue.residual) check_same_shape("residual", epilogue.residual, x);
    check_parameters(parameters, features);
    check_eps(eps);
    Weights weights(weighting, x, features);
    if (!allow_single) check_trainable(features, weights.largest_total());
    if (running.mean) check_running(running, features, weights, allow_single);
    RunningUpdate update(running, features, allow_single);
    if (features.empty()) return fill_undefined(features, out);

    const Layout layout = arranged_layout(x, features, weights);
    const ChannelOrigins origins(x, layout, weights);
    NormalizeTransform transform(x, y, epilogue, layout, origins);
    Work work = transform.work();
    work.reduces = true;
    work.packed_sums = weights.form() == WeightsForm::by_element;
    const Plan plan = plan_of(layout, x.dtype, work);
    const DType x_type = moments_type(x.dtype, weights.form());
    WeightedInput input{weights, operand_of(x, layout, x_type, origins.origins())};
    StagingBuffers staging(plan);
    input.take_staging(staging, weights);
    transform.take_staging(staging);
    const MomentsReduction moments(plan, x, x_type, weights, origins, eps, out);
    const ChannelValues weight(parameters.weight, features, 1.0);
    const ChannelValues bias(parameters.bias, features, 0.0);
    execute(plan, staging, TrainingOperation(plan, input, moments, transform, weight, bias));
    if (!weights.differ()) apply_common_weight(features, weights, out);
    update.apply({out.mean, out.var, out.count});
}

bool normalize(const ArrayRef& x, const ArrayRef& y, const Features& features,
               const EpilogueRef& epilogue, const ArrayRef& mean, const ArrayRef& mean_lo,
               const ArrayRef& var, const Parameters& parameters, double eps,
               bool look_for_infinity, const char* mean_name, const char* var_name) {
    check_same_shape("out", y, x);
    if (epilogue.residual) check_same_shape("residual", epilogue.residual, x);
    check_parameter_shape(mean_name, mean, features);
    if (mean_lo) check_parameter_shape("mean_lo", mean_lo, features);
    check_parameter_shape(var_name, var, features);
    check_parameters(parameters, features);
    check_eps(eps);
    if (!(epilogue.clip >= 0.0)) refuse("clip", "be >= 0", to_text(epilogue.clip));
    const ChannelValues means(mean, features, 0.0);
    const ChannelValues means_lo(mean_lo, features, 0.0);
    const ChannelValues variances(var, features, 1.0);
    check_variance(var_name, variances);
    if (features.empty()) return false;

    const Layout layout = transform_layout(x, y, features);
    const ChannelOrigins origins(x, layout, means.data(), means_lo.data());
    NormalizeTransform transform(x, y, epilogue, layout, origins);
    const Plan plan = plan_of(layout, x.dtype, transform.work());
    StagingBuffers staging(plan);
    transform.take_staging(staging);
    const ChannelValues weight(parameters.weight, features, 1.0);
    const ChannelValues bias(parameters.bias, features, 0.0);
    const ChannelValues invstd({}, features, 0.0);
    std::atomic<bool> infinite{false};
    execute(plan, staging,
            InferenceOperation(
                plan, transform,
                {means.data(), means_lo.data(), invstd.data(), weight.data(), bias.data()},
                invstd.data(), variances.data(), eps, look_for_infinity ? &infinite : nullptr));
    return infinite.load(std::memory_order_relaxed);
}

}  // namespace fastbn
