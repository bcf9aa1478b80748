// What the system says of the machine: the sizes of its caches, who made its processors, and how
// many of these a container may use. Plan, executor and threads choose by them what changes no bit.
#pragma once

#include <cstddef>
#include <string>

namespace fastbn {

// The bytes of a core's own second-level cache, and of the third-level cache that several cores
// share: the plan decides by them how results are stored, and whether what was read is still in
// cache when it is read again.
std::ptrdiff_t l2_cache();
std::ptrdiff_t l3_cache();
// Raises std::invalid_argument for sizes below 1.
void set_caches(std::ptrdiff_t l2, std::ptrdiff_t l3);
// Applies FASTBN_L2 and FASTBN_L3, in bytes, or what the system says where one is unset or empty.
// Of what it says of the third level, at most so many processors' part of a cache that many share.
void choose_caches(int processors);

// Whether a transform of what its slab's sums have brought into the caches prefetches the next slab
// while its results go past them. Not on Intel's processors, which keep misses and such stores in
// the same few buffers, so that the stores wait.
bool prefetches_next_slab();
// How far ahead other transforms prefetch what they read in the order of memory: so many bytes of
// all arrays together. On Intel's processors, whose own prefetchers end at every 4 KiB; 0
// elsewhere.
std::ptrdiff_t bytes_to_prefetch();

// The processors that a container's quota leaves: a control group, or one above it, may be allowed
// less time than the processors that it sees have. Whole processors, at least 1; 0 if no quota is
// set. Rounded down: the last part of a processor is used up before a period ends, and until then
// the system stops all threads, waiting ones too. `root` is the folder that /proc and /sys stand
// in.
int quota_of(const std::string& root);

}  // namespace fastbn
