"""What the `fastbn` command shows: tables, progress, notes. Reads no file and no argument."""

from __future__ import annotations

import importlib.metadata
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from fastbn._moments.moments import Moments
from fastbn.io.options import Report
from fastbn.io.statsfiles import MOST, display_names, listed, spoiled

_COLUMNS = ("feature", "count", "mean", "std", "min", "max")
_PACKAGES = (
    *("numpy", "pyarrow", "h5py", "zarr", "h5netcdf", "xarray"),
    *("pillow", "tifffile", "imagecodecs", "click", "rich"),
)


def show_stats(moments: Moments, others: Mapping[str, Sequence[str]] = {}, notes: Sequence[str] = ()) -> None:
    """Print a table: drawn on a terminal, and there of so many features alone; else plain and complete.

    ``others`` are columns that were not read, by the reasons, ``notes`` what was done to values without being asked.
    """
    rows = list(_rows(moments))
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        table = Table()
        for name in _COLUMNS:
            table.add_column(name, justify="left" if name == "feature" else "right", overflow="fold")
        for row in rows[:MOST]:
            table.add_row(*map(escape, row))  # names are no markup
        Console().print(table)
        if len(rows) > MOST:
            print(f"... and {len(rows) - MOST} features more (--out, --json or a pipe have all)")
    else:
        print(plain_table([_COLUMNS, *rows]))
    wrong = spoiled(moments)
    if wrong:
        print(f"NaN or infinite values in: {listed(wrong)} (--where-finite leaves them out)")
    for note_of_values in notes:
        print(note_of_values)
    for why, columns in others.items():
        print(f"{why}, and not read: {listed(columns)}")


def plain_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of texts in columns, all but the first aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def note(text: str) -> None:
    """Say something beside the result."""
    print(f"fastbn: {text}", file=sys.stderr)


@contextmanager
def progress(what: str) -> Iterator[Report]:
    """Give a function to report to: what is done, rate and time left, on a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich import progress as bars
    from rich.console import Console

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.DownloadColumn(binary_units=True),
        bars.TransferSpeedColumn(),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def versions() -> dict[str, Any]:
    """Return what the command runs on beside fastbn itself; None for a package that is not installed."""
    found: dict[str, Any] = {"python": sys.version.split()[0]}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def _rows(moments: Moments) -> Iterator[tuple[str, ...]]:
    if moments.shape is None:
        return
    extents = [np.full(moments.shape, np.nan) if each is None else each for each in (moments.min, moments.max)]
    columns: list[Any] = [np.broadcast_to(moments.count, moments.shape), moments.mean, moments.std(), *extents]
    for name, count, *values in zip(
        display_names(moments), *(column.ravel().tolist() for column in columns), strict=True
    ):
        mean, std, low, high = values
        digits = _digits(std, mean, low, high)
        ends = ("-", "-") if moments.min is None else (f"{low:.{digits}g}", f"{high:.{digits}g}")
        yield (name, f"{count:.15g}", f"{mean:.{digits}g}", f"{std:.6g}", *ends)


def _digits(std: float, *values: float) -> int:
    """Return 6 digits, or as many as it takes for the last one to be less than a tenth of the standard deviation."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    if largest == 0.0 or not 0.0 < std < math.inf:
        return 6
    return min(17, max(6, math.floor(math.log10(largest) - math.log10(std)) + 3))
