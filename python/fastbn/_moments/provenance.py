"""What Moments remember of the data behind them: the names of the features, and how the values were read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastbn._validation import LARGEST, Axis, Shape, checked_axis, checked_real, converted, kept_axes


class Provenance(NamedTuple):
    """The names of the features, and how the values were read; None for what is not known.

    ``scale`` is what the values were divided by, ``axis`` the feature axes, ``mode`` what images were converted to.
    """

    names: tuple[str, ...] | None = None
    scale: float | None = None
    axis: Axis | None = None
    mode: str | None = None

    def known(self) -> dict[str, Any]:
        """Return what is known, by name, in types that JSON has."""
        held = {key: value for key, value in self._asdict().items() if value is not None}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in held.items()}

    def merged(self, other: Provenance) -> Provenance:
        """Return what is true of both: what one of them does not know is the other's, what differs is not known.

        Raises ValueError where the names or the units differ.
        """
        if self == other:
            return self
        if None not in (self.names, other.names) and self.names != other.names:
            raise ValueError(f"other must have the features {self.names}, got {other.names}")
        check_scales("other", self.scale, other.scale)
        mine, others = self._asdict(), other._asdict()
        for key, value in others.items():
            if mine[key] is None:
                mine[key] = value
            elif value is not None and value != mine[key]:
                mine[key] = None
        return Provenance(**mine)

    @staticmethod
    def side_by_side(parts: Sequence[Provenance]) -> Provenance:
        """Return what is true of features side by side: names where all parts have them, the rest where it is equal."""
        names: tuple[str, ...] | None = ()
        for number, part in enumerate(parts):
            check_scales(f"parts[{number}]", parts[0].scale, part.scale)
            names = None if names is None or part.names is None else names + part.names
        same = {key: getattr(parts[0], key) for key in ("scale", "axis", "mode")}
        equal = {key: value for key, value in same.items() if all(getattr(part, key) == value for part in parts)}
        return Provenance(names, **equal)


def checked_provenance(mapping: Mapping[str, Any], shape: Shape | None) -> Provenance:
    """Return what a mapping says of features of this shape."""
    names, scale, axis, mode = (_plain(mapping.get(key)) for key in Provenance._fields)
    if names is not None:
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            raise TypeError(f"names must be a list of texts, got {names!r}")
        if shape is None or len(names) != math.prod(shape):
            raise ValueError(f"names must be one for each feature, of shape {shape}, got {len(names)}")
        names = tuple(names)
    if scale is not None:
        scale = float(checked_real("scale", scale, 0, LARGEST))
        if scale == 0:
            raise ValueError("scale must be above 0, got 0")
    if mode is not None and not isinstance(mode, str):
        raise TypeError(f"mode must be a text, got {mode!r}")
    return Provenance(names, scale, None if axis is None else checked_axis(axis), mode)


UNKNOWN = Provenance()


def columns_of(x: Any, axis: Axis) -> tuple[str, ...] | None:
    """Return the names of a data frame's columns; None if it has none, or they are no features along `axis`.

    Columns that are numbered have no names of their own.
    """
    if isinstance(x, np.ndarray) or not hasattr(x, "columns") or kept_axes(checked_axis(axis), 2) != (1,):
        return None
    names = frame_columns(x)
    return None if numbered(names) else names


def frame_columns(frame: Any) -> tuple[str, ...]:
    """Return what the columns of a data frame are called."""
    # pyarrow's tables have column_names, and in pandas' frames a column may be called so.
    return tuple(map(str, frame.column_names if hasattr(type(frame), "column_names") else frame.columns))


def provenance_of(x: Any, axis: Axis) -> Provenance:
    """Return what a data frame says of its features."""
    names = None if isinstance(x, np.ndarray) else columns_of(x, axis)
    return UNKNOWN if names is None else Provenance(names)


def numbered(names: tuple[str, ...] | None) -> bool:
    """Whether columns have no names of their own: none at all, or numbers in their place."""
    return names is None or all(name.isdecimal() for name in names)


def check_columns(x: Any, axis: Axis, names: tuple[str, ...] | None) -> None:
    """Raise ValueError if x is a data frame whose columns have other names than the features."""
    columns = None if numbered(names) else columns_of(x, axis)
    if names is None or columns is None or columns == names:
        return
    if len(columns) != len(names):
        raise ValueError(f"x must have the {len(names)} columns {', '.join(names)}, got {len(columns)}")
    number = next(i for i, name in enumerate(names) if columns[i] != name)
    raise ValueError(
        f"x must have {names[number]!r} as column {number}, as the statistics have, got {columns[number]!r}"
    )


def check_scales(name: str, scale: float | None, other: float | None) -> None:
    """Raise ValueError for values of one scale beside those of another: their units differ.

    Values of which no scale is known are taken for undivided ones. ``name`` is what an error calls those of `other`.
    """
    if (scale or 1) == (other or 1):
        return
    shown = ["unknown" if each is None else f"{each:g}" for each in (scale, other)]
    known = shown[0] if other is None else shown[1]
    hint = f" (fastbn.stream(x, scale={known}) measures with it)" if "unknown" in shown else ""
    raise ValueError(f"{name} must have the scale of the statistics, {shown[0]}, got {shown[1]}{hint}")


def check_units(x: Any, scale: float | None, name: str = "x") -> None:
    """Raise ValueError for integers beside statistics of values that were divided by a scale.

    What is measured with a scale are pixels; divided by it they are no integers.
    """
    if scale is None or scale == 1:
        return
    dtype = converted(name, x).dtype
    if dtype.kind in "iub":
        raise ValueError(
            f"{name} must be in the units of the statistics, which are of values divided by {scale:g}: "
            f"give {name} / {scale:g}, got {dtype}"
        )


def _plain(value: Any) -> Any:
    """Return what a file of arrays holds as Python has it."""
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
