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

// body(group, r, i, n) for every group of rows from r on and every block of columns.
template <class Begin, class Body>
inline void each_row_group(std::ptrdiff_t rows, std::ptrdiff_t cols, const Begin& begin,
                           const Body& body) {
    std::ptrdiff_t r = 0;
    for (; r + WholeGroup::size <= rows; r += WholeGroup::size) {
        begin(r);
        each_block(0, cols, [&](std::ptrdiff_t i, auto n) { body(WholeGroup{}, r, i, n); });
    }
    for (; r < rows; ++r) {
        begin(r);
        each_block(0, cols, [&](std::ptrdiff_t i, auto n) { body(RowGroup<1>{}, r, i, n); });
    }
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
