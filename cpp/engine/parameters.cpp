#include "engine/parameters.hpp"

#include <algorithm>
#include <string>

#include "engine/dims.hpp"
#include "engine/elements.hpp"
#include "engine/errors.hpp"

namespace fastbn {
namespace {

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
    each_stretch(dims_of(array), 0, count,
                 [&](std::ptrdiff_t offset, std::ptrdiff_t length, std::ptrdiff_t stride) {
                     for (std::ptrdiff_t i = 0; i < length; ++i) {
                         visit(array.data + offset + i * stride, index++);
                     }
                 });
}

}  // namespace

void check_parameters(const Parameters& parameters, const Features& features) {
    if (parameters.weight) check_parameter_shape("weight", parameters.weight, features);
    if (parameters.bias) check_parameter_shape("bias", parameters.bias, features);
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
            to[i] = converted<double>(read_element<decltype(zero)>(from));
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
            write_element(to, converted<decltype(zero)>(from[i]));
        });
    });
}

}  // namespace fastbn
