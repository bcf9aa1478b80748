// How values with shares add to a block's sums, and where the largest share is: once for each form
// in which shares come. Knows neither chunks nor channels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "block.hpp"
#include "block_memory.hpp"
#include "data.hpp"
#include "halving.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

// Sums of values with shares about a shift.
struct WeightedSums {
    Wide d;
    Wide d2;
    Wide count;
};

// Register by register: as a whole g++ 12 copies it by a string instruction, which is slow to
// start.
inline void copy(const WeightedSums& from, WeightedSums& to) {
#pragma GCC unroll 8
    for (int k = 0; k < Wide::registers; ++k) {
        to.d.part[k] = from.d.part[k];
        to.d2.part[k] = from.d2.part[k];
        to.count.part[k] = from.count.part[k];
    }
}

// Register k of a mask's bytes, as lanes of all bits or none; none past a tail's end.
inline Vec<double> load_mask(const std::uint8_t* p, int k, Full) {
    return Vec<double>::mask(p + k * Wide::width);
}
[[gnu::noinline]] Vec<double> load_mask(const std::uint8_t* p, int k, std::ptrdiff_t in) {
    std::uint8_t whole[Wide::width] = {};
    for (std::ptrdiff_t i = 0; i < in; ++i) whole[i] = p[k * Wide::width + i];
    return Vec<double>::mask(whole);
}

// What each kind of shares has to say: which rows hold nothing, where the largest share is, and how
// a register of values adds to the sums. A row's share is the same for all its values, and their
// count known without adding it up.
struct ByRow {
    RowShares shares;
    std::ptrdiff_t largest = 0;  // the row with the largest share
    double sum = 0.0;

    ByRow(RowShares of, std::ptrdiff_t rows) : shares(of) {
        for (std::ptrdiff_t r = 0; r < rows; ++r) {
            largest = shares.of[r] > shares.of[largest] ? r : largest;
            sum += shares.of[r];
        }
    }
    bool skips(std::ptrdiff_t r) const { return shares.of[r] == 0.0; }
    // Of each column, and of `cols` of them together.
    Wide counts(const WeightedSums&) const { return broadcast(sum); }
    double count(const WeightedSums&, std::ptrdiff_t cols) const {
        return sum * static_cast<double>(cols);
    }
    template <class X, class N>
    void add(WeightedSums& sums, const X* at, std::ptrdiff_t r, std::ptrdiff_t, N n,
             const Wide& shift) const {
        const Vec<double> share = Vec<double>::broadcast(shares.of[r]);
        each_register(n, [&](int k, auto in) {
            const Vec<double> x = load_register(at, k, in, shift);
            const Vec<double> centred =
                Vec<double>::zero_unless_positive(share, subtract_by_fma(x, shift.part[k]));
            const Vec<double> part = share * centred;
            sums.d.part[k] = add_evenly(k, sums.d.part[k], part);
            sums.d2.part[k] = sums.d2.part[k] + part * centred;
        });
    }
};

// What the policies for elements have in common: no row is skipped, and counts are summed.
template <class P>
struct EachElement {
    using Share = P;
    ElementShares<P> shares;

    static bool skips(std::ptrdiff_t) { return false; }
    static Wide counts(const WeightedSums& sums) { return sums.count; }
    static double count(const WeightedSums& sums, std::ptrdiff_t) { return halve(sums.count); }
};

struct ByMask : EachElement<std::uint8_t> {
    static constexpr bool first_is_largest = true;

    template <class X, class N>
    void add(WeightedSums& sums, const X* at, std::ptrdiff_t r, std::ptrdiff_t i, N n,
             const Wide& shift) const {
        const std::uint8_t* const mask_at = shares.of.data + r * shares.of.stride + i;
        const Vec<double> one = Vec<double>::broadcast(1.0);
        each_register(n, [&](int k, auto in) {
            const Vec<double> mask = load_mask(mask_at, k, in);
            const Vec<double> x = load_register(at, k, in, shift);
            const Vec<double> centred = subtract_by_fma(x, shift.part[k]) & mask;
            sums.d.part[k] = add_evenly(k, sums.d.part[k], centred);
            sums.d2.part[k] = sums.d2.part[k] + centred * centred;
            sums.count.part[k] = add_evenly(k + 1, sums.count.part[k], one & mask);
        });
    }
};

struct ByElement : EachElement<double> {
    static constexpr bool first_is_largest = false;

    template <class X, class N>
    void add(WeightedSums& sums, const X* at, std::ptrdiff_t r, std::ptrdiff_t i, N n,
             const Wide& shift) const {
        const double* const shares_at = shares.of.data + r * shares.of.stride + i;
        each_register(n, [&](int k, auto in) {
            const Vec<double> share = load_register(shares_at, k, in, Wide{});
            const Vec<double> x = load_register(at, k, in, shift);
            const Vec<double> centred =
                Vec<double>::zero_unless_positive(share, subtract_by_fma(x, shift.part[k]));
            const Vec<double> part = share * centred;
            sums.d.part[k] = add_evenly(k, sums.d.part[k], part);
            sums.d2.part[k] = sums.d2.part[k] + part * centred;
            sums.count.part[k] = add_evenly(k + 1, sums.count.part[k], share);
        });
    }
};

inline ByRow policy_of(RowShares shares, std::ptrdiff_t rows) { return {shares, rows}; }
inline ByMask policy_of(ElementShares<std::uint8_t> shares, std::ptrdiff_t) { return {{shares}}; }
inline ByElement policy_of(ElementShares<double> shares, std::ptrdiff_t) { return {{shares}}; }

// The value with the largest share in a whole tile; false if there is none.
template <class X>
inline bool find_shift(const ByRow& by, Tile<const X> x, std::ptrdiff_t rows, std::ptrdiff_t,
                       double& shift) {
    if (rows == 0 || by.skips(by.largest)) return false;
    shift = first_value(x.data + by.largest * x.stride);
    return true;
}
template <class By, class X>
inline bool find_shift(const By& by, Tile<const X> x, std::ptrdiff_t rows, std::ptrdiff_t cols,
                       double& shift) {
    typename By::Share largest = 0;
    for (std::ptrdiff_t r = 0; r < rows; ++r) {
        const auto* const row = by.shares.of.data + r * by.shares.of.stride;
        for (std::ptrdiff_t i = 0; i < cols; ++i) {
            if (!(row[i] > largest)) continue;
            largest = row[i];
            shift = first_value(x.data + r * x.stride + i);
            if (By::first_is_largest) return true;
        }
    }
    return largest > 0;
}

// And in each of a block's columns, from i on; any number where there is none.
template <class X, class N>
inline Wide shifts_of(const ByRow& by, Tile<const X> x, std::ptrdiff_t rows, std::ptrdiff_t i,
                      N n) {
    const bool counts = rows > 0 && !by.skips(by.largest);
    return counts ? load<double>(x.data + by.largest * x.stride + i, n) : broadcast(0.0);
}
template <class By, class X, class N>
inline Wide shifts_of(const By& by, Tile<const X> x, std::ptrdiff_t rows, std::ptrdiff_t i, N n) {
    Wide shift = broadcast(0.0);
    Wide largest = broadcast(0.0);
    for (std::ptrdiff_t r = 0; r < rows; ++r) {
        const auto* const at = by.shares.of.data + r * by.shares.of.stride + i;
        const Wide share = load<double>(at, n, broadcast(1.0));
        const Wide better = share - largest;
        shift = unless_positive(better, load<double>(x.data + r * x.stride + i, n), shift);
        largest = unless_positive(better, share, largest);
        if (By::first_is_largest && all_positive(largest)) break;
    }
    return shift;
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
