"""Statistics of one array: count, mean and m2 of each feature, and its extremes, with or without NaN entries."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastbn import _core
from fastbn._moments.merge import Extremes, Statistics
from fastbn._validation import Axis, kept_axes


def measured(
    x: Any, axis: Axis, where: Any = None, weights: Any = None, *, omit_nan: bool = False, extremes: bool = False
) -> tuple[Statistics, Extremes | None]:
    """Return the statistics of x, and its extremes if they are asked for.

    With `omit_nan`, x must be an array and axis as `checked_axis` returns it.
    """
    count, mean, m2, mean_lo, low, high = _core.moments(
        x, axis=axis, where=where, weights=weights, omit_nan=omit_nan, extremes=extremes
    )
    if omit_nan and where is None and weights is None and not isinstance(count, int):
        # If nothing was left out, the statistics are those without the option: their count is one int.
        kept = kept_axes(axis, x.ndim)
        values = math.prod(size for a, size in enumerate(x.shape) if a not in kept)
        if (count == values).all():
            count = values
    # np.zeros_like would take four times as long.
    statistics = Statistics(count, mean, m2, mean_lo, np.zeros(m2.shape))
    return statistics, None if low is None or high is None else Extremes(low, high)
