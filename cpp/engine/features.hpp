// Which axes of x are features, and the checks of everything that must fit them. Raises
// std::invalid_argument with "<name> must <rule>, got <value>"; writes to no array.
#pragma once

#include <cstddef>
#include <vector>

#include "engine/array.hpp"

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
// most_counted: one value may count as several.
void check_trainable(const Features& features, double most_counted);
void check_eps(double eps);

}  // namespace fastbn
