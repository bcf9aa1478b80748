// The kernels of statistics: moments of a tile's values, merged with what is known of its channels,
// by one implementation for all types and for all forms of weights; with the values'
// range, and what becomes of moments channel by channel. Like the other five sources here it is
// compiled once for each instruction set, which FASTBN_ISA names, and FASTBN_VEC the header with
// its registers; each exports a table and nothing else. None includes a standard header that holds
// an inline function, since the linker might keep this object's copy of it for processors that
// cannot run it.
#include "kernels/chunk_sums.hpp"
#include "kernels/per_channel.hpp"
#include "kernels/table.hpp"
#include "kernels/value_range.hpp"
#include "numerics/dtype.hpp"
#include "numerics/moments_math.hpp"
#include "simd/block.hpp"
#include "simd/prefetch.hpp"
#include "simd/tile.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

// ---- What a chunk adds up, and when ----

template <class X, WeightsForm form>
struct ChunkSums {
    DoubleDouble<Wide> total;  // reads_twice only
    WeightSum<form, reads_twice<X>> weight;
    ShiftedSums<Wide> shifted;
    Wide differences;
};

// What the loops over a tile do with its values is said by an adder:
//
//     add(sums, k, x, by, ref)     adds register k of a block, x, which has the weights `by`
//     begin_group(group, memory)     what the sums of a group of a column's rows begin with, by the
//     end_group(group, memory)       column's sums in memory, and how they come to these
//
// The adder of the first of two readings.
struct AddTotals {
    template <class Sums, class By>
    static void add(Sums& sums, int k, Vec<double> x, By by, const Wide&) {
        add_exactly(sums.total, k, x, by);
        add_weight(sums.weight, k, by);
    }
    // A group goes on from the sums in memory, and replaces them.
    template <class Sums>
    static void begin_group(Sums& group, const Sums& memory) {
        copy(memory.total, group.total);
        copy(memory.weight, group.weight);
    }
    template <class Sums>
    static void end_group(const Sums& group, Sums& memory) {
        copy(group.total, memory.total);
        copy(group.weight, memory.weight);
    }
};

// That of the second reading, or, if it is_only, of the only one, in which weights are added up
// too. looks: notes which lanes have values that differ from the ref.
template <bool is_only, bool looks>
struct AddShifted {
    template <class Sums, class By>
    static void add(Sums& sums, int k, Vec<double> x, By by, const Wide& ref) {
        const Vec<double> centred = masked(subtract_by_fma(x, ref.reg[k]), by);
        sums.shifted.add(k, centred, by);
        if constexpr (is_only) add_weight(sums.weight, k, by);
        if constexpr (looks) add_difference(sums.differences, k, centred);
    }
    // Here a group is summed from zero, and then added to the sums: fewer roundings in a row.
    template <class Sums>
    static void begin_group(Sums& group, const Sums& memory) {
        group.shifted = {};
        if constexpr (is_only) copy(memory.weight, group.weight);
        if constexpr (looks) copy(memory.differences, group.differences);
    }
    template <class Sums>
    static void end_group(const Sums& group, Sums& memory) {
        memory.shifted.d = group.shifted.d + memory.shifted.d;
        memory.shifted.d2 = group.shifted.d2 + memory.shifted.d2;
        if constexpr (is_only) copy(group.weight, memory.weight);
        if constexpr (looks) copy(group.differences, memory.differences);
    }
};

// In float64 an m2 of 0 must mean that all values with weight are equal (see MomentsSums), but
// squares, and products with weights, may underflow to 0 too. So the differences are looked at,
// unless weights are 0 or 1 and the ref, which is then the mean, is so far from 0 that a
// difference from it that is not 0 has a square that is not.
template <class X, WeightsForm form>
// NOLINTNEXTLINE(modernize-avoid-c-style-cast): clang-tidy takes an instantiation for a cast
constexpr bool always_looks = reads_twice<X> && has_numbers(form);

template <bool any_number>
inline double checked_m2(double m2, double ref, double different) {
    const bool large = __builtin_fabs(ref) >= smallest_with_exact_squares;
    const bool no_look = large & !any_number;
    const bool look = large | (ref == 0.0);
    const bool equal = no_look | (look & (different == 0.0));
    return ((m2 == 0.0) & !equal) ? lost_square : m2;
}

// The quotient of two sums, and the other way round. Unweighted counts are whole numbers, and
// short: count * ref is exact in float64, 13 bits times float32's 24.
template <bool any_number>
inline double mean_of(DoubleDouble<double> total, DoubleDouble<double> weight) {
    double low;
    return any_number ? quotient(total.high, total.low, weight.high, weight.low, low)
                      : quotient(total.high, total.low, weight.high, low);
}
template <bool any_number>
inline DoubleDouble<double> total_from(double d, DoubleDouble<double> weight, double ref) {
    double error = 0.0;
    const double product = any_number ? two_product(ref, weight.high, error) : ref * weight.high;
    DoubleDouble<double> total{};
    total.high = two_sum(product, d, total.low);
    if (any_number) total.low += error + ref * weight.low;
    return total;
}

// ---- A tile of one channel ----

// Adds all of a tile. Past a row's end there is `neutral`.
template <class Adder, class X, WeightsForm form>
inline void add_tile(ChunkSums<X, form>& sums, Tile<const X> x, const TileWeights<form>& by,
                     std::ptrdiff_t rows, std::ptrdiff_t cols, const Wide& ref,
                     const Wide& neutral) {
    const RowPrefetch<X> next(x, cols);
    const Wide fill = by.fill(neutral);
    for (std::ptrdiff_t r = 0; r < rows; ++r) {
        const X* const row = x.data + r * x.stride;
        in_row(by, r, [&](const auto& by_row) {
            const auto prefetch = [&](std::ptrdiff_t i) { next.at(row, i); };
            each_block_to_widen(
                row, cols, prefetch, [&](std::ptrdiff_t i, const auto* values, auto n) {
                    each_register(n, [&](int k, auto in) {
                        const Vec<double> value = load_register(values, k, in, fill);
                        Adder::add(sums, k, value, by_row.of(r, i, k, in, value), ref);
                    });
                });
        });
    }
}

template <class X, WeightsForm form>
inline void add_shifted_tile(ChunkSums<X, form>& sums, Tile<const X> x, const TileWeights<form>& by,
                             std::ptrdiff_t rows, std::ptrdiff_t cols, double ref) {
    const Wide refs = broadcast(ref);
    if constexpr (always_looks<X, form>) {
        add_tile<AddShifted<false, true>>(sums, x, by, rows, cols, refs, refs);
    } else {
        if (reads_twice<X> && ref == 0.0) {
            add_tile<AddShifted<false, true>>(sums, x, by, rows, cols, refs, refs);
        } else {
            add_tile<AddShifted<!reads_twice<X>, false>>(sums, x, by, rows, cols, refs, refs);
        }
    }
}

// Merges a tile with the state, unless nothing in it has weight.
template <class X, WeightsForm form>
inline void merge_tile(Tile<const X> x, const TileWeights<form>& by, std::ptrdiff_t rows,
                       std::ptrdiff_t cols, double count, const MomentsSums& state) {
    ChunkSums<X, form> sums{};
    double ref = 0.0;
    DoubleDouble<double> weight{};
    DoubleDouble<double> total{};
    if constexpr (reads_twice<X>) {
        add_tile<AddTotals>(sums, x, by, rows, cols, Wide{}, Wide{});
        weight = by.of_tile(sums.weight, rows, cols);
        if (weight.high == 0.0) return;
        total = horizontal_sum(sums.total);
        ref = mean_of<has_numbers(form)>(total, weight);
    } else if (!find_ref(x, by, rows, cols, ref)) {
        return;
    }
    add_shifted_tile(sums, x, by, rows, cols, ref);
    const ShiftedSums<double> shifted = horizontal_sum(sums.shifted);
    if constexpr (!reads_twice<X>) {
        weight = by.of_tile(sums.weight, rows, cols);
        total = total_from<has_numbers(form)>(shifted.d, weight, ref);
    }
    Moments<double> chunk = moments_from<has_numbers(form)>(shifted, weight.high, ref, total);
    if (reads_twice<X> && chunk.m2 == 0.0) {
        chunk.m2 = checked_m2<has_numbers(form)>(chunk.m2, ref, any_difference(sums.differences));
    }
    if constexpr (form == WeightsForm::none) {
        put(state, 0, count == 0.0 ? chunk : merge(at(state, 0), count, chunk, weight.high));
    } else {
        merge_weighted_at(state, 0, chunk, weight);
    }
}

template <class X, WeightsForm form>
FASTBN_FLATTEN void moments_of_tile(Tile<const void> x, Tile<const void> weights,
                                    std::ptrdiff_t rows, std::ptrdiff_t cols,
                                    std::ptrdiff_t channels, double count, MomentsSums state,
                                    void*) noexcept {
    const TileWeights<form> by(weights, rows);
    Tile<const X> channel = typed<const X>(x);
    for (std::ptrdiff_t c = 0; c < channels; ++c, channel.data += cols) {
        merge_tile(channel, by, rows, cols, count, from(state, c));
    }
}

// ---- A tile of columns ----

// What is kept for each block of columns.
template <class X, WeightsForm form>
struct ColumnSums {
    Wide ref;
    ChunkSums<X, form> sums;
    bool looks;
};

// What the readings begin with.
template <class X, WeightsForm form>
inline void clear(ChunkSums<X, form>& sums) {
    if constexpr (reads_twice<X>) sums.total = {};
    sums.weight = {};
    sums.shifted = {};
}

// How many columns the first block of a tile has, or 0 where that is a whole one. In float64, of
// which a block has two registers, each of these is loaded from one cache line if that can be so in
// all rows, and there are so many columns that a block more is little.
template <class X>
inline std::ptrdiff_t first_columns(Tile<const X> x, std::ptrdiff_t cols) {
    constexpr std::ptrdiff_t many = 8 * lanes;
    constexpr bool gains = registers_are_lines && reads_twice<X>;
    const bool alike = x.stride * std::ptrdiff_t{sizeof(X)} % line_bytes == 0;
    return gains && alike && cols >= many ? columns_before_line(x.data, cols) : 0;
}
// The place of the block that begins at column i: the first may be short.
constexpr std::ptrdiff_t block_place(std::ptrdiff_t i) { return (i + lanes - 1) / lanes; }

// body(i, n) for every block of n columns from i on, of which the first has `head` unless that is
// 0.
template <class Body>
inline void each_block_after(std::ptrdiff_t head, std::ptrdiff_t cols, const Body& body) {
    if (head > 0) body(0, head);
    each_block(head, cols, body);
}

// Adds rows `begin` to `end` of the block of n columns from i on.
template <class Adder, class X, WeightsForm form, class N>
inline void add_group(ColumnSums<X, form>& column, Tile<const X> x, const TileWeights<form>& by,
                      std::ptrdiff_t begin, std::ptrdiff_t end, std::ptrdiff_t i, N n,
                      const Wide& fill, ColumnPrefetch<X>& ahead) {
    ChunkSums<X, form> group;
    Adder::begin_group(group, column.sums);
    const Tile<const X> here{x.data + begin * x.stride + i, x.stride};
    const auto prefetch = [&](std::ptrdiff_t) { ahead.next_block(); };
    each_row_to_widen(here, end - begin, n, prefetch, [&](std::ptrdiff_t row, const auto* values) {
        const std::ptrdiff_t r = begin + row;
        in_row(by, r, [&](const auto& by_row) {
            each_register(n, [&](int k, auto in) {
                const Vec<double> value = load_register(values, k, in, fill);
                Adder::add(group, k, value, by_row.of(r, i, k, in, value), column.ref);
            });
        });
    });
    Adder::end_group(group, column.sums);
}

// Adds every row to its blocks of columns.
template <class X, WeightsForm form>
inline void add_totals(Tile<const X> x, const TileWeights<form>& by, std::ptrdiff_t rows,
                       std::ptrdiff_t cols, std::ptrdiff_t head, ColumnSums<X, form>* columns) {
    ColumnPrefetch<X> ahead(x, cols);
    const Wide fill = by.fill(Wide{});
    const auto begin = [&](std::ptrdiff_t r) { ahead.begin_group(r); };
    each_row_group(rows, cols, head, begin,
                   [&](std::ptrdiff_t r, std::ptrdiff_t end, std::ptrdiff_t i, auto n) {
                       add_group<AddTotals>(columns[block_place(i)], x, by, r, end, i, n, fill,
                                            ahead);
                   });
}

template <class X, WeightsForm form>
inline void add_shifted(Tile<const X> x, const TileWeights<form>& by, std::ptrdiff_t rows,
                        std::ptrdiff_t cols, std::ptrdiff_t head, ColumnSums<X, form>* columns) {
    ColumnPrefetch<X> ahead(x, cols);
    const Wide fill = by.fill(Wide{});
    const auto begin = [&](std::ptrdiff_t r) { ahead.begin_group(r); };
    each_row_group(rows, cols, head, begin,
                   [&](std::ptrdiff_t r, std::ptrdiff_t end, std::ptrdiff_t i, auto n) {
                       ColumnSums<X, form>& c = columns[block_place(i)];
                       if constexpr (!reads_twice<X>) {
                           add_group<AddShifted<true, false>>(c, x, by, r, end, i, n, fill, ahead);
                       } else if constexpr (always_looks<X, form> ||
                                            (form != WeightsForm::none && !is_full<decltype(n)>)) {
                           add_group<AddShifted<false, true>>(c, x, by, r, end, i, n, fill, ahead);
                       } else if (c.looks) {
                           add_group<AddShifted<false, true>>(c, x, by, r, end, i, n, fill, ahead);
                       } else {
                           add_group<AddShifted<false, false>>(c, x, by, r, end, i, n, fill, ahead);
                       }
                   });
}

// ---- What comes of a block of columns in unweighted statistics ----

template <class N>
inline Moments<Wide> read(const MomentsSums& s, N n) {
    Moments<Wide> p;
    p.ref = load<double>(s.ref, n);
    p.offset = load<double>(s.offset, n);
    p.m2 = load<double>(s.m2, n);
    p.m2_lo = load<double>(s.m2_lo, n);
    p.sum = load<double>(s.sum, n);
    p.sum_lo = load<double>(s.sum_lo, n);
    return p;
}

template <class N>
inline void write(const MomentsSums& s, N n, const Moments<Wide>& p) {
    store(s.ref, n, p.ref);
    store(s.offset, n, p.offset);
    store(s.m2, n, p.m2);
    store(s.m2_lo, n, p.m2_lo);
    store(s.sum, n, p.sum);
    store(s.sum_lo, n, p.sum_lo);
}

template <class X, class N>
inline void set_ref(ColumnSums<X, WeightsForm::none>& c, double rows, N n) {
    Wide low;
    c.ref = quotient(c.sums.total.high, c.sums.total.low, rows, low);
    c.looks = !all_positive(c.ref * c.ref, n);
    if (c.looks) c.sums.differences = {};
}

// `m2`: the lanes', in which it may be 0.
[[gnu::noinline]] void check_m2(double* m2, const Wide& refs, const Wide& differences) {
    double ref[lanes];
    double different[lanes];
    store(ref, Full{}, refs);
    store(different, Full{}, differences);
    for (std::ptrdiff_t j = 0; j < lanes; ++j) {
        m2[j] = checked_m2<false>(m2[j], ref[j], different[j]);
    }
}

// A function of its own, since it is the same for all types but double.
template <bool twice, class N>
FASTBN_FLATTEN [[gnu::noinline]] void merge_block(const Wide& ref, const ShiftedSums<Wide>& shifted,
                                                  const DoubleDouble<Wide>& first_total,
                                                  const Wide& differences, double rows,
                                                  double count, const MomentsSums& state, N n) {
    DoubleDouble<Wide> total;
    if constexpr (twice) {
        copy(first_total, total);
    } else {
        total.high = two_sum(ref * rows, shifted.d, total.low);
    }
    Moments<Wide> chunk = moments_from<false>(shifted, rows, ref, total);
    if (twice && !all_positive(chunk.m2, n)) {
        double m2[lanes];
        store(m2, Full{}, chunk.m2);
        check_m2(m2, ref, differences);
        copy(load<double>(m2, Full{}), chunk.m2);
    }
    write(state, n, count == 0.0 ? chunk : merge(read(state, n), count, chunk, rows));
}

template <class X, class N>
inline void merge_columns(const ColumnSums<X, WeightsForm::none>& c, double rows, double count,
                          const MomentsSums& state, N n) {
    merge_block<reads_twice<X>>(c.ref, c.sums.shifted, c.sums.total, c.sums.differences, rows,
                                count, state, n);
}

// ---- The same where values have weights ----

// The sums of a block of columns, and what is computed of them lane by lane. g++ 12 vectorizes
// loops that call a function with a lane's number and nothing else, and in which no condition
// follows from another; hence so many arrays and small loops.
struct alignas(64) WeightedLanes {
    double ref[lanes];
    double total[lanes];
    double total_lo[lanes];
    double weight[lanes];
    double weight_lo[lanes];
    double divisor[lanes];  // the weight, or 1 where it is 0
    double d[lanes];
    double d2[lanes];
    double different[lanes];
    double offset[lanes];
    double m2[lanes];

    template <class X, WeightsForm form>
    WeightedLanes(const ColumnSums<X, form>& c, const TileWeights<form>& by) {
        const DoubleDouble<Wide> weights = by.of_columns(c.sums.weight);
        store(ref, Full{}, c.ref);
        store(total, Full{}, c.sums.total.high);
        store(total_lo, Full{}, c.sums.total.low);
        store(weight, Full{}, weights.high);
        store(weight_lo, Full{}, weights.low);
        store(divisor, Full{}, unless_positive(weights.high, weights.high, broadcast(1.0)));
        store(d, Full{}, c.sums.shifted.d);
        store(d2, Full{}, c.sums.shifted.d2);
        store(different, Full{}, c.sums.differences);
    }

    template <bool any_number>
    void set_ref(std::ptrdiff_t j) {
        ref[j] = mean_of<any_number>({total[j], total_lo[j]}, {divisor[j], weight_lo[j]});
    }
    template <bool any_number>
    void set_moments(std::ptrdiff_t j) {
        const ShiftedSums<double> shifted{d[j], d2[j]};
        const Moments<double> chunk = moments_from<any_number>(shifted, divisor[j], ref[j], {});
        offset[j] = chunk.offset;
        m2[j] = chunk.m2;
    }
    // What is left to do: of values that were read twice the total is known.
    template <bool any_number, bool twice>
    void complete(std::ptrdiff_t j) {
        if constexpr (twice) {
            m2[j] = checked_m2<any_number>(m2[j], ref[j], different[j]);
        } else {
            const DoubleDouble<double> sum =
                total_from<any_number>(d[j], {weight[j], weight_lo[j]}, ref[j]);
            total[j] = sum.high;
            total_lo[j] = sum.low;
        }
    }
    void merge_with(const MomentsSums& state, std::ptrdiff_t j) const {
        Moments<double> chunk;
        chunk.ref = ref[j];
        chunk.offset = offset[j];
        chunk.m2 = m2[j];
        chunk.m2_lo = 0.0;
        chunk.sum = total[j];
        chunk.sum_lo = total_lo[j];
        merge_weighted_at(state, j, chunk, {weight[j], weight_lo[j]});
    }
};

template <bool any_number>
FASTBN_FLATTEN [[gnu::noinline]] void set_ref(WeightedLanes& sums) {
#pragma omp simd
    for (std::ptrdiff_t j = 0; j < lanes; ++j) sums.set_ref<any_number>(j);
}

template <bool any_number, bool twice>
FASTBN_FLATTEN [[gnu::noinline]] void merge_lanes(WeightedLanes& sums, const MomentsSums& state,
                                                  std::ptrdiff_t n) {
#pragma omp simd
    for (std::ptrdiff_t j = 0; j < lanes; ++j) sums.set_moments<any_number>(j);
#pragma omp simd
    for (std::ptrdiff_t j = 0; j < lanes; ++j) sums.complete<any_number, twice>(j);
#pragma omp simd
    for (std::ptrdiff_t j = 0; j < n; ++j) sums.merge_with(state, j);
}

template <class X, WeightsForm form>
[[gnu::noinline]] void set_weighted_ref(ColumnSums<X, form>& c, const TileWeights<form>& by) {
    WeightedLanes sums(c, by);
    set_ref<has_numbers(form)>(sums);
    c.ref = load<double>(sums.ref, Full{});
    c.looks = !all_positive(c.ref * c.ref, Full{});
    c.sums.differences = {};
}

template <class X, WeightsForm form>
[[gnu::noinline]] void merge_weighted_columns(const ColumnSums<X, form>& c,
                                              const TileWeights<form>& by, const MomentsSums& state,
                                              std::ptrdiff_t n) {
    WeightedLanes sums(c, by);
    merge_lanes<has_numbers(form), reads_twice<X>>(sums, state, n);
}

// ---- The kernel ----

template <class X, WeightsForm form>
FASTBN_FLATTEN void moments_of_columns(Tile<const void> untyped_x, Tile<const void> weights,
                                       std::ptrdiff_t rows, std::ptrdiff_t cols,
                                       std::ptrdiff_t /*channels*/, double count, MomentsSums state,
                                       void* scratch) noexcept {
    static_assert(sizeof(ColumnSums<X, form>) <= column_scratch_bytes);
    const Tile<const X> x = typed<const X>(untyped_x);
    const TileWeights<form> by(weights, rows);
    const double size = static_cast<double>(rows);
    auto* const columns = static_cast<ColumnSums<X, form>*>(scratch);
    const std::ptrdiff_t head = first_columns(x, cols);
    each_block_after(head, cols, [&](std::ptrdiff_t i, [[maybe_unused]] auto n) {
        ColumnSums<X, form>& c = columns[block_place(i)];
        clear(c.sums);
        if constexpr (!reads_twice<X>) c.ref = column_refs(x, by, rows, i, n);
    });
    if constexpr (reads_twice<X>) {
        add_totals(x, by, rows, cols, head, columns);
        each_block_after(head, cols, [&](std::ptrdiff_t i, [[maybe_unused]] auto n) {
            if constexpr (form == WeightsForm::none) {
                set_ref(columns[block_place(i)], size, n);
            } else {
                set_weighted_ref(columns[block_place(i)], by);
            }
        });
    }
    add_shifted(x, by, rows, cols, head, columns);
    each_block_after(head, cols, [&](std::ptrdiff_t i, auto n) {
        if constexpr (form == WeightsForm::none) {
            merge_columns(columns[block_place(i)], size, count, from(state, i), n);
        } else {
            merge_weighted_columns(columns[block_place(i)], by, from(state, i), count_of(n));
        }
    });
}

// ---- The table ----

template <class X, WeightsForm form>
constexpr void set_form(MomentsKernels& kernels) {
    kernels.moments[static_cast<int>(form)] = {moments_of_tile<X, form>,
                                               moments_of_columns<X, form>};
}

// The row of a type that is read as it is stored in unweighted statistics, and is converted first
// in weighted ones.
template <class X>
constexpr MomentsKernels unweighted_form() {
    MomentsKernels kernels{};
    kernels.x = dtype_of<X>;
    set_form<X, WeightsForm::none>(kernels);
    return kernels;
}

template <class X>
constexpr MomentsKernels all_forms() {
    MomentsKernels kernels = unweighted_form<X>();
    set_form<X, WeightsForm::omit_nan>(kernels);
    set_form<X, WeightsForm::by_row>(kernels);
    set_form<X, WeightsForm::by_row_omit_nan>(kernels);
    set_form<X, WeightsForm::by_mask>(kernels);
    set_form<X, WeightsForm::by_element>(kernels);
    kernels.value_range = {range_of_tile<X>, range_of_columns<X>};
    return kernels;
}

}  // namespace

extern constexpr MomentsTable moments_table = {
    {all_forms<float>(), all_forms<double>(), unweighted_form<Float16>(),
     unweighted_form<Bfloat16>()},
    merge_moments,
    merge_central_moments,
    finalize_moments,
    merge_integer_sums,
    finalize_integer_sums,
    invert_std};

}  // namespace fastbn::FASTBN_ISA
