"""Whether an array holds infinity: one pass at the speed of memory. Knows no estimator and no error.

A mean is finite only if all values are, so the engine's moments, on all its threads, clear most large arrays. Where
there is NaN they say nothing, and take long in float64; then the values are looked at one by one, in blocks that stay
in cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from fastbn import _core

Array = npt.NDArray[Any]

_BLOCK = 1 << 18  # values examined at a time; the results take as many bytes
_PEEK = 1 << 13


def has_infinity(x: Array) -> bool:
    """Return whether an array of two dimensions or more holds infinity, of either sign; NaN is none."""
    if x.dtype.kind != "f":
        return False
    if x.size <= _BLOCK:  # and no thread is worth waking
        return bool(_infinite(x).any())
    # Where values are missing, the first block nearly always shows one.
    if not np.isnan(next(_blocks(x, _PEEK))).any():
        shortest = x.shape.index(min(x.shape))  # few means, and one that is NaN does not hold up the others
        if np.isfinite(_core.moments(x, shortest, None, None)[1]).all():
            return False
    return any(_infinite(block).any() for block in _blocks(x, _BLOCK))


def _blocks(x: Array, size: int) -> Iterator[Array]:
    """Cut x in the order of memory, whatever its layout, into views where that can be."""
    return iter(np.nditer(x, ["external_loop", "buffered"], order="K", buffersize=size))


def _infinite(x: Array) -> Any:
    if x.dtype == np.float16:  # which NumPy would convert one by one
        return (x.view(np.uint16) & 0x7FFF) == 0x7C00
    return np.isinf(x)
