#include "bindings/dlpack.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

#include "bindings/numpy.hpp"
#include "bindings/pool.hpp"
#include "engine/array.hpp"

namespace fastbn::bindings {
namespace {

// ---- DLPack's structs, as dlpack.h of its version 1.1 has them ----

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

struct Device {
    std::int32_t type;
    std::int32_t id;
};

struct DataType {
    std::uint8_t code;
    std::uint8_t bits;
    std::uint16_t lanes;
};

struct Tensor {
    void* data;
    Device device;
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

struct Version {
    std::uint32_t major;
    std::uint32_t minor;
};
constexpr std::uint32_t known_major = 1;

struct VersionedTensor {
    Version version;
    void* context;
    void (*deleter)(VersionedTensor* self);
    std::uint64_t flags;
    Tensor tensor;
};

// ---- Capsules ----

template <class Managed>
struct CapsuleNames;
template <>
struct CapsuleNames<ManagedTensor> {
    static constexpr const char* fresh = "dltensor";
    static constexpr const char* used = "used_dltensor";
};
template <>
struct CapsuleNames<VersionedTensor> {
    static constexpr const char* fresh = "dltensor_versioned";
    static constexpr const char* used = "used_dltensor_versioned";
};

struct OwnedTensor {
    const Tensor* tensor = nullptr;
    py::object owner;
};

// Takes over what the capsule holds, if it is of this kind.
template <class Managed>
OwnedTensor take(PyObject* capsule) {
    using Names = CapsuleNames<Managed>;
    if (PyCapsule_IsValid(capsule, Names::fresh) == 0) return {};
    auto* const managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule, Names::fresh));
    py::object owner = owned(PyCapsule_New(managed, nullptr, [](PyObject* own) {
        auto* const held = static_cast<Managed*>(PyCapsule_GetPointer(own, nullptr));
        if (held->deleter != nullptr) held->deleter(held);
    }));
    if (PyCapsule_SetName(capsule, Names::used) != 0) throw PythonError();
    if constexpr (std::is_same_v<Managed, VersionedTensor>) {
        if (managed->version.major > known_major) return {nullptr, std::move(owner)};
    }
    return {&managed->tensor, std::move(owner)};
}

OwnedTensor tensor_of(PyObject* capsule) {
    OwnedTensor versioned = take<VersionedTensor>(capsule);
    return versioned.owner ? versioned : take<ManagedTensor>(capsule);
}

// ---- Types and shapes ----

// The dtype that NumPy has for it, or empty.
py::object numpy_dtype_of(const DataType& type) {
    if (type.lanes != 1) return {};
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
        if (entry.code == type.code && entry.bits == type.bits) return dtype_of(entry.num);
    }
    if (type.code != code_bfloat || type.bits != 16) return {};
    return call(imported("numpy", "dtype"), imported("ml_dtypes", "bfloat16").ptr());
}

bool is_on_cpu(std::int32_t device) {
    return device == on_cpu || device == on_cpu_for_cuda || device == on_cpu_for_rocm;
}

// An array of the tensor's memory; empty where NumPy has none like it.
py::object array_on(const Tensor& tensor, const py::object& owner, bool writeable) {
    if (!is_on_cpu(tensor.device.type) || tensor.ndim < 0 || tensor.ndim > max_dimensions)
        return {};
    const py::object dtype = numpy_dtype_of(tensor.dtype);
    if (!dtype) return {};
    std::ptrdiff_t shape[max_dimensions];
    std::ptrdiff_t strides[max_dimensions];
    std::ptrdiff_t dense = tensor.dtype.bits / 8;
    bool empty = false;
    for (int i = tensor.ndim; i-- > 0;) {
        shape[i] = tensor.shape[i];
        if (shape[i] < 0) return {};
        empty = empty || shape[i] == 0;
        strides[i] =
            tensor.strides == nullptr ? dense : tensor.strides[i] * (tensor.dtype.bits / 8);
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

// Whether a tensor of torch says that its memory holds the negative of each value, which DLPack has
// no word for.
bool holds_negatives(PyObject* value) {
    static PyObject* const name = PyUnicode_InternFromString("is_neg");
    if (name == nullptr) throw PythonError();
    const auto answer = optional_owned(PyObject_CallMethodNoArgs(value, name));
    if (answer) return answer.ptr() == Py_True;
    if (PyErr_ExceptionMatches(PyExc_AttributeError) == 0) throw PythonError();
    PyErr_Clear();
    return false;
}

py::object exported(PyObject* value) {
    auto method = optional_owned(PyObject_GetAttrString(value, "__dlpack__"));
    if (!method) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError) == 0) throw PythonError();
        PyErr_Clear();
        return {};
    }
    if (PyType_Check(value) != 0 || !may_be_on_cpu(value) || holds_negatives(value)) return {};
    const OwnedTensor found = tensor_of(capsule_of(method).ptr());
    return found.tensor != nullptr ? array_on(*found.tensor, found.owner, false) : py::object();
}

}  // namespace

// ---- What a type offers ----

// DLPack's DLPackExchangeAPI of version 1.3: functions in C, for all objects of a type.
struct ExchangeApi {
    Version version;
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
    const auto capsule = optional_owned(PyObject_GetAttr(type, name));
    if (!capsule) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError) == 0) throw PythonError();
        PyErr_Clear();
        return nullptr;
    }
    const auto* const api =
        static_cast<ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    if (api == nullptr) throw PythonError();
    return api->version.major == known_major ? api : nullptr;
}

namespace {

const ExchangeApi* exchange_api_of(PyObject* value) {
    return exchange_api_of_type(reinterpret_cast<PyObject*>(Py_TYPE(value)));
}

// False where the type has no such function.
bool describe(const ExchangeApi& api, PyObject* value, Tensor& tensor) {
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

constexpr DType floating_types[] = {DType::float32, DType::float64, DType::float16,
                                    DType::bfloat16};

DataType data_type_of(DType dtype) {
    const TypeCode code = dtype == DType::bfloat16 ? code_bfloat : code_float;
    return {code, static_cast<std::uint8_t>(8 * size_of(dtype)), 1};
}

// Which of the floating-point types it is; null for any other.
const DType* floating_type_of(const DataType& type) {
    const auto is_type = [&](DType dtype) {
        const DataType own = data_type_of(dtype);
        return type.code == own.code && type.bits == own.bits && type.lanes == own.lanes;
    };
    const auto* const found =
        std::find_if(std::begin(floating_types), std::end(floating_types), is_type);
    return found == std::end(floating_types) ? nullptr : found;
}

// A tensor with all that it points to, and a reference to the owner of its memory.
struct OwningTensor {
    VersionedTensor managed{};
    std::int64_t shape[max_dimensions];  // of these only the first ndim are ever written
    std::int64_t strides[max_dimensions];
};

// Called by any thread, with Python's lock or without, and maybe after Python's end.
void delete_owning_tensor(VersionedTensor* managed) {
    auto* const owner = static_cast<PyObject*>(managed->context);
    if (Py_IsInitialized() != 0) {
        const PyGILState_STATE state = PyGILState_Ensure();
        Py_DECREF(owner);
        PyGILState_Release(state);
    }
    // The first member's address is the struct's.
    delete reinterpret_cast<OwningTensor*>(managed);
}

// Memory of a result: a block of the pool, or the allocator's own where that recycles.
class Memory {
public:
    Memory() = default;
    explicit Memory(std::ptrdiff_t bytes) {
        if (bytes >= pool::pooled_from) {
            block_ = std::make_unique<pool::Block>(bytes);
        } else {
            own_.reset(static_cast<char*>(
                ::operator new(static_cast<std::size_t>(bytes), std::align_val_t{alignment})));
        }
    }
    char* data() const { return block_ ? block_->data : own_.get(); }

private:
    static constexpr std::size_t alignment = 64;
    struct Delete {
        void operator()(char* data) const { ::operator delete(data, std::align_val_t{alignment}); }
    };
    std::unique_ptr<pool::Block> block_;
    std::unique_ptr<char, Delete> own_;
};

// A tensor with all that it points to, and its memory. Nothing of it is Python's, so that any
// thread may delete it at any time.
struct FreshTensor {
    VersionedTensor managed{};
    std::int64_t shape[most_fresh_dimensions] = {};
    std::int64_t strides[most_fresh_dimensions] = {};
    Memory memory;
};

// Whether both address their values alike; of an array without values NumPy has other strides.
bool has_strides_of(const Likeness& likeness, const OwningTensor& tensor, int ndim) {
    if (likeness.ndim != ndim || !std::equal(tensor.shape, tensor.shape + ndim, likeness.shape))
        return false;
    if (std::find(tensor.shape, tensor.shape + ndim, 0) != tensor.shape + ndim) return true;
    for (int i = 0; i < ndim; ++i) {
        if (tensor.shape[i] > 1 && tensor.strides[i] != likeness.strides[i]) return false;
    }
    return true;
}

}  // namespace

py::object array_from_exchange_api(PyObject* value) {
    const ExchangeApi* const api = exchange_api_of(value);
    Tensor tensor{};
    if (api == nullptr || !describe(*api, value, tensor)) return {};
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
            if (!describe(*api, value, tensor) || (i == 0 && !is_floating(tensor.dtype))) return {};
            array = array_on(tensor, borrowed(value), true);
            if (!array) return {};
        }
        PyTuple_SET_ITEM(arrays.ptr(), i, array.release().ptr());
    }
    return arrays;
}

Likeness likeness_of(PyObject* like) {
    Likeness likeness;
    const ExchangeApi* const api = exchange_api_of(like);
    Tensor tensor{};
    if (api == nullptr || api->object_from_managed == nullptr || !describe(*api, like, tensor) ||
        tensor.strides == nullptr || tensor.ndim > max_dimensions) {
        return likeness;
    }
    const DType* const dtype = floating_type_of(tensor.dtype);
    likeness.known = dtype != nullptr;
    if (likeness.known) likeness.dtype = *dtype;
    likeness.ndim = tensor.ndim;
    std::copy_n(tensor.shape, tensor.ndim, likeness.shape);
    std::copy_n(tensor.strides, tensor.ndim, likeness.strides);
    return likeness;
}

py::object object_on(const ArrayRef& array, const py::object& owner, PyObject* like,
                     const Likeness& likeness) {
    const ExchangeApi* const api = exchange_api_of(like);
    if (api == nullptr) return none();
    auto tensor = std::make_unique<OwningTensor>();
    const std::ptrdiff_t itemsize = size_of(array.dtype);
    for (int i = 0; i < array.ndim; ++i) {
        tensor->shape[i] = array.shape[i];
        tensor->strides[i] = array.strides[i] / itemsize;
    }
    if (has_strides_of(likeness, *tensor, array.ndim)) {
        std::copy_n(likeness.strides, array.ndim, tensor->strides);
    }
    tensor->managed.version = {known_major, 0};
    tensor->managed.deleter = delete_owning_tensor;
    tensor->managed.tensor = {array.data,    {on_cpu, 0},     array.ndim, data_type_of(array.dtype),
                              tensor->shape, tensor->strides, 0};
    tensor->managed.context = borrowed(owner.ptr()).release().ptr();  // its deleter gives it back
    void* object = nullptr;
    if (api->object_from_managed(&tensor.release()->managed, &object) != 0) throw PythonError();
    return owned(static_cast<PyObject*>(object));
}

std::int64_t* integer_by_exchange_api(PyObject* value) {
    const ExchangeApi* const api = exchange_api_of(value);
    Tensor tensor{};
    try {
        if (api == nullptr || !describe(*api, value, tensor)) return nullptr;
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
    if (!one_integer || !is_on_cpu(tensor.device.type) || tensor.data == nullptr) return nullptr;
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
    if (!describe(api, value, tensor)) return {};
    const DType* const dtype = floating_type_of(tensor.dtype);
    if (dtype == nullptr || !is_on_cpu(tensor.device.type) || tensor.data == nullptr ||
        tensor.strides == nullptr || tensor.ndim > max_dimensions) {
        return {};
    }
    ArrayRef array;
    array.dtype = *dtype;
    array.ndim = tensor.ndim;
    const std::ptrdiff_t itemsize = size_of(*dtype);
    for (int i = 0; i < tensor.ndim; ++i) {
        if (tensor.shape[i] <= 0) return {};
        array.shape[i] = tensor.shape[i];
        array.strides[i] = tensor.strides[i] * itemsize;
    }
    array.data = static_cast<char*>(tensor.data) + tensor.byte_offset;
    return array;
}

FreshObject fresh_object(const ExchangeApi& api, DType dtype, int ndim, const std::ptrdiff_t* shape,
                         const std::ptrdiff_t* strides) {
    if (api.object_from_managed == nullptr || ndim > most_fresh_dimensions) return {};
    const std::ptrdiff_t itemsize = size_of(dtype);
    std::ptrdiff_t bytes = itemsize;
    auto tensor = std::make_unique<FreshTensor>();
    for (int i = 0; i < ndim; ++i) {
        bytes *= shape[i];
        tensor->shape[i] = shape[i];
        tensor->strides[i] = strides[i] / itemsize;
    }
    tensor->memory = Memory(bytes);
    FreshObject fresh{{}, ArrayRef(tensor->memory.data(), dtype, ndim, shape, strides)};
    tensor->managed.version = {known_major, 0};
    tensor->managed.deleter = [](VersionedTensor* managed) {
        delete static_cast<FreshTensor*>(managed->context);
    };
    tensor->managed.context = tensor.get();
    tensor->managed.tensor = {fresh.array.data, {on_cpu, 0},     ndim, data_type_of(dtype),
                              tensor->shape,    tensor->strides, 0};
    void* object = nullptr;
    if (api.object_from_managed(&tensor.release()->managed, &object) != 0) throw PythonError();
    fresh.object = owned(static_cast<PyObject*>(object));
    return fresh;
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
