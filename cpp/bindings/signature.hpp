// The parameters of the module's functions, and how a call in Python becomes a call in C++. It
// takes a few nanoseconds for each argument: the interpreter hands over its own array of values
// (METH_FASTCALL | METH_KEYWORDS), and no memory is asked for.
//
// A parameter is a field of Arguments, which says its name and default once for all functions. A
// function lists those that it has, in order; the signature that help() shows follows from that:
//
//     py::object scale(const Arguments& arguments);
//     Function<scale>::entry("scale", {&Arguments::x, keyword_only, &Arguments::axis})
#pragma once

#include <initializer_list>
#include <string>
#include <vector>

#include "bindings/python.hpp"

namespace fastbn::bindings {

// A parameter and its value in a call: what was given, which the caller keeps alive, or the
// default. A null value as default says that the parameter is required where it is listed.
struct Argument {
    const char* name;
    PyObject* value;

    bool is_none() const { return value == Py_None; }

    static Argument required(const char* name) { return {name, nullptr}; }
    static Argument optional(const char* name) { return {name, Py_None}; }
    template <class Value>
    static Argument optional(const char* name, Value value) {
        return {name, to_python(value).release().ptr()};  // for the life of the process
    }
};

// All parameters that any function has. In a call those that its function does not list have their
// defaults.
struct Arguments {
    Argument x = Argument::required("x");
    Argument dy = Argument::required("dy");
    Argument axis = Argument::optional("axis", 1);
    Argument weight = Argument::optional("weight");
    Argument bias = Argument::optional("bias");
    Argument eps = Argument::optional("eps", 1e-5);
    Argument dtype = Argument::optional("dtype");
    Argument out = Argument::optional("out");
    Argument out_axis = Argument::optional("out_axis");

    Argument where = Argument::optional("where");
    Argument weights = Argument::optional("weights");
    Argument omit_nan = Argument::optional("omit_nan", false);
    Argument extremes = Argument::optional("extremes", false);

    Argument residual = Argument::optional("residual");
    Argument activation = Argument::optional("activation");
    Argument negative_slope = Argument::optional("negative_slope", 0.01);
    Argument clip = Argument::optional("clip");
    Argument refuse_infinity = Argument::optional("refuse_infinity", false);

    Argument training = Argument::optional("training", false);
    Argument running_mean = Argument::optional("running_mean");
    Argument running_var = Argument::optional("running_var");
    Argument momentum = Argument::optional("momentum", 0.1);
    Argument correction = Argument::optional("correction", 1);
    Argument skip_nonfinite = Argument::optional("skip_nonfinite", false);
    Argument allow_single = Argument::optional("allow_single", false);

    Argument mean = Argument::required("mean");
    Argument mean_lo = Argument::optional("mean_lo");
    Argument var = Argument::optional("var");
    Argument invstd = Argument::required("invstd");
    Argument count = Argument::optional("count");
    Argument through_statistics = Argument::optional("training", true);  // backward's
    Argument mean_dy = Argument::required("mean_dy");
    Argument mean_dy_xhat = Argument::required("mean_dy_xhat");

    Argument a = Argument::required("a");
    Argument b = Argument::required("b");

    Argument value = Argument::required("value");
    Argument types = Argument::required("types");
    Argument declaration = Argument::required("declaration");
    Argument module = Argument::required("module");
    Argument ctx = Argument::required("ctx");
    Argument call = Argument::required("call");
    Argument likes = Argument::required("likes");
    Argument n = Argument::required("n");
    Argument nbytes = Argument::required("nbytes");
    Argument full = Argument::required("full");
    Argument root = Argument::required("root");
    Argument name = Argument::required("name");
    Argument l2 = Argument::required("l2");
    Argument l3 = Argument::required("l3");

    // What calls begin with; made while the module is imported, and only read after that.
    static const Arguments& defaults() {
        static const Arguments all;
        return all;
    }
};

using Parameter = Argument Arguments::*;
// In a list of parameters: those that follow are given by name alone.
constexpr Parameter keyword_only = nullptr;
constexpr int max_parameters = 24;
constexpr const char* end_of_signature = "\n--\n\n";

// A function's parameters, in order. Written once, while fastbn is imported, and only read after
// that: calls need no lock, in an interpreter without a global lock too.
class Signature {
public:
    // all_by_position: also those that are `keyword_only` in the list.
    void set(const char* function, const std::vector<Parameter>& parameters, bool all_by_position);
    // What a function's documentation begins with, as Python's Argument Clinic writes it: the
    // interpreter shows what stands before `end_of_signature`. first: before the parameters.
    std::string documentation(const char* first = "") const;

    // Finds every parameter's value; `given` are n values by position, then those of `keywords`.
    // Raises TypeError as Python's own functions do.
    void match(PyObject* const* given, Py_ssize_t n, PyObject* keywords,
               Arguments& arguments) const;

private:
    void show(const std::string& entry) { shown_ += (shown_.empty() ? "" : ", ") + entry; }
    int find(PyObject* keyword, int start) const;
    [[noreturn]] void fail(const std::string& message) const;

    const char* function_ = nullptr;
    int count_ = 0;
    int by_position_ = 0;
    Parameter fields_[max_parameters] = {};
    PyObject* names_[max_parameters] = {};  // interned
    int required_count_ = 0;
    int required_[max_parameters] = {};
    std::string shown_;  // the parameters, as help() does
};

// Sets Python's error to the C++ exception in flight.
void set_python_error() noexcept;

// is_public: it is one of fastbn's own functions, which Python declares and documents.
template <py::object (*function)(const Arguments&), bool is_public = false>
struct Function {
    static inline Signature signature;
    static inline std::string documentation;

    static PyObject* call(PyObject*, PyObject* const* given, Py_ssize_t n,
                          PyObject* keywords) noexcept {
        try {
            Arguments arguments = Arguments::defaults();
            signature.match(given, n, keywords, arguments);
            return function(arguments).release().ptr();
        } catch (...) {
            set_python_error();
            return nullptr;
        }
    }

    // The entry in a table of functions; private_ones: parameters that follow the others.
    static PyMethodDef entry(const char* name, std::initializer_list<Parameter> parameters = {},
                             std::initializer_list<Parameter> private_ones = {}) {
        std::vector<Parameter> all = parameters;
        all.insert(all.end(), private_ones);
        signature.set(name, all, !is_public);
        documentation = signature.documentation(is_public ? "" : "$module, /");
        // Python's own documented way to keep this type of function in a table of the other.
        const auto untyped =
            reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&Function::call));
        return {name, untyped, METH_FASTCALL | METH_KEYWORDS, documentation.c_str()};
    }
};

// Add all functions to the module: those on arrays and settings (functions.cpp), and those on
// PyTorch's tensors (tensors.cpp).
void add_functions(PyObject* module);
void add_tensor_functions(PyObject* module);

}  // namespace fastbn::bindings
