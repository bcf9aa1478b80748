"""Promise: moments of 8- and 16-bit integers and of bool are exact, and then rounded; those of 64 bits lose nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastbn
from support.isas import using_isa
from support.layouts import dense, fortran, misaligned, padded, permuted, stepped
from support.marks import every_isa
from support.oracle import Array, exact_moments

pytestmark = pytest.mark.untraced

SMALL = tuple(np.dtype(d) for d in (np.uint8, np.int8, np.uint16, np.int16, bool, ">u2", ">i2"))
# Rows that fill registers and do not, columns that are folded and are not, channels of several tiles.
SHAPES: tuple[tuple[tuple[int, ...], int], ...] = (
    ((1, 1), 1),
    ((2, 1), 1),
    ((7, 5), 1),
    ((300, 3), 1),
    ((259, 17), 1),
    ((131, 130), 1),
    ((9, 333), 1),
    ((3, 5000), 0),
    ((5, 3, 7, 7), 1),
    ((40, 3, 3, 3), 1),
    ((2, 3, 65, 67), 1),
    ((2, 33, 31, 3), 3),
    ((1, 20, 20, 64), 3),
    ((3, 4, 5, 6), 2),
)


def whole_range(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
    if np.dtype(dtype).kind == "b":
        return rng.random(shape) < 0.5
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, np.dtype(dtype).newbyteorder("="), endpoint=True).astype(dtype)


def upper_end(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
    """Return the type's two largest values, of which the sums are largest beside the spread."""
    ones = rng.random(shape) < 0.01
    return ~ones if np.dtype(dtype).kind == "b" else (np.iinfo(dtype).max - ones).astype(dtype)


def lower_end(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
    if np.dtype(dtype).kind == "b":
        return np.zeros(shape, dtype)
    return np.full(shape, np.iinfo(dtype).min, dtype)


def assert_exact(x: Array, axis: int) -> None:
    """Assert that mean and m2 are the exact ones, rounded once."""
    moments = fastbn.moments(x, axis=axis)
    for mean, m2, values in zip(moments.mean, moments.m2, np.moveaxis(x, axis, 0), strict=True):
        exact_mean, exact_m2 = exact_moments(values.astype(np.float64).ravel())
        assert mean == float(exact_mean)
        assert m2 == float(exact_m2)


@pytest.mark.parametrize("values", [whole_range, upper_end, lower_end])
@pytest.mark.parametrize("dtype", SMALL, ids=str)
@every_isa
def test_small_integers(dtype: Any, values: Callable[..., Array], rng: np.random.Generator) -> None:
    for shape, axis in SHAPES:
        assert_exact(values(rng, shape, dtype), axis)


@pytest.mark.parametrize("place", [fortran, stepped(2, -1, 3), padded(1, 2, 3), permuted(2, 0, 1), misaligned, dense])
@pytest.mark.parametrize("dtype", SMALL, ids=str)
def test_memory_layouts(dtype: Any, place: Callable[[Array], Array], rng: np.random.Generator) -> None:
    for shape in ((6, 5, 40), (70, 3, 5)):
        for axis in range(3):
            assert_exact(place(whole_range(rng, shape, dtype)), axis)


def test_truth_is_any_bit() -> None:
    x = np.arange(256, dtype=np.uint8).view(bool).reshape(128, 2)
    moments = fastbn.moments(x)
    assert moments.mean.tolist() == [127 / 128, 1.0]
    assert moments.m2.tolist() == [127 / 128, 0.0]


def test_threads_and_parts_change_nothing(rng: np.random.Generator) -> None:
    x = whole_range(rng, (40_000, 37), np.uint16)
    found = set()
    for isa in fastbn._core.isas():
        with using_isa(isa):
            for threads in (1, 2, 3):
                fastbn.set_num_threads(threads)
                moments = fastbn.moments(x)
                found.add(moments.mean.tobytes() + moments.m2.tobytes())
    fastbn.set_num_threads(None)
    assert len(found) == 1


@pytest.mark.parametrize("dtype", SMALL[:5], ids=str)
def test_extremes_change_no_bit(dtype: Any, rng: np.random.Generator) -> None:
    x = whole_range(rng, (5000, 3), dtype)
    with_range = fastbn.Moments(extremes=True).update(x)
    assert with_range.min.tolist() == x.min(axis=0).tolist()
    assert with_range.max.tolist() == x.max(axis=0).tolist()
    moments = fastbn.moments(x)
    assert with_range.mean.tobytes() + with_range.m2.tobytes() == moments.mean.tobytes() + moments.m2.tobytes()


def test_training_normalizes_by_them(rng: np.random.Generator) -> None:
    for dtype in SMALL:
        x = whole_range(rng, (64, 33, 5), dtype)
        result = fastbn.batch_norm_train(x, axis=-1)
        for mean, var, values in zip(result.mean, result.var, np.moveaxis(x, -1, 0), strict=True):
            exact_mean, exact_m2 = exact_moments(values.astype(np.float64).ravel())
            assert mean == float(exact_mean)
            assert abs(var - float(exact_m2 / values.size)) <= 2.0**-52 * var  # two roundings


# 64 bits: seen less an origin, by other loops where values lie side by side.


@pytest.mark.parametrize("dtype", [np.int64, np.uint64], ids=str)
@pytest.mark.parametrize("spread", [100, 2**40, 2**51 - 1, 2**51, 2**61])
@every_isa
def test_wide_integers(spread: int, dtype: Any, rng: np.random.Generator) -> None:
    for shape, axis in SHAPES[2:]:
        x = (2**62 + rng.integers(-spread, spread, shape, endpoint=True)).astype(dtype)
        x.ravel()[: x.shape[-1]] = 2**62  # the origins
        values = np.moveaxis(x, axis, 0)
        moments = fastbn.moments(x, axis=axis)
        for mean, m2, channel in zip(moments.mean, moments.m2, values, strict=True):
            integers = [int(value) for value in channel.ravel()]
            total, n = sum(integers), len(integers)
            m2_times_n = n * sum(i * i for i in integers) - total * total
            assert abs(mean - total / n) <= 2.0**-52 * 2**62
            # As for float64, whose sums of 1024 values are good to 2^-43; beyond 2^53 values have been rounded too.
            assert abs(m2 - m2_times_n / n) <= 1e-12 * m2


@pytest.mark.parametrize("dtype", [np.int64, np.uint64], ids=str)
@pytest.mark.parametrize("result", [np.float32, np.float64])
def test_wide_integers_are_normalized_by_their_moments(dtype: Any, result: Any, rng: np.random.Generator) -> None:
    """float64 holds their mean to 512 only: a hundred deviations."""
    x = (2**62 + rng.integers(0, 20, (300, 5))).astype(dtype)
    y = fastbn.normalize(x, fastbn.moments(x[:150]) + fastbn.moments(x[150:]), eps=0.0, dtype=result)
    differences = (x - dtype(2**62)).astype(np.longdouble)
    wanted = (differences - differences.mean(axis=0)) / differences.std(axis=0)
    np.testing.assert_allclose(y.astype(np.longdouble), wanted, rtol=0, atol=4 * 4 * np.finfo(result).eps)
