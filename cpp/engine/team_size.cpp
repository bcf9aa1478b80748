#include "engine/team_size.hpp"

#include <algorithm>
#include <array>
#include <chrono>

namespace fastbn {
namespace {

// What it costs to wake a thread, at most, where the system is idle: no reason to do without it, or
// a team that was halved would lose at every first try, since its threads are asleep then.
constexpr Nanoseconds wake = 200'000;

// So much of what was gained counts against later losses: about the time for which the system gives
// a processor to somebody else, which now and then happens on idle machines too.
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
    if (team.halvings > 0) work_off(team, took);
}

void TeamSize::add_loss(const Team& team, Nanoseconds loss) {
    const Nanoseconds lost = lost_.fetch_add(loss, std::memory_order_relaxed) + loss;
    if (lost < -most_gained) {
        lost_.store(-most_gained, std::memory_order_relaxed);
        if (team.halvings == 0) times_.store(repay, std::memory_order_relaxed);
    }
    if (lost <= wake * team.threads) return;
    int halvings = team.halvings;
    // Another thread may have been first.
    if (!halvings_.compare_exchange_strong(halvings, halvings + 1, std::memory_order_relaxed)) {
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
    if (halvings() != team.halvings) return;  // what is owed is to be worked off by a smaller team
    if (owed_.fetch_sub(took, std::memory_order_relaxed) > took) return;
    int halvings = team.halvings;
    if (!halvings_.compare_exchange_strong(halvings, halvings - 1, std::memory_order_relaxed)) {
        return;
    }
    owed_.store(0, std::memory_order_relaxed);
    lost_.store(0, std::memory_order_relaxed);
}

}  // namespace fastbn
