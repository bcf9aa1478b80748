// Arrays that are written to: those of the caller, checked, and fresh ones. Knows which memory may
// be shared with which; no arithmetic.
#pragma once

#include <vector>

#include "bindings/arguments.hpp"

namespace fastbn::bindings {

// A NumPy array to be written to: never converted.
ArrayArg writable_argument(const char* name, const py::object& value);

// The array a result goes to: `out`, checked, or a fresh one in like's memory order and of type
// `dtype`, float32 for None where like holds integers. `out` may be exactly one of the arrays in
// `sources`, and shares no memory with any of `others`, nor partly with a source.
ArrayArg output_argument(const py::object& out, const py::object& dtype, const ArrayArg& like,
                         const std::vector<const ArrayArg*>& sources,
                         const std::vector<const ArrayArg*>& others);
// A fresh array in like's memory order and of another's type.
ArrayArg output_like(const char* name, const ArrayArg& like, const ArrayArg& typed);

// Raises ValueError if the two share memory.
void check_disjoint(const ArrayArg& written, const ArrayArg& other);

// A fresh float64 array, one value per channel.
py::array_t<double> statistic_array(const Features& features);

}  // namespace fastbn::bindings
