"""Where data are: what a user names becomes places, by the names of files and folders alone. Opens nothing."""

from __future__ import annotations

import errno
import glob
import hashlib
import itertools
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import unquote

from fastbn._moments.moments import Moments
from fastbn._validation import refuse_masked

ARRAYS = {
    **{".npy": "npy", ".npz": "npz", ".h5": "hdf5", ".hdf5": "hdf5", ".he5": "hdf5", ".zarr": "zarr"},
    **{".nc": "netcdf", ".nc4": "netcdf", ".cdf": "netcdf"},
}
TEXTS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}  # and what is between their columns
TABLES = {
    **dict.fromkeys(TEXTS, "text"),
    **{".parquet": "parquet", ".pq": "parquet", ".feather": "arrow", ".arrow": "arrow", ".orc": "orc"},
}
FORMATS = ARRAYS | TABLES
COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd", ".lz4": "lz4"}  # of texts
IMAGES = frozenset(
    f".{suffix}"
    for suffix in (
        *("png", "jpg", "jpeg", "jpe", "jfif", "jp2", "j2k", "jxl", "webp", "avif", "bmp", "dib", "gif", "tif", "tiff"),
        *("ppm", "pgm", "pbm", "pnm", "pfm", "pcx", "tga", "ico"),
    )
)
_SEVERAL = ("npz", "hdf5", "zarr", "netcdf")  # formats that hold several arrays
_OF_ARRAYS = ("__array__", "__array_interface__", "__dlpack__", "dtype")
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
# What Delta Lake, Hudi, Spark and Iceberg keep beside files of which they no longer, or do not yet, count all.
_LOGS = re.compile(
    r"^(_delta_log|\.hoodie|_spark_metadata|_temporary|(v\d+|\d{5}-[-0-9a-f]{36})(\.gz)?\.metadata\.json)$"
)
_ZARR_FILES = ("zarr.json", ".zarray", ".zgroup")


class Place(NamedTuple):
    """Where data are, before anything is opened: their format, what errors call them, and their files.

    ``member`` names an array in a file of several, ``array`` is what is given opened, ``root`` the folder that was
    named. ``partitions`` are the columns that folders in it name, as in year=2024: name, value and type.
    """

    format: str
    name: str
    files: tuple[str, ...] = ()
    member: str = ""
    array: Any = None
    root: str | None = None
    partitions: tuple[tuple[str, Any, str], ...] = ()


def suffix_of(path: str) -> str:
    """Return the suffix of a file's or folder's name in small letters, without that of a compressed text."""
    stem, suffix = os.path.splitext(path.rstrip(os.sep).lower())
    inner = os.path.splitext(stem)[1]
    return inner if suffix in COMPRESSED and inner in TEXTS else suffix


def compression_of(path: str) -> str | None:
    """Return how a text is compressed."""
    return COMPRESSED.get(os.path.splitext(path.lower())[1])


def format_of(path: str) -> str | None:
    """Return the format of a file by its name, None if it is of none that is known."""
    suffix = suffix_of(path)
    return "images" if suffix in IMAGES else FORMATS.get(suffix)


def split(path: str) -> tuple[str, str]:
    """Split FILE:NAME, where FILE is of a format that holds several arrays; the name is empty where none is given."""
    for at, character in enumerate(path):
        if character == ":" and format_of(path[:at]) in _SEVERAL:
            return path[:at], path[at + 1 :].strip("/")
    return path, ""


def is_table(place: Place) -> bool:
    """Whether a place has named columns: a table in a file, or a frame in memory."""
    return place.format in TABLES.values() or is_frame(place.array)


def is_frame(array: Any) -> bool:
    """Whether something is a data frame, of pandas, polars or pyarrow."""
    return all(hasattr(array, name) for name in ("columns", "shape")) and not hasattr(array, "dims")


def is_zarr(path: str) -> bool:
    """Whether a folder is a Zarr store."""
    return any(os.path.exists(os.path.join(path, name)) for name in _ZARR_FILES)


def places(source: Any) -> Iterable[Place]:
    """Return the places of a path, an array, or a collection of these; of a generator one by one."""
    found = _of_item("source", source)
    if found is not None:
        return found
    if not isinstance(source, Iterable) or isinstance(source, (bytes, bytearray, Moments)) or hasattr(source, "keys"):
        raise TypeError(f"source must be a path, an array, or an iterable of these, got {type(source).__name__}")
    return _joined(_each(source)) if isinstance(source, (list, tuple)) else _each(source)


def replaces(path: str, files: Iterable[str]) -> bool:
    """Whether writing a path anew takes one of these files away: it is that file, or a Zarr store that holds it."""
    if not os.path.exists(path):
        return False
    inside = os.path.join(os.path.realpath(path), "") if is_zarr(path) else None
    return any(
        (os.path.exists(file) and os.path.samefile(path, file))
        or (inside is not None and os.path.realpath(file).startswith(inside))
        for file in files
    )


def refuse_streams(path: str) -> None:
    """Raise OSError for what can be read once alone, or never ends, or is not there."""
    kind = os.stat(path).st_mode
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        raise OSError(errno.ESPIPE, "must be a file, which can be read more than once, got a pipe or a device", path)


def already_there(path: str, hint: str = "overwrite=True, --force, replaces it") -> FileExistsError:
    """Return the error for a file or a folder that may not be replaced."""
    return FileExistsError(errno.EEXIST, f"{os.strerror(errno.EEXIST)} ({hint})", path)


def left_out(folder: str) -> list[str]:
    """Return the files of a folder that are not read, for they are of no format that is known, or not images."""
    files = list(_files(folder))
    images = any(format_of(file) == "images" for file in files)
    return [file for file in files if format_of(file) is None or (images and format_of(file) != "images")]


def fingerprint(place: Place) -> dict[str, Any]:
    """Return what changes when a place's files do: names, sizes and times of change."""
    digest, total, newest, count = hashlib.sha256(), 0, 0, 0
    for path, found in _found(place):
        total, newest, count = total + found.st_size, max(newest, found.st_mtime_ns), count + 1
        digest.update(repr((path, found.st_size, found.st_mtime_ns)).encode("utf-8", "surrogateescape"))
    return {"name": place.name, "files": count, "bytes": total, "changed": newest, "digest": digest.hexdigest()}


def nbytes_of(place: Place) -> int:
    """Return the size of a place's files, or of its array; 0 of what is missing."""
    if place.array is not None:
        with suppress(Exception):  # of objects that do not know it
            return int(place.array.nbytes)
        return 0
    return sum(found.st_size for _, found in _found(place))


def _found(place: Place) -> Iterator[tuple[str, os.stat_result]]:
    """Yield each file of a place that is there, those in its folders too, and what the system says of it."""
    for path in place.files:
        inner = (os.path.join(root, name) for root, _, names in os.walk(path) for name in names)
        for file in sorted(inner) if os.path.isdir(path) else (path,):
            with suppress(OSError):
                yield file, os.stat(file)


def _each(source: Iterable[Any]) -> Iterator[Place]:
    for index, item in enumerate(source):
        found = _of_item(f"source[{index}]", item)
        if found is None:
            raise TypeError(f"source must hold paths or arrays, got {type(item).__name__} at {index}")
        yield from found


def _of_item(name: str, item: Any) -> list[Place] | None:
    """Return the places of a path or of an array; None where something is neither."""
    if isinstance(item, (str, os.PathLike)):
        return _of_path(os.fspath(item))
    if hasattr(item, "read") and hasattr(item, "readline"):
        raise TypeError(f"{name} must be a path or an array, got the open file {type(item).__name__}: give its path")
    if not isinstance(item, memoryview) and not any(hasattr(item, name) for name in _OF_ARRAYS):
        return None
    refuse_masked(name, item)
    if is_frame(item) and hasattr(item, "compute"):
        raise TypeError(f"{name} must be in memory, got a frame of dask (fastbn.dask.moments reads it)")
    return [Place("memory", name, array=item)]


def _of_path(path: str) -> list[Place]:
    bare, member = (path, "") if os.path.exists(path) else split(path)
    if glob.has_magic(bare) and not os.path.exists(bare):
        count = len(glob.glob(bare))
        hint = f"(a pattern of {count} file(s): glob.glob, or a shell where it is not in quotes, makes a list of it)"
        hint = hint if count else "(a pattern of no file)"
        raise FileNotFoundError(errno.ENOENT, f"{os.strerror(errno.ENOENT)} {hint}", bare)
    if os.path.isdir(bare):
        if is_zarr(bare) or format_of(bare) == "zarr":
            return [Place("zarr", path, (bare,), member)]
        return _of_folder(bare)
    found = format_of(bare)
    if found is None:
        if not os.path.exists(bare):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), bare)
        known, shown = ", ".join([*FORMATS, "images"]), f"fastbn merge {path} --out COPY.json"
        hints = {
            ".json": f"statistics are shown by {shown}",
            ".txt": "a table in a text is one by the name .csv, with delimiter= for what is between its columns",
            ".xlsx": "give the data frame that pandas.read_excel makes of it",
        }
        hint = next((f" ({said})" for suffix, said in hints.items() if path.lower().endswith(suffix)), "")
        raise ValueError(f"source must be a folder or a file of a known format ({known}), got {path!r}{hint}")
    return [Place(found, path, (bare,), member)]


def _of_folder(folder: str) -> list[Place]:
    files = list(_files(folder))
    images = tuple(file for file in files if format_of(file) == "images")
    if images:
        return [Place("images", folder, images, root=folder)]
    others = [Place(str(format_of(file)), file, (file,), root=folder) for file in files if format_of(file) is not None]
    if not others:
        raise ValueError(f"source must hold images or other files of a known format, got the folder {folder!r}")
    return _partitioned(others, folder)


def _partitioned(places: list[Place], folder: str) -> list[Place]:
    """Return places with the columns that the names of their folders give, as Hive and pyarrow.dataset have them."""
    found: list[dict[str, str | None]] = []
    for place in places:
        parts = os.path.relpath(place.name, folder).split(os.sep)[:-1] if is_table(place) else []
        pairs = (map(unquote, part.split("=", 1)) for part in parts if "=" in part)
        found.append({key: None if value == _HIVE_NULL else value for key, value in pairs})
    known = [(key, value) for pairs in found for key, value in pairs.items() if value is not None]
    texts = {key for key, value in known if not re.fullmatch("-?[0-9]{1,18}", value)}
    types = {key: "string" if key in texts else "int64" for pairs in found for key in pairs}
    return [
        place._replace(
            partitions=tuple(
                (key, value if value is None or key in texts else int(value), types[key])
                for key, value in pairs.items()
            )
        )
        for place, pairs in zip(places, found, strict=True)
    ]


def _files(folder: str) -> Iterator[str]:
    """Yield the files (and Zarr stores) of a folder and of those in it, by name, hidden ones left out.

    Links are followed, but not back to a folder that they are in.
    """
    waiting: list[tuple[str, tuple[str, ...]]] = [(folder, ())]
    while waiting:
        path, above = waiting.pop()
        real = os.path.realpath(path)
        if real in above:
            continue
        with os.scandir(path) as entries:
            seen = sorted(entries, key=lambda entry: entry.name)
        for log in filter(_LOGS.search, (entry.name for entry in seen)):
            raise ValueError(
                f"source must be a folder of which all files count, got {path!r} with {log!r}, which says that some do "
                "not (give a list of those that do, or batches of rows from what reads such tables)"
            )
        seen = [entry for entry in seen if not entry.name.startswith(".")]
        inner = [entry.path for entry in seen if _is_folder(entry)]
        yield from (entry.path for entry in seen if not _is_folder(entry))
        waiting += [(each, (*above, real)) for each in reversed(inner)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether something in a folder is one too, and no Zarr store; a link that leads in a circle is none."""
    try:
        return entry.is_dir() and format_of(entry.name) != "zarr"
    except OSError:
        return False


def _joined(places: Iterable[Place]) -> list[Place]:
    """Make one place of images that follow each other."""
    result: list[Place] = []
    for images, group in itertools.groupby(places, lambda place: place.format == "images"):
        alike = list(group)
        if images and len(alike) > 1:
            files = itertools.chain.from_iterable(place.files for place in alike)
            alike = [Place("images", f"{alike[0].name}, ...", tuple(files))]
        result += alike
    return result
