// What is done once per channel, between the loops over the data: merging moments, finishing them
// into statistics, folding those into coefficients. Plain loops without branches, for the compiler
// to vectorize (-fopenmp-simd; no threads): different channels' entries never meet, whatever the
// pointers suggest. The two parts of a double-double are two variables here: g++ 12 makes scalar
// loops of those that write a struct's fields through references.
#pragma once

#include <cstddef>

#include "numerics/coefficient_math.hpp"
#include "numerics/moments_math.hpp"
#include "simd/block.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

FASTBN_FLATTEN inline void merge_moments(MomentsSums a, double count_a, MomentsSums b,
                                         double count_b, std::ptrdiff_t n) noexcept {
    if (a.weight != nullptr) {
#pragma omp simd
        for (std::ptrdiff_t i = 0; i < n; ++i) {
            merge_weighted_at(a, i, at(b, i), {b.weight[i], b.weight_lo[i]});
        }
    } else {
#pragma omp simd
        for (std::ptrdiff_t i = 0; i < n; ++i) {
            put(a, i, merge(at(a, i), count_a, at(b, i), count_b));
        }
    }
}

FASTBN_FLATTEN inline void merge_central_moments(CentralMoments<const double*> a,
                                                 CentralMoments<const double*> b,
                                                 CentralMoments<double*> to,
                                                 std::ptrdiff_t n) noexcept {
#pragma omp simd
    for (std::ptrdiff_t i = 0; i < n; ++i) {
        const CentralMoments<double> both = merge(at(a, i), at(b, i));
        to.count[i] = both.count;
        to.mean[i] = both.mean;
        to.mean_lo[i] = both.mean_lo;
        to.m2[i] = both.m2;
        to.m2_lo[i] = both.m2_lo;
    }
}

// 0 where there is no spread at all, so that xhat is 0 and no NaN arises.
inline double inverse_std(double var, double eps) {
    const double spread = var + eps;
    const double inverse = 1.0 / __builtin_sqrt(spread);
    return spread == 0.0 ? 0.0 : inverse;
}

inline void invert_std(const double* var, double eps, double* invstd, std::ptrdiff_t n) noexcept {
#pragma omp simd
    for (std::ptrdiff_t i = 0; i < n; ++i) invstd[i] = inverse_std(var[i], eps);
}

// A channel that has NaN or infinity among its values gets NaN for every statistic.
inline void finalize_one(const Moments<double>& p, double count, double mean, double mean_lo,
                         double eps, const Statistics& out, std::ptrdiff_t i) {
    constexpr double none = __builtin_nan("");
    // Infinity times 0 is NaN. Two comparisons here would leave the loop a branch, and scalar.
    const bool finite = p.m2 * 0.0 + p.sum * 0.0 == 0.0;
    const bool constant = p.m2 == 0.0;
    const double m2 = finite ? p.m2 + p.m2_lo : none;
    const double var = m2 / count;
    out.mean[i] = finite ? (constant ? p.ref : mean) : none;
    out.mean_lo[i] = finite ? (constant ? 0.0 : mean_lo) : none;
    out.m2[i] = m2;
    out.var[i] = var;
    out.invstd[i] = inverse_std(var, eps);
}

inline void finalize_weighted(const MomentsSums& sums, double eps, const Statistics& out,
                              std::ptrdiff_t i) {
    const Moments<double> p = at(sums, i);
    const bool empty = sums.weight[i] == 0.0;
    double weight_lo;
    const double weight = two_sum(empty ? 1.0 : sums.weight[i], sums.weight_lo[i], weight_lo);
    double low;
    const double high = two_sum(p.sum, p.sum_lo, low);
    double mean_lo;
    const double mean = quotient(high, low, weight, weight_lo, mean_lo);
    finalize_one(p, weight, mean, mean_lo, eps, out, i);
    out.mean[i] = empty ? 0.0 : out.mean[i];
    out.mean_lo[i] = empty ? 0.0 : out.mean_lo[i];
    out.m2[i] = empty ? 0.0 : out.m2[i];
    out.var[i] = empty ? 0.0 : out.var[i];
    out.invstd[i] = empty ? 0.0 : out.invstd[i];
}

FASTBN_FLATTEN inline void finalize_moments(MomentsSums sums, double count, double eps,
                                            Statistics out, std::ptrdiff_t n) noexcept {
    if (sums.weight != nullptr) {
#pragma omp simd
        for (std::ptrdiff_t i = 0; i < n; ++i) finalize_weighted(sums, eps, out, i);
        return;
    }
#pragma omp simd
    for (std::ptrdiff_t i = 0; i < n; ++i) {
        const Moments<double> p = at(sums, i);
        double low;
        const double high = two_sum(p.sum, p.sum_lo, low);
        double mean_lo;
        const double mean = quotient(high, low, count, mean_lo);
        finalize_one(p, count, mean, mean_lo, eps, out, i);
    }
}

FASTBN_FLATTEN inline void merge_integer_sums(IntegerSums a, IntegerSums b,
                                              std::ptrdiff_t n) noexcept {
#pragma omp simd
    for (std::ptrdiff_t i = 0; i < n; ++i) {
        add_integers(a, i, b.sum[i], b.squares[i]);
        a.squares_lo[i] += b.squares_lo[i];
    }
}

FASTBN_FLATTEN inline void finalize_integer_sums(IntegerSums sums, double count, double eps,
                                                 Statistics out, std::ptrdiff_t n) noexcept {
#pragma omp simd
    for (std::ptrdiff_t i = 0; i < n; ++i) {
        double mean_lo;
        const double mean = quotient(sums.sum[i], 0.0, count, mean_lo);
        finalize_one(moments_of_integers(sums, i, mean, count), count, mean, mean_lo, eps, out, i);
    }
}

// The coefficients' kernels write a `pre` of 1 where that has an array.

template <class T>
FASTBN_FLATTEN bool affine_in_range(ChannelParameters from, Affine<void> untyped,
                                    std::ptrdiff_t n) noexcept {
    const Affine<T> to = typed<T>(untyped);
    for (std::ptrdiff_t i = 0; i < n && to.pre != nullptr; ++i) to.pre[i] = T(1);
    int out_of_range = 0;
#pragma omp simd reduction(| : out_of_range)
    for (std::ptrdiff_t i = 0; i < n; ++i) {
        const double scale = from.weight[i] * from.invstd[i];
        const bool in_range = in_range_affine<T>(from.mean[i], from.invstd[i], from.weight[i]);
        out_of_range |= in_range ? 0 : 1;
        write_affine<T>(to, i, from.mean[i], from.mean_lo[i], static_cast<T>(scale), from.bias[i]);
    }
    return out_of_range == 0;
}

template <class T>
FASTBN_FLATTEN bool input_gradient_in_range(ChannelParameters from, GradientSums sums, double count,
                                            InputGradient<void> untyped,
                                            std::ptrdiff_t n) noexcept {
    const InputGradient<T> to = typed<T>(untyped);
    for (std::ptrdiff_t i = 0; i < n && to.pre != nullptr; ++i) to.pre[i] = to.dy_pre[i] = T(1);
    int out_of_range = 0;
#pragma omp simd reduction(| : out_of_range)
    for (std::ptrdiff_t i = 0; i < n; ++i) {
        const double mean_dy = sums.dy[i] / count;
        const double mean_dy_xhat = sums.dy_xhat[i] / count;
        const double coef_x = from.invstd[i] * mean_dy_xhat;
        const double scale = from.weight[i] * from.invstd[i];
        const bool in_range = in_range_input_gradient<T>(from.mean[i], from.invstd[i],
                                                         from.weight[i], mean_dy_xhat, mean_dy);
        out_of_range |= in_range ? 0 : 1;
        write_input_gradient<T>(to, i, from.mean[i], coef_x, mean_dy, scale);
    }
    return out_of_range == 0;
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
