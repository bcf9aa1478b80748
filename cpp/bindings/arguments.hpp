// From Python objects to what the engine takes. Every refusal is a TypeError or ValueError that
// names the argument, the rule and the value; no arithmetic.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstddef>
#include <string>
#include <vector>

#include "engine/array.hpp"
#include "engine/features.hpp"

namespace fastbn::bindings {

namespace py = pybind11;

// An array argument: the reference keeps the memory that `ref` describes alive. Empty for None.
struct ArrayArg {
    const char* name = nullptr;
    py::object owner;
    ArrayRef ref;

    const py::array& array() const { return static_cast<const py::array&>(owner); }
    explicit operator bool() const { return static_cast<bool>(ref); }
};

// float32 or float64 data; anything NumPy can make an array of is taken.
ArrayArg array_argument(const char* name, const py::object& value);
// The same, or None.
ArrayArg optional_argument(const char* name, const py::object& value);
// A NumPy array to be written to: never converted.
ArrayArg writable_argument(const char* name, const py::object& value);

double real_argument(const char* name, const py::object& value);
bool bool_argument(const char* name, const py::object& value);
std::vector<std::ptrdiff_t> axis_argument(const py::object& value);
int threads_argument(const py::object& value);
std::ptrdiff_t bytes_argument(const char* name, const py::object& value);

// The array a result goes to: `out`, checked, or a fresh one in like's memory order. `out` may be
// exactly one of the arrays in `sources`, and shares no memory with anything else in `others`.
ArrayArg output_argument(const py::object& out, const ArrayArg& like,
                         const std::vector<const ArrayArg*>& sources,
                         const std::vector<const ArrayArg*>& others);

// Raises ValueError if the two share memory.
void check_disjoint(const ArrayArg& written, const ArrayArg& other);

// A fresh float64 array, one value per channel.
py::array_t<double> statistic_array(const Features& features);

}  // namespace fastbn::bindings
