// Plain data that the engine hands to the kernels: tiles, per-channel arrays, options. Every ISA's
// object includes this file, so nothing in it may generate code.
#pragma once

#include <cstddef>
#include <cstdint>

#include "storage.hpp"

namespace fastbn {

// Values that every kernel works on at a time, and the room that its sums take per so many columns.
constexpr std::ptrdiff_t lanes = 16;
constexpr std::size_t column_sums_bytes = 640;

// A block of memory as a kernel sees it: contiguous columns, rows `stride` elements apart.
template <class T>
struct Tile {
    T* data;
    std::ptrdiff_t stride;
};

// What elementwise passes go over, and how. `run`: so many columns in a row share an entry of the
// coefficients, either one or at least `lanes`; or all of them. `ahead`: elements from here to what
// will be read next and is to be asked for, 0 for none. `stream`: write past the caches.
struct Elementwise {
    std::ptrdiff_t rows;
    std::ptrdiff_t cols;
    std::ptrdiff_t run;
    std::ptrdiff_t ahead;
    bool stream;
};

// Running moments of one or more channels, one array entry per channel. A channel's mean is kept
// twice: as `ref + offset`, near enough to its data for differences to be exact, which is what
// merging needs; and as the unevaluated sum `sum + sum_lo`, which gives the mean to twice the
// working precision once divided by the count. The centred sum of squares is such a pair too, so
// that no number of merges adds up to an error.
struct MomentsState {
    double* ref;
    double* offset;
    double* m2;
    double* m2_lo;
    double* sum;
    double* sum_lo;
};

// What becomes of moments, one array entry per channel.
struct Statistics {
    double* mean;
    double* mean_lo;  // what float64 cannot hold of the mean
    double* m2;
    double* var;
    double* invstd;
};

// What the backward pass sums, and the statistics that takes, one array entry per channel.
struct GradientSums {
    const double* mean;
    const double* invstd;
    double* sum_dy;
    double* sum_dy_xhat;
};

// y = (x * pre - center) * scale + shift. `pre` is a power of two that brings channels of extreme
// magnitude into range, or null where no channel of the tile needs it.
template <class T>
struct Affine {
    const T* pre;
    const T* center;
    const T* scale;
    const T* shift;
};

// dx = (dy * dy_pre - ((x * pre - center) * slope + level)) * scale, with pre and dy_pre as above.
template <class T>
struct InputGradient {
    const T* pre;
    const T* dy_pre;
    const T* center;
    const T* slope;
    const T* level;
    const T* scale;
};

// What coefficients are made of, one array entry per channel, and where they go.
struct AffineSource {
    const double* mean;
    const double* mean_lo;
    const double* invstd;
    const double* weight;
    const double* bias;
};
template <class T>
struct AffineOut {
    T* pre;
    T* center;
    T* scale;
    T* shift;
};
struct InputGradientSource {
    const double* mean;
    const double* invstd;
    const double* weight;
    const double* sum_dy;
    const double* sum_dy_xhat;
    double count;
};
template <class T>
struct InputGradientOut {
    T* pre;
    T* dy_pre;
    T* center;
    T* slope;
    T* level;
    T* scale;
};

// How much each value counts in its channel's moments, from 0 to 2; one with a share of 0 is as if
// it were not there. For a tile: a value for each row, or one for each element.
struct RowShares {
    const double* of;
};
template <class P>
struct ElementShares {
    Tile<const P> of;
};

// Moments of values that count in part; `count` is the sum of their shares. Where it is 0 nothing
// else is defined.
struct WeightedState {
    MomentsState moments;
    double* count;
};

// What follows the affine map: y = z where z > 0 or NaN, otherwise `slope` times z, or 0.
enum class ActivationKind { none, relu, leaky_relu };
template <class C>
struct Activation {
    ActivationKind kind;
    C slope;
};

// What the backward pass needs to find the sign of z, and with it what the activation let through:
// z = (x * pre - center) * scale + shift + residual. Nothing where there is no activation.
template <class Y>
struct Gate {
    Activation<Computed<Y>> activation;
    Affine<Computed<Y>> z;
    Tile<const Y> residual;  // no data where there is none
    bool scaled;             // some channel's pre is not 1
    bool sparse;             // a dz of 0 adds nothing to the sums, even if x is NaN
};

// Shares of a tile's values in the statistics that the gradient flows through, in one form, or none
// where all have the same; and whether those are constants, and nothing flows.
template <class C>
struct GradientShares {
    bool frozen;
    const C* rows;  // one for each row
    Tile<const std::uint8_t> mask;
    Tile<const C> elements;
};

}  // namespace fastbn
