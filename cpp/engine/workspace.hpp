// All memory that the phases of one call need, taken before any thread starts: after that nothing
// can fail.
#pragma once

#include <cstddef>

#include "engine/buffer.hpp"
#include "engine/plan.hpp"
#include "kernels/data.hpp"

namespace fastbn {

// Sums per entry and span, and coefficients per entry, of the entries from `origin` on.
template <class C>
struct Entries {
    double* sums;
    C* coefficients;
    std::ptrdiff_t spans;
    std::ptrdiff_t stride;
    std::ptrdiff_t origin;

    double* sum(int field, std::ptrdiff_t span, std::ptrdiff_t entry) const {
        return sums + (field * spans + span) * stride + (entry - origin);
    }
    C* coefficient(int field, std::ptrdiff_t entry) const {
        return coefficients + field * stride + (entry - origin);
    }
};

// One thread's memory for the kernels' accumulators and for tiles that must be packed.
struct Scratch {
    void* column_sums;
    std::byte* rooms;

    template <class T>
    T* room(const Operand& operand) const {
        return reinterpret_cast<T*>(rooms + operand.room);
    }
};

// Gives each operand that must be packed a room for a tile.
class Rooms {
public:
    explicit Rooms(const Plan& plan) : elements_(plan.tile_elements()) {}

    void add(Operand& operand) {
        if (!operand || operand.direct) return;
        operand.room = bytes_;
        bytes_ += (elements_ * size_of(operand.kernel_dtype) + 63) / 64 * 64;
    }
    std::ptrdiff_t bytes() const { return bytes_; }

private:
    std::ptrdiff_t elements_;
    std::ptrdiff_t bytes_ = 0;
};

// How many of each an operation keeps per entry.
struct Fields {
    int sums;
    int coefficients;
};

template <class C>
class Workspace {
public:
    Workspace(const Plan& plan, Fields fields, const Rooms& rooms)
        : plan_(plan),
          owners_(plan.fused ? plan.threads : 1),
          stride_(plan.fused ? plan.slab_entries : plan.entries()),
          sums_bytes_(round_up(fields.sums * plan.spans * stride_, sizeof(double))),
          entries_bytes_(sums_bytes_ + round_up(fields.coefficients * stride_, sizeof(C))),
          column_sums_bytes_(round_up((plan.slab_entries + lanes - 1) / lanes, column_sums_bytes)),
          scratch_bytes_(column_sums_bytes_ + rooms.bytes()),
          memory_(owners_ * entries_bytes_ + plan.threads * scratch_bytes_) {}

    // The slab's thread's own entries where slabs are fused, else those of all slabs.
    Entries<C> entries(const Slab& slab, int thread) const {
        std::byte* at = memory_.data() + (plan_.fused ? thread * entries_bytes_ : 0);
        return {reinterpret_cast<double*>(at), reinterpret_cast<C*>(at + sums_bytes_), plan_.spans,
                stride_, plan_.fused ? slab.entry : 0};
    }

    Scratch scratch(int thread) const {
        std::byte* at = memory_.data() + owners_ * entries_bytes_ + thread * scratch_bytes_;
        return {at, at + column_sums_bytes_};
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
    std::ptrdiff_t scratch_bytes_;
    Buffer<16384> memory_;
};

}  // namespace fastbn
