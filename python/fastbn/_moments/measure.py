"""Statistics of one array: count, mean and m2 of each feature, and its extremes, with or without NaN entries.

The engine computes count, mean and m2. Leaving NaN out, and finding extremes, are done here by NumPy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fastbn import _core
from fastbn._moments.merge import Count, Extremes, Statistics, merged
from fastbn._validation import Axis, Shape, kept_axes

Data: TypeAlias = npt.NDArray[Any]

# Number of values in the parts of x for which masks are made: large enough to keep all threads busy, and small, so that
# the masks take little memory beside x.
_PART = 1 << 20
# From this number of values on, the first few are searched for NaN before all are measured. The search takes about a
# hundredth of the time of measuring such an array.
_LARGE = 1 << 18
_PEEK = 1 << 12
# NumPy reduces over rows by one inner loop per row, which is slow for short rows. So short rows are laid side by side,
# up to about this many values, and so many of these long rows are reduced at a time that min and max both find them in
# the cache.
_LONG_ROW = 4096
_LONG_ROWS = 32


def measured(
    x: Any, axis: Axis, where: Any = None, weights: Any = None, *, omit_nan: bool = False, extremes: bool = False
) -> tuple[Statistics, Extremes | None]:
    """Return the statistics of x, and its extremes if they are asked for.

    With `omit_nan` or `extremes`, x and the others must be arrays (or None) and axis as `checked_axis` returns it.
    """
    found = _without_nan(x, axis, where, weights) if omit_nan else _statistics(x, axis, where, weights)
    return found, _extremes(x, axis, where, weights, omit_nan, found.count) if extremes else None


def _statistics(x: Any, axis: Axis, where: Any, weights: Any) -> Statistics:
    count, mean, m2, mean_lo = _core.moments(x, axis, where, weights)
    return Statistics(count, mean, m2, mean_lo, np.zeros(m2.shape))  # np.zeros_like takes four times as long


# NaN entries left out.


def _without_nan(x: Data, axis: Axis, where: Any, weights: Any) -> Statistics:
    """Return the statistics of what is not NaN; masks are made only if there is NaN."""
    may_hold_nan = x.dtype.kind not in "iu"
    if not (may_hold_nan and x.size >= _LARGE and _begins_with_nan(x, axis, where, weights)):
        whole = _statistics(x, axis, where, weights)
        if not (may_hold_nan and x.size and np.isnan(whole.mean).any()):
            return whole
    parts = [_statistics(part, axis, mask, some) for mask, part, some in _masked_parts(x, axis, where, weights)]
    total = parts[0]
    for part in parts[1:]:
        total = merged(total, part)
    return total


def _begins_with_nan(x: Data, axis: Axis, where: Any, weights: Any) -> bool:
    """Whether NaN that is not masked is among the first values.

    If so, measuring all of x would be in vain, and slow: the engine is slow where it meets NaN.
    """
    _core.check_counting(x, axis, None, None)
    at = next(_cuts(x, axis, _PEEK))
    seen = np.isnan(x[at])
    if not seen.any():
        return False
    _core.check_counting(x, axis, where, weights)
    for mask in (where, weights):
        if mask is not None:
            seen &= np.broadcast_to(mask, x.shape)[at] > 0
    return bool(seen.any())


def _masked_parts(x: Data, axis: Axis, where: Any, weights: Any) -> Iterator[tuple[Data, Data, Data | None]]:
    """Cut x into parts; yield for each its mask, with NaN masked too, the part itself, and its weights."""
    masks = None if where is None else np.broadcast_to(where, x.shape)
    wide_weights = None if weights is None else np.broadcast_to(weights, x.shape)
    for at in _cuts(x, axis, _PART):
        mask = ~np.isnan(x[at])
        if masks is not None:
            mask &= masks[at]
        yield mask, x[at], None if wide_weights is None else wide_weights[at]


def _cuts(x: Data, axis: Axis, size: int) -> Iterator[Any]:
    """Yield indices that cut x along its longest reduced axis into parts of about `size` values.

    If no axis is reduced, x is one part.
    """
    kept = kept_axes(axis, x.ndim)
    reduced = [a for a in range(x.ndim) if a not in kept]
    if not reduced:
        yield ...
        return
    along = max(reduced, key=lambda a: x.shape[a])
    step = max(1, size * x.shape[along] // x.size)
    for start in range(0, x.shape[along], step):
        yield (slice(None),) * along + (slice(start, start + step),)


# Extremes.


def _extremes(x: Data, axis: Axis, where: Any, weights: Any, omit_nan: bool, count: Count) -> Extremes:
    """Return the least and the largest value whose weight is not 0, NaN for a feature whose count is 0."""
    kept = kept_axes(axis, x.ndim)
    reductions = (np.fmin, np.fmax) if omit_nan and x.dtype.kind not in "iu" else (np.minimum, np.maximum)
    unweighted = where is None and weights is None
    with np.errstate(invalid="ignore"):  # NaN in bfloat16 raises it in ml_dtypes' comparisons
        if unweighted and x.size and kept == (x.ndim - 1,) and x.flags.c_contiguous:
            found = _extremes_of_rows(x.reshape(-1, x.shape[-1]), reductions)
        else:
            mask = True if unweighted else _nonzero(x.shape, where, weights)
            reduced = tuple(a for a in range(x.ndim) if a not in kept)
            found = [
                reduction.reduce(x, axis=reduced, where=mask, initial=start)
                for reduction, start in zip(reductions, _starts(x.dtype), strict=True)
            ]
    nonempty = np.asarray(count) > 0
    return Extremes(*(np.where(nonempty, np.asarray(value, np.float64), np.nan) for value in found))


def _extremes_of_rows(rows: Data, reductions: tuple[np.ufunc, np.ufunc]) -> list[Data]:
    channels = rows.shape[1]
    side_by_side = max(1, _LONG_ROW // channels)
    step = side_by_side * _LONG_ROWS
    found: tuple[list[Data], list[Data]] = [], []
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        folded = len(block) // side_by_side * side_by_side
        for reduction, results in zip(reductions, found, strict=True):
            if folded:
                long_rows = block[:folded].reshape(-1, side_by_side * channels)
                results.append(reduction.reduce(long_rows, axis=0).reshape(-1, channels))
            results.append(block[folded:])
    return [
        reduction.reduce(np.concatenate(results), axis=0) for reduction, results in zip(reductions, found, strict=True)
    ]


def _starts(dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """Return what the search for the least and the largest value begins with."""
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return info.max, info.min
    return np.inf, -np.inf


def _nonzero(shape: Shape, where: Any, weights: Any) -> Data:
    """Return the mask of the values whose weight is not 0."""
    mask = True if where is None else np.asarray(where)
    return np.broadcast_to(mask if weights is None else mask & (np.asarray(weights) > 0), shape)
