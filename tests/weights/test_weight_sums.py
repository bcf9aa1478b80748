"""Promise: running statistics, correction= and count= go by the sum of the weights; a small one is not remembered."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastbn
import fastbn._core
from support import oracle
from support.assertions import assert_relative, assert_train
from support.marks import every_isa
from support.oracle import element_weights
from support.tolerances import FLOAT64_RTOL, VAR_RTOL
from support.weights import random_weighting

pytestmark = pytest.mark.untraced


# Running statistics.


@every_isa
@pytest.mark.parametrize("correction", [0, 1, 0.5, 3])
def test_running_statistics(rng: np.random.Generator, correction: float) -> None:
    x = 3 + 2 * rng.standard_normal((6, 4, 5))
    for turn, mask in enumerate(((6, 1, 1), (6, 1, 5), (6, 4, 5), (6, 4, 1), (1, 1, 5), (5,))):
        weighting = random_weighting(rng, mask, turn)
        found = oracle.moments(x, p=element_weights(x.shape, **weighting))
        running = rng.standard_normal(4), rng.uniform(1, 2, 4)
        updates = (found.count > correction).astype(bool)
        with np.errstate(all="ignore"):
            wanted = (
                np.where(updates, oracle.updated(running[0], found.mean, 0.3), running[0]),
                np.where(
                    updates,
                    oracle.updated(running[1], found.m2 / (found.count - np.longdouble(correction)), 0.3),
                    running[1],
                ),
            )
        fastbn.batch_norm(x, *running, training=True, momentum=0.3, correction=correction, **weighting)
        # A few float64 operations on numbers of order one, P - correction at worst a tenth of P.
        assert_relative(running[0], wanted[0], 2e-15, atol=2e-15)
        assert_relative(running[1], wanted[1], 2e-14)


@every_isa
@pytest.mark.parametrize("correction", [0, 1, 2])
def test_masks_that_keep_too_little_are_not_remembered(correction: float, rng: np.random.Generator) -> None:
    x = rng.standard_normal((7, 3, 4))
    before = rng.standard_normal(3), rng.uniform(1, 2, 3)
    where = np.zeros((7, 3, 4), bool)
    where[0, 0, 0] = where[3, 1, 1] = where[4, 1, 1] = True
    where[:4, 2] = True
    running = before[0].copy(), before[1].copy()
    fastbn.batch_norm(x, *running, training=True, where=where, correction=correction)
    for now, then in zip(running, before, strict=True):
        assert (now != then).tolist() == [correction < 1, correction < 2, True]


@every_isa
@pytest.mark.parametrize("correction", [0, 1, 2.5])
@pytest.mark.parametrize("kept", [0, 1, 2, 3])
@pytest.mark.parametrize("mask", [(2100, 1, 1), (2100, 1, 4), (1, 1, 4), (4,)], ids=str)
def test_masks_of_all_channels_are_as_weights_of_zero_and_one(
    correction: float, kept: int, mask: tuple[int, ...], rng: np.random.Generator
) -> None:
    """What they leave is remembered, or nothing where they leave nothing, or too little, as a batch of one value is."""
    shape = (2100 if len(mask) == 3 and mask[0] > 1 else 1, 3, 4 if mask[-1] > 1 else 1)
    x = rng.standard_normal(shape)
    where = np.zeros(mask, bool)
    where.reshape(-1)[rng.choice(where.size, kept, replace=False)] = True
    before = rng.standard_normal(3), rng.uniform(1, 2, 3)
    found = []
    for weighting in ({"where": where}, {"weights": where.astype(float)}, {"where": where, "weights": where + 0.0}):
        running = before[0].copy(), before[1].copy()
        out = np.full(x.shape, 123.0)
        call = {"training": True, "correction": correction, "out": out, **weighting}
        if kept > correction or kept == 0:
            fastbn.batch_norm(x, *running, **call)
            found.append(running)
            continue
        with pytest.raises(ValueError, match=rf"^w(here|eights) must .*correction of {correction} .*, got {kept}$"):
            fastbn.batch_norm(x, *running, **call)
        np.testing.assert_array_equal(running, before)
        assert (out == 123.0).all()
        fastbn.batch_norm_train(x, **weighting)
        layer = fastbn.BatchNorm(3, correction=correction, on_single="biased")
        layer(x, **weighting)
        assert layer.running_mean.all()
    for one in found:
        np.testing.assert_allclose(one, found[0] if kept else before, rtol=1e-13)


@every_isa
@pytest.mark.parametrize(("correction", "total"), [(1, 1.0), (1, 0.999), (2.5, 2.5), (1, 1e-300)])
@pytest.mark.parametrize("mask", [(8, 1, 1), (8, 1, 4), (1, 1, 4), (4,), (), (8, 1, 1, 1)], ids=str)
def test_weights_that_sum_to_too_little(
    correction: float, total: float, mask: tuple[int, ...], rng: np.random.Generator
) -> None:
    x = rng.standard_normal((8, 3, 4)) if len(mask) < 4 else rng.standard_normal((8, 3, 2, 2))
    ones = np.broadcast_to(np.ones(mask), (x.shape[0], 1, *x.shape[2:]))
    weights = np.full(mask, total / ones.size)  # over 8 or 32, powers of two: the sum is exact
    running = rng.standard_normal(3), rng.uniform(1, 2, 3)
    before = [a.copy() for a in running]
    out = np.full(x.shape, 123.0)
    with pytest.raises(ValueError, match=r"^weights must .*, got "):
        fastbn.batch_norm(x, *running, training=True, correction=correction, weights=weights, out=out)
    np.testing.assert_array_equal(running, before)
    assert (out == 123.0).all()
    # There is nothing wrong with them where nothing is to be remembered.
    result = fastbn.batch_norm_train(x, weights=weights)
    assert_train(x, result, p=element_weights(x.shape, weights=weights))
    fastbn.batch_norm(x, training=True, correction=correction, weights=weights)
    fastbn.batch_norm(x, *running, correction=correction, weights=weights)
    np.testing.assert_array_equal(running, before)


@every_isa
def test_weights_of_each_channels_own_may_sum_to_little(rng: np.random.Generator) -> None:
    """As with masks, the channels that have too little are left alone."""
    x = rng.standard_normal((8, 3, 4))
    weights = np.broadcast_to(np.array([[1 / 32], [1 / 16], [0]]), x.shape)
    running = np.full(3, 5.5), np.full(3, 7.5)
    fastbn.batch_norm(x, *running, training=True, weights=weights)
    assert (running[0] != 5.5).tolist() == [False, True, False]
    assert (running[1] != 7.5).tolist() == [False, True, False]


@every_isa
def test_one_value_per_channel_may_weigh_as_much_as_several(rng: np.random.Generator) -> None:
    """Seen three times it has a variance: zero."""
    x = rng.standard_normal((4, 3))
    weights = np.array([[0], [3], [0], [0]])
    running = np.zeros(3), np.ones(3)
    y = fastbn.batch_norm(x, *running, training=True, weights=weights, momentum=1)
    assert not y[1].any()
    np.testing.assert_array_equal(running, [x[1], np.zeros(3)])


@every_isa
@pytest.mark.parametrize("correction", [0, 1, 0.5, 3.25])
def test_variance_of_moments(correction: float, rng: np.random.Generator) -> None:
    x = 3 + 2 * rng.standard_normal((6, 4, 5))
    weights = rng.uniform(0, 1, (6, 4, 5))
    weights[:, 1] *= correction / 50  # too little by far
    found = fastbn.moments(x, weights=weights)
    expected = oracle.moments(x, p=element_weights(x.shape, weights=weights))
    with np.errstate(all="ignore"):
        enough = expected.count > correction
        wanted = np.where(enough, expected.m2 / (expected.count - np.longdouble(correction)), np.nan)
    # The sum of the weights less correction is at worst a tenth of that sum.
    assert_relative(found.var(correction), wanted, 10 * VAR_RTOL[np.dtype(np.float64)])
    assert np.isnan(found.var(correction)).tolist() == [False, True, False, False]
    np.testing.assert_allclose(found.std(correction), np.sqrt(found.var(correction)), rtol=FLOAT64_RTOL)


# The count that backward may be given.


def test_a_count_without_weights_is_that_of_all(rng: np.random.Generator) -> None:
    x, dy = rng.standard_normal((2, 6, 4, 5))
    _, mean, _, invstd, count = fastbn.batch_norm_train(x)
    assert count == 30
    saved = {"mean": mean, "invstd": invstd}
    for one, other in zip(
        fastbn.batch_norm_backward(dy, x, **saved, count=count), fastbn.batch_norm_backward(dy, x, **saved), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("training", [True, False])
def test_counts_that_are_none(training: bool, rng: np.random.Generator) -> None:
    x = rng.standard_normal((6, 4, 5))
    out = np.full(x.shape, 123.0)
    saved: Any = {"mean": np.zeros(4), "invstd": np.ones(4), "where": np.arange(5) < 3, "training": training}
    for bad, error in (
        (np.ones(3), ValueError),
        (np.ones((4, 1)), ValueError),
        (np.ones(()), ValueError),
        (np.ones(4, complex), TypeError),
        ("30", TypeError),
        (object(), TypeError),
    ):
        with pytest.raises(error, match=r"^count must .*, got "):
            fastbn.batch_norm_backward(x, x, **saved, count=bad, out=out)
        assert (out == 123.0).all()
