// Teams of threads: every item of every phase is done once and after the phase before it, whatever
// the size of the team and whoever else computes; and what calls learn from their times, on
// machines that are made up. Ends with the number of checks that failed.
#include <atomic>
#include <cstdio>
#include <thread>
#include <vector>

#include "engine/threads.hpp"

namespace fastbn {
namespace {

std::atomic<int> failures{0};

void check(bool good, const char* what, long value) {
    if (good) return;
    ++failures;
    std::printf("failed: %s (%ld)\n", what, value);
}

// Three phases over n items each, in which each item adds what another one has from the phase
// before: 1 if every item is done once, and the whole of one phase before the next.
struct ThreePhases {
    std::vector<int> first;
    std::vector<int> second = first;
    std::vector<int> third = first;

    explicit ThreePhases(std::ptrdiff_t n) : first(static_cast<std::size_t>(n)) {}

    void operator()(Member& member) {
        each(member, [&](std::size_t i) { first[i] += 1; });
        each(member, [&](std::size_t i) { second[i] += first[first.size() - 1 - i]; });
        each(member, [&](std::size_t i) { third[i] += second[first.size() - 1 - i]; });
    }
    void check_results() const {
        for (const int times : third) check(times == 1, "an item's phases", times);
    }

private:
    template <class Visit>
    void each(Member& member, const Visit& visit) const {
        member.run_phase(static_cast<std::ptrdiff_t>(first.size()),
                         [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
                             for (std::ptrdiff_t i = begin; i < end; ++i) {
                                 visit(static_cast<std::size_t>(i));
                             }
                         });
    }
};

void run_three_phases(int threads, std::ptrdiff_t n) {
    ThreePhases phases(n);
    run_team(Team{threads, 0, nullptr}, [&](Member& member) {
        check(member.thread() >= 0 && member.thread() < threads, "thread's number", threads);
        phases(member);
    });
    phases.check_results();
}

// On threads that are not OpenMP's, which begin when they like.
void check_items_of_members() {
    constexpr int members = 4;
    for (int k = 0; k < 50; ++k) {
        ThreePhases work(300);
        Phases phases;
        std::vector<std::thread> threads;
        for (int i = 0; i < members; ++i) {
            threads.emplace_back([&, i] {
                Member member(i, members, &phases);
                work(member);
            });
        }
        for (std::thread& thread : threads) thread.join();
        work.check_results();
    }
}

void check_items() {
    for (const int threads : {1, 2, 3, 5, 8}) {
        for (const std::ptrdiff_t n : {0, 1, 2, 7, 64, 1000}) {
            for (int i = 0; i < 20; ++i) run_three_phases(threads, n);
        }
    }
}

void check_items_of_several_callers() {
    std::vector<std::thread> callers;
    for (int i = 0; i < 8; ++i) {
        callers.emplace_back([] {
            for (int k = 0; k < 20; ++k) run_three_phases(3, 200);
        });
    }
    for (std::thread& caller : callers) caller.join();
}

void check_items_in_a_parallel_region() {
#pragma omp parallel num_threads(3)
    for (int k = 0; k < 20; ++k) run_three_phases(4, 200);
}

constexpr Nanoseconds us = 1000;
constexpr Nanoseconds ms = 1000 * us;

// A machine on which calls are made again and again. A team works as many times as fast as it has
// threads, but waits for one of them where it has more than `free` threads.
struct Machine {
    int asked;
    int free;
    Nanoseconds alone;
    Nanoseconds wait = 0;

    // The team that the next call takes.
    Team team(TeamSize& size) const {
        const int level = size.level();
        const int threads = asked >> level;
        check(threads > 0, "level too high", level);
        return {threads, level, &size};
    }
    Nanoseconds call(TeamSize& size) const {
        const Team chosen = team(size);
        const Nanoseconds took = alone / chosen.threads + (chosen.threads > free ? wait : 0);
        size.learn(chosen, took, alone);
        return took;
    }
    // What so many calls take.
    Nanoseconds calls(TeamSize& size, int n) const {
        Nanoseconds took = 0;
        for (int i = 0; i < n; ++i) took += call(size);
        return took;
    }
};

void check_idle_machine() {
    TeamSize size;
    const Machine idle{2, 2, 800 * us};
    check(idle.calls(size, 1000) == 1000 * 400 * us, "time on an idle machine", 0);
    // Now and then the system has something else to do for a moment.
    const Machine moment{2, 1, 800 * us, 3 * ms};
    moment.call(size);
    check(size.level() == 0, "level after a moment", size.level());
}

void check_sleeping_threads() {
    TeamSize size;
    const Machine asleep{2, 1, 60 * us, 90 * us};
    asleep.call(size);
    check(size.level() == 0, "level after a thread was woken", size.level());
}

void check_busy_machine() {
    TeamSize size;
    const Machine idle{2, 2, 800 * us};
    const Machine busy{2, 1, 800 * us, 4 * ms};
    idle.calls(size, 1000);
    busy.calls(size, 500);
    check(size.level() == 1, "level on a busy machine", size.level());
    const Nanoseconds took = busy.calls(size, 5000);
    check(took < 5000 * 800 * us * 105 / 100, "time beside others, ms", took / ms);
    // Idle again: found out within the time of some hundred calls, for good.
    idle.calls(size, 1000);
    check(idle.calls(size, 1000) == 1000 * 400 * us, "level on a machine that is idle again",
          size.level());
}

void check_many_processors() {
    TeamSize size;
    // Sixty-four threads, one of which nobody runs: half of them do without, and one would not do.
    const Machine busy{64, 63, 64 * ms, 8 * ms};
    const Nanoseconds took = busy.calls(size, 1000);
    check(took < 1000 * 2 * ms * 105 / 100, "time of many threads, ms", took / ms);
    check(took > 1000 * 2 * ms, "time of many threads, ms", took / ms);
}

// A call whose own thread did not run for a while seems to show that one thread takes for ever.
void check_interrupted_call() {
    TeamSize size;
    size.learn({2, 0, &size}, 1 * ms, 1000 * ms);
    size.learn({2, 0, &size}, 3 * ms, 1 * ms);
    check(size.level() == 1, "level after one call that tells nothing", size.level());
}

void check_several_threads_learn() {
    TeamSize size;
    std::vector<std::thread> callers;
    for (int i = 0; i < 8; ++i) {
        callers.emplace_back([&size] {
            const Machine idle{2, 2, 800 * us};
            const Machine busy{2, 1, 800 * us, 4 * ms};
            for (int k = 0; k < 20000; ++k) (k / 1000 % 2 == 0 ? idle : busy).call(size);
        });
    }
    for (std::thread& caller : callers) caller.join();
    check(size.level() >= 0 && size.level() <= 1, "level", size.level());
}

void check_choice() {
    set_num_threads(5);
    set_full_teams(true);
    if (has_openmp()) {
        const int threads = choose_team(1 << 30, 1000).threads;
        check(threads == 5, "full team", threads);
        check(choose_team(1 << 30, 3).threads == 3, "threads of three pieces", 3);
        check(choose_team(300 << 10, 1000).threads == 2, "threads with enough to do", 2);
    }
    check(choose_team(100, 1000).threads == 1, "threads of a small call", 0);
    set_full_teams(false);
    const int most = processors();
    check(choose_team(1 << 30, 1000).threads <= most, "processors", most);
    run_team(Team{most, 0, nullptr}, [](Member& member) {
        if (member.thread() > 0) return;
        const int threads = choose_team(1 << 30, 1000).threads;
        check(threads == 1, "threads while another call has all processors", threads);
    });
    set_num_threads(0);
}

}  // namespace
}  // namespace fastbn

int main() {
    fastbn::check_items();
    fastbn::check_items_of_members();
    fastbn::check_items_of_several_callers();
    fastbn::check_items_in_a_parallel_region();
    fastbn::check_idle_machine();
    fastbn::check_sleeping_threads();
    fastbn::check_busy_machine();
    fastbn::check_many_processors();
    fastbn::check_interrupted_call();
    fastbn::check_several_threads_learn();
    fastbn::check_choice();
    std::printf("%d checks failed\n", fastbn::failures.load());
    return fastbn::failures == 0 ? 0 : 1;
}
