#include "bindings/pool.hpp"

#include <cstddef>
#include <iterator>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

#include "engine/memory.hpp"

namespace fastbn::bindings::pool {
namespace {

constexpr std::ptrdiff_t default_limit = std::ptrdiff_t{256} << 20;

struct Pool {
    std::mutex mutex;
    std::vector<std::pair<char*, std::ptrdiff_t>> free;  // with sizes; the longest unused first
    std::ptrdiff_t held = 0;
    std::ptrdiff_t limit = default_limit;
    std::ptrdiff_t reused = 0;
};

// Never destroyed: results may be given back while the process ends.
Pool& shared_pool() {
    static Pool* const instance = new Pool;
    return *instance;
}

// AddressSanitizer must see every result's end, and its end of life.
#ifdef __SANITIZE_ADDRESS__
constexpr bool recycles = false;
#else
constexpr bool recycles = true;
#endif

constexpr std::ptrdiff_t alignment = 64;
constexpr std::ptrdiff_t small_granule = std::ptrdiff_t{64} << 10;
constexpr std::ptrdiff_t huge_from = std::ptrdiff_t{16} << 20;
// Blocks begin where pages do. The allocator's own begin 64 bytes past a page, and NumPy's
// arrays 16: a processor that compares the last twelve bits of addresses then takes the next load
// of x for one of what was just stored, and waits for it.
constexpr std::ptrdiff_t page = 4096;

// Rounded up by an eighth at most, so that results of nearly the same size share blocks; whole huge
// pages where that is little.
std::ptrdiff_t granule_of(std::ptrdiff_t bytes) {
    if (!recycles || bytes < pooled_from) return alignment;
    return bytes >= huge_from ? huge_page : small_granule;
}

std::ptrdiff_t rounded(std::ptrdiff_t bytes) {
    const std::ptrdiff_t granule = granule_of(bytes);
    return (bytes + granule - 1) / granule * granule;
}

bool is_huge(std::ptrdiff_t size) { return recycles && size >= huge_from; }

std::align_val_t boundary_of(std::ptrdiff_t size) {
    return static_cast<std::align_val_t>(recycles && size >= pooled_from ? page : alignment);
}

char* fresh_block(std::ptrdiff_t size) {
    if (is_huge(size)) return reinterpret_cast<char*>(allocate(size));
    // As in engine/memory.cpp.
    void* const block = operator new(static_cast<std::size_t>(size), boundary_of(size),
                                     std::nothrow);
    if (block == nullptr) throw std::bad_alloc();
    return static_cast<char*>(block);
}

void free_block(char* data, std::ptrdiff_t size) {
    if (is_huge(size)) return release(reinterpret_cast<std::byte*>(data), size);
    operator delete(data, boundary_of(size));
}

// Frees the longest unused blocks until no more than `most` bytes are held.
void shrink(Pool& p, std::ptrdiff_t most) {
    auto end = p.free.begin();
    while (p.held > most) {
        p.held -= end->second;
        free_block(end->first, end->second);
        ++end;
    }
    p.free.erase(p.free.begin(), end);
}

}  // namespace

Block::Block(std::ptrdiff_t bytes) : size(rounded(bytes)) {
    if (size >= pooled_from) {
        Pool& p = shared_pool();
        const std::scoped_lock lock(p.mutex);
        for (auto block = p.free.rbegin(); block != p.free.rend(); ++block) {
            if (block->second != size) continue;
            data = block->first;
            p.free.erase(std::next(block).base());
            p.held -= size;
            ++p.reused;
            return;
        }
    }
    data = fresh_block(size);
}

Block::~Block() {
    if (size < pooled_from) {
        free_block(data, size);
        return;
    }
    Pool& p = shared_pool();
    const std::scoped_lock lock(p.mutex);
    if (!recycles || size > p.limit) {
        free_block(data, size);
        return;
    }
    shrink(p, p.limit - size);
    try {
        p.free.emplace_back(data, size);
        p.held += size;
    } catch (const std::bad_alloc&) {
        free_block(data, size);
    }
}

Info info() {
    Pool& p = shared_pool();
    const std::scoped_lock lock(p.mutex);
    return {p.limit, p.held, static_cast<std::ptrdiff_t>(p.free.size()), p.reused};
}

void set_limit(std::ptrdiff_t bytes) {
    Pool& p = shared_pool();
    const std::scoped_lock lock(p.mutex);
    p.limit = bytes;
    shrink(p, bytes);
}

void clear() {
    Pool& p = shared_pool();
    const std::scoped_lock lock(p.mutex);
    shrink(p, 0);
}

void protect_from_fork() {
#if defined(__unix__) || defined(__APPLE__)
    pthread_atfork([] { shared_pool().mutex.lock(); }, [] { shared_pool().mutex.unlock(); },
                   [] { shared_pool().mutex.unlock(); });
#endif
}

}  // namespace fastbn::bindings::pool
