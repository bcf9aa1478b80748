// Vec<T> by AVX2, FMA and F16C: one register of T. What each operation means is written down in
// vec.hpp.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "numerics/dtype.hpp"

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

inline __m128i load_128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline __m128i load_64(const void* p) { return _mm_loadl_epi64(static_cast<const __m128i*>(p)); }
inline __m128i load_32(const void* p) {
    std::int32_t bits;
    __builtin_memcpy(&bits, p, sizeof bits);
    return _mm_cvtsi32_si128(bits);
}

// The first n bytes from p on, 0 <= n <= 8, and zeros.
[[gnu::noinline]] __m128i load_bytes(const std::uint8_t* p, std::ptrdiff_t n) {
    std::uint64_t bytes = 0;
    for (std::ptrdiff_t i = 0; i < n; ++i) bytes |= std::uint64_t{p[i]} << (8 * i);
    return _mm_cvtsi64_si128(static_cast<long long>(bytes));
}

// Which bytes of eight words become the upper halves of four floats, and of four more. The lower
// halves are zeros.
alignas(32) constexpr std::int8_t upper_words[32] = {-1, -1, 0,  1,  -1, -1, 2,  3,  -1, -1, 4,
                                                     5,  -1, -1, 6,  7,  -1, -1, 8,  9,  -1, -1,
                                                     10, 11, -1, -1, 12, 13, -1, -1, 14, 15};

// Eight and four values from p on, as float.
inline __m256 widen_8(const Float16* p) { return _mm256_cvtph_ps(load_128(p)); }
inline __m256 widen_8(const Bfloat16* p) {
    const __m256i twice = _mm256_broadcastsi128_si256(load_128(p));
    const auto* const places = reinterpret_cast<const __m256i*>(upper_words);
    return _mm256_castsi256_ps(_mm256_shuffle_epi8(twice, _mm256_load_si256(places)));
}
inline __m256 widen_8(const std::uint8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(load_64(p)));
}
inline __m128 widen_4(const Float16* p) { return _mm_cvtph_ps(load_64(p)); }
inline __m128 widen_4(const Bfloat16* p) {
    const auto* const places = reinterpret_cast<const __m128i*>(upper_words);
    return _mm_castsi128_ps(_mm_shuffle_epi8(load_64(p), _mm_load_si128(places)));
}
inline __m128 widen_4(const std::uint8_t* p) {
    return _mm_cvtepi32_ps(_mm_cvtepu8_epi32(load_32(p)));
}

// Rounded to nearest, ties to even; see numerics/dtype.hpp.
inline __m128i narrow_8(__m256 a, const Float16*) {
    return _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT);
}
// Not for NaN. Adding half rounds to nearest, ties up; a tie above an even number, whose last 17
// bits are 0x08000, gets one less and so goes down.
inline __m256i rounded_bfloat16(__m256 a) {
    const __m256i bits = _mm256_castps_si256(a);
    const __m256i half = _mm256_set1_epi32(0x8000);
    const __m256i last_bits = _mm256_and_si256(bits, _mm256_set1_epi32(0x1ffff));
    const __m256i down = _mm256_cmpeq_epi32(last_bits, half);
    return _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, half), down), 16);
}
inline __m128i narrow_8(__m256 a, const Bfloat16*) {
    const __m256i upper = _mm256_srli_epi32(_mm256_castps_si256(a), 16);
    const __m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
    const __m256i all = _mm256_blendv_epi8(rounded_bfloat16(a), quiet, nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
}

// Sixteen values at once, with one test for NaN for all: without any, half as many instructions are
// enough.
inline __m256i narrow_16(__m256 a, __m256 b, const Bfloat16* type) {
    if (__builtin_expect(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_UNORD_Q)), 0) != 0) {
        return _mm256_setr_m128i(narrow_8(a, type), narrow_8(b, type));
    }
    const __m256i pairs = _mm256_packus_epi32(rounded_bfloat16(a), rounded_bfloat16(b));
    return _mm256_permute4x64_epi64(pairs, 0xd8);  // packing goes half by half
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
    template <class S>
    static Vec load(const S* p) {
        return {widen_8(p)};
    }
    template <class Y>
    void store(Y* p) const {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow_8(v, p));
    }
    template <class Y>
    void stream(Y* p) const {
        _mm_stream_si128(reinterpret_cast<__m128i*>(p), narrow_8(v, p));
    }
    static Vec blend(std::ptrdiff_t n, Vec a, Vec b) {
        return {_mm256_blendv_ps(b.v, a.v, _mm256_castsi256_ps(first_of_8(n)))};
    }
    static Vec unless_positive(Vec p, Vec a, Vec b) {
        return {_mm256_blendv_ps(a.v, b.v, _mm256_cmp_ps(p.v, _mm256_setzero_ps(), _CMP_LE_OQ))};
    }
    static Vec zero_unless_positive(Vec p, Vec a) {
        return {_mm256_andnot_ps(_mm256_cmp_ps(p.v, _mm256_setzero_ps(), _CMP_LE_OQ), a.v)};
    }
    static bool any_infinite(Vec a) {
        const __m256 size = _mm256_andnot_ps(_mm256_set1_ps(-0.0F), a.v);
        const __m256 infinity = _mm256_set1_ps(__builtin_inff());
        return _mm256_movemask_ps(_mm256_cmp_ps(size, infinity, _CMP_EQ_OQ)) != 0;
    }

    using Mask = __m256;
    static Mask marked(__m128i bytes) {
        const __m256i wide = _mm256_cvtepu8_epi32(bytes);
        return _mm256_castsi256_ps(_mm256_cmpgt_epi32(wide, _mm256_setzero_si256()));
    }
    static Mask marked(const std::uint8_t* p) { return marked(load_64(p)); }
    static Mask marked(const std::uint8_t* p, std::ptrdiff_t n) { return marked(load_bytes(p, n)); }
    static Mask numbers(Vec a) { return _mm256_cmp_ps(a.v, a.v, _CMP_ORD_Q); }
    static Mask both(Mask a, Mask b) { return _mm256_and_ps(a, b); }
    static Vec select(Mask mask, Vec a, Vec b) { return {_mm256_blendv_ps(b.v, a.v, mask)}; }
    static Vec keep(Mask mask, Vec a) { return {_mm256_and_ps(mask, a.v)}; }
    static Vec lesser(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
    static Vec greater(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }

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
    template <class S>
    static Vec load(const S* p) {
        return {_mm256_cvtps_pd(widen_4(p))};
    }
    void store(double* p) const { _mm256_storeu_pd(p, v); }
    void store(double* p, std::ptrdiff_t n) const { _mm256_maskstore_pd(p, first(n), v); }
    void stream(double* p) const { _mm256_stream_pd(p, v); }
    static Vec blend(std::ptrdiff_t n, Vec a, Vec b) {
        return {_mm256_blendv_pd(b.v, a.v, _mm256_castsi256_pd(first(n)))};
    }
    static Vec unless_positive(Vec p, Vec a, Vec b) {
        return {_mm256_blendv_pd(a.v, b.v, _mm256_cmp_pd(p.v, _mm256_setzero_pd(), _CMP_LE_OQ))};
    }
    static Vec zero_unless_positive(Vec p, Vec a) {
        return {_mm256_andnot_pd(_mm256_cmp_pd(p.v, _mm256_setzero_pd(), _CMP_LE_OQ), a.v)};
    }
    static Vec zero_where_zero(Vec p, Vec a) {
        return {_mm256_andnot_pd(_mm256_cmp_pd(p.v, _mm256_setzero_pd(), _CMP_EQ_OQ), a.v)};
    }
    template <std::ptrdiff_t n>
    static Vec upper_half(Vec a) {
        if constexpr (n == 4) return {_mm256_permute2f128_pd(a.v, a.v, 0x01)};
        if constexpr (n == 2) return {_mm256_shuffle_pd(a.v, a.v, 0xf)};
    }
    static double first(Vec a) { return _mm256_cvtsd_f64(a.v); }
    static bool all_positive(Vec p) {
        return _mm256_movemask_pd(_mm256_cmp_pd(p.v, _mm256_setzero_pd(), _CMP_GT_OQ)) == 0xf;
    }
    static bool any_infinite(Vec a) {
        const __m256d size = _mm256_andnot_pd(_mm256_set1_pd(-0.0), a.v);
        const __m256d infinity = _mm256_set1_pd(__builtin_inf());
        return _mm256_movemask_pd(_mm256_cmp_pd(size, infinity, _CMP_EQ_OQ)) != 0;
    }

    using Mask = __m256d;
    static Mask marked(__m128i bytes) {
        const __m256i wide = _mm256_cvtepu8_epi64(bytes);
        return _mm256_castsi256_pd(_mm256_cmpgt_epi64(wide, _mm256_setzero_si256()));
    }
    static Mask marked(const std::uint8_t* p) { return marked(load_32(p)); }
    static Mask marked(const std::uint8_t* p, std::ptrdiff_t n) { return marked(load_bytes(p, n)); }
    static Mask numbers(Vec a) { return _mm256_cmp_pd(a.v, a.v, _CMP_ORD_Q); }
    static Mask both(Mask a, Mask b) { return _mm256_and_pd(a, b); }
    // Integers: a mask is -1, and the units for floating point have enough to do.
    struct Count {
        __m256i v;
    };
    static Count add_one(Mask mask, Count count) {
        return {_mm256_sub_epi64(count.v, _mm256_castpd_si256(mask))};
    }
    static Vec value_of(Count count) {  // the last bits of 2^52 + count
        const __m256d large = _mm256_set1_pd(0x1p52);
        const __m256i sum = _mm256_or_si256(_mm256_castpd_si256(large), count.v);
        return {_mm256_sub_pd(_mm256_castsi256_pd(sum), large)};
    }
    static Vec select(Mask mask, Vec a, Vec b) { return {_mm256_blendv_pd(b.v, a.v, mask)}; }
    static Vec keep(Mask mask, Vec a) { return {_mm256_and_pd(mask, a.v)}; }
    static Vec lesser(Vec a, Vec b) { return {_mm256_min_pd(a.v, b.v)}; }
    static Vec greater(Vec a, Vec b) { return {_mm256_max_pd(a.v, b.v)}; }

    friend Vec operator+(Vec a, Vec b) { return {_mm256_add_pd(a.v, b.v)}; }
    friend Vec operator-(Vec a, Vec b) { return {_mm256_sub_pd(a.v, b.v)}; }
    friend Vec operator*(Vec a, Vec b) { return {_mm256_mul_pd(a.v, b.v)}; }
    friend Vec operator|(Vec a, Vec b) { return {_mm256_or_pd(a.v, b.v)}; }
};

inline Vec<double> add_by_fma(Vec<double> a, Vec<double> b) {
    return {_mm256_fmadd_pd(a.v, _mm256_set1_pd(1.0), b.v)};
}
inline Vec<double> subtract_by_fma(Vec<double> a, Vec<double> b) {
    return {_mm256_fmsub_pd(a.v, _mm256_set1_pd(1.0), b.v)};
}

inline Vec<double> product_error(Vec<double> a, Vec<double> b, Vec<double> product) {
    return {_mm256_fmsub_pd(a.v, b.v, product.v)};
}

inline Vec<double> clamp_negative(Vec<double> a) {
    const __m256d negative = _mm256_cmp_pd(a.v, _mm256_setzero_pd(), _CMP_LT_OQ);
    return {_mm256_andnot_pd(negative, a.v)};
}

// Both registers of a block of sixteen.
inline void store_registers(Bfloat16* p, const Vec<float> (&a)[2]) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_16(a[0].v, a[1].v, p));
}
inline void stream_registers(Bfloat16* p, const Vec<float> (&a)[2]) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p), narrow_16(a[0].v, a[1].v, p));
}

struct Bytes {
    static constexpr std::ptrdiff_t groups = 2;
    __m256i v;

    static Bytes load(const char* p) {
        return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
    }
    static Bytes load_groups(const char* p, std::ptrdiff_t step) {
        return {_mm256_setr_m128i(load_128(p), load_128(p + step))};
    }
    void store(char* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
    void stream(char* p) const { _mm256_stream_si256(reinterpret_cast<__m256i*>(p), v); }
    template <int g>
    void store_group(char* p) const {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_extracti128_si256(v, g));
    }
    template <int size>
    static Bytes interleave_lower(Bytes a, Bytes b) {
        if constexpr (size == 1) return {_mm256_unpacklo_epi8(a.v, b.v)};
        if constexpr (size == 2) return {_mm256_unpacklo_epi16(a.v, b.v)};
        if constexpr (size == 4) return {_mm256_unpacklo_epi32(a.v, b.v)};
        if constexpr (size == 8) return {_mm256_unpacklo_epi64(a.v, b.v)};
    }
    template <int size>
    static Bytes interleave_upper(Bytes a, Bytes b) {
        if constexpr (size == 1) return {_mm256_unpackhi_epi8(a.v, b.v)};
        if constexpr (size == 2) return {_mm256_unpackhi_epi16(a.v, b.v)};
        if constexpr (size == 4) return {_mm256_unpackhi_epi32(a.v, b.v)};
        if constexpr (size == 8) return {_mm256_unpackhi_epi64(a.v, b.v)};
    }
    static Bytes broadcast(std::uint16_t a) {
        return {_mm256_set1_epi16(static_cast<std::int16_t>(a))};
    }
    template <int size>
    static Bytes add(Bytes a, Bytes b) {
        if constexpr (size == 2) return {_mm256_add_epi16(a.v, b.v)};
        if constexpr (size == 4) return {_mm256_add_epi32(a.v, b.v)};
    }
    static Bytes lesser_of_bytes(Bytes a, Bytes b) { return {_mm256_min_epu8(a.v, b.v)}; }
    static Bytes sums_of_bytes(Bytes a) { return {_mm256_sad_epu8(a.v, _mm256_setzero_si256())}; }
    static Bytes sums_of_products(Bytes a, Bytes b) { return {_mm256_madd_epi16(a.v, b.v)}; }
    friend Bytes operator^(Bytes a, Bytes b) { return {_mm256_xor_si256(a.v, b.v)}; }
};

constexpr bool streams = true;
inline void stream_fence() { _mm_sfence(); }
inline void clear_upper_halves() { _mm256_zeroupper(); }

}  // namespace
}  // namespace fastbn::avx2
