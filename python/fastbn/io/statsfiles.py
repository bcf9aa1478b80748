"""Statistics in files, with the names of their features: .npz, which `Moments.load` reads too, and JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from itertools import product
from typing import Any, Literal

import numpy as np

from fastbn._atomic import replacing
from fastbn._moments.moments import Moments
from fastbn._moments.provenance import Provenance, as_json
from fastbn._npz import check_kind, not_written, read_npz, write_npz
from fastbn.io.options import Options, Path

KIND = "fastbn statistics"
MOST = 50  # features that are shown at once
_FORMAT = 1
_WRITER = "fastbn stats"


def remembering(moments: Moments, **known: Any) -> Moments:
    """Return a copy of statistics that remembers this too of the data behind them: fields of `Provenance`."""
    copy = moments.copy()
    copy._seen = copy._seen._replace(provenance=copy._seen.provenance._replace(**known))
    return copy


def read_as(moments: Moments) -> Provenance:
    """Return how the data behind statistics were read, which is by default where these do not know."""
    known = moments._seen.provenance
    return known._replace(scale=known.scale or 1.0, axis=1 if known.axis is None else known.axis)


def display_names(moments: Moments) -> list[str]:
    """Return what to call each feature: its name, or its coordinates or else its place along each feature axis."""
    if moments.names is not None:
        return [name or f"unnamed {number}" for number, name in enumerate(moments.names)]
    shape, coords = moments.shape or (), moments._seen.provenance.coords
    along = [[str(place) for place in range(size)] for size in shape]
    for axis, labels in enumerate(() if coords is None else coords.labels):
        if coords is not None and labels is not None:
            along[axis] = [f"{coords.dims[axis]}={_shown(label)}" for label in labels]
    return [",".join(each) or "all" for each in product(*along)]


def _shown(label: Any) -> str:
    """Return a label in few digits; of a time without the parts of a second, and of the day, that are zero."""
    if isinstance(label, float):
        return f"{label:.7g}"
    return str(label).removesuffix(".000000000").removesuffix("T00:00:00")


def spoiled(moments: Moments, of: Literal["mean", "any"] = "any") -> list[str]:
    """Return the features whose mean, or any of their statistics, is not finite though they have values."""
    if moments.shape is None:
        return []
    wrong = ~np.isfinite(moments.mean)
    for each in () if of == "mean" else (moments.m2, moments.min, moments.max):
        wrong |= False if each is None else ~np.isfinite(each)
    wrong &= np.asarray(moments.count) > 0
    return [name for name, is_wrong in zip(display_names(moments), wrong.ravel().tolist(), strict=True) if is_wrong]


def listed(names: Sequence[str]) -> str:
    """Return names with commas between, and no more than a table has rows."""
    return ", ".join(names[:MOST]) + (", ..." if len(names) > MOST else "")


def save_stats(moments: Moments, path: Path) -> None:
    """Write a file by its suffix, .npz or .json, whole or not at all."""
    checked_suffix(path)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        if os.fspath(path).lower().endswith(".json"):
            file.write((to_json(moments) + "\n").encode())
        else:
            write_npz(file, *_held(moments))


def load_stats(path: Path, argument: str = "path") -> Moments:
    """Read a file of `save_stats`, of `Moments.save`, or JSON of `Moments.to_dict`, with lists in place of arrays.

    ValueError if it is none of these, which names the argument; OSError if it cannot be read.
    """
    name, shown, rule = os.fspath(path), repr(os.fspath(path)), f"{argument} must name a file"
    checked_suffix(name, argument)
    with open(name, "rb") as file:
        # Earlier versions of `Moments.save` wrote .npz files under any name.
        as_text = name.lower().endswith(".json") and not file.peek().startswith(b"PK")
        if as_text:
            text = file.read().decode(errors="replace")
        else:
            config, arrays = read_npz(file, _WRITER, shown, rule)
            check_kind("Moments", config, _WRITER, shown, rule)
    try:
        held = json.loads(text) if as_text else arrays | config
        of_dict = not as_text or ("kind" not in held and "count" in held)
        if not of_dict and (held["kind"] != KIND or held["format"] != _FORMAT):
            raise ValueError("its format is not known to this version")
        moments = Moments.from_dict(held)
        known = read_as(moments)
        Options(mode=known.mode, nodata=known.nodata, **known.texts or {})  # which refuses what cannot be
    except Exception as error:  # it may be nested too deep, or hold numbers beyond all bounds
        raise not_written(_WRITER, shown, error, rule) from error
    return moments


def to_json(moments: Moments, **more: Any) -> str:
    """Return statistics as JSON of which `Moments.from_dict` makes the same, to the bit; NaN is null."""
    told, arrays = _held(moments)
    return json.dumps({"format": _FORMAT, **told, "names": None, **as_json(arrays), **more}, allow_nan=False)


def merged_stats(paths: Sequence[Path]) -> Moments:
    """Return what several files hold together; ValueError names the first that does not fit those before it."""
    total: Moments | None = None
    for path in paths:
        moments = load_stats(path, "paths")
        total = moments if total is None else total + _fitting(moments, total, os.fspath(path))
    if total is None:
        raise ValueError("paths must name a file at least, got none")
    return total


def _fitting(moments: Moments, others: Moments, path: str) -> Moments:
    """Return statistics with their features in the order of others'; ValueError where they are of other data."""
    known, names, wanted, must = read_as(others), moments.names, others.names, f"{path} must have"
    if names is not None and wanted is not None and names != wanted:
        if sorted(names) != sorted(wanted):
            raise ValueError(f"{must} the features of those before it ({', '.join(wanted)}), got {', '.join(names)}")
        if len(set(names)) < len(names):
            raise ValueError(f"{must} its features in the order of those before it, got {names}")
        numbers = {name: number for number, name in enumerate(names)}
        moments = taken(moments, [numbers[name] for name in wanted])
    mine = read_as(moments)
    known.merged(mine, path)  # or an error that names the file
    for name in ("axis", "mode"):
        before, now = getattr(known, name), getattr(mine, name)
        if before != now:
            raise ValueError(f"{must} the {name} of those before it, {before!r}, got {now!r}")
    if None not in (moments.shape, others.shape) and moments.shape != others.shape:
        raise ValueError(f"{must} the features of those before it, of shape {others.shape}, got {moments.shape}")
    return moments


def taken(moments: Moments, order: Sequence[int]) -> Moments:
    """Return the statistics of some features, in the order given."""
    held = moments.to_dict()
    if moments.names is not None:
        held["names"] = np.array(moments.names, object)
    return Moments.from_dict({k: v[list(order)] if isinstance(v, np.ndarray) else v for k, v in held.items()})


def checked_suffix(path: Path, argument: str = "path") -> None:
    """Refuse a name that does not say how the file of statistics is written."""
    if not os.fspath(path).lower().endswith((".npz", ".json")):
        raise ValueError(f"{argument} must name a file of statistics, .npz or .json, got {os.fspath(path)!r}")


def _held(moments: Moments) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a file says of statistics, and the statistics."""
    told, arrays = remembering(moments, **read_as(moments)._asdict())._content()
    return {"kind": KIND, "mode": None, **told}, arrays | {"std": moments.std()}
