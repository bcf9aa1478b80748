// The kernels of statistics: x's moments, its values' range, and what becomes of moments channel by
// channel. Like the other four sources here it is compiled once for each instruction set, which
// FASTBN_ISA names, and FASTBN_VEC the header with its registers; each exports a table and nothing
// else. None includes a standard header that holds an inline function, since the linker might keep
// this object's copy of it for processors that cannot run it.
#include "kernels/moments.hpp"

#include "kernels/per_channel.hpp"
#include "kernels/table.hpp"
#include "kernels/value_range.hpp"
#include "numerics/dtype.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

template <class X, WeightsForm form>
constexpr void set_form(MomentsKernels& kernels) {
    kernels.moments[static_cast<int>(form)] = {moments_of_tile<X, form>,
                                               moments_of_columns<X, form>};
}

// Of a type that is read as it is stored where every value counts, and else converted first.
template <class X>
constexpr MomentsKernels unweighted_form() {
    MomentsKernels kernels{};
    kernels.x = dtype_of<X>;
    set_form<X, WeightsForm::none>(kernels);
    return kernels;
}

template <class X>
constexpr MomentsKernels all_forms() {
    MomentsKernels kernels = unweighted_form<X>();
    set_form<X, WeightsForm::omit_nan>(kernels);
    set_form<X, WeightsForm::by_row>(kernels);
    set_form<X, WeightsForm::by_row_omit_nan>(kernels);
    set_form<X, WeightsForm::by_mask>(kernels);
    set_form<X, WeightsForm::by_element>(kernels);
    kernels.value_range = {range_of_tile<X>, range_of_columns<X>};
    return kernels;
}

}  // namespace

extern constexpr MomentsTable moments_table = {
    {all_forms<float>(), all_forms<double>(), unweighted_form<Float16>(),
     unweighted_form<Bfloat16>()},
    merge_moments,
    finalize_moments,
    merge_integer_sums,
    finalize_integer_sums,
    invert_std};

}  // namespace fastbn::FASTBN_ISA
