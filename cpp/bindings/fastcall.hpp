// Functions of the module without pybind11's dispatch, which a small call notices:
// positional arguments straight from the interpreter (METH_FASTCALL). Knows no function.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

namespace fastbn::bindings {

namespace py = pybind11;

// The C++ exception in flight as a Python one.
inline void raise_in_python() noexcept {
    try {
        throw;
    } catch (py::error_already_set& error) {
        error.restore();
    } catch (const py::builtin_exception& error) {
        error.set_error();
    } catch (const std::invalid_argument& error) {
        PyErr_SetString(PyExc_ValueError, error.what());
    } catch (const std::bad_alloc&) {
        PyErr_NoMemory();
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
    } catch (...) {
        PyErr_SetString(PyExc_SystemError, "unknown C++ exception");
    }
}

template <class Function>
struct Positional;

template <class Result, class... Arguments>
struct Positional<Result (*)(Arguments...)> {
    static constexpr std::size_t count = sizeof...(Arguments);

    template <Result (*function)(Arguments...), std::size_t... i>
    static PyObject* apply(PyObject* const* values, std::index_sequence<i...>) {
        return py::object(function(py::reinterpret_borrow<py::object>(values[i])...))
            .release()
            .ptr();
    }
};

template <auto function>
PyObject* fastcall(PyObject*, PyObject* const* values, Py_ssize_t n) noexcept {
    using Signature = Positional<decltype(function)>;
    try {
        if (n != static_cast<Py_ssize_t>(Signature::count)) {
            throw py::type_error("expected " + std::to_string(Signature::count) +
                                 " positional arguments, got " + std::to_string(n));
        }
        return Signature::template apply<function>(values,
                                                   std::make_index_sequence<Signature::count>{});
    } catch (...) {
        raise_in_python();
        return nullptr;
    }
}

// An entry of the module's table of functions, with the signature that help() shows.
template <auto function>
PyMethodDef method(const char* name, const char* signature) {
    // Python's own documented way to keep this type of function in a table of the other.
    const auto plain = reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(
        static_cast<PyObject* (*)(PyObject*, PyObject* const*, Py_ssize_t)>(fastcall<function>)));
    return {name, plain, METH_FASTCALL, signature};
}

}  // namespace fastbn::bindings
