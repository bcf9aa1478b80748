// Threads: the phases of a call, run by a team, whose size is learned from the calls before it. The
// only door to OpenMP.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

namespace fastbn {

// ---- Teams ----
//
// On a machine that others use too, a call waits at its end for the thread that the system does not
// run just then, and may wait many times as long as it works. Whether it will cannot be asked of
// the system in the time that a call takes. But a call that is over tells what its threads were
// worth: each did a known part of the work in a known time, from which follows what one thread
// would have taken (threads.cpp), and half as many as there were, none of them waited for:
//
//     loss = took - alone / half
//
// Losses and gains are added up, for calls of like size. When more has been lost than it costs to
// wake the threads, such calls take half as many, until they have worked for `repay` times as long
// as was lost. Then they try the larger team again; if that loses again, the smaller one works for
// twice as many times. So no more than one part in `repay` of the time is lost, whatever the
// machine does, and much less where it goes on doing so.

using Nanoseconds = std::int64_t;
Nanoseconds now();

class TeamSize;

// The threads of one call.
struct Team {
    int threads = 1;
    int level = 0;               // that of `learns` when the call began
    TeamSize* learns = nullptr;  // from the call's times; null where it would not take more threads
};

// What calls of like size have learned. Several threads may use it at once: its numbers are atomic
// each for itself, and if one of two changes is lost, the next call makes it.
class TeamSize {
public:
    // That of calls that touch about so many bytes.
    static TeamSize& of(std::ptrdiff_t bytes);

    // How often the number of threads is to be divided by two.
    int level() const { return level_.load(std::memory_order_relaxed); }

    // From a call that took so long, where one thread would have taken `alone`.
    void learn(const Team& team, Nanoseconds took, Nanoseconds alone);

private:
    static constexpr Nanoseconds repay = 12;
    static constexpr Nanoseconds most_repay = 64;

    void add_loss(const Team& team, Nanoseconds loss);
    void work_off(const Team& team, Nanoseconds took);

    std::atomic<int> level_{0};
    std::atomic<Nanoseconds> lost_{0};       // by teams of the present size; below 0: gained
    std::atomic<Nanoseconds> owed_{0};       // so long the smaller team is to work yet
    std::atomic<Nanoseconds> times_{repay};  // what the next loss is multiplied by
};

// ---- Settings ----

// What set_num_threads chose; 0 leaves the choice to OpenMP, asked anew at every call.
void set_num_threads(int n);
int get_num_threads();
bool has_openmp();

// Processors that a call may use: those that OpenMP sees, which are the ones that the process's
// affinity leaves, but no more than the quota of its container.
int processors();
void read_quota(const std::string& root);

// The team for work that touches so many bytes in so many items: as many threads as were asked
// for, if each has enough to do, but no more than there are processors that no other call uses, and
// as few as calls of like size have learned to take.
Team choose_team(std::ptrdiff_t bytes, std::ptrdiff_t items);

// For tests, which want races: as many threads as were asked for, up to 64, whatever processors
// there are and whatever was learned.
void set_full_teams(bool full);

// In a forked child OpenMP's threads are gone but not forgotten, and the first parallel region
// would wait for them for ever: from then on everything runs on the calling thread.
void install_fork_handler();

// ---- Phases ----

// A phase is cut into so many parts at most. And tests get no more threads, whatever they ask for,
// since more than the system can start would end the process.
constexpr int most_threads = 64;

// The work of a phase, items 0 .. n: which are handed out, and how many are done. Each member has
// an equal part of its own, or shares one where there are more than most_threads, so that what it
// read in one phase, or in the call before, is still in its caches in the next; it goes on with
// what others have left.
class Phase {
public:
    // For member number `member` of so many: half of what is left of its part, or else of
    // another's, so that all end together. Returns how many items from `begin` on, 0 if nothing is
    // left.
    std::ptrdiff_t take(std::ptrdiff_t n, int member, int members, std::ptrdiff_t& begin);
    void finish(std::ptrdiff_t items) { done_.fetch_add(items, std::memory_order_release); }
    void wait_for_all(std::ptrdiff_t n) const;

    // A member worked so long on `mine` of n items, and there are no more.
    void add_time(Nanoseconds worked, std::ptrdiff_t mine, std::ptrdiff_t n, int members);
    // What one thread would have taken for all items.
    Nanoseconds alone() const;

private:
    std::array<std::atomic<std::ptrdiff_t>, most_threads> taken_{};  // of each part
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
        run_phase_as(thread_, n, body);
    }
    // The same from the end on: each member takes the last items of its part first, which is, to
    // within an item, its part of a phase that runs forwards.
    template <class Body>
    void run_phase_backwards(std::ptrdiff_t n, const Body& body) {
        run_phase_as(members_ - 1 - thread_, n,
                     [&](std::ptrdiff_t begin, std::ptrdiff_t end) { body(n - end, n - begin); });
    }

private:
    template <class Body>
    void run_phase_as(int member, std::ptrdiff_t n, const Body& body) {
        if (members_ == 1) {
            if (n > 0) body(0, n);
            return;
        }
        Phase& phase = (*phases_)[next_phase_++];
        const Nanoseconds started = now();
        std::ptrdiff_t mine = 0;
        std::ptrdiff_t begin = 0;
        while (const std::ptrdiff_t taken = phase.take(n, member, members_, begin)) {
            body(begin, begin + taken);
            phase.finish(taken);
            mine += taken;
        }
        phase.add_time(now() - started, mine, n, members_);
        phase.wait_for_all(n);
    }

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
