// From Python objects to what the engine reads. Every refusal is a TypeError or ValueError that
// names the argument, the rule and the value; no arithmetic.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstddef>
#include <string>
#include <vector>

#include "engine/array.hpp"
#include "engine/features.hpp"
#include "kernels/data.hpp"

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

// Which dtypes an argument may have.
enum class Kind {
    data,      // those of `floating`, and integers of up to 32 bits
    floating,  // float32, float64, float16, bfloat16
    numbers,   // those of `data`; other integers are converted to float64
    boolean,
};

// Anything NumPy can make an array of is taken; raises TypeError for another dtype.
ArrayArg array_argument(const char* name, const py::object& value, Kind kind = Kind::floating);
// The same, or None.
ArrayArg optional_argument(const char* name, const py::object& value, Kind kind = Kind::floating);
// The same, seen in the shape of x: with strides of 0 along axes that it does not have.
ArrayArg broadcast_argument(const char* name, const py::object& value, Kind kind,
                            const ArrayArg& x);
// An array as it is, without conversion; raises TypeError for another dtype and for masked arrays.
ArrayArg described(const char* name, const py::array& array, Kind kind = Kind::floating);

Activation<double> activation_argument(const py::object& name, const py::object& negative_slope);

double real_argument(const char* name, const py::object& value);
bool bool_argument(const char* name, const py::object& value);
std::vector<std::ptrdiff_t> axis_argument(const py::object& value);
int threads_argument(const py::object& value);
std::ptrdiff_t bytes_argument(const char* name, const py::object& value);

std::string dtype_name(const ArrayArg& argument);

// Refusals, with the value as Python shows it.
std::string shown(const py::handle& value);
std::string type_name(const py::handle& value);
[[noreturn]] void wrong_type(const std::string& name, const std::string& rule,
                             const std::string& value);
[[noreturn]] void wrong_value(const std::string& name, const std::string& rule,
                              const std::string& value);

}  // namespace fastbn::bindings
