// The arithmetic of moments, for one channel (V = double) or for a block of them: sums beyond
// float64's precision (double-double numbers), and the merge of the moments of two disjoint sets of
// values. Knows nothing of where the values came from.
//
// Functions here are static: instantiated for double under another instruction set's flags, an
// inline function could be the one copy that the linker keeps for every machine.
#pragma once

#include <cstddef>

namespace fastbn {

// Running moments of one or more channels, one array entry per channel. A channel's mean is kept
// twice: as `ref + offset`, near enough to its data for differences to be exact, which is what
// merging needs; and as the double-double `sum + sum_lo` of (weighted) values, which gives the mean
// to twice the working precision once divided by the count. The centred sum of squares is a
// double-double too, so that no number of merges adds up to an error.
//
// An m2 of exactly 0 says that all values are equal: see `lost_square`.
struct MomentsSums {
    double* ref;
    double* offset;
    double* m2;
    double* m2_lo;
    double* sum;
    double* sum_lo;
    double* weight;     // the sum of the values' weights, and
    double* weight_lo;  // its low part. Both null of unweighted statistics: the count is known
};

// The entries from i on.
static inline MomentsSums from(MomentsSums s, std::ptrdiff_t i) {
    s.ref += i;
    s.offset += i;
    s.m2 += i;
    s.m2_lo += i;
    s.sum += i;
    s.sum_lo += i;
    if (s.weight != nullptr) {
        s.weight += i;
        s.weight_lo += i;
    }
    return s;
}

// Statistics, one array entry per channel: those that moments give, and what else is asked of an
// array. Null where one is not asked for; a kernel writes all of those that moments give.
struct Statistics {
    double* mean = nullptr;
    double* mean_lo = nullptr;  // the low part of the mean
    double* m2 = nullptr;
    double* var = nullptr;
    double* invstd = nullptr;
    double* count = nullptr;  // asked for wherever values may differ in weight
    double* min = nullptr;    // of the values that have weight; both or neither
    double* max = nullptr;
};

// The least and the largest of the values that have weight, NaN left aside, and whether one of
// those is NaN: 1 or 0. One array entry per channel, to which a kernel adds what its tile holds.
struct ValueRange {
    double* min;
    double* max;
    double* has_nan;
};

static inline ValueRange from(const ValueRange& r, std::ptrdiff_t i) {
    return {r.min + i, r.max + i, r.has_nan + i};
}

// A double-double, or a block of them: an unevaluated sum, of which `low` is small beside `high`.
template <class V>
struct DoubleDouble {
    V high;
    V low;
};

// The moments of one channel, or of a block of them: see MomentsSums for the fields.
template <class V>
struct Moments {
    V ref;
    V offset;
    V m2;
    V m2_lo;
    V sum;
    V sum_lo;
};

// Those of one channel as sums to be added to, of unweighted statistics.
static inline MomentsSums sums_of(Moments<double>& m) {
    MomentsSums s{};
    s.ref = &m.ref;
    s.offset = &m.offset;
    s.m2 = &m.m2;
    s.m2_lo = &m.m2_lo;
    s.sum = &m.sum;
    s.sum_lo = &m.sum_lo;
    return s;
}

// The m2 of float64 values that are not all equal, though the squares of their differences are too
// small for float64. No sum of squares that are large enough for a channel's variance to be right
// notices it.
constexpr double lost_square = 0x1p-1074;

// m2 times a positive number: 0 only if m2 is.
static inline double scaled_m2(double m2, double factor) {
    const double scaled = m2 * factor;
    return scaled == 0.0 && m2 > 0.0 ? lost_square : scaled;
}

// Differences of values as large as this, where they are not 0, have squares that float64 holds.
constexpr double smallest_with_exact_squares = 0x1p-480;

// a + b = result + error exactly (Knuth 1969, two-sum).
template <class V>
static inline V two_sum(V a, V b, V& error) {
    const V sum = a + b;
    const V b_seen = sum - a;
    error = (a - (sum - b_seen)) + (b - b_seen);
    return sum;
}

// a * b = product + error exactly (Dekker 1971), by halves of 26 bits: not every processor has a
// fast fused multiply-add. `b` is a double or of a's type. NaN for factors above 2^996.
template <class V, class B>
static inline V two_product(V a, B b, V& error) {
    constexpr double splitter = 134217729.0;  // 2^27 + 1
    const V a_spread = a * splitter;
    const V a_high = a_spread - (a_spread - a);
    const V a_low = a - a_high;
    const B b_spread = b * splitter;
    const B b_high = b_spread - (b_spread - b);
    const B b_low = b - b_high;
    const V product = a * b;
    error = (((a_high * b_high - product) + a_high * b_low) + a_low * b_high) + a_low * b_low;
    return product;
}

// (high + low) / count as quotient + low part, to twice float64's precision. The low part is small
// beside the quotient's last digit or two, and the sum of both is exact where that is a float64
// number. NaN for quotients above 2^996.
template <class V>
static inline V quotient(V high, V low, double count, V& quotient_lo) {
    const V first = high * (1.0 / count);
    V error;
    const V product = two_product(first, count, error);
    return two_sum(first, (((high - product) - error) + low) * (1.0 / count), quotient_lo);
}

// The same with a divisor that is a double-double, and may be so small that float64 does not hold
// its reciprocal.
static inline double quotient(double high, double low, double divisor, double divisor_lo,
                              double& quotient_lo) {
    const double first = high / divisor;
    double error;
    const double product = two_product(first, divisor, error);
    const double left = ((high - product) - error) + (low - first * divisor_lo);
    return two_sum(first, left / divisor, quotient_lo);
}

// The moments of both sets, of which a covers count_a values and b count_b > 0 (Chan, Golub &
// LeVeque 1983, eq. 1.5). Offsets are of the size of the data's spread, so `delta` is good to a
// rounding of that, however far the channel's mean is from zero. Its square may be beyond float64
// where the product with the counts is not.
template <class V>
static inline Moments<V> merge(const Moments<V>& a, double count_a, const Moments<V>& b,
                               double count_b) {
    const double part_b = count_b / (count_a + count_b);
    const V delta = ((b.ref - a.ref) + b.offset) - a.offset;
    Moments<V> both;
    both.ref = a.ref;
    both.offset = a.offset + delta * part_b;
    V error;
    const V within = two_sum(a.m2, b.m2, error);
    V between_error;
    both.m2 = two_sum(within, delta * (delta * (count_a * part_b)), between_error);
    both.m2_lo = (a.m2_lo + b.m2_lo) + (error + between_error);
    both.sum = two_sum(a.sum, b.sum, error);
    both.sum_lo = (a.sum_lo + b.sum_lo) + error;
    return both;
}

// The same where either count may be 0: what that one covers is then nothing, and need not even be
// numbers near the other's; of two that are nothing, a stays. Means that differ leave an m2 that is
// not 0, however small the weights. Always inline, as is what calls it: clang vectorizes no loop
// that calls a function, and its `flatten` leaves the calls in what it has inlined.
[[gnu::always_inline]] static inline Moments<double> merge_weighted(const Moments<double>& a,
                                                                    double weight_a,
                                                                    const Moments<double>& b,
                                                                    double weight_b) {
    const Moments<double> both = merge(a, weight_a, b, weight_a + weight_b > 0.0 ? weight_b : 1.0);
    const bool only_a = weight_b == 0.0;
    const bool only_b = (weight_a == 0.0) & !only_a;
    const double delta = ((b.ref - a.ref) + b.offset) - a.offset;
    const bool lost = (both.m2 == 0.0) & (delta != 0.0);
    const double m2 = lost ? lost_square : both.m2;
    Moments<double> merged;
    merged.ref = only_b ? b.ref : a.ref;
    merged.offset = only_b ? b.offset : (only_a ? a.offset : both.offset);
    merged.m2 = only_b ? b.m2 : (only_a ? a.m2 : m2);
    merged.m2_lo = only_b ? b.m2_lo : (only_a ? a.m2_lo : both.m2_lo);
    merged.sum = only_b ? b.sum : (only_a ? a.sum : both.sum);
    merged.sum_lo = only_b ? b.sum_lo : (only_a ? a.sum_lo : both.sum_lo);
    return merged;
}

// Channel i out of its arrays and back.
static inline Moments<double> at(const MomentsSums& s, std::ptrdiff_t i) {
    Moments<double> p;
    p.ref = s.ref[i];
    p.offset = s.offset[i];
    p.m2 = s.m2[i];
    p.m2_lo = s.m2_lo[i];
    p.sum = s.sum[i];
    p.sum_lo = s.sum_lo[i];
    return p;
}

static inline void put(const MomentsSums& s, std::ptrdiff_t i, const Moments<double>& p) {
    s.ref[i] = p.ref;
    s.offset[i] = p.offset;
    s.m2[i] = p.m2;
    s.m2_lo[i] = p.m2_lo;
    s.sum[i] = p.sum;
    s.sum_lo[i] = p.sum_lo;
}

// Merges moments of a weight with those of channel i; those of no weight leave no trace.
[[gnu::always_inline]] static inline void merge_weighted_at(const MomentsSums& s, std::ptrdiff_t i,
                                                            const Moments<double>& chunk,
                                                            DoubleDouble<double> weight) {
    put(s, i, merge_weighted(at(s, i), s.weight[i], chunk, weight.high));
    double error;
    s.weight[i] = two_sum(s.weight[i], weight.high, error);
    s.weight_lo[i] = (s.weight_lo[i] + weight.low) + error;
}

// Count, mean and centred sum of squares of a set of values, the last two as double-doubles: what
// is left of the moments when they are finished, and what goes on being merged when the data are
// gone. T: double for one channel; a pointer for many, with one array entry per channel.
template <class T>
struct CentralMoments {
    T count;
    T mean;
    T mean_lo;
    T m2;
    T m2_lo;
};

static inline CentralMoments<double> at(const CentralMoments<const double*>& s, std::ptrdiff_t i) {
    return {s.count[i], s.mean[i], s.mean_lo[i], s.m2[i], s.m2_lo[i]};
}

// Those of both sets, with the same bits whichever of the two comes first. The mean moves from that
// of the set with more values (of equally many, from the larger one), so that the step, which is
// rounded, is at most half of the way. What is not finite has a low part of 0.
static inline CentralMoments<double> merge(const CentralMoments<double>& one,
                                           const CentralMoments<double>& other) {
    const bool mean_is_less =
        (one.mean < other.mean) | ((one.mean == other.mean) & (one.mean_lo < other.mean_lo));
    const bool is_less = (one.count < other.count) | ((one.count == other.count) & mean_is_less);
    const double count_a = is_less ? other.count : one.count;
    const double count_b = is_less ? one.count : other.count;
    const double mean_a = is_less ? other.mean : one.mean;
    const double mean_b = is_less ? one.mean : other.mean;
    const double mean_a_lo = is_less ? other.mean_lo : one.mean_lo;
    const double mean_b_lo = is_less ? one.mean_lo : other.mean_lo;
    Moments<double> a{};
    a.ref = mean_a;
    a.m2 = is_less ? other.m2 : one.m2;
    a.m2_lo = is_less ? other.m2_lo : one.m2_lo;
    Moments<double> b{};
    b.ref = mean_b;
    b.offset = mean_b_lo - mean_a_lo;
    b.m2 = is_less ? one.m2 : other.m2;
    b.m2_lo = is_less ? one.m2_lo : other.m2_lo;
    const Moments<double> both = merge_weighted(a, count_a, b, count_b);

    CentralMoments<double> merged;
    merged.count = count_a + count_b;
    double step_lo;
    const double moved = two_sum(both.ref, both.offset, step_lo);
    double mean_lo;
    const double mean = two_sum(moved, step_lo + mean_a_lo, mean_lo);
    // The difference of the means may be beyond float64 where their average is not.
    const double part_b = count_b / merged.count;
    const double average = mean_a * (1.0 - part_b) + mean_b * part_b;
    const bool mean_fits = mean * 0.0 == 0.0;
    merged.mean = mean_fits ? mean : (count_b == 0.0 ? mean_a : average);
    merged.mean_lo = mean_fits ? mean_lo : 0.0;
    double m2_lo;
    const double m2 = two_sum(both.m2, both.m2_lo, m2_lo);
    const bool m2_fits = m2 * 0.0 == 0.0;
    merged.m2 = m2_fits ? m2 : both.m2;
    merged.m2_lo = m2_fits ? m2_lo : 0.0;
    return merged;
}

// Sums of integers of up to 16 bits and of their squares, one array entry per channel: all of them
// whole numbers, of which double-doubles lose nothing. No other order of addition, and no other
// merge, gives other sums.
struct IntegerSums {
    double* sum;  // below 2^53 for 2^37 values
    double* squares;
    double* squares_lo;
};

static inline IntegerSums from(const IntegerSums& s, std::ptrdiff_t i) {
    return {s.sum + i, s.squares + i, s.squares_lo + i};
}

static inline void add_integers(const IntegerSums& s, std::ptrdiff_t i, double sum,
                                double squares) {
    double error;
    s.sum[i] += sum;
    s.squares[i] = two_sum(s.squares[i], squares, error);
    s.squares_lo[i] += error;
}

// The moments about the integer k next to the mean, from there on rounded at most to a
// double-double's last digit: with r = sum - k count, sum((x - k)^2) = squares - k (sum + r), all
// of it whole numbers; and of that, m2 = sum((x - k)^2) - r^2 / count is at least half.
static inline Moments<double> moments_of_integers(const IntegerSums& s, std::ptrdiff_t i,
                                                  double mean, double count) {
    constexpr double whole = 0x1.8p52;  // has no digits behind the point
    const double k = (mean + whole) - whole;
    const double r = s.sum[i] - k * count;
    double error;
    const double product = two_product(s.sum[i] + r, k, error);
    double about_k_lo;
    const double about_k = two_sum(s.squares[i], -product, about_k_lo);
    about_k_lo += s.squares_lo[i] - error;
    double square_lo;
    const double square = two_product(r, r, square_lo);
    double excess_lo;
    const double excess = quotient(square, square_lo, count, excess_lo);
    double m2_lo;
    Moments<double> moments;
    moments.ref = k;
    moments.offset = 0.0;
    moments.m2 = two_sum(about_k, -excess, m2_lo);
    moments.m2_lo = m2_lo + (about_k_lo - excess_lo);
    moments.sum = s.sum[i];
    moments.sum_lo = 0.0;
    return moments;
}

}  // namespace fastbn
