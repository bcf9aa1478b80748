"""The mask of a batch of sequences of different lengths."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fastbn._validation import Axis, Shape, converted, refuse_masked

Array: TypeAlias = npt.NDArray[Any]


def where_within(lengths: Any, shape: Shape, axis: Axis, where: Any = None) -> Array:
    """Return the mask that is True at the first ``lengths[i]`` positions of sequence i.

    Axis 0 of `shape` is that of the sequences; the one other axis that is not a feature axis is that of the positions.
    Along the feature axes the mask has size 1. If `where` is given, the result is True where both masks are.
    """
    ndim = len(shape)
    kept = {a % ndim if -ndim <= a < ndim else a for a in ((axis,) if isinstance(axis, int) else axis)}
    reduced = [a for a in range(ndim) if a not in kept]
    if len(reduced) != 2 or reduced[0] != 0:
        raise ValueError(
            "lengths must come with an x of which axis 0 and one other are reduced (where takes any mask), "
            f"got shape {shape} and axis {axis}"
        )
    positions = shape[reduced[1]]
    within = np.arange(positions) < _checked_lengths(lengths, shape[0], positions, reduced[1])[:, np.newaxis]
    within = within.reshape([size if a in reduced else 1 for a, size in enumerate(shape)])
    return within if where is None else _checked_where(where, shape) & within


def _checked_where(where: Any, shape: Shape) -> Array:
    array = converted("where", where)
    refuse_masked("where", array)
    if array.dtype != np.bool_:
        raise TypeError(f"where must have dtype bool, got {array.dtype}")
    try:
        fits = np.broadcast_shapes(array.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"where must be broadcastable to x's shape {shape}, got {array.shape}")
    return array


def _checked_lengths(lengths: Any, sequences: int, positions: int, axis: int) -> Array:
    array = converted("lengths", lengths)
    refuse_masked("lengths", array)
    if array.shape != (sequences,):
        raise ValueError(f"lengths must have shape ({sequences},), got {array.shape}")
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"lengths must hold integers, got dtype {array.dtype}")
    outside = array[(array < 0) | (array > positions)]
    if outside.size:
        rule = f"in [0, {positions}], up to x's size along axis {axis}, that of the positions"
        raise ValueError(f"lengths must be {rule}, got {outside[0]}")
    return array
