// What the system says of the machine: the sizes of its caches, and how many of its processors a
// container may use. Plan and threads choose by them what changes no bit.
#pragma once

#include <cstddef>
#include <string>

namespace fastbn {

// The sizes by which the plan decides how results are stored, and whether what was read is still in
// cache when it is read again.
struct Caches {
    std::ptrdiff_t l2;  // bytes of a core's own second-level cache
    std::ptrdiff_t l3;  // bytes of the third-level cache that several cores share
};

Caches caches();
// Raises std::invalid_argument for sizes below 1.
void set_caches(const Caches& sizes);
// Applies FASTBN_L2 and FASTBN_L3, in bytes, or what the system says where one is unset or empty.
void choose_caches();

// The processors that a container's quota leaves: a control group, or one above it, may be allowed
// less time than the processors that it sees have. Whole processors, at least 1; 0 if no quota is
// set. Rounded down: the last part of a processor is used up before a period ends, and until then
// the system stops all threads, waiting ones too. `root` is the folder that /proc and /sys stand
// in.
int quota_of(const std::string& root);

}  // namespace fastbn
