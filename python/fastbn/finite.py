"""Whether an array holds infinity: one pass at the speed of memory where it does not. Knows no estimator and no error.

A mean is finite only if all values are. So the engine's moments, on all its threads, clear most arrays; only where
there is NaN or infinity the values are looked at one by one, in blocks that stay in cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fastbn import _core

_BLOCK = 1 << 18  # values looked at in one go; the answers take as many bytes


def has_infinity(x: npt.NDArray[Any]) -> bool:
    """Return whether an array of two dimensions or more holds infinity, of either sign; NaN does not count."""
    if x.dtype.kind != "f" or np.isfinite(_core.moments(x, (), None, None)[1]):
        return False
    walked = x.transpose(np.argsort([-abs(stride) for stride in x.strides]))  # in the order of memory
    step = max(1, _BLOCK * len(walked) // x.size)
    return any(np.isinf(walked[start : start + step]).any() for start in range(0, len(walked), step))
