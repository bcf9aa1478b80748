// Which instruction set runs: the best this processor has, or the one FASTBN_ISA names.
#pragma once

#include <cstdint>
#include <string>
#include <type_traits>
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

// The table for a type of x, for types of x and y, or for the type that results are computed in.
template <class X>
const MomentsKernels<X>& moments_kernels() {
    const Kernels& kernels = active_kernels();
    if constexpr (std::is_same_v<X, double>) {
        return kernels.moments_f64;
    } else if constexpr (std::is_same_v<X, Float16>) {
        return kernels.moments_f16;
    } else if constexpr (std::is_same_v<X, Bfloat16>) {
        return kernels.moments_bf16;
    } else if constexpr (std::is_same_v<X, std::uint8_t>) {
        return kernels.moments_u8;
    } else {
        return kernels.moments_f32;
    }
}

template <class X>
const WeightedMoments<X>& weighted_kernels() {
    if constexpr (std::is_same_v<X, double>) {
        return active_kernels().weighted_f64;
    } else {
        return active_kernels().weighted_f32;
    }
}

template <class X, class Y>
const TransformKernels<X, Y>& transform_kernels() {
    const Kernels& kernels = active_kernels();
    if constexpr (std::is_same_v<X, double>) {
        return kernels.f64;
    } else if constexpr (std::is_same_v<X, Float16>) {
        return kernels.f16;
    } else if constexpr (std::is_same_v<X, Bfloat16>) {
        return kernels.bf16;
    } else if constexpr (std::is_same_v<X, std::uint8_t>) {
        return kernels.u8;
    } else {
        return kernels.f32;
    }
}

template <class C>
const FoldKernels<C>& fold_kernels() {
    if constexpr (std::is_same_v<C, double>) {
        return active_kernels().fold_f64;
    } else {
        return active_kernels().fold_f32;
    }
}

inline const ChannelKernels& channel_kernels() { return active_kernels().channels; }

}  // namespace fastbn
