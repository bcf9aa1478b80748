"""Promise: y = act(weight * xhat + bias + residual) in one go, and the derivatives of that.

relu(z) is 0 where z <= 0, leaky_relu(z) is negative_slope * z there; the gradient passes where z > 0, elsewhere times
0 or the slope.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastbn
import fastbn._core
import reference
from helpers import (
    BFLOAT16,
    FLOATS,
    HALVES,
    LAYOUTS,
    TYPES,
    Y_ULPS,
    Layout,
    affine_size,
    assert_gradients,
    assert_normalized,
    assert_rounded,
    assert_train,
    bits,
    computed_in,
    dense,
    differing,
    everything,
    fortran,
    layout_id,
    misaligned,
    off_the_kink,
    parameters,
    permuted,
    random_values,
    stepped,
    using_isa,
    y_type,
)

pytestmark = pytest.mark.untraced

Array = np.ndarray
FLOAT_TYPES = (*(np.dtype(d) for d in FLOATS), *HALVES)
ISAS = fastbn._core.isas()
SLOPE = 0.3

every_isa = pytest.mark.usefixtures("isa")
every_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=layout_id)
every_dtype = pytest.mark.parametrize("dtype", FLOATS)
every_float = pytest.mark.parametrize("dtype", FLOAT_TYPES, ids=str)
either = pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
# (activation, whether there is a residual), all but neither.
FUSED = list(itertools.product((None, "relu", "leaky_relu"), (False, True)))[1:]


def options(
    activation: str | None, residual: Array | None, slope: float = SLOPE
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments that mean the same to fastbn and to the oracle."""
    both = {"activation": activation, "residual": residual}
    return both | {"negative_slope": slope}, both | {"slope": slope}


# Against the oracle.


@every_layout
@every_dtype
def test_forward(layout: Layout, dtype: Any, rng: np.random.Generator) -> None:
    x, axis = layout.fill(rng, dtype, scale=2, offset=3), layout.axis
    weight, bias = parameters(rng, layout.features)
    residuals = layout.fill(rng, dtype, scale=2), rng.standard_normal(x.shape).astype(dtype)
    mean, var = 3 + rng.standard_normal(layout.features), rng.uniform(0.5, 2, layout.features)
    for turn, (activation, with_residual) in enumerate(FUSED):
        residual = residuals[turn % 2] if with_residual else None
        mine, oracles = options(activation, residual)
        result = fastbn.batch_norm_train(x, weight, bias, axis=axis, **mine)
        assert_train(x, result, weight, bias, axis=axis, **oracles)
        assert result.y.strides == np.empty_like(x, subok=False).strides
        y = fastbn.batch_norm(x, None, None, weight, bias, training=True, axis=axis, **mine)
        np.testing.assert_array_equal(y, result.y)
        y = fastbn.normalize(x, mean, var, weight, bias, axis=axis, **mine)
        assert_normalized(x, y, mean, var, weight, bias, axis=axis, **oracles)
        np.testing.assert_array_equal(fastbn.batch_norm(x, mean, var, weight, bias, axis=axis, **mine), y)


@every_layout
@every_dtype
@pytest.mark.parametrize("training", [True, False])
def test_backward(layout: Layout, dtype: Any, training: bool, rng: np.random.Generator) -> None:
    x, axis = layout.fill(rng, dtype, scale=2, offset=3), layout.axis
    weight, bias = parameters(rng, layout.features)
    _, mean, _, invstd, _ = fastbn.batch_norm_train(x, axis=axis)
    saved = {"mean": mean, "invstd": invstd, "axis": axis}
    residuals = layout.fill(rng, dtype, scale=2), rng.standard_normal(x.shape).astype(dtype)
    dys = (0.5 + rng.standard_normal(x.shape)).astype(dtype), layout.fill(rng, dtype, offset=0.5)
    for turn, (activation, with_residual) in enumerate(FUSED):
        residual = residuals[turn % 2] if with_residual else None
        mine, oracles = options(activation, residual)
        dy = layout.place(off_the_kink(dys[turn // 2 % 2], x, weight, bias, **saved, residual=residual))
        got = fastbn.batch_norm_backward(dy, x, weight, bias, **saved, training=training, **mine)
        assert_gradients(got, dy, x, weight, bias, **saved, training=training, **oracles)
        assert got._fields == ("dx", "dweight", "dbias", "dresidual")[: 4 if with_residual else 3]


@every_layout
def test_same_bits_on_every_isa(layout: Layout) -> None:
    for turn, (activation, with_residual) in enumerate(FUSED):
        rng = np.random.default_rng(29)
        dtype = TYPES[turn % 4]
        x, dy = layout.fill(rng, dtype, 2, 3), layout.fill(rng, dtype)
        weight, bias = parameters(rng, layout.features)
        mine, _ = options(activation, layout.fill(rng, dtype, 2) if with_residual else None)
        found = []
        for isa in ISAS:
            with using_isa(isa):
                found.append(everything(x, dy, weight, bias, layout.axis, **mine))
        for other in found[1:]:
            assert differing(other, found[0]) == [], (activation, with_residual)


@pytest.mark.parametrize("x_dtype", TYPES, ids=str)
@pytest.mark.parametrize("y_dtype", FLOAT_TYPES, ids=str)
def test_any_types(rng: np.random.Generator, x_dtype: Any, y_dtype: Any) -> None:
    for shape, axis in (((9, 5, 11), 1), ((9, 11, 5), 2), ((5, 5, 3, 3), 1)):
        x = random_values(rng, shape, x_dtype, 2, 3)
        weight, bias = parameters(rng, (5,))
        for activation, with_residual in FUSED:
            residual = (2 * rng.standard_normal(shape)).astype(y_dtype) if with_residual else None
            mine, oracles = options(activation, residual)
            result = fastbn.batch_norm_train(x, weight, bias, axis=axis, dtype=y_dtype, **mine)
            assert_train(x, result, weight, bias, axis=axis, dtype=y_dtype, **oracles)
            saved = {"mean": result.mean, "invstd": result.invstd, "axis": axis}
            dy = rng.standard_normal(shape).astype(y_dtype)
            dy = off_the_kink(dy, x, weight, bias, **saved, residual=residual)
            got = fastbn.batch_norm_backward(dy, x, weight, bias, **saved, **mine)
            assert_gradients(got, dy, x, weight, bias, **saved, **oracles)


@every_isa
def test_worked_example() -> None:
    x = np.array([[1.0, -2.0], [3.0, 2.0]])  # xhat is -1 and 1
    residual = np.array([[0.5, 4.0], [-3.0, 0.0]])
    given: dict[str, Any] = {"eps": 0, "residual": residual}
    weight, bias = [1.0, 2.0], [0.0, 1.0]
    z = [[-0.5, 3.0], [-2.0, 3.0]]
    y = fastbn.batch_norm(x, None, None, weight, bias, True, **given)
    assert y.tolist() == z
    y = fastbn.batch_norm(x, None, None, weight, bias, True, **given, activation="relu")
    assert y.tolist() == [[0, 3], [0, 3]]
    y = fastbn.batch_norm(x, None, None, weight, bias, True, **given, activation="leaky_relu", negative_slope=0.5)
    assert y.tolist() == [[-0.25, 3], [-1, 3]]
    y = fastbn.batch_norm(x, None, None, weight, bias, True, **given, activation="leaky_relu")
    np.testing.assert_allclose(y, [[-0.005, 3], [-0.02, 3]], rtol=4e-16)
    dy = np.array([[1.0, 10.0], [100.0, 1000.0]])
    got = fastbn.batch_norm_backward(
        dy, x, weight, bias, mean=[2.0, 0.0], invstd=[1.0, 0.5], residual=residual, activation="relu", training=False
    )
    assert isinstance(got, fastbn.ResidualGradients)
    assert got.dresidual.tolist() == [[0, 10], [0, 1000]]
    assert (got.dbias.tolist(), got.dweight.tolist()) == ([0, 1010], [0, 990])
    assert got.dx.tolist() == [[0, 10], [0, 1000]]


@every_isa
def test_statistics_do_not_see_what_is_fused(rng: np.random.Generator) -> None:
    x, residual = rng.standard_normal((2, 9, 4, 5))
    plain = fastbn.batch_norm_train(x)
    running, remembered = (np.zeros(4), np.ones(4)), (np.zeros(4), np.ones(4))
    fastbn.batch_norm(x, *running, training=True)
    for activation, with_residual in FUSED:
        mine, _ = options(activation, residual if with_residual else None)
        result = fastbn.batch_norm_train(x, **mine)
        for one, other in zip(result[1:], plain[1:], strict=True):
            np.testing.assert_array_equal(one, other)
        for array, start in zip(remembered, (0, 1), strict=True):
            array[...] = start
        fastbn.batch_norm(x, *remembered, training=True, **mine)
        np.testing.assert_array_equal(remembered, running)


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
            mine, oracles = options("leaky_relu", None, slope)
            oracles["slope"] = float(slope)
            assert_train(x, fastbn.batch_norm_train(x, weight, bias, **mine), weight, bias, **oracles)
            grad = off_the_kink(dy, x, weight, bias, **saved)
            got = fastbn.batch_norm_backward(grad, x, weight, bias, **saved, **mine)
            assert_gradients(got, grad, x, weight, bias, **saved, **oracles)
        # A slope of one is no activation, one of zero is relu's.
        for slope, other in ((1, {}), (0, {"activation": "relu"})):
            mine, _ = options("leaky_relu", None, slope)
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
        z = reference.affine(x, result.mean, result.invstd, weight, bias, axis, residual=residual)
        lost = np.abs(weight * result.invstd) * np.spacing(np.abs(result.mean))
        rounding = Y_ULPS * np.finfo(float).eps * affine_size(x.shape, axis, weight, bias, residual)
        decided = np.abs(z) > rounding + reference.along(lost, x.shape, axis)
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
    found = reference.train(x, eps=eps, axis=axis)
    columns = reference.columns(found.y, axis)
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
        weight, _ = parameters(rng, reference.feature_shape(shape, axis))
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
            z = reference.normalize(x, mean, var, weight)
            bias = np.asarray(-z[(4, slice(None), *[0] * (len(shape) - 2))], np.float64)
            zeros = np.zeros(shape, dtype)
            y = fastbn.normalize(x, mean, var, weight, bias, residual=zeros, activation="relu")
            saved = {"mean": mean, "invstd": 1 / np.sqrt(var + 1e-5), "training": False}
            got = fastbn.batch_norm_backward(
                np.ones_like(x), x, weight, bias, **saved, residual=zeros, activation="relu"
            )
            np.testing.assert_array_equal(got.dresidual, y != 0)


# Memory.

PLACES = {
    "dense": dense,
    "channels-last": permuted(0, 2, 3, 1),
    "fortran": fortran,
    "stepped": stepped(1, 2, -1, 3),
    "misaligned": misaligned,
}


@pytest.mark.parametrize("x_place", PLACES)
@pytest.mark.parametrize("residual_place", PLACES)
@every_dtype
def test_residuals_of_another_layout(x_place: str, residual_place: str, dtype: Any, rng: np.random.Generator) -> None:
    for shape in ((3, 19, 6, 7), (9, 33, 1, 1), (5, 6, 2, 2), (13, 5, 3, 3)):
        values, others, dy = ((3 + 2 * rng.standard_normal(shape)).astype(dtype) for _ in range(3))
        x, residual = PLACES[x_place](values), PLACES[residual_place](others)
        weight, bias = parameters(rng, shape[1:2])
        for activation in (None, "leaky_relu"):
            mine, oracles = options(activation, residual)
            result = fastbn.batch_norm_train(x, weight, bias, **mine)
            assert_train(x, result, weight, bias, **oracles)
            saved = {"mean": result.mean, "invstd": result.invstd}
            grad = off_the_kink(dy, x, weight, bias, **saved, residual=residual)
            got = fastbn.batch_norm_backward(grad, x, weight, bias, **saved, **mine)
            assert_gradients(got, grad, x, weight, bias, **saved, **oracles)


@every_isa
@every_float
@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu"])
@pytest.mark.parametrize(("shape", "axis"), [((6, 5, 7), 1), ((6, 7, 5), 2), ((4, 5, 3, 3), 1)])
def test_in_place(
    dtype: Any, activation: str | None, shape: tuple[int, ...], axis: int, rng: np.random.Generator
) -> None:
    x, residual, dy = (rng.standard_normal(shape).astype(dtype) for _ in range(3))
    weight, bias = parameters(rng, (5,))
    mean, var = rng.standard_normal(5), rng.uniform(1, 2, 5)
    forward: dict[str, Callable[..., Array]] = {
        "train": lambda a, **k: fastbn.batch_norm_train(a, weight, bias, axis=axis, activation=activation, **k).y,
        "batch_norm": lambda a, **k: fastbn.batch_norm(
            a, None, None, weight, bias, training=True, axis=axis, activation=activation, **k
        ),
        "eval": lambda a, **k: fastbn.batch_norm(a, mean, var, weight, bias, axis=axis, activation=activation, **k),
        "normalize": lambda a, **k: fastbn.normalize(a, mean, var, weight, bias, axis=axis, activation=activation, **k),
    }
    for name, call in forward.items():
        want = bits(call(x, residual=residual))
        for target in ("x", "residual"):
            a, r = x.copy(), residual.copy()
            out = {"x": a, "residual": r}[target]
            assert call(a, residual=r, out=out) is out, name
            assert bits(out) == want, (name, target)
        both = x.copy()
        want = bits(call(x, residual=x))
        assert bits(call(both, residual=both, out=both)) == want
    saved = {"mean": mean, "invstd": var, "axis": axis, "activation": activation}
    wanted = fastbn.batch_norm_backward(dy, x, weight, bias, **saved, residual=residual)
    for target in ("given", "x", "residual", *(["dy"] if activation else [])):
        a, b, r = x.copy(), dy.copy(), residual.copy()
        out = {"given": np.zeros_like(x), "x": a, "dy": b, "residual": r}[target]
        got = fastbn.batch_norm_backward(b, a, weight, bias, **saved, residual=r, out=out)
        assert got.dx is out
        for one, other in zip(got, wanted, strict=True):
            assert bits(one) == bits(other), target


def test_dresidual_is_dy_or_an_array_of_its_own(rng: np.random.Generator) -> None:
    x, dy, residual = rng.standard_normal((3, 6, 5, 7))
    saved = {"mean": np.zeros(5), "invstd": np.ones(5), "residual": residual}
    assert fastbn.batch_norm_backward(dy, x, **saved).dresidual is dy
    before = dy.copy()
    for activation in ("relu", "leaky_relu"):
        got = fastbn.batch_norm_backward(dy, x, **saved, activation=activation)
        for other in (dy, x, residual, got.dx):
            assert not np.shares_memory(got.dresidual, other)
        assert got.dresidual.flags.writeable
        assert type(got.dresidual) is np.ndarray
        np.testing.assert_array_equal(dy, before)


def test_dx_in_the_memory_of_a_dy_that_is_dresidual(rng: np.random.Generator) -> None:
    """One array cannot be both: it is refused, or dresidual is not it."""
    x, dy, residual = rng.standard_normal((3, 6, 5, 7))
    saved = {"mean": np.zeros(5), "invstd": np.ones(5), "residual": residual}
    wanted = fastbn.batch_norm_backward(dy, x, **saved)
    given, refused = dy.copy(), False
    try:
        got = fastbn.batch_norm_backward(given, x, **saved, out=given)
    except ValueError:
        refused = True
    if refused:
        np.testing.assert_array_equal(given, dy)
    else:
        np.testing.assert_array_equal(got.dx, wanted.dx)
        np.testing.assert_array_equal(got.dresidual, dy)


@every_isa
def test_arguments_are_left_as_they_are(rng: np.random.Generator) -> None:
    x, dy, residual = rng.standard_normal((3, 6, 5, 7))
    before = x.tobytes(), dy.tobytes(), residual.tobytes()
    for activation in (None, "relu", "leaky_relu"):
        everything(x, dy, None, None, 1, residual=residual, activation=activation)
    assert (x.tobytes(), dy.tobytes(), residual.tobytes()) == before


@pytest.mark.parametrize("shape", [(0, 3), (2, 3, 0)])
def test_empty_batch(shape: tuple[int, ...]) -> None:
    x = np.empty(shape)
    for activation, with_residual in FUSED:
        mine, _ = options(activation, x if with_residual else None)
        assert fastbn.batch_norm_train(x, **mine).y.shape == shape
        assert fastbn.normalize(x, np.zeros(3), np.ones(3), **mine).shape == shape
        got = fastbn.batch_norm_backward(x, x, mean=np.zeros(3), invstd=np.ones(3), **mine)
        assert got.dx.shape == got[-1 if with_residual else 0].shape == shape
        assert got.dweight.tolist() == got.dbias.tolist() == [0.0] * 3


@every_isa
@every_dtype
def test_one_bias_more_or_less(dtype: Any, rng: np.random.Generator) -> None:
    """Weight and bias are each given or not, forward and backward."""
    x, dy, residual = rng.standard_normal((3, 9, 5, 11)).astype(dtype)
    both = parameters(rng, (5,))
    for with_weight, with_bias in itertools.product((False, True), repeat=2):
        weight, bias = both[0] if with_weight else None, both[1] if with_bias else None
        mine, oracles = options("relu", residual)
        result = fastbn.batch_norm_train(x, weight, bias, **mine)
        assert_train(x, result, weight, bias, **oracles)
        saved = {"mean": result.mean, "invstd": result.invstd}
        grad = off_the_kink(dy, x, weight, bias, **saved, residual=residual)
        got = fastbn.batch_norm_backward(grad, x, weight, bias, **saved, **mine)
        assert_gradients(got, grad, x, weight, bias, **saved, **oracles)


@every_isa
@either
@every_dtype
def test_constant_channels(activation: str, dtype: Any, rng: np.random.Generator) -> None:
    """With no variance and no eps z is bias + residual, and the gradient ends there."""
    x = np.full((9, 2, 5), 0.1, dtype)
    dy, residual = rng.standard_normal((2, *x.shape)).astype(dtype)
    bias = np.array([0.25, -0.5], dtype)
    mine, oracles = options(activation, residual)
    result = fastbn.batch_norm_train(x, None, bias, eps=0, **mine)
    z = bias[:, None] + residual
    assert_rounded(result.y, reference.activated(z.astype(np.longdouble), activation, SLOPE), 4 * np.finfo(dtype).eps)
    saved = {"mean": result.mean, "invstd": result.invstd}
    got = fastbn.batch_norm_backward(dy, x, None, bias, **saved, **mine)
    assert not got.dx.any()
    assert_gradients(got, dy, x, None, bias, **saved, **oracles)


# Errors.

SHAPE = (4, 3, 5)


def calls(x: Array, out: Array | None, running: tuple[Array, Array]) -> dict[str, Callable[..., Any]]:
    saved: dict[str, Any] = {"mean": np.zeros(3), "invstd": np.ones(3)}
    return {
        "batch_norm": lambda **k: fastbn.batch_norm(x, *running, training=True, **{"out": out} | k),
        "inference": lambda **k: fastbn.batch_norm(x, *running, **{"out": out} | k),
        "batch_norm_train": lambda **k: fastbn.batch_norm_train(x, **{"out": out} | k),
        "normalize": lambda **k: fastbn.normalize(x, *running, **{"out": out} | k),
        "batch_norm_backward": lambda **k: fastbn.batch_norm_backward(x, x, **saved, **{"out": out} | k),
        "frozen": lambda **k: fastbn.batch_norm_backward(x, x, **saved, training=False, **{"out": out} | k),
    }


NAMES = tuple(calls(np.ones((4, 3)), None, (np.zeros(3), np.ones(3))))


def refuses(name: str, error: Any, shown: str = "", **arguments: Any) -> None:
    """Assert that every call fails, naming its argument, and that nothing is written."""
    for call in NAMES:
        refuses_in(call, name, error, shown, arguments)


def refuses_in(call: str, name: str, error: Any, shown: str, arguments: dict[str, Any]) -> None:
    x, out = np.random.default_rng(61).standard_normal(SHAPE), np.full(SHAPE, 123.0)
    running = np.full(3, 5.5), np.full(3, 7.5)
    kept = arguments.get("out", out).copy()
    with pytest.raises(error, match=rf"^{name} must .*, got .*{shown}") as caught:
        calls(x, out, running)[call](**arguments)
    assert type(caught.value) in (TypeError, ValueError)
    np.testing.assert_array_equal(arguments.get("out", out), kept)
    assert (running[0] == 5.5).all()
    assert (running[1] == 7.5).all()


@pytest.mark.parametrize("bad", ["gelu", "ReLU", "", " relu", "relu ", "none", "leaky", "rel\u00fc"])
def test_activations_that_are_none(bad: str) -> None:
    refuses("activation", ValueError, bad, activation=bad)


@pytest.mark.parametrize("bad", [0, 1, True, False, 1.0, b"relu", ["relu"], len, np.maximum, object()], ids=repr)
def test_activations_that_are_no_names(bad: Any) -> None:
    refuses("activation", TypeError, activation=bad)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, np.float32("nan"), 10**400], ids=lambda v: f"{v}"[:5])
def test_slopes_that_are_not_finite(bad: Any) -> None:
    refuses("negative_slope", ValueError, activation="leaky_relu", negative_slope=bad)


@pytest.mark.parametrize("bad", [None, "0.1", b"1", 1j, [0.1], {}, object(), np.array([0.1, 0.2])], ids=repr)
def test_slopes_that_are_no_numbers(bad: Any) -> None:
    refuses("negative_slope", TypeError, activation="leaky_relu", negative_slope=bad)


@pytest.mark.parametrize(
    "shape", [(), (1,), (5,), (3, 5), (4, 3, 1), (1, 3, 5), (4, 3, 6), (5, 3, 4), (4, 3, 5, 1), (4, 3, 0)], ids=str
)
def test_residuals_of_another_shape(shape: tuple[int, ...]) -> None:
    """It is not broadcast."""
    refuses("residual", ValueError, str(shape).replace("(", r"\(").replace(")", r"\)"), residual=np.ones(shape))


@pytest.mark.parametrize(
    "dtype", ["f4", "f2", BFLOAT16, "i4", "u1", "?", "c16", "O", np.dtype("f8").newbyteorder("S")], ids=str
)
def test_residuals_of_another_type(dtype: Any) -> None:
    refuses("residual", TypeError, residual=np.ones(SHAPE).astype(dtype))


@pytest.mark.parametrize("x_dtype", TYPES, ids=str)
def test_the_residual_has_the_type_of_y(x_dtype: Any) -> None:
    x = np.arange(12).reshape(4, 3).astype(x_dtype)
    running = np.zeros(3), np.ones(3)
    for y_dtype, other in itertools.product(FLOAT_TYPES, FLOAT_TYPES):
        residual = np.ones((4, 3), other)
        for call in (
            lambda r, t: fastbn.batch_norm_train(x, residual=r, dtype=t).y,
            lambda r, t: fastbn.batch_norm_train(x, residual=r, out=np.empty((4, 3), t)).y,
            lambda r, t: fastbn.normalize(x, *running, residual=r, dtype=t),
            lambda r, t: fastbn.batch_norm_backward(
                np.ones((4, 3), t), x, mean=running[0], invstd=running[1], residual=r
            )[0],
        ):
            if other == y_dtype:
                assert call(residual, y_dtype).dtype == y_dtype
            else:
                with pytest.raises(TypeError, match=r"^residual must .*, got "):
                    call(residual, y_dtype)


@pytest.mark.parametrize(
    "bad", ["abc", 1.0, object(), [[1.0]], np.ma.masked_array(np.ones(SHAPE))], ids=lambda v: type(v).__name__
)
def test_residuals_that_are_no_arrays(bad: Any) -> None:
    refuses("residual", (TypeError, ValueError), residual=bad)


@pytest.mark.parametrize("activation", [None, "relu"])
def test_out_overlaps_the_residual(activation: str | None) -> None:
    """All of it, element by element, or none of it."""
    memory = np.random.default_rng(67).standard_normal(300)
    out = memory[60:120].reshape(SHAPE)
    for residual in (
        memory[61:121].reshape(SHAPE),
        memory[59:119].reshape(SHAPE),
        memory[119:179].reshape(SHAPE),
        memory[65:125].reshape(SHAPE),
        out[::-1],
        memory[60:120].reshape(SHAPE[::-1]).T,
        memory[60:180:2].reshape(SHAPE),
    ):
        refuses("out", ValueError, out=out, residual=residual, activation=activation)


def test_running_statistics_may_not_overlap_the_residual() -> None:
    x, residual = np.random.default_rng(3).standard_normal((2, 4, 3))
    before = residual.copy()
    for name, pair in (("running_mean", (residual[1], np.ones(3))), ("running_var", (np.ones(3), residual[1]))):
        with pytest.raises(ValueError, match=rf"^{name} must .*, got "):
            fastbn.batch_norm(x, *pair, training=True, residual=residual)
        np.testing.assert_array_equal(residual, before)


def test_the_order_of_the_backward_arguments(rng: np.random.Generator) -> None:
    x, dy = rng.standard_normal((2, 9, 5))
    weight, bias = parameters(rng, (5,))
    saved = {"mean": np.zeros(5), "invstd": np.ones(5), "activation": "relu"}
    got = fastbn.batch_norm_backward(dy, x, weight, bias, **saved)
    want = fastbn.batch_norm_backward(dy=dy, x=x, bias=bias, weight=weight, **saved)
    assert isinstance(got, fastbn.Gradients)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(one, other)
    assert fastbn.ResidualGradients._fields == ("dx", "dweight", "dbias", "dresidual")
