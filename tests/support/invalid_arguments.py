"""Valid calls, ways to spoil one of their arguments, and the form that the error must have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import fastbn

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
    "int": Spoiled(lambda a: 3, (TypeError, ValueError), ()),  # an array without dimensions
    "huge-int": Spoiled(lambda a: 10**40, TypeError, ("object", "1000")),
    "list-of-ints": Spoiled(lambda a: np.ones(a.shape, int).tolist(), TypeError, ("int",)),
    "list-of-strings": Spoiled(lambda a: ["a", "b", "c"], TypeError, ("<U1", "'a'")),
    "list-of-None": Spoiled(lambda a: [None, None, None], TypeError, ("object", "None")),
    "ragged": Spoiled(lambda a: [[1.0, 2.0], [3.0]], (TypeError, ValueError), ()),
    "liar": Spoiled(lambda a: Liar(), (TypeError, ValueError), ()),
    "integers": Spoiled(lambda a: Integers(), TypeError, ("int64",)),
    "generator": Spoiled(lambda a: (v for v in (1.0, 2.0)), TypeError, ("generator", "object")),
}


def first(result: Any) -> np.ndarray:
    return np.array(result[0] if isinstance(result, tuple) else result)
