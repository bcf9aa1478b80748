// Moments, training and inference: statistics from x or from the caller, then y from x.
#include <algorithm>
#include <atomic>
#include <limits>
#include <type_traits>

#include "engine/dispatch.hpp"
#include "engine/driver.hpp"
#include "engine/kernel_types.hpp"
#include "engine/moments_pass.hpp"
#include "engine/operations.hpp"
#include "engine/parameters.hpp"
#include "engine/passes.hpp"
#include "engine/running.hpp"
#include "engine/shares.hpp"
#include "engine/slab_coefficients.hpp"
#include "engine/weighted_pass.hpp"

namespace fastbn {
namespace {

// Pass: MomentsPass or WeightedPass.
template <class Pass>
struct MomentsOperation {
    static constexpr Fields fields{Pass::fields, 0};
    static constexpr bool reduces = true;
    static constexpr bool transforms = false;

    Pass pass;

    void reduce(const Slab& slab, std::ptrdiff_t span, const Entries<float>& entries,
                const Scratch& scratch) const noexcept {
        pass.reduce(slab, span, entries, scratch);
    }
    void finalize(const Slab& slab, const Entries<float>& entries) const noexcept {
        pass.finalize(slab, entries);
    }
};

template <class Pass, class X, class Y>
struct TrainingOperation {
    using C = Computed<Y>;
    static constexpr Fields fields{Pass::fields, 4};
    static constexpr bool reduces = true;
    static constexpr bool transforms = true;

    const Plan& plan;
    Pass pass;
    Operand x;
    Operand residual;
    Operand y;
    Activation<C> activation;
    const Values& weight;
    const Values& bias;

    void reduce(const Slab& slab, std::ptrdiff_t span, const Entries<C>& entries,
                const Scratch& scratch) const noexcept {
        pass.reduce(slab, span, entries, scratch);
    }
    void finalize(const Slab& slab, const Entries<C>& entries) const noexcept {
        const Statistics s = pass.finalize(slab, entries);
        store_affine(
            {s.mean, s.mean_lo, s.invstd, weight.data() + slab.channel, bias.data() + slab.channel},
            plan, slab, entries);
    }
    void transform(const TileRange& tile, const Entries<C>& entries,
                   const Scratch& scratch) const noexcept {
        apply_affine<X, Y>(plan, x, residual, y, activation, tile, entries, scratch);
    }
};

template <class X, class Y>
struct InferenceOperation {
    using C = Computed<Y>;
    static constexpr Fields fields{2, 4};
    static constexpr bool reduces = false;
    static constexpr bool transforms = true;

    const Plan& plan;
    Operand x;
    Operand residual;
    Operand y;
    Activation<C> activation;
    const Values& mean;
    const Values& var;
    const Values& weight;
    const Values& bias;
    double eps;
    std::atomic<bool>* infinite;  // set if x holds infinity; null where nobody asks

    void finalize(const Slab& slab, const Entries<C>& entries) const noexcept {
        double* const mean_lo = entries.sum(0, 0, slab.entry);
        double* const invstd = entries.sum(1, 0, slab.entry);
        std::fill_n(mean_lo, slab.channels, 0.0);
        channel_kernels().invert_std(var.data() + slab.channel, eps, invstd, slab.channels);
        store_affine({mean.data() + slab.channel, mean_lo, invstd, weight.data() + slab.channel,
                      bias.data() + slab.channel},
                     plan, slab, entries);
    }
    void transform(const TileRange& tile, const Entries<C>& entries,
                   const Scratch& scratch) const noexcept {
        bool here = false;
        apply_affine<X, Y>(plan, x, residual, y, activation, tile, entries, scratch,
                           infinite == nullptr ? nullptr : &here);
        if (here) infinite->store(true, std::memory_order_relaxed);
    }
};

template <class C>
Activation<C> activation_in(const Following& following) {
    return {following.activation.kind, static_cast<C>(following.activation.slope)};
}

void fill_undefined(const Features& features, const StatisticsOut& out) {
    constexpr double nan = std::numeric_limits<double>::quiet_NaN();
    const auto fill = [&](double* to, double value) {
        if (to != nullptr) std::fill_n(to, features.channels, value);
    };
    fill(out.mean, nan);
    fill(out.mean_lo, 0.0);
    fill(out.var, nan);
    fill(out.invstd, nan);
    fill(out.m2, 0.0);
    fill(out.count, 0.0);
}

// Counts, and their weight in m2, where values do not differ in how much they count.
void apply_common_weight(const Features& features, const Shares& shares, const StatisticsOut& out) {
    const double weight = shares.weight();
    if (out.count != nullptr) {
        std::fill_n(out.count, features.channels, static_cast<double>(features.count) * weight);
    }
    for (std::ptrdiff_t c = 0; c < features.channels && out.m2 != nullptr; ++c) {
        out.m2[c] *= weight;
    }
}

// Calls run(pass) with the pass that takes x's moments, X being what it reads; for a plan of x's.
template <class X, class Run>
void with_pass(const Plan& plan, const ArrayRef& x, const Shares& shares, double eps,
               const StatisticsOut& out, const Run& run) {
    if (shares.differ()) {
        using Read = std::conditional_t<std::is_same_v<X, double>, double, float>;
        run(WeightedPass<Read>(plan, x, shares, eps, out));
    } else {
        run(MomentsPass<X>(plan, x, eps, out));
    }
}

Plan plan_with(const ArrayRef& x, const Features& features, Shares& shares) {
    Layout layout = layout_of(x, features);
    if (!shares.differ()) return plan_of(layout, x.dtype);
    shares.arrange(layout);
    return plan_of(layout, x.dtype, shares.form() == Shares::Form::by_element);
}

}  // namespace

void check_counting(const Counting& counting, const ArrayRef& x, const Features& features) {
    const Shares shares(counting, x, features);
}

void moments(const ArrayRef& x, const Features& features, const Counting& counting,
             const StatisticsOut& out) {
    Shares shares(counting, x, features);
    if (features.empty()) return fill_undefined(features, out);
    Plan plan = plan_with(x, features, shares);
    visit_moments_type(x.dtype, [&](auto zero) {
        with_pass<decltype(zero)>(plan, x, shares, 0.0, out, [&](auto pass) {
            Rooms rooms(plan);
            pass.take_rooms(rooms);
            MomentsOperation<decltype(pass)> operation{pass};
            execute<float>(plan, operation, {{}, {}}, rooms);
        });
    });
    if (!shares.differ()) return apply_common_weight(features, shares, out);
    for (std::ptrdiff_t c = 0; c < features.channels; ++c) {
        if (out.count[c] == 0.0) out.mean[c] = std::numeric_limits<double>::quiet_NaN();
    }
}

void train(const ArrayRef& x, const ArrayRef& y, const Features& features, const Counting& counting,
           const Following& following, const Parameters& parameters, double eps,
           const Running& running, bool allow_single, const StatisticsOut& out) {
    check_same_shape("out", y, x);
    if (following.residual) check_same_shape("residual", following.residual, x);
    check_parameters(parameters, features);
    check_eps(eps);
    Shares shares(counting, x, features);
    if (!allow_single) check_trainable(features, shares.most_counted());
    if (running.mean) check_running(running, features, shares, allow_single);
    RunningUpdate update(running, features, allow_single);
    if (features.empty()) return fill_undefined(features, out);

    Plan plan = plan_with(x, features, shares);
    const Values weight(parameters.weight, features, 1.0);
    const Values bias(parameters.bias, features, 0.0);
    visit_kernel_types(x.dtype, y.dtype, [&](auto types) {
        using Types = decltype(types);
        using X = typename Types::Input;
        using Y = typename Types::Output;
        with_pass<typename Types::Moments>(plan, x, shares, eps, out, [&](const auto& pass) {
            TrainingOperation<std::decay_t<decltype(pass)>, X, Y> operation{
                plan,
                pass,
                operand_of<X>(x, plan.layout),
                operand_of<Y>(following.residual, plan.layout),
                operand_of<Y>(y, plan.layout),
                activation_in<Computed<Y>>(following),
                weight,
                bias};
            Rooms rooms(plan);
            operation.pass.take_rooms(rooms);
            for (Operand* o : {&operation.x, &operation.residual, &operation.y}) rooms.add(*o);
            execute<Computed<Y>>(plan, operation,
                                 {{&operation.x, &operation.residual}, {&operation.y}}, rooms);
        });
    });
    if (!shares.differ()) apply_common_weight(features, shares, out);
    update.apply(out);
}

bool infer(const ArrayRef& x, const ArrayRef& y, const Features& features,
           const Following& following, const ArrayRef& mean, const ArrayRef& var,
           const Parameters& parameters, double eps, bool look_for_infinity, const char* mean_name,
           const char* var_name) {
    check_same_shape("out", y, x);
    if (following.residual) check_same_shape("residual", following.residual, x);
    check_parameter_shape(mean_name, mean, features);
    check_parameter_shape(var_name, var, features);
    check_parameters(parameters, features);
    check_eps(eps);
    const Values means(mean, features, 0.0);
    const Values variances(var, features, 1.0);
    check_variance(var_name, variances);
    if (features.empty()) return false;

    std::atomic<bool> infinite{false};
    Plan plan = plan_of(layout_of(x, features), x.dtype);
    const Values weight(parameters.weight, features, 1.0);
    const Values bias(parameters.bias, features, 0.0);
    visit_kernel_types(x.dtype, y.dtype, [&](auto types) {
        using X = typename decltype(types)::Input;
        using Y = typename decltype(types)::Output;
        InferenceOperation<X, Y> operation{plan,
                                           operand_of<X>(x, plan.layout),
                                           operand_of<Y>(following.residual, plan.layout),
                                           operand_of<Y>(y, plan.layout),
                                           activation_in<Computed<Y>>(following),
                                           means,
                                           variances,
                                           weight,
                                           bias,
                                           eps,
                                           look_for_infinity ? &infinite : nullptr};
        Rooms rooms(plan);
        for (Operand* o : {&operation.x, &operation.residual, &operation.y}) rooms.add(*o);
        execute<Computed<Y>>(plan, operation, {{&operation.x, &operation.residual}, {&operation.y}},
                             rooms);
    });
    return infinite.load(std::memory_order_relaxed);
}

}  // namespace fastbn
