// The Python module fastbn._core: its settings, and what it is made of when it is imported.
#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "bindings/arguments.hpp"
#include "bindings/functions.hpp"
#include "bindings/numpy.hpp"
#include "bindings/pool.hpp"
#include "bindings/signature.hpp"
#include "engine/caches.hpp"
#include "engine/dispatch.hpp"
#include "engine/threads.hpp"

namespace fastbn::bindings {
namespace {

struct ThreadsArguments : ArgumentList {
    using ArgumentList::ArgumentList;
    Argument n = required("n");
};

py::object set_num_threads(const ThreadsArguments& arguments) {
    fastbn::set_num_threads(threads_argument(arguments.n));
    return none();
}

py::object get_num_threads(const NoArguments&) { return to_python(fastbn::get_num_threads()); }

// Returns the processors that a call may use.
py::object processors(const NoArguments&) { return to_python(fastbn::processors()); }

struct QuotaArguments : ArgumentList {
    using ArgumentList::ArgumentList;
    Argument root = required("root");
};

// For tests: reads the container's quota once more, below a folder that stands for the root.
py::object read_quota(const QuotaArguments& arguments) {
    fastbn::read_quota(text_argument(arguments.root));
    return none();
}

struct FullTeamsArguments : ArgumentList {
    using ArgumentList::ArgumentList;
    Argument full = required("full");
};

py::object set_full_teams(const FullTeamsArguments& arguments) {
    fastbn::set_full_teams(bool_argument(arguments.full));
    return none();
}

struct TeamArguments : ArgumentList {
    using ArgumentList::ArgumentList;
    Argument nbytes = required("nbytes");
};

// For tests: returns the threads that a call on so many bytes would take now.
py::object team_size(const TeamArguments& arguments) {
    const std::ptrdiff_t bytes = bytes_argument(arguments.nbytes);
    return to_python(choose_team(bytes, bytes).threads);
}

struct PoolLimitArguments : ArgumentList {
    using ArgumentList::ArgumentList;
    Argument nbytes = required("nbytes");
};

py::object set_pool_limit(const PoolLimitArguments& arguments) {
    pool::set_limit(bytes_argument(arguments.nbytes));
    return none();
}

// Returns (limit, held, blocks, reused).
py::object pool_info(const NoArguments&) {
    const pool::Info info = pool::info();
    return tuple_of(to_python(info.limit), to_python(info.held), to_python(info.blocks),
                    to_python(info.reused));
}

py::object clear_pool(const NoArguments&) {
    pool::clear();
    return none();
}

struct IsaArguments : ArgumentList {
    using ArgumentList::ArgumentList;
    Argument name = required("name");
};

py::object set_isa(const IsaArguments& arguments) {
    fastbn::set_isa(text_argument(arguments.name));
    return none();
}

py::object get_isa(const NoArguments&) { return to_python(fastbn::get_isa()); }

py::object isas(const NoArguments&) {
    const std::vector<std::string> available = available_isas();
    py::object names = owned(PyTuple_New(static_cast<Py_ssize_t>(available.size())));
    for (std::size_t i = 0; i < available.size(); ++i) {
        PyTuple_SET_ITEM(names.ptr(), i, to_python(available[i].c_str()).release().ptr());
    }
    return names;
}

struct CachesArguments : ArgumentList {
    using ArgumentList::ArgumentList;
    Argument l2 = required("l2");
    Argument l3 = required("l3");
};

py::object set_caches(const CachesArguments& arguments) {
    fastbn::set_caches({bytes_argument(arguments.l2), bytes_argument(arguments.l3)});
    return none();
}

// Returns (l2, l3).
py::object get_caches(const NoArguments&) {
    const Caches sizes = caches();
    return tuple_of(to_python(sizes.l2), to_python(sizes.l3));
}

void set_attribute(PyObject* module, const char* name, const py::object& value) {
    if (PyObject_SetAttrString(module, name, value.ptr()) != 0) throw PythonError();
}

void fill(PyObject* module) {
    choose_isa();
    choose_caches();
    load_numpy();
    install_fork_handler();
    fastbn::read_quota("");
    pool::protect_from_fork();

    add_array_functions(module);
    static PyMethodDef settings[] = {
        Function<set_num_threads>::entry("set_num_threads"),
        Function<get_num_threads>::entry("get_num_threads"),
        Function<processors>::entry("processors"),
        Function<read_quota>::entry("read_quota"),
        Function<set_full_teams>::entry("set_full_teams"),
        Function<team_size>::entry("team_size"),
        Function<pool_info>::entry("pool_info"),
        Function<set_pool_limit>::entry("set_pool_limit"),
        Function<clear_pool>::entry("clear_pool"),
        Function<isas>::entry("isas"),
        Function<get_isa>::entry("get_isa"),
        Function<set_isa>::entry("set_isa"),
        Function<get_caches>::entry("get_caches"),
        Function<set_caches>::entry("set_caches"),
        {nullptr, nullptr, 0, nullptr},
    };
    if (PyModule_AddFunctions(module, settings) != 0) throw PythonError();
    set_attribute(module, "version", to_python(FASTBN_VERSION));
    set_attribute(module, "openmp", to_python(has_openmp()));
    set_attribute(module, "compiler", to_python(FASTBN_COMPILER));
    set_attribute(module, "build_type", to_python(FASTBN_BUILD_TYPE));
}

}  // namespace
}  // namespace fastbn::bindings

// What calls share is constant once the module is imported, atomic, or behind the pool's lock: a
// Python without a global lock need not bring it back for this module.
// NOLINTNEXTLINE(bugprone-reserved-identifier,readability-identifier-naming): Python asks for it
PYBIND11_MODULE(_core, module, pybind11::mod_gil_not_used()) {
    module.doc() = "Compiled kernels of fastbn; documented in fastbn's Python functions.";
    try {
        fastbn::bindings::fill(module.ptr());
    } catch (const fastbn::bindings::PythonError&) {
        throw pybind11::error_already_set();
    }
}
