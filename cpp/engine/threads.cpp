#include "engine/threads.hpp"

#include <algorithm>
#include <chrono>
#include <thread>

#include "engine/machine.hpp"

#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __SANITIZE_THREAD__
#include <vector>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif
#ifdef FASTBN_X86
#include <xmmintrin.h>
#endif
#ifdef __linux__
#include <sched.h>
#endif

namespace fastbn {
namespace {

// ---- What teams learn ----

// The most that waking a thread costs on an idle system. Losses up to this make no team smaller:
// else a larger team that is tried again would lose at once, because its threads are asleep.
constexpr Nanoseconds wake = 200'000;

// So much of what was gained is set off against later losses: about the time for which the system
// gives a processor to somebody else, which now and then happens on idle machines too.
constexpr Nanoseconds most_gained = 4'000'000;

// However much was lost at once, the larger team is tried again after so much work.
constexpr Nanoseconds most_owed = 2'000'000'000;

int log2_of(std::ptrdiff_t n) {
    int log = 0;
    for (; n > 1; n /= 2) ++log;
    return log;
}

// What half of the team would have taken. Threads share the memory's bandwidth, so that half as
// many are faster than half as fast: a tenth less time is a guess on the safe side. They take twice
// as long at most, which bounds the estimate for a call that was interrupted.
Nanoseconds with_half(int threads, Nanoseconds took, Nanoseconds alone) {
    const int half = (threads + 1) / 2;
    return std::min(alone / half - alone / half / 10, 2 * took);
}

// ---- Threads ----

// A thread is worth waking for this much memory: some 10 us of streaming.
constexpr std::ptrdiff_t bytes_per_thread = std::ptrdiff_t{128} << 10;

// So long a thread that waits for others keeps its processor; from then on it offers it to whoever
// wants it, who may be the thread that is waited for.
constexpr Nanoseconds keep_processor = 20'000;

std::atomic<int> chosen_threads{0};
std::atomic<int> quota{0};    // 0: none
std::atomic<int> engaged{0};  // threads of all calls that run just now, but for small ones
std::atomic<bool> full_teams{false};
std::atomic<bool> in_forked_child{false};

void pause() {
#ifdef FASTBN_X86
    _mm_pause();
#endif
}

template <class Condition>
void wait_until(const Condition& condition) {
    constexpr int looks = 64;
    if (condition()) return;
    const Nanoseconds end = now() + keep_processor;
    do {
        for (int i = 0; i < looks; ++i) {
            if (condition()) return;
            pause();
        }
    } while (now() < end);
    while (!condition()) std::this_thread::yield();
}

// work(thread, threads) on each of so many threads, of which the caller is number 0.
#ifdef __SANITIZE_THREAD__
// ThreadSanitizer cannot see how OpenMP's runtime orders what its threads do, and would report all
// of it. It is shown the same work on threads that it knows.
template <class Work>
void on_threads(int threads, const Work& work) {
    std::vector<std::thread> others;
    for (int i = 1; i < threads; ++i) others.emplace_back(work, i, threads);
    work(0, threads);
    for (std::thread& other : others) other.join();
}
#elif defined(_OPENMP)
template <class Work>
void on_threads(int threads, const Work& work) {
    // OpenMP may grant fewer threads than asked for.
#pragma omp parallel num_threads(threads)
    work(omp_get_thread_num(), omp_get_num_threads());
}
#endif

#ifdef _OPENMP
// The processors of the affinity as it is now. LLVM's runtime says what it was when it was loaded;
// where it binds threads to processors, their own affinity says less than there is.
int processors_of_affinity() {
#if defined(KMP_VERSION_MAJOR) && defined(__linux__)
    cpu_set_t allowed;
    if (omp_get_proc_bind() == omp_proc_bind_false &&
        sched_getaffinity(0, sizeof allowed, &allowed) == 0) {
        return CPU_COUNT(&allowed);
    }
#endif
    return omp_get_num_procs();
}
#endif

}  // namespace

Nanoseconds now() {
    const auto since = std::chrono::steady_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::nanoseconds>(since).count();
}

TeamSize& TeamSize::of(std::ptrdiff_t bytes) {
    constexpr int smallest = 18;
    static std::array<TeamSize, 16> by_size;
    const int index =
        std::clamp(log2_of(bytes) - smallest, 0, static_cast<int>(by_size.size()) - 1);
    return by_size[static_cast<std::size_t>(index)];
}

void TeamSize::learn(const Team& team, Nanoseconds took, Nanoseconds alone) {
    if (team.threads > 1) add_loss(team, took - with_half(team.threads, took, alone));
    if (team.level > 0) work_off(team, took);
}

void TeamSize::add_loss(const Team& team, Nanoseconds loss) {
    const Nanoseconds lost = lost_.fetch_add(loss, std::memory_order_relaxed) + loss;
    if (lost < -most_gained) {
        lost_.store(-most_gained, std::memory_order_relaxed);
        if (team.level == 0) times_.store(repay, std::memory_order_relaxed);
    }
    if (lost <= wake * team.threads) return;
    int level = team.level;
    // Another thread may have been first.
    if (!level_.compare_exchange_strong(level, level + 1, std::memory_order_relaxed)) {
        return;
    }
    const Nanoseconds times = times_.load(std::memory_order_relaxed);
    // What the larger team still owes comes on top.
    const Nanoseconds owed = std::max<Nanoseconds>(owed_.load(std::memory_order_relaxed), 0);
    owed_.store(std::min(owed + lost * times, most_owed), std::memory_order_relaxed);
    times_.store(std::min(2 * times, most_repay), std::memory_order_relaxed);
    lost_.store(0, std::memory_order_relaxed);
}

void TeamSize::work_off(const Team& team, Nanoseconds took) {
    if (level() != team.level) return;  // what is owed is to be worked off by a smaller team
    if (owed_.fetch_sub(took, std::memory_order_relaxed) > took) return;
    int level = team.level;
    if (!level_.compare_exchange_strong(level, level - 1, std::memory_order_relaxed)) {
        return;
    }
    owed_.store(0, std::memory_order_relaxed);
    lost_.store(0, std::memory_order_relaxed);
}

void set_num_threads(int n) { chosen_threads = n; }

int get_num_threads() {
#ifdef _OPENMP
    if (in_forked_child) return 1;
    const int chosen = chosen_threads;
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

int processors() {
#ifdef _OPENMP
    const int seen = processors_of_affinity();
    const int limit = quota;
    return limit > 0 ? std::min(seen, limit) : seen;
#else
    return 1;
#endif
}

void read_quota(const std::string& root) { quota = quota_of(root); }

Team choose_team(std::ptrdiff_t bytes, std::ptrdiff_t items) {
    const std::ptrdiff_t useful = std::min(bytes / bytes_per_thread, items);
    const std::ptrdiff_t asked = get_num_threads();
    if (useful < 2 || asked < 2) return {};
    const int most = static_cast<int>(std::min(asked, useful));
    if (full_teams) return {std::min(most, most_threads), 0, nullptr};
    TeamSize& size = TeamSize::of(bytes);
    const int level = size.level();
    const int free = std::clamp(processors() - engaged, 1, most);
    return {std::max(1, free >> level), level, &size};
}

void set_full_teams(bool full) { full_teams = full; }

void install_fork_handler() {
#if defined(__unix__) || defined(__APPLE__)
    pthread_atfork(nullptr, nullptr, [] { in_forked_child = true; });
#endif
}

std::ptrdiff_t Phase::take(std::ptrdiff_t n, int member, int members, std::ptrdiff_t& begin) {
    const std::ptrdiff_t parts = std::min(members, most_threads);
    for (std::ptrdiff_t i = 0; i < parts; ++i) {
        const std::ptrdiff_t part = (member + i) % parts;
        const std::ptrdiff_t first = n * part / parts;
        const std::ptrdiff_t size = n * (part + 1) / parts - first;
        std::atomic<std::ptrdiff_t>& taken = taken_[static_cast<std::size_t>(part)];
        std::ptrdiff_t before = taken.load(std::memory_order_relaxed);
        while (before < size) {
            const std::ptrdiff_t more = std::max<std::ptrdiff_t>(1, (size - before) / 2);
            if (taken.compare_exchange_weak(before, before + more, std::memory_order_relaxed)) {
                begin = first + before;
                return more;
            }
        }
    }
    return 0;
}

void Phase::wait_for_all(std::ptrdiff_t n) const {
    wait_until([&] { return done_.load(std::memory_order_acquire) == n; });
}

void Phase::add_time(Nanoseconds worked, std::ptrdiff_t mine, std::ptrdiff_t n, int members) {
    worked_.fetch_add(worked, std::memory_order_relaxed);
    // A few items tell too little of the others.
    constexpr std::ptrdiff_t telling = 4;
    if (mine == 0 || mine * members * telling < n) return;
    const double part = static_cast<double>(mine) / static_cast<double>(n);
    const auto alone = static_cast<Nanoseconds>(static_cast<double>(worked) / part);
    Nanoseconds least = by_fastest_.load(std::memory_order_relaxed);
    while (alone < least) {
        if (by_fastest_.compare_exchange_weak(least, alone, std::memory_order_relaxed)) return;
    }
}

Nanoseconds Phase::alone() const {
    // Together the members have worked for as long as one would, unless some were interrupted. Then
    // the fastest knows better; but no two items take quite the same, so it is not to be believed
    // to less than a factor of two.
    return std::min(worked_.load(std::memory_order_relaxed),
                    2 * by_fastest_.load(std::memory_order_relaxed));
}

void run_team(const Team& team, TeamTask task, const void* context) noexcept {
    const bool small = team.threads == 1 && team.learns == nullptr;
    if (!small) engaged.fetch_add(team.threads, std::memory_order_relaxed);
    const Nanoseconds started = team.learns == nullptr ? 0 : now();
    Nanoseconds alone = 0;
    int members = 1;
#ifdef _OPENMP
    if (team.threads > 1) {
        Phases phases;
        std::atomic<int> left{0};
        on_threads(team.threads, [&](int thread, int granted) {
            Member member(thread, granted, &phases);
            task(context, member);
            left.fetch_add(1, std::memory_order_relaxed);
            if (thread == 0) {
                members = granted;
                // OpenMP itself would keep the processor for milliseconds.
                wait_until([&] { return left.load(std::memory_order_relaxed) == members; });
            }
        });
        for (const Phase& phase : phases) alone += phase.alone();
    } else
#endif
    {
        Member member(0, 1, nullptr);
        task(context, member);
    }
    if (team.learns != nullptr) {
        team.learns->learn({members, team.level, team.learns}, now() - started, alone);
    }
    if (!small) engaged.fetch_sub(team.threads, std::memory_order_relaxed);
}

}  // namespace fastbn
