#include "engine/coefficients.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/dispatch.hpp"
#include "kernels/folding.hpp"

namespace fastbn {
namespace {

// Channels past `most` are worked on in units of 2^-k, k from their own magnitude, by exact powers
// of two.

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

// weight * invstd, by halves: a factor may leave float64's range where the product does not.
struct Scale {
    Scale(double weight, double invstd) : value(weight * invstd) {
        if (std::isnormal(value)) {
            mantissa = std::frexp(value, &exponent);
        } else {
            int weight_exponent = 0;
            int invstd_exponent = 0;
            mantissa = std::frexp(weight, &weight_exponent) * std::frexp(invstd, &invstd_exponent);
            exponent = mantissa == 0.0 ? 0 : weight_exponent + invstd_exponent;
        }
    }
    double divided_by_power(int e) const { return std::ldexp(mantissa, exponent - e); }

    double value;
    double mantissa;
    int exponent = 0;
};

// A power of two of T as near to 2^e as T has one.
template <class T>
int clamp_exponent(int e) {
    constexpr int largest = std::numeric_limits<T>::max_exponent - 2;
    return std::clamp(e, -largest, largest);
}

// The unit 2^-k in which x - mean is moderate: 2^k times it is of order 1, and mean * 2^k fits T.
template <class T>
int unit_exponent(double mean, int wanted) {
    const int largest = std::numeric_limits<T>::max_exponent - 2 - exponent_of(mean);
    return std::min(clamp_exponent<T>(wanted), largest);
}

// The unit 2^-j of dy: as near to 1 as leaves room for scale / 2^j, scale being of the order of
// 2^scale, and first of all for what is subtracted from dy, of the order of 2^term. Differences of
// such numbers are 0 or so large that dx is infinite by any scale near T's largest.
template <class T>
int dy_unit_exponent(int scale, int term, bool large_dy) {
    constexpr int largest = std::numeric_limits<T>::max_exponent - 8;
    constexpr int room = -4;  // for differences, where dy itself is near the largest numbers
    const int wanted = std::max(0, scale - largest);
    const int j = std::min(large_dy ? room : wanted, largest - term);
    return clamp_exponent<T>(std::min(j, std::max(scale + largest, -largest)));
}

template <class T>
void fold_affine_of(std::ptrdiff_t i, const AffineSource& from, const AffineOut<T>& to) noexcept {
    double mean = from.mean[i];
    double mean_lo = from.mean_lo[i];
    const double weight = from.weight[i];
    const double invstd = from.invstd[i];
    double scale = weight * invstd;
    T pre = 1;
    if (!is_plain_affine<T>(mean, invstd, weight)) {
        const Scale whole(weight, invstd);
        // So that no difference overflows unless y does, and none at all where the scale is 0.
        const int k = unit_exponent<T>(mean, whole.mantissa == 0.0 ? -2 : whole.exponent - 1);
        pre = static_cast<T>(std::ldexp(1.0, k));
        mean = std::ldexp(mean, k);
        mean_lo = std::ldexp(mean_lo, k);
        scale = whole.divided_by_power(k);
    }
    const T factor = scale_in<T>(scale, weight, invstd);
    const AffineTerms<T> terms = affine_terms(mean, mean_lo, factor, from.bias[i]);
    to.pre[i] = pre;
    to.center[i] = terms.center;
    to.scale[i] = factor;
    to.shift[i] = shift_in(terms.shift, from.bias[i]);
}

template <class T>
void fold_input_gradient_of(std::ptrdiff_t i, const InputGradientSource& from,
                            const InputGradientOut<T>& to) noexcept {
    double mean = from.mean[i];
    const double weight = from.weight[i];
    const double invstd = from.invstd[i];
    const double mean_dy = from.sum_dy[i] / from.count;
    const double mean_dy_xhat = from.sum_dy_xhat[i] / from.count;
    double slope = invstd * mean_dy_xhat;
    double level = mean_dy;
    double scale = weight * invstd;
    T pre = 1;
    T dy_pre = 1;
    if (!is_plain_input_gradient<T>(mean, invstd, weight, mean_dy_xhat, level)) {
        const Scale whole(weight, invstd);
        const int k = unit_exponent<T>(mean, exponent_of(invstd));
        const int slope_exponent = exponent_of(std::ldexp(invstd, -k)) + exponent_of(mean_dy_xhat);
        const bool large_dy = is_large<T>(mean_dy) || is_large<T>(mean_dy_xhat);
        const int j = dy_unit_exponent<T>(whole.exponent,
                                          std::max(slope_exponent, exponent_of(mean_dy)), large_dy);
        pre = static_cast<T>(std::ldexp(1.0, k));
        dy_pre = static_cast<T>(std::ldexp(1.0, j));
        mean = std::ldexp(mean, k);
        slope = std::ldexp(invstd, j - k) * mean_dy_xhat;
        level = std::ldexp(level, j);
        scale = whole.divided_by_power(j);
    }
    const InputGradientTerms<T> terms = input_gradient_terms<T>(mean, slope, level, scale);
    to.pre[i] = pre;
    to.dy_pre[i] = dy_pre;
    to.center[i] = terms.center;
    to.slope[i] = terms.slope;
    to.level[i] = terms.level;
    to.scale[i] = scale_in<T>(scale, weight, invstd);
}

}  // namespace

template <class T>
void fold_affine(const AffineSource& from, const AffineOut<T>& to, std::ptrdiff_t n) noexcept {
    if (fold_kernels<T>().try_affine(from, to, n)) return;
    for (std::ptrdiff_t i = 0; i < n; ++i) fold_affine_of(i, from, to);
}

template <class T>
void fold_input_gradient(const InputGradientSource& from, const InputGradientOut<T>& to,
                         std::ptrdiff_t n) noexcept {
    if (fold_kernels<T>().try_input_gradient(from, to, n)) return;
    for (std::ptrdiff_t i = 0; i < n; ++i) fold_input_gradient_of(i, from, to);
}

template void fold_affine(const AffineSource&, const AffineOut<float>&, std::ptrdiff_t) noexcept;
template void fold_affine(const AffineSource&, const AffineOut<double>&, std::ptrdiff_t) noexcept;
template void fold_input_gradient(const InputGradientSource&, const InputGradientOut<float>&,
                                  std::ptrdiff_t) noexcept;
template void fold_input_gradient(const InputGradientSource&, const InputGradientOut<double>&,
                                  std::ptrdiff_t) noexcept;

}  // namespace fastbn
