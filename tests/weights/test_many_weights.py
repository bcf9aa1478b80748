"""Promise: of large masks and weights every element is looked at, whatever part of them a thread takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastbn
from support.assertions import assert_count, assert_relative, assert_train
from support.dtypes import BFLOAT16
from support.layouts import dense, fortran, misaligned, stepped
from support.marks import every_dtype, every_isa
from support.oracle import element_weights, train
from support.oracle import moments as expected_moments
from support.tolerances import FLOAT64_RTOL, VAR_RTOL

pytestmark = pytest.mark.untraced

Array = np.ndarray

# More bytes than one thread looks at alone, and no multiple of what it looks at together.
SHAPE = (90, 7, 601)
COUNT = math.prod(SHAPE)
PLACES: list[Callable[[Array], Array]] = [dense, fortran, misaligned, stepped(2, -1, 3)]
every_place = pytest.mark.parametrize("place", PLACES, ids=["dense", "fortran", "misaligned", "stepped"])
# At the ends, at the borders of 4096 elements, and anywhere.
POSITIONS = [0, 1, 4095, 4096, 4097, 8191, 123_457, COUNT - 4097, COUNT - 1]
TYPES = [np.float64, np.float32, np.float16, BFLOAT16, np.int8, np.int64, np.dtype(">f4")]


@every_place
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_one_bad_weight_is_found_wherever_it_is(place: Callable[[Array], Array], dtype: Any) -> None:
    x = np.ones(SHAPE, np.float32)
    for at in POSITIONS:
        weights = np.ones(COUNT, dtype)
        weights[at] = -3
        with pytest.raises(ValueError, match=r"^weights must be finite and not negative, got -3$"):
            fastbn.moments(x, weights=place(weights.reshape(SHAPE)))


@every_place
@every_isa
def test_the_first_bad_weight_is_named(place: Callable[[Array], Array], rng: np.random.Generator) -> None:
    """The first in the order of the axes, wherever memory has it."""
    x = np.ones(SHAPE, np.float32)
    texts = {-2.5: "-2.5", np.inf: "inf", -np.inf: "-inf", np.nan: "nan"}
    for first in texts:
        weights = rng.uniform(0, 2, SHAPE)
        early, late = sorted(rng.choice(COUNT, 2, replace=False))
        weights.flat[early] = first
        for second in texts:
            weights.flat[late] = second
            with pytest.raises(ValueError, match=rf"got {texts[first]}$"):
                fastbn.moments(x, weights=place(weights))


@every_place
@every_isa
def test_a_mask_may_leave_out_one(place: Callable[[Array], Array], rng: np.random.Generator) -> None:
    x = rng.standard_normal(SHAPE)
    everything = fastbn.moments(x, where=place(np.ones(SHAPE, bool)))
    assert everything == fastbn.moments(x)
    for at in POSITIONS:
        where = np.ones(SHAPE, bool)
        where.flat[at] = False
        expected = np.full(SHAPE[1], float(SHAPE[0] * SHAPE[2]))
        expected[np.unravel_index(at, SHAPE)[1]] -= 1
        assert_count(fastbn.moments(x, where=place(where)).count, expected)


@every_isa
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_sum_of_weights_is_exact(dtype: Any, rng: np.random.Generator) -> None:
    """Compared with the correction it is the sum of all, rounded once: a sum one by one is 1e-12 off."""
    n = 100_001
    x = rng.standard_normal((n, 3)).astype(np.float32)
    weights = rng.uniform(0, 1e-3, (n, 1)).astype(dtype)
    total = math.fsum(weights.ravel().tolist())
    running = np.zeros(3), np.ones(3)
    below = float(np.nextafter(total, 0))
    fastbn.batch_norm(x, *running, training=True, weights=weights, correction=below)
    with pytest.raises(ValueError, match=rf"^weights must sum to more than the correction of .*, got {total!r}$"):
        fastbn.batch_norm(x, *running, training=True, weights=weights, correction=total)


@pytest.mark.parametrize("shape", [(4, 3), (4, 1), (90, 7, 601)], ids=str)
def test_a_sum_beyond_float64_is_refused(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    weights = np.full(shape, 1e308)
    weights.flat[0] = 1
    with pytest.raises(ValueError, match=r"^weights must have a finite sum in each channel, got inf$"):
        fastbn.moments(np.ones((*shape[:1], max(shape[1], 3), *shape[2:])), weights=weights)
    fastbn.moments(rng.standard_normal((4, 3)), weights=np.array([[1e308], [1.0], [0.0], [2.0]]))


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 1), (1, 3, 5)], ids=str)
def test_sums_are_finite_channel_by_channel(shape: tuple[int, ...]) -> None:
    """Together they are not; nor would be as many of the largest weight."""
    weights = np.zeros(shape)
    weights[0, :, 0] = [1e307, 2e307, 1.5e307]
    x = np.arange(30.0).reshape(2, 3, 5)
    found = fastbn.moments(x, weights=weights)
    light = np.broadcast_to(weights / 1e307, x.shape)
    np.testing.assert_allclose(found.count, 1e307 * light.sum(axis=(0, 2)), rtol=1e-15)
    np.testing.assert_allclose(found.mean, (light * x).sum(axis=(0, 2)) / light.sum(axis=(0, 2)), rtol=1e-14)
    weights[0, 1, 0] = weights[-1, 1, -1] = 1.7e308
    with pytest.raises(ValueError, match=r"^weights must have a finite sum in each channel, got inf$"):
        fastbn.moments(x, weights=weights)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
@pytest.mark.parametrize("shape", [(3000, 5), (40, 5, 700)], ids=str)
def test_the_first_integer_that_counts(dtype: Any, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    """64-bit integers are seen as differences from it, wherever it is: none of it may be lost."""
    small = rng.integers(0, 100, shape)
    x = (10**15 + small).astype(dtype)
    count = shape[0] * math.prod(shape[2:])
    for left_out in (1, 1023, 1024, 1500, count - 3):
        where = (np.arange(count) >= left_out).reshape(shape[0], 1, *shape[2:])
        weights = rng.uniform(0, 2, shape) * (rng.random(shape) < 0.5)
        weights[-1] = 1
        for weighting in ({"where": where}, {"weights": weights}, {"where": where, "weights": weights}):
            result = fastbn.batch_norm_train(x, **weighting)
            expected = train(small.astype(np.float64), p=element_weights(x.shape, **weighting))
            assert_relative(result.var, expected.biased, VAR_RTOL[np.dtype(np.float64)])
            # A few units in the last place of the largest.
            assert_relative(result.y, expected.y, 4 * FLOAT64_RTOL, scale=np.abs(expected.y).max())


@every_isa
@every_dtype
@pytest.mark.parametrize("shape", [(150, 32), (150, 37), (20, 5, 64), (20, 5, 49), (300, 5, 16)], ids=str)
def test_row_weights_where_nan_is_omitted(dtype: Any, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    x = rng.normal(3, 2, shape).astype(dtype)
    x[rng.random(shape) < 0.2] = np.nan
    weights = rng.uniform(0, 2, (shape[0], *[1] * (len(shape) - 1)))
    weights[rng.random(shape[0]) < 0.3] = 0
    weights[rng.random(shape[0]) < 0.3] = 1
    weights[7], x[7] = 8, np.nan  # the heaviest row is no help
    x[9, 1] = np.nan
    counts = ~np.isnan(x)
    expected = expected_moments(np.where(counts, x, 0), p=weights * counts)
    found = fastbn.Moments(nan="omit", extremes=True).update(x, weights=weights)
    assert_relative(found.mean, expected.mean, FLOAT64_RTOL)
    assert_relative(found.m2, expected.m2, VAR_RTOL[np.dtype(dtype)])
    assert_count(found.count, expected.count)
    seen = np.where(counts & (weights > 0), x, np.nan)
    axes = tuple(a for a in range(len(shape)) if a != 1)
    np.testing.assert_array_equal(found.min, np.nanmin(seen, axis=axes))
    np.testing.assert_array_equal(found.max, np.nanmax(seen, axis=axes))


@every_isa
@every_dtype
@pytest.mark.parametrize("shape", [(150, 32), (20, 5, 64)], ids=str)
def test_rows_that_weigh_one_are_added_as_without_weights(
    dtype: Any, shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    """A mask by row is weights of 1 and 0; what it keeps has the mean of an array without the rest."""
    x = rng.normal(1e4, 1, shape).astype(dtype)
    where = rng.random((shape[0], *[1] * (len(shape) - 1))) < 0.7
    where[0] = True
    mixed = np.where(where, 1.0, 0.3)
    for weighting in ({"where": where}, {"weights": mixed}, {"where": where, "weights": mixed}):
        result = fastbn.batch_norm_train(x, **weighting)
        assert_train(x, result, p=element_weights(x.shape, **weighting))
