"""A run as Markdown: the machine, the aims, and a table per operation in units of the copy; knows records only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import summary
from cases import OPS
from records import Record, Run, pick

TITLES = {"train": "Training forward", "eval": "Inference", "backward": "Backward", "moments": "Moments"}


def label(record: Record) -> str:
    """Return the column a record belongs to: the peer, and ``fresh`` where it allocates its output."""
    return record.peer if record.output == "given" or record.op == "moments" else f"{record.peer}, fresh"


def labels(records: Iterable[Record]) -> list[str]:
    """Return the columns of a table, fastbn's first, then in the order they were measured."""
    found = dict.fromkeys(label(r) for r in records)
    return sorted(found, key=lambda name: not name.startswith(summary.OURS))


def row(cells: Iterable[str]) -> str:
    """Return one line of a table."""
    return f"| {' | '.join(cells)} |"


def _by_case(records: Iterable[Record]) -> dict[str, dict[str, Record]]:
    cases: dict[str, dict[str, Record]] = {}
    for r in records:
        cases.setdefault(r.case, {})[label(r)] = r
    return cases


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e6:.3g} MB" if nbytes >= 1e6 else f"{nbytes / 1e3:.3g} kB"


def time(nanoseconds: float) -> str:
    """Return a time with its unit."""
    return f"{nanoseconds / 1e6:.3g} ms" if nanoseconds >= 1e6 else f"{nanoseconds / 1e3:.3g} us"


def _noise(records: Sequence[Record]) -> list[str]:
    """Say how quiet the machine was: a reader must know before he trusts a ratio."""
    noisy = [r for r in records if r.high - r.low > 0.1 * r.median]
    return [f"{len(noisy)} of {len(records)} timings have an interquartile range above 10 % of their median."]


def _table(records: Sequence[Record], unit: str) -> list[str]:
    """Return one table: rows are cases, columns peers, cells multiples of the copy or, for small arrays, of 1 us."""
    columns = labels(records)
    extra = ["copy", "bound"] if unit == "copies" else ["copy", "x + 1"]
    lines = [row(["case", "x", *extra, *columns]), row(["---"] + ["---:"] * (len(columns) + 3))]
    for case, found in _by_case(records).items():
        first = next(iter(found.values()))
        if unit == "copies":
            head = [time(first.copy), f"{first.bound:.2f}"]
            cells = [f"{found[c].copies:.2f}" if c in found else "" for c in columns]
        else:
            head = [f"{first.copy / 1e3:.2f}", f"{(first.plus_one or 0) / 1e3:.2f}"]
            cells = [f"{found[c].median / 1e3:.2f}" if c in found else "" for c in columns]
        lines.append(row([case, _size(first.nbytes), *head, *cells]))
    return lines


def _environment(values: dict[str, Any]) -> list[str]:
    peers = ", ".join(f"{name} {version}" for name, version in values["peers"].items())
    return [
        f"{values['cpu']}, {values['cores']} cores, L2 {values['l2_bytes'] // 1024} KiB, "
        f"L3 {values['l3_bytes'] // 1024} KiB; {values['threads']} thread(s); {values['system']}, "
        f"Python {values['python']}, NumPy {values['numpy']}; {values['date']}, commit {values['commit']}, "
        f"load {values['load_at_start']} at the start.",
        "",
        f"Peers: {peers}.",
    ]


def head(run: Run) -> list[str]:
    """Return what a report begins with: where and with what it was measured."""
    return ["# Benchmark", "", *_environment(run.environment), "", *_noise(run.records)]


def foot(run: Run) -> list[str]:
    """Return what a report ends with: what was left out, and why."""
    return ["", "## Notes", "", *(f"- {note}" for note in run.notes)] if run.notes else []


def markdown(run: Run) -> str:
    """Return the whole report."""
    lines = head(run)
    for dtype in dict.fromkeys(r.dtype for r in run.records):
        aims = summary.table(pick(run.records, dtype=dtype))
        if aims:
            lines += ["", f"## Aims, {dtype}", "", *aims]
        for op in OPS:
            some = pick(run.records, dtype=dtype, op=op)
            large = [r for r in some if r.plus_one is None]
            small = [r for r in some if r.plus_one is not None]
            if large:
                lines += ["", f"## {TITLES[op]}, {dtype}, in copies", "", *_table(large, "copies")]
            if small:
                lines += ["", f"## {TITLES[op]}, {dtype}, small arrays, in microseconds", "", *_table(small, "us")]
    return "\n".join([*lines, *foot(run)]) + "\n"
