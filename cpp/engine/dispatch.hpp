// Which instruction set runs: the best this processor has, or the one FASTBN_ISA names.
#pragma once

#include <string>
#include <vector>

#include "kernels/table.hpp"

namespace fastbn {

// The instruction sets that were compiled in and that this processor and its operating system can
// run, from the plainest to the widest.
std::vector<std::string> available_isas();

// Raises std::invalid_argument, listing the valid names, for any other.
void set_isa(const std::string& name);
const char* get_isa();
// Applies FASTBN_ISA, or the widest available where it is unset or empty.
void choose_isa();

const Kernels& active_kernels();

template <class T>
const KernelTable<T>& kernels_for();
template <>
inline const KernelTable<float>& kernels_for<float>() {
    return active_kernels().f32;
}
template <>
inline const KernelTable<double>& kernels_for<double>() {
    return active_kernels().f64;
}

}  // namespace fastbn
