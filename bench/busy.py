"""Machines that others use: what a call with several threads takes beside busy processes, and what with one.

    python bench/busy.py NEW [--busy 0,2] [--threads 2] [--cases moments-65536x64,...] [--seconds 1]
    python bench/busy.py OLD NEW ...

OLD and NEW are folders that hold a built package fastbn. So many processes that only compute are started first. Each
case is then called with one thread and with several, by each build in turn, in blocks of a tenth of a second, and every
call is timed: on such a machine mean and median may be far apart. Prints both, and their ratios. The last column is how
many processors everybody else had meanwhile, the busy processes among them: on a machine that is idle otherwise it is 0
beside none, and a row where it is not is one on a busy machine.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import builds
import native
import report
from builds import Build
from cases import Case, Op
from data import NUMPY_OFFSET, Data, make_data
from operations import call_of
from variants import Variant

BLOCK_SECONDS = 0.1
SETTLE_SECONDS = 0.02  # longer than OpenMP's threads spin after their last call
COMPUTES = [sys.executable, "-c", "while True: pass"]

Key = tuple[int, int]  # the build's number, the number of threads


@dataclass(frozen=True)
class Timed:
    """One operation on one array."""

    op: Op
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """What ``--cases`` selects by."""
        return f"{self.op}-{'x'.join(map(str, self.shape))}"

    def data(self) -> Data:
        """Return its arrays, float32, where NumPy's own begin."""
        return make_data(Case(self.name, "busy", self.shape, 1), Variant(), offset=NUMPY_OFFSET)


# Two arrays of the size of a layer, and what lies between a call that needs no second thread and those.
CASES = (
    Timed("moments", (65536, 64)),
    *(Timed(op, (32, 256, 14, 14)) for op in ("train", "eval", "backward")),
    Timed("train", (32, 64, 14, 14)),
    Timed("eval", (32, 64, 14, 14)),
    Timed("train", (1024, 256)),
    Timed("backward", (1024, 256)),
    Timed("train", (8, 64, 12, 12)),
    Timed("moments", (1200, 64)),
)


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Let so many other processes compute meanwhile."""
    others = [subprocess.Popen(COMPUTES) for _ in range(count)]
    try:
        time.sleep(0.3 if count else 0)  # until they do
        yield
    finally:
        for other in others:
            other.kill()
        for other in others:
            other.wait()


@dataclass(frozen=True)
class Usage:
    """Seconds up to now: on the clock, of all processors' work, and of this process's."""

    clock: float
    everybody: float
    own: float

    @classmethod
    def now(cls) -> Usage:
        """Read them, the second one from Linux' own statistics."""
        ticks = [int(field) for field in Path("/proc/stat").read_text(encoding="ascii").split("\n")[0].split()[1:9]]
        idle, waiting = ticks[3:5]
        own = os.times()
        everybody = (sum(ticks) - idle - waiting) / os.sysconf("SC_CLK_TCK")
        return cls(time.monotonic(), everybody, own.user + own.system)

    def others_since(self, before: Usage) -> float:
        """Return the processors that others had on average."""
        return (self.everybody - before.everybody - (self.own - before.own)) / (self.clock - before.clock)


def _block(call: Callable[[], object], seconds: float) -> list[int]:
    """Return the nanoseconds of each call in a block, at least one."""
    time.sleep(SETTLE_SECONDS)
    times: list[int] = []
    end = time.perf_counter_ns() + int(seconds * 1e9)
    before = time.perf_counter_ns()
    while before < end or not times:
        call()
        after = time.perf_counter_ns()
        times.append(after - before)
        before = after
    return times


def measure(timed: Timed, chosen: Sequence[Build], threads: int, seconds: float) -> dict[Key, list[int]]:
    """Return the times of all calls of one case, by build and number of threads."""
    data = timed.data()
    out = data.result()
    calls: dict[Key, Callable[[], object]] = {}
    for number, build in enumerate(chosen):
        build.use(build.core.get_isa(), 1)
        with build.active():
            given = None if timed.op == "moments" else out
            call = call_of(build.package, timed.op, data, given)
            call()
        calls |= {(number, 1): call, (number, threads): call}
    times: dict[Key, list[int]] = {key: [] for key in calls}
    order, shuffle = list(calls), random.Random(0)
    for _ in range(max(1, round(seconds / BLOCK_SECONDS))):
        shuffle.shuffle(order)
        for key in order:
            build = chosen[key[0]]
            build.use(build.core.get_isa(), key[1])
            with build.active():
                times[key] += _block(calls[key], BLOCK_SECONDS)
    return times


def _row(timed: Timed, times: dict[Key, list[int]], chosen: Sequence[Build], threads: int, others: float) -> str:
    mean = {key: statistics.fmean(values) for key, values in times.items()}
    median = {key: statistics.median(values) for key, values in times.items()}
    cells = [timed.name]
    for number in range(len(chosen)):
        one, several = (number, 1), (number, threads)
        cells += [f"{report.time(mean[key])}, {report.time(median[key])}" for key in (one, several)]
        cells.append(f"{mean[several] / mean[one]:.2f}, {median[several] / median[one]:.2f}")
    if len(chosen) > 1:
        first, last = (0, threads), (len(chosen) - 1, threads)
        cells.append(f"{mean[last] / mean[first]:.2f}, {median[last] / median[first]:.2f}")
    return report.row([*cells, f"{others:.2f}"])


def _head(chosen: Sequence[Build], threads: int) -> list[str]:
    cells = ["mean, median"]
    for build in chosen:
        cells += [f"{build.label}: 1 thread", f"{threads} threads", f"{threads} over 1"]
    if len(chosen) > 1:
        cells.append(f"{threads} threads: {chosen[-1].label} over {chosen[0].label}")
    cells.append("others' processors")
    return [report.row(cells), report.row(["---", *["---:"] * (len(cells) - 1)])]


def _numbers(text: str) -> list[int]:
    return [int(item) for item in text.split(",")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    processors = len(os.sched_getaffinity(0))
    add("old", type=Path, nargs="?", metavar="OLD", help="folder that holds a build's package, to be compared with")
    add("new", type=Path, metavar="NEW", help="folder that holds the build's package")
    add("--busy", type=_numbers, default=[0, processors], help="numbers of busy processes, comma-separated")
    add("--threads", type=int, default=processors, help="what one thread is compared with (default: all processors)")
    add("--cases", default=",".join(timed.name for timed in CASES), help="comma-separated")
    add("--seconds", type=float, default=1.0, help="for each case, build and number of threads (default: 1)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the options, measure, print."""
    parser = _parser()
    options = parser.parse_args(arguments)
    names = options.cases.split(",")
    unknown = set(names) - {timed.name for timed in CASES}
    if unknown:
        parser.error(f"--cases must be of {', '.join(timed.name for timed in CASES)}, got {', '.join(unknown)}")
    try:
        chosen = builds.load(options.old, options.new) if options.old else builds.load_one(options.new)
    except builds.BuildError as error:
        parser.error(str(error))
    print(f"{native.cpu_model()}, {len(os.sched_getaffinity(0))} processors, load {os.getloadavg()[0]:.1f}.")
    gc.collect()
    gc.disable()
    for count in options.busy:
        print(f"\n## Beside {count} busy processes\n")
        print("\n".join(_head(chosen, options.threads)), flush=True)
        with busy(count):
            for timed in (timed for timed in CASES if timed.name in names):
                before = Usage.now()
                times = measure(timed, chosen, options.threads, options.seconds)
                others = Usage.now().others_since(before)
                print(_row(timed, times, chosen, options.threads, others), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
