// One channel's coefficients from its statistics and parameters, in the precision of the data. The
// kernels use it for channels of ordinary magnitude, engine/coefficients.cpp for the others.
//
// Never x * scale + (bias - mean * scale), which cancels where the mean is large: the mean is split
// into `center`, which T holds, and a remainder that goes into the shift.
//
// Functions here are static, as in moments_math.hpp and for the same reason.
#pragma once

#include <cstddef>

namespace fastbn {

// y = (x * pre - center) * scale + shift, an array entry per channel or column. `pre` is a power of
// two that brings channels of extreme magnitude into range, or null where no channel needs it.
template <class T>
struct Affine {
    T* pre;
    T* center;
    T* scale;
    T* shift;
};

// dx = (dz * dy_pre - ((x * pre - center) * coef_x + coef_const)) * scale, with powers of two as
// above: both are null or neither is.
template <class T>
struct InputGradient {
    T* pre;
    T* dy_pre;
    T* center;
    T* coef_x;
    T* coef_const;
    T* scale;
};

// Kernels are called with coefficients of void, and find the type again.
template <class T, class V>
static inline Affine<T> typed(Affine<V> a) {
    Affine<T> t;
    t.pre = static_cast<T*>(a.pre);
    t.center = static_cast<T*>(a.center);
    t.scale = static_cast<T*>(a.scale);
    t.shift = static_cast<T*>(a.shift);
    return t;
}
template <class T, class V>
static inline InputGradient<T> typed(InputGradient<V> a) {
    InputGradient<T> t;
    t.pre = static_cast<T*>(a.pre);
    t.dy_pre = static_cast<T*>(a.dy_pre);
    t.center = static_cast<T*>(a.center);
    t.coef_x = static_cast<T*>(a.coef_x);
    t.coef_const = static_cast<T*>(a.coef_const);
    t.scale = static_cast<T*>(a.scale);
    return t;
}

// What coefficients are made of, one array entry per channel. Those of dx need neither the mean's
// low part nor the bias.
struct ChannelParameters {
    const double* mean;
    const double* mean_lo;
    const double* invstd;
    const double* weight;
    const double* bias;
};

// What the backward pass sums, one array entry per channel or column.
struct GradientSums {
    double* dy;
    double* dy_xhat;
};

static inline GradientSums from(const GradientSums& s, std::ptrdiff_t i) {
    return {s.dy + i, s.dy_xhat + i};
}

// Coefficients between 1 / most and most keep every intermediate result in range.
template <class T>
static constexpr double most() {
    return sizeof(T) == 4 ? 0x1p100 : 0x1p996;
}

template <class T>
static inline bool is_large(double value) {
    return __builtin_fabs(value) > most<T>();
}

static inline bool is_finite(double value) {
    return __builtin_fabs(value) <= 0x1.fffffffffffffp1023;
}

// Zero and NaN are too.
template <class T>
static inline bool is_moderate(double value) {
    const double magnitude = __builtin_fabs(value);
    return !(magnitude > most<T>()) && !(magnitude < 1.0 / most<T>() && magnitude > 0.0);
}

// Whether the product of two numbers was lost to underflow.
static inline bool is_lost(double product, double a, double b) {
    return product == 0.0 && a != 0.0 && b != 0.0;
}

// Whether a channel's coefficients can do without a power of two of their own.
template <class T>
static inline bool in_range_affine(double mean, double invstd, double weight) {
    const double scale = weight * invstd;
    return !is_lost(scale, weight, invstd) && !is_large<T>(mean) && is_moderate<T>(scale) &&
           !is_large<T>(mean * scale);
}

template <class T>
static inline bool in_range_input_gradient(double mean, double invstd, double weight,
                                           double mean_dy_xhat, double coef_const) {
    const double coef_x = invstd * mean_dy_xhat;
    return in_range_affine<T>(mean, invstd, weight) && !is_large<T>(coef_const) &&
           !is_lost(coef_x, invstd, mean_dy_xhat) && is_moderate<T>(coef_x);
}

// Writes channel i's center, scale and shift. A float's result does not notice mean_lo, and does
// without: the backward pass, which has no more than `mean`, then finds the same y to the bit.
template <class T>
static inline void write_affine(Affine<T> to, std::ptrdiff_t i, double mean, double mean_lo,
                                T scale, double bias) {
    const T center = static_cast<T>(mean);
    const double remainder = mean - static_cast<double>(center);
    const double offset = sizeof(T) == 4 ? remainder : remainder + mean_lo;
    to.center[i] = center;
    to.scale[i] = scale;
    to.shift[i] = static_cast<T>(bias - offset * static_cast<double>(scale));
}

// Writes channel i's center, coef_x, coef_const and scale for
//
//     dx = (dy - ((x - center) * coef_x + coef_const)) * scale
//
// which is the gradient through mean and variance (Ioffe & Szegedy 2015, section 3; their chain of
// partial derivatives, summed up). The variance's own part in dmean is zero, since sum(x - mean)
// is. With xhat = (x - mean) * invstd and y = weight * xhat + bias,
// clang-format off
//     dxhat  = weight * dy
//     dvar   = -invstd^2 / 2 * sum(dxhat * xhat)
//     dmean  = -invstd * sum(dxhat)
//     dx     = dxhat * invstd + dvar * 2 * (x - mean) / N + dmean / N
//            = weight * invstd * (dy - sum(dy) / N - xhat * sum(dy * xhat) / N)
// clang-format on
// so that coef_x = invstd * sum(dy * xhat) / N, coef_const = sum(dy) / N and scale = weight *
// invstd.
template <class T>
static inline void write_input_gradient(InputGradient<T> to, std::ptrdiff_t i, double mean,
                                        double coef_x, double coef_const, double scale) {
    const T center = static_cast<T>(mean);
    const double remainder = mean - static_cast<double>(center);
    // Where dx is 0 nothing is subtracted from dy: the difference might overflow, and infinity
    // times 0 is NaN.
    const bool zero = scale == 0.0 && is_finite(coef_x) && is_finite(coef_const);
    to.center[i] = center;
    to.coef_x[i] = static_cast<T>(zero ? 0.0 : coef_x);
    to.coef_const[i] = static_cast<T>(zero ? 0.0 : coef_const - remainder * coef_x);
    to.scale[i] = static_cast<T>(scale);
}

}  // namespace fastbn
