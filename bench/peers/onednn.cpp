// oneDNN 2.x batch normalization behind a few C functions, for ctypes; knows nothing of Python and
// takes no time itself.

#include <omp.h>
#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <unordered_map>

#include <oneapi/dnnl/dnnl.hpp>

namespace {

using dnnl::memory;
using dnnl::normalization_flags;
using dnnl::prop_kind;
using Forward = dnnl::batch_normalization_forward;
using Backward = dnnl::batch_normalization_backward;
using Arguments = std::unordered_map<int, memory>;

const auto affine = normalization_flags::use_scale | normalization_flags::use_shift;

std::string last_error;

}  // namespace

extern "C" {

// Sizes of the array as oneDNN counts them (channels second, whatever the layout), and what to do
// with it.
struct Problem {
    std::int64_t n, c, h, w;
    std::int32_t channels_last;
    // Hold the data in oneDNN's own nChw16c or nChw8c; the reorders are not part of a run. 0: do
    // not.
    std::int32_t block;
    std::int32_t operation;  // 0 training, 1 inference, 2 backward
    std::int32_t relu;       // whether max(0, .) follows
    float eps;
    std::int32_t threads;
};

// Memory of the caller, which outlives the primitive. In the backward pass mean and var are inputs.
struct Arrays {
    float *x, *dy, *out, *weight, *bias, *mean, *var, *dweight, *dbias;
};
}

namespace {

struct Primitive {
    dnnl::engine engine{dnnl::engine::kind::cpu, 0};
    dnnl::stream stream{engine};
    dnnl::primitive primitive;
    Arguments arguments;
    memory held, users;  // the result as it is held, and as the caller wants it
    int threads = 1;

    void run() {
        primitive.execute(stream, arguments);
        stream.wait();
    }

    memory wrap(const memory::desc& desc, float* data) { return {desc, engine, data}; }

    void reorder(memory from, memory to) {
        dnnl::reorder(from, to).execute(stream, from, to);
        stream.wait();
    }

    // The caller's array, or a copy of it in the layout `held_as` where that is another.
    memory adopt(const memory::desc& users_desc, const memory::desc& held_as, float* data) {
        memory theirs = wrap(users_desc, data);
        if (users_desc == held_as) {
            return theirs;
        }
        memory ours(held_as, engine);
        reorder(theirs, ours);
        return ours;
    }
};

memory::desc describe(const Problem& p, memory::format_tag tag) {
    return {{p.n, p.c, p.h, p.w}, memory::data_type::f32, tag};
}

normalization_flags flags_of(const Problem& p) {
    const auto flags = p.relu ? affine | normalization_flags::fuse_norm_relu : affine;
    return p.operation == 1 ? flags | normalization_flags::use_global_stats : flags;
}

void make_forward(Primitive& self, const Problem& p, const Arrays& a,
                  const Forward::primitive_desc& pd) {
    const memory::desc channel({p.c}, memory::data_type::f32, memory::format_tag::a);
    self.primitive = Forward(pd);
    self.arguments.insert({DNNL_ARG_MEAN, self.wrap(channel, a.mean)});
    self.arguments.insert({DNNL_ARG_VARIANCE, self.wrap(channel, a.var)});
    self.arguments.insert({DNNL_ARG_SCALE, self.wrap(channel, a.weight)});
    self.arguments.insert({DNNL_ARG_SHIFT, self.wrap(channel, a.bias)});
    self.arguments.insert({DNNL_ARG_DST, self.held});
    if (pd.workspace_desc().get_size() > 0) {
        self.arguments.insert({DNNL_ARG_WORKSPACE, memory(pd.workspace_desc(), self.engine)});
    }
}

void make_backward(Primitive& self, const Problem& p, const Arrays& a, const memory::desc& users,
                   const memory::desc& held, const Forward::primitive_desc& hint) {
    const memory::desc channel({p.c}, memory::data_type::f32, memory::format_tag::a);
    const Backward::desc desc(prop_kind::backward, held, held, p.eps, flags_of(p));
    const Backward::primitive_desc pd(desc, self.engine, hint);
    if (p.relu) {  // what it let through is in the workspace that a forward pass fills
        make_forward(self, p, a, hint);
        self.run();
    }
    self.primitive = Backward(pd);
    self.arguments.insert({DNNL_ARG_DIFF_DST, self.adopt(users, held, a.dy)});
    self.arguments.insert({DNNL_ARG_MEAN, self.wrap(channel, a.mean)});
    self.arguments.insert({DNNL_ARG_VARIANCE, self.wrap(channel, a.var)});
    self.arguments.insert({DNNL_ARG_SCALE, self.wrap(channel, a.weight)});
    self.arguments.insert({DNNL_ARG_SHIFT, self.wrap(channel, a.bias)});
    self.arguments.insert({DNNL_ARG_DIFF_SCALE, self.wrap(channel, a.dweight)});
    self.arguments.insert({DNNL_ARG_DIFF_SHIFT, self.wrap(channel, a.dbias)});
    self.arguments.insert({DNNL_ARG_DIFF_SRC, self.held});
}

void make(Primitive& self, const Problem& p, const Arrays& a) {
    const auto tag = p.channels_last ? memory::format_tag::nhwc : memory::format_tag::nchw;
    const memory::desc users = describe(p, tag);
    const auto blocks = p.block == 16 ? memory::format_tag::nChw16c : memory::format_tag::nChw8c;
    const memory::desc held = p.block > 0 ? describe(p, blocks) : users;
    const auto kind = p.operation == 1 ? prop_kind::forward_inference : prop_kind::forward_training;
    const Forward::desc desc(kind, held, p.eps, flags_of(p));
    const Forward::primitive_desc forward(desc, self.engine);

    self.threads = p.threads;
    self.users = self.wrap(users, a.out);
    self.held = p.block > 0 ? memory(held, self.engine) : self.users;
    self.arguments.insert({DNNL_ARG_SRC, self.adopt(users, held, a.x)});
    if (p.operation == 2) {
        make_backward(self, p, a, users, held, forward);
    } else {
        make_forward(self, p, a, forward);
    }
}

}  // namespace

extern "C" {

// Returns a primitive bound to the arrays, or null; then onednn_error says why.
void* onednn_create(const Problem* problem, const Arrays* arrays) {
    try {
        omp_set_num_threads(problem->threads);
        auto self = std::make_unique<Primitive>();
        make(*self, *problem, *arrays);
        return self.release();
    } catch (const std::exception& error) {
        last_error = error.what();
        return nullptr;
    }
}

// Does the operation once and waits for it. Returns 0, or 1 where it failed.
int onednn_run(void* primitive) {
    auto& self = *static_cast<Primitive*>(primitive);
    try {
        omp_set_num_threads(self.threads);
        self.run();
        return 0;
    } catch (const std::exception& error) {
        last_error = error.what();
        return 1;
    }
}

// Brings a blocked result into the caller's layout.
void onednn_fetch(void* primitive) {
    auto& self = *static_cast<Primitive*>(primitive);
    if (self.held != self.users) {
        self.reorder(self.held, self.users);
    }
}

void onednn_destroy(void* primitive) { delete static_cast<Primitive*>(primitive); }

const char* onednn_error() { return last_error.c_str(); }

int onednn_version() {
    const dnnl_version_t* v = dnnl_version();
    return 10000 * v->major + 100 * v->minor + v->patch;
}
}
