#include "engine/coefficients.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace fastbn {
namespace {

// Coefficients between 1 / most and most leave room for every intermediate result. Past that a
// channel is worked on in units of 2^-k, k from its own magnitude, by exact powers of two.
template <class T>
constexpr double most = 0.0;
template <>
constexpr double most<float> = 0x1p100;
template <>
constexpr double most<double> = 0x1p996;

template <class T>
bool is_large(double value) {
    return std::abs(value) > most<T>;
}

// Zero and NaN need no other unit either.
template <class T>
bool is_moderate(double value) {
    const double magnitude = std::abs(value);
    return !is_large<T>(value) && !(magnitude < 1.0 / most<T> && magnitude > 0.0);
}

int exponent_of(double value) {
    int e = 0;
    if (std::isfinite(value)) std::frexp(value, &e);
    return e;
}

// The value, or the largest of its sign: an infinite coefficient makes NaN of a zero.
double finite(double value) {
    constexpr double largest = std::numeric_limits<double>::max();
    return std::isinf(value) ? std::copysign(largest, value) : value;
}

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

}  // namespace

template <class T>
AffineValues<T> fold_affine(double mean, double mean_lo, double invstd, double weight,
                            double bias) {
    double scale = weight * invstd;
    T pre = 1;
    if (is_large<T>(mean) || !is_moderate<T>(scale)) {
        const int wanted = scale == 0.0 ? 0 : exponent_of(weight) + exponent_of(invstd);
        const int k = unit_exponent<T>(mean, wanted);
        pre = static_cast<T>(std::ldexp(1.0, k));
        mean = std::ldexp(mean, k);
        mean_lo = std::ldexp(mean_lo, k);
        scale = finite(weight * std::ldexp(invstd, -k));
    }
    const T center = static_cast<T>(mean);
    const double rest = (mean - static_cast<double>(center)) + mean_lo;
    return {pre, center, static_cast<T>(scale), static_cast<T>(bias - rest * scale)};
}

template <class T>
InputGradientValues<T> fold_input_gradient(double mean, double invstd, double weight,
                                           double mean_dy, double mean_dy_xhat) {
    double slope = invstd * mean_dy_xhat;
    double level = mean_dy;
    double scale = weight * invstd;
    T pre = 1;
    T dy_pre = 1;
    if (is_large<T>(mean) || is_large<T>(mean_dy) || !is_moderate<T>(slope) ||
        !is_moderate<T>(scale)) {
        // dx is of the size of dy * 2^j: what that loses, dx could not hold. Where dy itself is
        // near the largest numbers, differences of its size need room.
        constexpr int room = -4;
        const bool large_dy = is_large<T>(mean_dy) || is_large<T>(mean_dy_xhat);
        const int scale_exponent = exponent_of(weight) + exponent_of(invstd);
        const int k = unit_exponent<T>(mean, exponent_of(invstd));
        const int j = clamp_exponent<T>(large_dy ? std::min(scale_exponent, room) : scale_exponent);
        pre = static_cast<T>(std::ldexp(1.0, k));
        dy_pre = static_cast<T>(std::ldexp(1.0, j));
        mean = std::ldexp(mean, k);
        slope = std::ldexp(std::ldexp(invstd, -k) * mean_dy_xhat, j);
        level = std::ldexp(level, j);
        scale = finite(weight * std::ldexp(invstd, -j));
    }
    const T center = static_cast<T>(mean);
    const double rest = mean - static_cast<double>(center);
    return {pre,
            dy_pre,
            center,
            static_cast<T>(slope),
            static_cast<T>(level - rest * slope),
            static_cast<T>(scale)};
}

template AffineValues<float> fold_affine(double, double, double, double, double);
template AffineValues<double> fold_affine(double, double, double, double, double);
template InputGradientValues<float> fold_input_gradient(double, double, double, double, double);
template InputGradientValues<double> fold_input_gradient(double, double, double, double, double);

}  // namespace fastbn
