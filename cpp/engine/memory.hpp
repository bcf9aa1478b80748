// All memory that a call needs, taken before anything is written: after that nothing can fail.
#pragma once

#include <atomic>
#include <cstddef>

#include "engine/plan.hpp"
#include "kernels/table.hpp"

#ifdef FASTBN_SANITIZE
#include <sanitizer/asan_interface.h>
#endif

namespace fastbn {

// Arrays that follow each other in one block look like one to AddressSanitizer. In builds with it,
// so many bytes behind each of them must not be touched until the block is given back.
#ifdef FASTBN_SANITIZE
constexpr std::ptrdiff_t red_zone = 256;
inline void forbid([[maybe_unused]] const std::byte* data, [[maybe_unused]] std::ptrdiff_t bytes) {
    ASAN_POISON_MEMORY_REGION(data, static_cast<std::size_t>(bytes));
}
inline void permit([[maybe_unused]] const std::byte* data, [[maybe_unused]] std::ptrdiff_t bytes) {
    ASAN_UNPOISON_MEMORY_REGION(data, static_cast<std::size_t>(bytes));
}
#else
constexpr std::ptrdiff_t red_zone = 0;
inline void forbid(const std::byte*, std::ptrdiff_t) {}
inline void permit(const std::byte*, std::ptrdiff_t) {}
#endif

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
        if (bytes < own_bytes) forbid(own_ + bytes, own_bytes - bytes);
    }
    ~Buffer() {
        permit(data_, data_ == own_ ? own_bytes : bytes_);
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
        const std::ptrdiff_t taken = round_up_64(n * element_size) + red_zone;
        if (array != nullptr) forbid(array + n * element_size, taken - n * element_size);
        bytes_ += taken;
        return array;
    }
    std::ptrdiff_t bytes() const { return bytes_; }

private:
    std::byte* memory_;
    std::ptrdiff_t bytes_ = 0;
};

// Measures the staging memory that each thread gets, buffer by buffer: where a buffer begins in it
// is what its user remembers. With a thread's memory, it forbids what lies between buffers.
class Staging {
public:
    explicit Staging(const Plan& plan, const std::byte* memory = nullptr)
        : tile_elements_(plan.tile_elements()), memory_(memory) {}

    // For a tile of elements of so many bytes.
    std::ptrdiff_t take_tile(std::ptrdiff_t element_size) {
        return take(tile_elements_ * element_size + transpose_overhang);
    }
    std::ptrdiff_t take_doubles(std::ptrdiff_t n) { return take(bytes_of_doubles(n)); }
    std::ptrdiff_t bytes() const { return bytes_; }

private:
    std::ptrdiff_t take(std::ptrdiff_t bytes) {
        const std::ptrdiff_t begin = bytes_;
        bytes_ += round_up_64(bytes) + red_zone;
        if (memory_ != nullptr) forbid(memory_ + begin + bytes, bytes_ - begin - bytes);
        return begin;
    }

    std::ptrdiff_t tile_elements_;
    const std::byte* memory_;
    std::ptrdiff_t bytes_ = 0;
};

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
    // The thread's own, for the kernels' sums of columns, and for what is packed or converted.
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
    // memory for sums of columns; staging_bytes: what it has measured.
    Workspace(const Plan& plan, std::ptrdiff_t buffer_bytes, bool sums_columns,
              std::ptrdiff_t staging_bytes);

    // Entries that an operation's arrays have: of sums per span, of statistics.
    static std::ptrdiff_t buffer_size(const Plan& plan) {
        return plan.fused ? plan.slab_buffer_size : plan.buffer_size();
    }
    static std::ptrdiff_t channels(const Plan& plan) {
        return plan.fused ? plan.slab_channels() : plan.layout.channels;
    }

    // The thread's own where slabs are fused, else those of all slabs.
    Memory memory(const Slab& slab, int thread) const;

private:
    const Plan& plan_;
    std::ptrdiff_t owners_;
    std::ptrdiff_t buffer_bytes_;
    std::ptrdiff_t column_bytes_;
    std::ptrdiff_t scratch_bytes_;
    Buffer<16384> memory_;
};

}  // namespace fastbn
