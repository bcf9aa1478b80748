"""Promise: results depend on ratios of weights alone: equal ones change no bit, and any size a float64 has will do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastbn
import fastbn._core
from support import oracle
from support.assertions import assert_gradients, assert_relative, assert_train, assert_ulps
from support.bits import bits_of_everything, bits_of_training
from support.layouts import Layout
from support.marks import every_dtype, every_isa, every_layout
from support.oracle import element_weights
from support.random_arrays import parameters
from support.tolerances import FLOAT64_RTOL, VAR_RTOL
from support.weights import every_shape, mask_shapes, random_weighting, random_weights

pytestmark = pytest.mark.untraced

ISAS = fastbn._core.isas()


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
    plain = bits_of_everything(x, dy, weight, bias, layout.axis)
    known = {"moments.count", "train.count"}
    count = x.size // max(1, int(np.prod(layout.features)))
    masks = mask_shapes(x.shape)
    for turn, alike in enumerate(ALIKE):
        shape = masks[-1 - turn % len(masks)]
        weighting = {name: np.full(shape, value) for name, value in alike.items()}
        result = fastbn.batch_norm_train(x, weight, bias, axis=layout.axis, **weighting)
        value = np.longdouble(alike.get("weights", 1))
        assert_relative(result.count, np.full(layout.features, count * value), VAR_RTOL[np.dtype(np.float64)])
        if set(alike) == {"where"}:
            assert (result.count == count).all()
        # The running variance depends on the sum of the weights by its correction, and m2 is proportional to that sum.
        differs = known | ({"running_var", "moments.m2"} if alike.get("weights", 1) != 1 else set())
        if float(value) * count <= 1:
            differs |= {"eval.y", "running_mean"}  # not remembered at all
            got = bits_of_training(x, dy, weight, bias, layout.axis, weighting)
        else:
            got = bits_of_everything(x, dy, weight, bias, layout.axis, **weighting)
            differs |= {"eval.y"} if "running_var" in differs else set()
        same = {name: plain[name.replace("backward(count)", "backward(training=True)")] for name in got}
        assert {name for name in got if got[name] != same[name]} <= differs, alike


# Weights of any size.


@every_isa
@every_dtype
@pytest.mark.parametrize("size", [1e-300, 1e300, 1e-310, 5e-324])
@every_shape
def test_extreme_weights(dtype: Any, size: float, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    x, dy = ((3 + 2 * rng.standard_normal(shape)).astype(dtype) for _ in range(2))
    for mask in [(shape[0], *[1] * (len(shape) - 1)), (shape[0], 1, *shape[2:]), shape]:
        weights = size * rng.integers(0, 5, mask)
        weighting = {"weights": weights}
        p = element_weights(x.shape, **weighting)
        result = fastbn.batch_norm_train(x, **weighting)
        assert_train(x, result, p=p)
        saved = {"mean": result.mean, "invstd": result.invstd}
        for count in (None, result.count):
            got = fastbn.batch_norm_backward(dy, x, **saved, **weighting, count=count)
            assert_gradients(got, dy, x, **saved, p=p)
        # What weighs little beside others has little influence, and nothing overflows.
        weights = np.where(rng.random(mask) < 0.5, weights, rng.uniform(0.5, 2, mask))
        # Two of the largest, so that the variance is not all rounding.
        weights[0], weights[1] = 3 * max(size, 1), 5 * max(size, 1)
        weighting["weights"] = weights
        assert_train(x, fastbn.batch_norm_train(x, **weighting), p=element_weights(x.shape, **weighting))


@every_isa
@every_dtype
@pytest.mark.parametrize("shape", [(65, 3), (10, 3, 7), (20, 3, 3, 3), (140, 3, 3, 3), (6, 3, 5, 6)], ids=str)
@pytest.mark.parametrize(
    "sizes",
    [
        (1, 1e-12, 1e12),
        (1e-200, 1e-180, 1e-190),
        (1e280, 1e300, 1e290),
        (1, 1e-60, 1e-30),
        (1e-300, 0.25, 1e-310),  # the largest is 1, by which none is divided
        (5e-324, 1e-320, 0.25),
    ],
    ids=str,
)
def test_channels_of_weights_of_another_size(
    dtype: Any, shape: tuple[int, ...], sizes: tuple[float, ...], rng: np.random.Generator
) -> None:
    """What weighs little beside another channel's values weighs as much as any in its own."""
    x = (3 + rng.standard_normal(shape)).astype(dtype)
    for mask in [(shape[0], *[1] * (len(shape) - 1)), shape]:
        weights = rng.integers(1, 5, mask) * oracle.along(sizes, shape, 1)
        weighting = {"weights": weights}
        p = element_weights(x.shape, **weighting)
        result = fastbn.batch_norm_train(x, **weighting)
        assert_train(x, result, p=p)
        saved = {"mean": result.mean, "invstd": result.invstd}
        dy = rng.standard_normal(shape).astype(dtype)
        for count in (None, result.count):
            assert_gradients(fastbn.batch_norm_backward(dy, x, **saved, **weighting, count=count), dy, x, **saved, p=p)


@every_isa
@every_dtype
def test_one_weight_outweighs_all(dtype: Any, rng: np.random.Generator) -> None:
    for shape in ((65, 5), (6, 5, 9), (6, 5, 3, 3)):
        x = rng.standard_normal(shape).astype(dtype)
        weights = np.full((shape[0], *[1] * (len(shape) - 1)), 1e-300)
        weights[4] = 1e300
        result = fastbn.batch_norm_train(x, weights=weights)
        heavy = oracle.moments(x[4:5])
        # A handful of roundings of a mean of order one.
        assert_relative(result.mean, heavy.mean, VAR_RTOL[x.dtype], np.sqrt(heavy.m2), atol=FLOAT64_RTOL)
        # Of one value the variance is 0, to the square of what the mean is rounded by.
        assert_relative(result.var, heavy.m2 / heavy.count, VAR_RTOL[x.dtype], atol=1e-31)
        size = 1 / np.sqrt(1e-5) if len(shape) == 2 else 1  # that of 1 / sqrt(var + eps)
        assert_ulps(result.y, oracle.train(x, p=element_weights(x.shape, weights=weights)).y, size)


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
        weighting = random_weighting(rng, mask, turn)
        p = element_weights(x.shape, **weighting)
        result = fastbn.batch_norm_train(x, weight, bias, **weighting)
        assert_train(x, result, weight, bias, p=p)
        saved = {"mean": result.mean, "invstd": result.invstd}
        got = fastbn.batch_norm_backward(dy, x, weight, **saved, **weighting)
        assert_gradients(got, dy, x, weight, **saved, p=p)


@every_isa
@every_dtype
@pytest.mark.parametrize("value", [0.1, 1e6, -1e30, 1e-30])
def test_constant_channels_have_no_variance(dtype: Any, value: float, rng: np.random.Generator) -> None:
    """Whatever the weights, and whatever has none."""
    for shape in ((65, 5), (9, 40), (6, 5, 9), (6, 5, 7, 7), (6, 5, 3, 3)):
        for mask in [(shape[0], *[1] * (len(shape) - 1)), shape]:
            weights = random_weights(rng, mask)
            weights[0] = 1.3
            x = np.where(np.broadcast_to(weights > 0, shape), np.asarray(value).astype(dtype), dtype(5))
            result = fastbn.batch_norm_train(x, weights=weights, eps=0)
            assert not result.var.any()
            assert not result.invstd.any()
            np.testing.assert_array_equal(result.mean, float(dtype(value)))
            assert not result.y.any()
            assert not fastbn.moments(x, weights=weights).m2.any()


@every_isa
@pytest.mark.parametrize("weights", [[[1e-3, 1.0]], [[0.1, 1.9]], [[1e-3, 1.0], [1e-3, 1.0]]], ids=str)
@pytest.mark.parametrize("size", [2e154, 1e155, 1e300])
def test_a_variance_beyond_float64_in_a_light_channel(isa: str, weights: Any, size: float) -> None:
    """m2 fits float64 there, since the weights are small, and the variance does not: y is right all the same."""
    del isa
    x = np.array([[size, 0.0], [-size, 1.0]])
    for arranged, axis in ((x, 1), (x[:, :, np.newaxis], 1), (x.T.copy(), 0)):
        given = np.array(weights) if axis == 1 else np.array(weights).T
        given = given[..., np.newaxis] if arranged.ndim == 3 else given
        y = fastbn.batch_norm_train(arranged, weights=given, eps=0.0, axis=axis).y
        assert_ulps(np.take(y, 0, axis).ravel(), np.array([1.0, -1.0]), 2)
