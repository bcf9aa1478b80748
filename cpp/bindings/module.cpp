// The Python module fastbn._core: its table of functions.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/arguments.hpp"
#include "bindings/calls.hpp"
#include "bindings/fastcall.hpp"
#include "engine/dispatch.hpp"
#include "engine/parallel.hpp"
#include "engine/pool.hpp"

namespace fastbn::bindings {
namespace {

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
            "eps, axis, correction, dtype, out, where, weights, residual, activation, "
            "negative_slope, /)\n--\n\n"),
        bindings::method<bindings::batch_norm_train>(
            "batch_norm_train",
            "batch_norm_train($module, x, weight, bias, eps, axis, dtype, out, where, weights, "
            "residual, activation, negative_slope, running_mean, running_var, momentum, "
            "correction, skip_nonfinite, allow_single, /)\n--\n\n"),
        bindings::method<bindings::batch_norm_backward>(
            "batch_norm_backward",
            "batch_norm_backward($module, dy, x, weight, bias, mean, invstd, count, axis, "
            "training, "
            "out, where, weights, residual, activation, negative_slope, allow_single, "
            "/)\n--\n\n"),
        bindings::method<bindings::moments>("moments",
                                            "moments($module, x, axis, where, weights, /)\n--\n\n"),
        bindings::method<bindings::normalize>(
            "normalize",
            "normalize($module, x, mean, var, weight, bias, eps, axis, dtype, out, residual, "
            "activation, negative_slope, refuse_infinity, /)\n--\n\n"),
        {nullptr, nullptr, 0, nullptr},
    };
    if (PyModule_AddFunctions(module.ptr(), methods) != 0) throw py::error_already_set();

    module.def("check_counting", bindings::check_counting, arg("x"), arg("axis"), arg("where"),
               arg("weights"), py::pos_only());
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
