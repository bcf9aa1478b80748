// Block<T>: the sixteen virtual lanes that every kernel is written on, whatever register holds
// them. The same lanes on every instruction set, added up in the same order, give the same bits.
// Wants a Vec<T> in namespace fastbn::FASTBN_ISA; knows no operation.
#pragma once

#include <cstddef>

#include "table.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

// The length of a whole block, where a tail has a std::ptrdiff_t: kernels take either as `n`.
struct Full {};
template <class N>
constexpr bool is_full = false;
template <>
constexpr bool is_full<Full> = true;

template <class T>
struct Block {
    static constexpr std::ptrdiff_t width = Vec<T>::width;
    static constexpr int registers = static_cast<int>(lanes / width);
    Vec<T> part[registers];
};

using Wide = Block<double>;

template <class T>
inline Block<T> broadcast(T a) {
    Block<T> b;
    for (Vec<T>& part : b.part) part = Vec<T>::broadcast(a);
    return b;
}

// How many of the n elements of a tail fall into register k.
template <class T>
inline std::ptrdiff_t in_register(std::ptrdiff_t n, int k) {
    const std::ptrdiff_t left = n - k * Vec<T>::width;
    return left < 0 ? 0 : (left < Vec<T>::width ? left : Vec<T>::width);
}

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
template <class T, class S>
[[gnu::noinline]] Vec<T> load_part(const S* p, std::ptrdiff_t n, Vec<T> fill) {
    S whole[Vec<T>::width] = {};
    for (std::ptrdiff_t i = 0; i < n; ++i) whole[i] = p[i];
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

// Lanes past the tail's end are fill's.
template <class T, class S>
inline Block<T> load(const S* p, Full, const Block<T>&) {
    Block<T> b;
#pragma GCC unroll 8
    for (int k = 0; k < Block<T>::registers; ++k) b.part[k] = Vec<T>::load(p + k * Vec<T>::width);
    return b;
}

template <class T, class S>
inline Block<T> load(const S* p, std::ptrdiff_t n, const Block<T>& fill) {
    Block<T> b = fill;
#pragma GCC unroll 8
    for (int k = 0; k < Block<T>::registers; ++k) {
        const std::ptrdiff_t in = in_register<T>(n, k);
        if (in > 0) b.part[k] = load_part<T>(p + k * Vec<T>::width, in, fill.part[k]);
    }
    return b;
}

template <class T, class N, class S>
inline Block<T> load(const S* p, N n) {
    return load<T>(p, n, broadcast(T(0)));
}

template <class T, class Y>
inline void store(Y* p, Full, const Block<T>& b) {
#pragma GCC unroll 8
    for (int k = 0; k < Block<T>::registers; ++k) b.part[k].store(p + k * Vec<T>::width);
}

template <class T, class Y>
inline void store(Y* p, std::ptrdiff_t n, const Block<T>& b) {
#pragma GCC unroll 8
    for (int k = 0; k < Block<T>::registers; ++k) {
        const std::ptrdiff_t in = in_register<T>(n, k);
        if (in > 0) store_part(p + k * Vec<T>::width, in, b.part[k]);
    }
}

template <class T, class Y>
inline void store_streaming(Y* p, const Block<T>& b) {
#pragma GCC unroll 8
    for (int k = 0; k < Block<T>::registers; ++k) b.part[k].stream(p + k * Vec<T>::width);
}

// The first n lanes of a, the others of b.
template <class T>
inline Block<T> blend(std::ptrdiff_t n, Block<T> a, const Block<T>& b) {
#pragma GCC unroll 8
    for (int k = 0; k < Block<T>::registers; ++k) {
        a.part[k] = Vec<T>::blend(in_register<T>(n, k), a.part[k], b.part[k]);
    }
    return a;
}

// b where p <= 0, a elsewhere: where p is NaN too.
template <class T>
inline Block<T> unless_positive(const Block<T>& p, Block<T> a, const Block<T>& b) {
#pragma GCC unroll 8
    for (int k = 0; k < Block<T>::registers; ++k) {
        a.part[k] = Vec<T>::unless_positive(p.part[k], a.part[k], b.part[k]);
    }
    return a;
}

template <class T>
inline Block<T> operator+(Block<T> a, const Block<T>& b) {
#pragma GCC unroll 8
    for (int k = 0; k < Block<T>::registers; ++k) a.part[k] = a.part[k] + b.part[k];
    return a;
}

template <class T>
inline Block<T> operator-(Block<T> a, const Block<T>& b) {
#pragma GCC unroll 8
    for (int k = 0; k < Block<T>::registers; ++k) a.part[k] = a.part[k] - b.part[k];
    return a;
}

template <class T>
inline Block<T> operator*(Block<T> a, const Block<T>& b) {
#pragma GCC unroll 8
    for (int k = 0; k < Block<T>::registers; ++k) a.part[k] = a.part[k] * b.part[k];
    return a;
}

template <class T>
inline Block<T> operator*(const Block<T>& a, T b) {
    return a * broadcast(b);
}

// a + b, in every second register by the multipliers.
inline Vec<double> add_evenly(int k, Vec<double> a, Vec<double> b) {
    return k % 2 == 0 ? a + b : add_by_fma(a, b);
}

inline Block<double> clamp_negative(Block<double> a) {
    for (Vec<double>& part : a.part) part = clamp_negative(part);
    return a;
}

inline bool all_positive(const Block<double>& block) {
    bool all = true;
    for (const Vec<double>& part : block.part) all = all && Vec<double>::all_positive(part);
    return all;
}

inline double clamp_negative(double a) { return a < 0.0 ? 0.0 : a; }

// body(k, n) for every register k that holds some of n elements of a block: all of them, or `in`.
template <class Body>
inline void each_register(Full, const Body& body) {
#pragma GCC unroll 8
    for (int k = 0; k < Wide::registers; ++k) body(k, Full{});
}

template <class Body>
inline void each_register(std::ptrdiff_t n, const Body& body) {
    for (int k = 0; k < Wide::registers; ++k) {
        const std::ptrdiff_t in = in_register<double>(n, k);
        if (in > 0) body(k, in);
    }
}

// Register k of a block, widened.
inline Vec<double> widened(const Block<double>& b, int k) { return b.part[k]; }
inline Vec<double> widened(const Block<float>& b, int k) {
    return Vec<double>::half_of(b.part[k / 2], k % 2 != 0);
}

// Register k of the block at p, widened.
template <class S>
inline Vec<double> load_register(const S* p, int k, Full, const Wide&) {
    return Vec<double>::load(p + k * Wide::width);
}

template <class S>
inline Vec<double> load_register(const S* p, int k, std::ptrdiff_t in, const Wide& fill) {
    return load_part<double>(p + k * Wide::width, in, fill.part[k]);
}

// body(i, n) for every block of n columns from i on.
template <class Body>
inline void each_block(std::ptrdiff_t begin, std::ptrdiff_t end, Body&& body) {
    std::ptrdiff_t i = begin;
    for (; i + lanes <= end; i += lanes) body(i, Full{});
    if (i < end) body(i, end - i);
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
