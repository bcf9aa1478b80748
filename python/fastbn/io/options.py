"""The options of `fastbn.stream` and `fastbn.standardize`: one object, checked once, for all that is behind them."""

# ruff: noqa: RUF009 (a default that is a call is a field with its check)
from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from fastbn._validation import (
    LARGEST,
    Axis,
    checked_axis,
    checked_choice,
    checked_dtype,
    checked_flag,
    checked_int,
    checked_real,
    warn,
)

Array: TypeAlias = npt.NDArray[Any]
Region: TypeAlias = tuple[slice, ...]
Path: TypeAlias = str | os.PathLike[str]
Columns: TypeAlias = Sequence[int | str] | None
NoData: TypeAlias = float | Sequence[float] | Mapping[int | str, float | Sequence[float]] | None
OnError: TypeAlias = Literal["raise", "skip"] | Callable[[str, Exception], object]
Report: TypeAlias = Callable[[int, int | None], object]
Listener: TypeAlias = Callable[[str, Exception], object]

MEMORY = 64 << 20
MAX_PIXELS = 178_956_970  # what Pillow takes for the largest image that is no attack
# What keeps columns of tables from being counted unless they are asked for.
NO_NUMBERS, INDEX, FOLDERS = "not numbers", "the index of a data frame", "in the names of folders"
_LEAST_MEMORY = 1 << 18
# Blocks larger than this gain nothing.
_LARGEST_BLOCK = 32 << 20
IMAGE_MODES = ("L", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV")


# Checks: each returns an option in its one form. None goes through where it is the default.


def _checked(default: Any, check: Callable[[str, Any], Any]) -> Any:
    return field(default=default, metadata={"check": check})


def _real(name: str, value: Any) -> float:
    return float(checked_real(name, value, 0, LARGEST))


def _scale(name: str, value: Any) -> float:
    if (divisor := _real(name, value)) == 0:
        raise ValueError(f"{name} must be above 0, got {value!r}")
    return divisor


def _columns(name: str, value: Any) -> tuple[int | str, ...]:
    # What has no order is no list; an array, or the columns of a frame, is one.
    listed = isinstance(value, Iterable) and not isinstance(value, (str, bytes, Set, Mapping))
    columns: list[Any] = list(value) if listed and getattr(value, "ndim", 1) == 1 else [None]
    if not all(_is_column(column) for column in columns):
        raise TypeError(f"{name} must be a list of names and numbers, got {value!r}")
    return tuple(column if isinstance(column, str) else int(column) for column in columns)


def _is_column(value: Any) -> bool:
    return isinstance(value, (int, str, np.integer)) and not isinstance(value, bool)


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


def _decimal(name: str, value: Any) -> str:
    if _character(name, value).isalnum():
        raise ValueError(f"{name} must be neither a letter nor a digit, got {value!r}")
    return str(value)


def _encoding(name: str, value: Any) -> str:
    import codecs

    if not isinstance(value, str):
        raise TypeError(f"{name} must be a text, got {value!r}")
    try:
        found = codecs.lookup(value)
        "".encode(value)  # LookupError for rot13 and base64, which are of no texts
    except (LookupError, UnicodeError):
        raise ValueError(f"{name} must be one of texts that Python knows, got {value!r}") from None
    return found.name


def _nodata(name: str, value: Any) -> dict[int | str | None, tuple[Any, ...]]:
    found: dict[int | str | None, tuple[Any, ...]] = {}
    for column, values in (value if isinstance(value, Mapping) else {None: value}).items():
        if column is not None and not _is_column(column):
            raise TypeError(f"{name} must have names or numbers of columns as its keys, got {column!r}")
        several = isinstance(values, (Sequence, np.ndarray)) and not isinstance(values, (str, bytes))
        key = int(column) if isinstance(column, np.integer) else column
        found[key] = tuple(_number(name, each) for each in (values if several else [values]))
    return found


def _number(name: str, value: Any) -> int | float:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must hold real numbers, got {value!r}")
    if isinstance(value, (int, np.integer)):
        return int(value)
    return math.nan if value != value else float(value)  # the one that is in a tuple that has it


def checked_mode(name: str, value: Any) -> str:
    """Return a mode that images can be converted to."""
    if isinstance(value, str) and value in IMAGE_MODES:
        return value
    raise ValueError(f"{name} must be one of {', '.join(IMAGE_MODES)}, got {value!r}")


def _memory(name: str, value: Any) -> int:
    nbytes = _nbytes(name, value) if isinstance(value, str) else checked_int(name, value, "a number of bytes")
    if nbytes < _LEAST_MEMORY:
        raise ValueError(f"{name} must be {_LEAST_MEMORY} bytes or more, got {value}")
    return nbytes


def _nbytes(name: str, text: str) -> int:
    digits = text.upper().strip().removesuffix("B").removesuffix("I")
    unit = {"K": 10, "M": 20, "G": 30}.get(digits[-1:], 0)
    try:
        return int(float(digits[:-1] if unit else digits) * 2**unit)
    except (ValueError, OverflowError):
        raise ValueError(f"{name} must be a number of bytes such as 64M or 1G, got {text!r}") from None


def _path(name: str, value: Any) -> Path:
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
        raise TypeError(f"{name} must be the path of a file, got {value!r}")
    return value


def _on_error(name: str, value: Any) -> OnError:
    if callable(value) or value in ("raise", "skip"):
        return value  # type: ignore[no-any-return]
    raise ValueError(f"{name} must be 'raise', 'skip' or a function, got {value!r}")


def _progress(name: str, value: Any) -> Report:
    if callable(value):
        return value  # type: ignore[no-any-return]
    raise TypeError(f"{name} must be a function of (done, total), got {value!r}")


def _written(name: str, value: Any) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = np.dtype(value)
    except TypeError:
        dtype = np.dtype(object)
    if dtype not in (np.float16, np.float32, np.float64):
        raise TypeError(f"dtype must be float16, float32 or float64, got {value!r}")
    return dtype


# The options.


@dataclass(frozen=True, kw_only=True)
class Options:
    """What both functions can be asked for, by the names of their parameters; ``written`` is `standardize`'s dtype.

    ``nodata`` has values that do not count: of the columns that are its keys, or of all (None). What stands behind
    ``note`` says how sources are to be read for what is done with them: ``beside`` is the number of bytes per value
    that are needed further on; ``asked_by`` is who has the ``columns`` where the caller named none; ``rowwise`` asks
    for C order whatever the order in the file, ``tabular`` for all columns of tables, and has the format that they go
    to; ``typed`` asks for types of a text's columns that stay as they are; ``first`` is the row of what is written at
    which a source begins, ``partitions`` asks for the columns that the names of folders give; ``unreadable`` is told of
    images that cannot be read (None: that ends the run).
    """

    axis: Axis | None = _checked(None, lambda name, value: checked_axis(value))
    dim: tuple[str, ...] | None = _checked(None, _texts)
    columns: tuple[int | str, ...] | None = _checked(None, _columns)
    weights: Any = None
    dtype: np.dtype[Any] | None = _checked(None, lambda name, value: checked_dtype(value))
    written: np.dtype[Any] | None = _checked(None, _written)
    nan: Literal["propagate", "omit"] = _checked("propagate", checked_choice)
    where_finite: bool = _checked(False, checked_flag)
    nodata: dict[int | str | None, tuple[Any, ...]] | None = _checked(None, _nodata)
    extremes: bool = _checked(True, checked_flag)
    scale: float | None = _checked(None, _scale)
    eps: float = _checked(0.0, _real)
    mode: str | None = _checked(None, checked_mode)
    max_pixels: int = _checked(MAX_PIXELS, lambda name, value: int(checked_real(name, value, 1, LARGEST)))
    header: bool | None = _checked(None, checked_flag)
    null_values: tuple[str, ...] = _checked((), _texts)
    delimiter: str | None = _checked(None, _character)
    decimal: str | None = _checked(None, _decimal)
    encoding: str | None = _checked(None, _encoding)
    comment: str | None = _checked(None, _character)
    memory: int = _checked(MEMORY, _memory)
    on_error: OnError = _checked("raise", _on_error)
    every: float = _checked(5.0, _real)
    resume: bool = _checked(False, checked_flag)
    overwrite: bool = _checked(False, checked_flag)
    checkpoint: Path | None = _checked(None, _path)
    progress: Report | None = _checked(None, _progress)
    note: Callable[[str], object] = warn
    beside: int = 0
    asked_by: str = ""
    rowwise: bool = False
    tabular: str = ""
    typed: bool = False
    first: int = 0
    partitions: bool = True
    unreadable: Listener | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any], **more: Any) -> Options:
        """Return the options among the arguments of a function or of a command."""
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in given.items() if name in known} | more)

    def but(self, **others: Any) -> Options:
        """Return these options with others in the place of some."""
        return replace(self, **others)

    def __post_init__(self) -> None:
        """Bring each option into its one form, or refuse it."""
        if self.dim is not None and self.axis is not None:
            raise ValueError(f"dim must come without axis, got dim={self.dim!r} and axis={self.axis!r}")
        for each in fields(self):
            value = getattr(self, each.name)
            if "check" in each.metadata and (value is not None or each.default is not None):
                object.__setattr__(self, each.name, each.metadata["check"](each.name, value))
        if (self.decimal or ".") == self.delimiter:
            raise ValueError(f"decimal must not be the delimiter, got {self.delimiter!r} for both")

    @property
    def exact(self) -> bool:
        """Whether values are to be refused that would be rounded: no type was asked for."""
        return self.dtype is None and self.written is None

    @property
    def asked_of_texts(self) -> dict[str, Any]:
        """What is asked for of texts, by name, in types that JSON has."""
        held = {name: getattr(self, name) for name in _TEXTS}
        held = {name: list(value) if isinstance(value, tuple) else value for name, value in held.items()}
        return {name: value for name, value in held.items() if value not in (None, [])}

    @property
    def texts(self) -> Options:
        """The options of how texts are written, and of memory, which hold for another file too."""
        return Options(**{name: getattr(self, name) for name in (*_TEXTS, "memory")})

    @property
    def block_bytes(self) -> int:
        """Most bytes of one block, but of chunks: one is read, one computed with, one waits, and one more is slack."""
        return min(self.memory // 4, _LARGEST_BLOCK)

    @property
    def listener(self) -> Listener | None:
        """Whom to tell of a file that cannot be read; None if that ends the run."""
        if callable(self.on_error):
            return self.on_error
        return None if self.on_error == "raise" else lambda name, error: self.note(f"left out: {error}")

    def identity(self, *more: str) -> dict[str, Any]:
        """Return what makes one run another, as JSON has it: how sources are read, and some other options."""
        held = {name: getattr(self, name) for name in (*_READING, *more)}
        held |= {"axis": 1 if self.axis is None else self.axis, "decimal": self.decimal or "."}
        held["encoding"] = self.encoding or "utf-8"
        held["on_error"] = "raise" if self.on_error == "raise" else "skip"
        held["nodata"] = None if self.nodata is None else repr(self.nodata)
        if "weights" in held:
            held["weights"] = _digest(self.weights)
        named = {name: value.name for name, value in held.items() if isinstance(value, np.dtype)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in (held | named).items()}


_TEXTS = ("header", "null_values", "delimiter", "decimal", "encoding", "comment")
_READING = ("axis", "dim", "columns", "dtype", "nodata", "mode", "max_pixels", *_TEXTS, "memory", "on_error")


def _digest(weights: Any) -> str | None:
    """Return what tells weights from others: those of a file by what changes when it does, a column by its name."""
    import hashlib

    from fastbn.io.places import fingerprint, places

    if weights is None:
        return None
    if isinstance(weights, (str, os.PathLike)):
        with suppress(OSError, ValueError):  # of what is no file
            return " ".join(f"{place.name} {fingerprint(place)['digest']}" for place in places(weights))
        return os.fspath(weights)
    values = np.ascontiguousarray(weights)
    return hashlib.sha256(repr((values.shape, values.dtype)).encode() + values.tobytes()).hexdigest()
