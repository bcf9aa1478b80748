// Sums beyond float64's precision, and merging the moments of two disjoint sets of values (Chan,
// Golub & LeVeque 1983, eq. 1.5), for one channel (V = double) or for a block of them. Knows
// nothing of where the values came from.
#pragma once

namespace fastbn {

// Moments of some values of V's channels; see MomentsState for the fields.
template <class V>
struct Partial {
    V ref;
    V offset;
    V m2;
    V m2_lo;
    V sum;
    V sum_lo;
};

// These are static: instantiated for double under another instruction set's flags, an inline
// function could be the one copy that the linker keeps for every machine.

// a + b = result + error exactly (Knuth 1969, two-sum).
template <class V>
static inline V two_sum(V a, V b, V& error) {
    const V sum = a + b;
    const V b_seen = sum - a;
    error = (a - (sum - b_seen)) + (b - b_seen);
    return sum;
}

// a * b = product + error exactly (Dekker 1971), by halves of 26 bits: not every processor has a
// fast fused multiply-add.
template <class V>
static inline V two_product(V a, double b, V& error) {
    constexpr double splitter = 134217729.0;  // 2^27 + 1
    const V a_spread = a * splitter;
    const V a_high = a_spread - (a_spread - a);
    const V a_low = a - a_high;
    const double b_high = b * splitter - (b * splitter - b);
    const double b_low = b - b_high;
    const V product = a * b;
    error = (((a_high * b_high - product) + a_high * b_low) + a_low * b_high) + a_low * b_low;
    return product;
}

// (high + low) / count as quotient + rest, to twice float64's precision. `rest` is small beside the
// quotient's last digit or two, and the sum of both is exact where that is a float64 number. NaN
// for quotients above 2^996.
template <class V>
static inline V quotient(V high, V low, double count, V& rest) {
    const V first = high * (1.0 / count);
    V error;
    const V product = two_product(first, count, error);
    return two_sum(first, (((high - product) - error) + low) * (1.0 / count), rest);
}

// a covers count_a values, b count_b > 0. Offsets are of the size of the data's spread, so `delta`
// is good to a rounding of that, however far the channel's mean is from zero.
template <class V>
static inline Partial<V> merge(const Partial<V>& a, double count_a, const Partial<V>& b,
                               double count_b) {
    const double share_b = count_b / (count_a + count_b);
    const V delta = ((b.ref - a.ref) + b.offset) - a.offset;
    Partial<V> both;
    both.ref = a.ref;
    both.offset = a.offset + delta * share_b;
    V error;
    both.m2 = two_sum(a.m2, b.m2 + (delta * delta) * (count_a * share_b), error);
    both.m2_lo = (a.m2_lo + b.m2_lo) + error;
    both.sum = two_sum(a.sum, b.sum, error);
    both.sum_lo = (a.sum_lo + b.sum_lo) + error;
    return both;
}

// The same where counts are sums of shares, of which either may be 0: what that one covers is then
// nothing, and need not even be numbers near the other's.
static inline Partial<double> merge_counted(const Partial<double>& a, double count_a,
                                            const Partial<double>& b, double count_b) {
    const Partial<double> both = merge(a, count_a, b, count_a + count_b > 0.0 ? count_b : 1.0);
    const bool only_a = count_b == 0.0;
    const bool only_b = count_a == 0.0;
    return {only_b ? b.ref : a.ref,
            only_b ? b.offset : (only_a ? a.offset : both.offset),
            only_b ? b.m2 : (only_a ? a.m2 : both.m2),
            only_b ? b.m2_lo : (only_a ? a.m2_lo : both.m2_lo),
            only_b ? b.sum : (only_a ? a.sum : both.sum),
            only_b ? b.sum_lo : (only_a ? a.sum_lo : both.sum_lo)};
}

}  // namespace fastbn
