"""Standardized copies of many sources: computes with what comes. Leaves reading to `passing`, writing to a sink."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator, Iterable
from contextlib import closing
from typing import Any

import numpy as np

from fastbn._moments.moments import divisor_variance
from fastbn.functional import normalize
from fastbn.io.atomic import replacing
from fastbn.io.destinations import Target
from fastbn.io.destinations.sinks import FileSink, FolderSink, Piece
from fastbn.io.names import TABLES
from fastbn.io.optional import needed
from fastbn.io.passing import FailedError, Listener, Passing, checked
from fastbn.io.sources import is_zarr, replaces
from fastbn.io.sources.base import Array, Place, Reading, Ring, Source, UnreadableError
from fastbn.io.sources.images import ImageSource
from fastbn.io.sources.tables import TableSource
from fastbn.io.statsfiles import Stats
from fastbn.io.streaming import Report


class Rewriting(Passing):
    """One run over places, into one target."""

    _sink: FileSink | FolderSink

    def __init__(
        self,
        places: Iterable[Place],
        stats: Stats,
        target: Target,
        reading: Reading,
        *,
        dtype: np.dtype[Any] | None,
        eps: float,
        scale: float,
        listener: Listener | None,
        overwrite: bool,
        report: Report,
    ) -> None:
        super().__init__(places, reading, listener, report)
        self._stats, self._target, self._overwrite = stats, target, overwrite
        self._dtype, self._eps, self._scale = dtype, eps, scale
        self._results = Ring(reading)

    def run(self) -> None:
        """Write everything, or nothing."""
        self._check_target()
        with replacing(self._target.path) as path:
            self._sink = FolderSink(path) if self._target.kind == "folder" else FileSink(self._target, path)
            with closing(self._sink):
                self._pass()
                self._sink.finish()

    def _check_target(self) -> None:
        path = self._target.path
        for place in self._places if self._sizes is not None else ():
            self._check_apart(place)
        if os.path.lexists(path) and not (self._overwrite and (not os.path.isdir(path) or is_zarr(path))):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)

    def _check_apart(self, place: Place) -> None:
        """Refuse a target that a place is read from, or a Zarr store that it lies in."""
        if replaces(self._target.path, (*place.files, *_behind(place.array))):
            raise ValueError(f"out must not be one of the sources, got {self._target.path!r}")

    def _reading_of(self, place: Place) -> Reading:
        names = self._stats.names
        if self._reading.columns is not None or names is None:
            return self._reading
        named = place.kind in (*TABLES.values(), "images") or all(name.isdecimal() for name in names)
        return self._reading._replace(columns=names) if named else self._reading

    def _check(self, source: Source, place: Place) -> None:
        self._check_apart(place)  # of those that come one by one
        self._statistics(source)

    def _take_in(self, source: Source, place: Place) -> None:
        self._sink.begin(place, source)
        with self._coming(self._pieces(source, place, self._sink.tabular), source) as pieces:
            for piece in pieces:
                self._sink.write(piece)
                self._settle()
                self._tell(piece.done)
        self._sink.end()

    def _undo(self) -> bool:
        return self._sink.undo()

    def _statistics(self, source: Source) -> tuple[Array, Array]:
        """Return mean and variance of a source's features in the order of its blocks, in units of its values."""
        with np.errstate(over="ignore", under="ignore"):  # as in `scaled`
            mean = self._stats.moments.mean * self._scale
            var = divisor_variance(self._stats.moments.var() * self._scale * self._scale)
        names = self._stats.names
        if names is not None and source.names is not None:
            missing = [name for name in source.names if name not in names]
            if missing:
                raise UnreadableError(f"moments must have the features of {source.name}, got none of {missing[0]!r}")
            numbers = [names.index(name) for name in source.names]
            mean, var = mean[numbers], var[numbers]
        if mean.shape != source.features:
            raise UnreadableError(
                f"moments must have the features of {source.name}, of shape {source.features}, got {mean.shape}"
            )
        if source.order is not None:
            mean[list(source.order)], var[list(source.order)] = mean.copy(), var.copy()
        return mean, var

    def _pieces(self, source: Source, place: Place, tabular: bool) -> Generator[Piece, None, None]:
        if isinstance(source, TableSource) and tabular:
            return self._tables(source, place)
        if tabular:
            raise ValueError(f"out must not be a table for {source.name}, which is none, got {self._target.path!r}")
        return self._pictures(source, place) if isinstance(source, ImageSource) else self._regions(source, place)

    def _regions(self, source: Source, place: Place) -> Generator[Piece, None, None]:
        mean, var = self._statistics(source)
        with self._coming(checked(source.blocks(), place), source) as blocks:
            for block in blocks:
                at = tuple(slice(block.corner[a], block.corner[a] + block.values.shape[a]) for a in source.axis)
                values = self._normalized(block.values, mean[at], var[at], source.axis)
                if source.order is not None:
                    if len(source.order) > block.values.shape[source.axis[0]]:
                        raise FailedError(UnreadableError(f"memory must hold a row of {source.name} to choose columns"))
                    values = np.take(values, source.order, source.axis[0])
                yield Piece(values, block.corner, source.name, block.done)

    def _tables(self, source: TableSource, place: Place) -> Generator[Piece, None, None]:
        pa = needed("pyarrow", "Tables")
        mean, var = self._statistics(source)
        with self._coming(checked(source.batches(), place), source) as batches:
            for batch in batches:
                rows = batch.rows if isinstance(batch.rows, pa.Table) else pa.Table.from_batches([batch.rows])
                values = self._normalized(source.matrix(rows.select(source.chosen)), mean, var, (1,))
                names = [field.name for field in source.fields]
                # Renaming forgets what a file says of itself, pandas' index for instance.
                rows = rows if rows.column_names == names else rows.rename_columns(names)
                for number, column in zip(source.chosen, values.T, strict=True):
                    rows = rows.set_column(number, source.fields[number].name, pa.array(column, from_pandas=True))
                yield Piece(rows, (), source.name, batch.done)

    def _pictures(self, source: ImageSource, place: Place) -> Generator[Piece, None, None]:
        mean, var = self._statistics(source)
        with self._coming(checked(source.pictures(), place), source) as pictures:
            for number, picture in enumerate(pictures):
                values = self._normalized(picture.values, mean, var, (2,)).transpose(2, 0, 1)
                done = picture.following / len(place.files)
                yield Piece(np.ascontiguousarray(values)[np.newaxis], (number, 0, 0, 0), picture.path, done)

    def _normalized(self, values: Array, mean: Array, var: Array, axis: tuple[int, ...]) -> Array:
        dtype = self._dtype
        if dtype is None:  # as `normalize` has it, but for bfloat16, which NumPy cannot read again
            dtype = values.dtype if values.dtype.name in ("float16", "float64") else np.dtype(np.float32)
        columns = values.ndim == 2 and values.flags.f_contiguous
        out = self._results.take(values.shape[::-1], dtype).T if columns else self._results.take(values.shape, dtype)
        return normalize(values, mean, var, eps=self._eps, axis=axis, out=out)


def _behind(array: Any) -> list[str]:
    """Return the file of a mapped array, of a data set of h5py or of an array of zarr."""
    file, store = getattr(array, "file", None), getattr(array, "store", None)
    found = (getattr(array, "filename", None), getattr(file, "filename", None), getattr(store, "root", None))
    return [os.fspath(path) for path in found if isinstance(path, (str, os.PathLike))]
