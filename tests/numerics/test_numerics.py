"""Promise: the figures of the table in docs/numerics.md, for any data, on every instruction set.

Where the other files allow for an element that happens to lie at its channel's mean, this file does not: y is
compared with the exact result, in ulp of the larger of |y| and |bias|, without bias of |y| alone.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

import fastbn
from support import oracle
from support.assertions import assert_gradients, assert_relative, assert_ulps, once
from support.dtypes import FLOATS
from support.marks import every_dtype
from support.solved_problems import COUNT, PLACES, PLAIN, Problem, placed, unplaced
from support.tolerances import FLOAT64_RTOL, VAR_RTOL

pytestmark = [pytest.mark.usefixtures("isa"), pytest.mark.untraced]


# The oracles first: three ways to compute the same must agree before anything is measured against them.


@every_dtype
def test_oracles_agree(dtype: Any, rng: np.random.Generator) -> None:
    mpmath = pytest.importorskip("mpmath")
    x = (100 + 3 * rng.standard_normal(50)).astype(dtype)
    weight, bias, eps = 1.25, -0.3, 1e-5
    exact = oracle.exact_train(x, weight, bias, eps)
    mean, m2 = oracle.exact_moments(x)
    twice = oracle.train(x[:, None], [weight], [bias], eps)
    # Long double has 64 bits: a few dozen roundings.
    assert_relative(twice.y[:, 0], exact, 1e-17)
    assert_relative(twice.mean[0], oracle.longdouble_of(mean), 1e-18)
    assert_relative(twice.biased[0], oracle.longdouble_of(m2 / 50), 1e-17)
    given = oracle.exact_normalize(x, 99.5, 2.5, weight, bias, eps)
    assert_relative(oracle.normalize(x[:, None], [99.5], [2.5], [weight], [bias], eps)[:, 0], given, 1e-17)
    plain = oracle.train(x[:, None], [weight], [bias], eps, dtype=np.float64)
    # Float64 has 53: of x - mean a hundredth is left.
    assert_relative(plain.y[:, 0].astype(np.longdouble), exact, 1e-13)
    with mpmath.workprec(200):
        values = [mpmath.mpf(float(v)) for v in x]
        centre = mpmath.fsum(values) / 50
        biased = mpmath.fsum((v - centre) ** 2 for v in values) / 50
        wanted = [weight * (v - centre) / mpmath.sqrt(biased + mpmath.mpf(eps)) + mpmath.mpf(bias) for v in values]
        assert max(abs((mpmath.mpf(float(e)) - w) / w) for e, w in zip(exact, wanted, strict=True)) < 2**-52


def test_a_check_is_spared_only_for_the_same_bits() -> None:
    asked = []

    @once
    def check(values: np.ndarray, **_: Any) -> None:
        asked.append(values.tolist())
        assert (values > 0).all()

    values = np.array([1.0, 2.0])
    for again in (values, values.copy(), values[::-1][::-1]):
        check(again, axis=1)
    assert asked == [[1, 2]]
    for other in (np.array([1.0, np.nextafter(2, 3)]), values.astype(np.float32), values[None]):
        check(other, axis=1)
    check(values, axis=0)
    assert len(asked) == 5
    for _ in range(2):
        with pytest.raises(AssertionError):
            check(-values, axis=1)


LEVELS = {np.float32: (0.0, 1.0, 1e2, 1e4, 1e6), np.float64: (0.0, 1.0, 1e4, 1e6, 1e8)}


@functools.cache
def level(dtype: Any, ratio: float, sign: int = 1) -> Problem:
    """Normal deviates of various widths with `ratio` between their mean and their width."""
    rng = np.random.default_rng(int(ratio) + 1)
    width = np.array([1.0, 0.037, 210.0, 1.0, 3.3])
    return Problem(((sign * ratio + rng.standard_normal((COUNT, 5))) * width).astype(dtype))


LEVEL_CASES = [pytest.param(d, r, id=f"{np.dtype(d).name}-{r:g}") for d, ratios in LEVELS.items() for r in ratios]
at_every_level = pytest.mark.parametrize(("dtype", "ratio"), LEVEL_CASES)
in_every_place = pytest.mark.parametrize("place", PLACES)


@at_every_level
@in_every_place
def test_moments(dtype: Any, ratio: float, place: str) -> None:
    problem = level(dtype, ratio)
    x, axis = placed(problem.values, place)
    found = fastbn.moments(x, axis=axis)
    rtol = VAR_RTOL[x.dtype]
    assert_relative(found.var(), problem.var, rtol)
    assert_relative(found.std(), np.sqrt(problem.var), rtol)
    # The mean is a float64: an ulp of itself, and what the sums lose, in float64 for either dtype.
    spread = np.sqrt(problem.var)
    assert_relative(found.mean, problem.mean, 2**-52, atol=1e-13 * float(spread.max()))
    result = fastbn.batch_norm_train(x, eps=problem.eps, axis=axis)
    assert_relative(result.var, problem.var, rtol)
    assert_relative(result.invstd, problem.invstd, rtol)
    # invstd belongs to the variance beside it.
    np.testing.assert_allclose(result.invstd, 1 / np.sqrt(result.var + problem.eps), rtol=4 * FLOAT64_RTOL)


@at_every_level
@in_every_place
def test_y_in_training(dtype: Any, ratio: float, place: str) -> None:
    problem = level(dtype, ratio)
    x, axis = placed(problem.values, place)
    for weight in (True, False):
        for bias in (True, False):
            y = fastbn.batch_norm(
                x,
                weight=problem.weight if weight else None,
                bias=problem.bias if bias else None,
                training=True,
                eps=problem.eps,
                axis=axis,
            )
            assert_ulps(unplaced(y, axis), problem.y(weight, bias), problem.bias if bias else 0)


@at_every_level
@pytest.mark.parametrize("place", PLAIN)
def test_y_with_a_bias_of_any_size(dtype: Any, ratio: float, place: str) -> None:
    problem = level(dtype, ratio, -1)
    x, axis = placed(problem.values, place)
    for size in (1e-6, 1e-3, 1.0, 1e3, 1e6):
        bias = np.full(5, size)
        y = unplaced(fastbn.batch_norm(x, bias=bias, training=True, eps=problem.eps, axis=axis), axis)
        # An exact sum would need fractions again; long double has eleven bits to spare.
        expected = problem.y(False, False) + size
        assert_ulps(y, expected, bias)


def given_statistics(dtype: Any, ratio: float, statistics: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return a mean near the data's and a variance that is not theirs, as float32 or float64."""
    problem = level(dtype, ratio)
    spread = np.sqrt(problem.var).astype(float)
    mean = problem.mean.astype(float) + np.array([0.0, 0.3, -0.7, 1e-3, 2.0]) * spread
    return mean.astype(statistics), (spread**2 * np.array([1.0, 0.5, 2.0, 1.3, 0.1])).astype(statistics)


@at_every_level
@pytest.mark.parametrize("place", PLAIN)
@pytest.mark.parametrize("statistics", FLOATS)
def test_y_in_inference(dtype: Any, ratio: float, place: str, statistics: Any) -> None:
    problem = level(dtype, ratio)
    mean, var = given_statistics(dtype, ratio, statistics)
    x, axis = placed(problem.values, place)
    for both in (True, False):
        weight, bias = (problem.weight, problem.bias) if both else (None, None)
        expected = problem.given(mean, var, both, both)
        other = problem.bias if both else 0
        y = fastbn.normalize(x, mean, var, weight, bias, eps=problem.eps, axis=axis)
        assert_ulps(unplaced(y, axis), expected, other)
        y = fastbn.batch_norm(x, mean, var, weight, bias, eps=problem.eps, axis=axis)
        assert_ulps(unplaced(y, axis), expected, other)


@at_every_level
@in_every_place
def test_gradients(dtype: Any, ratio: float, place: str) -> None:
    problem = level(dtype, ratio)
    x, axis = placed(problem.values, place)
    rng = np.random.default_rng(3)
    _, mean, _, invstd, _ = fastbn.batch_norm_train(x, axis=axis)
    for offset, training in ((0.0, True), (1.0, True), (1e3, True), (1.0, False)):
        dy, _ = placed((offset + rng.standard_normal(problem.values.shape)).astype(dtype), place)
        saved = {"mean": mean, "invstd": invstd, "axis": axis, "training": training}
        got = fastbn.batch_norm_backward(dy, x, problem.weight, **saved)
        assert_gradients(got, dy, x, problem.weight, **saved)


# Data chosen to hurt: orders that defeat a shift by the first value, sums that cancel, widths that differ.


def adversaries(dtype: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(11)
    n = COUNT
    noise = rng.standard_normal(n)
    ramp = np.arange(n) / n
    sign = np.where(np.arange(n) % 2, 1.0, -1.0)
    first = np.zeros(n)
    first[0] = 1
    last = first[::-1]
    every = (np.arange(n) % 128 == 0).astype(float)
    top = 1e5 if dtype == np.float32 else 1e7
    return {
        "outlier-first": noise + top * first,
        "outlier-last": noise + top * last,
        "outlier-first-large-mean": top / 10 + noise - top * first,
        "zero-first": (top + noise) * (1 - first),
        "zero-last": (top + noise) * (1 - last),
        "outlier-in-every-chunk": noise + top * every,
        "drift": noise + top * ramp,
        "drift-down": noise - top * ramp,
        "ramp": top * ramp,
        "alternating": noise + top * sign,
        "alternating-exactly": top * sign,
        "two-levels": noise + np.where(ramp < 0.5, top, -top),
        "sorted": np.sort(noise) + 100,
        "growing": noise * np.exp(18 * ramp),
        "shrinking": noise * np.exp(-18 * ramp),
        "heavy-tail": rng.standard_cauchy(n),
        "one-step": np.where(ramp < 0.999, 1.0, 1.0 + 1e-6),
        "two-neighbours": np.where(sign > 0, np.nextafter(np.asarray(top, dtype), np.asarray(np.inf, dtype)), top),
        "constant-but-first": 0.1 + first,
        "constant-but-last": 0.1 + last,
        "coin": (rng.random(n) < 0.001).astype(float),
    }


@functools.cache
def adversary(dtype: Any) -> tuple[list[str], Problem]:
    cases = adversaries(dtype)
    return list(cases), Problem(np.stack(list(cases.values()), axis=1).astype(dtype), eps=1e-12)


@every_dtype
@in_every_place
def test_adversarial_order(dtype: Any, place: str) -> None:
    names, problem = adversary(dtype)
    x, axis = placed(problem.values, place)
    result = fastbn.batch_norm_train(x, problem.weight, problem.bias, eps=problem.eps, axis=axis)
    y = unplaced(result.y, axis)
    plain = unplaced(fastbn.batch_norm(x, training=True, eps=problem.eps, axis=axis), axis)
    for i, name in enumerate(names):
        try:
            assert_relative(result.var[i], problem.var[i], VAR_RTOL[x.dtype])
            assert_ulps(y[:, i], problem.y(True, True)[:, i], problem.bias[i])
            assert_ulps(plain[:, i], problem.y(False, False)[:, i])
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None
