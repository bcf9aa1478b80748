// Block<T>: the sixteen virtual lanes that every kernel is written on, whatever register holds
// them. The same lanes on every instruction set, added up in the same order, give the same bits.
// Wants a Vec<T> in namespace fastbn::FASTBN_ISA; knows no operation.
#pragma once

#include <cstddef>

#include "data.hpp"

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

template <class T>
inline bool any_infinite(const Block<T>& block) {
    bool any = false;
#pragma GCC unroll 8
    for (const Vec<T>& part : block.part) any = any | Vec<T>::any_infinite(part);
    return any;
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

// body(i, n) for every block of n columns from i on.
template <class Body>
inline void each_block(std::ptrdiff_t begin, std::ptrdiff_t end, Body&& body) {
    std::ptrdiff_t i = begin;
    for (; i + lanes <= end; i += lanes) body(i, Full{});
    if (i < end) body(i, end - i);
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
