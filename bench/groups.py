"""Measures one operation on one case, every peer and the copy side by side; knows no files and no tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

import reference
import timing
from cases import Case, Op, Output
from data import Array, Data, make_data
from peers.base import Contestant, Peer
from records import Record
from yardstick import COPY, PLUS_ONE, Yardstick, bound

Key = tuple[str, Output]


@dataclass(frozen=True)
class Setup:
    """What all groups of a run share.

    Parameters
    ----------
    peers : sequence of Peer
        The libraries to time.
    outputs : sequence of str
        Outputs to ask every peer for.
    fresh_for : sequence of str or None
        The peers to time with every output; the others with the first that they can do. None: all peers.
    """

    yardstick: Yardstick
    effort: timing.Effort
    l2_bytes: int
    peers: Sequence[Peer]
    outputs: Sequence[Output]
    fresh_for: Sequence[str] | None = None
    seed: int = 0


class Bench:
    """One case in one dtype: the arrays and the truth are made once for all its operations."""

    def __init__(self, case: Case, dtype: str, setup: Setup, say: Callable[[str], None]) -> None:
        self._case, self._setup, self._say = case, setup, say
        self._data = make_data(case, dtype, setup.seed)
        self._mean, self._var = reference.statistics(self._data)

    def measure(self, op: Op) -> list[Record]:
        """Check every peer's result, then time all of them together."""
        contestants = dict(self._checked(op))
        copies = self._setup.yardstick.contestants(self._data.x)
        calls: dict[Key, Callable[[], object]] = {key: c.call for key, c in contestants.items()}
        calls |= {(name, "given"): call for name, call in copies.items()}
        times = timing.measure(calls, self._setup.effort, self._setup.seed)
        copy = min(t.median for (name, _), t in times.items() if name.startswith(COPY))
        plus_one = times[PLUS_ONE, "given"].median if PLUS_ONE in copies else None
        limit = bound(self._case, op, self._data.dtype.itemsize, self._setup.l2_bytes)
        return [self._record(op, key, times[key], copy, plus_one, limit) for key in contestants]

    def _checked(self, op: Op) -> Iterator[tuple[Key, Contestant]]:
        want = reference.expected(op, self._data, self._mean, self._var)
        for peer in self._setup.peers:
            for output, contestant in self._prepared(peer, op):
                problem = _judge(contestant, want, self._data)
                if problem is None:
                    yield (peer.name, output), contestant
                else:
                    self._say(f"{peer.name} left out of {op} on {self._case.name} ({self._data.dtype}): {problem}")

    def _prepared(self, peer: Peer, op: Op) -> Iterator[tuple[Output, Contestant]]:
        few = self._setup.fresh_for
        enough = False
        for output in ("fresh",) if op == "moments" else self._setup.outputs:
            if enough and few is not None and peer.name not in few:
                return
            try:
                contestant = peer.prepare(op, output, self._data)
            except Exception as error:  # a peer's failure is a line in the report, whatever it raises
                self._say(f"{peer.name} left out of {op} on {self._case.name}: {type(error).__name__}: {error}")
                continue
            if contestant is not None:
                enough = True
                yield output, contestant

    def _record(
        self, op: Op, key: Key, time: timing.Timing, copy: float, plus_one: float | None, limit: float
    ) -> Record:
        case, x = self._case, self._data.x
        inner = case.outer_inner[1]
        return Record(
            case=case.name,
            group=case.group,
            op=op,
            dtype=self._data.dtype.name,
            peer=key[0],
            output=key[1],
            shape=case.shape,
            nbytes=x.nbytes,
            layout="last" if inner == 1 else "first",
            inner=inner,
            median=time.median,
            low=time.low,
            high=time.high,
            best=time.best,
            rounds=time.rounds,
            calls=time.calls,
            copy=copy,
            plus_one=plus_one,
            bound=limit,
        )


def _judge(contestant: Contestant, want: reference.Arrays, data: Data) -> str | None:
    """Run a contestant once and say what is wrong with its result."""
    try:
        got: dict[str, Array] = contestant.arrays(contestant.call())
    except Exception as error:  # as above
        return f"{type(error).__name__}: {error}"
    return reference.mismatch({name: np.asarray(value) for name, value in got.items()}, want, data)
