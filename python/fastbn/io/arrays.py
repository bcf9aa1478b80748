"""Arrays, read tile by tile through one small interface: a shape, a type, and a function that reads a region.

.npy and .npz files are read here, HDF5 by h5py, Zarr stores by zarr, NetCDF by xarray; and whatever has a shape, a
type and slicing serves, opened or in memory.
"""

from __future__ import annotations

import base64
import itertools
import math
import mmap
import os
import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from decimal import Decimal
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastbn._validation import Axis, Shape, converted
from fastbn.io.options import Array, Options
from fastbn.io.places import Place, is_frame
from fastbn.io.sources import Block, NoData, Origin, Ring, UnreadableError, chosen_columns, needed, nodata_of

Region: TypeAlias = tuple[slice, ...]
Read: TypeAlias = Callable[[Region], Array]

# Values that a piece has at least in either order, where an array is read in one and written in another.
_PIECE = 512
# What an archive decompresses at a time, in memory of its own.
_ARCHIVE_PIECE = 1 << 20
# Of an array without values nothing but its header says how large it is, and each of its features takes memory.
_LARGEST_EMPTY = 1 << 24
# Modes of maps whose pages hold what the file does. Those of "c" may not, and a view may not know what it is of.
_OF_THE_FILE = ("r", "r+", "w+")
# Attributes that say how stored numbers are to be understood (CF conventions, section 8.1).
PACKING = ("scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned")


class Stored(NamedTuple):
    """An array as a library has it. ``order`` lists its axes from the slowest to the fastest in memory.

    ``names`` are those of the columns of a frame.
    """

    shape: Shape
    dtype: np.dtype[Any]
    read: Read
    origin: Origin = Origin()
    order: Sequence[int] | None = None
    names: Sequence[str] | None = None
    suspects: Sequence[tuple[str, str]] = ()  # as in `Source`
    overlaps: bool = True  # whether a thread may read it while its owner does something else


def opened(place: Place, options: Options) -> ArraySource:
    """Open an array: the one that a place names, the only one of a file, or what is given."""
    with ExitStack() as stack:
        stored, options = _OPEN[place.kind](place, options, stack)
        source = ArraySource(place.name, stored, options)
        source.close = stack.pop_all().close
        return source


class ArraySource:
    """One array, read in tiles. An array of one dimension is one column."""

    more: Sequence[str] = ()
    close: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, name: str, stored: Stored, options: Options) -> None:
        shape = stored.shape
        if not shape:
            raise UnreadableError(f"{name} must have one dimension or more, got a single value")
        self.name, self._read, self.origin, self.overlaps = name, stored.read, stored.origin, stored.overlaps
        self.suspects, self.flat = stored.suspects, len(shape) == 1
        self.shape: Shape = (*shape, 1) if self.flat else tuple(shape)
        self.axis = _axes(name, options, self.shape, stored.origin.dims)
        self._packing = _Packing(stored, options.nodata is None)
        self.dtype = computed_as(name, self._packing.dtype, options.dtype)
        self.notes = self._packing.notes
        self._copies, self._reads_as = Ring(options), stored.dtype
        known = self.shape[self.axis[0]] if len(self.axis) == 1 else 0
        self._chosen = self._choose(options, stored.names, known)
        sizes = {} if self._chosen is None else {self.axis[0]: len(self._chosen)}
        self.features: Shape = tuple(sizes.get(a, self.shape[a]) for a in self.axis)
        self._sorted = np.array(sorted(self._chosen or ()), np.intp)
        self.order = None if self._chosen is None else tuple(np.searchsorted(self._sorted, self._chosen).tolist())
        every = range(known) if self._chosen is None else self._chosen
        if self._chosen is not None or (stored.names is not None and self.axis == (1,)):
            self.names: tuple[str, ...] | None = tuple(stored.names[i] if stored.names else str(i) for i in every)
        else:
            self.names = None
        inside = sorted(every) if len(self.axis) == 1 else [0]
        nodata = nodata_of(options, name, inside, stored.names, known)
        self._nodata = NoData([self._packing.nodata] if nodata is None else nodata, self.axis)
        axes = tuple(range(len(shape)) if stored.order is None else stored.order)
        self._grid = self._cut((*axes, 1) if self.flat else axes, options)

    def blocks(self, start: int = 0, row: int = 0) -> Iterator[Block]:
        """Yield the tiles in order, as blocks of the chosen features in a type that can be computed with."""
        for number in range(start, len(self._grid)):
            region = self._grid.region(number)
            kept, first = self._within(region)
            if kept is None:
                continue
            values = self._read(region[:1] if self.flat else region).reshape(extent(region))[kept]
            values = self._packing.signed(values)
            valid = self._nodata.valid(values, first)
            if values.dtype == self.dtype and not self._packing.packed:
                values = values.view(self.dtype)  # that says "=" of its byte order, where the file's may say "<"
            else:
                copy = self._copies.take(values.shape, self.dtype)
                with np.errstate(all="ignore"):
                    np.copyto(copy, self._packing.unpacked(values), casting="unsafe")
                values = copy
            corner = tuple(part.start for part in region)
            yield Block(values, corner, number + 1, (number + 1) / len(self._grid), valid)

    def _cut(self, order: Shape, options: Options) -> Grid:
        chunks, natural = self.origin.chunks, tuple(range(len(self.shape)))
        whole = (1,) * len(self.shape) if chunks is None else (*chunks, 1) if self.flat else tuple(chunks)
        if options.rowwise and order != natural:
            # What is read in one order and written in another has pieces of some length in both.
            whole, order = tuple(_PIECE if axis == order[-1] else 1 for axis in natural), natural
        # Chunks are decoded into memory of their own before they are put together, from what is stored of them.
        per_value = self._reads_as.itemsize * (1 if chunks is None else 3) + options.beside
        if self._chosen is not None or self._reads_as != self.dtype:
            per_value += self.dtype.itemsize
        most = options.block_bytes // per_value
        least = math.prod(min(chunk, max(1, size)) for chunk, size in zip(whole, self.shape, strict=True))
        if least > max(1, most):
            raise UnreadableError(
                f"memory must be {-(-least * per_value * 4 >> 20)} MiB or more for {self.name}, "
                f"whose chunks are {chunks}, got {options.memory / 2**20:g} MiB"
            )
        return Grid(self.shape, order, whole, most)

    def _choose(self, options: Options, names: Sequence[str] | None, count: int) -> tuple[int, ...] | None:
        if options.columns is None:
            return None
        if len(self.axis) != 1:
            raise UnreadableError(f"columns must come with one feature axis, got axis {self.axis} for {self.name}")
        return tuple(chosen_columns(self.name, options.columns, names, count))

    def _within(self, region: Region) -> tuple[tuple[Any, ...] | None, int]:
        """Return the index of the chosen features in a tile (None if it has none), and the number of the first."""
        if self._chosen is None:
            return (...,), region[self.axis[0]].start if len(self.axis) == 1 else 0
        axis = self.axis[0]
        first, end = np.searchsorted(self._sorted, (region[axis].start, region[axis].stop))
        if first == end and self._sorted.size:
            return None, 0
        inside = self._sorted[first:end] - region[axis].start
        run = inside.size > 0 and inside[-1] - inside[0] + 1 == inside.size
        index = slice(int(inside[0]), int(inside[-1]) + 1) if run else inside
        return (*(slice(None),) * axis, index), int(first)


class _Packing:
    """What an array says of how its numbers are to be understood: as CF conventions have it, section 8.1.

    ``nodata`` are the stored values that are no data; of what is packed, values are ``stored * scale + offset``.
    """

    def __init__(self, stored: Stored, honoured: bool) -> None:
        attrs, self.dtype = stored.origin.attrs, stored.dtype
        unsigned = str(attrs.get("_Unsigned", "")).lower() == "true" and self.dtype.kind == "i"
        self._seen_as = np.dtype(f"{self.dtype.byteorder}u{self.dtype.itemsize}") if unsigned else None
        self.dtype = self._seen_as or self.dtype
        self.nodata: tuple[Any, ...] = ()
        self.notes: list[str] = []
        for key in ("_FillValue", "missing_value") if honoured and self.dtype.kind in "iuf" else ():
            given = self._numbers(attrs[key]) if key in attrs else ()
            self.nodata += tuple(value for value in given if value not in self.nodata)
            self.notes += [f"left out as no data: {value:.15g} ({key})" for value in given if value == value]
        self._scale, self._offset = (_one(attrs.get(key, default)) for key, default in _FACTORS)
        self.packed = (self._scale, self._offset) != (1, 0)
        if self.packed:
            self.dtype = np.dtype(np.float64)
            self.notes.append(f"unpacked: stored values * {self._scale:.15g} + {self._offset:.15g}")

    def signed(self, values: Array) -> Array:
        """Return values with the sign that they are to have."""
        return values if self._seen_as is None else values.view(self._seen_as)

    def unpacked(self, values: Array) -> Array:
        """Return the numbers that stored values stand for."""
        return values * np.float64(self._scale) + np.float64(self._offset) if self.packed else values

    def _numbers(self, given: Any) -> tuple[Any, ...]:
        """Return an attribute's values in the array's type; zarr's version 3 has floats as text of their bytes."""
        if isinstance(given, (str, bytes)):
            try:
                given = struct.unpack("<d", base64.b64decode(given, validate=True))[0]
            except (ValueError, struct.error):
                return ()
        array = np.atleast_1d(np.asarray(given))
        if array.dtype.kind not in "iuf":
            return ()
        if self._seen_as is not None and array.dtype.kind == "i":
            array = array.astype(self.dtype)
        return tuple(array.tolist())


_FACTORS = (("scale_factor", 1), ("add_offset", 0))


def _one(value: Any) -> float:
    return float(np.asarray(value).reshape(-1)[0])


def computed_as(name: str, dtype: np.dtype[Any], wanted: np.dtype[Any] | None) -> np.dtype[Any]:
    """Return the type in which values of a file are computed with; UnreadableError if they are no real numbers."""
    if dtype.kind not in "fiub" and dtype.name != "bfloat16":
        raise UnreadableError(f"{name} must hold real numbers, got dtype {dtype}")
    if wanted is not None:
        return wanted
    wide = dtype.kind == "b" or dtype.itemsize > 8 or (dtype.kind in "iu" and dtype.itemsize == 8) or dtype == np.uint32
    return np.dtype(np.float64) if wide else dtype.newbyteorder("=")


def _axes(name: str, options: Options, shape: Shape, dims: tuple[str, ...] | None) -> Shape:
    """Return the feature axes: as asked for, or all that are not reduced."""
    ndim = len(shape)
    if options.dim is not None:
        if dims is None or not set(options.dim) <= set(dims):
            known = "none that have names" if dims is None else ", ".join(dims)
            raise UnreadableError(f"dim must name dimensions of {name} ({known}), got {', '.join(options.dim)}")
        return tuple(number for number, dim in enumerate(dims) if dim not in options.dim)
    axis: Axis = 1 if options.axis is None else options.axis
    axes = (axis,) if isinstance(axis, int) else axis
    if any(not -ndim <= a < ndim for a in axes) or len({a % ndim for a in axes}) < len(axes):
        raise UnreadableError(f"axis must name axes among the {ndim} of {name}, got {axis}")
    return tuple(sorted(a % ndim for a in axes))


# Tiles.


class Grid:
    """An array cut into equal tiles, numbered in the order in which they lie in memory.

    A tile is full along the axes that vary fastest, of size 1 (or of one chunk) along the slowest, so tiles of an
    array without chunks are one piece of its memory.
    """

    def __init__(self, shape: Shape, order: Sequence[int], chunks: Shape, most: int) -> None:
        tile = [min(chunk, max(1, size)) for chunk, size in zip(chunks, shape, strict=True)]
        most = most if 0 not in shape else math.prod(tile) * math.prod(filter(None, shape))
        for axis in reversed(order):
            tile[axis] = min(max(1, shape[axis]), tile[axis] * max(1, most // math.prod(tile)))
            if tile[axis] < shape[axis]:
                break
        self.shape, self.tile, self._order = shape, tuple(tile), tuple(order)
        self._counts = [max(1, -(-size // step)) for size, step in zip(shape, tile, strict=True)]

    def __len__(self) -> int:
        """Return the number of tiles; an empty array has one, which is empty."""
        return math.prod(self._counts)

    def region(self, number: int) -> Region:
        """Return where a tile is."""
        at = [0] * len(self.shape)
        for axis in reversed(self._order):
            number, at[axis] = divmod(number, self._counts[axis])
        return tuple(
            slice(i * step, min((i + 1) * step, size)) for i, step, size in zip(at, self.tile, self.shape, strict=True)
        )


def extent(region: Region) -> Shape:
    """Return the shape of a region."""
    return tuple(part.stop - part.start for part in region)


def runs(shape: Shape, region: Region) -> Iterator[tuple[int, int]]:
    """Yield (number of its first value, number of values) of each piece of memory that a region of an array takes.

    The array is in C order, and so are the pieces in the region.
    """
    split = len(shape)
    while split and extent(region)[split - 1] == shape[split - 1]:
        split -= 1
    split = max(0, split - 1)
    steps = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    count = math.prod(extent(region)[split:])
    inner = region[split].start * steps[split]
    for at in itertools.product(*(range(part.start, part.stop) for part in region[:split])):
        yield inner + sum(i * step for i, step in zip(at, steps, strict=False)), count


# NumPy's own files, read in place. Blocks are read rather than mapped: pages of a map count as memory of the process,
# and a file that another program cuts short while it is mapped ends this one with SIGBUS instead of an error.


def _npy(place: Place, options: Options, stack: ExitStack) -> tuple[Stored, Options]:
    file = stack.enter_context(open(place.files[0], "rb", buffering=0))  # noqa: SIM115 (it is one)
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
    return _numpy(place.name, file, os.fstat(file.fileno()).st_size, options), options


def _npz(place: Place, options: Options, stack: ExitStack) -> tuple[Stored, Options]:
    archive = stack.enter_context(zipfile.ZipFile(place.files[0]))
    names = [file.removesuffix(".npy") for file in archive.namelist() if file.endswith(".npy")]
    if not place.member and {"config", "count", "mean", "m2"} <= set(names):
        raise UnreadableError(
            f"{place.name} must hold data, got a file of statistics "
            f"(fastbn.Moments.load reads it, fastbn merge {place.name} --out COPY.npz shows it)"
        )
    file = stack.enter_context(archive.open(f"{only_member(place, names)}.npy"))
    return _numpy(place.name, file, archive.getinfo(str(file.name)).file_size, options), options


def _numpy(name: str, file: Any, size: int, options: Options) -> Stored:
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise UnreadableError(f"{name} must hold real numbers, got a header of version {version}")
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(file)
    computed_as(name, dtype, None)
    begin = file.tell()
    if min(shape, default=0) < 0 or (0 in shape and math.prod(filter(None, shape)) > _LARGEST_EMPTY):
        raise UnreadableError(f"{name} must hold an array, got one of shape {shape}")
    least = math.prod(shape) * dtype.itemsize
    if size - begin < least:
        raise UnreadableError(f"{name} must hold {least} bytes of values, got {size - begin}: it is cut short")
    ring, turn = Ring(options), slice(None, None, -1 if fortran else 1)

    def read(region: Region) -> Array:
        values, position = ring.take(extent(region), dtype).reshape(-1), 0
        for first, count in runs(shape[turn], region[turn]):
            part = values[position : position + count].view(np.uint8)
            _fill(name, file, begin + first * dtype.itemsize, part)
            position += count
        return values.reshape(extent(region), order="F" if fortran else "C")

    return Stored(shape, dtype, read, order=range(len(shape))[turn])


def _fill(name: str, file: Any, at: int, values: Array) -> None:
    if file.tell() != at:
        file.seek(at)
    rest: memoryview[int] = memoryview(values)  # type: ignore[arg-type]  # an array is a buffer
    while rest:
        got = file.readinto(rest[:_ARCHIVE_PIECE])
        if not got:
            raise UnreadableError(
                f"{name} must not change while it is read, got {len(rest)} bytes less than there were"
            )
        rest = rest[got:]


def only_member(place: Place, names: Sequence[str]) -> str:
    """Return which array of a file is meant: the one that its place names, or else the only one."""
    if place.member in names:
        return place.member
    if not place.member and len(names) == 1:
        return names[0]
    known = ", ".join(sorted(names)) or "none"
    rule = "name one of its arrays" if place.member else "hold one array, or name one as in FILE:NAME"
    raise UnreadableError(f"{place.name} must {rule}, got {known}")


# Files of other libraries.


def _hdf5(place: Place, options: Options, stack: ExitStack) -> tuple[Stored, Options]:
    h5py = needed("h5py", "HDF5 files")
    file = stack.enter_context(h5py.File(place.files[0], "r"))
    if place.member and isinstance(file.get(place.member), h5py.Dataset):
        return sliced(place.name, file[place.member], options), options
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    scales = [name for name in names if file[name].attrs.get("CLASS") == b"DIMENSION_SCALE"]
    return sliced(place.name, file[only_member(place, _without(names, scales))], options), options


def _zarr(place: Place, options: Options, stack: ExitStack) -> tuple[Stored, Options]:
    zarr = needed("zarr", "Zarr stores")
    found = zarr.open(place.files[0], mode="r")
    if not isinstance(found, zarr.Array):
        names = list(_zarr_names(found, zarr))
        coords = [name for name in names if _dims_of(found[name]) == (name.rpartition("/")[2],)]
        coords += " ".join(str(found[name].attrs.get("coordinates", "")) for name in names).split()
        found = found[only_member(place, names if place.member else _without(names, coords))]
    return sliced(place.name, found, options), options


def _netcdf(place: Place, options: Options, stack: ExitStack) -> tuple[Stored, Options]:
    xarray = needed("xarray", "NetCDF files")
    group, _, member = place.member.rpartition("/")
    how: dict[str, Any] = {"group": group or None, "decode_times": False, "mask_and_scale": False, "cache": False}
    with open(place.files[0], "rb") as file:
        new = file.read(8) == b"\x89HDF\r\n\x1a\n"
    needed("h5netcdf" if new else "scipy", "NetCDF files")
    found = stack.enter_context(xarray.open_dataset(place.files[0], engine="h5netcdf" if new else "scipy", **how))
    names = [str(name) for name in (found.variables if place.member else found.data_vars)]
    name = only_member(place._replace(member=member), names)
    return _named(place.name, found[name], options), options


def _without(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """Return the arrays that are no coordinates of others, or all if there are no others."""
    return [name for name in names if name not in others] or list(names)


def _zarr_names(group: Any, zarr: Any, prefix: str = "") -> Iterator[str]:
    """Yield the names of all arrays in a group, by what version 2 of zarr has too."""
    for name in sorted(group):
        if isinstance(group[name], zarr.Array):
            yield prefix + name
        else:
            yield from _zarr_names(group[name], zarr, f"{prefix}{name}/")


def sliced(name: str, array: Any, options: Options) -> Stored:
    """Return what is read by slicing and tells its chunks: a data set of HDF5, an array of Zarr."""

    def read(region: Region) -> Array:
        if direct is None or 0 in extent(region):
            return np.asarray(array[region])
        values = ring.take(extent(region), dtype)
        direct(values, region)
        return values

    if array.shape is None:
        raise UnreadableError(f"{name} must hold an array, got one without a shape")
    direct = getattr(array, "read_direct", None)
    ring, dtype = Ring(options), np.dtype(array.dtype)
    attrs = dict(getattr(array, "attrs", {}))
    fill = getattr(array, "fill_value", None)
    if "_ARRAY_DIMENSIONS" in attrs and fill is not None:  # Zarr's version 2, as xarray writes it
        attrs.setdefault("_FillValue", fill)
    origin = Origin(getattr(array, "shards", None) or array.chunks, _dims_of(array), attrs, array)
    return Stored(tuple(array.shape), dtype, read, origin)


def _dims_of(array: Any) -> tuple[str, ...] | None:
    """Return the names of an array's dimensions: Zarr's, xarray's in Zarr of version 2, or HDF5's labels and scales."""
    names: Any = getattr(getattr(array, "metadata", None), "dimension_names", None)
    names = names or getattr(array, "attrs", {}).get("_ARRAY_DIMENSIONS")
    if names is None and hasattr(array, "dims"):
        names = [dim.label or (os.path.basename(dim[0].name) if len(dim) else "") for dim in array.dims]
    return tuple(map(str, names)) if names and all(names) else None


def _named(name: str, array: Any, options: Options) -> Stored:
    """Return an xarray data array: read by slicing, so that one of a file comes in blocks."""
    variable = array.variable
    sizes = variable.encoding.get("preferred_chunks") or {}
    chunks = tuple(int(sizes.get(dim, size)) for dim, size in zip(array.dims, array.shape, strict=True))
    if variable.chunks:
        chunks = tuple(max(sizes) for sizes in variable.chunks)
    origin = Origin(
        chunks if sizes or variable.chunks else None,
        tuple(map(str, array.dims)),
        dict(array.attrs),
        array,
        array.coords.to_dataset(),
    )
    return Stored(tuple(array.shape), np.dtype(array.dtype), lambda region: np.asarray(variable[region].values), origin)


# What is in memory, or opened by the caller.


def _memory(place: Place, options: Options, stack: ExitStack) -> tuple[Stored, Options]:
    array = place.array
    if is_frame(array):
        return _frame(place.name, array, options)
    if type(array).__module__.startswith("scipy.sparse"):
        sort = type(array).__name__
        raise UnreadableError(f"{place.name} must be dense, got a sparse {sort} (its toarray() is)")
    if type(array).__name__ == "Dataset" and hasattr(array, "data_vars"):
        names = [str(name) for name in array.data_vars]
        array = array[only_member(place, names)]
    if getattr(array, "ndim", 2) < 2 and not hasattr(array, "dims"):
        raise UnreadableError(f"{place.name} must have two dimensions or more, got {array.ndim}")
    if hasattr(array, "dims") and hasattr(array, "coords"):
        return _named(place.name, array, options), options
    if not isinstance(array, np.ndarray) and all(hasattr(array, name) for name in ("shape", "dtype", "chunks")):
        return sliced(place.name, array, options), options
    values = converted("source", array)
    order = sorted(range(values.ndim), key=lambda axis: -abs(values.strides[axis]))
    if _is_map(values):
        # Pages of the map count as memory of the process, so they are let go once they are copied.
        counted = replace(options, beside=options.beside + values.itemsize)
        return Stored(values.shape, values.dtype, _copier(values, options), order=order), counted
    if values.dtype == object:
        _check_numbers(place.name, values.reshape(-1), "")
    # Whoever yields arrays may fill them anew for the next.
    return Stored(values.shape, values.dtype, lambda region: values[region], order=order, overlaps=False), options


def _frame(name: str, frame: Any, options: Options) -> tuple[Stored, Options]:
    """Return the columns of a frame that are read as one array, and how to read that.

    Where all columns are of one type of numbers, it is the whole frame, without a copy. Else it has the columns that
    were asked for, or all of numbers, in the type that a table in a file has.
    """
    names = list(map(str, getattr(frame, "column_names", frame.columns)))
    columns = [_column(frame, number) for number in range(len(names))]
    suspects: list[tuple[str, str]] = []
    if len({column.dtype for column in columns}) == 1 and not hasattr(frame, "column_names"):
        values = np.asarray(frame)
    else:
        values = np.empty((0, 0), object)
    if values.dtype.kind not in "biuf":
        found = [_numbers(column) for column in columns]
        if options.columns is None:
            suspects = [
                (label, f"not all of it are numbers: {str(each.odd)!r}")
                for label, each in zip(names, found, strict=True)
                if each.odd is not None
            ]
        chosen = _frame_columns(name, names, columns, found, options)
        options = replace(options, columns=None, nodata=_of_chosen(name, names, chosen, options))
        single = all(columns[number].dtype in (np.float16, np.float32) for number in chosen)
        shape = (len(columns[0]) if columns else 0, len(chosen))
        values = np.empty(shape, np.float32 if single and chosen else np.float64, order="F")
        for target, number in zip(values.T, chosen, strict=True):
            target[...] = found[number].values
        names = [names[number] for number in chosen]
    order = sorted(range(2), key=lambda axis: -abs(values.strides[axis]))
    read: Read = lambda region: values[region]  # noqa: E731 (one line, as above)
    stored = Stored(values.shape, values.dtype, read, order=order, names=names, suspects=suspects, overlaps=False)
    return stored, options


class _Numbers(NamedTuple):
    """A column of a frame as numbers, None where it holds others; ``odd`` is the first other one among numbers."""

    values: Array | None
    counts: bool = False  # unless other columns are asked for
    odd: Any = None


def _numbers(column: Array) -> _Numbers:
    if column.dtype.kind in "biuf":
        return _Numbers(column, True)
    if column.dtype != object:
        return _Numbers(None)
    entries = [math.nan if entry is None or type(entry).__name__ == "NAType" else entry for entry in column.tolist()]
    others = [entry for entry in entries if not isinstance(entry, (int, float, np.number, Decimal))]
    if others:
        missing = sum(isinstance(entry, float) and entry != entry for entry in entries)
        return _Numbers(None, odd=others[0] if len(others) + missing < len(entries) else None)
    values = np.array(entries, np.float64)
    return _Numbers(values, not np.isnan(values).all())


def _frame_columns(
    name: str, names: Sequence[str], columns: Sequence[Array], found: Sequence[_Numbers], options: Options
) -> list[int]:
    """Return the numbers of the columns that are read: all, if these are not the features."""
    if options.axis not in (None, 1, -1, (1,), (-1,)):
        chosen = list(range(len(names)))
    elif options.columns is not None:
        chosen = chosen_columns(name, options.columns, names, len(names))
    else:
        chosen = [number for number, column in enumerate(found) if column.counts]
        if not chosen:
            kinds = ", ".join(f"{label} ({column.dtype})" for label, column in zip(names, columns, strict=True))
            raise UnreadableError(f"{name} must have a column of numbers, got {kinds or 'no column'}")
    for number in chosen:
        if found[number].values is None:
            _check_numbers(name, columns[number], f" in column {names[number]!r}")
    return chosen


def _of_chosen(name: str, names: Sequence[str], chosen: Sequence[int], options: Options) -> Any:
    """Return what is no data by the numbers of the chosen columns among themselves."""
    if options.nodata is None:
        return None
    result: dict[int | str | None, tuple[Any, ...]] = {}
    for column, values in options.nodata.items():
        if column is None:
            result[None] = values
            continue
        (number,) = chosen_columns(name, [column], names, len(names))
        if number in chosen:
            result[chosen.index(number)] = values
    return result


def _column(frame: Any, number: int) -> Array:
    """Return a column as it is, or in float64 with NaN for what is missing where NumPy would make objects of it."""
    if hasattr(frame, "iloc"):
        column = frame.iloc[:, number]
    else:
        column = frame.column(number) if hasattr(frame, "column_names") else frame[:, number]
    values = np.asarray(column)
    kind = getattr(getattr(column, "dtype", None), "kind", "O")
    if values.dtype == object and kind in "biuf":  # pragma: no cover (version 2 of pandas)
        return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))
    return values


def _check_numbers(name: str, values: Array, where: str) -> None:
    """Refuse what holds something else than numbers, and say what: it is the first such value."""
    if values.dtype == object and values.size:
        for value in values.tolist():
            if not isinstance(value, (int, float, np.number)):
                raise UnreadableError(f"{name} must hold real numbers, got {value!r}{where}")
    raise UnreadableError(f"{name} must hold real numbers, got dtype {values.dtype}{where}")


def _is_map(array: Any) -> bool:
    return isinstance(array, np.memmap) and array.mode in _OF_THE_FILE


def _copier(array: Array, options: Options) -> Read:
    ring, pages = Ring(options), _map_of(array)

    def read(region: Region) -> Array:
        values = array[region]
        copy = ring.take(values.shape, values.dtype)
        np.copyto(copy, values)
        if pages is not None:
            pages.madvise(mmap.MADV_DONTNEED)
        return copy

    return read


def _map_of(array: Array) -> mmap.mmap | None:
    base: Any = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = getattr(base, "base", None)
    return base


_OPEN: dict[str, Callable[[Place, Options, ExitStack], tuple[Stored, Options]]] = {
    "npy": _npy,
    "npz": _npz,
    "hdf5": _hdf5,
    "zarr": _zarr,
    "netcdf": _netcdf,
    "memory": _memory,
}
