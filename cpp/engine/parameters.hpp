// Parameters and running statistics: their values out of arrays of any layout, and back.
#pragma once

#include <cstddef>

#include "engine/array.hpp"
#include "engine/features.hpp"
#include "engine/weights.hpp"
#include "engine/workspace.hpp"
#include "numerics/moments_math.hpp"

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
    bool skip_nonfinite = false;  // leave them alone if any of the batch's is not finite
};

// Raise std::invalid_argument for what the caller may have got wrong. allow_single: a channel of
// which too little counts for an unbiased variance has its biased one remembered.
void check_parameters(const Parameters& parameters, const Features& features);
void check_running(const Running& running, const ArrayRef& x, const Features& features,
                   const Weights& weights, bool allow_single);

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

// Running statistics, read before anything is written and written back last.
class RunningUpdate {
public:
    RunningUpdate(const Running& running, const Features& features, bool allow_single)
        : running_(running),
          count_(static_cast<double>(features.count)),
          allow_single_(allow_single),
          mean_(running.mean, features, 0.0),
          var_(running.var, features, 1.0) {}

    // By a batch's mean, var and, unless all values count once, count.
    void apply(const Statistics& batch) noexcept;

private:
    double blend(double old, double now) const {
        return (1.0 - running_.momentum) * old + running_.momentum * now;
    }
    bool is_finite(const Statistics& batch) const;

    const Running& running_;
    double count_;
    bool allow_single_;
    ChannelValues mean_;
    ChannelValues var_;
};

}  // namespace fastbn
