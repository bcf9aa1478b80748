// Python's objects (pybind11's references, which are released by themselves), Python's errors as
// exceptions, its lock, without which other threads run Python while the engine works, and as much
// of NumPy's arrays as the bindings use. Of pybind11 only what small files need: parsing all of it
// takes seconds for each file, and only module.cpp does.
#pragma once

#include <pybind11/pytypes.h>

#include <chrono>
#include <cstddef>
#include <exception>
#include <string>
#include <thread>

#include "engine/array.hpp"
#include "numerics/dtype.hpp"

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

// Clears Python's error if it is of this type, or of one of a tuple of types, and else raises it.
inline void clear_error(PyObject* type) {
    if (PyErr_ExceptionMatches(type) == 0) throw PythonError();
    PyErr_Clear();
}

// Raises Python's error unless it says something of a value: memory that ran out does not, nor does
// the end of the program.
inline void expect_error_about_value() {
    const bool about_value = PyErr_ExceptionMatches(PyExc_Exception) != 0 &&
                             PyErr_ExceptionMatches(PyExc_MemoryError) == 0;
    if (!about_value) throw PythonError();
}
inline void clear_error_about_value() {
    expect_error_about_value();
    PyErr_Clear();
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

// While Python shuts down, CPython before 3.14 ends a thread that asks for the lock by unwinding
// the thread's stack with pthread_exit, which no function that is noexcept lets pass, and no
// handler may end: as 3.14 does, the thread waits for the end of the process instead. Nothing else
// is caught by `catch (...)` in the bindings, since Python is C and all exceptions of C++ derive
// from std::exception; and nothing is known of what is caught, since glibc's unwinding has no
// exception object behind it (a handler of abi::__forced_unwind& would refer to nothing).
[[noreturn]] inline void wait_for_the_end() {
    for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
}

// A call of Python's C interface that may run any code of Python. A thread that is ended there must
// not unwind our frames: their destructors give up references, without the lock.
template <class Function, class... Values>
auto in_python(const Function& function, Values... values) {
    try {
        return function(values...);
    } catch (...) {
        wait_for_the_end();
    }
}

inline py::object attribute(PyObject* object, const char* name) {
    return owned(in_python(PyObject_GetAttrString, object, name));
}

inline py::object imported(const char* module, const char* name) {
    return attribute(owned(in_python(PyImport_ImportModule, module)).ptr(), name);
}

template <class... Values>
py::object call(const py::object& function, const Values&... values) {
    return owned(in_python(PyObject_CallFunctionObjArgs, function.ptr(), values..., nullptr));
}

inline bool is_instance(PyObject* value, const py::object& type) {
    const int answer = in_python(PyObject_IsInstance, value, type.ptr());
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
    in_python(PyEval_RestoreThread, state);
    if (error) std::rethrow_exception(error);
}

// ---- NumPy's arrays ----

static_assert(sizeof(Py_ssize_t) == sizeof(std::ptrdiff_t));

bool is_array(PyObject* value);  // of a subclass too
bool is_exactly_array(PyObject* value);

// An array's fields; the array owns what they point to.
ArrayRef array_ref(PyObject* array, DType dtype, bool swapped = false);
PyObject* dtype_of_array(PyObject* array);
bool is_writeable(PyObject* array);
bool is_c_contiguous(PyObject* array);
// Of a float64 array.
double* doubles_of(const py::object& array);

// A dtype's fields, as NumPy's documentation has them.
int num_of(PyObject* dtype);
char kind_of(PyObject* dtype);
char byteorder_of(PyObject* dtype);

// NumPy's type numbers, of its ndarraytypes.h: the same in every version.
constexpr int numpy_bool = 0;
constexpr int numpy_int8 = 1;
constexpr int numpy_uint8 = 2;
constexpr int numpy_int16 = 3;
constexpr int numpy_uint16 = 4;
constexpr int numpy_int32 = 5;
constexpr int numpy_uint32 = 6;
constexpr int numpy_long = 7;
constexpr int numpy_ulong = 8;
constexpr int numpy_longlong = 9;
constexpr int numpy_ulonglong = 10;
constexpr int numpy_float32 = 11;
constexpr int numpy_float64 = 12;
constexpr int numpy_float16 = 23;
constexpr int numpy_first_user_type = 256;

// C's long has 32 bits or 64, and a number of its own.
constexpr bool long_has_64_bits = sizeof(long) == 8;
constexpr int numpy_int64 = long_has_64_bits ? numpy_long : numpy_longlong;
constexpr int numpy_uint64 = long_has_64_bits ? numpy_ulong : numpy_ulonglong;
// The number above for a type of the same values.
constexpr int usual_num(int num) {
    if (num == numpy_longlong) return numpy_int64;
    if (num == numpy_ulonglong) return numpy_uint64;
    if (num == numpy_long) return long_has_64_bits ? numpy_int64 : numpy_int32;
    if (num == numpy_ulong) return long_has_64_bits ? numpy_uint64 : numpy_uint32;
    return num;
}

// The engine's types as NumPy knows them. ml_dtypes' types get their numbers when it is imported,
// and are known by their names.
constexpr int known_by_name = -1;
struct StorageType {
    DType dtype;
    const char* name;
    int num;
};
constexpr StorageType storage_types[] = {
    {DType::float32, "float32", numpy_float32}, {DType::float64, "float64", numpy_float64},
    {DType::float16, "float16", numpy_float16}, {DType::bfloat16, "bfloat16", known_by_name},
    {DType::uint8, "uint8", numpy_uint8},       {DType::int8, "int8", numpy_int8},
    {DType::uint16, "uint16", numpy_uint16},    {DType::int16, "int16", numpy_int16},
    {DType::int32, "int32", numpy_int32},       {DType::uint32, "uint32", numpy_uint32},
    {DType::int64, "int64", numpy_int64},       {DType::uint64, "uint64", numpy_uint64},
    {DType::boolean, "bool", numpy_bool},
};

PyObject* float32_dtype();
PyObject* float64_dtype();
py::object dtype_of_num(int num);

// In C order, of NumPy's own memory, not initialized.
py::object new_array(PyObject* dtype, int ndim, const std::ptrdiff_t* shape);
// On other memory, which `base` keeps alive.
py::object new_array_on(char* data, PyObject* base, PyObject* dtype, int ndim,
                        const std::ptrdiff_t* shape, const std::ptrdiff_t* strides, bool writeable);

}  // namespace fastbn::bindings
