"""What the tests share: tolerances with their reasons, checks against the oracle, an interpreter of their own."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np

import fastbn
import fastbn._core
from support import oracle as reference

Array = np.ndarray[Any, np.dtype[Any]]
Axis = int | tuple[int, ...]
FLOATS = (np.float32, np.float64)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
HALVES = (np.dtype(np.float16), BFLOAT16)
INTEGERS = tuple(np.dtype(d) for d in (np.uint8, np.int8, np.uint16, np.int16, np.int32))
TYPES = (*(np.dtype(d) for d in FLOATS), *HALVES, *INTEGERS)
# Those that float32 holds exactly: their statistics are float32's, to the bit.
NARROW = (*HALVES, *INTEGERS[:-1])

# The promises. 16 ulp of y: subtract, subtract the mean's rest, scale by a rounded product, shift, each half an ulp and
# some of them doubled where y is smaller than its terms, with room to spare. The variance's are tighter than what is
# promised (1e-6 and 1e-11): the error bounds of cpp/kernels/chunk_sums.hpp, 1e-9 for float32 and, of at most 512
# additions in a row, 6e-14 for float64, doubled for the merging.
Y_ULPS = 16
# What float32 holds exactly has float32's bound, int32 float64's.
VAR_RTOL = dict.fromkeys((np.dtype(np.float32), *NARROW), 2e-9) | dict.fromkeys(
    (np.dtype(np.float64), np.dtype(np.int32)), 1.2e-13
)
# 2e-6 is some thirty roundings of float32; in float64 no figure is promised, and 1e-12 leaves room for a plain sum of
# 1e5 terms of either sign.
GRAD_RTOL = {np.dtype(np.float32): 2e-6, np.dtype(np.float64): 1e-12}
# A handful of float64 operations (a square root, a quotient, a product) at half an ulp each.
FLOAT64_RTOL = 1e-15


@contextlib.contextmanager
def using_isa(name: str) -> Iterator[None]:
    """Use one instruction set for a while."""
    before = fastbn._core.get_isa()
    fastbn._core.set_isa(name)
    try:
        yield
    finally:
        fastbn._core.set_isa(before)


# Checks against the oracle.


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


def parameters(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any = np.float64) -> tuple[Array, Array]:
    """Return a weight and a bias, neither near zero nor all of one sign."""
    weight = rng.uniform(0.5, 2, shape) * rng.choice([-1.0, 1.0], shape)
    return np.asarray(weight, dtype), np.asarray(rng.uniform(-2, 2, shape), dtype)


def assert_ulps(actual: Array, expected: Array, other: Any = 0.0, limit: float = Y_ULPS, slack: Any = 0.0) -> None:
    """Assert that `actual` is within `limit` ulp of the larger of |expected| and |other|, NaN exactly where expected.

    An error of `slack` does not count.
    """
    assert actual.shape == expected.shape
    absent = np.isnan(expected)
    assert (np.isnan(actual) == absent).all()
    unit = reference.unit(actual.dtype, expected, other)
    with np.errstate(all="ignore"):
        error = np.abs(actual.astype(unit.dtype) - expected)
        right = absent | (error <= limit * unit) | (error <= slack)
        if right.all():
            return
        ulps = np.where(right, 0, error / unit)
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
        error = np.where(np.isnan(expected), 0, np.abs(actual.astype(reference.wide(actual, expected)) - expected))
        bound = np.where(np.isnan(size), 0, rtol * size + atol)
    assert (error <= bound).all(), f"error {error.max()} beyond {rtol} of {size.ravel()[(error - bound).argmax()]}"


def y_type(dtype: Any) -> Any:
    """Return the dtype of y for an x of `dtype`, where none is chosen."""
    return np.dtype(np.float32 if np.dtype(dtype).kind in "iu" else dtype)


def computed_in(*dtypes: Any) -> Any:
    """Return the type in which x and y of these types are computed."""
    wide = {np.dtype(np.float64), np.dtype(np.int32)}
    return np.dtype(np.float64 if wide & {np.dtype(d) for d in dtypes} else np.float32)


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
    features = reference.feature_shape(shape, axis)
    parts = (np.ones(features) if weight is None else weight, np.zeros(features) if bias is None else bias)
    size = sum(np.abs(np.asarray(part).astype(np.float64)) for part in parts)
    spread = reference.along(size, shape, axis)
    return spread if residual is None else spread + np.abs(residual.astype(np.float64))


def assert_rounded(actual: Array, expected: Array, slack: Any = 0.0) -> None:
    """Assert that `actual` is some number within `slack` of `expected`, rounded; NaN exactly where expected."""
    assert actual.shape == expected.shape
    lowest, highest = (reference.rounded(expected + by, actual.dtype) for by in (-np.asarray(slack), np.asarray(slack)))
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
    unit = reference.unit(computed, expected, size)
    assert_rounded(y, expected, np.where(np.isfinite(unit), Y_ULPS * unit, 0))


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
    expected = reference.normalize(x, mean, var, weight, bias, eps, axis, dtype, **fused)
    assert_y(y, expected, affine_size(x.shape, axis, weight, bias, residual), x.dtype)


@once
def assert_statistics(x: Array, mean: Array, var: Array, axis: Axis) -> None:
    """Assert that mean and var are those of x, float64, in the features' shape."""
    found = reference.moments(x, axis, oracles_type(x.dtype))
    assert_mean_and_var(mean, var, found.mean, found.m2 / found.count, VAR_RTOL[x.dtype])


def assert_mean_and_var(mean: Array, var: Array, wanted_mean: Array, wanted_var: Array, rtol: float) -> None:
    """Assert that mean and var are the oracle's, in float64."""
    assert mean.dtype == var.dtype == np.float64
    # A mean is off by its own rounding and by the variance's share of the standard deviation.
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
    expected = reference.train(x, weight, bias, eps, axis, exact, p=p, **fused)
    assert y.dtype == (y_type(x.dtype) if dtype is None else dtype)
    assert_count(count, expected.count)
    assert_mean_and_var(mean, var, expected.mean, expected.biased, VAR_RTOL[x.dtype])
    assert_relative(invstd, expected.invstd, VAR_RTOL[x.dtype])
    size = affine_size(x.shape, axis, weight, bias, residual) * max(1.0, abs(slope))
    if VAR_RTOL[x.dtype] <= VAR_RTOL[computed_in(x.dtype, y.dtype)]:
        assert_y(y, expected.y, size, x.dtype)
        return
    # A y of more digits than the statistics have is right for the statistics that were found, their mean rounded.
    wanted = reference.affine(x, mean, invstd, weight, bias, axis, residual=residual)
    lost = np.abs((1 if weight is None else weight) * invstd) * np.spacing(np.abs(mean)) * max(1.0, abs(slope))
    wanted = reference.activated(wanted, activation, slope)
    assert_ulps(y, wanted, size, slack=reference.along(lost, x.shape, axis))


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
    z = reference.affine(x, mean, invstd, weight, bias, axis, exact, residual=residual)
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
    expected = reference.backward(dy, x, weight, mean, invstd, axis, training, exact, p=p, **fused)
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


def central_differences(loss: Callable[[], float], array: Array, step: float = 1e-4) -> Array:
    """Return the derivatives of a loss by the elements of `array`, which is changed and changed back."""
    gradient = np.empty_like(array)
    for index in np.ndindex(array.shape):
        kept = array[index]
        array[index] = kept + step
        above = loss()
        array[index] = kept - step
        gradient[index] = (above - loss()) / (2 * step)
        array[index] = kept
    return gradient


# Same bits.


def bits(array: Array) -> bytes:
    """Return an array's bytes in C order, every NaN written as the same one."""
    absent = np.isnan(array)
    return (np.where(absent, np.asarray(np.nan, array.dtype), array) if absent.any() else array).tobytes()


def everything(
    x: Array, dy: Array, weight: Array | None, bias: Array | None, axis: Axis, **options: Any
) -> dict[str, bytes]:
    """Return the bits of every result that every function gives, each with those of the `options` that it knows."""
    counting = {name: value for name, value in options.items() if name in ("where", "weights")}
    fused = {name: value for name, value in options.items() if name in ("residual", "activation", "negative_slope")}
    chosen = {name: value for name, value in options.items() if name == "dtype"}
    forward: dict[str, Any] = counting | fused | chosen
    found = fastbn.moments(x, axis=axis, **counting)
    y, mean, var, invstd, count = fastbn.batch_norm_train(x, weight, bias, axis=axis, **forward)
    running = np.zeros_like(mean), np.ones_like(var)
    remembered = fastbn.batch_norm(x, *running, weight, bias, training=True, axis=axis, **forward)
    arrays = {
        "moments.count": np.asarray(found.count, np.float64),
        "moments.mean": found.mean,
        "moments.m2": found.m2,
        "train.y": y,
        "train.mean": mean,
        "train.var": var,
        "train.invstd": invstd,
        "train.count": np.asarray(count, np.float64),
        "batch_norm.y": remembered,
        "running_mean": running[0],
        "running_var": running[1],
        "eval.y": fastbn.batch_norm(x, *running, weight, bias, axis=axis, **forward),
        "normalize.y": fastbn.normalize(x, mean, var, weight, bias, axis=axis, **fused, **chosen),
    }
    given: dict[str, Any] = {"mean": mean, "invstd": invstd, "axis": axis} | counting | fused
    for how in ({"training": True}, {"training": False}, *([{"count": count}] if counting else [])):
        got = fastbn.batch_norm_backward(dy, x, weight, bias, **given, **how)
        called = f"backward(training={how['training']})" if "training" in how else "backward(count)"
        for name, array in zip(("dx", "dweight", "dbias", "dresidual"), got, strict=False):
            arrays[f"{called}.{name}"] = array
    return {name: bits(array) for name, array in arrays.items()}


def differing(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    """Return the names whose bits differ."""
    assert one.keys() == other.keys()
    return [name for name in one if one[name] != other[name]]


# A fresh interpreter.


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that sees the fastbn of this one."""
    known = {k: v for k, v in os.environ.items() if k != "FASTBN_ISA"}
    path = os.pathsep.join(p for p in sys.path if p)
    return subprocess.run(
        [sys.executable, "-c", code],
        env=known | {"PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
