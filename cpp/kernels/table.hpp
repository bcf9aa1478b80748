// What the engine and the kernels agree on: plain data and one table of function pointers per
// instruction set. Every ISA's object includes this file, so nothing in it may generate code.
#pragma once

#include <cstddef>

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

// Reductions come in pairs. `_rows`: the whole tile is one channel, and structs of per-channel
// arrays hold one entry. `_columns`: each column is a channel, and they hold `cols` entries.
template <class T>
struct KernelTable {
    // Folds the tile into moments that already cover `count` values per channel.
    void (*moments_rows)(Tile<const T> x, std::ptrdiff_t rows, std::ptrdiff_t cols, double count,
                         MomentsState state) noexcept;
    // `scratch`: column_sums_bytes for every `lanes` columns begun, aligned to 64.
    void (*moments_columns)(Tile<const T> x, std::ptrdiff_t rows, std::ptrdiff_t cols, double count,
                            MomentsState state, void* scratch) noexcept;

    // Adds the tile's sums of dy and of dy * xhat.
    void (*gradient_sums_rows)(Tile<const T> dy, Tile<const T> x, std::ptrdiff_t rows,
                               std::ptrdiff_t cols, GradientSums sums) noexcept;
    void (*gradient_sums_columns)(Tile<const T> dy, Tile<const T> x, std::ptrdiff_t rows,
                                  std::ptrdiff_t cols, GradientSums sums) noexcept;

    // Elementwise. `run`: so many columns in a row share an entry of the coefficients, either one
    // or at least `lanes`; or all of them. `ahead`: elements from here to what will be read next
    // and is to be asked for, 0 for none. `stream`: write past the caches.
    void (*transform)(Tile<const T> x, Tile<T> y, std::ptrdiff_t rows, std::ptrdiff_t cols,
                      std::ptrdiff_t run, Affine<T> affine, std::ptrdiff_t ahead,
                      bool stream) noexcept;
    void (*input_gradient)(Tile<const T> dy, Tile<const T> x, Tile<T> dx, std::ptrdiff_t rows,
                           std::ptrdiff_t cols, std::ptrdiff_t run, InputGradient<T> coefficients,
                           std::ptrdiff_t ahead, bool stream) noexcept;

    // From here on over n channels, an entry each. a = a and b, of disjoint values.
    void (*merge_moments)(MomentsState a, double count_a, MomentsState b, double count_b,
                          std::ptrdiff_t n) noexcept;
    // `out` may be memory of `moments`.
    void (*finalize_moments)(MomentsState moments, double count, double eps, Statistics out,
                             std::ptrdiff_t n) noexcept;
    void (*invert_std)(const double* var, double eps, double* invstd, std::ptrdiff_t n) noexcept;
    // With a `pre` of 1. False where a channel needs another: its coefficients are then wrong.
    bool (*try_fold_affine)(AffineSource source, AffineOut<T> out, std::ptrdiff_t n) noexcept;
    bool (*try_fold_input_gradient)(InputGradientSource source, InputGradientOut<T> out,
                                    std::ptrdiff_t n) noexcept;
};

struct Kernels {
    KernelTable<float> f32;
    KernelTable<double> f64;
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
