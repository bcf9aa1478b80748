// The module's functions on arrays: one for each engine call. Convert, allocate results, release
// the GIL round the engine, and nothing else. fastbn's Python functions document them.
#pragma once

#include <pybind11/pybind11.h>

namespace fastbn::bindings {

namespace py = pybind11;

py::tuple moments(const py::object& x, const py::object& axis, const py::object& where,
                  const py::object& weights);

// Raises what the others would for these arguments.
void check_counting(const py::object& x, const py::object& axis, const py::object& where,
                    const py::object& weights);

py::object batch_norm(const py::object& x, const py::object& running_mean,
                      const py::object& running_var, const py::object& weight,
                      const py::object& bias, const py::object& training,
                      const py::object& momentum, const py::object& eps, const py::object& axis,
                      const py::object& correction, const py::object& dtype, const py::object& out,
                      const py::object& where, const py::object& weights,
                      const py::object& residual, const py::object& activation,
                      const py::object& negative_slope);

py::tuple batch_norm_train(const py::object& x, const py::object& weight, const py::object& bias,
                           const py::object& eps, const py::object& axis, const py::object& dtype,
                           const py::object& out, const py::object& where,
                           const py::object& weights, const py::object& residual,
                           const py::object& activation, const py::object& negative_slope,
                           const py::object& running_mean, const py::object& running_var,
                           const py::object& momentum, const py::object& correction,
                           const py::object& skip_nonfinite, const py::object& allow_single);

py::tuple batch_norm_backward(const py::object& dy, const py::object& x, const py::object& weight,
                              const py::object& bias, const py::object& mean,
                              const py::object& invstd, const py::object& count,
                              const py::object& axis, const py::object& training,
                              const py::object& out, const py::object& where,
                              const py::object& weights, const py::object& residual,
                              const py::object& activation, const py::object& negative_slope,
                              const py::object& allow_single);

// refuse_infinity: ValueError where x holds it, found while y is written: `out` must be None.
py::object normalize(const py::object& x, const py::object& mean, const py::object& var,
                     const py::object& weight, const py::object& bias, const py::object& eps,
                     const py::object& axis, const py::object& dtype, const py::object& out,
                     const py::object& residual, const py::object& activation,
                     const py::object& negative_slope, const py::object& refuse_infinity);

}  // namespace fastbn::bindings
