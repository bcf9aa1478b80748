// Going over the rows of a column tile: in groups, so that what is kept per block of columns makes
// one trip to registers and back for several rows.
#pragma once

#include "block.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

template <std::ptrdiff_t n>
struct RowGroup {
    static constexpr std::ptrdiff_t size = n;
};
using WholeGroup = RowGroup<8>;

// The walk, down a group and then one block to the right, no hardware prefetcher follows: kernels
// ask for rows so far ahead themselves, to be in the second-level cache soon. Not in the first: its
// few miss buffers would hold up the loads.
constexpr std::ptrdiff_t rows_ahead = 32;

// The address may lie outside of any array, so it is no pointer before the hardware drops it.
template <class T>
inline void prefetch_ahead(const T* here, std::ptrdiff_t stride, std::ptrdiff_t rows = rows_ahead) {
    constexpr std::uintptr_t line = 64;
    constexpr std::uintptr_t block_bytes = lanes * sizeof(T);
    constexpr int second_level = 2;
    const auto offset = static_cast<std::uintptr_t>(rows * stride) * sizeof(T);
    const std::uintptr_t block = reinterpret_cast<std::uintptr_t>(here) + offset;
    for (std::uintptr_t at = 0; at < block_bytes; at += line) {
        // NOLINTNEXTLINE(performance-no-int-to-ptr): never dereferenced
        __builtin_prefetch(reinterpret_cast<const void*>(block + at), 0, second_level);
    }
}

// body(group, r, i, n) for every group of rows from r on and every block of columns.
template <class Body>
inline void each_row_group(std::ptrdiff_t rows, std::ptrdiff_t cols, const Body& body) {
    std::ptrdiff_t r = 0;
    for (; r + WholeGroup::size <= rows; r += WholeGroup::size) {
        each_block(0, cols, [&](std::ptrdiff_t i, auto n) { body(WholeGroup{}, r, i, n); });
    }
    for (; r < rows; ++r) {
        each_block(0, cols, [&](std::ptrdiff_t i, auto n) { body(RowGroup<1>{}, r, i, n); });
    }
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
