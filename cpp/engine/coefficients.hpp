// Folding a channel's statistics and parameters into what the transforms multiply and add, in the
// precision of the data. Never x * scale + (bias - mean * scale), which cancels where the mean is
// large: the mean is split into `center`, which x's type holds, and a rest that goes into the
// shift.
#pragma once

namespace fastbn {

// y = (x * pre - center) * scale + shift
template <class T>
struct AffineValues {
    T pre;
    T center;
    T scale;
    T shift;
};

template <class T>
AffineValues<T> fold_affine(double mean, double mean_lo, double invstd, double weight, double bias);

// dx = (dy * dy_pre - ((x * pre - center) * slope + level)) * scale
template <class T>
struct InputGradientValues {
    T pre;
    T dy_pre;
    T center;
    T slope;
    T level;
    T scale;
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
// which is the form above with slope = invstd * sum(dy * xhat) / N and level = sum(dy) / N.
template <class T>
InputGradientValues<T> fold_input_gradient(double mean, double invstd, double weight,
                                           double mean_dy, double mean_dy_xhat);

}  // namespace fastbn
