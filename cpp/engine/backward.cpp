// The backward pass: dbias = sum(dz), dweight = sum(dz * xhat), then dx; dz being what the
// activation let through of dy.
#include <algorithm>
#include <cmath>
#include <cstddef>

#include "engine/channels.hpp"
#include "engine/coefficients.hpp"
#include "engine/dispatch.hpp"
#include "engine/executor.hpp"
#include "engine/memory.hpp"
#include "engine/operations.hpp"
#include "engine/weights.hpp"

namespace fastbn {
namespace {

class BackwardOperation final : public Operation {
public:
    BackwardOperation(const GradientKernels& kernels, Weights& weights,
                      const Activation& activation, bool through_statistics)
        : kernels_(kernels),
          frozen_kernels_(normalize_kernels(kernels.dy, kernels.dy)),
          weights_(weights),
          activation_(activation),
          through_statistics_(through_statistics) {}

    Operand dy;
    Operand x;
    Operand residual;
    Operand dx;
    Operand dz;
    // What the plan must know, and the plan that was made of it.
    Work work() const;
    const Plan* plan = nullptr;

    // All channels' parameters, and what the forward pass normalized by.
    const ChannelParameter* weight = nullptr;
    const ChannelParameter* bias = nullptr;
    const ChannelParameter* mean = nullptr;
    const ChannelParameter* invstd = nullptr;
    const ChannelOrigins* origins = nullptr;
    // What each channel's values weigh together, or empty if that is to be counted.
    const ChannelParameter* count = nullptr;
    // Of a larger batch, or empty if the sums are x's own, which then go to dweight and dbias.
    const ChannelParameter* mean_dy = nullptr;
    const ChannelParameter* mean_dy_xhat = nullptr;
    double* dweight = nullptr;
    double* dbias = nullptr;

    void set_arrays(const Batch& batch, const ArrayRef& dy_array, const GradientsOut& out,
                    const Layout& layout, const ChannelOrigins& origins_of_x) {
        dy = operand_of(dy_array, layout, kernels_.dy);
        x = operand_of(batch.x, layout, kernels_.x, origins_of_x.data());
        origins = &origins_of_x;
        residual = operand_of(batch.epilogue.residual, layout, kernels_.dy);
        dx = operand_of(out.dx, layout, kernels_.dy);
        dz = operand_of(out.dz, layout, kernels_.dy);
        dweight = out.dweight;
        dbias = out.dbias;
    }

    // The statistics that the sums are taken about, and the coefficients from which the
    // activation's input z, and with it its sign, follows as it did in the forward pass.
    void prepare(const Slab& slab, const Memory& memory) const noexcept override {
        const Buffers buffers = buffers_in(memory.buffers);
        Arrays arrays(memory.staging + parameters_begin_);
        const std::ptrdiff_t first = memory.at(slab.buffer_index);
        const std::ptrdiff_t n = slab.channels;
        ChannelParameters channels{};
        read_means(slab, arrays, channels);
        channels.invstd = invstd->read(slab.channel, n, arrays);
        if (plan->reduces) {
            std::copy_n(channels.mean, n, buffers.mean + first);
            std::copy_n(channels.invstd, n, buffers.invstd + first);
            replicate_columns(buffers.mean + first, n, plan->layout);
            replicate_columns(buffers.invstd + first, n, plan->layout);
        }
        bool out_of_range = false;
        if (has_activation()) {
            channels.weight = weight->read(slab.channel, n, arrays);
            channels.bias = bias->read(slab.channel, n, arrays);
            out_of_range = fold_affine(channels, kernels_.computed, n, plan->layout,
                                       from(buffers.z, kernels_.computed, first));
            wrap_round(buffers.z, kernels_.computed, *plan, slab);
        }
        note_out_of_range(*plan, memory, out_of_range);
    }

    void reduce(const Slab& slab, std::ptrdiff_t span,
                const Memory& memory) const noexcept override {
        const Buffers buffers = buffers_in(memory.buffers);
        const std::ptrdiff_t first = memory.at(span, slab.buffer_index);
        const bool adds_weights = sums_weights();
        std::fill_n(buffers.sums.dy + first, slab.buffer_size, 0.0);
        std::fill_n(buffers.sums.dy_xhat + first, slab.buffer_size, 0.0);
        if (adds_weights) std::fill_n(buffers.totals + first, slab.buffer_size, 0.0);
        const auto kernel =
            plan->layout.channels_first() ? kernels_.sums.tile : kernels_.sums.columns;
        each_tile(*plan, slab, span, [&](const TileRange& tile, std::ptrdiff_t) {
            std::byte* staging = memory.staging;
            const std::ptrdiff_t i = memory.at(span, tile.buffer_index);
            const std::ptrdiff_t index = memory.at(tile.buffer_index);
            kernel(input_tile(dy, tile, staging), input_tile(x, tile, staging), tile.kernel_rows(),
                   tile.kernel_cols(), buffers.mean + index, buffers.invstd + index,
                   from(buffers.sums, i), activation(tile, buffers, memory));
            if (adds_weights) weights_.add_totals(tile, staging, buffers.totals + i);
        });
    }

    void finalize(const Slab& slab, const Memory& memory) const noexcept override {
        const Buffers buffers = buffers_in(memory.buffers);
        if (plan->reduces) finalize_sums(slab, buffers.sums, memory);
        if (!transforms()) return;
        if (is_affine()) return finalize_affine(slab, buffers, memory);
        const double divisor = divide_sums(slab, buffers, memory);
        Arrays arrays(memory.staging + parameters_begin_);
        const bool out_of_range = fold_input_gradient(
            read_parameters(slab, arrays), of_slab(buffers.sums, slab, memory), divisor,
            kernels_.computed, slab.channels, plan->layout,
            from(buffers.input_gradient, kernels_.computed, memory.at(slab.buffer_index)));
        wrap_round(buffers.input_gradient, kernels_.computed, *plan, slab);
        note_out_of_range(*plan, memory,
                          out_of_range || is_out_of_range(memory) ||
                              (is_weighted() && has_small_weights(slab, buffers, memory)));
    }

    void transform(const TileRange& tile, const Memory& memory) const noexcept override {
        const Buffers buffers = buffers_in(memory.buffers);
        std::byte* staging = memory.staging;
        const std::ptrdiff_t i = memory.at(tile.buffer_index);
        const bool with_pre = is_out_of_range(memory);
        const Tile<const void> dy_tile = input_tile(dy, tile, staging);
        const Tile<void> dx_tile = output_tile(dx, tile, staging);
        if (is_affine()) {
            frozen_kernels_.normalize(
                dy_tile, dx_tile, elementwise_loop(*plan, dy, dx, tile),
                kernel_view(from(buffers.affine, kernels_.computed, i), with_pre), {}, nullptr);
        } else {
            GradientWeights weights{};
            weights.frozen = !through_statistics_;
            if (is_weighted()) {
                const double* const scales = with_pre ? buffers.weight_scale + i : nullptr;
                weights = weights_.gradient_tile(tile, kernels_.computed, scales, staging);
            }
            kernels_.input_gradient(
                dy_tile, input_tile(x, tile, staging), dx_tile, output_tile(dz, tile, staging),
                elementwise_loop(*plan, x, dx, tile),
                kernel_view(from(buffers.input_gradient, kernels_.computed, i), with_pre),
                activation(tile, buffers, memory), weights);
            finish_output(dz, tile, staging, plan->stream);
        }
        finish_output(dx, tile, staging, plan->stream);
    }

    std::ptrdiff_t take_staging() noexcept override {
        std::ptrdiff_t bytes = 0;
        for (Operand* operand : {&dy, &x, &residual, &dx, &dz})
            fastbn::take_staging(*plan, *operand, bytes);
        weights_.take_staging(*plan, bytes);
        // Mean and its low part, 1 / std, weight, bias.
        constexpr std::ptrdiff_t parameters = 5;
        parameters_begin_ = take_parameters(*plan, parameters, bytes);
        return bytes;
    }
    std::ptrdiff_t buffer_bytes() const noexcept override { return buffers_in(nullptr).bytes; }
    bool transforms() const noexcept override { return static_cast<bool>(dx); }

private:
    struct Buffers {
        GradientSums sums;     // of dz, per span, and channel or column
        double* totals;        // of the values' weights, likewise; null where they are not summed
        double* weight_scale;  // what weights are multiplied by, as many as coefficients; or null
        double* mean;          // of the forward pass, per channel or column; null without sums
        double* invstd;        // likewise
        Affine<void> z;        // from x to the activation's input, where there is an activation
        InputGradient<void> input_gradient;
        Affine<void> affine;  // from dy to dx, where is_affine()
        std::ptrdiff_t bytes;
    };

    Buffers buffers_in(std::byte* memory) const noexcept {
        Arrays arrays(memory);
        const std::ptrdiff_t n = Workspace::buffer_size(*plan);
        Buffers b{};
        b.sums.dy = arrays.doubles(plan->spans * n);
        b.sums.dy_xhat = arrays.doubles(plan->spans * n);
        if (sums_weights()) b.totals = arrays.doubles(plan->spans * n);
        if (is_weighted()) b.weight_scale = arrays.doubles(n);
        if (plan->reduces) {
            b.mean = arrays.doubles(n);
            b.invstd = arrays.doubles(n);
        }
        if (has_activation()) {
            b.z = take_coefficients<Affine<void>>(arrays, kernels_.computed, n, {});
        }
        if (is_affine()) {
            b.affine = take_coefficients<Affine<void>>(arrays, kernels_.computed, n, dx);
        } else {
            b.input_gradient =
                take_coefficients<InputGradient<void>>(arrays, kernels_.computed, n, dx);
        }
        b.bytes = arrays.bytes();
        return b;
    }

    bool is_weighted() const { return through_statistics_ && weights_.differ(); }
    // Whether the values' weights are to be added up, since the sums are divided by their total.
    bool sums_weights() const { return plan->reduces && transforms() && is_weighted() && !*count; }
    bool has_activation() const { return activation_.kind != ActivationKind::none; }
    // With constant statistics and no activation, dx = weight * invstd * dy is an affine map of dy.
    bool is_affine() const { return !through_statistics_ && !has_activation(); }

    static bool is_out_of_range(const Memory& memory) {
        return memory.out_of_range->load(std::memory_order_relaxed);
    }

    // The means of what the kernels see of a slab's channels, and their low parts.
    void read_means(const Slab& slab, Arrays& arrays, ChannelParameters& channels) const noexcept {
        const std::ptrdiff_t n = slab.channels;
        double* const low = arrays.doubles(n);
        std::fill_n(low, n, 0.0);
        channels.mean_lo = low;
        if (!*origins) {
            channels.mean = mean->read(slab.channel, n, arrays);
            return;
        }
        double* const high = arrays.doubles(n);
        mean->copy(slab.channel, n, high);
        origins->subtract_from(slab.channel, n, high, low);
        channels.mean = high;
    }

    // Those and what else dx follows from: all but the bias.
    ChannelParameters read_parameters(const Slab& slab, Arrays& arrays) const noexcept {
        ChannelParameters channels{};
        read_means(slab, arrays, channels);
        channels.invstd = invstd->read(slab.channel, slab.channels, arrays);
        channels.weight = weight->read(slab.channel, slab.channels, arrays);
        return channels;
    }

    ActivationGradient activation(const TileRange& tile, const Buffers& buffers,
                                  const Memory& memory) const noexcept {
        ActivationGradient gradient{};
        gradient.activation = activation_;
        gradient.residual = input_tile(residual, tile, memory.staging);
        gradient.skip_zeros = weights_.differ();
        if (has_activation()) {
            gradient.z =
                kernel_view(from(buffers.z, kernels_.computed, memory.at(tile.buffer_index)),
                            is_out_of_range(memory));
        }
        return gradient;
    }

    // The merged sums of a slab's channels.
    static GradientSums of_slab(const GradientSums& sums, const Slab& slab, const Memory& memory) {
        return from(sums, memory.at(0, slab.buffer_index));
    }

    void finalize_sums(const Slab& slab, const GradientSums& sums,
                       const Memory& memory) const noexcept {
        merge(sums.dy, slab, memory);
        merge(sums.dy_xhat, slab, memory);
        const GradientSums merged = of_slab(sums, slab, memory);
        std::copy_n(merged.dy, slab.channels, dbias + slab.channel);
        std::copy_n(merged.dy_xhat, slab.channels, dweight + slab.channel);
    }

    // Leaves in a slab's sums what flows back through the statistics of its channels, but for a
    // division by the number that is returned.
    double divide_sums(const Slab& slab, const Buffers& buffers,
                       const Memory& memory) const noexcept {
        const GradientSums sums = of_slab(buffers.sums, slab, memory);
        const std::ptrdiff_t first = slab.channel;
        if (is_weighted()) {
            std::fill_n(buffers.weight_scale + memory.at(slab.buffer_index), slab.buffer_size, 1.0);
        }
        if (!through_statistics_) {
            std::fill_n(sums.dy, slab.channels, 0.0);
            std::fill_n(sums.dy_xhat, slab.channels, 0.0);
        } else if (*mean_dy) {
            // The weights that the kernels see are divided by it. Equal weights they do not see:
            // it is then the weight itself.
            const double divisor = weights_.divisor();
            mean_dy->copy(first, slab.channels, sums.dy);
            mean_dy_xhat->copy(first, slab.channels, sums.dy_xhat);
            for (std::ptrdiff_t c = 0; c < slab.channels; ++c) {
                sums.dy[c] *= divisor;
                sums.dy_xhat[c] *= divisor;
            }
            return 1.0;
        } else if (is_weighted()) {
            divide_by_weights(slab, buffers, memory);
            return 1.0;
        }
        return static_cast<double>(plan->layout.count);
    }

    void finalize_affine(const Slab& slab, const Buffers& buffers,
                         const Memory& memory) const noexcept {
        Arrays arrays(memory.staging + parameters_begin_);
        double* const zeros = arrays.doubles(slab.channels);
        std::fill_n(zeros, slab.channels, 0.0);
        ChannelParameters constants{};
        constants.mean = constants.mean_lo = constants.bias = zeros;
        constants.invstd = invstd->read(slab.channel, slab.channels, arrays);
        constants.weight = weight->read(slab.channel, slab.channels, arrays);
        const bool out_of_range =
            fold_affine(constants, kernels_.computed, slab.channels, plan->layout,
                        from(buffers.affine, kernels_.computed, memory.at(slab.buffer_index)));
        wrap_round(buffers.affine, kernels_.computed, *plan, slab);
        note_out_of_range(*plan, memory, out_of_range);
    }

    // A channel of which nothing counts gets no gradient through its statistics. Where its weights
    // are small beside other channels', all of them and their sum are multiplied by a power of two:
    // the inverse of the sum might overflow, and the weights be lost to float32.
    void divide_by_weights(const Slab& slab, const Buffers& buffers,
                           const Memory& memory) const noexcept {
        const bool known = static_cast<bool>(*count);
        if (!known) merge(buffers.totals, slab, memory);
        Arrays arrays(memory.staging + parameters_begin_);
        const double* const totals = known ? count->read(slab.channel, slab.channels, arrays)
                                           : buffers.totals + memory.at(0, slab.buffer_index);
        const double divisor = known ? weights_.divisor() : 1.0;
        const GradientSums sums = of_slab(buffers.sums, slab, memory);
        double* const scale = buffers.weight_scale + memory.at(slab.buffer_index);
        constexpr double smallest = 0x1p-64;
        constexpr int largest_exponent = 1000;
        for (std::ptrdiff_t c = 0; c < slab.channels; ++c) {
            double total = totals[c] / divisor;
            if (total > 0.0 && total < smallest) {
                scale[c] = std::ldexp(1.0, std::min(-std::ilogb(total), largest_exponent));
                total *= scale[c];
            }
            sums.dy[c] = total > 0.0 ? sums.dy[c] / total : 0.0;
            sums.dy_xhat[c] = total > 0.0 ? sums.dy_xhat[c] / total : 0.0;
        }
        replicate_columns(scale, slab.channels, plan->layout);
    }

    bool has_small_weights(const Slab& slab, const Buffers& buffers, const Memory& memory) const {
        const double* const scale = buffers.weight_scale + memory.at(slab.buffer_index);
        return std::any_of(scale, scale + slab.buffer_size, [](double s) { return s != 1.0; });
    }

    // Leaves the sums of the slab's channels side by side at its beginning.
    void merge(double* sums, const Slab& slab, const Memory& memory) const noexcept {
        merge_slab(*plan, slab, memory,
                   [=](std::ptrdiff_t a, double, std::ptrdiff_t b, double, std::ptrdiff_t n) {
                       for (std::ptrdiff_t i = 0; i < n; ++i) sums[a + i] += sums[b + i];
                   });
        double* const columns = sums + memory.at(0, slab.buffer_index);
        const std::ptrdiff_t n = plan->layout.inner_fold;
        for (std::ptrdiff_t c = 0; c < slab.channels && n > 1; ++c) {
            double sum = 0.0;
            for (std::ptrdiff_t i = 0; i < n; ++i) sum += columns[c * n + i];
            columns[c] = sum;
        }
    }

    const GradientKernels& kernels_;
    const NormalizeKernels& frozen_kernels_;
    Weights& weights_;
    Activation activation_;
    bool through_statistics_;
    std::ptrdiff_t parameters_begin_ = 0;  // in staging memory
};

Work BackwardOperation::work() const {
    Work work = elementwise_work({&dy, &x, &residual}, {&dx, &dz});
    work.reduces = !*mean_dy;
    if (!is_weighted()) return work;
    // Packed weights keep tiles small, and several channels may differ in them.
    const bool by_row = weights_.form() == WeightsForm::by_row;
    work.packed_sums = weights_.form() == WeightsForm::by_element;
    work.all_direct = work.all_direct && (by_row || weights_.is_direct());
    work.dense_rows = work.dense_rows && weights_.dense_rows();
    work.adjacent_channels = work.adjacent_channels && by_row && weights_.same_in_channels();
    return work;
}

void check(const Batch& batch, const ArrayRef& dy, const Normalization& normalization,
           const Weights& weights, const GradientsOut& out) {
    const Features& features = batch.features;
    check_same_shape("dy", dy, batch.x);
    if (out.dx) check_same_shape("out", out.dx, batch.x);
    check_shapes(batch);
    check_parameter_shape("mean", normalization.mean, features);
    check_parameter_shape("invstd", normalization.invstd, features);
    if (normalization.count) check_parameter_shape("count", normalization.count, features);
    if (normalization.mean_dy) {
        check_parameter_shape("mean_dy", normalization.mean_dy, features);
        check_parameter_shape("mean_dy_xhat", normalization.mean_dy_xhat, features);
    } else if (normalization.through_statistics && out.dx && !normalization.allow_single) {
        check_trainable(features, weights.largest_total());
    }
}

void fill_zeros(const Features& features, const GradientsOut& out) {
    for (double* const to : {out.dweight, out.dbias}) {
        if (to != nullptr) std::fill_n(to, features.channels, 0.0);
    }
}

}  // namespace

void backward(const Batch& batch, const ArrayRef& dy, const Normalization& normalization,
              const GradientsOut& out) {
    Weights weights(batch);
    check(batch, dy, normalization, weights, out);
    const ArrayRef& x = batch.x;
    const Features& features = batch.features;
    if (features.empty()) return fill_zeros(features, out);

    const ChannelParameter weight(batch.weight, 1.0);
    const ChannelParameter bias(batch.bias, 0.0);
    const ChannelParameter mean(normalization.mean, 0.0);
    const ChannelParameter invstd(normalization.invstd, 1.0);
    check_not_negative("invstd", invstd, features.channels);
    const ChannelParameter count(normalization.count, 0.0);
    const ChannelParameter mean_dy(normalization.mean_dy, 0.0);
    const ChannelParameter mean_dy_xhat(normalization.mean_dy_xhat, 0.0);
    Layout layout = layout_of(x, features);
    if (normalization.through_statistics) weights.arrange(layout, false);
    const ChannelOrigins origins(x, layout, mean);
    const GradientKernels& kernels = gradient_kernels(x.dtype, dy.dtype);
    BackwardOperation operation(kernels, weights, batch.epilogue.activation,
                                normalization.through_statistics);
    operation.set_arrays(batch, dy, out, layout, origins);
    operation.weight = &weight;
    operation.bias = &bias;
    operation.mean = &mean;
    operation.invstd = &invstd;
    operation.count = &count;
    operation.mean_dy = &mean_dy;
    operation.mean_dy_xhat = &mean_dy_xhat;
    const Plan plan = plan_of(layout, x.dtype, operation.work());
    operation.plan = &plan;
    execute(plan, operation);
}

}  // namespace fastbn
