"""What a scaler computes, by scikit-learn's definitions: its attributes from Moments and back, and the scaled data."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastbn import _core
from fastbn._moments.moments import Moments, divisor_variance
from fastbn._validation import INT_END, Axis, Shape

Array = npt.NDArray[Any]

_EPS = np.finfo(np.float64).eps


class Attributes(NamedTuple):
    """What a fitted scaler shows: arrays of the feature shape, or None where they are not wanted."""

    n_samples_seen_: Any
    mean_: Array | None
    var_: Array | None
    scale_: Array | None


def attributes(moments: Moments, with_mean: bool, with_std: bool, correction: float, count_dtype: Any) -> Attributes:
    """Return what a scaler of `moments` shows, in new arrays; counts in `count_dtype` if that can hold them."""
    seen, mean = _seen(moments.count, count_dtype), moments.mean
    if not (with_mean or with_std):
        return Attributes(seen, None, None, None)
    mean = mean.copy()
    if not with_std:
        return Attributes(seen, mean, None, None)
    with np.errstate(all="ignore"):  # counts of 0, squares of means beyond 1e150
        biased = moments.var()
        # Constant is what lies below the error bound of a two-pass variance: Chan, Golub & LeVeque 1983, section 3.
        constant = np.isfinite(biased) & (biased <= seen * _EPS * biased + (seen * mean * _EPS) ** 2)
        var = divisor_variance(moments, correction)
        scale = np.asarray(np.sqrt(var))
    scale[constant] = 1.0
    return Attributes(seen, mean, var, scale)


def moments_behind(shown: Attributes, shape: Shape, correction: float) -> Moments:
    """Return Moments from which `attributes` computes what is shown; mean_ and var_ of None are taken for zero."""
    count = np.asarray(shown.n_samples_seen_)
    mean, var = (np.zeros(shape) if value is None else value for value in (shown.mean_, shown.var_))
    if negative(shown):
        # The weighted variance that scikit-learn computes of a constant may be negative, by less than this.
        rounding = (count * mean * _EPS) ** 2
        if (count < 0).any() or (var < -rounding).any():
            got = f"{shown.n_samples_seen_} and {shown.var_}"
            raise ValueError(f"n_samples_seen_ and var_ must not be negative where they are to be merged, got {got}")
        var = np.maximum(var, 0)
    m2 = var * np.maximum(count - correction, 0)
    whole = count.ndim == 0 and count == np.floor(count)
    return Moments(int(count) if whole else count, mean, m2, nan="omit")


def negative(shown: Attributes) -> bool:
    """Whether a count or a variance is negative, as scikit-learn's negative weights or rounding leave it."""
    return any(value is not None and bool(np.less(value, 0).any()) for value in (shown.n_samples_seen_, shown.var_))


def same(one: Attributes, other: Attributes) -> bool:
    """Whether two describe the same data; scale_ follows from the others and is not compared."""
    pairs = zip(one[:3], other[:3], strict=True)
    return all(a is b if a is None or b is None else np.array_equal(a, b, equal_nan=True) for a, b in pairs)


def affine(
    x: Array,
    axis: Axis,
    shape: Shape,
    *,
    mean: Array | None = None,
    scale: Array | None = None,
    inverse: bool = False,
    out: Array | None = None,
    refuse_infinity: bool = False,
    clip: float | None = None,
) -> Array:
    """Return ``(x - mean) / scale`` or ``x * scale + mean``, of x's type, and of float64 where x is not floating.

    With `clip`, (x - mean) / scale is limited to [-clip, clip]; NaN stays.
    With `refuse_infinity`, ValueError if x holds infinity. It is found while the result is written, so `out` must be
    None.
    """
    if inverse and clip is not None:
        raise ValueError(f"clip must be None with inverse, got {clip!r}")
    dtype = None if out is not None or x.dtype.kind == "f" else np.float64
    mean, scale = (None if a is None else a.astype(np.float64, copy=False) for a in (mean, scale))
    zeros, ones = np.zeros(shape), np.ones(shape)
    if inverse:
        center, factor, shift = zeros, scale, mean
    else:
        center, factor, shift = zeros if mean is None else mean, None if scale is None else 1 / scale, None
    bound = None
    if clip is not None:
        given = isinstance(out, np.ndarray) and out.dtype.kind in "fV"  # anything else is refused below
        bound = bound_in(out.dtype if given and out is not None else dtype or x.dtype, clip)
    options: dict[str, Any] = {"dtype": dtype, "out": out, "refuse_infinity": refuse_infinity, "clip": bound}
    return _core.normalize(x, center, ones, factor, shift, eps=0.0, axis=axis, **options)


def bound_in(dtype: npt.DTypeLike, clip: float) -> Any:
    """Return the largest number of a floating type that is at most `clip`."""
    number: Any = np.dtype(dtype).type
    with np.errstate(over="ignore"):
        bound = number(clip)
    return np.nextafter(bound, number(0)) if float(bound) > clip else bound


def _seen(count: Any, count_dtype: Any) -> Any:
    """Return the counts; one number if they are the same for all features."""
    if isinstance(count, int):
        return np.dtype(count_dtype).type(count)
    whole = (count == np.floor(count)) & (count < INT_END)
    seen = count.astype(count_dtype if whole.all() else np.float64)
    return seen.flat[0] if seen.min() == seen.max() else seen
