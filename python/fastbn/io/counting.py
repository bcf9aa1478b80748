"""Statistics over many blocks of many sources, and of the whole from its parts."""

from __future__ import annotations

import os
from contextlib import closing
from typing import Any

import numpy as np

from fastbn import _core
from fastbn._moments.moments import Moments
from fastbn._validation import Shape, converted, refuse_masked
from fastbn.io.checkpoints import Checkpoint, identity
from fastbn.io.options import Array, Options
from fastbn.io.places import TABLES, Place, is_table, places, replaces
from fastbn.io.run import Run, failing, opened
from fastbn.io.sources import Block, Source, UnreadableError, computed_as, region_at
from fastbn.io.statsfiles import remembering, taken


class Counting(Run):
    """One run of `stream`. Its checkpoint stays until the result is where it is to be."""

    def __init__(self, source: Any, options: Options) -> None:
        if options.checkpoint is None and options.resume:
            raise ValueError("checkpoint must be given to resume, got None")
        super().__init__(places(source), options)
        if options.checkpoint is not None:
            path = os.fspath(options.checkpoint)
            told = {"version": _core.version} | options.identity("weights", "nan", "where_finite", "extremes")
            self._checkpoint = Checkpoint(path, identity("checkpoint", self._places, told), options.every)
            if replaces(path, (file for place in self._places for file in place.files)):
                raise ValueError(f"checkpoint must not be one of the sources, got {path!r}")
        nan = "omit" if options.where_finite else options.nan
        self._settings: dict[str, Any] = {"nan": nan, "extremes": options.extremes}
        self.state.total = Moments(**self._settings)
        self._axis, self._earlier = options.axis, "those before it have"
        self._weights = None if options.weights is None else Weights(options.weights, options)

    def moments(self) -> Moments:
        """Return the statistics of everything, of which a checkpoint may have a part."""
        if self._checkpoint is not None:
            self.state = (self._checkpoint.load() if self._options.resume else None) or self.state
            self._checkpoint.start()
        self._each()
        if self.state.total.shape is None:
            skipped = list(self.state.skipped.values())
            found = f"{len(skipped)} that cannot; {skipped[0]}" if skipped else "nothing"
            raise ValueError(f"source must hold something that can be read, got {found}")
        if self._weights is not None:
            self._weights.check_rows(self.state.before, self.state.skipped)
        names, scale = self.state.names, self._options.scale or 1.0
        known: dict[str, Any] = {"axis": 1 if self._axis is None else self._axis, "mode": self._options.mode}
        known |= {"names": None if names is None else tuple(names), "scale": scale, "coords": self.state.coords}
        if self.state.nodata is not None:
            known["nodata"] = {name: tuple(values) for name, values in self.state.nodata}
        known["texts"] = self._options.asked_of_texts or None
        return remembering(scaled(self.state.total, scale), **known)

    def remove_checkpoint(self) -> None:
        """Remove the checkpoint, if there is one."""
        if self._checkpoint is not None:
            self._checkpoint.remove()

    def _options_of(self, place: Place) -> Options:
        known = self._known(place)
        return self._options if known is None else self._options.but(columns=tuple(known), asked_by=self._earlier)

    def _known(self, place: Place) -> list[str] | None:
        """Return the columns of the tables before this one, of which it must have all and no more."""
        if self.state.names is None or self._options.columns is not None or not is_table(place):
            return None
        return self.state.names if len(set(self.state.names)) == len(self.state.names) else None

    def _check(self, source: Source, place: Place) -> None:
        """Refuse a source that has other features than those before it."""
        shape, names, known = self.state.total.shape, self.state.names, self._known(place)
        before = f"{source.name} must have the {{}} of those before it"
        if known is not None and source.more:
            columns = f"({', '.join(known)}), got {', '.join(source.more)} too"
            raise UnreadableError(f"{before.format('columns')} {columns}")
        if names is not None and source.names is not None and list(source.names) != names:
            raise UnreadableError(f"{before.format('features')} ({', '.join(names)}), got {', '.join(source.names)}")
        if shape not in (None, source.features):
            raise UnreadableError(f"{before.format('features')}, of shape {shape}, got {source.features}")

    def _take(self, source: Source, place: Place) -> None:
        with failing(place):
            self._check(source, place)
        if self._options.dim is not None and self._axis is None:
            self._axis = source.axis
        if self.state.others is None and place.format in TABLES.values():
            self.state.others = dict(source.others)
        with closing(self._blocks(source, place)) as blocks:
            for block in blocks:
                self.state.notes += [note for note in source.notes if note not in self.state.notes]
                corner = tuple(block.corner[axis] for axis in source.axis)
                part = self.state.parts.setdefault(corner, Moments(**self._settings))
                part.merge(self._measured(source, block))
                del block  # the next one is read into the memory of this
        found = joined(self.state.parts)
        self.state.total.merge(found if source.order is None else taken(found, source.order))
        if self.state.names is None and source.names is not None:
            self.state.names, self.state.named = list(source.names), is_table(place) or place.format == "images"
            self._earlier = f"{source.name} before it has"
        if self.state.nodata is None and source.nodata.asked is not None:
            self.state.nodata = list(source.nodata.asked.items())

    def _measured(self, source: Source, block: Block) -> Moments:
        """Return a block's statistics; infinite values that are to be left out become NaN, in a copy."""
        values, given = block.values, dict[str, Any](axis=source.axis, where=block.valid)
        if self._weights is not None:
            given["weights"] = self._weights.of(source, block, self.state.before, self.state.skipped)
        part = Moments(**self._settings).update(values, **given)
        if self._options.where_finite and not np.isfinite(np.where(np.asarray(part.count) > 0, part.mean, 0.0)).all():
            finite = np.where(np.isfinite(values), values, np.nan).astype(values.dtype, copy=False)
            part = Moments(**self._settings).update(finite, **given)
        return part


class Weights:
    """What each value counts: a table's column, or an array of as many as there are rows, or of an array's shape.

    Weights of one dimension go on over the rows of all sources, of which there must be as many. None may be left out
    then, for how many rows it had is not known. What has dimension names goes by these.
    """

    def __init__(self, given: Any, options: Options) -> None:
        self._how = options.texts
        self._path = given if isinstance(given, (str, os.PathLike)) else None
        self._array: Any = given if self._path is None else None
        if self._path is None and not _named(given):
            refuse_masked("weights", given)
            array = converted("weights", given)
            if array.dtype != object:
                computed_as("weights", array.dtype, None)
            self._array = np.asarray(array, np.float64)

    def of(self, source: Source, block: Block, before: int, skipped: dict[str, str]) -> Array:
        """Return the weights of a block's values, in a shape that broadcasts to theirs."""
        ndim, rows = block.values.ndim, block.values.shape[0]
        if block.weights is not None:
            return block.weights.reshape(-1, *(1,) * (ndim - 1))
        if self._array is None:
            self._array = self._loaded(source)
        array = _ordered(self._array, source)
        if array.ndim == 1:
            _refuse_skipped(skipped)
            found = array[before + block.corner[0] :][:rows]
            if len(found) < rows:
                raise ValueError(f"weights must have one for each row, got {len(array)}, and {source.name} has more")
            return found.reshape(-1, *(1,) * (ndim - 1))
        shape, whole = (1,) * (ndim - array.ndim) + array.shape, source.shape or ()
        if len(shape) != len(whole) or any(size not in (1, other) for size, other in zip(shape, whole, strict=True)):
            raise ValueError(f"weights must have a shape that broadcasts to {source.shape}, got {array.shape}")
        array = array.reshape(shape)
        if source.order is not None and array.shape[source.axis[0]] > 1:
            raise ValueError("weights must not differ between features where columns are chosen")
        parts = zip(array.shape, block.corner, block.values.shape, strict=True)
        return array[tuple(slice(None) if size == 1 else slice(at, at + length) for size, at, length in parts)]

    def check_rows(self, rows: int, skipped: dict[str, str]) -> None:
        """Refuse weights of rows that are not there, once all have been counted."""
        if self._array is None or _named(self._array) or self._array.ndim != 1:
            return
        _refuse_skipped(skipped)
        if len(self._array) != rows:
            raise ValueError(f"weights must have one for each row, got {len(self._array)} for {rows} rows")

    def _loaded(self, source: Source) -> Array:
        path = os.fspath(self._path or "")
        if isinstance(self._path, str) and (source.shape is None or source.names) and not os.path.exists(path):
            raise UnreadableError(f"weights must be a column of {source.name} or a file, got {path!r}")
        (place, *more) = places(path)
        if more:
            raise ValueError(f"weights must be one file, got the folder {path!r}")
        with closing(opened(place, self._how if is_table(place) else self._how.but(axis=()))) as found:
            if found.shape is None:
                array = np.concatenate([np.array(block.values, np.float64) for block in found.blocks()])
            else:
                array = np.empty(found.shape)
                for block in found.blocks():
                    array[region_at(block.corner, block.values.shape)] = block.values
            if found.shape is None and found.features != (1,):
                raise ValueError(f"weights must be a table of one column, got {found.features[0]} in {path!r}")
            return array[:, 0] if found.flat or found.shape is None else array


def _refuse_skipped(skipped: dict[str, str]) -> None:
    if skipped:
        raise ValueError(
            "weights must not be one for each row where a file is left out, whose rows are not known, got "
            f"{next(iter(skipped))}"
        )


def _named(weights: Any) -> bool:
    return isinstance(getattr(weights, "dims", None), tuple)


def _ordered(weights: Any, source: Source) -> Array:
    """Return weights along a source's axes: those that have dimension names in the order of these."""
    if not _named(weights):
        return np.asarray(weights, np.float64)
    names, dims = weights.dims, source.origin.dims
    if dims is None or not set(names) <= set(dims):
        raise ValueError(f"weights must have dimensions of {source.name} ({dims}), got {names}")
    array = np.asarray(weights.transpose(*(dim for dim in dims if dim in names)).values, np.float64)
    array = array[tuple(slice(None) if dim in names else np.newaxis for dim in dims)]
    return array if array.ndim > 1 else array[:, np.newaxis]


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


def scaled(moments: Moments, scale: float) -> Moments:
    """Return the statistics of the values divided by a positive number; infinite or 0 what float64 does not hold."""
    if scale == 1:
        return moments
    held = moments.to_dict()
    with np.errstate(over="ignore", under="ignore"):
        # Some twice: the square of a scale may be no float64 where what it divides is one.
        for name in ("mean", "mean_lo", "m2", "m2", "m2_lo", "m2_lo", "min", "max"):
            if name in held:
                held[name] = held[name] / scale
    for name in ("mean", "m2") if "mean_lo" in held else ():
        held[f"{name}_lo"] = np.where(np.isfinite(held[name]), held[f"{name}_lo"], 0.0)
    return Moments.from_dict(held)
