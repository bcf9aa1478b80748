// The one order in which every operation runs: prepare, reduce, finalize per channel, transform.
// Hands out tiles, memory and threads; knows nothing of what is reduced or transformed.
#pragma once

#include <cstddef>
#include <initializer_list>

#include "engine/memory.hpp"
#include "engine/plan.hpp"

namespace fastbn {

// What an operation does in each phase. Nothing throws; each call writes only what belongs to its
// slab (and span, or tile).
class Operation {
public:
    // One slab, before its spans are reduced, or before it is finalized where no sums are taken.
    virtual void prepare(const Slab& /*slab*/, const Memory& /*memory*/) const noexcept {}
    // One span of one slab.
    virtual void reduce(const Slab& /*slab*/, std::ptrdiff_t /*span*/,
                        const Memory& /*memory*/) const noexcept {}
    // When all spans of the slab are reduced.
    virtual void finalize(const Slab& slab, const Memory& memory) const noexcept = 0;
    // One tile, whose channels are finalized.
    virtual void transform(const TileRange& /*tile*/, const Memory& /*memory*/) const noexcept {}

    // Takes a thread's staging memory for all that must be packed or converted, once the plan is
    // made.
    virtual void take_staging(Staging& staging) noexcept = 0;
    // The bytes of its channel buffers; whether it has results to transform; whether it calls
    // kernels that take memory for sums of columns.
    virtual std::ptrdiff_t buffer_bytes() const noexcept = 0;
    virtual bool transforms() const noexcept { return true; }
    virtual bool sums_columns() const noexcept { return false; }

protected:
    ~Operation() = default;
};

// What the plan must know of an elementwise transform: the arrays it reads and writes.
Work elementwise_work(std::initializer_list<const Operand*> inputs,
                      std::initializer_list<const Operand*> outputs);

// How an elementwise kernel goes over a tile.
Elementwise elementwise_loop(const Plan& plan, const Operand& x, const Operand& y,
                             const TileRange& tile);

// Remembers whether a slab's coefficients need their `pre`; where slabs are not fused, whether any
// slab's do.
void note_out_of_range(const Plan& plan, const Memory& memory, bool out_of_range);

void execute(const Plan& plan, Operation& operation);

// visit(tile, position) for all tiles of a span. together: at each position the tiles of all
// channels are one, as they may be where the channels are adjacent and their rows undivided.
template <class Visit>
void each_tile(const Plan& plan, const Slab& slab, std::ptrdiff_t span, bool together,
               const Visit& visit) {
    const std::ptrdiff_t channels = plan.tiles_at_position(slab);
    const std::ptrdiff_t at_once = together && plan.tiles_per_row == 1 ? channels : 1;
    for (std::ptrdiff_t i = plan.first_position(span); i < plan.end_position(span); ++i) {
        for (std::ptrdiff_t c = 0; c < channels; c += at_once) {
            TileRange tile = plan.tile(slab, i, c);
            tile.channels = at_once;
            visit(tile, i);
        }
    }
}

// Brings a slab's sums together in one order, which fixes their bits: span after span; then folded
// rows, the upper half onto the lower, until one is left; then the rows that were left over.
// merge(a, count_a, b, count_b, n) adds the n entries of the channel buffers from b on, each of
// which covers count_b values, to those from a on, of count_a. Afterwards the slab's first entries,
// one for each column of x, hold everything.
template <class Visit>
void merge_slab(const Plan& plan, const Slab& slab, const Memory& memory, const Visit& merge) {
    std::ptrdiff_t before = plan.span_count(0);
    const auto add = [&](std::ptrdiff_t span, std::ptrdiff_t first, std::ptrdiff_t n,
                         std::ptrdiff_t count) {
        merge(memory.at(0, slab.buffer_index), static_cast<double>(before), memory.at(span, first),
              static_cast<double>(count), n);
        before += count;
    };
    for (std::ptrdiff_t span = 1; span < plan.main_spans(); ++span) {
        add(span, slab.buffer_index, slab.buffer_size, plan.span_count(span));
    }
    const std::ptrdiff_t columns = slab.buffer_size / plan.layout.row_fold;
    for (std::ptrdiff_t half = plan.layout.row_fold / 2; half > 0; half /= 2) {
        add(0, slab.buffer_index + half * columns, half * columns, before);
    }
    const std::ptrdiff_t leftover = plan.layout.leftover_rows();
    if (leftover > 0) add(plan.main_spans(), slab.buffer_index, columns, leftover);
}

}  // namespace fastbn
