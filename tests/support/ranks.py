"""Ranks that are threads of this process: a communicator with `allgather` alone."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from typing import Any

# A collective that not all ranks take part in fails after this many seconds, and the test with it.
_PATIENCE = 20.0


class ThreadComm:
    """One rank's communicator; `collectives` and `nbytes` say what has been sent."""

    def __init__(self, rank: int, slots: list[bytes], barrier: threading.Barrier) -> None:
        self.rank, self.size = rank, len(slots)
        self.collectives = self.nbytes = 0
        self._slots, self._barrier = slots, barrier

    def allgather(self, value: Any) -> list[Any]:
        self._slots[self.rank] = pickle.dumps(value)
        self.collectives += 1
        self.nbytes += len(self._slots[self.rank])
        self._barrier.wait(_PATIENCE)
        result = [pickle.loads(each) for each in self._slots]
        self._barrier.wait(_PATIENCE)
        return result


def on_ranks(size: int, function: Callable[[ThreadComm], Any]) -> list[Any]:
    """Run a function on every rank, and return what they return, or the exceptions that they raise."""
    slots, barrier = [b""] * size, threading.Barrier(size)
    results: list[Any] = [None] * size

    def run(rank: int) -> None:
        try:
            results[rank] = function(ThreadComm(rank, slots, barrier))
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
