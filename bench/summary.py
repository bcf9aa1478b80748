"""The figures the project aims at beside the measured ones; knows records only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from cases import Op
from records import Record, pick

OURS = "fastbn"
COLUMNS: tuple[Op, ...] = ("train", "eval", "backward")

_LARGE = 16_000_000
_SMALL_INNER = 14 * 14
_TINY = 32 * 64 * 4

Chooser = Callable[[Record], bool]
Measure = Callable[[Sequence[Record], Chooser], list[float]]


@dataclass(frozen=True)
class Aim:
    """One row: what is asked of which cases.

    Parameters
    ----------
    title : str
        The row's name.
    of : callable
        Chooses the cases.
    measure : callable
        Gives one figure per case.
    wanted : tuple
        The figure asked for in training, inference and backward; None where none is.
    at_most : bool
        Whether less is better.
    each : bool
        Whether every case must reach it, or the geometric mean.
    """

    title: str
    of: Chooser
    measure: Measure
    wanted: tuple[float | None, float | None, float | None]
    at_most: bool = True
    each: bool = True


def geometric_mean(values: Iterable[float]) -> float:
    """Return the geometric mean; NaN of nothing."""
    logs = [math.log(v) for v in values]
    return math.exp(math.fsum(logs) / len(logs)) if logs else math.nan


def ours(records: Sequence[Record], of: Chooser) -> list[Record]:
    """Return the chosen records of fastbn with its output given."""
    return [r for r in pick(records, peer=OURS, output="given") if of(r)]


def _copies(records: Sequence[Record], of: Chooser) -> list[float]:
    return [r.copies for r in ours(records, of)]


def _plus_ones(records: Sequence[Record], of: Chooser) -> list[float]:
    return [r.median / r.plus_one for r in ours(records, of) if r.plus_one]


def _fresh(records: Sequence[Record], of: Chooser) -> list[float]:
    fresh = {r.case: r.median for r in pick(records, peer=OURS, output="fresh")}
    return [fresh[r.case] / r.median for r in ours(records, of) if r.case in fresh]


def faster_than(peer: str) -> Measure:
    """Return the measure of how many times faster than the peer fastbn is, by the better of the peer's outputs."""

    def measure(records: Sequence[Record], of: Chooser) -> list[float]:
        best: dict[str, float] = {}
        for r in filter(of, pick(records, peer=peer)):
            best[r.case] = min(r.median, best.get(r.case, math.inf))
        return [best[r.case] / r.median for r in ours(records, of) if r.case in best]

    return measure


def _large(layout: str) -> Chooser:
    def choose(r: Record) -> bool:
        inner = r.inner > _SMALL_INNER or layout == "last"
        return r.group in _REAL and r.layout == layout and r.nbytes >= _LARGE and inner

    return choose


_REAL = ("resnet-nchw", "resnet-nhwc", "table")

AIMS = (
    Aim("NCHW, 16 MB and more, in copies", _large("first"), _copies, (1.25, 1.03, 1.75)),
    Aim("NHWC and (N, C), 16 MB and more, in copies", _large("last"), _copies, (1.65, 1.03, 2.6)),
    Aim(
        "inner sizes 7x7 and 14x14, in copies",
        lambda r: r.group == "resnet-nchw" and r.inner <= _SMALL_INNER,
        _copies,
        (1.6, 1.1, 2.1),
    ),
    Aim(
        "faster than PyTorch, ResNet-50 NCHW",
        lambda r: r.group == "resnet-nchw",
        faster_than("PyTorch"),
        (5, 2, 3),
        at_most=False,
        each=False,
    ),
    Aim(
        "faster than PyTorch, ResNet-50 NHWC",
        lambda r: r.group == "resnet-nhwc",
        faster_than("PyTorch"),
        (3, 2, 3),
        at_most=False,
        each=False,
    ),
    Aim(
        "faster than oneDNN, ResNet-50 NCHW",
        lambda r: r.group == "resnet-nchw",
        faster_than("oneDNN"),
        (4, None, 4),
        at_most=False,
        each=False,
    ),
    Aim(
        "faster than oneDNN, ResNet-50 NHWC",
        lambda r: r.group == "resnet-nhwc",
        faster_than("oneDNN"),
        (1.2, None, 1.3),
        at_most=False,
        each=False,
    ),
    Aim("never slower than oneDNN", lambda r: True, faster_than("oneDNN"), (1, 1, 1), at_most=False),
    Aim("output fresh against given", lambda r: not r.group.startswith("sweep"), _fresh, (1.05, 1.05, 1.05)),
    Aim(
        "(32, 64) and smaller, faster than PyTorch",
        lambda r: r.group == "small" and r.nbytes <= _TINY,
        faster_than("PyTorch"),
        (4, 4, 4),
        at_most=False,
    ),
    Aim(
        "(32, 64) and smaller, in x + 1",
        lambda r: r.group == "small" and r.nbytes <= _TINY,
        _plus_ones,
        (4, 2.5, None),
    ),
)


def _cell(aim: Aim, values: list[float], wanted: float | None) -> str:
    if not values:
        return "-"
    worst = max(values) if aim.at_most else min(values)
    mean = geometric_mean(values)
    text = f"{mean:.2f} (worst {worst:.2f})" if len(values) > 1 else f"{mean:.2f}"
    if wanted is None:
        return text
    reached = worst if aim.each else mean
    met = reached <= wanted if aim.at_most else reached >= wanted
    return f"{text}, aim {wanted:g}: {'met' if met else '**missed**'}"


def table(records: Sequence[Record], aims: Iterable[Aim] = AIMS) -> list[str]:
    """Return the Markdown lines of the table of aims; rows without a measurement are dropped."""
    lines = ["| geometric mean over cases | training | inference | backward |", "|---|---|---|---|"]
    for aim in aims:
        cells = [
            _cell(aim, aim.measure(pick(records, op=op), aim.of), wanted)
            for op, wanted in zip(COLUMNS, aim.wanted, strict=True)
        ]
        if set(cells) != {"-"}:
            lines.append(f"| {aim.title} | {' | '.join(cells)} |")
    return lines if len(lines) > 2 else []
