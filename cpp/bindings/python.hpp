// Python's objects (pybind11's references, which count themselves), Python's errors as exceptions,
// and its lock, without which other threads run Python while the engine works. Of pybind11 only
// what small files need: parsing all of it takes seconds for each file.
#pragma once

#include <pybind11/pytypes.h>

#include <chrono>
#include <cstddef>
#include <exception>
#include <string>
#include <thread>

namespace fastbn::bindings {

namespace py = pybind11;

// Thrown where Python's error indicator is set; the indicator says what went wrong.
class PythonError : public std::exception {
public:
    const char* what() const noexcept override { return "Python's error indicator is set"; }
};

[[noreturn]] inline void raise(PyObject* type, const std::string& message) {
    PyErr_SetString(type, message.c_str());
    throw PythonError();
}

// The new reference that a function of Python's C interface returned, or the error that it set.
inline py::object owned(PyObject* reference) {
    if (reference == nullptr) throw PythonError();
    return py::reinterpret_steal<py::object>(reference);
}

// The same where the caller looks into the error itself: empty if there is one.
inline py::object optional_owned(PyObject* reference) {
    return py::reinterpret_steal<py::object>(reference);
}

inline py::object borrowed(PyObject* object) { return py::reinterpret_borrow<py::object>(object); }

inline py::object none() { return borrowed(Py_None); }
inline py::object to_python(bool value) { return borrowed(value ? Py_True : Py_False); }
inline py::object to_python(int value) { return owned(PyLong_FromLong(value)); }
inline py::object to_python(Py_ssize_t value) { return owned(PyLong_FromSsize_t(value)); }
inline py::object to_python(double value) { return owned(PyFloat_FromDouble(value)); }
inline py::object to_python(const char* value) { return owned(PyUnicode_FromString(value)); }

inline py::object attribute(PyObject* object, const char* name) {
    return owned(PyObject_GetAttrString(object, name));
}

inline py::object imported(const char* module, const char* name) {
    return attribute(owned(PyImport_ImportModule(module)).ptr(), name);
}

template <class... Values>
py::object call(const py::object& function, const Values&... values) {
    return owned(PyObject_CallFunctionObjArgs(function.ptr(), values..., nullptr));
}

inline bool is_instance(PyObject* value, const py::object& type) {
    const int answer = PyObject_IsInstance(value, type.ptr());
    if (answer < 0) throw PythonError();
    return answer == 1;
}

template <class... Values>
py::object tuple_of(const Values&... values) {
    return owned(PyTuple_Pack(sizeof...(values), values.ptr()...));
}

// In UTF-8; what that cannot hold is written as a backslash and a number.
inline std::string utf8(PyObject* text) {
    const py::object bytes = owned(PyUnicode_AsEncodedString(text, "utf-8", "backslashreplace"));
    return {PyBytes_AS_STRING(bytes.ptr()),
            static_cast<std::size_t>(PyBytes_GET_SIZE(bytes.ptr()))};
}

// ---- The interpreter's lock ----

// Takes the interpreter lock again. While Python shuts down, CPython before 3.14 ends a thread that
// asks for it by unwinding the thread's stack with pthread_exit, which no destructor on the way may
// survive: as 3.14 does, the thread waits for the end of the process instead. Nothing else can be
// caught here, since Python is C; and nothing is known of what is caught, since glibc's unwinding
// has no exception object behind it (a handler of abi::__forced_unwind& would refer to nothing).
inline void take_lock(PyThreadState* state) {
    try {
        PyEval_RestoreThread(state);
    } catch (...) {
        for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
    }
}

// Runs a call that touches so many bytes and no Python object; with the lock kept where giving it
// up takes longer than the call.
template <class Call>
void without_gil(std::ptrdiff_t bytes, const Call& call) {
    constexpr std::ptrdiff_t long_enough = 65536;
    if (bytes < long_enough) return call();
    PyThreadState* const state = PyEval_SaveThread();
    std::exception_ptr error;
    try {
        call();
    } catch (...) {
        error = std::current_exception();
    }
    take_lock(state);
    if (error) std::rethrow_exception(error);
}

}  // namespace fastbn::bindings
