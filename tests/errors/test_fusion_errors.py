"""Promise: activations, slopes and residuals that are none are refused by every function, and nothing is written."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastbn
import fastbn._core
from support.dtypes import BFLOAT16, FLOAT_TYPES, TYPES
from support.random_arrays import parameters

pytestmark = pytest.mark.untraced

Array = np.ndarray


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


@pytest.mark.parametrize("dtype", ["f4", "f2", BFLOAT16, "i4", "i8", "u1", "?", "c16", "O"], ids=str)
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
