"""Statistics in files, with the names of their features: .npz, which `Moments.load` reads too, and JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastbn._moments.moments import Moments
from fastbn._moments.provenance import Provenance
from fastbn._npz import not_written, read_npz, write_npz
from fastbn.io.atomic import replacing
from fastbn.io.options import Path, checked_mode

KIND = "fastbn statistics"
_FORMAT = 1
_WRITER = "fastbn stats"


class Stats(NamedTuple):
    """Statistics, the names of their features if these have any, and how the data were read.

    ``scale`` is what the values were divided by, ``axis`` the feature axes and ``mode`` what images were converted to.
    """

    moments: Moments
    names: tuple[str, ...] | None = None
    scale: float = 1.0
    axis: int | tuple[int, ...] = 1
    mode: str | None = None

    @classmethod
    def of(cls, moments: Moments) -> Stats:
        """Return statistics with what they remember of the data, and what it is by default."""
        held = {key: value for key, value in moments._seen.provenance._asdict().items() if value is not None}
        return cls(moments, **held)

    def labels(self) -> list[str]:
        """Return what to call each feature: its name, or its place in the feature shape."""
        if self.names is not None:
            return [name or f"unnamed {number}" for number, name in enumerate(self.names)]
        return [",".join(map(str, at)) or "all" for at in np.ndindex(self.moments.shape or ())]


def save_stats(stats: Stats, path: Path) -> None:
    """Write a file by its suffix, .npz or .json, whole or not at all."""
    checked_suffix(path)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        if os.fspath(path).lower().endswith(".json"):
            file.write((to_json(stats) + "\n").encode())
        else:
            told, arrays = _held(stats)
            write_npz(file, told, arrays if stats.names is None else arrays | {"names": np.array(stats.names, np.str_)})


def load_stats(path: Path) -> Stats:
    """Read a file of `save_stats` or of `Moments.save`; ValueError if it is neither, OSError if it cannot be read."""
    name = os.fspath(path)
    checked_suffix(name)
    with open(name, "rb") as file:
        if name.lower().endswith(".json"):
            return from_json(file.read().decode(errors="replace"), repr(name))
        config, arrays = read_npz(file, _WRITER, repr(name))
    return _stats(arrays | config, repr(name))


def to_json(stats: Stats, **more: Any) -> str:
    """Return statistics as JSON from which `from_json` makes the same, to the bit; NaN is null."""
    told, arrays = _held(stats)
    names = None if stats.names is None else list(stats.names)
    plain = {key: _plain(value) for key, value in arrays.items()}
    return json.dumps({"format": _FORMAT, **told, "names": names, **plain, **more}, allow_nan=False)


def from_json(text: str, shown: str) -> Stats:
    """Return the statistics that a text describes; ``shown`` is what an error calls it."""
    try:
        held = json.loads(text)
        if held["kind"] != KIND or held["format"] != _FORMAT:
            raise ValueError("its format is not known to this version")
    except Exception as error:  # it may be nested too deep, or hold numbers beyond all bounds
        raise not_written(_WRITER, shown, error) from error
    return _stats(held, shown)


def merged_stats(paths: Sequence[Path]) -> Stats:
    """Return what several files hold together; ValueError names the first that does not fit those before it."""
    total: Stats | None = None
    for path in paths:
        stats = load_stats(path)
        if total is None:
            total = stats
            continue
        must = f"{os.fspath(path)} must have"
        for name in ("scale", "axis", "mode"):
            before, now = getattr(total, name), getattr(stats, name)
            if before != now:
                raise ValueError(f"{must} the {name} of those before it, {before!r}, got {now!r}")
        moments, names, shape = stats.moments, stats.names or total.names, total.moments.shape
        if total.names is not None and names is not None and names != total.names:
            if sorted(names) != sorted(total.names):
                known = f"({', '.join(total.names)}), got {', '.join(names)}"
                raise ValueError(f"{must} the features of those before it {known}")
            if len(set(names)) < len(names):
                raise ValueError(f"{must} its features in the order of those before it, got {names}")
            moments, names = taken(moments, [names.index(name) for name in total.names]), total.names
        if None not in (moments.shape, shape) and moments.shape != shape:
            raise ValueError(f"{must} the features of those before it, of shape {shape}, got {moments.shape}")
        total = total._replace(moments=total.moments + moments, names=names)
    if total is None:
        raise ValueError("paths must name a file at least, got none")
    return total


def taken(moments: Moments, order: Sequence[int]) -> Moments:
    """Return the statistics of some features, in the order given."""
    held = moments.to_dict()
    if moments.names is not None:
        held["names"] = np.array(moments.names, object)
    return Moments.from_dict({k: v[list(order)] if isinstance(v, np.ndarray) else v for k, v in held.items()})


def checked_suffix(path: Path) -> None:
    """Refuse a name that does not say how the file is written."""
    if not os.fspath(path).lower().endswith((".npz", ".json")):
        raise ValueError(f"a file of statistics must be .npz or .json, got {os.fspath(path)!r}")


def _stats(held: dict[str, Any], shown: str) -> Stats:
    try:
        stats = Stats.of(Moments.from_dict(held))
        return stats if stats.mode is None else stats._replace(mode=checked_mode("mode", stats.mode))
    except Exception as error:  # as above
        raise not_written(_WRITER, shown, error) from error


def _held(stats: Stats) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a file says of statistics, and the statistics."""
    arrays = {key: value for key, value in stats.moments.to_dict().items() if key not in Provenance._fields}
    told = {"kind": KIND, "scale": stats.scale, "axis": stats.axis, "mode": stats.mode}
    told |= {key: arrays.pop(key) for key in ("nan", "extremes")}
    return told, arrays | {"std": stats.moments.std()}


def _plain(value: Any) -> Any:
    """Return numbers as JSON has them, which knows neither NaN nor infinity."""
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value
