// Moments, training and inference: statistics from x or from the caller, then y from x.
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/coefficients.hpp"
#include "engine/driver.hpp"
#include "engine/moments_pass.hpp"
#include "engine/operations.hpp"
#include "engine/passes.hpp"
#include "engine/statistics.hpp"

namespace fastbn {
namespace {

using Values = std::vector<double>;

std::size_t index(std::ptrdiff_t channel) { return static_cast<std::size_t>(channel); }

template <class T>
void store_affine(const AffineValues<T>& values, std::ptrdiff_t channel, std::ptrdiff_t repeat,
                  const Entries<T>& entries) {
    for (std::ptrdiff_t entry = channel * repeat; entry < (channel + 1) * repeat; ++entry) {
        *entries.coefficient(0, entry) = values.pre;
        *entries.coefficient(1, entry) = values.center;
        *entries.coefficient(2, entry) = values.scale;
        *entries.coefficient(3, entry) = values.shift;
    }
}

template <class T>
struct MomentsOperation {
    static constexpr Fields fields{6, 0};
    static constexpr bool reduces = true;
    static constexpr bool transforms = false;

    const Plan& plan;
    MomentsPass<T> pass;

    void prepare(const Slab&, const Entries<T>&) const noexcept {}
    void reduce(const Slab& slab, std::ptrdiff_t span, const Entries<T>& entries,
                const Scratch<T>& scratch) const noexcept {
        pass.reduce(slab, span, entries, scratch);
    }
    void finalize(const Slab& slab, const Entries<T>& entries) const noexcept {
        for (std::ptrdiff_t i = 0; i < slab.channels; ++i) {
            pass.finalize(slab.channel + i, entries);
        }
    }
    void transform(const TileRange&, const Entries<T>&, const Scratch<T>&) const noexcept {}
};

template <class T>
struct TrainingOperation {
    static constexpr Fields fields{6, 4};
    static constexpr bool reduces = true;
    static constexpr bool transforms = true;

    const Plan& plan;
    MomentsPass<T> pass;
    Operand y;
    bool stream;
    const Values& weight;
    const Values& bias;

    void prepare(const Slab&, const Entries<T>&) const noexcept {}
    void reduce(const Slab& slab, std::ptrdiff_t span, const Entries<T>& entries,
                const Scratch<T>& scratch) const noexcept {
        pass.reduce(slab, span, entries, scratch);
    }
    void finalize(const Slab& slab, const Entries<T>& entries) const noexcept {
        for (std::ptrdiff_t c = slab.channel; c < slab.channel + slab.channels; ++c) {
            const ChannelStatistics s = pass.finalize(c, entries);
            store_affine(
                fold_affine<T>(s.mean, s.mean_lo, s.invstd, weight[index(c)], bias[index(c)]), c,
                plan.layout.repeat, entries);
        }
    }
    void transform(const TileRange& tile, const Entries<T>& entries,
                   const Scratch<T>& scratch) const noexcept {
        apply_affine(plan, pass.x(), y, stream, tile, entries, scratch);
    }
};

template <class T>
struct InferenceOperation {
    static constexpr Fields fields{0, 4};
    static constexpr bool reduces = false;
    static constexpr bool transforms = true;

    const Plan& plan;
    Operand x;
    Operand y;
    bool stream;
    const Values& mean;
    const Values& var;
    const Values& weight;
    const Values& bias;
    double eps;

    void prepare(const Slab&, const Entries<T>&) const noexcept {}
    void reduce(const Slab&, std::ptrdiff_t, const Entries<T>&, const Scratch<T>&) const noexcept {}
    void finalize(const Slab& slab, const Entries<T>& entries) const noexcept {
        for (std::ptrdiff_t c = slab.channel; c < slab.channel + slab.channels; ++c) {
            const double invstd = invstd_of(var[index(c)], eps);
            store_affine(
                fold_affine<T>(mean[index(c)], 0.0, invstd, weight[index(c)], bias[index(c)]), c,
                plan.layout.repeat, entries);
        }
    }
    void transform(const TileRange& tile, const Entries<T>& entries,
                   const Scratch<T>& scratch) const noexcept {
        apply_affine(plan, x, y, stream, tile, entries, scratch);
    }
};

bool streamed(const Plan& plan, const ArrayRef& x, const ArrayRef& y) {
    return x.data != y.data && worth_streaming(plan);
}

void check_parameters(const Parameters& parameters, const Features& features) {
    if (parameters.weight) check_parameter_shape("weight", parameters.weight, features);
    if (parameters.bias) check_parameter_shape("bias", parameters.bias, features);
}

void check_running(const Running& running, const Features& features) {
    check_parameter_shape("running_mean", running.mean, features);
    check_parameter_shape("running_var", running.var, features);
    if (!(running.momentum >= 0.0 && running.momentum <= 1.0)) {
        throw std::invalid_argument("momentum must be between 0 and 1, got " +
                                    to_text(running.momentum));
    }
    const double count = static_cast<double>(features.count);
    if (!(running.correction >= 0.0) || (count > 0.0 && running.correction >= count)) {
        throw std::invalid_argument("correction must be at least 0 and less than the " +
                                    std::to_string(features.count) + " values per channel, got " +
                                    to_text(running.correction));
    }
}

// running <- (1 - momentum) * running + momentum * statistic
void blend(const ArrayRef& running, const Features& features, double momentum,
           const double* statistic, double factor) {
    Values values = read_parameter(running, features, 0.0);
    for (std::size_t i = 0; i < values.size(); ++i) {
        values[i] = (1.0 - momentum) * values[i] + momentum * (statistic[i] * factor);
    }
    write_parameter(running, values);
}

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
        MomentsOperation<T> operation{plan, {plan, x, 0.0, out}};
        choose_path(plan, true, operation.pass.x().direct);
        const Workspace<T> workspace(plan, operation.fields, operation.pass.x().direct);
        run(plan, workspace, operation);
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
    const Values weight = read_parameter(parameters.weight, features, 1.0);
    const Values bias = read_parameter(parameters.bias, features, 0.0);
    visit_dtype(x.dtype, [&](auto zero) {
        using T = decltype(zero);
        TrainingOperation<T> operation{
            plan, {plan, x, eps, out}, operand_of(y, plan.layout), streamed(plan, x, y), weight,
            bias};
        const bool direct = operation.pass.x().direct && operation.y.direct;
        choose_path(plan, true, direct);
        const Workspace<T> workspace(plan, operation.fields, direct);
        run(plan, workspace, operation);
    });
    if (running.mean) {
        const double count = static_cast<double>(features.count);
        blend(running.mean, features, running.momentum, out.mean, 1.0);
        blend(running.var, features, running.momentum, out.var,
              count / (count - running.correction));
    }
}

void infer(const ArrayRef& x, const ArrayRef& y, const Features& features, const ArrayRef& mean,
           const ArrayRef& var, const Parameters& parameters, double eps, const char* mean_name,
           const char* var_name) {
    check_same_shape("out", y, x);
    check_parameter_shape(mean_name, mean, features);
    check_parameter_shape(var_name, var, features);
    check_parameters(parameters, features);
    check_eps(eps);
    const Values means = read_parameter(mean, features, 0.0);
    const Values variances = read_variance(var_name, var, features);
    if (features.empty()) return;

    Plan plan = plan_of(x, features);
    const Values weight = read_parameter(parameters.weight, features, 1.0);
    const Values bias = read_parameter(parameters.bias, features, 0.0);
    visit_dtype(x.dtype, [&](auto zero) {
        using T = decltype(zero);
        InferenceOperation<T> operation{plan,
                                        operand_of(x, plan.layout),
                                        operand_of(y, plan.layout),
                                        streamed(plan, x, y),
                                        means,
                                        variances,
                                        weight,
                                        bias,
                                        eps};
        const bool direct = operation.x.direct && operation.y.direct;
        choose_path(plan, false, direct);
        const Workspace<T> workspace(plan, operation.fields, direct);
        run(plan, workspace, operation);
    });
}

}  // namespace fastbn
