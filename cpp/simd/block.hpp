// Block<T>: the sixteen virtual lanes that every kernel is written on, whatever registers hold
// them; out of memory and back, whole or in part, whatever type they are stored in. The same lanes
// on every instruction set, added up in the same order, give the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "simd/tile.hpp"
#include "simd/vec.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

// The length of a whole block, where a tail has a std::ptrdiff_t: kernels take either as `n`.
struct Full {};
// The same where the result is streamed: loads are chosen for data that come from memory.
struct FullStreamed : Full {};
template <class N>
constexpr bool is_full = is_same<N, Full> || is_same<N, FullStreamed>;
inline std::ptrdiff_t count_of(Full) { return lanes; }
inline std::ptrdiff_t count_of(std::ptrdiff_t n) { return n; }

template <class T>
struct Block {
    static constexpr std::ptrdiff_t width = Vec<T>::width;
    static constexpr int registers = static_cast<int>(lanes / width);
    Vec<T> reg[registers];
};

using Wide = Block<double>;

// Whether a register is as long as a line of the caches: it lies in two, unless it begins with one.
constexpr bool registers_are_lines = sizeof(Vec<double>) == line_bytes;

// ---- Going over registers and blocks ----

// How many of the n elements of a tail fall into register k.
template <class T>
inline std::ptrdiff_t in_register(std::ptrdiff_t n, int k) {
    const std::ptrdiff_t left = n - k * Vec<T>::width;
    return left < 0 ? 0 : (left < Vec<T>::width ? left : Vec<T>::width);
}

// body(k, n) for every register k of a Wide that holds some of n elements of a block: all of them,
// or n.
template <class Body>
inline void each_register(Full, const Body& body) {
    FASTBN_UNROLL
    for (int k = 0; k < Wide::registers; ++k) body(k, Full{});
}

template <class Body>
inline void each_register(std::ptrdiff_t n, const Body& body) {
    FASTBN_UNROLL
    for (int k = 0; k < Wide::registers; ++k) {
        const std::ptrdiff_t in = in_register<double>(n, k);
        if (in > 0) body(k, in);
    }
}

// body(i, n) for every block of the columns from `begin` to `end`.
template <class Body>
inline void each_block(std::ptrdiff_t begin, std::ptrdiff_t end, Body&& body) {
    std::ptrdiff_t i = begin;
    for (; i + lanes <= end; i += lanes) body(i, Full{});
    if (i < end) body(i, end - i);
}

// ---- Arithmetic ----

template <class T>
inline Block<T> broadcast(T a) {
    Block<T> b;
    FASTBN_UNROLL
    for (Vec<T>& reg : b.reg) reg = Vec<T>::broadcast(a);
    return b;
}

// Register by register: what holds several blocks g++ 12 copies as a whole by way of memory, or by
// a string instruction, which is slow to start.
template <class T>
inline void copy(const Block<T>& from, Block<T>& to) {
    FASTBN_UNROLL
    for (int k = 0; k < Block<T>::registers; ++k) to.reg[k] = from.reg[k];
}

// The first n lanes of a, the others of b.
template <class T>
inline Block<T> blend(std::ptrdiff_t n, Block<T> a, const Block<T>& b) {
    FASTBN_UNROLL
    for (int k = 0; k < Block<T>::registers; ++k) {
        a.reg[k] = Vec<T>::blend(in_register<T>(n, k), a.reg[k], b.reg[k]);
    }
    return a;
}

// b where p <= 0, a elsewhere: where p is NaN too.
template <class T>
inline Block<T> unless_positive(const Block<T>& p, Block<T> a, const Block<T>& b) {
    FASTBN_UNROLL
    for (int k = 0; k < Block<T>::registers; ++k) {
        a.reg[k] = Vec<T>::unless_positive(p.reg[k], a.reg[k], b.reg[k]);
    }
    return a;
}

template <class T>
inline Block<T> operator+(Block<T> a, const Block<T>& b) {
    FASTBN_UNROLL
    for (int k = 0; k < Block<T>::registers; ++k) a.reg[k] = a.reg[k] + b.reg[k];
    return a;
}

template <class T>
inline Block<T> operator-(Block<T> a, const Block<T>& b) {
    FASTBN_UNROLL
    for (int k = 0; k < Block<T>::registers; ++k) a.reg[k] = a.reg[k] - b.reg[k];
    return a;
}

template <class T>
inline Block<T> operator*(Block<T> a, const Block<T>& b) {
    FASTBN_UNROLL
    for (int k = 0; k < Block<T>::registers; ++k) a.reg[k] = a.reg[k] * b.reg[k];
    return a;
}

template <class T>
inline Block<T> operator*(const Block<T>& a, T b) {
    return a * broadcast(b);
}

// a + b for register k of a block: in every second one by the multipliers, so that both kinds of
// unit have as much to do.
inline Vec<double> add_evenly(int k, Vec<double> a, Vec<double> b) {
    return k % 2 == 0 ? a + b : add_by_fma(a, b);
}

inline Wide clamp_negative(Wide a) {
    FASTBN_UNROLL
    for (Vec<double>& reg : a.reg) reg = clamp_negative(reg);
    return a;
}
inline double clamp_negative(double a) { return a < 0.0 ? 0.0 : a; }

// Whether the first n lanes are all > 0.
inline bool all_positive(const Wide& block, Full) {
    bool all = true;
    FASTBN_UNROLL
    for (const Vec<double>& reg : block.reg) all = all & Vec<double>::all_positive(reg);
    return all;
}
inline bool all_positive(const Wide& block, std::ptrdiff_t n) {
    return all_positive(blend(n, block, broadcast(1.0)), Full{});
}

template <class T>
inline bool any_infinite(const Block<T>& block) {
    bool any = false;
    FASTBN_UNROLL
    for (const Vec<T>& reg : block.reg) any = any | Vec<T>::any_infinite(reg);
    return any;
}

// The sum of a block's lanes: the upper half is added to the lower, four times; first whole
// registers, then the first n lanes of the one that is left.
template <std::ptrdiff_t n = Vec<double>::width>
inline double sum_of_lanes(Vec<double> a) {
    if constexpr (n == 1) {
        return Vec<double>::first(a);
    } else {
        return sum_of_lanes<n / 2>(a + Vec<double>::upper_half<n>(a));
    }
}
inline double horizontal_sum(Wide b) {
    FASTBN_UNROLL
    for (int half = Wide::registers / 2; half > 0; half /= 2) {
        FASTBN_UNROLL
        for (int k = 0; k < half; ++k) b.reg[k] = b.reg[k] + b.reg[k + half];
    }
    return sum_of_lanes(b.reg[0]);
}

// ---- Memory ----

// The first n elements from p on, of a type that registers hold or of one that is converted: that
// one by way of whole registers, since not every instruction set can load a part of one.
template <class T>
inline Vec<T> load_part(const float* p, std::ptrdiff_t n, Vec<T> fill) {
    return Vec<T>::load(p, n, fill);
}
template <class T>
inline Vec<T> load_part(const double* p, std::ptrdiff_t n, Vec<T> fill) {
    return Vec<T>::load(p, n, fill);
}

// The first n values from p on, at most eight bytes of them, as one integer, the first value
// lowest.
template <class S>
inline std::uint64_t bytes_of(const S* p, std::ptrdiff_t n) {
    std::uint64_t all = 0;
    for (std::ptrdiff_t i = n - 1; i >= 0; --i) {
        std::uint64_t bits = 0;
        __builtin_memcpy(&bits, p + i, sizeof(S));
        all = all << (8 * sizeof(S)) | bits;
    }
    return all;
}
constexpr bool is_little_endian = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__;
// g++ 12 ignores the attribute of an alias within load_part, whose size depends on its parameters.
template <std::size_t bytes>
struct Words {
    using Type [[gnu::vector_size(bytes)]] = std::uint64_t;
};
template <class T, class S>
[[gnu::noinline]] Vec<T> load_part(const S* p, std::ptrdiff_t n, Vec<T> fill) {
    S whole[Vec<T>::width] = {};
    constexpr std::ptrdiff_t bytes = sizeof whole;
    constexpr std::ptrdiff_t step = 8 / std::ptrdiff_t{sizeof(S)};
    if constexpr (is_little_endian && bytes % 8 == 0) {
        // Stored at once, since what several stores have written takes long to load.
        typename Words<bytes>::Type words{};
        FASTBN_UNROLL
        for (std::ptrdiff_t k = 0; k < bytes / 8; ++k) {
            const std::ptrdiff_t left = n - k * step;
            if (left > 0) words[k] = bytes_of(p + k * step, left < step ? left : step);
        }
        __builtin_memcpy(whole, &words, sizeof whole);
    } else {
        for (std::ptrdiff_t i = 0; i < n; ++i) whole[i] = p[i];
    }
    return Vec<T>::blend(n, Vec<T>::load(whole), fill);
}

template <class T>
inline void store_part(T* p, std::ptrdiff_t n, Vec<T> a) {
    a.store(p, n);
}
template <class T, class Y>
[[gnu::noinline]] void store_part(Y* p, std::ptrdiff_t n, Vec<T> a) {
    Y whole[Vec<T>::width];
    a.store(whole);
    for (std::ptrdiff_t i = 0; i < n; ++i) p[i] = whole[i];
}

template <class T, class S>
inline Block<T> load(const S* p, Full, const Block<T>&) {
    Block<T> b;
    FASTBN_UNROLL
    for (int k = 0; k < Block<T>::registers; ++k) b.reg[k] = Vec<T>::load(p + k * Vec<T>::width);
    return b;
}

// As above, unless the instruction set has an overload for the type.
template <class T, class S, int n>
inline void load_from_memory(const S* p, Vec<T> (&a)[n]) {
    FASTBN_UNROLL
    for (int k = 0; k < n; ++k) a[k] = Vec<T>::load(p + k * Vec<T>::width);
}
template <class T, class S>
inline Block<T> load(const S* p, FullStreamed, const Block<T>&) {
    Block<T> b;
    load_from_memory(p, b.reg);
    return b;
}

// Lanes past the tail's end are fill's.
template <class T, class S>
inline Block<T> load(const S* p, std::ptrdiff_t n, const Block<T>& fill) {
    Block<T> b = fill;
    FASTBN_UNROLL
    for (int k = 0; k < Block<T>::registers; ++k) {
        const std::ptrdiff_t in = in_register<T>(n, k);
        if (in > 0) b.reg[k] = load_part<T>(p + k * Vec<T>::width, in, fill.reg[k]);
    }
    return b;
}

template <class T, class N, class S>
inline Block<T> load(const S* p, N n) {
    return load<T>(p, n, broadcast(T(0)));
}

// A block's registers, one by one unless the instruction set has an overload for the type.
template <class T, class Y, int n>
inline void store_registers(Y* p, const Vec<T> (&a)[n]) {
    FASTBN_UNROLL
    for (int k = 0; k < n; ++k) a[k].store(p + k * Vec<T>::width);
}
template <class T, class Y, int n>
inline void stream_registers(Y* p, const Vec<T> (&a)[n]) {
    FASTBN_UNROLL
    for (int k = 0; k < n; ++k) a[k].stream(p + k * Vec<T>::width);
}

template <class T, class Y>
inline void store(Y* p, Full, const Block<T>& b) {
    store_registers(p, b.reg);
}

template <class T, class Y>
inline void store(Y* p, std::ptrdiff_t n, const Block<T>& b) {
    FASTBN_UNROLL
    for (int k = 0; k < Block<T>::registers; ++k) {
        const std::ptrdiff_t in = in_register<T>(n, k);
        if (in > 0) store_part(p + k * Vec<T>::width, in, b.reg[k]);
    }
}

template <class T, class Y>
inline void stream(Y* p, const Block<T>& b) {
    stream_registers(p, b.reg);
}

// Register k of the block at p, widened.
template <class S>
inline Vec<double> load_register(const S* p, int k, Full, const Wide&) {
    return Vec<double>::load(p + k * Wide::width);
}
template <class S>
inline Vec<double> load_register(const S* p, int k, std::ptrdiff_t in, const Wide& fill) {
    return load_part<double>(p + k * Wide::width, in, fill.reg[k]);
}

// The lanes of register k whose byte is not 0; none past a tail's end.
template <class T>
inline typename Vec<T>::Mask load_mask(const std::uint8_t* p, int k, Full) {
    return Vec<T>::marked(p + k * Vec<T>::width);
}
template <class T>
inline typename Vec<T>::Mask load_mask(const std::uint8_t* p, int k, std::ptrdiff_t in) {
    return Vec<T>::marked(p + k * Vec<T>::width, in);
}

// ---- Values that are to be widened to double ----
//
// Those of sixteen bits become floats first, several blocks of them in memory: from there one
// operation widens four or eight, where a register has to be taken apart.

constexpr std::ptrdiff_t widened_blocks = 8;
template <class S>
constexpr bool widens_twice = sizeof(S) == 2;

// body(i, values, n) for every block of a row's columns, `values` being where load_register finds
// them; before(i) before their reading.
template <class S, class Before, class Body>
inline void each_block_to_widen(const S* row, std::ptrdiff_t cols, const Before& before,
                                const Body& body) {
    std::ptrdiff_t i = 0;
    if constexpr (widens_twice<S>) {
        while (i + lanes <= cols) {
            float values[widened_blocks][lanes];
            std::ptrdiff_t n = 0;
            for (; n < widened_blocks && i + (n + 1) * lanes <= cols; ++n) {
                before(i + n * lanes);
                store(values[n], Full{}, load<float>(row + i + n * lanes, Full{}));
            }
            for (std::ptrdiff_t j = 0; j < n; ++j, i += lanes) body(i, values[j], Full{});
        }
    }
    each_block(i, cols, [&](std::ptrdiff_t at, auto n) {
        before(at);
        body(at, row + at, n);
    });
}

// The same for a block of n columns of some rows, widened_blocks at most: body(r, values).
template <class S, class N, class Before, class Body>
inline void each_row_to_widen(Tile<const S> x, std::ptrdiff_t rows, N n, const Before& before,
                              const Body& body) {
    if constexpr (widens_twice<S> && is_full<N>) {
        float values[widened_blocks][lanes];
        for (std::ptrdiff_t r = 0; r < rows; ++r) {
            before(r);
            store(values[r], Full{}, load<float>(x.data + r * x.stride, n));
        }
        for (std::ptrdiff_t r = 0; r < rows; ++r) body(r, values[r]);
    } else {
        for (std::ptrdiff_t r = 0; r < rows; ++r) {
            before(r);
            body(r, x.data + r * x.stride);
        }
    }
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
