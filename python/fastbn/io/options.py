"""The options of `fastbn.stream` and `fastbn.standardize`, checked before anything is opened. Imports nothing large."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from fastbn._moments.moments import Moments
from fastbn._validation import (
    LARGEST,
    Axis,
    Shape,
    checked_axis,
    checked_choice,
    checked_dtype,
    checked_flag,
    checked_real,
    converted,
)

Array: TypeAlias = npt.NDArray[Any]
Path: TypeAlias = str | os.PathLike[str]
Columns: TypeAlias = Sequence[int | str] | None
NoData: TypeAlias = float | Sequence[float] | Mapping[int | str, float | Sequence[float]] | None
OnError: TypeAlias = Literal["raise", "skip"] | Callable[[str, Exception], object]
Report: TypeAlias = Callable[[int, int | None], object]
Listener: TypeAlias = Callable[[str, Exception], object]

# What else the files of this folder take from the rest of fastbn.
__all__ = [
    "LARGEST",
    "Axis",
    "Moments",
    "Shape",
    "checked_axis",
    "checked_choice",
    "checked_flag",
    "checked_real",
    "converted",
]

MEMORY = 64 << 20
LEAST_MEMORY = 1 << 18
MAX_PIXELS = 178_956_970  # what Pillow takes for the largest image that is no attack
IMAGE_MODES = ("L", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV")  # that can be asked for
# Blocks larger than this gain nothing; more memory then means more of them under way.
_LARGEST_BLOCK = 32 << 20


class Reading(NamedTuple):
    """How to read: the options of `fastbn.stream` that concern sources.

    ``nodata`` has values that do not count: of the columns that are its keys, or of all (None). None: what the file
    says of itself. ``beside`` is the number of bytes per value that are needed further on; ``rowwise`` asks for C order
    whatever the order in the file, ``tabular`` for frames as tables with all their columns. ``unreadable`` is told of a
    file that cannot be read, and the others are read all the same; None: its error ends the run.
    """

    axis: Axis | None = None
    columns: tuple[int | str, ...] | None = None
    dtype: np.dtype[Any] | None = None
    mode: str | None = None
    header: bool | None = None
    memory: int = MEMORY
    dim: tuple[str, ...] | None = None
    nodata: dict[int | str | None, tuple[Any, ...]] | None = None
    null_values: tuple[str, ...] = ()
    delimiter: str | None = None
    decimal: str = "."
    encoding: str = "utf-8"
    comment: str | None = None
    max_pixels: int = MAX_PIXELS
    weights: Any = None
    beside: int = 0
    rowwise: bool = False
    tabular: bool = False
    unreadable: Listener | None = None

    @property
    def block_bytes(self) -> int:
        """Most bytes of one block: one is read, one computed with, `depth` wait, and one more is slack."""
        return min(self.memory // 4, _LARGEST_BLOCK)

    @property
    def depth(self) -> int:
        """How many blocks may wait between reading and computing."""
        return max(1, self.memory // self.block_bytes - 3)

    def identity(self) -> dict[str, Any]:
        """Return the options as JSON has them: what makes one run another."""
        held = self._asdict()
        for name in ("beside", "rowwise", "tabular", "unreadable", "weights"):
            del held[name]
        held["axis"] = 1 if self.axis is None else self.axis
        held["dtype"] = None if self.dtype is None else self.dtype.name
        held["nodata"] = None if self.nodata is None else repr(self.nodata)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in held.items()}


def reading_of(
    *,
    axis: Any = None,
    columns: Any = None,
    dtype: Any = None,
    mode: Any = None,
    header: Any = None,
    memory: Any = MEMORY,
    dim: Any = None,
    nodata: Any = None,
    null_values: Any = (),
    delimiter: Any = None,
    decimal: Any = ".",
    encoding: Any = "utf-8",
    comment: Any = None,
    max_pixels: Any = MAX_PIXELS,
    weights: Any = None,
    beside: int = 0,
) -> Reading:
    """Return the options that concern sources, checked."""
    if columns is not None:
        valid = isinstance(columns, Sequence) and not isinstance(columns, (str, bytes))
        if not valid or any(isinstance(c, bool) or not isinstance(c, (int, str, np.integer)) for c in columns):
            raise TypeError(f"columns must be a list of names and numbers, got {columns!r}")
        columns = tuple(c if isinstance(c, str) else int(c) for c in columns)
    if isinstance(memory, bool) or not isinstance(memory, (int, np.integer)):
        raise TypeError(f"memory must be a number of bytes, got {memory!r}")
    if memory < LEAST_MEMORY:
        raise ValueError(f"memory must be {LEAST_MEMORY} bytes or more, got {memory}")
    if dim is not None and axis is not None:
        raise ValueError(f"dim must come without axis, got dim={dim!r} and axis={axis!r}")
    return Reading(
        None if axis is None else checked_axis(axis),
        columns,
        None if dtype is None else checked_dtype(dtype),
        checked_mode(mode),
        None if header is None else checked_flag("header", header),
        int(memory),
        None if dim is None else _texts("dim", dim),
        None if nodata is None else _checked_nodata(nodata),
        _texts("null_values", null_values),
        None if delimiter is None else _character("delimiter", delimiter),
        _character("decimal", decimal),
        _checked_encoding(encoding),
        None if comment is None else _character("comment", comment),
        int(checked_real("max_pixels", max_pixels, 1, LARGEST)),
        weights,
        beside,
    )


def checked_on_error(on_error: Any, warn: Callable[[str], object]) -> Listener | None:
    """Return whom to tell of a file that cannot be read; None if it is to be raised."""
    if callable(on_error):
        told: Listener = on_error
        return told
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise', 'skip' or a function, got {on_error!r}")
    return None if on_error == "raise" else lambda name, error: warn(f"left out: {error}")


def checked_mode(mode: Any) -> str | None:
    """Return a mode that images can be converted to, or None."""
    if mode is None or (isinstance(mode, str) and mode in IMAGE_MODES):
        return mode
    raise ValueError(f"mode must be one of {', '.join(IMAGE_MODES)}, got {mode!r}")


def checked_scale(scale: Any) -> float:
    """Return a finite divisor above 0."""
    divisor = float(checked_real("scale", scale, 0, LARGEST))
    if divisor == 0:
        raise ValueError(f"scale must be above 0, got {scale!r}")
    return divisor


def _texts(name: str, value: Any) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else None
    if texts is None or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"{name} must be a text or several, got {value!r}")
    return texts


def _character(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a text of one character, got {value!r}")
    if len(value) != 1 or value in '"\r\n' or not value.isascii():
        raise ValueError(f"{name} must be one ASCII character, no quote and no line end, got {value!r}")
    return value


def _checked_encoding(encoding: Any) -> str:
    import codecs

    if not isinstance(encoding, str):
        raise TypeError(f"encoding must be a text, got {encoding!r}")
    try:
        return codecs.lookup(encoding).name
    except LookupError:
        raise ValueError(f"encoding must be one that Python knows, got {encoding!r}") from None


def _checked_nodata(nodata: Any) -> dict[int | str | None, tuple[Any, ...]]:
    given = nodata if isinstance(nodata, Mapping) else {None: nodata}
    found: dict[int | str | None, tuple[Any, ...]] = {}
    for column, values in given.items():
        if column is not None and (isinstance(column, bool) or not isinstance(column, (int, str, np.integer))):
            raise TypeError(f"nodata must have names or numbers of columns as its keys, got {column!r}")
        several = isinstance(values, (Sequence, np.ndarray)) and not isinstance(values, (str, bytes))
        key = int(column) if isinstance(column, np.integer) else column
        found[key] = tuple(_number(value) for value in (values if several else [values]))
    return found


def _number(value: Any) -> int | float:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"nodata must hold real numbers, got {value!r}")
    return int(value) if isinstance(value, (int, np.integer)) else float(value)
