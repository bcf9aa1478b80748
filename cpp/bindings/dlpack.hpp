// Arrays of other libraries, read through DLPack where their memory is this processor's: nothing is
// copied.
#pragma once

#include "bindings/python.hpp"

namespace fastbn::bindings {

// A NumPy array of the same memory, which it keeps alive. Empty, without an error, where the object
// has no `__dlpack__`, where that raises, where the memory is on another device, or where NumPy has
// no such type.
py::object array_from_dlpack(PyObject* value);

// A writable array of the same memory, by the functions in C that a type may offer for its objects
// (`__dlpack_c_exchange_api__`): a fifth of the time. They do not ask whether the object's memory
// holds its values as they are, and the array is to be used before the object's memory changes.
// Empty, without an error, where the type offers none or NumPy has no such type; what the functions
// raise is raised.
py::object array_from_exchange_api(PyObject* value);

}  // namespace fastbn::bindings
