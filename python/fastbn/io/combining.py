"""Statistics made of others: features joined, chosen, in another unit. Knows no file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastbn._moments.moments import Moments
from fastbn._validation import Shape

# How often each is divided where values are divided once.
_POWERS = {"mean": 1, "mean_lo": 1, "m2": 2, "m2_lo": 2, "min": 1, "max": 1}


def joined(parts: dict[Shape, Moments], axis: int = 0) -> Moments:
    """Return the statistics of all features, from those of blocks of features by their corners."""
    if len(parts) == 1:
        return next(iter(parts.values()))
    groups: dict[int, dict[Shape, Moments]] = {}
    for corner in sorted(parts):
        groups.setdefault(corner[axis], {})[corner] = parts[corner]
    rows = [joined(group, axis + 1) for group in groups.values()]
    return Moments.concatenate(rows, axis) if len(rows) > 1 else rows[0]


def taken(moments: Moments, order: Sequence[int]) -> Moments:
    """Return the statistics of some features, in the order given."""
    held = moments.to_dict()
    return Moments.from_dict({k: v[list(order)] if np.ndim(v) else v for k, v in held.items()})


def scaled(moments: Moments, scale: float) -> Moments:
    """Return the statistics of the values divided by a positive number; infinite or 0 what float64 does not hold."""
    if scale == 1:
        return moments
    held = moments.to_dict()
    with np.errstate(over="ignore", under="ignore"):
        for name in _POWERS.keys() & held.keys():
            for _ in range(_POWERS[name]):  # the square of a scale may be no float64 where what it divides is one
                held[name] = held[name] / scale
    for name in ("mean", "m2") if "mean_lo" in held else ():
        held[f"{name}_lo"] = np.where(np.isfinite(held[name]), held[f"{name}_lo"], 0.0)
    return Moments.from_dict(held)
