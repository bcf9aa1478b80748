// Arrays as the engine sees them: memory, a type, a shape, strides; the strided loops over them;
// and their elements, converted. No owner, no Python, no axes that mean anything.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/table.hpp"
#include "numerics/dtype.hpp"

namespace fastbn {

constexpr int max_dimensions = 64;  // NumPy's own limit

// Shape and strides are copies: others may change an array's own while a call runs.
struct ArrayRef {
    char* data = nullptr;
    DType dtype = DType::float64;
    bool swapped = false;  // its values' bytes are in the order of other machines
    int ndim = 0;
    std::ptrdiff_t shape[max_dimensions];    // only the first ndim are ever read, or copied
    std::ptrdiff_t strides[max_dimensions];  // in bytes

    // NOLINTNEXTLINE(modernize-use-equals-default): ArrayRef{} would clear all of shape and strides
    ArrayRef() {}
    ArrayRef(char* memory, DType type, int n, const std::ptrdiff_t* sizes,
             const std::ptrdiff_t* steps, bool other_byte_order = false)
        : data(memory), dtype(type), swapped(other_byte_order), ndim(n) {
        std::copy_n(sizes, n, shape);
        std::copy_n(steps, n, strides);
    }
    ArrayRef(const ArrayRef& other)
        : ArrayRef(other.data, other.dtype, other.ndim, other.shape, other.strides, other.swapped) {
    }
    ArrayRef& operator=(const ArrayRef& other) {
        if (this == &other) return *this;
        data = other.data;
        dtype = other.dtype;
        swapped = other.swapped;
        ndim = other.ndim;
        std::copy_n(other.shape, ndim, shape);
        std::copy_n(other.strides, ndim, strides);
        return *this;
    }

    explicit operator bool() const { return data != nullptr; }

    // The number of elements.
    std::ptrdiff_t size() const {
        std::ptrdiff_t n = 1;
        for (int i = 0; i < ndim; ++i) n *= shape[i];
        return n;
    }
    std::ptrdiff_t bytes() const { return size() * size_of(dtype); }
    bool has_shape_of(const ArrayRef& other) const {
        return ndim == other.ndim && std::equal(shape, shape + ndim, other.shape);
    }
};

// Whether an element of so many bytes can be loaded as it is.
inline bool is_aligned(const void* element, std::ptrdiff_t size) {
    return reinterpret_cast<std::uintptr_t>(element) % static_cast<std::size_t>(size) == 0;
}

struct Dim {
    std::ptrdiff_t size;
    std::ptrdiff_t stride;  // in bytes
};

// A nest of strided loops over memory, the outermost first. Empty means one element.
struct Dims {
    int n = 0;
    Dim dim[max_dimensions];  // only the first n are ever read, or copied

    // NOLINTNEXTLINE(modernize-use-equals-default): likewise
    Dims() {}
    Dims(const Dims& other) : n(other.n) { std::copy_n(other.dim, n, dim); }
    Dims& operator=(const Dims& other) {
        if (this == &other) return *this;
        n = other.n;
        std::copy_n(other.dim, n, dim);
        return *this;
    }

    // Appends an inner loop, or lengthens the innermost one where the two are one loop.
    void push(std::ptrdiff_t size, std::ptrdiff_t stride) {
        if (size == 1) return;
        if (n > 0 && dim[n - 1].stride == size * stride) {
            dim[n - 1] = {dim[n - 1].size * size, stride};
        } else {
            dim[n++] = {size, stride};
        }
    }

    // Whether all is one element, again and again.
    bool is_broadcast() const {
        return std::all_of(dim, dim + n, [](const Dim& d) { return d.stride == 0; });
    }

    // Byte offset of element `index`, counted with the innermost loop fastest. What is left of the
    // index is the outermost loop's: dividing it once more would take longer than the rest.
    std::ptrdiff_t offset(std::ptrdiff_t index) const {
        std::ptrdiff_t bytes = 0;
        for (int i = n - 1; i > 0; --i) {
            bytes += index % dim[i].size * dim[i].stride;
            index /= dim[i].size;
        }
        return n > 0 ? bytes + index * dim[0].stride : 0;
    }
};

// visit(offset, length, stride) for consecutive evenly spaced elements, of elements
// begin .. begin + count.
template <class Visit>
void each_stretch(const Dims& dims, std::ptrdiff_t begin, std::ptrdiff_t count, Visit&& visit) {
    const Dim inner = dims.n > 0 ? dims.dim[dims.n - 1] : Dim{1, 0};
    while (count > 0) {
        const std::ptrdiff_t left = inner.size - begin % inner.size;
        const std::ptrdiff_t length = left < count ? left : count;
        visit(dims.offset(begin), length, inner.stride);
        begin += length;
        count -= length;
    }
}

// Copies evenly spaced elements of any type, byte order and alignment to such elements of another
// type, or of the same: each value is rounded once, to nearest even. Of two types one is float32 or
// float64, and what is written is a floating-point number, or both are the same. What to do is
// found out once; a copy is then a call through pointers.
class ElementCopy {
public:
    // swapped: the bytes of values are in the order of other machines.
    ElementCopy(DType from, bool from_swapped, DType to, bool to_swapped);
    // Out of an array to values that kernels take, and back.
    static ElementCopy reading(DType array, bool swapped, DType seen) {
        return {array, swapped, seen, false};
    }
    static ElementCopy writing(DType seen, DType array, bool swapped) {
        return {seen, false, array, swapped};
    }

    // Strides in bytes. From a stride of 0 one value is copied n times.
    void operator()(const char* from, std::ptrdiff_t from_stride, char* to,
                    std::ptrdiff_t to_stride, std::ptrdiff_t n) const noexcept;
    // Where both are side by side.
    void dense(const void* from, void* to, std::ptrdiff_t n) const noexcept {
        (*this)(static_cast<const char*>(from), from_size_, static_cast<char*>(to), to_size_, n);
    }

private:
    using Move = void (*)(const char* from, std::ptrdiff_t from_stride, char* to,
                          std::ptrdiff_t to_stride, std::ptrdiff_t n) noexcept;

    std::ptrdiff_t from_size_;
    std::ptrdiff_t to_size_;
    bool from_swapped_;
    bool to_swapped_;
    Move read_;           // from an array's memory, in its own type
    Move write_;          // to it
    Conversion convert_;  // of native values side by side; null if the types are the same
};

// n elements of an array in C order, from number `first` on, as float64, and back.
void read_elements(const ArrayRef& array, std::ptrdiff_t first, std::ptrdiff_t n,
                   double* to) noexcept;
void write_elements(const double* from, const ArrayRef& array, std::ptrdiff_t first,
                    std::ptrdiff_t n) noexcept;
// Where an array has its elements side by side in C order, each to be loaded as it is; else null.
const double* as_doubles(const ArrayRef& array) noexcept;
// The element of an array's type at an address.
double element_at(const ArrayRef& array, const char* element) noexcept;

}  // namespace fastbn
