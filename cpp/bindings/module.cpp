// The Python module fastbn._core, filled when it is imported, and what the bindings need of NumPy's
// arrays, by NumPy's interface in C. Its headers are not used, nor pybind11's for it: these take as
// long to compile as all of the bindings, and a build would need NumPy.
#include <stdexcept>

#include "bindings/pool.hpp"
#include "bindings/python.hpp"
#include "bindings/signature.hpp"
#include "engine/dispatch.hpp"
#include "engine/machine.hpp"
#include "engine/threads.hpp"

namespace fastbn::bindings {
namespace {

// ---- NumPy's interface, as its headers have it: the same since version 2.0 ----

// The beginning of PyArrayObject_fields and of _PyArray_Descr.
struct ArrayFields {
    PyObject head;
    char* data;
    int ndim;
    std::ptrdiff_t* shape;
    std::ptrdiff_t* strides;
    PyObject* base;
    PyObject* dtype;
    int flags;
};
struct DtypeFields {
    PyObject head;
    PyTypeObject* scalar_type;
    char kind;
    char letter;
    char byteorder;
    char unused;
    int num;
};

constexpr int flag_c_contiguous = 0x0001;
constexpr int flag_writeable = 0x0400;

// From the table of __multiarray_api.h, the functions at 2, 45, 94 and 282. Kept, as the dtypes
// are, for the life of the process from its import on.
PyTypeObject* array_type = nullptr;
PyObject* (*dtype_from_num)(int num) = nullptr;
PyObject* (*array_from_dtype)(PyTypeObject* type, PyObject* dtype, int ndim,
                              const std::ptrdiff_t* shape, const std::ptrdiff_t* strides,
                              void* data, int flags, PyObject* like) = nullptr;
int (*set_base)(PyObject* array, PyObject* base) = nullptr;
PyObject* float32 = nullptr;
PyObject* float64 = nullptr;

void find_numpy() {
    const py::object capsule = imported("numpy._core.multiarray", "_ARRAY_API");
    auto* const* const table = static_cast<void**>(PyCapsule_GetPointer(capsule.ptr(), nullptr));
    if (table == nullptr) throw PythonError();
    array_type = static_cast<PyTypeObject*>(table[2]);
    dtype_from_num = reinterpret_cast<decltype(dtype_from_num)>(table[45]);
    array_from_dtype = reinterpret_cast<decltype(array_from_dtype)>(table[94]);
    set_base = reinterpret_cast<decltype(set_base)>(table[282]);
    float32 = dtype_of_num(numpy_float32).release().ptr();
    float64 = dtype_of_num(numpy_float64).release().ptr();
}

const ArrayFields& fields_of(PyObject* array) {
    return *reinterpret_cast<const ArrayFields*>(array);
}
const DtypeFields& dtype_fields_of(PyObject* dtype) {
    return *reinterpret_cast<const DtypeFields*>(dtype);
}

}  // namespace

bool is_array(PyObject* value) { return PyObject_TypeCheck(value, array_type) != 0; }
bool is_exactly_array(PyObject* value) { return Py_TYPE(value) == array_type; }

ArrayRef array_ref(PyObject* array, DType dtype, bool swapped) {
    const ArrayFields& fields = fields_of(array);
    return {fields.data, dtype, fields.ndim, fields.shape, fields.strides, swapped};
}
PyObject* dtype_of_array(PyObject* array) { return fields_of(array).dtype; }
bool is_writeable(PyObject* array) { return (fields_of(array).flags & flag_writeable) != 0; }
bool is_c_contiguous(PyObject* array) { return (fields_of(array).flags & flag_c_contiguous) != 0; }
double* doubles_of(const py::object& array) {
    return reinterpret_cast<double*>(fields_of(array.ptr()).data);
}

int num_of(PyObject* dtype) { return dtype_fields_of(dtype).num; }
char kind_of(PyObject* dtype) { return dtype_fields_of(dtype).kind; }
char byteorder_of(PyObject* dtype) { return dtype_fields_of(dtype).byteorder; }

PyObject* float32_dtype() { return float32; }
PyObject* float64_dtype() { return float64; }
py::object dtype_of_num(int num) { return owned(dtype_from_num(num)); }

py::object new_array(PyObject* dtype, int ndim, const std::ptrdiff_t* shape) {
    return owned(array_from_dtype(array_type, borrowed(dtype).release().ptr(), ndim, shape, nullptr,
                                  nullptr, 0, nullptr));
}

py::object new_array_on(char* data, PyObject* base, PyObject* dtype, int ndim,
                        const std::ptrdiff_t* shape, const std::ptrdiff_t* strides,
                        bool writeable) {
    py::object array =
        owned(array_from_dtype(array_type, borrowed(dtype).release().ptr(), ndim, shape, strides,
                               data, writeable ? flag_writeable : 0, nullptr));
    if (set_base(array.ptr(), borrowed(base).release().ptr()) != 0) throw PythonError();
    return array;
}

namespace {

void set_attribute(PyObject* module, const char* name, const py::object& value) {
    if (PyObject_SetAttrString(module, name, value.ptr()) != 0) throw PythonError();
}

void fill(PyObject* module) {
    choose_isa();
    choose_caches();
    find_numpy();
    install_fork_handler();
    fastbn::read_quota("");
    pool::protect_from_fork();
    add_functions(module);
    add_tensor_functions(module);
    set_attribute(module, "version", to_python(FASTBN_VERSION));
    set_attribute(module, "openmp", to_python(has_openmp()));
    set_attribute(module, "compiler", to_python(FASTBN_COMPILER));
    set_attribute(module, "build_type", to_python(FASTBN_BUILD_TYPE));
}

}  // namespace

// A new reference to the module; null where Python's error is set.
static PyObject* new_module() noexcept {
    static PyModuleDef definition = {
        PyModuleDef_HEAD_INIT,
        "_core",
        "Compiled kernels of fastbn; documented in fastbn's functions.",
        -1,  // what it keeps is the process's
        nullptr,
        nullptr,
        nullptr,
        nullptr,
        nullptr};
    try {
        py::object module = owned(PyModule_Create(&definition));
        fill(module.ptr());
#ifdef Py_GIL_DISABLED
        // What calls share is constant once the module is imported, atomic, or behind the pool's
        // lock: a Python without a global lock need not bring it back for this module.
        if (PyUnstable_Module_SetGIL(module.ptr(), Py_MOD_GIL_NOT_USED) != 0) throw PythonError();
#endif
        return module.release().ptr();
    } catch (const std::invalid_argument& error) {  // of a variable of the environment
        PyErr_SetString(PyExc_ImportError, error.what());
    } catch (...) {
        set_python_error();
    }
    return nullptr;
}

}  // namespace fastbn::bindings

// NOLINTNEXTLINE(bugprone-reserved-identifier,readability-identifier-naming): Python asks for it
PyMODINIT_FUNC PyInit__core() { return fastbn::bindings::new_module(); }
