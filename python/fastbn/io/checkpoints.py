"""What a run has counted so far, in a file from which it can go on. Knows sources by name, size and time alone."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import Any

from fastbn._atomic import replacing
from fastbn._moments.moments import Moments
from fastbn._moments.provenance import Coordinates
from fastbn._validation import Shape
from fastbn.io.places import Place, fingerprint

_FORMAT = 2


@dataclass
class Progress:
    """How far a run is: places done, the place in the next one, and what was counted.

    ``total`` has the places that are done; ``parts`` has, by their corners, the features of the one under way.
    ``row`` is the number of rows counted of that, ``before`` of those that are done. ``skipped`` has the files that
    could not be read, with the reasons; ``notes`` what was done to values without being asked, and
    ``others`` the columns of the first table that are not counted, by the reasons; ``dims`` are the names of the
    dimensions that features are told apart by, where the run goes by names, ``coords`` the coordinates along them, and
    ``nodata`` the values that are none, as pairs of a column's name and these.
    """

    place: int = 0
    position: int = 0
    row: int = 0
    before: int = 0
    total: Moments = field(default_factory=Moments)
    parts: dict[Shape, Moments] = field(default_factory=dict)
    names: list[str] | None = None
    named: bool = False  # whether these are more than numbers
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    others: dict[str, list[str]] | None = None
    dims: list[str] | None = None
    coords: Coordinates | None = None
    nodata: list[Any] | None = None


# Of what `Progress` has, what JSON has too.
_PLAIN = [each.name for each in fields(Progress) if each.name not in ("total", "parts")]


class Checkpoint:
    """The file of one run. ``identity`` says what it is a run of: nothing else may go on from it."""

    def __init__(self, path: str, identity: dict[str, Any], every: float) -> None:
        self._path, self._identity, self._every = path, identity, every
        self._last: float | None = None

    def load(self) -> Progress | None:
        """Return how far the run came; None if there is no file, ValueError if it is of another run."""
        if not os.path.exists(self._path):
            return None
        with open(self._path, "rb") as file:
            text = file.read()
        try:
            held = json.loads(text)
            if held["format"] != _FORMAT:
                raise ValueError("its format is not known to this version")
            if held.pop("digest") != _digest(held):
                raise ValueError("it was changed or damaged after that")
            total, *parts = (Moments.from_bytes(base64.b64decode(text)) for text in held["moments"])
            counted = dict(zip(map(tuple, held["corners"]), parts, strict=True))
            plain = {name: held[name] for name in _PLAIN if name in held}  # version 0.1 did not note all of them
            if plain.get("coords") is not None:
                plain["coords"] = Coordinates.of(*plain["coords"])
            progress = Progress(total=total, parts=counted, **plain)
            differs = _difference(held["identity"], self._identity) if held["identity"] != self._identity else ""
        except Exception as error:  # what is no checkpoint may be nested too deep, or hold anything anywhere
            raise ValueError(f"checkpoint must name a file that a run left, got {self._path!r}: {error}") from error
        if differs:
            raise ValueError(f"checkpoint must be of this run, got {self._path!r}, of another: {differs}")
        return progress

    def save(self, progress: Progress, synchronize: Callable[[], object] = lambda: None) -> None:
        """Write how far the run is, unless that was done a short while ago; what it has written comes first."""
        if self._last is not None and time.monotonic() - self._last < self._every:
            return
        synchronize()
        held: dict[str, Any] = {name: getattr(progress, name) for name in _PLAIN}
        held |= {"format": _FORMAT, "identity": self._identity, "corners": [list(corner) for corner in progress.parts]}
        moments = [progress.total, *progress.parts.values()]
        held["moments"] = [base64.b64encode(part.to_bytes()).decode("ascii") for part in moments]
        with replacing(self._path) as path, open(path, "w", encoding="utf-8") as file:
            json.dump(held | {"digest": _digest(held)}, file)
        self._last = time.monotonic()

    def start(self) -> None:
        """Begin to count the time to the first checkpoint; ValueError if that would go over anything else."""
        if os.path.lexists(self._path) and not is_checkpoint(self._path):
            raise ValueError(f"checkpoint must name a file that a run left, or none, got {self._path!r}")
        self._last = time.monotonic() if self._every else None

    def remove(self) -> None:
        """Remove the file, and nothing else that came to have its name: the run is complete."""
        if is_checkpoint(self._path):
            os.unlink(self._path)


def is_checkpoint(path: str) -> bool:
    """Whether a file is what a run left, of whatever run."""
    try:
        with open(path, encoding="utf-8") as file:
            held = json.loads(file.read()) if file.read(1) == "{" and not file.seek(0) else None
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(held, dict) and {"format", "identity"} <= held.keys()


def _digest(held: dict[str, Any]) -> str:
    """Return what a checkpoint's content comes to, so that nothing goes on from a place that no run was at."""
    return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()


def identity(name: str, places: Iterable[Place], options: dict[str, Any]) -> dict[str, Any]:
    """Return what makes a run the same run: files with their sizes and times of change, and options.

    ValueError, with the name of the option that asks for it, if the data cannot be read again.
    """
    if not isinstance(places, list) or any(place.array is not None for place in places):
        raise ValueError(f"{name} must come with files, which can be read again, got arrays")
    return {"options": options, "sources": [fingerprint(place) for place in places]}


def _difference(held: dict[str, Any], now: dict[str, Any]) -> str:
    for name, value in now["options"].items():
        if held["options"].get(name) != value:
            return f"{name} was {held['options'].get(name)!r} and is {value!r}"
    before, after = held["sources"], now["sources"]
    if len(before) != len(after):
        return f"it had {len(before)} sources and has {len(after)}"
    for one, other in zip(before, after, strict=True):
        for name in ("name", "files", "bytes"):
            if one[name] != other[name]:
                return f"{name} of source {other['name']!r} was {one[name]!r} and is {other[name]!r}"
        if one != other:
            return f"source {other['name']!r} was changed"
    return "it was left by another version"
