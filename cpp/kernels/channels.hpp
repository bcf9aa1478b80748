// What is done once per channel, between the passes over the data: merging moments, finishing them
// into statistics, folding those into coefficients. Plain loops without branches, for the compiler
// to vectorize; entries of different channels never meet, whatever the pointers suggest.
#pragma once

#include <cstddef>

#include "folding.hpp"
#include "table.hpp"
#include "welford.hpp"

namespace fastbn::FASTBN_ISA {
namespace {

inline Partial<double> at(const MomentsState& s, std::ptrdiff_t i) {
    return {s.ref[i], s.offset[i], s.m2[i], s.m2_lo[i], s.sum[i], s.sum_lo[i]};
}

[[gnu::flatten]] void merge_moments(MomentsState a, double count_a, MomentsState b, double count_b,
                                    std::ptrdiff_t n) noexcept {
#pragma GCC ivdep
    for (std::ptrdiff_t i = 0; i < n; ++i) {
        const Partial<double> both = merge(at(a, i), count_a, at(b, i), count_b);
        a.offset[i] = both.offset;
        a.m2[i] = both.m2;
        a.m2_lo[i] = both.m2_lo;
        a.sum[i] = both.sum;
        a.sum_lo[i] = both.sum_lo;
    }
}

// 0 where there is no spread at all, so that xhat is 0 and no NaN arises.
inline double inverse_std(double var, double eps) {
    const double spread = var + eps;
    const double inverse = 1.0 / __builtin_sqrt(spread);
    return spread == 0.0 ? 0.0 : inverse;
}

void invert_std(const double* var, double eps, double* invstd, std::ptrdiff_t n) noexcept {
#pragma GCC ivdep
    for (std::ptrdiff_t i = 0; i < n; ++i) invstd[i] = inverse_std(var[i], eps);
}

// A channel that has NaN or infinity among its values gets NaN for every statistic.
[[gnu::flatten]] void finish_moments(MomentsState moments, double count, double eps, Statistics out,
                                     std::ptrdiff_t n) noexcept {
#pragma GCC ivdep
    for (std::ptrdiff_t i = 0; i < n; ++i) {
        const Partial<double> p = at(moments, i);
        const double zero_or_nan = (p.m2 - p.m2) + (p.sum - p.sum);
        const bool finite = zero_or_nan == 0.0;
        double low;
        const double high = two_sum(p.sum, p.sum_lo, low);
        double rest;
        const double mean = quotient(high, low, count, rest);
        const bool constant = p.m2 == 0.0;
        const double m2 = finite ? p.m2 + p.m2_lo : zero_or_nan;
        const double var = m2 / count;
        out.mean[i] = finite ? (constant ? p.ref : mean) : zero_or_nan;
        out.mean_lo[i] = finite ? (constant ? 0.0 : rest) : zero_or_nan;
        out.m2[i] = m2;
        out.var[i] = var;
        out.invstd[i] = inverse_std(var, eps);
    }
}

template <class T>
[[gnu::flatten]] bool fold_affine(AffineSource from, AffineOut<T> to, std::ptrdiff_t n) noexcept {
    int odd = 0;
#pragma GCC ivdep
    for (std::ptrdiff_t i = 0; i < n; ++i) {
        const double scale = from.weight[i] * from.invstd[i];
        odd |= is_lost(scale, from.weight[i], from.invstd[i]) | is_large<T>(from.mean[i]) |
               !is_moderate<T>(scale);
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
[[gnu::flatten]] bool fold_input_gradient(InputGradientSource from, InputGradientOut<T> to,
                                          std::ptrdiff_t n) noexcept {
    int odd = 0;
#pragma GCC ivdep
    for (std::ptrdiff_t i = 0; i < n; ++i) {
        const double level = from.sum_dy[i] / from.count;
        const double slope = from.invstd[i] * (from.sum_dy_xhat[i] / from.count);
        const double scale = from.weight[i] * from.invstd[i];
        odd |= is_lost(scale, from.weight[i], from.invstd[i]) | is_large<T>(from.mean[i]) |
               is_large<T>(level) | !is_moderate<T>(slope) | !is_moderate<T>(scale);
        const InputGradientTerms<T> terms = input_gradient_terms<T>(from.mean[i], slope, level);
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
