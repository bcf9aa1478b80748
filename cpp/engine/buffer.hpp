// A block of uninitialised memory, aligned to 64 bytes: its own where little is enough, so that a
// small call need not ask the allocator for it.
#pragma once

#include <cstddef>
#include <new>

namespace fastbn {

template <std::ptrdiff_t own_bytes>
class Buffer {
public:
    explicit Buffer(std::ptrdiff_t bytes) {
        if (bytes <= own_bytes) return;
        data_ = static_cast<std::byte*>(::operator new(static_cast<std::size_t>(bytes), alignment));
    }
    ~Buffer() {
        if (data_ != own_) ::operator delete(data_, alignment);
    }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    std::byte* data() const { return data_; }

private:
    static constexpr std::align_val_t alignment{64};
    alignas(64) std::byte own_[own_bytes];
    std::byte* data_ = own_;
};

}  // namespace fastbn
