"""Where data come from: what a user names becomes places, and a place an opened source. Knows kinds of files by name.

What is in a file only its room knows, imported when one is opened: its ``opened`` makes a source of a place.
"""

from __future__ import annotations

import errno
import importlib
import itertools
import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any

import numpy as np

from fastbn.io.names import KINDS, TABLES, kind_of, split
from fastbn.io.sources.base import Place, Reading, Source, UnreadableError

_ROOMS = {"npz": "npy"}  # of kinds that have none of their own name
_ZARR_FILES = ("zarr.json", ".zarray", ".zgroup")


def opened(place: Place, reading: Reading) -> Source:
    """Open a place."""
    room = importlib.import_module(f"fastbn.io.sources.{_ROOMS.get(place.kind, place.kind)}")
    source: Source = room.opened(place, reading)
    return source


def places(source: Any) -> Iterable[Place]:
    """Return the places of a path, an array, or a collection of these; of a generator one by one."""
    if _is_path(source):
        return _of_path(os.fspath(source))
    if _is_array(source):
        return [_of_array(source, "source")]
    if isinstance(source, (list, tuple)):
        return _joined(place for index, item in enumerate(source) for place in _of_item(item, index))
    if isinstance(source, Iterable) and not isinstance(source, (dict, bytes, bytearray)):
        return (place for index, item in enumerate(source) for place in _of_item(item, index))
    raise TypeError(f"source must be a path, an array, or an iterable of these, got {type(source).__name__}")


def is_zarr(path: str) -> bool:
    """Whether a folder is a Zarr store."""
    return any(os.path.exists(os.path.join(path, name)) for name in _ZARR_FILES)


def replaces(path: str, files: Iterable[str]) -> bool:
    """Whether writing a path anew takes one of these files away: it is that file, or a Zarr store that holds it."""
    if not os.path.exists(path):
        return False
    inside = os.path.join(os.path.realpath(path), "") if is_zarr(path) else None
    for file in files:
        same = os.path.exists(file) and os.path.samefile(path, file)
        if same or (inside is not None and os.path.realpath(file).startswith(inside)):
            return True
    return False


def left_out(folder: str) -> list[str]:
    """Return the files of a folder that are not read, for they are of no kind that is known, or not images."""
    files = list(_files(folder))
    images = any(kind_of(file) == "images" for file in files)
    return [file for file in files if kind_of(file) is None or (images and kind_of(file) != "images")]


def other_columns(source: Any, reading: Reading) -> list[str]:
    """Return the columns of the first table of a source that are not numbers, and so not read."""
    for place in places(source):
        if place.kind not in TABLES.values():
            continue
        try:
            with closing(opened(place, reading)) as table:
                return [field.name for field in getattr(table, "fields", ()) if not field.numeric]
        except (OSError, UnreadableError):  # left out itself
            continue
    return []


def _of_item(item: Any, index: int) -> list[Place]:
    if _is_path(item):
        return _of_path(os.fspath(item))
    if _is_array(item):
        return [_of_array(item, f"source[{index}]")]
    raise TypeError(f"source must hold paths or arrays, got {type(item).__name__} at {index}")


def _of_array(array: Any, name: str) -> Place:
    return Place("memory", name, array=array)


def _of_path(path: str) -> list[Place]:
    bare, member = (path, "") if os.path.exists(path) else split(path)
    if os.path.isdir(bare):
        if is_zarr(bare) or kind_of(bare) == "zarr":
            return [Place("zarr", path, (bare,), member)]
        return _of_folder(bare)
    kind = kind_of(bare)
    if kind is None:
        if not os.path.exists(bare):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), bare)
        known = ", ".join([*KINDS, "images"])
        raise ValueError(f"source must be a folder or a file of a known kind ({known}), got {path!r}")
    return [Place(kind, path, (bare,), member)]


def _of_folder(folder: str) -> list[Place]:
    files = list(_files(folder))
    images = tuple(file for file in files if kind_of(file) == "images")
    if images:
        return [Place("images", folder, images)]
    others = [Place(str(kind_of(file)), file, (file,)) for file in files if kind_of(file) is not None]
    if not others:
        raise ValueError(f"source must hold images or other files of a known kind, got the folder {folder!r}")
    return others


def _files(folder: str) -> Iterator[str]:
    """Yield the files (and Zarr stores) of a folder and of those in it, by name, hidden ones left out.

    Links are followed, but not back to a folder that they are in.
    """
    waiting: list[tuple[str, tuple[str, ...]]] = [(folder, ())]
    while waiting:
        path, above = waiting.pop()
        real = os.path.realpath(path)
        if real in above:
            continue
        with os.scandir(path) as entries:
            seen = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
        inner = [entry.path for entry in seen if entry.is_dir() and kind_of(entry.name) != "zarr"]
        yield from (entry.path for entry in seen if not entry.is_dir() or kind_of(entry.name) == "zarr")
        waiting += [(each, (*above, real)) for each in reversed(inner)]


def _joined(places: Iterable[Place]) -> list[Place]:
    """Make one place of images that follow each other."""
    result: list[Place] = []
    for images, group in itertools.groupby(places, lambda place: place.kind == "images"):
        alike = list(group)
        if images and len(alike) > 1:
            files = itertools.chain.from_iterable(place.files for place in alike)
            alike = [Place("images", f"{alike[0].name}, ...", tuple(files))]
        result += alike
    return result


def _is_path(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike))


def _is_array(value: Any) -> bool:
    return isinstance(value, (np.ndarray, np.generic)) or hasattr(value, "__array__") or hasattr(value, "dtype")


__all__ = [
    "Place",
    "Reading",
    "Source",
    "UnreadableError",
    "is_zarr",
    "left_out",
    "opened",
    "other_columns",
    "places",
    "replaces",
]
