"""`stream` and `standardize`: data larger than memory. A call imports `counting` or `rewriting`, which do the work."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy.typing as npt

from fastbn._moments.moments import Moments
from fastbn._validation import warn
from fastbn.io.options import FOLDERS, MAX_PIXELS, MEMORY, Columns, NoData, OnError, Options, Path, Report


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
    decimal: str | None = None,
    encoding: str | None = None,
    comment: str | None = None,
    memory: int | str = MEMORY,
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
        has a shape, a dtype, chunks and slicing. Several are counted together, and must have the same features, with
        the same coordinates where they have any.
    axis : int or tuple of ints, default 1
        The feature axis or axes of arrays. An array of one dimension in a file is one column. Images have none to
        choose: their features are the channels.
    dim : str or iterable of str, optional
        Instead of `axis`, the names of the dimensions to reduce, of xarray objects and of files that name them.
    columns : sequence of int or str, optional
        The features to count, in that order: by number, or in tables and images by name. By default all; of a
        table all columns of numbers but those of pandas' index, and those that the names of folders give, as in
        ``year=2024``. A RuntimeWarning names these, columns of a .csv or .tsv file of which some entries are numbers,
        and columns of a pandas frame that hold numbers beside other objects. Columns of strings in a data frame or a
        Parquet file are text even where they spell numbers, and are left out without a warning.
    weights : str, path or array_like, optional
        How much each value counts: the name of a table's column; one for each row of all sources; or an array that
        broadcasts to the source's shape, by dimension names where both have them; also as a file of these.
    dtype : {float32, float64}, optional
        What values are converted to before they are counted. By default the columns of a table become float64, unless
        all are float32, and so do long doubles; what float64 does not hold exactly is an error, but for decimals with
        places behind the point, which become the nearest numbers.
    nan : {"propagate", "omit"}, default "propagate"
        As for `Moments`. What is missing in a table is NaN.
    where_finite : bool, default False
        Whether NaN and infinite entries are left out.
    nodata : number, sequence or mapping of columns to these, optional
        Stored values that are no data, and left out. By default what the file says: ``_FillValue``,
        ``missing_value`` and what is outside of ``valid_range``, ``valid_min`` and ``valid_max`` of HDF5, NetCDF and
        Zarr, GDAL's of TIFF; ``[]`` for none.
    extremes : bool, default True
        Whether to look for the least and the largest value too.
    scale : float, default 1.0
        What values are divided by; 255 gives the statistics of images of 8 bits in units of 0 to 1, 65535 those of 16.
    mode : {"L", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV"}, optional
        What images are converted to, by Pillow, to 8 bits. By default they are read as they are stored and must be of
        the first one's mode; palettes are RGB, alpha does not count.
    max_pixels : int, default 178956970
        The largest image to decode; four channels beyond the first four count as another pixel.
    header : bool, optional
        Whether the first line of a text has the names of its columns. By default it has, and an error asks where all
        of it are numbers, true or false, or missing.
    null_values, delimiter, decimal, encoding, comment : str, optional
        Of texts: more spellings of what is missing; what is between columns, by default what the file's name says;
        the decimal point, by default "."; the encoding, by default UTF-8; and what begins a comment.
    memory : int or str, default 64 MiB
        Bytes that blocks may take, all that are under way together, or a text such as ``"64M"`` or ``"1G"``; libraries
        that read files have their own beside. The result depends on it by rounding alone.
    on_error : {"raise", "skip"} or callable, default "raise"
        What happens with a file that cannot be read or does not fit the others: its error is raised; or the file is
        left out as a whole, with a RuntimeWarning that names it, or a call ``on_error(name, error)``.
    checkpoint : path, optional
        File in which every few seconds is written how far the run is; it is removed when the run is complete. That
        of a run before is replaced, unless `resume` goes on from it.
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
        With extremes, unless ``extremes=False``. Where features have names, they are its attribute ``names``, and
        `standardize` finds them by these, or by the coordinates along their axes. It goes by the `scale`, `axis`,
        `mode`, `nodata` and the options of texts given here, too.

    Raises
    ------
    TypeError, ValueError, OSError
        If an option is not what it could be; if a file cannot be read, is not what it should be, was changed
        meanwhile, or has other features than those before it, with its name; if the checkpoint is of another run. What
        is wrong with a source is a ValueError of a class that tracebacks call UnreadableError.
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
    options = Options.of(locals())
    from fastbn.io.counting import Counting
    from fastbn.io.statsfiles import remembering

    counting = Counting(source, options)
    moments = counting.moments()
    counting.remove_checkpoint()
    names = (counting.state.others or {}).get(FOLDERS)
    if names and options.columns is None:
        warn(f"columns {FOLDERS} are not counted unless they are asked for by columns=: {', '.join(names)}")
    return moments if counting.state.named else remembering(moments, names=None)


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
    decimal: str | None = None,
    encoding: str | None = None,
    comment: str | None = None,
    memory: int | str = MEMORY,
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
        Statistics of the same features, which are found by their names or their coordinates where both have them; or a
        file of them, as ``fastbn stats`` writes it.
    out : path
        By its suffix: .npy, .npz, .h5, .zarr or .nc for arrays; .csv, .tsv, .parquet, .feather or .orc for tables;
        several sources follow each other along axis 0. ``"file.h5:name"`` (.npz, .h5, .zarr) names one array of a
        file, all others of which stay as they are. Name, chunks, compression, attributes, names of dimensions and
        coordinates of the source, and its file's attributes, are kept where the format has them. Anything else is a
        folder of one file per source, or of one .npy file per image.
    axis, mode, scale : optional
        As for `stream`. By default what they were when `moments` were streamed, or else 1, None and 1. Another scale
        is for values in other units, 1 for those that are divided already: integers cannot be, and are then refused.
    nodata, header, null_values, delimiter, decimal, encoding, comment : optional
        As for `stream`, and by default what they were then; ``nodata=[]`` for none. What is no data becomes NaN, and a
        text is written as it was read.
    dim, columns, max_pixels, memory
        As for `stream`. An array is written with the chosen features alone. A table keeps its other columns as they
        are, and those of a text have types in .parquet, .feather and .orc where these hold all entries exactly; as an
        array it has the chosen ones alone.
        Images become (N, channels, height, width), for which they must be of one size, or in a folder (channels,
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

    Warns
    -----
    RuntimeWarning
        Where statistics are NaN or infinite: only NaN is written for their features.

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
    from fastbn.io.statsfiles import listed, spoiled

    rewriting = Rewriting(source, moments, out, options)
    wrong = spoiled(rewriting.moments, of="mean")  # a variance beyond float64 is warned of where it divides
    asked = options.columns or ()
    if any(isinstance(column, str) for column in asked):  # numbers are the source's, not the statistics'
        wrong = [name for name in wrong if name in asked]
    if wrong:
        hint = "nan='omit' or where_finite=True of fastbn.stream leaves out what spoiled them"
        warn(f"no finite statistics, so only NaN is written: {listed(wrong)} ({hint})")
    rewriting.write()
