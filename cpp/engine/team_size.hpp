// How many threads a call takes, learned from the calls before it.
//
// On a machine that others use too, a call waits at its end for the thread that the system does not
// run just then, and may wait many times as long as it works. Whether it will cannot be asked of
// the system in the time that a call takes. But a call that is over tells what its threads were
// worth: each did a known part of the work in a known time, from which follows what one thread
// would have taken (engine/threads.cpp), and half as many as there were, none of them waited for:
//
//     loss = took - alone / half
//
// Losses and gains are added up, for calls of like size. When more has been lost than it costs to
// wake the threads, such calls take half as many, until they have worked for `repay` times as long
// as was lost. Then they try the larger team again; if that loses again, the smaller one works for
// twice as many times. So no more than one part in `repay` of the time is lost, whatever the
// machine does, and much less where it goes on doing so.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace fastbn {

using Nanoseconds = std::int64_t;
Nanoseconds now();

class TeamSize;

// The threads of one call.
struct Team {
    int threads = 1;
    int halvings = 0;            // how often the number that is meant to be had been halved
    TeamSize* learns = nullptr;  // from the call's times; null where it would not take more threads
};

// What calls of like size have learned. Several threads may use it at once: its numbers are atomic
// each for itself, and if one of two changes is lost, the next call makes it.
class TeamSize {
public:
    // That of calls that touch about so many bytes.
    static TeamSize& of(std::ptrdiff_t bytes);

    // How often the number of threads is to be halved.
    int halvings() const { return halvings_.load(std::memory_order_relaxed); }

    // From a call that took so long, where one thread would have taken `alone`.
    void learn(const Team& team, Nanoseconds took, Nanoseconds alone);

private:
    static constexpr Nanoseconds repay = 12;
    static constexpr Nanoseconds most_repay = 64;

    void add_loss(const Team& team, Nanoseconds loss);
    void work_off(const Team& team, Nanoseconds took);

    std::atomic<int> halvings_{0};
    std::atomic<Nanoseconds> lost_{0};       // by teams of the present size; below 0: gained
    std::atomic<Nanoseconds> owed_{0};       // so long the smaller team is to work yet
    std::atomic<Nanoseconds> times_{repay};  // what the next loss is multiplied by
};

}  // namespace fastbn
