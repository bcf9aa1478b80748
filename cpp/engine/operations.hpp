// What the engine does: the operations of batch normalization on arrays whose types and memory the
// bindings have checked. All checks of values and shapes happen here, before anything is written;
// after them only memory can run out, and that too before anything is written.
#pragma once

#include "engine/array.hpp"
#include "engine/features.hpp"
#include "engine/parameters.hpp"
#include "kernels/data.hpp"

namespace fastbn {

// Which values count in the statistics, and how much: arrays of x's shape, broadcast by strides of
// 0. Either may be empty.
struct Counting {
    ArrayRef where;
    ArrayRef weights;
};

// What follows the affine map: residual (which may be empty) is added, then the activation applied.
struct Following {
    ArrayRef residual;
    Activation<double> activation{ActivationKind::none, 0.0};
};

// Running statistics to be updated, or none.
struct Running {
    ArrayRef mean;
    ArrayRef var;
    double momentum = 0.1;
    double correction = 1.0;
    bool skip_nonfinite = false;  // leave them alone if any of the batch's is not finite
};

// Where statistics go, one value per channel; null where nobody asked. Counts are asked for
// wherever values may differ in how much they count.
struct StatisticsOut {
    double* mean = nullptr;
    double* var = nullptr;
    double* invstd = nullptr;
    double* m2 = nullptr;
    double* count = nullptr;
    double* mean_lo = nullptr;  // what float64 cannot hold of the mean
};

// Raises std::invalid_argument for weights that are negative or not finite.
void check_counting(const Counting& counting, const ArrayRef& x, const Features& features);

void moments(const ArrayRef& x, const Features& features, const Counting& counting,
             const StatisticsOut& out);

// allow_single: one value per channel is a batch too, of variance 0.
void train(const ArrayRef& x, const ArrayRef& y, const Features& features, const Counting& counting,
           const Following& following, const Parameters& parameters, double eps,
           const Running& running, bool allow_single, const StatisticsOut& out);

// Returns whether x holds infinity, if that is to be looked for. mean_name and var_name: what the
// caller calls them, for errors.
bool infer(const ArrayRef& x, const ArrayRef& y, const Features& features,
           const Following& following, const ArrayRef& mean, const ArrayRef& var,
           const Parameters& parameters, double eps, bool look_for_infinity, const char* mean_name,
           const char* var_name);

// What the forward pass normalized by and, for the activation, with; whether the gradient flows
// through mean and variance (training) or they are constants (frozen).
struct Normalization {
    ArrayRef mean;
    ArrayRef invstd;
    ArrayRef count;  // may be empty: it is then counted once more
    Parameters parameters;
    bool through_statistics = true;
    bool allow_single = false;
};

// Where gradients go; dz, the residual's, may be empty. dweight and dbias hold one value per
// channel.
struct GradientsOut {
    ArrayRef dx;
    ArrayRef dz;
    double* dweight;
    double* dbias;
};

void backward(const ArrayRef& dy, const ArrayRef& x, const Features& features,
              const Counting& counting, const Following& following,
              const Normalization& normalization, const GradientsOut& out);

}  // namespace fastbn
