// The Python module fastbn._core: one function per engine call. Converts, allocates results,
// releases the GIL round the engine, and nothing else.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/arguments.hpp"
#include "bindings/fastcall.hpp"
#include "bindings/gil.hpp"
#include "bindings/outputs.hpp"
#include "engine/dispatch.hpp"
#include "engine/features.hpp"
#include "engine/operations.hpp"
#include "engine/parallel.hpp"
#include "engine/pool.hpp"

namespace fastbn::bindings {
namespace {

py::tuple moments(const py::object& x_value, const py::object& axis) {
    const ArrayArg x = array_argument("x", x_value);
    const Features features = features_of(x.ref, axis_argument(axis));
    py::array_t<double> mean = statistic_array(features);
    py::array_t<double> m2 = statistic_array(features);
    const StatisticsOut out{mean.mutable_data(), nullptr, nullptr, m2.mutable_data()};
    without_gil(x.array().nbytes(), [&] { fastbn::moments(x.ref, features, out); });
    return py::make_tuple(features.count, mean, m2);
}

// Running statistics as arguments: both of them or neither.
struct RunningArgs {
    ArrayArg mean;
    ArrayArg var;
    double momentum;
    double correction;

    Running engine() const { return {mean.ref, var.ref, momentum, correction}; }
};

void check_both_or_neither(const py::object& mean, const py::object& var) {
    if (mean.is_none() == var.is_none()) return;
    throw py::value_error(mean.is_none()
                              ? "running_mean must be given together with running_var, got None"
                              : "running_var must be given together with running_mean, got None");
}

RunningArgs running_arguments(const py::object& mean, const py::object& var,
                              const py::object& momentum, const py::object& correction) {
    check_both_or_neither(mean, var);
    // Not inside the braces: where an initializer throws, g++ 12 destroys the members before it
    // twice.
    const double share = real_argument("momentum", momentum);
    const double freedom = real_argument("correction", correction);
    RunningArgs running{{"running_mean", mean, {}}, {"running_var", var, {}}, share, freedom};
    if (mean.is_none()) return running;
    running.mean = writable_argument("running_mean", mean);
    running.var = writable_argument("running_var", var);
    check_disjoint(running.mean, running.var);
    return running;
}

// Trains and returns y. `out` has room for one value per channel each.
ArrayArg train(const ArrayArg& x, const Features& features, const ArrayArg& weight,
               const ArrayArg& bias, double eps, const RunningArgs& running,
               const py::object& out_value, const StatisticsOut& out) {
    for (const ArrayArg* other : {&x, &weight, &bias}) {
        check_disjoint(running.mean, *other);
        check_disjoint(running.var, *other);
    }
    ArrayArg y = output_argument(out_value, x, {&x}, {&weight, &bias, &running.mean, &running.var});
    without_gil(x.array().nbytes(), [&] {
        fastbn::train(x.ref, y.ref, features, {weight.ref, bias.ref}, eps, running.engine(), out);
    });
    return y;
}

py::tuple batch_norm_train(const py::object& x_value, const py::object& weight_value,
                           const py::object& bias_value, const py::object& eps,
                           const py::object& axis, const py::object& out,
                           const py::object& running_mean, const py::object& running_var,
                           const py::object& momentum, const py::object& correction) {
    const ArrayArg x = array_argument("x", x_value);
    const Features features = features_of(x.ref, axis_argument(axis));
    const ArrayArg weight = optional_argument("weight", weight_value);
    const ArrayArg bias = optional_argument("bias", bias_value);
    const RunningArgs running = running_arguments(running_mean, running_var, momentum, correction);
    py::array_t<double> mean = statistic_array(features);
    py::array_t<double> var = statistic_array(features);
    py::array_t<double> invstd = statistic_array(features);
    const ArrayArg y =
        train(x, features, weight, bias, real_argument("eps", eps), running, out,
              {mean.mutable_data(), var.mutable_data(), invstd.mutable_data(), nullptr});
    return py::make_tuple(y.owner, mean, var, invstd, features.count);
}

py::object infer(const ArrayArg& x, const Features& features, const ArrayArg& mean,
                 const ArrayArg& var, const ArrayArg& weight, const ArrayArg& bias, double eps,
                 const py::object& out_value) {
    const ArrayArg y = output_argument(out_value, x, {&x}, {&mean, &var, &weight, &bias});
    without_gil(x.array().nbytes(), [&] {
        fastbn::infer(x.ref, y.ref, features, mean.ref, var.ref, {weight.ref, bias.ref}, eps,
                      mean.name, var.name);
    });
    return y.owner;
}

py::object batch_norm(const py::object& x_value, const py::object& running_mean,
                      const py::object& running_var, const py::object& weight_value,
                      const py::object& bias_value, const py::object& training_value,
                      const py::object& momentum, const py::object& eps_value,
                      const py::object& axis, const py::object& correction, const py::object& out) {
    const ArrayArg x = array_argument("x", x_value);
    const Features features = features_of(x.ref, axis_argument(axis));
    const ArrayArg weight = optional_argument("weight", weight_value);
    const ArrayArg bias = optional_argument("bias", bias_value);
    const bool training = bool_argument("training", training_value);
    const double eps = real_argument("eps", eps_value);
    if (training) {
        const RunningArgs running =
            running_arguments(running_mean, running_var, momentum, correction);
        std::vector<double> mean(static_cast<std::size_t>(features.channels));
        std::vector<double> var(mean.size());
        return train(x, features, weight, bias, eps, running, out,
                     {mean.data(), var.data(), nullptr, nullptr})
            .owner;
    }
    real_argument("momentum", momentum);
    real_argument("correction", correction);
    check_both_or_neither(running_mean, running_var);
    if (running_mean.is_none()) {
        throw py::value_error("running_mean must be given where training is False, got None");
    }
    const ArrayArg mean = array_argument("running_mean", running_mean);
    const ArrayArg var = array_argument("running_var", running_var);
    return infer(x, features, mean, var, weight, bias, eps, out);
}

py::object normalize(const py::object& x_value, const py::object& mean_value,
                     const py::object& var_value, const py::object& weight_value,
                     const py::object& bias_value, const py::object& eps_value,
                     const py::object& axis, const py::object& out) {
    const ArrayArg x = array_argument("x", x_value);
    const Features features = features_of(x.ref, axis_argument(axis));
    const ArrayArg mean = array_argument("mean", mean_value);
    const ArrayArg var = array_argument("var", var_value);
    const ArrayArg weight = optional_argument("weight", weight_value);
    const ArrayArg bias = optional_argument("bias", bias_value);
    return infer(x, features, mean, var, weight, bias, real_argument("eps", eps_value), out);
}

py::tuple batch_norm_backward(const py::object& dy_value, const py::object& x_value,
                              const py::object& weight_value, const py::object& mean_value,
                              const py::object& invstd_value, const py::object& axis,
                              const py::object& training_value, const py::object& out) {
    const ArrayArg x = array_argument("x", x_value);
    const ArrayArg dy = array_argument("dy", dy_value);
    const Features features = features_of(x.ref, axis_argument(axis));
    if (dy.ref.dtype != x.ref.dtype) {
        throw py::type_error("dy must have x's dtype " +
                             py::cast<std::string>(py::str(x.array().dtype())) + ", got " +
                             py::cast<std::string>(py::str(dy.array().dtype())));
    }
    const ArrayArg weight = optional_argument("weight", weight_value);
    const ArrayArg mean = array_argument("mean", mean_value);
    const ArrayArg invstd = array_argument("invstd", invstd_value);
    const bool training = bool_argument("training", training_value);
    const ArrayArg dx = output_argument(out, x, {&dy, &x}, {&weight, &mean, &invstd});
    py::array_t<double> dweight = statistic_array(features);
    py::array_t<double> dbias = statistic_array(features);
    double* const dweight_data = dweight.mutable_data();
    double* const dbias_data = dbias.mutable_data();
    without_gil(x.array().nbytes(), [&] {
        fastbn::backward(dy.ref, x.ref, dx.ref, features, weight.ref, mean.ref, invstd.ref,
                         training, dweight_data, dbias_data);
    });
    return py::make_tuple(dx.owner, dweight, dbias);
}

py::tuple pool_info() {
    const PoolInfo info = fastbn::pool_info();
    return py::make_tuple(info.limit, info.held, info.blocks, info.reused);
}

py::tuple isas() { return py::tuple(py::cast(available_isas())); }

}  // namespace
}  // namespace fastbn::bindings

PYBIND11_MODULE(_core, module) {
    namespace bindings = fastbn::bindings;
    namespace py = pybind11;
    using py::arg;

    fastbn::choose_isa();
    fastbn::install_fork_handler();
    fastbn::protect_pool_from_fork();

    module.doc() = "Compiled kernels of fastbn; documented in fastbn's Python functions.";
    static PyMethodDef methods[] = {
        bindings::method<bindings::batch_norm>(
            "batch_norm",
            "batch_norm($module, x, running_mean, running_var, weight, bias, training, momentum, "
            "eps, axis, correction, out, /)\n--\n\n"),
        bindings::method<bindings::batch_norm_train>(
            "batch_norm_train",
            "batch_norm_train($module, x, weight, bias, eps, axis, out, running_mean, running_var, "
            "momentum, correction, /)\n--\n\n"),
        bindings::method<bindings::batch_norm_backward>(
            "batch_norm_backward",
            "batch_norm_backward($module, dy, x, weight, mean, invstd, axis, training, out, "
            "/)\n--\n\n"),
        bindings::method<bindings::moments>("moments", "moments($module, x, axis, /)\n--\n\n"),
        bindings::method<bindings::normalize>(
            "normalize",
            "normalize($module, x, mean, var, weight, bias, eps, axis, out, /)\n--\n\n"),
        {nullptr, nullptr, 0, nullptr},
    };
    if (PyModule_AddFunctions(module.ptr(), methods) != 0) throw py::error_already_set();

    module.def(
        "set_num_threads",
        [](const py::object& n) { fastbn::set_num_threads(bindings::threads_argument(n)); },
        arg("n"), py::pos_only());
    module.def("get_num_threads", fastbn::get_num_threads);
    module.def("pool_info", bindings::pool_info);
    module.def(
        "set_pool_limit",
        [](const py::object& nbytes) {
            fastbn::set_pool_limit(bindings::bytes_argument("nbytes", nbytes));
        },
        arg("nbytes"), py::pos_only());
    module.def("clear_pool", fastbn::clear_pool);
    module.def("isas", bindings::isas);
    module.def("get_isa", fastbn::get_isa);
    module.def("set_isa", fastbn::set_isa, arg("name"), py::pos_only());
    module.attr("version") = FASTBN_VERSION;
    module.attr("openmp") = fastbn::has_openmp();
    module.attr("compiler") = FASTBN_COMPILER;
    module.attr("build_type") = FASTBN_BUILD_TYPE;
}
