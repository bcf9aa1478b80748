// A nest of strided loops over memory, and walking a range of it. Knows no axes, no channels.
#pragma once

#include <algorithm>
#include <cstddef>

#include "engine/array.hpp"

namespace fastbn {

struct Dim {
    std::ptrdiff_t size;
    std::ptrdiff_t stride;  // in bytes
};

// The outermost loop first. Empty means one element.
struct Dims {
    int n = 0;
    Dim dim[max_dimensions];  // only the first n are ever read, or copied

    Dims() = default;
    Dims(const Dims& other) : n(other.n) { std::copy_n(other.dim, n, dim); }
    Dims& operator=(const Dims& other) {
        if (this == &other) return *this;
        n = other.n;
        std::copy_n(other.dim, n, dim);
        return *this;
    }

    // Appends an inner loop, or lengthens the innermost one where the two run as one.
    void push(std::ptrdiff_t size, std::ptrdiff_t stride) {
        if (size == 1) return;
        if (n > 0 && dim[n - 1].stride == size * stride) {
            dim[n - 1] = {dim[n - 1].size * size, stride};
        } else {
            dim[n++] = {size, stride};
        }
    }

    // Byte offset of element `index`, counted with the innermost loop running fastest.
    std::ptrdiff_t offset(std::ptrdiff_t index) const {
        std::ptrdiff_t bytes = 0;
        for (int i = n - 1; i >= 0; --i) {
            bytes += index % dim[i].size * dim[i].stride;
            index /= dim[i].size;
        }
        return bytes;
    }
};

// run(offset, length, stride) for consecutive stretches of elements begin .. begin + count.
template <class Run>
void each_stretch(const Dims& dims, std::ptrdiff_t begin, std::ptrdiff_t count, Run&& run) {
    const Dim inner = dims.n > 0 ? dims.dim[dims.n - 1] : Dim{1, 0};
    while (count > 0) {
        const std::ptrdiff_t left = inner.size - begin % inner.size;
        const std::ptrdiff_t length = left < count ? left : count;
        run(dims.offset(begin), length, inner.stride);
        begin += length;
        count -= length;
    }
}

}  // namespace fastbn
