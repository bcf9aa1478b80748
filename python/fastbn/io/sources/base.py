"""What all sources have in common: blocks of values, options of reading, errors that name the file. Knows no format."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from fastbn._validation import Shape

Array: TypeAlias = npt.NDArray[Any]
Column: TypeAlias = int | str

# Blocks larger than this gain nothing; more memory then means more of them under way.
_LARGEST_BLOCK = 32 << 20
LEAST_MEMORY = 1 << 18
IMAGE_MODES = ("L", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV")  # that can be asked for


class Block(NamedTuple):
    """A part of a source that is in memory as a whole.

    ``values`` holds the chosen features alone, ``corner`` is the index of its first value in the source's array.
    ``following`` is where `Source.blocks` must start to come after it, ``done`` the part of the source read by then.
    The values may be written over once the block after next is asked for.
    """

    values: Array
    corner: Shape
    following: int
    done: float


class Source(Protocol):
    """One opened file, folder or array; ``features`` is the shape of its statistics, along ``axis`` of its blocks.

    ``names`` are those of the chosen features in the order asked for, None where they are just numbered, and ``more``
    those of features that were not asked for and could have been. Where blocks have the features in another order,
    ``order`` says where each of those asked for is. ``shape`` is that of the array that blocks are parts of, None where
    there is none; ``flat`` says that it has one dimension in truth, and one column here.
    """

    name: str
    axis: Shape
    features: Shape
    names: tuple[str, ...] | None
    more: Sequence[str]
    order: tuple[int, ...] | None
    shape: Shape | None
    flat: bool
    overlaps: bool  # whether a thread may read ahead

    def blocks(self, start: int = 0) -> Iterator[Block]:
        """Yield everything, or what follows a block that was read before."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


class Place(NamedTuple):
    """Where data are, before anything is opened: the room that reads it, what errors call it, and its files."""

    kind: str
    name: str
    files: tuple[str, ...] = ()
    member: str = ""
    array: Any = None


def files_of(place: Place) -> Iterator[tuple[str, os.stat_result]]:
    """Yield each file of a place, those in its folders too, and what the system says of it; not those that are missing.

    Whoever opens what is missing will say so.
    """
    for path in _paths(place):
        with suppress(OSError):
            yield path, os.stat(path)


def fingerprint(place: Place) -> dict[str, Any]:
    """Return what changes when a place's files do: names, sizes and times of change."""
    digest, total, newest, count = hashlib.sha256(), 0, 0, 0
    for path, found in files_of(place):
        total, newest, count = total + found.st_size, max(newest, found.st_mtime_ns), count + 1
        digest.update(repr((path, found.st_size, found.st_mtime_ns)).encode("utf-8", "surrogateescape"))
    return {"name": place.name, "files": count, "bytes": total, "changed": newest, "digest": digest.hexdigest()}


def _paths(place: Place) -> Iterator[str]:
    for path in place.files:
        if not os.path.isdir(path):
            yield path
            continue
        for root, folders, names in os.walk(path):
            folders.sort()
            yield from (os.path.join(root, name) for name in sorted(names))


class Reading(NamedTuple):
    """How to read: the options of `fastbn.stream` that concern sources.

    ``beside`` is the number of bytes per value that are needed further on; ``rowwise`` asks for C order whatever the
    order in the file. ``unreadable`` is told of a file that cannot be read, and the others are read all the same;
    None: its error ends the run.
    """

    axis: int | Shape = 1
    columns: tuple[Column, ...] | None = None
    dtype: np.dtype[Any] | None = None
    mode: str | None = None
    header: bool = True
    memory: int = 64 << 20
    beside: int = 0
    rowwise: bool = False
    unreadable: Callable[[str, Exception], None] | None = None

    @property
    def block_bytes(self) -> int:
        """Most bytes of one block: one is read, one computed with, `depth` wait, and one more is slack."""
        return min(self.memory // 4, _LARGEST_BLOCK)

    @property
    def depth(self) -> int:
        """How many blocks may wait between reading and computing."""
        return max(1, self.memory // self.block_bytes - 3)


class UnreadableError(ValueError):
    """A source that cannot be read, or does not fit; the message names it."""


class Ring:
    """Memory for blocks, taken in turn: fresh memory for each costs more than filling it.

    It is mapped, not allocated, so that it goes back to the system when it is no longer needed.
    """

    def __init__(self, reading: Reading) -> None:
        self._slots: list[Array] = [np.empty(0, np.uint8)] * (reading.depth + 2)
        self._turn = 0

    def take(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
        """Return an array of any content; it is given out again after as many as may be under way."""
        nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        self._turn = (self._turn + 1) % len(self._slots)
        if self._slots[self._turn].size < nbytes:
            self._slots[self._turn] = np.empty(0, np.uint8)  # the old one goes before the new one comes
            self._slots[self._turn] = np.frombuffer(mmap.mmap(-1, nbytes), np.uint8)
        return self._slots[self._turn][:nbytes].view(dtype).reshape(shape)


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Make every error say which file it is about: OSError with its file name, all else UnreadableError.

    What readers of files raise over damaged ones has no end; what is not about the file, or names one, passes.
    """
    try:
        yield
    except (UnreadableError, ImportError, MemoryError):
        raise
    except OSError as error:
        if error.filename is not None:
            raise
        if error.errno is None:
            raise UnreadableError(f"{name} cannot be read: {_first_line(error)}") from error
        raise type(error)(error.errno, error.strerror, name) from error
    except Exception as error:
        raise UnreadableError(f"{name} cannot be read: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]


def computed_as(name: str, dtype: np.dtype[Any], wanted: np.dtype[Any] | None) -> np.dtype[Any]:
    """Return the type in which values of a file are computed with; UnreadableError if they are no real numbers."""
    if dtype.kind not in "fiub" and dtype.name != "bfloat16":
        raise UnreadableError(f"{name} must hold real numbers, got dtype {dtype}")
    if wanted is not None:
        return wanted
    wide = dtype.kind == "b" or dtype.itemsize > 8 or (dtype.kind in "iu" and dtype.itemsize == 8) or dtype == np.uint32
    return np.dtype(np.float64) if wide else dtype.newbyteorder("=")


def chosen_columns(name: str, columns: Sequence[Column] | None, names: Sequence[str] | None, count: int) -> list[int]:
    """Return the numbers of the columns asked for, in that order; a text of digits is a number if it is no name."""
    found: list[int] = []
    for column in range(count) if columns is None else columns:
        if isinstance(column, str):
            found.append(_named(name, column, names, count))
        elif -count <= column < count:
            found.append(column % count)
        else:
            raise UnreadableError(f"columns must be among the {count} of {name}, got {column}")
    if len(set(found)) < len(found):
        raise UnreadableError(f"columns must not name one of {name} twice, got {columns!r}")
    return found


def _named(name: str, column: str, names: Sequence[str] | None, count: int) -> int:
    if names is not None and column in names:
        if names.count(column) > 1:
            raise UnreadableError(f"columns must say which of several, got {column!r}, which {name} has more than once")
        return names.index(column)
    if column.removeprefix("-").isdecimal() and -count <= int(column) < count:
        return int(column) % count
    known = f"the {count}" if names is None else ", ".join(names)
    raise UnreadableError(f"columns must be among those of {name} ({known}), got {column!r}")


def only_member(place: Place, names: Sequence[str]) -> str:
    """Return which array of a file is meant: the one that its place names, or else the only one."""
    if place.member in names:
        return place.member
    if not place.member and len(names) == 1:
        return names[0]
    known = ", ".join(sorted(names)) or "none"
    rule = "name one of its arrays" if place.member else "hold one array, or name one as in FILE:NAME"
    raise UnreadableError(f"{place.name} must {rule}, got {known}")
