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

INT_END = 2**63  # files and other libraries hold no larger integer, so that a count from here on is an array as well


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
        a, b = _larger_first(a, b)
        if isinstance(b.count, int) and b.count == 0:
            return a
        result = _merged_into(a, b)
        if not np.isfinite(result.m2).all():
            result = _mended(result, a, b)
    # Of a single feature they have become scalars.
    count, *arrays = result
    if isinstance(count, int) and count >= INT_END:
        count = np.full(a.mean.shape, float(count))
    return Sums(count, *map(np.asarray, arrays))


def _larger_first(a: Sums, b: Sums) -> tuple[Sums, Sums]:
    lower = (a.mean < b.mean) | ((a.mean == b.mean) & (a.mean_lo < b.mean_lo))
    if isinstance(a.count, int) and isinstance(b.count, int):
        if a.count != b.count:
            return (a, b) if a.count > b.count else (b, a)
        counts: tuple[Count, Count] = a.count, b.count
    else:
        lower = np.less(a.count, b.count) | (np.equal(a.count, b.count) & lower)
        counts = np.maximum(a.count, b.count), np.minimum(a.count, b.count)
    pairs = list(zip(a[1:], b[1:], strict=True))
    larger = Sums(counts[0], *(np.where(lower, of_b, of_a) for of_a, of_b in pairs))
    return larger, Sums(counts[1], *(np.where(lower, of_a, of_b) for of_a, of_b in pairs))


def _merged_into(a: Sums, b: Sums) -> Sums:
    count = a.count + b.count
    share = b.count / count  # at most one half: the step's rounding weighs little
    delta = (b.mean - a.mean) + (b.mean_lo - a.mean_lo)
    mean, low = _two_sum(a.mean, delta * share)
    mean, mean_lo = _two_sum(mean, low + a.mean_lo)
    within, low_within = _two_sum(a.m2, b.m2)
    m2, low_between = _two_sum(within, delta * (delta * (a.count * share)))
    m2, m2_lo = _two_sum(m2, (low_within + low_between) + (a.m2_lo + b.m2_lo))
    return Sums(count, mean, m2, mean_lo, m2_lo)


def _mended(result: Sums, a: Sums, b: Sums) -> Sums:
    """Put right what is not finite only because b has no values, or because float64 ends on the way."""
    share = b.count / result.count
    mean = a.mean * (1 - share) + b.mean * share  # means at opposite ends are further apart than float64 can say
    between = b.mean - a.mean
    m2 = a.m2 + b.m2 + between * (between * (a.count * share))
    plain = np.isfinite(result.m2)
    whole = (np.where(plain, result.mean, mean), np.where(plain, result.m2, m2))
    rests = (np.where(plain, low, 0.0) for low in result[3:])
    nothing = np.asarray(b.count) == 0  # and b's mean is NaN
    kept = (np.where(nothing, *pair) for pair in zip(a[1:], (*whole, *rests), strict=True))
    return Sums(result.count, *kept)


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)
