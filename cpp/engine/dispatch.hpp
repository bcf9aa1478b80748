// Which instruction set is in use, the best this processor has or the one FASTBN_ISA names; and
// which of its kernels serve arrays of which types. The registry (kernels/table.hpp) decides: types
// without a row of their own are converted, tile by tile, to float32 or float64.
#pragma once

#include <string>
#include <vector>

#include "kernels/table.hpp"

namespace fastbn {

// The instruction sets that were compiled in and that this processor and its operating system can
// run, from the plainest to the widest.
std::vector<std::string> available_isas();

// Raises std::invalid_argument, listing the valid names, for any other. Not to be called while an
// operation runs, which looks its kernels up more than once.
void set_isa(const std::string& name);
const char* get_isa();
// Applies FASTBN_ISA, or the widest available where it is unset or empty.
void choose_isa();

// Each row says what x, y or dy are to be read and written as: their own type or one that they are
// converted to. Moments of float32 and of a half type's values converted to it are the same to the
// bit.
const MomentsKernels& moments_kernels(DType x, WeightsForm form = WeightsForm::none);
// The kernels that sum x's values exactly; null for types without them, and where values have
// weights.
const Reduction<IntegerSumsKernel>* integer_sums_kernels(DType x,
                                                         WeightsForm form = WeightsForm::none);
// What x is read as for its moments.
DType moments_type(DType x, WeightsForm form = WeightsForm::none);
const MomentsKernels& value_range_kernels(DType x);  // they have all the moments' kernels too
const NormalizeKernels& normalize_kernels(DType x, DType y);
const GradientKernels& gradient_kernels(DType x, DType dy);

const MomentsTable& moments_table();
const NormalizeTable& normalize_table();
const ConvertTable& convert_table();
const PackTable& pack_table();

}  // namespace fastbn
