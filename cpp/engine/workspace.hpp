// All memory that the phases of one call need, taken before any thread starts: after that nothing
// can fail.
#pragma once

#include <cstddef>

#include "engine/buffer.hpp"
#include "engine/plan.hpp"
#include "kernels/table.hpp"

namespace fastbn {

// Sums per entry and span, and coefficients per entry, of the entries from `origin` on.
template <class T>
struct Entries {
    double* sums;
    T* coefficients;
    std::ptrdiff_t spans;
    std::ptrdiff_t stride;
    std::ptrdiff_t origin;

    double* sum(int field, std::ptrdiff_t span, std::ptrdiff_t entry) const {
        return sums + (field * spans + span) * stride + (entry - origin);
    }
    T* coefficient(int field, std::ptrdiff_t entry) const {
        return coefficients + field * stride + (entry - origin);
    }
};

// One thread's room for tiles that must be packed and for the kernels' accumulators.
template <class T>
struct Scratch {
    T* tile[3];
    void* column_sums;
};

// How many of each an operation keeps per entry.
struct Fields {
    int sums;
    int coefficients;
};

template <class T>
class Workspace {
public:
    // all_direct: no tile will be packed.
    Workspace(const Plan& plan, Fields fields, bool all_direct)
        : plan_(plan),
          owners_(plan.fused ? plan.threads : 1),
          stride_(plan.fused ? plan.slab_entries : plan.entries()),
          sums_bytes_(round_up(fields.sums * plan.spans * stride_, sizeof(double))),
          entries_bytes_(sums_bytes_ + round_up(fields.coefficients * stride_, sizeof(T))),
          column_sums_bytes_(round_up((plan.slab_entries + lanes - 1) / lanes, column_sums_bytes)),
          tile_bytes_(all_direct ? 0 : round_up(plan.tile_elements(), sizeof(T))),
          scratch_bytes_(column_sums_bytes_ + 3 * tile_bytes_),
          memory_(owners_ * entries_bytes_ + plan.threads * scratch_bytes_) {}

    // The slab's thread's own entries where slabs are fused, else those of all slabs.
    Entries<T> entries(const Slab& slab, int thread) const {
        std::byte* at = memory_.data() + (plan_.fused ? thread * entries_bytes_ : 0);
        return {reinterpret_cast<double*>(at), reinterpret_cast<T*>(at + sums_bytes_), plan_.spans,
                stride_, plan_.fused ? slab.entry : 0};
    }

    Scratch<T> scratch(int thread) const {
        std::byte* at = memory_.data() + owners_ * entries_bytes_ + thread * scratch_bytes_;
        std::byte* tiles = at + column_sums_bytes_;
        return {{reinterpret_cast<T*>(tiles), reinterpret_cast<T*>(tiles + tile_bytes_),
                 reinterpret_cast<T*>(tiles + 2 * tile_bytes_)},
                at};
    }

private:
    static std::ptrdiff_t round_up(std::ptrdiff_t n, std::size_t size) {
        return (n * static_cast<std::ptrdiff_t>(size) + 63) / 64 * 64;
    }

    const Plan& plan_;
    std::ptrdiff_t owners_;
    std::ptrdiff_t stride_;
    std::ptrdiff_t sums_bytes_;
    std::ptrdiff_t entries_bytes_;
    std::ptrdiff_t column_sums_bytes_;
    std::ptrdiff_t tile_bytes_;
    std::ptrdiff_t scratch_bytes_;
    Buffer<16384> memory_;
};

}  // namespace fastbn
