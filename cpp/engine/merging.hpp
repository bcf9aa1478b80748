// The order in which a slab's sums come together, the same for every operation: it fixes their
// bits.
#pragma once

#include <cstddef>

#include "engine/plan.hpp"

namespace fastbn {

// Sums of `n` entries from `entry` on in `span`, of `count` values each, into those of as many
// entries at the slab's beginning in the first span, which cover `before` values.
struct Merge {
    std::ptrdiff_t span;
    std::ptrdiff_t entry;
    std::ptrdiff_t n;
    std::ptrdiff_t before;
    std::ptrdiff_t count;
};

// merge(Merge) for all spans, then for the rows abreast, by halves, then for the rows left over:
// afterwards the slab's first entries, one for each column that x has, hold everything.
template <class Visit>
void merge_slab(const Plan& plan, const Slab& slab, const Visit& merge) {
    std::ptrdiff_t count = plan.span_count(0);
    const auto add = [&](std::ptrdiff_t span, std::ptrdiff_t entry, std::ptrdiff_t n,
                         std::ptrdiff_t more) {
        merge(Merge{span, entry, n, count, more});
        count += more;
    };
    for (std::ptrdiff_t span = 1; span < plan.main_spans(); ++span) {
        add(span, slab.entry, slab.entries, plan.span_count(span));
    }
    const std::ptrdiff_t columns = slab.entries / plan.layout.abreast;
    for (std::ptrdiff_t half = plan.layout.abreast / 2; half > 0; half /= 2) {
        add(0, slab.entry + half * columns, half * columns, count);
    }
    const std::ptrdiff_t left_over = plan.layout.leftover_rows();
    if (left_over > 0) add(plan.main_spans(), slab.entry, columns, left_over);
}

}  // namespace fastbn
