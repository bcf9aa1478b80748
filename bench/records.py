"""What a run leaves behind: one record per timed call, and where and with what it was timed; knows no clock."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import native
from variants import PLAIN


@dataclass(frozen=True)
class Record:
    """One timed call beside the copy of the same bytes in the same rounds; times in nanoseconds.

    Parameters
    ----------
    case, group, op, dtype, peer, output : str
        What was timed.
    shape : tuple of int
        Shape of ``x``.
    nbytes : int
        Bytes of ``x``.
    layout : {"first", "last"}
        Whether memory runs along a channel or across the channels.
    inner : int
        Elements of one channel that lie beside each other.
    median, low, high, best : float
        Median, quartiles and minimum over the rounds.
    rounds, calls : int
        Samples, and calls in one sample.
    copy : float
        Median of the fastest copy.
    plus_one : float or None
        Median of NumPy's ``x + 1``, for small arrays.
    bound : float
        The operation's traffic bound in copies.
    variant : str
        What is asked of the call beyond the operation.
    """

    case: str
    group: str
    op: str
    dtype: str
    peer: str
    output: str
    shape: tuple[int, ...]
    nbytes: int
    layout: str
    inner: int
    median: float
    low: float
    high: float
    best: float
    rounds: int
    calls: int
    copy: float
    plus_one: float | None
    bound: float
    variant: str = PLAIN

    @property
    def copies(self) -> float:
        """The median in units of the copy."""
        return self.median / self.copy


@dataclass(frozen=True)
class Run:
    """All records of one process, with its surroundings."""

    environment: dict[str, Any]
    records: tuple[Record, ...]
    notes: tuple[str, ...] = ()


def environment(threads: int, versions: dict[str, str]) -> dict[str, Any]:
    """Return the machine, the versions and the settings that a figure is worthless without."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cpu": native.cpu_model(),
        "cores": os.cpu_count(),
        "l2_bytes": native.cache_bytes(2),
        "l3_bytes": native.cache_bytes(3),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "threads": threads,
        "load_at_start": round(os.getloadavg()[0], 2),
        "peers": versions,
    }


def _commit() -> str:
    command = ["git", "-C", str(native.HERE), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def save(run: Run, path: Path) -> None:
    """Write a run as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(run), indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> Run:
    """Read what :func:`save` wrote."""
    raw = json.loads(path.read_text(encoding="utf-8"))
    records = (Record(**{**r, "shape": tuple(r["shape"])}) for r in raw["records"])
    return Run(raw["environment"], tuple(records), tuple(raw["notes"]))


def pick(records: Iterable[Record], **fields: object) -> list[Record]:
    """Return the records whose fields have the given values."""
    return [r for r in records if all(getattr(r, name) == value for name, value in fields.items())]
