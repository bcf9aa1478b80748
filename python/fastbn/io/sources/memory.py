"""Arrays that are at hand: NumPy's, mapped files, and whatever has a shape and can be sliced, as h5py's and zarr's."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Any

import numpy as np

from fastbn._validation import converted
from fastbn.io.sources.arrays import ArraySource, Region, sliced
from fastbn.io.sources.base import Array, Place, Reading, Ring, UnreadableError

# Modes of maps whose pages hold what the file does. Those of "c" may not, and a view may not know what it is of.
_OF_THE_FILE = ("r", "r+", "w+")


def opened(place: Place, reading: Reading) -> ArraySource:
    """Return the array of a place as a source; one in memory is neither copied nor read ahead."""
    array = place.array
    if getattr(array, "ndim", 2) < 2:
        raise UnreadableError(f"{place.name} must have two dimensions or more, got {array.ndim}")
    if not isinstance(array, np.ndarray) and all(hasattr(array, name) for name in ("shape", "dtype", "chunks")):
        return sliced(place.name, array, reading)
    values = converted("source", array)
    order = sorted(range(values.ndim), key=lambda axis: -abs(values.strides[axis]))
    if isinstance(values, np.memmap) and values.mode in _OF_THE_FILE:
        # Pages of the map count as memory of the process, so they are let go once they are copied.
        counted = reading._replace(beside=reading.beside + values.itemsize)
        return ArraySource(place.name, values.shape, values.dtype, _copier(values, reading), counted, order=order)
    source = ArraySource(place.name, values.shape, values.dtype, lambda region: values[region], reading, order=order)
    source.overlaps = False  # whoever yields arrays may fill them anew for the next
    return source


def _copier(array: Array, reading: Reading) -> Callable[[Region], Array]:
    ring, pages = Ring(reading), _map_of(array)

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
