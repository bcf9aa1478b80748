// NumPy's dtypes and the engine's. Knows no arrays.
#pragma once

#include <pybind11/numpy.h>

#include <optional>
#include <string>

#include "engine/array.hpp"

namespace fastbn::bindings {

namespace py = pybind11;

// None for a dtype that the engine does not have, and for one of the other byte order. bfloat16 is
// ml_dtypes', known by its name: whoever has such an array has imported that.
std::optional<DType> engine_dtype(const py::dtype& dtype);
std::string name_of(const py::dtype& dtype);

// What an array of results is to have: `value` as numpy.dtype takes it, or None. Raises TypeError
// for any but the four types of floating-point numbers.
std::optional<py::dtype> result_dtype_argument(const py::object& value);

}  // namespace fastbn::bindings
