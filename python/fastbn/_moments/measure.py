"""Statistics of one array: count, mean and m2 of each feature, and its extremes, with or without NaN entries."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastbn import _core
from fastbn._moments.merge import Extremes, Statistics
from fastbn._validation import Axis


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
