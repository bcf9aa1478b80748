// The processors that a container's quota leaves: a control group, or one above it, may be allowed
// less time than the processors that it sees have.
#pragma once

#include <string>

namespace fastbn {

// Whole processors, at least 1; 0 if no quota is set. Rounded down: the last part of a processor is
// used up before a period ends, and until then the system stops all threads, waiting ones too.
// `root` is the folder that /proc and /sys stand in.
int quota_of(const std::string& root);

}  // namespace fastbn
