// The registry: what a set of kernels consists of, one set for each instruction set. The engine
// looks up a row by the types of its arrays and calls through plain function pointers; which pair
// of storage types has kernels of its own is decided by the rows that are there and nowhere else.
// Every instruction set's object includes this file, so nothing in it may generate code of its own.
#pragma once

#include <cstddef>
#include <cstdint>

#include "numerics/coefficient_math.hpp"
#include "numerics/dtype.hpp"
#include "numerics/moments_math.hpp"
#include "simd/tile.hpp"

namespace fastbn {

// ---- Statistics ----

// Where the weight of each value in its channel's statistics comes from. Weights are from 0 to 2; a
// value of weight 0 is as if it were not there, whatever it is.
enum class WeightsForm {
    none,             // each is 1: unweighted statistics
    omit_nan,         // 1, but of NaN 0
    by_row,           // a double for each row of the tile
    by_row_omit_nan,  // likewise, but of NaN 0
    by_mask,          // a byte for each element: the weight is 1 unless it is 0
    by_element        // a double for each element
};
constexpr int weights_forms = 6;

static constexpr bool has_row_weights(WeightsForm form) {
    return form == WeightsForm::by_row || form == WeightsForm::by_row_omit_nan;
}
// Weights other than 0 and 1.
static constexpr bool has_numbers(WeightsForm form) {
    return has_row_weights(form) || form == WeightsForm::by_element;
}

// The scratch memory that a kernel on columns takes for each of so many blocks of columns, aligned
// to 64: one more than fill the columns, since the first may have fewer.
constexpr std::size_t column_scratch_bytes = 1152;
constexpr std::ptrdiff_t scratch_blocks(std::ptrdiff_t cols) {
    return (cols + 2 * lanes - 1) / lanes;
}

// Merges a tile with sums that already cover `count` values per channel; `count` is of use only
// in unweighted statistics, else sums.weight says so. `weights` is of the form that the kernel
// is for; a tile without data where that is none or omit_nan.
//
// `channels`: the kernel on tiles of one channel takes so many of them at a time, side by side: the
// first has columns 0 to cols - 1 and entry 0 of the sums, the next one the next `cols` columns and
// entry 1. They have the weights of rows in common, or none. The kernel on columns is given 1.
using MomentsKernel = void (*)(Tile<const void> x, Tile<const void> weights, std::ptrdiff_t rows,
                               std::ptrdiff_t cols, std::ptrdiff_t channels, double count,
                               MomentsSums sums, void* scratch) noexcept;

// The weights' forms are none and by_mask.
using ValueRangeKernel = void (*)(Tile<const void> x, Tile<const std::uint8_t> mask,
                                  std::ptrdiff_t rows, std::ptrdiff_t cols,
                                  ValueRange range) noexcept;

// Adds a tile's values and their squares to sums of integers, for unweighted statistics.
using IntegerSumsKernel = void (*)(Tile<const void> x, std::ptrdiff_t rows, std::ptrdiff_t cols,
                                   IntegerSums sums) noexcept;

// Reductions come in pairs: the whole tile is one channel, and the structs of arrays hold one
// entry; or each column is a channel, and they hold `cols` entries.
template <class Kernel>
struct Reduction {
    Kernel tile;
    Kernel columns;
};

struct MomentsKernels {
    DType x;  // as it is stored
    // Null where x is to be converted first.
    Reduction<MomentsKernel> moments[weights_forms];
    Reduction<ValueRangeKernel> value_range;
    Reduction<IntegerSumsKernel> integer_sums;  // null unless x is an 8- or 16-bit integer
};

// ---- From x to y ----

// What an elementwise kernel goes over, and how.
struct Elementwise {
    std::ptrdiff_t rows;
    std::ptrdiff_t cols;
    // The coefficients begin anew after so many entries. Where that is before the last column it is
    // after `lanes` or more, and the first `lanes` of them stand behind the others once again.
    std::ptrdiff_t period;
    // So many columns in a row share an entry of the coefficients: either one or at least `lanes`,
    // or all of them.
    std::ptrdiff_t channel_width;
    std::ptrdiff_t prefetch;  // elements from here to what is prefetched, 0 for nothing
    bool stream;              // write past the caches
};

// Where several rows are one to the kernel, and each of the arrays of coefficients has more bytes
// than this, the kernel goes over them piece by piece.
constexpr std::ptrdiff_t wide_coefficients = 4096;

// Applied to z: z where z > 0 or NaN; otherwise `slope` times z, or 0.
enum class ActivationKind { none, relu, leaky_relu };
struct Activation {
    ActivationKind kind = ActivationKind::none;
    double slope = 0.0;
};

// What a kernel does beside the affine map: y = activation(z + residual), in [-clip, clip] or NaN.
// The residual is a tile for kernels, an array or an operand in the engine; empty where there is
// none.
template <class Residual>
struct Epilogue {
    Residual residual;
    Activation activation;
    double clip = __builtin_inf();
};

// `infinite`: set if x holds infinity; null where that is not asked for.
using NormalizeKernel = void (*)(Tile<const void> x, Tile<void> y, Elementwise loop,
                                 Affine<const void> affine, Epilogue<Tile<const void>> epilogue,
                                 bool* infinite) noexcept;

struct NormalizeKernels {
    DType x;
    DType y;
    DType computed;  // float32 or float64: the coefficients' type
    NormalizeKernel normalize;
};

// ---- From dy to dx ----

// What the backward pass needs to find what the activation let through of dy: the forward pass's
// z = (x * pre - center) * scale + shift + residual. `z.pre` is null where all are 1. Without an
// activation z has no arrays.
struct ActivationGradient {
    Activation activation;
    Affine<const void> z;
    Tile<const void> residual;
    // A dz of 0 adds nothing to the sums, even if x is NaN, as it may be in values that have no
    // weight.
    bool skip_zeros;
};

// A tile's weights in the statistics that the gradient flows through, in one form; or none, where
// all are the same. Frozen statistics are constants, and nothing flows through them.
struct GradientWeights {
    bool frozen;
    const double* rows;
    std::ptrdiff_t row_width;  // columns with one of `rows`, of which a tile's row may hold several
    Tile<const std::uint8_t> mask;
    Tile<const void> elements;  // of the type that dx is computed in
};

// mean, invstd: an array entry per channel or column, as the sums have. `channels`: as for
// MomentsKernel.
using GradientSumsKernel = void (*)(Tile<const void> dy, Tile<const void> x, std::ptrdiff_t rows,
                                    std::ptrdiff_t cols, std::ptrdiff_t channels,
                                    const double* mean, const double* invstd, GradientSums sums,
                                    ActivationGradient activation) noexcept;
// `dz`: where the residual's gradient goes, or no data.
using InputGradientKernel = void (*)(Tile<const void> dy, Tile<const void> x, Tile<void> dx,
                                     Tile<void> dz, Elementwise loop,
                                     InputGradient<const void> coefficients,
                                     ActivationGradient activation,
                                     GradientWeights weights) noexcept;

struct GradientKernels {
    DType x;
    DType dy;  // and dx
    DType computed;
    Reduction<GradientSumsKernel> sums;
    InputGradientKernel input_gradient;
};

// ---- The tables: one for each of the six sources that an instruction set is compiled from ----

// Whether a set has rows, from x to y and dx, for types that are converted as they are loaded and
// stored. Without instructions for that they would be as much code again, and gain nothing over
// tiles that are converted before and after.
constexpr bool converts_on_load = true;
namespace generic {
constexpr bool converts_on_load = false;
}  // namespace generic

constexpr int moments_rows = 4;
constexpr int normalize_rows = 5;
constexpr int gradient_rows = 4;
constexpr int integers_rows = 5;

// Beside its rows, what is done once for each of n channels.
struct MomentsTable {
    MomentsKernels rows[moments_rows];
    // a = a and b, of disjoint values; the counts as for MomentsKernel.
    void (*merge)(MomentsSums a, double count_a, MomentsSums b, double count_b,
                  std::ptrdiff_t n) noexcept;
    // The same of finished moments, which may come in either order.
    void (*merge_central)(CentralMoments<const double*> a, CentralMoments<const double*> b,
                          CentralMoments<double*> to, std::ptrdiff_t n) noexcept;
    // A channel without weight gets 0 for every statistic.
    void (*finalize)(MomentsSums sums, double count, double eps, Statistics out,
                     std::ptrdiff_t n) noexcept;
    void (*merge_integers)(IntegerSums a, IntegerSums b, std::ptrdiff_t n) noexcept;
    void (*finalize_integers)(IntegerSums sums, double count, double eps, Statistics out,
                              std::ptrdiff_t n) noexcept;
    void (*invert_std)(const double* var, double eps, double* invstd, std::ptrdiff_t n) noexcept;
};

struct NormalizeTable {
    NormalizeKernels rows[normalize_rows];
    // The coefficients of n channels, of float32 or float64, with a `pre` of 1. False where some
    // channel needs another one: its coefficients are then wrong. count: what the sums are divided
    // by.
    bool (*fold_affine)(DType computed, ChannelParameters from, Affine<void> to,
                        std::ptrdiff_t n) noexcept;
    bool (*fold_input_gradient)(DType computed, ChannelParameters from, GradientSums sums,
                                double count, InputGradient<void> to, std::ptrdiff_t n) noexcept;
};

// From n values side by side to n others side by side, in memory that does not overlap.
using Conversion = void (*)(const void* from, void* to, std::ptrdiff_t n) noexcept;

struct ConvertTable {
    // From any other type to float32 and float64, and from these to the sixteen-bit types: each
    // value is rounded once, and both arrays are aligned as their types are. Null for any other
    // pair of types.
    Conversion (*conversion)(DType from, DType to) noexcept;
    // Elements of 2, 4 or 8 bytes, the bytes of each in reverse order. No array need be aligned.
    Conversion (*reversal)(std::ptrdiff_t size) noexcept;
};

// `pack` writes, and `unpack` reads, up to so many bytes behind a packed tile's end.
constexpr std::ptrdiff_t transpose_overhang = 16;

struct PackTable {
    // A packed tile of rows x cols elements of `size` bytes, 1, 2, 4 or 8, which has its columns
    // side by side, from and to an array in which a column's elements are: as a tile, the array is
    // cols x rows. stream: past the caches.
    void (*pack)(std::ptrdiff_t size, Tile<const void> array, Tile<void> packed,
                 std::ptrdiff_t rows, std::ptrdiff_t cols) noexcept;
    void (*unpack)(std::ptrdiff_t size, Tile<const void> packed, Tile<void> array,
                   std::ptrdiff_t rows, std::ptrdiff_t cols, bool stream) noexcept;
    // 64-bit integers of type x, less one that all n have in common, or a tile of them less one for
    // each column, as doubles side by side. False where a difference is 2^51 or more: what was
    // written is then wrong.
    bool (*from_origin)(DType x, const void* values, std::uint64_t origin, std::ptrdiff_t n,
                        double* to) noexcept;
    bool (*from_origins)(DType x, Tile<const void> values, const std::uint64_t* origins,
                         std::ptrdiff_t rows, std::ptrdiff_t cols, double* to) noexcept;
};

namespace generic {
extern const MomentsTable moments_table;
extern const NormalizeTable normalize_table;
extern const ConvertTable convert_table;
extern const GradientKernels gradient_table[gradient_rows];
extern const MomentsKernels integers_table[integers_rows];
extern const PackTable pack_table;
}  // namespace generic
namespace avx2 {
extern const MomentsTable moments_table;
extern const NormalizeTable normalize_table;
extern const ConvertTable convert_table;
extern const GradientKernels gradient_table[gradient_rows];
extern const MomentsKernels integers_table[integers_rows];
extern const PackTable pack_table;
}  // namespace avx2
namespace avx512 {
extern const MomentsTable moments_table;
extern const NormalizeTable normalize_table;
extern const ConvertTable convert_table;
extern const GradientKernels gradient_table[gradient_rows];
extern const MomentsKernels integers_table[integers_rows];
extern const PackTable pack_table;
}  // namespace avx512
namespace neon {
extern const MomentsTable moments_table;
extern const NormalizeTable normalize_table;
extern const ConvertTable convert_table;
extern const GradientKernels gradient_table[gradient_rows];
extern const MomentsKernels integers_table[integers_rows];
extern const PackTable pack_table;
}  // namespace neon

}  // namespace fastbn
