#include "engine/memory.hpp"

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <new>

namespace fastbn {
namespace {

bool is_on_huge_pages(std::ptrdiff_t bytes) { return bytes >= 2 * huge_page; }
std::align_val_t alignment_of(std::ptrdiff_t bytes) {
    return static_cast<std::align_val_t>(is_on_huge_pages(bytes) ? huge_page : 64);
}

constexpr std::ptrdiff_t flag_bytes = 64;

std::ptrdiff_t column_scratch_of(const Plan& plan, bool sums_columns) {
    if (!sums_columns || plan.layout.channels_first()) return 0;
    return scratch_blocks(plan.slab_buffer_size) *
           static_cast<std::ptrdiff_t>(column_scratch_bytes);
}

}  // namespace

std::byte* allocate(std::ptrdiff_t bytes) {
    const auto size = static_cast<std::size_t>(bytes);
    // The form that returns null: AddressSanitizer's other one ends the process.
    void* const data = ::operator new(size, alignment_of(bytes), std::nothrow);
    if (data == nullptr) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    if (is_on_huge_pages(bytes)) madvise(data, size, MADV_HUGEPAGE);  // a wish; may be refused
#endif
    return static_cast<std::byte*>(data);
}
void release(std::byte* data, std::ptrdiff_t bytes) noexcept {
    ::operator delete(data, alignment_of(bytes));
}

Workspace::Workspace(const Plan& plan, std::ptrdiff_t buffer_bytes, bool sums_columns,
                     std::ptrdiff_t staging_bytes)
    : plan_(plan),
      owners_(plan.fused ? plan.team.threads : 1),
      buffer_bytes_(flag_bytes + buffer_bytes),
      column_bytes_(column_scratch_of(plan, sums_columns) + red_zone),
      scratch_bytes_(column_bytes_ + staging_bytes),
      memory_(owners_ * buffer_bytes_ + plan.team.threads * scratch_bytes_) {
    for (std::ptrdiff_t i = 0; i < owners_; ++i) {
        new (memory_.data() + i * buffer_bytes_) std::atomic<bool>(false);
    }
    for (int thread = 0; thread < plan.team.threads && red_zone > 0; ++thread) {
        forbid(memory(Slab{}, thread).staging - red_zone, red_zone);
    }
}

Memory Workspace::memory(const Slab& slab, int thread) const {
    std::byte* const own = memory_.data() + (plan_.fused ? thread * buffer_bytes_ : 0);
    std::byte* const scratch = memory_.data() + owners_ * buffer_bytes_ + thread * scratch_bytes_;
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

}  // namespace fastbn
