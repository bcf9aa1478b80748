"""Statistics in files, with the names of their features: .npz, which `Moments.load` reads too, and JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastbn._moments.provenance import Provenance
from fastbn._npz import not_written, read_npz, write_npz
from fastbn.io.atomic import replacing
from fastbn.io.counting import taken
from fastbn.io.options import Moments, checked_mode

KIND = "fastbn statistics"
_FORMAT = 1
_ARRAYS = ("count", "mean", "m2", "mean_lo", "m2_lo", "min", "max")
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
        held = {key: value for key, value in moments._provenance._asdict().items() if value is not None}
        return cls(moments, **held)

    def labels(self) -> list[str]:
        """Return what to call each feature: its name, or its place in the feature shape."""
        if self.names is not None:
            return [name or f"unnamed {number}" for number, name in enumerate(self.names)]
        return [",".join(map(str, at)) or "all" for at in np.ndindex(self.moments.shape or ())]


def save_stats(stats: Stats, path: str | os.PathLike[str]) -> None:
    """Write a file by its suffix, .npz or .json, whole or not at all."""
    checked_suffix(path)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        if os.fspath(path).lower().endswith(".json"):
            file.write((to_json(stats) + "\n").encode())
            return
        held = _statistics(stats)
        options = {key: held.pop(key) for key in ("nan", "extremes")}
        names = {} if stats.names is None else {"names": np.array(stats.names, np.str_)}
        write_npz(file, options | _head(stats), held | {"std": stats.moments.std()} | names)


def load_stats(path: str | os.PathLike[str]) -> Stats:
    """Read a file of `save_stats` or of `Moments.save`; ValueError if it is neither, OSError if it cannot be read."""
    name = os.fspath(path)
    checked_suffix(name)
    with open(name, "rb") as file:
        if name.lower().endswith(".json"):
            return from_json(file.read().decode(errors="replace"), repr(name))
        config, arrays = read_npz(file, _WRITER, repr(name))
    names = arrays.pop("names", None)
    return _stats({**arrays, **config}, None if names is None else names.tolist(), repr(name))


def to_json(stats: Stats, **more: Any) -> str:
    """Return statistics as JSON from which `from_json` makes the same, to the bit; NaN is null."""
    held = _statistics(stats)
    arrays = {key: _plain(held[key]) for key in _ARRAYS if key in held}
    options = {"format": _FORMAT, "nan": held["nan"], "extremes": held["extremes"]}
    names = None if stats.names is None else list(stats.names)
    last = {"names": names, **arrays, "std": _plain(stats.moments.std()), **more}
    return json.dumps(_head(stats) | options | last, allow_nan=False)


def from_json(text: str, shown: str) -> Stats:
    """Return the statistics that a text describes; ``shown`` is what an error calls it."""
    try:
        held = json.loads(text)
        if held["kind"] != KIND or held["format"] != _FORMAT:
            raise ValueError("its format is not known to this version")
        count = {"count": held["count"]} if "count" in held else {}
        arrays = {key: _numbers(held[key]) for key in _ARRAYS if key in held} | count
    except Exception as error:  # it may be nested too deep, or hold numbers beyond all bounds
        raise not_written(_WRITER, shown, error) from error
    return _stats(held | arrays, held.get("names"), shown)


def merged_stats(paths: Sequence[str | os.PathLike[str]]) -> Stats:
    """Return what several files hold together; ValueError names the first that does not fit those before it."""
    total: Stats | None = None
    for path in paths:
        stats = load_stats(path)
        if total is None:
            total = stats
            continue
        for name in ("scale", "axis", "mode"):
            if getattr(stats, name) != getattr(total, name):
                rule = f"must have the {name} of those before it, {getattr(total, name)!r}"
                raise ValueError(f"{os.fspath(path)} {rule}, got {getattr(stats, name)!r}")
        moments, names = stats.moments, stats.names or total.names
        if total.names is not None and names is not None and names != total.names:
            if sorted(names) != sorted(total.names):
                known = f"({', '.join(total.names)}), got {', '.join(names)}"
                raise ValueError(f"{os.fspath(path)} must have the features of those before it {known}")
            if len(set(names)) < len(names):
                raise ValueError(
                    f"{os.fspath(path)} must have its features in the order of those before it, got {names}"
                )
            moments, names = taken(moments, [names.index(name) for name in total.names]), total.names
        if None not in (moments.shape, total.moments.shape) and moments.shape != total.moments.shape:
            raise ValueError(
                f"{os.fspath(path)} must have the features of those before it, of shape {total.moments.shape}, "
                f"got {moments.shape}"
            )
        total = total._replace(moments=total.moments + moments, names=names)
    if total is None:
        raise ValueError("paths must name a file at least, got none")
    return total


def checked_suffix(path: str | os.PathLike[str]) -> None:
    """Refuse a name that does not say how the file is written."""
    if not os.fspath(path).lower().endswith((".npz", ".json")):
        raise ValueError(f"a file of statistics must be .npz or .json, got {os.fspath(path)!r}")


def _stats(held: dict[str, Any], names: Any, shown: str) -> Stats:
    try:
        stats = Stats.of(Moments.from_dict(held | {"names": names}))
        return stats._replace(mode=checked_mode(stats.mode))
    except (TypeError, ValueError) as error:
        raise not_written(_WRITER, shown, error) from error


def _statistics(stats: Stats) -> dict[str, Any]:
    """Return statistics and options as a dict, without what `Stats` says of the data."""
    return {key: value for key, value in stats.moments.to_dict().items() if key not in Provenance._fields}


def _head(stats: Stats) -> dict[str, Any]:
    return {"kind": KIND, "scale": stats.scale, "axis": stats.axis, "mode": stats.mode}


def _plain(value: Any) -> Any:
    """Return numbers as JSON has them, which knows neither NaN nor infinity."""
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value.tolist()] if value.ndim else _plain(value.item())
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value


def _numbers(value: Any) -> Any:
    if isinstance(value, list):
        return np.array([_numbers(item) for item in value], np.float64)
    return math.nan if value is None else float(value)
