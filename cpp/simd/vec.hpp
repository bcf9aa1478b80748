// What an instruction set provides: Vec<float>, Vec<double> and Bytes, one register each, in
// namespace fastbn::FASTBN_ISA. FASTBN_VEC names the header that does, and this file is the
// contract that it fulfils. Everything above it is written once; a new instruction set is a new
// such header, the names of its tables in kernels/table.hpp, its flags in CMakeLists.txt and the
// check at run time in engine/dispatch.cpp.
//
// Lanes are independent, and each operation is one correctly rounded IEEE 754 operation (or moves
// bits), so that all instruction sets give the same bits.
//
// Vec<T>, T being float or double, for the types S that widen to T (uint8_t, Float16, Bfloat16, and
// float where T is double) and the types Y that float is rounded to (Float16, Bfloat16, to nearest,
// ties to even, NaN stays NaN):
//
//     width                      lanes in a register; a power of two, at most `lanes`
//     broadcast(a)               a in every lane
//     load(p)                    the `width` values from p on, of type T or S
//     load(p, n, fill)           the first n, 0 <= n <= width, and fill's in the other lanes: of T,
//                                and of float where T is double. Reads nothing past them
//     v.store(p)                 to `width` values of type T, or of Y where T is float
//     v.store(p, n)              the first n, of type T
//     v.stream(p)                as store(p), past the caches if that can be; p on a boundary of
//                                the size of what is written
//     blend(n, a, b)             the first n lanes of a, the others of b
//     unless_positive(p, a, b)   b where p <= 0; a where p > 0 or p is NaN
//     zero_unless_positive(p, a) the same with b = 0
//     any_infinite(a)            whether a lane is infinite
//     lesser(a, b)               a where a < b, else b: also where one of them is NaN
//     greater(a, b)              a where a > b, else b: likewise
//     a + b, a - b, a * b
//     Mask                       which lanes are meant
//     marked(p)                  the lanes whose byte from p on is not 0; reads `width` bytes
//     marked(p, n)               the same of the first n bytes, without reading past them
//     select(mask, a, b)         a in the mask's lanes, b in the others
//     keep(mask, a)              the same with b = 0
//     numbers(a)                 the lanes that are not NaN
//     both(mask, other)          the lanes of both
//
// Vec<double> alone:
//
//     zero_where_zero(p, a)      0 where p == 0, else a
//     all_positive(p)            whether every lane is > 0
//     Count                      a number below 2^51 for each lane; Count{} is 0
//     add_one(mask, count)       one more in the mask's lanes
//     value_of(count)            the numbers, as a Vec<double>
//     a | b                      the bits of both
//     upper_half<n>(a)           lanes n / 2 to n - 1, in the place of the first n / 2; anything in
//                                the others. n: a power of two from 2 to `width`
//     first(a)                   the first lane
//
// Bytes, one register without a type, in groups of sixteen bytes:
//
//     groups                     how many there are
//     load(p)                    all of them, from p on
//     load_groups(p, step)       the sixteen bytes from p on, those from p + step on, and so on
//     v.store(p)
//     v.stream(p)                as store(p), past the caches if that can be; p on a boundary of
//                                the register's size
//     v.store_group<g>(p)        the sixteen bytes of group g
//     interleave_lower<size>(a, b)   in each group the elements of `size` bytes, 1, 2, 4 or 8, of
//                                    the lower halves: the first of a, the first of b, and so on
//     interleave_upper<size>(a, b)   the same of the upper halves
//     broadcast(a)               sixteen bits, in all elements of two bytes
//     a ^ b                      exclusive or
//     add<size>(a, b)            the sums of elements of 2 or 4 bytes, modulo 2^16 or 2^32
//     lesser_of_bytes(a, b)      of every two bytes the lesser one
//     sums_of_bytes(a)           of every eight bytes the sum, as an element of eight bytes
//     sums_of_products(a, b)     of elements of two bytes, signed: the sum of the products of every
//                                two neighbours, as an element of four bytes, modulo 2^32
//
// Functions:
//
//     add_by_fma(a, b)           a + b, and
//     subtract_by_fma(a, b)      a - b, by a fused multiply-add with a factor of 1, where units of
//                                their own do these: sums keep the adders busy alone
//     product_error(a, b, p)     a * b - p, rounded once, p being a * b rounded and 0 <= b <= 2
//     clamp_negative(a)          0 where a < 0, else a, NaN too
//     streams                    whether stream(p) differs from store(p); where not, no loops are
//                                compiled for it
//     stream_fence()             orders what was streamed before what is written after it
//     clear_upper_halves()       what a kernel ends with, where calls of functions out of line keep
//                                g++ from seeing that wide registers are in use
//
// and where whole blocks of a type in memory have a faster way than register by register, overloads
// of store_registers(p, a), stream_registers(p, a) and load_from_memory(p, a) of block.hpp.
#pragma once

#include <cstddef>
#include <cstdint>

// Loops over registers are to vanish, and what a kernel calls to become part of it. With
// the sanitizers' checks in every line that would take minutes to compile.
#ifdef FASTBN_SANITIZE
#define FASTBN_FLATTEN
#define FASTBN_UNROLL
#else
#define FASTBN_FLATTEN [[gnu::flatten]]
#define FASTBN_UNROLL _Pragma("GCC unroll 8")
#endif

#include FASTBN_VEC

#include "simd/tile.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

template <class A, class B>
constexpr bool is_same = false;
template <class A>
constexpr bool is_same<A, A> = true;

// Compiles where most functions of the contract are there, with the types that it says.
template <class T>
constexpr bool fulfils_contract() {
    using V = Vec<T>;
    using Mask = typename V::Mask;
    constexpr V v{};
    constexpr const T* p = nullptr;
    constexpr const std::uint8_t* bytes = nullptr;

    static_assert(lanes % V::width == 0 && (V::width & (V::width - 1)) == 0);
    static_assert(sizeof(V) == sizeof(T) * V::width);
    static_assert(is_same<decltype(V::broadcast(T(0))), V>);
    static_assert(is_same<decltype(V::load(p)), V> && is_same<decltype(V::load(bytes)), V>);
    static_assert(is_same<decltype(V::load(p, std::ptrdiff_t{0}, v)), V>);
    static_assert(is_same<decltype(V::blend(std::ptrdiff_t{0}, v, v)), V>);
    static_assert(is_same<decltype(V::unless_positive(v, v, v)), V>);
    static_assert(is_same<decltype(V::zero_unless_positive(v, v)), V>);
    static_assert(is_same<decltype(V::any_infinite(v)), bool>);
    static_assert(is_same<decltype(V::lesser(v, v)), V> && is_same<decltype(V::greater(v, v)), V>);
    static_assert(sizeof(V::both(V::numbers(v), V::numbers(v))) == sizeof(Mask));
    static_assert(sizeof(V::marked(bytes)) == sizeof(Mask));
    static_assert(sizeof(V::marked(bytes, std::ptrdiff_t{0})) == sizeof(Mask));
    static_assert(is_same<decltype(V::select(V::marked(bytes), v, v)), V>);
    static_assert(is_same<decltype(V::keep(V::marked(bytes), v)), V>);
    static_assert(is_same<decltype(v + v), V> && is_same<decltype(v - v), V> &&
                  is_same<decltype(v * v), V>);
    return true;
}
static_assert(fulfils_contract<float>() && fulfils_contract<double>());

using CountContract = Vec<double>::Count;
static_assert(is_same<decltype(Vec<double>::value_of(CountContract{})), Vec<double>>);

static_assert(2 * Vec<double>::width == Vec<float>::width);

constexpr std::ptrdiff_t group_bytes = 16;
static_assert(sizeof(Bytes) == group_bytes * Bytes::groups);
static_assert(is_same<decltype(Bytes::interleave_lower<1>(Bytes{}, Bytes{})), Bytes>);
static_assert(is_same<decltype(Bytes::interleave_upper<8>(Bytes{}, Bytes{})), Bytes>);
static_assert(is_same<decltype(Bytes::add<2>(Bytes{}, Bytes::broadcast(1))), Bytes>);
static_assert(is_same<decltype(Bytes::sums_of_bytes(Bytes{} ^ Bytes{})), Bytes>);
static_assert(is_same<decltype(Bytes::sums_of_products(Bytes{}, Bytes{})), Bytes>);

}  // namespace
}  // namespace fastbn::FASTBN_ISA
