// The kernels of statistics of integers that are summed exactly. See moments.cpp for how this is
// compiled.
#include "kernels/integer_sums.hpp"
#include "kernels/table.hpp"
#include "numerics/dtype.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

template <class X>
constexpr MomentsKernels row(DType x) {
    return {x, {}, {}, {sums_of_tile<X>, sums_of_columns<X>}};
}

}  // namespace

extern constexpr IntegersTable integers_table = {
    {row<std::uint8_t>(DType::uint8), row<std::int8_t>(DType::int8),
     row<std::uint16_t>(DType::uint16), row<std::int16_t>(DType::int16),
     row<Boolean>(DType::boolean)},
    merge_integer_sums,
    finalize_integer_sums};

}  // namespace fastbn::FASTBN_ISA
