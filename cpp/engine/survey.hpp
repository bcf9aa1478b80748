// What can be said of all elements of an array together, whatever axes it has: found by all threads
// in one reading of its memory. Knows no channels, and no weights.
#pragma once

#include <limits>

#include "engine/array.hpp"

namespace fastbn {

struct ArraySurvey {
    double min = std::numeric_limits<double>::infinity();
    double max = -std::numeric_limits<double>::infinity();
    bool has_nan = false;
    double sum = 0.0;  // of a double-double; the same for any number of threads
};

// An element that is broadcast, by a stride of 0, is taken once.
ArraySurvey survey(const ArrayRef& array, bool with_sum);

// Whether no byte is 0.
bool all_true(const ArrayRef& mask);

}  // namespace fastbn
