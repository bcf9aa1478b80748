"""Standardized copies of many sources: opens them in turn, computes, hands on to a sink. Knows no format."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any, TypeVar

import numpy as np

from fastbn.functional import normalize
from fastbn.io.counting import FailedError, OnError, Report, checked, nbytes_of
from fastbn.io.destinations import Target
from fastbn.io.destinations.atomic import replacing
from fastbn.io.destinations.sinks import FileSink, FolderSink, Piece
from fastbn.io.readahead import ahead
from fastbn.io.sources import is_zarr, opened
from fastbn.io.sources.base import Array, Place, Reading, Ring, Source, UnreadableError, naming
from fastbn.io.sources.images import ImageSource
from fastbn.io.sources.optional import needed
from fastbn.io.sources.tables import TableSource
from fastbn.io.statsfiles import Stats

T = TypeVar("T")


class Rewriting:
    """One run over places, into one target."""

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
        on_error: OnError | None,
        overwrite: bool,
        report: Report,
    ) -> None:
        self._places, self._stats, self._target = places, stats, target
        self._dtype, self._eps, self._scale = dtype, eps, scale
        self._overwrite, self._report, self._on_error = overwrite, report, on_error
        self._unreadable: list[tuple[str, Exception]] = []
        tell = None if on_error is None else lambda path, error: self._unreadable.append((path, error))
        self._reading = reading._replace(unreadable=tell)
        self._sizes = [nbytes_of(place) for place in places] if isinstance(places, Sequence) else None
        self._total = None if self._sizes is None else sum(self._sizes)
        self._read, self._size = 0, 0  # bytes of the places that are done, and of the one under way
        self._results = Ring(reading)

    def run(self) -> None:
        """Write everything, or nothing."""
        self._check_target()
        with replacing(self._target.path) as path:
            folder = self._target.kind == "folder"
            with closing(FolderSink(path) if folder else FileSink(self._target, path)) as sink:
                for index, place in enumerate(self._places):
                    self._size = 0 if self._sizes is None else self._sizes[index]
                    self._rewrite(place, sink)
                    self._read += self._size
                    self._tell(0.0)
                sink.finish()

    def _check_target(self) -> None:
        path = self._target.path
        sources = [file for place in self._places for file in place.files] if self._sizes is not None else []
        if any(os.path.exists(path) and os.path.exists(file) and os.path.samefile(path, file) for file in sources):
            raise ValueError(f"out must not be one of the sources, got {path!r}")
        if os.path.lexists(path) and not (self._overwrite and (not os.path.isdir(path) or is_zarr(path))):
            raise FileExistsError(17, os.strerror(17), path)

    def _rewrite(self, place: Place, sink: FileSink | FolderSink) -> None:
        try:
            with closing(self._opened(place)) as source:
                sink.begin(place, source)
                pieces = self._pieces(source, place, sink.tabular)
                with closing(ahead(pieces, self._reading.depth) if source.overlaps else pieces) as coming:
                    for piece in coming:
                        sink.write(piece)
                        self._settle()
                        self._tell(piece.done)
            sink.end()
        except FailedError as failed:
            if self._on_error is None or not sink.undo():
                raise failed.error from failed.error.__cause__
            self._unreadable.append((place.name, failed.error))
        self._settle()

    def _opened(self, place: Place) -> Source:
        reading, names = self._reading, self._stats.names
        numbered = names is not None and all(name.isdecimal() for name in names)
        if reading.columns is None and names is not None and (numbered or place.kind in ("csv", "parquet", "images")):
            reading = reading._replace(columns=names)
        try:
            with naming(place.name):
                source = opened(place, reading)
                with ExitStack() as stack:
                    stack.callback(source.close)
                    self._statistics(source)
                    stack.pop_all()
                return source
        except (OSError, UnreadableError) as error:
            raise FailedError(error) from error

    def _statistics(self, source: Source) -> tuple[Array, Array]:
        """Return mean and variance of a source's features in the order of its blocks, in units of its values."""
        with np.errstate(over="ignore", under="ignore"):  # as in `scaled`
            mean, var = self._stats.moments.mean * self._scale, self._stats.moments.var() * self._scale * self._scale
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
        with self._coming(source.blocks(), place, source) as blocks:
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
        with self._coming(source.batches(), place, source) as batches:
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
        with self._coming(source.pictures(), place, source) as pictures:
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

    def _coming(self, items: Iterator[T], place: Place, source: Source) -> closing[Any]:
        found = checked(items, place)
        return closing(ahead(found, self._reading.depth) if source.overlaps else found)

    def _settle(self) -> None:
        while self._unreadable:
            name, error = self._unreadable.pop(0)
            if self._on_error is not None:
                self._on_error(name, error)

    def _tell(self, done: float) -> None:
        self._report(self._read + int(done * self._size), self._total)
