"""Promise: the figures of the README's numerics table, for any data, on every instruction set.

Where the rest of the suite allows for an element that happens to lie at its channel's mean, this file does not: y is
compared with the exact result, in units in the last place of the larger of |y| and |bias|, without bias of |y| alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import fastbn
import reference
from helpers import (
    FLOAT64_RTOL,
    FLOATS,
    VAR_RTOL,
    assert_gradients,
    assert_normalized,
    assert_relative,
    assert_train,
    assert_ulps,
    bits,
    dense,
    differing,
    fortran,
    once,
    parameters,
    permuted,
    stepped,
    using_isa,
)

pytestmark = [pytest.mark.usefixtures("isa"), pytest.mark.untraced]

every_dtype = pytest.mark.parametrize("dtype", FLOATS)


# The oracles first: three ways to compute the same must agree before anything is measured against them.


@every_dtype
def test_oracles_agree(dtype: Any, rng: np.random.Generator) -> None:
    mpmath = pytest.importorskip("mpmath")
    x = (100 + 3 * rng.standard_normal(50)).astype(dtype)
    weight, bias, eps = 1.25, -0.3, 1e-5
    exact = reference.exact_train(x, weight, bias, eps)
    mean, m2 = reference.exact_moments(x)
    twice = reference.train(x[:, None], [weight], [bias], eps)
    # Long double has 64 bits: a few dozen roundings.
    assert_relative(twice.y[:, 0], exact, 1e-17)
    assert_relative(twice.mean[0], reference.longdouble_of(mean), 1e-18)
    assert_relative(twice.biased[0], reference.longdouble_of(m2 / 50), 1e-17)
    given = reference.exact_normalize(x, 99.5, 2.5, weight, bias, eps)
    assert_relative(reference.normalize(x[:, None], [99.5], [2.5], [weight], [bias], eps)[:, 0], given, 1e-17)
    plain = reference.train(x[:, None], [weight], [bias], eps, dtype=np.float64)
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


# A set of problems, each solved once by the oracle and asked of every instruction set.


class Problem:
    """A two-dimensional array (count, channels), its parameters, and the exact solution."""

    def __init__(self, values: np.ndarray, eps: float = 1e-5) -> None:
        self.values, self.eps = values, eps
        self.weight, self.bias = parameters(np.random.default_rng(7), values.shape[1:])
        self.solutions: dict[tuple[bool, bool], np.ndarray] = {}
        self.inferred: dict[tuple[bytes, bytes, bool, bool], np.ndarray] = {}

    @functools.cached_property
    def moments(self) -> list[tuple[Fraction, Fraction]]:
        return [reference.exact_moments(column) for column in self.values.T]

    @functools.cached_property
    def mean(self) -> np.ndarray:
        return np.array([reference.longdouble_of(mean) for mean, _ in self.moments])

    @functools.cached_property
    def biased(self) -> list[Fraction]:
        return [m2 / len(self.values) for _, m2 in self.moments]

    @functools.cached_property
    def var(self) -> np.ndarray:
        return np.array([reference.longdouble_of(var) for var in self.biased])

    @functools.cached_property
    def invstd(self) -> np.ndarray:
        return np.array([reference.longdouble_of(reference.exact_invstd(var, self.eps)) for var in self.biased])

    def y(self, weight: bool, bias: bool) -> np.ndarray:
        """Return the exact result, as (count, channels), for the parameters asked for."""
        if (weight, bias) not in self.solutions:
            solved = [
                reference.exact_train(column, float(w), float(b), self.eps)
                for column, w, b in zip(self.values.T, *self.used(weight, bias), strict=True)
            ]
            self.solutions[weight, bias] = np.stack(solved, axis=1)
        return self.solutions[weight, bias]

    def used(self, weight: bool, bias: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return the parameters, those not asked for as what they are taken to be."""
        return (
            self.weight if weight else np.ones_like(self.weight),
            self.bias if bias else np.zeros_like(self.bias),
        )

    def given(self, mean: np.ndarray, var: np.ndarray, weight: bool, bias: bool) -> np.ndarray:
        """Return the exact result of normalizing by the statistics given."""
        asked = (mean.tobytes(), var.tobytes(), weight, bias)
        if asked not in self.inferred:
            solved = [
                reference.exact_normalize(column, float(m), float(v), float(w), float(b), self.eps)
                for column, m, v, w, b in zip(self.values.T, mean, var, *self.used(weight, bias), strict=True)
            ]
            self.inferred[asked] = np.stack(solved, axis=1)
        return self.inferred[asked]


# How (count, channels) becomes an array: each exercises another path through the kernels.
Place = tuple[Callable[[np.ndarray], np.ndarray], int]


def images(height: int, width: int) -> Callable[[np.ndarray], np.ndarray]:
    """NCHW with images of this size; count must be a multiple of theirs."""
    return lambda values: dense(values.reshape(-1, height, width, values.shape[1]).transpose(0, 3, 1, 2))


PLACES: dict[str, Place] = {
    "NC": (dense, 1),
    "CN": (lambda v: dense(v.T), 0),
    "NC-fortran": (fortran, 1),
    "NCL": (lambda v: dense(v.reshape(4, -1, v.shape[1]).transpose(0, 2, 1)), 1),
    "NLC": (lambda v: dense(v.reshape(4, -1, v.shape[1])), 2),
    "NCHW-2x2": (images(2, 2), 1),
    "NCHW-7x7": (images(7, 7), 1),
    "NCHW-14x14": (images(14, 14), 1),
    "NHWC-view": (lambda v: permuted(0, 2, 3, 1)(images(7, 7)(v)), 1),
    "stepped": (lambda v: stepped(1, 2, -1, 3)(images(7, 7)(v)), 1),
}
PLAIN = ("NC", "CN", "NCHW-7x7", "stepped")
COUNT = 4 * 14 * 14 * 3  # a multiple of every size above


def placed(values: np.ndarray, place: str) -> tuple[np.ndarray, int]:
    arrange, axis = PLACES[place]
    return arrange(values), axis


def unplaced(array: np.ndarray, axis: int) -> np.ndarray:
    """Return (count, channels) again; `reference.columns` counts in C order, as the places do."""
    return reference.columns(array, axis)


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


# Sizes round every block a kernel may have.

SIZES = [*range(1, 71), *range(127, 131), *range(255, 259), *range(1023, 1027), *range(4095, 4099)]
CHANNELS = (1, 3, 15, 16, 17, 255, 256, 257, 600)


@once
def assert_moments(x: np.ndarray, mean: np.ndarray, m2: np.ndarray, axis: int) -> None:
    expected = reference.moments(x, axis)
    tiny = 1e-13 * (1 + 1e4 * (x.dtype == np.float32))
    assert_relative(mean, expected.mean, 2**-52, atol=tiny)
    # Of two or three values the spread may happen to be small beside the mean: the sums' own rounding, at 600 * 2^-53.
    assert_relative(m2, expected.m2, VAR_RTOL[x.dtype], atol=1e-24)


def check_at(shape: tuple[int, ...], axis: int, dtype: Any) -> None:
    rng = np.random.default_rng(shape)
    # Channels differ in mean, so that one taken for another is seen.
    offsets = reference.along(np.arange(shape[axis]) % 61 * 10.0, shape, axis)
    x = (offsets + rng.standard_normal(shape)).astype(dtype)
    dy = (0.5 + rng.standard_normal(shape)).astype(dtype)
    weight, bias = parameters(rng, shape[axis : axis + 1])
    count = x.size // shape[axis]
    found = fastbn.moments(x, axis=axis)
    assert found.count == count
    assert_moments(x, found.mean, found.m2, axis)
    saved = {"mean": offsets.ravel()[: shape[axis]], "invstd": rng.uniform(0.5, 2, shape[axis]), "axis": axis}
    y = fastbn.normalize(x, saved["mean"], saved["invstd"], weight, bias, axis=axis)
    assert_normalized(x, y, saved["mean"], saved["invstd"], weight, bias, axis=axis)
    if count > 1:
        result = fastbn.batch_norm_train(x, weight, bias, axis=axis)
        assert_train(x, result, weight, bias, axis=axis)
    for training in (True, False) if count > 1 else (False,):
        got = fastbn.batch_norm_backward(dy, x, weight, **saved, training=training)
        assert_gradients(got, dy, x, weight, **saved, training=training)


@every_dtype
@pytest.mark.parametrize("sizes", [SIZES[:70], SIZES[70:]], ids=["small", "large"])
@pytest.mark.parametrize("form", ["NCL", "CN", "NC", "NC-17", "NLC-1"])
def test_sizes(dtype: Any, sizes: list[int], form: str) -> None:
    """Every inner size, or number of rows, round the blocks."""
    for n in sizes:
        shape, axis = {
            "NCL": ((3, 5, n), 1),
            "CN": ((3, n), 0),
            "NC": ((n, 3), 1),
            "NC-17": ((n, 17), 1),
            "NLC-1": ((2, n, 1), 2),
        }[form]
        check_at(shape, axis, dtype)


@every_dtype
@pytest.mark.parametrize("channels", CHANNELS)
def test_channel_counts(dtype: Any, channels: int) -> None:
    for n in (1, 2, 3, 7, 8, 9, 64, 65, 129):
        check_at((n, channels), 1, dtype)
        check_at((2, channels, n), 1, dtype)
        check_at((2, n, channels), 2, dtype)


@every_dtype
def test_every_channel_count(dtype: Any) -> None:
    for channels in range(1, 71):
        check_at((11, channels), 1, dtype)
        check_at((5, channels, 2), 1, dtype)


# Constants.


def constants(dtype: Any) -> np.ndarray:
    rng = np.random.default_rng(5)
    info = np.finfo(dtype)
    special = [0.0, -0.0, 1.0, -1.0, 0.1, 1 / 3, -7.3, 1e6 + 0.3, 1e8 + 1, 16777217.0, np.pi, -1e-5, 2.0**-20]
    extreme = [info.max, info.min, info.tiny, info.smallest_subnormal, -info.smallest_subnormal, info.tiny / 8]
    wide = np.ldexp(rng.uniform(0.5, 1, 120), rng.integers(info.minexp, info.maxexp, 120))
    return np.concatenate([special, extreme, wide, rng.standard_normal(40) * 1e3]).astype(dtype)


@every_dtype
@pytest.mark.parametrize("form", ["NC", "CN", "NCL", "NC-fortran", "NCHW-2x2", "stepped"])
def test_constant_channels(dtype: Any, form: str) -> None:
    """The variance is 0, not small; y is the bias, rounded to x's type and no more."""
    values = constants(dtype)
    rng = np.random.default_rng(9)
    weight, bias = parameters(rng, values.shape)
    wanted = bias.astype(dtype)
    for n in [*range(2, 40), 63, 64, 65, 127, 128, 129, 255, 257, 1023, 1025] + [4097] * (form in ("NC", "CN")):
        block = np.broadcast_to(values, (n, len(values)))
        if form == "NCL":
            x, axis = np.repeat(values[None, :, None], n, axis=2), 1
        elif form == "NCHW-2x2":
            x, axis = np.broadcast_to(values[None, :, None, None], (n, len(values), 2, 2)).copy(), 1
        elif form == "stepped":
            x, axis = stepped(-2, 3)(block), 1
        elif form == "CN":
            x, axis = dense(block.T), 0
        else:
            x, axis = {"NC": dense, "NC-fortran": fortran}[form](block), 1
        result = fastbn.batch_norm_train(x, weight, bias, axis=axis)
        assert not result.var.any(), (n, values[result.var != 0])
        np.testing.assert_array_equal(result.mean, values.astype(float), err_msg=str(n))
        assert (result.y == reference.along(wanted, x.shape, axis)).all(), n
        assert not fastbn.moments(x, axis=axis).m2.any(), n
        assert not fastbn.batch_norm(x, weight=weight, training=True, axis=axis).any(), n
        y = fastbn.batch_norm_train(x, weight, bias, eps=0, axis=axis).y
        assert (y == reference.along(wanted, x.shape, axis)).all(), n
        y = fastbn.normalize(x, result.mean, result.var, weight, bias, axis=axis)
        assert (y == reference.along(wanted, x.shape, axis)).all(), n


# The ends of the exponent range.

EXTREMES = {
    np.float32: (1e30, 1e-30, 3e38, 1e37, 1e-37, 1e-38, 1e-40, 1e-44),
    np.float64: (1e200, 1e-200, 1e307, 1e150, 1e-150, 1e-160, 1e-305, 1e-310, 1e-320),
}
# Without eps, the narrowest channel of float64's smallest sizes has an invstd beyond float64: a test of its own below.
EXTREME_CASES = [
    pytest.param(d, s, e, id=f"{np.dtype(d).name}-{s:g}-{e:g}")
    for d, sizes in EXTREMES.items()
    for s in sizes
    for e in (1e-5, 0.0)
    if d == np.float32 or s > 1e-300 or e
]
EXTREME_PLACES = ("NC", "CN", "NCHW-2x2", "stepped")


@functools.cache
def extreme(dtype: Any, size: float, eps: float) -> Problem:
    """Numbers of this size: round zero, round a mean of 3/4, all but one at one end, and two opposite ones."""
    rng = np.random.default_rng(13)
    n = COUNT // 3
    lone = np.where(np.arange(n) == 5, 1.0, -1.0)
    forms = [
        rng.uniform(-1, 1, n),
        0.75 + 0.25 * rng.uniform(-1, 1, n),
        lone,
        np.where(np.arange(n) % 2, 1.0, -1.0),
        -1 + 1e-3 * rng.uniform(0, 1, n),
    ]
    values = (np.stack(forms, axis=1) * size).astype(dtype)
    return Problem(values, eps)


@pytest.mark.parametrize(("dtype", "size", "eps"), EXTREME_CASES)
@pytest.mark.parametrize("place", EXTREME_PLACES)
def test_extremes_forward(dtype: Any, size: float, eps: float, place: str) -> None:
    problem = extreme(dtype, size, eps)
    x, axis = placed(problem.values, place)
    # A mean is no finer than the smallest number there is, nor what it leaves of x.
    slack = np.longdouble(5e-324) * np.abs(problem.weight) * problem.invstd
    for both in (True, False):
        weight, bias = (problem.weight, problem.bias) if both else (None, None)
        result = fastbn.batch_norm_train(x, weight, bias, eps=eps, axis=axis)
        y = unplaced(result.y, axis)
        assert np.isfinite(y).all()
        assert_ulps(y, problem.y(both, both), problem.bias if both else 0, slack=2 * slack)
    spread = float(np.sqrt(problem.var.max()))
    assert_relative(result.mean, problem.mean, 2**-52, atol=1e-13 * spread + 5e-324)
    with np.errstate(over="ignore", under="ignore"):
        wanted = problem.var.astype(np.float64)
    # Where the variance is beyond float64 it is inf, and where it is below, 0; invstd is neither.
    normal = np.isfinite(wanted) & (wanted > 1e-290)
    assert_relative(result.var[normal], problem.var[normal], VAR_RTOL[x.dtype])
    assert np.isinf(result.var[np.isinf(wanted)]).all()
    assert (result.var[wanted < 1e-290] < 1e-289).all()
    assert_relative(result.invstd, problem.invstd, VAR_RTOL[x.dtype], atol=5e-324)


@pytest.mark.parametrize(("dtype", "size"), [(d, s) for d, sizes in EXTREMES.items() for s in sizes])
@pytest.mark.parametrize("place", EXTREME_PLACES)
def test_extremes_in_inference(dtype: Any, size: float, place: str) -> None:
    """By a mean and a variance of the data's size where float64 holds them, and by ordinary ones."""
    problem = extreme(dtype, size, 1e-5)
    x, axis = placed(problem.values, place)
    with np.errstate(over="ignore", under="ignore"):
        var = problem.var.astype(np.float64)
    mean = problem.mean.astype(np.float64)
    if np.isfinite(var).all():
        y = unplaced(fastbn.normalize(x, mean, var, problem.weight, problem.bias, axis=axis), axis)
        assert_ulps(y, problem.given(mean, var, True, True), problem.bias)
    if size < 1e37 or (dtype == np.float64 and size < 1e300):
        mean, var = np.full(5, 0.25), np.full(5, 4.0)
        y = unplaced(fastbn.normalize(x, mean, var, problem.weight, problem.bias, axis=axis), axis)
        assert_ulps(y, problem.given(mean, var, True, True), problem.bias)


# Where dx is dy / x and x is below the normal numbers of its type, dx is in range only if dy is below them too.
BACKWARD_CASES = [c for c in EXTREME_CASES if c.values[0] == np.float64 or c.values[1] > 1e-38 or c.values[2]]


@pytest.mark.parametrize(("dtype", "size", "eps"), BACKWARD_CASES)
@pytest.mark.parametrize("place", EXTREME_PLACES)
@pytest.mark.parametrize("training", [True, False])
def test_extremes_backward(dtype: Any, size: float, eps: float, place: str, training: bool) -> None:
    """The gradient is of the size of dy / x; it must not pass through squares of either."""
    problem = extreme(dtype, size, eps)
    x, axis = placed(problem.values, place)
    mean = problem.mean.astype(np.float64)
    with np.errstate(over="ignore"):
        invstd = problem.invstd.astype(np.float64)
    assert np.isfinite(invstd).all()
    rng = np.random.default_rng(17)
    # dy such that dx stays in x's type.
    unit = min(1.0, size) if eps == 0 else 1.0
    dy, _ = placed((unit * rng.standard_normal(problem.values.shape)).astype(dtype), place)
    saved = {"mean": mean, "invstd": invstd, "axis": axis, "training": training}
    got = fastbn.batch_norm_backward(dy, x, problem.weight, **saved)
    assert all(np.isfinite(g).all() for g in got)
    assert_gradients(got, dy, x, problem.weight, **saved)


@pytest.mark.parametrize("size", [1e-305, 1e-310, 1e-320])
@pytest.mark.parametrize("place", EXTREME_PLACES)
def test_a_spread_whose_inverse_is_beyond_float64(size: float, place: str) -> None:
    """Without eps, y can only be what invstd allows: a number, of the right sign and no larger than it should be."""
    problem = extreme(np.float64, size, 0.0)
    x, axis = placed(problem.values, place)
    for both in (True, False):
        weight, bias = (problem.weight, problem.bias) if both else (None, None)
        result = fastbn.batch_norm_train(x, weight, bias, eps=0.0, axis=axis)
        assert np.isfinite(result.invstd).all()
        y, expected = unplaced(result.y, axis), problem.y(both, both)
        assert np.isfinite(y).all()
        if not both:
            assert (y * expected >= 0).all()
            assert (np.abs(y) <= np.abs(expected) * (1 + 1e-6)).all()


@every_dtype
@pytest.mark.parametrize("place", EXTREME_PLACES)
def test_the_whole_range_at_once(dtype: Any, place: str) -> None:
    """The largest number and its negative: their difference is beyond the type, the result is not."""
    top = np.finfo(dtype).max
    n = COUNT // 3
    values = np.full((n, 3), -top, dtype)
    values[::2, 0] = top
    values[7, 1] = top
    values[:, 2] = np.random.default_rng(19).uniform(-1, 1, n).astype(dtype) * top
    problem = Problem(values)
    x, axis = placed(values, place)
    result = fastbn.batch_norm_train(x, problem.weight, problem.bias, axis=axis)
    y = unplaced(result.y, axis)
    assert np.isfinite(y).all()
    assert_ulps(y, problem.y(True, True), problem.bias)
    assert_relative(result.invstd, problem.invstd, VAR_RTOL[x.dtype], atol=5e-324)


@every_dtype
@pytest.mark.parametrize("place", EXTREME_PLACES)
@pytest.mark.parametrize("gain", [1e-30, 1e-6, 1e6, 1e30])
def test_weights_of_any_size(dtype: Any, place: str, gain: float) -> None:
    """Their product with invstd may leave x's type where y does not."""
    for size in (1e30, 1.0, 1e-30):
        if dtype == np.float32 and gain > 1e29 and size < 1:
            size = 1e-5
        problem = extreme(dtype, size, 0.0)
        weight = problem.weight * gain
        x, axis = placed(problem.values, place)
        y = unplaced(fastbn.batch_norm(x, weight=weight, training=True, eps=0.0, axis=axis), axis)
        expected = problem.y(False, False) * weight
        assert_ulps(y, expected)


# NaN and infinity.


def chosen(arrays: dict[str, np.ndarray], where: np.ndarray) -> dict[str, bytes]:
    """Return the bits of the chosen elements of each array."""
    return {name: bits(array[where]) for name, array in arrays.items()}


SPECIALS = {"nan": [np.nan], "inf": [np.inf], "-inf": [-np.inf], "both": [np.inf, -np.inf], "all": [np.nan, np.inf]}


@every_dtype
@pytest.mark.parametrize("special", SPECIALS)
@pytest.mark.parametrize("form", ["NC", "NC-wide", "CN", "NCL", "NLC", "NCHW-1x1", "NCHW-2x2", "NCHW-7x7", "stepped"])
def test_nan_and_infinity_stay_in_their_channel(dtype: Any, special: str, form: str, rng: np.random.Generator) -> None:
    shape, axis = {
        "NC": ((67, 19), 1),
        "NC-wide": ((12, 300), 1),
        "CN": ((19, 67), 0),
        "NCL": ((3, 19, 45), 1),
        "NLC": ((3, 45, 19), 2),
        "NCHW-1x1": ((67, 19, 1, 1), 1),
        "NCHW-2x2": ((17, 19, 2, 2), 1),
        "NCHW-7x7": ((5, 19, 7, 7), 1),
        "stepped": ((5, 19, 7, 7), 1),
    }[form]
    place = stepped(1, 2, -1, 3) if form == "stepped" else dense
    clean = place(rng.standard_normal(shape).astype(dtype))
    dy = rng.standard_normal(shape).astype(dtype)
    weight, bias = parameters(rng, (shape[axis],))
    given = rng.standard_normal(shape[axis]), rng.uniform(1, 2, shape[axis])

    def run(x: np.ndarray, dy: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Return what has x's shape and what has the features'."""
        y, mean, var, invstd, _ = fastbn.batch_norm_train(x, weight, bias, axis=axis)
        running = [a.copy() for a in given]
        fastbn.batch_norm(x, *running, weight, bias, training=True, axis=axis)
        found = fastbn.moments(x, axis=axis)
        saved = {"mean": given[0], "invstd": given[1], "axis": axis}
        dx, dweight, dbias = fastbn.batch_norm_backward(dy, x, weight, **saved)
        frozen = fastbn.batch_norm_backward(dy, x, weight, **saved, training=False)
        large = {"y": y, "dx": dx}
        small = {"mean": mean, "var": var, "invstd": invstd, "running_mean": running[0], "running_var": running[1]}
        small |= {"moments.mean": found.mean, "moments.m2": found.m2, "dweight": dweight, "dbias": dbias}
        elementwise = {"normalize": fastbn.normalize(x, *given, weight, bias, axis=axis), "frozen": frozen.dx}
        return large | elementwise, small

    before_large, before_small = run(clean, dy)
    # First, last and middle channels, at the first, last and a middle value.
    for channel in (0, shape[axis] // 2, shape[axis] - 1):
        others = np.arange(shape[axis]) != channel
        for position in (0, -1, 31):
            x = place(clean)
            view = np.moveaxis(x, axis, 0)[channel]
            for step, value in enumerate(SPECIALS[special]):
                view[np.unravel_index((position + step * 3) % view.size, view.shape)] = value
            large, small = run(x, dy)
            bad = ~np.isfinite(x)
            inside = np.broadcast_to(reference.along(~others, shape, axis), shape)
            assert differing(chosen(large, ~inside), chosen(before_large, ~inside)) == []
            assert differing(chosen(small, others), chosen(before_small, others)) == []
            assert np.isnan(large["y"][inside]).all()
            for name in ("mean", "var", "invstd", "running_mean", "running_var", "moments.mean", "moments.m2"):
                assert np.isnan(small[name][channel]), name
            # Element by element: inference spoils one element, as NumPy would; a frozen gradient does not see x.
            spoiled = large["normalize"]
            np.testing.assert_array_equal(spoiled[~bad], before_large["normalize"][~bad])
            with np.errstate(invalid="ignore"):
                wanted = reference.normalize(x, *given, weight, bias, axis=axis)
            np.testing.assert_array_equal(spoiled[bad], wanted[bad].astype(dtype))
            np.testing.assert_array_equal(large["frozen"], before_large["frozen"])
            assert not np.isfinite(small["dweight"][channel])
            assert np.isfinite(small["dbias"][channel])
            # The same in dy.
            hurt = dy.copy()
            hurt[bad] = x[bad]
            large, small = run(clean, hurt)
            assert differing(chosen(large, ~inside), chosen(before_large, ~inside)) == []
            assert differing(chosen(small, others), chosen(before_small, others)) == []
            assert not np.isfinite(large["dx"][inside]).any()
            assert not np.isfinite([small["dweight"][channel], small["dbias"][channel]]).any()
            np.testing.assert_array_equal(large["frozen"][~bad], before_large["frozen"][~bad])


@every_dtype
def test_nan_among_given_statistics_and_parameters(dtype: Any, rng: np.random.Generator) -> None:
    x = rng.standard_normal((6, 20, 9)).astype(dtype)
    plain = {"mean": np.zeros(20), "var": np.ones(20), "weight": np.ones(20), "bias": np.zeros(20)}
    before = fastbn.normalize(x, **plain)
    gradients = fastbn.batch_norm_backward(x, x, plain["weight"], mean=plain["mean"], invstd=plain["var"])
    others = np.arange(20) != 13
    for name in plain:
        hurt = {key: array.copy() for key, array in plain.items()}
        hurt[name][13] = np.nan
        y = fastbn.normalize(x, **hurt)
        assert np.isnan(y[:, 13]).all(), name
        np.testing.assert_array_equal(y[:, others], before[:, others], err_msg=name)
        got = fastbn.batch_norm_backward(x, x, hurt["weight"], mean=hurt["mean"], invstd=hurt["var"])
        np.testing.assert_array_equal(got.dx[:, others], gradients.dx[:, others], err_msg=name)
        if name != "bias":
            assert np.isnan(got.dx[:, 13]).all(), name


# Parameters at the ends of the range.


@every_dtype
def test_weights_of_no_size(dtype: Any) -> None:
    """A weight that decays below the normal numbers takes y to the bias, not to NaN."""
    x = np.array([[0.1], [-0.1], [0.05], [-0.05]], dtype)
    trained = fastbn.batch_norm_train(x)
    dy = np.array([[1.0], [2.0], [3.0], [5.0]], dtype)
    for weight in (1e-307, 1e-310, 5e-324, -5e-324, 0.0):
        w = np.array([weight])
        y = fastbn.batch_norm_train(x, w, np.array([2.0])).y
        np.testing.assert_array_equal(y, np.full_like(x, 2.0))
        assert np.isfinite(fastbn.normalize(x, np.zeros(1), np.array([0.01]), w)).all()
        for training in (True, False):
            got = fastbn.batch_norm_backward(dy, x, w, mean=trained.mean, invstd=trained.invstd, training=training)
            assert (np.abs(got.dx.astype(np.float64)) < 1e-300).all()


def test_a_constant_channel_is_its_bias_whatever_the_scale() -> None:
    x = np.ones((4, 1), np.float32)
    for weight, eps in ((1.0, 1e-160), (1e76, 1e-5), (-1e300, 1e-300)):
        y = fastbn.batch_norm_train(x, np.array([weight]), np.array([2.0]), eps=eps).y
        np.testing.assert_array_equal(y, np.full_like(x, 2.0))
    np.testing.assert_array_equal(fastbn.normalize(x, np.ones(1), np.array([1e-160]), eps=0.0), np.zeros_like(x))


def test_the_sign_of_zero_is_the_same_on_every_isa() -> None:
    x, w = np.zeros((4, 2, 4, 4), np.float32), np.array([-1.0, 1.0])
    signs = []
    for name in fastbn._core.isas():
        with using_isa(name):
            dx = fastbn.batch_norm_backward(np.ones_like(x), x, w, mean=np.zeros(2), invstd=np.zeros(2)).dx
        signs.append(np.signbit(dx).tobytes())
    assert len(set(signs)) == 1


@pytest.mark.parametrize(
    ("dtype", "size", "offset"),
    [
        (np.float32, 1e-36, 1000.0),
        (np.float32, 1e-37, 100.0),
        (np.float32, 1e-35, 1e4),
        (np.float64, 1e-307, 100.0),
        (np.float64, 1e-306, 1000.0),
    ],
)
def test_gradients_whose_mean_is_far_larger_than_what_is_left_of_them(dtype: Any, size: float, offset: float) -> None:
    """The result is near the largest numbers though dy * weight * invstd is beyond them."""
    rng = np.random.default_rng(61)
    x = (size * rng.standard_normal((64, 3))).astype(dtype)
    dy = (offset + rng.standard_normal((64, 3))).astype(dtype)
    result = fastbn.batch_norm_train(x, eps=0.0)
    saved = {"mean": result.mean, "invstd": result.invstd}
    dx = fastbn.batch_norm_backward(dy, x, **saved).dx
    expected = reference.backward(dy, x, None, **saved).dx
    # What is left of dy has its rounding errors, and those of sum(dy) / N in dx's type.
    limit = 4 * np.finfo(dtype).eps * offset * np.abs(result.invstd)
    assert (np.abs(dx - expected) <= limit).all()


def test_gradients_of_subnormal_data() -> None:
    x = np.array([[1.4e-45], [2.8e-45], [1.1e-44]], np.float32)
    dy = np.float32(4e37) * np.array([[1.0], [-1.0], [0.5]], np.float32)
    result = fastbn.batch_norm_train(x, eps=0.0)
    saved = {"mean": result.mean, "invstd": result.invstd}
    for weight in (0.0, 1e-50, 1e-46):
        w = np.array([weight])
        dx = fastbn.batch_norm_backward(dy, x, w, **saved).dx
        expected = reference.backward(dy, x, w, **saved).dx
        # Of the size of what is subtracted from each other.
        np.testing.assert_allclose(dx, expected, rtol=0, atol=1e-6 * weight * result.invstd[0] * 4e37)


def test_a_weight_beyond_the_data_s_type() -> None:
    """Overflow goes to the infinity of the right sign; there is no NaN."""
    x = np.array([[0.1], [0.3], [0.7], [-0.4]], np.float32)
    weight = np.array([1e47])
    wanted = np.array([[-np.inf], [np.inf], [np.inf], [-np.inf]], np.float32)
    result = fastbn.batch_norm_train(x, weight, eps=0.0)
    np.testing.assert_array_equal(result.y, wanted)
    np.testing.assert_array_equal(fastbn.normalize(x, result.mean, result.var, weight, eps=0.0), wanted)
