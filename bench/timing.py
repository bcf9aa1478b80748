"""Times calls against each other: interleaved, in rounds, medians; knows neither arrays nor batch norm."""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

K = TypeVar("K")

SETTLE_SECONDS = 0.002  # longer than the threads of any peer spin after their last call
_LONG_NS = 20_000_000  # a call this long does not profit from a call before it


@dataclass(frozen=True)
class Timing:
    """Time of one call in nanoseconds, over ``rounds`` samples of ``calls`` calls each."""

    median: float
    low: float
    high: float
    best: float
    rounds: int
    calls: int

    @property
    def spread(self) -> float:
        """The interquartile range as a part of the median."""
        return (self.high - self.low) / self.median


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Parameters
    ----------
    budget : float
        Seconds for one group of calls that are compared with each other.
    sample : float
        Seconds that one sample lasts at least; short calls are repeated to fill it.
    min_rounds, max_rounds : int
        Limits on the number of samples, whatever the budget.
    """

    budget: float = 6.0
    sample: float = 1e-3
    min_rounds: int = 7
    max_rounds: int = 60


QUICK_EFFORT = Effort(budget=1.2, sample=3e-4, min_rounds=5, max_rounds=30)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _elapsed(call: Callable[[], object], calls: int) -> int:
    start = time.perf_counter_ns()
    for _ in range(calls):
        call()
    return time.perf_counter_ns() - start


def _sample(call: Callable[[], object], calls: int, warm: bool, settle: float = SETTLE_SECONDS) -> float:
    if settle:
        time.sleep(settle)
    if warm:
        call()
    return _elapsed(call, calls) / calls


def _summary(samples: list[float], calls: int) -> Timing:
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Timing(median, low, high, min(samples), len(samples), calls)


def measure(contestants: Mapping[K, Callable[[], object]], effort: Effort, seed: int = 0) -> dict[K, Timing]:
    """Return the timing of every call.

    In each round every contestant is called in turn, in an order shuffled anew: what the machine does meanwhile hits
    all alike. Before a sample all threads are left time to fall asleep, then one call is made that is not counted
    (but for calls so long that it would not matter), so that caches and the contestant's own threads are warm.
    """
    with _no_garbage_collection():
        once = {name: min(_elapsed(call, 1), _elapsed(call, 1)) for name, call in contestants.items()}
        calls = {name: min(10_000, math.ceil(effort.sample * 1e9 / max(1, ns))) for name, ns in once.items()}
        warm = {name: ns < _LONG_NS for name, ns in once.items()}
        cost = sum(ns * (calls[name] + warm[name]) / 1e9 + SETTLE_SECONDS for name, ns in once.items())
        rounds = max(effort.min_rounds, min(effort.max_rounds, int(effort.budget / cost)))
        samples: dict[K, list[float]] = {name: [] for name in contestants}
        order, shuffle = list(contestants), random.Random(seed)
        for _ in range(rounds):
            shuffle.shuffle(order)
            for name in order:
                samples[name].append(_sample(contestants[name], calls[name], warm[name]))
    return {name: _summary(samples[name], calls[name]) for name in contestants}


@dataclass(frozen=True)
class Pair:
    """Two calls timed in the same rounds.

    Attributes
    ----------
    first, second : tuple of float
        Nanoseconds of one call, round by round.
    """

    first: tuple[float, ...]
    second: tuple[float, ...]

    @property
    def rounds(self) -> int:
        """How often both were timed."""
        return len(self.first)

    @property
    def ratios(self) -> list[float]:
        """The second's time over the first's, round by round."""
        return [b / a for a, b in zip(self.first, self.second, strict=True)]

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios."""
        return statistics.median(self.ratios)

    @property
    def undisturbed(self) -> float:
        """The ratio of the times that a tenth of the rounds are below: those in which little else was running."""
        return sorted(self.second)[self.rounds // 10] / sorted(self.first)[self.rounds // 10]

    @property
    def interval(self) -> tuple[float, float]:
        """What holds the true median of the ratios with a certainty of 99 %, whatever their distribution is."""
        return median_interval(self.ratios)

    @property
    def noise(self) -> float:
        """Half the width of that interval, as a part of the ratio."""
        low, high = self.interval
        return (high - low) / 2 / self.ratio

    @classmethod
    def pooled(cls, pairs: Iterable[Pair]) -> Pair:
        """Return all rounds of several measurements of the same two calls as one."""
        known = list(pairs)
        return cls(tuple(t for p in known for t in p.first), tuple(t for p in known for t in p.second))


def median_interval(values: Sequence[float], certainty: float = 0.99) -> tuple[float, float]:
    """Return the interval that holds the true median with at least this certainty, from the order of the values.

    Of n independent values the number below the median is binomial with p = 1/2, so the k-th from either end are the
    bounds, with the largest k whose tails sum to no more than what is left to chance (all values if there is none).
    """
    ordered = sorted(values)
    n, k = len(ordered), 1
    below = 1 / 2**n
    while 2 * (below + math.comb(n, k) / 2**n) <= 1 - certainty:
        below += math.comb(n, k) / 2**n
        k += 1
    return ordered[k - 1], ordered[n - k]


Enter = Callable[[], AbstractContextManager[object]]


def measure_pair(
    first: Callable[[], object],
    second: Callable[[], object],
    effort: Effort,
    within: tuple[Enter, Enter] = (nullcontext, nullcontext),
    settle: float = SETTLE_SECONDS,
) -> Pair:
    """Time two calls in turn, as many calls of both in each sample, the order swapped from round to round.

    Parameters
    ----------
    within : pair of callables
        What each call is made in: context managers that are entered and left while the clock stands.
    settle : float
        Seconds for threads to fall asleep before a sample; 0 where both calls use the same threads.
    """
    both = tuple(zip((first, second), within, strict=True))
    with _no_garbage_collection():
        once = []
        for call, enter in both:
            with enter():
                once.append(min(_elapsed(call, 1), _elapsed(call, 1)))
        calls = min(10_000, math.ceil(effort.sample * 1e9 / max(1, min(once))))
        warm = calls > 1
        cost = sum(ns * (calls + warm) / 1e9 + settle for ns in once)
        rounds = max(effort.min_rounds, min(effort.max_rounds, int(effort.budget / cost)))
        samples: tuple[list[float], list[float]] = ([], [])
        for number in range(rounds + rounds % 2):
            for side in (0, 1) if number % 2 == 0 else (1, 0):
                call, enter = both[side]
                with enter():
                    samples[side].append(_sample(call, calls, warm, settle))
    return Pair(tuple(samples[0]), tuple(samples[1]))
