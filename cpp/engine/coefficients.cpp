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

// A scale in T: of finite factors, the largest number at most. Infinity would make NaN of a zero.
template <class T>
T scale_in(double scale, double weight, double invstd) {
    constexpr double largest = std::numeric_limits<T>::max();
    const bool finite = std::isfinite(weight) && std::isfinite(invstd);
    return static_cast<T>(finite ? std::clamp(scale, -largest, largest) : scale);
}

// weight * invstd, by halves: a factor may leave float64's range where the product does not.
struct Scale {
    Scale(double weight, double invstd) : value(weight * invstd) {
        if (value != 0.0 && std::isfinite(value)) {
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

}  // namespace

template <class T>
AffineValues<T> fold_affine(double mean, double mean_lo, double invstd, double weight,
                            double bias) {
    double scale = weight * invstd;
    T pre = 1;
    const bool lost = scale == 0.0 && weight != 0.0 && invstd != 0.0;
    if (lost || is_large<T>(mean) || !is_moderate<T>(scale)) {
        const Scale whole(weight, invstd);
        const int k = unit_exponent<T>(mean, whole.exponent);
        pre = static_cast<T>(std::ldexp(1.0, k));
        mean = std::ldexp(mean, k);
        mean_lo = std::ldexp(mean_lo, k);
        scale = whole.divided_by_power(k);
    }
    const T center = static_cast<T>(mean);
    const double rest = (mean - static_cast<double>(center)) + mean_lo;
    const T factor = scale_in<T>(scale, weight, invstd);
    return {pre, center, factor, static_cast<T>(bias - rest * static_cast<double>(factor))};
}

template <class T>
InputGradientValues<T> fold_input_gradient(double mean, double invstd, double weight,
                                           double mean_dy, double mean_dy_xhat) {
    double slope = invstd * mean_dy_xhat;
    double level = mean_dy;
    double scale = weight * invstd;
    T pre = 1;
    T dy_pre = 1;
    const bool lost = scale == 0.0 && weight != 0.0 && invstd != 0.0;
    if (lost || is_large<T>(mean) || is_large<T>(mean_dy) || !is_moderate<T>(slope) ||
        !is_moderate<T>(scale)) {
        // dx is of the size of dy * 2^j: what that loses, dx could not hold. Where dy itself is
        // near the largest numbers, differences of its size need room.
        constexpr int room = -4;
        const Scale whole(weight, invstd);
        const bool large_dy = is_large<T>(mean_dy) || is_large<T>(mean_dy_xhat);
        const int k = unit_exponent<T>(mean, exponent_of(invstd));
        const int j = clamp_exponent<T>(large_dy ? std::min(whole.exponent, room) : whole.exponent);
        pre = static_cast<T>(std::ldexp(1.0, k));
        dy_pre = static_cast<T>(std::ldexp(1.0, j));
        mean = std::ldexp(mean, k);
        slope = std::ldexp(std::ldexp(invstd, -k) * mean_dy_xhat, j);
        level = std::ldexp(level, j);
        scale = whole.divided_by_power(j);
    }
    const T center = static_cast<T>(mean);
    const double rest = mean - static_cast<double>(center);
    return {pre,
            dy_pre,
            center,
            static_cast<T>(slope),
            static_cast<T>(level - rest * slope),
            scale_in<T>(scale, weight, invstd)};
}

template AffineValues<float> fold_affine(double, double, double, double, double);
template AffineValues<double> fold_affine(double, double, double, double, double);
template InputGradientValues<float> fold_input_gradient(double, double, double, double, double);
template InputGradientValues<double> fold_input_gradient(double, double, double, double, double);

}  // namespace fastbn
