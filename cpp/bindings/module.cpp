// The Python module fastbn._core, filled when it is imported, and NumPy's arrays: what needs more
// of pybind11 than its references, in one file, since to parse that takes seconds.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "bindings/pool.hpp"
#include "bindings/python.hpp"
#include "bindings/signature.hpp"
#include "engine/dispatch.hpp"
#include "engine/machine.hpp"
#include "engine/threads.hpp"

namespace fastbn::bindings {
namespace {

// Kept for the life of the process, from its import on.
py::detail::npy_api* numpy = nullptr;
PyObject* float32 = nullptr;
PyObject* float64 = nullptr;

// NumPy does not write through the pointers that it is given.
Py_intptr_t* unchanged(const std::ptrdiff_t* values) { return const_cast<Py_intptr_t*>(values); }

}  // namespace

bool is_array(PyObject* value) { return numpy->PyArray_Check_(value); }

bool is_exactly_array(PyObject* value) { return Py_TYPE(value) == numpy->PyArray_Type_; }

ArrayRef array_ref(PyObject* array, DType dtype, bool swapped) {
    const auto* const fields = py::detail::array_proxy(array);
    return {fields->data, dtype, fields->nd, fields->dimensions, fields->strides, swapped};
}
PyObject* dtype_of_array(PyObject* array) { return py::detail::array_proxy(array)->descr; }
bool is_writeable(PyObject* array) {
    const int flags = py::detail::array_proxy(array)->flags;
    return (flags & py::detail::npy_api::NPY_ARRAY_WRITEABLE_) != 0;
}
bool is_c_contiguous(PyObject* array) {
    const int flags = py::detail::array_proxy(array)->flags;
    return (flags & py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_) != 0;
}
double* doubles_of(const py::object& array) {
    return reinterpret_cast<double*>(py::detail::array_proxy(array.ptr())->data);
}

// Read in place: an object of pybind11's would count references.
int num_of(PyObject* dtype) { return py::detail::array_descriptor_proxy(dtype)->type_num; }
char kind_of(PyObject* dtype) { return py::detail::array_descriptor_proxy(dtype)->kind; }
char byteorder_of(PyObject* dtype) { return py::detail::array_descriptor_proxy(dtype)->byteorder; }

PyObject* float32_dtype() { return float32; }
PyObject* float64_dtype() { return float64; }
py::object dtype_of_num(int num) { return py::dtype(num); }

py::object new_array(PyObject* dtype, int ndim, const std::ptrdiff_t* shape) {
    return owned(numpy->PyArray_NewFromDescr_(numpy->PyArray_Type_, borrowed(dtype).release().ptr(),
                                              ndim, unchanged(shape), nullptr, nullptr, 0,
                                              nullptr));
}

py::object new_array_on(char* data, PyObject* base, PyObject* dtype, int ndim,
                        const std::ptrdiff_t* shape, const std::ptrdiff_t* strides,
                        bool writeable) {
    py::object array = owned(numpy->PyArray_NewFromDescr_(
        numpy->PyArray_Type_, borrowed(dtype).release().ptr(), ndim, unchanged(shape),
        unchanged(strides), data, writeable ? py::detail::npy_api::NPY_ARRAY_WRITEABLE_ : 0,
        nullptr));
    if (numpy->PyArray_SetBaseObject_(array.ptr(), borrowed(base).release().ptr()) != 0) {
        throw PythonError();
    }
    return array;
}

namespace {

void set_attribute(PyObject* module, const char* name, const py::object& value) {
    if (PyObject_SetAttrString(module, name, value.ptr()) != 0) throw PythonError();
}

void fill(PyObject* module) {
    choose_isa();
    read_quota("");
    choose_caches(processors());
    numpy = &py::detail::npy_api::get();
    float32 = py::dtype::of<float>().release().ptr();
    float64 = py::dtype::of<double>().release().ptr();
    install_fork_handler();
    pool::protect_from_fork();
    add_functions(module);
    add_tensor_functions(module);
    set_attribute(module, "version", to_python(FASTBN_VERSION));
    set_attribute(module, "openmp", to_python(has_openmp()));
    set_attribute(module, "compiler", to_python(FASTBN_COMPILER));
    set_attribute(module, "build_type", to_python(FASTBN_BUILD_TYPE));
}

}  // namespace
}  // namespace fastbn::bindings

// What calls share is constant once the module is imported, atomic, or behind the pool's lock: a
// Python without a global lock need not bring it back for this module.
// NOLINTNEXTLINE(bugprone-reserved-identifier,readability-identifier-naming): Python asks for it
PYBIND11_MODULE(_core, module, pybind11::mod_gil_not_used()) {
    module.doc() = "Compiled kernels of fastbn; documented in fastbn's Python functions.";
    try {
        fastbn::bindings::fill(module.ptr());
    } catch (const fastbn::bindings::PythonError&) {
        throw pybind11::error_already_set();
    }
}
