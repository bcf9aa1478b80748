#include "bindings/calls.hpp"

#include <string>
#include <utility>
#include <vector>

#include "bindings/arguments.hpp"
#include "bindings/gil.hpp"
#include "bindings/outputs.hpp"
#include "engine/features.hpp"
#include "engine/operations.hpp"

namespace fastbn::bindings {
namespace {

// x and the axes that are its features.
struct Input {
    Input(const py::object& value, const py::object& axis)
        : x(array_argument("x", value, Kind::data)),
          features(features_of(x.ref, axis_argument(axis))) {}

    ArrayArg x;
    Features features;
};

// where= and weights=, seen in x's shape.
struct CountingArgs {
    CountingArgs(const py::object& where_value, const py::object& weights_value, const ArrayArg& x)
        : where(broadcast_argument("where", where_value, Kind::boolean, x)),
          weights(broadcast_argument("weights", weights_value, Kind::numbers, x)) {}

    bool given() const { return where || weights; }
    Counting engine() const { return {where.ref, weights.ref}; }

    ArrayArg where;
    ArrayArg weights;
};

// residual=, activation= and negative_slope=.
struct FollowingArgs {
    FollowingArgs(const py::object& residual_value, const py::object& activation_value,
                  const py::object& negative_slope)
        : residual(optional_argument("residual", residual_value)),
          activation(activation_argument(activation_value, negative_slope)) {}

    Following engine() const { return {residual.ref, activation}; }

    ArrayArg residual;
    Activation<double> activation;
};

struct ParameterArgs {
    ParameterArgs(const py::object& weight_value, const py::object& bias_value)
        : weight(optional_argument("weight", weight_value)),
          bias(optional_argument("bias", bias_value)) {}

    Parameters engine() const { return {weight.ref, bias.ref}; }

    ArrayArg weight;
    ArrayArg bias;
};

void check_both_or_neither(const py::object& mean, const py::object& var) {
    if (mean.is_none() == var.is_none()) return;
    throw py::value_error(mean.is_none()
                              ? "running_mean must be given together with running_var, got None"
                              : "running_var must be given together with running_mean, got None");
}

// Running statistics to be updated: both of them or neither.
struct RunningArgs {
    RunningArgs(const py::object& mean_value, const py::object& var_value,
                const py::object& momentum_value, const py::object& correction_value,
                bool skip_nonfinite_value)
        : mean{"running_mean", mean_value, {}},
          var{"running_var", var_value, {}},
          momentum(real_argument("momentum", momentum_value)),
          correction(real_argument("correction", correction_value)),
          skip_nonfinite(skip_nonfinite_value) {
        check_both_or_neither(mean_value, var_value);
        if (mean_value.is_none()) return;
        mean = writable_argument("running_mean", mean_value);
        var = writable_argument("running_var", var_value);
        check_disjoint(mean, var);
    }

    Running engine() const { return {mean.ref, var.ref, momentum, correction, skip_nonfinite}; }

    ArrayArg mean;
    ArrayArg var;
    double momentum;
    double correction;
    bool skip_nonfinite;
};

void check_residual(const ArrayArg& residual, const char* whose, const ArrayArg& y) {
    if (!residual || residual.ref.dtype == y.ref.dtype) return;
    wrong_type("residual", std::string("have ") + whose + "'s dtype " + dtype_name(y),
               dtype_name(residual));
}

// Trains and returns y. `out` has room for one value per channel each.
ArrayArg train(const Input& in, const CountingArgs& counting, const FollowingArgs& following,
               const ParameterArgs& parameters, double eps, const RunningArgs& running,
               bool allow_single, const py::object& dtype, const py::object& out_value,
               const StatisticsOut& out) {
    const std::vector<const ArrayArg*> sources{&in.x, &following.residual};
    std::vector<const ArrayArg*> others{&counting.where, &counting.weights, &parameters.weight,
                                        &parameters.bias};
    const auto check = [&](const std::vector<const ArrayArg*>& arguments) {
        for (const ArrayArg* argument : arguments) {
            check_disjoint(running.mean, *argument);
            check_disjoint(running.var, *argument);
        }
    };
    check(sources);
    check(others);
    others.insert(others.end(), {&running.mean, &running.var});
    ArrayArg y = output_argument(out_value, dtype, in.x, sources, others);
    check_residual(following.residual, "y", y);
    without_gil(in.x.array().nbytes(), [&] {
        fastbn::train(in.x.ref, y.ref, in.features, counting.engine(), following.engine(),
                      parameters.engine(), eps, running.engine(), allow_single, out);
    });
    return y;
}

// counting: where= and weights= of a call that may not overwrite them, or null.
py::object infer(const Input& in, const CountingArgs* counting, const ArrayArg& mean,
                 const ArrayArg& var, const ParameterArgs& parameters,
                 const FollowingArgs& following, double eps, const py::object& dtype,
                 const py::object& out_value, bool refuse_infinity) {
    if (refuse_infinity && !out_value.is_none()) {
        throw py::value_error("out must be None where refuse_infinity is True, got an array");
    }
    std::vector<const ArrayArg*> others{&mean, &var, &parameters.weight, &parameters.bias};
    if (counting != nullptr) others.insert(others.end(), {&counting->where, &counting->weights});
    const ArrayArg y =
        output_argument(out_value, dtype, in.x, {&in.x, &following.residual}, others);
    check_residual(following.residual, "y", y);
    bool infinite = false;
    without_gil(in.x.array().nbytes(), [&] {
        infinite =
            fastbn::infer(in.x.ref, y.ref, in.features, following.engine(), mean.ref, var.ref,
                          parameters.engine(), eps, refuse_infinity, mean.name, var.name);
    });
    if (infinite) throw py::value_error("x must not hold infinity, got at least one");
    return y.owner;
}

// How many values count: one number for all channels, unless they may differ.
struct Count {
    Count(const Input& in, const CountingArgs& counting) : result(py::int_(in.features.count)) {
        if (!counting.given()) return;
        py::array_t<double> counts = statistic_array(in.features);
        data = counts.mutable_data();
        result = std::move(counts);
    }

    py::object result;
    double* data = nullptr;
};

// The same as an argument, which is looked at only where they may differ.
ArrayArg count_argument(const py::object& value, const CountingArgs& counting) {
    if (!counting.given() || value.is_none()) return {"count", py::none(), {}};
    return array_argument("count", value, Kind::numbers);
}

}  // namespace

py::tuple moments(const py::object& x, const py::object& axis, const py::object& where,
                  const py::object& weights) {
    const Input in(x, axis);
    const CountingArgs counting(where, weights, in.x);
    py::array_t<double> mean = statistic_array(in.features);
    py::array_t<double> m2 = statistic_array(in.features);
    py::array_t<double> mean_lo = statistic_array(in.features);
    const Count count(in, counting);
    StatisticsOut out;
    out.mean = mean.mutable_data();
    out.mean_lo = mean_lo.mutable_data();
    out.m2 = m2.mutable_data();
    out.count = count.data;
    without_gil(in.x.array().nbytes(),
                [&] { fastbn::moments(in.x.ref, in.features, counting.engine(), out); });
    return py::make_tuple(count.result, mean, m2, mean_lo);
}

void check_counting(const py::object& x, const py::object& axis, const py::object& where,
                    const py::object& weights) {
    const Input in(x, axis);
    fastbn::check_counting(CountingArgs(where, weights, in.x).engine(), in.x.ref, in.features);
}

py::tuple batch_norm_train(const py::object& x, const py::object& weight, const py::object& bias,
                           const py::object& eps, const py::object& axis, const py::object& dtype,
                           const py::object& out, const py::object& where,
                           const py::object& weights, const py::object& residual,
                           const py::object& activation, const py::object& negative_slope,
                           const py::object& running_mean, const py::object& running_var,
                           const py::object& momentum, const py::object& correction,
                           const py::object& skip_nonfinite, const py::object& allow_single) {
    const Input in(x, axis);
    const ParameterArgs parameters(weight, bias);
    const CountingArgs counting(where, weights, in.x);
    const FollowingArgs following(residual, activation, negative_slope);
    const RunningArgs running(running_mean, running_var, momentum, correction,
                              bool_argument("skip_nonfinite", skip_nonfinite));
    py::array_t<double> mean = statistic_array(in.features);
    py::array_t<double> var = statistic_array(in.features);
    py::array_t<double> invstd = statistic_array(in.features);
    const Count count(in, counting);
    const ArrayArg y = train(
        in, counting, following, parameters, real_argument("eps", eps), running,
        bool_argument("allow_single", allow_single), dtype, out,
        {mean.mutable_data(), var.mutable_data(), invstd.mutable_data(), nullptr, count.data});
    return py::make_tuple(y.owner, mean, var, invstd, count.result);
}

py::object batch_norm(const py::object& x, const py::object& running_mean,
                      const py::object& running_var, const py::object& weight,
                      const py::object& bias, const py::object& training_value,
                      const py::object& momentum, const py::object& eps_value,
                      const py::object& axis, const py::object& correction, const py::object& dtype,
                      const py::object& out, const py::object& where, const py::object& weights,
                      const py::object& residual, const py::object& activation,
                      const py::object& negative_slope) {
    const Input in(x, axis);
    const ParameterArgs parameters(weight, bias);
    const CountingArgs counting(where, weights, in.x);
    const FollowingArgs following(residual, activation, negative_slope);
    const bool training = bool_argument("training", training_value);
    const double eps = real_argument("eps", eps_value);
    if (training) {
        const RunningArgs running(running_mean, running_var, momentum, correction, false);
        const std::size_t n = static_cast<std::size_t>(in.features.channels);
        std::vector<double> statistics(3 * n);
        double* const mean = statistics.data();
        return train(in, counting, following, parameters, eps, running, false, dtype, out,
                     {mean, mean + n, nullptr, nullptr, counting.given() ? mean + 2 * n : nullptr})
            .owner;
    }
    real_argument("momentum", momentum);
    real_argument("correction", correction);
    check_both_or_neither(running_mean, running_var);
    if (running_mean.is_none()) {
        throw py::value_error("running_mean must be given where training is False, got None");
    }
    fastbn::check_counting(counting.engine(), in.x.ref, in.features);
    const ArrayArg mean = array_argument("running_mean", running_mean);
    const ArrayArg var = array_argument("running_var", running_var);
    return infer(in, &counting, mean, var, parameters, following, eps, dtype, out, false);
}

py::object normalize(const py::object& x, const py::object& mean_value, const py::object& var_value,
                     const py::object& weight, const py::object& bias, const py::object& eps,
                     const py::object& axis, const py::object& dtype, const py::object& out,
                     const py::object& residual, const py::object& activation,
                     const py::object& negative_slope, const py::object& refuse_infinity) {
    const Input in(x, axis);
    const ArrayArg mean = array_argument("mean", mean_value);
    const ArrayArg var = array_argument("var", var_value);
    const ParameterArgs parameters(weight, bias);
    const FollowingArgs following(residual, activation, negative_slope);
    return infer(in, nullptr, mean, var, parameters, following, real_argument("eps", eps), dtype,
                 out, bool_argument("refuse_infinity", refuse_infinity));
}

py::tuple batch_norm_backward(const py::object& dy_value, const py::object& x,
                              const py::object& weight, const py::object& bias,
                              const py::object& mean_value, const py::object& invstd_value,
                              const py::object& count_value, const py::object& axis,
                              const py::object& training, const py::object& out,
                              const py::object& where, const py::object& weights,
                              const py::object& residual, const py::object& activation,
                              const py::object& negative_slope, const py::object& allow_single) {
    const Input in(x, axis);
    const ArrayArg dy = array_argument("dy", dy_value);
    const ParameterArgs parameters(weight, bias);
    const CountingArgs counting(where, weights, in.x);
    const FollowingArgs following(residual, activation, negative_slope);
    const ArrayArg mean = array_argument("mean", mean_value);
    const ArrayArg invstd = array_argument("invstd", invstd_value);
    const ArrayArg count = count_argument(count_value, counting);
    const bool through_statistics = bool_argument("training", training);
    const bool single = bool_argument("allow_single", allow_single);
    const ArrayArg dx =
        output_argument(out, dy.array().dtype(), in.x, {&dy, &in.x, &following.residual},
                        {&parameters.weight, &parameters.bias, &mean, &invstd, &count,
                         &counting.where, &counting.weights});
    check_residual(following.residual, "dy", dy);
    const bool gated = following.activation.kind != ActivationKind::none;
    const bool wants_dz = following.residual && gated;
    const ArrayArg dz = wants_dz ? output_like("dresidual", in.x, dy) : ArrayArg{};
    // Without an activation dz is dy, of which nothing may be left once dx is there.
    const bool overwritten = following.residual && !gated && dx.ref.data == dy.ref.data;
    const py::object dresidual =
        wants_dz ? dz.owner : (overwritten ? py::object(dy.owner.attr("copy")()) : dy.owner);
    py::array_t<double> dweight = statistic_array(in.features);
    py::array_t<double> dbias = statistic_array(in.features);
    const GradientsOut gradients{dx.ref, dz.ref, dweight.mutable_data(), dbias.mutable_data()};
    without_gil(in.x.array().nbytes(), [&] {
        fastbn::backward(
            dy.ref, in.x.ref, in.features, counting.engine(), following.engine(),
            {mean.ref, invstd.ref, count.ref, parameters.engine(), through_statistics, single},
            gradients);
    });
    if (!following.residual) return py::make_tuple(dx.owner, dweight, dbias);
    return py::make_tuple(dx.owner, dweight, dbias, dresidual);
}

}  // namespace fastbn::bindings
