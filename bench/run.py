"""The benchmark's command line: measures cases against peers and the copy, and writes JSON, Markdown and pictures."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import cases
import native
import peers
import records
import timing
from cases import Case, Op
from groups import Bench, Setup
from variants import Variant
from yardstick import Yardstick

SWEEP_PEERS = ("fastbn", "PyTorch", "NumPy", "oneDNN")
SPIN_COUNT = "20000"

QUICK_SWEEP = 16 * cases.MIB
FULL_SWEEP = 512 * cases.MIB


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
    add("--budget", type=float, help="seconds for one operation on one case")
    add("--max-bytes", type=_bytes, help="largest array of the size sweep, as 64M or 2G")
    add("--json", type=Path, default=out / "bench.json", help="where the records go")
    add("--markdown", type=Path, default=out / "bench.md", help="where the tables go")
    add("--plot", type=Path, default=out, help="folder for the pictures")
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


def _work(options: argparse.Namespace) -> Iterator[tuple[Case, str, list[Op]]]:
    for dtype in options.dtype:
        for case in _selected(options, dtype):
            ops = [op for op in case.ops if op in options.ops]
            if ops:
                yield case, dtype, ops


def _setups(options: argparse.Namespace, loaded: Sequence[peers.Peer]) -> tuple[Setup, Setup]:
    """Return the setup of ordinary cases, and that of the sweeps."""
    effort = timing.QUICK_EFFORT if options.quick else timing.Effort()
    if options.budget is not None:
        effort = timing.Effort(options.budget, effort.sample, effort.min_rounds, effort.max_rounds)
    ruler, l2 = Yardstick(options.threads), native.cache_bytes(2)
    few = ("fastbn",) if options.quick else None
    usual = Setup(ruler, effort, l2, loaded, options.outputs, few)
    return usual, Setup(ruler, effort, l2, [p for p in loaded if p.name in SWEEP_PEERS], options.outputs, ())


def _measure(options: argparse.Namespace, work: list[tuple[Case, str, list[Op]]], console: Console) -> records.Run:
    # Every OpenMP library reads these when it is loaded. Threads that spin for long after their last call would
    # run on the cores that the next peer is timed on.
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    loaded, notes = peers.load_peers(options.peers, options.threads)
    surroundings = records.environment(options.threads, {p.name: p.version for p in loaded})
    surroundings["spin_count"] = os.environ["GOMP_SPINCOUNT"]
    usual, sweeping = _setups(options, loaded)
    found: list[records.Record] = []
    columns = (TextColumn("{task.description:<44}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # No refresh by a thread of its own: it would run while others are timed.
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        task = progress.add_task("", total=sum(len(ops) for _, _, ops in work))

        def say(line: str) -> None:
            notes.append(line)
            progress.console.print(line, highlight=False)

        for line in notes:
            progress.console.print(line, highlight=False)
        for case, dtype, ops in work:
            setup = sweeping if case.group.startswith("sweep") else usual
            bench = Bench(case, (Variant(dtype=dtype),), setup, say, None)
            for op in ops:
                progress.update(task, description=f"{case.name} {op} {dtype}", refresh=True)
                found += bench.measure(op)
                progress.update(task, advance=1, refresh=True)
    return records.Run(surroundings, tuple(found), tuple(notes))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status is 1 where fastbn was missing or wrong."""
    parser, console = _parser(), Console(width=200 if not sys.stdout.isatty() else None)
    options = parser.parse_args(arguments)
    try:
        work = list(_work(options))
    except ValueError as error:
        parser.error(str(error))
    if options.list:
        for case, dtype, ops in work:
            line = f"{case.name:<26}{case.group:<22}{case.shape!s:<24}axis {case.axis}  {dtype}  {', '.join(ops)}"
            console.print(line, highlight=False)
        return 0
    from plots import draw
    from report import markdown

    run = records.load(options.source) if options.source else _measure(options, work, console)
    if not options.source:
        records.save(run, options.json)
    text = markdown(run)
    options.markdown.parent.mkdir(parents=True, exist_ok=True)
    options.markdown.write_text(text, encoding="utf-8")
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    written = [options.json, options.markdown, *draw(run, options.plot)]
    console.print("written: " + ", ".join(map(str, written)), highlight=False, soft_wrap=True)
    return int(any(note.startswith("fastbn left out") for note in run.notes))


if __name__ == "__main__":
    sys.exit(main())
