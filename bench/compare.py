"""Compares two builds of fastbn in one process, interleaved: what their calls take, or the bits of their results.

    python bench/compare.py OLD NEW [--quick] [--threads 1,2] [--isa avx2,avx512] [--only train,backward]
    python bench/compare.py OLD NEW --same-bits [--any-nan] [--calls 3000] [--seed 0]

OLD and NEW are folders that hold a package fastbn: a folder of installed packages, or python/ of a checkout that was
built. Every figure is NEW's time over OLD's. The exit status is 1 where a case stays marked as slower, or bits differ.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import builds
import comparisons
import native
import report
import same_bits
import timing
from builds import Build
from comparisons import SPECIAL, Subject
from data import Array, Data, make_data
from operations import arrays_of, call_of
from random_calls import Kind, RandomCall
from summary import geometric_mean
from variants import Variant

SPIN_COUNT = "20000"  # as in run.py
SLOWER = 1.05  # a ratio above this is marked, if it is beyond the noise too
AGAIN = 3  # a marked case is measured again on so many sets of new arrays,
LONGER = 2  # each for so many times its budget
MOST_AGAIN = 80  # only so many of the marked cases, the worst ones
WORST = 20

Builds = tuple[Build, Build]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Setting:
    """What both builds run on."""

    isa: str
    threads: int

    def __str__(self) -> str:
        """Return it as a column's title."""
        return f"{self.isa}, {self.threads} thread{'s' if self.threads > 1 else ''}"


@dataclass(frozen=True)
class Cell:
    """One thing that is measured: an operation in a variant on an array."""

    subject: Subject
    variant: Variant
    op: str
    given: bool
    setting: Setting

    @property
    def call(self) -> str:
        """The array and how the operation is asked for, without the operation."""
        output = "" if self.given or self.op not in ("train", "eval", "backward") else ", fresh"
        return f"{self.subject.case.name} {self.subject.dtype} {self.variant.name}{output}"


@dataclass(frozen=True)
class Measured:
    """A cell with its times, and those of the second measurement where it was marked."""

    cell: Cell
    pair: timing.Pair
    again: timing.Pair | None = None

    @property
    def final(self) -> timing.Pair:
        """The measurement that counts."""
        return self.again or self.pair


def marked(pair: timing.Pair) -> bool:
    """Whether NEW is slower by more than 5 %, and the whole interval of the ratio is above 1."""
    return pair.ratio > SLOWER and pair.interval[0] > 1


def _list(choices: Sequence[str] | None = None) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        items = [item.strip() for item in text.split(",") if item.strip()]
        for item in items:
            if choices is not None and item not in choices:
                raise argparse.ArgumentTypeError(f"must be of {', '.join(choices)}, got {item!r}")
        return items

    return parse


def _numbers(text: str) -> list[int]:
    numbers = [int(item) for item in text.split(",")]
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text!r}")
    return numbers


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    processors = len(os.sched_getaffinity(0))
    ops = [*comparisons.OPS, SPECIAL]
    add("old", type=Path, metavar="OLD", help="folder that holds the first build's package")
    add("new", type=Path, metavar="NEW", help="folder that holds the second build's package")
    add("--quick", action="store_true", help="fewer settings and half the time for each: about three minutes for ten")
    add("--threads", type=_numbers, default=sorted({1, min(2, processors)}), help="numbers, comma-separated")
    add("--isa", type=_list(), help="instruction sets, comma-separated (default: all that both builds can use here)")
    add("--only", type=_list(ops), default=ops, help=f"of {', '.join(ops)}; comma-separated")
    add("--cases", type=_list(comparisons.NAMES), default=list(comparisons.NAMES), help="arrays, comma-separated")
    add("--dtype", type=_list(comparisons.DTYPES), default=list(comparisons.DTYPES), help="types of x")
    add("--rounds", type=int, help="so many rounds for each case, whatever they take")
    add("--budget", type=float, help="seconds for each case, both builds together")
    add("--same-bits", action="store_true", help="compare results instead, on the same cases and on random calls")
    add("--any-nan", action="store_true", help="take one NaN for another there: builds by two compilers")
    add("--calls", type=int, default=3000, help="number of random calls (default: 3000)")
    add("--seed", type=int, default=0, help="of the random calls (default: 0)")
    add("--call", type=int, help="compare the results of this one of the random calls, and nothing else")
    add("--markdown", type=Path, help="where the tables go too (default: compare.md or same_bits.md in build/bench)")
    return parser


def _settings(options: argparse.Namespace, both: Builds) -> list[Setting]:
    """Return the settings to run on; raises ValueError for an instruction set that a build lacks."""
    known = [isa for isa in both[0].core.isas() if isa in both[1].core.isas()]
    # The generic code is what no processor with another one runs; results are compared on it all the same.
    usual = [isa for isa in known if isa != "generic" or options.same_bits or len(known) == 1]
    chosen = options.isa or usual
    for isa in chosen:
        if isa not in known:
            raise ValueError(f"--isa must be of {', '.join(known)}, got {isa!r}")
    return [Setting(isa, threads) for isa in chosen for threads in options.threads]


def _settings_for(subject: Subject, settings: list[Setting], quick: bool) -> list[Setting]:
    """Return all settings; quick ones are the fewest threads in the caches, and one with the most beyond them."""
    if not quick:
        return settings
    choose = max if subject.size == "memory" else min
    threads = choose(s.threads for s in settings)
    some = [s for s in settings if s.threads == threads]
    return some[-1:] if subject.size == "memory" else some


def _cells(options: argparse.Namespace, subject: Subject, settings: list[Setting]) -> Iterator[Cell]:
    for setting in _settings_for(subject, settings, options.quick):
        for variant in comparisons.variants(subject.dtype):
            for op, given in subject.operations(variant, options.only):
                yield Cell(subject, variant, op, given, setting)


class Clock:
    """Times the calls of both builds."""

    def __init__(self, both: Builds, options: argparse.Namespace) -> None:
        self.both, self._options = both, options
        # Threads of one OpenMP library serve both builds; of two, one's would spin while the other's are timed.
        self._settle = 0.0 if len(builds.openmp_libraries()) < 2 else timing.SETTLE_SECONDS

    def effort(self, seconds: float, times: float = 1) -> timing.Effort:
        """Return how long to measure what takes so many seconds by default."""
        budget = (self._options.budget or seconds) * times
        rounds = self._options.rounds and math.ceil(self._options.rounds * times)
        if rounds:
            return timing.Effort(budget=0, sample=5e-4, min_rounds=rounds, max_rounds=rounds)
        return timing.Effort(budget=budget, sample=5e-4, min_rounds=8, max_rounds=200)

    def builds(self, cell: Cell, data: Data, out: Array, times: float = 1) -> timing.Pair:
        """Time both builds on one cell."""
        old, new = (self._prepared(build, cell, data, out) for build in self.both)
        seconds = comparisons.BUDGETS[cell.subject.size][self._options.quick]
        within = self.both[0].active, self.both[1].active
        return timing.measure_pair(old, new, self.effort(seconds, times), within, self._settle)

    @staticmethod
    def _prepared(build: Build, cell: Cell, data: Data, out: Array) -> Callable[[], Any]:
        build.use(cell.setting.isa, cell.setting.threads)
        with build.active():
            return call_of(build.package, cell.op, data, out if cell.given else None)

    def special(self, case: comparisons.Special, setting: Setting, build: Build) -> timing.Pair:
        """Time the special call of one build beside its ordinary one."""
        build.use(setting.isa, setting.threads)
        with build.active():
            ordinary, unusual = case.calls(build.package)
        within = build.active, build.active
        return timing.measure_pair(ordinary, unusual, self.effort(0.15 if self._options.quick else 0.3), within, 0.0)


def _arrays(subject: Subject) -> tuple[Data, Array]:
    """Return the arrays of a case and memory for its results, all of them where NumPy's own begin."""
    data = make_data(subject.case, Variant(dtype=subject.dtype))
    return data, data.result()


def _measure(clock: Clock, cells: Iterable[Cell], tick: Say, times: float = 1) -> Iterator[Measured]:
    """Yield every cell, timed; those of one array must follow each other."""
    subject, variant, of_subject = None, None, None
    for cell in cells:
        if of_subject is None or cell.subject != subject:
            of_subject = None  # the last array's memory is given back before the next one's is taken
            for build in clock.both:
                build.package.clear_pool()
            subject, of_subject, variant = cell.subject, _arrays(cell.subject), None
        if cell.variant != variant:
            variant, data = cell.variant, of_subject[0].vary(cell.variant)
        tick(f"{cell.call} {cell.op}, {cell.setting}")
        yield Measured(cell, clock.builds(cell, data, of_subject[1], times))


def _measure_again(clock: Clock, found: list[Measured], tick: Say) -> list[Measured]:
    """Return all, the worst of those that are marked with a second, longer measurement on new arrays."""
    worst = sorted((m for m in found if marked(m.pair)), key=lambda m: -m.pair.ratio)[:MOST_AGAIN]
    chosen = {m.cell for m in worst}
    cells = [m.cell for m in found if m.cell in chosen]
    pairs: dict[Cell, list[timing.Pair]] = defaultdict(list)
    for _ in range(AGAIN):
        for m in _measure(clock, cells, tick, LONGER):
            pairs[m.cell].append(m.pair)
    return [replace(m, again=timing.Pair.pooled(pairs[m.cell])) if m.cell in pairs else m for m in found]


def _ratio_text(pair: timing.Pair) -> str:
    text = f"{pair.ratio:.2f} ± {pair.noise:.2f}"
    return f"**{text}**" if marked(pair) else text


def _case_table(found: list[Measured]) -> Iterator[str]:
    """Yield a table for each setting: a row for each call, a column for each operation."""
    for setting in dict.fromkeys(m.cell.setting for m in found):
        some = [m for m in found if m.cell.setting == setting]
        ops = list(dict.fromkeys(m.cell.op for m in some))
        yield from ("", f"## {setting}", "", report.row(["", *ops]), report.row(["---", *["---:"] * len(ops)]))
        rows: dict[str, dict[str, Measured]] = defaultdict(dict)
        for m in some:
            rows[m.cell.call][m.cell.op] = m
        for call, by_op in rows.items():
            yield report.row([call, *(_ratio_text(by_op[op].final) if op in by_op else "" for op in ops)])


def _mean_cell(found: Iterable[Measured]) -> str:
    ratios = [m.final.ratio for m in found]
    return f"{geometric_mean(ratios):.3f}" if ratios else ""


def _means(found: list[Measured]) -> Iterator[str]:
    """Yield the geometric means, by operation and by everything else."""
    ops = list(dict.fromkeys(m.cell.op for m in found))
    yield from (
        "",
        "## Geometric means",
        "",
        report.row(["", *ops, "all"]),
        report.row(["---", *["---:"] * (len(ops) + 1)]),
    )
    by: dict[str, Callable[[Cell], str]] = {
        "all": lambda cell: "",
        "settings": lambda cell: str(cell.setting),
        "type": lambda cell: cell.subject.dtype,
        "array": lambda cell: cell.subject.case.name,
        "variant": lambda cell: cell.variant.name,
        "output": lambda cell: "given" if cell.given else "fresh",
    }
    for title, key in by.items():
        for value in dict.fromkeys(key(m.cell) for m in found):
            some = [m for m in found if key(m.cell) == value]
            per_op = [_mean_cell(m for m in some if m.cell.op == op) for op in ops]
            yield report.row([value or title, *per_op, _mean_cell(some)])


def _worst(found: list[Measured]) -> Iterator[str]:
    yield from ("", "## The slowest cases", "")
    columns = ["case", "", "settings", "OLD", "NEW", "ratio", "99 % interval", "undisturbed", "rounds", "at first"]
    yield from (report.row(columns), report.row(["---"] * 3 + ["---:"] * 7))
    count = max(WORST, sum(marked(m.final) for m in found))
    for m in sorted(found, key=lambda m: -m.final.ratio)[:count]:
        pair, (low, high) = m.final, m.final.interval
        times = [report.time(float(np.median(side))) for side in (pair.first, pair.second)]
        first = _ratio_text(m.pair) if m.again else ""
        figures = [_ratio_text(pair), f"{low:.2f} to {high:.2f}", f"{pair.undisturbed:.2f}", str(pair.rounds), first]
        yield report.row([m.cell.call, m.cell.op, str(m.cell.setting), *times, *figures])


def _verdict(found: list[Measured]) -> Iterator[str]:
    noises = sorted(m.final.noise for m in found)
    at_first, still = (sum(map(marked, pairs)) for pairs in ([m.pair for m in found], [m.final for m in found]))
    yield ""
    yield (
        f"{len(found)} cases; geometric mean {_mean_cell(found)}. Noise (half the 99 % interval): median "
        f"{noises[len(noises) // 2]:.3f}, nine tenths below {noises[len(noises) * 9 // 10]:.3f}."
    )
    again = sum(m.again is not None for m in found)
    yield f"Above {SLOWER} and beyond the noise: {at_first} at first, {still} after {again} were measured again."
    unclear = sum(m.final.interval[0] <= 1 and m.final.interval[1] > SLOWER for m in found)
    if unclear:
        yield f"Not known, the interval reaching from 1 or less to more than {SLOWER}: {unclear}."


def _special_table(clock: Clock, options: argparse.Namespace, settings: list[Setting], tick: Say) -> Iterator[str]:
    """Yield the table of calls that are compared with an ordinary one of the same build."""
    chosen = [s for s in settings if s.isa == settings[-1].isa]
    if options.quick:
        chosen = chosen[-1:]
    yield from ("", "## Special cases: time over that of an ordinary call of the same build", "")
    yield from (
        report.row(["x (200000, 32)", "settings", "OLD", "NEW", "meant to be"]),
        report.row(["---"] * 2 + ["---:"] * 3),
    )
    for case in comparisons.special([d for d in options.dtype if d != "bfloat16"]):
        for setting in chosen:
            tick(f"{case.dtype} {case.title}, {setting}")
            cells = []
            for build in clock.both:
                pair = clock.special(case, setting, build)
                text = f"{pair.ratio:.2f} ± {pair.noise:.2f}"
                cells.append(f"**{text}**" if pair.interval[0] > case.at_most else text)
            yield report.row([f"{case.dtype} {case.title}", str(setting), *cells, f"at most {case.at_most:g}"])


def _surroundings(both: Builds) -> list[str]:
    lines = [f"{native.cpu_model()}, {len(os.sched_getaffinity(0))} processors, load {os.getloadavg()[0]:.1f}."]
    lines += [f"- {build.description}" for build in both]
    if builds.same_extension(*both):
        lines.append("- Both hold the same extension, to the byte.")
    libraries = builds.openmp_libraries()
    if len(libraries) > 1:
        lines.append(f"- Each has an OpenMP library of its own ({', '.join(libraries)}).")
    return lines


def _progress(console: Console, total: int) -> tuple[Progress, Say]:
    columns = (TextColumn("{task.description:<70}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # No refresh by a thread of its own: it would run while others are timed.
    progress = Progress(*columns, console=console, auto_refresh=False, disable=not console.is_terminal)
    task = progress.add_task("", total=total)
    every = 0.5 if console.is_terminal else 30.0
    begun = drawn = time.monotonic()

    def tick(what: str) -> None:
        nonlocal drawn
        progress.update(task, description=what, advance=1)
        now = time.monotonic()
        if now > drawn + every:
            drawn = now
            progress.refresh()
            if not console.is_terminal:
                done = f"{progress.tasks[task].completed:.0f} of {total}"
                console.print(f"{now - begun:.0f} s, {done}: {what}", highlight=False, soft_wrap=True)

    return progress, tick


def _compare_times(options: argparse.Namespace, both: Builds, settings: list[Setting]) -> tuple[str, bool]:
    """Return the report, and whether no case stays marked."""
    clock, subjects = Clock(both, options), _subjects(options)
    cells = [cell for subject in subjects for cell in _cells(options, subject, settings)]
    lines, found = ["# Two builds: time of NEW over time of OLD", "", *_surroundings(both)], list[Measured]()
    progress, tick = _progress(Console(stderr=True), len(cells))
    with progress:
        found = list(_measure(clock, cells, tick))
        found = _measure_again(clock, found, tick)
        special = list(_special_table(clock, options, settings, tick)) if SPECIAL in options.only else []
    if found:
        lines += ["", f"Ratio ± half its 99 % interval; **marked**: above {SLOWER} and the whole interval above 1."]
        lines += [*_case_table(found), *_means(found), *_worst(found)]
    lines += special
    if found:
        lines += _verdict(found)
    return "\n".join(lines) + "\n", not any(marked(m.final) for m in found)


def _subjects(options: argparse.Namespace) -> list[Subject]:
    return [s for s in comparisons.subjects(options.dtype) if s.case.name in options.cases]


def _compare_cell(both: Builds, cell: Cell, data: Data, out: Array, *, any_nan: bool) -> same_bits.Compared:
    """Compare what both builds return for one of the cases that are timed."""
    for build in both:
        build.use(cell.setting.isa, cell.setting.threads)

    def run(library: Any) -> same_bits.Results:
        found = arrays_of(cell.op, call_of(library, cell.op, data, out if cell.given else None)())
        return {name: array.copy() for name, array in found.items()}

    weighted = data.where is not None or data.weights is not None
    inner = cell.subject.case.outer_inner[1]
    kind = Kind(f"case {cell.op}", weighted, 1 < inner < 16, "ordinary")
    return same_bits.compare(kind, f"{cell.op} {cell.call}, {cell.setting}", both, run, any_nan=any_nan)


def _compare_random(both: Builds, call: RandomCall, *, any_nan: bool) -> same_bits.Compared:
    for build in both:
        build.use(call.isa, call.threads)
    text = f"call {call.number}: {call.text}; {call.isa}, {call.threads} thread(s)"
    return same_bits.compare(call.kind, text, both, call.run, any_nan=any_nan)


def _compare_bits(options: argparse.Namespace, both: Builds, settings: list[Setting]) -> tuple[str, bool]:
    """Return the report, and whether all bits are the same."""
    isas, threads = list(dict.fromkeys(s.isa for s in settings)), list(dict.fromkeys(s.threads for s in settings))
    found: list[same_bits.Compared] = []
    numbers = range(options.calls) if options.call is None else [options.call]
    # Arrays beyond the caches with the most threads alone: one thread takes the same chunks in the same order.
    cells = [
        cell
        for subject in (_subjects(options) if options.call is None else [])
        for cell in _cells(options, subject, settings)
        if subject.size != "memory" or cell.setting.threads == max(threads)
    ]
    progress, tick = _progress(Console(stderr=True), len(cells) + len(numbers))
    with progress:
        subject, of_subject = None, None
        for cell in cells:
            tick(f"{cell.call} {cell.op}, {cell.setting}")
            if of_subject is None or cell.subject != subject:
                subject, of_subject = cell.subject, _arrays(cell.subject)
            varied = of_subject[0].vary(cell.variant)
            found.append(_compare_cell(both, cell, varied, of_subject[1], any_nan=options.any_nan))
        for number in numbers:
            tick(f"random call {number}")
            call = RandomCall(options.seed, number, isas, threads)
            found.append(_compare_random(both, call, any_nan=options.any_nan))
    if options.call is not None:
        return "\n".join([found[0].text, "", same_bits.report(found)]), not found[0].differs
    lines = ["# Two builds: bits of NEW beside bits of OLD", "", *_surroundings(both), ""]
    lines.append(
        f"{len(cells)} cases and {options.calls} random calls (seed {options.seed}); {'; '.join(map(str, settings))}."
    )
    return "\n".join([*lines, "", same_bits.report(found)]), not any(call.differs for call in found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the options, compare, print and write."""
    parser = _parser()
    options = parser.parse_args(arguments)
    # Read by the OpenMP library when it is loaded.
    os.environ["OMP_NUM_THREADS"] = str(max(options.threads))
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    try:
        both = builds.load(options.old, options.new)
        settings = _settings(options, both)
    except (builds.BuildError, ValueError) as error:
        parser.error(str(error))
    of_bits = options.same_bits or options.call is not None
    text, good = (_compare_bits if of_bits else _compare_times)(options, both, settings)
    path = options.markdown or native.BUILD / ("same_bits.md" if of_bits else "compare.md")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(text, flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
