"""Promise: out_axis= moves the feature axis of normalize's result, a fresh C-contiguous array, and changes no bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fastbn
from support.assertions import assert_normalized
from support.bits import bits
from support.dtypes import BFLOAT16, FLOAT_TYPES, TYPES
from support.invalid_arguments import contents
from support.isas import using_isa
from support.layouts import dense, fortran, misaligned, packed_record, padded, permuted, stepped
from support.marks import every_isa
from support.oracle import Array
from support.random_arrays import random_values

pytestmark = pytest.mark.untraced

CHANNELS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 64, 300)
IMAGES = ((1, 1, 1), (2, 3, 5), (1, 31, 33), (3, 16, 24), (1, 67, 130))
SOURCES = (*TYPES, *(np.dtype(d) for d in (np.uint32, np.int64, np.uint64, bool, ">f4", ">u2")))


def statistics(rng: np.random.Generator, channels: int) -> tuple[Array, Array]:
    return rng.normal(size=channels), rng.uniform(0.5, 2.0, size=channels)


def images(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
    native = np.dtype(dtype).newbyteorder("=")
    if native.kind == "b":
        return rng.random(shape) < 0.5
    if native.kind in "iu":  # of float32's precision, for y of any type to be finite
        return rng.integers(0, 128, shape, dtype=native).astype(dtype)
    return random_values(rng, shape, native).astype(dtype)


def assert_moved(x: Array, mean: Array, var: Array, axis: Any, out_axis: Any, **options: Any) -> Array:
    """Assert that the result is, to the bit, that without out_axis, with the axis moved by NumPy."""
    y = fastbn.normalize(x, mean, var, axis=axis, out_axis=out_axis, **options)
    wanted = np.moveaxis(fastbn.normalize(x, mean, var, axis=axis, **options), axis, out_axis)
    assert y.shape == wanted.shape
    assert y.dtype == wanted.dtype
    assert y.flags.c_contiguous
    assert bits(y) == bits(wanted)
    return y


# Values.


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = fastbn.get_num_threads()
    fastbn.set_num_threads(request.param)
    yield
    fastbn.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("channels", CHANNELS)
@every_isa
def test_channels_and_sizes(channels: int, rng: np.random.Generator) -> None:
    mean, var = statistics(rng, channels)
    for n, h, w in IMAGES:
        # The pair of images and networks always, of all others some.
        pairs = [(np.dtype(np.uint8), np.dtype(np.float32)), (np.dtype(np.float32), np.dtype(np.float32))]
        pairs += [(SOURCES[rng.integers(len(SOURCES))], FLOAT_TYPES[rng.integers(len(FLOAT_TYPES))]) for _ in range(3)]
        for x_type, y_type in pairs:
            last = images(rng, (n, h, w, channels), x_type)
            assert_moved(last, mean, var, -1, 1, dtype=y_type)
            assert_moved(np.ascontiguousarray(np.moveaxis(last, -1, 1)), mean, var, 1, -1, dtype=y_type)


@pytest.mark.parametrize("y_type", FLOAT_TYPES, ids=str)
@pytest.mark.parametrize("x_type", SOURCES, ids=str)
def test_each_pair_of_types(x_type: Any, y_type: Any, rng: np.random.Generator) -> None:
    mean, var = statistics(rng, 3)
    x = images(rng, (2, 19, 23, 3), x_type)
    assert_moved(x, mean, var, -1, 1, dtype=y_type)
    assert_moved(np.ascontiguousarray(np.moveaxis(x, -1, 1)), mean, var, 1, 3, dtype=y_type)


@every_isa
def test_the_oracle(rng: np.random.Generator) -> None:
    for channels in (1, 3, 4, 17):
        mean, var = statistics(rng, channels)
        x = random_values(rng, (40, 52, channels), np.uint8)
        y = fastbn.normalize(x, mean, var, axis=-1, out_axis=0)
        assert_normalized(np.moveaxis(x, -1, 0), y, mean, var, axis=0)


def test_results_past_the_caches(rng: np.random.Generator) -> None:
    # 13 MB of result: planes whose beginnings are on a cache line's boundary together, or each somewhere else.
    for h, w in ((1024, 1040), (1021, 1063)):
        x = images(rng, (h, w, 3), np.uint8)
        assert_moved(x, *statistics(rng, 3), -1, 0)
        assert_moved(x, *statistics(rng, 3), -1, 0, dtype=np.float64)


@pytest.mark.parametrize(
    "place",
    [fortran, stepped(2, -1, 3, -1), padded(1, 2, 3, 1), permuted(2, 0, 1, 3), misaligned, packed_record, dense],
)
def test_memory_layouts(place: Any, rng: np.random.Generator) -> None:
    mean, var = statistics(rng, 5)
    for dtype in (np.uint8, np.float32, np.float64, BFLOAT16):
        x = place(images(rng, (3, 9, 21, 5), dtype))
        for out_axis in range(4):
            assert_moved(x, mean, var, -1, out_axis)
        x = place(images(rng, (3, 5, 21, 9), dtype))
        for out_axis in range(-4, 0):
            assert_moved(x, mean, var, 1, out_axis, dtype=np.float32)


def test_several_feature_axes(rng: np.random.Generator) -> None:
    x = random_values(rng, (4, 3, 5, 7), np.float32)
    mean, var = rng.normal(size=(3, 7)), rng.uniform(0.5, 2.0, size=(3, 7))
    for axis in ((1, 3), (3, 1), (-1, 1)):
        for out_axis in ((0, 1), (1, 0), (2, 3), (3, 0), (-1, -2)):
            assert_moved(x, mean, var, axis, out_axis)


def test_options(rng: np.random.Generator) -> None:
    mean, var = statistics(rng, 3)
    x = random_values(rng, (2, 9, 11, 3), np.float32)
    weight, bias = rng.normal(size=3), rng.normal(size=3)
    residual = random_values(rng, x.shape, np.float32)
    assert_moved(x, mean, var, -1, 1, weight=weight, bias=bias, eps=0.5)
    assert_moved(x, mean, var, -1, 1, activation="relu")
    assert_moved(x, mean, var, -1, 1, activation="leaky_relu", negative_slope=0.3, residual=residual)
    assert_moved(x, mean, var, -1, 1, residual=fortran(residual))
    moments = fastbn.moments(x, axis=-1)
    y = fastbn.normalize(x, moments, axis=-1, out_axis=1)
    assert bits(y) == bits(np.moveaxis(fastbn.normalize(x, moments, axis=-1), -1, 1))


def test_the_axis_where_it_is(rng: np.random.Generator) -> None:
    mean, var = statistics(rng, 3)
    x = fortran(random_values(rng, (2, 9, 11, 3), np.float32))
    assert not fastbn.normalize(x, mean, var, axis=-1).flags.c_contiguous  # in x's memory order
    assert_moved(x, mean, var, -1, -1)
    assert_moved(x, mean, var, 3, -1)


def test_empty_batches() -> None:
    x = np.empty((0, 5, 7, 3), np.uint8)
    assert fastbn.normalize(x, np.zeros(3), np.ones(3), axis=-1, out_axis=1).shape == (0, 3, 5, 7)


# out=.


def test_out_has_the_results_shape(rng: np.random.Generator) -> None:
    mean, var = statistics(rng, 3)
    x = images(rng, (2, 9, 11, 3), np.uint8)
    wanted = np.moveaxis(fastbn.normalize(x, mean, var, axis=-1), -1, 1)
    for place in (dense, fortran, stepped(1, 2, -1, 1)):
        out = place(np.full((2, 3, 9, 11), 7.0, np.float32))
        assert fastbn.normalize(x, mean, var, axis=-1, out_axis=1, out=out) is out
        assert bits(out) == bits(wanted)


def test_in_place(rng: np.random.Generator) -> None:
    mean, var = statistics(rng, 3)
    x = random_values(rng, (2, 9, 11, 3), np.float32)
    wanted = np.moveaxis(fastbn.normalize(x, mean, var, axis=-1), -1, 1)
    out = np.moveaxis(x, -1, 1)  # the same elements, seen as the result is
    fastbn.normalize(x, mean, var, axis=-1, out_axis=1, out=out)
    assert bits(out) == bits(wanted)


# Refusals.


@pytest.mark.parametrize(
    ("out_axis", "error", "said"),
    [
        (4, ValueError, "out_axis must be between -4 and 3 for x of 4 dimensions, got 4"),
        (-5, ValueError, "out_axis must be between -4 and 3 for x of 4 dimensions, got -5"),
        ((0, 1), ValueError, "out_axis must name as many axes as axis, 1, got 2"),
        ((), ValueError, "out_axis must name as many axes as axis, 1, got 0"),
        (1.0, TypeError, "out_axis must be an integer or a tuple of integers, got 1.0"),
        ("first", TypeError, "out_axis must be an integer or a tuple of integers, got 'first'"),
    ],
)
def test_refused_axes(out_axis: Any, error: type[Exception], said: str) -> None:
    x = np.zeros((2, 5, 7, 3))
    with pytest.raises(error) as caught:
        fastbn.normalize(x, np.zeros(3), np.ones(3), axis=-1, out_axis=out_axis)
    assert str(caught.value) == said


def test_an_axis_named_twice() -> None:
    with pytest.raises(ValueError, match=r"^out_axis must name each axis once, got -1 again$"):
        fastbn.normalize(np.zeros((2, 5, 7, 3)), np.zeros((5, 3)), np.ones((5, 3)), axis=(1, 3), out_axis=(3, -1))


def test_refused_outputs() -> None:
    x = np.zeros((2, 5, 7, 3), np.float32)
    arguments = {"x": x, "mean": np.zeros(3), "var": np.ones(3)}

    def refused(out: Any, error: type[Exception], said: str) -> None:
        before = contents(arguments | {"out": out})
        with pytest.raises(error) as caught:
            fastbn.normalize(**arguments, axis=-1, out_axis=1, out=out)
        assert str(caught.value) == said
        assert contents(arguments | {"out": out}) == before

    said = "out must have the result's shape (2, 3, 5, 7), got "
    refused(np.ones((2, 5, 7, 3), np.float32), ValueError, said + "(2, 5, 7, 3)")
    refused(np.ones((2, 3, 5), np.float32), ValueError, said + "(2, 3, 5)")
    refused(x, ValueError, said + "(2, 5, 7, 3)")
    refused(x.reshape(2, 3, 5, 7), ValueError, "out must share no memory with x, got overlapping arrays")
    refused(
        np.ones((2, 3, 5, 7), np.int32),
        TypeError,
        "out must have dtype float32, float64, float16 or bfloat16, got int32",
    )


def test_instruction_sets_agree(rng: np.random.Generator) -> None:
    mean, var = statistics(rng, 3)
    x = images(rng, (3, 61, 67, 3), np.uint8)
    found = set()
    for isa in fastbn._core.isas():
        with using_isa(isa):
            found.add(bits(fastbn.normalize(x, mean, var, axis=-1, out_axis=1)))
    assert len(found) == 1
