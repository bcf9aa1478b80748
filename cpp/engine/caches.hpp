// The sizes of the processor's caches, by which the plan chooses what does not change any bit: how
// results are stored, and what is expected to be in cache still when it is read once more.
#pragma once

#include <cstddef>

namespace fastbn {

struct Caches {
    std::ptrdiff_t l2;  // bytes of a core's own second-level cache
    std::ptrdiff_t l3;  // bytes of the third-level cache that several cores share
};

Caches caches();
// Raises std::invalid_argument for sizes below 1.
void set_caches(const Caches& sizes);
// Applies FASTBN_L2 and FASTBN_L3, in bytes, or what the system says where one is unset or empty.
void choose_caches();

}  // namespace fastbn
