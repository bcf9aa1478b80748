"""Statistics of data larger than memory: `stream`, its options checked. What is done with them is in `counting`.

`import fastbn` imports this, so what only a call needs is imported by the call.
"""

from __future__ import annotations

import os
import sys
import types
import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

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
    Reading,
    Report,
    checked_choice,
    checked_flag,
    checked_on_error,
    checked_real,
    checked_scale,
    reading_of,
)

if TYPE_CHECKING:
    from fastbn.io.checkpoints import Checkpoint
    from fastbn.io.places import Place
    from fastbn.io.statsfiles import Stats

_PACKAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")


def stream(
    source: Path | npt.ArrayLike | Iterable[Path | npt.ArrayLike],
    *,
    axis: int | tuple[int, ...] | None = None,
    dim: str | Iterable[str] | None = None,
    columns: Columns = None,
    weights: Path | npt.ArrayLike | None = None,
    dtype: npt.DTypeLike | None = None,
    nan: Literal["propagate", "omit"] = "propagate",
    where_finite: bool = False,
    nodata: NoData = None,
    extremes: bool = True,
    scale: float = 1.0,
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
    checkpoint: Path | None = None,
    every: float = 5.0,
    resume: bool = False,
    progress: Report | None = None,
) -> Moments:
    """Statistics of data that need not fit memory: of files, of many files, or of arrays that come one by one.

    A thread reads the next block while the present one is computed with. Blocks are merged as `Moments` are, in the
    order of the source, so neither the number of threads nor their timing changes a bit of the result.

    Parameters
    ----------
    source : path, array, or iterable of these
        Files: .npy, .npz, .csv, .tsv, .parquet, .feather, .orc, .h5, .nc, images; folders of images or of other such
        files, which are read in the order of their names, links followed, hidden ones left out; Zarr stores.
        ``"file.npz:name"``, ``"file.h5:path/to/data"`` and ``"store.zarr:name"`` name one array among several. Arrays
        of two dimensions or more, data frames, xarray data arrays, data sets of h5py, arrays of zarr, and whatever
        has a shape, a dtype, chunks and slicing. Several are counted together, and must have the same features.
    axis : int or tuple of ints, default 1
        The feature axis or axes of arrays. An array of one dimension in a file is one column.
    dim : str or iterable of str, optional
        Instead of `axis`, the names of the dimensions to reduce, of xarray objects and of files that name them.
    columns : sequence of int or str, optional
        The features to count, in the order wanted: by number, or in tables and images by name. By default all; of a
        table all columns of numbers but those of pandas' index. Columns of text of which some entries are numbers are
        left out with a RuntimeWarning.
    weights : str, path or array_like, optional
        How much each value counts: the name of a table's column; one for each row of all sources; or an array that
        broadcasts to the source's shape, by dimension names where both have them; also as a file of these.
    dtype : {float32, float64}, optional
        What values are converted to before they are counted. By default only what `moments` does not take is, to
        float64: bool, integers of 64 bits, and all columns of a table that are not all float32.
    nan : {"propagate", "omit"}, default "propagate"
        As for `Moments`. What is missing in a table is NaN.
    where_finite : bool, default False
        Whether NaN and infinite entries are left out.
    nodata : number, sequence or mapping of columns to these, optional
        Stored values that are no data, and left out. By default what the file says: ``_FillValue`` and
        ``missing_value`` of HDF5, NetCDF and Zarr, GDAL's of TIFF; ``[]`` for none.
    extremes : bool, default True
        Whether to look for the least and the largest value too.
    scale : float, default 1.0
        What values are divided by; 255 gives the statistics of images in units of 0 to 1.
    mode : {"L", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV"}, optional
        What images are converted to, by Pillow, to 8 bits. By default they are read as they are stored and must be of
        the first one's kind; palettes are RGB, alpha does not count.
    max_pixels : int, default 178956970
        The largest image to decode.
    header : bool, optional
        Whether the first line of a text has the names of its columns. By default it has, and an error asks where all
        of it are numbers.
    null_values, delimiter, decimal, encoding, comment : str, optional
        Of texts: more spellings of what is missing; what is between columns, by default what the file's name says;
        the decimal point; the encoding; and what begins a comment.
    memory : int, default 64 MiB
        Bytes that blocks may take, all that are under way together; libraries that read files have their own beside.
        The result depends on it by rounding alone.
    on_error : {"raise", "skip"} or callable, default "raise"
        What happens with a file that cannot be read or does not fit the others: its error is raised; or the file is
        left out as a whole, with a RuntimeWarning that names it, or a call ``on_error(name, error)``.
    checkpoint : path, optional
        File in which every few seconds is written how far the run is; it is removed when the run is complete.
    every : float, default 5.0
        Seconds between two checkpoints.
    resume : bool, default False
        Whether to go on from the checkpoint, if there is one. The result has the same bits as that of a run which was
        not interrupted.
    progress : callable, optional
        Called ``progress(done, total)`` now and then with numbers of bytes; total is None where it is unknown.

    Returns
    -------
    Moments
        With extremes, unless these were not wanted. Where features have names, they are its attribute ``names``, and
        `standardize` finds them by these. It goes by the `scale`, `axis` and `mode` given here, too.

    Raises
    ------
    TypeError, ValueError, OSError
        If an option is not what it could be; if a file cannot be read, is not what it should be, was changed
        meanwhile, or has other features than those before it, with its name; if the checkpoint is of another run.
    ImportError
        If a package is missing that a file needs; all are in ``fastbn[files]``.

    See Also
    --------
    standardize : writes the standardized data.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np, fastbn
    >>> x = np.random.default_rng(0).normal(5.0, 2.0, size=(1000, 3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "x.npy")
    ...     np.save(path, x)
    ...     m = fastbn.stream(path)
    >>> m.count, bool(np.allclose(m.mean, x.mean(axis=0), rtol=1e-14))
    (1000, True)
    >>> parts = fastbn.stream((batch for batch in np.split(x, 10)), columns=[2])
    >>> bool(np.allclose(parts.mean, m.mean[2:], rtol=1e-14))
    True
    """
    found = streamed(
        source,
        reading_of(
            axis=axis,
            columns=columns,
            dtype=dtype,
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
            weights=weights,
        ),
        nan=nan,
        where_finite=where_finite,
        extremes=extremes,
        scale=scale,
        on_error=on_error,
        checkpoint=checkpoint,
        every=every,
        resume=resume,
        progress=progress,
    )
    found.settle()
    return found.stats.moments


class Streamed(NamedTuple):
    """What was counted, the files left out with the reasons, and what was done to values without being asked.

    Its checkpoint stays until it is settled.
    """

    stats: Stats
    skipped: dict[str, str]
    notes: list[str]
    checkpoint: Checkpoint | None

    def settle(self) -> None:
        """Remove the checkpoint: the result is where it is to be."""
        if self.checkpoint is not None:
            self.checkpoint.remove()


def streamed(
    source: Any,
    reading: Reading,
    *,
    nan: Literal["propagate", "omit"] = "propagate",
    where_finite: bool = False,
    extremes: bool = True,
    scale: float = 1.0,
    on_error: OnError = "raise",
    checkpoint: Path | None = None,
    every: float = 5.0,
    resume: bool = False,
    progress: Report | None = None,
    note: Callable[[str], object] | None = None,
) -> Streamed:
    """Return what `stream` counts, with the names of the features and the files left out."""
    from fastbn._moments.provenance import Provenance
    from fastbn.io.counting import Counting, scaled
    from fastbn.io.places import places
    from fastbn.io.statsfiles import Stats

    divisor = checked_scale(scale)
    options = {
        "nan": checked_choice("nan", nan),
        "where_finite": checked_flag("where_finite", where_finite),
        "extremes": checked_flag("extremes", extremes),
    }
    seconds = float(checked_real("every", every, 0, LARGEST))
    resume = checked_flag("resume", resume)
    if checkpoint is None and resume:
        raise ValueError("checkpoint must be given to resume, got None")
    found = places(source)
    kept = None if checkpoint is None else _checkpoint(checkpoint, found, reading, options, on_error, seconds)
    counting = Counting(
        found,
        reading,
        **options,
        listener=checked_on_error(on_error, warn),
        checkpoint=kept,
        report=progress or (lambda done, total: None),
        note=note or warn,
    )
    state = counting.run(resume)
    names = None if state.names is None else tuple(state.names)
    axis = 1 if reading.axis is None else reading.axis
    if reading.dim is not None and counting.axis is not None:
        axis = counting.axis
    moments = scaled(state.total, divisor).copy()
    moments._provenance = Provenance(names if state.named else None, divisor, axis, reading.mode)
    stats = Stats(moments, names, divisor, axis, reading.mode)
    return Streamed(stats, state.skipped, state.notes, kept)


def _checkpoint(
    path: Path, found: Iterable[Place], reading: Reading, options: dict[str, Any], on_error: OnError, every: float
) -> Checkpoint:
    from fastbn import _core
    from fastbn.io.checkpoints import Checkpoint, identity
    from fastbn.io.counting import Weights
    from fastbn.io.places import replaces

    if not isinstance(found, list) or any(place.array is not None for place in found):
        raise ValueError("checkpoint must come with files, which can be read again, got arrays")
    if replaces(os.fspath(path), (file for place in found for file in place.files)):
        raise ValueError(f"checkpoint must not be one of the sources, got {os.fspath(path)!r}")
    shown = {"version": _core.version, **reading.identity(), "on_error": "raise" if on_error == "raise" else "skip"}
    shown["weights"] = None if reading.weights is None else Weights(reading.weights).digest()
    return Checkpoint(os.fspath(path), identity(found, shown | options), every)


def warn(text: str) -> None:
    """Warn at the line that called into the package, from however deep inside."""
    frame: types.FrameType | None = sys._getframe()
    level = 1
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, RuntimeWarning, stacklevel=level)
