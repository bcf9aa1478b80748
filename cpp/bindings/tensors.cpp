// Batch normalization of PyTorch's tensors, for fastbn.torch: what its Python would do in some
// twenty functions is one call here, which reads tensors and makes results without arrays of
// NumPy's between.
//
// In a loop that saves microseconds. In a model, each layer runs between convolutions that leave
// nothing of the interpreter in the caches, and a line of code or data that a call touches is
// fetched from memory: there it saves a hundred.
//
// Whatever is not simple is left to fastbn.torch: a function here returns None before it has
// written anything, and Python takes the call from its beginning.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <memory>
#include <stdexcept>

#include "bindings/arguments.hpp"
#include "bindings/dlpack.hpp"
#include "bindings/signature.hpp"
#include "engine/memory.hpp"
#include "engine/operations.hpp"
#include "engine/threads.hpp"

namespace fastbn::bindings {
namespace {

// ---- PyTorch ----

// Functions and classes of PyTorch's, and two of fastbn.torch's: the values of a dict, kept for the
// life of the process.
struct Torch {
    explicit Torch(PyObject* dict) : values(borrowed(dict)) {}

    py::object values;
    PyObject* tensor = value("tensor");
    PyObject* parameter = value("parameter");
    PyObject* is_grad_enabled = value("is_grad_enabled");
    PyObject* number_of_modes = value("number_of_modes");
    PyObject* tracing_state = value("tracing_state");
    PyObject* transforms_are_active = value("transforms_are_active");
    // The dictionary of the module that holds `_current_level`.
    PyObject* forward_mode = value("forward_mode");
    PyObject* get_num_threads = value("get_num_threads");
    PyObject* increment_version = value("increment_version");
    PyObject* saved_tensor_hooks = value("saved_tensor_hooks");
    // `_check_input_dim` of BatchNorm1d, 2d and 3d.
    PyObject* rank_checks = value("rank_checks");
    // `apply` of the torch.autograd.Function, of which backward is here; and backward of (ctx, dy,
    // saved tensors) by other means.
    PyObject* record = value("record");
    PyObject* backward = value("backward");
    // What tensors without memory raise, and what wrong arguments do.
    PyObject* memory_errors = value("memory_errors");
    PyObject* argument_errors = value("argument_errors");

    const ExchangeApi* tensor_api = exchange_api_of_type(tensor);
    const ExchangeApi* parameter_api = exchange_api_of_type(parameter);

private:
    PyObject* value(const char* name) const {
        const py::object key = to_python(name);
        return owned(PyObject_GetItem(values.ptr(), key.ptr())).release().ptr();
    }
};

// Written while fastbn.torch is imported, and only read after that.
const Torch* torch = nullptr;

void check_registered() {
    if (torch == nullptr) raise(PyExc_RuntimeError, "fastbn.torch must be imported first");
}

std::atomic<long> threads_of_torch{0};

// Names of attributes and of entries, interned.
struct Names {
    static PyObject* interned(const char* name) {
        return owned(PyUnicode_InternFromString(name)).release().ptr();
    }
    PyObject* requires_grad = interned("requires_grad");
    PyObject* is_inference = interned("is_inference");
    PyObject* is_neg = interned("is_neg");
    PyObject* current_level = interned("_current_level");

    PyObject* dict = interned("__dict__");
    PyObject* parameters = interned("_parameters");
    PyObject* buffers = interned("_buffers");
    PyObject* weight = interned("weight");
    PyObject* bias = interned("bias");
    PyObject* running_mean = interned("running_mean");
    PyObject* running_var = interned("running_var");
    PyObject* num_batches_tracked = interned("num_batches_tracked");
    PyObject* training = interned("training");
    PyObject* track_running_stats = interned("track_running_stats");
    PyObject* momentum = interned("momentum");
    PyObject* eps = interned("eps");
    PyObject* activation = interned("activation");
    PyObject* negative_slope = interned("negative_slope");
    PyObject* check_input_dim = interned("_check_input_dim");

    PyObject* to_save = interned("to_save");
    PyObject* materialize_grads = interned("materialize_grads");
    PyObject* saved_tensors = interned("saved_tensors");
    PyObject* needs_input_grad = interned("needs_input_grad");
    PyObject* call = interned("call");
};
const Names& names() {
    static const Names all;
    return all;
}

py::object attribute(PyObject* object, PyObject* name) {
    return owned(in_python(PyObject_GetAttr, object, name));
}

// Empty where there is none.
py::object entry(PyObject* dict, PyObject* name) {
#if PY_VERSION_HEX >= 0x030D0000
    PyObject* found = nullptr;
    if (PyDict_GetItemRef(dict, name, &found) < 0) throw PythonError();
    return optional_owned(found);
#else
    PyObject* const found = PyDict_GetItemWithError(dict, name);
    if (found == nullptr && PyErr_Occurred() != nullptr) throw PythonError();
    return found == nullptr ? py::object() : borrowed(found);
#endif
}

long number(PyObject* value) {
    const long n = PyLong_AsLong(value);
    if (n == -1 && PyErr_Occurred() != nullptr) throw PythonError();
    return n;
}

py::object answer(PyObject* function) { return owned(in_python(PyObject_CallNoArgs, function)); }

bool says_yes(PyObject* function) { return answer(function).ptr() == Py_True; }

bool says_yes(PyObject* object, PyObject* method) {
    return owned(in_python(PyObject_CallMethodNoArgs, object, method)).ptr() == Py_True;
}

// Whether a mode or forward mode has to see all operations. What changes statistics or wants
// gradients asks for transforms too: the tensors that they follow have no memory, and those that
// have some are constants to them.
bool is_watched() {
    if (number(answer(torch->number_of_modes).ptr()) > 0) return true;
    const py::object level = entry(torch->forward_mode, names().current_level);
    return !level || number(level.ptr()) >= 0;
}

bool is_traced() { return answer(torch->tracing_state).ptr() != Py_None; }

void set_threads_of_torch(long n) {
    if (threads_of_torch.exchange(n, std::memory_order_relaxed) == n) return;
    // As long as PyTorch's number stays the same, fastbn's is left to whoever sets it.
    if (n != fastbn::get_num_threads()) fastbn::set_num_threads(static_cast<int>(n));
}

// ---- Tensors ----

// Null unless its class is one of the two that have no rules of their own.
const ExchangeApi* api_of(PyObject* value) {
    auto* const type = reinterpret_cast<PyObject*>(Py_TYPE(value));
    if (type == torch->tensor) return torch->tensor_api;
    return type == torch->parameter ? torch->parameter_api : nullptr;
}

bool wants_gradient(PyObject* value) {
    return value != Py_None && attribute(value, names().requires_grad).ptr() == Py_True;
}

// Finds a tensor's memory, or none for None. False where it has none to read, and where its memory
// does not hold the values themselves.
bool find_values(PyObject* value, ArrayRef& array) {
    if (value == Py_None) return true;
    const ExchangeApi* const api = api_of(value);
    if (api == nullptr) return false;
    try {
        array = floats_of(*api, value);
    } catch (const PythonError&) {
        clear_error(torch->memory_errors);  // fastbn.torch will meet it where it matters
        return false;
    }
    return array && !says_yes(value, names().is_neg);
}

bool have_equal_strides(const ArrayRef& a, const ArrayRef& b) {
    return std::equal(a.strides, a.strides + a.ndim, b.strides);
}

// Whether its values lie side by side, its axes in any order: each steps over all that is inside
// it.
bool is_dense(const ArrayRef& array) {
    std::ptrdiff_t stride = size_of(array.dtype);
    const auto is_next = [&](int i) { return array.shape[i] > 1 && array.strides[i] == stride; };
    int left = 0;
    for (int i = 0; i < array.ndim; ++i) left += array.shape[i] > 1 ? 1 : 0;
    for (; left > 0; --left) {
        int next = array.ndim - 1;
        while (next >= 0 && !is_next(next)) --next;
        if (next < 0) return false;
        stride *= array.shape[next];
    }
    return true;
}

bool is_channels(const ArrayRef& array, std::ptrdiff_t channels) {
    return array.ndim == 1 && array.shape[0] == channels &&
           (channels == 1 || array.strides[0] == size_of(array.dtype));
}

// Whether two dense arrays have bytes in common.
bool share_bytes(const ArrayRef& a, const ArrayRef& b) {
    return a.data < b.data + b.bytes() && b.data < a.data + a.bytes();
}

// A tensor like that, on memory of its own, which `array` then describes; empty where PyTorch does
// not say how.
py::object fresh_like(const ArrayRef& like, ArrayRef& array) {
    array = like;
    return fresh_object(*torch->tensor_api, array);
}

// ---- Calls ----

// A call of batch_norm or of a module, or one that was recorded for its backward pass. Each object
// is held, whatever other threads do meanwhile.
struct Call {
    py::object x;
    py::object running_mean;
    py::object running_var;
    py::object weight;
    py::object bias;
    py::object residual;
    py::object batches;  // how many there were, to be counted up
    py::object activation;
    py::object negative_slope;
    py::object eps;
    py::object momentum;
    bool training = false;
    PyObject* module = nullptr;  // whose call it is, if it is one's

    // Of a recorded call: see statistics_array. Without an activation the bias itself is not kept.
    py::object statistics;
    DType bias_type = DType::float32;
};

bool fits_running(const ArrayRef& running, const Features& features) {
    return !running || is_channels(running, features.channels);
}

bool share_bytes_with_running(const Running& running, const ArrayRef& other) {
    return other && (share_bytes(running.mean, other) || share_bytes(running.var, other));
}

// Whether the module takes inputs of this rank, as far as PyTorch's own classes say so.
bool takes_rank(PyObject* module, int rank) {
    const py::object check = attribute(module, names().check_input_dim);
    if (!PyMethod_Check(check.ptr())) return false;
    PyObject* const function = PyMethod_Function(check.ptr());
    if (function == PyTuple_GET_ITEM(torch->rank_checks, 0)) return rank == 2 || rank == 3;
    if (function == PyTuple_GET_ITEM(torch->rank_checks, 1)) return rank == 4;
    return function == PyTuple_GET_ITEM(torch->rank_checks, 2) && rank == 5;
}

// PyTorch takes a few other objects for numbers, and refuses some that Python converts: there
// fastbn.torch asks it.
bool is_number(const py::object& value) {
    return PyFloat_Check(value.ptr()) != 0 || PyLong_Check(value.ptr()) != 0;
}

// x, which must be dense, weight, bias and residual, and the features; not the activation.
bool find_batch(const Call& call, Batch& batch) {
    if (!find_values(call.x.ptr(), batch.x) || batch.x.ndim < 2 || !is_dense(batch.x)) return false;
    if (!find_values(call.weight.ptr(), batch.weight) ||
        !find_values(call.bias.ptr(), batch.bias) ||
        !find_values(call.residual.ptr(), batch.epilogue.residual)) {
        return false;
    }
    AxisList axes;
    axes.push(1);
    batch.features = features_of(batch.x, axes);
    for (const ArrayRef* const parameter : {&batch.weight, &batch.bias}) {
        if (*parameter && !is_channels(*parameter, batch.features.channels)) return false;
    }
    return !batch.epilogue.residual || batch.epilogue.residual.has_shape_of(batch.x);
}

// Everything that the engine does not check itself; False where the call is not a simple one.
bool find_tensors(const Call& call, Batch& batch, Running& running, double& eps) {
    const bool has_momentum = call.training || call.module == nullptr || !call.momentum.is_none();
    if (!is_number(call.eps) || (has_momentum && !is_number(call.momentum))) return false;
    try {  // before the tensors, since numbers may be objects whose code changes these
        batch.epilogue.activation = activation_argument(
            {"activation", call.activation.ptr()}, {"negative_slope", call.negative_slope.ptr()});
        eps = real_argument({"eps", call.eps.ptr()});
        if (has_momentum) running.momentum = real_argument({"momentum", call.momentum.ptr()});
    } catch (const PythonError&) {
        clear_error(torch->argument_errors);  // likewise
        return false;
    }
    if (!find_batch(call, batch)) return false;
    if (call.module != nullptr && !takes_rank(call.module, batch.x.ndim)) return false;
    if (!find_values(call.running_mean.ptr(), running.mean) ||
        !find_values(call.running_var.ptr(), running.var)) {
        return false;
    }
    if (static_cast<bool>(running.mean) != static_cast<bool>(running.var)) return false;
    if (!fits_running(running.mean, batch.features) || !fits_running(running.var, batch.features))
        return false;
    const ArrayRef& residual = batch.epilogue.residual;
    return !residual || (residual.dtype == batch.x.dtype && is_dense(residual));
}

bool is_trainable(const Batch& batch, const Running& running, double eps) {
    if (batch.features.count < 2 || !(eps > 0 && std::isfinite(eps))) return false;
    if (!(running.momentum >= 0 && running.momentum <= 1)) return false;
    if (!running.mean) return true;
    if (share_bytes(running.mean, running.var)) return false;
    for (const ArrayRef* const other :
         {&batch.x, &batch.epilogue.residual, &batch.weight, &batch.bias}) {
        if (share_bytes_with_running(running, *other)) return false;
    }
    return true;
}

// Whether autograd wants gradients of a call.
bool is_recorded(const Call& call) {
    if (!says_yes(torch->is_grad_enabled)) return false;
    return wants_gradient(call.x.ptr()) || wants_gradient(call.weight.ptr()) ||
           wants_gradient(call.bias.ptr()) || wants_gradient(call.residual.ptr());
}

// Whether hooks are given what autograd keeps. They may raise, when all is done.
bool has_saved_tensor_hooks() {
    return owned(in_python(PyObject_CallOneArg, torch->saved_tensor_hooks, Py_True)).ptr() !=
           Py_None;
}

// Whether autograd cannot keep one of the tensors; it asks itself only when all is done.
bool holds_inference_tensor(const Call& call) {
    for (const py::object* const each : {&call.x, &call.weight, &call.bias, &call.residual}) {
        // A tensor that wants gradients is no inference tensor.
        const bool may_be = !each->is_none() && !wants_gradient(each->ptr());
        if (may_be && says_yes(each->ptr(), names().is_inference)) return true;
    }
    return false;
}

// Whether a tensor holds a number of 64 bits that may be counted up: none of inference mode.
bool is_countable(PyObject* value) {
    const bool is_plain = reinterpret_cast<PyObject*>(Py_TYPE(value)) == torch->tensor;
    return is_plain && !says_yes(value, names().is_inference) &&
           integer_by_exchange_api(value) != nullptr;
}

// PyTorch keeps a number of changes for each tensor, and these are made behind its back. False
// where it refuses, since one of them is of inference mode.
bool increment_versions(const Call& call) {
    const py::object changed = owned(PyList_New(0));
    for (const py::object* const each : {&call.running_mean, &call.running_var, &call.batches}) {
        if (each->ptr() != Py_None && PyList_Append(changed.ptr(), each->ptr()) != 0) {
            throw PythonError();
        }
    }
    if (PyList_GET_SIZE(changed.ptr()) == 0) return true;
    const auto counted =
        optional_owned(in_python(PyObject_CallOneArg, torch->increment_version, changed.ptr()));
    if (!counted) clear_error(PyExc_RuntimeError);
    return static_cast<bool>(counted);
}

// What backward needs beside the tensors: mean, variance and 1 / sqrt(var + eps), an array of shape
// (3, channels).
constexpr std::ptrdiff_t saved_statistics = 3;
py::object statistics_array(std::ptrdiff_t channels) {
    const std::ptrdiff_t shape[] = {saved_statistics, channels};
    return new_array(float64_dtype(), 2, shape);
}

Statistics statistics_in(double* memory, std::ptrdiff_t channels) {
    Statistics statistics;
    statistics.mean = memory;
    statistics.var = memory + channels;
    statistics.invstd = memory + 2 * channels;
    return statistics;
}

py::object recorded(const Call& call, const Batch& batch, const py::object& y,
                    const py::object& statistics) {
    const py::object rest =
        tuple_of(y, statistics, call.eps, call.activation, call.negative_slope,
                 to_python(call.training), to_python(static_cast<int>(batch.bias.dtype)));
    return owned(in_python(PyObject_CallFunctionObjArgs, torch->record, rest.ptr(), call.x.ptr(),
                           call.weight.ptr(), call.bias.ptr(), call.residual.ptr(), nullptr));
}

py::object train(const Call& call, const Batch& batch, const Running& running, double eps,
                 bool wants_gradients) {
    if (!is_trainable(batch, running, eps)) return none();
    // Gradients of running statistics are refused by PyTorch; a module's are buffers.
    if (call.module == nullptr &&
        (wants_gradient(call.running_mean.ptr()) || wants_gradient(call.running_var.ptr()))) {
        return none();
    }
    const bool has_counter = !call.batches.is_none();
    if (has_counter && !is_countable(call.batches.ptr())) return none();
    ArrayRef y_array;
    py::object y = fresh_like(batch.x, y_array);
    if (!y || !increment_versions(call)) return none();
    const std::ptrdiff_t channels = batch.features.channels;
    const auto compute = [&](double* memory) {
        without_gil(batch.x.bytes(), [&] {
            fastbn::train(batch, y_array, eps, running, false, statistics_in(memory, channels));
        });
        // Asked for only now: while other threads ran, one may have given the tensor other memory.
        if (has_counter) count_by_exchange_api(call.batches.ptr());
    };
    if (wants_gradients) {
        const py::object statistics = statistics_array(channels);
        compute(doubles_of(statistics));
        return recorded(call, batch, y, statistics);
    }
    const Buffer<4096> memory(bytes_of_doubles(saved_statistics * channels));
    compute(memory.doubles());
    return y;
}

py::object infer(const Call& call, const Batch& batch, const Running& running, double eps,
                 bool wants_gradients) {
    if (!running.mean || wants_gradient(call.running_mean.ptr()) ||
        wants_gradient(call.running_var.ptr())) {
        return none();
    }
    ArrayRef y_array;
    py::object y = fresh_like(batch.x, y_array);
    if (!y) return none();
    py::object kept;
    Statistics used;
    if (wants_gradients) {  // copies, since the tensors may have changed when backward reads them
        kept = statistics_array(batch.features.channels);
        used = statistics_in(doubles_of(kept), batch.features.channels);
        read_elements(running.mean, 0, batch.features.channels, used.mean);
        read_elements(running.var, 0, batch.features.channels, used.var);
    }
    without_gil(batch.x.bytes(), [&] {
        fastbn::normalize(batch, y_array, running.mean, {}, running.var, eps, false, "running_mean",
                          "running_var", used.invstd);
    });
    return wants_gradients ? recorded(call, batch, y, kept) : y;
}

py::object run(const Call& call) {
    Batch batch;
    Running running;
    double eps = 0.0;
    if (is_watched() || is_traced() || !find_tensors(call, batch, running, eps)) return none();
    const bool wants_gradients = is_recorded(call);
    if (wants_gradients && holds_inference_tensor(call)) return none();
    if (wants_gradients && running.mean && call.training && has_saved_tensor_hooks()) return none();
    if ((call.training || wants_gradients) && says_yes(torch->transforms_are_active)) return none();
    set_threads_of_torch(number(answer(torch->get_num_threads).ptr()));
    return call.training ? train(call, batch, running, eps, wants_gradients)
                         : infer(call, batch, running, eps, wants_gradients);
}

// What is wrong with arguments is fastbn.torch's to find and PyTorch's to say.
py::object run_if_right(const Call& call) {
    try {
        return run(call);
    } catch (const std::invalid_argument&) {
        return none();
    }
}

// ---- Modules ----

// The module's own attributes; false where it computes one of them, or has another class's.
bool read_module(PyObject* module, Call& call) {
    const Names& n = names();
    const py::object dict = attribute(module, n.dict);
    const py::object parameters = entry(dict.ptr(), n.parameters);
    const py::object buffers = entry(dict.ptr(), n.buffers);
    const py::object training = entry(dict.ptr(), n.training);
    const py::object tracks = entry(dict.ptr(), n.track_running_stats);
    const py::object momentum = entry(dict.ptr(), n.momentum);
    call.momentum = momentum;
    if (!parameters || !buffers || !training || !tracks || !momentum) return false;
    if (!PyDict_Check(parameters.ptr()) || !PyDict_Check(buffers.ptr())) return false;
    call.weight = entry(parameters.ptr(), n.weight);
    call.bias = entry(parameters.ptr(), n.bias);
    call.running_mean = entry(buffers.ptr(), n.running_mean);
    call.running_var = entry(buffers.ptr(), n.running_var);
    call.batches = entry(buffers.ptr(), n.num_batches_tracked);
    call.eps = entry(dict.ptr(), n.eps);
    if (!call.weight || !call.bias || !call.running_mean || !call.running_var || !call.batches ||
        !call.eps) {
        return false;
    }
    if (PyBool_Check(training.ptr()) == 0 || PyBool_Check(tracks.ptr()) == 0) return false;
    const bool in_training = training.ptr() == Py_True;
    if (in_training && tracks.ptr() == Py_True) {
        if (momentum.is_none()) return false;  // the average over all batches
    } else {
        call.batches = none();
        if (in_training) call.running_mean = call.running_var = none();
    }
    call.training =
        in_training || (call.running_mean.ptr() == Py_None && call.running_var.ptr() == Py_None);
    call.activation = attribute(module, n.activation);
    call.negative_slope = call.activation.is_none()
                              ? borrowed(Arguments::defaults().negative_slope.value)
                              : attribute(module, n.negative_slope);
    return true;
}

// ---- Backward ----

bool is_tuple_of(PyObject* value, Py_ssize_t n) {
    return PyTuple_Check(value) != 0 && PyTuple_GET_SIZE(value) == n;
}

// What a call leaves for its backward pass: so many tensors, and as many parts of a tuple.
constexpr Py_ssize_t saved_tensors = 4;
constexpr Py_ssize_t saved_parts = 6;

DType dtype_of_number(long n) {
    for (const StorageType& type : storage_types) {
        if (static_cast<long>(type.dtype) == n) return type.dtype;
    }
    return DType::float32;
}

// A recorded call, of which `tensors` were saved; false where it is not whole.
bool read_recorded(PyObject* ctx, PyObject* tensors, Call& call) {
    const py::object parts = attribute(ctx, names().call);
    if (!is_tuple_of(tensors, saved_tensors) || !is_tuple_of(parts.ptr(), saved_parts)) {
        return false;
    }
    call.x = borrowed(PyTuple_GET_ITEM(tensors, 0));
    call.weight = borrowed(PyTuple_GET_ITEM(tensors, 1));
    call.bias = borrowed(PyTuple_GET_ITEM(tensors, 2));
    call.residual = borrowed(PyTuple_GET_ITEM(tensors, 3));
    call.statistics = borrowed(PyTuple_GET_ITEM(parts.ptr(), 0));
    call.eps = borrowed(PyTuple_GET_ITEM(parts.ptr(), 1));
    call.activation = borrowed(PyTuple_GET_ITEM(parts.ptr(), 2));
    call.negative_slope = borrowed(PyTuple_GET_ITEM(parts.ptr(), 3));
    call.training = PyTuple_GET_ITEM(parts.ptr(), 4) == Py_True;
    call.bias_type = dtype_of_number(number(PyTuple_GET_ITEM(parts.ptr(), 5)));
    return is_exactly_array(call.statistics.ptr());
}

// False where the kernels cannot compute the gradients of what was saved.
bool find_saved(const Call& call, PyObject* dy, Batch& batch, ArrayRef& dy_array) {
    if (!find_values(dy, dy_array) || !find_batch(call, batch)) return false;
    if (!dy_array.has_shape_of(batch.x) || dy_array.dtype != batch.x.dtype) return false;
    // A dy in another order is copied first, unless it is expanded.
    std::ptrdiff_t* const end = dy_array.strides + dy_array.ndim;
    if (!have_equal_strides(dy_array, batch.x) && std::find(dy_array.strides, end, 0) == end)
        return false;
    // Since the forward pass, x may have been given other memory.
    const ArrayRef statistics = array_ref(call.statistics.ptr(), DType::float64);
    if (statistics.ndim != 2 || statistics.shape[0] != saved_statistics ||
        statistics.shape[1] != batch.features.channels) {
        return false;
    }
    batch.epilogue.activation = activation_argument({"activation", call.activation.ptr()},
                                                    {"negative_slope", call.negative_slope.ptr()});
    return true;
}

// Sums as a tensor of the parameter's type.
py::object channel_tensor(const double* sums, DType type, std::ptrdiff_t channels) {
    const std::ptrdiff_t step = size_of(type);
    ArrayRef array(nullptr, type, 1, &channels, &step);
    py::object tensor = fresh_object(*torch->tensor_api, array);
    if (tensor) write_elements(sums, array, 0, channels);
    return tensor;
}

// By the statistics that the forward pass has kept: the batch's own, or constants.
Normalization normalization_of(const Call& call, std::ptrdiff_t channels) {
    const std::ptrdiff_t step = sizeof(double);
    const Statistics statistics = statistics_in(doubles_of(call.statistics), channels);
    const auto array_on = [&](double* values) {
        return ArrayRef(reinterpret_cast<char*>(values), DType::float64, 1, &channels, &step);
    };
    Normalization normalization;
    normalization.mean = array_on(statistics.mean);
    normalization.invstd = array_on(statistics.invstd);
    normalization.through_statistics = call.training;
    return normalization;
}

// (None, dx, dweight, dbias, dresidual), or None. wanted: of which inputs of the
// torch.autograd.Function a gradient is asked; of the call itself, which is the first, none is.
py::object gradients_of(const Call& call, const Batch& batch, PyObject* dy,
                        const ArrayRef& dy_array, PyObject* wanted) {
    const auto wants = [&](Py_ssize_t input) { return PyTuple_GET_ITEM(wanted, input) == Py_True; };
    const bool wants_x = wants(1);
    const bool wants_weight = wants(2);
    const bool wants_bias = wants(3);
    const bool wants_residual = wants(4);
    // The residual's gradient is dy itself where no activation stands between them.
    const bool passes_dy = batch.epilogue.activation.kind == ActivationKind::none;
    GradientsOut out;
    py::object dresidual = wants_residual && passes_dy ? borrowed(dy) : none();
    if (wants_residual && !passes_dy) {
        dresidual = fresh_like(batch.x, out.dz);
        if (!dresidual) return none();
    }
    // Without dx the engine only sums; the gradient behind an activation is written along with dx.
    py::object dx;
    if (wants_x || out.dz) {
        dx = fresh_like(batch.x, out.dx);
        if (!dx) return none();
    }

    const std::ptrdiff_t channels = batch.features.channels;
    const Buffer<4096> memory(bytes_of_doubles(2 * channels));
    out.dweight = memory.doubles();
    out.dbias = out.dweight + channels;
    const Normalization normalization = normalization_of(call, channels);
    without_gil(batch.x.bytes(), [&] { fastbn::backward(batch, dy_array, normalization, out); });
    const py::object of_weight =
        wants_weight ? channel_tensor(out.dweight, batch.weight.dtype, channels) : none();
    const py::object of_bias =
        wants_bias ? channel_tensor(out.dbias, call.bias_type, channels) : none();
    if (!of_weight || !of_bias) return none();
    return tuple_of(none(), wants_x ? dx : none(), of_weight, of_bias, dresidual);
}

// The same, or None where Python has to compute it.
py::object gradients(PyObject* ctx, PyObject* dy, PyObject* tensors) {
    if (says_yes(torch->is_grad_enabled) || is_watched()) return none();
    const py::object wanted = attribute(ctx, names().needs_input_grad);
    Call call;
    Batch batch;
    ArrayRef dy_array;
    if (!read_recorded(ctx, tensors, call) || !is_tuple_of(wanted.ptr(), 1 + saved_tensors) ||
        !find_saved(call, dy, batch, dy_array)) {
        return none();
    }
    return gradients_of(call, batch, dy, dy_array, wanted.ptr());
}

// ---- The module's functions ----

// Remembers what of PyTorch is asked in every call.
py::object register_torch(const Arguments& arguments) {
    auto given = std::make_unique<Torch>(arguments.value.value);
    if (!is_tuple_of(given->rank_checks, 3)) {
        wrong_value("rank_checks", "be three functions", shown(given->rank_checks));
    }
    names();
    threads_of_torch = number(answer(given->get_num_threads).ptr());
    torch = given.release();
    return none();
}

// Sets the number of threads that PyTorch has been given since the last call.
py::object follow_threads(const Arguments& arguments) {
    set_threads_of_torch(threads_argument(arguments.n));
    return none();
}

// fastbn.torch.batch_norm without where and weights: y, or None, and then nothing is done, where
// it is not simple: gradients of running statistics, transforms, modes, tensors of other classes or
// devices, wrong arguments.
py::object batch_norm_tensors(const Arguments& arguments) {
    check_registered();
    if (PyBool_Check(arguments.training.value) == 0) return none();
    Call call;
    call.x = borrowed(arguments.x.value);
    call.running_mean = borrowed(arguments.running_mean.value);
    call.running_var = borrowed(arguments.running_var.value);
    call.weight = borrowed(arguments.weight.value);
    call.bias = borrowed(arguments.bias.value);
    call.residual = borrowed(arguments.residual.value);
    call.batches = none();
    call.activation = borrowed(arguments.activation.value);
    call.negative_slope = borrowed(arguments.negative_slope.value);
    call.eps = borrowed(arguments.eps.value);
    call.momentum = borrowed(arguments.momentum.value);
    call.training = arguments.training.value == Py_True;
    return run_if_right(call);
}

// The same of a module of fastbn.torch, its input and its residual; adds one to its number of
// batches.
py::object call_module(const Arguments& arguments) {
    check_registered();
    Call call;
    call.module = arguments.module.value;
    call.x = borrowed(arguments.x.value);
    call.residual = borrowed(arguments.residual.value);
    return read_module(call.module, call) ? run_if_right(call) : none();
}

// Forward and backward of the torch.autograd.Function that batch_norm_tensors records. The first
// has nothing left to compute.
py::object recorded_forward(const Arguments& arguments) {
    PyObject* const ctx = arguments.ctx.value;
    PyObject* const rest = arguments.call.value;
    if (PyTuple_Check(rest) == 0 || PyTuple_GET_SIZE(rest) != 1 + saved_parts) {
        wrong_type("call", "be a tuple of y and what is kept", shown(rest));
    }
    // As its method `save_for_backward` does. Bias and residual matter to an activation alone.
    const bool has_activation = PyTuple_GET_ITEM(rest, 3) != Py_None;
    const py::object to_save =
        owned(PyTuple_Pack(4, arguments.x.value, arguments.weight.value,
                           has_activation ? arguments.bias.value : Py_None,
                           has_activation ? arguments.residual.value : Py_None));
    if (PyObject_SetAttr(ctx, names().to_save, to_save.ptr()) != 0) throw PythonError();
    // A gradient that there is none of is to come as None, and not as zeros.
    if (PyObject_SetAttr(ctx, names().materialize_grads, Py_False) != 0) throw PythonError();
    // Without y, which refers to ctx.
    const py::object kept = owned(PyTuple_GetSlice(rest, 1, PyTuple_GET_SIZE(rest)));
    if (PyObject_SetAttr(ctx, names().call, kept.ptr()) != 0) throw PythonError();
    return borrowed(PyTuple_GET_ITEM(rest, 0));
}

py::object recorded_backward(const Arguments& arguments) {
    check_registered();
    PyObject* const ctx = arguments.ctx.value;
    PyObject* const dy = arguments.dy.value;
    if (dy == Py_None) return tuple_of(none(), none(), none(), none(), none());
    // Asked for once: a checkpoint gives them no second time.
    const py::object tensors = attribute(ctx, names().saved_tensors);
    py::object found = gradients(ctx, dy, tensors.ptr());
    if (!found.is_none()) return found;
    return owned(
        in_python(PyObject_CallFunctionObjArgs, torch->backward, ctx, dy, tensors.ptr(), nullptr));
}

// Makes of a function of this module what, as an attribute of a class, is a method of its objects,
// as functions written in Python are.
py::object as_method(const Arguments& arguments) {
    return owned(PyInstanceMethod_New(arguments.value.value));
}

using A = Arguments;

}  // namespace

void add_tensor_functions(PyObject* module) {
    static PyMethodDef functions[] = {
        Function<register_torch>::entry("register_torch", {&A::value}),
        Function<follow_threads>::entry("follow_threads", {&A::n}),
        Function<batch_norm_tensors>::entry(
            "batch_norm_tensors",
            {&A::x, &A::running_mean, &A::running_var, &A::weight, &A::bias, &A::training,
             &A::momentum, &A::eps, &A::residual, &A::activation, &A::negative_slope}),
        Function<call_module>::entry("call_module", {&A::module, &A::x, &A::residual}),
        Function<recorded_forward>::entry(
            "recorded_forward", {&A::ctx, &A::call, &A::x, &A::weight, &A::bias, &A::residual}),
        Function<recorded_backward>::entry("recorded_backward", {&A::ctx, &A::dy}),
        Function<as_method>::entry("as_method", {&A::value}),
        {nullptr, nullptr, 0, nullptr},
    };
    if (PyModule_AddFunctions(module, functions) != 0) throw PythonError();
}

}  // namespace fastbn::bindings
