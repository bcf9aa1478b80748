#include "bindings/dlpack.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <type_traits>
#include <utility>

#include "bindings/pool.hpp"
#include "engine/array.hpp"

namespace fastbn::bindings {

// ---- DLPack's structs, laid out as dlpack.h of its version 1.1 has them ----

constexpr std::int32_t on_cpu = 1;
constexpr std::int32_t on_cpu_for_cuda = 3;  // pinned memory
constexpr std::int32_t on_cpu_for_rocm = 11;

enum TypeCode : std::uint8_t {
    code_int = 0,
    code_uint = 1,
    code_float = 2,
    code_bfloat = 4,
    code_bool = 6,
};

struct DataType {
    std::uint8_t code;
    std::uint8_t bits;
    std::uint16_t lanes;
};

struct Tensor {
    void* data;
    std::int32_t device;
    std::int32_t device_id;
    std::int32_t ndim;
    DataType dtype;
    std::int64_t* shape;
    std::int64_t* strides;  // in elements; null: C order
    std::uint64_t byte_offset;
};

struct ManagedTensor {
    Tensor tensor;
    void* context;
    void (*deleter)(ManagedTensor* self);
};

constexpr std::uint32_t known_major = 1;

struct VersionedTensor {
    std::uint32_t major;
    std::uint32_t minor;
    void* context;
    void (*deleter)(VersionedTensor* self);
    std::uint64_t flags;
    Tensor tensor;
};

namespace {

// ---- Types and shapes ----

DataType data_type_of(DType dtype) {
    const bool is_signed = dtype == DType::int8 || dtype == DType::int16 || dtype == DType::int32 ||
                           dtype == DType::int64;
    TypeCode code = is_signed ? code_int : code_uint;
    if (is_float(dtype)) code = code_float;
    if (dtype == DType::bfloat16) code = code_bfloat;
    if (dtype == DType::boolean) code = code_bool;
    return {code, static_cast<std::uint8_t>(8 * size_of(dtype)), 1};
}

// Which of the engine's types it is; null for any other.
const StorageType* storage_type_of(const DataType& type) {
    const auto* const found = std::find_if(
        std::begin(storage_types), std::end(storage_types), [&](const StorageType& known) {
            const DataType own = data_type_of(known.dtype);
            return type.code == own.code && type.bits == own.bits && type.lanes == own.lanes;
        });
    return found == std::end(storage_types) ? nullptr : found;
}

py::object numpy_dtype_of(const StorageType& type) {
    if (type.num != known_by_name) return dtype_of_num(type.num);
    return call(imported("numpy", "dtype"), imported("ml_dtypes", type.name).ptr());
}

bool is_on_cpu(std::int32_t device) {
    return device == on_cpu || device == on_cpu_for_cuda || device == on_cpu_for_rocm;
}

// An array of the tensor's memory; empty where NumPy has none like it.
py::object array_on(const Tensor& tensor, const py::object& owner, bool writeable) {
    if (!is_on_cpu(tensor.device) || tensor.ndim < 0 || tensor.ndim > max_dimensions) return {};
    const StorageType* const type = storage_type_of(tensor.dtype);
    if (type == nullptr) return {};
    const py::object dtype = numpy_dtype_of(*type);
    const std::ptrdiff_t itemsize = size_of(type->dtype);
    std::ptrdiff_t shape[max_dimensions];
    std::ptrdiff_t strides[max_dimensions];
    std::ptrdiff_t dense = itemsize;
    bool empty = false;
    for (int i = tensor.ndim; i-- > 0;) {
        shape[i] = tensor.shape[i];
        if (shape[i] < 0) return {};
        empty = empty || shape[i] == 0;
        strides[i] = tensor.strides == nullptr ? dense : tensor.strides[i] * itemsize;
        dense *= std::max<std::ptrdiff_t>(shape[i], 1);
    }
    // Memory of no bytes may be nowhere.
    if (empty) return new_array(dtype.ptr(), tensor.ndim, shape);
    if (tensor.data == nullptr) return {};
    char* const data = static_cast<char*>(tensor.data) + tensor.byte_offset;
    return new_array_on(data, owner.ptr(), dtype.ptr(), tensor.ndim, shape, strides, writeable);
}

// ---- Capsules ----

// The deleter is foreign code, which may run Python; an error that is set meanwhile stays as it is.
template <class Managed>
void call_deleter(Managed* managed) {
    if (managed->deleter == nullptr) return;
    const py::error_scope error;
    managed->deleter(managed);
}

// An array of what a capsule of this name holds, which is taken over; empty where NumPy has none.
template <class Managed>
py::object array_of_capsule(PyObject* capsule, const char* name, const char* used_name) {
    auto* const managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule, name));
    const py::object owner = owned(PyCapsule_New(managed, nullptr, [](PyObject* own) {
        call_deleter(static_cast<Managed*>(PyCapsule_GetPointer(own, nullptr)));
    }));
    if (PyCapsule_SetName(capsule, used_name) != 0) throw PythonError();
    if constexpr (std::is_same_v<Managed, VersionedTensor>) {
        if (managed->major > known_major) return {};
    }
    return array_on(managed->tensor, owner, false);
}

py::object array_of_capsule(PyObject* capsule) {
    constexpr const char* versioned = "dltensor_versioned";
    constexpr const char* unversioned = "dltensor";
    if (PyCapsule_IsValid(capsule, versioned) != 0) {
        return array_of_capsule<VersionedTensor>(capsule, versioned, "used_dltensor_versioned");
    }
    if (PyCapsule_IsValid(capsule, unversioned) != 0) {
        return array_of_capsule<ManagedTensor>(capsule, unversioned, "used_dltensor");
    }
    return {};
}

// ---- The protocol's methods ----

// Whether `__dlpack_device__` says that this processor can read the memory; what has no such method
// says it in its capsule.
bool may_be_on_cpu(PyObject* value) {
    const auto device = optional_owned(PyObject_CallMethod(value, "__dlpack_device__", nullptr));
    if (!device) {
        clear_error(PyExc_AttributeError);
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
    auto capsule =
        optional_owned(in_python(PyObject_Call, method.ptr(), nothing.ptr(), options.ptr()));
    if (capsule) return capsule;
    clear_error(PyExc_TypeError);
    return call(method);
}

// Whether a tensor of torch says that its memory holds the negative of each value, which DLPack has
// no word for.
bool holds_negatives(PyObject* value) {
    static PyObject* const name = PyUnicode_InternFromString("is_neg");
    if (name == nullptr) throw PythonError();
    const auto answer = optional_owned(in_python(PyObject_CallMethodNoArgs, value, name));
    if (answer) return answer.ptr() == Py_True;
    clear_error(PyExc_AttributeError);
    return false;
}

py::object exported(PyObject* value) {
    auto method = optional_owned(in_python(PyObject_GetAttrString, value, "__dlpack__"));
    if (!method) {
        clear_error(PyExc_AttributeError);
        return {};
    }
    if (PyType_Check(value) != 0 || !may_be_on_cpu(value) || holds_negatives(value)) return {};
    return array_of_capsule(capsule_of(method).ptr());
}

}  // namespace

// ---- What a type offers ----

// DLPack's DLPackExchangeAPI of version 1.3: functions in C, for all objects of a type.
struct ExchangeApi {
    std::uint32_t major;
    std::uint32_t minor;
    const ExchangeApi* previous;
    void* allocate;
    void* managed_from_object;
    int (*object_from_managed)(VersionedTensor* managed, void** object);  // takes it over
    int (*tensor_from_object)(void* object, Tensor* tensor);  // null, or returns 0 unless it raises
    void* current_stream;
};

const ExchangeApi* exchange_api_of_type(PyObject* type) {
    static PyObject* const name = PyUnicode_InternFromString("__dlpack_c_exchange_api__");
    if (name == nullptr) throw PythonError();
    const auto capsule = optional_owned(in_python(PyObject_GetAttr, type, name));
    if (!capsule) {
        clear_error(PyExc_AttributeError);
        return nullptr;
    }
    const auto* const api =
        static_cast<ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    if (api == nullptr) throw PythonError();
    return api->major == known_major ? api : nullptr;
}

namespace {

const ExchangeApi* exchange_api_of(PyObject* value) {
    return exchange_api_of_type(reinterpret_cast<PyObject*>(Py_TYPE(value)));
}

// False where the type has no such function.
bool find_tensor(const ExchangeApi& api, PyObject* value, Tensor& tensor) {
    if (api.tensor_from_object == nullptr) return false;
    if (api.tensor_from_object(value, &tensor) != 0) throw PythonError();
    return true;
}

bool is_floating(const DataType& type) {
    return type.code == code_float || type.code == code_bfloat;
}

bool is_exactly_of(PyObject* types, PyObject* value) {
    auto* const type = reinterpret_cast<PyObject*>(Py_TYPE(value));
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(types); ++i) {
        if (PyTuple_GET_ITEM(types, i) == type) return true;
    }
    return false;
}

// A tensor with all that it points to, and what keeps its memory: a block of its own, or a
// reference to another owner.
struct ResultTensor {
    VersionedTensor managed{};
    std::int64_t shape[most_result_dimensions];  // of these only the first ndim are ever written
    std::int64_t strides[most_result_dimensions];
    std::optional<pool::Block> memory;
    PyObject* owner = nullptr;
};

// Called by any thread, with Python's lock or without, and maybe after Python's end.
void delete_result(VersionedTensor* managed) {
    auto* const tensor = static_cast<ResultTensor*>(managed->context);
    if (tensor->owner != nullptr && Py_IsInitialized() != 0) {
        const PyGILState_STATE state = PyGILState_Ensure();
        Py_DECREF(tensor->owner);
        PyGILState_Release(state);
    }
    delete tensor;
}

// An object on the array's memory, which the tensor keeps.
py::object object_of(const ExchangeApi& api, const ArrayRef& array,
                     std::unique_ptr<ResultTensor> tensor) {
    const std::ptrdiff_t itemsize = size_of(array.dtype);
    for (int i = 0; i < array.ndim; ++i) {
        tensor->shape[i] = array.shape[i];
        tensor->strides[i] = array.strides[i] / itemsize;
    }
    VersionedTensor& managed = tensor->managed;
    managed.major = known_major;
    managed.context = tensor.get();
    managed.deleter = delete_result;
    managed.tensor.data = array.data;
    managed.tensor.device = on_cpu;
    managed.tensor.ndim = array.ndim;
    managed.tensor.dtype = data_type_of(array.dtype);
    managed.tensor.shape = tensor->shape;
    managed.tensor.strides = tensor->strides;
    void* object = nullptr;
    if (api.object_from_managed(&tensor.release()->managed, &object) != 0) throw PythonError();
    return owned(static_cast<PyObject*>(object));
}

// Whether both address their values alike; of an array without values NumPy has other strides.
bool has_strides_of(const ArrayRef& like, const ArrayRef& array) {
    if (!array.has_shape_of(like)) return false;
    if (array.size() == 0) return true;
    for (int i = 0; i < array.ndim; ++i) {
        if (array.shape[i] > 1 && array.strides[i] != like.strides[i]) return false;
    }
    return true;
}

// A tensor as an array, empty or not, on whatever device; nothing where it is of a type that
// results do not have, or has no strides.
std::optional<ArrayRef> array_like(const Tensor& tensor) {
    const StorageType* const type = storage_type_of(tensor.dtype);
    if (type == nullptr || !is_float(type->dtype) || tensor.strides == nullptr || tensor.ndim < 0 ||
        tensor.ndim > max_dimensions) {
        return std::nullopt;
    }
    ArrayRef array;
    array.data = static_cast<char*>(tensor.data);
    array.dtype = type->dtype;
    array.ndim = tensor.ndim;
    for (int i = 0; i < tensor.ndim; ++i) {
        array.shape[i] = tensor.shape[i];
        array.strides[i] = tensor.strides[i] * size_of(type->dtype);
    }
    if (array.data != nullptr) array.data += tensor.byte_offset;
    return array;
}

}  // namespace

py::object array_from_exchange_api(PyObject* value) {
    const ExchangeApi* const api = exchange_api_of(value);
    Tensor tensor{};
    if (api == nullptr || !find_tensor(*api, value, tensor)) return {};
    return array_on(tensor, borrowed(value), true);
}

py::object arrays_from_exchange_api(PyObject* values, PyObject* types) {
    const Py_ssize_t n = PyTuple_GET_SIZE(values);
    py::object arrays = owned(PyTuple_New(n));
    const ExchangeApi* api = nullptr;
    const PyTypeObject* type_of_api = nullptr;
    for (Py_ssize_t i = 0; i < n; ++i) {
        PyObject* const value = PyTuple_GET_ITEM(values, i);
        py::object array = none();
        if (value != Py_None) {
            if (!is_exactly_of(types, value) || holds_negatives(value)) return {};
            // Neighbours are mostly of one type.
            if (Py_TYPE(value) != type_of_api) {
                api = exchange_api_of(value);
                type_of_api = Py_TYPE(value);
            }
            if (api == nullptr) return {};
            Tensor tensor{};
            if (!find_tensor(*api, value, tensor) || (i == 0 && !is_floating(tensor.dtype)))
                return {};
            array = array_on(tensor, borrowed(value), true);
            if (!array) return {};
        }
        PyTuple_SET_ITEM(arrays.ptr(), i, array.release().ptr());
    }
    return arrays;
}

std::optional<ArrayRef> likeness_of(PyObject* like) {
    const ExchangeApi* const api = exchange_api_of(like);
    Tensor tensor{};
    if (api == nullptr || api->object_from_managed == nullptr || !find_tensor(*api, like, tensor)) {
        return std::nullopt;
    }
    return array_like(tensor);
}

py::object object_on(const ArrayRef& array, const py::object& owner, PyObject* like,
                     const ArrayRef& likeness) {
    const ExchangeApi* const api = exchange_api_of(like);
    if (api == nullptr || array.ndim > most_result_dimensions) return {};
    ArrayRef seen = array;
    if (has_strides_of(likeness, array)) {
        std::copy_n(likeness.strides, array.ndim, seen.strides);
    }
    auto tensor = std::make_unique<ResultTensor>();
    tensor->owner = borrowed(owner.ptr()).release().ptr();  // its deleter gives it back
    return object_of(*api, seen, std::move(tensor));
}

std::int64_t* integer_by_exchange_api(PyObject* value) {
    const ExchangeApi* const api = exchange_api_of(value);
    Tensor tensor{};
    try {
        if (api == nullptr || !find_tensor(*api, value, tensor)) return nullptr;
    } catch (const PythonError&) {  // a tensor without memory, as on a device that is none
        if (PyErr_ExceptionMatches(PyExc_RuntimeError) == 0 &&
            PyErr_ExceptionMatches(PyExc_BufferError) == 0) {
            throw;
        }
        PyErr_Clear();
        return nullptr;
    }
    const DataType type = tensor.dtype;
    const bool one_integer =
        type.code == code_int && type.bits == 64 && type.lanes == 1 && tensor.ndim == 0;
    if (!one_integer || !is_on_cpu(tensor.device) || tensor.data == nullptr) return nullptr;
    char* const data = static_cast<char*>(tensor.data) + tensor.byte_offset;
    return reinterpret_cast<std::int64_t*>(data);
}

bool count_by_exchange_api(PyObject* value) {
    std::int64_t* const integer = integer_by_exchange_api(value);
    if (integer != nullptr) __atomic_fetch_add(integer, 1, __ATOMIC_RELAXED);
    return integer != nullptr;
}

ArrayRef floats_of(const ExchangeApi& api, PyObject* value) {
    Tensor tensor{};
    if (!find_tensor(api, value, tensor) || !is_on_cpu(tensor.device)) return {};
    const std::optional<ArrayRef> array = array_like(tensor);
    return array && array->size() > 0 ? *array : ArrayRef();
}

py::object fresh_object(const ExchangeApi& api, ArrayRef& array) {
    if (api.object_from_managed == nullptr || array.ndim > most_result_dimensions) return {};
    auto tensor = std::make_unique<ResultTensor>();
    array.data = tensor->memory.emplace(array.bytes()).data;
    return object_of(api, array, std::move(tensor));
}

py::object array_from_dlpack(PyObject* value) {
    try {
        return exported(value);
    } catch (const PythonError&) {
        clear_error_about_value();
        return {};
    }
}

}  // namespace fastbn::bindings
