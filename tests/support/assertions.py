"""Assertions that results are the oracle's, within the tolerances."""

from __future__ import annotations

import functools
import hashlib
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from support import oracle
from support.dtypes import computed_in, y_type
from support.oracle import Array, Axis
from support.tolerances import GRAD_RTOL, VAR_RTOL, Y_ULPS


def once(check: Callable[..., None]) -> Callable[..., None]:
    """Let a check pass that has passed before with the same arguments, to the bit.

    It would pass again. Every instruction set and number of threads is to give the same results, which the oracle need
    not be asked about each time; results that differ in a bit are checked afresh.
    """
    passed: set[bytes] = set()

    @functools.wraps(check)
    def checked(*args: Any, **kwargs: Any) -> None:
        asked = hashlib.blake2b(pickle.dumps((args, kwargs)), digest_size=16).digest()
        if asked not in passed:
            check(*args, **kwargs)
            passed.add(asked)

    return checked


def assert_ulps(actual: Array, expected: Array, other: Any = 0.0, limit: float = Y_ULPS, slack: Any = 0.0) -> None:
    """Assert that `actual` is within `limit` ulp of the larger of |expected| and |other|, NaN exactly where expected.

    An error of at most `slack` is allowed as well.
    """
    assert actual.shape == expected.shape
    absent = np.isnan(expected)
    assert (np.isnan(actual) == absent).all()
    ulp = oracle.ulp(actual.dtype, expected, other)
    with np.errstate(all="ignore"):
        error = np.abs(actual.astype(ulp.dtype) - expected)
        right = absent | (error <= limit * ulp) | (error <= slack)
        if right.all():
            return
        ulps = np.where(right, 0, error / ulp)
    raise AssertionError(
        f"{ulps.max()} ulp at {np.unravel_index(ulps.argmax(), ulps.shape)}, "
        f"{int((~right).sum())} of {right.size} beyond {limit}: "
        f"got {actual.ravel()[ulps.argmax()]!r}, expected {expected.ravel()[ulps.argmax()]!r}"
    )


def assert_relative(actual: Any, expected: Any, rtol: float, scale: Any = None, atol: Any = 0.0) -> None:
    """Assert |actual - expected| <= rtol * |scale| + atol (scale: `expected` unless given), and NaN where expected."""
    actual = np.asarray(actual)
    expected = np.asarray(expected)
    assert actual.shape == expected.shape
    assert (np.isnan(actual) == np.isnan(expected)).all()
    size = np.abs(expected if scale is None else np.asarray(scale))
    with np.errstate(invalid="ignore"):
        error = np.where(np.isnan(expected), 0, np.abs(actual.astype(oracle.wide(actual, expected)) - expected))
        bound = np.where(np.isnan(size), 0, rtol * size + atol)
    assert (error <= bound).all(), f"error {error.max()} beyond {rtol} of {size.ravel()[(error - bound).argmax()]}"


def oracles_type(*dtypes: Any, p: Array | None = None) -> Any:
    """Return the type the oracle computes in: float64 has 29 bits more than float32, and is many times faster.

    But products of unusual weights and squares are no numbers of float64 at all.
    """
    usual = p is None or ((p == 0) | ((p > 1e-100) & (p < 1e100))).all()
    return np.float64 if usual and computed_in(*dtypes) == np.float32 else np.longdouble


def affine_size(
    shape: tuple[int, ...], axis: Axis, weight: Array | None, bias: Array | None, residual: Array | None = None
) -> Array:
    """Return what y is made of, |weight| + |bias| + |residual|, so that little turns on an x near its mean."""
    features = oracle.feature_shape(shape, axis)
    parts = (np.ones(features) if weight is None else weight, np.zeros(features) if bias is None else bias)
    size = sum(np.abs(np.asarray(part).astype(np.float64)) for part in parts)
    spread = oracle.along(size, shape, axis)
    return spread if residual is None else spread + np.abs(residual.astype(np.float64))


def assert_rounded(actual: Array, expected: Array, slack: Any = 0.0) -> None:
    """Assert that `actual` is some number within `slack` of `expected`, rounded; NaN exactly where expected."""
    assert actual.shape == expected.shape
    lowest, highest = (oracle.rounded(expected + by, actual.dtype) for by in (-np.asarray(slack), np.asarray(slack)))
    values = actual.astype(lowest.dtype)
    right = (lowest <= values) & (values <= highest) | (np.isnan(values) & np.isnan(expected))
    worst = right.argmin()
    assert right.all(), (
        f"{int((~right).sum())} of {right.size} wrong, first at {np.unravel_index(worst, right.shape)}: "
        f"got {actual.ravel()[worst]!r}, expected {expected.ravel()[worst]!r}, which is {lowest.ravel()[worst]!r} "
        f"to {highest.ravel()[worst]!r}"
    )


def assert_y(y: Array, expected: Array, size: Any, x_dtype: Any) -> None:
    """Assert the promise of y: so many ulp of the type it is computed in and, where y's is narrower, one rounding."""
    computed = computed_in(x_dtype, y.dtype)
    if y.dtype == computed:
        assert_ulps(y, expected, size)
        return
    ulp = oracle.ulp(computed, expected, size)
    assert_rounded(y, expected, np.where(np.isfinite(ulp), Y_ULPS * ulp, 0))


@once
def assert_normalized(
    x: Array,
    y: Array,
    mean: Any,
    var: Any,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    axis: Axis = 1,
    *,
    residual: Array | None = None,
    activation: str | None = None,
    slope: float = 0.01,
) -> None:
    """Assert that y is x normalized by the statistics given."""
    fused: dict[str, Any] = {"residual": residual, "activation": activation, "slope": slope}
    dtype = oracles_type(x.dtype, y.dtype)
    expected = oracle.normalize(x, mean, var, weight, bias, eps, axis, dtype, **fused)
    assert_y(y, expected, affine_size(x.shape, axis, weight, bias, residual), x.dtype)


@once
def assert_statistics(x: Array, mean: Array, var: Array, axis: Axis) -> None:
    """Assert that mean and var are those of x, float64, in the features' shape."""
    found = oracle.moments(x, axis, oracles_type(x.dtype))
    assert_mean_and_var(mean, var, found.mean, found.m2 / found.count, VAR_RTOL[x.dtype])


def assert_mean_and_var(mean: Array, var: Array, wanted_mean: Array, wanted_var: Array, rtol: float) -> None:
    """Assert that mean and var are the oracle's, in float64."""
    assert mean.dtype == var.dtype == np.float64
    # A mean is off by its own rounding, and by as much of the standard deviation as the variance is of itself.
    rounding = 4 * np.spacing(float(np.nanmax(np.abs(wanted_mean), initial=0)))
    assert_relative(mean, wanted_mean, rtol, np.sqrt(wanted_var), atol=rounding)
    assert_relative(var, wanted_var, rtol)


def assert_count(count: Any, expected: Any) -> None:
    """Assert that a count is the number of values or, where these have weights, their sums in float64."""
    if isinstance(expected, int):
        assert type(count) is int
        assert count == expected
        return
    assert type(count) is np.ndarray
    assert count.dtype == np.float64
    # A sum of positive terms, of which no more than 512 are added in a row, as in the variance.
    assert_relative(count, expected, VAR_RTOL[count.dtype])


@once
def assert_train(
    x: Array,
    result: Any,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    axis: Axis = 1,
    *,
    dtype: Any = None,
    p: Array | None = None,
    residual: Array | None = None,
    activation: str | None = None,
    slope: float = 0.01,
) -> None:
    """Assert that a TrainResult is what the oracle finds, y of x's type or of the `dtype` chosen."""
    fused: dict[str, Any] = {"residual": residual, "activation": activation, "slope": slope}
    y, mean, var, invstd, count = result
    exact = oracles_type(x.dtype, y.dtype, p=p)
    expected = oracle.train(x, weight, bias, eps, axis, exact, p=p, **fused)
    assert y.dtype == (y_type(x.dtype) if dtype is None else dtype)
    assert_count(count, expected.count)
    assert_mean_and_var(mean, var, expected.mean, expected.biased, VAR_RTOL[x.dtype])
    assert_relative(invstd, expected.invstd, VAR_RTOL[x.dtype])
    size = affine_size(x.shape, axis, weight, bias, residual) * max(1.0, abs(slope))
    if VAR_RTOL[x.dtype] <= VAR_RTOL[computed_in(x.dtype, y.dtype)]:
        assert_y(y, expected.y, size, x.dtype)
        return
    # A y of more digits than the statistics have is right for the statistics that were found, their mean rounded.
    wanted = oracle.affine(x, mean, invstd, weight, bias, axis, residual=residual)
    lost = np.abs((1 if weight is None else weight) * invstd) * np.spacing(np.abs(mean)) * max(1.0, abs(slope))
    wanted = oracle.activated(wanted, activation, slope)
    assert_ulps(y, wanted, size, slack=oracle.along(lost, x.shape, axis))


def off_the_kink(
    dy: Array,
    x: Array,
    weight: Any,
    bias: Any,
    *,
    mean: Array,
    invstd: Array,
    axis: Axis = 1,
    residual: Array | None = None,
) -> Array:
    """Return `dy`, 0 where rounding may decide on which side of an activation's kink z lies: there either is right."""
    exact = oracles_type(x.dtype, dy.dtype)
    z = oracle.affine(x, mean, invstd, weight, bias, axis, exact, residual=residual)
    size = affine_size(x.shape, axis, weight, bias, residual)
    near = np.abs(z) <= Y_ULPS * np.finfo(computed_in(x.dtype, dy.dtype)).eps * size
    return np.where(near, np.zeros_like(dy), dy)


@once
def assert_gradients(
    gradients: Any,
    dy: Array,
    x: Array,
    weight: Any = None,
    bias: Any = None,
    *,
    mean: Array,
    invstd: Array,
    axis: Axis = 1,
    training: bool = True,
    p: Array | None = None,
    residual: Array | None = None,
    activation: str | None = None,
    slope: float = 0.01,
) -> None:
    """Assert that Gradients are what the oracle finds, relative to the size of the terms they are sums of."""
    fused: dict[str, Any] = {"bias": bias, "residual": residual, "activation": activation, "slope": slope}
    computed = computed_in(x.dtype, dy.dtype)
    exact = oracles_type(x.dtype, dy.dtype, p=p)
    expected = oracle.backward(dy, x, weight, mean, invstd, axis, training, exact, p=p, **fused)
    rtol = GRAD_RTOL[computed]
    assert gradients.dx.dtype == dy.dtype
    assert gradients.dweight.dtype == gradients.dbias.dtype == np.float64
    # Below the smallest normal number there is no relative precision: one subnormal for dx, one for each term of a sum.
    tiny = float(np.finfo(computed).smallest_subnormal)
    if dy.dtype == computed:
        assert_relative(gradients.dx, expected.dx, rtol, expected.dx_scale, atol=tiny)
    else:
        assert_rounded(gradients.dx, expected.dx, rtol * expected.dx_scale + tiny)
    terms = 5e-324 * (x.size // max(1, mean.size)) * (1 + np.abs(np.asarray(invstd, np.longdouble)))
    assert_relative(gradients.dweight, expected.dweight, rtol, expected.dweight_scale, atol=terms)
    assert_relative(gradients.dbias, expected.dbias, rtol, expected.dbias_scale, atol=terms)
    if residual is not None:
        # dy itself, or times a slope that is rounded as the product is.
        scaled = 2 * np.finfo(computed).eps * np.abs(expected.dresidual) if activation == "leaky_relu" else 0.0
        assert gradients.dresidual.dtype == dy.dtype
        assert_rounded(gradients.dresidual, expected.dresidual, scaled)
