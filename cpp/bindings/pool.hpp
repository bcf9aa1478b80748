// Recycled memory for large results. A fresh block of memory costs more in page faults than the
// operation that fills it; a recycled one costs nothing. Bounded, thread-safe, safe to fork.
#pragma once

#include <cstddef>

namespace fastbn::bindings::pool {

struct Info {
    std::ptrdiff_t limit;   // most bytes kept for reuse
    std::ptrdiff_t held;    // bytes kept now
    std::ptrdiff_t blocks;  // in so many blocks
    std::ptrdiff_t reused;  // results so far that needed no fresh memory
};

// Results below this come from the ordinary allocator, which recycles them itself.
constexpr std::ptrdiff_t pooled_from = std::ptrdiff_t{1} << 20;

// Memory of a result, the owner's alone until it gives it back; raises std::bad_alloc. It begins
// where a page does. A small block, which comes from the ordinary allocator and is not recycled,
// begins at a multiple of 64 bytes.
struct Block {
    explicit Block(std::ptrdiff_t bytes);
    ~Block();
    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;

    char* data = nullptr;
    std::ptrdiff_t size;  // as rounded up
};

Info info();
// Frees at once what exceeds the new limit; 0 turns recycling off.
void set_limit(std::ptrdiff_t bytes);
void clear();

// Makes fork wait until no other thread is inside the pool.
void protect_from_fork();

}  // namespace fastbn::bindings::pool
