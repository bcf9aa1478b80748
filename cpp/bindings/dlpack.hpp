// Arrays of other libraries, read through DLPack where their memory is this processor's: nothing is
// copied.
#pragma once

#include "bindings/python.hpp"

namespace fastbn::bindings {

// A NumPy array of the same memory, which it keeps alive. Empty, without an error, where the object
// has no `__dlpack__`, where that raises, where the memory is on another device, or where NumPy has
// no such type.
py::object array_from_dlpack(PyObject* value);

}  // namespace fastbn::bindings
