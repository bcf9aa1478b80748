"""Standardized copies of data larger than memory: `standardize`, its options checked. The work is in `rewriting`.

`import fastbn` imports this, so what only a call needs is imported by the call.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fastbn.io.options import (
    LARGEST,
    MAX_PIXELS,
    MEMORY,
    Columns,
    Moments,
    NoData,
    OnError,
    Path,
    Report,
    checked_flag,
    checked_on_error,
    checked_real,
    checked_scale,
    reading_of,
)
from fastbn.io.streaming import warn

if TYPE_CHECKING:
    from fastbn.io.places import Place
    from fastbn.io.writers import Target


def standardize(
    source: Path | npt.ArrayLike | Iterable[Path | npt.ArrayLike],
    moments: Moments | Path,
    out: Path,
    *,
    axis: int | tuple[int, ...] | None = None,
    dim: str | Iterable[str] | None = None,
    columns: Columns = None,
    dtype: npt.DTypeLike | None = None,
    eps: float = 0.0,
    nodata: NoData = None,
    scale: float | None = None,
    mode: str | None = None,
    max_pixels: int = MAX_PIXELS,
    header: bool | None = None,
    null_values: str | Iterable[str] = (),
    delimiter: str | None = None,
    decimal: str = ".",
    encoding: str = "utf-8",
    comment: str | None = None,
    memory: int = MEMORY,
    on_error: OnError = "raise",
    overwrite: bool = False,
    resume: bool = False,
    every: float = 5.0,
    progress: Report | None = None,
) -> None:
    """Write data that need not fit memory with mean 0 and standard deviation 1: ``(x - mean) / sqrt(var + eps)``.

    One block is read, another computed with and a third written at the same time. `out` is written under another name
    and renamed when it is complete, so whatever happens there is either all of it or nothing.

    Parameters
    ----------
    source : path, array, or iterable of these
        As for `stream`.
    moments : Moments or path
        Statistics of the same features, which are found by their names where both have them; or a file of them, as
        ``fastbn stats`` writes it.
    out : path
        By its suffix: .npy, .npz, .h5, .zarr or .nc for arrays; .csv, .tsv, .parquet, .feather or .orc for tables;
        several sources follow each other along axis 0. ``"file.h5:name"`` (.npz, .h5, .zarr) names one array of a
        file, all others of which stay as they are. Chunks, compression, attributes, names of dimensions and coordinates
        of the source are kept where the format has them. Anything else is a folder of one file per source, or of one
        .npy file per image.
    axis, mode, scale : optional
        As for `stream`. By default what they were when `moments` were streamed, or else 1, None and 1.
    dim, columns, nodata, max_pixels, header, null_values, delimiter, decimal, encoding, comment, memory
        As for `stream`; what is no data becomes NaN, and a text is written as it was read. An array is written with
        the chosen features alone. A table keeps its other columns as they are; as an array it has the chosen ones
        alone. Images become (N, channels, height, width), for which they must be of one size, or in a folder (channels,
        height, width).
    dtype : {float16, float32, float64}, optional
        Of what is written. By default float32 for whole numbers of up to 32 bits, float64 for tables that are not all
        float32, and else the type of the data, or float64 where `stream` computes in that.
    eps : float, default 0.0
        Added to the variance. Where both are 0, 0 is written.
    on_error : {"raise", "skip"} or callable, default "raise"
        As for `stream`. What breaks off when a part of it is written already is raised all the same.
    overwrite : bool, default False
        Whether `out` may replace a file or a Zarr store; a source or the file of `moments` never.
    resume : bool, default False
        Whether an interrupted run keeps what it has written, and goes on from there if it is called again: for files,
        and an `out` that is a new .npy file, Zarr store or folder. The result has the same bits.
    every : float, default 5.0
        Seconds between two notes of how far it is.
    progress : callable, optional
        As for `stream`.

    Raises
    ------
    TypeError, ValueError, OSError, ImportError
        As for `stream`; FileExistsError where `out` exists and may not be replaced.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np, fastbn
    >>> x = np.random.default_rng(0).normal(5.0, 2.0, size=(1000, 3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     source, out = pathlib.Path(folder, "x.npy"), pathlib.Path(folder, "y.npy")
    ...     np.save(source, x)
    ...     fastbn.standardize(source, fastbn.stream(source), out)
    ...     y = np.load(out)
    >>> y.shape, bool(np.allclose(y.std(axis=0), 1))
    ((1000, 3), True)
    """
    import hashlib

    from fastbn.io.checkpoints import Checkpoint, identity
    from fastbn.io.places import TABLES, places, replaces
    from fastbn.io.rewriting import Rewriting
    from fastbn.io.statsfiles import Stats, load_stats
    from fastbn.io.writers import target_of

    if isinstance(source, Moments):
        raise TypeError("source must be a path, an array, or an iterable of these, got Moments, which come second")
    if not isinstance(moments, (Moments, str, os.PathLike)):
        raise TypeError(f"moments must be Moments or the path of a file of them, got {type(moments).__name__}")
    if not isinstance(out, (str, os.PathLike)):
        raise TypeError(f"out must be a path, got {type(out).__name__}")
    target = target_of(out)
    if not isinstance(moments, Moments) and replaces(target.path, [os.fspath(moments)]):
        raise ValueError(f"out must not be the file of moments, got {target.path!r}")
    stats = Stats.of(moments) if isinstance(moments, Moments) else load_stats(moments)
    if stats.moments.shape is None:
        raise ValueError("moments must have seen something, got empty ones")
    wanted = None if dtype is None else _checked_dtype(dtype)
    axis_given = axis is not None
    axis, mode = stats.axis if axis is None and dim is None else axis, stats.mode if mode is None else mode
    reading = reading_of(
        axis=axis,
        columns=columns,
        mode=mode,
        header=header,
        memory=memory,
        dim=dim,
        nodata=nodata,
        null_values=null_values,
        delimiter=delimiter,
        decimal=decimal,
        encoding=encoding,
        comment=comment,
        max_pixels=max_pixels,
        beside=8 if wanted is None else wanted.itemsize,
    )
    found = places(source)
    seconds = float(checked_real("every", every, 0, LARGEST))
    resumable = None
    if checked_flag("resume", resume):
        _check_resumable(found, target)
        options = {
            **reading.identity(),
            "moments": hashlib.sha256(stats.moments.to_bytes()).hexdigest(),
            "written": None if wanted is None else wanted.name,
            "eps": eps,
            "scale": scale,
            "on_error": "raise" if on_error == "raise" else "skip",
        }
        resumable = partial(Checkpoint, identity=identity(found, options), every=seconds)
    Rewriting(
        found,
        stats,
        target,
        reading._replace(rowwise=True, tabular=target.kind in TABLES.values()),
        dtype=wanted,
        eps=float(checked_real("eps", eps, 0, LARGEST)),
        scale=stats.scale if scale is None else checked_scale(scale),
        axis_given=axis_given,
        listener=checked_on_error(on_error, warn),
        overwrite=checked_flag("overwrite", overwrite),
        resumable=resumable,
        report=progress or (lambda done, total: None),
        note=warn,
    ).run()


def _check_resumable(found: Iterable[Place], target: Target) -> None:
    if not isinstance(found, list) or any(place.array is not None for place in found):
        raise ValueError("resume must come with files, which can be read again, got arrays")
    if target.kind not in ("npy", "zarr", "folder") or target.within:
        raise ValueError(f"resume must come with a new .npy file, Zarr store or folder as out, got {target.name!r}")


def _checked_dtype(dtype: Any) -> np.dtype[Any]:
    try:
        wanted: np.dtype[Any] = np.dtype(dtype)
    except TypeError:
        wanted = np.dtype(object)
    for kind in (np.float16, np.float32, np.float64):
        if wanted == kind:
            return np.dtype(kind)
    raise TypeError(f"dtype must be float16, float32 or float64, got {dtype!r}")
