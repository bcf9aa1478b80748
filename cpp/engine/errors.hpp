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

// A value as errors show it: the shortest decimal number that reads back as the value, or nearly.
inline std::string shown(double value) {
    char number[32];
    for (int digits = 15; digits <= 17; ++digits) {
        std::snprintf(number, sizeof number, "%.*g", digits, value);
        if (std::strtod(number, nullptr) == value) break;
    }
    return number;
}

}  // namespace fastbn
