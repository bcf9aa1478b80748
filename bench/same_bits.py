"""Compares the results of two builds bit for bit; knows no clock, and of the calls only what they return."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from builds import Build
from data import Array
from random_calls import Kind
from report import row

Results = dict[str, Array]


@dataclass(frozen=True)
class Difference:
    """How one result of a call differs between two builds.

    Attributes
    ----------
    name : str
        The result, as "y".
    elements : int
        How many of its elements have other bits; 0 where the types or shapes already differ.
    relative : float
        The largest difference of an element relative to the larger of the two; 0 where only the sign of a zero or the
        bits of a NaN differ, infinite where one is NaN or infinite alone.
    of_largest : float
        The largest difference relative to the largest finite element.
    """

    name: str
    elements: int
    relative: float
    of_largest: float
    remark: str = ""


@dataclass(frozen=True)
class Compared:
    """One call made with both builds."""

    kind: Kind
    text: str
    results: int
    differences: tuple[Difference, ...]
    failed: bool = False

    @property
    def differs(self) -> bool:
        """Whether anything does."""
        return bool(self.differences)


def compare(
    kind: Kind, text: str, builds: Iterable[Build], run: Callable[[Any], Results], *, any_nan: bool = False
) -> Compared:
    """Make a call with both builds and compare all it gives; a call that fails has to fail alike.

    any_nan: one NaN is as good as another. Which of its operands' NaN an operation gives is the compiler's choice.
    """
    answers = [_answer(build, run) for build in builds]
    errors = [answer if isinstance(answer, str) else None for answer in answers]
    old, new = answers
    if isinstance(old, str) or isinstance(new, str):
        said = " and ".join(
            f"{label} {error or 'returns'}" for label, error in zip(("OLD", "NEW"), errors, strict=True)
        )
        differences = () if errors[0] == errors[1] else (Difference("error", 0, 0.0, 0.0, said),)
        return Compared(kind, text, 1, differences, failed=True)
    names = dict.fromkeys([*old, *new])
    found = (_difference(name, old.get(name), new.get(name), any_nan=any_nan) for name in names)
    return Compared(kind, text, len(names), tuple(d for d in found if d is not None))


def _answer(build: Build, run: Callable[[Any], Results]) -> Results | str:
    try:
        with build.active(), np.errstate(all="ignore"):
            return run(build.package)
    except Exception as error:  # what a build raises is its answer, whatever it is
        return f"raises {type(error).__name__}: {error}"


def _difference(name: str, old: Array | None, new: Array | None, *, any_nan: bool) -> Difference | None:
    """Return how two results differ, None where they have the same type, shape and bits."""
    if old is None or new is None:
        return Difference(name, 0, 0.0, 0.0, f"{'OLD' if old is None else 'NEW'} does not return it")
    if (old.dtype, old.shape) != (new.dtype, new.shape):
        return Difference(name, 0, 0.0, 0.0, f"OLD {old.dtype} {old.shape}, NEW {new.dtype} {new.shape}")
    pair = [np.ascontiguousarray(array).reshape(-1) for array in (old, new)]
    first, second = (array.view(np.uint8) for array in pair)
    if np.array_equal(first, second):
        return None
    other = (first != second).reshape(old.size, old.itemsize).any(axis=1)
    if any_nan:
        other &= ~(np.isnan(pair[0]) & np.isnan(pair[1]))
        if not other.any():
            return None
    with np.errstate(all="ignore"):
        a, b = (array[other].astype(np.longdouble) for array in pair)
        gap = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0, np.abs(a - b))
        gap[np.isnan(gap)] = np.inf
        size = np.maximum(np.abs(a), np.abs(b))
        relative = np.where(gap == 0, 0, np.where(np.isinf(gap), np.inf, gap / size))
        whole = np.abs(pair[0].astype(np.longdouble))
        largest = whole[np.isfinite(whole)].max(initial=0)
        of_largest = float(gap.max() / largest) if largest > 0 else math.inf if gap.max() > 0 else 0.0
    return Difference(name, int(other.sum()), float(relative.max()), of_largest)


_COLUMNS = (
    "calls", "fail in both", "calls that differ", "results", "results that differ", "largest relative difference",
    "of the largest element",
)  # fmt: skip


@dataclass
class _Tally:
    calls: int = 0
    failed: int = 0
    differing: int = 0
    results: int = 0
    differences: list[Difference] = field(default_factory=list)

    def add(self, call: Compared) -> None:
        self.calls += 1
        self.failed += call.failed and not call.differs
        self.differing += call.differs
        self.results += call.results
        self.differences += call.differences

    def cells(self) -> list[str]:
        relative, of_largest = (
            max((getattr(d, name) for d in self.differences), default=0.0) for name in ("relative", "of_largest")
        )
        shown = [f"{value:.2g}" if self.differences else "" for value in (relative, of_largest)]
        return [*map(str, (self.calls, self.failed, self.differing, self.results, len(self.differences))), *shown]


def _table(title: str, keyed: Iterable[tuple[str, Compared]]) -> list[str]:
    tallies: dict[str, _Tally] = {}
    for key, call in keyed:
        tallies.setdefault(key, _Tally()).add(call)
    lines = [row([title, *_COLUMNS]), row(["---", *["---:"] * len(_COLUMNS)])]
    return lines + [row([key, *tally.cells()]) for key, tally in sorted(tallies.items())]


def _examples(calls: Iterable[Compared], each: int = 2) -> list[Compared]:
    """Return a few calls of each operation and path that differ in the same results, plain ones first."""
    found: dict[tuple[str, ...], list[Compared]] = {}
    for call in sorted(calls, key=lambda call: call.kind.weighted):
        found.setdefault((call.kind.op, call.kind.path, *(d.name for d in call.differences)), []).append(call)
    return [call for alike in found.values() for call in alike[:each]]


def report(calls: list[Compared], most: int = 60) -> str:
    """Return the tables: by path, by operation, by kind of data, and by result; then some calls that differ."""
    differing = [call for call in calls if call.differs]
    lines = [f"{len(differing)} of {len(calls)} calls differ in a bit or more.", ""]
    lines += [*_table("path", ((call.kind.path, call) for call in calls)), ""]
    lines += [*_table("operation, path", ((f"{call.kind.op}: {call.kind.path}", call) for call in calls)), ""]
    lines += [*_table("data", ((call.kind.data, call) for call in calls)), ""]
    if not differing:
        return "\n".join(lines)
    by_result: dict[str, list[Difference]] = {}
    for call in differing:
        for d in call.differences:
            by_result.setdefault(f"{call.kind.path}: {d.name}", []).append(d)
    columns = ["result", "in calls", "elements", "largest relative difference", "of the largest element"]
    lines += [row(columns), row(["---", *["---:"] * 4])]
    for key, found in sorted(by_result.items()):
        worst = max(d.relative for d in found), max(d.of_largest for d in found)
        lines.append(row([key, str(len(found)), str(sum(d.elements for d in found)), *(f"{w:.2g}" for w in worst)]))
    lines += ["", "Some of the calls that differ, two at most of each operation and path:", ""]
    for call in _examples(differing)[:most]:
        lines.append(f"- {call.text}")
        lines += [f"  - {_in_words(d)}" for d in call.differences]
    return "\n".join([*lines, ""])


def _in_words(d: Difference) -> str:
    figures = f"{d.elements} elements, at most {d.relative:.2g} of itself, {d.of_largest:.2g} of the largest"
    return f"{d.name}: {d.remark or figures}"
