"""Statistics of data larger than memory: `stream`, its options checked. What is done with them is in `counting`.

`import fastbn` imports this, so what only a call needs is imported by the call.
"""

from __future__ import annotations

import os
import sys
import types
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from fastbn._moments.moments import Moments
from fastbn._validation import LARGEST, checked_axis, checked_choice, checked_dtype, checked_flag, checked_real

if TYPE_CHECKING:
    from fastbn.io.checkpoints import Checkpoint
    from fastbn.io.sources import Place, Reading
    from fastbn.io.statsfiles import Stats

Path: TypeAlias = str | os.PathLike[str]
Columns: TypeAlias = Sequence[int | str] | None
OnError: TypeAlias = Literal["raise", "skip"] | Callable[[str, Exception], object]
Report: TypeAlias = Callable[[int, int | None], object]

MEMORY = 64 << 20
_PACKAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")


def stream(
    source: Path | npt.ArrayLike | Iterable[Path | npt.ArrayLike],
    *,
    axis: int | tuple[int, ...] = 1,
    columns: Columns = None,
    dtype: npt.DTypeLike | None = None,
    nan: Literal["propagate", "omit"] = "propagate",
    where_finite: bool = False,
    extremes: bool = True,
    scale: float = 1.0,
    mode: str | None = None,
    header: bool = True,
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
        Files: .npy, .npz, .csv, .parquet, .h5, images; folders of images or of other such files, which are read in
        the order of their names, links followed, hidden ones left out; Zarr stores. ``"file.npz:name"``,
        ``"file.h5:path/to/data"`` and ``"store.zarr:name"`` name one array among several. Arrays of two dimensions or
        more, data sets of h5py and arrays of zarr. Several are counted together, and must have the same features.
    axis : int or tuple of ints, default 1
        The feature axis or axes of arrays. An array of one dimension in a file is one column.
    columns : sequence of int or str, optional
        The features to count, in the order wanted: by number, or in tables and images by name. By default all; of a
        table all columns of numbers.
    dtype : {float32, float64}, optional
        What values are converted to before they are counted. By default only what `moments` does not take is, to
        float64: bool, integers of 64 bits, and all columns of a table that are not all float32.
    nan : {"propagate", "omit"}, default "propagate"
        As for `Moments`. What is missing in a table is NaN.
    where_finite : bool, default False
        Whether NaN and infinite entries are left out.
    extremes : bool, default True
        Whether to look for the least and the largest value too.
    scale : float, default 1.0
        What values are divided by; 255 gives the statistics of images in units of 0 to 1.
    mode : {"L", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV"}, optional
        What images are converted to. By default the first decides: grey or RGB, alpha and palettes converted.
    header : bool, default True
        Whether the first line of a .csv file has the names of its columns.
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
        With extremes, unless these were not wanted.

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
        reading_of(axis, columns, dtype, mode, header, memory),
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
    """What was counted, and the files left out with the reasons; its checkpoint stays until it is settled."""

    stats: Stats
    skipped: dict[str, str]
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
) -> Streamed:
    """Return what `stream` counts, with the names of the features and the files left out."""
    from fastbn.io.combining import scaled
    from fastbn.io.counting import Counting
    from fastbn.io.sources import places
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
        listener=checked_on_error(on_error),
        checkpoint=kept,
        report=progress or (lambda done, total: None),
    )
    state = counting.run(resume)
    names = None if state.names is None else tuple(state.names)
    stats = Stats(scaled(state.total, divisor), names, divisor, reading.axis, reading.mode)
    return Streamed(stats, state.skipped, kept)


def reading_of(axis: Any, columns: Any, dtype: Any, mode: Any, header: Any, memory: Any, beside: int = 0) -> Reading:
    """Return the options that concern sources, checked."""
    from fastbn.io.sources.base import LEAST_MEMORY, Reading

    if columns is not None:
        valid = isinstance(columns, Sequence) and not isinstance(columns, (str, bytes))
        if not valid or any(isinstance(c, bool) or not isinstance(c, (int, str, np.integer)) for c in columns):
            raise TypeError(f"columns must be a list of names and numbers, got {columns!r}")
        columns = tuple(c if isinstance(c, str) else int(c) for c in columns)
    if isinstance(memory, bool) or not isinstance(memory, (int, np.integer)):
        raise TypeError(f"memory must be a number of bytes, got {memory!r}")
    if memory < LEAST_MEMORY:
        raise ValueError(f"memory must be {LEAST_MEMORY} bytes or more, got {memory}")
    wanted = None if dtype is None else checked_dtype(dtype)
    flag = checked_flag("header", header)
    return Reading(checked_axis(axis), columns, wanted, checked_mode(mode), flag, int(memory), beside)


def checked_on_error(on_error: Any) -> Callable[[str, Exception], object] | None:
    """Return whom to tell of a file that cannot be read; None if it is to be raised."""
    if callable(on_error):
        told: Callable[[str, Exception], object] = on_error
        return told
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise', 'skip' or a function, got {on_error!r}")
    return None if on_error == "raise" else _warn


def checked_mode(mode: Any) -> str | None:
    """Return a mode that images can be converted to, or None."""
    from fastbn.io.sources.base import IMAGE_MODES

    if mode is None or (isinstance(mode, str) and mode in IMAGE_MODES):
        return mode
    raise ValueError(f"mode must be one of {', '.join(IMAGE_MODES)}, got {mode!r}")


def checked_scale(scale: Any) -> float:
    """Return a finite divisor above 0."""
    divisor = float(checked_real("scale", scale, 0, LARGEST))
    if divisor == 0:
        raise ValueError(f"scale must be above 0, got {scale!r}")
    return divisor


def _checkpoint(
    path: Path, found: Iterable[Place], reading: Reading, options: dict[str, Any], on_error: OnError, every: float
) -> Checkpoint:
    from fastbn import _core
    from fastbn.io.checkpoints import Checkpoint, identity
    from fastbn.io.sources import replaces

    if not isinstance(found, list) or any(place.array is not None for place in found):
        raise ValueError("checkpoint must come with files, which can be read again, got arrays")
    if replaces(os.fspath(path), (file for place in found for file in place.files)):
        raise ValueError(f"checkpoint must not be one of the sources, got {os.fspath(path)!r}")
    shown = {
        "version": _core.version,
        "axis": reading.axis if isinstance(reading.axis, int) else list(reading.axis),
        "columns": None if reading.columns is None else list(reading.columns),
        "dtype": None if reading.dtype is None else reading.dtype.name,
        "mode": reading.mode,
        "header": reading.header,
        "memory": reading.memory,
        "on_error": "raise" if on_error == "raise" else "skip",
    }
    return Checkpoint(os.fspath(path), identity(found, shown | options), every)


def _warn(name: str, error: Exception) -> None:
    """Warn at the line that called into the package, from however deep inside."""
    frame: types.FrameType | None = sys._getframe()
    level = 1
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(f"left out: {error}", RuntimeWarning, stacklevel=level)
