// The kernels of conversion: of values side by side, from one type to another, and of elements side
// by side to the same with their bytes reversed. See moments.cpp for how this is compiled.
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
    } else {
        return static_cast<To>(value);
    }
}

// body(begin, end) for one part of n values after the other; before each, what lies `ahead` of it
// is prefetched. All but the first begin on a cache line of `to`, or a block's length past one.
// Bodies are loops for the compiler to vectorize, which a prefetch in them would prevent.
template <class From, class To, class Body>
inline void each_prefetched_part(const From* from, const To* to, std::ptrdiff_t n,
                                 const Body& body) {
    constexpr std::uintptr_t ahead = 4096;
    constexpr std::ptrdiff_t part = 128;
    std::ptrdiff_t end = columns_before_line(to, n);
    for (std::ptrdiff_t begin = 0; begin < n; begin = end) {
        if (end <= begin) end = n - begin < part ? n : begin + part;
        for (std::ptrdiff_t i = begin; i < end; i += lanes) prefetch_bytes(from + i, ahead);
        body(begin, end);
    }
}

// Whether blocks are loaded and stored as in other kernels: of the sixteen-bit types, and of float
// to these, for which there are instructions; and of float to double, which parameters of small
// calls need, a few values at a time.
template <class From>
constexpr bool by_blocks = is_half<From> || is_same<From, float>;

template <class From, class To>
void convert(const void* untyped_from, void* untyped_to, std::ptrdiff_t n) noexcept {
    const From* const from = static_cast<const From*>(untyped_from);
    To* const to = static_cast<To*>(untyped_to);
    if constexpr (by_blocks<From>) {
        each_block(0, n, [=](std::ptrdiff_t i, auto count) {
            store(to + i, count, load<Computed<To>>(from + i, count));
        });
        clear_upper_halves();
    } else if constexpr (is_half<To>) {
        each_block(0, n, [=](std::ptrdiff_t i, auto count) {
            float odd[lanes] = {};
            for (std::ptrdiff_t j = 0; j < count_of(count); ++j) odd[j] = round_to_odd(from[i + j]);
            store(to + i, count, load<float>(odd, Full{}));
        });
        clear_upper_halves();
    } else {
        each_prefetched_part(from, to, n, [=](std::ptrdiff_t begin, std::ptrdiff_t end) {
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

// An element that may lie anywhere: the struct is as long as it, and needs no alignment.
template <class Bits>
struct [[gnu::packed]] Unaligned {
    Bits bits;
};

template <class Bits>
void reverse(const void* untyped_from, void* untyped_to, std::ptrdiff_t n) noexcept {
    const auto* const from = static_cast<const Unaligned<Bits>*>(untyped_from);
    auto* const to = static_cast<Unaligned<Bits>*>(untyped_to);
    each_prefetched_part(from, to, n, [=](std::ptrdiff_t begin, std::ptrdiff_t end) {
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
