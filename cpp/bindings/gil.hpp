// Letting other threads run Python while the engine works. Knows no arrays.
#pragma once

#include <Python.h>

#include <chrono>
#include <cstddef>
#include <exception>
#include <thread>

namespace fastbn::bindings {

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
