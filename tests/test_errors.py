"""Promise: hostile input never crashes. TypeError or ValueError, with argument, rule and value; nothing is written."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pytest

import fastbn
from helpers import run

pytestmark = pytest.mark.untraced

SHAPE = (4, 3, 5)
Arguments = dict[str, Any]

# Valid calls, from which each test spoils one argument.


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(61)
    features = {name: rng.uniform(0.5, 2, 3) for name in ("weight", "bias", "mean", "var", "invstd")}
    return features | {
        "x": rng.standard_normal(SHAPE),
        "dy": rng.standard_normal(SHAPE),
        "running_mean": rng.standard_normal(3),
        "running_var": rng.uniform(0.5, 2, 3),
        "out": np.full(SHAPE, 123.0),
    }


def pick(*names: str, **others: Any) -> Callable[[], Arguments]:
    return lambda: {name: array for name, array in arrays().items() if name in names} | others


CALLS: dict[str, tuple[Callable[..., Any], Callable[[], Arguments]]] = {
    "training": (
        fastbn.batch_norm,
        pick(
            "x", "running_mean", "running_var", "weight", "bias", "out", training=True, momentum=0.1, eps=1e-5, axis=1
        ),
    ),
    "inference": (
        fastbn.batch_norm,
        pick("x", "running_mean", "running_var", "weight", "bias", "out", training=False, eps=1e-5, axis=1),
    ),
    "batch_norm_train": (fastbn.batch_norm_train, pick("x", "weight", "bias", "out", eps=1e-5, axis=1)),
    "batch_norm_backward": (
        fastbn.batch_norm_backward,
        pick("dy", "x", "weight", "mean", "invstd", "out", axis=1, training=True),
    ),
    "moments": (fastbn.moments, pick("x", axis=1)),
    "normalize": (fastbn.normalize, pick("x", "mean", "var", "weight", "bias", "out", eps=1e-5, axis=1)),
}

IN_X_SHAPE = ("x", "dy")
OPTIONAL = ("weight", "bias", "out")


def contents(arguments: Arguments) -> dict[str, bytes]:
    """Return every array's bytes."""
    return {name: value.tobytes() for name, value in arguments.items() if isinstance(value, np.ndarray)}


def refuses(
    function: Callable[..., Any],
    arguments: Arguments,
    name: str,
    error: type[Exception] | tuple[type[Exception], ...],
    *shown: str,
) -> None:
    """Assert that the call fails as promised: naming `name` and one of `shown`, every array left as it was."""
    before = contents(arguments)
    with pytest.raises(error) as caught:
        function(**arguments)
    assert contents(arguments) == before, "something was written"
    assert type(caught.value) in (TypeError, ValueError)
    text = str(caught.value)
    assert text.startswith(f"{name} must "), text
    rule, _, value = text.partition(", got ")
    assert len(rule) > len(name) + 6, text
    assert value, text
    assert not shown or any(s in value for s in shown), text


def spoiled(call: str, **changes: Any) -> tuple[Callable[..., Any], Arguments]:
    function, make = CALLS[call]
    arguments = make()
    # Python's own rule: what comes by keyword may come in any order.
    return function, arguments | changes


def takers(*names: str, beside: str = "x") -> list[Any]:
    """Return (call, name) for every call that takes one of `names`, and `beside`."""
    return [
        pytest.param(call, name, id=f"{call}-{name}")
        for call, (_, make) in CALLS.items()
        for name in make()
        if name in names and beside in make()
    ]


@pytest.mark.parametrize("call", CALLS)
def test_the_valid_calls_are_valid(call: str) -> None:
    function, arguments = spoiled(call)
    before = contents(arguments)
    function(**arguments)
    written = {name for name, data in contents(arguments).items() if data != before[name]}
    assert written == {n for n in arguments if n == "out" or (call == "training" and n.startswith("running"))}


# Arrays.


class Spoiled(NamedTuple):
    """How to spoil an array, the error that makes, and what the message may show."""

    make: Callable[[np.ndarray], Any]
    error: type[Exception] | tuple[type[Exception], ...]
    shown: tuple[str, ...]


class Liar:
    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return "not an array"


class Integers:
    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return np.ones(SHAPE, np.int64)


def as_type(dtype: Any, *shown: str) -> Spoiled:
    return Spoiled(lambda a: a.astype(dtype), TypeError, shown or (str(np.dtype(dtype)),))


OTHER_TYPES = {
    **{str(np.dtype(d)): as_type(d) for d in (bool, "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "c8", "c16")},
    "object": as_type(object),
    "str": Spoiled(lambda a: np.full(a.shape, "1.0"), TypeError, ("<U3",)),
    "bytes": Spoiled(lambda a: np.full(a.shape, b"1.0"), TypeError, ("|S3", "S3")),
    "StringDType": Spoiled(lambda a: np.full(a.shape, "1", np.dtypes.StringDType()), TypeError, ("StringDType",)),
    "datetime": Spoiled(lambda a: np.full(a.shape, "2015-02-11", "M8[D]"), TypeError, ("datetime64",)),
    "timedelta": Spoiled(lambda a: np.ones(a.shape, "m8[s]"), TypeError, ("timedelta64",)),
    "record": Spoiled(lambda a: np.zeros(a.shape, [("value", "f8")]), TypeError, ("value",)),
    "void": Spoiled(lambda a: np.zeros(a.shape, "V8"), TypeError, ("V8",)),
    "big-endian-f4": as_type(np.dtype(np.float32).newbyteorder("S"), "f4"),
    "big-endian-f8": as_type(np.dtype(np.float64).newbyteorder("S"), "f8"),
    "masked": Spoiled(lambda a: np.ma.masked_array(a, a > 0), TypeError, ("MaskedArray", "masked")),
    "masked-nothing": Spoiled(lambda a: np.ma.masked_array(a), TypeError, ("MaskedArray", "masked")),
}
if np.dtype(np.longdouble).itemsize > 8:
    OTHER_TYPES["longdouble"] = as_type(np.longdouble)

NOT_ARRAYS = {
    "string": Spoiled(lambda a: "abc", TypeError, ("abc", "str", "<U3")),
    "bytes": Spoiled(lambda a: b"abc", TypeError, ("abc", "bytes", "S3")),
    "object": Spoiled(lambda a: object(), TypeError, ("object",)),
    "dict": Spoiled(lambda a: {"a": 1}, TypeError, ("dict", "object", "{'a': 1}")),
    "set": Spoiled(lambda a: {1.0}, TypeError, ("set", "object", "{1.0}")),
    "type": Spoiled(lambda a: np.ndarray, TypeError, ("type", "object", "ndarray")),
    "dtype": Spoiled(lambda a: a.dtype, TypeError, ("dtype", "object", "float64")),
    "function": Spoiled(lambda a: len, TypeError, ("builtin", "object", "len")),
    "ellipsis": Spoiled(lambda a: ..., TypeError, ("llipsis", "object")),
    "complex": Spoiled(lambda a: 1j, TypeError, ("complex", "1j")),
    "int": Spoiled(lambda a: 3, TypeError, ("int", "3")),
    "huge-int": Spoiled(lambda a: 10**40, TypeError, ("object", "1000")),
    "list-of-ints": Spoiled(lambda a: np.ones(a.shape, int).tolist(), TypeError, ("int",)),
    "list-of-strings": Spoiled(lambda a: ["a", "b", "c"], TypeError, ("<U1", "'a'")),
    "list-of-None": Spoiled(lambda a: [None, None, None], TypeError, ("object", "None")),
    "ragged": Spoiled(lambda a: [[1.0, 2.0], [3.0]], (TypeError, ValueError), ()),
    "liar": Spoiled(lambda a: Liar(), (TypeError, ValueError), ()),
    "integers": Spoiled(lambda a: Integers(), TypeError, ("int64",)),
    "generator": Spoiled(lambda a: (v for v in (1.0, 2.0)), TypeError, ("generator", "object")),
}


DATA_ONLY = ("int8", "int16", "int32", "uint8", "uint16")  # of x alone


@pytest.mark.parametrize(
    ("call", "name", "kind"),
    [
        (*taker.values, kind)
        for taker in takers("x", "dy", "weight", "bias", "mean", "var", "invstd", "running_mean", "running_var")
        for kind in (*OTHER_TYPES, *(f"not-an-array-{k}" for k in NOT_ARRAYS))
        if not ("x" in taker.values and kind in DATA_ONLY)
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


@pytest.mark.parametrize(("call", "name"), [("inference", "running_var"), ("normalize", "var")])
@pytest.mark.parametrize("bad", [-1.0, -1e-300, -5e-324, -math.inf])
@pytest.mark.parametrize("position", [0, 1, 2])
def test_negative_variance(call: str, name: str, bad: float, position: int) -> None:
    function, arguments = spoiled(call)
    arguments[name][position] = bad
    shown = {-5e-324: "-4.94", -math.inf: "-inf"}.get(bad, f"{bad:g}"[:2])
    refuses(function, arguments, name, ValueError, shown, str(bad))
    arguments[name] = np.array([1.0, -0.0, np.nan])  # zero by any sign is no less than zero, and NaN passes through
    assert np.isnan(function(**arguments)[:, 2]).all()


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
    (2**64 + 1, ValueError, ""),
    (10**30, ValueError, ""),
    (-(10**30), ValueError, ""),
    (np.int64(7), ValueError, "7"),
    (np.uint64(2**64 - 1), ValueError, ""),
    ((1, 1), ValueError, "1"),
    ((1, -2), ValueError, "-2"),
    ((0, 1, 2, 0), ValueError, "0"),
    ([2, 2], ValueError, "2"),
    ((1, 3), ValueError, "3"),
    ((-4, 1), ValueError, "-4"),
    ((1, 10**30), ValueError, ""),
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


# out.

OUT_CALLS = [call for call, (_, make) in CALLS.items() if "out" in make()]
every_out = pytest.mark.parametrize("call", OUT_CALLS)


@every_out
@pytest.mark.parametrize("kind", OTHER_TYPES)
def test_out_of_another_type(call: str, kind: str) -> None:
    function, arguments = spoiled(call)
    arguments["out"] = OTHER_TYPES[kind].make(np.ones(SHAPE))
    refuses(function, arguments, "out", TypeError, *OTHER_TYPES[kind].shown)


@every_out
def test_out_of_a_type_that_no_result_has(call: str) -> None:
    for dtype in (np.int32, np.uint8, np.longdouble):
        function, arguments = spoiled(call, out=np.ones(SHAPE, dtype))
        refuses(function, arguments, "out", TypeError, str(np.dtype(dtype)))


@pytest.mark.parametrize("call", ["training", "inference", "batch_norm_train", "normalize"])
def test_out_of_another_type_than_dtype(call: str) -> None:
    function, arguments = spoiled(call, out=np.ones(SHAPE, np.float32), dtype=np.float64)
    refuses(function, arguments, "out", TypeError, "float32")


@every_out
@pytest.mark.parametrize(
    "value", ["abc", 1.0, 3, [[[0.0] * 5] * 3] * 4, (), object(), np.float64(1), memoryview(np.ones(SHAPE))]
)
def test_out_is_no_array(call: str, value: Any) -> None:
    function, arguments = spoiled(call, out=value)
    refuses(function, arguments, "out", TypeError, type(value).__name__)


@every_out
def test_out_cannot_be_written(call: str) -> None:
    function, arguments = spoiled(call)
    arguments["out"].flags.writeable = False
    refuses(function, arguments, "out", ValueError, "read-only", "writeable", "not writable")
    x = arguments["x"]
    x.flags.writeable = False
    refuses(function, arguments | {"out": x}, "out", ValueError, "read-only", "writeable", "not writable")


@every_out
def test_out_overlaps_itself(call: str) -> None:
    function, arguments = spoiled(call)
    memory = np.full(200, 123.0)
    strided = np.lib.stride_tricks.as_strided
    for strides in (
        (0, 40, 8),
        (120, 0, 8),
        (120, 40, 0),
        (0, 0, 0),
        (8, 8, 8),
        (16, 40, 8),
        (120, 32, 8),
        (40, 8, 4),
        (-8, 40, 8),
    ):
        out = strided(memory[60:], SHAPE, strides)
        refuses(function, arguments | {"out": out}, "out", ValueError, "")
        assert (memory == 123.0).all()
    # Nor does every unusual stride overlap.
    out = strided(memory[60:], SHAPE, (8, 32, 96))
    np.testing.assert_array_equal(first(function(**arguments | {"out": out})), first(function(**arguments)))


def first(result: Any) -> np.ndarray:
    return np.array(result[0] if isinstance(result, tuple) else result)


@pytest.mark.parametrize(("call", "other"), takers("x", "dy", beside="out"))
def test_out_overlaps_the_data(call: str, other: str) -> None:
    """All of it or none of it, element by element."""
    function, arguments = spoiled(call)
    memory = np.random.default_rng(67).standard_normal(600)
    before = memory.copy()
    size = math.prod(SHAPE)
    where = {
        "same": memory[:size].reshape(SHAPE),
        "one-on": memory[1 : size + 1].reshape(SHAPE),
        "one-row-on": memory[5 : size + 5].reshape(SHAPE),
        "last-element": memory[size - 1 : 2 * size - 1].reshape(SHAPE),
        "half-an-element": memory.view(np.uint8)[4 : 8 * size + 4].view(np.float64).reshape(SHAPE),
        "reversed": memory[:size].reshape(SHAPE)[::-1],
        "reversed-inner": memory[:size].reshape(SHAPE)[:, :, ::-1],
        "other-order": memory[:size].reshape(SHAPE[::-1]).T,
        "every-other": memory[: 2 * size : 2].reshape(SHAPE),
        "around": memory[: 2 * size].reshape(4, 3, 10)[:, :, ::2],
    }
    arguments[other] = where["same"]
    for name, out in where.items():
        if name == "same":
            continue
        refuses(function, arguments | {"out": out}, "out", ValueError, "")
        np.testing.assert_array_equal(memory, before, err_msg=name)
    # Beside it is as good as far from it.
    expected = first(function(**arguments))
    beside = memory[size : 2 * size].reshape(SHAPE)
    np.testing.assert_array_equal(first(function(**arguments | {"out": beside})), expected)
    np.testing.assert_array_equal(memory[:size], before[:size])
    np.testing.assert_array_equal(memory[2 * size :], before[2 * size :])


@pytest.mark.parametrize(
    ("call", "name"), takers("weight", "bias", "mean", "var", "invstd", "running_mean", "running_var", beside="out")
)
def test_out_overlaps_a_parameter(call: str, name: str) -> None:
    function, arguments = spoiled(call)
    out = np.full(SHAPE, 0.75)
    # In place or not; of one type, and of another in the same memory.
    for inplace in ({}, {"x": out}):
        for parameter in (out[2, :, 1], out.view(np.float32)[2, :, 1]):
            refused(function, arguments | {"out": out, name: parameter} | inplace)
            assert (out == 0.75).all()


def refused(function: Callable[..., Any], arguments: Arguments) -> None:
    """Assert that a call fails and writes nothing, whichever of the arguments it blames."""
    before = contents(arguments)
    with pytest.raises(ValueError, match=r" must .*, got "):
        function(**arguments)
    assert contents(arguments) == before


def test_dx_in_part_of_x_and_part_of_dy() -> None:
    """The result may be x or dy; it may not be x while it overlaps dy by half."""
    memory = np.random.default_rng(71).standard_normal(90)
    x, dy = memory[:60].reshape(SHAPE), memory[30:].reshape(SHAPE)
    function, arguments = spoiled("batch_norm_backward", x=x, dy=dy)
    expected = first(function(**arguments))  # inputs may overlap as they like
    assert expected.shape == SHAPE
    for out in (x, dy):
        refuses(function, arguments | {"out": out}, "out", ValueError, "")


# What is unusual but not wrong.


@pytest.mark.parametrize("call", CALLS)
def test_unusual_but_right(call: str) -> None:
    function, arguments = spoiled(call)
    plain = dict(arguments)
    if "out" in plain:
        plain["out"] = None
    if call == "training":
        del plain["running_mean"], plain["running_var"]  # which change
    expected = first(function(**plain)) if call != "moments" else function(**plain).m2
    for name, value in plain.items():
        if not isinstance(value, np.ndarray):
            continue
        raw = np.zeros(value.nbytes + 1, np.uint8)
        misaligned = raw[1:].view(value.dtype).reshape(value.shape)
        misaligned[...] = value
        readonly = value.copy()
        readonly.flags.writeable = False
        for other in (misaligned, readonly, value.tolist(), value[::-1].copy()[::-1], np.asfortranarray(value)):
            got = function(**plain | {name: other})
            # Another memory order may be summed in another order: some roundings of numbers of order one.
            np.testing.assert_allclose(got.m2 if call == "moments" else first(got), expected, rtol=1e-13, atol=1e-13)


def test_calls_that_python_refuses() -> None:
    x = np.ones((4, 3))
    for call in (
        lambda: fastbn.batch_norm(),
        lambda: fastbn.moments(),
        lambda: fastbn.moments(x, 1),
        lambda: fastbn.normalize(x),
        lambda: fastbn.batch_norm_backward(x, x),
        lambda: fastbn.batch_norm_backward(x, x, None, np.zeros(3), np.ones(3)),
        lambda: fastbn.batch_norm_train(x, None, None, 1e-5),
        lambda: fastbn.batch_norm(x, None, None, None, None, True, 0.1, 1e-5, 1),
        lambda: fastbn.batch_norm(x, epsilon=1e-5),
    ):
        with pytest.raises(TypeError, match="argument"):
            call()


@pytest.mark.parametrize("call", ["batch_norm_train", "moments", "batch_norm_backward"])
def test_more_than_any_memory_holds(call: str) -> None:
    """An array of one element, repeated 2**58 times, and results that would need as many."""
    x = np.broadcast_to(np.float32(1), (2, 2**58))
    arguments: Arguments = {"x": x}
    if call == "batch_norm_backward":
        row = np.broadcast_to(np.float32(1), (2**58,))
        arguments |= {"dy": x, "mean": row, "invstd": row}
    with pytest.raises((MemoryError, ValueError)):
        CALLS[call][0](**arguments)


def test_a_failed_call_leaves_the_next_one_right() -> None:
    function, arguments = spoiled("training", out=None)
    expected = first(function(**arguments))
    for bad in ({"axis": 9}, {"eps": -1}, {"weight": np.ones(4)}, {"out": np.ones(3)}, {"momentum": 2}):
        with pytest.raises(ValueError, match="must"):
            function(**arguments | bad)
    np.testing.assert_array_equal(first(function(**arguments)), expected)


# Configuration.


@pytest.mark.parametrize("value", [0, -1, -(10**30), 10**30, 2**63, 2**31])
def test_threads_out_of_range(value: int) -> None:
    before = fastbn.get_num_threads()
    refuses(fastbn.set_num_threads, {"n": value}, "n", ValueError, str(value)[:20])
    assert fastbn.get_num_threads() == before


@pytest.mark.parametrize("value", [1.0, "2", b"2", 1j, [2], (2,), object(), np.array([1, 2]), np.float64(2)], ids=repr)
def test_threads_of_the_wrong_type(value: Any) -> None:
    before = fastbn.get_num_threads()
    refuses(fastbn.set_num_threads, {"n": value}, "n", TypeError)
    assert fastbn.get_num_threads() == before


@pytest.mark.parametrize("value", ["", "dict", "STDOUT", "stdout ", None, 1, ["dicts"]])
def test_config_mode(value: Any, capsys: pytest.CaptureFixture[str]) -> None:
    refuses(fastbn.show_config, {"mode": value}, "mode", (TypeError, ValueError), str(value))
    assert capsys.readouterr().out == ""


MANY = """
import numpy as np, fastbn
x = np.random.default_rng(1).standard_normal((64, 33, 500)).astype(np.float32)
expected = fastbn.batch_norm_train(x).y
for n in (1000, 30_000, 2**31 - 1):
    try:
        fastbn.set_num_threads(n)
    except ValueError:
        continue
    assert np.array_equal(fastbn.batch_norm_train(x).y, expected)
print("done")
"""


def test_more_threads_than_any_machine_has() -> None:
    """Refused, or no more taken than there is work for; not an abort because no more can be started."""
    done = run(MANY)
    assert done.stdout.split() == ["done"], done.stderr[-1000:]


class Unfriendly:
    """Raises whatever it is asked for."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise self.error

    def __repr__(self) -> str:
        raise self.error


@pytest.mark.parametrize("error", [RuntimeError("requires grad"), ZeroDivisionError(), KeyError("x")])
def test_objects_that_raise(error: Exception) -> None:
    with pytest.raises(TypeError, match="x must be an array, got a Unfriendly"):
        fastbn.moments(Unfriendly(error))


def test_memory_errors_and_interrupts_are_passed_on() -> None:
    class Interrupting:
        def __init__(self, error: type[BaseException]) -> None:
            self.error = error

        def __float__(self) -> float:
            raise self.error

        __index__ = __float__  # type: ignore[assignment]

    for error in (MemoryError, KeyboardInterrupt):
        with pytest.raises(error):
            fastbn.batch_norm_train(np.ones((4, 3)), eps=Interrupting(error))
        with pytest.raises(error):
            fastbn.moments(np.ones((4, 3)), axis=Interrupting(error))


@pytest.mark.parametrize("value", ["x" + "\u00e9" * 100, "\u00e9" * 100, "\ud800" * 3, "\U0001f600" * 90])
def test_messages_hold_any_text(value: str) -> None:
    for call in (
        lambda: fastbn.moments(np.ones((4, 3)), axis=value),
        lambda: fastbn.batch_norm_train(np.ones((4, 3)), eps=value),
        lambda: fastbn.set_num_threads(value),
    ):
        with pytest.raises(TypeError, match="must be"):
            call()


@pytest.mark.parametrize("text", ["\udc80", 1, RuntimeError("no text")], ids=["surrogate", "number", "raises"])
def test_errors_without_a_text(text: Any) -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            if isinstance(text, Exception):
                raise text
            return text

    class Array:
        def __array__(self, *_: Any, **__: Any) -> np.ndarray:
            raise MuteError

    with pytest.raises(TypeError, match="x must be an array, got "):
        fastbn.moments(Array())


def test_an_argument_that_reshapes_another() -> None:
    """Its memory is what it was; its shape was read before."""

    class Reshaping:
        def __float__(self) -> float:
            x.shape = (64_000,)
            return 1e-5

    x = np.random.default_rng(67).standard_normal((64, 1000))
    out = np.empty_like(x)
    expected = fastbn.batch_norm_train(x).y
    y = fastbn.batch_norm_train(x, eps=Reshaping(), out=out).y
    np.testing.assert_array_equal(y, expected)
