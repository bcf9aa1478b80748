// All memory that a call needs, taken before anything is written: after that nothing can fail. And
// tiles in memory: an operand's own where the kernels can walk it, else a packed copy of one tile
// in a staging buffer that stays in cache, converted if need be. Unaligned arrays, and types that
// no kernel reads, come to the kernels only through here.
#pragma once

#include <atomic>
#include <cstddef>
#include <new>

#include "engine/plan.hpp"
#include "kernels/table.hpp"
#include "simd/tile.hpp"

namespace fastbn {

// ---- Blocks, arrays, buffers ----

constexpr std::ptrdiff_t huge_page = std::ptrdiff_t{2} << 20;

// So many bytes of uninitialised memory, aligned to 64, and on huge pages where they are many:
// small ones are handed out by the system one by one, at first touch.
std::byte* allocate(std::ptrdiff_t bytes);
void release(std::byte* data, std::ptrdiff_t bytes) noexcept;

// The same: its own where little is enough, so that a small call need not ask the allocator for it.
template <std::ptrdiff_t own_bytes>
class Buffer {
public:
    explicit Buffer(std::ptrdiff_t bytes) : bytes_(bytes) {
        if (bytes > own_bytes) data_ = allocate(bytes);
    }
    ~Buffer() {
        if (data_ != own_) release(data_, bytes_);
    }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    std::byte* data() const { return data_; }
    double* doubles() const { return reinterpret_cast<double*>(data_); }

private:
    std::ptrdiff_t bytes_;
    // What data() points to is not const where the buffer is.
    alignas(64) mutable std::byte own_[own_bytes];
    std::byte* data_ = own_;
};

constexpr std::ptrdiff_t bytes_of_doubles(std::ptrdiff_t n) {
    return n * std::ptrdiff_t{sizeof(double)};
}
inline std::ptrdiff_t round_up_64(std::ptrdiff_t bytes) { return (bytes + 63) / 64 * 64; }

// Hands out one array after the other from a block of memory. Without a block it only measures.
class Arrays {
public:
    explicit Arrays(std::byte* memory) : memory_(memory) {}

    double* doubles(std::ptrdiff_t n) { return static_cast<double*>(take(n, sizeof(double))); }
    void* take(std::ptrdiff_t n, std::ptrdiff_t element_size) {
        std::byte* const array = memory_ == nullptr ? nullptr : memory_ + bytes_;
        bytes_ += round_up_64(n * element_size);
        return array;
    }
    std::ptrdiff_t bytes() const { return bytes_; }

private:
    std::byte* memory_;
    std::ptrdiff_t bytes_ = 0;
};

// A staging buffer for a tile of elements of so many bytes: returns where it begins in each
// thread's staging memory, which has `staging_bytes` so far.
inline std::ptrdiff_t take_staging(const Plan& plan, std::ptrdiff_t element_size,
                                   std::ptrdiff_t& staging_bytes) {
    const std::ptrdiff_t begin = staging_bytes;
    staging_bytes += round_up_64(plan.tile_elements() * element_size + transpose_overhang);
    return begin;
}

// The same for an operand that must be packed.
inline void take_staging(const Plan& plan, Operand& operand, std::ptrdiff_t& staging_bytes) {
    if (!operand || operand.direct) return;
    operand.staging_begin = take_staging(plan, size_of(operand.kernel_dtype), staging_bytes);
    // Origins are subtracted on the way, whatever lies side by side.
    if (operand.transposed && operand.converted() && operand.origins == nullptr) {
        operand.stored_staging_begin = take_staging(plan, size_of(operand.dtype), staging_bytes);
    }
}

// The same for so many parameters of a slab's channels, as float64.
inline std::ptrdiff_t take_parameters(const Plan& plan, std::ptrdiff_t parameters,
                                      std::ptrdiff_t& staging_bytes) {
    const std::ptrdiff_t begin = staging_bytes;
    staging_bytes += parameters * round_up_64(bytes_of_doubles(plan.slab(0).channels));
    return begin;
}

// The memory that one phase of a slab works with. The channel buffers are an operation's own named
// arrays: sums have an entry per span and channel or column, coefficients one per channel or
// column, statistics one per channel. Where slabs are fused they hold the slab's alone, else all of
// x's.
struct Memory {
    std::byte* buffers;
    std::atomic<bool>* out_of_range;  // some channel's coefficients need a `pre` other than 1
    std::ptrdiff_t buffer_size;       // entries of an array per span
    std::ptrdiff_t first_index;       // the index of the arrays' first entry
    std::ptrdiff_t first_channel;     // the channel that the statistics' arrays begin with
    // The thread's own, for the kernels' sums of columns and for tiles that must be packed.
    void* column_scratch;
    std::byte* staging;

    std::ptrdiff_t at(std::ptrdiff_t index) const { return index - first_index; }
    std::ptrdiff_t at(std::ptrdiff_t span, std::ptrdiff_t index) const {
        return span * buffer_size + (index - first_index);
    }
};

class Workspace {
public:
    // buffer_bytes: of an operation's channel buffers; sums_columns: it calls kernels that take
    // memory for sums of columns; staging_bytes: what its operands have taken.
    Workspace(const Plan& plan, std::ptrdiff_t buffer_bytes, bool sums_columns,
              std::ptrdiff_t staging_bytes)
        : plan_(plan),
          owners_(plan.fused ? plan.team.threads : 1),
          buffer_bytes_(flag_bytes + buffer_bytes),
          column_bytes_(sums_columns && !plan.layout.channels_first()
                            ? scratch_blocks(plan.slab_buffer_size) *
                                  static_cast<std::ptrdiff_t>(column_scratch_bytes)
                            : 0),
          scratch_bytes_(column_bytes_ + staging_bytes),
          memory_(owners_ * buffer_bytes_ + plan.team.threads * scratch_bytes_) {
        for (std::ptrdiff_t i = 0; i < owners_; ++i) {
            new (memory_.data() + i * buffer_bytes_) std::atomic<bool>(false);
        }
    }

    // Entries that an operation's arrays have: of sums per span, of statistics.
    static std::ptrdiff_t buffer_size(const Plan& plan) {
        return plan.fused ? plan.slab_buffer_size : plan.buffer_size();
    }
    static std::ptrdiff_t channels(const Plan& plan) {
        return plan.fused ? plan.slab(0).channels : plan.layout.channels;
    }

    // The thread's own where slabs are fused, else those of all slabs.
    Memory memory(const Slab& slab, int thread) const {
        std::byte* const own = memory_.data() + (plan_.fused ? thread * buffer_bytes_ : 0);
        std::byte* const scratch =
            memory_.data() + owners_ * buffer_bytes_ + thread * scratch_bytes_;
        Memory memory{};
        memory.buffers = own + flag_bytes;
        memory.out_of_range = std::launder(reinterpret_cast<std::atomic<bool>*>(own));
        memory.buffer_size = buffer_size(plan_);
        memory.first_index = plan_.fused ? slab.buffer_index : 0;
        memory.first_channel = plan_.fused ? slab.channel : 0;
        memory.column_scratch = scratch;
        memory.staging = scratch + column_bytes_;
        return memory;
    }

private:
    static constexpr std::ptrdiff_t flag_bytes = 64;

    const Plan& plan_;
    std::ptrdiff_t owners_;
    std::ptrdiff_t buffer_bytes_;
    std::ptrdiff_t column_bytes_;
    std::ptrdiff_t scratch_bytes_;
    Buffer<16384> memory_;
};

// ---- Tiles ----

// To a contiguous tile of the operand's kernel_dtype.
void pack_tile(const Operand& operand, const TileRange& tile, void* buffer) noexcept;

// Sets values of a packed tile to 0 where `mask`, of bytes, is 0.
void mask_tile(const Operand& mask, const TileRange& tile, double* values) noexcept;

// A tile of an operand that is direct.
Tile<void> direct_tile(const Operand& operand, const TileRange& tile) noexcept;

// The tile's memory, without its values: the operand's own, or its staging buffer. None without an
// operand.
Tile<void> output_tile(const Operand& operand, const TileRange& tile, std::byte* staging) noexcept;
// The tile with its values, to be read.
Tile<const void> input_tile(const Operand& operand, const TileRange& tile,
                            std::byte* staging) noexcept;
// Completes a write to output_tile's memory. stream: past the caches, if the operand is transposed.
void finish_output(const Operand& operand, const TileRange& tile, std::byte* staging,
                   bool stream) noexcept;

}  // namespace fastbn
