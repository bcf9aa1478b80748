// Parameters and running statistics: their values out of arrays of any layout, and back.
#pragma once

#include <cstddef>

#include "engine/array.hpp"
#include "engine/batch.hpp"
#include "engine/weights.hpp"
#include "engine/workspace.hpp"
#include "numerics/moments_math.hpp"

namespace fastbn {

// Running statistics to be updated, or none.
struct Running {
    ArrayRef mean;
    ArrayRef var;
    double momentum = 0.1;
    double correction = 1.0;
    bool skip_nonfinite = false;  // leave them alone if any of the batch's is not finite
};

// Raises std::invalid_argument for what the caller may have got wrong. allow_single: a channel of
// which too little counts for an unbiased variance has its biased one remembered.
void check_running(const Running& running, const Batch& batch, const Weights& weights,
                   bool allow_single);

// A parameter's values in order, one per channel, as float64; `otherwise` for all of them where
// there is none.
class ChannelValues {
public:
    ChannelValues(const ArrayRef& parameter, const Features& features, double otherwise);

    std::ptrdiff_t size() const { return size_; }
    double* data() const { return reinterpret_cast<double*>(memory_.data()); }
    double& operator[](std::ptrdiff_t i) const { return data()[i]; }

private:
    std::ptrdiff_t size_;
    Buffer<1024> memory_;
};

// Raises std::invalid_argument if any is negative.
void check_variance(const char* name, const ChannelValues& variance);

// Blends the batch's mean and var into the running statistics, of which mean and var are the values
// that were read before anything was written. batch.count: null where all values count once.
void update_running(const Running& running, const Statistics& batch, const Features& features,
                    bool allow_single, const ChannelValues& mean,
                    const ChannelValues& var) noexcept;

}  // namespace fastbn
