// Arrays of other libraries where their memory is this processor's: read through DLPack, and
// objects of theirs made on the memory of results. Nothing is copied.
#pragma once

#include <cstddef>
#include <cstdint>

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

// What `like` says of itself by those functions.
struct Likeness {
    bool known = false;  // false where its type offers no such functions, or its dtype is not ours
    DType dtype = DType::float32;
    int ndim = 0;
    std::ptrdiff_t shape[max_dimensions];    // only the first ndim are ever written
    std::ptrdiff_t strides[max_dimensions];  // in elements
};
Likeness likeness_of(PyObject* like);

// An object of like's type on the array's memory, whose owner it keeps alive. Along axes of
// size 1 it has like's strides where the others agree: they address nothing, but libraries tell the
// orders of memory by them.
py::object object_on(const ArrayRef& array, const py::object& owner, PyObject* like,
                     const Likeness& likeness);

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

// An object on memory of its own, not initialized.
struct FreshObject {
    py::object object;
    ArrayRef array;

    explicit operator bool() const { return static_cast<bool>(object); }
};
// Strides in bytes, of dense memory. Empty where there are more axes than this, or where the type
// does not say how its objects are made.
constexpr int most_fresh_dimensions = 8;
FreshObject fresh_object(const ExchangeApi& api, DType dtype, int ndim, const std::ptrdiff_t* shape,
                         const std::ptrdiff_t* strides);

}  // namespace fastbn::bindings
