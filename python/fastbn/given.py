"""Statistics that a caller gives, checked before `Moments` hold them. Knows no data."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fastbn.checks import LARGEST, Shape, checked_real, converted
from fastbn.merging import INT_END, Array, Count, Sums, sums_of

_ULPS = 4  # half a one as merging leaves it, and the unit may change where both are multiplied by a number


def checked_sums(count: Any, mean: Any, m2: Any) -> Sums | None:
    """Return statistics that a caller gives, None where there are none."""
    if mean is None and m2 is None:
        if isinstance(count, (bool, np.bool_)) or not (np.ndim(count) == 0 and count == 0):
            raise ValueError(f"count must be 0 without mean and m2, got {count!r}")
        return None
    if mean is None or m2 is None:
        raise ValueError(f"mean and m2 must both be given, got {'m2' if mean is None else 'mean'} alone")
    mean, m2 = checked_floats("mean", mean), checked_floats("m2", m2)
    check_mean_shape("m2", m2, mean.shape)
    if (m2 < 0).any():
        raise ValueError(f"m2 must be >= 0, got {m2[m2 < 0][0]}")
    return sums_of(_checked_count(count, mean.shape), mean, m2)


def checked_rest(name: str, rest: Any, whole: Array) -> Array:
    """Return what a mean or m2 has beyond its float64, if it is as small as that; beside NaN and infinity all is."""
    array = checked_floats(name, rest)
    check_mean_shape(name, array, whole.shape)
    with np.errstate(invalid="ignore"):
        wrong = np.isfinite(whole) & ~(np.abs(array) <= _ULPS * np.spacing(np.abs(whole)))
    if wrong.any():
        rule = f"what float64 rounds off {name.removesuffix('_lo')}, {whole[wrong][0]}"
        raise ValueError(f"{name} must be {rule}, got {array[wrong][0]}")
    return array


def _checked_count(count: Any, shape: Shape) -> Count:
    if isinstance(count, int) and abs(count) >= INT_END:  # of which NumPy would make objects
        count = float(checked_real("count", count, 0, LARGEST))
    array = converted("count", count)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"count must hold real numbers, got {count!r}")
    with np.errstate(over="ignore"):  # a wider type holds numbers that float64 has not
        floats = array.astype(np.float64)
    if not ((array >= 0) & np.isfinite(floats)).all():
        raise ValueError(f"count must be finite and >= 0, got {count!r}")
    if array.ndim == 0 and array.dtype.kind in "iu" and array < INT_END:
        return int(array)
    if array.ndim != 0:
        check_mean_shape("count", array, shape)
    return np.broadcast_to(floats, shape)


def checked_range(low: Any, high: Any, shape: Shape | None) -> tuple[Array, Array] | None:
    """Return extremes that a caller gives, None where there are none."""
    if low is None and high is None:
        return None
    if low is None or high is None or shape is None:
        given = [name for name, value in (("min", low), ("max", high)) if value is not None]
        raise ValueError(f"min and max must be given together, and with mean and m2, got {' and '.join(given)} alone")
    low, high = checked_floats("min", low), checked_floats("max", high)
    check_mean_shape("min", low, shape)
    check_mean_shape("max", high, shape)
    return low, high


def checked_floats(name: str, value: Any) -> Array:
    """Return real numbers as a new array of float64."""
    array = converted(name, value)
    if array.dtype.kind not in "iuf" and array.size:
        raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}")
    return array.astype(np.float64)


def check_mean_shape(name: str, array: npt.NDArray[Any], shape: Shape) -> None:
    """Refuse what does not go with the means."""
    if array.shape != shape:
        raise ValueError(f"{name} must have mean's shape {shape}, got {array.shape}")
