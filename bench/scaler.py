"""StandardScaler, fastbn's beside scikit-learn's: times in one process, memory in processes of their own.

    python bench/scaler.py [--quick] [--cases 1000000x20,...] [--threads 2]

Prints a table and writes it to build/bench/scaler.md. Knows neither the other benchmarks' cases nor their peers.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import native
import records
import timing
from data import NUMPY_OFFSET, aligned_empty, aligned_like
from report import row, time

SPIN_COUNT = "20000"  # as in run.py: threads must be asleep before others are timed
OPS = ("fit", "transform", "transform, out given", "fit_transform", "inverse_transform")
OURS, THEIRS = "fastbn", "scikit-learn"
MODULES = {OURS: "fastbn.sklearn", THEIRS: "sklearn.preprocessing"}


@dataclass(frozen=True)
class Case:
    """A table, and how many times as fast as scikit-learn each operation is meant to be."""

    shape: tuple[int, int]
    dtype: str
    aims: dict[str, float]

    @property
    def name(self) -> str:
        """The row's title."""
        return f"{self.shape[0]}x{self.shape[1]} {self.dtype}"

    @property
    def nbytes(self) -> int:
        """Bytes of X, and of y."""
        return self.shape[0] * self.shape[1] * np.dtype(self.dtype).itemsize


LARGE = {"fit": 20.0, "transform": 5.0, "transform, out given": 8.0, "fit_transform": 10.0}
SMALL = dict.fromkeys(LARGE, 3.0)
CASES = (
    Case((1_000_000, 20), "float32", LARGE),
    Case((100_000, 50), "float32", LARGE),
    Case((200_000, 128), "float64", LARGE),
    Case((1797, 64), "float64", SMALL),
)
# Bytes beyond X, of fit, and beyond X and y, of transform, as parts of X; nothing is nothing to a huge page.
MEMORY_AIMS = {"fit": 0.01, "transform": 0.0, "transform, out given": 0.0}
NOTHING = 2 << 20


def table_of(case: Case) -> Any:
    """Return X: columns of means up to 100 standard deviations from zero."""
    x, rng = aligned_empty(case.shape, case.dtype, NUMPY_OFFSET), np.random.default_rng(0)
    kind: Any = np.float64 if case.dtype == "float64" else np.float32
    x[...] = rng.standard_normal(case.shape, kind)
    x *= rng.uniform(0.5, 2, case.shape[1]).astype(case.dtype)
    x += rng.uniform(-100, 100, case.shape[1]).astype(case.dtype)
    return x


def calls(name: str, x: Any, out: Any) -> dict[str, Callable[[], Any]]:
    """Return what is timed of one of the two classes."""
    scaler: Any = importlib.import_module(MODULES[name]).StandardScaler
    fitted = scaler().fit(x)
    found = {
        "fit": lambda: scaler().fit(x),
        "transform": lambda: fitted.transform(x),
        "fit_transform": lambda: scaler().fit_transform(x),
        "inverse_transform": lambda: fitted.inverse_transform(x),
    }
    return found | ({"transform, out given": lambda: fitted.transform(x, out=out)} if name == OURS else {})


def check(x: Any, ours: dict[str, Callable[[], Any]], theirs: dict[str, Callable[[], Any]]) -> None:
    """Refuse to time what is wrong: both must agree, to what plain sums and a rounded mean leave of scikit-learn's."""
    fit, other = ours["fit"](), theirs["fit"]()
    np.testing.assert_allclose(fit.mean_, other.mean_, rtol=1e-10)
    np.testing.assert_allclose(fit.var_, other.var_, rtol=1e-10)
    atol = 1e-4 if x.dtype == np.float32 else 1e-10
    for op in "transform", "transform, out given", "fit_transform":
        np.testing.assert_allclose(ours[op](), theirs[op.partition(",")[0]](), rtol=0, atol=atol)


def measured(case: Case, effort: timing.Effort) -> Iterator[list[str]]:
    """Yield the table's rows for one case, all its operations timed against each other."""
    x = table_of(case)
    both = {name: calls(name, x, aligned_like(x)) for name in (OURS, THEIRS)}
    check(x, both[OURS], both[THEIRS])
    for op in OPS:
        peer = op.partition(",")[0]  # scikit-learn cannot write to given memory
        found = timing.measure({OURS: both[OURS][op], THEIRS: both[THEIRS][peer]}, effort)
        ours, theirs = found[OURS], found[THEIRS]
        ratio, least, most = theirs.median / ours.median, theirs.low / ours.high, theirs.high / ours.low
        aim = case.aims.get(op)
        verdict = "" if aim is None else f"{aim:g}: {'met' if ratio >= aim else '**missed**'}"
        cells = [case.name, op, time(ours.median), time(theirs.median)]
        yield [*cells, f"{ratio:.1f}", f"{least:.1f} to {most:.1f}", verdict]


MEMORY = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import scaler
case, name, op = scaler.CASES[int(sys.argv[2])], sys.argv[3], sys.argv[4]

def resident(field):
    for line in open("/proc/self/status"):
        if line.startswith(field):
            return int(line.split()[1]) << 10

small = np.ones((4096, case.shape[1]), case.dtype)
scaler.calls(name, small, np.zeros_like(small))[op]()
call = scaler.calls(name, scaler.table_of(case), scaler.aligned_like(np.empty(case.shape, case.dtype)))[op]
open("/proc/self/clear_refs", "w").write("5")
before = resident("VmRSS")
kept = call()
print(resident("VmHWM") - before)
"""


def peak(case: Case, name: str, op: str, threads: int) -> int:
    """Return the bytes that the first such call of a fresh process adds to its resident set (Linux)."""
    command = [sys.executable, "-c", MEMORY, str(native.HERE), str(CASES.index(case)), name, op]
    known = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return int(subprocess.run(command, check=True, capture_output=True, text=True, env=known).stdout)


def memory(case: Case, threads: int) -> Iterator[list[str]]:
    """Yield the rows on memory."""
    for op, aim in MEMORY_AIMS.items():
        result = case.nbytes if op == "transform" else 0
        extra = peak(case, OURS, op, threads) - result
        peer = op.partition(",")[0]
        other = peak(case, THEIRS, peer, threads) - (case.nbytes if peer == "transform" else 0)
        met = extra <= max(aim * case.nbytes, NOTHING if aim == 0 else 0)
        shown = [f"{value / case.nbytes:+.2%} ({value / 2**20:+.2f} MiB)" for value in (extra, other)]
        yield [case.name, op, *shown, f"{aim:.0%}: {'met' if met else '**missed**'}"]


def report(options: argparse.Namespace) -> str:
    """Measure, and return the tables."""
    import sklearn

    import fastbn

    effort = timing.QUICK_EFFORT if options.quick else timing.Effort()
    chosen = [case for case in CASES if not options.cases or case.name.split()[0] in options.cases]
    columns = ["X", "", OURS, THEIRS, "times as fast", "quartiles", "aim"]
    lines = ["# StandardScaler", "", *surroundings(options, fastbn.__version__, sklearn.__version__), ""]
    lines += [row(columns), row(["---"] * 2 + ["---:"] * 4 + ["---"])]
    for case in chosen:
        for cells in measured(case, effort):
            lines.append(row(cells))
            print(lines[-1], flush=True)
    lines += ["", "Memory at the peak beyond X and the result:", ""]
    lines += [row(["X", "", OURS, THEIRS, "aim"]), row(["---"] * 2 + ["---:"] * 2 + ["---"])]
    for case in chosen:
        if case.nbytes > 16 * NOTHING:
            lines += map(row, memory(case, options.threads))
    return "\n".join(lines) + "\n"


def surroundings(options: argparse.Namespace, ours: str, theirs: str) -> list[str]:
    """Return where and with what this is measured."""
    where = records.environment(options.threads, {OURS: ours, THEIRS: theirs})
    peers = ", ".join(f"{name} {version}" for name, version in where["peers"].items())
    return [
        f"{where['cpu']}, {where['cores']} cores; {where['threads']} thread(s); Python {where['python']}, NumPy "
        f"{where['numpy']}, {peers}; {where['date']}, commit {where['commit']}, load {where['load_at_start']} at the "
        "start.",
    ]


def main() -> None:
    """Read the options, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fifth of the time for each figure")
    parser.add_argument("--cases", type=lambda text: text.split(","), help="shapes, as 1797x64, comma-separated")
    parser.add_argument("--threads", type=int, default=min(2, len(os.sched_getaffinity(0))))
    parser.add_argument("--markdown", type=Path, default=native.BUILD / "scaler.md", help="where the tables go")
    options = parser.parse_args()
    # Read by every OpenMP library when it is loaded.
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    text = report(options)
    options.markdown.parent.mkdir(parents=True, exist_ok=True)
    options.markdown.write_text(text, encoding="utf-8")
    print("\n" + text, flush=True)


if __name__ == "__main__":
    main()
