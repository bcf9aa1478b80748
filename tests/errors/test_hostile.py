"""Promise: what is unusual is not refused, what is hostile does no harm: objects that raise, text, sizes, threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastbn
from support.interpreters import run_python
from support.invalid_arguments import CALLS, Arguments, first, refuses, spoiled

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
    done = run_python(MANY)
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
