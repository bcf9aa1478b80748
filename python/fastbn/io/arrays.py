"""Arrays, read tile by tile through one small interface: a shape, a type, and a function that reads a region.

.npy and .npz files are read here, HDF5 by h5py, Zarr stores by zarr, NetCDF by xarray; and whatever has a shape, a
type and slicing serves, opened or in memory.
"""

from __future__ import annotations

import base64
import glob
import importlib
import itertools
import math
import mmap
import os
import re
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastbn._moments.provenance import Coordinates, frame_columns, labels_of
from fastbn._validation import Axis, Shape, converted
from fastbn.io.options import Array, Options, Region
from fastbn.io.places import Place, is_frame
from fastbn.io.sources import Block, NoData, Origin, Ring, Source, UnreadableError, chosen_columns, computed_as, needed

Read: TypeAlias = Callable[[Region], Array]

# Values that a piece has at least in either order, where an array is read in one and written in another.
_PIECE = 512
# What an archive decompresses at a time, in memory of its own.
_ARCHIVE_PIECE = 1 << 20
# Of an array without values nothing but its header says how large it is, and each of its features takes memory.
_LARGEST_EMPTY = 1 << 24
# Modes of maps whose pages hold what the file does. Those of "c" may not, and a view may not know what it is of.
_OF_THE_FILE = ("r", "r+", "w+")
# Attributes that name variables which belong to one (CF conventions, section 5.6 and chapter 7).
_REFERENCES = ("grid_mapping", "bounds", "climatology", "cell_measures")
# Attributes that say how stored numbers are to be understood (CF conventions, sections 2.5.1 and 8.1).
_RANGES = {"valid_range": ("below", "above"), "valid_min": ("below",), "valid_max": ("above",)}
PACKING = ("scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned", *_RANGES)


class Stored(NamedTuple):
    """An array as a library has it. ``order`` lists its axes from the slowest to the fastest in memory.

    ``names`` are those of the columns of a frame; ``beside`` is how many bytes per value a copy takes.
    """

    shape: Shape
    dtype: np.dtype[Any]
    read: Read
    origin: Origin = Origin()
    order: Sequence[int] | None = None
    names: Sequence[str] | None = None
    overlaps: bool = True  # whether a thread may read it while its owner does something else
    beside: int = 0


def opened(place: Place, options: Options) -> ArraySource:
    """Open an array: the one that a place names, the only one of a file, or what is given."""
    with ExitStack() as stack:
        source = ArraySource(place.name, _OPEN[place.format](place, options, stack), options)
        source.close = stack.pop_all().close
        return source


class ArraySource(Source):
    """One array, read in tiles. An array of one dimension is one column."""

    shape: Shape

    def __init__(self, name: str, stored: Stored, options: Options) -> None:
        if not stored.shape:
            raise UnreadableError(f"{name} must have one dimension or more, got a single value")
        self.name, self._stored, self.origin, self.overlaps = name, stored, stored.origin, stored.overlaps
        self.flat = len(stored.shape) == 1
        self.shape = (*stored.shape, 1) if self.flat else tuple(stored.shape)
        self.axis = _axes(name, options, self.shape, stored.origin.dims)
        self._packing = _Packing(name, stored, options.nodata is None)
        self.dtype = computed_as(name, self._packing.dtype, options.dtype)
        self.notes, self._copies, self._exact = self._packing.notes, Ring(), options.exact
        dims = stored.origin.dims
        if options.axis is None and options.dim is None and dims is not None and not self.flat:
            said = f"features are along {dims[self.axis[0]]}, of the dimensions {', '.join(dims)}"
            self.notes.append(f"{said} (--dim names those to reduce, --axis those of features)")
        self._rowwise = options.rowwise
        lone = len(self.axis) == 1
        count = self.shape[self.axis[0]] if lone else 0
        self.features = tuple(self.shape[a] for a in self.axis)
        chosen: Sequence[int] = range(count) if lone else [0]
        if options.columns is not None:
            if not lone:
                raise UnreadableError(f"columns must come with one feature axis, got axis {self.axis} for {name}")
            chosen = chosen_columns(name, options.columns, stored.names, count, options.asked_by)
            self.features = (len(chosen),)
            self.order = tuple(np.argsort(np.argsort(chosen)).tolist())
            if self.origin.coords is not None and self.origin.dims is not None and not self.flat:
                of_these = {self.origin.dims[self.axis[0]]: list(chosen)}
                coords = self.origin.coords.isel(of_these, missing_dims="ignore")
                self.origin = self.origin._replace(coords=coords)
        if options.columns is not None or (stored.names is not None and self.axis == (1,)):
            self.names = tuple(stored.names[i] if stored.names else str(i) for i in chosen)
        self._sorted = np.sort(np.array(chosen, np.intp))
        self.nodata = NoData(options, name, self._sorted.tolist(), stored.names, count, self.axis, self._packing.nodata)
        self._grid, self.coordinates = self._cut(options), self._labelled(chosen)

    def blocks(self, start: int = 0, row: int = 0) -> Iterator[Block]:
        """Yield the tiles in order, as blocks of the chosen features in a type that can be computed with."""
        for number in range(start, len(self._grid)):
            region = self._grid.region(number)
            kept, first = self._within(region)
            if kept is None:
                continue
            values = self._stored.read(region[:1] if self.flat else region).reshape(extent(region))[kept]
            if self._packing.viewed is not None:
                values = values.view(self._packing.viewed)
            valid = self._packing.within(values, self.nodata.valid(values, first))
            if values.dtype == self.dtype and not self._packing.packed:
                values = values.view(self.dtype)  # that says "=" of its byte order, where the file's may say "<"
            else:
                copy = self._copies.take(values.shape, self.dtype)
                with np.errstate(all="ignore"):
                    np.copyto(copy, self._packing.unpacked(values), casting="unsafe")
                if self._exact and values.dtype.itemsize > 8 and not self._packing.packed:
                    for lost in values[(copy != values) & (values == values)][:1]:
                        shown = f"{lost} of {lost.dtype}: dtype=float64 rounds it"
                        raise UnreadableError(f"{self.name} must hold numbers that float64 holds, got {shown}")
                values = copy
            corner = tuple(part.start for part in region)
            if self._rowwise and self.order is not None:  # whose features are all in this tile
                corner = (*corner[: self.axis[0]], 0, *corner[self.axis[0] + 1 :])
            yield Block(values, corner, number + 1, (number + 1) / len(self._grid), valid)

    def restored(self, block: Block, values: Array) -> Block:
        """Return the chosen features in the order asked for."""
        return block._replace(values=values if self.order is None else np.take(values, self.order, self.axis[0]))

    def _labelled(self, chosen: Sequence[int]) -> Coordinates | None:
        """Return the labels of the chosen features along their axes."""
        if self.flat:  # whose rows alone can have some
            return None
        labels: list[Any] = []
        for axis in self.axis:
            scale = self._stored.origin.scales.get(axis)
            found = None if scale is None else _labels(scale)
            labels.append(found if found is None or self.order is None else [found[i] for i in chosen])
        dims = self._stored.origin.dims or ()
        return Coordinates.of([dims[axis] if dims else f"axis {axis}" for axis in self.axis], labels)

    def _cut(self, options: Options) -> Grid:
        stored, chunks, natural = self._stored, self.origin.chunks, tuple(range(len(self.shape)))
        order = (*(stored.order or range(len(stored.shape))), 1) if self.flat else tuple(stored.order or natural)
        whole = (1,) * len(self.shape) if chunks is None else (*chunks, 1) if self.flat else tuple(chunks)
        if options.rowwise and order != natural:
            # What is read in one order and written in another has pieces of some length in both.
            whole, order = tuple(_PIECE if axis == order[-1] else 1 for axis in natural), natural
        # Chunks are decoded into memory of their own before they are put together, from what is stored of them.
        per_value = stored.dtype.itemsize * (1 if chunks is None else 3) + options.beside + stored.beside
        if self.order is not None or stored.dtype != self.dtype:
            per_value += self.dtype.itemsize

        def tiles(whole: Shape, what: str) -> Grid:
            least = math.prod(min(chunk, max(1, size)) for chunk, size in zip(whole, self.shape, strict=True))
            if least > max(1, options.memory // 4 // per_value):
                rule = f"must be {-(-least * per_value * 4 >> 20)} MiB or more {what} {self.name}"
                got = f"whose chunks are {chunks}, got {options.memory / 2**20:g} MiB"
                raise UnreadableError(f"memory {rule}, {got}")
            return Grid(self.shape, order, whole, max(least, options.block_bytes // per_value))

        grid = tiles(whole, "for")
        if options.rowwise and self._sorted.size and self.order is not None:
            first, last = self._sorted[[0, -1]] // grid.tile[self.axis[0]]
            if first != last:  # but columns are put in order within a tile
                whole = tuple(1 if chunks is None else chunk for chunk in whole)
                whole = (*whole[: self.axis[0]], self.shape[self.axis[0]], *whole[self.axis[0] + 1 :])
                grid = tiles(whole, "to choose columns of")
        return grid

    def _within(self, region: Region) -> tuple[tuple[Any, ...] | None, int]:
        """Return the index of the chosen features in a tile (None if it has none), and the number of the first."""
        if self.order is None:
            return (...,), region[self.axis[0]].start if len(self.axis) == 1 else 0
        axis = self.axis[0]
        first, end = np.searchsorted(self._sorted, (region[axis].start, region[axis].stop))
        if first == end and self._sorted.size:
            return None, 0
        inside = self._sorted[first:end] - region[axis].start
        adjacent = inside.size > 0 and inside[-1] - inside[0] + 1 == inside.size
        index = slice(int(inside[0]), int(inside[-1]) + 1) if adjacent else inside
        return (*(slice(None),) * axis, index), int(first)


class _Packing:
    """What an array says of how its numbers are to be understood: as CF conventions have it, sections 2.5.1 and 8.1.

    ``nodata`` are the stored values that are no data; of what is packed, values are ``stored * scale + offset``.
    Stored values are no data either where they, or what is unpacked, are beyond the range that is said to be valid.
    ``viewed`` is the type as which stored integers are to be taken, where that is of the other sign.
    """

    def __init__(self, name: str, stored: Stored, honoured: bool) -> None:
        attrs, self.dtype = stored.origin.attrs, stored.dtype
        self.viewed: np.dtype[Any] | None = None
        other = {"true": ("i", "u"), "false": ("u", "i")}.get((_text(attrs.get("_Unsigned")) or "").lower())
        if other is not None and self.dtype.kind == other[0]:
            self.dtype = self.viewed = np.dtype(f"{self.dtype.byteorder}{other[1]}{self.dtype.itemsize}")
        self.nodata: tuple[Any, ...] = ()
        self.notes: list[str] = []
        for key in ("_FillValue", "missing_value") if honoured and self.dtype.kind in "iuf" else ():
            given = self._numbers(attrs[key]) if key in attrs else ()
            self.nodata += tuple(value for value in given if value not in self.nodata)
            self.notes += [f"left out as no data: {value:.15g} ({key})" for value in given if value == value]
        self._ends = self._valid_range(attrs) if honoured and self.dtype.kind in "iuf" else {}
        self._scale, self._offset = (
            _factor(name, key, attrs.get(key, default)) for key, default in (("scale_factor", 1), ("add_offset", 0))
        )
        self.packed = bool(self._scale != 1 or self._offset != 0)
        if self.packed:
            self.dtype = np.dtype(np.float64)
            self.notes.append(f"unpacked: stored values * {self._scale:.15g} + {self._offset:.15g}")

    def within(self, values: Array, valid: Array | None) -> Array | None:
        """Return which of the values that are valid, None if all are, are in the range that is said to be valid too."""
        for side, (end, of_unpacked) in self._ends.items():
            held = self.unpacked(values) if of_unpacked and self.packed else values
            with np.errstate(over="ignore"):
                beyond = held < end if side == "below" else held > end
            if beyond.any():
                valid = ~beyond if valid is None else valid & ~beyond
        return valid

    def _valid_range(self, attrs: Mapping[str, Any]) -> dict[str, tuple[Any, bool]]:
        """Return the ends of the range, and whether each is one of unpacked values: a fraction beside stored integers.

        That is the rule of the NetCDF User's Guide, appendix A.
        """
        found: dict[str, tuple[Any, bool]] = {}
        for key, sides in _RANGES.items():
            if key not in attrs:
                continue
            ends = self._numbers(attrs[key])
            if len(ends) != len(sides):
                self.notes.append(f"not understood, and not applied: {key} = {attrs[key]}")
                continue
            of_unpacked = self.dtype.kind in "iu" and any(isinstance(end, float) for end in ends)
            new = {side: end for side, end in zip(sides, ends, strict=True) if side not in found}
            found |= {side: (end, of_unpacked) for side, end in new.items()}
            if new:
                said = " or ".join(f"{side} {end:.15g}" for side, end in new.items())
                self.notes.append(f"left out as no data: what is {said} ({key})")
        return found

    def unpacked(self, values: Array) -> Array:
        return values * self._scale + self._offset if self.packed else values

    def _numbers(self, given: Any) -> tuple[Any, ...]:
        """Return an attribute's values in the array's type; none of a text that is no number."""
        text = _text(given)
        array = np.atleast_1d(np.asarray(given if text is None else _number_of(text)))
        if array.dtype.kind not in "iuf":
            return ()
        if self.viewed is not None and array.dtype.kind in "iu":
            array = array.astype(self.dtype)
        return tuple(array.tolist())


def _text(given: Any) -> str | None:
    """Return an attribute that is one text, which HDF5 may have as bytes and in an array."""
    if isinstance(given, (np.ndarray, list, tuple)) and np.size(given) == 1:
        given = np.asarray(given).reshape(-1).tolist()[0]
    given = given.decode(errors="replace") if isinstance(given, bytes) else given
    return str(given) if isinstance(given, str) else None


def _number_of(text: str) -> int | float | None:
    """Return the number that a text is; zarr's version 3 has a float as base64 of its eight bytes, which end in "="."""
    for read in (int, float, lambda coded: struct.unpack("<d", base64.b64decode(coded, validate=True))[0]):
        with suppress(ValueError, struct.error):
            return read(text)
    return None


def _factor(name: str, key: str, given: Any) -> np.float64:
    array = np.asarray(given)
    if array.size != 1 or array.dtype.kind not in "biuf":
        raise UnreadableError(f"{name} must have one number as {key}, got {given!r}")
    return np.float64(array.reshape(-1)[0])


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
        known = "" if dims is None else f" ({', '.join(dims)})"
        raise UnreadableError(f"axis must name axes among the {ndim} of {name}{known}, got {axis}")
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


def contiguous(shape: Shape, region: Region) -> Iterator[tuple[int, int]]:
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


def _numpy(place: Place, options: Options, stack: ExitStack) -> Stored:
    name, path, member = place.name, place.files[0], ""
    if place.format == "npz":
        archive = stack.enter_context(zipfile.ZipFile(path))
        names = [file.removesuffix(".npy") for file in archive.namelist() if file.endswith(".npy")]
        if not place.member and {"config", "count", "mean", "m2"} <= set(names):
            raise UnreadableError(
                f"{name} must hold data, got a file of statistics "
                f"(fastbn.Moments.load reads it, fastbn merge {name} --out COPY.npz shows it)"
            )
        if not place.member and len(names) > 1:
            headers = {each: _header(name, stack.enter_context(archive.open(f"{each}.npy"))) for each in names}
            names = _without(names, [each for each, (shape, _, _) in headers.items() if not shape])
        member = only_member(place, names)
        file: Any = stack.enter_context(archive.open(f"{member}.npy"))
        size = archive.getinfo(f"{member}.npy").file_size
    else:
        file = stack.enter_context(open(path, "rb", buffering=0))  # noqa: SIM115 (it is one)
        if hasattr(os, "posix_fadvise"):  # on Linux
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        size = os.fstat(file.fileno()).st_size
    shape, fortran, dtype = _header(name, file)
    computed_as(name, dtype, None)
    begin = file.tell()
    if min(shape, default=0) < 0 or (0 in shape and math.prod(filter(None, shape)) > _LARGEST_EMPTY):
        raise UnreadableError(f"{name} must hold an array, got one of shape {shape}")
    least = math.prod(shape) * dtype.itemsize
    if size - begin < least:
        raise UnreadableError(f"{name} must hold {least} bytes of values, got {size - begin}: it is cut short")
    if place.format == "npy" and size - begin > least:
        file.seek(begin + least)
        if file.read(6) == np.lib.format.MAGIC_PREFIX:
            raise UnreadableError(f"{name} must hold one array, got another behind it (numpy.load reads both in turn)")
    ring, turn = Ring(), slice(None, None, -1 if fortran else 1)

    def read(region: Region) -> Array:
        values, position = ring.take(extent(region), dtype).reshape(-1), 0
        for first, count in contiguous(shape[turn], region[turn]):
            part = values[position : position + count].view(np.uint8)
            _fill(name, file, begin + first * dtype.itemsize, part)
            position += count
        return values.reshape(extent(region), order="F" if fortran else "C")

    return Stored(shape, dtype, read, Origin(name=os.path.basename(member)), range(len(shape))[turn])


def _header(name: str, file: Any) -> tuple[Shape, bool, np.dtype[Any]]:
    """Return shape, order and type of the array that begins here."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise UnreadableError(f"{name} must have a header of version 1 or 2, got {version} (numpy.load reads it)")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)


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
    named = "name one as in FILE:NAME" if place.array is None else "be one as in data['NAME']"
    rule = "name one of its arrays" if place.member else f"hold one array, or {named}"
    raise UnreadableError(f"{place.name} must {rule}, got {known}")


# Files of other libraries.


def _hdf5(place: Place, options: Options, stack: ExitStack) -> Stored:
    h5py = needed("h5py", "HDF5 files")
    file = stack.enter_context(h5py.File(place.files[0], "r"))
    if place.member and isinstance(file.get(place.member), h5py.Dataset):
        return _sliced(place.name, file[place.member], options, file.attrs)
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    scales = [name for name in names if not file[name].shape or file[name].attrs.get("CLASS") == b"DIMENSION_SCALE"]
    return _sliced(place.name, file[only_member(place, _without(names, scales))], options, file.attrs)


def _zarr(place: Place, options: Options, stack: ExitStack) -> Stored:
    zarr = needed("zarr", "Zarr stores")
    store = zarr.open(place.files[0], mode="r")
    if isinstance(store, zarr.Array):
        return _sliced(place.name, store if not place.member else only_member(place, []), options)
    names = list(_zarr_names(store, zarr))
    coords = [name for name in names if not store[name].shape or _dims_of(store[name]) == (name.rpartition("/")[2],)]
    coords += " ".join(str(store[name].attrs.get("coordinates", "")) for name in names).split()
    coords += referred(*map(store.get, names))
    member = only_member(place, names if place.member else _without(names, coords))
    group = member.rpartition("/")[0]
    found = _sliced(place.name, store[member], options, store.attrs, store[group] if group else store)
    if options.rowwise and found.origin.dims is not None:  # xarray knows which of the others are its coordinates
        xarray, name = needed("xarray", "Zarr stores with dimensions"), member.rpartition("/")[2]
        how: dict[str, Any] = {"group": group or None, "consolidated": False, "chunks": None, **_AS_STORED}
        # It takes no dimensions of one name and other sizes, and no arrays whose dimensions have no names.
        with suppress(ValueError, KeyError):
            found = _with_coords(found, xarray.open_zarr(place.files[0], **how), name)
    return found


def _with_coords(found: Stored, group: Any, name: str) -> Stored:
    """Return an array with its coordinates, and what these refer to, as xarray finds them in a group."""
    coords = group[name].coords.to_dataset()
    others = referred(group[name], *coords.variables.values())
    coords = coords.assign_coords({other: group[other] for other in others if other in group.variables})
    coords.encoding["unlimited_dims"] = group.encoding.get("unlimited_dims", ())
    return found._replace(origin=found.origin._replace(coords=coords))


# How xarray reads numbers as they are.
_AS_STORED: dict[str, Any] = {"decode_times": False, "mask_and_scale": False}


def _netcdf(place: Place, options: Options, stack: ExitStack) -> Stored:
    xarray = needed("xarray", "NetCDF files")
    how: dict[str, Any] = {"cache": False, **_AS_STORED}
    with open(place.files[0], "rb") as file:
        head = file.read(8)
    if head.startswith(b"CDF\5"):
        raise UnreadableError(f"{place.name} must be NetCDF 3 or 4, got CDF-5 (nccopy -k nc4 makes NetCDF 4 of it)")
    engine = "h5netcdf" if head == b"\x89HDF\r\n\x1a\n" else "scipy"
    needed(engine, "NetCDF files")
    if engine == "scipy":  # whose files have no groups
        groups = {"/": xarray.open_dataset(place.files[0], engine=engine, **how)}
    else:
        with needed("h5py", "NetCDF files").File(place.files[0], "r") as file:
            file.visititems(lambda _, item: _load_filters(item) if hasattr(item, "read_direct") else None)
        groups = xarray.open_groups(place.files[0], engine=engine, phony_dims="access", **how)
    found: dict[str, Any] = {}
    for path, group in groups.items():
        stack.callback(group.close)
        names = [name for name, each in group.data_vars.items() if each.dims]
        names = group.variables if place.member else _without(names, referred(*group.variables.values()))
        found |= {f"{path}/{name}".strip("/"): (group, name) for name in names}
    group, name = found[only_member(place, list(found))]
    return _with_coords(_sliced(place.name, group[name], options, groups["/"].attrs), group, name)


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


def _sliced(name: str, array: Any, options: Options, around: Mapping[str, Any] = {}, group: Any = None) -> Stored:
    """Return what is read by slicing and tells its chunks: a data set of HDF5, an array of Zarr or of xarray.

    ``around`` are the attributes of the file that it is in, ``group`` is what has the labels of its dimensions.
    """
    if array.shape is None or any(size != size for size in array.shape):  # which dask has NaN for
        raise UnreadableError(f"{name} must hold an array of known shape, got {array.shape}")
    for _ in data_sets(array):  # of which HDF5 would read the fill value where one is missing, or never come to an end
        pass
    if hasattr(array, "read_direct"):
        _load_filters(array)
    named = hasattr(array, "coords")
    inner, direct = array.variable if named else array, getattr(array, "read_direct", None)
    ring, dtype = Ring(), np.dtype(array.dtype)

    def read(region: Region) -> Array:
        if direct is None or 0 in extent(region):
            return np.asarray(inner[region])
        values = ring.take(extent(region), dtype)
        direct(values, region)
        return values

    attrs = dict(getattr(array, "attrs", {}))
    if attrs.get("MATLAB_empty"):
        return _empty_of_matlab(name, array[...].tolist()[::-1], _text(attrs.get("MATLAB_class")) or "double")
    fill = getattr(array, "fill_value", None)
    if "_ARRAY_DIMENSIONS" in attrs and fill is not None and zarr_format(array) == 2:  # as xarray writes and reads it
        attrs.setdefault("_FillValue", fill)
    dims = _dims_of(array)
    origin = Origin(
        _chunks_of(array),
        dims,
        attrs,
        array,
        array.coords.to_dataset() if named else None,
        os.path.basename(str(getattr(array, "name", None) or "")),
        dict(around),
        _scales_of(array, dims or (), array.coords.variables if named else group),
    )
    return Stored(tuple(array.shape), dtype, read, origin)


def _scales_of(array: Any, dims: Sequence[str], named: Any) -> dict[int, Any]:
    """Return the labels along the dimensions of an array: HDF5's scales, or what has their names."""
    found = map(scale_of, array.dims) if hasattr(array, "read_direct") else (named and named.get(dim) for dim in dims)
    return {
        number: scale
        for number, scale in enumerate(found)
        if getattr(scale, "shape", ()) == (array.shape[number],)
        # What NetCDF has for a dimension without coordinates says so.
        and "not a netCDF variable" not in str(scale.attrs.get("NAME", ""))
    }


def scale_of(dim: Any) -> Any:
    """Return the scale of a dimension of HDF5; None if it has none, or one that was removed."""
    with suppress(RuntimeError):  # of what is no longer in the file
        scale = next(iter(dim.values()), None)
        return scale if getattr(scale, "name", None) else None
    return None


def _labels(scale: Any) -> tuple[Any, ...]:
    """Return labels as they are meant: times as such, numbers unpacked."""
    values, attrs = np.asarray(scale[...]), dict(scale.attrs)
    if " since " in str(attrs.get("units")) or attrs.keys() & set(PACKING):
        with suppress(ImportError, ValueError, OverflowError):  # of calendars that others know
            xarray = importlib.import_module("xarray")
            values = xarray.decode_cf(xarray.Dataset({"label": ("labels", values, attrs)}))["label"].values
    return labels_of(values)


def _empty_of_matlab(name: str, shape: list[int], held: str) -> Stored:
    """Return an array without values: MATLAB stores its shape in its place, in the reverse order of axes."""
    if 0 not in shape or math.prod(filter(None, shape)) > _LARGEST_EMPTY:
        raise UnreadableError(f"{name} must be an empty array, as MATLAB_empty says, got one of shape {shape}")
    values: Array = np.empty(shape, {"logical": "bool"}.get(held, held))
    return Stored(values.shape, values.dtype, values.__getitem__)


def _load_filters(data_set: Any) -> None:
    """Import hdf5plugin, if it is there, for a data set of HDF5 that is compressed by what the library has not."""
    filters, known = data_set.id.get_create_plist(), needed("h5py", "HDF5 files").h5z.filter_avail
    if not all(known(filters.get_filter(number)[0]) for number in range(filters.get_nfilters())):
        with suppress(ImportError):
            importlib.import_module("hdf5plugin")


def data_sets(array: Any, above: frozenset[tuple[str, str]] = frozenset()) -> Iterator[tuple[str, str]]:
    """Yield file and name of a data set of HDF5, and of those that a virtual one is made of; a name may have "%b"."""
    if not hasattr(array, "virtual_sources"):
        return
    here, name = os.path.realpath(array.file.filename), array.name
    if (here, name) in above:
        raise UnreadableError(f"{here}:{name} must not be made of itself")
    yield here, name
    for each in array.virtual_sources() if array.is_virtual else ():
        beside = os.path.join(os.path.dirname(array.file.filename), each.file_name)
        patterns = (here,) if each.file_name == "." else (beside, each.file_name)
        paths = [path for each in patterns for path in glob.glob(re.sub("%[0-9]*b", "*", glob.escape(each)))]
        if not paths and "%" not in each.file_name:
            raise UnreadableError(
                f"{here}:{name} must have all files that it is made of, got none of {each.file_name!r}"
            )
        for path in paths:
            yield path, each.dset_name
            with suppress(OSError), needed("h5py", "HDF5 files").File(path, "r") as file:
                if each.dset_name in file:
                    yield from data_sets(file[each.dset_name], above | {(here, name)})
                elif path == paths[0] and "%" not in f"{each.file_name}{each.dset_name}":
                    got = f"got no {each.dset_name!r} in {each.file_name!r}"
                    raise UnreadableError(f"{here}:{name} must have all data sets that it is made of, {got}")


def zarr_format(array: Any) -> int:
    """Return which version of Zarr an array is stored in, of those of xarray and of version 2 of zarr the second."""
    return getattr(getattr(array, "metadata", None), "zarr_format", 2)


def _chunks_of(array: Any) -> Shape | None:
    chunks = array.variable.chunks if hasattr(array, "coords") else getattr(array, "shards", None) or array.chunks
    if chunks or not hasattr(array, "coords"):  # dask has the sizes of all
        return tuple(max(sizes) if isinstance(sizes, tuple) else sizes for sizes in chunks) if chunks else None
    sizes = array.variable.encoding.get("preferred_chunks")
    pairs = zip(array.dims, array.shape, strict=True)
    return tuple(int(sizes.get(dim, size)) for dim, size in pairs) if sizes else None


def referred(*arrays: Any) -> list[str]:
    """Return the names of the variables that belong to arrays, as their attributes have it."""
    texts = (str(array.attrs[name]) for array in arrays for name in _REFERENCES if name in array.attrs)
    return " ".join(texts).replace(":", " ").split()


def _dims_of(array: Any) -> tuple[str, ...] | None:
    """Return the names of an array's dimensions: Zarr's, xarray's in Zarr of version 2, or HDF5's labels and scales."""
    names: Any = getattr(getattr(array, "metadata", None), "dimension_names", None)
    names = names or getattr(array, "attrs", {}).get("_ARRAY_DIMENSIONS") or getattr(array, "dimensions", None)
    if names is None and hasattr(array, "dims"):
        names = [
            (dim.label or os.path.basename(getattr(scale_of(dim), "name", ""))) if hasattr(dim, "label") else dim
            for dim in array.dims
        ]
    return tuple(map(str, names)) if names and all(names) else None


# What is in memory, or opened by the caller.


def _memory(place: Place, options: Options, stack: ExitStack) -> Stored:
    name, array = place.name, place.array
    if type(array).__module__.startswith("scipy.sparse"):
        raise UnreadableError(f"{name} must be dense, got a sparse {type(array).__name__} (its toarray() is)")
    if type(array).__module__.startswith("netCDF4"):
        raise UnreadableError(f"{name} must be a path or an array, got a masked {type(array).__name__} of netCDF4")
    around: Mapping[str, Any] = {}
    if type(array).__name__ == "Dataset" and hasattr(array, "data_vars"):
        around, array = array.attrs, array[only_member(place, [str(each) for each in array.data_vars])]
    if getattr(array, "ndim", 2) < 2 and not hasattr(array, "dims"):
        hint = "(one feature: x[:, None], df[['a']], series.to_frame())"
        raise UnreadableError(f"{name} must have two dimensions or more {hint}, got {array.ndim}")
    if not isinstance(array, np.ndarray) and all(hasattr(array, each) for each in ("shape", "dtype", "chunks")):
        found = _sliced(name, array, options, around)
        if hasattr(array, "encoding"):  # of xarray, where a range outlives the numbers that it was said of
            attrs = {key: value for key, value in found.origin.attrs.items() if key not in _RANGES}
            found = found._replace(origin=found.origin._replace(attrs=attrs))
        return found
    values = np.asarray(array) if is_frame(array) else converted("source", array)
    order = sorted(range(values.ndim), key=lambda axis: -abs(values.strides[axis]))
    if isinstance(values, np.memmap) and values.mode in _OF_THE_FILE:
        read = _copier(values, Ring())
        return Stored(values.shape, values.dtype, read, order=order, beside=values.itemsize)
    for value in values.ravel().tolist() if values.dtype == object else ():
        if not isinstance(value, (int, float, np.number)):
            raise UnreadableError(f"{name} must hold real numbers, got {value!r}")
    names = list(frame_columns(array)) if is_frame(array) else None
    # Whoever yields arrays may fill them anew for the next.
    return Stored(values.shape, values.dtype, values.__getitem__, order=order, names=names, overlaps=False)


def _copier(array: Array, ring: Ring) -> Read:
    """Return what copies from a map, whose pages count as memory of the process, and are let go when they are read."""
    pages: Any = array
    while pages is not None and not isinstance(pages, mmap.mmap):
        pages = getattr(pages, "base", None)

    def read(region: Region) -> Array:
        values = array[region]
        copy = ring.take(values.shape, values.dtype)
        np.copyto(copy, values)
        if pages is not None:
            pages.madvise(mmap.MADV_DONTNEED)
        return copy

    return read


_OPEN: dict[str, Callable[[Place, Options, ExitStack], Stored]] = {
    **{"npy": _numpy, "npz": _numpy, "hdf5": _hdf5, "zarr": _zarr, "netcdf": _netcdf, "memory": _memory}
}
