// How the engine refuses a value: "<name> must <rule>, got <value>".
#pragma once

#include <string>

namespace fastbn {

// Raises std::invalid_argument.
[[noreturn]] void refuse(const std::string& name, const std::string& rule,
                         const std::string& value);

// The shortest decimal number that reads back as the value, or nearly.
std::string to_text(double value);

}  // namespace fastbn
