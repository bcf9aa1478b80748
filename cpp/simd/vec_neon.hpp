// Vec<T> by Advanced SIMD (NEON), which every AArch64 processor has: one register of sixteen bytes.
// What each operation means is written down in vec.hpp.
#pragma once

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

#include "numerics/dtype.hpp"

namespace fastbn::neon {
namespace {

// Masks of the first n lanes of 4 or 2: a window onto this table that starts 4 - n entries, or
// pairs of them, in.
alignas(16) constexpr std::uint32_t mask_window[8] = {~0U, ~0U, ~0U, ~0U};

inline uint32x4_t first_of_4(std::ptrdiff_t n) { return vld1q_u32(mask_window + 4 - n); }
inline uint64x2_t first_of_2(std::ptrdiff_t n) { return vreinterpretq_u64_u32(first_of_4(2 * n)); }

// The first two or four bytes from p on, and zeros.
inline uint8x16_t load_16(const void* p) {
    std::uint16_t bits;
    __builtin_memcpy(&bits, p, sizeof bits);
    return vreinterpretq_u8_u16(vsetq_lane_u16(bits, vdupq_n_u16(0), 0));
}
inline uint8x16_t load_32(const void* p) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, p, sizeof bits);
    return vreinterpretq_u8_u32(vsetq_lane_u32(bits, vdupq_n_u32(0), 0));
}
inline uint16x4_t load_shorts(const void* p) {
    uint16x4_t shorts;
    __builtin_memcpy(&shorts, p, sizeof shorts);
    return shorts;
}

// The first n bytes from p on, 0 <= n <= 4, and zeros.
[[gnu::noinline]] uint8x16_t load_bytes(const std::uint8_t* p, std::ptrdiff_t n) {
    std::uint32_t bytes = 0;
    for (std::ptrdiff_t i = 0; i < n; ++i) bytes |= std::uint32_t{p[i]} << (8 * i);
    return vreinterpretq_u8_u32(vsetq_lane_u32(bytes, vdupq_n_u32(0), 0));
}

// The first four bytes as elements of four bytes, and the first two as elements of eight.
inline uint32x4_t bytes_to_4(uint8x16_t bytes) {
    return vmovl_u16(vget_low_u16(vmovl_u8(vget_low_u8(bytes))));
}
inline uint64x2_t bytes_to_2(uint8x16_t bytes) {
    return vmovl_u32(vget_low_u32(bytes_to_4(bytes)));
}

// Four and two values from p on, as float.
inline float32x4_t widen_4(const Float16* p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(load_shorts(p)));
}
inline float32x4_t widen_4(const Bfloat16* p) {
    return vreinterpretq_f32_u32(vshll_n_u16(load_shorts(p), 16));
}
inline float32x4_t widen_4(const std::uint8_t* p) { return vcvtq_f32_u32(bytes_to_4(load_32(p))); }
inline float32x2_t widen_2(const Float16* p) {
    const uint16x4_t shorts = vget_low_u16(vreinterpretq_u16_u8(load_32(p)));
    return vget_low_f32(vcvt_f32_f16(vreinterpret_f16_u16(shorts)));
}
inline float32x2_t widen_2(const Bfloat16* p) {
    const uint16x4_t shorts = vget_low_u16(vreinterpretq_u16_u8(load_32(p)));
    return vget_low_f32(vreinterpretq_f32_u32(vshll_n_u16(shorts, 16)));
}
inline float32x2_t widen_2(const std::uint8_t* p) {
    return vget_low_f32(vcvtq_f32_u32(bytes_to_4(load_16(p))));
}

// Rounded to nearest, ties to even; see numerics/dtype.hpp.
inline uint16x4_t narrow_4(float32x4_t a, const Float16*) {
    return vreinterpret_u16_f16(vcvt_f16_f32(a));
}
inline uint32x4_t bfloat16_rounding(uint32x4_t bits) {
    const uint32x4_t last_bit = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    return vaddq_u32(last_bit, vdupq_n_u32(0x7fff));
}
inline uint16x4_t narrow_4(float32x4_t a, const Bfloat16*) {
    const uint32x4_t bits = vreinterpretq_u32_f32(a);
    const uint32x4_t number = vceqq_f32(a, a);
    const uint32x4_t quiet = vbicq_u32(vdupq_n_u32(0x400000), number);
    const uint32x4_t rounding = vandq_u32(bfloat16_rounding(bits), number);
    return vaddhn_u32(vorrq_u32(bits, quiet), rounding);
}

// Eight values at once.
inline uint16x8_t narrow_8(float32x4_t a, float32x4_t b, const Float16*) {
    return vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(a), b));
}
inline uint16x8_t narrow_8(float32x4_t a, float32x4_t b, const Bfloat16*) {  // not for NaN
    const uint32x4_t first = vreinterpretq_u32_f32(a);
    const uint32x4_t second = vreinterpretq_u32_f32(b);
    const uint16x4_t lower = vaddhn_u32(first, bfloat16_rounding(first));
    return vaddhn_high_u32(lower, second, bfloat16_rounding(second));
}

template <class T>
struct Vec;

template <>
struct Vec<float> {
    static constexpr std::ptrdiff_t width = 4;
    float32x4_t v;

    static Vec broadcast(float a) { return {vdupq_n_f32(a)}; }
    static Vec load(const float* p) { return {vld1q_f32(p)}; }
    static Vec load(const float* p, std::ptrdiff_t n, Vec fill) {
        if (n >= 4) return load(p);
        if (n >= 1) fill.v = vld1q_lane_f32(p, fill.v, 0);
        if (n >= 2) fill.v = vld1q_lane_f32(p + 1, fill.v, 1);
        if (n >= 3) fill.v = vld1q_lane_f32(p + 2, fill.v, 2);
        return fill;
    }
    void store(float* p) const { vst1q_f32(p, v); }
    void store(float* p, std::ptrdiff_t n) const {
        if (n >= 4) return store(p);
        if (n >= 1) vst1q_lane_f32(p, v, 0);
        if (n >= 2) vst1q_lane_f32(p + 1, v, 1);
        if (n >= 3) vst1q_lane_f32(p + 2, v, 2);
    }
    template <class S>
    static Vec load(const S* p) {
        return {widen_4(p)};
    }
    template <class Y>
    void store(Y* p) const {
        const uint16x4_t narrow = narrow_4(v, p);
        __builtin_memcpy(p, &narrow, sizeof narrow);
    }
    template <class Y>
    void stream(Y* p) const {
        store(p);
    }
    static Vec blend(std::ptrdiff_t n, Vec a, Vec b) {
        return {vbslq_f32(first_of_4(n), a.v, b.v)};
    }
    static Vec unless_positive(Vec p, Vec a, Vec b) {
        return {vbslq_f32(vclezq_f32(p.v), b.v, a.v)};
    }
    static Vec zero_unless_positive(Vec p, Vec a) { return without(vclezq_f32(p.v), a); }
    static bool any_infinite(Vec a) {
        return vmaxvq_u32(vceqq_f32(vabsq_f32(a.v), vdupq_n_f32(__builtin_inff()))) != 0;
    }

    using Mask = uint32x4_t;
    static Mask marked(uint8x16_t bytes) {
        const uint32x4_t wide = bytes_to_4(bytes);
        return vtstq_u32(wide, wide);
    }
    static Mask marked(const std::uint8_t* p) { return marked(load_32(p)); }
    static Mask marked(const std::uint8_t* p, std::ptrdiff_t n) { return marked(load_bytes(p, n)); }
    static Mask numbers(Vec a) { return vceqq_f32(a.v, a.v); }
    static Mask both(Mask a, Mask b) { return vandq_u32(a, b); }
    static Vec select(Mask mask, Vec a, Vec b) { return {vbslq_f32(mask, a.v, b.v)}; }
    static Vec keep(Mask mask, Vec a) {
        return {vreinterpretq_f32_u32(vandq_u32(mask, vreinterpretq_u32_f32(a.v)))};
    }
    // Not by the instructions for minimum and maximum, in which NaN wins.
    static Vec lesser(Vec a, Vec b) { return select(vcltq_f32(a.v, b.v), a, b); }
    static Vec greater(Vec a, Vec b) { return select(vcgtq_f32(a.v, b.v), a, b); }

    friend Vec operator+(Vec a, Vec b) { return {vaddq_f32(a.v, b.v)}; }
    friend Vec operator-(Vec a, Vec b) { return {vsubq_f32(a.v, b.v)}; }
    friend Vec operator*(Vec a, Vec b) { return {vmulq_f32(a.v, b.v)}; }

private:
    static Vec without(Mask mask, Vec a) {
        return {vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(a.v), mask))};
    }
};

template <>
struct Vec<double> {
    static constexpr std::ptrdiff_t width = 2;
    float64x2_t v;

    static Vec broadcast(double a) { return {vdupq_n_f64(a)}; }
    static Vec load(const double* p) { return {vld1q_f64(p)}; }
    static Vec load(const double* p, std::ptrdiff_t n, Vec fill) {
        if (n >= 2) return load(p);
        return {n == 1 ? vld1q_lane_f64(p, fill.v, 0) : fill.v};
    }
    static Vec load(const float* p, std::ptrdiff_t n, Vec fill) {
        if (n >= 2) return load(p);
        return {n == 1 ? vsetq_lane_f64(static_cast<double>(*p), fill.v, 0) : fill.v};
    }
    static Vec load(const float* p) { return {vcvt_f64_f32(vld1_f32(p))}; }
    template <class S>
    static Vec load(const S* p) {
        return {vcvt_f64_f32(widen_2(p))};
    }
    void store(double* p) const { vst1q_f64(p, v); }
    void store(double* p, std::ptrdiff_t n) const {
        if (n >= 2) return store(p);
        if (n == 1) vst1q_lane_f64(p, v, 0);
    }
    void stream(double* p) const { store(p); }
    static Vec blend(std::ptrdiff_t n, Vec a, Vec b) {
        return {vbslq_f64(first_of_2(n), a.v, b.v)};
    }
    static Vec unless_positive(Vec p, Vec a, Vec b) {
        return {vbslq_f64(vclezq_f64(p.v), b.v, a.v)};
    }
    static Vec zero_unless_positive(Vec p, Vec a) { return without(vclezq_f64(p.v), a); }
    static Vec zero_where_zero(Vec p, Vec a) { return without(vceqzq_f64(p.v), a); }
    static Vec zero_where_negative(Vec p, Vec a) { return without(vcltzq_f64(p.v), a); }
    template <std::ptrdiff_t n>
    static Vec upper_half(Vec a) {
        return {vdupq_laneq_f64(a.v, n / 2)};
    }
    static double first(Vec a) { return vgetq_lane_f64(a.v, 0); }
    static bool all_positive(Vec p) {
        return vminvq_u32(vreinterpretq_u32_u64(vcgtzq_f64(p.v))) != 0;
    }
    static bool any_infinite(Vec a) {
        const uint64x2_t infinite = vceqq_f64(vabsq_f64(a.v), vdupq_n_f64(__builtin_inf()));
        return vmaxvq_u32(vreinterpretq_u32_u64(infinite)) != 0;
    }

    using Mask = uint64x2_t;
    static Mask marked(uint8x16_t bytes) {
        const uint64x2_t wide = bytes_to_2(bytes);
        return vtstq_u64(wide, wide);
    }
    static Mask marked(const std::uint8_t* p) { return marked(load_16(p)); }
    static Mask marked(const std::uint8_t* p, std::ptrdiff_t n) { return marked(load_bytes(p, n)); }
    static Mask numbers(Vec a) { return vceqq_f64(a.v, a.v); }
    static Mask both(Mask a, Mask b) { return vandq_u64(a, b); }
    struct Count {
        uint64x2_t v;
    };
    static Count add_one(Mask mask, Count count) { return {vsubq_u64(count.v, mask)}; }
    static Vec value_of(Count count) { return {vcvtq_f64_u64(count.v)}; }
    static Vec select(Mask mask, Vec a, Vec b) { return {vbslq_f64(mask, a.v, b.v)}; }
    static Vec keep(Mask mask, Vec a) {
        return {vreinterpretq_f64_u64(vandq_u64(mask, vreinterpretq_u64_f64(a.v)))};
    }
    static Vec lesser(Vec a, Vec b) { return select(vcltq_f64(a.v, b.v), a, b); }
    static Vec greater(Vec a, Vec b) { return select(vcgtq_f64(a.v, b.v), a, b); }

    friend Vec operator+(Vec a, Vec b) { return {vaddq_f64(a.v, b.v)}; }
    friend Vec operator-(Vec a, Vec b) { return {vsubq_f64(a.v, b.v)}; }
    friend Vec operator*(Vec a, Vec b) { return {vmulq_f64(a.v, b.v)}; }
    friend Vec operator|(Vec a, Vec b) {
        const uint64x2_t bits = vreinterpretq_u64_f64(b.v);
        return {vreinterpretq_f64_u64(vorrq_u64(vreinterpretq_u64_f64(a.v), bits))};
    }

private:
    static Vec without(Mask mask, Vec a) {
        return {vreinterpretq_f64_u64(vbicq_u64(vreinterpretq_u64_f64(a.v), mask))};
    }
};

// The units that multiply are those that add, and take longer for it: Arm's optimization guides to
// Neoverse processors give an addition 2 cycles and a fused one 4, on the same pipelines.
inline Vec<double> add_by_fma(Vec<double> a, Vec<double> b) { return a + b; }
inline Vec<double> subtract_by_fma(Vec<double> a, Vec<double> b) { return a - b; }

inline Vec<double> product_error(Vec<double> a, Vec<double> b, Vec<double> product) {
    return {vfmaq_f64(vnegq_f64(product.v), a.v, b.v)};
}

inline Vec<double> clamp_negative(Vec<double> a) { return Vec<double>::zero_where_negative(a, a); }

// All registers of a block of sixteen. A maximum is NaN where one of both is.
inline bool any_nan(const Vec<float> (&a)[4]) {
    const float32x4_t largest = vmaxq_f32(vmaxq_f32(a[0].v, a[1].v), vmaxq_f32(a[2].v, a[3].v));
    const float of_all = vmaxvq_f32(largest);
    return of_all != of_all;
}
template <class Y>
inline void store_narrow(Y* p, const Vec<float> (&a)[4]) {
    auto* const shorts = reinterpret_cast<std::uint16_t*>(p);
    vst1q_u16(shorts, narrow_8(a[0].v, a[1].v, p));
    vst1q_u16(shorts + 8, narrow_8(a[2].v, a[3].v, p));
}
inline void store_registers(Float16* p, const Vec<float> (&a)[4]) { store_narrow(p, a); }
inline void stream_registers(Float16* p, const Vec<float> (&a)[4]) { store_narrow(p, a); }
inline void store_registers(Bfloat16* p, const Vec<float> (&a)[4]) {
    if (__builtin_expect(any_nan(a), false)) {
        for (int k = 0; k < 4; ++k) a[k].store(p + k * Vec<float>::width);
    } else {
        store_narrow(p, a);
    }
}
inline void stream_registers(Bfloat16* p, const Vec<float> (&a)[4]) { store_registers(p, a); }

struct Bytes {
    static constexpr std::ptrdiff_t groups = 1;
    uint8x16_t v;

    static Bytes load(const char* p) {
        return {vld1q_u8(reinterpret_cast<const std::uint8_t*>(p))};
    }
    static Bytes load_groups(const char* p, std::ptrdiff_t) { return load(p); }
    void store(char* p) const { vst1q_u8(reinterpret_cast<std::uint8_t*>(p), v); }
    void stream(char* p) const { store(p); }
    template <int g>
    void store_group(char* p) const {
        store(p);
    }
    template <int size>
    static Bytes interleave_lower(Bytes a, Bytes b) {
        if constexpr (size == 1) return {vzip1q_u8(a.v, b.v)};
        if constexpr (size == 2) return from(vzip1q_u16(a.shorts(), b.shorts()));
        if constexpr (size == 4) return from(vzip1q_u32(a.words(), b.words()));
        if constexpr (size == 8) return from(vzip1q_u64(a.longs(), b.longs()));
    }
    template <int size>
    static Bytes interleave_upper(Bytes a, Bytes b) {
        if constexpr (size == 1) return {vzip2q_u8(a.v, b.v)};
        if constexpr (size == 2) return from(vzip2q_u16(a.shorts(), b.shorts()));
        if constexpr (size == 4) return from(vzip2q_u32(a.words(), b.words()));
        if constexpr (size == 8) return from(vzip2q_u64(a.longs(), b.longs()));
    }
    static Bytes broadcast(std::uint16_t a) { return from(vdupq_n_u16(a)); }
    template <int size>
    static Bytes add(Bytes a, Bytes b) {
        if constexpr (size == 2) return from(vaddq_u16(a.shorts(), b.shorts()));
        if constexpr (size == 4) return from(vaddq_u32(a.words(), b.words()));
    }
    static Bytes lesser_of_bytes(Bytes a, Bytes b) { return {vminq_u8(a.v, b.v)}; }
    static Bytes sums_of_bytes(Bytes a) { return from(vpaddlq_u32(vpaddlq_u16(vpaddlq_u8(a.v)))); }
    static Bytes sums_of_products(Bytes a, Bytes b) {
        const int16x8_t x = vreinterpretq_s16_u8(a.v);
        const int16x8_t y = vreinterpretq_s16_u8(b.v);
        const int32x4_t lower = vmull_s16(vget_low_s16(x), vget_low_s16(y));
        return from(vreinterpretq_u32_s32(vpaddq_s32(lower, vmull_high_s16(x, y))));
    }
    friend Bytes operator^(Bytes a, Bytes b) { return {veorq_u8(a.v, b.v)}; }

private:
    uint16x8_t shorts() const { return vreinterpretq_u16_u8(v); }
    uint32x4_t words() const { return vreinterpretq_u32_u8(v); }
    uint64x2_t longs() const { return vreinterpretq_u64_u8(v); }
    static Bytes from(uint16x8_t a) { return {vreinterpretq_u8_u16(a)}; }
    static Bytes from(uint32x4_t a) { return {vreinterpretq_u8_u32(a)}; }
    static Bytes from(uint64x2_t a) { return {vreinterpretq_u8_u64(a)}; }
};

constexpr bool streams = false;
inline void stream_fence() {}
inline void clear_upper_halves() {}

}  // namespace
}  // namespace fastbn::neon
