// The kernels from x to y, what folds statistics into their coefficients, and the conversion of the
// sixteen-bit types. See moments.cpp for how this is compiled.
#include "kernels/normalize.hpp"

#include "kernels/per_channel.hpp"
#include "kernels/table.hpp"
#include "numerics/dtype.hpp"
#include "simd/block.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

template <class X, class Y>
constexpr NormalizeKernels row() {
    return {dtype_of<X>, dtype_of<Y>, dtype_of<Computed<Y>>, normalize<X, Y>};
}

// Of types that are converted.
template <class X, class Y>
constexpr NormalizeKernels converting_row() {
    if constexpr (converts_on_load) {
        return row<X, Y>();
    } else {
        return {};
    }
}

template <class C>
constexpr CoefficientKernels coefficients() {
    return {affine_in_range<C>, input_gradient_in_range<C>};
}

template <class From, class To>
inline void convert(const From* from, To* to, std::ptrdiff_t count) {
    each_block(0, count,
               [=](std::ptrdiff_t i, auto n) { store(to + i, n, load<float>(from + i, n)); });
}
template <class H>
void widen_all(const void* from, float* to, std::ptrdiff_t count) noexcept {
    convert(static_cast<const H*>(from), to, count);
}
template <class H>
void narrow_all(const float* from, void* to, std::ptrdiff_t count) noexcept {
    convert(from, static_cast<H*>(to), count);
}

template <class H>
constexpr ConversionKernels conversion() {
    return {dtype_of<H>, widen_all<H>, narrow_all<H>};
}

}  // namespace

extern constexpr NormalizeTable normalize_table = {
    {row<float, float>(), row<double, double>(), converting_row<Float16, Float16>(),
     converting_row<Bfloat16, Bfloat16>(), converting_row<std::uint8_t, float>()},
    coefficients<float>(),
    coefficients<double>(),
    {conversion<Float16>(), conversion<Bfloat16>()}};

}  // namespace fastbn::FASTBN_ISA
