// Vec<T> by the compiler's own vectors of sixteen bytes, for any processor: SSE2 on x86-64, NEON on
// AArch64. What each operation means is written down in vec.hpp.
#pragma once

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include <cstddef>
#include <cstdint>

#include "numerics/dtype.hpp"
#include "numerics/moments_math.hpp"

namespace fastbn::generic {
namespace {

// One element.
inline float widened(float value) { return value; }
inline float widened(std::uint8_t value) { return static_cast<float>(value); }
template <class H>
inline float widened(H value) {
    return widen(value);
}

// Elements one by one, out of line: these would make up most of the object. Of a whole register,
// and of less.
template <class T, class S, std::ptrdiff_t width>
[[gnu::noinline]] void widen_all(const S* from, T (&to)[width]) {
    FASTBN_UNROLL
    for (std::ptrdiff_t i = 0; i < width; ++i) to[i] = static_cast<T>(widened(from[i]));
}
template <class T, std::ptrdiff_t width>
inline void widen_all(const float* from, T (&to)[width]) {
    FASTBN_UNROLL
    for (std::ptrdiff_t i = 0; i < width; ++i) to[i] = static_cast<T>(from[i]);
}
template <class Y, std::ptrdiff_t width>
[[gnu::noinline]] void narrow_all(const float (&from)[width], Y* to) {
    FASTBN_UNROLL
    for (std::ptrdiff_t i = 0; i < width; ++i) narrow(from[i], to[i]);
}

template <class T>
struct Vec {
    static constexpr std::ptrdiff_t width = 16 / static_cast<std::ptrdiff_t>(sizeof(T));
    using Native [[gnu::vector_size(16)]] = T;
    Native v;

    static Vec broadcast(T a) {
        Vec all;
        FASTBN_UNROLL
        for (std::ptrdiff_t i = 0; i < width; ++i) all.v[i] = a;
        return all;
    }

    template <class S>
    static Vec load(const S* p) {
        T a[width];
        widen_all(p, a);
        return load(a);
    }
    template <class S>
    [[gnu::noinline]] static Vec load(const S* p, std::ptrdiff_t n, Vec fill) {
        T a[width];
        fill.store(a);
        for (std::ptrdiff_t i = 0; i < n; ++i) a[i] = static_cast<T>(widened(p[i]));
        return load(a);
    }
    [[gnu::noinline]] static Vec load(const T* p, std::ptrdiff_t n, Vec fill) {
        for (std::ptrdiff_t i = 0; i < n; ++i) fill.v[i] = p[i];
        return fill;
    }
    static Vec load(const T* p) {
        Vec a;
        __builtin_memcpy(&a.v, p, sizeof a.v);
        return a;
    }
    void store(T* p) const { __builtin_memcpy(p, &v, sizeof v); }
    [[gnu::noinline]] void store(T* p, std::ptrdiff_t n) const {
        for (std::ptrdiff_t i = 0; i < n; ++i) p[i] = v[i];
    }
    void stream(T* p) const { store(p); }
    template <class Y>
    void store(Y* p) const {
        T a[width];
        store(a);
        narrow_all(a, p);
    }
    template <class Y>
    void stream(Y* p) const {
        store(p);
    }

    [[gnu::noinline]] static Vec blend(std::ptrdiff_t n, Vec a, Vec b) {
        for (std::ptrdiff_t i = 0; i < n; ++i) b.v[i] = a.v[i];
        return b;
    }

    static Vec unless_positive(Vec p, Vec a, Vec b) { return {p.v <= T(0) ? b.v : a.v}; }
    static Vec zero_unless_positive(Vec p, Vec a) { return {p.v <= T(0) ? Native{} : a.v}; }
    static Vec zero_where_zero(Vec p, Vec a) { return {p.v == T(0) ? Native{} : a.v}; }
    template <std::ptrdiff_t n>
    static Vec upper_half(Vec a) {
        for (std::ptrdiff_t i = 0; i < n / 2; ++i) a.v[i] = a.v[i + n / 2];
        return a;
    }
    static T first(Vec a) { return a.v[0]; }
    static bool all_positive(Vec p) {
        bool all = true;
        for (std::ptrdiff_t i = 0; i < width; ++i) all = all && p.v[i] > T(0);
        return all;
    }
    // Out of line: it is seldom asked, and would take the registers from what surrounds it.
    [[gnu::noinline]] static bool any_infinite(Vec a) {
        bool any = false;
        FASTBN_UNROLL
        for (std::ptrdiff_t i = 0; i < width; ++i) any = any || __builtin_isinf(a.v[i]);
        return any;
    }

    using Mask = decltype(Native{} == Native{});  // a lane is 0 or -1
    static Mask marked(const std::uint8_t* p) {
        Native bytes{};
        for (std::ptrdiff_t i = 0; i < width; ++i) bytes[i] = p[i];
        return bytes != T(0);
    }
    [[gnu::noinline]] static Mask marked(const std::uint8_t* p, std::ptrdiff_t n) {
        Native bytes{};
        for (std::ptrdiff_t i = 0; i < n; ++i) bytes[i] = p[i];
        return bytes != T(0);
    }
    // NOLINTNEXTLINE(misc-redundant-expression): NaN alone differs from itself
    static Mask numbers(Vec a) { return a.v == a.v; }
    static Mask both(Mask a, Mask b) { return a & b; }
    struct Count {
        Mask v;
    };
    static Count add_one(Mask mask, Count count) { return {count.v - mask}; }
    static Vec value_of(Count count) { return {__builtin_convertvector(count.v, Native)}; }
    static Vec select(Mask mask, Vec a, Vec b) { return {mask ? a.v : b.v}; }
    static Vec keep(Mask mask, Vec a) {
        return {reinterpret_cast<Native>(mask & reinterpret_cast<Mask>(a.v))};
    }
    static Vec lesser(Vec a, Vec b) { return {a.v < b.v ? a.v : b.v}; }
    static Vec greater(Vec a, Vec b) { return {a.v > b.v ? a.v : b.v}; }

    friend Vec operator+(Vec a, Vec b) { return {a.v + b.v}; }
    friend Vec operator-(Vec a, Vec b) { return {a.v - b.v}; }
    friend Vec operator*(Vec a, Vec b) { return {a.v * b.v}; }
    friend Vec operator|(Vec a, Vec b) {
        return {
            reinterpret_cast<Native>(reinterpret_cast<Mask>(a.v) | reinterpret_cast<Mask>(b.v))};
    }
};

// Not every processor has a fused multiply-add, and these need none.
inline Vec<double> add_by_fma(Vec<double> a, Vec<double> b) { return a + b; }
inline Vec<double> subtract_by_fma(Vec<double> a, Vec<double> b) { return a - b; }

// One by one: without an instruction for it, this is a call of the C library.
[[gnu::noinline]] Vec<double> product_error_by_fma(Vec<double> a, Vec<double> b,
                                                   Vec<double> product) {
    Vec<double> error;
    for (std::ptrdiff_t i = 0; i < Vec<double>::width; ++i) {
        error.v[i] = __builtin_fma(a.v[i], b.v[i], -product.v[i]);
    }
    return error;
}

// By Dekker's product, which is exact unless one of its parts overflows or underflows: b is at most
// 2, so that a and the product say whether that may be.
inline Vec<double> product_error(Vec<double> a, Vec<double> b, Vec<double> product) {
    using Mask = Vec<double>::Mask;
    const Vec<double>::Native size = a.v < 0.0 ? -a.v : a.v;
    const Vec<double>::Native product_size = product.v < 0.0 ? -product.v : product.v;
    const Mask is_zero = (a.v == 0.0) | (b.v == 0.0);
    const Mask is_exact = (size <= 0x1p990) & ((product_size >= 0x1p-960) | is_zero);
    if ((is_exact[0] & is_exact[1]) == 0) return product_error_by_fma(a, b, product);
    Vec<double>::Native error;
    two_product(a.v, b.v, error);
    return {error};
}

inline Vec<double> clamp_negative(Vec<double> a) {
    const Vec<double> zero = Vec<double>::broadcast(0.0);
    return {a.v < zero.v ? zero.v : a.v};
}

struct Bytes {
    static constexpr std::ptrdiff_t groups = 1;
    using Native [[gnu::vector_size(16)]] = unsigned char;
    Native v;

    static Bytes load(const char* p) {
        Bytes a;
        __builtin_memcpy(&a.v, p, sizeof a.v);
        return a;
    }
    static Bytes load_groups(const char* p, std::ptrdiff_t) { return load(p); }
    void store(char* p) const { __builtin_memcpy(p, &v, sizeof v); }
    void stream(char* p) const { store(p); }
    template <int g>
    void store_group(char* p) const {
        store(p);
    }
    static Bytes lesser_of_bytes(Bytes a, Bytes b) { return {a.v < b.v ? a.v : b.v}; }
    friend Bytes operator^(Bytes a, Bytes b) { return {a.v ^ b.v}; }
    static Bytes broadcast(std::uint16_t a) { return from(Elements<std::uint16_t>{} + a); }
    template <int size>
    static Bytes add(Bytes a, Bytes b) {
        if constexpr (size == 2) return from(a.as<std::uint16_t>() + b.as<std::uint16_t>());
        if constexpr (size == 4) return from(a.as<std::uint32_t>() + b.as<std::uint32_t>());
    }

#ifdef __SSE2__
    template <int size>
    static Bytes interleave_lower(Bytes a, Bytes b) {
        if constexpr (size == 1) return from(_mm_unpacklo_epi8(a.sse(), b.sse()));
        if constexpr (size == 2) return from(_mm_unpacklo_epi16(a.sse(), b.sse()));
        if constexpr (size == 4) return from(_mm_unpacklo_epi32(a.sse(), b.sse()));
        if constexpr (size == 8) return from(_mm_unpacklo_epi64(a.sse(), b.sse()));
    }
    template <int size>
    static Bytes interleave_upper(Bytes a, Bytes b) {
        if constexpr (size == 1) return from(_mm_unpackhi_epi8(a.sse(), b.sse()));
        if constexpr (size == 2) return from(_mm_unpackhi_epi16(a.sse(), b.sse()));
        if constexpr (size == 4) return from(_mm_unpackhi_epi32(a.sse(), b.sse()));
        if constexpr (size == 8) return from(_mm_unpackhi_epi64(a.sse(), b.sse()));
    }
    static Bytes sums_of_bytes(Bytes a) { return from(_mm_sad_epu8(a.sse(), _mm_setzero_si128())); }
    static Bytes sums_of_products(Bytes a, Bytes b) {
        return from(_mm_madd_epi16(a.sse(), b.sse()));
    }
    __m128i sse() const { return reinterpret_cast<__m128i>(v); }
#else
    // Of the halves that begin at byte `first`.
    template <int size>
    static Bytes interleave(Bytes a, Bytes b, int first) {
        Bytes both;
        for (int i = 0; i < 16; ++i) {
            const int element = i / size;
            const int at = first + element / 2 * size + i % size;
            both.v[i] = element % 2 == 0 ? a.v[at] : b.v[at];
        }
        return both;
    }
    template <int size>
    static Bytes interleave_lower(Bytes a, Bytes b) {
        return interleave<size>(a, b, 0);
    }
    template <int size>
    static Bytes interleave_upper(Bytes a, Bytes b) {
        return interleave<size>(a, b, 8);
    }
    static Bytes sums_of_bytes(Bytes a) {
        Elements<std::uint64_t> sums{};
        for (int i = 0; i < 16; ++i) sums[i / 8] += a.v[i];
        return from(sums);
    }
    static Bytes sums_of_products(Bytes a, Bytes b) {
        const auto x = a.as<std::int16_t>();
        const auto y = b.as<std::int16_t>();
        Elements<std::uint32_t> sums{};
        for (int i = 0; i < 8; ++i) sums[i / 2] += static_cast<std::uint32_t>(x[i] * y[i]);
        return from(sums);
    }
#endif

private:
    template <class T>
    using Elements [[gnu::vector_size(16)]] = T;
    template <class T>
    Elements<T> as() const {
        return reinterpret_cast<Elements<T>>(v);
    }
    template <class T>
    static Bytes from(T elements) {
        return {reinterpret_cast<Native>(elements)};
    }
};

// Although x86 has such stores: loops for them would be a third of this set's code for results, and
// only processors without AVX2 run it.
constexpr bool streams = false;
inline void stream_fence() {}
inline void clear_upper_halves() {}

}  // namespace
}  // namespace fastbn::generic
