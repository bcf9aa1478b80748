// One channel's coefficients from its statistics and parameters, in the precision of the data, for
// channels of ordinary magnitude. Included by kernels and engine; the engine's own coefficients.cpp
// knows what to do with the others.
//
// Never x * scale + (bias - mean * scale), which cancels where the mean is large: the mean is split
// into `center`, which T holds, and a rest that goes into the shift.
#pragma once

namespace fastbn {

// Static, like welford.hpp's: instantiated under another instruction set's flags, an inline
// function could be the one copy that the linker keeps for every machine.

// Coefficients between 1 / most and most leave room for every intermediate result.
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
static inline bool is_plain_affine(double mean, double invstd, double weight) {
    const double scale = weight * invstd;
    return !is_lost(scale, weight, invstd) && !is_large<T>(mean) && is_moderate<T>(scale) &&
           !is_large<T>(mean * scale);
}

template <class T>
static inline bool is_plain_input_gradient(double mean, double invstd, double weight,
                                           double mean_dy_xhat, double level) {
    const double slope = invstd * mean_dy_xhat;
    return is_plain_affine<T>(mean, invstd, weight) && !is_large<T>(level) &&
           !is_lost(slope, invstd, mean_dy_xhat) && is_moderate<T>(slope);
}

// y = (x - center) * scale + shift
template <class T>
struct AffineTerms {
    T center;
    T scale;
    T shift;
};

// A float's result does not notice mean_lo, and does without: the backward pass, which has no more
// than `mean`, then finds the same y to the bit.
template <class T>
static inline AffineTerms<T> affine_terms(double mean, double mean_lo, T scale, double bias) {
    const T center = static_cast<T>(mean);
    const double rest_of_mean = mean - static_cast<double>(center);
    const double rest = sizeof(T) == 4 ? rest_of_mean : rest_of_mean + mean_lo;
    return {center, scale, static_cast<T>(bias - rest * static_cast<double>(scale))};
}

// dx = (dy - ((x - center) * slope + level)) * scale
template <class T>
struct InputGradientTerms {
    T center;
    T slope;
    T level;
};

// The gradient through mean and variance (Ioffe & Szegedy 2015, section 3; their chain of partial
// derivatives, summed up). The variance's own share in dmean is zero, since sum(x - mean) is. With
// xhat = (x - mean) * invstd and y = weight * xhat + bias,
// clang-format off
//     dxhat  = weight * dy
//     dvar   = -invstd^2 / 2 * sum(dxhat * xhat)
//     dmean  = -invstd * sum(dxhat)
//     dx     = dxhat * invstd + dvar * 2 * (x - mean) / N + dmean / N
//            = weight * invstd * (dy - sum(dy) / N - xhat * sum(dy * xhat) / N)
// clang-format on
// which is the form above with slope = invstd * sum(dy * xhat) / N, level = sum(dy) / N and
// scale = weight * invstd.
template <class T>
static inline InputGradientTerms<T> input_gradient_terms(double mean, double slope, double level,
                                                         double scale) {
    const T center = static_cast<T>(mean);
    const double rest = mean - static_cast<double>(center);
    // Where dx is 0 nothing is subtracted from dy: the difference might overflow, and infinity
    // times 0 is NaN.
    const bool none = scale == 0.0 && is_finite(slope) && is_finite(level);
    return {center, static_cast<T>(none ? 0.0 : slope),
            static_cast<T>(none ? 0.0 : level - rest * slope)};
}

}  // namespace fastbn
