"""Standardized copies of many sources: computes with what comes, and hands it on to a sink."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from functools import partial
from typing import Any

import numpy as np

from fastbn import _core
from fastbn._atomic import removed, replacing
from fastbn._moments.moments import Moments, divisor_variance
from fastbn._moments.provenance import places_of
from fastbn.io.checkpoints import Checkpoint, identity
from fastbn.io.options import Array, Options, Path
from fastbn.io.places import ARRAYS, TABLES, Place, already_there, fingerprint, is_table, is_zarr, places, replaces
from fastbn.io.run import Run, check_dims, failing
from fastbn.io.sinks import FileSink, FolderSink
from fastbn.io.sources import Block, Ring, Source, UnreadableError, region_at
from fastbn.io.statsfiles import load_stats, read_as
from fastbn.io.writers import Target, target_of

# What results are stored as, where they are not float32.
_RESULTS = {"float16": np.float16} | dict.fromkeys(("float64", "int64", "uint64", "uint32", "bool"), np.float64)


def target_for(out: Path, options: Options) -> Target:
    """Return what `out` names; ValueError if that says nothing, or nothing that can be gone on with where it must."""
    target = target_of(out)
    if options.resume and (target.format not in ("npy", "zarr", "folder") or target.within):
        raise ValueError(f"resume must come with a new .npy file, Zarr store or folder as out, got {target.name!r}")
    return target


class Rewriting(Run):
    """One run of `standardize`."""

    _sink: FileSink | FolderSink

    def __init__(self, source: Any, moments: Any, out: Any, options: Options) -> None:
        if isinstance(source, Moments):
            raise TypeError("source must be a path, an array, or an iterable of these, got Moments, which come second")
        if not isinstance(moments, (Moments, str, os.PathLike)):
            raise TypeError(f"moments must be Moments or the path of a file of them, got {type(moments).__name__}")
        if not isinstance(out, (str, os.PathLike)):
            raise TypeError(f"out must be a path, got {type(out).__name__}")
        self._target = target_for(out, options)
        found = places(source)
        if not isinstance(moments, Moments) and replaces(self._target.path, [os.fspath(moments)]):
            raise ValueError(f"out must not be the file of moments, got {self._target.path!r}")
        self.moments: Moments = moments if isinstance(moments, Moments) else load_stats(moments, "moments, --stats,")
        self._of = "" if isinstance(moments, Moments) else f" of {os.fspath(moments)!r}"  # for errors
        if self.moments.shape is None:
            raise ValueError(f"moments must have seen something, got empty ones{self._of}")
        known, beside = read_as(self.moments), 8 if options.written is None else options.written.itemsize
        if None not in (options.mode, known.mode) and options.mode != known.mode:
            raise ValueError(f"mode must be that of the statistics{self._of}, {known.mode!r}, got {options.mode!r}")
        texts = {name: value for name, value in (known.texts or {}).items() if name not in options.asked_of_texts}
        as_then = options.but(
            mode=options.mode or known.mode,
            scale=options.scale or known.scale,
            nodata=known.nodata if options.nodata is None else options.nodata,
            **texts,
        )
        super().__init__(found, as_then.but(beside=beside, rowwise=True))
        self._identity = None  # of a run that can go on later
        if options.resume:
            told = {"moments": hashlib.sha256(self.moments.to_bytes()).hexdigest(), "scale": options.scale}
            self._identity = identity("resume", self._places, self._options.identity("written", "eps") | told)
        self._results = Ring()

    def write(self) -> None:
        """Write everything, or nothing."""
        target = self._target
        for place in self._places if isinstance(self._places, list) else ():
            self._check_apart(place)
        there = Place(target.format, target.name, (target.path,))
        before = fingerprint(there) if target.named or not self._options.overwrite else None
        replaceable = not os.path.isdir(target.path) or is_zarr(target.path)
        if target.is_there() and not (self._options.overwrite and replaceable):
            how = {} if replaceable else {"hint": "a folder is never replaced: remove it first"}
            raise already_there(target.name, **how)

        def unchanged() -> None:  # or what another has put there would be lost
            if before is not None and fingerprint(there) != before:
                raise already_there(target.name, "another program has written it in the meantime")

        with replacing(target.path, keep=self._identity is not None, check=unchanged) as path:
            found = None
            if self._identity is not None:
                self._checkpoint = Checkpoint(f"{path}.json", self._identity, self._options.every)
                found = self._checkpoint.load() if os.path.exists(path) else None
            if found is None:
                removed(path)
            self.state = found or self.state
            if target.format == "folder":
                places = self._places if found is not None and isinstance(self._places, list) else None
                self._sink = FolderSink(path, self._options, self.state, places)
            else:
                self._sink = FileSink(target, path, self._options, self.state, resumed=found is not None)
            with closing(self._sink):
                self._each()
                self._sink.finish()
        if self._checkpoint is not None:
            self._checkpoint.remove()

    def _check_apart(self, place: Place) -> None:
        """Refuse a target that a place is read from, or a Zarr store that it lies in; other arrays of a file may be."""
        target = self._target
        inner = [os.path.join(file, place.member) for file in place.files if place.format == "zarr" and place.member]
        if replaces(target.path, (*place.files, *inner, *_behind(place.array))) and not target.spares(place):
            raise ValueError(f"out must not be one of the sources, got {target.name!r}")

    def _options_of(self, place: Place) -> Options:
        folder = self._target.format == "folder"
        written = place.format if folder else self._target.format
        # In a folder those that are read and those that are written have the same names of folders.
        alone = folder or (isinstance(self._places, list) and len(self._places) == 1)  # in its file
        how = {"partitions": not folder, "first": 0 if folder else self.state.before, "typed": alone}
        names, options = self.moments.names, self._options.but(**how)
        options = options.but(tabular=written if written in TABLES.values() else "")
        if options.axis is None and options.dim is None and place.format not in ("images", *TABLES.values()):
            options = options.but(axis=read_as(self.moments).axis)
        if options.columns is not None or names is None or len(set(names)) < len(names):
            return options
        named = is_table(place) or place.format == "images" or all(name.isdecimal() for name in names)
        return options.but(columns=names, asked_by=f"the statistics{self._of} have") if named else options

    def _undo(self) -> bool:
        return self._sink.undo()

    def _synchronize(self) -> None:
        self._sink.synchronize()

    def _take(self, source: Source, place: Place) -> None:
        with failing(place):
            statistics = self._statistics(source)
        self._check_apart(place)  # of those that come one by one
        if self._target.takes(source.origin.stored):
            raise ValueError(f"out must not be one of the sources, got {self._target.name!r}")
        if self._target.format in TABLES.values() and not source.tabular:
            rule = f"out must not be a table for {source.name}, which is none and goes into {', '.join(ARRAYS)}"
            raise ValueError(f"{rule} or a folder, got {self._target.path!r}")
        self._sink.begin(place, source)
        with closing(self._blocks(source, place, partial(self._standardized, source, place, statistics))) as blocks:
            for block in blocks:
                self._sink.write(block, source)
        self._sink.end()

    def _statistics(self, source: Source) -> dict[str, Array]:
        """Return mean and variance of a source's features in the order of its blocks, in units of its values."""
        scale, names, known = self._options.scale or 1.0, self.moments.names, read_as(self.moments).scale
        with np.errstate(over="ignore", under="ignore"):  # as in `scaled`
            found = {"mean": self.moments.mean * scale, "mean_lo": self.moments._mean_lo * scale}
            found["var"] = divisor_variance(self.moments, scale=scale, eps=self._options.eps)
        if scale != known and source.dtype.kind in "iu":
            # Others are legitimate: 1 for values that were divided already, and 65535 beside 255 for another depth.
            # But integers were not divided, and no mean is beyond all that their type holds.
            held = np.iinfo(source.dtype)
            if scale == 1 or np.any((found["mean"] < held.min) | (found["mean"] > held.max)):
                what = f"for the integers of {source.name}, got {scale:g}"
                raise UnreadableError(f"scale must be that of the statistics{self._of}, {known:g}, {what}")
        if names is not None and source.names is not None and names != source.names:
            numbers = {name: number for number, name in enumerate(names)}
            missing = [name for name in source.names if name not in numbers]
            if missing:
                got = f"got none of {missing[0]!r} among those{self._of}" if self._of else f"got none of {missing[0]!r}"
                raise UnreadableError(f"moments must have the features of {source.name}, {got}")
            if len(numbers) < len(names):
                rule = f"moments must have features of different names for {source.name}"
                raise UnreadableError(f"{rule}, got {names}{self._of}")
            order = [numbers[name] for name in source.names]
            found = {name: values[order] for name, values in found.items()}
        for axis, at in enumerate(self._places_of_labels(source)):
            if at is not None:
                found = {name: np.take(values, at, axis) for name, values in found.items()}
        shape = found["mean"].shape
        if shape != source.features:
            rule = f"moments must have the features of {source.name}, of shape {source.features}"
            raise UnreadableError(f"{rule}, got {shape}{self._of}")
        if source.order is not None:
            found = {name: values[np.argsort(source.order)] for name, values in found.items()}
        return found

    def _places_of_labels(self, source: Source) -> Iterator[list[int] | None]:
        """Yield where the statistics have the labels of a source along each axis; None where one of them has none."""
        known, got = read_as(self.moments).coords, source.coordinates
        check_dims(source, known)
        for mine, labels, dim in zip(known.labels, got.labels, got.dims, strict=False) if known and got else ():
            try:
                yield None if mine is None or labels is None else places_of(labels, mine)
            except LookupError as error:
                rule = f"coordinates along {dim} that the statistics{self._of} have once, got {error.args[0]}"
                raise UnreadableError(
                    f"{source.name} must have {rule} (those without, xarray's drop_vars, go by position)"
                ) from None

    def _standardized(
        self, source: Source, place: Place, statistics: dict[str, Array], blocks: Iterable[Block]
    ) -> Generator[Block, None, None]:
        """Yield a source's blocks, standardized, as they are written; NaN for what is no data."""
        within = place.format == "images" or isinstance(self._sink, FileSink)  # where a run can go on within a source
        for block in blocks:
            values, dtype = block.values, self._options.written
            if dtype is None:  # as `normalize` has it, but for bfloat16, which NumPy cannot read again
                dtype = np.dtype(_RESULTS.get(values.dtype.name, np.float32))
            columns = values.ndim == 2 and values.flags.f_contiguous
            shape = values.shape[::-1] if columns else values.shape
            out = self._results.take(shape, dtype)
            at = tuple(region_at(block.corner, values.shape)[a] for a in source.axis)
            how = {name: each[at] for name, each in statistics.items()}
            y = _core.normalize(values, **how, eps=self._options.eps, axis=source.axis, out=out.T if columns else out)
            if block.valid is not None:
                y[~block.valid] = np.nan
            made = source.restored(block, y)
            yield made if within else made._replace(following=None)


def _behind(array: Any) -> list[str]:
    """Return the file of a mapped array, of a data set of h5py, of an array of zarr, or of an xarray object."""
    file, store = getattr(array, "file", None), getattr(array, "store", None)
    encoding = getattr(array, "encoding", None)
    source = encoding.get("source") if isinstance(encoding, dict) else None
    found = (getattr(array, "filename", None), getattr(file, "filename", None), getattr(store, "root", None), source)
    return [os.fspath(path) for path in found if isinstance(path, (str, os.PathLike))]
