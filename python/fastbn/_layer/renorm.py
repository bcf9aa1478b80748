"""Batch renormalization (Ioffe 2017): what makes a batch's y that of the running statistics, within limits.

::

    r = clip(std / running_std, 1 / r_max, r_max)                     std = sqrt(var + eps), of both
    d = clip((mean - running_mean) / running_std, -d_max, d_max)
    y = weight * (r * xhat + d) + bias

r and d are constants for the gradient, so this is batch normalization with ``weight * r`` in place of weight and
``weight * d + bias`` in place of bias, forward and backward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from fastbn._moments.moments import Moments
from fastbn._validation import LARGEST, checked_real

Array: TypeAlias = npt.NDArray[Any]
Limit: TypeAlias = float | Callable[[int], float]
RenormLimits: TypeAlias = tuple[Limit, Limit]

_LOWEST = {"r_max": 1, "d_max": 0}


class Renormalization(NamedTuple):
    """r and d of each channel."""

    r: Array
    d: Array

    def parameters(self, weight: Array | None, bias: Array | None) -> tuple[Array, Array]:
        """Return the weight and the bias with which batch normalization is batch renormalization."""
        gamma, beta = 1.0 if weight is None else weight, 0.0 if bias is None else bias
        with np.errstate(invalid="ignore", over="ignore"):
            return np.asarray(self.r * gamma), np.asarray(self.d * gamma + beta)

    def dweight(self, dy_xhat: Array, dy: Array) -> Array:
        """Return the gradient of weight, ``sum(dy * (r * xhat + d))``, from sum(dy * xhat) and sum(dy)."""
        return np.asarray(self.r * dy_xhat + self.d * dy)


def checked_limits(renorm: Any) -> RenormLimits | None:
    """Return (r_max, d_max), each a number or a function of the step; None where there is no renormalization."""
    if renorm is None:
        return None
    if not isinstance(renorm, (tuple, list)) or len(renorm) != len(_LOWEST):
        raise TypeError(f"renorm must be None or (r_max, d_max), got {renorm!r}")
    r_max, d_max = (
        limit if callable(limit) else checked_real(f"renorm's {name}", limit, low, LARGEST)
        for (name, low), limit in zip(_LOWEST.items(), renorm, strict=True)
    )
    return r_max, d_max


def limits_at(limits: RenormLimits | None, step: int) -> tuple[float, float]:
    """Return r_max and d_max as they are at this step."""
    assert limits is not None
    r_max, d_max = (
        checked_real(f"renorm's {name}(step)", limit(step), low, LARGEST) if callable(limit) else limit
        for (name, low), limit in zip(_LOWEST.items(), limits, strict=True)
    )
    return r_max, d_max


def renormalization(
    batch: Moments, running_mean: Array, running_var: Array, eps: float, limits: tuple[float, float]
) -> Renormalization:
    """Return r and d for a batch of these statistics, within these limits.

    They are 1 and 0 in a channel without values.
    """
    r_max, d_max = limits
    with np.errstate(all="ignore"):
        std = np.sqrt(batch.var() + eps)
        running_std = np.sqrt(running_var.astype(np.float64) + eps)
        ratio, step_in_std = std / running_std, (batch.mean - running_mean) / running_std
        # Where both deviations are 0, or both means are the same and the deviation is 0, there is nothing to correct.
        ratio = np.where((std == 0) & (running_std == 0), 1.0, ratio)
        step_in_std = np.where((batch.mean == running_mean) & (running_std == 0), 0.0, step_in_std)
        r = np.clip(ratio, 1.0 / r_max, r_max)
        d = np.clip(step_in_std, -d_max, d_max)
    empty = np.asarray(batch.count) == 0
    return Renormalization(np.where(empty, 1.0, r), np.where(empty, 0.0, d))
