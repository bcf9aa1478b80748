// Arrays as the engine sees them: memory, a type, a shape, strides; the strided loops over them,
// and their elements one at a time. No owner, no Python, no axes that mean anything.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "numerics/dtype.hpp"
#include "numerics/half.hpp"

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

    ArrayRef() = default;
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
};

struct Dim {
    std::ptrdiff_t size;
    std::ptrdiff_t stride;  // in bytes
};

// A nest of strided loops over memory, the outermost first. Empty means one element.
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

    // Appends an inner loop, or lengthens the innermost one where the two are one loop.
    void push(std::ptrdiff_t size, std::ptrdiff_t stride) {
        if (size == 1) return;
        if (n > 0 && dim[n - 1].stride == size * stride) {
            dim[n - 1] = {dim[n - 1].size * size, stride};
        } else {
            dim[n++] = {size, stride};
        }
    }

    // Byte offset of element `index`, counted with the innermost loop fastest.
    std::ptrdiff_t offset(std::ptrdiff_t index) const {
        std::ptrdiff_t bytes = 0;
        for (int i = n - 1; i >= 0; --i) {
            bytes += index % dim[i].size * dim[i].stride;
            index /= dim[i].size;
        }
        return bytes;
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

// An element out of memory of any alignment, and into it.
template <class T>
T read_element(const char* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

template <class T>
void write_element(char* to, T value) {
    std::memcpy(to, &value, sizeof value);
}

template <class T>
constexpr bool is_half = std::is_same_v<T, Float16> || std::is_same_v<T, Bfloat16>;

// A value whose bytes are in the order of other machines.
template <class T>
struct Swapped {
    T reversed;
};

// A truth value: any byte but 0 is true, which is 1.
struct Boolean {
    std::uint8_t byte;
};

inline std::uint16_t reverse_bytes(std::uint16_t bits) { return __builtin_bswap16(bits); }
inline std::uint32_t reverse_bytes(std::uint32_t bits) { return __builtin_bswap32(bits); }
inline std::uint64_t reverse_bytes(std::uint64_t bits) { return __builtin_bswap64(bits); }

template <class T>
T reverse_bytes(T value) {
    using Wide = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>;
    using Bits = std::conditional_t<sizeof(T) == 2, std::uint16_t, Wide>;
    Bits bits;
    std::memcpy(&bits, &value, sizeof value);
    bits = reverse_bytes(bits);
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// Calls f with a value of the type that the elements have in memory.
template <class F>
auto visit_stored(DType dtype, bool swapped, F&& f) {
    if (dtype == DType::boolean) return f(Boolean{});
    return visit_dtype(dtype, [&](auto value) {
        if constexpr (sizeof value > 1) {
            if (swapped) return f(Swapped<decltype(value)>{value});
        }
        return f(value);
    });
}

// The float on a number's way to a narrower type: rounded to nearest it could come to lie halfway
// between two of those, and be rounded once more. Cut off, with a last bit that says so, it cannot
// (Boldo & Melquiond 2008, rounding to odd).
inline float round_to_odd(double value) {
    const auto nearest = static_cast<float>(value);
    if (std::isnan(value) || static_cast<double>(nearest) == value) return nearest;
    std::uint32_t bits = bits_of(nearest);
    if (std::fabs(static_cast<double>(nearest)) > std::fabs(value)) --bits;
    return float_of(bits | 1U);
}

template <class T>
constexpr bool is_swapped = false;
template <class T>
constexpr bool is_swapped<Swapped<T>> = true;

// To T, rounded once.
template <class T, class S>
T converted(S value) {
    if constexpr (std::is_same_v<T, S>) {
        return value;
    } else if constexpr (is_swapped<S>) {
        return converted<T>(reverse_bytes(value.reversed));
    } else if constexpr (is_swapped<T>) {
        return {reverse_bytes(converted<decltype(T::reversed)>(value))};
    } else if constexpr (std::is_same_v<S, Boolean>) {
        return converted<T>(static_cast<std::uint8_t>(value.byte != 0 ? 1 : 0));
    } else if constexpr (std::is_same_v<T, Boolean>) {
        return {converted<double>(value) != 0.0 ? std::uint8_t{1} : std::uint8_t{0}};
    } else if constexpr (is_half<S>) {
        return converted<T>(widen(value));
    } else if constexpr (is_half<T>) {
        T half;
        narrow(round_to_odd(static_cast<double>(value)), half);
        return half;
    } else {
        return static_cast<T>(value);
    }
}

}  // namespace fastbn
