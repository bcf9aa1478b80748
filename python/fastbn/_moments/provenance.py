"""What Moments remember of the data behind them: what the features are called, and how the values were read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastbn._validation import LARGEST, Axis, Shape, checked_axis, checked_real, converted, kept_axes


class Coordinates(NamedTuple):
    """What is along each feature axis: the name of its dimension, and its labels; None where it has none."""

    dims: tuple[str, ...]
    labels: tuple[tuple[Any, ...] | None, ...]

    @classmethod
    def of(cls, dims: Sequence[str], labels: Sequence[Any]) -> Coordinates | None:
        """Return the coordinates of these labels; None where no axis has any."""
        found = tuple(None if each is None else tuple(each) for each in labels)
        return cls(tuple(dims), found) if any(each is not None for each in found) else None

    def difference(self, other: Coordinates | None) -> str | None:
        """Say where two have other labels along an axis, which both label; None if they are alike.

        Other numbers of labels are other features, which is for others to say.
        """
        pairs = zip(self.labels, ((),) * len(self.dims) if other is None else other.labels, strict=False)
        for axis, (mine, others) in enumerate(pairs):
            for at, (one, another) in enumerate(zip(mine or (), others or (), strict=False)):
                if not _close(one, another):
                    return f"along {(other or self).dims[axis]}, {one} at {at}, got {another}"
        return None

    def elsewhere(self, dims: Sequence[str], axes: Sequence[int]) -> str | None:
        """Say which of these dimensions an array has along another axis than the features'; None where there is none.

        ``dims`` are the names of all its dimensions, ``axes`` the feature axes among them.
        """
        for mine, axis in zip(self.dims, axes, strict=False):
            if mine and mine in dims and axis < len(dims) and dims[axis] != mine:
                return f"along {mine}, as the statistics have, got {dims[axis]}"
        return None

    def filled(self, other: Coordinates | None) -> Coordinates:
        """Return these labels, and another's along axes that have none here."""
        if other is None or len(other.labels) != len(self.labels):
            return self
        pairs = zip(self.labels, other.labels, strict=True)
        return self._replace(labels=tuple(others if mine is None else mine for mine, others in pairs))


def labels_of(coordinates: Any) -> tuple[Any, ...]:
    """Return coordinates as plain numbers or texts, of which one label is equal to another that says the same."""
    if coordinates.dtype.kind in "mM":
        coordinates = coordinates.astype(f"{coordinates.dtype.kind}8[ns]")
    if coordinates.dtype.kind in "biuf":
        return tuple(coordinates.tolist())
    return tuple(each.decode(errors="replace") if isinstance(each, bytes) else str(each) for each in coordinates)


def places_of(labels: Sequence[Any], known: Sequence[Any]) -> list[int]:
    """Return where each label is among those known, which may be in another order and more.

    LookupError, with the first of them that is not there, or is there more than once.
    """
    if len(labels) == len(known) and all(map(_close, labels, known)):
        return list(range(len(known)))
    keys: tuple[Callable[[Any], Any], ...] = (lambda label: label, _single)
    for key in keys:
        numbers, counts = {key(label): number for number, label in enumerate(known)}, Counter(map(key, known))
        strange = [
            label for label in labels if counts[key(label)] != 1 or not _close(label, known[numbers[key(label)]])
        ]
        if not strange:
            return [numbers[key(label)] for label in labels]
    raise LookupError(strange[0])


def _single(label: Any) -> Any:
    """Return a number as float32 has it; one file may have it so, and another as float64."""
    with np.errstate(over="ignore"):
        return float(np.float32(label)) if isinstance(label, float) else label


def _close(one: Any, other: Any) -> bool:
    """Whether two labels are equal, or one number, which may be of float32 and of float64, or are both NaN."""
    if one == other:
        return True
    return isinstance(one, float) and isinstance(other, float) and bool(np.isclose(one, other, 2**-23, 0, True))


class Provenance(NamedTuple):
    """The names of the features, and how the values were read; None for what is not known.

    ``scale`` is what the values were divided by, ``axis`` the feature axes, ``mode`` what images were converted to,
    ``coords`` what is along the feature axes. ``nodata`` has the stored values that were left out, by the names of
    columns or of all others (None), and ``texts`` the options by which texts were read, where these were asked for.
    """

    names: tuple[str, ...] | None = None
    scale: float | None = None
    axis: Axis | None = None
    mode: str | None = None
    coords: Coordinates | None = None
    nodata: dict[Any, tuple[float, ...]] | None = None
    texts: dict[str, Any] | None = None

    def known(self) -> dict[str, Any]:
        """Return what is known, by name, in types that JSON has."""
        held = {key: value for key, value in self._asdict().items() if value is not None}
        if self.coords is not None:
            held["coords"] = self.coords._asdict()
        if self.nodata is not None:
            columns = {name: values for name, values in self.nodata.items() if name is not None}
            held["nodata"] = {"all": self.nodata.get(None), "columns": columns}
        return {key: as_json(value) for key, value in held.items()}

    def merged(self, other: Provenance, name: str = "other") -> Provenance:
        """Return what is true of both: what one of them does not know is the other's, what differs is not known.

        Raises ValueError, in which ``name`` is what the other is called, where names, units or coordinates differ, or
        what was left out.
        """
        if self == other:
            return self
        if None not in (self.names, other.names) and self.names != other.names:
            raise ValueError(f"{name} must have the features {self.names}, got {other.names}")
        check_scales(name, self.scale, other.scale)
        if self.coords is not None and (differs := self.coords.difference(other.coords)):
            raise ValueError(f"{name} must have the coordinates of the statistics {differs}")
        nulls = ((each.texts or {}).get("null_values") for each in (self, other))
        for key, (one, another) in {"nodata": (self.nodata, other.nodata), "null_values": tuple(nulls)}.items():
            if None not in (one, another) and one != another:  # where one knows of none, there may have been none
                got = f"{one}, got {another} (measure both with all of them)"
                raise ValueError(f"{name} must have the {key} of the statistics, {got}")
        mine, others = self._asdict(), other._asdict()
        for key, value in others.items():
            if mine[key] is None:
                mine[key] = value
            elif key == "coords":
                mine[key] = mine[key].filled(value)
            elif key == "texts" and value is not None:
                mine[key] = {name: how for name, how in mine[key].items() if value.get(name) == how}
            elif value is not None and value != mine[key]:
                mine[key] = None
        return Provenance(**mine)

    @staticmethod
    def side_by_side(parts: Sequence[Provenance]) -> Provenance:
        """Return what is true of features side by side: names where all parts have them, the rest where it is equal.

        Labels too, where there is one axis of features, along which the parts then lie.
        """
        names: tuple[str, ...] | None = ()
        for number, part in enumerate(parts):
            check_scales(f"parts[{number}]", parts[0].scale, part.scale)
            names = None if names is None or part.names is None else names + part.names
        same = {key: getattr(parts[0], key) for key in ("scale", "axis", "mode", "nodata", "texts")}
        equal = {key: value for key, value in same.items() if all(getattr(part, key) == value for part in parts)}
        coords = [part.coords for part in parts if part.coords is not None and len(part.coords.dims) == 1]
        if len(coords) == len(parts):
            labels = [label for each in coords for label in each.labels[0] or ()]
            equal["coords"] = Coordinates.of(coords[0].dims, [labels])
        return Provenance(names, **equal)


def checked_provenance(mapping: Mapping[str, Any], shape: Shape | None) -> Provenance:
    """Return what a mapping says of features of this shape."""
    names, scale, axis, mode, coords, nodata, texts = (_plain(mapping.get(key)) for key in Provenance._fields)
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
    axis = None if axis is None else checked_axis(axis)
    return Provenance(names, scale, axis, mode, _coordinates(coords, shape), _left_out(nodata), _texts(texts))


def _coordinates(value: Any, shape: Shape | None) -> Coordinates | None:
    if value is None:
        return None
    try:
        dims, labels = list(value["dims"]), [_labels(each) for each in value["labels"]]
        sizes = [size if each is None else len(each) for each, size in zip(labels, shape or (), strict=True)]
    except (KeyError, TypeError, ValueError):
        dims, sizes = [], [-1]
    if tuple(sizes) != shape or len(dims) != len(shape):
        raise ValueError(f"coords must have dims, and labels of features of shape {shape}, got {value!r}")
    return Coordinates.of([str(dim) for dim in dims], labels)


def _left_out(value: Any) -> dict[Any, tuple[float, ...]] | None:
    if value is None:
        return None
    try:
        given = {None: value["all"], **value["columns"]}
        return {name: tuple(from_json(values)) for name, values in given.items() if values is not None}
    except (KeyError, TypeError):
        raise TypeError(f"nodata must have lists of values, of all and of columns, got {value!r}") from None


def _texts(value: Any) -> dict[str, Any] | None:
    if value is not None and not isinstance(value, dict):
        raise TypeError(f"texts must be a mapping of options to values, got {value!r}")
    return value


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
    """Return what a data frame, or an array of xarray, says of its features."""
    if isinstance(x, np.ndarray):
        return UNKNOWN
    return Provenance(columns_of(x, axis), coords=coordinates_of(x, axis))


def coordinates_of(x: Any, axis: Axis) -> Coordinates | None:
    """Return what an array of xarray has along its feature axes."""
    if isinstance(x, np.ndarray) or not hasattr(x, "coords") or not getattr(x, "dims", None):
        return None
    dims = [x.dims[a] for a in kept_axes(checked_axis(axis), len(x.dims))]
    return Coordinates.of(list(map(str, dims)), [labels_of(x[dim].values) if dim in x.coords else None for dim in dims])


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


def check_coordinates(x: Any, axis: Axis, coords: Coordinates | None) -> None:
    """Raise ValueError if x is an array of xarray whose features are along others or have other coordinates."""
    if coords is None or isinstance(x, np.ndarray):
        return
    dims = [str(dim) for dim in getattr(x, "dims", ())] if hasattr(x, "coords") else []
    if dims and (other := coords.elsewhere(dims, kept_axes(checked_axis(axis), len(dims)))):
        raise ValueError(f"x must have its features {other} (x.transpose and axis bring them there)")
    differs = coords.difference(coordinates_of(x, axis))
    if differs is not None:
        hint = "x.sel puts them in order, x.values goes by position"
        raise ValueError(f"x must have the coordinates of the statistics {differs} ({hint})")


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


def as_json(value: Any) -> Any:
    """Return what JSON has: lists for arrays, None for NaN, "inf" and "-inf" for infinity."""
    if isinstance(value, (np.ndarray, np.generic)):
        return as_json(value.tolist())
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value


def from_json(value: Any, alone: bool = True) -> Any:
    """Return a value of JSON, which has neither NaN nor infinity, as numbers: "inf", "-inf" and, in a list, null.

    A null that stands alone is NaN in what the command wrote, and elsewhere says that there is no value.
    """
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if value is None:
        return math.nan if alone else None
    return {"inf": math.inf, "-inf": -math.inf}.get(value, value) if isinstance(value, str) else value


def _labels(values: Any) -> tuple[Any, ...] | None:
    if values is None or all(isinstance(value, str) for value in values):
        return values if values is None else tuple(values)
    return tuple(from_json(values))
