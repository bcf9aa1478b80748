"""State dicts of a layer, checked as a whole before the layer copies anything from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from fastbn._validation import INT_END, Shape, converted, is_floating, refuse_masked

Array: TypeAlias = npt.NDArray[Any]

# PyTorch's keys, in PyTorch's order.
PARAMETERS = ("weight", "bias")
STATISTICS = ("running_mean", "running_var")
COUNTER = "num_batches_tracked"


class IncompatibleKeys(NamedTuple):
    """Keys on which a layer and a state dict disagree.

    Attributes
    ----------
    missing_keys : list of str
        Keys of the layer that the state does not hold.
    unexpected_keys : list of str
        Keys of the state that the layer does not have.
    """

    missing_keys: list[str]
    unexpected_keys: list[str]


def checked_state(
    state: Any, keys: tuple[str, ...], shape: Shape | None, ndim: int, dtype: np.dtype[Any], strict: bool
) -> tuple[dict[str, Array], IncompatibleKeys]:
    """Return the arrays of `state` that a layer with these keys may copy, cast to `dtype`, and the keys that differ.

    `shape` is that of the layer's arrays. None, while the layer's features are undecided, stands for any shape of
    `ndim` dimensions that is the same for all arrays.
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"state must be a mapping of names to arrays, got {type(state).__name__}")
    differing = IncompatibleKeys([key for key in keys if key not in state], [key for key in state if key not in keys])
    if strict and any(differing):
        raise ValueError(
            f"state must have exactly the keys {list(keys)}, "
            f"got missing {differing.missing_keys}, unexpected {differing.unexpected_keys}"
        )
    arrays: dict[str, Array] = {}
    for key in (key for key in keys if key in state):
        name = f"state[{key!r}]"
        value = _checked_numbers(name, state[key])
        if key == COUNTER:
            arrays[key] = _checked_counter(name, value)
            continue
        if shape is None and value.ndim == ndim:
            shape = value.shape
        if value.shape != shape:
            rule = f"{ndim} dimension(s)" if shape is None else f"shape {shape}"
            raise ValueError(f"{name} must have {rule}, got {value.shape}")
        arrays[key] = _checked_cast(name, value, dtype)
        if key == "running_var" and np.any(value < 0):
            raise ValueError(f"{name} must be >= 0, got {np.nanmin(value)}")
    return arrays, differing


def _checked_numbers(name: str, value: Any) -> Array:
    array = converted(name, value)
    refuse_masked(name, array)
    if array.dtype.kind not in "iu" and not is_floating(array.dtype):
        raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}")
    return array


def _checked_counter(name: str, value: Array) -> Array:
    if value.shape != () or value.dtype.kind not in "iu":
        raise TypeError(f"{name} must be one integer, got {value!r}")
    if value < 0:
        raise ValueError(f"{name} must be >= 0, got {value}")
    if int(value) >= INT_END:
        raise ValueError(f"{name} must fit int64, got {value}")
    return value


def _checked_cast(name: str, value: Array, dtype: np.dtype[Any]) -> Array:
    with np.errstate(all="ignore"):
        cast = value.astype(dtype)
    lost = np.isfinite(value) & ~np.isfinite(cast)
    if lost.any():
        raise ValueError(f"{name} must fit into {dtype}, got {value[lost][0]}")
    return cast
