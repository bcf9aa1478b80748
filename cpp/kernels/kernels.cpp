// The one source of all kernels, compiled once per instruction set: FASTBN_ISA names it and its
// namespace, FASTBN_VEC the header with its registers. Exports the table of that instruction set
// and nothing else; includes no standard header that holds an inline function, since the linker
// might keep this object's copy of it for machines that cannot run it.
#include FASTBN_VEC

#include "block.hpp"
#include "block_memory.hpp"
#include "channels.hpp"
#include "gradient_sums.hpp"
#include "input_gradient.hpp"
#include "moments.hpp"
#include "table.hpp"
#include "transform.hpp"
#include "weighted.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

template <class X>
constexpr MomentsKernels<X> moments() {
    return {moments_rows<X>, moments_columns<X>};
}

template <class X, class Shares>
constexpr WeightedKernels<X, Shares> weighted_by() {
    return {weighted_rows<X, Shares>, weighted_columns<X, Shares>};
}

template <class X>
constexpr WeightedMoments<X> weighted() {
    return {weighted_by<X, RowShares>(), weighted_by<X, ElementShares<double>>(),
            weighted_by<X, ElementShares<std::uint8_t>>()};
}

template <class X, class Y>
constexpr TransformKernels<X, Y> transforms() {
    return {gradient_sums_rows<X, Y>, gradient_sums_columns<X, Y>, transform<X, Y>,
            input_gradient<X, Y>};
}

template <class C>
constexpr FoldKernels<C> folds() {
    return {try_fold_affine<C>, try_fold_input_gradient<C>};
}

template <class From, class To>
void convert_all(const From* from, To* to, std::ptrdiff_t count) noexcept {
    each_block(0, count,
               [=](std::ptrdiff_t i, auto n) { store(to + i, n, load<float>(from + i, n)); });
}

template <class H>
constexpr ConvertKernels<H> conversions() {
    return {convert_all<H, float>, convert_all<float, H>};
}

static_assert(sizeof(ColumnSums<float>) == column_sums_bytes);
static_assert(sizeof(ColumnSums<double>) == column_sums_bytes);
static_assert(sizeof(WeightedColumns) <= column_sums_bytes);

}  // namespace

extern constexpr Kernels kernels = {
    moments<float>(),
    moments<double>(),
    moments<Float16>(),
    moments<Bfloat16>(),
    moments<std::uint8_t>(),
    weighted<float>(),
    weighted<double>(),
    transforms<float, float>(),
    transforms<double, double>(),
    transforms<Float16, Float16>(),
    transforms<Bfloat16, Bfloat16>(),
    transforms<std::uint8_t, float>(),
    {merge_moments, merge_weighted, finalize_moments, finalize_weighted, invert_std},
    folds<float>(),
    folds<double>(),
    conversions<Float16>(),
    conversions<Bfloat16>(),
};

}  // namespace fastbn::FASTBN_ISA
