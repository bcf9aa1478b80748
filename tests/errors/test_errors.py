"""Promise: hostile arguments never crash: TypeError or ValueError, with argument, rule, value; nothing is written."""

from __future__ import annotations

import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastbn
from support.invalid_arguments import CALLS, NOT_ARRAYS, OTHER_TYPES, SHAPE, contents, refuses, spoiled, takers

pytestmark = pytest.mark.untraced


@pytest.mark.parametrize("call", CALLS)
def test_the_valid_calls_are_valid(call: str) -> None:
    function, arguments = spoiled(call)
    before = contents(arguments)
    function(**arguments)
    written = {name for name, data in contents(arguments).items() if data != before[name]}
    assert written == {n for n in arguments if n == "out" or (call == "training" and n.startswith("running"))}


# Arrays.


# Arrays that are read may be of these; those that are written, which `training` has, may not.
READ = {"bool", "big-endian-f4", "big-endian-f8", "not-an-array-list-of-ints", "not-an-array-integers"}
READ |= {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}


@pytest.mark.parametrize(
    ("call", "name", "kind"),
    [
        (*taker.values, kind)
        for taker in takers("x", "dy", "weight", "bias", "mean", "var", "invstd", "running_mean", "running_var")
        for kind in (*OTHER_TYPES, *(f"not-an-array-{k}" for k in NOT_ARRAYS))
        if kind not in READ or (taker.values[0] == "training" and taker.values[1].startswith("running"))
    ],
)
def test_other_types(call: str, name: str, kind: str) -> None:
    spoil = OTHER_TYPES.get(kind) or NOT_ARRAYS[kind.removeprefix("not-an-array-")]
    function, arguments = spoiled(call)
    arguments[name] = spoil.make(arguments[name])
    shown = spoil.shown
    if call == "training" and name.startswith("running") and kind.startswith("not-an-array"):
        shown = ()  # refused for not being an array at all, before its contents are seen
    refuses(function, arguments, name, spoil.error, *shown)


@pytest.mark.parametrize(("call", "name"), takers("x", "dy", "mean", "var", "invstd"))
def test_none(call: str, name: str) -> None:
    function, arguments = spoiled(call, **{name: None})
    refuses(function, arguments, name, TypeError, "None")


def test_large_values_are_shown_in_short() -> None:
    x = np.ones((100, 3))
    for call in (
        lambda: fastbn.BatchNorm(x),
        lambda: fastbn.BatchNorm(3, eps=x),
        lambda: fastbn.BatchNorm(3, axis=x),
        lambda: fastbn.BatchNorm(3, affine=x),
        lambda: fastbn.BatchNorm(3, activation=x),
        lambda: fastbn.Moments(x),
        lambda: fastbn.Moments(x.astype(str), x, x),
        lambda: fastbn.Moments(nan=x),
        lambda: fastbn.Moments.concatenate([x]),
    ):
        with pytest.raises((TypeError, ValueError)) as refused:
            call()
        assert "\n" not in str(refused.value)
        assert len(str(refused.value)) < 200


def test_what_is_often_given_in_an_array_s_place_is_told_what_is_meant() -> None:
    x = np.arange(12.0).reshape(4, 3)
    m = fastbn.moments(x)
    expected = fastbn.normalize(x, m.mean, m.var())
    for call, said in (
        (lambda: fastbn.normalize(x, m.mean, x.var), r"^var must be an array, got a method \(var\(\) calls it\)$"),
        (lambda: fastbn.normalize(x, m.mean, m.var), r"^var must be an array, got a method \(var\(\) calls it\)$"),
        (
            lambda: fastbn.normalize(x, m.mean),
            r"^var must be an array, got None \(give it with mean, or Moments as mean\)$",
        ),
        (lambda: fastbn.normalize(x, "m.npz"), r"^mean must be an array, got 'm.npz' \(fastbn.Moments.load reads"),
        (
            lambda: fastbn.normalize(x, Path("m.npz")),
            r"^mean must be an array, got .*Path\('m.npz'\) \(fastbn.Moments.load",
        ),
        (lambda: fastbn.moments("x.npy"), r"^x must be an array, got 'x.npy' \(.* fastbn.stream those of data\)$"),
        (
            lambda: fastbn.Moments().update("x.npy"),
            r"^x must be an array, got 'x.npy' \(.* fastbn.stream those of data\)$",
        ),
        (lambda: fastbn.BatchNorm(3)("x.npy"), r"^x must be an array, got 'x.npy' \(.* fastbn.stream those of data\)$"),
        (
            lambda: fastbn.BatchNorm(3).load_moments("m.npz"),
            r"^moments must be Moments \(fastbn.Moments.load reads a file\)",
        ),
        (
            lambda: fastbn.moments(np.ma.masked_less(x, 3)),
            r"^x must not be a masked array \(give x.data, and where=~x.mask",
        ),
        (lambda: fastbn.moments({"a": [1.0]}), r"^x must be an array, got \{'a': \[1.0\]\}$"),
        (
            lambda: fastbn.moments(np.array([["a", 1]], object)),
            "got object .of a data frame select the columns of numbers",
        ),
    ):
        with pytest.raises(TypeError, match=said):
            call()
    np.testing.assert_array_equal(fastbn.normalize(x, m), expected)  # what the messages name
    masked = np.ma.masked_less(x, 3)
    assert fastbn.moments(masked.data, where=~masked.mask).mean.tolist() == masked.mean(axis=0).tolist()


@pytest.mark.parametrize(("call", "name"), takers("x", "dy"))
@pytest.mark.parametrize("shape", [(), (3,), (0,), (60,)])
def test_too_few_dimensions(call: str, name: str, shape: tuple[int, ...]) -> None:
    function, arguments = spoiled(call, **{name: np.ones(shape)})
    refuses(function, arguments, name, ValueError, str(len(shape)), str(shape))


@pytest.mark.parametrize("value", [1.5, np.float64(2), np.float32(2)])
def test_a_number_is_no_array_of_two_dimensions(value: Any) -> None:
    for call in CALLS:
        function, arguments = spoiled(call, x=value)
        refuses(function, arguments, "x", ValueError, "0", "()")


@pytest.mark.parametrize(
    ("call", "name"), takers("weight", "bias", "mean", "var", "invstd", "running_mean", "running_var")
)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (2,), (4,), (5,), (3, 1), (1, 3), (3, 3), SHAPE])
def test_parameters_of_the_wrong_shape(call: str, name: str, shape: tuple[int, ...]) -> None:
    function, arguments = spoiled(call, **{name: np.ones(shape)})
    refuses(function, arguments, name, ValueError, str(shape))
    with pytest.raises(ValueError, match=r"\(3,\)"):  # the rule says what it should be
        function(**arguments)


def test_parameters_of_two_axes() -> None:
    x = np.ones(SHAPE)
    for shape in ((3,), (5, 3), (15,), (3, 5, 1)):
        refuses(
            fastbn.batch_norm_train,
            {"x": x, "weight": np.ones(shape), "axis": (1, 2)},
            "weight",
            ValueError,
            str(shape),
        )
    refuses(fastbn.batch_norm_train, {"x": x, "bias": np.ones(1), "axis": ()}, "bias", ValueError, "(1,)")


@pytest.mark.parametrize(
    "shape", [(4, 3), (4, 3, 5, 1), (1, 4, 3, 5), (3, 4, 5), (4, 3, 1), (1, 1, 1), (4, 3, 0), (5, 3, 4)]
)
def test_dy_and_out_of_the_wrong_shape(shape: tuple[int, ...]) -> None:
    function, arguments = spoiled("batch_norm_backward", dy=np.ones(shape))
    refuses(function, arguments, "dy", ValueError, str(shape))
    for call, (_, make) in CALLS.items():
        if "out" in make():
            function, arguments = spoiled(call, out=np.ones(shape))
            refuses(function, arguments, "out", ValueError, str(shape))


def test_residual_of_another_type_than_y() -> None:
    function, arguments = spoiled("batch_norm_train", residual=np.ones(SHAPE, np.float32), out=None)
    refuses(function, arguments, "residual", TypeError, "float32")


# Running statistics.


def test_one_running_statistic_without_the_other() -> None:
    for call in ("training", "inference"):
        for name in ("running_mean", "running_var"):
            function, arguments = spoiled(call, **{name: None})
            before = contents(arguments)
            with pytest.raises(ValueError, match=r"running_(mean|var) must .*, got None"):
                function(**arguments)
            assert contents(arguments) == before


def test_inference_without_running_statistics() -> None:
    function, arguments = spoiled("inference", running_mean=None, running_var=None)
    refuses(function, arguments, "running_mean", ValueError, "None")


@pytest.mark.parametrize("name", ["running_mean", "running_var"])
def test_running_statistics_that_cannot_be_written(name: str) -> None:
    function, arguments = spoiled("training")
    arguments[name].flags.writeable = False
    refuses(function, arguments, name, ValueError, "read-only", "writeable", "not writable")
    for value in ([1.0, 1.0, 1.0], (1.0, 1.0, 1.0), memoryview(np.ones(3))):
        refuses(function, arguments | {name: value}, name, TypeError, type(value).__name__)
    # In inference they are only read.
    function, arguments = spoiled("inference")
    expected = function(**arguments).copy()
    arguments[name].flags.writeable = False
    np.testing.assert_array_equal(function(**arguments), expected)
    arguments[name] = arguments[name].tolist()
    np.testing.assert_array_equal(function(**arguments), expected)


@pytest.mark.parametrize("name", ["running_mean", "running_var"])
def test_running_statistics_that_overlap(name: str) -> None:
    """Each is written: no element may be another's, or an argument's."""
    function, arguments = spoiled("training")
    repeated = np.lib.stride_tricks.as_strided(np.ones(1), (3,), (0,))
    refuses(function, arguments | {name: repeated}, name, ValueError)
    both = np.ones(5)
    pairs = [(both[:3], both[:3]), (both[:3], both[2:]), (both[:3], both[2::-1])]
    for mean, var in pairs:
        before = both.copy()
        with pytest.raises(ValueError, match=r"running_(mean|var) must .*, got "):
            function(**arguments | {"running_mean": mean, "running_var": var})
        np.testing.assert_array_equal(both, before)
    for other in ("weight", "bias"):
        refuses(function, arguments | {name: arguments[other]}, name, ValueError)
    refuses(function, arguments | {name: arguments["x"][0, :, 0]}, name, ValueError)


@pytest.mark.parametrize(
    ("call", "name"), [("inference", "running_var"), ("normalize", "var"), ("batch_norm_backward", "invstd")]
)
@pytest.mark.parametrize("bad", [-1.0, -1e-300, -5e-324, -math.inf])
@pytest.mark.parametrize("position", [0, 1, 2])
def test_negative_variance(call: str, name: str, bad: float, position: int) -> None:
    function, arguments = spoiled(call)
    arguments[name][position] = bad
    shown = {-5e-324: "-4.94", -math.inf: "-inf"}.get(bad, f"{bad:g}"[:2])
    refuses(function, arguments, name, ValueError, shown, str(bad))
    arguments[name] = np.array([1.0, -0.0, np.nan])  # zero by any sign is no less than zero, and NaN passes through
    result = function(**arguments)
    assert np.isnan((result.dx if call == "batch_norm_backward" else result)[:, 2]).all()


# Numbers.


class Meaningless:
    def __repr__(self) -> str:
        return "<meaningless>"


NOT_REAL = [
    None,
    "1e-5",
    b"1",
    1j,
    0j,
    [1e-5],
    (1e-5,),
    {},
    object(),
    Meaningless(),
    np.array([1e-5, 1e-5]),
    np.complex64(1),
]


@pytest.mark.parametrize(("call", "name"), [*takers("eps"), ("training", "momentum"), ("training", "correction")])
@pytest.mark.parametrize("value", NOT_REAL, ids=lambda v: type(v).__name__)
def test_not_a_real_number(call: str, name: str, value: Any) -> None:
    function, arguments = spoiled(call, **{name: value})
    refuses(function, arguments, name, TypeError)
    with pytest.raises(TypeError) as caught:
        function(**arguments)
    assert any(s in str(caught.value) for s in (repr(value)[:20], str(value)[:20], type(value).__name__))


@pytest.mark.parametrize(("call", "name"), takers("eps"))
@pytest.mark.parametrize("value", [-1.0, -1e-300, -1, math.nan, math.inf, -math.inf, np.float32(-2), np.float64("nan")])
def test_eps_out_of_range(call: str, name: str, value: Any) -> None:
    function, arguments = spoiled(call, eps=value)
    refuses(function, arguments, name, ValueError, str(float(value)), f"{float(value):g}", repr(value))


@pytest.mark.parametrize("value", [-0.1, 1.1, -1, 2, math.nan, math.inf, -math.inf, 1 + 2**-52, np.float32(1.5)])
def test_momentum_out_of_range(value: Any) -> None:
    function, arguments = spoiled("training", momentum=value)
    refuses(function, arguments, "momentum", ValueError, str(float(value)), f"{float(value):g}", repr(value))


@pytest.mark.parametrize("value", [-1, -1e-9, 20, 20.0, 21, 1e300, math.nan, math.inf, -math.inf])
def test_correction_out_of_range(value: Any) -> None:
    """The batch has 20 values per channel; a divisor of 20 - correction must be positive."""
    function, arguments = spoiled("training", correction=value)
    refuses(function, arguments, "correction", ValueError, str(float(value)), f"{float(value):g}", repr(value))
    spoiled("training", correction=19.5)[0](**spoiled("training", correction=19.5)[1])


@pytest.mark.parametrize(("call", "name"), [*takers("eps"), ("training", "momentum"), ("training", "correction")])
@pytest.mark.parametrize("value", [10**400, -(10**400), Decimal("-1"), Decimal("NaN"), Decimal("sNaN")], ids=str)
def test_numbers_beyond_floats(call: str, name: str, value: Any) -> None:
    function, arguments = spoiled(call, **{name: value})
    refuses(function, arguments, name, (TypeError, ValueError))


@pytest.mark.parametrize(("call", "name"), takers("training"))
@pytest.mark.parametrize("value", [None, "no", "", [], [1, 2], np.array([True, False]), object()], ids=repr)
def test_training_is_a_truth_value(call: str, name: str, value: Any) -> None:
    function, arguments = spoiled(call, training=value)
    refuses(function, arguments, "training", TypeError)


@pytest.mark.parametrize("value", [True, np.True_])
def test_truth_values(value: Any) -> None:
    for call in ("training", "batch_norm_backward"):
        function, arguments = spoiled(call, training=value)
        function(**arguments)


# Axes.

BAD_AXES = [
    (3, ValueError, "3"),
    (-4, ValueError, "-4"),
    (100, ValueError, "100"),
    (2**31, ValueError, str(2**31)),
    (-(2**31) - 1, ValueError, str(-(2**31) - 1)),
    (2**32 + 1, ValueError, str(2**32 + 1)),
    (2**63 - 1, ValueError, str(2**63 - 1)),
    (-(2**63), ValueError, str(-(2**63))),
    (2**64 + 1, ValueError, str(2**64 + 1)),
    (10**30, ValueError, str(10**30)),
    (-(10**30), ValueError, str(-(10**30))),
    (np.int64(7), ValueError, "7"),
    (2**200, ValueError, str(2**200)),
    (np.uint64(2**64 - 1), ValueError, str(2**64 - 1)),
    ((1, 1), ValueError, "1"),
    ((1, -2), ValueError, "-2"),
    ((0, 1, 2, 0), ValueError, "0"),
    ([2, 2], ValueError, "2"),
    ((1, 3), ValueError, "3"),
    ((-4, 1), ValueError, "-4"),
    ((1, 10**30), ValueError, str(10**30)),
    (tuple(range(1000)), ValueError, ""),
    (None, TypeError, "None"),
    (1.0, TypeError, "1.0"),
    (np.float64(1), TypeError, "1.0"),
    (1j, TypeError, "1j"),
    ("1", TypeError, "1"),
    ("channel", TypeError, "channel"),
    (b"1", TypeError, "1"),
    ((1.0,), TypeError, "1.0"),
    ((1, None), TypeError, "None"),
    ((1, "2"), TypeError, "2"),
    (((1,),), TypeError, "1"),
    ([[1]], TypeError, "1"),
    ({1}, TypeError, "1"),
    ({1: 2}, TypeError, "1"),
    (object(), TypeError, "object"),
    (slice(1), TypeError, "slice"),
    (..., TypeError, "llipsis"),
    (math.nan, TypeError, "nan"),
    (np.array([1, 2]), TypeError, "1"),
    (np.array(1.0), TypeError, "1"),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("axis", "error", "shown"), BAD_AXES, ids=lambda v: str(v)[:20] if not isinstance(v, type) else ""
)
def test_axis(call: str, axis: Any, error: type[Exception], shown: str) -> None:
    function, arguments = spoiled(call, axis=axis)
    refuses(function, arguments, "axis", error, *([shown] if shown else []))


# One value per channel.


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1), (1, 3, 1, 1)])
@pytest.mark.parametrize("running", [True, False])
def test_one_value_per_channel(shape: tuple[int, ...], running: bool) -> None:
    x, out = np.ones(shape), np.full(shape, 123.0)
    statistics = {"running_mean": np.zeros(3), "running_var": np.ones(3)} if running else {}
    refuses(fastbn.batch_norm, {"x": x, "training": True, "out": out, **statistics}, "x", ValueError, "1")
    refuses(fastbn.batch_norm_train, {"x": x, "out": out}, "x", ValueError, "1")
    # The gradient of a training step has no meaning either.
    saved = {"mean": np.zeros(3), "invstd": np.ones(3), "out": out}
    refuses(fastbn.batch_norm_backward, {"x": x, "dy": x, **saved}, "x", ValueError, "1")
    # In inference one value is as good as many.
    assert fastbn.batch_norm_backward(x, x, **saved, training=False).dx is out
    assert fastbn.batch_norm(x, np.zeros(3), np.ones(3)).shape == shape


def test_every_axis_a_feature_is_one_value_per_channel() -> None:
    refuses(fastbn.batch_norm_train, {"x": np.ones((2, 3)), "axis": (0, 1)}, "x", ValueError, "1")
