"""Promise: ranks with `comm` are one batch: forward, backward, running statistics; two collectives; nobody waits."""

from __future__ import annotations

import copy
import functools
import json
import pickle
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastbn import BatchNorm, population_statistics
from support import oracle
from support.interpreters import run_ranks
from support.oracle import Array
from support.ranks import ThreadComm, on_ranks
from support.tolerances import CLOSE

# How many rows of the batch each rank has.
SIZES = {
    "alike": (4, 4, 4),
    "unequal": (1, 7, 4),
    "first empty": (0, 9, 3),
    "middle and last empty": (12, 0, 0),
    "five": (2, 0, 5, 1, 4),
    "one": (12,),
}

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "float32 parameters": {"dtype": np.float32, "momentum": None},
    "weight alone": {"use_bias": False, "correction": 0, "momentum": 1.0},
    "neither": {"affine": False},
    "leaky": {"activation": "leaky_relu", "negative_slope": 0.3},
    "renorm": {"renorm": (1.5, 0.2), "activation": "relu"},
    "untracked": {"track_running_stats": False},
    "axis": {"axis": (1, 2)},
}


class Data:
    """A whole batch, its parts, and what goes with it."""

    def __init__(
        self, sizes: tuple[int, ...], dtype: Any = np.float64, masked: bool = False, offset: float = 3.0
    ) -> None:
        rng = np.random.default_rng(len(sizes))
        shape = (sum(sizes), 3, 4)
        self.sizes = sizes
        self.x = rng.normal(offset, 2.0, shape)
        self.x = self.x.astype(dtype) if np.dtype(dtype).kind != "i" else np.round(10 * self.x).astype(dtype)
        y_dtype = self.x.dtype if self.x.dtype.kind != "i" else np.float32
        self.dy = rng.normal(size=shape).astype(y_dtype)
        self.residual = rng.normal(size=shape).astype(y_dtype)
        self.where = rng.random(shape) < 0.7 if masked else None
        self.weights = rng.random((shape[0], 1, 1)) if masked else None

    def part(self, name: str, rank: int) -> Any:
        whole = getattr(self, name)
        start = sum(self.sizes[:rank])
        return None if whole is None else whole[start : start + self.sizes[rank]]


def with_state(layer: BatchNorm) -> BatchNorm:
    rng = np.random.default_rng(4)
    for array in (*layer.parameters(), layer.running_mean):
        if array is not None:
            array[...] = rng.normal(1.0, 0.5, array.shape)
    return layer


def step(layer: BatchNorm, x: Array, dy: Array, **call: Any) -> dict[str, Any]:
    """Return everything that a training call and its backward give, and an evaluation after them."""
    y = layer(x, **call)
    back = layer.backward(dy)
    found = {"y": y, "dx": back if call.get("residual") is None else back[0]}
    if call.get("residual") is not None:
        found["dresidual"] = back[1]
    names = ("grad_weight", "grad_bias", "running_mean", "running_var", "num_batches_tracked")
    found |= {name: copy.copy(getattr(layer, name)) for name in names if getattr(layer, name) is not None}
    if layer.track_running_stats:
        residual = call.get("residual")
        found["evaluated"] = layer.eval()(x, residual=residual)
        layer.train()
    return found


def compared(parts: list[dict[str, Any]], whole: dict[str, Any], close: dict[str, Any]) -> None:
    """Assert that what the ranks found is what one process found of the whole batch."""
    for part in parts:
        assert part.keys() == whole.keys()
    for name, want in whole.items():
        found = [part[name] for part in parts]
        if name.startswith("grad_"):  # the rank's own sums
            np.testing.assert_allclose(sum(found), want, **close)
        elif name.startswith(("running_", "num_")):
            for each in found:
                np.testing.assert_array_equal(each, found[0])  # the same bits
            np.testing.assert_allclose(found[0], want, **CLOSE if want.dtype != np.float32 else close) if isinstance(
                want, np.ndarray
            ) else np.testing.assert_equal(found[0], want)
        else:
            assert all(each.dtype == want.dtype for each in found)
            np.testing.assert_allclose(np.concatenate(found).astype(np.float64), want.astype(np.float64), **close)


def trained(comm: Any, rank: int, data: Data, options: dict[str, Any], residual: bool = False) -> dict[str, Any]:
    layer = with_state(BatchNorm((3, 4) if options.get("axis") == (1, 2) else 3, comm=comm, **options))
    names = ("where", "weights", *(["residual"] if residual else []))
    return step(layer, data.part("x", rank), data.part("dy", rank), **{name: data.part(name, rank) for name in names})


def on_one_rank(data: Data) -> Data:
    everything = copy.copy(data)
    everything.sizes = (len(data.x),)
    return everything


def whole_of(data: Data, options: dict[str, Any], residual: bool = False) -> dict[str, Any]:
    return trained(None, 0, on_one_rank(data), options, residual)


@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("sizes", SIZES)
def test_ranks_are_one_batch(sizes: str, options: str, masked: bool) -> None:
    data, chosen = Data(SIZES[sizes], masked=masked), OPTIONS[options]
    parts = on_ranks(len(data.sizes), lambda comm: trained(comm, comm.rank, data, chosen, residual=masked))
    close = {"rtol": 1e-5, "atol": 1e-5} if "dtype" in chosen else CLOSE  # float32 parameters, read back in float32
    compared(parts, whole_of(data, chosen, residual=masked), close)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int32", "int8", "bfloat16"])
def test_types(dtype: str) -> None:
    kind = pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype
    data = Data(SIZES["unequal"], kind if dtype != "bfloat16" else np.float32)
    if dtype == "bfloat16":
        data.x, data.dy, data.residual = (each.astype(kind) for each in (data.x, data.dy, data.residual))
    parts = on_ranks(3, lambda comm: trained(comm, comm.rank, data, OPTIONS["leaky"], residual=True))
    whole = whole_of(data, OPTIONS["leaky"], residual=True)
    # Results are rounded once, and are next to each other where the roundings differ.
    eps = {"float32": 2e-6, "float16": 1e-3, "int32": 2e-6, "int8": 2e-6, "bfloat16": 8e-3}[dtype]
    compared(parts, whole, {"rtol": eps, "atol": eps})


def test_far_from_zero_nothing_is_lost() -> None:
    data = Data(SIZES["five"], offset=1e9)
    parts = on_ranks(5, lambda comm: trained(comm, comm.rank, data, {"eps": 0.0, "momentum": 1.0, "correction": 0}))
    want = oracle.train(data.x, *([np.asarray(each)] for each in ()), eps=0.0)
    layer = with_state(BatchNorm(3))
    y = layer.weight[:, None] * want.y + layer.bias[:, None]
    np.testing.assert_allclose(np.concatenate([part["y"] for part in parts]), y, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(parts[0]["running_var"], want.biased, rtol=1e-13)


def test_the_gradient_agrees_with_differences() -> None:
    data, h = Data((2, 3)), 1e-6

    def loss(x: Array) -> float:
        moved = copy.copy(data)
        moved.x = x
        parts = on_ranks(2, lambda comm: trained(comm, comm.rank, moved, {}))
        return float((np.concatenate([part["y"] for part in parts]) * data.dy).sum())

    parts = on_ranks(2, lambda comm: trained(comm, comm.rank, data, {}))
    dx = np.concatenate([part["dx"] for part in parts])
    for index in [(0, 0, 0), (1, 2, 3), (4, 1, 1)]:
        step_ = np.zeros_like(data.x)
        step_[index] = h
        assert abs((loss(data.x + step_) - loss(data.x - step_)) / (2 * h) - dx[index]) < 1e-7


# What is sent.


def test_one_collective_forward_and_one_backward_of_channels_bytes() -> None:
    sent = []
    for channels, rows in ((3, 5), (3, 500), (300, 5)):

        def run(comm: ThreadComm, channels: int = channels, rows: int = rows) -> tuple[list[int], int]:
            layer = BatchNorm(channels, comm=comm, renorm=(3.0, 5.0))
            x = np.random.default_rng(0).normal(size=(rows, channels))
            counts = []
            for _ in range(2):
                layer(x)
                counts.append(comm.collectives)
                layer.backward(x)
                counts.append(comm.collectives)
            layer.eval()(x)
            layer.backward(x)
            layer.train().freeze()(x)
            layer.backward(x)
            counts.append(comm.collectives)
            return counts, comm.nbytes

        results = on_ranks(2, run)
        assert [counts for counts, _ in results] == [[1, 2, 3, 4, 4]] * 2
        sent.append(results[0][1])
    # Two steps of mean, m2 and their low parts forward, and of two sums backward, eight bytes each. A pickle of larger
    # numbers is a few bytes longer.
    assert abs(sent[1] - sent[0]) <= 16
    assert abs((sent[2] - sent[0]) - 2 * (4 + 2) * 8 * (300 - 3)) <= 64


# Rules of training, over all ranks.


def test_one_value_on_all_ranks_together() -> None:
    def run(comm: ThreadComm) -> Any:
        return BatchNorm(3, comm=comm)(np.ones((int(comm.rank == 1), 3)))

    for error in on_ranks(3, run):
        assert isinstance(error, ValueError)
        assert "(one is enough after eval() or with on_single='biased'), got 1 on all ranks" in str(error)
    allowed = on_ranks(3, lambda comm: BatchNorm(3, comm=comm, on_single="biased")(np.ones((int(comm.rank == 1), 3))))
    np.testing.assert_array_equal(allowed[1], 0.0)
    one_each = on_ranks(2, lambda comm: BatchNorm(1, comm=comm, eps=0.0)(np.array([[float(comm.rank)]])))
    np.testing.assert_array_equal(one_each, [[[-1.0]], [[1.0]]])


def test_too_few_values_to_remember() -> None:
    few = on_ranks(2, lambda comm: BatchNorm(3, comm=comm, correction=2)(np.ones((1, 3))))
    assert all("correction must be less than the 2 values per channel on all ranks" in str(each) for each in few)
    light = on_ranks(2, lambda comm: BatchNorm(3, comm=comm)(np.ones((2, 3)), weights=np.full((2, 1), 0.1)))
    assert all(isinstance(each, ValueError) for each in light)
    assert all("weights must sum to more than the correction of 1 on all ranks" in str(each) for each in light)


def test_masks_that_leave_channels_too_little_are_treated_as_in_one_process() -> None:
    x, mask = np.array([[1.0, 2.0, 3.0], [4.0, 6.0, 8.0]]), np.array([[True, True, False], [False, False, True]])

    def run(comm: ThreadComm | None, where: Array) -> Any:
        layer = BatchNorm(3, comm=comm)
        return layer(x, where=where).tolist(), layer.running_mean.tolist(), layer.num_batches_tracked

    alone = run(None, mask)
    assert alone[1] == [0.0] * 3
    assert on_ranks(1, lambda comm: run(comm, mask)) == [alone]
    (error,) = on_ranks(1, lambda comm: run(comm, mask[:, :1]))
    assert isinstance(error, ValueError)
    assert "where must leave more than the correction of 1" in str(error)


def test_weights_that_leave_nothing_make_an_empty_batch() -> None:
    def run(comm: ThreadComm) -> Any:
        layer = BatchNorm(3, comm=comm)
        y = layer(np.ones((2, 3)), weights=np.zeros((2, 1)))
        return y.tolist(), layer.running_mean.tolist(), layer.running_var.tolist()

    assert on_ranks(2, run) == [([[0.0] * 3] * 2, [0.0] * 3, [1.0] * 3)] * 2


def test_dx_is_finite_where_a_channel_has_the_smallest_weights() -> None:
    def run(comm: ThreadComm) -> Any:
        rng = np.random.default_rng(comm.rank)
        layer = BatchNorm(2, comm=comm, track_running_stats=False)
        layer(rng.normal(size=(5, 2, 3)), weights=np.broadcast_to([[1.0], [5e-324]], (5, 2, 3)))
        return layer.backward(rng.normal(size=(5, 2, 3)))

    assert all(np.isfinite(dx).all() for dx in on_ranks(2, run))


def test_batches_that_are_empty_on_all_ranks() -> None:
    def run(comm: ThreadComm) -> Any:
        layer = BatchNorm(3, comm=comm)
        y = layer(np.empty((0, 3)))
        return y.shape, layer.backward(y).shape, layer.num_batches_tracked, layer.running_mean.tolist()

    assert on_ranks(2, run) == [((0, 3), (0, 3), 0, [0.0] * 3)] * 2


def test_channels_without_values_and_those_with_nan() -> None:
    data = Data((3, 4), masked=True)
    data.where[:, 0], data.x[5, 2, 1], data.where[5, 2, 1] = False, np.nan, True
    for options in ({}, {"on_nonfinite": "skip"}):
        parts = on_ranks(2, lambda comm, options=options: trained(comm, comm.rank, data, options))
        compared(parts, whole_of(data, options), CLOSE)


def test_a_variance_beyond_float64_is_an_error() -> None:
    errors = on_ranks(2, lambda comm: BatchNorm(1, comm=comm)(np.array([[1e200], [-1e200]])))
    assert all("x must have a variance that float64 holds where comm is given, got inf" in str(each) for each in errors)


def test_a_variance_below_float64_is_an_error_and_a_constant_is_none() -> None:
    tiny = np.array([[1e-200], [2e-200]])
    for parts, options in (
        ((tiny, np.ones((1, 1))[:0]), {}),
        ((tiny[:1], tiny[1:]), {}),
        ((tiny, tiny), {"masked": True}),
    ):

        def run(comm: ThreadComm, parts: Any = parts, options: Any = options) -> Any:
            x = parts[comm.rank]
            where = np.ones(x.shape, bool) if options else None
            return BatchNorm(1, comm=comm, eps=0.0)(x, where=where)

        errors = on_ranks(2, run)
        assert all("variance that float64 holds where comm is given, got one below 1e-290" in str(e) for e in errors)
        assert not any(isinstance(each, Exception) for each in on_ranks(2, lambda comm: BatchNorm(1, comm=comm)(tiny)))
    for part in on_ranks(2, lambda comm: BatchNorm(1, comm=comm, eps=0.0)(np.full((3 * comm.rank, 1), 1e-200))):
        np.testing.assert_array_equal(part, 0.0)


# Errors: all ranks raise the same, and nothing is written.

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "x of text": ({"x": np.full((2, 3, 4), "a")}, "TypeError: x must"),
    "x of other features": ({"x": np.ones((2, 4, 4))}, "ValueError: x must have 3 channels along axis 1, got 4"),
    "one dimension": ({"x": np.ones(3)}, "ValueError: x must"),
    "where": ({"where": np.ones((2, 3, 4))}, "TypeError: where must"),
    "weights": ({"weights": np.full((2, 3, 4), -1.0)}, "ValueError: weights must"),
    "lengths": ({"lengths": [1, 2, 3]}, "ValueError: lengths must have shape"),
    "residual's shape": ({"residual": np.ones((2, 3, 1))}, "ValueError: residual must have x's shape"),
    "residual's dtype": ({"residual": np.ones((2, 3, 4), np.float32)}, "TypeError: residual must"),
    "out's type": ({"out": [1]}, "TypeError: out must be an array, got list"),
    "out's shape": ({"out": np.ones((2, 3, 5))}, "ValueError: out must have x's shape"),
    "out's dtype": ({"out": np.ones((2, 3, 4), np.int64)}, "TypeError: out must"),
}


@pytest.mark.parametrize("wrong", range(3))
@pytest.mark.parametrize("bad", BAD)
def test_what_one_rank_gets_wrong_all_ranks_raise(bad: str, wrong: int) -> None:
    changes, message = BAD[bad]

    def run(comm: ThreadComm) -> str:
        layer = with_state(BatchNorm(3, comm=comm))
        x = np.random.default_rng(comm.rank).normal(size=(2, 3, 4))
        layer(x)
        before, dx = layer.state_dict(), layer.backward(x)
        out = np.full((2, 3, 4), 7.0)
        arguments = {"x": x, "out": out} | (changes if comm.rank == wrong else {})
        with pytest.raises((TypeError, ValueError)) as caught:
            layer(arguments.pop("x"), **arguments)
        np.testing.assert_equal(layer.state_dict(), before)
        assert (out == 7).all()
        np.testing.assert_array_equal(layer.backward(x), dx)
        return f"{caught.type.__name__}: {caught.value}"

    results = on_ranks(3, run)
    assert results[0] == results[1] == results[2]
    assert results[0].startswith(message), results[0]
    assert results[0].endswith(f"(rank {wrong} of 3)")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("on_single", "typo", "ValueError: on_single must be"),
        ("on_nonfinite", 1, "TypeError: on_nonfinite must be"),
        ("dtype", np.dtype(np.float32), "ValueError: dtype must be the same on every rank"),
    ],
)
def test_an_option_that_one_rank_gets_wrong_all_ranks_raise(name: str, value: Any, message: str) -> None:
    def run(comm: ThreadComm) -> None:
        layer = BatchNorm(3, comm=comm)
        if comm.rank == 1:
            setattr(layer, name, value)
        layer(np.random.default_rng(comm.rank).normal(size=(4, 3)))

    errors = [f"{type(error).__name__}: {error}" for error in on_ranks(2, run)]
    assert errors[0] == errors[1]
    assert errors[0].startswith(message), errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"affine": False}, "affine must be True for init_identity, got False"),
        ({"use_bias": False}, "use_bias must be True for init_identity, got False"),
        ({"dtype": "float32"}, "dtype must be the same on every rank"),
    ],
)
def test_an_identity_that_one_rank_cannot_have_all_ranks_refuse(options: dict[str, Any], message: str) -> None:
    def run(comm: ThreadComm) -> None:
        layer = BatchNorm(3, comm=comm, **(options if comm.rank == 1 else {}))
        layer.init_identity(np.random.default_rng(comm.rank).normal(size=(4, 3)))

    errors = on_ranks(2, run)
    assert all(isinstance(error, ValueError) and str(error).startswith(message) for error in errors), errors


@pytest.mark.parametrize("name", ["x", "residual", "where", "weight", "running_mean"])
def test_an_output_that_overlaps_is_refused_everywhere(name: str) -> None:
    def run(comm: ThreadComm) -> str:
        layer, memory = BatchNorm(4, comm=comm), np.ones((5, 4))
        x, arguments = np.random.default_rng(0).normal(size=(4, 4)), {"out": memory[1:]}
        if name == "x":
            x = memory[:-1]
        elif name == "residual":
            arguments["residual"] = memory[:-1]
        elif name == "where":
            arguments["where"] = memory.view(np.bool_)[:4, :4]
        else:
            setattr(layer, name, memory[2])
        layer(x, **(arguments if comm.rank == 1 else {}))
        return "nothing"

    errors = on_ranks(2, run)
    assert all(isinstance(each, ValueError) and "share no memory" in str(each) for each in errors), errors


def test_out_may_be_x_or_the_residual() -> None:
    def run(comm: ThreadComm) -> list[bool]:
        layer, x = BatchNorm(3, comm=comm), np.random.default_rng(comm.rank).normal(size=(4, 3))
        plain = layer(x)
        residual = x.copy()
        same = layer(x, residual=residual, out=residual)
        found = [same is residual, np.allclose(same, plain + x)]
        return [*found, np.array_equal(layer(x, out=x), plain), layer._last == "overwritten"]

    assert on_ranks(2, run) == [[True] * 4] * 2


def test_a_channel_of_one_value_and_no_reduced_axis() -> None:
    def run(comm: ThreadComm) -> Array:
        layer = BatchNorm((2, 3), axis=(0, 1), comm=comm, eps=0.0)
        return layer(np.full((2, 3), float(comm.rank)), out=np.empty((2, 3)))

    np.testing.assert_array_equal(on_ranks(2, run), [np.full((2, 3), -1.0), np.full((2, 3), 1.0)])


def test_a_wrong_gradient_is_refused_everywhere() -> None:
    for bad in (np.ones((2, 3, 5)), np.ones((2, 3, 4), np.float32), "text", None):

        def run(comm: ThreadComm, bad: Any = bad) -> Any:
            layer, x = BatchNorm(3, comm=comm), np.random.default_rng(comm.rank).normal(size=(2, 3, 4))
            layer(x)
            with pytest.raises((TypeError, ValueError)) as caught:
                layer.backward(bad if comm.rank == 1 else x)
            assert (layer.grad_bias == 0).all()
            layer.backward(x)  # and then all goes on
            return f"{caught.type.__name__}: {caught.value}"

        results = on_ranks(2, run)
        assert results[0] == results[1]
        assert results[0].startswith(("TypeError: dy must", "ValueError: dy must"))


def test_a_rank_without_a_call_or_with_an_overwritten_one() -> None:
    def run(comm: ThreadComm) -> Any:
        layer, x = BatchNorm(3, comm=comm), np.random.default_rng(comm.rank).normal(size=(4, 3))
        dy = x.copy()
        layer(x, out=x if comm.rank else None)
        layer.backward(dy)

    errors = on_ranks(2, run)
    assert all(isinstance(each, RuntimeError) and "backward needs x" in str(each) for each in errors)
    with pytest.raises(RuntimeError, match="backward needs a call"):
        BatchNorm(3, comm=Alone()).eval().backward(np.ones((2, 3)))


def test_read_only_statistics_are_found_before_anything_is_written() -> None:
    def run(comm: ThreadComm) -> Any:
        layer = BatchNorm(3, comm=comm)
        layer.running_var.flags.writeable = comm.rank == 0
        layer(np.random.default_rng(comm.rank).normal(size=(4, 3)))

    assert all("must be writable" in str(each) for each in on_ranks(2, run))


def test_options_and_features_must_be_the_same() -> None:
    def run(comm: ThreadComm, **options: Any) -> Any:
        return BatchNorm(comm=comm, **(options if comm.rank else {}))(np.arange(12.0).reshape(4, 3))

    for options, message in (
        ({"eps": 1.0}, r"eps must be the same on every rank, got 1e-05 on rank 0 and 1.0 on rank 1"),
        ({"momentum": None}, "momentum must be the same on every rank, got 0.1 on rank 0 and 1.0 on rank 1"),
        ({"renorm": (2.0, 1.0)}, "renorm must be the same on every rank, got None on rank 0 and (2.0, 1.0) on rank 1"),
        ({"dtype": np.float32}, "dtype must be the same on every rank, got 'float64' on rank 0"),
        ({"axis": 0}, "the features' shape must be the same on every rank, got (3,) on rank 0 and (4,) on rank 1"),
        ({"on_single": "biased"}, "on_single must be the same"),
    ):
        errors = on_ranks(2, functools.partial(run, **options))
        assert all(isinstance(each, ValueError) and message in str(each) for each in errors), errors


def test_different_calls_are_an_error() -> None:
    def run(comm: ThreadComm) -> Any:
        layer, x = BatchNorm(3, comm=comm), np.random.default_rng(0).normal(size=(4, 3))
        layer(x)
        layer(x) if comm.rank else layer.backward(x)

    message = "all ranks must make the same calls of a layer, got backward on rank 0 and forward on rank 1"
    assert all(isinstance(each, RuntimeError) and message in str(each) for each in on_ranks(2, run))


def test_an_unforeseen_error_is_shared_too() -> None:
    def run(comm: ThreadComm) -> Any:
        def momentum(step: int) -> float:
            if comm.rank:
                raise KeyError("schedule")
            return 0.1

        BatchNorm(3, comm=comm, momentum=momentum)(np.random.default_rng(0).normal(size=(4, 3)))

    errors = on_ranks(2, run)
    assert [type(each) for each in errors] == [RuntimeError] * 2
    assert isinstance(errors[1].__cause__, KeyError)


def test_features_that_a_failed_first_batch_decided_are_undecided_again() -> None:
    def run(comm: ThreadComm) -> Any:
        layer = BatchNorm(comm=comm)
        with pytest.raises(TypeError):
            layer(np.random.default_rng(0).normal(size=(4, 3)) if comm.rank else np.full((4, 3), "a"))
        return layer.num_features

    assert on_ranks(2, run) == [None, None]


@pytest.mark.parametrize("comm", [3, "world", object()])
def test_what_is_no_communicator(comm: Any) -> None:
    with pytest.raises(TypeError, match=r"comm must be None or have allgather\(obj\) -> list, got"):
        BatchNorm(3, comm=comm)


# Beside training.


class Alone:
    """The communicator of one rank."""

    def allgather(self, value: Any) -> list[Any]:
        return [value]


def test_copies_keep_the_communicator_and_files_do_not(tmp_path: Path) -> None:
    comm = Alone()
    layer = BatchNorm(3, comm=comm)
    assert copy.copy(layer).comm is copy.deepcopy(layer).comm is comm
    assert copy.copy(layer).weight is layer.weight
    assert copy.deepcopy(layer).weight is not layer.weight
    assert repr(layer).endswith(f", comm={comm!r})")
    network = types.SimpleNamespace(layer=layer)
    layer.schedule = network  # what it holds leads back to it
    again = copy.deepcopy(layer)
    assert again.schedule.layer is again
    del layer.schedule
    layer.save(tmp_path / "layer.npz")
    for other in (BatchNorm.load(tmp_path / "layer.npz"), pickle.loads(pickle.dumps(layer))):
        assert other.comm is None
        np.testing.assert_equal(other.state_dict(), layer.state_dict())


def test_identity_over_all_ranks() -> None:
    data = Data((1, 5))

    def run(comm: ThreadComm) -> Array:
        x = data.part("x", comm.rank)
        return BatchNorm(comm=comm).init_identity(x)(x)

    np.testing.assert_allclose(np.concatenate(on_ranks(2, run)), data.x, **CLOSE)
    wrong = on_ranks(2, lambda comm: BatchNorm(3, comm=comm).init_identity(np.ones((4, 3 + comm.rank))))
    assert all("x must have 3 channels along axis 1, got 4" in str(each) for each in wrong)


def test_population_statistics_over_all_ranks() -> None:
    batches = [Data(sizes, offset=offset) for sizes, offset in (((1, 5), 0.0), ((4, 0), 100.0))]

    def run(comm: ThreadComm) -> tuple[Array, Array]:
        layer = BatchNorm(3, comm=comm).eval()
        with population_statistics(layer):
            for data in batches:
                layer(data.part("x", comm.rank))
        return layer.running_mean, layer.running_var

    (mean, var), other = on_ranks(2, run)
    np.testing.assert_array_equal((mean, var), other)
    whole = np.concatenate([data.x for data in batches])
    np.testing.assert_allclose(mean, whole.mean((0, 2)), **CLOSE)
    np.testing.assert_allclose(var, oracle.moments(whole).m2 / (whole.size / 3 - 1), **CLOSE)


# A network, trained on ranks and alone.


def network(comm: Any, rank: int, ranks: int, reduce_sum: Callable[[Array], Array]) -> list[Array]:
    """Train two linear maps with a layer between them on rank's rows of 60 samples, and return all weights."""
    rng = np.random.default_rng(0)
    x, target = rng.normal(5.0, 3.0, (60, 4)), rng.normal(size=(60, 2))
    bounds = np.linspace(0, 60, ranks + 1).astype(int) if ranks != 3 else np.array([0, 7, 7, 60])
    rows = slice(bounds[rank], bounds[rank + 1])
    x, target = x[rows], target[rows]
    w1, w2 = rng.normal(size=(4, 8)), rng.normal(size=(8, 2))
    norm = BatchNorm(8, comm=comm, activation="relu")
    for _ in range(100):
        h = norm(x @ w1)
        dy = 2 * (h @ w2 - target) / 60
        dw2, du = h.T @ dy, norm.backward(dy @ w2.T)
        gradients = [x.T @ du, dw2, *norm.gradients()]
        for weight, gradient in zip([w1, w2, *norm.parameters()], gradients, strict=True):
            weight -= 0.05 * reduce_sum(gradient)
    return [w1, w2, *norm.parameters(), norm.running_mean, norm.running_var]


def test_a_network_reaches_the_weights_of_a_single_process() -> None:
    def run(comm: ThreadComm) -> list[Array]:
        return network(comm, comm.rank, 3, lambda mine: sum(comm.allgather(mine)))

    alone = network(None, 0, 1, lambda mine: mine)
    for found in on_ranks(3, run):
        for one, other in zip(found, alone, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)


# MPI.

PROGRAM = """
import json, sys
from mpi4py import MPI
import numpy as np

sys.path[:0] = [FOLDER]
import test_ranks as t

world = MPI.COMM_WORLD
failed = []
for masked in (False, True):
    for name, options in t.OPTIONS.items():
        for sizes in ([4] * world.size, [2, 0, 5, 1, 4][: world.size], [0] * (world.size - 1) + [9]):
            data = t.Data(tuple(sizes), masked=masked)
            parts = world.gather(t.trained(world, world.rank, data, options, residual=masked))
            if world.rank == 0:
                close = {"rtol": 1e-5, "atol": 1e-5} if "dtype" in options else t.CLOSE
                t.compared(parts, t.whole_of(data, options, residual=masked), close)
try:
    t.BatchNorm(3, comm=world)(np.ones((4, 3 + (world.rank == 1))), where=None if world.rank else "text")
except Exception as error:
    failed = world.gather(f"{type(error).__name__}: {error}")
weights = t.network(world, world.rank, world.size, lambda mine: sum(world.allgather(mine)))
alone = t.network(None, 0, 1, lambda mine: mine)
worst = max(float(np.abs(one - other).max()) for one, other in zip(weights, alone))
worst = world.gather(worst)
if world.rank == 0:
    print(json.dumps({"failed": failed, "worst": max(worst)}))
"""


@pytest.mark.parametrize("ranks", [3, 5])
def test_mpi_ranks(ranks: int) -> None:
    pytest.importorskip("mpi4py")
    tests = Path(__file__).parents[1]
    program = PROGRAM.replace("FOLDER", f"{str(Path(__file__).parent)!r}, {str(tests)!r}")
    found = json.loads(run_ranks(program, ranks))
    assert len(found["failed"]) == ranks
    assert set(found["failed"]) == {found["failed"][0]}
    assert found["failed"][0].startswith("TypeError: where must")
    assert found["worst"] < 1e-10


# Weights that are one number each rank, of which the core makes no array.


@pytest.mark.parametrize("options", ["plain", "leaky", "renorm"])
@pytest.mark.parametrize(
    ("sizes", "each"),
    [((4, 4, 4), (2.0, 2.0, 2.0)), ((1, 7, 4), (3.0, 3.0, 3.0)), ((5, 0, 7), (2.0, 2.0, 0.5)), ((1, 6), (0.25, 4.0))],
    ids=["constant", "constant and one row", "by rank", "by rank and one row"],
)
def test_weights_that_are_equal_on_a_rank(sizes: tuple[int, ...], each: tuple[float, ...], options: str) -> None:
    data = Data(sizes)
    data.weights = np.repeat(each, sizes)[:, None, None]
    parts = on_ranks(len(sizes), lambda comm: trained(comm, comm.rank, data, OPTIONS[options], residual=True))
    whole = whole_of(data, OPTIONS[options], residual=True)
    compared(parts, whole, CLOSE)
    if options == "plain":
        layer = with_state(BatchNorm(3))
        p = oracle.element_weights(data.x.shape, None, data.weights)
        found = oracle.train(data.x, layer.weight, layer.bias, p=p)
        mean, invstd = found.mean.astype(float), found.invstd.astype(float)
        want = oracle.backward(data.dy, data.x, layer.weight, mean, invstd, p=p)
        dx = np.concatenate([part["dx"] for part in parts])
        np.testing.assert_allclose(dx, want.dx.astype(float), rtol=1e-9, atol=1e-11)
