"""Arrays that are at hand: NumPy's, mapped files, and whatever has a shape and can be sliced, as h5py's and zarr's."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np

from fastbn.checks import converted
from fastbn.io.sources.arrays import ArraySource, Region, sliced
from fastbn.io.sources.base import Array, Place, Reading, UnreadableError


def opened(place: Place, reading: Reading) -> ArraySource:
    """Return the array of a place as a source; one in memory is neither copied nor read ahead."""
    array = place.array
    if getattr(array, "ndim", 2) < 2:
        raise UnreadableError(f"{place.name} must have two dimensions or more, got {array.ndim}")
    if not isinstance(array, np.ndarray) and all(hasattr(array, name) for name in ("shape", "dtype", "chunks")):
        return sliced(place.name, array, reading)
    values = converted("source", array)
    if isinstance(values, np.memmap) and values.mode != "c":  # pages of "c" may hold what the file does not
        return _Mapped(place.name, values, reading)
    return _Whole(place.name, values, reading)


class _Whole(ArraySource):
    """An array in memory. Whoever yields arrays may refill them for the next, so nothing is read ahead."""

    overlaps = False

    def __init__(self, name: str, array: Array, reading: Reading) -> None:
        order = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
        super().__init__(name, array.shape, array.dtype, lambda region: array[region], reading, order=order)


class _Mapped(_Whole):
    """A mapped file: its pages count as memory of the process, so they are let go once they are copied."""

    overlaps = True

    def __init__(self, name: str, array: Array, reading: Reading) -> None:
        super().__init__(name, array, reading)
        self._array, self._map = array, _map_of(array)
        self._read = self._copied

    def _copied(self, region: Region) -> Array:
        values = self._array[region]
        copy = self._ring.take(values.shape, values.dtype)
        np.copyto(copy, values)
        if self._map is not None:
            self._map.madvise(mmap.MADV_DONTNEED)
        return copy


def _map_of(array: Array) -> mmap.mmap | None:
    base: Any = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = getattr(base, "base", None)
    return base
