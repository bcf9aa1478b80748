"""Promise: the extension's functions take arguments by position and by name, as Python's own functions do."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastbn
from fastbn import _core

X = np.arange(12.0).reshape(4, 3)
ONES = np.ones(3)


def parameters(function: Callable[..., Any]) -> dict[str, Any]:
    return {name: p.default for name, p in inspect.signature(function).parameters.items()}


@pytest.mark.parametrize("name", ["batch_norm", "batch_norm_train", "batch_norm_backward", "moments"])
def test_names_and_defaults_are_those_of_the_documented_function(name: str) -> None:
    documented, core = parameters(getattr(fastbn, name)), parameters(getattr(_core, name))
    documented.pop("nan", None)  # omit_nan in the extension
    assert documented == {parameter: core[parameter] for parameter in documented}


def test_any_argument_may_be_named_in_any_order() -> None:
    expected = _core.normalize(X, ONES, 2 * ONES, None, ONES, 0.5, 1)
    for call in (
        lambda: _core.normalize(axis=1, eps=0.5, bias=ONES, var=2 * ONES, mean=ONES, x=X),
        lambda: _core.normalize(X, ONES, bias=ONES, axis=1, var=2 * ONES, eps=0.5),
        lambda: _core.normalize(X, ONES, 2 * ONES, **{"".join(("ep", "s")): 0.5, "".join(("bi", "as")): ONES}),
    ):
        assert call().tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: _core.batch_norm(), "batch_norm() missing required argument 'x'"),
        (lambda: _core.normalize(X, var=ONES), "normalize() missing required argument 'mean'"),
        (
            lambda: _core.batch_norm_backward(X, X, invstd=ONES),
            "batch_norm_backward() missing required argument 'mean'",
        ),
        (lambda: _core.moments(X, axes=1), "moments() got an unexpected keyword argument 'axes'"),
        (
            lambda: _core.moments(X, **{"m\udc80": 1}),
            "moments() got an unexpected keyword argument 'm\\udc80'",
        ),
        (lambda: _core.moments(X, 1, x=X), "moments() got multiple values for argument 'x'"),
        (lambda: _core.check_weights(X, 1, None, None, None), "check_weights() takes at most 4 arguments (5 given)"),
        (lambda: _core.set_num_threads(1, 2), "set_num_threads() takes at most 1 argument (2 given)"),
        (lambda: _core.get_isa(1), "get_isa() takes no arguments (1 given)"),
    ],
)
def test_a_call_that_does_not_fit_names_function_and_argument(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError) as error:
        call()
    assert str(error.value) == message


def test_a_default_is_what_none_given_means() -> None:
    given = _core.batch_norm_train(X, None, None, 1e-5, 1, None, None, None, None, None, None, 0.01, None, None, 0.1, 1)
    for value, default in zip(given, _core.batch_norm_train(X), strict=True):
        assert np.array_equal(value, default)


def test_more_axes_than_an_array_has_are_refused() -> None:
    for axes in ((0,) * 100, [1] * 65, tuple(range(70))):
        with pytest.raises(ValueError, match="axis must"):
            _core.moments(X, axis=axes)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_moments_bring_the_least_and_the_largest_value_where_asked(dtype: Any) -> None:
    x = (X % 5).astype(dtype)
    assert _core.moments(x)[4:] == (None, None)
    for low, high in (_core.moments(x, extremes=True)[4:], _core.value_range(x)):
        assert low.dtype == high.dtype == np.float64
        assert np.array_equal(low, x.min(axis=0))
        assert np.array_equal(high, x.max(axis=0))
