// The parameters of the module's functions, and how a call in Python becomes a call in C++. It
// takes a few nanoseconds for each argument: the interpreter hands over its own array of values
// (METH_FASTCALL | METH_KEYWORDS), and no memory is asked for.
//
// A function lists its parameters once, as the fields of a struct:
//
//     struct ScaleArguments : ArgumentList {
//         using ArgumentList::ArgumentList;
//         Argument x = required("x");
//         Argument factor = optional("factor", 2.0);
//     };
//     py::object scale(const ScaleArguments& arguments);
//
// Names, order, defaults, and the signature that help() shows all follow from that.
#pragma once

#include <string>

#include "bindings/python.hpp"

namespace fastbn::bindings {

// A parameter and its value in a call: what was given, which the caller keeps alive, or the
// default.
struct Argument {
    const char* name;
    PyObject* value;

    bool is_none() const { return value == Py_None; }
};

constexpr int max_parameters = 24;

// A function's parameters, in order. Written once, while the module is imported, and only read
// after that: calls need no lock, in an interpreter without a global lock too.
class Signature {
public:
    void start(const char* function);
    // An empty default: the parameter is required.
    void add(const char* parameter, py::object default_value);
    const std::string& text() const { return text_; }

    // Finds every parameter's value; `given` are n values by position, then those of `keywords`.
    // Raises TypeError as Python's own functions do.
    void match(PyObject* const* given, Py_ssize_t n, PyObject* keywords, PyObject** values) const;

private:
    int find(PyObject* keyword, int start) const;
    [[noreturn]] void fail(const std::string& message) const;

    const char* function_ = nullptr;
    int count_ = 0;
    int required_count_ = 0;
    int required_[max_parameters] = {};
    PyObject* names_[max_parameters] = {};     // interned
    PyObject* defaults_[max_parameters] = {};  // null where required
    bool has_star_ = false;
    std::string text_;
};

// What a struct of parameters begins with. Made from a call's values, its fields take one each;
// made from a Signature, they enter themselves in it.
class ArgumentList {
public:
    explicit ArgumentList(PyObject* const* values) : values_(values) {}
    explicit ArgumentList(Signature& signature) : signature_(&signature) {}

protected:
    Argument required(const char* name) {
        if (signature_ != nullptr) signature_->add(name, py::object());
        return next(name);
    }
    Argument optional(const char* name) {
        if (signature_ != nullptr) signature_->add(name, none());
        return next(name);
    }
    Argument optional(const char* name, bool value) {
        if (signature_ != nullptr) signature_->add(name, to_python(value));
        return next(name);
    }
    Argument optional(const char* name, int value) {
        if (signature_ != nullptr) signature_->add(name, to_python(value));
        return next(name);
    }
    Argument optional(const char* name, double value) {
        if (signature_ != nullptr) signature_->add(name, to_python(value));
        return next(name);
    }

private:
    Argument next(const char* name) { return {name, values_ == nullptr ? nullptr : *values_++}; }

    PyObject* const* values_ = nullptr;
    Signature* signature_ = nullptr;
};

struct NoArguments : ArgumentList {
    using ArgumentList::ArgumentList;
};

// Sets Python's error to the C++ exception in flight.
void set_python_error() noexcept;

template <auto function>
struct Function;

template <class Arguments, py::object (*function)(const Arguments&)>
struct Function<function> {
    static inline Signature signature;

    static PyObject* call(PyObject*, PyObject* const* given, Py_ssize_t n,
                          PyObject* keywords) noexcept {
        try {
            PyObject* values[max_parameters];
            signature.match(given, n, keywords, values);
            return function(Arguments(values)).release().ptr();
        } catch (...) {
            set_python_error();
            return nullptr;
        }
    }

    // The entry in a module's table of functions.
    static PyMethodDef entry(const char* name) {
        signature.start(name);
        const Arguments entered(signature);
        // Python's own documented way to keep this type of function in a table of the other.
        const auto untyped =
            reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&Function::call));
        return {name, untyped, METH_FASTCALL | METH_KEYWORDS, signature.text().c_str()};
    }
};

}  // namespace fastbn::bindings
