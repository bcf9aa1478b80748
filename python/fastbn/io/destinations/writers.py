"""Arrays written region by region, to .npy, .npz, HDF5 and Zarr. Knows neither what they hold nor the final name."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from fastbn._validation import Shape
from fastbn.io.atomic import removed
from fastbn.io.destinations import ArrayWriter
from fastbn.io.optional import needed
from fastbn.io.sources.arrays import runs
from fastbn.io.sources.base import Array

# Large enough to be read at the speed of the disk, small enough to be read for a few rows.
_CHUNK_BYTES = 1 << 20
_PATIENCE = 30.0  # seconds for chunks that are under way, at most a block's; the tasks may be another's too


class NpyWriter:
    """An .npy file in C order. Its header has the number of rows, and room to write it once more at the end."""

    def __init__(self, path: str, member: str, trailing: Shape, dtype: np.dtype[Any]) -> None:
        self._trailing, self._dtype = trailing, dtype
        self._file = open(path, "wb")  # noqa: SIM115 (closed by `close`)
        self._header(0)
        self._begin = self._file.tell()

    def write(self, corner: Shape, values: Array) -> None:
        """Write each piece of the region that is contiguous in the file."""
        region = tuple(slice(at, at + size) for at, size in zip(corner, values.shape, strict=True))
        data, position = np.ascontiguousarray(values).reshape(-1), 0
        for first, count in runs((region[0].stop, *self._trailing), region):
            self._file.seek(self._begin + first * self._dtype.itemsize)
            self._file.write(data[position : position + count].data)
            position += count

    def finish(self, rows: int) -> None:
        """Write the header as it is to be."""
        self._file.seek(0)
        self._header(rows)
        self._file.truncate(self._begin + rows * math.prod(self._trailing) * self._dtype.itemsize)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _header(self, rows: int) -> None:
        descr = np.lib.format.dtype_to_descr(self._dtype)
        header = {"descr": descr, "fortran_order": False, "shape": (rows, *self._trailing)}
        np.lib.format.write_array_header_1_0(self._file, header)


class NpzWriter(NpyWriter):
    """An .npz file of one array, which is written beside it first: its size must be known before the rest."""

    def __init__(self, path: str, member: str, trailing: Shape, dtype: np.dtype[Any]) -> None:
        self._path, self._member, self._beside = path, member, f"{path}.npy"
        super().__init__(self._beside, member, trailing, dtype)

    def finish(self, rows: int) -> None:
        """Put the array into the archive."""
        super().finish(rows)
        super().close()
        with zipfile.ZipFile(self._path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            archive.write(self._beside, f"{self._member}.npy")

    def close(self) -> None:
        """Remove what was written beside the archive."""
        try:
            super().close()
        finally:  # a full disk says so once more, of what was still to be written
            removed(self._beside)


class ChunkedWriter:
    """An array that is stored in chunks and can grow: ``resize`` and slicing is all it needs to know."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def write(self, corner: Shape, values: Array) -> None:
        """Let the array grow if it must, and write the region."""
        region = tuple(slice(at, at + size) for at, size in zip(corner, values.shape, strict=True))
        if region[0].stop > self._array.shape[0]:
            self._array.resize((region[0].stop, *self._array.shape[1:]))
        self._array[region] = values

    def finish(self, rows: int) -> None:
        """Give the array its size."""
        self._array.resize((rows, *self._array.shape[1:]))


class Hdf5Writer(ChunkedWriter):
    """An HDF5 file of one array."""

    def __init__(self, path: str, member: str, trailing: Shape, dtype: np.dtype[Any]) -> None:
        self._raw = _Lenient(path, "w+")
        self._file = needed("h5py", "HDF5 files").File(self._raw, "w")
        shape, limit = (0, *trailing), (None, *trailing)
        super().__init__(
            self._file.create_dataset(member, shape, dtype, maxshape=limit, chunks=_chunks(trailing, dtype))
        )

    def write(self, corner: Shape, values: Array) -> None:
        """Write the region, and see whether that and what was held back before went well."""
        super().write(corner, values)
        self._raw.check()

    def finish(self, rows: int) -> None:
        """Complete the file, which writes what HDF5 has held back."""
        super().finish(rows)
        self._file.close()
        self._raw.check()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._raw.close()


class _Lenient(io.FileIO):
    """A file that keeps its first error to be asked for, and is not written to any more.

    HDF5 ends the process with SIGSEGV if it cannot write, as it closes a file, what it has held back.
    """

    _error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all, or keep the error."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        while written := self._tried(super().write, rest):
            rest = rest[written:]
        return size

    def truncate(self, size: int | None = None) -> int:
        """Change the size, or keep the error."""
        return self._tried(super().truncate, size)

    def _tried(self, call: Callable[[Any], int], value: Any) -> int:
        """Return what a call does, or 0 where it fails, or one did before."""
        try:
            return call(value) if self._error is None else 0
        except OSError as error:
            self._error = error
            return 0

    def check(self) -> None:
        """Raise what went wrong."""
        if self._error is not None:
            raise self._error


class ZarrWriter(ChunkedWriter):
    """A Zarr store in a folder, of one array."""

    def __init__(self, path: str, member: str, trailing: Shape, dtype: np.dtype[Any]) -> None:
        self._zarr = needed("zarr", "Zarr stores")
        chunks = _chunks(trailing, dtype)
        name = None if member == "data" else member
        super().__init__(
            self._zarr.open_array(path, path=name, mode="w", shape=(0, *trailing), chunks=chunks, dtype=dtype)
        )

    def close(self) -> None:
        """Wait until nothing writes: zarr raises the first error while other chunks are still under way.

        They would make folders anew that were removed. Version 2 of zarr has no such tasks.
        """
        run = getattr(getattr(self._zarr.core, "sync", None), "sync", None)
        if run is not None:
            run(_others_done())


async def _others_done() -> None:
    import asyncio  # slow to import, but zarr has done that

    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=_PATIENCE)


def _chunks(trailing: Shape, dtype: np.dtype[Any]) -> Shape:
    """Return chunks of whole rows, or of pieces of one."""
    chunk = [1, *(max(1, size) for size in trailing)]
    for axis in range(1, len(chunk)):
        over = math.prod(chunk) * dtype.itemsize / _CHUNK_BYTES
        if over > 1:
            chunk[axis] = max(1, int(chunk[axis] / over))
    chunk[0] = max(1, _CHUNK_BYTES // (math.prod(chunk) * dtype.itemsize))
    return tuple(chunk)


WRITERS: dict[str, Callable[[str, str, Shape, np.dtype[Any]], ArrayWriter]] = {
    "npy": NpyWriter,
    "npz": NpzWriter,
    "hdf5": Hdf5Writer,
    "zarr": ZarrWriter,
}
