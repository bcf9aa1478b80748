// The one order in which every operation runs: reduce, finalize per channel, transform.
// Hands out tiles and threads; knows nothing of what is reduced or transformed.
//
// An operation has
//     fields, reduces, transforms             what it keeps and which phases it has
//     reduce(slab, span, entries, scratch)    one span of one slab
//     finalize(slab, entries)                 when all its spans are reduced
//     transform(tile, entries, scratch)       one tile
// of which none throws and each writes only what belongs to its slab (and span, or tile).
#pragma once

#include <cstddef>
#include <initializer_list>

#include "engine/parallel.hpp"
#include "engine/plan.hpp"
#include "engine/workspace.hpp"

namespace fastbn {

// A piece of work: one span of one slab, counted in the order of memory.
struct Unit {
    std::ptrdiff_t slab;
    std::ptrdiff_t span;
};

inline Unit unit_of(const Plan& plan, std::ptrdiff_t index) {
    if (plan.layout.channels_first()) return {index / plan.spans, index % plan.spans};
    return {index % plan.slabs, index / plan.slabs};
}

// What was read last is in cache still: the transform begins there.
template <class C, class Op>
void transform_backwards(const Plan& plan, const Slab& slab, const Entries<C>& entries,
                         const Scratch& scratch, Op& op) {
    for (std::ptrdiff_t position = plan.positions - 1; position >= 0; --position) {
        if (plan.in_runs) {
            op.transform(plan.all_channels(slab, position), entries, scratch);
            continue;
        }
        for (std::ptrdiff_t c = plan.tiles_at_position(slab) - 1; c >= 0; --c) {
            op.transform(plan.tile(slab, position, c), entries, scratch);
        }
    }
}

// Each slab through all phases on one thread.
template <class C, class Op>
void run_fused(const Plan& plan, const Workspace<C>& workspace, Op& op) {
    const auto slabs = [&](std::ptrdiff_t begin, std::ptrdiff_t end, int thread) {
        const Scratch scratch = workspace.scratch(thread);
        for (std::ptrdiff_t i = begin; i < end; ++i) {
            const Slab slab = plan.slab(i);
            const Entries<C> entries = workspace.entries(slab, thread);
            for (std::ptrdiff_t span = 0; span < plan.spans; ++span) {
                op.reduce(slab, span, entries, scratch);
            }
            op.finalize(slab, entries);
            if constexpr (Op::transforms) transform_backwards(plan, slab, entries, scratch, op);
        }
    };
    parallel_ranges(plan.threads, plan.slabs, slabs);
}

// The last phase by itself, strip by strip; from the end if sums have just been taken up to there.
template <class C, class Op>
void transform_in_order_of_memory(const Plan& plan, const Workspace<C>& workspace, Op& op) {
    const std::ptrdiff_t last = plan.strips() - 1;
    const auto body = [&](std::ptrdiff_t begin, std::ptrdiff_t end, int thread) {
        const Entries<C> entries = workspace.entries({}, thread);
        const Scratch scratch = workspace.scratch(thread);
        for (std::ptrdiff_t i = begin; i < end; ++i) {
            op.transform(plan.strip(Op::reduces ? last - i : i), entries, scratch);
        }
    };
    parallel_ranges(plan.threads, plan.strips(), body);
}

// One phase after the other, each over all slabs.
template <class C, class Op>
void run_phases(const Plan& plan, const Workspace<C>& workspace, Op& op) {
    if constexpr (Op::reduces) {
        const auto units = [&](std::ptrdiff_t begin, std::ptrdiff_t end, int thread) {
            for (std::ptrdiff_t i = begin; i < end; ++i) {
                const Unit unit = unit_of(plan, i);
                const Slab slab = plan.slab(unit.slab);
                op.reduce(slab, unit.span, workspace.entries(slab, thread),
                          workspace.scratch(thread));
            }
        };
        parallel_ranges(plan.threads, plan.slabs * plan.spans, units);
    }
    const auto slabs = [&](std::ptrdiff_t begin, std::ptrdiff_t end, int thread) {
        for (std::ptrdiff_t i = begin; i < end; ++i) {
            const Slab slab = plan.slab(i);
            op.finalize(slab, workspace.entries(slab, thread));
        }
    };
    parallel_ranges(plan.threads, plan.slabs, slabs);
    if constexpr (Op::transforms) transform_in_order_of_memory(plan, workspace, op);
}

// All arrays that the transform reads and writes.
struct Traffic {
    std::initializer_list<const Operand*> inputs;
    std::initializer_list<const Operand*> outputs;
    // False if something beside these arrays keeps tiles from being whole rows, and from having
    // several channels.
    bool all_direct = true;
    bool in_runs = true;
};

inline Access access_of(const Traffic& traffic) {
    Access access;
    access.all_direct = traffic.all_direct;
    access.in_runs = traffic.in_runs;
    const auto add = [&](const Operand& operand) {
        if (!operand) return;
        access.all_direct = access.all_direct && operand.direct;
        access.in_runs = access.in_runs && operand.in_runs;
    };
    for (const Operand* input : traffic.inputs) add(*input);
    for (const Operand* output : traffic.outputs) {
        if (!*output) continue;
        add(*output);
        access.result_size = size_of(output->dtype);
        for (const Operand* input : traffic.inputs) {
            access.in_place = access.in_place || input->base == output->base;
        }
    }
    return access;
}

template <class C, class Op>
void execute(Plan& plan, Op& op, const Traffic& traffic, const Rooms& rooms) {
    choose_path(plan, Op::reduces, access_of(traffic));
    const Workspace<C> workspace(plan, Op::fields, rooms);
    if constexpr (Op::reduces) {
        if (plan.fused) return run_fused(plan, workspace, op);
    }
    run_phases(plan, workspace, op);
}

}  // namespace fastbn
