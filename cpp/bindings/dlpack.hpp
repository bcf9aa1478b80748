// Arrays of other libraries where their memory is this processor's: read through DLPack, and
// objects of theirs made on the memory of results. Nothing is copied.
#pragma once

#include <cstdint>
#include <optional>

#include "bindings/python.hpp"
#include "engine/array.hpp"

namespace fastbn::bindings {

// A NumPy array of the same memory, which it keeps alive. Empty, without an error, where the object
// has no `__dlpack__`, where that raises, where the memory is on another device, or where NumPy has
// no such type.
py::object array_from_dlpack(PyObject* value);

// A writable array of the same memory, by the functions in C that a type may offer for its objects
// (`__dlpack_c_exchange_api__`): in a fifth of the time that capsules take. They do not ask whether
// the object's memory holds its values as they are, and the array is to be used before the object's
// memory changes. Empty, without an error, where the type offers none or NumPy has no such type;
// what the functions raise is raised.
py::object array_from_exchange_api(PyObject* value);

// A tuple of such arrays, one for each object of a tuple, with None for None. Empty, without an
// error, where the first one is not of a floating-point type; where one of them is not exactly of
// one of the types, or says by `is_neg()` that its memory holds the negative of each value; and
// where NumPy has no such type.
py::object arrays_from_exchange_api(PyObject* values, PyObject* types);

// `like` as an array, of which only type, shape and strides are of use. Empty where its type offers
// no such functions, or where its dtype is not one that results have.
std::optional<ArrayRef> likeness_of(PyObject* like);

// Results that are made as other libraries' objects have so many axes at most.
constexpr int most_result_dimensions = 8;

// An object of like's type on the array's memory, whose owner it keeps alive. Along axes of
// size 1 it has like's strides where the others agree: they address nothing, but libraries tell the
// orders of memory by them. Empty where there are more axes than results have.
py::object object_on(const ArrayRef& array, const py::object& owner, PyObject* like,
                     const ArrayRef& likeness);

// The one 64-bit integer that the object is an array of without axes, by the same functions. Null
// where it is anything else.
std::int64_t* integer_by_exchange_api(PyObject* value);
// Adds 1 to it; false, and nothing is done, where there is none.
bool count_by_exchange_api(PyObject* value);

// ---- For objects of one type, without arrays of NumPy's ----

// The functions that a type offers: null where it offers none.
struct ExchangeApi;
const ExchangeApi* exchange_api_of_type(PyObject* type);

// What an object's memory holds, to be used before that changes. Empty where it is not on this
// processor, holds no values, or none of a floating-point type.
ArrayRef floats_of(const ExchangeApi& api, PyObject* value);

// An object on memory of its own, not initialized, of the array's type, shape and dense strides;
// array.data then is that memory. Empty where there are more axes than results have, or where the
// type does not say how its objects are made.
py::object fresh_object(const ExchangeApi& api, ArrayRef& array);

}  // namespace fastbn::bindings
