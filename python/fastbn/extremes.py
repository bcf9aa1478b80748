"""The least and the largest value of each feature of an array. Knows no sums."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastbn.checks import Axis, Shape, kept_axes
from fastbn.measuring import Data
from fastbn.merging import Array, Count

# A reduction over rows takes NumPy a loop for each of them, so short ones are looked at side by side: as many as make
# this many values, and so many times below each other that both reductions find them in the cache.
_WIDTH = 4096
_DEPTH = 32


def extremes(x: Data, axis: Axis, where: Any, weights: Any, omit_nan: bool, count: Count) -> tuple[Array, Array]:
    """Return the least and the largest of the entries that count, NaN for a feature without any."""
    kept = kept_axes(axis, x.ndim)
    picks = (np.fmin, np.fmax) if omit_nan and x.dtype.kind not in "iu" else (np.minimum, np.maximum)
    everything = where is None and weights is None
    with np.errstate(invalid="ignore"):  # raised by NaN in bfloat16, whose comparisons are ml_dtypes' own
        if everything and x.size and kept == (x.ndim - 1,) and x.flags.c_contiguous:
            found = _of_rows(x.reshape(-1, x.shape[-1]), picks)
        else:
            counting = True if everything else _counts(x.shape, where, weights)
            reduced = tuple(a for a in range(x.ndim) if a not in kept)
            found = [
                pick.reduce(x, axis=reduced, where=counting, initial=bound)
                for pick, bound in zip(picks, _bounds(x.dtype), strict=True)
            ]
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


def _of_rows(rows: Data, picks: tuple[np.ufunc, np.ufunc]) -> list[Data]:
    channels = rows.shape[1]
    abreast = max(1, _WIDTH // channels)
    step = abreast * _DEPTH
    found: tuple[list[Data], list[Data]] = [], []
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        whole = len(part) // abreast * abreast
        for pick, results in zip(picks, found, strict=True):
            if whole:
                results.append(pick.reduce(part[:whole].reshape(-1, abreast * channels), axis=0).reshape(-1, channels))
            results.append(part[whole:])
    return [pick.reduce(np.concatenate(results), axis=0) for pick, results in zip(picks, found, strict=True)]


def _bounds(dtype: np.dtype[Any]) -> tuple[Any, Any]:
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return info.max, info.min
    return np.inf, -np.inf


def _counts(shape: Shape, where: Any, weights: Any) -> Data:
    counted = True if where is None else np.asarray(where)
    return np.broadcast_to(counted if weights is None else counted & (np.asarray(weights) > 0), shape)
