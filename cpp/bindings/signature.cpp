#include "bindings/signature.hpp"

#include <exception>
#include <new>
#include <stdexcept>

namespace fastbn::bindings {
namespace {

std::string quoted(PyObject* name) { return "'" + utf8(name) + "'"; }

}  // namespace

void Signature::set(const char* function, std::initializer_list<Parameter> parameters) {
    if (parameters.size() > max_parameters) throw std::length_error("max_parameters is too small");
    *this = Signature();
    function_ = function;
    // As Python's Argument Clinic writes it: the interpreter shows what stands before the dashes.
    text_ = std::string(function) + "($module)\n--\n\n";
    bool has_star = false;
    for (const Parameter field : parameters) {
        const Argument& parameter = Arguments::defaults().*field;
        const bool is_required = parameter.value == nullptr;
        // Python can write a required parameter after an optional one only behind a star.
        const bool needs_star = is_required && required_count_ < count_ && !has_star;
        has_star = has_star || needs_star;
        add_text(parameter, count_ == 0, needs_star);
        if (is_required) required_[required_count_++] = count_;
        names_[count_] = owned(PyUnicode_InternFromString(parameter.name)).release().ptr();
        fields_[count_++] = field;
    }
}

void Signature::add_text(const Argument& parameter, bool is_first, bool needs_star) {
    std::string entry = is_first ? ", /, " : ", ";
    if (needs_star) entry += "*, ";
    entry += parameter.name;
    if (parameter.value != nullptr) {
        entry += "=" + utf8(owned(PyObject_Repr(parameter.value)).ptr());
    }
    text_.insert(text_.find(')'), entry);
}

void Signature::fail(const std::string& message) const {
    raise(PyExc_TypeError, function_ + ("() " + message));
}

// Keywords usually come in the order of the parameters and are interned, so that a search which
// starts behind the one before succeeds at its first comparison of pointers.
int Signature::find(PyObject* keyword, int start) const {
    for (int i = start; i < count_; ++i) {
        if (names_[i] == keyword) return i;
    }
    for (int i = 0; i < start; ++i) {
        if (names_[i] == keyword) return i;
    }
    for (int i = 0; i < count_; ++i) {
        if (PyUnicode_Compare(names_[i], keyword) == 0) return i;
    }
    fail("got an unexpected keyword argument " + quoted(keyword));
}

void Signature::match(PyObject* const* given, Py_ssize_t n, PyObject* keywords,
                      Arguments& arguments) const {
    const Py_ssize_t keyword_count = keywords == nullptr ? 0 : PyTuple_GET_SIZE(keywords);
    if (n > count_) {
        const std::string most = count_ == 0 ? "no" : "at most " + std::to_string(count_);
        fail("takes " + most + (count_ == 1 ? " argument (" : " arguments (") + std::to_string(n) +
             " given)");
    }
    for (Py_ssize_t i = 0; i < n; ++i) (arguments.*fields_[i]).value = given[i];
    int start = static_cast<int>(n);
    for (Py_ssize_t k = 0; k < keyword_count; ++k) {
        const int i = find(PyTuple_GET_ITEM(keywords, k), start);
        if (i < n) fail("got multiple values for argument " + quoted(names_[i]));
        (arguments.*fields_[i]).value = given[n + k];
        start = i + 1;
    }
    for (int r = 0; r < required_count_; ++r) {
        const int i = required_[r];
        if ((arguments.*fields_[i]).value == nullptr) {
            fail("missing required argument " + quoted(names_[i]));
        }
    }
}

void set_python_error() noexcept {
    try {
        throw;
    } catch (const PythonError&) {
        return;  // it is set already
    } catch (const std::invalid_argument& error) {
        PyErr_SetString(PyExc_ValueError, error.what());
    } catch (const std::bad_alloc&) {
        PyErr_NoMemory();
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
    } catch (...) {
        PyErr_SetString(PyExc_SystemError, "unknown C++ exception");
    }
}

}  // namespace fastbn::bindings
