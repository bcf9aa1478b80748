// How the engine refuses a value: "<name> must <rule>, got <value>".
#pragma once

#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace fastbn {

[[noreturn]] inline void refuse(const std::string& name, const std::string& rule,
                                const std::string& value) {
    throw std::invalid_argument(name + " must " + rule + ", got " + value);
}

// The shortest decimal number that reads back as the value, or nearly.
inline std::string to_text(double value) {
    char text[32];
    for (int digits = 15; digits <= 17; ++digits) {
        std::snprintf(text, sizeof text, "%.*g", digits, value);
        if (std::strtod(text, nullptr) == value) break;
    }
    return text;
}

}  // namespace fastbn
