// The forward reduction where each value counts with a share of its own: moments of a tile,
// folded into what is known of its channels. Sees tiles and per-channel arrays; knows neither where
// shares come from nor what they mean.
//
// A chunk is summed about a shift as in chunk_sums.hpp. The shift is the value with the largest
// share: it is no further from the mean than sqrt(m2 / share), and n shares add up to n of the
// largest at most, so the bound there holds. Float64 takes a mean first, from differences to that
// value rather than from exact sums: products with shares are not exact anyhow, and the mean's
// error is a rounding of the spread. A value without a share leaves no trace, whatever it is.
#pragma once

#include <cstdint>

#include "block.hpp"
#include "chunk_sums.hpp"
#include "data.hpp"
#include "halving.hpp"
#include "moments.hpp"
#include "prefetch.hpp"
#include "row_groups.hpp"
#include "welford.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

// Sums of values with shares about a shift.
template <class V>
struct WeightedSums {
    V d;
    V d2;
    V count;
};

// Register by register: as a whole g++ 12 copies it by a string instruction, which is slow to
// start.
inline void copy(const WeightedSums<Wide>& from, WeightedSums<Wide>& to) {
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
    std::ptrdiff_t largest;  // the row with the largest share
    double sum;

    ByRow(RowShares of, std::ptrdiff_t rows) : shares(of), largest(0), sum(0.0) {
        for (std::ptrdiff_t r = 0; r < rows; ++r) {
            largest = shares.of[r] > shares.of[largest] ? r : largest;
            sum += shares.of[r];
        }
    }
    bool skips(std::ptrdiff_t r) const { return shares.of[r] == 0.0; }
    // Of each column, and of `cols` of them together.
    Wide counts(const WeightedSums<Wide>&) const { return broadcast(sum); }
    double count(const WeightedSums<Wide>&, std::ptrdiff_t cols) const {
        return sum * static_cast<double>(cols);
    }
    template <class X, class N>
    void add(WeightedSums<Wide>& sums, const X* at, std::ptrdiff_t r, std::ptrdiff_t, N n,
             const Wide& shift) const {
        const Vec<double> share = Vec<double>::broadcast(shares.of[r]);
        const Vec<double> zero = Vec<double>::broadcast(0.0);
        each_register(n, [&](int k, auto in) {
            const Vec<double> x = load_register(at, k, in, shift);
            const Vec<double> centred =
                Vec<double>::unless_positive(share, subtract_by_fma(x, shift.part[k]), zero);
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
    static Wide counts(const WeightedSums<Wide>& sums) { return sums.count; }
    static double count(const WeightedSums<Wide>& sums, std::ptrdiff_t) {
        return halve(sums.count);
    }
};

struct ByMask : EachElement<std::uint8_t> {
    static constexpr bool first_is_largest = true;

    template <class X, class N>
    void add(WeightedSums<Wide>& sums, const X* at, std::ptrdiff_t r, std::ptrdiff_t i, N n,
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
    void add(WeightedSums<Wide>& sums, const X* at, std::ptrdiff_t r, std::ptrdiff_t i, N n,
             const Wide& shift) const {
        const double* const shares_at = shares.of.data + r * shares.of.stride + i;
        const Vec<double> zero = Vec<double>::broadcast(0.0);
        each_register(n, [&](int k, auto in) {
            const Vec<double> share = load_register(shares_at, k, in, Wide{});
            const Vec<double> x = load_register(at, k, in, shift);
            const Vec<double> centred =
                Vec<double>::unless_positive(share, subtract_by_fma(x, shift.part[k]), zero);
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

// One chunk's moments from its sums, without the sum of its values, of which no use is made.
inline Partial<double> chunk_of(double d, double d2, double count, double shift) {
    const double divisor = count > 0.0 ? count : 1.0;
    const double offset = d / divisor;
    const double m2 = clamp_negative(d2 - d * offset);
    return {shift, offset, m2, 0.0, 0.0, 0.0};
}

// Folds a chunk into the state of channel i.
inline void fold_in(const WeightedState& state, std::ptrdiff_t i, const Partial<double>& chunk,
                    double count) {
    const Partial<double> both = merge_counted(at(state.moments, i), state.count[i], chunk, count);
    put(state.moments, i, both);
    state.count[i] += count;
}

template <class X, class By>
inline WeightedSums<Wide> tile_sums(Tile<const X> x, const By& by, std::ptrdiff_t rows,
                                    std::ptrdiff_t cols, double shift) {
    const Wide shifts = broadcast(shift);
    const NextRow<X> next(x, cols);
    WeightedSums<Wide> sums{};
    for (std::ptrdiff_t r = 0; r < rows; ++r) {
        if (by.skips(r)) continue;
        const X* const row = x.data + r * x.stride;
        each_block(0, cols, [&](std::ptrdiff_t i, auto n) {
            next.ask(row + i);
            by.add(sums, row + i, r, i, n, shifts);
        });
    }
    return sums;
}

template <class X, class Shares>
[[gnu::flatten]] void weighted_rows(Tile<const X> x, Shares shares, std::ptrdiff_t rows,
                                    std::ptrdiff_t cols, WeightedState state) noexcept {
    const auto by = policy_of(shares, rows);
    double shift = 0.0;
    if (!find_shift(by, x, rows, cols, shift)) return;
    if constexpr (two_passes<X>) {
        const WeightedSums<Wide> first = tile_sums(x, by, rows, cols, shift);
        shift += halve(first.d) / by.count(first, cols);
    }
    const WeightedSums<Wide> sums = tile_sums(x, by, rows, cols, shift);
    const double count = by.count(sums, cols);
    fold_in(state, 0, chunk_of(halve(sums.d), halve(sums.d2), count, shift), count);
}

// What a column tile keeps per block of columns.
struct WeightedColumns {
    Wide shift;
    WeightedSums<Wide> sums;
};

template <class X, class By>
inline void add_columns(Tile<const X> x, const By& by, std::ptrdiff_t rows, std::ptrdiff_t cols,
                        WeightedColumns* columns) {
    each_block(0, cols, [&](std::ptrdiff_t i, auto) { columns[i / lanes].sums = {}; });
    ReadAhead<X> ahead(x, cols);
    const auto begin = [&](std::ptrdiff_t r) { ahead.begin_group(r); };
    each_row_group(rows, cols, begin, [&](auto group, std::ptrdiff_t r, std::ptrdiff_t i, auto n) {
        WeightedColumns& c = columns[i / lanes];
        WeightedSums<Wide> sums;
        copy(c.sums, sums);
        for (std::ptrdiff_t row = r; row < r + group.size; ++row) {
            ahead.next_block();
            by.add(sums, x.data + row * x.stride + i, row, i, n, c.shift);
        }
        copy(sums, c.sums);
    });
    each_block(0, cols, [&](std::ptrdiff_t i, auto) {
        WeightedSums<Wide>& sums = columns[i / lanes].sums;
        sums.count = by.counts(sums);
    });
}

// The arrays of one block of columns, a channel each.
struct ColumnLanes {
    alignas(64) double d[lanes];
    alignas(64) double d2[lanes];
    alignas(64) double count[lanes];
    alignas(64) double shift[lanes];

    explicit ColumnLanes(const WeightedColumns& c) {
        store(d, Full{}, c.sums.d);
        store(d2, Full{}, c.sums.d2);
        store(count, Full{}, c.sums.count);
        store(shift, Full{}, c.shift);
    }
};

// Shifts moved onto the columns' means.
inline void move_shifts(WeightedColumns& c) {
    ColumnLanes a(c);
#pragma omp simd
    for (std::ptrdiff_t j = 0; j < lanes; ++j) {
        const double divisor = a.count[j] > 0.0 ? a.count[j] : 1.0;
        a.shift[j] += a.d[j] / divisor;
    }
    c.shift = load<double>(a.shift, Full{});
}

template <class X, class Shares>
[[gnu::flatten]] void weighted_columns(Tile<const X> x, Shares shares, std::ptrdiff_t rows,
                                       std::ptrdiff_t cols, WeightedState state,
                                       void* scratch) noexcept {
    const auto by = policy_of(shares, rows);
    auto* const columns = static_cast<WeightedColumns*>(scratch);
    each_block(0, cols, [&](std::ptrdiff_t i, auto n) {
        columns[i / lanes].shift = shifts_of(by, x, rows, i, n);
    });
    if constexpr (two_passes<X>) {
        add_columns(x, by, rows, cols, columns);
        each_block(0, cols, [&](std::ptrdiff_t i, auto) { move_shifts(columns[i / lanes]); });
    }
    add_columns(x, by, rows, cols, columns);
    each_block(0, cols, [&](std::ptrdiff_t i, auto) {
        const ColumnLanes a(columns[i / lanes]);
        const std::ptrdiff_t n = cols - i < lanes ? cols - i : lanes;
#pragma omp simd
        for (std::ptrdiff_t j = 0; j < n; ++j) {
            fold_in(state, i + j, chunk_of(a.d[j], a.d2[j], a.count[j], a.shift[j]), a.count[j]);
        }
    });
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
