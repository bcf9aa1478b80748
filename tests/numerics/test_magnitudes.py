"""Whatever the magnitudes: no finite input gives NaN, and infinity only what the formula puts beyond the type."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastbn
from support.dtypes import FLOATS
from support.oracle import Array
from support.tolerances import GRAD_RTOL, Y_ULPS

# The oracle's type: its exponents hold every product here, its mantissa eleven bits more than float64's.
Long = np.longdouble
CASES = 1000


class Drawn:
    """Numbers of either sign whose exponents lie anywhere in the type's range."""

    def __init__(self, rng: np.random.Generator, dtype: Any) -> None:
        self.rng, self.dtype = rng, np.dtype(dtype)
        self.largest = float(np.finfo(dtype).max)
        self.decades = np.log10(self.largest) - 0.5

    def size(self) -> float:
        return float(10.0 ** self.rng.uniform(-self.decades, self.decades))

    def number(self) -> Array:
        return np.array([self.rng.standard_normal() * self.size() / 8])

    def column(self, n: int) -> Array:
        return (self.rng.standard_normal((n, 1)) * self.size() / 8).astype(self.dtype)

    def weight(self) -> Array:
        return np.array([0.0]) if self.rng.random() < 0.2 else self.number()


def check(actual: Array, expected: Array, size: Array, ulps: float) -> None:
    """Within so many ulp of its largest term; infinite only if a term comes within a sixteenth of the type's end."""
    info = np.finfo(actual.dtype)
    assert not np.isnan(actual).any()
    inside = size < Long(info.max) / 16
    assert np.isfinite(actual[inside]).all()
    limit = ulps * np.maximum(size * Long(info.eps), Long(info.smallest_subnormal))
    assert (np.abs(actual - expected)[inside] <= limit[inside]).all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_forward(isa: str, dtype: Any, rng: np.random.Generator) -> None:
    drawn = Drawn(rng, dtype)
    for _ in range(CASES):
        x, mean, weight, bias = drawn.column(3), drawn.number(), drawn.weight(), drawn.number()
        # Any deviation whose square float64 holds.
        var = np.array([min(drawn.size(), 1e153) ** 2]) + 1e-300
        y = fastbn.normalize(x, mean, var, weight, bias, eps=0.0)
        scale = Long(weight) / np.sqrt(Long(var))
        expected = (Long(x) - Long(mean)) * scale + Long(bias)
        check(y, expected, np.abs(expected) + np.abs(Long(bias)), Y_ULPS)


@pytest.mark.parametrize("dtype", FLOATS)
def test_backward(isa: str, dtype: Any, rng: np.random.Generator) -> None:
    drawn = Drawn(rng, dtype)
    checked = 0
    for _ in range(CASES):
        x, dy, weight = drawn.column(4), drawn.column(4), drawn.weight()
        result = fastbn.batch_norm_train(x, weight, eps=0.0)
        xhat, d = (Long(x) - Long(result.mean)) * Long(result.invstd), Long(dy)
        sums = np.abs(d).sum(), np.abs(d * xhat).sum()
        if not np.isfinite(result.invstd).all() or max(sums) > Long(np.finfo(np.float64).max):
            continue  # what float64 cannot hold is promised nothing
        dx = fastbn.batch_norm_backward(dy, x, weight, mean=result.mean, invstd=result.invstd).dx
        scale = Long(weight) * Long(result.invstd)
        expected = scale * (d - d.mean() - xhat * (d * xhat).mean())
        size = np.abs(scale) * (np.abs(d) + np.abs(d).mean() + np.abs(xhat) * np.abs(d * xhat).mean())
        check(dx, expected, size, GRAD_RTOL[np.dtype(dtype)] / float(np.finfo(dtype).eps))
        checked += 1
    assert checked > CASES // 2


# Values at the type's end; x and dy whose difference would be beyond it while the sums still are numbers.
ZERO_WEIGHT = {
    np.float32: ([2e38, 3e38, -3e38], [2e20, 2e20, -2e20, -2e20, 0.0], [3e38, -3e38, -2e38, 0.0, 2e38]),
    np.float64: ([1.7e308, 1.7e308, -1.7e308], [2e200, 2e200, -2e200, -2e200, 0.0], [7e307, -7e307, -5e307, 0, 5e307]),
}


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_weight_of_zero(isa: str, dtype: Any) -> None:
    at_the_end, x, dy = (np.array(values, dtype)[:, np.newaxis] for values in ZERO_WEIGHT[dtype])
    zero, half = np.zeros(1), np.full(1, 0.5)
    assert (fastbn.batch_norm(at_the_end, weight=zero, bias=half, training=True) == 0.5).all()
    result = fastbn.batch_norm_train(x, zero)
    gradients = fastbn.batch_norm_backward(dy, x, zero, mean=result.mean, invstd=result.invstd)
    assert (gradients.dx == 0).all()
    dy[1] = np.nan
    gradients = fastbn.batch_norm_backward(dy, x, zero, mean=result.mean, invstd=result.invstd)
    assert np.isnan(gradients.dx).all()


@pytest.mark.parametrize(("dtype", "scale"), [(np.float32, 3.3e37), (np.float64, 1.5e307)])
def test_the_last_octave(isa: str, dtype: Any, scale: float) -> None:
    y = fastbn.normalize(np.full((1, 1), 8, dtype), np.zeros(1), np.ones(1), np.array([scale]), eps=0.0)
    assert y.item() == dtype(8 * scale)


@pytest.mark.parametrize(("eps", "size"), [(1e-200, 1e-30), (1e-120, 1e-30), (1e-60, 1e-6)])
def test_a_constant_channel_has_the_gradient_of_its_deviations(eps: float, size: float) -> None:
    """The deviations are 0, so dx = weight / sqrt(eps) * (dy - mean(dy)), which float32 holds here."""
    x, dy = np.full((4, 1), 2, np.float32), (size * np.array([[2.0], [6.0], [-6.0], [-2.0]])).astype(np.float32)
    weight = np.array([1e30 * np.sqrt(eps)])
    forward = fastbn.batch_norm_train(x, weight, eps=eps)
    dx = fastbn.batch_norm_backward(dy, x, weight, mean=forward.mean, invstd=forward.invstd).dx
    np.testing.assert_allclose(dx, 1e30 * dy.astype(np.float64), rtol=1e-6)  # a few roundings of float32


def test_values_one_subnormal_apart_have_a_variance_of_0() -> None:
    """The exact m2 is far below the smallest float64 number, which stands for it: only a constant has an m2 of 0."""
    x = np.full((1000, 1), 3.65995361e-313)
    assert fastbn.moments(x).m2 == 0
    x[17] = np.nextafter(x[17], 1)
    moments = fastbn.moments(x)
    assert moments.m2 == 5e-324
    assert moments.var() == 0


@pytest.mark.parametrize("weights", [[0.25, 0.25], [0.25, 0.125], [1e-300, 1e-300], [1e-20, 0.0]])
def test_no_weights_make_an_m2_of_0_but_of_a_constant(isa: str, weights: list[float]) -> None:
    """Multiplied by them, an m2 near the smallest float64 number may be 0, also beside a channel of large weights."""
    x = np.array([[3e-200, 1e-200, 1.0], [1e-200, 1e-200, 2.0]])
    by_element = np.repeat(np.array(weights)[:, np.newaxis], 3, axis=1)
    differ = weights[1] > 0
    for chosen in by_element[:, :1], by_element, by_element * np.array([1.0, 1.0, 1e10]):
        moments = fastbn.moments(x, weights=chosen)
        assert (moments.m2[0] > 0) == differ
        assert moments.m2[1] == 0


def test_merging_constants_that_differ_gives_no_constant() -> None:
    """The square of their difference is far below the smallest float64 number."""
    x = np.array([[1e-200, 1e-200, 1.0], [2e-200, 1e-200, 1.0]])
    one, other = fastbn.moments(x[:1]), fastbn.moments(x[1:])
    for both in one + other, other + one, one + one + other, fastbn.Moments().update(x[:1]).update(x[1:]):
        np.testing.assert_array_equal(both.m2 > 0, [True, False, False])
    where = np.array([[True, False, True]])
    empty = fastbn.moments(x[1:], where=where) + fastbn.moments(x[1:], where=~where)
    np.testing.assert_array_equal(empty.m2, 0)
