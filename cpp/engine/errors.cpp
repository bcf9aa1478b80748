#include "engine/errors.hpp"

#include <cstdio>
#include <cstdlib>
#include <stdexcept>

namespace fastbn {

void refuse(const std::string& name, const std::string& rule, const std::string& value) {
    throw std::invalid_argument(name + " must " + rule + ", got " + value);
}

std::string to_text(double value) {
    char text[32];
    for (int digits = 15; digits <= 17; ++digits) {
        std::snprintf(text, sizeof text, "%.*g", digits, value);
        if (std::strtod(text, nullptr) == value) break;
    }
    return text;
}

}  // namespace fastbn
