// Threads: how many, and running a loop on them. The only door to OpenMP's.
#pragma once

#include <cstddef>

namespace fastbn {

// What set_num_threads chose; 0 leaves the choice to OpenMP, asked anew at every call.
void set_num_threads(int n);
int get_num_threads();
bool has_openmp();

// Threads worth starting for work that touches so many bytes.
int threads_for(std::ptrdiff_t bytes);

// In a forked child OpenMP's threads are gone but not forgotten, and the first parallel region
// would wait for them for ever: from then on everything runs on the calling thread.
void install_fork_handler();

using RangeTask = void (*)(const void* context, std::ptrdiff_t begin, std::ptrdiff_t end,
                           int thread);
void run_ranges(int threads, std::ptrdiff_t n, RangeTask task, const void* context) noexcept;

// body(begin, end, thread) on contiguous parts of 0 .. n, any number of them to a thread but never
// two at once with the same `thread`; returns when all are done.
template <class Body>
void parallel_ranges(int threads, std::ptrdiff_t n, const Body& body) noexcept {
    run_ranges(
        threads, n,
        [](const void* context, std::ptrdiff_t begin, std::ptrdiff_t end, int thread) {
            (*static_cast<const Body*>(context))(begin, end, thread);
        },
        &body);
}

}  // namespace fastbn
