#include "engine/features.hpp"

#include <cmath>
#include <string>

#include "engine/errors.hpp"

namespace fastbn {

std::string shape_text(const std::ptrdiff_t* shape, int ndim) {
    std::string text = "(";
    for (int i = 0; i < ndim; ++i) {
        if (i > 0) text += ", ";
        text += std::to_string(shape[i]);
    }
    return text + (ndim == 1 ? ",)" : ")");
}

AxisList axes_of(const char* name, const ArrayRef& x, const std::ptrdiff_t* axes,
                 std::ptrdiff_t n) {
    if (x.ndim < 2) {
        refuse("x", "have at least 2 dimensions (one feature: x[:, None])", std::to_string(x.ndim));
    }
    AxisList found;
    bool marked[max_dimensions] = {};
    for (std::ptrdiff_t i = 0; i < n; ++i) {
        const std::ptrdiff_t axis = axes[i];
        if (axis < -x.ndim || axis >= x.ndim) {
            refuse(name,
                   "be between " + std::to_string(-x.ndim) + " and " + std::to_string(x.ndim - 1) +
                       " for x of " + std::to_string(x.ndim) + " dimensions",
                   std::to_string(axis));
        }
        const auto index = static_cast<int>(axis < 0 ? axis + x.ndim : axis);
        if (marked[index]) refuse(name, "name each axis once", std::to_string(axis) + " again");
        marked[index] = true;
        found.push(index);
    }
    return found;
}

Features features_of(const ArrayRef& x, const AxisList& axes) {
    Features features;
    for (int i = 0; i < axes.n; ++i) features.is_feature[axes.axis[i]] = true;
    for (int i = 0; i < x.ndim; ++i) {
        if (features.is_feature[i]) {
            features.shape[features.ndim++] = x.shape[i];
            features.channels *= x.shape[i];
        } else {
            features.count *= x.shape[i];
        }
    }
    return features;
}

void check_same_shape(const char* name, const ArrayRef& array, const ArrayRef& x) {
    bool same = array.ndim == x.ndim;
    for (int i = 0; same && i < x.ndim; ++i) same = array.shape[i] == x.shape[i];
    if (!same)
        refuse(name, "have x's shape " + shape_text(x.shape, x.ndim),
               shape_text(array.shape, array.ndim));
}

void check_parameter_shape(const char* name, const ArrayRef& parameter, const Features& features) {
    bool same = parameter.ndim == features.ndim;
    for (int i = 0; same && i < features.ndim; ++i) {
        same = parameter.shape[i] == features.shape[i];
    }
    if (!same) {
        refuse(name, "have shape " + shape_text(features.shape, features.ndim),
               shape_text(parameter.shape, parameter.ndim));
    }
}

void check_trainable(const Features& features, double largest_total) {
    if (features.count == 1 && features.channels > 0 && largest_total <= 1.0) {
        refuse("x", "hold more than one value per channel in training", "1");
    }
}

void check_eps(double eps) {
    if (!(std::isfinite(eps) && eps >= 0.0)) {
        refuse("eps", "be finite and not negative", to_text(eps));
    }
}

}  // namespace fastbn
