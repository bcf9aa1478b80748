// The one source of all kernels, compiled once per instruction set: FASTBN_ISA names it and its
// namespace, FASTBN_VEC the header with its registers. Exports the table of that instruction set
// and nothing else; includes no standard header that holds an inline function, since the linker
// might keep this object's copy of it for machines that cannot run it.
#include FASTBN_VEC

#include "block.hpp"
#include "channels.hpp"
#include "gradient_sums.hpp"
#include "moments.hpp"
#include "table.hpp"
#include "transform.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

template <class T>
constexpr KernelTable<T> table() {
    return {
        moments_rows<T>,
        moments_columns<T>,
        gradient_sums_rows<T>,
        gradient_sums_columns<T>,
        transform<T>,
        input_gradient<T>,
        merge_moments,
        finalize_moments,
        invert_std,
        try_fold_affine<T>,
        try_fold_input_gradient<T>,
    };
}

static_assert(sizeof(ColumnSums<float>) == column_sums_bytes);
static_assert(sizeof(ColumnSums<double>) == column_sums_bytes);

}  // namespace

extern constexpr Kernels kernels = {table<float>(), table<double>()};

}  // namespace fastbn::FASTBN_ISA
