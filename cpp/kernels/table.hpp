// What a set of kernels consists of: tables of function pointers, one set per instruction set.
// Every ISA's object includes this file, so nothing in it may generate code.
#pragma once

#include <cstddef>
#include <cstdint>

#include "data.hpp"

namespace fastbn {

// Reductions come in pairs. `_rows`: the whole tile is one channel, and structs of per-channel
// arrays hold one entry. `_columns`: each column is a channel, and they hold `cols` entries.

// Of x as it is stored.
template <class X>
struct MomentsKernels {
    // Folds the tile into moments that already cover `count` values per channel.
    void (*rows)(Tile<const X> x, std::ptrdiff_t rows, std::ptrdiff_t cols, double count,
                 MomentsState state) noexcept;
    // `scratch`: column_sums_bytes for every `lanes` columns begun, aligned to 64.
    void (*columns)(Tile<const X> x, std::ptrdiff_t rows, std::ptrdiff_t cols, double count,
                    MomentsState state, void* scratch) noexcept;
};

// Of float or double, each value with its share.
template <class X, class Shares>
struct WeightedKernels {
    void (*rows)(Tile<const X> x, Shares shares, std::ptrdiff_t rows, std::ptrdiff_t cols,
                 WeightedState state) noexcept;
    void (*columns)(Tile<const X> x, Shares shares, std::ptrdiff_t rows, std::ptrdiff_t cols,
                    WeightedState state, void* scratch) noexcept;
};
template <class X>
struct WeightedMoments {
    WeightedKernels<X, RowShares> by_row;
    WeightedKernels<X, ElementShares<double>> by_element;
    WeightedKernels<X, ElementShares<std::uint8_t>> by_mask;
};

// From x to y and from dy to dx, which is stored like y, by coefficients in the type that both are
// computed in.
template <class X, class Y>
struct TransformKernels {
    using C = Computed<Y>;

    // Adds the tile's sums of dz and of dz * xhat, dz being dy behind the gate.
    void (*gradient_sums_rows)(Tile<const Y> dy, Tile<const X> x, std::ptrdiff_t rows,
                               std::ptrdiff_t cols, GradientSums sums, Gate<Y> gate) noexcept;
    void (*gradient_sums_columns)(Tile<const Y> dy, Tile<const X> x, std::ptrdiff_t rows,
                                  std::ptrdiff_t cols, GradientSums sums, Gate<Y> gate) noexcept;

    // Elementwise. See Elementwise for what they have in common. `infinite`: set if x holds
    // infinity, and null where nobody asks.
    void (*transform)(Tile<const X> x, Tile<const Y> residual, Tile<Y> y, Elementwise extent,
                      Affine<C> affine, Activation<C> activation, bool* infinite) noexcept;
    // `dz`: where that goes, or no data.
    void (*input_gradient)(Tile<const Y> dy, Tile<const X> x, Tile<Y> dx, Elementwise extent,
                           InputGradient<C> coefficients, Gate<Y> gate, Tile<Y> dz,
                           GradientShares<C> shares) noexcept;
};

// Over n channels, an entry each.
struct ChannelKernels {
    // a = a and b, of disjoint values.
    void (*merge_moments)(MomentsState a, double count_a, MomentsState b, double count_b,
                          std::ptrdiff_t n) noexcept;
    void (*merge_weighted)(WeightedState a, WeightedState b, std::ptrdiff_t n) noexcept;
    // `out` may be memory of `moments`.
    void (*finalize_moments)(MomentsState moments, double count, double eps, Statistics out,
                             std::ptrdiff_t n) noexcept;
    // A channel without values gets 0 for every statistic.
    void (*finalize_weighted)(WeightedState state, double eps, Statistics out,
                              std::ptrdiff_t n) noexcept;
    void (*invert_std)(const double* var, double eps, double* invstd, std::ptrdiff_t n) noexcept;
};
template <class C>
struct FoldKernels {
    // With a `pre` of 1. False where a channel needs another: its coefficients are then wrong.
    bool (*try_affine)(AffineSource source, AffineOut<C> out, std::ptrdiff_t n) noexcept;
    bool (*try_input_gradient)(InputGradientSource source, InputGradientOut<C> out,
                               std::ptrdiff_t n) noexcept;
};

// Whole arrays between the sixteen-bit types and float.
template <class H>
struct ConvertKernels {
    void (*widen)(const H* from, float* to, std::ptrdiff_t n) noexcept;
    void (*narrow)(const float* from, H* to, std::ptrdiff_t n) noexcept;
};

struct Kernels {
    MomentsKernels<float> moments_f32;
    MomentsKernels<double> moments_f64;
    MomentsKernels<Float16> moments_f16;
    MomentsKernels<Bfloat16> moments_bf16;
    MomentsKernels<std::uint8_t> moments_u8;
    WeightedMoments<float> weighted_f32;
    WeightedMoments<double> weighted_f64;
    TransformKernels<float, float> f32;
    TransformKernels<double, double> f64;
    TransformKernels<Float16, Float16> f16;
    TransformKernels<Bfloat16, Bfloat16> bf16;
    TransformKernels<std::uint8_t, float> u8;
    ChannelKernels channels;
    FoldKernels<float> fold_f32;
    FoldKernels<double> fold_f64;
    ConvertKernels<Float16> convert_f16;
    ConvertKernels<Bfloat16> convert_bf16;
};

namespace generic {
extern const Kernels kernels;
}
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}

}  // namespace fastbn
