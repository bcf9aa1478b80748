"""Merging the sums of two sets of values, feature by feature. Knows neither where they come from nor where they go.

Chan, Golub & LeVeque 1983, eq. 1.5: with n = n_a + n_b and delta = mean_b - mean_a::

    mean = mean_a + delta * n_b / n        m2 = m2_a + m2_b + delta**2 * n_a * n_b / n

A million small parts would each add a rounding error to mean and m2, and parts that are alike the same one. So both
carry what rounding left over in a second float64, by the sum of Knuth (The Art of Computer Programming, vol. 2, 4.2.2,
theorem B), and the result is as good as that of one pass.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Count = int | Array


class Sums(NamedTuple):
    """Count, mean and m2 of each feature, mean and m2 each with the rest that its float64 does not hold."""

    count: Count  # type: ignore[assignment]  # shadows tuple.count, as meant
    mean: Array
    m2: Array
    mean_lo: Array
    m2_lo: Array


def sums_of(count: Count, mean: Array, m2: Array, mean_lo: Array | None = None) -> Sums:
    """Return statistics as they come from one pass."""
    return Sums(count, mean, m2, np.zeros_like(mean) if mean_lo is None else mean_lo, np.zeros_like(m2))


def merged(a: Sums, b: Sums) -> Sums:
    """Return the sums of both sets together, the same bits for (a, b) and (b, a)."""
    with np.errstate(all="ignore"):  # NaN and infinity are results as any other
        return _merged_into(*_larger_first(a, b))


def _larger_first(a: Sums, b: Sums) -> tuple[Sums, Sums]:
    smaller = a.count < b.count
    if isinstance(smaller, (bool, np.bool_)):
        return (b, a) if smaller else (a, b)
    first, second = [], []
    for of_a, of_b in zip(a, b, strict=True):
        first.append(np.where(smaller, of_b, of_a))
        second.append(np.where(smaller, of_a, of_b))
    return Sums._make(first), Sums._make(second)


def _merged_into(a: Sums, b: Sums) -> Sums:
    count = a.count + b.count
    share = np.divide(b.count, count)  # at most one half: the step's rounding weighs little
    delta = (b.mean - a.mean) + (b.mean_lo - a.mean_lo)
    # Means at opposite ends of float64 are further apart than it can say; their shares are not.
    step = np.where(np.isfinite(delta), delta * share, b.mean * share - a.mean * share)
    mean, mean_lo = _sum(a.mean, step, a.mean_lo)
    within, within_lo = _sum(a.m2, b.m2, a.m2_lo + b.m2_lo)
    m2, m2_lo = _sum(within, delta * (delta * (a.count * share)), within_lo)
    both = b.count > 0  # else there is nothing to merge, and b's mean is NaN
    kept = [np.where(both, *pair) for pair in zip((mean, m2, mean_lo, m2_lo), a[1:], strict=True)]
    return Sums(count, *kept)


def _sum(a: Array, b: Array, rest: Array) -> tuple[Array, Array]:
    """Return a + b + rest as a float64 and what it leaves over."""
    total, left = _two_sum(a, b)
    return _two_sum(total, left + rest)


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    total = a + b
    part = total - a
    left = (a - (total - part)) + (b - part)
    return total, np.where(np.isfinite(total), left, 0.0)
