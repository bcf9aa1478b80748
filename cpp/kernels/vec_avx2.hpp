// Vec<T>: one AVX2 register of T, with converting loads. Included by kernels.cpp alone.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace fastbn::avx2 {
namespace {

// Masks of the first n lanes: a window onto this table that starts 8 - n entries in.
alignas(64) constexpr std::int32_t mask_window[16] = {-1, -1, -1, -1, -1, -1, -1, -1};

inline __m256i first_of_8(std::ptrdiff_t n) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(mask_window + 8 - n));
}

inline __m128i first_of_4(std::ptrdiff_t n) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(mask_window + 8 - n));
}

template <class T>
struct Vec;

template <>
struct Vec<float> {
    static constexpr std::ptrdiff_t width = 8;
    __m256 v;

    static Vec broadcast(float a) { return {_mm256_set1_ps(a)}; }
    static Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
    static Vec load(const float* p, std::ptrdiff_t n, Vec fill) {
        const __m256i mask = first_of_8(n);
        return {_mm256_blendv_ps(fill.v, _mm256_maskload_ps(p, mask), _mm256_castsi256_ps(mask))};
    }
    void store(float* p) const { _mm256_storeu_ps(p, v); }
    void store(float* p, std::ptrdiff_t n) const { _mm256_maskstore_ps(p, first_of_8(n), v); }
    void stream(float* p) const { _mm256_stream_ps(p, v); }
    static Vec blend(std::ptrdiff_t n, Vec a, Vec b) {
        return {_mm256_blendv_ps(b.v, a.v, _mm256_castsi256_ps(first_of_8(n)))};
    }

    friend Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
    friend Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
    friend Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
};

template <>
struct Vec<double> {
    static constexpr std::ptrdiff_t width = 4;
    __m256d v;

    static __m256i first(std::ptrdiff_t n) { return _mm256_cvtepi32_epi64(first_of_4(n)); }
    static Vec broadcast(double a) { return {_mm256_set1_pd(a)}; }
    static Vec load(const double* p) { return {_mm256_loadu_pd(p)}; }
    static Vec load(const double* p, std::ptrdiff_t n, Vec fill) {
        const __m256i mask = first(n);
        return {_mm256_blendv_pd(fill.v, _mm256_maskload_pd(p, mask), _mm256_castsi256_pd(mask))};
    }
    static Vec load(const float* p) { return {_mm256_cvtps_pd(_mm_loadu_ps(p))}; }
    static Vec load(const float* p, std::ptrdiff_t n, Vec fill) {
        const __m256d wide = _mm256_cvtps_pd(_mm_maskload_ps(p, first_of_4(n)));
        return {_mm256_blendv_pd(fill.v, wide, _mm256_castsi256_pd(first(n)))};
    }
    void store(double* p) const { _mm256_storeu_pd(p, v); }
    void store(double* p, std::ptrdiff_t n) const { _mm256_maskstore_pd(p, first(n), v); }
    void stream(double* p) const { _mm256_stream_pd(p, v); }
    static Vec blend(std::ptrdiff_t n, Vec a, Vec b) {
        return {_mm256_blendv_pd(b.v, a.v, _mm256_castsi256_pd(first(n)))};
    }

    friend Vec operator+(Vec a, Vec b) { return {_mm256_add_pd(a.v, b.v)}; }
    friend Vec operator-(Vec a, Vec b) { return {_mm256_sub_pd(a.v, b.v)}; }
    friend Vec operator*(Vec a, Vec b) { return {_mm256_mul_pd(a.v, b.v)}; }
};

// a + b and a - b from the multipliers: rounded once, a * 1 + b is the same number. Sums keep the
// adders busy, and most processors have as many multipliers.
inline Vec<double> add_by_fma(Vec<double> a, Vec<double> b) {
    return {_mm256_fmadd_pd(a.v, _mm256_set1_pd(1.0), b.v)};
}
inline Vec<double> subtract_by_fma(Vec<double> a, Vec<double> b) {
    return {_mm256_fmsub_pd(a.v, _mm256_set1_pd(1.0), b.v)};
}

// max(0, a) that passes NaN on.
inline Vec<double> clamp_negative(Vec<double> a) {
    const __m256d negative = _mm256_cmp_pd(a.v, _mm256_setzero_pd(), _CMP_LT_OQ);
    return {_mm256_andnot_pd(negative, a.v)};
}

inline void stream_fence() { _mm_sfence(); }

}  // namespace
}  // namespace fastbn::avx2
