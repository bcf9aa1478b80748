"""Statistics over many blocks of many sources, and of the whole from its parts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from typing import Any, Literal

import numpy as np

from fastbn.io.checkpoints import Checkpoint, Progress
from fastbn.io.options import Array, Listener, Moments, Reading, Report, Shape
from fastbn.io.places import Place, is_table, places
from fastbn.io.run import Run, opened
from fastbn.io.sources import Block, Source, UnreadableError

# How often each is divided where values are divided once.
_POWERS = {"mean": 1, "mean_lo": 1, "m2": 2, "m2_lo": 2, "min": 1, "max": 1}


class Counting:
    """One run over places, which counts them together."""

    def __init__(
        self,
        places: Iterable[Place],
        reading: Reading,
        *,
        nan: Literal["propagate", "omit"] = "propagate",
        where_finite: bool = False,
        extremes: bool = True,
        listener: Listener | None,
        checkpoint: Checkpoint | None,
        report: Report,
        note: Callable[[str], object],
    ) -> None:
        self._checkpoint, self._where_finite, self._listener = checkpoint, where_finite, listener
        self._options: dict[str, Any] = {"nan": "omit" if where_finite else nan, "extremes": extremes}
        self.state = Progress(total=Moments(**self._options))
        self.axis: Shape | None = None
        self._run = Run(
            places,
            reading,
            listener=None if listener is None else self._leave_out,
            report=report,
            note=note,
            reading_of=self._reading_of,
            check=lambda source, place: _check_agreement(source, self.state, self._known(place)),
        )
        self._weights = None if reading.weights is None else Weights(reading.weights)

    def run(self, resume: bool = False) -> Progress:
        """Count everything, or what a checkpoint has not counted."""
        if self._checkpoint is not None:
            self.state = (self._checkpoint.load() if resume else None) or self.state
            self._checkpoint.start()
        for done in self._run.each(self._take, self.state.place):
            self.state.place, self.state.position, self.state.parts = done, 0, {}
            self.state.before += self.state.row
            self.state.row = 0
        if self.state.total.shape is None:
            skipped = list(self.state.skipped.values())
            found = f"{len(skipped)} that cannot; {skipped[0]}" if skipped else "nothing"
            raise ValueError(f"source must hold something that can be read, got {found}")
        return self.state

    def _reading_of(self, place: Place) -> Reading:
        known = self._known(place)
        return self._run.reading if known is None else self._run.reading._replace(columns=tuple(known))

    def _known(self, place: Place) -> list[str] | None:
        """Return the columns of the tables before this one, of which it must have all and no more."""
        if self.state.names is None or self._run.reading.columns is not None or not is_table(place):
            return None
        return self.state.names if len(set(self.state.names)) == len(self.state.names) else None

    def _take(self, source: Source, place: Place) -> None:
        self.axis = source.axis if self.axis is None else self.axis
        self.state.notes += [note for note in source.notes if note not in self.state.notes]
        blocks = source.blocks(self.state.position, self.state.row)
        with self._run.coming(blocks, source, place) as coming:
            for block in coming:
                self._count(source, block)
        found = joined(self.state.parts)
        self.state.total.merge(found if source.order is None else taken(found, source.order))
        if self.state.names is None and source.names is not None:
            self.state.names, self.state.named = list(source.names), is_table(place) or place.kind == "images"

    def _count(self, source: Source, block: Block) -> None:
        corner = tuple(block.corner[axis] for axis in source.axis)
        part = self.state.parts.setdefault(corner, Moments(**self._options))
        weights = self._weights and self._weights.of(source, block, self.state.before)
        part.merge(self._measured(block, source.axis, weights))
        self.state.row = max(self.state.row, block.corner[0] + block.values.shape[0])
        self._run.settle()
        if block.following is not None:
            self.state.position = block.following
            if self._checkpoint is not None:
                self._checkpoint.save(self.state)
        self._run.tell(block.done, block.values.nbytes)

    def _measured(self, block: Block, axis: Shape, weights: Any) -> Moments:
        """Return a block's statistics; infinite values that are to be left out become NaN, in a copy."""
        values, options = block.values, {"axis": axis, "where": block.valid, "weights": weights}
        part = Moments(**self._options).update(values, **options)
        if self._where_finite and not np.isfinite(np.where(np.asarray(part.count) > 0, part.mean, 0.0)).all():
            finite = np.where(np.isfinite(values), values, np.nan).astype(values.dtype, copy=False)
            part = Moments(**self._options).update(finite, **options)
        return part

    def _leave_out(self, name: str, error: Exception) -> None:
        if name not in self.state.skipped and self._listener is not None:
            self.state.skipped[name] = str(error)
            self._listener(name, error)


class Weights:
    """What each value counts: a table's column, or an array of as many as there are rows, or of an array's shape.

    Weights of one dimension go on over the rows of all sources. What has dimension names goes by these.
    """

    def __init__(self, given: Any) -> None:
        self._column = given if isinstance(given, str) else None
        self._array: Any = None if isinstance(given, (str, os.PathLike)) else given
        self._path = given

    def of(self, source: Source, block: Block, before: int) -> Array:
        """Return the weights of a block's values, in a shape that broadcasts to theirs."""
        ndim = block.values.ndim
        if block.weights is not None:
            return block.weights.reshape(-1, *(1,) * (ndim - 1))
        if self._array is None:
            self._array = self._loaded(source)
        array = _ordered(self._array, source)
        if array.ndim == 1:
            begin = before + block.corner[0]
            rows = array[begin : begin + block.values.shape[0]]
            if len(rows) < block.values.shape[0]:
                raise ValueError(f"weights must have one for each row, got {len(array)}, and {source.name} has more")
            return rows.reshape(-1, *(1,) * (ndim - 1))
        if source.shape is None or not _broadcasts(array.shape, source.shape):
            raise ValueError(f"weights must have a shape that broadcasts to {source.shape}, got {array.shape}")
        if source.order is not None and array.shape[source.axis[0] - source.shape.__len__()] > 1:
            raise ValueError("weights must not differ between features where columns are chosen")
        array = array.reshape((1,) * (ndim - array.ndim) + array.shape)
        region = (
            slice(None) if size == 1 else slice(at, at + length)
            for size, at, length in zip(array.shape, block.corner, block.values.shape, strict=True)
        )
        return array[tuple(region)]

    def digest(self) -> str:
        """Return what tells these weights from others."""
        if self._array is None:
            return str(self._path)
        values = np.ascontiguousarray(self._array)
        return hashlib.sha256(repr((values.shape, values.dtype)).encode() + values.tobytes()).hexdigest()

    def _loaded(self, source: Source) -> Array:
        """Return the array in a file of weights."""
        path = os.fspath(self._path)
        if self._column is not None and source.shape is None and not os.path.exists(path):
            raise UnreadableError(f"weights must be a column of {source.name} or a file, got {path!r}")
        (place, *more) = places(path)
        if more:
            raise ValueError(f"weights must be one file, got the folder {path!r}")
        with closing(opened(place, Reading() if is_table(place) else Reading(axis=()))) as found:
            blocks = [np.array(block.values, np.float64) for block in found.blocks()]
            array = np.concatenate(blocks)
            if found.shape is None and found.features != (1,):
                raise ValueError(f"weights must be a table of one column, got {found.features[0]} in {path!r}")
            return array[:, 0] if found.flat or found.shape is None else array


def _ordered(weights: Any, source: Source) -> Array:
    """Return weights along a source's axes: those that have dimension names in the order of these."""
    names = getattr(weights, "dims", None)
    if names is None or not isinstance(names, tuple):
        return np.asarray(weights, np.float64)
    dims = source.origin.dims
    if dims is None or not set(names) <= set(dims):
        raise ValueError(f"weights must have dimensions of {source.name} ({dims}), got {names}")
    array = np.asarray(weights.transpose(*(dim for dim in dims if dim in names)).values, np.float64)
    sizes = iter(array.shape)
    shape = tuple(next(sizes) if dim in names else 1 for dim in dims)
    return array.reshape(shape if len(shape) > 1 else (*shape, 1))


def _broadcasts(shape: Shape, to: Shape) -> bool:
    if len(shape) > len(to):
        return False
    return all(size in (1, other) for size, other in zip(shape[::-1], to[::-1], strict=False))


def _check_agreement(source: Source, state: Progress, known: list[str] | None) -> None:
    shape, names = state.total.shape, state.names
    if known is not None and source.more:
        raise UnreadableError(
            f"{source.name} must have the columns of those before it ({', '.join(known)}), "
            f"got {', '.join(source.more)} too"
        )
    if names is not None and source.names is not None and list(source.names) != names:
        raise UnreadableError(
            f"{source.name} must have the features of those before it ({', '.join(names)}), "
            f"got {', '.join(source.names)}"
        )
    if shape not in (None, source.features):
        raise UnreadableError(
            f"{source.name} must have the features of those before it, of shape {shape}, got {source.features}"
        )


# Statistics made of others.


def joined(parts: dict[Shape, Moments], axis: int = 0) -> Moments:
    """Return the statistics of all features, from those of blocks of features by their corners."""
    if len(parts) == 1:
        return next(iter(parts.values()))
    groups: dict[int, dict[Shape, Moments]] = {}
    for corner in sorted(parts):
        groups.setdefault(corner[axis], {})[corner] = parts[corner]
    rows = [joined(group, axis + 1) for group in groups.values()]
    return Moments.concatenate(rows, axis) if len(rows) > 1 else rows[0]


def taken(moments: Moments, order: Sequence[int]) -> Moments:
    """Return the statistics of some features, in the order given."""
    held = moments.to_dict()
    if moments.names is not None:
        held["names"] = np.array(moments.names, object)
    return Moments.from_dict({k: v[list(order)] if isinstance(v, np.ndarray) else v for k, v in held.items()})


def scaled(moments: Moments, scale: float) -> Moments:
    """Return the statistics of the values divided by a positive number; infinite or 0 what float64 does not hold."""
    if scale == 1:
        return moments
    held = moments.to_dict()
    with np.errstate(over="ignore", under="ignore"):
        for name in _POWERS.keys() & held.keys():
            for _ in range(_POWERS[name]):  # the square of a scale may be no float64 where what it divides is one
                held[name] = held[name] / scale
    for name in ("mean", "m2") if "mean_lo" in held else ():
        held[f"{name}_lo"] = np.where(np.isfinite(held[name]), held[f"{name}_lo"], 0.0)
    return Moments.from_dict(held)
