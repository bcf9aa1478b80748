// The kernels from dy to dx. See moments.cpp for how this is compiled.
#include "kernels/gradient_sums.hpp"
#include "kernels/input_gradient.hpp"
#include "kernels/table.hpp"
#include "numerics/dtype.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

template <class X, class Y>
constexpr GradientKernels row() {
    return {dtype_of<X>,
            dtype_of<Y>,
            dtype_of<Computed<Y>>,
            {gradient_sums_of_tile<X, Y>, gradient_sums_of_columns<X, Y>},
            input_gradient<X, Y>};
}

// Of types that are converted.
template <class X, class Y>
constexpr GradientKernels converting_row() {
    if constexpr (converts_on_load) {
        return row<X, Y>();
    } else {
        return {};
    }
}

}  // namespace

extern constexpr GradientTable gradient_table = {{row<float, float>(), row<double, double>(),
                                                  converting_row<Float16, Float16>(),
                                                  converting_row<Bfloat16, Bfloat16>()}};

}  // namespace fastbn::FASTBN_ISA
