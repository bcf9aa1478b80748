"""Promise: where= and weights= say what counts in the statistics: a weight of 3 is a value seen three times.

pytestmark = pytest.mark.untraced

p = weights * where, P = sum(p), mean = sum(p x) / P, var = sum(p (x - mean)**2) / P; what does not count has no
influence whatever, and yet a y.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastbn
import fastbn._core
import reference
import scratch
from helpers import (
    BFLOAT16,
    FLOATS,
    LAYOUTS,
    VAR_RTOL,
    Layout,
    assert_count,
    assert_gradients,
    assert_normalized,
    assert_relative,
    assert_rounded,
    assert_train,
    assert_ulps,
    bits,
    dense,
    differing,
    everything,
    fortran,
    layout_id,
    misaligned,
    packed_record,
    padded,
    parameters,
    readonly,
    stepped,
    using_isa,
)

Array = np.ndarray
Counting = dict[str, Array]
ISAS = fastbn._core.isas()

every_isa = pytest.mark.usefixtures("isa")
every_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=layout_id)
every_dtype = pytest.mark.parametrize("dtype", FLOATS)
# One for each way of reading memory: columns of one channel and of many, runs of one, several channels to a vector.
SHAPES = [(33, 1), (65, 3), (33, 20), (9, 64), (7, 300), (6, 5, 9), (6, 5, 7, 7), (6, 5, 4, 4), (6, 5, 3, 3)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)

# What is counted. A mask has x's length along some of its axes and 1 along the others.


def subsets(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return every shape that broadcasts to `shape` along some of its axes of more than one element, a few if many."""
    long = [a for a, n in enumerate(shape) if n > 1]
    chosen = [kept for size in range(len(long) + 1) for kept in itertools.combinations(long, size)]
    step = max(1, len(chosen) // 16)
    return [tuple(n if a in kept else 1 for a, n in enumerate(shape)) for kept in [*chosen[::step], tuple(long)]]


def a_mask(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.random(shape) < 0.7


def some_weights(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Return weights of any size below 2, a third of them zero."""
    return np.where(rng.random(shape) < 1 / 3, 0, rng.uniform(0, 2, shape))


def times(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.integers(0, 4, shape)


def some_counting(rng: np.random.Generator, shape: tuple[int, ...], turn: int) -> Counting:
    """Return a mask, weights, integer weights or a mask and weights, by turns, at least one value counted."""
    counting: Counting = {}
    if turn % 4 in (0, 3):
        counting["where"] = a_mask(rng, shape)
    if turn % 4 in (1, 3):
        counting["weights"] = some_weights(rng, shape)
    if turn % 4 == 2:
        counting["weights"] = times(rng, shape).astype((np.int64, np.uint8, np.int32)[turn // 4 % 3])
    for values in counting.values():
        values[(0,) * len(shape)] = 1
    return counting


def weighting(x: Array, counting: Counting) -> Array:
    return reference.weighting(x.shape, **counting)


# Against the oracle.


@every_layout
@every_dtype
def test_statistics_and_y(layout: Layout, dtype: Any, rng: np.random.Generator) -> None:
    x = layout.fill(rng, dtype, scale=2, offset=3)
    weight, bias = parameters(rng, layout.features)
    for turn, shape in enumerate(subsets(x.shape)):
        counting = some_counting(rng, shape, turn)
        p = weighting(x, counting)
        result = fastbn.batch_norm_train(x, weight, bias, axis=layout.axis, **counting)
        assert_train(x, result, weight, bias, axis=layout.axis, p=p)
        assert result.count.shape == layout.features
        found = fastbn.moments(x, axis=layout.axis, **counting)
        assert_count(found.count, reference.moments(x, layout.axis, p=p).count)
        none = found.count == 0
        np.testing.assert_array_equal(np.isnan(found.mean), none)
        np.testing.assert_array_equal(found.m2[none], 0)
        np.testing.assert_array_equal(found.mean[~none], result.mean[~none])
        np.testing.assert_allclose(found.var()[~none], result.var[~none], rtol=4e-16)
        y = fastbn.batch_norm(x, None, None, weight, bias, training=True, axis=layout.axis, **counting)
        np.testing.assert_array_equal(y, result.y)


@every_layout
@every_dtype
def test_gradients(layout: Layout, dtype: Any, rng: np.random.Generator) -> None:
    x = layout.fill(rng, dtype, scale=2, offset=3)
    weight, _ = parameters(rng, layout.features)
    dys = layout.fill(rng, dtype, offset=0.5), (0.5 + rng.standard_normal(x.shape)).astype(dtype)
    for turn, shape in enumerate(subsets(x.shape)):
        counting = some_counting(rng, shape, turn)
        p = weighting(x, counting)
        _, mean, _, invstd, count = fastbn.batch_norm_train(x, axis=layout.axis, **counting)
        saved = {"mean": mean, "invstd": invstd, "axis": layout.axis}
        dy = dys[turn % 2]
        for known in (None, count):
            got = fastbn.batch_norm_backward(dy, x, weight, **saved, **counting, count=known)
            assert_gradients(got, dy, x, weight, **saved, p=p)
        # Where statistics are constants, it does not matter what they were of.
        frozen = fastbn.batch_norm_backward(dy, x, weight, **saved, **counting, training=False)
        plain = fastbn.batch_norm_backward(dy, x, weight, **saved, training=False)
        for one, other in zip(frozen, plain, strict=True):
            np.testing.assert_array_equal(one, other)


@every_layout
def test_same_bits_on_every_isa(layout: Layout) -> None:
    for turn, shape in enumerate(subsets(layout.shape)):
        rng = np.random.default_rng(29)
        dtype = FLOATS[turn % 2]
        x, dy = layout.fill(rng, dtype, 2, 3), layout.fill(rng, dtype)
        given = (x, dy, *parameters(rng, layout.features), layout.axis)
        # Running statistics need more than one value.
        counting = some_counting(rng, shape, turn) if np.prod(shape) > 1 else {"weights": np.full(shape, 0.3)}
        if "weights" in counting:
            counting["weights"][(0,) * len(shape)] = 2
        found = []
        for isa in ISAS:
            with using_isa(isa):
                found.append(everything(*given, **counting))
        for other in found[1:]:
            assert differing(other, found[0]) == [], shape


# By hand.


@every_isa
@every_dtype
def test_worked_example(dtype: type) -> None:
    x = np.array([[1.0, 7.0], [3.0, 7.0], [100.0, -8.0], [5.0, 1.0]], dtype)
    where = np.array([[True], [True], [False], [True]])
    y, mean, var, invstd, count = fastbn.batch_norm_train(x, where=where, eps=0)
    assert count.tolist() == [3, 3]
    assert mean.tolist() == [3, 5]
    # (4 + 0 + 4) / 3 and (4 + 4 + 16) / 3.
    np.testing.assert_allclose(var, [8 / 3, 8], rtol=4e-16)
    np.testing.assert_allclose(invstd, [(3 / 8) ** 0.5, 8**-0.5], rtol=4e-16)
    np.testing.assert_allclose(y[2], [97 * (3 / 8) ** 0.5, -13 / 8**0.5], rtol=4 * np.finfo(dtype).eps)
    # 1, 3, 3, 3 and 7, 7, 7, 7.
    weights = np.array([[1], [3], [0], [0]])
    y, mean, var, _, count = fastbn.batch_norm_train(x, weights=weights, eps=1)
    assert (count.tolist(), mean.tolist(), var.tolist()) == ([4, 4], [2.5, 7], [0.75, 0])
    np.testing.assert_allclose(y[:, 1], [0, 0, -15, -6], rtol=4 * np.finfo(dtype).eps)
    found = fastbn.moments(x, weights=weights, where=where)
    assert (found.count.tolist(), found.mean.tolist(), found.m2.tolist()) == ([4, 4], [2.5, 7], [3, 0])
    assert found.var(1).tolist() == [1, 0]
    assert np.isnan(found.var(4)).all()
    running_mean, running_var = np.zeros(2), np.ones(2)
    fastbn.batch_norm(x, running_mean, running_var, training=True, weights=weights, momentum=0.5)
    assert (running_mean.tolist(), running_var.tolist()) == ([1.25, 3.5], [1, 0.5])


@every_isa
def test_a_mask_of_each_channels_own() -> None:
    x = np.array([[1.0, 2.0, 9.0], [3.0, 4.0, 9.0], [5.0, 8.0, 9.0]])
    where = np.array([[True, True, False], [True, False, False], [False, True, False]])
    y, mean, var, invstd, count = fastbn.batch_norm_train(x, [1.0, 1.0, 1.0], [0.0, 0.0, 7.0], where=where, eps=0)
    assert count.tolist() == [2, 2, 0]
    assert (mean.tolist(), var.tolist(), invstd.tolist()) == ([2, 5, 0], [1, 9, 0], [1, 1 / 3, 0])
    np.testing.assert_allclose(y, [[-1, -1, 7], [1, -1 / 3, 7], [3, 1, 7]], rtol=1e-15)
    found = fastbn.moments(x, where=where)
    np.testing.assert_array_equal(found.mean, [2, 5, np.nan])
    assert (found.m2.tolist(), found.count.tolist()) == ([2, 18, 0], [2, 2, 0])
    np.testing.assert_array_equal(found.var(), [1, 9, np.nan])


def test_the_oracle_agrees_with_repetition(rng: np.random.Generator) -> None:
    """Weighted sums in long double against exact ones of the repeated values."""
    x, seen = 1e6 + rng.standard_normal((40, 3)), rng.integers(0, 5, 40)
    found = reference.moments(x, p=reference.weighting(x.shape, weights=seen[:, None]))
    for c in range(3):
        mean, m2 = reference.exact_moments(np.repeat(x[:, c], seen))
        assert found.count[c] == seen.sum()
        assert_relative(found.mean[c], reference.longdouble_of(mean), 1e-18)
        assert_relative(found.m2[c], reference.longdouble_of(m2), 1e-17)


# Another road to the same numbers: values repeated, values left out.


@every_isa
@every_dtype
@pytest.mark.parametrize("shape", [(40, 3), (40, 20), (13, 5, 9), (13, 5, 7, 7), (13, 5, 3, 3)], ids=str)
def test_integer_weights_repeat_samples(dtype: Any, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    x = (3 + 2 * rng.standard_normal(shape)).astype(dtype)
    weight, bias = parameters(rng, shape[1:2])
    seen = rng.integers(0, 5, shape[0])
    longer = np.repeat(x, seen, axis=0)
    kinds = (np.uint8, np.int64, np.float32, np.float64)
    for kind in kinds:
        weights = seen.astype(kind).reshape(-1, *[1] * (x.ndim - 1))
        result = fastbn.batch_norm_train(x, weight, bias, weights=weights)
        assert (result.count == longer.size // shape[1]).all()
        repeated = result._replace(y=np.repeat(result.y, seen, axis=0), count=int(result.count[0]))
        assert_train(longer, repeated, weight, bias)
        for correction in (0, 1, 2.5):
            running = np.zeros(shape[1]), np.ones(shape[1])
            fastbn.batch_norm(x, *running, training=True, weights=weights, correction=correction)
            found = reference.moments(longer)
            assert_relative(running[0], found.mean / 10, VAR_RTOL[x.dtype], atol=1e-15)
            wanted = 0.9 + found.m2 / (found.count - np.longdouble(correction)) / 10
            assert_relative(running[1], wanted, VAR_RTOL[x.dtype], atol=1e-15)
    # A copy's share of its sample's gradient; dx is what the copies get together.
    dy = rng.standard_normal(shape).astype(dtype)
    dy[seen == 0] = 0
    saved = {"mean": result.mean, "invstd": result.invstd}
    copies = np.repeat(seen, seen).reshape(-1, *[1] * (x.ndim - 1))
    share = np.repeat(dy.astype(np.longdouble), seen, axis=0) / copies
    expected = reference.backward(share, longer, weight, **saved)
    got = fastbn.batch_norm_backward(dy, x, weight, **saved, weights=weights)
    together = np.zeros(shape, np.longdouble)
    np.add.at(together, np.repeat(np.arange(shape[0]), seen), expected.dx)
    rtol = 2e-6 if dtype == np.float32 else 1e-12
    assert_relative(got.dx, together, rtol, 4 * np.max(expected.dx_scale))
    assert_relative(got.dweight, expected.dweight, rtol, expected.dweight_scale * 2)
    assert_relative(got.dbias, expected.dbias, rtol, expected.dbias_scale * 2)


@every_isa
@every_dtype
@pytest.mark.parametrize(
    ("shape", "mask"),
    [
        ((40, 3), (40, 1)),
        ((9, 64), (9, 1)),
        ((13, 5, 9), (13, 1, 1)),
        ((13, 5, 9), (13, 1, 9)),
        ((13, 5, 9), (1, 1, 9)),
        ((13, 5, 7, 7), (13, 1, 7, 7)),
        ((13, 5, 4, 4), (1, 1, 4, 1)),
        ((13, 5, 3, 3), (3,)),
        ((13, 5, 3, 3), (13, 1, 1, 3)),
    ],
    ids=str,
)
def test_a_mask_leaves_values_out(
    dtype: Any, shape: tuple[int, ...], mask: tuple[int, ...], rng: np.random.Generator
) -> None:
    x = (3 + 2 * rng.standard_normal(shape)).astype(dtype)
    dy = rng.standard_normal(shape).astype(dtype)
    weight, bias = parameters(rng, shape[1:2])
    where = rng.random(mask) < 0.6
    chosen = np.broadcast_to(where, shape)

    def selected(values: Array) -> Array:
        """The counted entries as (count, channels)."""
        return np.stack([values[:, c][chosen[:, c]] for c in range(shape[1])], axis=1)

    short = selected(x)
    result = fastbn.batch_norm_train(x, weight, bias, where=where)
    assert_train(short, result._replace(y=selected(result.y), count=int(result.count[0])), weight, bias)
    running = np.zeros(shape[1]), np.ones(shape[1])
    fastbn.batch_norm(x, *running, training=True, where=where, momentum=1)
    found = reference.moments(short)
    np.testing.assert_array_equal(running[0], result.mean)
    assert_relative(running[1], found.m2 / (found.count - 1), VAR_RTOL[x.dtype])
    # With no gradient from what is left out, that of the rest is what it would be alone.
    saved = {"mean": result.mean, "invstd": result.invstd}
    dy = np.where(chosen, dy, 0).astype(dtype)
    got = fastbn.batch_norm_backward(dy, x, weight, **saved, where=where)
    assert not got.dx[~chosen].any()
    assert_gradients(got._replace(dx=selected(got.dx)), selected(dy), short, weight, **saved)


@every_isa
@every_dtype
def test_what_is_left_out_gets_the_frozen_gradient(dtype: Any, rng: np.random.Generator) -> None:
    """Exactly weight * invstd * dy: mean and invstd do not depend on it."""
    for shape in ((33, 5), (6, 5, 9), (6, 5, 7, 7), (6, 5, 3, 3)):
        x, dy = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
        where = rng.random((shape[0], *[1] * (len(shape) - 1))) < 0.5
        weight = np.array([1.0, -2.0, 0.5, 4.0, 0.25])
        mean, invstd = rng.standard_normal(5), np.array([1.0, 2.0, 0.5, 1.0, 8.0])
        dx = fastbn.batch_norm_backward(dy, x, weight, mean=mean, invstd=invstd, where=where).dx
        frozen = dy * reference.along(weight * invstd, shape, 1).astype(dtype)
        out = np.broadcast_to(~where, shape)
        np.testing.assert_array_equal(dx[out], frozen[out])
        assert (dx[~out] != frozen[~out]).any()


# What does not count has no influence whatever.

JUNK = (np.nan, np.inf, -np.inf, 3e38, -1e30, 1e-40, -0.0)


@every_isa
@every_dtype
@every_shape
@pytest.mark.parametrize("kind", ["where", "weights"])
def test_junk_that_does_not_count(dtype: Any, shape: tuple[int, ...], kind: str, rng: np.random.Generator) -> None:
    clean = (3 + 2 * rng.standard_normal(shape)).astype(dtype)
    weight, bias = parameters(rng, shape[1:2])
    for mask in [(shape[0], *[1] * (len(shape) - 1)), (shape[0], 1, *shape[2:]), shape]:
        counted = np.ones(mask, bool)
        counted[rng.random(mask) < 0.3] = False
        counted[3] = False
        counted[:2] = True
        counting = {kind: counted if kind == "where" else np.where(counted, rng.uniform(0.5, 2, mask), 0)}
        left_out = np.broadcast_to(~counted, shape)
        expected = fastbn.batch_norm_train(clean, weight, bias, **counting)
        assert_train(clean, expected, weight, bias, p=weighting(clean, counting))
        for junk in JUNK:
            x = np.where(left_out, np.asarray(junk).astype(dtype), clean)
            result = fastbn.batch_norm_train(x, weight, bias, **counting)
            for name in ("mean", "var", "invstd", "count"):
                assert bits(getattr(result, name)) == bits(getattr(expected, name)), (junk, name)
            np.testing.assert_array_equal(result.y[~left_out], expected.y[~left_out])
            # Its own y is computed from it all the same.
            statistics = result.mean, result.var
            plain = reference.normalize(x, *statistics, weight, bias)
            np.testing.assert_array_equal(np.isnan(result.y), np.isnan(plain))
            infinite = np.isinf(x)
            np.testing.assert_array_equal(result.y[infinite], plain[infinite])
            found = fastbn.moments(x, **counting)
            assert bits(found.mean) == bits(expected.mean)
            running = np.zeros(shape[1]), np.ones(shape[1])
            fastbn.batch_norm(x, *running, training=True, **counting)
            assert np.isfinite(running).all()


@every_isa
@every_dtype
def test_junk_that_counts_spoils_its_own_channel(dtype: Any, rng: np.random.Generator) -> None:
    for shape, axis in (((33, 5), 1), ((6, 5, 9), 1), ((6, 5, 3, 3), 1), ((6, 9, 5), 2)):
        clean = rng.standard_normal(shape).astype(dtype)
        where = rng.random((shape[0], *[1] * (len(shape) - 1))) < 0.7
        where[2] = True
        for junk in (np.nan, np.inf, -np.inf):
            x = np.moveaxis(clean.copy(), axis, 1)
            x[2, 3, ...] = junk
            x = np.moveaxis(x, 1, axis)
            got = fastbn.batch_norm_train(x, where=where, axis=axis)
            want = fastbn.batch_norm_train(clean, where=where, axis=axis)
            assert np.isnan(got.var).tolist() == [False, False, False, True, False]
            assert np.isnan(got.mean[3])
            y, unspoiled = np.moveaxis(got.y, axis, 1), np.moveaxis(want.y, axis, 1)
            assert np.isnan(y[:, 3]).all()
            np.testing.assert_array_equal(np.delete(y, 3, 1), np.delete(unspoiled, 3, 1))


@every_isa
@every_dtype
@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_channels_of_which_nothing_counts(dtype: Any, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    x, dy = ((1 + rng.standard_normal(shape)).astype(dtype) for _ in range(2))
    channels = shape[1]
    weight, bias = parameters(rng, (channels,), dtype)
    counted = np.ones(channels, bool)
    counted[[channels // 2, -1]] = False
    nothing = ~counted
    per_channel = reference.along(counted, shape, 1)
    random = rng.random(shape) < 0.6
    random[:2] = True
    for counting in (
        {"where": per_channel},
        {"weights": per_channel.astype(float)},
        {"where": random & per_channel},
        {"where": random, "weights": 2.5 * per_channel},
    ):
        result = fastbn.batch_norm_train(x, weight, bias, **counting)
        assert_train(x, result, weight, bias, p=weighting(x, counting))
        for statistic in result[1:]:
            np.testing.assert_array_equal(statistic[nothing], 0)
        for c in np.flatnonzero(nothing):
            np.testing.assert_array_equal(result.y[:, c], bias[c])
        found = fastbn.moments(x, **counting)
        np.testing.assert_array_equal(np.isnan(found.mean), nothing)
        np.testing.assert_array_equal(found.m2[nothing], 0)
        np.testing.assert_array_equal(found.count, result.count)
        assert np.isnan(found.var()[nothing]).all()
        running = np.full(channels, 5.5), np.full(channels, 7.5)
        fastbn.batch_norm(x, *running, training=True, **counting)
        assert (running[0][nothing] == 5.5).all()
        assert (running[1][nothing] == 7.5).all()
        assert (running[0][counted] != 5.5).all()
        assert (running[1][counted] != 7.5).all()
        saved = {"mean": result.mean, "invstd": result.invstd}
        got = fastbn.batch_norm_backward(dy, x, weight, **saved, **counting)
        assert_gradients(got, dy, x, weight, **saved, p=weighting(x, counting))
        assert not got.dx[:, nothing].any()
        np.testing.assert_array_equal(got.dweight[nothing], 0)


def test_nothing_counts_at_all(rng: np.random.Generator) -> None:
    x = rng.standard_normal((6, 3, 4))
    running = np.full(3, 5.5), np.full(3, 7.5)
    for mask in ((1, 1, 1), (6, 1, 1), (6, 3, 4), ()):
        where = np.zeros(mask, bool)
        y = fastbn.batch_norm(x, *running, None, [1.0, 2.0, 3.0], training=True, where=where)
        np.testing.assert_array_equal(y, np.broadcast_to([[1.0], [2.0], [3.0]], x.shape))
        assert (running[0] == 5.5).all()
        assert (running[1] == 7.5).all()
        result = fastbn.batch_norm_train(x, weights=where.astype(float))
        assert not result.y.any()
        assert result.count.tolist() == [0.0] * 3


# Weights that are all alike.

ALIKE = [
    {"where": True},
    {"weights": 1.0},
    {"weights": np.float32(0.1)},
    {"weights": 3.7},
    {"weights": np.int64(2)},
    {"weights": np.float16(0.5)},
    {"weights": 1e-300},
    {"weights": 1e300},
    {"weights": 5e-324},
    {"where": True, "weights": 0.3},
]


@every_layout
@pytest.mark.parametrize("isa", ISAS[-1:], indirect=True)
@every_dtype
def test_equal_weights_change_no_bit(layout: Layout, dtype: Any, isa: str, rng: np.random.Generator) -> None:
    del isa
    x, dy = layout.fill(rng, dtype, 2, 3), layout.fill(rng, dtype)
    weight, bias = parameters(rng, layout.features)
    plain = everything(x, dy, weight, bias, layout.axis)
    known = {"moments.count", "train.count"}
    count = x.size // max(1, int(np.prod(layout.features)))
    masks = subsets(x.shape)
    for turn, alike in enumerate(ALIKE):
        shape = masks[-1 - turn % len(masks)]
        counting = {name: np.full(shape, value) for name, value in alike.items()}
        result = fastbn.batch_norm_train(x, weight, bias, axis=layout.axis, **counting)
        value = np.longdouble(alike.get("weights", 1))
        assert_relative(result.count, np.full(layout.features, count * value), 1.2e-13)
        if set(alike) == {"where"}:
            assert (result.count == count).all()
        # A running variance remembers what its correction makes of the sum of the weights, m2 that sum's share.
        differs = known | ({"running_var", "moments.m2"} if alike.get("weights", 1) != 1 else set())
        if float(value) * count <= 1:
            differs |= {"eval.y", "running_mean"}  # not remembered at all
            got = bits_of_training(x, dy, weight, bias, layout.axis, counting)
        else:
            got = everything(x, dy, weight, bias, layout.axis, **counting)
            differs |= {"eval.y"} if "running_var" in differs else set()
        same = {name: plain[name.replace("backward(count)", "backward(training=True)")] for name in got}
        assert {name for name in got if got[name] != same[name]} <= differs, alike


def bits_of_training(x: Array, dy: Array, weight: Any, bias: Any, axis: Any, counting: Counting) -> dict[str, bytes]:
    """Return the bits of a training step without running statistics."""
    y, mean, var, invstd, _ = fastbn.batch_norm_train(x, weight, bias, axis=axis, **counting)
    saved = {"mean": mean, "invstd": invstd, "axis": axis}
    dx, dweight, dbias = fastbn.batch_norm_backward(dy, x, weight, **saved, **counting)
    names = ("train.y", "train.mean", "train.var", "train.invstd")
    found = dict(zip(names, (y, mean, var, invstd), strict=True))
    found |= {"backward(training=True).dx": dx, "backward(training=True).dweight": dweight}
    found |= {"backward(training=True).dbias": dbias, "moments.mean": fastbn.moments(x, axis=axis, **counting).mean}
    return {name: bits(array) for name, array in found.items()}


# Weights of any size.


@every_isa
@every_dtype
@pytest.mark.parametrize("size", [1e-300, 1e300, 1e-310, 5e-324])
@every_shape
def test_extreme_weights(dtype: Any, size: float, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    x, dy = ((3 + 2 * rng.standard_normal(shape)).astype(dtype) for _ in range(2))
    for mask in [(shape[0], *[1] * (len(shape) - 1)), (shape[0], 1, *shape[2:]), shape]:
        weights = size * rng.integers(0, 5, mask)
        counting = {"weights": weights}
        p = weighting(x, counting)
        result = fastbn.batch_norm_train(x, **counting)
        assert_train(x, result, p=p)
        saved = {"mean": result.mean, "invstd": result.invstd}
        for count in (None, result.count):
            got = fastbn.batch_norm_backward(dy, x, **saved, **counting, count=count)
            assert_gradients(got, dy, x, **saved, p=p)
        # What weighs little beside others has little influence, and nothing overflows.
        weights = np.where(rng.random(mask) < 0.5, weights, rng.uniform(0.5, 2, mask))
        # Two of the largest, so that the variance is not all rounding.
        weights[0], weights[1] = 3 * max(size, 1), 5 * max(size, 1)
        counting["weights"] = weights
        assert_train(x, fastbn.batch_norm_train(x, **counting), p=weighting(x, counting))


@every_isa
@every_dtype
@pytest.mark.parametrize("shape", [(65, 3), (10, 3, 7), (20, 3, 3, 3)], ids=str)
@pytest.mark.parametrize("sizes", [(1, 1e-12, 1e12), (1e-200, 1e-180, 1e-190), (1e280, 1e300, 1e290)], ids=str)
def test_channels_of_weights_of_another_size(
    dtype: Any, shape: tuple[int, ...], sizes: tuple[float, ...], rng: np.random.Generator
) -> None:
    """What weighs little beside another channel's values weighs as much as any in its own."""
    x = (3 + rng.standard_normal(shape)).astype(dtype)
    for mask in [(shape[0], *[1] * (len(shape) - 1)), shape]:
        weights = rng.integers(1, 5, mask) * reference.along(sizes, shape, 1)
        counting = {"weights": weights}
        p = weighting(x, counting)
        result = fastbn.batch_norm_train(x, **counting)
        assert_train(x, result, p=p)
        saved = {"mean": result.mean, "invstd": result.invstd}
        dy = rng.standard_normal(shape).astype(dtype)
        for count in (None, result.count):
            assert_gradients(fastbn.batch_norm_backward(dy, x, **saved, **counting, count=count), dy, x, **saved, p=p)


@every_isa
@every_dtype
def test_one_weight_outweighs_all(dtype: Any, rng: np.random.Generator) -> None:
    for shape in ((65, 5), (6, 5, 9), (6, 5, 3, 3)):
        x = rng.standard_normal(shape).astype(dtype)
        weights = np.full((shape[0], *[1] * (len(shape) - 1)), 1e-300)
        weights[4] = 1e300
        result = fastbn.batch_norm_train(x, weights=weights)
        heavy = reference.moments(x[4:5])
        assert_relative(result.mean, heavy.mean, VAR_RTOL[x.dtype], np.sqrt(heavy.m2), atol=1e-15)
        # Of one value the variance is 0, to the square of what the mean is rounded by.
        assert_relative(result.var, heavy.m2 / heavy.count, VAR_RTOL[x.dtype], atol=1e-31)
        size = 1 / np.sqrt(1e-5) if len(shape) == 2 else 1  # that of 1 / sqrt(var + eps)
        assert_ulps(result.y, reference.train(x, p=weighting(x, {"weights": weights})).y, size)


@every_isa
@pytest.mark.parametrize(
    ("dtype", "mean", "std"),
    [(np.float32, 1e6, 1), (np.float32, -1e4, 1), (np.float64, 1e8, 1), (np.float64, -1e12, 7)],
)
@pytest.mark.parametrize(
    "shape", [(500, 1), (500, 3), (300, 20), (200, 64), (40, 300), (100, 5, 49), (60, 5, 3, 3)], ids=str
)
def test_large_means(dtype: Any, mean: float, std: float, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    x = (mean + std * rng.standard_normal(shape)).astype(dtype)
    dy = rng.standard_normal(shape).astype(dtype)
    weight, bias = parameters(rng, shape[1:2])
    per_sample = (shape[0], *[1] * (len(shape) - 1))
    for turn, mask in enumerate((per_sample, shape, (shape[0], 1, *shape[2:]), per_sample)):
        counting = some_counting(rng, mask, turn)
        p = weighting(x, counting)
        result = fastbn.batch_norm_train(x, weight, bias, **counting)
        assert_train(x, result, weight, bias, p=p)
        saved = {"mean": result.mean, "invstd": result.invstd}
        got = fastbn.batch_norm_backward(dy, x, weight, **saved, **counting)
        assert_gradients(got, dy, x, weight, **saved, p=p)


@every_isa
@every_dtype
@pytest.mark.parametrize("value", [0.1, 1e6, -1e30, 1e-30])
def test_constant_channels_have_no_variance(dtype: Any, value: float, rng: np.random.Generator) -> None:
    """Whatever the weights, and whatever does not count."""
    for shape in ((65, 5), (9, 40), (6, 5, 9), (6, 5, 7, 7), (6, 5, 3, 3)):
        for mask in [(shape[0], *[1] * (len(shape) - 1)), shape]:
            weights = some_weights(rng, mask)
            weights[0] = 1.3
            x = np.where(np.broadcast_to(weights > 0, shape), np.asarray(value).astype(dtype), dtype(5))
            result = fastbn.batch_norm_train(x, weights=weights, eps=0)
            assert not result.var.any()
            assert not result.invstd.any()
            np.testing.assert_array_equal(result.mean, float(dtype(value)))
            assert not result.y.any()
            assert not fastbn.moments(x, weights=weights).m2.any()


# Running statistics.


@every_isa
@pytest.mark.parametrize("correction", [0, 1, 0.5, 3])
def test_running_statistics(rng: np.random.Generator, correction: float) -> None:
    x = 3 + 2 * rng.standard_normal((6, 4, 5))
    for turn, mask in enumerate(((6, 1, 1), (6, 1, 5), (6, 4, 5), (6, 4, 1), (1, 1, 5), (5,))):
        counting = some_counting(rng, mask, turn)
        found = reference.moments(x, p=weighting(x, counting))
        running = rng.standard_normal(4), rng.uniform(1, 2, 4)
        updates = (found.count > correction).astype(bool)
        with np.errstate(all="ignore"):
            wanted = (
                np.where(updates, reference.updated(running[0], found.mean, 0.3), running[0]),
                np.where(
                    updates,
                    reference.updated(running[1], found.m2 / (found.count - np.longdouble(correction)), 0.3),
                    running[1],
                ),
            )
        fastbn.batch_norm(x, *running, training=True, momentum=0.3, correction=correction, **counting)
        # A few float64 operations on numbers of order one, P - correction at worst a tenth of P.
        assert_relative(running[0], wanted[0], 2e-15, atol=2e-15)
        assert_relative(running[1], wanted[1], 2e-14)


@every_isa
@pytest.mark.parametrize("correction", [0, 1, 2])
def test_masks_that_count_too_little_are_not_remembered(correction: float, rng: np.random.Generator) -> None:
    x = rng.standard_normal((7, 3, 4))
    before = rng.standard_normal(3), rng.uniform(1, 2, 3)
    where = np.zeros((7, 3, 4), bool)
    where[0, 0, 0] = where[3, 1, 1] = where[4, 1, 1] = True
    where[:4, 2] = True
    running = before[0].copy(), before[1].copy()
    fastbn.batch_norm(x, *running, training=True, where=where, correction=correction)
    for now, then in zip(running, before, strict=True):
        assert (now != then).tolist() == [correction < 1, correction < 2, True]
    single = np.zeros((7, 1, 4), bool)
    single[2, 0, 2] = True
    running = before[0].copy(), before[1].copy()
    y = fastbn.batch_norm(x, *running, training=True, where=single, correction=correction)
    assert not y[2, :, 2].any()
    for now, then in zip(running, before, strict=True):
        assert (now != then).tolist() == [correction < 1] * 3


@every_isa
@pytest.mark.parametrize(("correction", "total"), [(1, 1.0), (1, 0.999), (1, 0.0), (2.5, 2.5), (0, 0.0), (1, 1e-300)])
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
    assert_train(x, result, p=weighting(x, {"weights": weights}))
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
@pytest.mark.parametrize("ddof", [0, 1, 0.5, 3.25])
def test_variance_of_moments(ddof: float, rng: np.random.Generator) -> None:
    x = 3 + 2 * rng.standard_normal((6, 4, 5))
    weights = rng.uniform(0, 1, (6, 4, 5))
    weights[:, 1] *= ddof / 50  # too little by far
    found = fastbn.moments(x, weights=weights)
    expected = reference.moments(x, p=weighting(x, {"weights": weights}))
    with np.errstate(all="ignore"):
        enough = expected.count > ddof
        wanted = np.where(enough, expected.m2 / (expected.count - np.longdouble(ddof)), np.nan)
    assert_relative(found.var(ddof), wanted, 1e-12)
    assert np.isnan(found.var(ddof)).tolist() == [False, True, False, False]
    np.testing.assert_allclose(found.std(ddof), np.sqrt(found.var(ddof)), rtol=4e-16)


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


# In inference nothing is counted.


@every_isa
def test_inference_is_not_influenced(rng: np.random.Generator) -> None:
    x = rng.standard_normal((6, 4, 5))
    running = rng.standard_normal(4), rng.uniform(1, 2, 4)
    expected = fastbn.batch_norm(x, *running)
    for turn, mask in enumerate(subsets(x.shape)):
        counting = some_counting(rng, mask, turn)
        np.testing.assert_array_equal(fastbn.batch_norm(x, *running, **counting), expected)
    np.testing.assert_array_equal(fastbn.batch_norm(x, *running, where=np.zeros((), bool)), expected)


# Types, shapes and memory of masks and weights.

PLACES: dict[str, Callable[[Array], Array]] = {
    "dense": dense,
    "fortran": fortran,
    "stepped": stepped(2, -1, 3),
    "padded": padded(1, 2, 3),
    "misaligned": misaligned,
    "record": packed_record,
    "readonly": readonly,
    "list": lambda values: values.tolist(),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("axis", [1, 2, (0, 2), ()], ids=str)
def test_any_memory(place: str, axis: Any, rng: np.random.Generator) -> None:
    """Wherever a mask's memory lies, and however often its elements are repeated."""
    for turn, shape in enumerate(subsets((9, 5, 12)) * 3):
        x, dy = rng.standard_normal((2, 9, 5, 12)).astype(FLOATS[turn % 2])
        kind, make = (("where", a_mask), ("weights", some_weights), ("weights", times))[turn % 3]
        values = make(rng, shape)
        values[(0, 0, 0)] = 1
        p = weighting(x, {kind: values})
        for given in (PLACES[place](values), np.broadcast_to(values, x.shape)):
            result = fastbn.batch_norm_train(x, axis=axis, **{kind: given})
            assert_train(x, result, axis=axis, p=p)
            saved = {"mean": result.mean, "invstd": result.invstd, "axis": axis}
            got = fastbn.batch_norm_backward(dy, x, **saved, **{kind: given})
            assert_gradients(got, dy, x, **saved, p=p)


@every_isa
@every_dtype
def test_any_type_of_weights(dtype: Any, rng: np.random.Generator) -> None:
    """Of the same values, the same bits."""
    x, dy = rng.standard_normal((2, 9, 5, 12)).astype(dtype)
    kinds = [np.float16, BFLOAT16, np.float32, np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64]
    for shape in ((9, 1, 1), (9, 5, 12), (12,), (5, 1), (1, 1, 12)):
        weights = rng.integers(0, 100, shape).astype(np.float64)
        want = bits_of_training(x, dy, None, None, 1, {"weights": weights})
        for kind in kinds:
            assert bits_of_training(x, dy, None, None, 1, {"weights": weights.astype(kind)}) == want, kind


@every_isa
@every_dtype
@every_shape
def test_any_byte_but_zero_is_true(dtype: Any, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    """As numpy has it, where an array of bytes is looked upon as one of truth values."""
    x, dy = rng.standard_normal((2, *shape)).astype(dtype)
    for mask in ((shape[0], *[1] * (len(shape) - 1)), shape):
        raw = rng.choice(np.array([0, 1, 2, 128, 255], np.uint8), mask)
        raw[0] = 2
        odd, plain = raw.view(bool), raw != 0
        assert bits_of_training(x, dy, None, None, 1, {"where": odd}) == bits_of_training(
            x, dy, None, None, 1, {"where": plain}
        )
        assert bits_of_training(
            x, dy, None, None, 1, {"where": odd, "weights": np.full(mask, 0.5)}
        ) == bits_of_training(x, dy, None, None, 1, {"where": plain, "weights": np.full(mask, 0.5)})


def test_fewer_dimensions_are_counted_from_behind(rng: np.random.Generator) -> None:
    x = rng.standard_normal((4, 3, 5))
    for mask in ((), (1,), (5,), (3, 1), (3, 5), (1, 5), (1, 1, 1)):
        where = rng.random(mask) < 0.6
        expected = fastbn.batch_norm_train(x, where=np.broadcast_to(where, x.shape))
        got = fastbn.batch_norm_train(x, where=where)
        for one, other in zip(got, expected, strict=True):
            np.testing.assert_array_equal(one, other)


@every_isa
def test_arguments_are_left_as_they_are(rng: np.random.Generator) -> None:
    x = rng.standard_normal((6, 4, 5))
    where, weights = a_mask(rng, (6, 1, 5)), some_weights(rng, (6, 4, 1))
    before = x.tobytes(), where.tobytes(), weights.tobytes()
    everything(x, x, None, None, 1, where=where, weights=weights)
    assert (x.tobytes(), where.tobytes(), weights.tobytes()) == before


@every_isa
@every_dtype
@pytest.mark.parametrize("axis", [1, 2])
def test_out_given_and_in_place(dtype: Any, axis: int, rng: np.random.Generator) -> None:
    x, dy = rng.standard_normal((2, 6, 5, 7)).astype(dtype)
    for turn, mask in enumerate(((6, 1, 1), (6, 5, 7), (6, 1, 7), (1, 5, 1))):
        counting = some_counting(rng, mask, turn)
        expected = fastbn.batch_norm_train(x, axis=axis, **counting)
        saved = {"mean": expected.mean, "invstd": expected.invstd, "axis": axis}
        wanted = fastbn.batch_norm_backward(dy, x, **saved, **counting)
        for target in ("given", "x", "dy"):
            a, b = x.copy(), dy.copy()
            out = {"given": np.full_like(x, np.nan), "x": a, "dy": b}[target]
            got = fastbn.batch_norm_backward(b, a, **saved, **counting, out=out)
            assert got.dx is out
            for one, other in zip(got, wanted, strict=True):
                np.testing.assert_array_equal(one, other)
        inplace = x.copy()
        result = fastbn.batch_norm_train(inplace, axis=axis, out=inplace, **counting)
        assert result.y is inplace
        for one, other in zip(result, expected, strict=True):
            np.testing.assert_array_equal(one, other)


@every_isa
@pytest.mark.parametrize("shape", [(0, 3), (2, 3, 0)])
def test_empty_batch(shape: tuple[int, ...]) -> None:
    x = np.empty(shape)
    for counting in ({"where": np.ones(shape, bool)}, {"where": np.array(True)}, {"where": np.ones((1, 1), bool)}):
        result = fastbn.batch_norm_train(x, **counting)
        assert result.y.shape == shape
        assert result.count.tolist() == [0.0] * 3
        running = np.full(3, 5.5), np.full(3, 7.5)
        assert fastbn.batch_norm(x, *running, training=True, **counting).shape == shape
        assert (running[0] == 5.5).all()
        assert (running[1] == 7.5).all()
        found = fastbn.moments(x, **counting)
        assert found.count.tolist() == found.m2.tolist() == [0.0] * 3
        assert np.isnan(found.mean).all()
        got = fastbn.batch_norm_backward(x, x, mean=np.zeros(3), invstd=np.ones(3), **counting)
        assert got.dweight.tolist() == got.dbias.tolist() == [0.0] * 3


# Memory: a mask is not expanded to x's shape.

MASKS: dict[str, scratch.Options] = {
    "samples": {"where": ((16, 1, 1, 1), "?")},
    "positions": {"where": ((16, 1, 112, 112), "?")},
    "weighted-samples": {"weights": ((16, 1, 1, 1), "f8")},
    "weighted-positions": {"weights": ((16, 1, 112, 112), "f4")},
    "both": {"where": ((16, 1, 112, 112), "?"), "weights": ((16, 1, 1, 1), "f8")},
    "each": {"where": ((16, 16, 112, 112), "?")},
}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the kernel does not tell peaks")
@pytest.mark.parametrize(
    ("mask", "op"),
    [*((mask, "train") for mask in MASKS), *itertools.product(("positions", "both"), ("backward", "moments"))],
)
def test_masks_are_not_expanded(mask: str, op: str) -> None:
    """One MiB, beside which x's shape in bytes is 3.2 and in float64 26: room for what one mask of positions takes."""
    if fastbn.pool_info().limit and not recycles():
        pytest.skip("a sanitized build has memory of its own")
    assert scratch.kibibytes((16, 16, 112, 112), 1, op, 2, MASKS[mask]) < 1024


def recycles() -> bool:
    """Builds for AddressSanitizer never recycle."""
    fastbn.batch_norm_train(np.zeros((12_000, 64), np.float32))
    return fastbn.pool_info().held > 0


# Errors.


def calls(x: Array, out: Array, running: tuple[Array, Array]) -> dict[str, Callable[..., Any]]:
    saved: dict[str, Any] = {"mean": np.zeros(3), "invstd": np.ones(3)}
    return {
        "batch_norm": lambda **k: fastbn.batch_norm(x, *running, training=True, out=out, **k),
        "inference": lambda **k: fastbn.batch_norm(x, *running, out=out, **k),
        "batch_norm_train": lambda **k: fastbn.batch_norm_train(x, out=out, **k),
        "batch_norm_backward": lambda **k: fastbn.batch_norm_backward(x, x, **saved, out=out, **k),
        "frozen": lambda **k: fastbn.batch_norm_backward(x, x, **saved, training=False, out=out, **k),
        "moments": lambda **k: fastbn.moments(x, **k),
    }


NAMES = tuple(calls(np.ones((4, 3)), np.ones((4, 3)), (np.zeros(3), np.ones(3))))
SHAPE = (4, 3, 5)


def refuses(name: str, error: type[Exception], pattern: str = "", **arguments: Any) -> None:
    """Assert that every call fails, naming its argument, and that nothing is written."""
    for call in NAMES:
        refuses_in(call, name, error, pattern, arguments)


def refuses_in(call: str, name: str, error: type[Exception], pattern: str, arguments: dict[str, Any]) -> None:
    x, out = np.random.default_rng(61).standard_normal(SHAPE), np.full(SHAPE, 123.0)
    running = np.full(3, 5.5), np.full(3, 7.5)
    with pytest.raises(error, match=rf"^{name} must .*{pattern}.*, got ") as caught:
        calls(x, out, running)[call](**arguments)
    assert type(caught.value) is error
    assert (out == 123.0).all()
    assert (running[0] == 5.5).all()
    assert (running[1] == 7.5).all()


NOT_BROADCASTABLE = [
    (4,),
    (3,),
    (2,),
    (0,),
    (5, 1),
    (4, 3),
    (3, 4),
    (4, 3, 4),
    (5, 3, 4),
    (1, 4, 3, 5),
    (4, 3, 5, 1),
    (4, 3, 0),
    (1, 1, 1, 1),
]


@pytest.mark.parametrize("shape", NOT_BROADCASTABLE, ids=str)
def test_shapes_that_do_not_broadcast(shape: tuple[int, ...]) -> None:
    refuses("where", ValueError, r"broadcastable to x's shape \(4, 3, 5\)", where=np.ones(shape, bool))
    refuses("weights", ValueError, r"broadcastable to x's shape \(4, 3, 5\)", weights=np.ones(shape))
    with pytest.raises(ValueError, match=str(shape).replace("(", r"\(").replace(")", r"\)")):
        fastbn.moments(np.ones(SHAPE), where=np.ones(shape, bool))


@pytest.mark.parametrize("dtype", ["u1", "i1", "i8", "f4", "f8", "c8", "O", "U1", BFLOAT16], ids=str)
def test_where_of_another_type(dtype: Any) -> None:
    refuses("where", TypeError, where=np.ones((4, 1, 1)).astype(dtype))


@pytest.mark.parametrize(
    "value", ["abc", object(), {}, [[1, 0]], [0.0, 1.0], [None], np.ma.masked_array([True], [True])]
)
def test_where_that_is_no_mask(value: Any) -> None:
    refuses("where", TypeError, where=value)


@pytest.mark.parametrize(
    "dtype", ["?", "c8", "c16", "O", "U1", "S1", "M8[s]", np.dtype("f8").newbyteorder("S")], ids=str
)
def test_weights_of_another_type(dtype: Any) -> None:
    values = np.ones((4, 1, 1)) if str(dtype) != "M8[s]" else np.ones((4, 1, 1), int)
    refuses("weights", TypeError, weights=values.astype(dtype))


@pytest.mark.parametrize("value", ["abc", object(), {}, [None], np.ma.masked_array([1.0], [True])], ids=repr)
def test_weights_that_are_no_numbers(value: Any) -> None:
    refuses("weights", TypeError, weights=value)


@pytest.mark.parametrize("bad", [-1.0, -1e-300, -5e-324, -np.inf, np.inf, np.nan])
@pytest.mark.parametrize("shape", [(4, 1, 1), (4, 3, 5), (1, 1, 5), ()], ids=str)
def test_weights_that_are_no_weights(bad: float, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(67)
    for kind in (np.float64, np.float32, np.float16, BFLOAT16):
        weights = rng.uniform(0, 2, shape).astype(kind)
        with np.errstate(all="ignore"):
            weights[tuple(rng.integers(0, n) for n in shape)] = bad
        if not np.isfinite(given := weights.astype(float)).all() or (given < 0).any():
            refuses("weights", ValueError, "finite and not negative", weights=weights)
            refuses("weights", ValueError, "finite and not negative", weights=np.broadcast_to(weights, SHAPE))
    message = {-1.0: "-1", -np.inf: "-inf", np.inf: "inf", np.nan: "nan"}.get(bad, "-")
    with pytest.raises(ValueError, match=f"got .*{message}"):
        fastbn.moments(np.ones(SHAPE), weights=np.full(shape, bad))


def test_negative_integers_are_no_weights() -> None:
    for kind in (np.int8, np.int16, np.int32, np.int64):
        weights = np.array([1, 2, np.iinfo(kind).min, 1]).astype(kind).reshape(4, 1, 1)
        refuses("weights", ValueError, "finite and not negative", weights=weights)


def test_bad_weights_where_nothing_counts_are_bad() -> None:
    weights = np.ones((4, 1, 1))
    weights[2] = np.nan
    where = np.isfinite(weights)
    refuses("weights", ValueError, "finite and not negative", weights=weights, where=where)


@every_isa
def test_negative_zero_is_no_less_than_zero() -> None:
    x = np.arange(12.0).reshape(4, 3)
    weights = np.array([[1.0], [-0.0], [2.0], [0.0]])
    result = fastbn.batch_norm_train(x, weights=weights)
    assert_train(x, result, p=weighting(x, {"weights": weights}))


def test_out_may_not_overlap_weights() -> None:
    x = np.random.default_rng(3).standard_normal(SHAPE)
    saved = {"mean": np.zeros(3), "invstd": np.ones(3)}
    for name, view in (("weights", np.ones(SHAPE)), ("where", np.ones(SHAPE, "f8"))):
        given = view if name == "weights" else view.view(bool)[..., ::8]
        before = view.copy()
        for call in (
            lambda k, out: fastbn.batch_norm_train(x, out=out, **k),
            lambda k, out: fastbn.batch_norm(x, training=True, out=out, **k),
            lambda k, out: fastbn.batch_norm_backward(x, x, **saved, out=out, **k),
        ):
            with pytest.raises(ValueError, match=r"^out must .*, got "):
                call({name: given}, view)
            np.testing.assert_array_equal(view, before)


def test_running_statistics_may_not_overlap_weights() -> None:
    x = np.random.default_rng(3).standard_normal((4, 3))
    weights, other = np.ones(3), np.ones(3)
    for name, pair in (("running_mean", (weights, other)), ("running_var", (other, weights))):
        with pytest.raises(ValueError, match=rf"^{name} must .*, got "):
            fastbn.batch_norm(x, *pair, training=True, weights=weights)
        assert weights.tolist() == other.tolist() == [1.0] * 3


@pytest.mark.parametrize("shape", [(4, 1, 1), (4, 3, 5), (1, 1, 5)], ids=str)
def test_more_weight_than_float64_holds(shape: tuple[int, ...]) -> None:
    for call in NAMES:
        if call not in ("inference", "frozen"):
            refuses_in(call, "weights", ValueError, "", {"weights": np.full(shape, 1e308)})


def test_fields_of_results(rng: np.random.Generator) -> None:
    x = rng.standard_normal((6, 2, 3, 4))
    where = a_mask(rng, (6, 1, 1, 4))
    result = fastbn.batch_norm_train(x, axis=(1, 2), where=where)
    assert isinstance(result, fastbn.TrainResult)
    found = fastbn.moments(x, axis=(1, 2), where=where)
    assert isinstance(found, fastbn.Moments)
    for count, writeable in ((result.count, True), (found.count, False)):
        assert (type(count), count.dtype, count.shape) == (np.ndarray, np.float64, (2, 3))
        assert count.flags.writeable == writeable  # a result is the caller's, Moments keep theirs
    assert_train(x, result, axis=(1, 2), p=weighting(x, {"where": where}))
    y = fastbn.normalize(x, result.mean, result.var, axis=(1, 2))
    assert_normalized(x, y, result.mean, result.var, axis=(1, 2))
    assert_rounded(result.count, np.broadcast_to(np.longdouble(where.sum()), (2, 3)))
