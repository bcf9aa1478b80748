"""Promise: where= and weights= give each value's weight in the statistics: a weight of 3 is a value seen three times.

p = weights * where, P = sum(p), mean = sum(p x) / P, var = sum(p (x - mean)**2) / P; what has weight 0 has no
influence whatever, and yet a y.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastbn
import fastbn._core
from support import oracle
from support.assertions import (
    assert_count,
    assert_gradients,
    assert_normalized,
    assert_relative,
    assert_rounded,
    assert_train,
)
from support.bits import bits, bits_of_everything, differing
from support.dtypes import FLOATS
from support.isas import using_isa
from support.layouts import Layout
from support.marks import every_dtype, every_isa, every_layout
from support.oracle import element_weights
from support.random_arrays import parameters
from support.tolerances import FLOAT64_RTOL, GRAD_RTOL, VAR_RTOL
from support.weights import SHAPES, every_shape, mask_shapes, random_mask, random_weighting

pytestmark = pytest.mark.untraced

Array = np.ndarray
ISAS = fastbn._core.isas()


# Against the oracle.


@every_layout
@every_dtype
def test_statistics_and_y(layout: Layout, dtype: Any, rng: np.random.Generator) -> None:
    x = layout.fill(rng, dtype, scale=2, offset=3)
    weight, bias = parameters(rng, layout.features)
    for turn, shape in enumerate(mask_shapes(x.shape)):
        weighting = random_weighting(rng, shape, turn)
        p = element_weights(x.shape, **weighting)
        result = fastbn.batch_norm_train(x, weight, bias, axis=layout.axis, **weighting)
        assert_train(x, result, weight, bias, axis=layout.axis, p=p)
        assert result.count.shape == layout.features
        found = fastbn.moments(x, axis=layout.axis, **weighting)
        assert_count(found.count, oracle.moments(x, layout.axis, p=p).count)
        none = found.count == 0
        np.testing.assert_array_equal(np.isnan(found.mean), none)
        np.testing.assert_array_equal(found.m2[none], 0)
        np.testing.assert_array_equal(found.mean[~none], result.mean[~none])
        np.testing.assert_allclose(found.var()[~none], result.var[~none], rtol=FLOAT64_RTOL)
        y = fastbn.batch_norm(x, None, None, weight, bias, training=True, axis=layout.axis, **weighting)
        np.testing.assert_array_equal(y, result.y)


@every_layout
@every_dtype
def test_gradients(layout: Layout, dtype: Any, rng: np.random.Generator) -> None:
    x = layout.fill(rng, dtype, scale=2, offset=3)
    weight, _ = parameters(rng, layout.features)
    dys = layout.fill(rng, dtype, offset=0.5), (0.5 + rng.standard_normal(x.shape)).astype(dtype)
    for turn, shape in enumerate(mask_shapes(x.shape)):
        weighting = random_weighting(rng, shape, turn)
        p = element_weights(x.shape, **weighting)
        _, mean, _, invstd, count = fastbn.batch_norm_train(x, axis=layout.axis, **weighting)
        saved = {"mean": mean, "invstd": invstd, "axis": layout.axis}
        dy = dys[turn % 2]
        for known in (None, count):
            got = fastbn.batch_norm_backward(dy, x, weight, **saved, **weighting, count=known)
            assert_gradients(got, dy, x, weight, **saved, p=p)
        # Where statistics are constants, it does not matter what they were of.
        frozen = fastbn.batch_norm_backward(dy, x, weight, **saved, **weighting, training=False)
        plain = fastbn.batch_norm_backward(dy, x, weight, **saved, training=False)
        for one, other in zip(frozen, plain, strict=True):
            np.testing.assert_array_equal(one, other)


@every_isa
@every_dtype
@pytest.mark.parametrize("columns", [16, 17, 37, 100, 1030])
def test_gradients_where_blocks_meet_two_rows(columns: int, dtype: Any, rng: np.random.Generator) -> None:
    """Rows that follow each other are written as one, and each block takes the weights of its own rows."""
    x, dy = ((1 + rng.standard_normal((300, columns))).astype(dtype) for _ in range(2))
    mask, weights = rng.random((2, 300, 1))
    elements = rng.random((300, columns)) < 0.8
    padded = np.zeros((300, columns + 3), bool)
    padded[:, :columns] = elements
    for weighting in {"where": mask < 0.7}, {"weights": weights}, {"where": elements}, {"where": padded[:, :columns]}:
        p = element_weights(x.shape, **weighting)
        _, mean, _, invstd, _ = fastbn.batch_norm_train(x, **weighting)
        got = fastbn.batch_norm_backward(dy, x, mean=mean, invstd=invstd, **weighting)
        assert_gradients(got, dy, x, mean=mean, invstd=invstd, p=p)


@every_dtype
@pytest.mark.parametrize("inner", [17, 20, 31])
def test_gradients_of_many_short_rows(inner: int, dtype: Any, rng: np.random.Generator) -> None:
    """However many rows are written at once, there is memory for the weights of all of them."""
    x, dy = ((1 + rng.standard_normal((2500, 3, inner))).astype(dtype) for _ in range(2))
    for shape in (2500, 3, 1), (2500, 1, 1):
        weights = 0.5 + rng.random(shape)
        _, mean, _, invstd, _ = fastbn.batch_norm_train(x, weights=weights)
        got = fastbn.batch_norm_backward(dy, x, mean=mean, invstd=invstd, weights=weights)
        assert_gradients(got, dy, x, mean=mean, invstd=invstd, p=element_weights(x.shape, weights=weights))


@every_layout
def test_same_bits_on_every_isa(layout: Layout) -> None:
    for turn, shape in enumerate(mask_shapes(layout.shape)):
        rng = np.random.default_rng(29)
        dtype = FLOATS[turn % 2]
        x, dy = layout.fill(rng, dtype, 2, 3), layout.fill(rng, dtype)
        given = (x, dy, *parameters(rng, layout.features), layout.axis)
        # Running statistics need more than one value.
        weighting = random_weighting(rng, shape, turn) if np.prod(shape) > 1 else {"weights": np.full(shape, 0.3)}
        if "weights" in weighting:
            weighting["weights"][(0,) * len(shape)] = 2
        found = []
        for isa in ISAS:
            with using_isa(isa):
                found.append(bits_of_everything(*given, **weighting))
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
    np.testing.assert_allclose(var, [8 / 3, 8], rtol=FLOAT64_RTOL)
    np.testing.assert_allclose(invstd, [(3 / 8) ** 0.5, 8**-0.5], rtol=FLOAT64_RTOL)
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
    np.testing.assert_allclose(y, [[-1, -1, 7], [1, -1 / 3, 7], [3, 1, 7]], rtol=FLOAT64_RTOL)
    found = fastbn.moments(x, where=where)
    np.testing.assert_array_equal(found.mean, [2, 5, np.nan])
    assert (found.m2.tolist(), found.count.tolist()) == ([2, 18, 0], [2, 2, 0])
    np.testing.assert_array_equal(found.var(), [1, 9, np.nan])


def test_the_oracle_agrees_with_repetition(rng: np.random.Generator) -> None:
    """Weighted sums in long double against exact ones of the repeated values."""
    x, seen = 1e6 + rng.standard_normal((40, 3)), rng.integers(0, 5, 40)
    found = oracle.moments(x, p=oracle.element_weights(x.shape, weights=seen[:, None]))
    for c in range(3):
        mean, m2 = oracle.exact_moments(np.repeat(x[:, c], seen))
        assert found.count[c] == seen.sum()
        # Long double has 64 bits: a few dozen roundings of what is left of 1e6, and one of the mean.
        assert_relative(found.mean[c], oracle.longdouble_of(mean), 1e-18)
        assert_relative(found.m2[c], oracle.longdouble_of(m2), 1e-17)


# The same numbers in another way: values repeated, values left out.


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
            found = oracle.moments(longer)
            # The statistics' error, and the handful of roundings with which they are remembered.
            assert_relative(running[0], found.mean / 10, VAR_RTOL[x.dtype], atol=FLOAT64_RTOL)
            wanted = 0.9 + found.m2 / (found.count - np.longdouble(correction)) / 10
            assert_relative(running[1], wanted, VAR_RTOL[x.dtype], atol=FLOAT64_RTOL)
    # The copies of a sample divide its gradient evenly; dx is the sum over them.
    dy = rng.standard_normal(shape).astype(dtype)
    dy[seen == 0] = 0
    saved = {"mean": result.mean, "invstd": result.invstd}
    copies = np.repeat(seen, seen).reshape(-1, *[1] * (x.ndim - 1))
    dy_of_copies = np.repeat(dy.astype(np.longdouble), seen, axis=0) / copies
    expected = oracle.backward(dy_of_copies, longer, weight, **saved)
    got = fastbn.batch_norm_backward(dy, x, weight, **saved, weights=weights)
    together, scale = np.zeros((2, *shape), np.longdouble)
    for total, part in ((together, expected.dx), (scale, expected.dx_scale)):
        np.add.at(total, np.repeat(np.arange(shape[0]), seen), part)
    rtol = GRAD_RTOL[x.dtype]
    assert_relative(got.dx, together, rtol, scale)
    # A term is that of up to four copies, whose squares add up to a quarter of its own.
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
        """The unmasked values as (count, channels)."""
        return np.stack([values[:, c][chosen[:, c]] for c in range(shape[1])], axis=1)

    short = selected(x)
    result = fastbn.batch_norm_train(x, weight, bias, where=where)
    assert_train(short, result._replace(y=selected(result.y), count=int(result.count[0])), weight, bias)
    running = np.zeros(shape[1]), np.ones(shape[1])
    fastbn.batch_norm(x, *running, training=True, where=where, momentum=1)
    found = oracle.moments(short)
    np.testing.assert_array_equal(running[0], result.mean)
    assert_relative(running[1], found.m2 / (found.count - 1), VAR_RTOL[x.dtype])
    # With no gradient from what is left out, that of the other values is what it would be alone.
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
        frozen = dy * oracle.along(weight * invstd, shape, 1).astype(dtype)
        out = np.broadcast_to(~where, shape)
        np.testing.assert_array_equal(dx[out], frozen[out])
        assert (dx[~out] != frozen[~out]).any()


# What has weight 0 has no influence whatever.

JUNK = (np.nan, np.inf, -np.inf, 3e38, -1e30, 1e-40, -0.0)


@every_isa
@every_dtype
@every_shape
@pytest.mark.parametrize("kind", ["where", "weights"])
def test_junk_of_weight_zero_has_no_influence(
    dtype: Any, shape: tuple[int, ...], kind: str, rng: np.random.Generator
) -> None:
    clean = (3 + 2 * rng.standard_normal(shape)).astype(dtype)
    weight, bias = parameters(rng, shape[1:2])
    for mask in [(shape[0], *[1] * (len(shape) - 1)), (shape[0], 1, *shape[2:]), shape]:
        kept = np.ones(mask, bool)
        kept[rng.random(mask) < 0.3] = False
        kept[3] = False
        kept[:2] = True
        weighting = {kind: kept if kind == "where" else np.where(kept, rng.uniform(0.5, 2, mask), 0)}
        left_out = np.broadcast_to(~kept, shape)
        expected = fastbn.batch_norm_train(clean, weight, bias, **weighting)
        assert_train(clean, expected, weight, bias, p=element_weights(clean.shape, **weighting))
        for junk in JUNK:
            x = np.where(left_out, np.asarray(junk).astype(dtype), clean)
            result = fastbn.batch_norm_train(x, weight, bias, **weighting)
            for name in ("mean", "var", "invstd", "count"):
                assert bits(getattr(result, name)) == bits(getattr(expected, name)), (junk, name)
            np.testing.assert_array_equal(result.y[~left_out], expected.y[~left_out])
            # Its own y is computed from it all the same.
            statistics = result.mean, result.var
            plain = oracle.normalize(x, *statistics, weight, bias)
            np.testing.assert_array_equal(np.isnan(result.y), np.isnan(plain))
            infinite = np.isinf(x)
            np.testing.assert_array_equal(result.y[infinite], plain[infinite])
            found = fastbn.moments(x, **weighting)
            assert bits(found.mean) == bits(expected.mean)
            running = np.zeros(shape[1]), np.ones(shape[1])
            fastbn.batch_norm(x, *running, training=True, **weighting)
            assert np.isfinite(running).all()


@every_isa
@every_dtype
def test_junk_with_a_weight_spoils_its_own_channel(dtype: Any, rng: np.random.Generator) -> None:
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
def test_channels_that_are_masked_whole(dtype: Any, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    x, dy = ((1 + rng.standard_normal(shape)).astype(dtype) for _ in range(2))
    channels = shape[1]
    weight, bias = parameters(rng, (channels,), dtype)
    kept = np.ones(channels, bool)
    kept[[channels // 2, -1]] = False
    masked = ~kept
    per_channel = oracle.along(kept, shape, 1)
    random = rng.random(shape) < 0.6
    random[:2] = True
    for weighting in (
        {"where": per_channel},
        {"weights": per_channel.astype(float)},
        {"where": random & per_channel},
        {"where": random, "weights": 2.5 * per_channel},
    ):
        result = fastbn.batch_norm_train(x, weight, bias, **weighting)
        assert_train(x, result, weight, bias, p=element_weights(x.shape, **weighting))
        for statistic in result[1:]:
            np.testing.assert_array_equal(statistic[masked], 0)
        for c in np.flatnonzero(masked):
            np.testing.assert_array_equal(result.y[:, c], bias[c])
        found = fastbn.moments(x, **weighting)
        np.testing.assert_array_equal(np.isnan(found.mean), masked)
        np.testing.assert_array_equal(found.m2[masked], 0)
        np.testing.assert_array_equal(found.count, result.count)
        assert np.isnan(found.var()[masked]).all()
        running = np.full(channels, 5.5), np.full(channels, 7.5)
        fastbn.batch_norm(x, *running, training=True, **weighting)
        assert (running[0][masked] == 5.5).all()
        assert (running[1][masked] == 7.5).all()
        assert (running[0][kept] != 5.5).all()
        assert (running[1][kept] != 7.5).all()
        saved = {"mean": result.mean, "invstd": result.invstd}
        got = fastbn.batch_norm_backward(dy, x, weight, **saved, **weighting)
        assert_gradients(got, dy, x, weight, **saved, p=element_weights(x.shape, **weighting))
        assert not got.dx[:, masked].any()
        np.testing.assert_array_equal(got.dweight[masked], 0)


def test_everything_is_masked(rng: np.random.Generator) -> None:
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


# Inference does not depend on masks and weights.


@every_isa
def test_inference_is_not_influenced(rng: np.random.Generator) -> None:
    x = rng.standard_normal((6, 4, 5))
    running = rng.standard_normal(4), rng.uniform(1, 2, 4)
    expected = fastbn.batch_norm(x, *running)
    for turn, mask in enumerate(mask_shapes(x.shape)):
        weighting = random_weighting(rng, mask, turn)
        np.testing.assert_array_equal(fastbn.batch_norm(x, *running, **weighting), expected)
    np.testing.assert_array_equal(fastbn.batch_norm(x, *running, where=np.zeros((), bool)), expected)


def test_fields_of_results(rng: np.random.Generator) -> None:
    x = rng.standard_normal((6, 2, 3, 4))
    where = random_mask(rng, (6, 1, 1, 4))
    result = fastbn.batch_norm_train(x, axis=(1, 2), where=where)
    assert isinstance(result, fastbn.TrainResult)
    found = fastbn.moments(x, axis=(1, 2), where=where)
    assert isinstance(found, fastbn.Moments)
    for count, writeable in ((result.count, True), (found.count, False)):
        assert (type(count), count.dtype, count.shape) == (np.ndarray, np.float64, (2, 3))
        assert count.flags.writeable == writeable  # a result is the caller's, Moments keep theirs
    assert_train(x, result, axis=(1, 2), p=element_weights(x.shape, where=where))
    y = fastbn.normalize(x, result.mean, result.var, axis=(1, 2))
    assert_normalized(x, y, result.mean, result.var, axis=(1, 2))
    assert_rounded(result.count, np.broadcast_to(np.longdouble(where.sum()), (2, 3)))
