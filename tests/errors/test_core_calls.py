"""Promise: the extension's functions take arguments by position and by name, as Python's own functions do."""

from __future__ import annotations

import ast
import gc
import inspect
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastbn
from fastbn import _core, functional

X = np.arange(12.0).reshape(4, 3)
ONES = np.ones(3)


def declaration(name: str) -> inspect.Signature:
    """Return what functional.py's text declares."""
    (found,) = (
        node
        for node in ast.parse(Path(functional.__file__).read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name == name
    )
    given = found.args
    assert not given.posonlyargs
    no_default = [None] * (len(given.args) - len(given.defaults))
    return inspect.Signature(
        [
            inspect.Parameter(arg.arg, kind, default=ast.literal_eval(default) if default else inspect.Parameter.empty)
            for args, defaults, kind in (
                (given.args, no_default + given.defaults, inspect.Parameter.POSITIONAL_OR_KEYWORD),
                (given.kwonlyargs, given.kw_defaults, inspect.Parameter.KEYWORD_ONLY),
            )
            for arg, default in zip(args, defaults, strict=True)
        ]
    )


DECLARED = ["batch_norm", "batch_norm_train", "batch_norm_backward", "normalize"]


@pytest.mark.parametrize("name", DECLARED)
def test_public_function_has_the_parameters_that_its_declaration_has(name: str) -> None:
    assert inspect.signature(getattr(fastbn, name)) == declaration(name)


@pytest.mark.parametrize("name", DECLARED)
def test_public_function_is_the_extensions_own_with_its_documentation(name: str) -> None:
    function = getattr(fastbn, name)
    assert inspect.isbuiltin(function)
    assert (function.__name__, function.__module__) == (name, "fastbn.functional")
    assert "\nParameters\n----------\n" in inspect.cleandoc(function.__doc__)
    assert pickle.loads(pickle.dumps(function)) is function


def test_moments_has_the_defaults_of_the_extensions_function() -> None:
    public = {key: p.default for key, p in inspect.signature(fastbn.moments).parameters.items()}
    private = {key: p.default for key, p in inspect.signature(_core.moments).parameters.items()}
    public.pop("nan")  # omit_nan in the extension
    assert public == {key: private[key] for key in public}


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
        (lambda: fastbn.batch_norm(), "batch_norm() missing required argument 'x'"),
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
        (
            lambda: fastbn.normalize(X, ONES, ONES, ONES, ONES, 1e-5),
            "normalize() takes at most 5 positional arguments (6 given)",
        ),
        (lambda: fastbn.normalize(X, ONES, ONES, clip=3), "normalize() got an unexpected keyword argument 'clip'"),
        (lambda: _core.get_isa(1), "get_isa() takes no arguments (1 given)"),
    ],
)
def test_a_call_that_does_not_fit_names_function_and_argument(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError) as error:
        call()
    assert str(error.value) == message


def test_a_keyword_given_twice_is_refused_whatever_its_type() -> None:
    class Unequal(str):
        __slots__ = ()

        def __hash__(self) -> int:
            return 7

        def __eq__(self, other: object) -> bool:
            return self is other

    with pytest.raises(TypeError, match=r"batch_norm_train\(\) got multiple values for argument 'eps'"):
        fastbn.batch_norm_train(X, **{Unequal("eps"): 1.0, "eps": 2.0})


def test_a_truth_value_that_raises_lets_its_error_through() -> None:
    class Undecided:
        __class__ = np.bool_  # type: ignore[assignment]

        def __bool__(self) -> bool:
            raise ZeroDivisionError("no")

    for call in (
        lambda: fastbn.batch_norm(X, ONES, ONES, training=Undecided()),  # type: ignore[arg-type]
        lambda: fastbn.batch_norm_backward(X, X, mean=ONES, invstd=ONES, training=Undecided()),  # type: ignore[arg-type]
    ):
        with pytest.raises(ZeroDivisionError, match="no"):
            call()


def test_moments_whose_statistics_are_none_are_a_type_error() -> None:
    class Strange(fastbn.Moments):
        def _normalizing(self, x: Any, axis: Any, eps: Any, correction: float = 0) -> Any:
            return 3

    with pytest.raises(TypeError):
        fastbn.normalize(X, Strange())


def test_only_functions_of_the_extension_can_be_declared() -> None:
    def unknown() -> None:
        """Nothing."""

    with pytest.raises(ValueError, match="declaration must be of a function that the extension has, got 'unknown'"):
        _core.declared(unknown)


def test_a_function_that_is_declared_again_has_the_new_documentation_alone() -> None:
    def normalize() -> None:
        """New."""

    function = functional.normalize
    text = function.__doc__
    try:
        assert _core.declared(normalize).__doc__ == "New."
    finally:
        normalize.__doc__ = text
        assert _core.declared(normalize).__doc__ == text


@pytest.mark.parametrize("types", [3, (), (tuple, tuple, tuple), (fastbn.TrainResult, 1, tuple, tuple)])
def test_types_that_are_no_types_are_refused(types: Any) -> None:
    with pytest.raises(TypeError):
        _core.register_types(types)


def test_types_that_are_no_named_tuples_are_refused() -> None:
    with pytest.raises(TypeError, match="types must hold named tuples, got <class 'int'>"):
        _core.register_types((fastbn.TrainResult, int, fastbn.ResidualGradients, fastbn.Moments))


def test_results_are_named_tuples_as_python_makes_them() -> None:
    result = fastbn.batch_norm_train(X)
    assert type(result) is fastbn.TrainResult
    assert gc.is_tracked(result)
    with pytest.raises(TypeError, match="unhashable type"):
        hash(result)


def test_a_default_is_what_none_given_means() -> None:
    given = _core.batch_norm_train(X, None, None, 1e-5, 1, None, None, None, None, 0.01, None, None, None, None, 0.1, 1)
    for value, default in zip(given, _core.batch_norm_train(X), strict=True):
        assert np.array_equal(value, default)


def test_more_axes_than_an_array_has_are_refused() -> None:
    for axes in ((0,) * 100, [1] * 65, tuple(range(70))):
        with pytest.raises(ValueError, match="axis must"):
            _core.moments(X, axis=axes)


PART = (2, *np.ones((4, 3)), None, None)


@pytest.mark.parametrize(
    ("part", "error", "message"),
    [
        (list(PART), TypeError, r"b must be a tuple, got \[2, array"),
        (PART[:5], TypeError, "exactly 7 arguments"),
        ((2.0, *PART[1:]), ValueError, r"b must have arrays of the shape \(3,\), got \(\)"),
        ((True, *PART[1:]), TypeError, "count must be a real number, got True"),
        ((2**2000, *PART[1:]), ValueError, "count must fit float64, got 1148"),
        ((2, None, *PART[2:]), TypeError, "mean must be an array, got None"),
        ((2, *PART[1:4], ONES + 1j, None, None), TypeError, "m2_lo must have dtype"),
        ((2, *PART[1:4], ONES[:2], None, None), ValueError, r"b must have arrays of the shape \(3,\), got \(2,\)"),
        ((*PART[:5], ONES, ONES[None]), ValueError, r"b must have arrays of the shape \(3,\), got \(1, 3\)"),
        ((np.array([1.0, 1.0, np.inf]), *PART[1:]), ValueError, "count must be finite and >= 0, got inf"),
    ],
)
def test_statistics_that_cannot_be_merged_are_refused(part: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        _core.merge_moments(PART, part)


def test_extremes_that_one_part_does_not_have_are_none() -> None:
    with_extremes = (*PART[:5], ONES, ONES)
    assert _core.merge_moments(PART, with_extremes)[5:] == (None, None)
    assert _core.merge_moments(with_extremes, (*PART[:5], ONES, None))[5:] == (None, None)
    low, high = _core.merge_moments(with_extremes, with_extremes)[5:]
    assert np.array_equal([low, high], [ONES, ONES])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_moments_bring_the_least_and_the_largest_value_where_asked(dtype: Any) -> None:
    x = (X % 5).astype(dtype)
    assert _core.moments(x)[4:] == (None, None)
    for low, high in (_core.moments(x, extremes=True)[4:], _core.value_range(x)):
        assert low.dtype == high.dtype == np.float64
        assert np.array_equal(low, x.min(axis=0))
        assert np.array_equal(high, x.max(axis=0))
