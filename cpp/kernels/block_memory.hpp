// Blocks and their registers out of memory and back, whole or in part, whatever type they are
// stored in. Knows no operation.
#pragma once

#include <cstddef>

#include "block.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

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

template <class T, class S>
inline Block<T> load(const S* p, Full, const Block<T>&) {
    Block<T> b;
#pragma GCC unroll 8
    for (int k = 0; k < Block<T>::registers; ++k) b.part[k] = Vec<T>::load(p + k * Vec<T>::width);
    return b;
}

// Lanes past the tail's end are fill's.
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

// A block's registers, one by one where the instruction set has no better way for a type.
template <class T, class Y, int n>
inline void store_registers(Y* p, const Vec<T> (&a)[n]) {
#pragma GCC unroll 8
    for (int k = 0; k < n; ++k) a[k].store(p + k * Vec<T>::width);
}
template <class T, class Y, int n>
inline void stream_registers(Y* p, const Vec<T> (&a)[n]) {
#pragma GCC unroll 8
    for (int k = 0; k < n; ++k) a[k].stream(p + k * Vec<T>::width);
}

template <class T, class Y>
inline void store(Y* p, Full, const Block<T>& b) {
    store_registers(p, b.part);
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
    stream_registers(p, b.part);
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

template <class T>
inline double first_value(const T* p) {
    double values[lanes];
    store(values, 1, load<double>(p, 1));
    return values[0];
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
