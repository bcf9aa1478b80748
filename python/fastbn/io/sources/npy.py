"""Arrays in NumPy's own files, .npy and .npz, read in place: a block at a time, from where it lies in the file.

Blocks are read rather than mapped: pages of a map count as memory of the process, and a file that another program cuts
short while it is mapped ends this one with SIGBUS instead of an error.
"""

from __future__ import annotations

import math
import os
import zipfile
from contextlib import ExitStack
from typing import Any

import numpy as np

from fastbn._validation import Shape
from fastbn.io.sources.arrays import ArraySource, Region, extent, runs
from fastbn.io.sources.base import Array, Place, Reading, Ring, UnreadableError, computed_as, only_member

# What an archive decompresses at a time, in memory of its own.
_PIECE = 1 << 20
# Of an array without values nothing but its header says how large it is, and each of its features takes memory.
_LARGEST_EMPTY = 1 << 24


def opened(place: Place, reading: Reading) -> ArraySource:
    """Open an .npy file, or a member of an .npz file."""
    path = place.files[0]
    with ExitStack() as stack:
        if path.lower().endswith(".npz"):
            archive = stack.enter_context(zipfile.ZipFile(path))
            file: Any = stack.enter_context(archive.open(_member(place, archive.namelist())))
            size = archive.getinfo(file.name).file_size
        else:
            file = stack.enter_context(open(path, "rb", buffering=0))
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            size = os.fstat(file.fileno()).st_size
        source = _source(place.name, file, size, reading)
        source.close = stack.pop_all().close
        return source


def _member(place: Place, files: list[str]) -> str:
    names = [file.removesuffix(".npy") for file in files if file.endswith(".npy")]
    return only_member(place, names) + ".npy"


def _source(name: str, file: Any, size: int, reading: Reading) -> ArraySource:
    shape, fortran, dtype = _header(name, file)
    computed_as(name, dtype, None)
    begin = file.tell()
    _check_shape(name, shape, dtype.itemsize, size - begin)
    ring, turn = Ring(reading), slice(None, None, -1 if fortran else 1)

    def read(region: Region) -> Array:
        values, position = ring.take(extent(region), dtype).reshape(-1), 0
        for first, count in runs(shape[turn], region[turn]):
            part = values[position : position + count].view(np.uint8)
            _fill(name, file, begin + first * dtype.itemsize, part)
            position += count
        return values.reshape(extent(region), order="F" if fortran else "C")

    return ArraySource(name, shape, dtype, read, reading, order=range(len(shape))[turn])


def _header(name: str, file: Any) -> tuple[Shape, bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise UnreadableError(f"{name} must hold real numbers, got a header of version {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)


def _check_shape(name: str, shape: Shape, itemsize: int, there: int) -> None:
    """Refuse a shape for which there are not the values; where it needs none, one that no array is likely to have."""
    if min(shape, default=0) < 0 or (0 in shape and math.prod(filter(None, shape)) > _LARGEST_EMPTY):
        raise UnreadableError(f"{name} must hold an array, got one of shape {shape}")
    needed = math.prod(shape) * itemsize
    if there < needed:
        raise UnreadableError(f"{name} must hold {needed} bytes of values, got {there}: it is cut short")


def _fill(name: str, file: Any, at: int, values: Array) -> None:
    if file.tell() != at:
        file.seek(at)
    rest: memoryview[int] = memoryview(values)  # type: ignore[arg-type]  # an array is a buffer
    while rest:
        got = file.readinto(rest[:_PIECE])
        if not got:
            raise UnreadableError(
                f"{name} must not change while it is read, got {len(rest)} bytes less than there were"
            )
        rest = rest[got:]
