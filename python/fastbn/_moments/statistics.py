"""Statistics of an array, and of two sets of values merged into those of both together: for each feature by itself.

Mean and m2 are double-double numbers: a second float64, the low part, holds what rounding took from the first. In
float64 alone, a million small parts would each add a rounding error to them, and similar parts would add similar
errors. The extension merges, by the formula of Chan, Golub & LeVeque 1983, eq. 1.5; the result is as good as that of
one pass over all values.
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


_NO_EXTREMES = (None, None)


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
    return merged_with_extremes(a, None, b, None)[0]


def merged_with_extremes(
    a: Statistics, extremes_a: Extremes | None, b: Statistics, extremes_b: Extremes | None
) -> tuple[Statistics, Extremes | None]:
    """Return the statistics of both sets together, and their extremes where those of both are known."""
    counts, mean, m2, mean_lo, m2_lo, low, high = _core.merge_moments(
        (*a, *(extremes_a or _NO_EXTREMES)), (*b, *(extremes_b or _NO_EXTREMES))
    )
    count: Count = a.count + b.count if counts is None else counts  # of integers, which Python adds exactly
    if isinstance(count, int) and count >= INT_END:
        count = np.full(mean.shape, float(count))
    extremes = None if low is None or high is None else Extremes(low, high)
    return Statistics(count, mean, m2, mean_lo, m2_lo), extremes
