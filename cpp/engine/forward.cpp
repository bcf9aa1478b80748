// Moments, training and inference: statistics from x or from the caller, then y from x.
#include <algorithm>
#include <limits>
#include <string>

#include "engine/dispatch.hpp"
#include "engine/driver.hpp"
#include "engine/errors.hpp"
#include "engine/moments_pass.hpp"
#include "engine/operations.hpp"
#include "engine/parameters.hpp"
#include "engine/passes.hpp"
#include "engine/slab_coefficients.hpp"

namespace fastbn {
namespace {

template <class T>
struct MomentsOperation {
    static constexpr Fields fields{6, 0};
    static constexpr bool reduces = true;
    static constexpr bool transforms = false;

    MomentsPass<T> pass;

    void reduce(const Slab& slab, std::ptrdiff_t span, const Entries<T>& entries,
                const Scratch<T>& scratch) const noexcept {
        pass.reduce(slab, span, entries, scratch);
    }
    void finalize(const Slab& slab, const Entries<T>& entries) const noexcept {
        pass.finalize(slab, entries);
    }
};

template <class T>
struct TrainingOperation {
    static constexpr Fields fields{6, 4};
    static constexpr bool reduces = true;
    static constexpr bool transforms = true;

    const Plan& plan;
    MomentsPass<T> pass;
    Operand y;
    const Values& weight;
    const Values& bias;

    void reduce(const Slab& slab, std::ptrdiff_t span, const Entries<T>& entries,
                const Scratch<T>& scratch) const noexcept {
        pass.reduce(slab, span, entries, scratch);
    }
    void finalize(const Slab& slab, const Entries<T>& entries) const noexcept {
        const Statistics s = pass.finalize(slab, entries);
        store_affine(
            {s.mean, s.mean_lo, s.invstd, weight.data() + slab.channel, bias.data() + slab.channel},
            plan, slab, entries);
    }
    void transform(const TileRange& tile, const Entries<T>& entries,
                   const Scratch<T>& scratch) const noexcept {
        apply_affine(plan, pass.x(), y, tile, entries, scratch);
    }
};

template <class T>
struct InferenceOperation {
    static constexpr Fields fields{2, 4};
    static constexpr bool reduces = false;
    static constexpr bool transforms = true;

    const Plan& plan;
    Operand x;
    Operand y;
    const Values& mean;
    const Values& var;
    const Values& weight;
    const Values& bias;
    double eps;

    void finalize(const Slab& slab, const Entries<T>& entries) const noexcept {
        double* const mean_lo = entries.sum(0, 0, slab.entry);
        double* const invstd = entries.sum(1, 0, slab.entry);
        std::fill_n(mean_lo, slab.channels, 0.0);
        kernels_for<T>().invert_std(var.data() + slab.channel, eps, invstd, slab.channels);
        store_affine({mean.data() + slab.channel, mean_lo, invstd, weight.data() + slab.channel,
                      bias.data() + slab.channel},
                     plan, slab, entries);
    }
    void transform(const TileRange& tile, const Entries<T>& entries,
                   const Scratch<T>& scratch) const noexcept {
        apply_affine(plan, x, y, tile, entries, scratch);
    }
};

void check_parameters(const Parameters& parameters, const Features& features) {
    if (parameters.weight) check_parameter_shape("weight", parameters.weight, features);
    if (parameters.bias) check_parameter_shape("bias", parameters.bias, features);
}

void check_running(const Running& running, const Features& features) {
    check_parameter_shape("running_mean", running.mean, features);
    check_parameter_shape("running_var", running.var, features);
    if (!(running.momentum >= 0.0 && running.momentum <= 1.0)) {
        refuse("momentum", "be between 0 and 1", to_text(running.momentum));
    }
    const double count = static_cast<double>(features.count);
    if (!(running.correction >= 0.0) || (count > 0.0 && running.correction >= count)) {
        refuse("correction",
               "be at least 0 and less than the " + std::to_string(features.count) +
                   " values per channel",
               to_text(running.correction));
    }
}

// Running statistics in memory of their own, read before anything is written and written back last.
class RunningUpdate {
public:
    RunningUpdate(const Running& running, const Features& features)
        : running_(running), mean_(running.mean, features, 0.0), var_(running.var, features, 1.0) {
        const double count = static_cast<double>(features.count);
        unbiased_ = count / (count - running.correction);
    }

    void apply(const double* mean, const double* var) noexcept {
        if (!running_.mean) return;
        for (std::ptrdiff_t i = 0; i < mean_.size(); ++i) {
            mean_[i] = blend(mean_[i], mean[i]);
            var_[i] = blend(var_[i], var[i] * unbiased_);
        }
        write_parameter(running_.mean, mean_);
        write_parameter(running_.var, var_);
    }

private:
    double blend(double old, double now) const {
        return (1.0 - running_.momentum) * old + running_.momentum * now;
    }

    const Running& running_;
    Values mean_;
    Values var_;
    double unbiased_ = 1.0;
};

void fill_undefined(const Features& features, const StatisticsOut& out) {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    for (std::ptrdiff_t c = 0; c < features.channels; ++c) {
        if (out.mean) out.mean[c] = nan;
        if (out.var) out.var[c] = nan;
        if (out.invstd) out.invstd[c] = nan;
        if (out.m2) out.m2[c] = 0.0;
    }
}

}  // namespace

void moments(const ArrayRef& x, const Features& features, const StatisticsOut& out) {
    if (features.empty()) return fill_undefined(features, out);
    Plan plan = plan_of(x, features);
    visit_dtype(x.dtype, [&](auto zero) {
        using T = decltype(zero);
        MomentsOperation<T> operation{{plan, x, 0.0, out}};
        execute<T>(plan, operation, {&operation.pass.x()}, nullptr);
    });
}

void train(const ArrayRef& x, const ArrayRef& y, const Features& features,
           const Parameters& parameters, double eps, const Running& running,
           const StatisticsOut& out) {
    check_same_shape("out", y, x);
    check_parameters(parameters, features);
    check_eps(eps);
    check_trainable(features);
    if (running.mean) check_running(running, features);
    if (features.empty()) return fill_undefined(features, out);

    Plan plan = plan_of(x, features);
    const Values weight(parameters.weight, features, 1.0);
    const Values bias(parameters.bias, features, 0.0);
    RunningUpdate update(running, features);
    visit_dtype(x.dtype, [&](auto zero) {
        using T = decltype(zero);
        TrainingOperation<T> operation{
            plan, {plan, x, eps, out}, operand_of(y, plan.layout), weight, bias};
        execute<T>(plan, operation, {&operation.pass.x()}, &operation.y);
    });
    update.apply(out.mean, out.var);
}

void infer(const ArrayRef& x, const ArrayRef& y, const Features& features, const ArrayRef& mean,
           const ArrayRef& var, const Parameters& parameters, double eps, const char* mean_name,
           const char* var_name) {
    check_same_shape("out", y, x);
    check_parameter_shape(mean_name, mean, features);
    check_parameter_shape(var_name, var, features);
    check_parameters(parameters, features);
    check_eps(eps);
    const Values means(mean, features, 0.0);
    const Values variances(var, features, 1.0);
    check_variance(var_name, variances);
    if (features.empty()) return;

    Plan plan = plan_of(x, features);
    const Values weight(parameters.weight, features, 1.0);
    const Values bias(parameters.bias, features, 0.0);
    visit_dtype(x.dtype, [&](auto zero) {
        using T = decltype(zero);
        InferenceOperation<T> operation{plan,
                                        operand_of(x, plan.layout),
                                        operand_of(y, plan.layout),
                                        means,
                                        variances,
                                        weight,
                                        bias,
                                        eps};
        execute<T>(plan, operation, {&operation.x}, &operation.y);
    });
}

}  // namespace fastbn
