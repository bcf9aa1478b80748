"""What a scaler computes, by scikit-learn's definitions: attributes from Moments and back, and y. Knows no class."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastbn.checks import Shape
from fastbn.functional import Axis, normalize
from fastbn.statistics import Moments

Array = npt.NDArray[Any]

_EPS = np.finfo(np.float64).eps


class Attributes(NamedTuple):
    """What a fitted scaler shows: arrays of the feature shape, or None where they are not wanted."""

    n_samples_seen_: Any
    mean_: Array | None
    var_: Array | None
    scale_: Array | None


def attributes(moments: Moments, with_mean: bool, with_std: bool, correction: float, counter: Any) -> Attributes:
    """Return fresh arrays that say what Moments hold; counts are of type `counter` where that can hold them."""
    seen = _seen(moments.count, counter)
    if not (with_mean or with_std):
        return Attributes(seen, None, None, None)
    mean = np.array(moments.mean)
    if not with_std:
        return Attributes(seen, mean, None, None)
    with np.errstate(all="ignore"):  # of values beyond 1e150, which sqrt and squares take to infinity
        var = moments.var(correction)
        scale = np.where(_constant(moments.var(), mean, seen), 1.0, np.sqrt(var))
    return Attributes(seen, mean, var, scale)


def moments_behind(shown: Attributes, shape: Shape, correction: float) -> Moments:
    """Return Moments with which `attributes` would give the same, those that are None being taken for zero."""
    count = np.asarray(shown.n_samples_seen_)
    mean = np.zeros(shape) if shown.mean_ is None else shown.mean_
    m2 = np.zeros(shape) if shown.var_ is None else shown.var_ * np.maximum(count - correction, 0)
    whole = count.ndim == 0 and count == np.floor(count)
    return Moments(int(count) if whole else count, mean, m2, nan="omit")


def same(one: Attributes, other: Attributes) -> bool:
    """Whether two say the same of the data; scale_ does not count, which follows from the others."""
    return all(_equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))


def affine(
    x: Array,
    axis: Axis,
    shape: Shape,
    *,
    mean: Array | None = None,
    scale: Array | None = None,
    inverse: bool = False,
    out: Array | None = None,
) -> Array:
    """Return ``(x - mean) / scale`` or ``x * scale + mean``, of x's type, and of float64 where x is not floating."""
    dtype = None if out is not None or x.dtype.kind == "f" else np.float64
    zeros, ones = np.zeros(shape), np.ones(shape)
    mean, scale = (None if value is None else np.broadcast_to(value, shape).astype(float) for value in (mean, scale))
    if inverse:
        return normalize(x, zeros, ones, scale, mean, eps=0.0, axis=axis, dtype=dtype, out=out)
    center, factor = zeros if mean is None else mean, None if scale is None else 1 / scale
    return normalize(x, center, ones, factor, eps=0.0, axis=axis, dtype=dtype, out=out)


def _constant(var: Array, mean: Array, count: Any) -> Any:
    # A variance below the error bound of its two-pass computation: Chan, Golub & LeVeque 1983, section 3.
    return var <= count * _EPS * var + (count * mean * _EPS) ** 2


def _seen(count: Any, counter: Any) -> Any:
    """Return one number where all features have seen as many samples."""
    seen = np.asarray(count, np.float64)
    if (seen == np.floor(seen)).all():
        seen = seen.astype(counter)
    return seen.flat[0] if seen.min() == seen.max() else seen


def _equal(a: Any, b: Any) -> bool:
    return a is b if a is None or b is None else np.array_equal(a, b, equal_nan=True)
