#include "engine/coefficients.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "engine/dispatch.hpp"
#include "engine/tiles.hpp"

namespace fastbn {
namespace {

// Channels out of range are worked on multiplied by 2^k, k from their own magnitude: exact.

int exponent_of(double value) {
    int e = 0;
    if (std::isfinite(value)) std::frexp(value, &e);
    return e;
}

// A scale in T: of finite factors, the largest number at most. Infinity would make NaN of a zero.
template <class T>
T scale_in(double scale, double weight, double invstd) {
    constexpr double largest = std::numeric_limits<T>::max();
    const bool finite = std::isfinite(weight) && std::isfinite(invstd);
    return static_cast<T>(finite ? std::clamp(scale, -largest, largest) : scale);
}

// A shift in T, likewise: what is added to it may be infinite, of the other sign.
template <class T>
T shift_in(T shift, double bias) {
    constexpr T largest = std::numeric_limits<T>::max();
    return std::isfinite(bias) ? std::clamp(shift, -largest, largest) : shift;
}

// weight * invstd, as mantissa and exponent: a factor may leave float64's range where the product
// does not.
double mantissa_of_product(double weight, double invstd, int& exponent) {
    const double product = weight * invstd;
    if (std::isnormal(product)) return std::frexp(product, &exponent);
    int weight_exponent = 0;
    int invstd_exponent = 0;
    const double mantissa =
        std::frexp(weight, &weight_exponent) * std::frexp(invstd, &invstd_exponent);
    exponent = mantissa == 0.0 ? 0 : weight_exponent + invstd_exponent;
    return mantissa;
}

// A power of two of T as near to 2^e as T has one.
template <class T>
int clamp_exponent(int e) {
    constexpr int largest = std::numeric_limits<T>::max_exponent - 2;
    return std::clamp(e, -largest, largest);
}

// The power of two that makes x - mean moderate: 2^k times it is of order 1, and mean * 2^k fits T.
template <class T>
int pre_exponent(double mean, int wanted) {
    const int largest = std::numeric_limits<T>::max_exponent - 2 - exponent_of(mean);
    return std::min(clamp_exponent<T>(wanted), largest);
}

// The power of two 2^j for dy: as near to 1 as leaves space for scale / 2^j, scale being of the
// order of 2^scale, and first of all for what is subtracted from dy, of the order of 2^term.
// Differences of such numbers are 0 or so large that dx is infinite by any scale near T's largest.
template <class T>
int dy_pre_exponent(int scale, int term, bool large_dy) {
    constexpr int largest = std::numeric_limits<T>::max_exponent - 8;
    // Leaves space for differences where dy itself is near the largest numbers.
    constexpr int below_largest = -4;
    const int wanted = std::max(0, scale - largest);
    const int j = std::min(large_dy ? below_largest : wanted, largest - term);
    return clamp_exponent<T>(std::min(j, std::max(scale + largest, -largest)));
}

template <class T>
void fold_affine_of(std::ptrdiff_t i, const ChannelParameters& from, const Affine<T>& to) noexcept {
    double mean = from.mean[i];
    double mean_lo = from.mean_lo[i];
    const double weight = from.weight[i];
    const double invstd = from.invstd[i];
    double scale = weight * invstd;
    T pre = 1;
    if (!in_range_affine<T>(mean, invstd, weight)) {
        int exponent = 0;
        const double mantissa = mantissa_of_product(weight, invstd, exponent);
        // So that no difference overflows unless y does, and none at all where the scale is 0.
        const int k = pre_exponent<T>(mean, mantissa == 0.0 ? -2 : exponent - 1);
        pre = static_cast<T>(std::ldexp(1.0, k));
        mean = std::ldexp(mean, k);
        mean_lo = std::ldexp(mean_lo, k);
        scale = std::ldexp(mantissa, exponent - k);
    }
    to.pre[i] = pre;
    write_affine(to, i, mean, mean_lo, scale_in<T>(scale, weight, invstd), from.bias[i]);
    to.shift[i] = shift_in(to.shift[i], from.bias[i]);
}

template <class T>
void fold_input_gradient_of(std::ptrdiff_t i, const ChannelParameters& from,
                            const GradientSums& sums, double count,
                            const InputGradient<T>& to) noexcept {
    double mean = from.mean[i];
    const double weight = from.weight[i];
    const double invstd = from.invstd[i];
    const double mean_dy = sums.dy[i] / count;
    const double mean_dy_xhat = sums.dy_xhat[i] / count;
    double coef_x = invstd * mean_dy_xhat;
    double coef_const = mean_dy;
    double scale = weight * invstd;
    T pre = 1;
    T dy_pre = 1;
    if (!in_range_input_gradient<T>(mean, invstd, weight, mean_dy_xhat, coef_const)) {
        int exponent = 0;
        const double mantissa = mantissa_of_product(weight, invstd, exponent);
        const int k = pre_exponent<T>(mean, exponent_of(invstd));
        const int coef_x_exponent = exponent_of(std::ldexp(invstd, -k)) + exponent_of(mean_dy_xhat);
        const bool large_dy = is_large<T>(mean_dy) || is_large<T>(mean_dy_xhat);
        // A coef_x of 0 subtracts nothing, however large invstd is.
        const int term = mean_dy_xhat == 0.0 ? exponent_of(mean_dy)
                                             : std::max(coef_x_exponent, exponent_of(mean_dy));
        const int j = dy_pre_exponent<T>(exponent, term, large_dy);
        pre = static_cast<T>(std::ldexp(1.0, k));
        dy_pre = static_cast<T>(std::ldexp(1.0, j));
        mean = std::ldexp(mean, k);
        coef_x = std::ldexp(invstd, j - k) * mean_dy_xhat;
        coef_const = std::ldexp(coef_const, j);
        scale = std::ldexp(mantissa, exponent - j);
    }
    to.pre[i] = pre;
    to.dy_pre[i] = dy_pre;
    write_input_gradient(to, i, mean, coef_x, coef_const, scale);
    to.scale[i] = scale_in<T>(scale, weight, invstd);
}

template <class T>
void replicate(T* values, std::ptrdiff_t channels, const Layout& layout) noexcept {
    const std::ptrdiff_t inner = layout.inner_fold;
    const std::ptrdiff_t columns = channels * inner;
    for (std::ptrdiff_t c = channels - 1; c >= 0 && inner > 1; --c) {
        const T value = values[c];
        std::fill_n(values + c * inner, inner, value);
    }
    for (std::ptrdiff_t row = 1; row < layout.row_fold; ++row) {
        std::copy_n(values, columns, values + row * columns);
    }
}

// If some of n channels are out of range, folds all of them again, by fold_one(i, the arrays with
// their type). Then copies each channel's coefficients to all its columns.
template <class Coefficients, class FoldOne>
void refold_and_replicate(Coefficients to, DType computed, std::ptrdiff_t n, const Layout& layout,
                          bool out_of_range, const FoldOne& fold_one) {
    const auto all_as = [&](auto zero) {
        using T = decltype(zero);
        const auto typed_arrays = typed<T>(to);
        for (std::ptrdiff_t i = 0; i < n && out_of_range; ++i) fold_one(i, typed_arrays);
        for (void** const array : arrays_of(to)) replicate(static_cast<T*>(*array), n, layout);
    };
    if (computed == DType::float64) {
        all_as(double{});
    } else {
        all_as(float{});
    }
}

}  // namespace

Affine<const void> kernel_view(const Affine<void>& a, bool out_of_range) {
    auto view = typed<const void>(a);
    if (!out_of_range) view.pre = nullptr;
    return view;
}

InputGradient<const void> kernel_view(const InputGradient<void>& g, bool out_of_range) {
    auto view = typed<const void>(g);
    if (!out_of_range) view.pre = view.dy_pre = nullptr;
    return view;
}

bool fold_affine(const ChannelParameters& channels, DType computed, std::ptrdiff_t n,
                 const Layout& layout, const Affine<void>& to) noexcept {
    const bool out_of_range = !normalize_table().fold_affine(computed, channels, to, n);
    refold_and_replicate(
        to, computed, n, layout, out_of_range,
        [&](std::ptrdiff_t i, const auto& typed_to) { fold_affine_of(i, channels, typed_to); });
    return out_of_range;
}

bool fold_input_gradient(const ChannelParameters& channels, const GradientSums& sums, double count,
                         DType computed, std::ptrdiff_t n, const Layout& layout,
                         const InputGradient<void>& to) noexcept {
    const bool out_of_range =
        !normalize_table().fold_input_gradient(computed, channels, sums, count, to, n);
    refold_and_replicate(to, computed, n, layout, out_of_range,
                         [&](std::ptrdiff_t i, const auto& typed_to) {
                             fold_input_gradient_of(i, channels, sums, count, typed_to);
                         });
    return out_of_range;
}

void replicate_columns(double* values, std::ptrdiff_t channels, const Layout& layout) noexcept {
    replicate(values, channels, layout);
}

NormalizeTransform::NormalizeTransform(const Batch& batch, const ArrayRef& y_array,
                                       const Layout& layout, const ChannelOrigins& origins)
    : kernels(normalize_kernels(batch.x.dtype, y_array.dtype)),
      x(operand_of(batch.x, layout, kernels.x, origins.data())),
      y(operand_of(y_array, layout, kernels.y)),
      weight(batch.weight, 1.0),
      bias(batch.bias, 0.0),
      epilogue{operand_of(batch.epilogue.residual, layout, kernels.y), batch.epilogue.activation,
               batch.epilogue.clip} {}

NormalizeTransform::NormalizeTransform(const NormalizeKernels& row, const ArrayRef& dy,
                                       const ArrayRef& dx, const ArrayRef& weight_array,
                                       const Layout& layout)
    : kernels(row),
      x(operand_of(dy, layout, row.x)),
      y(operand_of(dx, layout, row.y)),
      weight(weight_array, 1.0) {}

void NormalizeTransform::take_staging(const Plan& plan, Staging& staging) {
    for (Operand* operand : {&x, &epilogue.residual, &y}) fastbn::take_staging(*operand, staging);
    const std::ptrdiff_t channels = plan.slab_channels();
    weight.take_staging(channels, staging);
    bias.take_staging(channels, staging);
}

void NormalizeTransform::fold(const Plan& plan, ChannelParameters& channels, const Slab& slab,
                              const Affine<void>& affine, const Memory& memory) const noexcept {
    channels.weight = weight.read(slab, memory.staging);
    channels.bias = bias.read(slab, memory.staging);
    const bool out_of_range =
        fold_affine(channels, kernels.computed, slab.channels, plan.layout,
                    from(affine, kernels.computed, memory.at(slab.buffer_index)));
    wrap_round(affine, kernels.computed, plan, slab);
    note_out_of_range(plan, memory, out_of_range);
}

void NormalizeTransform::apply(const Plan& plan, const TileRange& tile, const Affine<void>& affine,
                               const Memory& memory, bool* infinite) const noexcept {
    const Affine<void> here = from(affine, kernels.computed, memory.at(tile.buffer_index));
    kernels.normalize(
        input_tile(x, tile, memory.staging), output_tile(y, tile, memory.staging),
        elementwise_loop(plan, x, y, tile),
        kernel_view(here, memory.out_of_range->load(std::memory_order_relaxed)),
        {input_tile(epilogue.residual, tile, memory.staging), epilogue.activation, epilogue.clip},
        infinite);
    finish_output(y, tile, memory.staging, plan.stream);
}

}  // namespace fastbn
