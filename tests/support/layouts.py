"""Arrays in many memory layouts: what they are called, how they are made, and the list that the tests go through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from support import oracle
from support.oracle import Array, Axis
from support.random_arrays import random_values

# Memory layouts: functions from values to a new array that holds them in some memory order. What lies between the
# elements is NaN (of integers the largest, of masks True), so that reading it shows.


def hole(dtype: Any) -> Any:
    """Return what lies between elements of `dtype`."""
    kind = np.dtype(dtype).kind
    return np.iinfo(dtype).max if kind in "iu" else kind == "b" or np.nan


def dense(values: Array) -> Array:
    """C order."""
    return np.array(values, order="C")


def permuted(*order: int) -> Callable[[Array], Array]:
    """Memory in the order of axes given."""
    return lambda values: np.array(values.transpose(order), order="C").transpose(np.argsort(order))


def fortran(values: Array) -> Array:
    """Memory in the reverse order of axes."""
    return np.array(values, order="F")


def stepped(*steps: int) -> Callable[[Array], Array]:
    """A view with the steps given, over a larger array."""

    def place(values: Array) -> Array:
        shape = [n * abs(s) for n, s in zip(values.shape, steps, strict=True)]
        view = np.full(shape, hole(values.dtype), values.dtype)[tuple(slice(None, None, s) for s in steps)]
        view[...] = values
        return view

    return place


def padded(*extra: int) -> Callable[[Array], Array]:
    """A corner of a larger array, `extra` elements larger in each direction."""

    def place(values: Array) -> Array:
        larger = [n + e for n, e in zip(values.shape, extra, strict=True)]
        whole = np.full(larger, hole(values.dtype), values.dtype)
        view = whole[tuple(slice(e, None) for e in extra)]
        view[...] = values
        return view

    return place


def repeated(*axes: int) -> Callable[[Array], Array]:
    """The first slice along `axes`, repeated with a stride of zero (and so read-only)."""

    def place(values: Array) -> Array:
        first = values[tuple(slice(0, 1) if a in axes else slice(None) for a in range(values.ndim))].copy()
        return np.broadcast_to(first, values.shape)

    return place


def misaligned(values: Array) -> Array:
    """C order, one byte off any alignment."""
    raw = np.zeros(values.nbytes + 1, np.uint8)
    view = raw[1:].view(values.dtype) if values.nbytes else np.empty(0, values.dtype)
    view = view.reshape(values.shape)
    view[...] = values
    return view


def packed_record(values: Array) -> Array:
    """A field of a packed record: misaligned and strided."""
    records = np.zeros(values.shape, np.dtype([("tag", np.int8), ("value", values.dtype)]))
    records["value"] = values
    return records["value"]


def readonly(values: Array) -> Array:
    """C order, not writable."""
    view = dense(values)
    view.flags.writeable = False
    return view


class Layout(NamedTuple):
    """A shape, its feature axis, and how its memory lies."""

    name: str
    shape: tuple[int, ...]
    axis: Axis
    place: Callable[[Array], Array]

    def fill(self, rng: np.random.Generator, dtype: Any, scale: float = 1.0, offset: float = 0.0) -> Array:
        """Return an array of this layout with random values."""
        return self.place(random_values(rng, self.shape, dtype, scale, offset))

    @property
    def features(self) -> tuple[int, ...]:
        """The shape of the statistics."""
        return oracle.feature_shape(self.shape, self.axis)


def layout_id(layout: Layout) -> str:
    """Name a layout in pytest's output."""
    return layout.name


LAYOUTS = [
    Layout("NC", (37, 5), 1, dense),
    Layout("NC-wide", (9, 333), 1, dense),
    Layout("NC-narrow", (1031, 1), 1, dense),
    Layout("NC-two", (515, 2), 1, dense),
    Layout("NC-row-fold", (1031, 17), 1, dense),
    Layout("NC-fortran", (67, 6), 1, fortran),
    Layout("CN", (5, 131), 0, dense),
    Layout("CN-fortran", (7, 45), 0, fortran),
    Layout("NCL", (4, 3, 50), 1, dense),
    Layout("NLC", (4, 50, 3), -1, dense),
    Layout("NLC-wide", (3, 5, 67), 2, dense),
    Layout("NCHW", (3, 5, 9, 11), 1, dense),
    Layout("NCHW-1x1", (65, 17, 1, 1), 1, dense),
    Layout("NCHW-2x2", (16, 19, 2, 2), 1, dense),
    Layout("NCHW-3x3", (7, 33, 3, 3), 1, dense),
    Layout("NCHW-3x3-row-fold", (303, 3, 3, 3), 1, dense),
    Layout("NCHW-4x4", (9, 5, 4, 4), 1, dense),
    Layout("NCHW-5x5", (3, 11, 5, 5), 1, dense),
    Layout("NCHW-7x7", (8, 18, 7, 7), 1, dense),
    Layout("NCHW-14x14", (3, 9, 14, 14), 1, dense),
    Layout("NHWC", (3, 9, 11, 5), 3, dense),
    Layout("channels-last-view", (3, 18, 7, 5), 1, permuted(0, 2, 3, 1)),
    Layout("NCDHW", (2, 3, 4, 5, 6), 1, dense),
    Layout("NDHWC", (2, 4, 5, 6, 3), -1, dense),
    Layout("fortran", (4, 5, 6, 7), 1, fortran),
    Layout("CHWN", (6, 5, 4, 3), 1, permuted(1, 2, 3, 0)),
    Layout("HCNW", (6, 5, 4, 3), 1, permuted(2, 1, 0, 3)),
    Layout("step-inner", (3, 4, 33), 1, stepped(1, 1, 2)),
    Layout("step-channel", (3, 9, 33), 1, stepped(1, 2, 1)),
    Layout("step-batch", (5, 4, 33), 1, stepped(3, 1, 1)),
    Layout("step-everything", (5, 7, 6, 5), 1, stepped(2, 3, 2, 3)),
    Layout("step-NC", (65, 19), 1, stepped(1, 2)),
    Layout("reversed-inner", (3, 4, 33), 1, stepped(1, 1, -1)),
    Layout("reversed-channel", (9, 35), 1, stepped(1, -1)),
    Layout("reversed-everything", (5, 7, 6, 5), 1, stepped(-1, -2, -1, -3)),
    Layout("padded-rows", (5, 7, 6, 9), 1, padded(0, 0, 0, 3)),
    Layout("padded-channels", (66, 19), 1, padded(0, 5)),
    Layout("padded-everything", (5, 7, 6, 9), 1, padded(1, 2, 3, 4)),
    Layout("repeated-batch", (6, 5, 21), 1, repeated(0)),
    Layout("repeated-inner", (6, 5, 21), 1, repeated(2)),
    Layout("repeated-channel", (6, 5, 21), 1, repeated(1)),
    Layout("repeated-all", (6, 5, 21), 1, repeated(0, 1, 2)),
    Layout("misaligned", (6, 5, 21), 1, misaligned),
    Layout("misaligned-NC", (41, 37), 1, misaligned),
    Layout("record-field", (6, 5, 21), 1, packed_record),
    Layout("readonly", (6, 5, 21), 1, readonly),
    Layout("axes-0-2", (3, 31, 5), (0, 2), dense),
    Layout("axes-0-1", (3, 5, 31), (0, 1), dense),
    Layout("axes-1-2", (31, 3, 5), (1, 2), dense),
    Layout("axes-1-3", (5, 3, 7, 4), (1, 3), dense),
    Layout("axes-1-3-stepped", (5, 3, 7, 4), (3, 1), stepped(1, 2, -1, 3)),
    Layout("axes-none", (5, 9, 7), (), dense),
    Layout("axes-none-stepped", (5, 9, 7), (), stepped(2, -1, 3)),
    Layout("axes-none-fortran", (33, 21), (), fortran),
    Layout("singletons", (1, 5, 1, 41, 1), 1, dense),
    Layout("one-channel", (7, 1, 55), 1, dense),
    Layout("rank-9", (2, 1, 3, 2, 2, 1, 2, 3, 2), 2, permuted(8, 0, 3, 2, 4, 6, 5, 7, 1)),
]

# Large enough to be divided among threads, in every way a plan may divide them.
LARGE = [
    Layout("large-NCHW", (8, 16, 56, 56), 1, dense),
    Layout("large-NCHW-few-channels", (2, 3, 65537), 1, dense),
    Layout("large-NCHW-one-channel", (3, 1, 100003), 1, dense),
    Layout("large-NCHW-14x14", (32, 128, 14, 14), 1, dense),
    Layout("large-NCHW-7x7", (32, 257, 7, 7), 1, dense),
    Layout("large-NCHW-2x2", (128, 300, 2, 2), 1, dense),
    Layout("large-NCHW-3x3", (300, 257, 3, 3), 1, dense),
    Layout("large-NHWC", (8, 28, 28, 65), 3, dense),
    Layout("large-NC", (4099, 100), 1, dense),
    Layout("large-NC-narrow", (100003, 3), 1, dense),
    Layout("large-NC-row-fold", (20011, 17), 1, dense),
    Layout("large-NC-one-channel", (300007, 1), 1, dense),
    Layout("large-short-channels", (20011, 3, 17), 1, dense),
    Layout("large-NC-wide", (40, 10007), 1, dense),
    Layout("large-CN", (100, 4099), 0, dense),
    Layout("large-NC-fortran", (4099, 100), 1, fortran),
    Layout("large-channels-last-view", (8, 65, 28, 28), 1, permuted(0, 2, 3, 1)),
    Layout("large-CHWN", (64, 17, 19, 21), 1, permuted(1, 2, 3, 0)),
    Layout("large-stepped", (16, 31, 29, 30), 1, stepped(1, 2, -1, 3)),
    Layout("large-misaligned", (16, 31, 29, 30), 1, misaligned),
    Layout("large-axes-1-3", (40, 31, 29, 12), (1, 3), dense),
    Layout("large-axes-none", (600, 701), (), dense),
]
