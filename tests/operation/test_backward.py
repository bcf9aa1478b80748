"""Promise: the backward function gives the derivatives of the forward one, in training and with frozen statistics."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import fastbn
from support import oracle
from support.assertions import assert_gradients
from support.derivatives import central_differences
from support.dtypes import FLOATS
from support.random_arrays import parameters
from support.tolerances import GRAD_RTOL

pytestmark = pytest.mark.usefixtures("isa")


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("with_weight", [True, False])
@pytest.mark.parametrize("axis", [1, -1])
def test_agrees_with_the_formula(
    rng: np.random.Generator, dtype: Any, training: bool, with_weight: bool, axis: int
) -> None:
    x = (3 + 2 * rng.standard_normal((7, 5, 6, 9))).astype(dtype)
    dy = (0.5 + rng.standard_normal(x.shape)).astype(dtype)
    weight = parameters(rng, (x.shape[axis],))[0] if with_weight else None
    _, mean, _, invstd, _ = fastbn.batch_norm_train(x, weight, axis=axis)
    saved = {"mean": mean, "invstd": invstd, "axis": axis, "training": training}
    assert_gradients(fastbn.batch_norm_backward(dy, x, weight, **saved), dy, x, weight, **saved)


@pytest.mark.parametrize("training", [True, False])
def test_any_mean_and_invstd(rng: np.random.Generator, training: bool) -> None:
    """The statistics are what they are given as, not computed from x once more."""
    x, dy = rng.standard_normal((2, 9, 4, 5))
    weight = parameters(rng, (4,))[0]
    saved = {"mean": 3 * rng.standard_normal(4), "invstd": rng.uniform(0.1, 3, 4), "training": training}
    assert_gradients(fastbn.batch_norm_backward(dy, x, weight, **saved), dy, x, weight, **saved)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("shape", "axis"), [((6, 3), 1), ((3, 6), 0), ((3, 2, 2, 3), 1), ((2, 3, 2, 2), (1, 3))])
def test_finite_differences(
    rng: np.random.Generator, training: bool, shape: tuple[int, ...], axis: int | tuple[int, ...]
) -> None:
    x = 1 + 2 * rng.standard_normal(shape)
    weight, bias = parameters(rng, oracle.feature_shape(shape, axis))
    push = rng.standard_normal(shape)
    mean, var = rng.standard_normal(weight.shape), rng.uniform(0.5, 2, weight.shape)

    def forward() -> np.ndarray:
        if training:
            return fastbn.batch_norm(x, None, None, weight, bias, training=True, eps=1e-3, axis=axis)
        return fastbn.batch_norm(x, mean, var, weight, bias, eps=1e-3, axis=axis)

    def loss() -> float:
        return float((np.sin(forward()) * push).sum())

    dy = np.cos(forward()) * push
    if training:
        _, mean, _, invstd, _ = fastbn.batch_norm_train(x, weight, bias, eps=1e-3, axis=axis)
    else:
        invstd = 1 / np.sqrt(var + 1e-3)
    got = fastbn.batch_norm_backward(dy, x, weight, mean=mean, invstd=invstd, axis=axis, training=training)
    # A step of 1e-4 leaves a truncation of its square times a third derivative of some tens, and a rounding of 1e-11.
    for gradient, array in zip(got, (x, weight, bias), strict=True):
        np.testing.assert_allclose(gradient, central_differences(loss, array), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(16, 5), (6, 5, 9), (3, 5, 7, 6), (2, 5, 3, 4, 3)])
def test_agrees_with_torch(rng: np.random.Generator, dtype: Any, training: bool, shape: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch")
    arrays = {
        "x": (1 + 2 * rng.standard_normal(shape)).astype(dtype),
        "dy": rng.standard_normal(shape).astype(dtype),
        "weight": rng.uniform(0.5, 2, 5).astype(dtype),
        "bias": rng.standard_normal(5).astype(dtype),
        "running_mean": rng.standard_normal(5).astype(dtype),
        "running_var": rng.uniform(0.5, 2, 5).astype(dtype),
    }
    tensors = {name: torch.tensor(array) for name, array in arrays.items()}
    leaves = [tensors[name].requires_grad_() for name in ("x", "weight", "bias")]
    names = ("running_mean", "running_var", "weight", "bias")
    y = torch.nn.functional.batch_norm(
        tensors["x"], *(tensors[n] for n in names), training=training, momentum=0.2, eps=1e-3
    )
    wanted = torch.autograd.grad(y, leaves, tensors["dy"])

    mean, invstd = arrays["running_mean"].copy(), 1 / np.sqrt(arrays["running_var"].astype(float) + 1e-3)
    got = fastbn.batch_norm(arrays["x"], *(arrays[n] for n in names), training=training, momentum=0.2, eps=1e-3)
    if training:
        _, mean, _, invstd, _ = fastbn.batch_norm_train(arrays["x"], eps=1e-3)
    gradients = fastbn.batch_norm_backward(
        arrays["dy"], arrays["x"], arrays["weight"], mean=mean, invstd=invstd, training=training
    )
    # PyTorch computes in x's own type: tens of roundings of numbers of order one, a sum of some hundreds.
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == np.float32 else {"rtol": 1e-11, "atol": 1e-11}
    np.testing.assert_allclose(got, y.detach().numpy(), **tolerance)
    for name in ("running_mean", "running_var"):
        np.testing.assert_allclose(arrays[name], tensors[name].numpy(), **tolerance)
    for gradient, want in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(gradient, want.numpy(), **tolerance)


@pytest.mark.parametrize("dtype", FLOATS)
def test_dx_is_orthogonal_to_what_normalization_removes(rng: np.random.Generator, dtype: Any) -> None:
    """With eps = 0, y does not change when x is shifted or stretched, so dx sums to 0 and so does dx * xhat."""
    x = (5 + 3 * rng.standard_normal((8, 3, 50))).astype(dtype)
    dy = (1 + rng.standard_normal(x.shape)).astype(dtype)
    y, mean, _, invstd, _ = fastbn.batch_norm_train(x, eps=0)
    dx = fastbn.batch_norm_backward(dy, x, mean=mean, invstd=invstd).dx.astype(np.float64)
    # 400 roundings of terms of order one, in one direction at worst.
    tolerance = 400 * np.finfo(dtype).eps
    assert np.abs(dx.sum((0, 2))).max() < tolerance
    assert np.abs((dx * y).sum((0, 2))).max() < 4 * tolerance


def test_frozen_gradient_is_a_multiple_of_dy(rng: np.random.Generator) -> None:
    x, dy = rng.standard_normal((2, 9, 4, 5))
    weight, mean, invstd = np.array([1.0, -2.0, 0.0, 0.5]), np.zeros(4), np.array([1.0, 2.0, 4.0, 0.0])
    dx = fastbn.batch_norm_backward(dy, x, weight, mean=mean, invstd=invstd, training=False).dx
    np.testing.assert_array_equal(dx, dy * np.array([1.0, -4.0, 0.0, 0.0])[:, None])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("training", [True, False])
def test_invstd_of_zero(rng: np.random.Generator, dtype: Any, training: bool) -> None:
    """A constant channel with eps = 0 has no gradient but its bias's."""
    x = np.full((9, 2, 5), 0.1, dtype)
    dy = rng.standard_normal(x.shape).astype(dtype)
    _, mean, _, invstd, _ = fastbn.batch_norm_train(x, eps=0)
    got = fastbn.batch_norm_backward(dy, x, [2.0, 3.0], mean=mean, invstd=invstd, training=training)
    assert not got.dx.any()
    assert not got.dweight.any()
    np.testing.assert_allclose(got.dbias, dy.sum((0, 2), dtype=np.float64), rtol=GRAD_RTOL[np.dtype(np.float64)])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("axis", [1, 2])
def test_out_given_and_in_place(rng: np.random.Generator, dtype: Any, training: bool, axis: int) -> None:
    x, dy = rng.standard_normal((2, 6, 5, 7)).astype(dtype)
    weight = parameters(rng, (x.shape[axis],))[0]
    _, mean, _, invstd, _ = fastbn.batch_norm_train(x, axis=axis)
    saved = {"mean": mean, "invstd": invstd, "axis": axis, "training": training}
    fresh = fastbn.batch_norm_backward(dy, x, weight, **saved)
    for target in ("given", "x", "dy"):
        a, b = x.copy(), dy.copy()
        out = {"given": np.full_like(x, np.nan), "x": a, "dy": b}[target]
        got = fastbn.batch_norm_backward(b, a, weight, **saved, out=out)
        assert got.dx is out
        for mine, want in zip(got, fresh, strict=True):
            np.testing.assert_array_equal(mine, want, err_msg=target)
        if target != "x":
            np.testing.assert_array_equal(a, x)
        if target != "dy":
            np.testing.assert_array_equal(b, dy)
    same = x.copy()
    expected = fastbn.batch_norm_backward(x, x, weight, **saved)
    got = fastbn.batch_norm_backward(same, same, weight, **saved, out=same)
    for mine, want in zip(got, expected, strict=True):
        np.testing.assert_array_equal(mine, want)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(0, 3), (2, 3, 0)])
@pytest.mark.parametrize("training", [True, False])
def test_empty_batch(dtype: Any, shape: tuple[int, ...], training: bool) -> None:
    x = np.empty(shape, dtype)
    for mean in (np.zeros(3), np.full(3, np.nan)):
        got = fastbn.batch_norm_backward(x, x, np.ones(3), mean=mean, invstd=mean, training=training)
        assert (got.dx.shape, got.dx.dtype) == (shape, x.dtype)
        assert got.dweight.tolist() == got.dbias.tolist() == [0.0] * 3


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_step_down_the_gradient_goes_down(rng: np.random.Generator, dtype: Any) -> None:
    x = rng.standard_normal((32, 4)).astype(dtype)
    target = rng.standard_normal(x.shape).astype(dtype)
    weight, bias = np.ones(4), np.zeros(4)
    losses = []
    for _ in range(50):
        y, mean, _, invstd, _ = fastbn.batch_norm_train(x, weight, bias)
        losses.append(float(((y - target) ** 2).mean()))
        dy = (2 / x.size) * (y - target)
        dx, dweight, dbias = fastbn.batch_norm_backward(dy.astype(dtype), x, weight, mean=mean, invstd=invstd)
        x, weight, bias = x - dx, weight - dweight, bias - dbias
    assert all(after < before for before, after in pairwise(losses))


def test_an_infinite_value_reaches_dweight_whatever_the_width() -> None:
    """Frozen statistics are finite, so xhat is infinite where x is, and its product with dy is no NaN."""
    for width in range(1, 40):
        x = np.ones((1, 2, width))
        x[0, 0, 0] = np.inf
        dy = np.ones_like(x)
        result = fastbn.batch_norm_backward(dy, x, mean=np.zeros(2), invstd=np.ones(2), training=False)
        assert result.dweight[0] == np.inf
        assert result.dweight[1] == width
