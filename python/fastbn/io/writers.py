"""What `out` names, a file, one array of a file or a folder, and arrays written to it region by region.

Writers are given a temporary name; where a file holds other arrays that are to stay, it is a copy of that file.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import shutil
import warnings
import zipfile
from collections.abc import Callable, Container, Mapping
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple

import numpy as np

from fastbn._atomic import removed
from fastbn._validation import Shape
from fastbn.io.arrays import PACKING, contiguous, data_sets, referred, scale_of, zarr_format
from fastbn.io.options import Array, Path
from fastbn.io.places import FORMATS, Place, split, suffix_of
from fastbn.io.sources import Origin, needed, region_at

# Large enough to be read at the speed of the disk, small enough to be read for a few rows.
_CHUNK_BYTES = 1 << 20
_PATIENCE = 30.0  # seconds for chunks that are under way, at most a block's; the tasks may be another's too
# Attributes that say how the old numbers were stored or what they were, or that libraries keep for themselves.
_OWN = {
    *PACKING,
    *("actual_range", "flag_values", "flag_masks", "flag_meanings", "units_metadata", "least_significant_digit"),
    *("GRIB_missingValue", "coordinates", "CLASS", "NAME"),
    *("REFERENCE_LIST", "DIMENSION_LIST", "_ARRAY_DIMENSIONS", "_Netcdf4Dimid", "_Netcdf4Coordinates", "_NCProperties"),
    "_nc3_strict",
}
_UNITS = ("units", "unit", "grib_units")  # of the old numbers: the new ones have none
_ZARR_FILE = re.compile(r"zarr\.json|\.z(array|attrs|group|metadata)").fullmatch
_PLAIN = "?bBhHiIlLqQfd"  # types of numbers that attributes keep


class Target(NamedTuple):
    """A file, or a folder (``format`` "folder") of one file for each that is read; ``member`` names the array in it.

    Where the name was given (``named``), the other arrays of the file stay.
    """

    format: str
    path: str
    member: str = "data"
    named: bool = False

    @property
    def name(self) -> str:
        """What errors call it."""
        return f"{self.path}:{self.member}" if self.named else self.path

    @property
    def within(self) -> bool:
        """Whether it is an array of a file that is there."""
        return self.named and os.path.exists(self.path)

    def is_there(self) -> bool:
        """Whether there is something that would be replaced."""
        if not self.within:
            return os.path.lexists(self.path)
        if self.format == "npz":
            with zipfile.ZipFile(self.path) as archive:
                return f"{self.member}.npy" in archive.namelist()
        if self.format == "hdf5":
            with needed("h5py", "HDF5 files").File(self.path, "r") as file:
                # A link that leads nowhere is something too.
                return self._is_in(file) or file.get(self.member, getlink=True) is not None
        if self.format == "zarr":
            return self._is_in(needed("zarr", "Zarr stores").open(self.path, mode="r"))
        raise ValueError(f"out must be a new file where it is NetCDF, got {self.name!r}, in a file that is there")

    def _is_in(self, file: Any) -> bool:
        """Whether an opened file has the array; ValueError where it cannot, or has a group of that name."""
        found = file
        for part in self.member.split("/"):
            if hasattr(found, "dtype"):
                raise ValueError(f"out must name an array in a group, got {self.name!r}, which is in an array")
            found = found.get(part, None)
            if found is None:
                return False
        if not hasattr(found, "dtype"):
            raise ValueError(f"out must name an array, got the group {self.name!r}")
        return True

    def spares(self, place: Place) -> bool:
        """Whether a place is another array of the file by its name, which stays."""
        if not self.named or place.array is not None or place.format != self.format or not place.member:
            return False
        one, other = (_plain(member) for member in (self.member, place.member))
        if self.format == "zarr":  # where folders may be links
            one, other = (os.path.realpath(os.path.join(self.path, each)) for each in (one, other))
        return not f"{other}/".startswith(f"{one}/")

    def takes(self, array: Any) -> bool:
        """Whether an open data set of HDF5 goes with what is replaced, or another that it is made of.

        Links may have led to it, from another name or another file than the one that was named.
        """
        return os.path.exists(self.path) and any(
            os.path.samefile(file, self.path) and (not self.named or self._is(name)) for file, name in data_sets(array)
        )

    def _is(self, name: str) -> bool:
        with needed("h5py", "HDF5 files").File(self.path, "r") as file:
            found = file.get(self.member)
            return found is not None and ("%" in name or found == file.get(name))


def _plain(member: str) -> str:
    """Return an array's name without what HDF5, Zarr and archives skip in it."""
    return "/".join(part for part in member.split("/") if part not in ("", "."))


def target_of(out: Path) -> Target:
    """Return what a path names; ValueError if its name says nothing that is known."""
    path = os.fspath(out)
    bare, member = split(path)
    if member:
        # What describes a Zarr store or an array in it is a file, for which an array's folder would be put.
        describes = suffix_of(bare) == ".zarr" and any(map(_ZARR_FILE, member.split("/")))
        if describes or not _plain(member):
            raise ValueError(f"out must name an array, got {path!r}")
        return Target(FORMATS[suffix_of(bare)], bare, _plain(member), True)
    suffix = suffix_of(path)
    if suffix in FORMATS:
        return Target(FORMATS[suffix], path.rstrip(os.sep))
    if not path or (suffix and not path.endswith(os.sep)):
        raise ValueError(f"out must be a folder or a file of a known format ({', '.join(FORMATS)}), got {path!r}")
    return Target("folder", path.rstrip(os.sep) or os.sep)


# Arrays, and what they are made from.


class ArraySpec(NamedTuple):
    """An array that is to be written: the shape of a row, the type, and what the source is beside its values.

    ``rows`` is how many rows of it come from this source; others may follow.
    """

    rows: int
    trailing: Shape
    dtype: np.dtype[Any]
    origin: Origin
    resumed: bool = False  # whether a part of it is there

    @property
    def chunks(self) -> Shape:
        """How it is cut: as the source, if that is of the same shape."""
        given = self.origin.chunks
        if given is None or len(given) != len(self.trailing) + 1:
            return _chunks(self.trailing, self.dtype)
        return (given[0], *(max(1, min(pair)) for pair in zip(given[1:], self.trailing, strict=True)))

    @property
    def attrs(self) -> dict[str, Any]:
        """The attributes of the source; the unit of what has none is "1" (CF conventions, section 3.1)."""
        return {key: "1" if key.lower() in _UNITS else value for key, value in self.origin.attrs.items()}

    @property
    def dims(self) -> tuple[str, ...] | None:
        """The names of its dimensions, if the source has as many."""
        dims = self.origin.dims
        return dims if dims is not None and len(dims) == len(self.trailing) + 1 else None

    def name(self, target: Target) -> str:
        """Return what it is called: as it is asked for, or as the source is, if that is not one of the coordinates."""
        taken = () if self.origin.coords is None else self.origin.coords.variables
        return target.member if target.named or self.origin.name in ("", *taken) else self.origin.name

    def coords(self) -> Any:
        """Return the source's coordinates along dimensions that are still whole, None if it has none."""
        coords = self.origin.coords
        if coords is None or self.dims is None:
            return None
        sizes = dict(zip(self.dims, (self.rows, *self.trailing), strict=True))
        fits = {name for name, size in coords.sizes.items() if sizes.get(name, size) == size}
        return coords.drop_vars([name for name, value in coords.variables.items() if not set(value.dims) <= fits])

    def limit(self, coords: Any) -> float:
        """Return how many rows coordinates allow."""
        most: float = math.inf if coords is None or self.dims is None else coords.sizes.get(self.dims[0], math.inf)
        return most


def _texts(value: Any) -> Any:
    """Return an attribute in Python's types; bytes are texts, in the older encoding where they are not in UTF-8."""
    value = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
    if isinstance(value, list):
        return [_texts(each) for each in value]
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _told(attrs: Mapping[str, Any], but: Container[str] = _OWN) -> dict[str, Any]:
    """Return attributes as JSON has them, but for those that say how numbers are stored, or are the libraries' own.

    Without those that JSON has not: dates, complex numbers and HDF5's references, for instance.
    """
    plain = {}
    for key, value in attrs.items():
        told = _texts(value)
        with suppress(TypeError, ValueError):
            if key not in but and json.dumps(told):
                plain[key] = told
    return plain


def _simple(attrs: Mapping[str, Any], netcdf: bool = False, but: Container[str] = _OWN) -> dict[str, Any]:
    """Return those that HDF5 has too, of their types: numbers and texts, and arrays.

    NetCDF has no booleans and no complex numbers, and arrays of one dimension alone.
    """
    found: dict[str, Any] = {}
    for key, value in attrs.items():
        kind = value.dtype.kind if isinstance(value, (np.ndarray, np.generic)) else "O"
        plain = kind in "iuf" and value.dtype.char in _PLAIN
        held = value if plain or (kind in "bc" and not netcdf) else _texts(value)
        with suppress(TypeError, ValueError):  # of lists of other lengths
            array = np.asarray(held)
            fits = array.dtype.char in "bBhHiIlLqQfdU" and array.ndim < 2 if netcdf else array.dtype.kind in "biufcU"
            entries = np.asarray(held, object).ravel().tolist() if array.dtype.kind == "U" else ()
            if key not in but and kind != "V" and fits and all(isinstance(entry, str) for entry in entries):
                found[key] = held
    return found


def _with_attrs(coords: Any, kept: Callable[..., dict[str, Any]], **how: Any) -> Any:
    """Return coordinates with those of their attributes that a format has, as they are but for bytes."""
    copy = coords.copy()
    for variable in copy.variables.values():
        variable.attrs = kept(variable.attrs, but=(), **how)
    return copy


def _filters(stored: Any) -> dict[str, Any]:
    """Return how an array of HDF5 or NetCDF is compressed, by what HDF5 always has."""
    encoding = getattr(stored, "encoding", None)
    if isinstance(encoding, dict) and encoding.get("zlib"):  # of xarray
        return {"compression": "gzip", "compression_opts": encoding.get("complevel"), "shuffle": encoding["shuffle"]}
    if not hasattr(stored, "compression_opts") or stored.chunks is None:
        return {}
    options = {"shuffle": stored.shuffle, "fletcher32": stored.fletcher32}
    known = stored.compression in ("gzip", "lzf")
    return options | ({"compression": stored.compression, "compression_opts": stored.compression_opts} if known else {})


def _chunks(trailing: Shape, dtype: np.dtype[Any]) -> Shape:
    """Return chunks of whole rows, or of pieces of one."""
    chunk = [1, *(max(1, size) for size in trailing)]
    for axis in range(1, len(chunk)):
        over = math.prod(chunk) * dtype.itemsize / _CHUNK_BYTES
        if over > 1:
            chunk[axis] = max(1, int(chunk[axis] / over))
    chunk[0] = max(1, _CHUNK_BYTES // (math.prod(chunk) * dtype.itemsize))
    return tuple(chunk)


class Writer:
    """Takes an array region by region, or a table by rows; how many rows there are shows at the end."""

    _array: Any  # can grow: ``resize`` and slicing is all that is known of it here
    _most: float = math.inf  # rows, where there are coordinates of so many

    def write(self, corner: Shape, values: Any) -> None:
        """Write values to where they begin in the whole array, which grows if it must."""
        region = region_at(corner, values.shape)
        rows = region[0].stop
        if rows > self._most:
            got = f"{self._most}, got {rows} (a folder takes several sources, each with its own)"
            raise ValueError(f"out must hold as many rows as there are coordinates of them, {got}")
        if rows > self._array.shape[0]:
            self._resize(rows)
        self._array[region] = values

    def synchronize(self, rows: int) -> None:
        """Have the system write out what was written, an array of so many rows, so that a run can go on from here."""
        os.sync()  # it is in many files

    def finish(self, rows: int) -> None:
        """Complete the file, of so many rows."""

    def close(self) -> None:
        """Let go of the file, complete or not."""

    def _resize(self, rows: int) -> None:
        self._array.resize((rows, *self._array.shape[1:]))


class _NpyWriter(Writer):
    """An .npy file in C order. Its header has the number of rows, and room to write it once more at the end."""

    def __init__(self, target: Target, path: str, spec: ArraySpec) -> None:
        self._trailing, self._dtype = spec.trailing, spec.dtype
        self._file = open(path, "r+b" if spec.resumed else "wb")  # noqa: SIM115 (closed by `close`)
        self._header(0)
        self._begin = self._file.tell()

    def write(self, corner: Shape, values: Array) -> None:
        region = region_at(corner, values.shape)
        data, position = np.ascontiguousarray(values).reshape(-1), 0
        for first, count in contiguous((region[0].stop, *self._trailing), region):
            self._file.seek(self._begin + first * self._dtype.itemsize)
            self._file.write(data[position : position + count].data)
            position += count

    def synchronize(self, rows: int) -> None:
        self._header(rows)
        self._file.flush()
        os.fsync(self._file.fileno())

    def finish(self, rows: int) -> None:
        self._header(rows)
        self._file.truncate(self._begin + rows * math.prod(self._trailing) * self._dtype.itemsize)

    def close(self) -> None:
        self._file.close()

    def _header(self, rows: int) -> None:
        self._file.seek(0)
        descr = np.lib.format.dtype_to_descr(self._dtype)
        header = {"descr": descr, "fortran_order": False, "shape": (rows, *self._trailing)}
        np.lib.format.write_array_header_1_0(self._file, header)


class _NpzWriter(_NpyWriter):
    """An array of an .npz file, which is written beside it first: its size must be known before the rest."""

    def __init__(self, target: Target, path: str, spec: ArraySpec) -> None:
        self._path, self._beside = path, f"{path}.npy"
        self._name, self._old = f"{spec.name(target)}.npy", target.path if target.within else None
        super().__init__(target, self._beside, spec)

    def finish(self, rows: int) -> None:
        super().finish(rows)
        super().close()
        with zipfile.ZipFile(self._path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive, ExitStack() as stack:
            old = stack.enter_context(zipfile.ZipFile(self._old)) if self._old else None
            for member in old.infolist() if old else ():
                if old and member.filename != self._name:
                    with old.open(member) as source, archive.open(member, "w", force_zip64=True) as copy:
                        shutil.copyfileobj(source, copy, _CHUNK_BYTES)
            with open(self._beside, "rb") as new, archive.open(self._name, "w", force_zip64=True) as copy:
                shutil.copyfileobj(new, copy, _CHUNK_BYTES)

    def close(self) -> None:
        try:
            super().close()
        finally:  # a full disk says so once more, of what was still to be written
            removed(self._beside)


class _Hdf5Writer(Writer):
    """An array of an HDF5 file: a new one, or a copy of one of which everything else stays."""

    def __init__(self, target: Target, path: str, spec: ArraySpec) -> None:
        if target.within:
            shutil.copyfile(target.path, path)
        self._file = self._opened(path, target.within)
        stored = spec.origin.stored
        source = stored if type(stored) is needed("h5py", "HDF5 files").Dataset else None
        name = spec.name(target)
        if name in self._file:
            del self._file[name]
        limit, ndim = (None, *spec.trailing), len(spec.trailing) + 1
        how = {"maxshape": limit, "chunks": spec.chunks, **_filters(stored)}
        self._array = self._file.create_dataset(name, (0, *spec.trailing), spec.dtype, **how)
        dims = list(source.dims) if source is not None and source.ndim == ndim else []
        labels = [dim.label for dim in dims] or spec.dims or [""] * ndim
        for number, (dim, label) in enumerate(zip(self._array.dims, labels, strict=True)):
            scale = getattr(scale_of(dims[number]), "name", "") if dims else ""
            size = spec.trailing[number - 1] if number else spec.rows
            if scale and getattr(self._file.get(scale), "shape", None) == (size,):
                dim.attach_scale(self._file[scale])
            if label:  # an empty one would be an attribute too
                dim.label = label
        self._array.attrs.update(_simple(spec.attrs))
        if not target.within:
            self._file.attrs.update(_simple(spec.origin.around))

    def _opened(self, path: str, there: bool) -> Any:
        self._raw = _Lenient(path, "r+" if there else "w+")
        self._hdf5 = needed("h5py", "HDF5 files").File(self._raw, "r+" if there else "w")
        return self._hdf5

    def write(self, corner: Shape, values: Array) -> None:
        """Write the region, and see whether that and what was held back before went well."""
        super().write(corner, values)
        self._raw.check()

    def finish(self, rows: int) -> None:
        """Complete the file, which writes what HDF5 has held back."""
        self._file.close()
        self._hdf5.close()
        self._raw.check()

    def close(self) -> None:
        self._hdf5.close()
        self._raw.close()


class _NetcdfWriter(_Hdf5Writer):
    """A NetCDF file of one variable and the coordinates of its source."""

    def __init__(self, target: Target, path: str, spec: ArraySpec) -> None:
        h5netcdf, coords = needed("h5netcdf", "NetCDF files"), spec.coords()
        if spec.dtype == np.float16:
            raise ValueError(f"dtype must be float32 or float64 in NetCDF, got float16 for {target.path!r}")
        if coords is not None:
            grows = [dim for dim in coords.encoding.get("unlimited_dims", ()) if dim in coords.dims]
            coords = _with_attrs(coords, _simple, netcdf=True)
            coords.to_netcdf(path, engine="h5netcdf", unlimited_dims=grows)
        self._file = h5netcdf.File(self._opened(path, coords is not None), "a")
        self._dims = spec.dims or tuple(f"dim_{axis}" for axis in range(len(spec.trailing) + 1))
        for name, size in zip(self._dims, (None, *spec.trailing), strict=True):
            if name not in self._file.dimensions:
                self._file.dimensions[name] = size
        self._most = spec.limit(coords)
        chunks = (max(1, int(min(spec.chunks[0], self._most))), *spec.chunks[1:])
        how = {"chunks": chunks, **_filters(spec.origin.stored)}
        self._array = self._file.create_variable(spec.name(target), self._dims, spec.dtype, **how)
        self._array.attrs.update(_simple(spec.attrs, netcdf=True))
        self._file.attrs.update(_simple(spec.origin.around, netcdf=True))
        variables = {} if coords is None else coords.variables
        known = referred(self._array, *variables.values())
        names = [str(name) for name in variables if name not in (*self._dims, *known)]
        if names:
            self._array.attrs["coordinates"] = " ".join(names)

    def _resize(self, rows: int) -> None:
        self._file.resize_dimension(self._dims[0], rows)


class _Lenient(io.FileIO):
    """A file that keeps its first error to be asked for, and is not written to any more.

    HDF5 ends the process with SIGSEGV if it cannot write, as it closes a file, what it has held back.
    """

    _error: OSError | None = None

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        while written := self._tried(super().write, rest):
            rest = rest[written:]
        return size

    def truncate(self, size: int | None = None) -> int:
        return self._tried(super().truncate, size)

    def _tried(self, function: Callable[[Any], int], value: Any) -> int:
        """Return what a function does, or 0 where it fails, or one did before."""
        try:
            return function(value) if self._error is None else 0
        except OSError as error:
            self._error = error
            return 0

    def check(self) -> None:
        if self._error is not None:
            raise self._error


class _ZarrWriter(Writer):
    """An array of a Zarr store in a folder: a new one, or a copy of one of which everything else stays."""

    def __init__(self, target: Target, path: str, spec: ArraySpec) -> None:
        self._zarr = needed("zarr", "Zarr stores")
        try:
            self._begin(target, path, spec)
        except BaseException:  # Ctrl-C too, while zarr still makes the array
            self.close()
            raise

    def _begin(self, target: Target, path: str, spec: ArraySpec) -> None:
        self._path, self._consolidated = path, False
        name = target.member if target.named else None
        if target.within:
            self._consolidated = _cloned(target.path, path, os.path.normpath(target.member))
        coords = None if target.within else spec.coords()
        self._most, self._consolidated = spec.limit(coords), self._consolidated or coords is not None
        if not spec.resumed and coords is not None:
            name, source = spec.name(target), spec.origin.stored
            version = zarr_format(source) if isinstance(source, self._zarr.Array) else None
            coords = _with_attrs(coords, _told)
            coords.assign_attrs(_told(spec.origin.around)).to_zarr(
                path, mode="w", consolidated=False, zarr_format=version
            )
        self._array = self._zarr.open(path, mode="r+") if spec.resumed else self._created(path, name, spec)
        if not hasattr(self._array, "dtype"):
            self._array = self._array[name or spec.name(target)]
        if zarr_format(self._array) == 2 and hasattr(self._array, "with_config"):
            # Without a fill value it is not said what a chunk holds that is not there.
            self._array = self._array.with_config({"write_empty_chunks": True})

    def synchronize(self, rows: int) -> None:
        self.finish(rows)  # for what is stopped after its last block
        super().synchronize(rows)

    def finish(self, rows: int) -> None:
        """Complete the array, and what the store says of all of them."""
        if self._consolidated:
            with warnings.catch_warnings():  # that this is no part of version 3, which the store has it in
                warnings.simplefilter("ignore")
                self._zarr.consolidate_metadata(self._path)

    def close(self) -> None:
        """Wait until nothing writes: zarr raises the first error while other chunks are still under way.

        They would make folders anew that were removed. Version 2 of zarr has no such tasks.
        """
        wait = getattr(getattr(self._zarr.core, "sync", None), "sync", None)
        if wait is not None:
            wait(_others_done())

    def _created(self, path: str, name: str | None, spec: ArraySpec) -> Any:
        options: dict[str, Any] = {"shape": (0, *spec.trailing), "chunks": spec.chunks, "dtype": spec.dtype}
        source, attrs = spec.origin.stored, _told(spec.attrs)
        ours = isinstance(source, self._zarr.Array)
        if not hasattr(self._zarr, "create_array"):  # pragma: no cover (version 2 of zarr)
            attrs |= {} if spec.dims is None else {"_ARRAY_DIMENSIONS": list(spec.dims)}
            options |= {"compressor": source.compressor} if ours else {}
            array = self._zarr.open_array(path, path=name, mode="w", fill_value=None, **options)
            array.attrs.update(attrs)
            return array
        marks = {3: "zarr.json", 2: ".zgroup"}
        there = (version for version, name in marks.items() if os.path.exists(os.path.join(path, name)))
        version = next(there, zarr_format(source) if ours else 3)
        if ours and zarr_format(source) == version:
            options["compressors"] = source.compressors
            whole = source.shards is None or len(source.shards) != len(options["chunks"])
            options |= {} if whole else {"shards": source.shards, "chunks": source.chunks}
        if version == 2:  # where a fill value says what is no data, and zarr would take 0
            options["fill_value"] = None
            attrs |= {} if spec.dims is None else {"_ARRAY_DIMENSIONS": list(spec.dims)}
        elif spec.dims is not None:
            options["dimension_names"] = spec.dims
        return self._zarr.create_array(path, name=name, zarr_format=version, attributes=attrs, **options)


def _cloned(source: str, path: str, but: str) -> bool:
    """Copy a store without one array, and say whether it has what describes all arrays in one place.

    Chunks, which are never written to once they are there, are the same files; descriptions are copies.
    """

    def copied(file: str, copy: str) -> None:
        name = os.path.basename(file)
        try:
            (shutil.copy2 if name == "zarr.json" or name.startswith(".z") else os.link)(file, copy)
        except OSError:  # a file system without such links
            shutil.copy2(file, copy)

    def left_out(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if os.path.relpath(os.path.join(folder, name), source) == but]

    shutil.copytree(source, path, copy_function=copied, ignore=left_out)
    described = os.path.join(path, "zarr.json")
    if not os.path.exists(described):
        return os.path.exists(os.path.join(path, ".zmetadata"))
    with open(described, "rb") as file:
        return isinstance(json.load(file).get("consolidated_metadata"), dict)


async def _others_done() -> None:
    import asyncio  # slow to import, but zarr has done that

    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=_PATIENCE)


WRITERS: dict[str, Callable[[Target, str, ArraySpec], Writer]] = {
    "npy": _NpyWriter,
    "npz": _NpzWriter,
    "hdf5": _Hdf5Writer,
    "netcdf": _NetcdfWriter,
    "zarr": _ZarrWriter,
}
