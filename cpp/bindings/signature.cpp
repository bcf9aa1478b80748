#include "bindings/signature.hpp"

#include <cstdint>
#include <exception>
#include <new>
#include <stdexcept>

namespace fastbn::bindings {
namespace {

std::string quoted(PyObject* name) { return "'" + utf8(name) + "'"; }

}  // namespace

void Signature::set(const char* function, const std::vector<Parameter>& parameters,
                    bool all_by_position) {
    if (parameters.size() > max_parameters) throw std::length_error("max_parameters is too small");
    *this = Signature();
    function_ = function;
    bool has_star = false;
    for (const Parameter field : parameters) {
        if (field == keyword_only && all_by_position) continue;
        if (field == keyword_only) {
            has_star = true;
            by_position_ = count_;
            show("*");
            continue;
        }
        const Argument& parameter = Arguments::defaults().*field;
        const bool is_required = parameter.value == nullptr;
        std::string entry = parameter.name;
        if (!is_required) entry += "=" + utf8(owned(PyObject_Repr(parameter.value)).ptr());
        // Python can write a required parameter after an optional one only behind a star.
        if (is_required && required_count_ < count_ && !has_star) {
            has_star = true;
            show("*");
        }
        show(entry);
        if (is_required) required_[required_count_++] = count_;
        names_[count_] = owned(PyUnicode_InternFromString(parameter.name)).release().ptr();
        fields_[count_++] = field;
    }
    if (by_position_ == 0) by_position_ = count_;
}

std::string Signature::documentation(const char* first) const {
    const std::string between = *first == '\0' || shown_.empty() ? "" : ", ";
    return std::string(function_) + "(" + first + between + shown_ + ")" + end_of_signature;
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
    if (n > by_position_) {
        const std::string most =
            by_position_ == 0 ? "no" : "at most " + std::to_string(by_position_);
        const std::string kind = by_position_ < count_ ? " positional" : "";
        fail("takes " + most + kind + (by_position_ == 1 ? " argument (" : " arguments (") +
             std::to_string(n) + " given)");
    }
    for (Py_ssize_t i = 0; i < n; ++i) (arguments.*fields_[i]).value = given[i];
    int start = static_cast<int>(n);
    std::uint32_t named = 0;  // a bit for each
    static_assert(max_parameters <= 32);
    for (Py_ssize_t k = 0; k < keyword_count; ++k) {
        const int i = find(PyTuple_GET_ITEM(keywords, k), start);
        const std::uint32_t bit = std::uint32_t{1} << i;
        if (i < n || (named & bit) != 0) {
            fail("got multiple values for argument " + quoted(names_[i]));
        }
        named |= bit;
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
        wait_for_the_end();
    }
}

}  // namespace fastbn::bindings
