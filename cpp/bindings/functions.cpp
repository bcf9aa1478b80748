#include "bindings/functions.hpp"

#include <algorithm>
#include <limits>
#include <optional>
#include <string>

#include "bindings/arguments.hpp"
#include "bindings/dlpack.hpp"
#include "bindings/gil.hpp"
#include "bindings/outputs.hpp"
#include "bindings/signature.hpp"
#include "engine/features.hpp"
#include "engine/operations.hpp"
#include "engine/workspace.hpp"

namespace fastbn::bindings {
namespace {

// ---- Parameters that several functions have in common ----

// x and the axes that are its features.
struct Input {
    Input(const Argument& x_argument, const Argument& axis)
        : x(array_argument(x_argument)), features(features_argument(x, axis)) {}

    std::ptrdiff_t bytes() const {
        return features.channels * features.count * size_of(x.ref.dtype);
    }

    ArrayArg x;
    Features features;
};

// where= and weights=, seen in x's shape.
struct WeightingArgs {
    WeightingArgs(const Argument& where_argument, const Argument& weights_argument,
                  const ArrayArg& x)
        : where(broadcast_argument(where_argument, Kind::boolean, x)),
          weights(broadcast_argument(weights_argument, Kind::data, x)) {}

    bool given() const { return where || weights; }
    Weighting engine(bool omit_nan = false) const { return {where.ref, weights.ref, omit_nan}; }

    ArrayArg where;
    ArrayArg weights;
};

// residual=, activation= and negative_slope=.
struct EpilogueArgs {
    EpilogueArgs(const Argument& residual_argument, const Argument& activation_name,
                 const Argument& negative_slope)
        : residual(optional_argument(residual_argument, Kind::floating)),
          activation(activation_argument(activation_name, negative_slope)) {}

    EpilogueRef engine() const { return {residual.ref, activation, clip}; }

    ArrayArg residual;
    Activation activation;
    double clip = std::numeric_limits<double>::infinity();
};

struct ParameterArgs {
    ParameterArgs(const Argument& weight_argument, const Argument& bias_argument)
        : weight(optional_argument(weight_argument)), bias(optional_argument(bias_argument)) {}

    Parameters engine() const { return {weight.ref, bias.ref}; }

    ArrayArg weight;
    ArrayArg bias;
};

void check_both_or_neither(const Argument& mean, const Argument& var) {
    if (mean.is_none() == var.is_none()) return;
    const char* const missing = mean.is_none() ? mean.name : var.name;
    const char* const other = mean.is_none() ? var.name : mean.name;
    raise(PyExc_ValueError,
          missing + (" must be given together with " + std::string(other)) + ", got None");
}

// Running statistics to be updated: both of them or neither.
struct RunningArgs {
    RunningArgs(const Argument& mean_argument, const Argument& var_argument,
                const Argument& momentum_argument, const Argument& correction_argument, bool skip)
        : momentum(real_argument(momentum_argument)),
          correction(real_argument(correction_argument)),
          skip_nonfinite(skip) {
        check_both_or_neither(mean_argument, var_argument);
        if (mean_argument.is_none()) return;
        mean = writable_argument(mean_argument);
        var = writable_argument(var_argument);
        check_disjoint(mean, var);
    }

    Running engine() const { return {mean.ref, var.ref, momentum, correction, skip_nonfinite}; }

    ArrayArg mean;
    ArrayArg var;
    double momentum;
    double correction;
    bool skip_nonfinite;
};

void check_residual(const ArrayArg& residual, DType type, PyObject* numpy_type,
                    const char* typed_name) {
    if (!residual || residual.ref.dtype == type) return;
    wrong_type(residual.name, std::string("have ") + typed_name + "'s dtype " + name_of(numpy_type),
               name_of(numpy_dtype(residual)));
}

// ---- Statistics ----

// A result that says how many values a channel has: a number, or an array where that may differ
// from channel to channel.
class CountResult {
public:
    CountResult(const Features& features, bool may_differ)
        : channels_(features.channels), count_(features.count) {
        if (may_differ) array_.emplace(features);
    }

    double* data() const { return array_ ? array_->data() : nullptr; }
    py::object result() const { return array_ ? array_->array() : number(); }
    // The number also where an array turned out to hold nothing else.
    py::object shortest_result() const {
        if (!array_) return number();
        const auto all = static_cast<double>(count_);
        const bool complete =
            std::all_of(data(), data() + channels_, [&](double counted) { return counted == all; });
        return complete ? number() : array_->array();
    }

private:
    py::object number() const { return to_python(count_); }

    std::ptrdiff_t channels_;
    std::ptrdiff_t count_;
    std::optional<StatisticArray> array_;
};

struct MomentsArguments : ArgumentList {
    using ArgumentList::ArgumentList;
    Argument x = required("x");
    Argument axis = optional("axis", 1);
    Argument where = optional("where");
    Argument weights = optional("weights");
    Argument omit_nan = optional("omit_nan", false);
    Argument extremes = optional("extremes", false);
};

// Returns (count, mean, m2, low part of the mean, least value, largest value); the last two are
// None unless `extremes`. With omit_nan alone, count is a number where there was no NaN.
py::object moments(const MomentsArguments& arguments) {
    const Input in(arguments.x, arguments.axis);
    const WeightingArgs weighting(arguments.where, arguments.weights, in.x);
    const bool omit_nan = bool_argument(arguments.omit_nan) && is_float(in.x.ref.dtype);
    const bool extremes = bool_argument(arguments.extremes);
    const StatisticArray mean(in.features);
    const StatisticArray m2(in.features);
    const StatisticArray mean_lo(in.features);
    const CountResult count(in.features, weighting.given() || omit_nan);
    StatisticsOut out;
    out.mean = mean.data();
    out.mean_lo = mean_lo.data();
    out.m2 = m2.data();
    out.count = count.data();
    std::optional<StatisticArray> min;
    std::optional<StatisticArray> max;
    if (extremes) {
        out.min = min.emplace(in.features).data();
        out.max = max.emplace(in.features).data();
    }
    without_gil(in.bytes(),
                [&] { fastbn::moments(in.x.ref, in.features, weighting.engine(omit_nan), out); });
    const py::object counted = weighting.given() ? count.result() : count.shortest_result();
    return tuple_of(counted, mean.array(), m2.array(), mean_lo.array(), min ? min->array() : none(),
                    max ? max->array() : none());
}

struct ValueRangeArguments : ArgumentList {
    using ArgumentList::ArgumentList;
    Argument x = required("x");
    Argument axis = optional("axis", 1);
    Argument where = optional("where");
    Argument weights = optional("weights");
    Argument omit_nan = optional("omit_nan", false);
};

// Returns (least value, largest value).
py::object value_range(const ValueRangeArguments& arguments) {
    const Input in(arguments.x, arguments.axis);
    const WeightingArgs weighting(arguments.where, arguments.weights, in.x);
    const bool omit_nan = bool_argument(arguments.omit_nan) && is_float(in.x.ref.dtype);
    const StatisticArray min(in.features);
    const StatisticArray max(in.features);
    without_gil(in.bytes(), [&] {
        fastbn::value_range(in.x.ref, in.features, weighting.engine(omit_nan), min.data(),
                            max.data());
    });
    return tuple_of(min.array(), max.array());
}

struct CheckWeightsArguments : ArgumentList {
    using ArgumentList::ArgumentList;
    Argument x = required("x");
    Argument axis = optional("axis", 1);
    Argument where = optional("where");
    Argument weights = optional("weights");
};

struct FromDlpackArguments : ArgumentList {
    using ArgumentList::ArgumentList;
    Argument value = required("value");
};

// Returns an array of the same memory, or None where the value offers none that NumPy can have.
py::object from_dlpack(const FromDlpackArguments& arguments) {
    const py::object array = array_from_dlpack(arguments.value.value);
    return array ? array : none();
}

// The same by the functions in C that the value's type may offer, and writable.
py::object from_exchange_api(const FromDlpackArguments& arguments) {
    const py::object array = array_from_exchange_api(arguments.value.value);
    return array ? array : none();
}

// Raises what the other functions would for these arguments.
py::object check_weights(const CheckWeightsArguments& arguments) {
    const Input in(arguments.x, arguments.axis);
    const WeightingArgs weighting(arguments.where, arguments.weights, in.x);
    without_gil(in.bytes(),
                [&] { fastbn::check_weights(weighting.engine(), in.x.ref, in.features); });
    return none();
}

// ---- Forward ----

// Trains and returns y.
ArrayArg train(const Input& in, const WeightingArgs& weighting, const EpilogueArgs& epilogue,
               const ParameterArgs& parameters, double eps, const RunningArgs& running,
               bool allow_single, const Argument& dtype, const Argument& out,
               const StatisticsOut& statistics) {
    for (const ArrayArg* argument : {&in.x, &epilogue.residual, &weighting.where,
                                     &weighting.weights, &parameters.weight, &parameters.bias}) {
        check_disjoint(running.mean, *argument);
        check_disjoint(running.var, *argument);
    }
    ArrayArg y = output_argument(out, dtype_argument(dtype), in.x, {&in.x, &epilogue.residual},
                                 {&weighting.where, &weighting.weights, &parameters.weight,
                                  &parameters.bias, &running.mean, &running.var});
    check_residual(epilogue.residual, y.ref.dtype, numpy_dtype(y), "y");
    without_gil(in.bytes(), [&] {
        fastbn::train(in.x.ref, y.ref, in.features, weighting.engine(), epilogue.engine(),
                      parameters.engine(), eps, running.engine(), allow_single, statistics);
    });
    return y;
}

struct TrainArguments : ArgumentList {
    using ArgumentList::ArgumentList;
    Argument x = required("x");
    Argument weight = optional("weight");
    Argument bias = optional("bias");
    Argument eps = optional("eps", 1e-5);
    Argument axis = optional("axis", 1);
    Argument dtype = optional("dtype");
    Argument out = optional("out");
    Argument where = optional("where");
    Argument weights = optional("weights");
    Argument residual = optional("residual");
    Argument activation = optional("activation");
    Argument negative_slope = optional("negative_slope", 0.01);
    Argument running_mean = optional("running_mean");
    Argument running_var = optional("running_var");
    Argument momentum = optional("momentum", 0.1);
    Argument correction = optional("correction", 1);
    Argument skip_nonfinite = optional("skip_nonfinite", false);
    Argument allow_single = optional("allow_single", false);
};

// Returns (y, mean, var, invstd, count).
py::object batch_norm_train(const TrainArguments& arguments) {
    const Input in(arguments.x, arguments.axis);
    const ParameterArgs parameters(arguments.weight, arguments.bias);
    const WeightingArgs weighting(arguments.where, arguments.weights, in.x);
    const EpilogueArgs epilogue(arguments.residual, arguments.activation, arguments.negative_slope);
    const RunningArgs running(arguments.running_mean, arguments.running_var, arguments.momentum,
                              arguments.correction, bool_argument(arguments.skip_nonfinite));
    const double eps = real_argument(arguments.eps);
    const bool allow_single = bool_argument(arguments.allow_single);
    const StatisticArray mean(in.features);
    const StatisticArray var(in.features);
    const StatisticArray invstd(in.features);
    const CountResult count(in.features, weighting.given());
    StatisticsOut out;
    out.mean = mean.data();
    out.var = var.data();
    out.invstd = invstd.data();
    out.count = count.data();
    const ArrayArg y = train(in, weighting, epilogue, parameters, eps, running, allow_single,
                             arguments.dtype, arguments.out, out);
    return tuple_of(y.owner, mean.array(), var.array(), invstd.array(), count.result());
}

// Whether refuse_infinity found x to hold infinity is known only once y is written.
void check_nothing_overwritten(const Argument& out) {
    if (out.is_none()) return;
    raise(PyExc_ValueError,
          out.name + std::string(" must be None where refuse_infinity is True, got an array"));
}

// Writes y by the statistics that are given, and returns it.
py::object transform(const Input& in, const ArrayArg& mean, const ArrayArg& mean_lo,
                     const ArrayArg& var, const ParameterArgs& parameters,
                     const EpilogueArgs& epilogue, double eps, const ArrayArg& y,
                     bool refuse_infinity) {
    check_residual(epilogue.residual, y.ref.dtype, numpy_dtype(y), "y");
    bool infinite = false;
    without_gil(in.bytes(), [&] {
        infinite = fastbn::normalize(in.x.ref, y.ref, in.features, epilogue.engine(), mean.ref,
                                     mean_lo.ref, var.ref, parameters.engine(), eps,
                                     refuse_infinity, mean.name, var.name);
    });
    if (infinite) raise(PyExc_ValueError, "x must not hold infinity, got at least one");
    return y.owner;
}

struct BatchNormArguments : ArgumentList {
    using ArgumentList::ArgumentList;
    Argument x = required("x");
    Argument running_mean = optional("running_mean");
    Argument running_var = optional("running_var");
    Argument weight = optional("weight");
    Argument bias = optional("bias");
    Argument training = optional("training", false);
    Argument momentum = optional("momentum", 0.1);
    Argument eps = optional("eps", 1e-5);
    Argument axis = optional("axis", 1);
    Argument correction = optional("correction", 1);
    Argument dtype = optional("dtype");
    Argument out = optional("out");
    Argument where = optional("where");
    Argument weights = optional("weights");
    Argument residual = optional("residual");
    Argument activation = optional("activation");
    Argument negative_slope = optional("negative_slope", 0.01);
};

// Returns y.
py::object batch_norm(const BatchNormArguments& arguments) {
    const Input in(arguments.x, arguments.axis);
    const ParameterArgs parameters(arguments.weight, arguments.bias);
    const WeightingArgs weighting(arguments.where, arguments.weights, in.x);
    const EpilogueArgs epilogue(arguments.residual, arguments.activation, arguments.negative_slope);
    const bool training = bool_argument(arguments.training);
    const double eps = real_argument(arguments.eps);
    if (training) {
        const RunningArgs running(arguments.running_mean, arguments.running_var, arguments.momentum,
                                  arguments.correction, false);
        // The engine writes the batch's statistics to memory that ends with the call: on the stack
        // for up to 256 channels.
        const std::ptrdiff_t n = in.features.channels;
        const std::ptrdiff_t arrays = weighting.given() ? 3 : 2;
        const Buffer<4096> memory(arrays * n * static_cast<std::ptrdiff_t>(sizeof(double)));
        StatisticsOut out;
        out.mean = reinterpret_cast<double*>(memory.data());
        out.var = out.mean + n;
        if (weighting.given()) out.count = out.var + n;
        return train(in, weighting, epilogue, parameters, eps, running, false, arguments.dtype,
                     arguments.out, out)
            .owner;
    }
    real_argument(arguments.momentum);
    real_argument(arguments.correction);
    check_both_or_neither(arguments.running_mean, arguments.running_var);
    if (arguments.running_mean.is_none()) {
        raise(PyExc_ValueError, "running_mean must be given where training is False, got None");
    }
    if (weighting.given()) {
        without_gil(in.bytes(),
                    [&] { fastbn::check_weights(weighting.engine(), in.x.ref, in.features); });
    }
    const ArrayArg mean = array_argument(arguments.running_mean);
    const ArrayArg var = array_argument(arguments.running_var);
    const ArrayArg y = output_argument(
        arguments.out, dtype_argument(arguments.dtype), in.x, {&in.x, &epilogue.residual},
        {&mean, &var, &parameters.weight, &parameters.bias, &weighting.where, &weighting.weights});
    return transform(in, mean, ArrayArg{}, var, parameters, epilogue, eps, y, false);
}

struct NormalizeArguments : ArgumentList {
    using ArgumentList::ArgumentList;
    Argument x = required("x");
    Argument mean = required("mean");
    Argument var = required("var");
    Argument weight = optional("weight");
    Argument bias = optional("bias");
    Argument eps = optional("eps", 1e-5);
    Argument axis = optional("axis", 1);
    Argument dtype = optional("dtype");
    Argument out = optional("out");
    Argument residual = optional("residual");
    Argument activation = optional("activation");
    Argument negative_slope = optional("negative_slope", 0.01);
    Argument clip = optional("clip");
    Argument refuse_infinity = optional("refuse_infinity", false);
    Argument out_axis = optional("out_axis");
    Argument mean_lo = optional("mean_lo");
};

// Returns y. refuse_infinity: ValueError where x holds it, found while y is written.
py::object normalize(const NormalizeArguments& arguments) {
    const Input in(arguments.x, arguments.axis);
    const ArrayArg mean = array_argument(arguments.mean);
    const ArrayArg var = array_argument(arguments.var);
    const ArrayArg mean_lo = optional_argument(arguments.mean_lo);
    const ParameterArgs parameters(arguments.weight, arguments.bias);
    EpilogueArgs epilogue(arguments.residual, arguments.activation, arguments.negative_slope);
    if (!arguments.clip.is_none()) epilogue.clip = real_argument(arguments.clip);
    const double eps = real_argument(arguments.eps);
    const bool refuse_infinity = bool_argument(arguments.refuse_infinity);
    if (refuse_infinity) check_nothing_overwritten(arguments.out);
    const ResultType type = dtype_argument(arguments.dtype);
    const AxisList order = axis_order_argument(in.x, arguments.axis, arguments.out_axis);
    const ArrayArg y =
        output_argument(arguments.out, type, in.x, order, {&in.x, &epilogue.residual},
                        {&mean, &mean_lo, &var, &parameters.weight, &parameters.bias});
    return transform(in, mean, mean_lo, var, parameters, epilogue, eps, y, refuse_infinity);
}

// ---- Backward ----

struct BackwardArguments : ArgumentList {
    using ArgumentList::ArgumentList;
    Argument dy = required("dy");
    Argument x = required("x");
    Argument weight = optional("weight");
    Argument bias = optional("bias");
    Argument mean = required("mean");
    Argument invstd = required("invstd");
    Argument count = optional("count");
    Argument axis = optional("axis", 1);
    Argument training = optional("training", true);
    Argument out = optional("out");
    Argument where = optional("where");
    Argument weights = optional("weights");
    Argument residual = optional("residual");
    Argument activation = optional("activation");
    Argument negative_slope = optional("negative_slope", 0.01);
    Argument allow_single = optional("allow_single", false);
};

// The residual's gradient is dz: what the activation lets through of dy, or without one dy itself.
class ResidualGradient {
public:
    // type: what results have for this dy.
    ResidualGradient(const EpilogueArgs& epilogue, const ArrayArg& x, const ArrayArg& dy,
                     const ResultType& type, const ArrayArg& dx) {
        if (!epilogue.residual) return;
        if (epilogue.activation.kind != ActivationKind::none) {
            dz_ = output_like("dresidual", x, type);
            result_ = dz_.owner;
        } else if (dy.ref.swapped || dy.ref.dtype != type.engine) {
            result_ = call(attribute(dy.owner.ptr(), "astype"), type.numpy.ptr());
        } else if (dx.ref.data == dy.ref.data) {  // dx will be written over dy
            result_ = call(attribute(dy.owner.ptr(), "copy"));
        } else {
            result_ = dy.owner;
        }
    }

    const ArrayRef& engine() const { return dz_.ref; }    // empty where it needs no computation
    const py::object& result() const { return result_; }  // empty without a residual

private:
    ArrayArg dz_;
    py::object result_;
};

// What all functions of the backward pass read.
struct BackwardInput {
    template <class Arguments>
    explicit BackwardInput(const Arguments& arguments)
        : in(arguments.x, arguments.axis),
          dy(array_argument(arguments.dy)),
          parameters(arguments.weight, arguments.bias),
          weighting(arguments.where, arguments.weights, in.x),
          epilogue(arguments.residual, arguments.activation, arguments.negative_slope),
          mean(array_argument(arguments.mean)),
          invstd(array_argument(arguments.invstd)),
          gradient_type(result_type_of(dy)) {
        check_residual(epilogue.residual, gradient_type.engine, gradient_type.numpy.ptr(),
                       is_float(dy.ref.dtype) ? "dy" : "dx");
    }

    Normalization normalization() const {
        Normalization result;
        result.mean = mean.ref;
        result.invstd = invstd.ref;
        result.parameters = parameters.engine();
        return result;
    }
    // The array that dx goes to, which shares no memory with `others` either.
    ArrayArg output(const Argument& out, const ArrayArg& other, const ArrayArg& another) const {
        return output_argument(out, gradient_type, in.x, {&dy, &in.x, &epilogue.residual},
                               {&parameters.weight, &parameters.bias, &mean, &invstd,
                                &weighting.where, &weighting.weights, &other, &another});
    }
    void run(const Normalization& normalization, const GradientsOut& out) const {
        without_gil(in.bytes(), [&] {
            fastbn::backward(dy.ref, in.x.ref, in.features, weighting.engine(), epilogue.engine(),
                             normalization, out);
        });
    }

    Input in;
    ArrayArg dy;
    ParameterArgs parameters;
    WeightingArgs weighting;
    EpilogueArgs epilogue;
    ArrayArg mean;
    ArrayArg invstd;
    ResultType gradient_type;  // of dx and the residual's gradient
};

// Returns (dx, dweight, dbias), and with a residual its gradient too.
py::object batch_norm_backward(const BackwardArguments& arguments) {
    const BackwardInput input(arguments);
    // Without weights the count is the number of values, whatever the caller says.
    const ArrayArg count =
        input.weighting.given() ? optional_argument(arguments.count) : ArrayArg{};
    Normalization normalization = input.normalization();
    normalization.count = count.ref;
    normalization.through_statistics = bool_argument(arguments.training);
    normalization.allow_single = bool_argument(arguments.allow_single);
    const ArrayArg dx = input.output(arguments.out, count, {});
    const ResidualGradient dresidual(input.epilogue, input.in.x, input.dy, input.gradient_type, dx);
    const StatisticArray dweight(input.in.features);
    const StatisticArray dbias(input.in.features);
    input.run(normalization, {dx.ref, dresidual.engine(), dweight.data(), dbias.data()});
    if (!dresidual.result()) return tuple_of(dx.owner, dweight.array(), dbias.array());
    return tuple_of(dx.owner, dweight.array(), dbias.array(), dresidual.result());
}

struct GradientSumsArguments : ArgumentList {
    using ArgumentList::ArgumentList;
    Argument dy = required("dy");
    Argument x = required("x");
    Argument weight = optional("weight");
    Argument bias = optional("bias");
    Argument mean = required("mean");
    Argument invstd = required("invstd");
    Argument axis = optional("axis", 1);
    Argument where = optional("where");
    Argument weights = optional("weights");
    Argument residual = optional("residual");
    Argument activation = optional("activation");
    Argument negative_slope = optional("negative_slope", 0.01);
};

// Returns (dweight, dbias): the half of the backward pass that goes before what ranks exchange.
py::object gradient_sums(const GradientSumsArguments& arguments) {
    const BackwardInput input(arguments);
    const StatisticArray dweight(input.in.features);
    const StatisticArray dbias(input.in.features);
    input.run(input.normalization(), {{}, {}, dweight.data(), dbias.data()});
    return tuple_of(dweight.array(), dbias.array());
}

struct InputGradientArguments : ArgumentList {
    using ArgumentList::ArgumentList;
    Argument dy = required("dy");
    Argument x = required("x");
    Argument weight = optional("weight");
    Argument bias = optional("bias");
    Argument mean = required("mean");
    Argument invstd = required("invstd");
    Argument mean_dy = required("mean_dy");
    Argument mean_dy_xhat = required("mean_dy_xhat");
    Argument axis = optional("axis", 1);
    Argument out = optional("out");
    Argument where = optional("where");
    Argument weights = optional("weights");
    Argument residual = optional("residual");
    Argument activation = optional("activation");
    Argument negative_slope = optional("negative_slope", 0.01);
};

// Returns (dx,), and with a residual its gradient too: the half that comes after it. mean_dy and
// mean_dy_xhat: the sums over all ranks, divided by what all their values weigh.
py::object input_gradient(const InputGradientArguments& arguments) {
    const BackwardInput input(arguments);
    const ArrayArg mean_dy = array_argument(arguments.mean_dy);
    const ArrayArg mean_dy_xhat = array_argument(arguments.mean_dy_xhat);
    Normalization normalization = input.normalization();
    normalization.mean_dy = mean_dy.ref;
    normalization.mean_dy_xhat = mean_dy_xhat.ref;
    const ArrayArg dx = input.output(arguments.out, mean_dy, mean_dy_xhat);
    const ResidualGradient dresidual(input.epilogue, input.in.x, input.dy, input.gradient_type, dx);
    input.run(normalization, {dx.ref, dresidual.engine(), nullptr, nullptr});
    return dresidual.result() ? tuple_of(dx.owner, dresidual.result()) : tuple_of(dx.owner);
}

}  // namespace

void add_array_functions(PyObject* module) {
    static PyMethodDef functions[] = {
        Function<batch_norm>::entry("batch_norm"),
        Function<batch_norm_train>::entry("batch_norm_train"),
        Function<batch_norm_backward>::entry("batch_norm_backward"),
        Function<gradient_sums>::entry("gradient_sums"),
        Function<input_gradient>::entry("input_gradient"),
        Function<moments>::entry("moments"),
        Function<normalize>::entry("normalize"),
        Function<value_range>::entry("value_range"),
        Function<check_weights>::entry("check_weights"),
        Function<from_dlpack>::entry("from_dlpack"),
        Function<from_exchange_api>::entry("from_exchange_api"),
        {nullptr, nullptr, 0, nullptr},
    };
    if (PyModule_AddFunctions(module, functions) != 0) throw PythonError();
}

}  // namespace fastbn::bindings
