"""Which entries of a batch count, by lengths: the mask that the layer makes of them. Knows no layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fastbn.checks import Shape, converted

Array = npt.NDArray[Any]


def checked_where(where: Any, shape: Shape) -> Array:
    """Return ``where`` as an array of bools that can be broadcast to ``shape``."""
    array = converted("where", where)
    _refuse_masked("where", array)
    if array.dtype != np.bool_:
        raise TypeError(f"where must have dtype bool, got {array.dtype}")
    _check_broadcast("where", array, shape)
    return array


def where_within(lengths: Any, shape: Shape, axis: int | Shape, where: Any = None) -> Array:
    """Return the mask of the first ``lengths[i]`` positions of sequence i, of size 1 along the features.

    Axis 0 of ``shape`` numbers the sequences, the other axis that is not in ``axis`` the positions. With ``where``
    both must hold, and the mask is as large as the two need.
    """
    ndim = len(shape)
    kept = {a % ndim if -ndim <= a < ndim else a for a in ((axis,) if isinstance(axis, int) else axis)}
    others = [a for a in range(ndim) if a not in kept]
    if len(others) != 2 or others[0] != 0:
        raise ValueError(
            "lengths must come with an x of which axis 0 and one other are reduced (where takes any mask), "
            f"got shape {shape} and axis {axis}"
        )
    positions = shape[others[1]]
    within = np.arange(positions) < _checked_lengths(lengths, shape[0], positions)[:, np.newaxis]
    within = within.reshape([size if a in others else 1 for a, size in enumerate(shape)])
    return within if where is None else checked_where(where, shape) & within


def _checked_lengths(lengths: Any, count: int, most: int) -> Array:
    array = converted("lengths", lengths)
    _refuse_masked("lengths", array)
    if array.shape != (count,):
        raise ValueError(f"lengths must have shape ({count},), got {array.shape}")
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"lengths must hold integers, got dtype {array.dtype}")
    outside = array[(array < 0) | (array > most)]
    if outside.size:
        raise ValueError(f"lengths must be in [0, {most}], got {outside[0]}")
    return array


def _check_broadcast(name: str, array: Array, shape: Shape) -> None:
    try:
        fits = np.broadcast_shapes(array.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"{name} must be broadcastable to x's shape {shape}, got {array.shape}")


def _refuse_masked(name: str, array: Array) -> None:
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{name} must not be a masked array, got MaskedArray")
