#include "engine/threads.hpp"

#include <algorithm>
#include <atomic>

#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace fastbn {
namespace {

// A thread is worth waking for this much memory: some 10 us of streaming.
constexpr std::ptrdiff_t bytes_per_thread = std::ptrdiff_t{128} << 10;

// More than the system can start would end the process.
int most_threads() {
#ifdef _OPENMP
    constexpr int per_processor = 4;
    constexpr int always = 64;
    return std::min(std::max(per_processor * omp_get_num_procs(), always), omp_get_thread_limit());
#else
    return 1;
#endif
}

std::atomic<int> chosen_threads{0};
std::atomic<bool> in_forked_child{false};

}  // namespace

void set_num_threads(int n) { chosen_threads = n; }

int get_num_threads() {
    if (in_forked_child) return 1;
    const int chosen = chosen_threads;
#ifdef _OPENMP
    return chosen > 0 ? chosen : omp_get_max_threads();
#else
    return 1;
#endif
}

bool has_openmp() {
#ifdef _OPENMP
    return true;
#else
    return false;
#endif
}

int threads_for(std::ptrdiff_t bytes) {
    if (bytes < 2 * bytes_per_thread) return 1;
    const std::ptrdiff_t useful = bytes / bytes_per_thread;
    const std::ptrdiff_t asked = std::min(get_num_threads(), most_threads());
    return static_cast<int>(std::min(asked, useful));
}

void install_fork_handler() {
#if defined(__unix__) || defined(__APPLE__)
    pthread_atfork(nullptr, nullptr, [] { in_forked_child = true; });
#endif
}

void run_ranges(int threads, std::ptrdiff_t n, RangeTask task, const void* context) noexcept {
#ifdef _OPENMP
    if (threads > 1 && n > 1) {
        std::atomic<std::ptrdiff_t> next{0};
        const auto work = [&](int thread, std::ptrdiff_t of) {
            for (std::ptrdiff_t begin = next; begin < n;) {
                // A share of what is left: long stretches first, short ones to end together.
                const std::ptrdiff_t end =
                    begin + std::max<std::ptrdiff_t>(1, (n - begin) / (2 * of));
                if (!next.compare_exchange_weak(begin, end)) continue;
                task(context, begin, end, thread);
                begin = next;
            }
        };
        // OpenMP may grant fewer threads than asked for.
#pragma omp parallel num_threads(threads)
        work(omp_get_thread_num(), omp_get_num_threads());
        return;
    }
#endif
    if (n > 0) task(context, 0, n, 0);
}

}  // namespace fastbn
