// What is done once per channel, between the passes over the data: merging moments, finishing them
// into statistics, folding those into coefficients. Plain loops without branches, for the compiler
// to vectorize (-fopenmp-simd; no threads): different channels' entries never meet, whatever the
// pointers suggest.
#pragma once

#include <cstddef>

#include "data.hpp"
#include "folding.hpp"
#include "welford.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

inline Partial<double> at(MomentsState s, std::ptrdiff_t i) {
    return {s.ref[i], s.offset[i], s.m2[i], s.m2_lo[i], s.sum[i], s.sum_lo[i]};
}

inline void put(MomentsState s, std::ptrdiff_t i, const Partial<double>& p) {
    s.ref[i] = p.ref;
    s.offset[i] = p.offset;
    s.m2[i] = p.m2;
    s.m2_lo[i] = p.m2_lo;
    s.sum[i] = p.sum;
    s.sum_lo[i] = p.sum_lo;
}

[[gnu::flatten]] void merge_moments(MomentsState a, double count_a, MomentsState b, double count_b,
                                    std::ptrdiff_t n) noexcept {
#pragma omp simd
    for (std::ptrdiff_t i = 0; i < n; ++i) {
        put(a, i, merge(at(a, i), count_a, at(b, i), count_b));
    }
}

[[gnu::flatten]] void merge_weighted(WeightedState a, WeightedState b, std::ptrdiff_t n) noexcept {
#pragma omp simd
    for (std::ptrdiff_t i = 0; i < n; ++i) {
        put(a.moments, i,
            merge_counted(at(a.moments, i), a.count[i], at(b.moments, i), b.count[i]));
        a.count[i] += b.count[i];
    }
}

// 0 where there is no spread at all, so that xhat is 0 and no NaN arises.
inline double inverse_std(double var, double eps) {
    const double spread = var + eps;
    const double inverse = 1.0 / __builtin_sqrt(spread);
    return spread == 0.0 ? 0.0 : inverse;
}

void invert_std(const double* var, double eps, double* invstd, std::ptrdiff_t n) noexcept {
#pragma omp simd
    for (std::ptrdiff_t i = 0; i < n; ++i) invstd[i] = inverse_std(var[i], eps);
}

// The mean and what float64 cannot hold of it.
struct Mean {
    double high;
    double low;
};

// A channel that has NaN or infinity among its values gets NaN for every statistic.
inline void finalize_one(const Partial<double>& p, double count, Mean mean, double eps,
                         Statistics out, std::ptrdiff_t i) {
    constexpr double none = __builtin_nan("");
    // Infinity times 0 is NaN. Two comparisons here would leave the loop a branch, and scalar.
    const bool finite = p.m2 * 0.0 + p.sum * 0.0 == 0.0;
    const bool constant = p.m2 == 0.0;
    const double m2 = finite ? p.m2 + p.m2_lo : none;
    const double var = m2 / count;
    out.mean[i] = finite ? (constant ? p.ref : mean.high) : none;
    out.mean_lo[i] = finite ? (constant ? 0.0 : mean.low) : none;
    out.m2[i] = m2;
    out.var[i] = var;
    out.invstd[i] = inverse_std(var, eps);
}

[[gnu::flatten]] void finalize_moments(MomentsState moments, double count, double eps,
                                       Statistics out, std::ptrdiff_t n) noexcept {
#pragma omp simd
    for (std::ptrdiff_t i = 0; i < n; ++i) {
        const Partial<double> p = at(moments, i);
        double low;
        const double high = two_sum(p.sum, p.sum_lo, low);
        Mean mean;
        mean.high = quotient(high, low, count, mean.low);
        finalize_one(p, count, mean, eps, out, i);
    }
}

// Counts are rounded here, and the quotient of a sum and its count with them: the mean comes from
// the differences to a value near it, where that is a rounding of the spread.
[[gnu::flatten]] void finalize_weighted(WeightedState state, double eps, Statistics out,
                                        std::ptrdiff_t n) noexcept {
#pragma omp simd
    for (std::ptrdiff_t i = 0; i < n; ++i) {
        const Partial<double> p = at(state.moments, i);
        const bool empty = state.count[i] == 0.0;
        Mean mean;
        mean.high = two_sum(p.ref, p.offset, mean.low);
        finalize_one(p, empty ? 1.0 : state.count[i], mean, eps, out, i);
        out.mean[i] = empty ? 0.0 : out.mean[i];
        out.mean_lo[i] = empty ? 0.0 : out.mean_lo[i];
        out.m2[i] = empty ? 0.0 : out.m2[i];
        out.var[i] = empty ? 0.0 : out.var[i];
        out.invstd[i] = empty ? 0.0 : out.invstd[i];
    }
}

template <class T>
[[gnu::flatten]] bool try_fold_affine(AffineSource from, AffineOut<T> to,
                                      std::ptrdiff_t n) noexcept {
    int odd = 0;
#pragma omp simd reduction(| : odd)
    for (std::ptrdiff_t i = 0; i < n; ++i) {
        const double scale = from.weight[i] * from.invstd[i];
        const bool plain = is_plain_affine<T>(from.mean[i], from.invstd[i], from.weight[i]);
        odd |= plain ? 0 : 1;
        const AffineTerms<T> terms =
            affine_terms(from.mean[i], from.mean_lo[i], static_cast<T>(scale), from.bias[i]);
        to.pre[i] = T(1);
        to.center[i] = terms.center;
        to.scale[i] = terms.scale;
        to.shift[i] = terms.shift;
    }
    return odd == 0;
}

template <class T>
[[gnu::flatten]] bool try_fold_input_gradient(InputGradientSource from, InputGradientOut<T> to,
                                              std::ptrdiff_t n) noexcept {
    int odd = 0;
#pragma omp simd reduction(| : odd)
    for (std::ptrdiff_t i = 0; i < n; ++i) {
        const double level = from.sum_dy[i] / from.count;
        const double mean_dy_xhat = from.sum_dy_xhat[i] / from.count;
        const double slope = from.invstd[i] * mean_dy_xhat;
        const double scale = from.weight[i] * from.invstd[i];
        const bool plain = is_plain_input_gradient<T>(from.mean[i], from.invstd[i], from.weight[i],
                                                      mean_dy_xhat, level);
        odd |= plain ? 0 : 1;
        const InputGradientTerms<T> terms =
            input_gradient_terms<T>(from.mean[i], slope, level, scale);
        to.pre[i] = T(1);
        to.dy_pre[i] = T(1);
        to.center[i] = terms.center;
        to.slope[i] = terms.slope;
        to.level[i] = terms.level;
        to.scale[i] = static_cast<T>(scale);
    }
    return odd == 0;
}

}  // namespace
}  // namespace fastbn::FASTBN_ISA
