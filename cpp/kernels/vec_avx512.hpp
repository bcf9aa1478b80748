// Vec<T>: one AVX-512 register of T, with converting loads. Included by kernels.cpp alone.
#pragma once

#include <immintrin.h>

#include <cstddef>

namespace fastbn::avx512 {
namespace {

template <class T>
struct Vec;

template <>
struct Vec<float> {
    static constexpr std::ptrdiff_t width = 16;
    __m512 v;

    static __mmask16 first(std::ptrdiff_t n) { return static_cast<__mmask16>((1U << n) - 1U); }
    static Vec broadcast(float a) { return {_mm512_set1_ps(a)}; }
    static Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
    static Vec load(const float* p, std::ptrdiff_t n, Vec fill) {
        return {_mm512_mask_loadu_ps(fill.v, first(n), p)};
    }
    void store(float* p) const { _mm512_storeu_ps(p, v); }
    void store(float* p, std::ptrdiff_t n) const { _mm512_mask_storeu_ps(p, first(n), v); }
    void stream(float* p) const { _mm512_stream_ps(p, v); }
    static Vec blend(std::ptrdiff_t n, Vec a, Vec b) {
        return {_mm512_mask_mov_ps(b.v, first(n), a.v)};
    }

    friend Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
    friend Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
    friend Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
};

template <>
struct Vec<double> {
    static constexpr std::ptrdiff_t width = 8;
    __m512d v;

    static __mmask8 first(std::ptrdiff_t n) { return static_cast<__mmask8>((1U << n) - 1U); }
    static Vec broadcast(double a) { return {_mm512_set1_pd(a)}; }
    static Vec load(const double* p) { return {_mm512_loadu_pd(p)}; }
    static Vec load(const double* p, std::ptrdiff_t n, Vec fill) {
        return {_mm512_mask_loadu_pd(fill.v, first(n), p)};
    }
    // The zeroing form: the plain one reads an undefined register in g++ 12's header, and warns.
    static Vec load(const float* p) {
        return {_mm512_maskz_cvtps_pd(first(width), _mm256_loadu_ps(p))};
    }
    static Vec load(const float* p, std::ptrdiff_t n, Vec fill) {
        const __m256 narrow = _mm256_maskz_loadu_ps(first(n), p);
        return {_mm512_mask_cvtps_pd(fill.v, first(n), narrow)};
    }
    void store(double* p) const { _mm512_storeu_pd(p, v); }
    void store(double* p, std::ptrdiff_t n) const { _mm512_mask_storeu_pd(p, first(n), v); }
    void stream(double* p) const { _mm512_stream_pd(p, v); }
    static Vec blend(std::ptrdiff_t n, Vec a, Vec b) {
        return {_mm512_mask_mov_pd(b.v, first(n), a.v)};
    }

    friend Vec operator+(Vec a, Vec b) { return {_mm512_add_pd(a.v, b.v)}; }
    friend Vec operator-(Vec a, Vec b) { return {_mm512_sub_pd(a.v, b.v)}; }
    friend Vec operator*(Vec a, Vec b) { return {_mm512_mul_pd(a.v, b.v)}; }
};

// a + b and a - b from the multipliers: rounded once, a * 1 + b is the same number. Sums keep the
// adders busy, and most processors have as many multipliers.
inline Vec<double> add_by_fma(Vec<double> a, Vec<double> b) {
    return {_mm512_fmadd_pd(a.v, _mm512_set1_pd(1.0), b.v)};
}
inline Vec<double> subtract_by_fma(Vec<double> a, Vec<double> b) {
    return {_mm512_fmsub_pd(a.v, _mm512_set1_pd(1.0), b.v)};
}

// max(0, a) that passes NaN on.
inline Vec<double> clamp_negative(Vec<double> a) {
    const __mmask8 negative = _mm512_cmp_pd_mask(a.v, _mm512_setzero_pd(), _CMP_LT_OQ);
    return {_mm512_mask_mov_pd(a.v, negative, _mm512_setzero_pd())};
}

inline void stream_fence() { _mm_sfence(); }

}  // namespace
}  // namespace fastbn::avx512
