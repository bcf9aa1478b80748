"""The oracle: batch normalization as its formulas read, slowly and in more digits; it knows no fastbn.

Two of them. The array functions work in any NumPy floating type, long double unless told otherwise, two passes over
the data, each value shifted by a double near the mean so that a large mean costs no digits. The ``exact_`` functions
take one channel and are exact: values become integers over a common power of two, and only the square root and the
final quotient are rounded, at some 1600 binary places.

Of weighted data, `p` holds the weight of each element, in x's shape: `element_weights` makes it of where= and weights=.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]
Axis = int | tuple[int, ...]

PLACES = 1600  # binary places of the exact functions' rounded steps; float64 needs 1074 for its smallest subnormal
SQRT_BITS = 256

# Of each type of y: bits of the significand, exponent of the smallest subnormal, exponent of what is infinite.
FORMATS = {
    "float16": (11, -24, 16),
    "bfloat16": (8, -133, 128),
    "float32": (24, -149, 128),
    "float64": (53, -1074, 1024),
}


class Moments(NamedTuple):
    """Count (with p: its sum per feature), mean, centred sum of squares, and each value less its mean, in columns."""

    count: Any
    mean: Array
    m2: Array
    centred: Array


class Forward(NamedTuple):
    """What a training forward returns, in the oracle's precision; `biased` is the variance that normalizes."""

    y: Array
    mean: Array
    biased: Array
    invstd: Array
    count: Any


class Backward(NamedTuple):
    """Gradients, and the size of the terms summed into each: the scale its error is measured against."""

    dx: Array
    dweight: Array
    dbias: Array
    dx_scale: Array
    dweight_scale: Array
    dbias_scale: Array
    dresidual: Array


def feature_axes(axis: Axis, ndim: int) -> tuple[int, ...]:
    """Return the axes that keep their statistics, none negative, in order."""
    axes = (axis,) if isinstance(axis, (int, np.integer)) else tuple(axis)
    return tuple(sorted(int(a) % ndim for a in axes))


def feature_shape(shape: Sequence[int], axis: Axis) -> tuple[int, ...]:
    """Return the shape of the statistics of an array of `shape`."""
    return tuple(shape[a] for a in feature_axes(axis, len(shape)))


def columns(x: Array, axis: Axis) -> Array:
    """Return a copy of `x` as (count, features)."""
    kept = feature_axes(axis, x.ndim)
    reduced = tuple(a for a in range(x.ndim) if a not in kept)
    sizes = (math.prod(x.shape[a] for a in reduced), math.prod(x.shape[a] for a in kept))
    return x.transpose(reduced + kept).reshape(sizes).copy()


def from_columns(values: Array, shape: Sequence[int], axis: Axis) -> Array:
    """Undo `columns`."""
    kept = feature_axes(axis, len(shape))
    order = tuple(a for a in range(len(shape)) if a not in kept) + kept
    spread: Array = values.reshape([shape[a] for a in order]).transpose(np.argsort(order))
    return spread


def element_weights(shape: Sequence[int], where: ArrayLike | None = None, weights: ArrayLike | None = None) -> Array:
    """Return the weight of each element of an array of `shape`, 0 where `where` is false, as long doubles."""
    kept = np.broadcast_to(np.asarray(True if where is None else where), shape)
    spread = np.broadcast_to(np.asarray(1 if weights is None else weights).astype(np.longdouble), shape)
    return np.where(kept, spread, np.longdouble(0))


def _flat(values: ArrayLike | None, features: int, default: float, dtype: Any) -> Array:
    if values is None:
        return np.full(features, default, dtype)
    return np.asarray(values).astype(dtype).reshape(features)


def invstd_of(biased: Array, eps: float) -> Array:
    """Return 1 / sqrt(biased + eps), and 0 where that sum is 0."""
    with np.errstate(all="ignore"):
        total = biased + np.asarray(eps, biased.dtype)
        inverse: Array = np.where(total == 0, np.zeros_like(total), 1 / np.sqrt(total))
    return inverse


def _moments(values: Array, dtype: Any, p: Array | None = None) -> Moments:
    if p is not None:
        return _weighted_moments(values.astype(dtype), p.astype(dtype))
    count, features = values.shape
    if count == 0:
        return Moments(0, np.full(features, np.nan, dtype), np.zeros(features, dtype), values.astype(dtype))
    with np.errstate(all="ignore"):
        shift = np.asarray(values, dtype).mean(0).astype(np.float64).astype(dtype)
        deviation = values.astype(dtype) - shift
        correction = deviation.mean(0)
        centred = deviation - correction
        m2 = (centred * centred).sum(0) - centred.sum(0) ** 2 / count
        constant = (values == values[0]).all(0)
        m2 = np.where(constant, 0, m2)
        centred = np.where(constant, 0, centred)
        bad = ~np.isfinite(values).all(0)
        nan = np.asarray(np.nan, dtype)
        return Moments(
            count,
            np.where(bad, nan, np.where(constant, values[0].astype(dtype), shift + correction)),
            np.where(bad, nan, m2),
            np.where(bad, nan, centred),
        )


def _normalized_weights(p: Array) -> Array:
    """Return p / sum(p), and 0 where that sum is 0."""
    total = p.sum(0)
    fraction: Array = np.where(total > 0, p, 0) / np.where(total > 0, total, 1)
    return fraction


def _weighted_moments(values: Array, p: Array) -> Moments:
    """Return moments in which each value has the weight p; where all weights are 0, the mean is 0 and so is m2."""
    fraction, total, weighted = _normalized_weights(p), p.sum(0), p > 0
    with np.errstate(all="ignore"):

        def average(terms: Array) -> Array:
            found: Array = np.where(weighted, fraction * terms, 0).sum(0)
            return found

        shift = average(values).astype(np.float64).astype(values.dtype)
        deviation = values - shift
        correction = average(deviation)
        centred = deviation - correction
        m2 = total * (average(centred * centred) - average(centred) ** 2)
        first = np.take_along_axis(values, weighted.argmax(0)[None], 0)[0] if len(values) else np.zeros_like(total)
        constant = (~weighted | (values == first)).all(0)
        first = np.where(weighted.any(0), first, 0)
        bad = (weighted & ~np.isfinite(values)).any(0)
        nan = np.asarray(np.nan, values.dtype)
        return Moments(
            total,
            np.where(bad, nan, np.where(constant, first, shift + correction)),
            np.where(bad, nan, np.where(constant, 0, m2)),
            np.where(bad, nan, np.where(constant, values - first, centred)),
        )


def moments(x: Array, axis: Axis = 1, dtype: Any = np.longdouble, p: Array | None = None) -> Moments:
    """Return the two-pass moments of `x`, NaN for a feature with a NaN or an infinity of positive weight."""
    found = _moments(columns(x, axis), dtype, None if p is None else columns(p, axis))
    shape = feature_shape(x.shape, axis)
    count = found.count if p is None else found.count.reshape(shape)
    return Moments(count, found.mean.reshape(shape), found.m2.reshape(shape), found.centred)


def activated(z: Array, activation: str | None, slope: float) -> Array:
    """Return the activation of z, NaN of NaN."""
    if activation is None:
        return z
    with np.errstate(all="ignore"):
        low = {"relu": np.zeros_like(z), "leaky_relu": z.dtype.type(slope) * z}[activation]
    return np.where(z <= 0, low, z)


def train(
    x: Array,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    axis: Axis = 1,
    dtype: Any = np.longdouble,
    *,
    p: Array | None = None,
    residual: Array | None = None,
    activation: str | None = None,
    slope: float = 0.01,
) -> Forward:
    """Normalize `x` by its own statistics."""
    values = columns(x, axis)
    found = _moments(values, dtype, None if p is None else columns(p, axis))
    features = values.shape[1]
    with np.errstate(all="ignore"):
        if p is None:
            biased = found.m2 / dtype(found.count) if found.count else np.full_like(found.m2, np.nan)
        else:
            biased = np.where(found.count > 0, found.m2 / found.count, 0)
        invstd = invstd_of(biased, eps)
        if p is not None:
            invstd = np.where(found.count > 0, invstd, 0)
        y = _flat(weight, features, 1, dtype) * (found.centred * invstd) + _flat(bias, features, 0, dtype)
        if residual is not None:
            y = y + columns(residual, axis).astype(dtype)
    shape = feature_shape(x.shape, axis)
    return Forward(
        from_columns(activated(y, activation, slope), x.shape, axis),
        found.mean.reshape(shape),
        biased.reshape(shape),
        invstd.reshape(shape),
        found.count if p is None else found.count.reshape(shape),
    )


def normalize(
    x: Array,
    mean: ArrayLike,
    var: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    axis: Axis = 1,
    dtype: Any = np.longdouble,
    *,
    residual: Array | None = None,
    activation: str | None = None,
    slope: float = 0.01,
) -> Array:
    """Normalize `x` by statistics that are given."""
    with np.errstate(all="ignore"):
        invstd = invstd_of(np.asarray(var).astype(dtype), eps)
    z = affine(x, mean, invstd, weight, bias, axis, dtype, residual=residual)
    return activated(z, activation, slope)


def affine(
    x: Array,
    mean: ArrayLike,
    invstd: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    axis: Axis = 1,
    dtype: Any = np.longdouble,
    *,
    residual: Array | None = None,
) -> Array:
    """Return weight * (x - mean) * invstd + bias + residual: what an activation is given."""
    values = columns(x, axis).astype(dtype)
    features = values.shape[1]
    with np.errstate(all="ignore"):
        xhat = (values - _flat(mean, features, 0, dtype)) * _flat(invstd, features, 1, dtype)
        z = _flat(weight, features, 1, dtype) * xhat + _flat(bias, features, 0, dtype)
        if residual is not None:
            z = z + columns(residual, axis).astype(dtype)
    return from_columns(z, x.shape, axis)


def backward(
    dy: Array,
    x: Array,
    weight: ArrayLike | None,
    mean: ArrayLike,
    invstd: ArrayLike,
    axis: Axis = 1,
    training: bool = True,
    dtype: Any = np.longdouble,
    *,
    p: Array | None = None,
    bias: ArrayLike | None = None,
    residual: Array | None = None,
    activation: str | None = None,
    slope: float = 0.01,
) -> Backward:
    """Return the gradients at the given mean and invstd, through them (`training`) or with them held fixed."""
    values = columns(x, axis).astype(dtype)
    dz = dy.astype(dtype)
    if activation is not None:
        z = affine(x, mean, invstd, weight, bias, axis, dtype, residual=residual)
        dz = np.where(z > 0, dz, dtype({"relu": 0, "leaky_relu": slope}[activation]) * dz)
    grad = columns(dz, axis)
    count, features = values.shape
    fraction = dtype(1) / max(1, count) if p is None else _normalized_weights(columns(p, axis).astype(dtype))
    with np.errstate(all="ignore"):
        inv = _flat(invstd, features, 1, dtype)
        xhat = (values - _flat(mean, features, 0, dtype)) * inv
        dbias = grad.sum(0)
        dweight = (grad * xhat).sum(0)
        scale = _flat(weight, features, 1, dtype) * inv
        terms = [grad]
        if training and count:
            terms += [np.where(fraction > 0, -fraction * term, 0) for term in (np.atleast_2d(dbias), xhat * dweight)]
        dx = scale * sum(terms)
        largest = np.max([np.abs(term).max(axis=0, initial=0) for term in terms], axis=0)
        sizes = (np.abs(scale) * largest, np.sqrt(((grad * xhat) ** 2).sum(0)), np.sqrt((grad * grad).sum(0)))
    shape = feature_shape(x.shape, axis)
    spread = from_columns(np.broadcast_to(sizes[0], values.shape), x.shape, axis)
    return Backward(
        from_columns(dx, x.shape, axis),
        dweight.reshape(shape),
        dbias.reshape(shape),
        spread,
        sizes[1].reshape(shape),
        sizes[2].reshape(shape),
        dz,
    )


def updated(old: Array, new: ArrayLike, momentum: float) -> Array:
    """Return (1 - momentum) * old + momentum * new in long double."""
    rate = np.longdouble(momentum)
    return (1 - rate) * old.astype(np.longdouble) + rate * np.asarray(new, np.longdouble)


def along(values: ArrayLike, shape: Sequence[int], axis: Axis) -> Array:
    """Return per-feature `values` in the shape that broadcasts against an array of `shape`."""
    kept = feature_axes(axis, len(shape))
    reshaped: Array = np.asarray(values).reshape([n if a in kept else 1 for a, n in enumerate(shape)])
    return reshaped


# One channel, exactly.


def _integers(values: Array) -> tuple[list[int], int]:
    """Return integers m and an exponent e with values == m * 2**e, exactly."""
    mantissas, exponents = np.frexp(np.asarray(values, np.float64).ravel())
    scaled = [int(m) for m in np.ldexp(mantissas, 53).tolist()]
    powers = [int(e) - 53 for e in exponents.tolist()]
    lowest = min((p for m, p in zip(scaled, powers, strict=True) if m), default=0)
    return [m << (p - lowest) if m else 0 for m, p in zip(scaled, powers, strict=True)], lowest


def _power(exponent: int) -> Fraction:
    return Fraction(2) ** exponent


def exact_moments(values: Array) -> tuple[Fraction, Fraction]:
    """Return the mean and the centred sum of squares of one channel as fractions."""
    integers, exponent = _integers(values)
    count, total = len(integers), sum(integers)
    m2 = Fraction(count * sum(v * v for v in integers) - total * total, count)
    return Fraction(total, count) * _power(exponent), m2 * _power(2 * exponent)


def exact_invstd(biased: Fraction, eps: float = 0.0) -> Fraction:
    """Return 1 / sqrt(biased + eps) to SQRT_BITS bits, and 0 where that sum is 0."""
    total = biased + Fraction(eps)
    if total == 0:
        return Fraction(0)
    places = SQRT_BITS + max(0, (total.numerator.bit_length() - total.denominator.bit_length()) // 2 + 1)
    return Fraction(math.isqrt((total.denominator << (2 * places)) // total.numerator), 1 << places)


def exact_affine(values: Array, mean: Fraction, factor: Fraction, bias: float = 0.0) -> Array:
    """Return (values - mean) * factor + bias as long doubles, correct to about 64 bits."""
    integers, exponent = _integers(values)
    centre = mean / _power(exponent)
    scale = factor * _power(exponent) / centre.denominator
    step = (scale.numerator << PLACES) // scale.denominator
    shift = (Fraction(bias).numerator << PLACES) // Fraction(bias).denominator
    return _quotients([(centre.denominator * v - centre.numerator) * step + shift for v in integers])


def _quotients(numerators: list[int]) -> Array:
    """Return numerators / 2**PLACES as long doubles: the nearest double of each plus a double of what it lacks."""
    one = 1 << PLACES
    heads = [n / one for n in numerators]
    taken = [top * (one // bottom) for top, bottom in map(float.as_integer_ratio, heads)]
    lows = [(n - t) / one for n, t in zip(numerators, taken, strict=True)]
    return np.array(heads, np.longdouble) + np.array(lows, np.longdouble)


def exact_train(values: Array, weight: float = 1.0, bias: float = 0.0, eps: float = 1e-5) -> Array:
    """Normalize one channel by its own statistics."""
    mean, m2 = exact_moments(values)
    return exact_affine(values, mean, Fraction(weight) * exact_invstd(m2 / len(values.ravel()), eps), bias)


def exact_normalize(
    values: Array, mean: float, var: float, weight: float = 1.0, bias: float = 0.0, eps: float = 1e-5
) -> Array:
    """Normalize one channel by statistics that are given."""
    return exact_affine(values, Fraction(mean), Fraction(weight) * exact_invstd(Fraction(var), eps), bias)


def longdouble_of(value: Fraction) -> np.longdouble:
    """Return the fraction rounded to a long double, whatever its exponent."""
    power = abs(value.numerator).bit_length() - value.denominator.bit_length()
    scaled = value / _power(power)
    head = float(scaled)
    found: np.longdouble = np.ldexp(np.longdouble(head) + np.longdouble(float(scaled - Fraction(head))), power)
    return found


def wide(*arrays: Array) -> Any:
    """Return the type in which differences of `arrays` are taken: float64, or long double where one is that."""
    return np.result_type(np.float64, *(array.dtype for array in arrays))


def rounded(values: Array, dtype: Any) -> Array:
    """Return values rounded to the nearest one of a type of FORMATS: ties to even, infinite beyond the last."""
    digits, smallest, infinite = FORMATS[np.dtype(dtype).name]
    finite = np.isfinite(values)
    known = np.where(finite, values, 0).astype(wide(values))
    ulps = np.ldexp(known.dtype.type(1), np.maximum(np.frexp(known)[1] - digits, smallest))
    nearest = np.rint(known / ulps) * ulps
    beyond = np.abs(nearest) >= np.ldexp(np.longdouble(1), infinite)
    return np.where(finite, np.where(beyond, np.copysign(known.dtype.type(np.inf), known), nearest), values)


def ulp(dtype: Any, expected: Array, other: ArrayLike = 0.0) -> Array:
    """Return the ulp (unit in the last place) that `dtype` has at the larger of |expected| and |other|."""
    size = np.maximum(np.abs(expected), np.abs(np.asarray(other)))
    with np.errstate(all="ignore"):
        found: Array = np.spacing(size.astype(dtype)).astype(wide(size))
    return found
