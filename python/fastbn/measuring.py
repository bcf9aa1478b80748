"""Sums and extremes of one array, with or without its NaN entries. Knows no other array and no class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fastbn import _core
from fastbn.checks import Shape
from fastbn.merging import Array, Count, Sums, merged, sums_of

Axis: TypeAlias = int | tuple[int, ...]
Data: TypeAlias = npt.NDArray[Any]

# Parts whose masks are made one at a time: large enough to keep all threads busy, small beside any x that is worth it.
_PART = 1 << 20


def measured(x: Data, axis: Axis, where: Any, weights: Any, omit_nan: bool) -> Sums:
    """Return the sums of x; a mask of NaN entries is made only where there is one."""
    sums = sums_of(*_core.moments(x, axis, where, weights))
    if not (omit_nan and x.size and np.isnan(sums.mean).any()):
        return sums
    total = None
    for counted, *part in _counted_parts(x, axis, where, weights):
        sums = sums_of(*_core.moments(part[0], axis, counted, part[1]))
        total = sums if total is None else merged(total, sums)
    assert total is not None
    return total


def extremes(x: Data, axis: Axis, where: Any, weights: Any, omit_nan: bool, count: Count) -> tuple[Array, Array]:
    """Return the least and the largest of the entries that count, NaN for a feature without any."""
    if not x.size:
        shape = tuple(x.shape[a] for a in _kept(axis, x.ndim))
        return np.full(shape, np.nan), np.full(shape, np.nan)
    reduced = tuple(a for a in range(x.ndim) if a not in _kept(axis, x.ndim))
    options: dict[str, Any] = {"axis": reduced}
    bounds: tuple[Any, Any] = (
        (np.iinfo(x.dtype).max, np.iinfo(x.dtype).min) if x.dtype.kind in "iu" else (np.inf, -np.inf)
    )
    if where is not None or weights is not None:
        options["where"] = _counts(x.shape, where, weights)
    least, most = (np.fmin, np.fmax) if omit_nan else (np.minimum, np.maximum)
    found = least.reduce(x, initial=bounds[0], **options), most.reduce(x, initial=bounds[1], **options)
    counted = np.asarray(count) > 0
    low, high = (np.where(counted, np.asarray(value, np.float64), np.nan) for value in found)
    return low, high


def merged_extremes(a: tuple[Array, Array], of_a: Count, b: tuple[Array, Array], of_b: Count) -> tuple[Array, Array]:
    """Return the extremes of two sets of which so many entries count."""
    none_in_a, none_in_b = np.asarray(of_a) == 0, np.asarray(of_b) == 0
    low, high = (
        np.where(none_in_a, second, np.where(none_in_b, first, outer(first, second)))
        for outer, first, second in zip((np.minimum, np.maximum), a, b, strict=True)
    )
    return low, high


def _counted_parts(x: Data, axis: Axis, where: Any, weights: Any) -> Iterator[tuple[Data, Data, Data | None]]:
    """Cut x along its longest reduced axis, into (what counts, the part itself, its weights)."""
    kept = _kept(axis, x.ndim)
    along = max((a for a in range(x.ndim) if a not in kept), key=lambda a: x.shape[a])
    step = max(1, _PART * x.shape[along] // x.size)
    masks = None if where is None else np.broadcast_to(where, x.shape)
    shares = None if weights is None else np.broadcast_to(weights, x.shape)
    for start in range(0, x.shape[along], step):
        at = (slice(None),) * along + (slice(start, start + step),)
        counted = ~np.isnan(x[at])
        if masks is not None:
            counted &= masks[at]
        yield counted, x[at], None if shares is None else shares[at]


def _counts(shape: Shape, where: Any, weights: Any) -> Data:
    counted = True if where is None else np.asarray(where)
    return np.broadcast_to(counted if weights is None else counted & (np.asarray(weights) > 0), shape)


def _kept(axis: Axis, ndim: int) -> Shape:
    return tuple(sorted(a % ndim for a in ((axis,) if isinstance(axis, int) else axis)))
