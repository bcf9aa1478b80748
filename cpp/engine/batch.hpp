// What a call is about: x, the axes that are its features, and what may come with it; and the
// checks of all that must fit these. They raise std::invalid_argument with "<name> must <rule>, got
// <value>", and write to no array.
#pragma once

#include <cstddef>
#include <string>

#include "engine/array.hpp"
#include "kernels/table.hpp"

namespace fastbn {

// Axes of an array, in an order that means something.
struct AxisList {
    int n = 0;
    int axis[max_dimensions];
    void push(int a) { axis[n++] = a; }
};

struct Features {
    bool is_feature[max_dimensions] = {};
    // The shape of parameters and statistics: only the first ndim are ever read.
    int ndim = 0;
    std::ptrdiff_t shape[max_dimensions];
    std::ptrdiff_t channels = 1;
    std::ptrdiff_t count = 1;  // values per channel

    bool empty() const { return channels == 0 || count == 0; }
};

Features features_of(const ArrayRef& x, const AxisList& axes);

// All arrays but x may be empty.
struct Batch {
    Batch() = default;
    Batch(const ArrayRef& array, const AxisList& axes)
        : x(array), features(features_of(array, axes)) {}

    ArrayRef x;
    Features features;
    // The weights of x's values: of x's shape, broadcast by strides of 0.
    ArrayRef where;
    ArrayRef weights;
    bool omit_nan = false;  // NaN has weight 0; of floating-point x alone
    ArrayRef weight;        // or 1
    ArrayRef bias;          // or 0
    Epilogue<ArrayRef> epilogue;
};

// Running statistics to be updated, or none.
struct Running {
    ArrayRef mean;
    ArrayRef var;
    double momentum = 0.1;
    double correction = 1.0;
    bool skip_nonfinite = false;  // leave them alone if any of the batch's is not finite
};

// As Python shows it.
std::string shown_shape(const std::ptrdiff_t* shape, int ndim);

void check_same_shape(const char* name, const ArrayRef& array, const ArrayRef& x);
void check_parameter_shape(const char* name, const ArrayRef& parameter, const Features& features);
// Whether weight, bias and residual fit x.
void check_shapes(const Batch& batch);
// largest_total: what the values of a channel weigh together, at most.
void check_trainable(const Features& features, double largest_total);
void check_eps(double eps);

}  // namespace fastbn
