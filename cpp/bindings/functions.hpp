// The module's functions on arrays: one for each of the engine's operations. They convert, allocate
// results, release the interpreter lock round the engine, and nothing else. fastbn's Python
// functions document them.
#pragma once

#include "bindings/python.hpp"

namespace fastbn::bindings {

void add_array_functions(PyObject* module);

}  // namespace fastbn::bindings
