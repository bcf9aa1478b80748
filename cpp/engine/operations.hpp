// What the engine does: the operations of batch normalization on arrays already made sure of. All
// checks of values and shapes happen here, before anything is written; after them only memory can
// run out, and that too before anything is written.
#pragma once

#include "engine/array.hpp"
#include "engine/features.hpp"

namespace fastbn {

// Either may be empty: weight 1, bias 0.
struct Parameters {
    ArrayRef weight;
    ArrayRef bias;
};

// Running statistics to be updated, or none.
struct Running {
    ArrayRef mean;
    ArrayRef var;
    double momentum = 0.1;
    double correction = 1.0;
};

// Where statistics go, one value per channel; null where nobody asked.
struct StatisticsOut {
    double* mean = nullptr;
    double* var = nullptr;
    double* invstd = nullptr;
    double* m2 = nullptr;
};

void moments(const ArrayRef& x, const Features& features, const StatisticsOut& out);

void train(const ArrayRef& x, const ArrayRef& y, const Features& features,
           const Parameters& parameters, double eps, const Running& running,
           const StatisticsOut& out);

// mean_name and var_name: what the caller calls them, for errors.
void infer(const ArrayRef& x, const ArrayRef& y, const Features& features, const ArrayRef& mean,
           const ArrayRef& var, const Parameters& parameters, double eps, const char* mean_name,
           const char* var_name);

// through_statistics: the gradient flows through mean and variance (training), or they are
// constants (frozen). dweight and dbias hold one value per channel.
void backward(const ArrayRef& dy, const ArrayRef& x, const ArrayRef& dx, const Features& features,
              const ArrayRef& weight, const ArrayRef& mean, const ArrayRef& invstd,
              bool through_statistics, double* dweight, double* dbias);

}  // namespace fastbn
