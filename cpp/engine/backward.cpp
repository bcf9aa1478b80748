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
#include "engine/tiles.hpp"
#include "engine/weights.hpp"

namespace fastbn {
namespace {

class BackwardOperation final : public Operation {
public:
    BackwardOperation(const Batch& batch, const ArrayRef& dy_array,
                      const Normalization& normalization, const GradientsOut& out,
                      const Layout& layout, const ChannelOrigins& origins, Weights& weights)
        : bias_(batch.bias, 0.0),
          mean_(normalization.mean, 0.0),
          invstd_(normalization.invstd, 1.0),
          count_(normalization.count, 0.0),
          mean_dy_(normalization.mean_dy, 0.0),
          mean_dy_xhat_(normalization.mean_dy_xhat, 0.0),
          origins_(origins),
          weights_(weights),
          activation_(batch.epilogue.activation),
          through_statistics_(normalization.through_statistics),
          kernels_(gradient_kernels(batch.x.dtype, dy_array.dtype)),
          frozen_(normalize_kernels(kernels_.dy, kernels_.dy), dy_array, out.dx, batch.weight,
                  layout),
          x_(operand_of(batch.x, layout, kernels_.x, origins.data())),
          residual_(has_activation() ? operand_of(batch.epilogue.residual, layout, kernels_.dy)
                                     : Operand{}),
          dz_(operand_of(out.dz, layout, kernels_.dy)),
          dweight_(out.dweight),
          dbias_(out.dbias) {}

    // What the plan must know, and the plan that was made of it.
    Work work() const;
    const Plan* plan = nullptr;

    // The statistics that the sums are taken about, and the coefficients by which the
    // activation's input z is computed as it was in the forward pass.
    void prepare(const Slab& slab, const Memory& memory) const noexcept override {
        const Buffers buffers = buffers_in(memory.buffers);
        const std::ptrdiff_t first = memory.at(slab.buffer_index);
        const std::ptrdiff_t n = slab.channels;
        ChannelParameters channels{};
        origins_.read_means(mean_, zeros_, slab, memory.staging, channels);
        channels.invstd = invstd_.read(slab, memory.staging);
        if (plan->reduces) {
            std::copy_n(channels.mean, n, buffers.mean + first);
            std::copy_n(channels.invstd, n, buffers.invstd + first);
            replicate_columns(buffers.mean + first, n, plan->layout);
            replicate_columns(buffers.invstd + first, n, plan->layout);
        }
        bool out_of_range = false;
        if (has_activation()) {
            channels.weight = weight_.read(slab, memory.staging);
            channels.bias = bias_.read(slab, memory.staging);
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
        const bool together = dy_.adjacent_channels && x_.adjacent_channels && !adds_weights &&
                              (!residual_ || residual_.adjacent_channels);
        each_tile(*plan, slab, span, together, [&](const TileRange& tile, std::ptrdiff_t) {
            std::byte* staging = memory.staging;
            const std::ptrdiff_t i = memory.at(span, tile.buffer_index);
            const std::ptrdiff_t index = memory.at(tile.buffer_index);
            kernel(input_tile(dy_, tile, staging), input_tile(x_, tile, staging),
                   tile.kernel_rows(), tile.kernel_cols(), tile.channels, buffers.mean + index,
                   buffers.invstd + index, from(buffers.sums, i),
                   activation(tile, buffers, memory));
            if (adds_weights) weights_.add_totals(tile, staging, buffers.totals + i);
        });
    }

    void finalize(const Slab& slab, const Memory& memory) const noexcept override {
        const Buffers buffers = buffers_in(memory.buffers);
        if (plan->reduces) finalize_sums(slab, buffers.sums, memory);
        if (!transforms()) return;
        ChannelParameters channels{};
        channels.invstd = invstd_.read(slab, memory.staging);
        if (is_affine()) {
            channels.mean = channels.mean_lo = zeros_.read(slab, memory.staging);
            return frozen_.fold(*plan, channels, slab, buffers.affine, memory);
        }
        channels.weight = weight_.read(slab, memory.staging);
        origins_.read_means(mean_, zeros_, slab, memory.staging, channels);
        const double divisor = divide_sums(slab, buffers, memory);
        const bool out_of_range = fold_input_gradient(
            channels, of_slab(buffers.sums, slab, memory), divisor, kernels_.computed,
            slab.channels, plan->layout,
            from(buffers.input_gradient, kernels_.computed, memory.at(slab.buffer_index)));
        wrap_round(buffers.input_gradient, kernels_.computed, *plan, slab);
        note_out_of_range(*plan, memory,
                          out_of_range || is_out_of_range(memory) ||
                              (is_weighted() && has_small_weights(slab, buffers, memory)));
    }

    void transform(const TileRange& tile, const Memory& memory) const noexcept override {
        const Buffers buffers = buffers_in(memory.buffers);
        if (is_affine()) return frozen_.apply(*plan, tile, buffers.affine, memory, nullptr);
        std::byte* staging = memory.staging;
        const std::ptrdiff_t i = memory.at(tile.buffer_index);
        const bool with_pre = is_out_of_range(memory);
        GradientWeights weights{};
        weights.frozen = !through_statistics_;
        if (is_weighted()) {
            const double* const scales = with_pre ? buffers.weight_scale + i : nullptr;
            weights = weights_.gradient_tile(tile, kernels_.computed, scales, staging);
        }
        kernels_.input_gradient(
            input_tile(dy_, tile, staging), input_tile(x_, tile, staging),
            output_tile(dx_, tile, staging), output_tile(dz_, tile, staging),
            elementwise_loop(*plan, x_, dx_, tile),
            kernel_view(from(buffers.input_gradient, kernels_.computed, i), with_pre),
            activation(tile, buffers, memory), weights);
        finish_output(dz_, tile, staging, plan->stream);
        finish_output(dx_, tile, staging, plan->stream);
    }

    void take_staging(Staging& staging) noexcept override {
        frozen_.take_staging(*plan, staging);
        for (Operand* operand : {&x_, &residual_, &dz_}) fastbn::take_staging(*operand, staging);
        weights_.take_staging(staging);
        const std::ptrdiff_t channels = plan->slab_channels();
        for (ChannelParameter* parameter : {&bias_, &mean_, &invstd_, &zeros_}) {
            parameter->take_staging(channels, staging);
        }
    }
    std::ptrdiff_t buffer_bytes() const noexcept override { return buffers_in(nullptr).bytes; }
    bool transforms() const noexcept override { return static_cast<bool>(dx_); }

private:
    struct Buffers {
        GradientSums sums;     // of dz, per span, and channel or column
        double* totals;        // of the values' weights, likewise; null without weights
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
        if (is_weighted()) {
            b.totals = arrays.doubles(plan->spans * n);
            b.weight_scale = arrays.doubles(n);
        }
        if (plan->reduces) {
            b.mean = arrays.doubles(n);
            b.invstd = arrays.doubles(n);
        }
        if (has_activation()) {
            b.z = take_coefficients<Affine<void>>(arrays, kernels_.computed, n, {});
        }
        if (is_affine()) {
            b.affine = frozen_.take_buffers(arrays, *plan);
        } else {
            b.input_gradient =
                take_coefficients<InputGradient<void>>(arrays, kernels_.computed, n, dx_);
        }
        b.bytes = arrays.bytes();
        return b;
    }

    bool is_weighted() const { return through_statistics_ && weights_.differ(); }
    // Whether the values' weights are to be added up, since the sums are divided by their total.
    bool sums_weights() const { return plan->reduces && transforms() && is_weighted() && !count_; }
    bool has_activation() const { return activation_.kind != ActivationKind::none; }
    // With constant statistics and no activation, dx = weight * invstd * dy is an affine map of dy.
    bool is_affine() const { return !through_statistics_ && !has_activation(); }

    static bool is_out_of_range(const Memory& memory) {
        return memory.out_of_range->load(std::memory_order_relaxed);
    }

    ActivationGradient activation(const TileRange& tile, const Buffers& buffers,
                                  const Memory& memory) const noexcept {
        ActivationGradient gradient{};
        gradient.activation = activation_;
        gradient.residual = input_tile(residual_, tile, memory.staging);
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
        std::copy_n(merged.dy, slab.channels, dbias_ + slab.channel);
        std::copy_n(merged.dy_xhat, slab.channels, dweight_ + slab.channel);
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
        } else if (mean_dy_) {
            // The weights that the kernels see are divided by it. Equal weights they do not see:
            // it is then the weight itself.
            const double divisor = weights_.divisor();
            mean_dy_.copy(first, slab.channels, sums.dy);
            mean_dy_xhat_.copy(first, slab.channels, sums.dy_xhat);
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

    // A channel without weight gets no gradient through its statistics. Where its weights
    // are small beside other channels', all of them and their sum are multiplied by a power of two:
    // the inverse of the sum might overflow, and the weights be lost to float32.
    void divide_by_weights(const Slab& slab, const Buffers& buffers,
                           const Memory& memory) const noexcept {
        const bool known = static_cast<bool>(count_);
        double* const totals = buffers.totals + memory.at(0, slab.buffer_index);
        if (known) {
            count_.copy(slab.channel, slab.channels, totals);
        } else {
            merge(buffers.totals, slab, memory);
        }
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

    // All channels' parameters, and what the forward pass normalized by.
    ChannelParameter bias_;
    ChannelParameter mean_;
    ChannelParameter invstd_;
    ChannelParameter zeros_{0.0};  // the means' low parts, and what dy is centered by
    // The sum of each channel's weights, or empty if that is to be computed.
    ChannelParameter count_;
    // Of a larger batch, or empty if the sums are x's own, which then go to dweight and dbias.
    ChannelParameter mean_dy_;
    ChannelParameter mean_dy_xhat_;
    const ChannelOrigins& origins_;
    Weights& weights_;
    Activation activation_;
    bool through_statistics_;

    const GradientKernels& kernels_;
    // From dy to dx where is_affine(). Elsewhere only its operands and weight are used.
    NormalizeTransform frozen_;
    const Operand& dy_ = frozen_.x;
    const Operand& dx_ = frozen_.y;
    const ChannelParameter& weight_ = frozen_.weight;
    Operand x_;
    Operand residual_;  // where there is an activation: else nothing depends on it
    Operand dz_;
    double* dweight_;
    double* dbias_;
};

Work BackwardOperation::work() const {
    Work work = elementwise_work({&dy_, &x_, &residual_}, {&dx_, &dz_});
    work.reduces = !mean_dy_;
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

    const ChannelParameter mean(normalization.mean, 0.0);
    const ChannelParameter invstd(normalization.invstd, 1.0);
    check_not_negative("invstd", invstd, features.channels);
    Layout layout = layout_of(x, features);
    if (normalization.through_statistics) weights.arrange(layout, false);
    const ChannelOrigins origins(x, layout, mean);
    BackwardOperation operation(batch, dy, normalization, out, layout, origins, weights);
    const Plan plan = plan_of(layout, x.dtype, operation.work());
    operation.plan = &plan;
    execute(plan, operation);
}

}  // namespace fastbn
