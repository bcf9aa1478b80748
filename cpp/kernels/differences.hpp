// 64-bit integers less an integer near them, as doubles: at once where all differences are below
// 2^51. Added to the bits of 1.5 * 2^52 they are the last bits of its mantissa.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/table.hpp"
#include "simd/tile.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

// Writes n differences and returns whether they are right. origin_at(i): the bits of value i's.
template <class T, class OriginAt>
inline bool write_differences(const T* values, const OriginAt& origin_at, std::ptrdiff_t n,
                              double* to) {
    constexpr double middle = 0x1.8p52;
    constexpr std::uint64_t middle_bits = 0x4338000000000000;
    constexpr std::uint64_t limit = std::uint64_t{1} << 51;
    // Flipping the highest bit puts unsigned integers in the order of signed ones.
    constexpr std::uint64_t other_sign = T(-1) < T(0) ? 0 : std::uint64_t{1} << 63;
    std::uint64_t too_large = 0;
#pragma omp simd reduction(| : too_large)
    for (std::ptrdiff_t i = 0; i < n; ++i) {
        const std::uint64_t value = static_cast<std::uint64_t>(values[i]) ^ other_sign;
        const std::uint64_t origin = origin_at(i) ^ other_sign;
        const std::uint64_t up = value - origin;
        const std::uint64_t overflow = (value ^ origin) & (value ^ up);
        too_large |= (overflow >> 63) | ((up + limit) >> 52);
        const std::uint64_t bits = up + middle_bits;
        double shifted;
        __builtin_memcpy(&shifted, &bits, sizeof shifted);
        to[i] = shifted - middle;
    }
    return too_large == 0;
}

template <class T>
bool from_origin(const void* values, std::uint64_t origin, std::ptrdiff_t n, double* to) noexcept {
    const auto origin_at = [=](std::ptrdiff_t) { return origin; };
    return write_differences(static_cast<const T*>(values), origin_at, n, to);
}

template <class T>
bool from_origins(Tile<const void> x, const std::uint64_t* origins, std::ptrdiff_t rows,
                  std::ptrdiff_t cols, double* to) noexcept {
    const Tile<const T> values = typed<const T>(x);
    // Short rows that follow each other without a gap are taken several at a time.
    constexpr std::ptrdiff_t long_enough = 64;
    std::uint64_t repeated[long_enough];
    std::ptrdiff_t at_once = 1;
    if (values.stride == cols && 2 * cols <= long_enough) {
        at_once = long_enough / cols;
        for (std::ptrdiff_t i = 0; i < at_once * cols; ++i) repeated[i] = origins[i % cols];
        origins = repeated;
    }
    const auto origin_at = [=](std::ptrdiff_t i) { return origins[i]; };
    bool right = true;
    for (std::ptrdiff_t r = 0; r < rows; r += at_once) {
        const std::ptrdiff_t n = rows - r < at_once ? rows - r : at_once;
        right &=
            write_differences(values.data + r * values.stride, origin_at, n * cols, to + r * cols);
    }
    return right;
}

template <class T>
constexpr DifferenceKernels difference_kernels(DType x) {
    return {x, from_origin<T>, from_origins<T>};
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
