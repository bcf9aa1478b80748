"""The types that fastbn computes in and reads, and which of them y has."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

FLOATS = (np.float32, np.float64)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
HALVES = (np.dtype(np.float16), BFLOAT16)
FLOAT_TYPES = (*(np.dtype(d) for d in FLOATS), *HALVES)  # those of y
INTEGERS = tuple(np.dtype(d) for d in (np.uint8, np.int8, np.uint16, np.int16, np.int32))
TYPES = (*FLOAT_TYPES, *INTEGERS)
# Those that float32 holds exactly: their statistics are float32's, to the bit.
NARROW = (*HALVES, *INTEGERS[:-1])


def y_type(dtype: Any) -> Any:
    """Return the dtype of y for an x of `dtype`, where none is chosen."""
    return np.dtype(np.float32 if np.dtype(dtype).kind in "iu" else dtype)


def computed_in(*dtypes: Any) -> Any:
    """Return the type in which x and y of these types are computed."""
    wide = {np.dtype(np.float64), np.dtype(np.int32)}
    return np.dtype(np.float64 if wide & {np.dtype(d) for d in dtypes} else np.float32)
