// What the engine does: the operations of batch normalization on arrays whose types and memory the
// bindings have checked. All checks of values and shapes happen here, before anything is written;
// after them only memory can run out, and that too before anything is written.
#pragma once

#include "engine/array.hpp"
#include "engine/batch.hpp"
#include "numerics/moments_math.hpp"

namespace fastbn {

// Raises std::invalid_argument for weights that are negative or not finite.
void check_weights(const Batch& batch);

// Fields of `out` that are null are not written; `min` and `max` are both null or neither. Where
// values differ in weight, `count` and `mean` must not be null.
void moments(const Batch& batch, const Statistics& out);

// The least and the largest of the values that have weight: NaN where there is none, and where one
// of them is NaN that is not omitted.
void value_range(const Batch& batch, double* min, double* max);

// The statistics of a set of values, as they are kept when the values are gone: arrays of the
// features' shape.
struct SetStatistics {
    ArrayRef count;              // may be empty:
    double count_of_each = 0.0;  // each feature then has this count
    ArrayRef mean;
    ArrayRef mean_lo;
    ArrayRef m2;
    ArrayRef m2_lo;
    ArrayRef min;  // both may be empty
    ArrayRef max;
};

// The statistics of two disjoint sets together, with the same bits whichever of them comes first.
// out.count may be null. `min` and `max` may be null too, and must be unless both sets have
// extremes.
void merge(const SetStatistics& a, const SetStatistics& b, CentralMoments<double*> out, double* min,
           double* max);

// allow_single: one value per channel is a batch too, of variance 0. `out` as for moments, but
// without extremes; where running statistics are given, `mean` and `var` must not be null.
void train(const Batch& batch, const ArrayRef& y, double eps, const Running& running,
           bool allow_single, const Statistics& out);

// Weights change nothing here. mean_lo, the low part of the mean, may be empty. Returns whether x
// holds infinity, if that is to be looked for. mean_name and var_name: what the caller calls them,
// for errors. invstd may be null; it is written to unless x is empty.
bool normalize(const Batch& batch, const ArrayRef& y, const ArrayRef& mean, const ArrayRef& mean_lo,
               const ArrayRef& var, double eps, bool look_for_infinity, const char* mean_name,
               const char* var_name, double* invstd = nullptr);

// What the forward pass normalized by; whether the gradient flows through mean and variance
// (training) or they are constants (frozen).
struct Normalization {
    ArrayRef mean;
    ArrayRef invstd;
    ArrayRef count;  // may be empty: it is then added up once more
    bool through_statistics = true;
    bool allow_single = false;
    // sum(dy) / N and sum(dy * xhat) / N of a larger batch, of which x is a part; both may be
    // empty: they are then x's own.
    ArrayRef mean_dy;
    ArrayRef mean_dy_xhat;
};

// Where gradients go, dweight and dbias one value per channel. dz is the residual's, written along
// with dx and only where there is an activation (else it is dy); it may be empty. Without dx only
// the sums are taken; with the means given only dx is computed, and dweight and dbias may be null.
struct GradientsOut {
    ArrayRef dx;
    ArrayRef dz;
    double* dweight = nullptr;
    double* dbias = nullptr;
};

void backward(const Batch& batch, const ArrayRef& dy, const Normalization& normalization,
              const GradientsOut& out);

}  // namespace fastbn
