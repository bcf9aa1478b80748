#include "engine/features.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/dims.hpp"
#include "engine/errors.hpp"

namespace fastbn {
namespace {

std::string shape_text(const std::ptrdiff_t* shape, std::size_t ndim) {
    std::string text = "(";
    for (std::size_t i = 0; i < ndim; ++i) {
        if (i > 0) text += ", ";
        text += std::to_string(shape[i]);
    }
    return text + (ndim == 1 ? ",)" : ")");
}

std::string shape_text(const ArrayRef& array) {
    return shape_text(array.shape, static_cast<std::size_t>(array.ndim));
}

Dims dims_of(const ArrayRef& array) {
    Dims dims;
    for (int i = 0; i < array.ndim; ++i) dims.push(array.shape[i], array.strides[i]);
    return dims;
}

// visit(pointer to element, its position) in C order; T is the elements' type.
template <class T, class Visit>
void each_element(const ArrayRef& array, std::ptrdiff_t count, Visit&& visit) {
    constexpr std::ptrdiff_t size = sizeof(T);
    if (array.ndim == 1 && array.strides[0] == size) {  // a loop for the compiler to vectorize
        for (std::ptrdiff_t i = 0; i < count; ++i) visit(array.data + i * size, i);
        return;
    }
    std::ptrdiff_t index = 0;
    each_run(dims_of(array), 0, count,
             [&](std::ptrdiff_t offset, std::ptrdiff_t length, std::ptrdiff_t stride) {
                 for (std::ptrdiff_t i = 0; i < length; ++i) {
                     visit(array.data + offset + i * stride, index++);
                 }
             });
}

}  // namespace

Features features_of(const ArrayRef& x, const std::vector<std::ptrdiff_t>& axes) {
    if (x.ndim < 2) refuse("x", "have at least 2 dimensions", std::to_string(x.ndim));
    Features features;
    for (const std::ptrdiff_t axis : axes) {
        if (axis < -x.ndim || axis >= x.ndim) {
            refuse("axis",
                   "be between " + std::to_string(-x.ndim) + " and " + std::to_string(x.ndim - 1) +
                       " for x of " + std::to_string(x.ndim) + " dimensions",
                   std::to_string(axis));
        }
        bool& marked = features.is_feature[axis < 0 ? axis + x.ndim : axis];
        if (marked) refuse("axis", "name each axis once", std::to_string(axis) + " again");
        marked = true;
    }
    for (int i = 0; i < x.ndim; ++i) {
        if (features.is_feature[i]) {
            features.shape.push_back(x.shape[i]);
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
    if (!same) refuse(name, "have x's shape " + shape_text(x), shape_text(array));
}

void check_parameter_shape(const char* name, const ArrayRef& parameter, const Features& features) {
    bool same = static_cast<std::size_t>(parameter.ndim) == features.shape.size();
    for (std::size_t i = 0; same && i < features.shape.size(); ++i) {
        same = parameter.shape[i] == features.shape[i];
    }
    if (!same) {
        refuse(name, "have shape " + shape_text(features.shape.data(), features.shape.size()),
               shape_text(parameter));
    }
}

void check_trainable(const Features& features) {
    if (features.count == 1 && features.channels > 0) {
        refuse("x", "hold more than one value per channel in training", "1");
    }
}

void check_eps(double eps) {
    if (!(std::isfinite(eps) && eps >= 0.0)) {
        refuse("eps", "be finite and not negative", to_text(eps));
    }
}

Values::Values(const ArrayRef& parameter, const Features& features, double otherwise)
    : size_(features.channels),
      memory_(features.channels * static_cast<std::ptrdiff_t>(sizeof(double))) {
    if (!parameter) {
        std::fill_n(data(), size_, otherwise);
        return;
    }
    visit_dtype(parameter.dtype, [&](auto zero) {
        double* const to = data();
        each_element<decltype(zero)>(parameter, size_, [=](const char* from, std::ptrdiff_t i) {
            auto value = zero;
            std::memcpy(&value, from, sizeof value);
            to[i] = static_cast<double>(value);
        });
    });
}

void check_variance(const char* name, const Values& variance) {
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

void write_parameter(const ArrayRef& parameter, const Values& values) noexcept {
    visit_dtype(parameter.dtype, [&](auto zero) {
        const double* const from = values.data();
        each_element<decltype(zero)>(parameter, values.size(), [=](char* to, std::ptrdiff_t i) {
            const auto value = static_cast<decltype(zero)>(from[i]);
            std::memcpy(to, &value, sizeof value);
        });
    });
}

}  // namespace fastbn
