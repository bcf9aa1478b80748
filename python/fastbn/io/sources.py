"""What all sources have in common: blocks of values, errors that name the file, which columns and values count."""

from __future__ import annotations

import importlib
import mmap
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from fastbn._moments.provenance import Coordinates
from fastbn._validation import Shape, is_floating
from fastbn.io.options import Array, Options, Region


class Block(NamedTuple):
    """A part of a source that is in memory as a whole, or of what is written.

    ``values`` holds the chosen features alone (of a table to be written, it is one of pyarrow's), ``corner`` is the
    index of its first value in the source's array. ``following`` is where `Source.blocks` must start to come after it,
    None where it cannot; ``done`` is the part of the source read by then. ``valid`` says which values are data,
    ``weights`` what each row counts; None: all, and 1. ``rows`` has all columns of a table that is to be copied,
    ``name`` is that of an image's file, and ``page`` says which of several in it. The arrays may be written over once
    the block after next is asked for.
    """

    values: Any
    corner: Shape
    following: int | None
    done: float
    valid: Array | None = None
    weights: Array | None = None
    rows: Any = None
    name: str = ""
    page: str = ""


class Origin(NamedTuple):
    """What a stored array is beside its values: how it is cut, and what it says of itself.

    ``stored`` is the array of the library that reads it, ``coords`` an xarray data set of the coordinates, ``scales``
    has the arrays of labels along dimensions, by their numbers, ``name`` is what it is called in its file, and
    ``around`` has the file's own attributes.
    """

    chunks: Shape | None = None
    dims: tuple[str, ...] | None = None
    attrs: dict[str, Any] = {}  # noqa: RUF012 (not written to)
    stored: Any = None
    coords: Any = None
    name: str = ""
    around: dict[str, Any] = {}  # noqa: RUF012 (likewise)
    scales: dict[int, Any] = {}  # noqa: RUF012 (likewise)


class Source:
    """One opened file, folder or array; ``features`` is the shape of its statistics, along ``axis`` of its blocks.

    ``dtype`` is the type in which its values are computed with. ``names`` are those of the chosen features in the
    order asked for, None where they are just numbered, and ``more`` those of features that were not asked for and
    could have been. Where blocks have the features in another order, ``order`` says where each of those asked for is.
    ``shape`` is that of the array that blocks are parts of, None where there is none; ``flat`` says that it has one
    dimension in truth, and one column here, ``tabular`` that its blocks have rows. A thread may read ahead where it
    ``overlaps``. ``suspects`` says which columns were left out though they hold numbers, ``others`` has all that do
    not count unless they are asked for, by the reasons; ``notes`` says what was done to the values without being
    asked. ``coordinates`` are the labels of the features along their axes, ``nodata`` says which values are no data.
    """

    name: str
    axis: Shape = (1,)
    features: Shape
    dtype: np.dtype[Any]
    names: tuple[str, ...] | None = None
    more: Sequence[str] = ()
    order: tuple[int, ...] | None = None
    coordinates: Coordinates | None = None
    nodata: NoData
    shape: Shape | None = None
    flat: bool = False
    tabular: bool = False
    overlaps: bool = True
    suspects: Sequence[str] = ()
    others: Mapping[str, list[str]] = {}
    notes: Sequence[str] = ()
    origin: Origin = Origin()
    close: Callable[[], None] = staticmethod(lambda: None)

    @abstractmethod
    def blocks(self, start: int = 0, row: int = 0) -> Iterator[Block]:
        """Yield everything, or what follows a block that was read before, up to a row."""

    @abstractmethod
    def restored(self, block: Block, values: Array) -> Block:
        """Return a block as a copy of the source has it, with other values: what `standardize` writes."""


class UnreadableError(ValueError):
    """A source that cannot be read, or does not fit; the message names it."""


def needed(package: str, what: str) -> Any:
    """Return an optional package; ImportError that says how to get it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        name = package.partition(".")[0].replace("PIL", "pillow")
        raise ImportError(f'{what} need {name}: pip install "fastbn[files]"') from error


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
    hint = " (hdf5plugin, once it is installed, has more filters)" if "/plugin" in text else ""
    return text.splitlines()[0] + hint


def computed_as(name: str, dtype: np.dtype[Any], asked: np.dtype[Any] | None) -> np.dtype[Any]:
    """Return the type in which values of a file are computed with; UnreadableError if they are no real numbers."""
    if dtype.kind not in "iub" and not is_floating(dtype):
        raise UnreadableError(f"{name} must hold real numbers, got dtype {dtype}")
    if asked is not None:
        return asked
    return np.dtype(np.float64) if dtype.itemsize > 8 else dtype.newbyteorder("=")


def region_at(corner: Shape, shape: Shape) -> Region:
    """Return the region of this shape that begins at a corner."""
    return tuple(slice(at, at + size) for at, size in zip(corner, shape, strict=True))


class Ring:
    """Memory for blocks, taken in turn: fresh memory for each costs more than filling it.

    It is mapped, not allocated, so that it goes back to the system when it is no longer needed.
    """

    def __init__(self) -> None:
        self._slots: list[Array] = [np.empty(0, np.uint8)] * 3
        self._turn = 0

    def take(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
        """Return an array of any content; it is given out again after as many as may be under way."""
        nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        self._turn = (self._turn + 1) % len(self._slots)
        if self._slots[self._turn].size < nbytes:
            self._slots[self._turn] = np.empty(0, np.uint8)  # the old one goes before the new one comes
            self._slots[self._turn] = np.frombuffer(mmap.mmap(-1, nbytes), np.uint8)
        return self._slots[self._turn][:nbytes].view(dtype).reshape(shape)


def chosen_columns(
    name: str,
    columns: Sequence[int | str] | None,
    names: Sequence[str] | None,
    count: int,
    asked_by: str = "",
    argument: str = "columns",
) -> list[int]:
    """Return the numbers of the columns asked for, in that order; a text of digits is a number if it is no name.

    ``asked_by`` says in an error who has them, where the caller named none, ``argument`` by what they were named.
    """
    if columns is None:
        return list(range(count))
    found: list[int] = []
    numbers: dict[Any, list[int]] = {}
    for number, known in enumerate(names or ()):
        numbers.setdefault(known, []).append(number)
    for column in columns:
        places = numbers.get(column, []) if isinstance(column, str) else []
        if len(places) > 1:
            raise UnreadableError(
                f"{argument} must say which of several, got {column!r}, which {name} has more than once"
            )
        digits = isinstance(column, int) or column.removeprefix("-").isdecimal()
        if places:
            found += places
        elif digits and -count <= int(column) < count:
            found.append(int(column) % count)
        elif isinstance(column, int):
            raise UnreadableError(f"{argument} must be among the {count} of {name}, got {column}")
        else:
            these = f"{count} columns" if names is None else ", ".join(names)
            if asked_by:
                raise UnreadableError(f"{name} ({these}) has no column {column!r}, which {asked_by}")
            raise UnreadableError(f"{argument} must be among those of {name} ({these}), got {column!r}")
    if len(set(found)) < len(found):
        raise UnreadableError(f"{argument} must not name one of {name} twice, got {columns!r}")
    return found


class NoData:
    """Which stored values are no data: those that the options say, of all features or of some, or else ``own``.

    ``chosen`` are the numbers of the features in the order of blocks, of ``count`` and by ``names``, along ``axis``.
    ``asked`` has what the options say of these features, by their names; None where they say nothing.
    """

    def __init__(
        self,
        options: Options,
        name: str,
        chosen: Sequence[int],
        names: Sequence[str] | None,
        count: int,
        axis: Shape = (1,),
        own: tuple[Any, ...] = (),
    ) -> None:
        given = {None: own} if options.nodata is None else options.nodata
        columns = {column: values for column, values in given.items() if column is not None}
        numbers = chosen_columns(name, list(columns), names, count, argument="columns of nodata")
        by_number = dict(zip(numbers, columns.values(), strict=True))
        self._all = given.get(None, ())
        self._each = [by_number.get(number, self._all) for number in chosen] if by_number else []
        self._axis = axis[0] if axis else 0
        self.asked: dict[str | None, tuple[Any, ...]] | None = None
        if options.nodata is not None:
            self.asked = {None: given[None]} if None in given else {}
            self.asked |= {_called(number, names): by_number[number] for number in numbers if number in chosen}

    def valid(self, values: Array, first: int = 0) -> Array | None:
        """Return which values are data, None if all are; ``first`` is the number of the block's first feature."""
        if not self._each:
            return valid_of(values, self._all)
        result = None
        moved = np.moveaxis(values, self._axis, 0)
        for number, column in enumerate(moved):
            valid = valid_of(column, self.of(first + number))
            if valid is not None:
                result = np.ones(values.shape, bool) if result is None else result
                np.moveaxis(result, self._axis, 0)[number] = valid
        return result

    def of(self, feature: int) -> tuple[Any, ...]:
        """Return the values that are no data of a feature, by its number in the order of blocks."""
        return self._each[feature] if self._each else self._all


def _called(number: int, names: Sequence[str] | None) -> str:
    """Return what a column is found by: its name, if no other has it, or its number."""
    return names[number] if names and names.count(names[number]) == 1 else str(number)


def valid_of(values: Array, nodata: tuple[Any, ...], missing: Array | None = None) -> Array | None:
    """Return which values are data, None if all are; what is ``missing`` among integers is NaN."""
    bad: Array | None = None
    for value in nodata:
        floating = is_floating(values.dtype)
        if value != value:
            found = np.isnan(values) if floating else missing
        else:
            with np.errstate(over="ignore"):
                beyond = floating and np.isinf(values.dtype.type(value)) and not np.isinf(value)
            found = None if beyond else np.asarray(values == value)
            found = found if found is None or missing is None else found & ~missing
        if found is not None and found.any():
            bad = found if bad is None else bad | found
    return None if bad is None else ~bad
