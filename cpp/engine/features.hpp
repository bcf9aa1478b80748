// Which axes of x are features, and the checks of everything that must fit them. Raises
// std::invalid_argument with "<name> must <rule>, got <value>"; writes to no array.
#pragma once

#include <cstddef>
#include <vector>

#include "engine/array.hpp"
#include "engine/buffer.hpp"

namespace fastbn {

struct Features {
    bool is_feature[max_dimensions] = {};
    std::vector<std::ptrdiff_t> shape;  // of parameters and statistics
    std::ptrdiff_t channels = 1;
    std::ptrdiff_t count = 1;  // values per channel

    bool empty() const { return channels == 0 || count == 0; }
};

// axes: as the caller gave them, negative ones counted from the end.
Features features_of(const ArrayRef& x, const std::vector<std::ptrdiff_t>& axes);

void check_same_shape(const char* name, const ArrayRef& array, const ArrayRef& x);
void check_parameter_shape(const char* name, const ArrayRef& parameter, const Features& features);
void check_trainable(const Features& features);
void check_eps(double eps);

// A parameter's values in order, as float64; `otherwise` for all of them where there is none.
class Values {
public:
    Values(const ArrayRef& parameter, const Features& features, double otherwise);

    std::ptrdiff_t size() const { return size_; }
    double* data() const { return reinterpret_cast<double*>(memory_.data()); }
    double& operator[](std::ptrdiff_t i) const { return data()[i]; }

private:
    std::ptrdiff_t size_;
    Buffer<1024> memory_;
};

// Raises std::invalid_argument if any is negative.
void check_variance(const char* name, const Values& variance);
// Writes values back, rounded to the parameter's type.
void write_parameter(const ArrayRef& parameter, const Values& values) noexcept;

}  // namespace fastbn
