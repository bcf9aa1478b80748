"""Two sets of statistics are merged to the last digits that theirs allow, whatever they hold and wherever it lies."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import fastbn
from fastbn import Moments
from support.isas import using_isa
from support.layouts import fortran, misaligned, stepped

Array = npt.NDArray[Any]

UNIT = 2.0**-53  # the largest relative error of one rounding
FEATURES = 700  # more than are merged at a time, and no multiple of a register


def statistics(rng: np.random.Generator, center: float, counts: str, n: int = FEATURES) -> dict[str, Any]:
    """Return statistics with low parts, as `Moments.from_dict` takes them; some features have no values."""
    count: Any = int(rng.integers(1, 1000))
    if counts != "shared":
        count = np.where(
            rng.random(n) < 0.1, 0.0, rng.integers(1, 6, n) if counts == "close" else 10 ** rng.normal(0, 6, n)
        )
    empty = np.broadcast_to(np.asarray(count) == 0, n)
    mean = np.where(empty, np.nan, center + rng.standard_normal(n))
    m2 = np.where(empty, 0.0, 10 ** rng.normal(0, 3, n))
    mean_lo, m2_lo = (np.where(empty, 0.0, rng.uniform(-0.5, 0.5, n) * np.spacing(high)) for high in (mean, m2))
    return {"count": count, "mean": mean, "m2": m2, "mean_lo": mean_lo, "m2_lo": m2_lo}


def exact(held: dict[str, Any], i: int) -> tuple[Fraction, Fraction, Fraction]:
    """Return count, mean and m2 of a feature."""
    count = Fraction(float(np.broadcast_to(held["count"], FEATURES)[i]))
    if count == 0:
        return count, Fraction(0), Fraction(0)
    mean, m2 = (Fraction(held[name][i]) + Fraction(held[f"{name}_lo"][i]) for name in ("mean", "m2"))
    return count, mean, m2


@pytest.mark.parametrize("center", [0.0, -1e3, 1e12])
@pytest.mark.parametrize("counts", ["shared", "close", "far"])
def test_a_merge_is_right_to_a_few_roundings_of_what_it_adds(
    counts: str, center: float, rng: np.random.Generator
) -> None:
    a, b = statistics(rng, center, counts), statistics(rng, center, counts)
    found = (Moments.from_dict(a) + Moments.from_dict(b)).to_dict()
    for i in range(FEATURES):
        (count_a, mean_a, m2_a), (count_b, mean_b, m2_b) = exact(a, i), exact(b, i)
        count, mean, m2 = exact(found, i)
        assert abs(count - (count_a + count_b)) <= count * Fraction(UNIT)
        if count == 0:
            assert math.isnan(found["mean"][i])
            continue
        delta = mean_b - mean_a if count_a and count_b else Fraction(0)
        total = count_a + count_b
        # The step is delta, rounded, times a fraction, rounded; means are double-doubles.
        step = min(count_a, count_b) / total * abs(delta)
        wanted = (count_a * mean_a + count_b * mean_b) / total
        assert abs(mean - wanted) <= 4 * Fraction(UNIT) * step + 4 * Fraction(UNIT) ** 2 * (abs(mean_a) + abs(mean_b))
        between = delta**2 * count_a * count_b / total
        wanted = m2_a + m2_b + between
        assert abs(m2 - wanted) <= 8 * Fraction(UNIT) * between + 4 * Fraction(UNIT) ** 2 * wanted


@pytest.mark.parametrize("counts", ["shared", "close", "far"])
def test_a_merge_has_the_same_bits_on_every_instruction_set_and_in_either_order(
    counts: str, rng: np.random.Generator
) -> None:
    a, b = (Moments.from_dict(statistics(rng, 1e3, counts)) for _ in range(2))
    expected = (a + b).to_bytes()
    for isa in fastbn._core.isas():
        with using_isa(isa):
            assert (a + b).to_bytes() == (b + a).to_bytes() == expected


@pytest.mark.parametrize("place", [fortran, misaligned, stepped(2, -1)])
def test_statistics_may_lie_anywhere_in_memory(place: Any, rng: np.random.Generator) -> None:
    def held(**arrays: Array) -> tuple[Any, ...]:
        return tuple(arrays.values())

    parts = [
        held(
            count=rng.integers(0, 3, (30, 20)) * 1.0,
            mean=rng.standard_normal((30, 20)),
            m2=rng.random((30, 20)),
            mean_lo=np.zeros((30, 20)),
            m2_lo=np.zeros((30, 20)),
            min=rng.standard_normal((30, 20)) - 5,
            max=rng.standard_normal((30, 20)) + 5,
        )
        for _ in range(2)
    ]
    expected = fastbn._core.merge_moments(*parts)
    found = fastbn._core.merge_moments(parts[0], tuple(place(array) for array in parts[1]))
    for one, other in zip(found, expected, strict=True):
        assert one is not None
        assert other is not None
        assert one.flags.c_contiguous
        np.testing.assert_array_equal(one, other)
    # A caller's arrays keep their order.
    a, b = (Moments(part[0], place(part[1]), place(part[2])) for part in parts)
    np.testing.assert_array_equal((a + b).mean, expected[1])


def test_a_square_beyond_float64_is_none_where_its_part_is_within() -> None:
    found = Moments(1, [-0.7e154], [0.0]) + Moments(1, [0.7e154], [0.0])
    np.testing.assert_allclose(found.m2, [0.98e308], rtol=4 * UNIT)
    many = Moments(10**6, [0.0], [0.0]) + Moments(10**6, [1e-160], [0.0])
    np.testing.assert_allclose(many.m2, [5e-315], rtol=1e-8)  # of which float64 has eight digits


def test_a_mean_keeps_its_digits_where_m2_is_beyond_float64() -> None:
    large = Moments(3, [0.1], [math.inf])
    found = large + Moments(1, [0.2], [0.0])
    mean = (3 * Fraction(0.1) + Fraction(0.2)) / 4
    held = found.to_dict()
    assert held["m2"] == [math.inf]
    assert held["m2_lo"] == [0.0]
    error = abs(Fraction(held["mean"][0]) + Fraction(held["mean_lo"][0]) - mean)
    assert error <= 4 * Fraction(UNIT) * Fraction(0.025)


def test_a_mean_that_is_infinite_stays_so() -> None:
    infinite = Moments(2, [math.inf], [0.0])
    for other in (Moments(3, [1.0], [0.0]), Moments(2, [1.0], [0.0]), Moments([0.0], [np.nan], [0.0])):
        for found in (infinite + other, other + infinite):
            assert found.mean == [math.inf]


def test_what_stands_beside_a_count_of_zero_is_not_taken_in() -> None:
    nothing = Moments([0.0], [5.0], [7.0], min=[-9.0], max=[9.0])
    some = Moments([2.0], [1.0], [3.0], min=[0.0], max=[2.0])
    for found in (some + nothing, nothing + some):
        assert found == some
    # Of two that have no values, too, the order does not count.
    other = Moments([0.0], [6.0], [1.0])
    assert other + nothing == nothing + other


def test_means_that_differ_leave_a_spread_however_small_a_weight_is() -> None:
    heavy, light = Moments([1e300], [1.0], [0.0]), Moments([1e-300], [2.0], [0.0])
    assert (heavy + light).m2 == [2.0**-1074]


@pytest.mark.parametrize("there", [0, 1])
def test_extremes_that_are_nan_stay_so_unless_nothing_counts(there: int) -> None:
    bounds = [(np.nan, np.nan), (1.0, 2.0)]
    parts = [
        Moments([n, 1.0], [1.0, 1.0], [0.0, 0.0], min=[low, 0.0], max=[high, 3.0])
        for n, (low, high) in zip((1.0 - there, 1.0), bounds, strict=True)
    ]
    for found in (parts[0] + parts[1], parts[1] + parts[0]):
        expected = bounds[there]
        np.testing.assert_array_equal([found.min, found.max], [[expected[0], 0.0], [expected[1], 3.0]])
