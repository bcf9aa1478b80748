// The kernels of conversion: dense arrays of values from one type to another, and of elements with
// their bytes in reverse order. See moments.cpp for how this is compiled.
#include <cstddef>
#include <cstdint>

#include "kernels/table.hpp"
#include "numerics/dtype.hpp"
#include "simd/block.hpp"
#include "simd/prefetch.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

template <class T>
constexpr bool is_half = is_same<T, Float16> || is_same<T, Bfloat16>;

template <class To, class From>
inline To converted(From value) {
    if constexpr (is_same<From, Boolean>) {
        return value.byte != 0 ? To(1) : To(0);
    } else if constexpr (is_half<To>) {
        To half;
        narrow(value, half);
        return half;
    } else {
        return static_cast<To>(value);
    }
}

// body(begin, end) for stretches of n values, each but the first of which begins on a cache line of
// `to`; what will be read is asked for ahead. Bodies are loops for the compiler to vectorize, which
// a prefetch in them would prevent.
template <class From, class To, class Body>
inline void each_stretch(const From* from, const To* to, std::ptrdiff_t n, const Body& body) {
    constexpr std::uintptr_t ahead = 4096;
    constexpr std::ptrdiff_t stretch = 128;
    std::ptrdiff_t end = columns_before_line(to, n);
    for (std::ptrdiff_t begin = 0; begin < n; begin = end) {
        end = begin < end ? end : (n - begin < stretch ? n : begin + stretch);
        for (std::ptrdiff_t i = begin; i < end; i += lanes) prefetch_bytes(from + i, ahead);
        body(begin, end);
    }
}

// Whether registers do it that a kernel loads and stores: the sixteen-bit types, and floats, of
// which small calls have a few for each channel.
template <class From, class To>
constexpr bool by_registers = is_half<From> || (is_same<From, float> && !is_same<To, float>);

template <class From, class To>
void convert(const void* untyped_from, void* untyped_to, std::ptrdiff_t n) noexcept {
    const From* const from = static_cast<const From*>(untyped_from);
    To* const to = static_cast<To*>(untyped_to);
    if constexpr (by_registers<From, To>) {
        each_block(0, n, [=](std::ptrdiff_t i, auto count) {
            store(to + i, count, load<Computed<To>>(from + i, count));
        });
        clear_upper_halves();
    } else {
        each_stretch(from, to, n, [=](std::ptrdiff_t begin, std::ptrdiff_t end) {
#pragma omp simd
            for (std::ptrdiff_t i = begin; i < end; ++i) to[i] = converted<To>(from[i]);
        });
    }
}

template <class To>
Conversion conversion_to(DType from) {
    if (from == DType::boolean) return convert<Boolean, To>;
    return visit_dtype(from, [](auto zero) -> Conversion {
        using From = decltype(zero);
        if constexpr (is_same<From, To>) {
            return nullptr;
        } else {
            return convert<From, To>;
        }
    });
}
template <class Half>
Conversion conversion_to_half(DType from) {
    if (from == DType::float32) return convert<float, Half>;
    return from == DType::float64 ? convert<double, Half> : nullptr;
}

Conversion conversion(DType from, DType to) noexcept {
    if (to == DType::float32) return conversion_to<float>(from);
    if (to == DType::float64) return conversion_to<double>(from);
    if (to == DType::float16) return conversion_to_half<Float16>(from);
    return to == DType::bfloat16 ? conversion_to_half<Bfloat16>(from) : nullptr;
}

inline std::uint16_t reversed(std::uint16_t bits) { return __builtin_bswap16(bits); }
inline std::uint32_t reversed(std::uint32_t bits) { return __builtin_bswap32(bits); }
inline std::uint64_t reversed(std::uint64_t bits) { return __builtin_bswap64(bits); }

// Elements that may be anywhere: of a struct of one byte's alignment, which is as long as they are.
template <class Bits>
struct [[gnu::packed]] Unaligned {
    Bits bits;
};

template <class Bits>
void reverse(const void* untyped_from, void* untyped_to, std::ptrdiff_t n) noexcept {
    const auto* const from = static_cast<const Unaligned<Bits>*>(untyped_from);
    auto* const to = static_cast<Unaligned<Bits>*>(untyped_to);
    each_stretch(from, to, n, [=](std::ptrdiff_t begin, std::ptrdiff_t end) {
#pragma omp simd
        for (std::ptrdiff_t i = begin; i < end; ++i) to[i].bits = reversed(from[i].bits);
    });
}

Conversion reversal(std::ptrdiff_t size) noexcept {
    if (size == 2) return reverse<std::uint16_t>;
    return size == 4 ? reverse<std::uint32_t> : reverse<std::uint64_t>;
}

}  // namespace

extern constexpr ConvertTable convert_table = {conversion, reversal};

}  // namespace fastbn::FASTBN_ISA
