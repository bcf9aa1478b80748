// The functions of the module: one for each of the engine's operations, which convert arguments,
// allocate results and release the interpreter lock round the engine; fastbn's public functions on
// arrays, which Python declares and documents; other libraries' arrays; and settings.
#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "bindings/arguments.hpp"
#include "bindings/dlpack.hpp"
#include "bindings/pool.hpp"
#include "bindings/signature.hpp"
#include "engine/batch.hpp"
#include "engine/dispatch.hpp"
#include "engine/machine.hpp"
#include "engine/memory.hpp"
#include "engine/operations.hpp"
#include "engine/threads.hpp"

namespace fastbn::bindings {
namespace {

// ---- What the functions on arrays have in common ----

// x with the axes that are its features, and what may come with it: the arguments, which keep the
// arrays alive, and the same as the engine sees it.
struct Inputs {
    explicit Inputs(const Arguments& arguments)
        : x(array_argument(arguments.x)),
          batch(x.ref, axes_argument(x, arguments.axis)),
          weight(optional_argument(arguments.weight)),
          bias(optional_argument(arguments.bias)),
          where(broadcast_argument(arguments.where, Kind::boolean, x)),
          weights(broadcast_argument(arguments.weights, Kind::data, x)),
          residual(optional_argument(arguments.residual, Kind::floating)) {
        batch.where = where.ref;
        batch.weights = weights.ref;
        batch.omit_nan = bool_argument(arguments.omit_nan) && is_float(x.ref.dtype);
        batch.weight = weight.ref;
        batch.bias = bias.ref;
        batch.epilogue.residual = residual.ref;
        batch.epilogue.activation =
            activation_argument(arguments.activation, arguments.negative_slope);
    }

    bool weighted() const { return where || weights; }

    ArrayArg x;
    Batch batch;
    ArrayArg weight;
    ArrayArg bias;
    ArrayArg where;
    ArrayArg weights;
    ArrayArg residual;
};

void check_both_or_neither(const Argument& mean, const Argument& var) {
    if (mean.is_none() == var.is_none()) return;
    const char* const missing = mean.is_none() ? mean.name : var.name;
    const char* const other = mean.is_none() ? var.name : mean.name;
    raise(PyExc_ValueError,
          missing + (" must be given together with " + std::string(other)) + ", got None");
}

void check_residual(const ArrayArg& residual, DType type, PyObject* numpy_type,
                    const char* typed_name) {
    if (!residual || residual.ref.dtype == type) return;
    wrong_type(residual.name, std::string("have ") + typed_name + "'s dtype " + name_of(numpy_type),
               name_of(dtype_of_array(residual.owner.ptr())));
}

void check_tuple(const Argument& argument) {
    if (PyTuple_Check(argument.value) != 0) return;
    wrong_type(argument.name, "be a tuple", shown(argument.value));
}

// ---- Python's types of results ----

// Plain tuples until register_types has taken the others. Written while fastbn is imported, and
// kept for the life of the process.
PyTypeObject* type_of_train_result = &PyTuple_Type;
PyTypeObject* type_of_gradients = &PyTuple_Type;
PyTypeObject* type_of_residual_gradients = &PyTuple_Type;
PyTypeObject* type_of_moments = nullptr;

// A named tuple, which is a tuple of another type. Its own function in Python would take as long as
// the call of the kernel for a small array.
template <class... Values>
py::object named_tuple(PyTypeObject* type, const Values&... values) {
    py::object tuple = owned(type->tp_alloc(type, sizeof...(values)));
#if PY_VERSION_HEX >= 0x030E0000
    reinterpret_cast<PyTupleObject*>(tuple.ptr())->ob_hash = -1;  // not computed yet
#endif
    Py_ssize_t i = 0;
    (PyTuple_SET_ITEM(tuple.ptr(), i++, borrowed(values.ptr()).release().ptr()), ...);
    return tuple;
}

// ---- Statistics ----

// How many values a channel has, as a result: the array `counts`; or one number for all channels,
// where there is no such array, or where `may_be_number` and no channel omits any value.
py::object count_result(const Features& features, const py::object& counts, bool may_be_number) {
    if (!counts) return to_python(features.count);
    const double* const values = doubles_of(counts);
    const auto all = static_cast<double>(features.count);
    const auto is_all = [&](double count) { return count == all; };
    const bool is_number = may_be_number && std::all_of(values, values + features.channels, is_all);
    return is_number ? to_python(features.count) : counts;
}

// Returns (count, mean, m2, low part of the mean, least value, largest value); the last two are
// None unless `extremes`. With omit_nan alone, count is a number where there was no NaN.
py::object moments(const Arguments& arguments) {
    const Inputs in(arguments);
    const Features& features = in.batch.features;
    const bool extremes = bool_argument(arguments.extremes);
    const py::object mean = statistic_array(features);
    const py::object m2 = statistic_array(features);
    const py::object mean_lo = statistic_array(features);
    py::object count;
    py::object min = none();
    py::object max = none();
    Statistics out;
    out.mean = doubles_of(mean);
    out.mean_lo = doubles_of(mean_lo);
    out.m2 = doubles_of(m2);
    if (in.weighted() || in.batch.omit_nan) {
        count = statistic_array(features);
        out.count = doubles_of(count);
    }
    if (extremes) {
        min = statistic_array(features);
        max = statistic_array(features);
        out.min = doubles_of(min);
        out.max = doubles_of(max);
    }
    without_gil(in.batch.x.bytes(), [&] { fastbn::moments(in.batch, out); });
    return tuple_of(count_result(features, count, !in.weighted()), mean, m2, mean_lo, min, max);
}

// Returns (least value, largest value).
py::object value_range(const Arguments& arguments) {
    const Inputs in(arguments);
    const py::object min = statistic_array(in.batch.features);
    const py::object max = statistic_array(in.batch.features);
    double* const least = doubles_of(min);
    double* const largest = doubles_of(max);
    without_gil(in.batch.x.bytes(), [&] { fastbn::value_range(in.batch, least, largest); });
    return tuple_of(min, max);
}

// SetStatistics out of a tuple (count, mean, m2, low part of the mean, low part of m2, least value,
// largest value), whose arrays it keeps alive. The count may be an int, and the last two may be
// None.
struct SetStatisticsArg {
    explicit SetStatisticsArg(const Argument& argument) {
        check_tuple(argument);
        Argument given_count = Argument::required("count");
        Argument given_mean = Argument::required("mean");
        Argument given_m2 = Argument::required("m2");
        Argument given_mean_lo = Argument::required("mean_lo");
        Argument given_m2_lo = Argument::required("m2_lo");
        Argument given_min = Argument::required("min");
        Argument given_max = Argument::required("max");
        if (PyArg_ParseTuple(argument.value, "OOOOOOO", &given_count.value, &given_mean.value,
                             &given_m2.value, &given_mean_lo.value, &given_m2_lo.value,
                             &given_min.value, &given_max.value) == 0) {
            throw PythonError();
        }
        if (PyLong_Check(given_count.value) != 0) {
            ref.count_of_each = real_argument(given_count);
        } else {
            count = array_argument(given_count);
        }
        mean = array_argument(given_mean);
        m2 = array_argument(given_m2);
        mean_lo = array_argument(given_mean_lo);
        m2_lo = array_argument(given_m2_lo);
        min = optional_argument(given_min);
        max = optional_argument(given_max);
        ref.count = count.ref;
        ref.mean = mean.ref;
        ref.m2 = m2.ref;
        ref.mean_lo = mean_lo.ref;
        ref.m2_lo = m2_lo.ref;
        ref.min = min.ref;
        ref.max = max.ref;
    }

    bool has_extremes() const { return min && max; }

    ArrayArg count;
    ArrayArg mean;
    ArrayArg m2;
    ArrayArg mean_lo;
    ArrayArg m2_lo;
    ArrayArg min;
    ArrayArg max;
    SetStatistics ref;
};

// Returns such a tuple for the values of both sets. The count is None if both sets' counts are
// ints, which Python adds exactly; the last two are None unless both sets have them.
py::object merge_moments(const Arguments& arguments) {
    const SetStatisticsArg a(arguments.a);
    const SetStatisticsArg b(arguments.b);
    const py::object mean = statistic_array(a.mean.ref);
    const py::object m2 = statistic_array(a.mean.ref);
    const py::object mean_lo = statistic_array(a.mean.ref);
    const py::object m2_lo = statistic_array(a.mean.ref);
    py::object count = none();
    py::object min = none();
    py::object max = none();
    CentralMoments<double*> out{};
    out.mean = doubles_of(mean);
    out.m2 = doubles_of(m2);
    out.mean_lo = doubles_of(mean_lo);
    out.m2_lo = doubles_of(m2_lo);
    if (a.count || b.count) {
        count = statistic_array(a.mean.ref);
        out.count = doubles_of(count);
    }
    double* least = nullptr;
    double* largest = nullptr;
    if (a.has_extremes() && b.has_extremes()) {
        min = statistic_array(a.mean.ref);
        max = statistic_array(a.mean.ref);
        least = doubles_of(min);
        largest = doubles_of(max);
    }
    without_gil(a.mean.ref.bytes(), [&] { fastbn::merge(a.ref, b.ref, out, least, largest); });
    return tuple_of(count, mean, m2, mean_lo, m2_lo, min, max);
}

// Raises what the other functions would for these arguments.
py::object check_weights(const Arguments& arguments) {
    const Inputs in(arguments);
    without_gil(in.batch.x.bytes(), [&] { fastbn::check_weights(in.batch); });
    return none();
}

// ---- Forward ----

// Trains and returns y; updates running statistics where they are given, both of them.
ArrayArg train(const Inputs& in, const Arguments& arguments, const Statistics& statistics) {
    const double eps = real_argument(arguments.eps);
    const bool allow_single = bool_argument(arguments.allow_single);
    Running running;
    running.momentum = real_argument(arguments.momentum);
    running.correction = real_argument(arguments.correction);
    running.skip_nonfinite = bool_argument(arguments.skip_nonfinite);
    ArrayArg running_mean;
    ArrayArg running_var;
    check_both_or_neither(arguments.running_mean, arguments.running_var);
    if (!arguments.running_mean.is_none()) {
        running_mean = writable_argument(arguments.running_mean);
        running_var = writable_argument(arguments.running_var);
        running.mean = running_mean.ref;
        running.var = running_var.ref;
        check_disjoint(running_mean, running_var);
    }
    for (const ArrayArg* argument :
         {&in.x, &in.residual, &in.where, &in.weights, &in.weight, &in.bias}) {
        check_disjoint(running_mean, *argument);
        check_disjoint(running_var, *argument);
    }
    ArrayArg y = output_argument(
        arguments.out, dtype_argument(arguments.dtype), in.x, {&in.x, &in.residual},
        {&in.where, &in.weights, &in.weight, &in.bias, &running_mean, &running_var});
    check_residual(in.residual, y.ref.dtype, dtype_of_array(y.owner.ptr()), "y");
    without_gil(in.batch.x.bytes(),
                [&] { fastbn::train(in.batch, y.ref, eps, running, allow_single, statistics); });
    return y;
}

// Returns a TrainResult (y, mean, var, invstd, count).
py::object batch_norm_train(const Arguments& arguments) {
    const Inputs in(arguments);
    const Features& features = in.batch.features;
    const py::object mean = statistic_array(features);
    const py::object var = statistic_array(features);
    const py::object invstd = statistic_array(features);
    py::object count;
    Statistics out;
    out.mean = doubles_of(mean);
    out.var = doubles_of(var);
    out.invstd = doubles_of(invstd);
    if (in.weighted()) {
        count = statistic_array(features);
        out.count = doubles_of(count);
    }
    const ArrayArg y = train(in, arguments, out);
    return named_tuple(type_of_train_result, y.owner, mean, var, invstd,
                       count_result(features, count, false));
}

// Whether refuse_infinity found x to hold infinity is known only once y is written.
void check_nothing_overwritten(const Argument& out) {
    if (out.is_none()) return;
    raise(PyExc_ValueError,
          out.name + std::string(" must be None where refuse_infinity is True, got an array"));
}

// Writes y by the statistics that are given, and returns it.
py::object transform(const Inputs& in, const ArrayArg& mean, const ArrayArg& mean_lo,
                     const ArrayArg& var, double eps, const ArrayArg& y, bool refuse_infinity) {
    check_residual(in.residual, y.ref.dtype, dtype_of_array(y.owner.ptr()), "y");
    bool infinite = false;
    without_gil(in.batch.x.bytes(), [&] {
        infinite = fastbn::normalize(in.batch, y.ref, mean.ref, mean_lo.ref, var.ref, eps,
                                     refuse_infinity, mean.name, var.name);
    });
    if (infinite) raise(PyExc_ValueError, "x must not hold infinity, got at least one");
    return y.owner;
}

// Returns y.
py::object batch_norm(const Arguments& arguments) {
    const Inputs in(arguments);
    if (bool_argument(arguments.training)) {
        // The batch's statistics are asked for where running ones or weights need them, in memory
        // that ends with the call: on the stack where channels are few.
        const std::ptrdiff_t n = in.batch.features.channels;
        const std::ptrdiff_t unweighted = arguments.running_mean.is_none() ? 0 : 2;
        const std::ptrdiff_t arrays = in.weighted() ? 3 : unweighted;
        const Buffer<4096> memory(bytes_of_doubles(arrays * n));
        Statistics out;
        if (arrays > 0) {
            out.mean = memory.doubles();
            out.var = out.mean + n;
        }
        if (in.weighted()) out.count = out.var + n;
        return train(in, arguments, out).owner;
    }
    const double eps = real_argument(arguments.eps);
    // Only training uses these two; what is no number is refused here too.
    real_argument(arguments.momentum);
    real_argument(arguments.correction);
    check_both_or_neither(arguments.running_mean, arguments.running_var);
    if (arguments.running_mean.is_none()) {
        raise(PyExc_ValueError, "running_mean must be given where training is False, got None");
    }
    if (in.weighted()) {
        without_gil(in.batch.x.bytes(), [&] { fastbn::check_weights(in.batch); });
    }
    const ArrayArg mean = array_argument(arguments.running_mean);
    const ArrayArg var = array_argument(arguments.running_var);
    const ArrayArg y =
        output_argument(arguments.out, dtype_argument(arguments.dtype), in.x, {&in.x, &in.residual},
                        {&mean, &var, &in.weight, &in.bias, &in.where, &in.weights});
    return transform(in, mean, ArrayArg{}, var, eps, y, false);
}

// Returns y. refuse_infinity: ValueError where x holds it, found while y is written.
py::object normalize(const Arguments& arguments) {
    Inputs in(arguments);
    if (!arguments.clip.is_none()) in.batch.epilogue.clip = real_argument(arguments.clip);
    const ArrayArg mean = array_argument(arguments.mean);
    const ArrayArg var = array_argument(arguments.var);
    const ArrayArg mean_lo = optional_argument(arguments.mean_lo);
    const double eps = real_argument(arguments.eps);
    const bool refuse_infinity = bool_argument(arguments.refuse_infinity);
    if (refuse_infinity) check_nothing_overwritten(arguments.out);
    const ResultType type = dtype_argument(arguments.dtype);
    const AxisList order = axis_order_argument(in.x, arguments.axis, arguments.out_axis);
    const ArrayArg y = output_argument(arguments.out, type, in.x, order, {&in.x, &in.residual},
                                       {&mean, &mean_lo, &var, &in.weight, &in.bias});
    return transform(in, mean, mean_lo, var, eps, y, refuse_infinity);
}

// The same, where Moments may stand for mean and var: they know the mean to more digits.
py::object normalize_by_moments(const Arguments& given) {
    const bool has_moments =
        type_of_moments != nullptr && PyObject_TypeCheck(given.mean.value, type_of_moments) != 0;
    if (!has_moments) return normalize(given);
    if (!given.var.is_none()) {
        raise(PyExc_TypeError,
              "var must not be given where mean is Moments, got " + shown(given.var.value));
    }
    const py::object statistics = call(attribute(given.mean.value, "_normalizing"), given.x.value,
                                       given.axis.value, given.eps.value);
    const py::object by = owned(in_python(PySequence_Tuple, statistics.ptr()));
    PyObject* mean = nullptr;
    PyObject* var = nullptr;
    PyObject* mean_lo = nullptr;
    if (PyArg_ParseTuple(by.ptr(), "OOO", &mean, &var, &mean_lo) == 0) throw PythonError();
    Arguments arguments = given;
    arguments.mean.value = mean;
    arguments.var.value = var;
    arguments.mean_lo.value = mean_lo;
    return normalize(arguments);
}

// ---- Backward ----

// The residual's gradient is dz: what the activation lets through of dy, for which the engine gets
// an array; or without an activation dy itself. Empty without a residual. type: what results have
// for this dy.
py::object residual_gradient(const Inputs& in, const ArrayArg& dy, const ResultType& type,
                             const ArrayArg& dx, ArrayRef& dz) {
    if (!in.residual) return {};
    if (in.batch.epilogue.activation.kind != ActivationKind::none) {
        const ArrayArg array = output_like("dresidual", in.x, type);
        dz = array.ref;
        return array.owner;
    }
    if (dy.ref.swapped || dy.ref.dtype != type.engine) {
        return call(attribute(dy.owner.ptr(), "astype"), type.numpy.ptr());
    }
    if (dx.ref.data == dy.ref.data) {  // dx will be written over dy
        return call(attribute(dy.owner.ptr(), "copy"));
    }
    return dy.owner;
}

Normalization normalization_of(const Arguments& arguments, const ArrayArg& mean,
                               const ArrayArg& invstd, const ArrayArg& count) {
    Normalization by;
    by.mean = mean.ref;
    by.invstd = invstd.ref;
    by.count = count.ref;
    by.through_statistics = bool_argument(arguments.through_statistics);
    by.allow_single = bool_argument(arguments.allow_single);
    return by;
}

// The sums and dx, which follows from them; or the sums alone; or dx alone, from the means over a
// larger batch that the caller gives. Returns those that are wanted of (dx, dweight, dbias), and
// with a residual the gradient of that after dx and the sums.
py::object backward(const Arguments& arguments, bool wants_sums, bool wants_dx) {
    const Inputs in(arguments);
    const ArrayArg dy = array_argument(arguments.dy);
    const ArrayArg mean = array_argument(arguments.mean);
    const ArrayArg invstd = array_argument(arguments.invstd);
    // Without weights the count is the number of values, whatever the caller says.
    const ArrayArg count = in.weighted() ? optional_argument(arguments.count) : ArrayArg{};
    const ArrayArg mean_dy = wants_sums ? ArrayArg{} : array_argument(arguments.mean_dy);
    const ArrayArg mean_dy_xhat = wants_sums ? ArrayArg{} : array_argument(arguments.mean_dy_xhat);
    const ResultType type = result_type_of(dy);  // of dx and the residual's gradient
    check_residual(in.residual, type.engine, type.numpy.ptr(),
                   is_float(dy.ref.dtype) ? "dy" : "dx");
    Normalization by = normalization_of(arguments, mean, invstd, count);
    by.mean_dy = mean_dy.ref;
    by.mean_dy_xhat = mean_dy_xhat.ref;
    GradientsOut out;
    ArrayArg dx;
    py::object dresidual;
    if (wants_dx) {
        dx = output_argument(arguments.out, type, in.x, {&dy, &in.x, &in.residual},
                             {&in.weight, &in.bias, &mean, &invstd, &in.where, &in.weights, &count,
                              &mean_dy, &mean_dy_xhat});
        out.dx = dx.ref;
        dresidual = residual_gradient(in, dy, type, dx, out.dz);
    }
    py::object dweight;
    py::object dbias;
    if (wants_sums) {
        dweight = statistic_array(in.batch.features);
        dbias = statistic_array(in.batch.features);
        out.dweight = doubles_of(dweight);
        out.dbias = doubles_of(dbias);
    }
    without_gil(in.batch.x.bytes(), [&] { fastbn::backward(in.batch, dy.ref, by, out); });
    if (!wants_dx) return tuple_of(dweight, dbias);
    if (!wants_sums) return dresidual ? tuple_of(dx.owner, dresidual) : tuple_of(dx.owner);
    return dresidual ? named_tuple(type_of_residual_gradients, dx.owner, dweight, dbias, dresidual)
                     : named_tuple(type_of_gradients, dx.owner, dweight, dbias);
}

// Returns Gradients (dx, dweight, dbias), or with a residual ResidualGradients, which have its
// gradient too.
py::object batch_norm_backward(const Arguments& arguments) {
    return backward(arguments, true, true);
}

// Returns (dweight, dbias): the half of the backward pass that goes before what ranks exchange.
py::object gradient_sums(const Arguments& arguments) { return backward(arguments, true, false); }

// Returns (dx,), and with a residual its gradient too: the half that comes after it. mean_dy and
// mean_dy_xhat: the sums over all ranks, divided by what all their values weigh.
py::object input_gradient(const Arguments& arguments) { return backward(arguments, false, true); }

// ---- Functions that Python declares ----

// fastbn's public functions that do all of their work here. Python declares and documents them, and
// what it calls by these names is C++: a Python function that only passes its arguments on takes
// as long as a small call's arithmetic. The package itself calls functions of the module, which
// have the same parameters and some more, all of them by position too.

using A = Arguments;
const std::initializer_list<Parameter> train_parameters = {
    &A::x,       &A::weight,   &A::bias,       keyword_only,       &A::eps,   &A::axis, &A::where,
    &A::weights, &A::residual, &A::activation, &A::negative_slope, &A::dtype, &A::out};
const std::initializer_list<Parameter> backward_parameters = {
    &A::dy,    &A::x,       &A::weight,   &A::bias,       keyword_only,
    &A::mean,  &A::invstd,  &A::count,    &A::axis,       &A::through_statistics,
    &A::where, &A::weights, &A::residual, &A::activation, &A::negative_slope,
    &A::out};
const std::initializer_list<Parameter> normalize_parameters = {
    &A::x,     &A::mean, &A::var,      &A::weight,   &A::bias,       keyword_only,
    &A::eps,   &A::axis, &A::out_axis, &A::residual, &A::activation, &A::negative_slope,
    &A::dtype, &A::out};

// Ends with an empty entry.
PyMethodDef* public_functions() {
    static PyMethodDef functions[] = {
        Function<batch_norm, true>::entry(
            "batch_norm",
            {&A::x, &A::running_mean, &A::running_var, &A::weight, &A::bias, &A::training,
             &A::momentum, &A::eps, keyword_only, &A::axis, &A::correction, &A::where, &A::weights,
             &A::residual, &A::activation, &A::negative_slope, &A::dtype, &A::out}),
        Function<batch_norm_train, true>::entry("batch_norm_train", train_parameters),
        Function<batch_norm_backward, true>::entry("batch_norm_backward", backward_parameters),
        Function<normalize_by_moments, true>::entry("normalize", normalize_parameters),
        {nullptr, nullptr, 0, nullptr},
    };
    return functions;
}

// Returns the function that a function of Python's declares, with its documentation.
py::object declared(const Arguments& arguments) {
    PyObject* const declaration = arguments.declaration.value;
    const py::object name = attribute(declaration, "__name__");
    const py::object module = attribute(declaration, "__module__");
    const py::object written = attribute(declaration, "__doc__");
    for (PyMethodDef* entry = public_functions(); entry->ml_name != nullptr; ++entry) {
        if (PyUnicode_CompareWithASCIIString(name.ptr(), entry->ml_name) != 0) continue;
        std::string doc = entry->ml_doc;
        doc.resize(doc.find(end_of_signature) + std::strlen(end_of_signature));
        // None where Python was told to leave documentation out (-OO).
        if (written.ptr() != Py_None) doc += utf8(written.ptr());
        // Kept for the life of the process, as the entry is.
        PyObject* const kept = to_python(doc.c_str()).release().ptr();
        entry->ml_doc = PyUnicode_AsUTF8(kept);
        return owned(PyCFunction_NewEx(entry, nullptr, module.ptr()));
    }
    wrong_value(arguments.declaration.name, "be of a function that the extension has",
                shown(name.ptr()));
}

// Takes the named tuples that functions return, and Moments.
py::object register_types(const Arguments& arguments) {
    PyTypeObject* train_result = nullptr;
    PyTypeObject* gradients = nullptr;
    PyTypeObject* residual_gradients = nullptr;
    PyTypeObject* moments = nullptr;
    check_tuple(arguments.types);
    if (PyArg_ParseTuple(arguments.types.value, "O!O!O!O!", &PyType_Type, &train_result,
                         &PyType_Type, &gradients, &PyType_Type, &residual_gradients, &PyType_Type,
                         &moments) == 0) {
        throw PythonError();
    }
    for (PyTypeObject* type : {train_result, gradients, residual_gradients}) {
        if (PyType_IsSubtype(type, &PyTuple_Type) == 0 || type->tp_alloc != PyType_GenericAlloc) {
            wrong_type("types", "hold named tuples", shown(reinterpret_cast<PyObject*>(type)));
        }
    }
    for (PyTypeObject* type : {train_result, gradients, residual_gradients, moments}) {
        Py_INCREF(type);
    }
    type_of_train_result = train_result;
    type_of_gradients = gradients;
    type_of_residual_gradients = residual_gradients;
    type_of_moments = moments;
    return none();
}

// ---- Other libraries' arrays ----

// Returns the array that an argument of any function would be, of whatever dtype. name: what errors
// call it.
py::object as_array(const Arguments& arguments) {
    const std::string name = text_argument(arguments.name);
    return bindings::as_array({name.c_str(), arguments.value.value});
}

// Returns a writable array of the same memory, by the functions in C that the value's type may
// offer; None where it offers none that NumPy can have.
py::object from_exchange_api(const Arguments& arguments) {
    const py::object array = array_from_exchange_api(arguments.value.value);
    return array ? array : none();
}

// The same for a tuple of values at once, with None for None. None alone where the first one is not
// of a floating-point type, or where one of them has no such array, or is not exactly of one of the
// types.
py::object exchanged_arrays(const Arguments& arguments) {
    check_tuple(arguments.value);
    check_tuple(arguments.types);
    const py::object arrays =
        arrays_from_exchange_api(arguments.value.value, arguments.types.value);
    return arrays ? arrays : none();
}

// An object of the type of each of `likes` on the memory of each array, by the functions in C of
// that type; None where `likes` has None. None alone where dtypes differ, or where a type has no
// such functions.
py::object exchanged_objects(const Arguments& arguments) {
    check_tuple(arguments.value);
    check_tuple(arguments.likes);
    const Py_ssize_t n = PyTuple_GET_SIZE(arguments.likes.value);
    if (PyTuple_GET_SIZE(arguments.value.value) != n) {
        wrong_value("value", "be as many arrays as likes", shown(arguments.value.value));
    }
    py::object objects = owned(PyTuple_New(n));
    for (Py_ssize_t i = 0; i < n; ++i) {
        PyObject* const like = PyTuple_GET_ITEM(arguments.likes.value, i);
        py::object object = none();
        if (like != Py_None) {
            const py::object given = borrowed(PyTuple_GET_ITEM(arguments.value.value, i));
            if (!is_array(given.ptr())) wrong_type("value", "hold arrays", shown(given.ptr()));
            const ArrayArg array = described("value", given, Kind::floating);
            const std::optional<ArrayRef> likeness = likeness_of(like);
            if (!likeness || array.ref.dtype != likeness->dtype) return none();
            object = object_on(array.ref, array.owner, like, *likeness);
            if (!object) return none();
        }
        PyTuple_SET_ITEM(objects.ptr(), i, object.release().ptr());
    }
    return objects;
}

// Adds 1 to the 64-bit integer that the value holds; returns whether it holds one.
py::object count_exchanged(const Arguments& arguments) {
    return to_python(count_by_exchange_api(arguments.value.value));
}

// ---- Settings ----

py::object set_num_threads(const Arguments& arguments) {
    fastbn::set_num_threads(threads_argument(arguments.n));
    return none();
}
py::object get_num_threads(const Arguments&) { return to_python(fastbn::get_num_threads()); }

// Returns the processors that a call may use.
py::object processors(const Arguments&) { return to_python(fastbn::processors()); }

// For tests: reads the container's quota once more, below a folder that stands for the root.
py::object read_quota(const Arguments& arguments) {
    fastbn::read_quota(text_argument(arguments.root));
    return none();
}
py::object set_full_teams(const Arguments& arguments) {
    fastbn::set_full_teams(bool_argument(arguments.full));
    return none();
}
// For tests: returns the threads that a call on so many bytes would take now.
py::object team_size(const Arguments& arguments) {
    const std::ptrdiff_t bytes = bytes_argument(arguments.nbytes);
    return to_python(choose_team(bytes, bytes).threads);
}

// Returns (limit, held, blocks, reused).
py::object pool_info(const Arguments&) {
    const pool::Info info = pool::info();
    return tuple_of(to_python(info.limit), to_python(info.held), to_python(info.blocks),
                    to_python(info.reused));
}
py::object set_pool_limit(const Arguments& arguments) {
    pool::set_limit(bytes_argument(arguments.nbytes));
    return none();
}
py::object clear_pool(const Arguments&) {
    pool::clear();
    return none();
}

py::object isas(const Arguments&) {
    const std::vector<std::string> available = available_isas();
    py::object names = owned(PyTuple_New(static_cast<Py_ssize_t>(available.size())));
    for (std::size_t i = 0; i < available.size(); ++i) {
        PyTuple_SET_ITEM(names.ptr(), i, to_python(available[i].c_str()).release().ptr());
    }
    return names;
}
py::object get_isa(const Arguments&) { return to_python(fastbn::get_isa()); }
py::object set_isa(const Arguments& arguments) {
    fastbn::set_isa(text_argument(arguments.name));
    return none();
}

// Returns (l2, l3).
py::object get_caches(const Arguments&) {
    return tuple_of(to_python(l2_cache()), to_python(l3_cache()));
}
py::object set_caches(const Arguments& arguments) {
    fastbn::set_caches(bytes_argument(arguments.l2), bytes_argument(arguments.l3));
    return none();
}

}  // namespace

// NOLINTNEXTLINE(readability-function-size): one list of these functions
void add_functions(PyObject* module) {
    static PyMethodDef functions[] = {
        Function<batch_norm_train>::entry("batch_norm_train", train_parameters,
                                          {&A::running_mean, &A::running_var, &A::momentum,
                                           &A::correction, &A::skip_nonfinite, &A::allow_single}),
        Function<batch_norm_backward>::entry("batch_norm_backward", backward_parameters,
                                             {&A::allow_single}),
        Function<gradient_sums>::entry(
            "gradient_sums",
            {&A::dy, &A::x, &A::weight, &A::bias, &A::mean, &A::invstd, &A::axis, &A::where,
             &A::weights, &A::residual, &A::activation, &A::negative_slope}),
        Function<input_gradient>::entry(
            "input_gradient", {&A::dy, &A::x, &A::weight, &A::bias, &A::mean, &A::invstd,
                               &A::mean_dy, &A::mean_dy_xhat, &A::axis, &A::out, &A::where,
                               &A::weights, &A::residual, &A::activation, &A::negative_slope}),
        Function<moments>::entry(
            "moments", {&A::x, &A::axis, &A::where, &A::weights, &A::omit_nan, &A::extremes}),
        Function<merge_moments>::entry("merge_moments", {&A::a, &A::b}),
        Function<normalize>::entry("normalize", normalize_parameters,
                                   {&A::clip, &A::refuse_infinity, &A::mean_lo}),
        Function<value_range>::entry("value_range",
                                     {&A::x, &A::axis, &A::where, &A::weights, &A::omit_nan}),
        Function<check_weights>::entry("check_weights", {&A::x, &A::axis, &A::where, &A::weights}),
        Function<declared>::entry("declared", {&A::declaration}),
        Function<register_types>::entry("register_types", {&A::types}),
        Function<as_array>::entry("as_array", {&A::value, &A::name}),
        Function<from_exchange_api>::entry("from_exchange_api", {&A::value}),
        Function<exchanged_arrays>::entry("exchanged_arrays", {&A::value, &A::types}),
        Function<exchanged_objects>::entry("exchanged_objects", {&A::value, &A::likes}),
        Function<count_exchanged>::entry("count_exchanged", {&A::value}),
        Function<set_num_threads>::entry("set_num_threads", {&A::n}),
        Function<get_num_threads>::entry("get_num_threads"),
        Function<processors>::entry("processors"),
        Function<read_quota>::entry("read_quota", {&A::root}),
        Function<set_full_teams>::entry("set_full_teams", {&A::full}),
        Function<team_size>::entry("team_size", {&A::nbytes}),
        Function<pool_info>::entry("pool_info"),
        Function<set_pool_limit>::entry("set_pool_limit", {&A::nbytes}),
        Function<clear_pool>::entry("clear_pool"),
        Function<isas>::entry("isas"),
        Function<get_isa>::entry("get_isa"),
        Function<set_isa>::entry("set_isa", {&A::name}),
        Function<get_caches>::entry("get_caches"),
        Function<set_caches>::entry("set_caches", {&A::l2, &A::l3}),
        {nullptr, nullptr, 0, nullptr},
    };
    if (PyModule_AddFunctions(module, functions) != 0) throw PythonError();
}

}  // namespace fastbn::bindings
