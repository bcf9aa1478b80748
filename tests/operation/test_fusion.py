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
from support import oracle
from support.assertions import assert_gradients, assert_normalized, assert_rounded, assert_train, off_the_kink
from support.bits import bits, bits_of_everything, differing
from support.dtypes import FLOAT_TYPES, TYPES
from support.epilogues import SLOPE, epilogue
from support.isas import using_isa
from support.layouts import Layout, dense, fortran, misaligned, permuted, stepped
from support.marks import every_dtype, every_float, every_isa, every_layout
from support.random_arrays import parameters, random_values
from support.tolerances import FLOAT64_RTOL

pytestmark = pytest.mark.untraced

Array = np.ndarray
ISAS = fastbn._core.isas()

either = pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
# (activation, whether there is a residual), all but neither.
FUSED = list(itertools.product((None, "relu", "leaky_relu"), (False, True)))[1:]


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
        mine, oracles = epilogue(activation, residual)
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
        mine, oracles = epilogue(activation, residual)
        dy = layout.place(off_the_kink(dys[turn // 2 % 2], x, weight, bias, **saved, residual=residual))
        got = fastbn.batch_norm_backward(dy, x, weight, bias, **saved, training=training, **mine)
        assert_gradients(got, dy, x, weight, bias, **saved, training=training, **oracles)
        assert got._fields == ("dx", "dweight", "dbias", "dresidual")[: 4 if with_residual else 3]


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("shift", [0, 4], ids=["dx and dresidual on the same boundaries", "on others"])
def test_gradients_too_large_for_the_caches(axis: int, shift: int, rng: np.random.Generator) -> None:
    shape = (13, 61, 65, 64) if axis == 1 else (13, 65, 61, 64)
    x, dy, residual = (rng.standard_normal(shape, dtype=np.float32) for _ in range(3))
    _, mean, _, invstd, _ = fastbn.batch_norm_train(x, axis=axis)
    saved = {"mean": mean, "invstd": invstd, "axis": axis}
    mine, oracles = epilogue("relu", residual)
    dy = off_the_kink(dy, x, None, None, **saved, residual=residual)
    out = np.empty(x.nbytes + 128, np.uint8)
    begin = -out.ctypes.data % 64 + shift  # dresidual begins on a multiple of 64 bytes
    out = out[begin : begin + x.nbytes].view(np.float32).reshape(shape)
    got = fastbn.batch_norm_backward(dy, x, **saved, **mine, out=out)
    assert got.dx is out
    assert_gradients(got, dy, x, **saved, **oracles)


@every_layout
def test_same_bits_on_every_isa(layout: Layout) -> None:
    for turn, (activation, with_residual) in enumerate(FUSED):
        rng = np.random.default_rng(29)
        dtype = TYPES[turn % 4]
        x, dy = layout.fill(rng, dtype, 2, 3), layout.fill(rng, dtype)
        weight, bias = parameters(rng, layout.features)
        mine, _ = epilogue(activation, layout.fill(rng, dtype, 2) if with_residual else None)
        found = []
        for isa in ISAS:
            with using_isa(isa):
                found.append(bits_of_everything(x, dy, weight, bias, layout.axis, **mine))
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
            mine, oracles = epilogue(activation, residual)
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
    np.testing.assert_allclose(y, [[-0.005, 3], [-0.02, 3]], rtol=FLOAT64_RTOL)
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
        mine, _ = epilogue(activation, residual if with_residual else None)
        result = fastbn.batch_norm_train(x, **mine)
        for one, other in zip(result[1:], plain[1:], strict=True):
            np.testing.assert_array_equal(one, other)
        for array, start in zip(remembered, (0, 1), strict=True):
            array[...] = start
        fastbn.batch_norm(x, *remembered, training=True, **mine)
        np.testing.assert_array_equal(remembered, running)


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
            mine, oracles = epilogue(activation, residual)
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
    """One array cannot be both: dresidual is a copy."""
    x, dy, residual = rng.standard_normal((3, 6, 5, 7))
    saved = {"mean": np.zeros(5), "invstd": np.ones(5), "residual": residual}
    wanted = fastbn.batch_norm_backward(dy, x, **saved)
    given = dy.copy()
    got = fastbn.batch_norm_backward(given, x, **saved, out=given)
    assert got.dx is given
    np.testing.assert_array_equal(got.dx, wanted.dx)
    np.testing.assert_array_equal(got.dresidual, dy)


@every_isa
def test_arguments_are_left_as_they_are(rng: np.random.Generator) -> None:
    x, dy, residual = rng.standard_normal((3, 6, 5, 7))
    before = x.tobytes(), dy.tobytes(), residual.tobytes()
    for activation in (None, "relu", "leaky_relu"):
        bits_of_everything(x, dy, None, None, 1, residual=residual, activation=activation)
    assert (x.tobytes(), dy.tobytes(), residual.tobytes()) == before


@pytest.mark.parametrize("shape", [(0, 3), (2, 3, 0)])
def test_empty_batch(shape: tuple[int, ...]) -> None:
    x = np.empty(shape)
    for activation, with_residual in FUSED:
        mine, _ = epilogue(activation, x if with_residual else None)
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
        mine, oracles = epilogue("relu", residual)
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
    mine, oracles = epilogue(activation, residual)
    result = fastbn.batch_norm_train(x, None, bias, eps=0, **mine)
    z = bias[:, None] + residual
    assert_rounded(result.y, oracle.activated(z.astype(np.longdouble), activation, SLOPE), 4 * np.finfo(dtype).eps)
    saved = {"mean": result.mean, "invstd": result.invstd}
    got = fastbn.batch_norm_backward(dy, x, None, bias, **saved, **mine)
    assert not got.dx.any()
    assert_gradients(got, dy, x, None, bias, **saved, **oracles)
