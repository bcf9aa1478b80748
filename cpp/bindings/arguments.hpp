// From Python objects to what the engine reads and writes: arrays, axes, numbers; results, which
// are fresh memory or the caller's, checked. Every refusal is a TypeError or ValueError that names
// the argument, the rule and the value; no arithmetic.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <string>

#include "bindings/python.hpp"
#include "bindings/signature.hpp"
#include "engine/array.hpp"
#include "engine/batch.hpp"

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

// The array that DLPack or NumPy makes of the value; an array, of any subclass, is taken as it is.
py::object as_array(const Argument& argument);
// The same, of a dtype in any byte order; raises TypeError for another one.
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
std::string name_of(PyObject* dtype);

// The axes of x that are its features.
AxisList axes_argument(const ArrayArg& x, const Argument& axis);
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

// ---- Arrays that are written to ----

// A NumPy array to be written to: never converted.
ArrayArg writable_argument(const Argument& argument);

// The array a result goes to: `out`, checked, or a fresh one in like's memory order and of type
// `type`, or where that is empty of like's result_type_of. `out` may be exactly one of the arrays
// in `sources`, and shares no memory with any of `others`, nor partly with a source.
ArrayArg output_argument(const Argument& out, const ResultType& type, const ArrayArg& like,
                         std::initializer_list<const ArrayArg*> sources,
                         std::initializer_list<const ArrayArg*> others);
// The same of a result whose axes are like's in another order: axis i is like's axis order.axis[i].
// A fresh array is C-contiguous. What is returned is seen in like's order; its owner is the result.
ArrayArg output_argument(const Argument& out, const ResultType& type, const ArrayArg& like,
                         const AxisList& order, std::initializer_list<const ArrayArg*> sources,
                         std::initializer_list<const ArrayArg*> others);
// A fresh array in like's memory order.
ArrayArg output_like(const char* name, const ArrayArg& like, const ResultType& type);

// What results have where the caller does not say: the floating-point type of the data, in this
// machine's byte order; float64 for integers of 64 bits, float32 for others.
ResultType result_type_of(const ArrayArg& data);

// Raises ValueError if the two share memory.
void check_disjoint(const ArrayArg& written, const ArrayArg& other);

// A fresh float64 array, one value per channel.
py::object statistic_array(const Features& features);
// The same, of an array's shape.
py::object statistic_array(const ArrayRef& like);

// ---- Refusals, with the value as Python shows it ----

std::string shown(PyObject* value);
std::string type_name(PyObject* value);
[[noreturn]] void wrong_type(const std::string& name, const std::string& rule,
                             const std::string& value);
[[noreturn]] void wrong_value(const std::string& name, const std::string& rule,
                              const std::string& value);

}  // namespace fastbn::bindings
