"""Statistics of an array, and of two sets of values merged into those of both together: for each feature by itself.

Chan, Golub & LeVeque 1983, eq. 1.5: with n = n_a + n_b and delta = mean_b - mean_a::

    mean = mean_a + delta * n_b / n        m2 = m2_a + m2_b + delta**2 * n_a * n_b / n

In float64 alone, a million small parts would each add a rounding error to mean and m2, and similar parts would add
similar errors. So mean and m2 are double-double numbers: a second float64, the low part, holds what rounding took from
the first (Knuth, The Art of Computer Programming, vol. 2, 4.2.2, theorem B). The result is as good as that of one pass
over all values.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from fastbn import _core
from fastbn._validation import INT_END, Axis

Array: TypeAlias = npt.NDArray[np.float64]
Count: TypeAlias = int | Array


class Statistics(NamedTuple):
    """Count, mean and m2 of each feature.

    Attributes
    ----------
    count : int or ndarray
        Number of values, or sum of their weights; an int where it is the same whole number for all features.
    mean, m2 : ndarray
        Mean and ``sum((x - mean)**2)``: the high parts of double-double numbers.
    mean_lo, m2_lo : ndarray
        Their low parts.
    """

    count: Count  # type: ignore[assignment]  # shadows tuple.count, as meant
    mean: Array
    m2: Array
    mean_lo: Array
    m2_lo: Array


class Extremes(NamedTuple):
    """The least and the largest value of each feature; NaN where there is none, or where NaN is among the values."""

    min: Array
    max: Array


def measured(
    x: Any, axis: Axis, where: Any = None, weights: Any = None, *, omit_nan: bool = False, extremes: bool = False
) -> tuple[Statistics, Extremes | None]:
    """Return the statistics of x, and its extremes if they are asked for."""
    count, mean, m2, mean_lo, low, high = _core.moments(
        x, axis=axis, where=where, weights=weights, omit_nan=omit_nan, extremes=extremes
    )
    # np.zeros_like would take four times as long.
    statistics = Statistics(count, mean, m2, mean_lo, np.zeros(m2.shape))
    return statistics, None if low is None or high is None else Extremes(low, high)


def merged(a: Statistics, b: Statistics) -> Statistics:
    """Return the statistics of both sets together, with the same bits for (a, b) and (b, a)."""
    with np.errstate(all="ignore"):  # NaN and infinity are valid results
        a, b = _larger_first(a, b)
        if isinstance(b.count, int) and b.count == 0:
            return a
        result = _merged_by_formula(a, b)
        if not np.isfinite(result.m2).all():
            result = _with_exceptions(result, a, b)
    count, *arrays = result
    if isinstance(count, int) and count >= INT_END:
        count = np.full(a.mean.shape, float(count))
    # NumPy has made scalars of arrays without dimensions.
    return Statistics(count if isinstance(count, int) else np.asarray(count), *map(np.asarray, arrays))


def merged_extremes(a: Extremes, count_a: Count, b: Extremes, count_b: Count) -> Extremes:
    """Return the extremes of both sets together; where a set has no values of a feature, those of the other set."""
    empty_a, empty_b = np.asarray(count_a) == 0, np.asarray(count_b) == 0
    return Extremes(
        np.where(empty_a, b.min, np.where(empty_b, a.min, np.minimum(a.min, b.min))),
        np.where(empty_a, b.max, np.where(empty_b, a.max, np.maximum(a.max, b.max))),
    )


def _larger_first(a: Statistics, b: Statistics) -> tuple[Statistics, Statistics]:
    """Return both, for each feature the one with more values first; of equal counts, the one with the larger mean."""
    lower = (a.mean < b.mean) | ((a.mean == b.mean) & (a.mean_lo < b.mean_lo))
    if isinstance(a.count, int) and isinstance(b.count, int):
        if a.count != b.count:
            return (a, b) if a.count > b.count else (b, a)
        counts: tuple[Count, Count] = a.count, b.count
    else:
        lower = np.less(a.count, b.count) | (np.equal(a.count, b.count) & lower)
        counts = np.maximum(a.count, b.count), np.minimum(a.count, b.count)
    pairs = list(zip(a[1:], b[1:], strict=True))
    larger = Statistics(counts[0], *(np.where(lower, from_b, from_a) for from_a, from_b in pairs))
    return larger, Statistics(counts[1], *(np.where(lower, from_a, from_b) for from_a, from_b in pairs))


def _merged_by_formula(a: Statistics, b: Statistics) -> Statistics:
    count = a.count + b.count
    fraction = b.count / count  # at most one half, so that the rounding of the step is small beside the mean's
    delta = (b.mean - a.mean) + (b.mean_lo - a.mean_lo)
    mean, low = _two_sum(a.mean, delta * fraction)
    mean, mean_lo = _two_sum(mean, low + a.mean_lo)
    within, low_within = _two_sum(a.m2, b.m2)
    m2, low_between = _two_sum(within, delta * (delta * (a.count * fraction)))
    m2, m2_lo = _two_sum(m2, (low_within + low_between) + (a.m2_lo + b.m2_lo))
    if not m2.all():  # only a constant's is 0, also where the squares of differences are too small for float64
        m2 = np.where((m2 == 0) & (delta != 0) & (fraction > 0), np.finfo(np.float64).smallest_subnormal, m2)
    return Statistics(count, mean, m2, mean_lo, m2_lo)


def _with_exceptions(result: Statistics, a: Statistics, b: Statistics) -> Statistics:
    """Return the result of the formula, corrected for features in which it fails although the answer is finite.

    It fails where b has no values (its mean is NaN then), and where the difference of the means, or m2 on the way to
    its double-double form, is beyond float64. There the low parts are 0.
    """
    fraction = b.count / result.count
    mean = a.mean * (1 - fraction) + b.mean * fraction  # does not form the difference of the means
    between = b.mean - a.mean
    m2 = a.m2 + b.m2 + between * (between * (a.count * fraction))
    finite = np.isfinite(result.m2)
    corrected = (
        np.where(finite, result.mean, mean),
        np.where(finite, result.m2, m2),
        np.where(finite, result.mean_lo, 0.0),
        np.where(finite, result.m2_lo, 0.0),
    )
    b_is_empty = np.asarray(b.count) == 0
    return Statistics(
        result.count, *(np.where(b_is_empty, from_a, both) for from_a, both in zip(a[1:], corrected, strict=True))
    )


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """Return a + b as a double-double number: the rounded sum, and exactly what rounding took from it."""
    total = a + b
    b_in_total = total - a
    return total, (a - (total - b_in_total)) + (b - b_in_total)
