// Arrays that are written to: those of the caller, checked, and fresh ones. Knows which memory may
// be shared with which; no arithmetic.
#pragma once

#include <initializer_list>

#include "bindings/arguments.hpp"

namespace fastbn::bindings {

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
class StatisticArray {
public:
    explicit StatisticArray(const Features& features);
    double* data() const { return data_; }
    const py::object& array() const { return array_; }

private:
    py::object array_;
    double* data_;
};

}  // namespace fastbn::bindings
