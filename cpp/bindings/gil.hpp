// Letting other threads run Python while the engine works. Knows no arrays.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <exception>
#include <thread>
#ifdef __GLIBCXX__
#include <cxxabi.h>
#endif

namespace fastbn::bindings {

// Takes the interpreter lock again. While Python shuts down, CPython before 3.14 ends a thread that
// asks for it by unwinding its stack, which no destructor on the way may survive: as 3.14 does, the
// thread waits for the end of the process instead.
inline void take_lock(PyThreadState* state) {
#ifdef __GLIBCXX__
    try {
        PyEval_RestoreThread(state);
    } catch (abi::__forced_unwind&) {
        for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
    }
#else
    PyEval_RestoreThread(state);
#endif
}

// Runs a call that touches so many bytes and no Python object; with the lock kept where giving it
// up takes longer than the call.
template <class Call>
void without_gil(pybind11::ssize_t bytes, const Call& call) {
    constexpr pybind11::ssize_t long_enough = 65536;
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
