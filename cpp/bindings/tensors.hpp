// Training, inference and the backward pass on PyTorch's tensors, each in one call of Python's: see
// tensors.cpp.
#pragma once

#include "bindings/signature.hpp"

namespace fastbn::bindings {

// Remembers what of PyTorch is asked in every call: the values of a dict (tensors.cpp lists them),
// for the life of the process.
py::object register_torch(const Arguments& arguments);

// Sets the number of threads that PyTorch has been given since the last call.
py::object follow_threads(const Arguments& arguments);

// fastbn.torch.batch_norm without where and weights: y, or None, and then nothing is done, where
// it is not simple: gradients of running statistics, transforms, modes, tensors of other classes or
// devices, wrong arguments.
py::object batch_norm_tensors(const Arguments& arguments);

// The same of a module of fastbn.torch, its input and its residual; counts the batch.
py::object call_module(const Arguments& arguments);

// Forward and backward of the torch.autograd.Function that batch_norm_tensors records. The first
// has nothing left to compute.
py::object recorded_forward(const Arguments& arguments);
py::object recorded_backward(const Arguments& arguments);

// Makes of a function of this module what, as an attribute of a class, is a method of its objects,
// as functions written in Python are.
py::object as_method(const Arguments& arguments);

}  // namespace fastbn::bindings
