"""The benchmark's command line: measures cases against peers and the copy, and writes JSON, Markdown and pictures."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import cases
import native
import peers
import records
import timing
import variants
from cases import Case, Op
from data import NUMPY_OFFSET
from groups import Bench, Setup
from variants import TOPICS, Variant
from yardstick import Yardstick

SWEEP_PEERS = ("fastbn", "PyTorch", "NumPy", "oneDNN")
BREADTH_PEERS = ("fastbn", "pytorch", "onednn")
SPIN_COUNT = "20000"

QUICK_SWEEP = 16 * cases.MIB
FULL_SWEEP = 512 * cases.MIB


@dataclass(frozen=True)
class Work:
    """One case: variants timed against each other in some operations, for a topic of --breadth or for itself."""

    case: Case
    variants: tuple[Variant, ...]
    ops: list[Op]
    topic: str | None = None

    @property
    def what(self) -> str:
        """What it is measured for, in a word."""
        return self.topic or self.variants[0].dtype


def _list(choices: Sequence[str] | None) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        items = [item.strip() for item in text.split(",") if item.strip()]
        for item in items:
            if choices is not None and item not in choices:
                raise argparse.ArgumentTypeError(f"must be of {', '.join(choices)}, got {item!r}")
        return items

    return parse


def _bytes(text: str) -> int:
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    return int(text[:-1]) * units[text[-1].upper()] if text[-1].upper() in units else int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    out = native.BUILD
    add("--quick", action="store_true", help="nine cases, few rounds, sizes to 16 MB: about three minutes")
    add("--cases", type=_list(None), help="names or groups, shell patterns, comma-separated (default: all)")
    add("--ops", type=_list(cases.OPS), default=list(cases.OPS), help="operations, comma-separated")
    add("--outputs", type=_list(cases.OUTPUTS), default=list(cases.OUTPUTS), help="given, fresh or both")
    add("--peers", type=_list(peers.NAMES), default=list(peers.NAMES), help="libraries, comma-separated")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)), help="for every library that has any")
    add("--dtype", type=_list(("float32", "float64")), default=["float32"], help="float32, float64 or both")
    topics = list(TOPICS)
    what = "instead: types, masks and fusion beside plain calls; all of them, or names, comma-separated"
    add("--breadth", nargs="?", type=_list(topics), const=topics, help=what)
    add("--aligned", action="store_true", help="arrays on cache lines, not 16 bytes past one as NumPy's own are")
    add("--budget", type=float, help="seconds for one operation on one case")
    add("--max-bytes", type=_bytes, help="largest array of the size sweep, as 64M or 2G")
    add("--json", type=Path, help="where the records go (default: bench.json or breadth.json there)")
    add("--markdown", type=Path, help="where the tables go (default: bench.md or breadth.md there)")
    add("--plot", type=Path, default=out, help="folder for the pictures, and for what has no place of its own")
    add("--from", dest="source", type=Path, help="measure nothing: report on the records of this file")
    add("--list", action="store_true", help="print the cases and stop")
    return parser


def _selected(options: argparse.Namespace, dtype: str) -> list[Case]:
    """Return the cases to measure; the sweep over channels only where it is asked for."""
    itemsize = np.dtype(dtype).itemsize
    largest = options.max_bytes or (QUICK_SWEEP if options.quick else FULL_SWEEP)
    usual = [*cases.CASES, *cases.size_sweep(largest, itemsize)]
    if options.cases:
        return cases.select([*usual, *cases.channel_sweep(itemsize=itemsize)], options.cases)
    return cases.select(usual, [*cases.QUICK, *cases.SIZE_SWEEPS]) if options.quick else usual


def _work(options: argparse.Namespace) -> Iterator[Work]:
    if options.breadth:
        yield from _breadth_work(options)
        return
    for dtype in options.dtype:
        for case in _selected(options, dtype):
            ops = [op for op in case.ops if op in options.ops]
            if ops:
                yield Work(case, (Variant(dtype=dtype),), ops)


def _breadth_work(options: argparse.Namespace) -> Iterator[Work]:
    usual = variants.QUICK if options.quick else variants.CASES
    for topic in options.breadth:
        for case in cases.select(cases.CASES, options.cases or usual):
            suiting = tuple(v for v in TOPICS[topic] if any(v.suits(case, op) for op in options.ops))
            ops = [op for op in case.ops if op in options.ops and TOPICS[topic][0].suits(case, op)]
            if ops:
                yield Work(case, suiting, ops, topic)


def _setups(options: argparse.Namespace, loaded: Sequence[peers.Peer]) -> tuple[Setup, Setup]:
    """Return the setup of ordinary cases, and that of the sweeps."""
    effort = timing.QUICK_EFFORT if options.quick else timing.Effort()
    if options.budget is not None:
        effort = timing.Effort(options.budget, effort.sample, effort.min_rounds, effort.max_rounds)
    ruler, l2 = Yardstick(options.threads), native.cache_bytes(2)
    few = () if options.breadth else ("fastbn",) if options.quick else None
    offset = 0 if options.aligned else NUMPY_OFFSET
    usual = Setup(ruler, effort, l2, loaded, options.outputs, few, offset=offset)
    return usual, replace(usual, peers=[p for p in loaded if p.name in SWEEP_PEERS], fresh_for=())


def _measure(options: argparse.Namespace, work: list[Work], console: Console) -> records.Run:
    # Every OpenMP library reads these when it is loaded. Threads that spin for long after their last call would
    # run on the cores that the next peer is timed on.
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    names = [name for name in options.peers if not options.breadth or name in BREADTH_PEERS]
    loaded, notes = peers.load_peers(names, options.threads)
    surroundings = records.environment(options.threads, {p.name: p.version for p in loaded})
    surroundings["spin_count"] = os.environ["GOMP_SPINCOUNT"]
    usual, sweeping = _setups(options, loaded)
    found: list[records.Record] = []
    columns = (TextColumn("{task.description:<44}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # No refresh by a thread of its own: it would run while others are timed.
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        task = progress.add_task("", total=sum(len(item.ops) for item in work))

        def say(line: str) -> None:
            notes.append(line)
            progress.console.print(line, highlight=False)

        for line in notes:
            progress.console.print(line, highlight=False)
        for item in work:
            setup = sweeping if item.case.group.startswith("sweep") else usual
            bench = Bench(item.case, item.variants, setup, say, item.topic)
            for op in item.ops:
                progress.update(task, description=f"{item.case.name} {op} {item.what}", refresh=True)
                found += bench.measure(op)
                progress.update(task, advance=1, refresh=True)
    return records.Run(surroundings, tuple(found), tuple(notes))


def _report(options: argparse.Namespace, run: records.Run, console: Console) -> None:
    """Print the tables and write all that a run leaves."""
    import breadth
    import report

    of_breadth = any(r.group in TOPICS for r in run.records)
    name = options.plot / ("breadth" if of_breadth else "bench")
    written = [options.markdown or name.with_suffix(".md")]
    if not options.source:
        written.insert(0, options.json or name.with_suffix(".json"))
        records.save(run, written[0])
    text = breadth.markdown(run) if of_breadth else report.markdown(run)
    written[-1].parent.mkdir(parents=True, exist_ok=True)
    written[-1].write_text(text, encoding="utf-8")
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    if not of_breadth:
        try:
            from plots import draw
        except ModuleNotFoundError as missing:
            console.print(f"no pictures: {missing}", highlight=False)
        else:
            written += draw(run, options.plot)
    console.print("written: " + ", ".join(map(str, written)), highlight=False, soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status is 1 where fastbn was missing or wrong."""
    parser, console = _parser(), Console(width=200 if not sys.stdout.isatty() else None)
    options = parser.parse_args(arguments)
    try:
        work = list(_work(options))
    except ValueError as error:
        parser.error(str(error))
    if options.list:
        for item in work:
            case, ops = item.case, ", ".join(item.ops)
            line = f"{case.name:<26}{case.group:<22}{case.shape!s:<24}axis {case.axis}  {item.what}  {ops}"
            console.print(line, highlight=False)
        return 0
    run = records.load(options.source) if options.source else _measure(options, work, console)
    _report(options, run, console)
    return int(any(note.startswith("fastbn left out") for note in run.notes))


if __name__ == "__main__":
    sys.exit(main())
