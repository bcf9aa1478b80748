"""Promise: out= is refused where it cannot hold the result or overlaps what is read, and nothing is written."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from support.invalid_arguments import CALLS, OTHER_TYPES, SHAPE, Arguments, contents, first, refuses, spoiled, takers

pytestmark = pytest.mark.untraced


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
