"""Promise: batch renormalization is Ioffe's (2017): forward, backward, masks and weights, limits."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastbn import BatchNorm
from support import oracle
from support.oracle import Array
from support.random_arrays import batch
from support.tolerances import CLOSE

LIMITS = [(1, 0), (1.5, 0.3), (3.0, 5.0), (1e30, 1e30)]


def layer_of(renorm: Any, **options: Any) -> BatchNorm:
    layer = BatchNorm(3, renorm=renorm, **options)
    rng = np.random.default_rng(1)
    layer.running_mean[...] = rng.normal(2.0, 1.0, 3)
    layer.running_var[...] = rng.uniform(1.0, 5.0, 3)
    for array in layer.parameters():
        array[...] = rng.normal(size=3)
    return layer


def corrections(layer: BatchNorm, mean: Array, var: Array, r_max: float, d_max: float) -> tuple[Array, Array]:
    """Return r and d of the paper, in long double."""
    std = np.sqrt(var.astype(np.longdouble) + layer.eps)
    running_std = np.sqrt(layer.running_var.astype(np.longdouble) + layer.eps)
    r = np.minimum(np.maximum(std / running_std, 1 / np.longdouble(r_max)), r_max)
    return r, np.minimum(np.maximum((mean - layer.running_mean) / running_std, -d_max), d_max)


@pytest.mark.parametrize("weighted", [False, True], ids=["all alike", "weighted"])
@pytest.mark.parametrize("parts", [{}, {"use_weight": False}, {"use_bias": False}, {"affine": False}])
@pytest.mark.parametrize("limits", LIMITS)
def test_formulas(limits: tuple[float, float], parts: dict[str, Any], weighted: bool) -> None:
    layer, x, dy = layer_of(limits, **parts), batch(8, 3, 4), batch(8, 3, 4, seed=1)
    where = weights = p = None
    if weighted:
        rng = np.random.default_rng(3)
        where, weights = rng.random((8, 3, 4)) < 0.7, rng.random((8, 1, 1))
        p = oracle.element_weights(x.shape, where, weights)
    plain = oracle.train(x, p=p)
    r, d = corrections(layer, plain.mean, plain.biased, *limits)
    r, d = (values[:, None] for values in (r, d))
    weight, bias = (
        default if array is None else array[:, None] for array, default in ((layer.weight, 1), (layer.bias, 0))
    )
    mean, var = layer.running_mean.copy(), layer.running_var.copy()
    y = layer(x, where=where, weights=weights)
    np.testing.assert_allclose(y, weight * (r * plain.y + d) + bias, **CLOSE)
    # With r and d held fixed, as the paper says, y is an affine function of xhat.
    want = oracle.backward(dy, x, (weight * r).ravel(), plain.mean, plain.invstd, p=p)
    np.testing.assert_allclose(layer.backward(dy), want.dx, **CLOSE)
    if layer.grad_weight is not None:
        np.testing.assert_allclose(layer.grad_weight, (dy * (r * plain.y + d)).sum((0, 2)), **CLOSE)
    if layer.grad_bias is not None:
        np.testing.assert_allclose(layer.grad_bias, dy.sum((0, 2)), **CLOSE)
    # The running statistics follow as without.
    count = np.asarray(plain.count)
    np.testing.assert_allclose(layer.running_mean, oracle.updated(mean, plain.mean, 0.1), **CLOSE)
    np.testing.assert_allclose(layer.running_var, oracle.updated(var, plain.biased * count / (count - 1), 0.1), **CLOSE)


def test_without_limits_training_is_evaluation() -> None:
    layer, x = layer_of((1e30, 1e30)), batch(8, 3)
    evaluated = layer.eval()(x)
    np.testing.assert_allclose(layer.train()(x), evaluated, **CLOSE)


def test_closed_limits_are_plain_batch_normalization() -> None:
    layer, plain, x = layer_of((1, 0)), layer_of(None), batch(8, 3)
    np.testing.assert_allclose(layer(x), plain(x), **CLOSE)


def test_the_gradient_agrees_with_differences() -> None:
    x, dy, h = batch(5, 3), batch(5, 3, seed=1), 1e-6

    def loss(weight: Array) -> float:
        layer = layer_of((1.5, 0.3), activation="leaky_relu")
        layer.weight[...] = weight
        return float((layer(x) * dy).sum())

    layer = layer_of((1.5, 0.3), activation="leaky_relu")
    start = layer.weight.copy()
    layer(x)
    layer.backward(dy)
    for channel in range(3):
        step = h * np.eye(3)[channel]
        slope = (loss(start + step) - loss(start - step)) / (2 * h)
        # Rounding of the two losses, of size 10, over 2 h.
        assert abs(slope - layer.grad_weight[channel]) < 1e-7


def test_limits_may_be_functions_of_the_step() -> None:
    steps: list[int] = []

    def r_max(step: int) -> float:
        steps.append(step)
        return 1.0 + step

    layer, x = BatchNorm(3, renorm=(r_max, lambda step: 0.1 * step)), batch(8, 3)
    for step in range(3):
        fixed = BatchNorm(3, renorm=(1.0 + step, 0.1 * step))
        fixed.load_state_dict(layer.state_dict())
        np.testing.assert_array_equal(layer(x), fixed(x))
    assert steps == [0, 1, 2]


@pytest.mark.parametrize("value", [0.5, float("nan"), float("inf"), "3"])
def test_a_function_that_returns_no_limit_changes_nothing(value: Any) -> None:
    layer, x = layer_of((lambda step: value, 1.0)), batch(8, 3)
    before = layer.state_dict()
    with pytest.raises((TypeError, ValueError), match=r"renorm's r_max\(step\) must be"):
        layer(x)
    np.testing.assert_equal(layer.state_dict(), before)


def test_channels_without_values_become_the_bias() -> None:
    layer, x = layer_of((3.0, 5.0)), batch(8, 3)
    y = layer(x, where=np.array([True, False, True]))
    np.testing.assert_array_equal(y[:, 1], layer.bias[1])


def test_constants_and_nan_stay_in_their_channel() -> None:
    layer, x = layer_of((3.0, 5.0), eps=0.0), batch(8, 3)
    layer.running_var[0], layer.running_mean[0] = 0.0, 7.0
    x[:, 0], x[0, 1] = 7.0, np.nan
    y = layer(x)
    np.testing.assert_array_equal(y[:, 0], layer.bias[0])
    assert np.isnan(y[:, 1]).all()
    assert np.isfinite(y[:, 2]).all()


def test_an_empty_batch_is_empty() -> None:
    layer = layer_of((3.0, 5.0))
    before = layer.state_dict()
    assert layer(np.empty((0, 3))).shape == (0, 3)
    np.testing.assert_equal(layer.state_dict(), before)


def test_the_first_batch_decides_the_features() -> None:
    layer, other, x = BatchNorm(renorm=(3.0, 5.0)), BatchNorm(3, renorm=(3.0, 5.0)), batch(8, 3)
    np.testing.assert_array_equal(layer(x), other(x))


def test_a_call_that_fails_leaves_the_last_one_alone() -> None:
    layer, x, dy = layer_of((3.0, 5.0)), batch(8, 3), batch(8, 3, seed=1)
    layer(x)
    dx = layer.backward(dy)
    with pytest.raises(ValueError, match="residual"):
        layer(10 * x, residual=np.ones((2, 3)))
    np.testing.assert_array_equal(layer.backward(dy), dx)


def test_evaluation_and_frozen_calls_have_no_correction() -> None:
    layer, plain, x, dy = layer_of((3.0, 5.0)), layer_of(None), batch(8, 3), batch(8, 3, seed=1)
    layer(x)
    plain.load_state_dict(layer.state_dict())
    for one in (layer, plain):
        one.freeze()
    np.testing.assert_array_equal(layer(x), plain(x))
    np.testing.assert_array_equal(layer.backward(dy), plain.backward(dy))
    np.testing.assert_array_equal(layer.grad_weight, plain.grad_weight)


def test_saved_with_the_layer(tmp_path: Path) -> None:
    layer = layer_of((3, 5.5))
    layer.save(tmp_path / "layer.npz")
    for other in (BatchNorm.load(tmp_path / "layer.npz"), pickle.loads(pickle.dumps(layer))):
        assert other.renorm == (3, 5.5)
        assert repr(other) == repr(layer)
        assert "renorm=(3, 5.5)" in repr(other)
    with pytest.raises(ValueError, match="renorm must be two numbers or None to be saved, got"):
        layer_of((float, 1.0)).save(tmp_path / "other.npz")


REFUSED = [
    (3.0, TypeError, r"renorm must be None or \(r_max, d_max\), got 3\.0"),
    ((3.0,), TypeError, r"renorm must be None or \(r_max, d_max\), got \(3\.0,\)"),
    ((0.5, 1.0), ValueError, r"renorm's r_max must be finite and >= 1, got 0\.5"),
    ((2.0, -1.0), ValueError, r"renorm's d_max must be finite and >= 0, got -1\.0"),
    (("a", 1.0), TypeError, "renorm's r_max must be a real number, got 'a'"),
]


@pytest.mark.parametrize(("renorm", "error", "message"), REFUSED)
def test_wrong_limits(renorm: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        BatchNorm(3, renorm=renorm)


def test_needs_running_statistics() -> None:
    with pytest.raises(ValueError, match="track_running_stats must be True for renorm, got False"):
        BatchNorm(3, renorm=(3.0, 5.0), track_running_stats=False)
