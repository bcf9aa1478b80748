// From Python objects to what the engine reads. Every refusal is a TypeError or ValueError that
// names the argument, the rule and the value; no arithmetic.
#pragma once

#include <cstddef>
#include <string>

#include "bindings/python.hpp"
#include "bindings/signature.hpp"
#include "engine/array.hpp"
#include "engine/operations.hpp"

namespace fastbn::bindings {

// An array argument: the reference keeps the memory that `ref` describes alive. Empty for None.
struct ArrayArg {
    const char* name = nullptr;
    py::object owner;
    ArrayRef ref;

    explicit operator bool() const { return static_cast<bool>(ref); }
};

// Which dtypes an argument may have.
enum class Kind {
    data,      // those of `floating`, integers of 8 to 64 bits, and bool, which is 0 and 1
    floating,  // float32, float64, float16, bfloat16
    boolean,
};

// Anything NumPy can make an array of is taken, in any byte order, and what DLPack describes as it
// is; raises TypeError for another dtype.
ArrayArg array_argument(const Argument& argument, Kind kind = Kind::data);
// The same, or None.
ArrayArg optional_argument(const Argument& argument, Kind kind = Kind::data);
// The same, seen in the shape of x: with strides of 0 along axes that it does not have.
ArrayArg broadcast_argument(const Argument& argument, Kind kind, const ArrayArg& x);
// An array as it is, without conversion; raises TypeError for another dtype and for masked arrays.
ArrayArg described(const char* name, py::object array, Kind kind);

// The type that results are to have, or empty where that is not said.
struct ResultType {
    py::object numpy;
    DType engine = DType::float32;

    explicit operator bool() const { return static_cast<bool>(numpy); }
};
// As numpy.dtype takes it, or None. Raises TypeError for any but the floating-point types.
ResultType dtype_argument(const Argument& argument);
PyObject* numpy_dtype(const ArrayArg& array);
std::string name_of(PyObject* dtype);

// What the axes of x make its features.
Features features_argument(const ArrayArg& x, const Argument& axis);
// Which axis of x each axis of a result is, whose feature axes `axis` stand at `out_axis`, as in
// numpy.moveaxis. Empty where out_axis is None.
AxisList axis_order_argument(const ArrayArg& x, const Argument& axis, const Argument& out_axis);

Activation activation_argument(const Argument& activation, const Argument& negative_slope);

double real_argument(const Argument& argument);
bool bool_argument(const Argument& argument);
std::string text_argument(const Argument& argument);
// At least 1, or 0 for None.
int threads_argument(const Argument& argument);
std::ptrdiff_t bytes_argument(const Argument& argument);

// Refusals, with the value as Python shows it.
std::string shown(PyObject* value);
std::string type_name(PyObject* value);
[[noreturn]] void wrong_type(const std::string& name, const std::string& rule,
                             const std::string& value);
[[noreturn]] void wrong_value(const std::string& name, const std::string& rule,
                              const std::string& value);

}  // namespace fastbn::bindings
