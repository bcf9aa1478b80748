// NumPy's arrays, as much of them as the bindings use. Only module.cpp includes pybind11's
// declarations of NumPy's interface.
#pragma once

#include <cstddef>

#include "bindings/python.hpp"
#include "numerics/dtype.hpp"

namespace fastbn::bindings {

static_assert(sizeof(Py_ssize_t) == sizeof(std::ptrdiff_t));

bool is_array(PyObject* value);  // of a subclass too
bool is_exactly_array(PyObject* value);

// An array's fields; the array owns what they point to.
struct ArrayFields {
    char* data;
    int ndim;
    const std::ptrdiff_t* shape;
    const std::ptrdiff_t* strides;  // in bytes
    PyObject* dtype;
    bool writeable;
    bool c_contiguous;
};
ArrayFields fields_of_array(PyObject* array);

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
py::object dtype_of(int num);

// In C order, of NumPy's own memory, not initialized.
py::object new_array(PyObject* dtype, int ndim, const std::ptrdiff_t* shape);
// On other memory, which `base` keeps alive.
py::object new_array_on(char* data, PyObject* base, PyObject* dtype, int ndim,
                        const std::ptrdiff_t* shape, const std::ptrdiff_t* strides, bool writeable);

}  // namespace fastbn::bindings
