// Vec<T> by AVX-512: one register of T. What each operation means is written down in vec.hpp.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "numerics/dtype.hpp"

namespace fastbn::avx512 {
namespace {

// Intrinsics in their zeroing form: the plain one reads an undefined register in g++ 12's headers,
// and warns.
constexpr __mmask16 all_16 = 0xffff;
constexpr __mmask8 all_8 = 0xff;
constexpr int infinities = 0x18;  // of either sign, to the instruction that classifies

inline __m256i load_256(const void* p) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
inline __m128i load_128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline __m128i load_64(const void* p) { return _mm_loadl_epi64(static_cast<const __m128i*>(p)); }

// Which words go where when sixteen of them become the upper halves of sixteen floats, and back.
constexpr __mmask16 upper_words = 0xaaaa;
alignas(64) constexpr std::uint16_t to_upper_words[32] = {
    0, 0, 1, 1, 2,  2,  3,  3,  4,  4,  5,  5,  6,  6,  7,  7,
    8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15};
alignas(64) constexpr std::uint16_t from_upper_words[32] = {1,  3,  5,  7,  9,  11, 13, 15,
                                                            17, 19, 21, 23, 25, 27, 29, 31};

// Sixteen and eight values from p on, as float.
inline __m512 widen_16(const Float16* p) { return _mm512_maskz_cvtph_ps(all_16, load_256(p)); }
inline __m512 widen_16(const Bfloat16* p) {
    const __m512i wide = _mm512_maskz_cvtepu16_epi32(all_16, load_256(p));
    return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(all_16, wide, 16));
}
inline __m512 widen_16(const std::uint8_t* p) {
    const __m512i wide = _mm512_maskz_cvtepu8_epi32(all_16, load_128(p));
    return _mm512_maskz_cvtepi32_ps(all_16, wide);
}
inline __m256 widen_8(const Float16* p) { return _mm256_cvtph_ps(load_128(p)); }
inline __m256 widen_8(const Bfloat16* p) {
    const __m256i values = _mm256_broadcastsi128_si256(load_128(p));
    const __m256i places = load_256(to_upper_words);
    return _mm256_castsi256_ps(_mm256_maskz_permutexvar_epi16(upper_words, places, values));
}
inline __m256 widen_8(const std::uint8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(load_64(p)));
}

// Rounded to nearest, ties to even; see numerics/dtype.hpp.
inline __m256i narrow_16(__m512 a, const Float16*) {
    return _mm512_maskz_cvtps_ph(all_16, a, _MM_FROUND_TO_NEAREST_INT);
}
inline __m256i narrow_16(__m512 a, const Bfloat16*) {
    const __m512i bits = _mm512_castps_si512(a);
    const __mmask16 number = _mm512_cmp_ps_mask(a, a, _CMP_ORD_Q);
    const __mmask16 odd = _mm512_mask_test_epi32_mask(number, bits, _mm512_set1_epi32(0x10000));
    const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    __m512i rounded = _mm512_mask_add_epi32(quiet, number, bits, _mm512_set1_epi32(0x7fff));
    rounded = _mm512_mask_add_epi32(rounded, odd, rounded, _mm512_set1_epi32(1));
    const __m512i places = _mm512_load_si512(from_upper_words);
    const __m512i upper = _mm512_maskz_permutexvar_epi16(0xffffffff, places, rounded);
    return _mm512_maskz_extracti64x4_epi64(all_8, upper, 0);
}

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
    template <class S>
    static Vec load(const S* p) {
        return {widen_16(p)};
    }
    template <class Y>
    void store(Y* p) const {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_16(v, p));
    }
    template <class Y>
    void stream(Y* p) const {
        _mm256_stream_si256(reinterpret_cast<__m256i*>(p), narrow_16(v, p));
    }
    static Vec blend(std::ptrdiff_t n, Vec a, Vec b) {
        return {_mm512_mask_mov_ps(b.v, first(n), a.v)};
    }
    static Vec unless_positive(Vec p, Vec a, Vec b) {
        const __mmask16 low = _mm512_cmp_ps_mask(p.v, _mm512_setzero_ps(), _CMP_LE_OQ);
        return {_mm512_mask_mov_ps(a.v, low, b.v)};
    }
    static Vec zero_unless_positive(Vec p, Vec a) {
        return {
            _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(p.v, _mm512_setzero_ps(), _CMP_NLE_UQ), a.v)};
    }
    static bool any_infinite(Vec a) { return _mm512_fpclass_ps_mask(a.v, infinities) != 0; }

    using Mask = __mmask16;
    static Mask marked(const std::uint8_t* p) {
        const __m128i bytes = load_128(p);
        return _mm_test_epi8_mask(bytes, bytes);
    }
    static Mask marked(const std::uint8_t* p, std::ptrdiff_t n) {
        const __m128i bytes = _mm_maskz_loadu_epi8(first(n), p);
        return _mm_test_epi8_mask(bytes, bytes);
    }
    static Mask numbers(Vec a) { return _mm512_cmp_ps_mask(a.v, a.v, _CMP_ORD_Q); }
    static Mask both(Mask a, Mask b) { return _kand_mask16(a, b); }
    static Vec select(Mask mask, Vec a, Vec b) { return {_mm512_mask_mov_ps(b.v, mask, a.v)}; }
    static Vec keep(Mask mask, Vec a) { return {_mm512_maskz_mov_ps(mask, a.v)}; }
    static Vec lesser(Vec a, Vec b) { return {_mm512_maskz_min_ps(all_16, a.v, b.v)}; }
    static Vec greater(Vec a, Vec b) { return {_mm512_maskz_max_ps(all_16, a.v, b.v)}; }

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
    static Vec load(const float* p) { return {_mm512_maskz_cvtps_pd(all_8, _mm256_loadu_ps(p))}; }
    template <class S>
    static Vec load(const S* p) {
        return {_mm512_maskz_cvtps_pd(all_8, widen_8(p))};
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
    static Vec unless_positive(Vec p, Vec a, Vec b) {
        const __mmask8 low = _mm512_cmp_pd_mask(p.v, _mm512_setzero_pd(), _CMP_LE_OQ);
        return {_mm512_mask_mov_pd(a.v, low, b.v)};
    }
    static Vec zero_unless_positive(Vec p, Vec a) {
        return {
            _mm512_maskz_mov_pd(_mm512_cmp_pd_mask(p.v, _mm512_setzero_pd(), _CMP_NLE_UQ), a.v)};
    }
    static Vec zero_where_zero(Vec p, Vec a) {
        return {
            _mm512_maskz_mov_pd(_mm512_cmp_pd_mask(p.v, _mm512_setzero_pd(), _CMP_NEQ_UQ), a.v)};
    }
    template <std::ptrdiff_t n>
    static Vec upper_half(Vec a) {
        if constexpr (n == 8) return {_mm512_maskz_shuffle_f64x2(all_8, a.v, a.v, 0x4e)};
        if constexpr (n == 4) return {_mm512_maskz_shuffle_f64x2(all_8, a.v, a.v, 0xb1)};
        if constexpr (n == 2) return {_mm512_maskz_shuffle_pd(all_8, a.v, a.v, 0xff)};
    }
    static double first(Vec a) { return _mm512_cvtsd_f64(a.v); }
    static bool all_positive(Vec p) {
        return _mm512_cmp_pd_mask(p.v, _mm512_setzero_pd(), _CMP_GT_OQ) == all_8;
    }
    static bool any_infinite(Vec a) { return _mm512_fpclass_pd_mask(a.v, infinities) != 0; }

    using Mask = __mmask8;
    static Mask marked(const std::uint8_t* p) {
        const __m128i bytes = load_64(p);
        return static_cast<__mmask8>(_mm_test_epi8_mask(bytes, bytes));
    }
    static Mask marked(const std::uint8_t* p, std::ptrdiff_t n) {
        const __m128i bytes = _mm_maskz_loadu_epi8(first(n), p);
        return static_cast<__mmask8>(_mm_test_epi8_mask(bytes, bytes));
    }
    static Mask numbers(Vec a) { return _mm512_cmp_pd_mask(a.v, a.v, _CMP_ORD_Q); }
    static Mask both(Mask a, Mask b) { return _kand_mask8(a, b); }
    using Count = Vec;
    static Count add_one(Mask mask, Count count) {
        return {_mm512_mask_add_pd(count.v, mask, count.v, _mm512_set1_pd(1.0))};
    }
    static Vec value_of(Count count) { return count; }
    static Vec select(Mask mask, Vec a, Vec b) { return {_mm512_mask_mov_pd(b.v, mask, a.v)}; }
    static Vec keep(Mask mask, Vec a) { return {_mm512_maskz_mov_pd(mask, a.v)}; }
    static Vec lesser(Vec a, Vec b) { return {_mm512_maskz_min_pd(all_8, a.v, b.v)}; }
    static Vec greater(Vec a, Vec b) { return {_mm512_maskz_max_pd(all_8, a.v, b.v)}; }

    friend Vec operator+(Vec a, Vec b) { return {_mm512_add_pd(a.v, b.v)}; }
    friend Vec operator-(Vec a, Vec b) { return {_mm512_sub_pd(a.v, b.v)}; }
    friend Vec operator*(Vec a, Vec b) { return {_mm512_mul_pd(a.v, b.v)}; }
    friend Vec operator|(Vec a, Vec b) { return {_mm512_or_pd(a.v, b.v)}; }
};

inline Vec<double> add_by_fma(Vec<double> a, Vec<double> b) {
    return {_mm512_fmadd_pd(a.v, _mm512_set1_pd(1.0), b.v)};
}
inline Vec<double> subtract_by_fma(Vec<double> a, Vec<double> b) {
    return {_mm512_fmsub_pd(a.v, _mm512_set1_pd(1.0), b.v)};
}

inline Vec<double> product_error(Vec<double> a, Vec<double> b, Vec<double> product) {
    return {_mm512_fmsub_pd(a.v, b.v, product.v)};
}

inline Vec<double> clamp_negative(Vec<double> a) {
    const __mmask8 negative = _mm512_cmp_pd_mask(a.v, _mm512_setzero_pd(), _CMP_LT_OQ);
    return {_mm512_mask_mov_pd(a.v, negative, _mm512_setzero_pd())};
}

// Each register by two loads of 32 bytes. While results are streamed, Zen 5 makes loads of 64 bytes
// that cross a cache line at half of memory's speed; of two of 32, one at most crosses it, and the
// speed is memory's own. In cache one load is faster.
inline void load_from_memory(const float* p, Vec<float> (&a)[1]) {
    const __m512 lower = _mm512_castps256_ps512(_mm256_loadu_ps(p));
    a[0].v = _mm512_maskz_insertf32x8(all_16, lower, _mm256_loadu_ps(p + 8), 1);
}
inline void load_from_memory(const double* p, Vec<double> (&a)[2]) {
    FASTBN_UNROLL
    for (std::ptrdiff_t k = 0; k < 2; ++k) {
        const double* const from = p + 8 * k;
        const __m512d lower = _mm512_castpd256_pd512(_mm256_loadu_pd(from));
        a[k].v = _mm512_maskz_insertf64x4(all_8, lower, _mm256_loadu_pd(from + 4), 1);
    }
}

struct Bytes {
    static constexpr std::ptrdiff_t groups = 4;
    __m512i v;

    static Bytes load(const char* p) { return {_mm512_loadu_si512(p)}; }
    static Bytes load_groups(const char* p, std::ptrdiff_t step) {
        const __m256i lower = _mm256_setr_m128i(load_128(p), load_128(p + step));
        const __m256i upper = _mm256_setr_m128i(load_128(p + 2 * step), load_128(p + 3 * step));
        return {_mm512_maskz_inserti64x4(all_8, _mm512_castsi256_si512(lower), upper, 1)};
    }
    void store(char* p) const { _mm512_storeu_si512(p, v); }
    void stream(char* p) const { _mm512_stream_si512(reinterpret_cast<__m512i*>(p), v); }
    template <int g>
    void store_group(char* p) const {
        const __m128i group = _mm512_maskz_extracti32x4_epi32(all_8, v, g);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), group);
    }
    template <int size>
    static Bytes interleave_lower(Bytes a, Bytes b) {
        if constexpr (size == 1) return {_mm512_unpacklo_epi8(a.v, b.v)};
        if constexpr (size == 2) return {_mm512_unpacklo_epi16(a.v, b.v)};
        if constexpr (size == 4) return {_mm512_maskz_unpacklo_epi32(all_16, a.v, b.v)};
        if constexpr (size == 8) return {_mm512_maskz_unpacklo_epi64(all_8, a.v, b.v)};
    }
    template <int size>
    static Bytes interleave_upper(Bytes a, Bytes b) {
        if constexpr (size == 1) return {_mm512_unpackhi_epi8(a.v, b.v)};
        if constexpr (size == 2) return {_mm512_unpackhi_epi16(a.v, b.v)};
        if constexpr (size == 4) return {_mm512_maskz_unpackhi_epi32(all_16, a.v, b.v)};
        if constexpr (size == 8) return {_mm512_maskz_unpackhi_epi64(all_8, a.v, b.v)};
    }
    static Bytes broadcast(std::uint16_t a) {
        return {_mm512_set1_epi16(static_cast<std::int16_t>(a))};
    }
    template <int size>
    static Bytes add(Bytes a, Bytes b) {
        if constexpr (size == 2) return {_mm512_add_epi16(a.v, b.v)};
        if constexpr (size == 4) return {_mm512_add_epi32(a.v, b.v)};
    }
    static Bytes lesser_of_bytes(Bytes a, Bytes b) { return {_mm512_min_epu8(a.v, b.v)}; }
    static Bytes sums_of_bytes(Bytes a) { return {_mm512_sad_epu8(a.v, _mm512_setzero_si512())}; }
    static Bytes sums_of_products(Bytes a, Bytes b) { return {_mm512_madd_epi16(a.v, b.v)}; }
    friend Bytes operator^(Bytes a, Bytes b) { return {_mm512_xor_si512(a.v, b.v)}; }
};

constexpr bool streams = true;
inline void stream_fence() { _mm_sfence(); }
inline void clear_upper_halves() { _mm256_zeroupper(); }

}  // namespace
}  // namespace fastbn::avx512
