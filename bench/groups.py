"""Measures one operation on one case, every peer, variant and the copy side by side; knows no files and no tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

import reference
import timing
from cases import Case, Op, Output
from data import NUMPY_OFFSET, Array, Data, make_data
from peers.base import Contestant, Peer
from records import Record
from variants import PLAIN, Variant
from yardstick import COPY, PLUS_ONE, Yardstick, bound

Key = tuple[str, str, Output]


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
    offset : int
        How many bytes past the start of a cache line arrays start.
    """

    yardstick: Yardstick
    effort: timing.Effort
    l2_bytes: int
    peers: Sequence[Peer]
    outputs: Sequence[Output]
    fresh_for: Sequence[str] | None = None
    seed: int = 0
    offset: int = NUMPY_OFFSET


class Bench:
    """One case in some variants, timed against each other: the arrays and the truth are made once for all operations.

    Parameters
    ----------
    variants : sequence of Variant
        The copy is that of the first one's bytes.
    topic : str or None
        The group that the records go to, if not the case's own.
    """

    def __init__(
        self,
        case: Case,
        variants: Sequence[Variant],
        setup: Setup,
        say: Callable[[str], None],
        topic: str | None = None,
    ) -> None:
        self._case, self._setup, self._say = case, setup, say
        self._group = topic or case.group
        self._data: dict[str, Data] = {}
        for variant in variants:
            same = [d for d in self._data.values() if d.dtype == variant.dtype]
            made = same[0].vary(variant) if same else make_data(case, variant, setup.seed, setup.offset)
            self._data[variant.name] = made
        self._statistics = {name: reference.statistics(data) for name, data in self._data.items()}
        for name, data in self._data.items():
            reference.settle(data, *self._statistics[name])

    def measure(self, op: Op) -> list[Record]:
        """Check every peer's result in every variant, then time all of them together."""
        contestants = dict(self._checked(op))
        copies = self._setup.yardstick.contestants(next(iter(self._data.values())).x)
        calls: dict[Key, Callable[[], object]] = {key: c.call for key, c in contestants.items()}
        calls |= {(PLAIN, name, "given"): call for name, call in copies.items()}
        times = timing.measure(calls, self._setup.effort, self._setup.seed)
        copy = min(times[PLAIN, name, "given"].median for name in copies if name.startswith(COPY))
        plus_one = times[PLAIN, PLUS_ONE, "given"].median if PLUS_ONE in copies else None
        return [self._record(op, key, times[key], copy, plus_one) for key in contestants]

    def _checked(self, op: Op) -> Iterator[tuple[Key, Contestant]]:
        for name, data in self._data.items():
            if not data.variant.suits(self._case, op):
                continue
            want = reference.expected(op, data, *self._statistics[name])
            for peer in self._setup.peers:
                for output, contestant in self._prepared(peer, op, data):
                    problem = _judge(contestant, want, data)
                    if problem is None:
                        yield (name, peer.name, output), contestant
                    else:
                        self._say(f"{self._left_out(peer, op, data)} ({data.dtype}): {problem}")

    def _left_out(self, peer: Peer, op: Op, data: Data) -> str:
        special = "" if data.variant.name == PLAIN else f", {data.variant.name}"
        return f"{peer.name} left out of {op} on {self._case.name}{special}"

    def _prepared(self, peer: Peer, op: Op, data: Data) -> Iterator[tuple[Output, Contestant]]:
        few = self._setup.fresh_for
        enough = False
        for output in ("fresh",) if op == "moments" else self._setup.outputs:
            if enough and few is not None and peer.name not in few:
                return
            try:
                contestant = peer.prepare(op, output, data)
            except Exception as error:  # a peer's failure is a line in the report, whatever it raises
                self._say(f"{self._left_out(peer, op, data)}: {type(error).__name__}: {error}")
                continue
            if contestant is not None:
                enough = True
                yield output, contestant

    def _record(self, op: Op, key: Key, time: timing.Timing, copy: float, plus_one: float | None) -> Record:
        name, peer, output = key
        case, data = self._case, self._data[name]
        copied = next(iter(self._data.values())).x.nbytes
        inner = case.outer_inner[1]
        return Record(
            case=case.name,
            group=self._group,
            op=op,
            dtype=data.dtype.name,
            peer=peer,
            output=output,
            shape=case.shape,
            nbytes=data.x.nbytes,
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
            bound=bound(case, op, data.variant, self._setup.l2_bytes, copied),
            variant=name,
        )


def _judge(contestant: Contestant, want: reference.Arrays, data: Data) -> str | None:
    """Run a contestant once and say what is wrong with its result."""
    try:
        got: dict[str, Array] = contestant.arrays(contestant.call())
    except Exception as error:  # as above
        return f"{type(error).__name__}: {error}"
    return reference.mismatch({name: np.asarray(value) for name, value in got.items()}, want, data)
