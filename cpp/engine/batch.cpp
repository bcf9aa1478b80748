#include "engine/batch.hpp"

#include <cmath>
#include <string>

#include "engine/errors.hpp"

namespace fastbn {

std::string shown_shape(const std::ptrdiff_t* shape, int ndim) {
    std::string shown = "(";
    for (int i = 0; i < ndim; ++i) {
        if (i > 0) shown += ", ";
        shown += std::to_string(shape[i]);
    }
    return shown + (ndim == 1 ? ",)" : ")");
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
    if (array.has_shape_of(x)) return;
    refuse(name, "have x's shape " + shown_shape(x.shape, x.ndim),
           shown_shape(array.shape, array.ndim));
}

void check_parameter_shape(const char* name, const ArrayRef& parameter, const Features& features) {
    bool same = parameter.ndim == features.ndim;
    for (int i = 0; same && i < features.ndim; ++i) {
        same = parameter.shape[i] == features.shape[i];
    }
    if (!same) {
        refuse(name, "have shape " + shown_shape(features.shape, features.ndim),
               shown_shape(parameter.shape, parameter.ndim) + "; the shape is x's along axis");
    }
}

void check_shapes(const Batch& batch) {
    if (batch.epilogue.residual) check_same_shape("residual", batch.epilogue.residual, batch.x);
    if (batch.weight) check_parameter_shape("weight", batch.weight, batch.features);
    if (batch.bias) check_parameter_shape("bias", batch.bias, batch.features);
}

void check_trainable(const Features& features, double largest_total) {
    if (features.count == 1 && features.channels > 0 && largest_total <= 1.0) {
        refuse("x",
               "hold more than one value per channel in training (one is enough with "
               "training=False, for a layer after eval() or with on_single='biased')",
               "1");
    }
}

void check_eps(double eps) {
    if (!(std::isfinite(eps) && eps >= 0.0)) {
        refuse("eps", "be finite and not negative", shown(eps));
    }
}

}  // namespace fastbn
