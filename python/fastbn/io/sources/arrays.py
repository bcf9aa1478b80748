"""Blocks of one large array, whichever way its values come into memory. Knows no file and no format."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from fastbn._validation import Shape, checked_axis
from fastbn.io.sources.base import Array, Block, Reading, Ring, UnreadableError, chosen_columns, computed_as

Region: TypeAlias = tuple[slice, ...]

# Values that a piece has at least in either order, where an array is read in one and written in another.
_PIECE = 512


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


class ArraySource:
    """One array, of which ``read`` gives any tile as it is stored.

    An array of one dimension is one column. ``order`` lists the axes from the slowest to the fastest in memory,
    ``chunks`` is the shape in which the array is stored piece by piece.
    """

    overlaps = True
    more: Sequence[str] = ()
    close: Callable[[], None] = staticmethod(lambda: None)

    def __init__(
        self,
        name: str,
        shape: Shape,
        dtype: np.dtype[Any],
        read: Callable[[Region], Array],
        reading: Reading,
        *,
        order: Sequence[int] | None = None,
        chunks: Shape | None = None,
    ) -> None:
        if not shape:
            raise UnreadableError(f"{name} must have one dimension or more, got a single value")
        self.name, self._read = name, read
        self.flat = len(shape) == 1
        self.shape: Shape = (*shape, 1) if self.flat else tuple(shape)
        self.stored, self.dtype = dtype, computed_as(name, dtype, reading.dtype)
        self.axis = _axes(name, reading.axis, len(self.shape))
        self._copies = Ring(reading)
        self.chosen = self._chosen(reading)
        sizes = {} if self.chosen is None else {self.axis[0]: len(self.chosen)}
        self.features: Shape = tuple(sizes.get(a, self.shape[a]) for a in self.axis)
        self._sorted = np.array(sorted(self.chosen or ()), np.intp)
        self.order = None if self.chosen is None else tuple(np.searchsorted(self._sorted, self.chosen).tolist())
        self.names = None if self.chosen is None else tuple(map(str, self.chosen))
        axes = tuple(range(len(shape)) if order is None else order)
        self._grid = self._cut((*axes, 1) if self.flat else axes, chunks, reading)

    def blocks(self, start: int = 0) -> Iterator[Block]:
        """Yield the tiles in order, as blocks of the chosen features in a type that can be computed with."""
        for number in range(start, len(self._grid)):
            region = self._grid.region(number)
            kept = self._within(region)
            if kept is None:
                continue
            values = self._read(region[:1] if self.flat else region).reshape(extent(region))[kept]
            if values.dtype == self.dtype:
                values = values.view(self.dtype)  # that says "=" of its byte order, where the file's may say "<"
            else:
                copy = self._copies.take(values.shape, self.dtype)
                with np.errstate(all="ignore"):
                    np.copyto(copy, values, casting="unsafe")
                values = copy
            corner = tuple(part.start for part in region)
            yield Block(values, corner, number + 1, (number + 1) / len(self._grid))

    def _cut(self, order: Shape, chunks: Shape | None, reading: Reading) -> Grid:
        natural = tuple(range(len(self.shape)))
        whole = (1,) * len(self.shape) if chunks is None else (*chunks, 1) if self.flat else tuple(chunks)
        if reading.rowwise and order != natural:
            # What is read in one order and written in another has pieces of some length in both.
            whole, order = tuple(_PIECE if axis == order[-1] else 1 for axis in natural), natural
        # Chunks are decoded into memory of their own before they are put together, from what is stored of them.
        per_value = self.stored.itemsize * (1 if chunks is None else 3) + reading.beside
        if self.chosen is not None or self.stored != self.dtype:
            per_value += self.dtype.itemsize
        most = reading.block_bytes // per_value
        needed = math.prod(min(chunk, max(1, size)) for chunk, size in zip(whole, self.shape, strict=True))
        if needed > max(1, most):
            least = -(-needed * per_value * 4 >> 20)
            raise UnreadableError(
                f"memory must be {least} MiB or more for {self.name}, whose chunks are {chunks}, "
                f"got {reading.memory / 2**20:g} MiB"
            )
        return Grid(self.shape, order, whole, most)

    def _chosen(self, reading: Reading) -> tuple[int, ...] | None:
        if reading.columns is None:
            return None
        if len(self.axis) != 1:
            raise UnreadableError(f"columns must come with one feature axis, got axis {reading.axis} for {self.name}")
        return tuple(chosen_columns(self.name, reading.columns, None, self.shape[self.axis[0]]))

    def _within(self, region: Region) -> tuple[Any, ...] | None:
        """Return the index of the chosen features in a tile, None if it has none of them."""
        if self.chosen is None:
            return (...,)
        axis = self.axis[0]
        first, end = np.searchsorted(self._sorted, (region[axis].start, region[axis].stop))
        if first == end and self._sorted.size:
            return None
        inside = self._sorted[first:end] - region[axis].start
        run = inside.size > 0 and inside[-1] - inside[0] + 1 == inside.size
        return (*(slice(None),) * axis, slice(int(inside[0]), int(inside[-1]) + 1) if run else inside)


def _axes(name: str, axis: int | Shape, ndim: int) -> Shape:
    checked = checked_axis(axis)
    axes = (checked,) if isinstance(checked, int) else checked
    if any(not -ndim <= a < ndim for a in axes) or len({a % ndim for a in axes}) < len(axes):
        raise UnreadableError(f"axis must name axes among the {ndim} of {name}, got {axis}")
    return tuple(sorted(a % ndim for a in axes))


def sliced(name: str, array: Any, reading: Reading) -> ArraySource:
    """Return as a source what is read by slicing and tells its chunks: a data set of HDF5, an array of Zarr."""

    def read(region: Region) -> Array:
        if direct is None or 0 in extent(region):
            return np.asarray(array[region])
        values = ring.take(extent(region), dtype)
        direct(values, region)
        return values

    if array.shape is None:
        raise UnreadableError(f"{name} must hold an array, got one without a shape")
    direct = getattr(array, "read_direct", None)
    chunks = getattr(array, "shards", None) or array.chunks
    ring, dtype = Ring(reading), np.dtype(array.dtype)
    return ArraySource(name, tuple(array.shape), dtype, read, reading, chunks=chunks)
