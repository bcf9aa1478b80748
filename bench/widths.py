"""Channels-last arrays of every width and offset beside the best case: 512 columns, everything on cache lines.

All widths are views of the same memory. What stands in the table is the time of a value over that in the best case,
whose own time is given in NumPy's copies.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from builds import Build
from data import NUMPY_OFFSET, Array, aligned_empty

OPS = ("inference", "training", "backward")
BEST = 512
WIDTHS = (16, 24, 37, 48, 64, 80, 96, 100, 128, 144, 160, 192, 250, 256, 300, 384, 500, 512)
WIDE = (520, 768, 1000, 1024, 1500, 2048, 3000, 4096)


@dataclass(frozen=True)
class Placement:
    """Where x, dy and the result begin, in bytes past the start of a cache line; None where the result is fresh."""

    name: str
    x: int
    out: int | None


PLACEMENTS = (
    Placement("aligned", 0, 0),
    Placement("NumPy", NUMPY_OFFSET, NUMPY_OFFSET),
    Placement("fresh", NUMPY_OFFSET, None),
    Placement("4, 36", 4, 36),
)


class Memory:
    """Three arrays that all widths are views of."""

    def __init__(self, values: int, dtype: np.dtype[Any]) -> None:
        rng = np.random.default_rng(0)
        self.values, self.dtype = values, dtype
        noise = rng.standard_normal(values, dtype=np.float32)
        self.raw = {name: aligned_empty((values + 64,), dtype) for name in ("x", "dy", "out")}
        for name, start in (("x", 0), ("dy", 1), ("out", 2)):
            self.raw[name][:values] = np.roll(noise, start)
            self.raw[name][values:] = 0

    def view(self, name: str, width: int, offset: int) -> Array:
        """Return the array of this width that begins so many bytes past the start of a cache line."""
        rows, start = self.values // width, offset // self.dtype.itemsize
        return self.raw[name][start : start + rows * width].reshape(rows, width)


def call_of(library: Any, memory: Memory, op: str, width: int, placement: Placement) -> Callable[[], object]:
    """Return the call that is timed."""
    x = memory.view("x", width, placement.x)
    out = None if placement.out is None else memory.view("out", width, placement.out)
    mean, ones = np.full(width, 0.1), np.ones(width)
    if op == "inference":
        return partial(library.normalize, x, mean, ones, ones, mean, axis=1, out=out)
    if op == "training":
        return partial(library.batch_norm_train, x, ones, mean, axis=1, out=out)
    dy = memory.view("dy", width, placement.x)
    return partial(library.batch_norm_backward, dy, x, ones, mean=mean, invstd=ones, axis=1, out=out)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(build: Build, memory: Memory, op: str, widths: Sequence[int], rounds: int) -> Iterator[str]:
    """Time one operation and yield the lines of its table.

    Each call is timed just after the best case, so that both meet the same machine.
    """
    subjects = [(width, placement) for width in widths for placement in PLACEMENTS]
    calls = {subject: call_of(build.package, memory, op, *subject) for subject in subjects}
    best = call_of(build.package, memory, op, BEST, PLACEMENTS[0])
    source, target = memory.view("x", BEST, NUMPY_OFFSET), memory.view("out", BEST, NUMPY_OFFSET)
    found: dict[tuple[int, Placement], list[float]] = {subject: [] for subject in subjects}
    copies = []
    shuffle, order = random.Random(0), list(subjects)
    with build.active():
        for _ in range(rounds):
            shuffle.shuffle(order)
            copies.append(_seconds(best) / _seconds(lambda: np.copyto(target, source)))
            for subject in order:
                unit = _seconds(best)
                values = memory.values // subject[0] * subject[0]
                found[subject].append(_seconds(calls[subject]) / unit * (source.size / values))
    yield f"{build.label}, {op}: 1.0 is {statistics.median(copies):.2f} of NumPy's copy"
    yield ""
    yield "| columns | " + " | ".join(p.name for p in PLACEMENTS) + " |"
    yield "|---" * (1 + len(PLACEMENTS)) + "|"
    ratios = {subject: statistics.median(values) for subject, values in found.items()}
    for width in widths:
        yield f"| {width} | " + " | ".join(f"{ratios[width, p]:.2f}" for p in PLACEMENTS) + " |"
    yield ""
    yield f"mean {statistics.mean(ratios.values()):.2f}, largest {max(ratios.values()):.2f}"
    yield ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("builds", nargs="+", type=Path, help="folders that hold a built package fastbn")
    parser.add_argument("--ops", default=",".join(OPS))
    parser.add_argument("--widths", default=",".join(map(str, WIDTHS + WIDE)))
    parser.add_argument("--values", type=float, default=16e6)
    parser.add_argument("--dtype", default="float32", choices=("float16", "float32", "float64"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--isa")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args(arguments)
    builds = [Build(str(folder), folder) for folder in options.builds]
    for build in builds:
        build.use(options.isa or build.core.get_isa(), options.threads)
    widths = [int(width) for width in options.widths.split(",")]
    memory = Memory(int(options.values), np.dtype(options.dtype))
    for op in options.ops.split(","):
        for build in builds:
            for line in measure(build, memory, op, widths, options.rounds):
                print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
