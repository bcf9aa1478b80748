#include "engine/executor.hpp"

#include <algorithm>
#include <cstdlib>

#include "engine/machine.hpp"
#include "engine/threads.hpp"

namespace fastbn {
namespace {

// All spans of all slabs in the order of memory: of number `index`, slab and span.
void find_span(const Plan& plan, std::ptrdiff_t index, std::ptrdiff_t& slab, std::ptrdiff_t& span) {
    const bool slab_by_slab = plan.layout.channels_first();
    slab = slab_by_slab ? index / plan.spans : index % plan.slabs;
    span = slab_by_slab ? index % plan.spans : index / plan.slabs;
}

// What was read last is in cache still: the transform begins there.
void transform_backwards(const Plan& plan, const Slab& slab, const Memory& memory,
                         const Operation& operation) {
    const bool whole_rows = plan.adjacent_channels;  // of all channels, in one tile
    const std::ptrdiff_t tiles = whole_rows ? 1 : plan.tiles_at_position(slab);
    std::ptrdiff_t begin = plan.positions;
    while (begin > 0) {
        const std::ptrdiff_t end = begin;
        begin = plan.first_at_once(end);
        for (std::ptrdiff_t c = tiles - 1; c >= 0; --c) {
            TileRange tile = plan.tile(slab, begin, c, end - begin);
            if (whole_rows) tile.channels = slab.channels;
            if (plan.dense_rows) tile.row_fold = tile.rows;
            operation.transform(tile, memory);
        }
    }
}

// Each slab through all phases on one thread.
void execute_fused(const Plan& plan, const Workspace& workspace, const Operation& operation,
                   Member& member) {
    const bool transforms = operation.transforms();
    member.run_phase(plan.slabs, [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
        for (std::ptrdiff_t i = begin; i < end; ++i) {
            const Slab slab = plan.slab(i);
            const Memory memory = workspace.memory(slab, member.thread());
            operation.prepare(slab, memory);
            for (std::ptrdiff_t span = 0; span < plan.spans && plan.reduces; ++span) {
                operation.reduce(slab, span, memory);
            }
            operation.finalize(slab, memory);
            if (transforms) transform_backwards(plan, slab, memory, operation);
        }
    });
}

// One phase after the other, each over all slabs.
void execute_phases(const Plan& plan, const Workspace& workspace, const Operation& operation,
                    Member& member) {
    const int thread = member.thread();
    if (plan.reduces) {
        member.run_phase(plan.slabs * plan.spans, [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
            for (std::ptrdiff_t i = begin; i < end; ++i) {
                std::ptrdiff_t slab_index;
                std::ptrdiff_t span;
                find_span(plan, i, slab_index, span);
                const Slab slab = plan.slab(slab_index);
                operation.reduce(slab, span, workspace.memory(slab, thread));
            }
        });
    }
    member.run_phase(plan.slabs, [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
        for (std::ptrdiff_t i = begin; i < end; ++i) {
            const Slab slab = plan.slab(i);
            const Memory memory = workspace.memory(slab, thread);
            if (!plan.reduces) operation.prepare(slab, memory);
            operation.finalize(slab, memory);
        }
    });
    if (!operation.transforms()) return;
    // Strip by strip in the order of memory; from the end if sums have just been taken up to there.
    const std::ptrdiff_t strips = plan.strips();
    const auto transform_strips = [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
        const Memory memory = workspace.memory(Slab{}, thread);
        for (std::ptrdiff_t i = begin; i < end; ++i) {
            const std::ptrdiff_t index = plan.reduces ? begin + end - 1 - i : i;
            operation.transform(plan.strip(index), memory);
        }
    };
    if (plan.reduces) {
        member.run_phase_backwards(strips, transform_strips);
    } else {
        member.run_phase(strips, transform_strips);
    }
}

// Bytes from here to what is to be prefetched of an array whose rows are so far apart: `wanted`, or
// whole rows where one is shorter than that, since what lies between them is not read.
std::ptrdiff_t bytes_ahead(std::ptrdiff_t row_bytes, std::ptrdiff_t stride, std::ptrdiff_t wanted) {
    if (stride == row_bytes || stride == 0 || row_bytes >= wanted) return wanted;
    return stride * std::max<std::ptrdiff_t>(1, wanted / std::abs(stride));
}

// Elements of x from here to what is to be prefetched, since the hardware does not find it, or not
// soon enough; 0 for nothing.
std::ptrdiff_t distance_to_prefetch(const Plan& plan, const Operand& x, const Operand& y,
                                    const TileRange& tile, std::ptrdiff_t period) {
    const std::ptrdiff_t size = size_of(x.dtype);
    const std::ptrdiff_t ahead = bytes_to_prefetch();
    // In the caches it pays only where values are converted: the instructions for that fill the
    // processor's window, in which there are few loads then.
    const bool pays_in_cache = ahead > 0 && size < size_of(DType::float32);
    if (!plan.stream && !pays_in_cache) return 0;
    if (plan.fused && plan.reduces) {  // x is in the caches, from its sums
        const bool next_slab = plan.stream && x.adjacent_channels && prefetches_next_slab();
        return next_slab ? plan.layout.cols * plan.slab_buffer_size : 0;
    }
    // Wide rows are gone over piece by piece. A piece takes about as long as one trip to memory,
    // so that the next row's would come too late.
    const std::ptrdiff_t coefficient_size = y.kernel_dtype == DType::float64 ? 8 : 4;
    const bool by_pieces =
        period < tile.kernel_row_width() && period * coefficient_size > wide_coefficients;
    if (by_pieces) return 2 * period;
    if (!x.direct) return 0;
    return bytes_ahead(tile.kernel_row_width() * size, x.row_stride * tile.row_fold,
                       ahead / plan.inputs) /
           size;
}

}  // namespace

Work elementwise_work(std::initializer_list<const Operand*> inputs,
                      std::initializer_list<const Operand*> outputs) {
    Work work;
    for (const Operand* input : inputs) work.read(*input);
    for (const Operand* output : outputs) work.write(*output, inputs);
    return work;
}

Elementwise elementwise_loop(const Plan& plan, const Operand& x, const Operand& y,
                             const TileRange& tile) {
    const std::ptrdiff_t cols = tile.kernel_row_width();
    const std::ptrdiff_t period = plan.dense_rows ? plan.buffer_size() : cols;
    Elementwise loop{};
    loop.rows = tile.kernel_rows();
    loop.cols = cols;
    loop.period = period;
    loop.channel_width = plan.layout.channels_first() ? tile.cols : 1;
    loop.prefetch = distance_to_prefetch(plan, x, y, tile, period);
    loop.stream = plan.stream && y.direct;
    return loop;
}

void note_out_of_range(const Plan& plan, const Memory& memory, bool out_of_range) {
    if (plan.fused || out_of_range) {
        memory.out_of_range->store(out_of_range, std::memory_order_relaxed);
    }
}

void execute(const Plan& plan, Operation& operation) {
    Staging staging(plan);
    operation.take_staging(staging);
    const Workspace workspace(plan, operation.buffer_bytes(), operation.sums_columns(),
                              staging.bytes());
    for (int thread = 0; thread < plan.team.threads && red_zone > 0; ++thread) {
        Staging zones(plan, workspace.memory(Slab{}, thread).staging);
        operation.take_staging(zones);
    }
    // Whichever thread reduces a slab's spans finds it prepared. This thread alone does that, since
    // it is little: slabs that are reduced and not fused are few, or have many values per channel.
    for (std::ptrdiff_t i = 0; i < plan.slabs && plan.reduces && !plan.fused; ++i) {
        const Slab slab = plan.slab(i);
        operation.prepare(slab, workspace.memory(slab, 0));
    }
    run_team(plan.team, [&](Member& member) {
        if (plan.fused) {
            execute_fused(plan, workspace, operation, member);
        } else {
            execute_phases(plan, workspace, operation, member);
        }
    });
}

}  // namespace fastbn
