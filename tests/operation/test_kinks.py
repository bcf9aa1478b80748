"""Promise: activations are exact at the kink and beyond the finite; forward and backward agree on which side z lies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastbn
import fastbn._core
from support import oracle
from support.assertions import affine_size, assert_gradients, assert_train, off_the_kink
from support.dtypes import FLOATS, HALVES, computed_in, y_type
from support.epilogues import epilogue
from support.layouts import Layout
from support.marks import every_dtype, every_float, every_isa, every_layout
from support.random_arrays import parameters
from support.tolerances import Y_ULPS

pytestmark = pytest.mark.untraced

Array = np.ndarray


# At the kink, and beyond the finite.


def passed(z: Array, dtype: Any = None, **mine: Any) -> Array:
    """Return what becomes of z where normalization changes nothing."""
    features = (z.shape[1],)
    return fastbn.normalize(z, np.zeros(features), np.ones(features), eps=0, dtype=dtype, **mine)


def shaped(values: list[float], dtype: Any) -> list[Array]:
    """Return the values in each position of arrays of many widths, along rows and along columns."""
    found = []
    for n in (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65):
        row = np.resize(np.asarray(values), (len(values), n + len(values)))
        row = np.stack([np.roll(r, i) for i, r in enumerate(row)])[:, :n]
        for array in (row[:, :, None], row[:, None, :], row):
            found.append(array.astype(dtype))
    return found


@every_isa
@every_float
def test_zeros_nan_and_infinities(dtype: Any) -> None:
    values = [0.0, -0.0, 2.0, -2.0, np.nan, np.inf, -np.inf, 0.5, -0.5]
    for z in shaped(values, dtype):
        wide = z.astype(np.float64)
        y = passed(z, activation="relu").astype(np.float64)
        np.testing.assert_array_equal(y, np.where(wide <= 0, 0, wide))
        assert not np.signbit(y[~np.isnan(y)]).any()
        for slope in (0.25, -0.5, 2.0, 1.0):
            y = passed(z, activation="leaky_relu", negative_slope=slope).astype(np.float64)
            np.testing.assert_array_equal(y, np.where(wide <= 0, slope * wide, wide))


@every_isa
@every_dtype
@pytest.mark.parametrize("size", ["smallest_subnormal", "tiny", "max"])
def test_the_smallest_and_the_largest_have_their_sign(dtype: Any, size: str) -> None:
    value = float(getattr(np.finfo(dtype), size))
    for z in shaped([value, -value], dtype):
        np.testing.assert_array_equal(passed(z, activation="relu"), np.maximum(z, 0))
        np.testing.assert_array_equal(passed(z, activation="leaky_relu", negative_slope=0.5)[z > 0], z[z > 0])
        got = fastbn.batch_norm_backward(
            np.ones_like(z),
            z,
            mean=np.zeros(z.shape[1]),
            invstd=np.ones(z.shape[1]),
            training=False,
            activation="relu",
            residual=np.zeros_like(z),
        )
        np.testing.assert_array_equal(got.dresidual, z > 0)


@every_isa
@every_float
def test_gradient_at_zero_is_that_of_the_negative_side(dtype: Any) -> None:
    for z in shaped([0.0, 1.0, -0.0, -1.0, np.inf, -np.inf], dtype):
        features = (z.shape[1],)
        saved = {"mean": np.zeros(features), "invstd": np.ones(features), "training": False}
        dy = np.full_like(z, 4)
        positive = z.astype(float) > 0
        for mine, slope in (
            ({"activation": "relu"}, 0),
            ({"activation": "leaky_relu", "negative_slope": 0.25}, 0.25),
            ({"activation": "leaky_relu", "negative_slope": -2.0}, -2),
        ):
            wanted = np.where(positive, 4.0, 4.0 * slope)
            got = fastbn.batch_norm_backward(dy, z, **saved, **mine, residual=np.zeros_like(z))
            np.testing.assert_array_equal(got.dresidual.astype(float), wanted)
            np.testing.assert_array_equal(got.dx.astype(float), wanted)
            bare = fastbn.batch_norm_backward(dy, z, **saved, **mine)
            np.testing.assert_array_equal(bare.dx.astype(float), wanted)
            np.testing.assert_array_equal(got.dbias, np.moveaxis(wanted, 1, 0).reshape(features[0], -1).sum(1))


@every_isa
@every_float
def test_the_residual_decides_the_sign(dtype: Any) -> None:
    """Z may cancel to an exact zero, and a residual of NaN spoils its own element alone."""
    for x in shaped([1.0, -3.0, 2.0], dtype):
        residual = (-x).astype(dtype)
        assert not passed(x, residual=residual, activation="relu").astype(float).any()
        residual.flat[0] = np.nan
        y = passed(x, residual=residual, activation="relu").astype(float)
        assert np.isnan(y.flat[0])
        assert not y.flat[1:].any()
        residual.flat[0] = -np.inf
        assert not passed(x, residual=residual, activation="relu").astype(float).any()


@every_isa
def test_the_activation_comes_before_rounding() -> None:
    """Neither z nor a sum with the residual need be a number of y's type."""
    x = np.array([[-1.0, 1.0, -1.0, 1.0]] * 3, np.float16)
    given: Any = (x, np.zeros(4), np.ones(4), np.full(4, 98_304.0))
    y = fastbn.normalize(*given, eps=0, activation="leaky_relu", negative_slope=0.5)
    assert y.astype(float).tolist() == [[-49_152, np.inf] * 2] * 3
    residual = np.array([[65504, -65504] * 2] * 3).astype(np.float16)
    y = fastbn.normalize(*given, eps=0, residual=residual)
    assert y.astype(float).tolist() == [[-32_800, 32_800] * 2] * 3


@every_isa
@every_float
def test_slopes(dtype: Any, rng: np.random.Generator) -> None:
    for shape in ((33, 20), (6, 5, 49), (6, 5, 3, 3)):
        x, dy = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
        weight, bias = parameters(rng, shape[1:2])
        plain = fastbn.batch_norm_train(x, weight, bias)
        saved = {"mean": plain.mean, "invstd": plain.invstd}
        for slope in (0.01, 0.2, 2, -0.5, np.float32(0.1), np.int64(3), 1e-30, 1e3):
            mine, oracles = epilogue("leaky_relu", None, slope)
            oracles["slope"] = float(slope)
            assert_train(x, fastbn.batch_norm_train(x, weight, bias, **mine), weight, bias, **oracles)
            grad = off_the_kink(dy, x, weight, bias, **saved)
            got = fastbn.batch_norm_backward(grad, x, weight, bias, **saved, **mine)
            assert_gradients(got, grad, x, weight, bias, **saved, **oracles)
        # A slope of one is no activation, one of zero is relu's.
        for slope, other in ((1, {}), (0, {"activation": "relu"})):
            mine, _ = epilogue("leaky_relu", None, slope)
            got = fastbn.batch_norm_train(x, weight, bias, **mine).y
            want = fastbn.batch_norm_train(x, weight, bias, **other).y
            np.testing.assert_array_equal(got.astype(float), want.astype(float))
            got = fastbn.batch_norm_backward(dy, x, weight, bias, **saved, **mine)
            want = fastbn.batch_norm_backward(dy, x, weight, bias, **saved, **other)
            for one, wanted in zip(got, want, strict=True):
                np.testing.assert_array_equal(one.astype(float), wanted.astype(float))


def test_the_slope_is_pytorchs_by_default() -> None:
    z = np.array([[-1.0], [-100.0]])
    assert passed(z, activation="leaky_relu").tolist() == [[-0.01], [-1.0]]
    # Others do not ask for it.
    for activation in (None, "relu"):
        one, other = (passed(z, activation=activation, negative_slope=s) for s in (0.01, 7.0))
        np.testing.assert_array_equal(one, other)


# Forward and backward agree about which elements are positive, also where rounding decides. Not of float64 and int32:
# they are normalized by a mean of more digits than the float64 that is returned and that backward is given. There the
# two may differ within that mean's rounding.


def consistent(x: Array, axis: Any, weight: Array, bias: Array, residual: Array, eps: float = 1e-5) -> None:
    result = fastbn.batch_norm_train(x, weight, bias, eps=eps, axis=axis, residual=residual, activation="relu")
    saved = {"mean": result.mean, "invstd": result.invstd, "axis": axis}
    ones = np.ones(x.shape, result.y.dtype)
    got = fastbn.batch_norm_backward(ones, x, weight, bias, **saved, residual=residual, activation="relu")
    decided = np.ones(x.shape, bool)
    if computed_in(x.dtype) == np.float64:
        z = oracle.affine(x, result.mean, result.invstd, weight, bias, axis, residual=residual)
        lost = np.abs(weight * result.invstd) * np.spacing(np.abs(result.mean))
        rounding = Y_ULPS * np.finfo(float).eps * affine_size(x.shape, axis, weight, bias, residual)
        decided = np.abs(z) > rounding + oracle.along(lost, x.shape, axis)
        assert decided.mean() > 0.4 or not result.var.any()
    np.testing.assert_array_equal(got.dresidual[decided], (result.y != 0)[decided])
    assert set(np.unique(got.dresidual)) <= {0, 1}
    leaky = fastbn.batch_norm_backward(
        ones, x, weight, bias, **saved, residual=residual, activation="leaky_relu", negative_slope=-3.0
    )
    # The gradient's own sign is the same whatever the activation: it is one computation.
    np.testing.assert_array_equal(leaky.dresidual, np.where(got.dresidual != 0, 1, -3))
    if computed_in(x.dtype) == np.float64:
        return
    # Without a residual, dx of statistics that are held fixed shows it.
    y = fastbn.batch_norm_train(x, weight, bias, eps=eps, axis=axis, activation="relu").y
    dx = fastbn.batch_norm_backward(ones, x, weight, bias, **saved, training=False, activation="relu").dx
    np.testing.assert_array_equal(dx != 0, y != 0)


def critical_bias(x: Array, axis: Any, weight: Array, rng: np.random.Generator, eps: float = 1e-5) -> Array:
    """Return the bias with which some element of each channel has a z of 0, but for rounding."""
    found = oracle.train(x, eps=eps, axis=axis)
    columns = oracle.columns(found.y, axis)
    chosen = columns[rng.integers(0, len(columns)), :].reshape(weight.shape)
    return np.asarray(-(weight * chosen), np.float64)


@every_isa
@every_layout
@pytest.mark.parametrize("dtype", [*(np.dtype(d) for d in FLOATS), np.dtype(np.uint8), np.dtype(np.int16)], ids=str)
def test_consistency(layout: Layout, dtype: Any, rng: np.random.Generator) -> None:
    x = layout.fill(rng, dtype, scale=2, offset=3)
    weight, _ = parameters(rng, layout.features)
    # Few values, each of them often, one of them at the kink.
    if np.dtype(dtype).kind == "f":
        x = layout.place(np.round(x))
    bias = critical_bias(x, layout.axis, weight, rng)
    residual = np.zeros(x.shape, y_type(dtype))
    consistent(x, layout.axis, weight, bias, residual)
    consistent(x, layout.axis, weight, bias, layout.place(residual + y_type(dtype).type(0.75)))


@every_isa
@pytest.mark.parametrize(
    ("dtype", "mean", "std"),
    [
        (np.float32, 1e4, 1),
        (np.float32, 1e6, 1),
        (np.float32, -1e6, 0.2),
        (np.float32, 1e30, 1e25),
        (np.float64, 1e4, 1),
        (np.float64, 1e8, 1),
        (np.int32, 2e9, 3),
    ],
)
@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        *(((n, c), 1) for n, c in ((500, 1), (500, 3), (200, 20), (100, 64), (40, 300))),
        *((shape, 1) for shape in ((12, 5, 7, 7), (60, 5, 3, 3), (40, 5, 1, 1))),
        ((20, 9, 7, 5), 3),
        ((5, 300), 0),
        ((30, 3, 9, 4), (1, 3)),
    ],
    ids=str,
)
def test_consistency_of_large_means(
    dtype: Any, mean: float, std: float, shape: tuple[int, ...], axis: Any, rng: np.random.Generator
) -> None:
    for _ in range(3):
        x = (mean + std * rng.standard_normal(shape)).astype(dtype)
        weight, _ = parameters(rng, oracle.feature_shape(shape, axis))
        bias = critical_bias(x, axis, weight, rng)
        zeros = np.zeros(shape, y_type(dtype))
        consistent(x, axis, weight, bias, zeros)
        consistent(x, axis, weight, bias - 1, zeros + y_type(dtype).type(1))


@every_isa
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_consistency_of_half_precision(dtype: Any, rng: np.random.Generator) -> None:
    """Z is positive where y is; where y is a zero it may have been positive before it was rounded."""
    for shape in ((500, 3), (100, 64), (12, 5, 7, 7), (60, 5, 3, 3)):
        x = np.round(3 + 2 * rng.standard_normal(shape)).astype(dtype)
        weight, _ = parameters(rng, shape[1:2])
        bias = critical_bias(x, 1, weight, rng)
        residual = np.zeros(shape, dtype)
        wide = fastbn.batch_norm_train(x, weight, bias, dtype=np.float32, activation="relu").y
        y, mean, _, invstd, _ = fastbn.batch_norm_train(x, weight, bias, residual=residual, activation="relu")
        got = fastbn.batch_norm_backward(
            np.ones_like(y), x, weight, bias, mean=mean, invstd=invstd, residual=residual, activation="relu"
        )
        np.testing.assert_array_equal(got.dresidual.astype(float), wide != 0)
        assert (got.dresidual[y.astype(float) != 0].astype(float) == 1).all()


@every_isa
@every_dtype
def test_consistency_in_inference(dtype: Any, rng: np.random.Generator) -> None:
    """With invstd computed as the formula says, in float64."""
    for shape in ((500, 3), (100, 64), (12, 5, 7, 7), (60, 5, 3, 3)):
        for offset in (3, 1e5):
            x = np.round(offset + 2 * rng.standard_normal(shape)).astype(dtype)
            weight, _ = parameters(rng, shape[1:2])
            mean, var = offset + rng.standard_normal(shape[1]), rng.uniform(0.5, 2, shape[1])
            z = oracle.normalize(x, mean, var, weight)
            bias = np.asarray(-z[(4, slice(None), *[0] * (len(shape) - 2))], np.float64)
            zeros = np.zeros(shape, dtype)
            y = fastbn.normalize(x, mean, var, weight, bias, residual=zeros, activation="relu")
            saved = {"mean": mean, "invstd": 1 / np.sqrt(var + 1e-5), "training": False}
            got = fastbn.batch_norm_backward(
                np.ones_like(x), x, weight, bias, **saved, residual=zeros, activation="relu"
            )
            np.testing.assert_array_equal(got.dresidual, y != 0)
