// A block of uninitialised memory, aligned to 64 bytes.
#pragma once

#include <cstddef>
#include <new>

namespace fastbn {

class Buffer {
public:
    explicit Buffer(std::ptrdiff_t bytes)
        : data_(static_cast<char*>(::operator new(static_cast<std::size_t>(bytes), alignment))) {}
    ~Buffer() { ::operator delete(data_, alignment); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    char* data() const { return data_; }

private:
    static constexpr std::align_val_t alignment{64};
    char* data_;
};

}  // namespace fastbn
