#include "engine/parameters.hpp"

#include <algorithm>
#include <cmath>
#include <string>

#include "engine/errors.hpp"

namespace fastbn {

void check_parameters(const Parameters& parameters, const Features& features) {
    if (parameters.weight) check_parameter_shape("weight", parameters.weight, features);
    if (parameters.bias) check_parameter_shape("bias", parameters.bias, features);
}

ChannelValues::ChannelValues(const ArrayRef& parameter, const Features& features, double otherwise)
    : size_(features.channels),
      memory_(features.channels * static_cast<std::ptrdiff_t>(sizeof(double))) {
    if (!parameter) {
        std::fill_n(data(), size_, otherwise);
        return;
    }
    read_elements(parameter, data());
}

void check_variance(const char* name, const ChannelValues& variance) {
    const double* const values = variance.data();
    bool negative = false;
    for (std::ptrdiff_t i = 0; i < variance.size(); ++i) negative |= values[i] < 0.0;
    for (std::ptrdiff_t i = 0; i < variance.size() && negative; ++i) {
        if (values[i] < 0.0) {
            refuse(name, "not be negative",
                   to_text(values[i]) + " in channel " + std::to_string(i));
        }
    }
}

void check_running(const Running& running, const ArrayRef& x, const Features& features,
                   const Weights& weights, bool allow_single) {
    check_parameter_shape("running_mean", running.mean, features);
    check_parameter_shape("running_var", running.var, features);
    if (!(running.momentum >= 0.0 && running.momentum <= 1.0)) {
        refuse("momentum", "be between 0 and 1", to_text(running.momentum));
    }
    if (!(running.correction >= 0.0)) {
        refuse("correction", "not be negative", to_text(running.correction));
    }
    if (features.empty() || allow_single) return;
    const double most = weights.largest_total(running.correction, x, features);
    // Where nothing counts it is an empty batch.
    if (most > running.correction || most == 0.0) return;
    if (weights.largest_total() > running.correction) {
        refuse("where",
               "leave more than the correction of " + to_text(running.correction) +
                   " where running statistics are given (so must lengths, which make a mask)",
               to_text(most));
    }
    if (weights.differ() || weights.common_weight() != 1.0) {
        refuse("weights",
               "sum to more than the correction of " + to_text(running.correction) +
                   " where running statistics are given",
               to_text(most));
    }
    refuse("correction",
           "be less than the " + std::to_string(features.count) + " values per channel",
           to_text(running.correction));
}

bool RunningUpdate::is_finite(const Statistics& batch) const {
    bool finite = true;
    for (std::ptrdiff_t i = 0; i < mean_.size(); ++i) {
        finite = finite && std::isfinite(batch.mean[i]) && std::isfinite(batch.var[i]);
    }
    return finite;
}

void RunningUpdate::apply(const Statistics& batch) noexcept {
    if (!running_.mean || (running_.skip_nonfinite && !is_finite(batch))) return;
    for (std::ptrdiff_t i = 0; i < mean_.size(); ++i) {
        const double count = batch.count != nullptr ? batch.count[i] : count_;
        const bool has_unbiased = count > running_.correction;
        if (count == 0.0 || !(has_unbiased || allow_single_)) continue;
        const double unbiased = has_unbiased ? count / (count - running_.correction) : 1.0;
        mean_[i] = blend(mean_[i], batch.mean[i]);
        var_[i] = blend(var_[i], batch.var[i] * unbiased);
    }
    write_elements(mean_.data(), running_.mean);
    write_elements(var_.data(), running_.var);
}

}  // namespace fastbn
