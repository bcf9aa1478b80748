// Arrays of other libraries, read through DLPack where their memory is this processor's.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "bindings/numpy.hpp"
#include "engine/array.hpp"

namespace fastbn::bindings {
namespace {

// ---- DLPack's structs, as dlpack.h of its version 1.1 has them ----

constexpr std::int32_t on_cpu = 1;
constexpr std::int32_t on_cpu_for_cuda = 3;  // pinned memory
constexpr std::int32_t on_cpu_for_rocm = 11;

constexpr std::uint8_t code_int = 0;
constexpr std::uint8_t code_uint = 1;
constexpr std::uint8_t code_float = 2;
constexpr std::uint8_t code_bfloat = 4;
constexpr std::uint8_t code_bool = 6;

constexpr std::uint32_t known_major = 1;

// The structs that these consist of there are spread out.
struct Tensor {
    void* data;
    std::int32_t device_type;
    std::int32_t device_id;
    std::int32_t ndim;
    std::uint8_t code;  // of the type, as `bits` and `lanes` are
    std::uint8_t bits;
    std::uint16_t lanes;
    std::int64_t* shape;
    std::int64_t* strides;  // in elements; null: C order
    std::uint64_t byte_offset;
};

struct ManagedTensor {
    Tensor tensor;
    void* context;
    void (*deleter)(ManagedTensor* self);
};

struct VersionedTensor {
    std::uint32_t major;
    std::uint32_t minor;
    void* context;
    void (*deleter)(VersionedTensor* self);
    std::uint64_t flags;
    Tensor tensor;
};

// ---- Capsules ----

// Takes over what the capsule holds, if it has that name: the owner, and what it owns.
template <class Managed>
py::object take(PyObject* capsule, const char* fresh_name, const char* used_name,
                Managed*& managed) {
    if (PyCapsule_IsValid(capsule, fresh_name) == 0) return {};
    managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule, fresh_name));
    py::object owner = owned(PyCapsule_New(managed, nullptr, [](PyObject* own) {
        auto* const held = static_cast<Managed*>(PyCapsule_GetPointer(own, nullptr));
        if (held->deleter != nullptr) held->deleter(held);
    }));
    if (PyCapsule_SetName(capsule, used_name) != 0) throw PythonError();
    return owner;
}

// ---- Types and shapes ----

// The dtype that NumPy has for it, or empty.
py::object numpy_dtype_of(const Tensor& tensor) {
    if (tensor.lanes != 1) return {};
    struct Known {
        std::uint8_t code;
        std::uint8_t bits;
        int num;
    };
    static constexpr Known known[] = {
        {code_float, 32, numpy_float32}, {code_float, 64, numpy_float64},
        {code_float, 16, numpy_float16}, {code_uint, 8, numpy_uint8},
        {code_int, 8, numpy_int8},       {code_uint, 16, numpy_uint16},
        {code_int, 16, numpy_int16},     {code_uint, 32, numpy_uint32},
        {code_int, 32, numpy_int32},     {code_uint, 64, numpy_uint64},
        {code_int, 64, numpy_int64},     {code_bool, 8, numpy_bool},
    };
    for (const Known& entry : known) {
        if (entry.code == tensor.code && entry.bits == tensor.bits) return dtype_of(entry.num);
    }
    if (tensor.code != code_bfloat || tensor.bits != 16) return {};
    return call(imported("numpy", "dtype"), imported("ml_dtypes", "bfloat16").ptr());
}

bool is_on_cpu(std::int32_t device) {
    return device == on_cpu || device == on_cpu_for_cuda || device == on_cpu_for_rocm;
}

// An array of the tensor's memory; empty where NumPy has none like it.
py::object array_on(const Tensor& tensor, const py::object& owner, bool writeable) {
    if (!is_on_cpu(tensor.device_type) || tensor.ndim < 0 || tensor.ndim > max_dimensions)
        return {};
    const py::object dtype = numpy_dtype_of(tensor);
    if (!dtype) return {};
    std::ptrdiff_t shape[max_dimensions];
    std::ptrdiff_t strides[max_dimensions];
    std::ptrdiff_t dense = tensor.bits / 8;
    bool empty = false;
    for (int i = tensor.ndim; i-- > 0;) {
        shape[i] = tensor.shape[i];
        if (shape[i] < 0) return {};
        empty = empty || shape[i] == 0;
        strides[i] = tensor.strides == nullptr ? dense : tensor.strides[i] * (tensor.bits / 8);
        dense *= std::max<std::ptrdiff_t>(shape[i], 1);
    }
    // Memory of no bytes may be nowhere.
    if (empty) return new_array(dtype.ptr(), tensor.ndim, shape);
    if (tensor.data == nullptr) return {};
    char* const data = static_cast<char*>(tensor.data) + tensor.byte_offset;
    return new_array_on(data, owner.ptr(), dtype.ptr(), tensor.ndim, shape, strides, writeable);
}

// ---- The protocol's methods ----

// Whether `__dlpack_device__` says that this processor can read the memory; what has no such method
// says it in its capsule.
bool may_be_on_cpu(PyObject* value) {
    const auto device = optional_owned(PyObject_CallMethod(value, "__dlpack_device__", nullptr));
    if (!device) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError) == 0) throw PythonError();
        PyErr_Clear();
        return true;
    }
    if (PyTuple_Check(device.ptr()) == 0 || PyTuple_GET_SIZE(device.ptr()) != 2) return false;
    const long type = PyLong_AsLong(PyTuple_GET_ITEM(device.ptr(), 0));
    if (type == -1 && PyErr_Occurred() != nullptr) throw PythonError();
    return is_on_cpu(static_cast<std::int32_t>(type));
}

// The capsule of a method that may not know versions.
py::object capsule_of(const py::object& method) {
    const py::object options = owned(PyDict_New());
    const py::object version = owned(Py_BuildValue("(ii)", 1, 1));
    if (PyDict_SetItemString(options.ptr(), "max_version", version.ptr()) != 0) throw PythonError();
    const py::object nothing = owned(PyTuple_New(0));
    auto capsule = optional_owned(PyObject_Call(method.ptr(), nothing.ptr(), options.ptr()));
    if (capsule) return capsule;
    if (PyErr_ExceptionMatches(PyExc_TypeError) == 0) throw PythonError();
    PyErr_Clear();
    return call(method);
}

py::object exported(PyObject* value) {
    auto method = optional_owned(PyObject_GetAttrString(value, "__dlpack__"));
    if (!method) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError) == 0) throw PythonError();
        PyErr_Clear();
        return {};
    }
    if (PyType_Check(value) != 0 || !may_be_on_cpu(value)) return {};
    const py::object capsule = capsule_of(method);
    VersionedTensor* versioned = nullptr;
    py::object owner =
        take(capsule.ptr(), "dltensor_versioned", "used_dltensor_versioned", versioned);
    if (owner && versioned->major > known_major) return {};
    if (owner) return array_on(versioned->tensor, owner, false);
    ManagedTensor* managed = nullptr;
    owner = take(capsule.ptr(), "dltensor", "used_dltensor", managed);
    return owner ? array_on(managed->tensor, owner, false) : py::object();
}

// ---- What a type offers ----

// DLPack's DLPackExchangeAPI of version 1.3: functions in C, for all objects of a type.
struct ExchangeApi {
    std::uint32_t major;
    std::uint32_t minor;
    const ExchangeApi* previous;
    void* allocate;
    void* managed_from_object;
    void* object_from_managed;
    int (*tensor_from_object)(void* object, Tensor* tensor);  // null, or returns 0 unless it raises
    void* current_stream;
};

const ExchangeApi* exchange_api_of(PyObject* value) {
    static PyObject* const name = PyUnicode_InternFromString("__dlpack_c_exchange_api__");
    if (name == nullptr) throw PythonError();
    auto* const type = reinterpret_cast<PyObject*>(Py_TYPE(value));
    const auto capsule = optional_owned(PyObject_GetAttr(type, name));
    if (!capsule) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError) == 0) throw PythonError();
        PyErr_Clear();
        return nullptr;
    }
    const auto* const api =
        static_cast<ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    if (api == nullptr) throw PythonError();
    return api->major == known_major ? api : nullptr;
}

}  // namespace

py::object array_from_exchange_api(PyObject* value) {
    const ExchangeApi* const api = exchange_api_of(value);
    if (api == nullptr || api->tensor_from_object == nullptr) return {};
    Tensor tensor{};
    if (api->tensor_from_object(value, &tensor) != 0) throw PythonError();
    return array_on(tensor, borrowed(value), true);
}

py::object array_from_dlpack(PyObject* value) {
    try {
        return exported(value);
    } catch (const PythonError&) {
        const bool about_value = PyErr_ExceptionMatches(PyExc_Exception) != 0 &&
                                 PyErr_ExceptionMatches(PyExc_MemoryError) == 0;
        if (!about_value) throw;
        PyErr_Clear();
        return {};
    }
}

}  // namespace fastbn::bindings
