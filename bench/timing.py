"""Times calls against each other: interleaved, in shuffled rounds, medians; knows neither arrays nor batch norm."""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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


def _sample(call: Callable[[], object], calls: int, warm: bool) -> float:
    time.sleep(SETTLE_SECONDS)
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
