"""Standardized copies of data larger than memory: `standardize`. The work is in `rewriting`, which a call imports."""

from __future__ import annotations

from collections.abc import Iterable

import numpy.typing as npt

from fastbn._moments.moments import Moments
from fastbn.io.options import MAX_PIXELS, MEMORY, Columns, NoData, OnError, Options, Path, Report


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
        file, all others of which stay as they are. Name, chunks, compression, attributes, names of dimensions and
        coordinates of the source, and its file's attributes, are kept where the format has them. Anything else is a
        folder of one file per source, or of one .npy file per image.
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
    options = Options.of({**locals(), "written": dtype, "dtype": None})
    from fastbn.io.rewriting import Rewriting

    Rewriting(source, moments, out, options).write()
