#include "engine/parameters.hpp"

#include <algorithm>
#include <cmath>
#include <string>

#include "engine/errors.hpp"

namespace fastbn {

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

void check_running(const Running& running, const Batch& batch, const Weights& weights,
                   bool allow_single) {
    const Features& features = batch.features;
    check_parameter_shape("running_mean", running.mean, features);
    check_parameter_shape("running_var", running.var, features);
    if (!(running.momentum >= 0.0 && running.momentum <= 1.0)) {
        refuse("momentum", "be between 0 and 1", to_text(running.momentum));
    }
    if (!(running.correction >= 0.0)) {
        refuse("correction", "not be negative", to_text(running.correction));
    }
    if (features.empty() || allow_single) return;
    const double most = weights.largest_total(running.correction, batch);
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

void update_running(const Running& running, const Statistics& batch, const Features& features,
                    bool allow_single, const ChannelValues& mean,
                    const ChannelValues& var) noexcept {
    const auto is_finite = [](double value) { return std::isfinite(value); };
    const std::ptrdiff_t n = features.channels;
    const bool finite = std::all_of(batch.mean, batch.mean + n, is_finite) &&
                        std::all_of(batch.var, batch.var + n, is_finite);
    if (running.skip_nonfinite && !finite) return;
    const auto blend = [&](double old, double now) {
        return (1.0 - running.momentum) * old + running.momentum * now;
    };
    for (std::ptrdiff_t i = 0; i < n; ++i) {
        const double count =
            batch.count != nullptr ? batch.count[i] : static_cast<double>(features.count);
        const bool has_unbiased = count > running.correction;
        if (count == 0.0 || !(has_unbiased || allow_single)) continue;
        const double unbiased = has_unbiased ? count / (count - running.correction) : 1.0;
        mean[i] = blend(mean[i], batch.mean[i]);
        var[i] = blend(var[i], batch.var[i] * unbiased);
    }
    write_elements(mean.data(), running.mean);
    write_elements(var.data(), running.var);
}

}  // namespace fastbn
