"""Derivatives without a formula, to hold gradients against."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from support.oracle import Array


def central_differences(loss: Callable[[], float], array: Array, step: float = 1e-4) -> Array:
    """Return the derivatives of a loss by the elements of `array`, which is changed and changed back."""
    gradient = np.empty_like(array)
    for index in np.ndindex(array.shape):
        kept = array[index]
        array[index] = kept + step
        above = loss()
        array[index] = kept - step
        gradient[index] = (above - loss()) / (2 * step)
        array[index] = kept
    return gradient
