// Threads: the phases of a call, run by a team. The only door to OpenMP.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

#include "engine/team_size.hpp"

namespace fastbn {

// What set_num_threads chose; 0 leaves the choice to OpenMP, asked anew at every call.
void set_num_threads(int n);
int get_num_threads();
bool has_openmp();

// Processors that a call may use: those that OpenMP sees, of which the system may deny some to this
// process, but no more than the quota of its container.
int processors();
void read_quota(const std::string& root);

// The team for work that touches so many bytes in so many pieces: as many threads as were asked
// for, if each has enough to do, but no more than there are processors that no other call uses, and
// as few as calls of like size have learned to take.
Team choose_team(std::ptrdiff_t bytes, std::ptrdiff_t pieces);

// For tests, which want races: as many threads as were asked for, up to 64, whatever processors
// there are and whatever was learned.
void set_full_teams(bool full);

// In a forked child OpenMP's threads are gone but not forgotten, and the first parallel region
// would wait for them for ever: from then on everything runs on the calling thread.
void install_fork_handler();

// The work of a phase, items 0 .. n: which are handed out, and how many are done.
class Phase {
public:
    struct Range {
        std::ptrdiff_t begin;
        std::ptrdiff_t end;

        explicit operator bool() const { return begin < end; }
    };

    // A part of what is left, empty if nothing is: long ones first, short ones to end together.
    Range take(std::ptrdiff_t n, int members);
    void finish(std::ptrdiff_t items) { done_.fetch_add(items, std::memory_order_release); }
    void wait_for_all(std::ptrdiff_t n) const;

    // A member worked so long on `mine` of n items, and there are no more.
    void add_time(Nanoseconds worked, std::ptrdiff_t mine, std::ptrdiff_t n, int members);
    // What one thread would have taken for all items.
    Nanoseconds alone() const;

private:
    std::atomic<std::ptrdiff_t> next_{0};
    std::atomic<std::ptrdiff_t> done_{0};
    std::atomic<Nanoseconds> worked_{0};  // by all members together
    // What one thread would have taken by the time and the part of the fastest member.
    std::atomic<Nanoseconds> by_fastest_{INT64_MAX / 2};
};

constexpr std::size_t most_phases = 3;
using Phases = std::array<Phase, most_phases>;

// A thread of a team. All go through the same phases; none waits there for another to begin, since
// those that have begun do all the work.
class Member {
public:
    Member(int thread, int members, Phases* phases)
        : thread_(thread), members_(members), phases_(phases) {}

    // 0 is the calling thread.
    int thread() const { return thread_; }

    // The next phase: body(begin, end) on contiguous parts of 0 .. n, those that this thread gets
    // hold of. Returns when all are done, by whomever.
    template <class Body>
    void run_phase(std::ptrdiff_t n, const Body& body) {
        if (members_ == 1) {
            if (n > 0) body(0, n);
            return;
        }
        Phase& phase = (*phases_)[next_phase_++];
        const Nanoseconds started = now();
        std::ptrdiff_t mine = 0;
        while (const Phase::Range range = phase.take(n, members_)) {
            body(range.begin, range.end);
            phase.finish(range.end - range.begin);
            mine += range.end - range.begin;
        }
        phase.add_time(now() - started, mine, n, members_);
        phase.wait_for_all(n);
    }

private:
    int thread_;
    int members_;
    Phases* phases_;
    std::size_t next_phase_ = 0;
};

using TeamTask = void (*)(const void* context, Member& member);
void run_team(const Team& team, TeamTask task, const void* context) noexcept;

// body(member) on each thread of a team; returns when all have left it, and learns from how long
// they took.
template <class Body>
void run_team(const Team& team, const Body& body) noexcept {
    run_team(
        team,
        [](const void* context, Member& member) { (*static_cast<const Body*>(context))(member); },
        &body);
}

// A single phase: body(begin, end) on contiguous parts of 0 .. n; returns when all are done.
template <class Body>
void parallel_ranges(const Team& team, std::ptrdiff_t n, const Body& body) noexcept {
    run_team(team, [&](Member& member) { member.run_phase(n, body); });
}

}  // namespace fastbn
