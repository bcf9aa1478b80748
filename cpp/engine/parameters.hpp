// Parameters' and running statistics' values, out of arrays of any layout and back.
#pragma once

#include <cstddef>

#include "engine/array.hpp"
#include "engine/buffer.hpp"
#include "engine/features.hpp"

namespace fastbn {

// Either may be empty: weight 1, bias 0.
struct Parameters {
    ArrayRef weight;
    ArrayRef bias;
};

// Raises std::invalid_argument if one is there and has not the features' shape.
void check_parameters(const Parameters& parameters, const Features& features);

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
