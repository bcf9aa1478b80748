"""Options and state dicts, checked before anything is changed. Knows no layer and no file."""

from __future__ import annotations

import math
import numbers
import operator
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

COUNTER = "num_batches_tracked"
LARGEST = sys.float_info.max
CHOICES: dict[str, tuple[str | None, ...]] = {
    "activation": (None, "relu", "leaky_relu"),
    "nan": ("propagate", "omit"),
    "on_nonfinite": ("propagate", "skip"),
    "on_single": ("error", "biased"),
}

Shape = tuple[int, ...]
Axis: TypeAlias = int | Shape
Momentum: TypeAlias = float | Callable[[int], float] | None


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


def checked_real(name: str, value: Any, low: float, high: float) -> float:
    """Return a real number of [low, high] as a Python number, an integer as int."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a real number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:  # an int beyond float64
        number = math.inf
    if not low <= number <= high:
        rule = f"in [{low:g}, {high:g}]" if high <= 1 else "finite" if low < 0 else f"finite and >= {low:g}"
        raise ValueError(f"{name} must be {rule}, got {value!r}")
    return int(value) if isinstance(value, numbers.Integral) else number


def checked_momentum(momentum: Any) -> Momentum:
    """Return the weight of the newest batch, a function that gives it, or None for the plain average over all."""
    return momentum if momentum is None or callable(momentum) else checked_real("momentum", momentum, 0, 1)


def checked_choice(name: str, value: Any) -> Any:
    """Return what is one of the option's words (or None), as it stands in `CHOICES`."""
    choices = CHOICES[name]
    if (value is None or isinstance(value, str)) and value in choices:
        return choices[choices.index(value)]
    error = ValueError if isinstance(value, str) else TypeError
    raise error(f"{name} must be {' or '.join(map(repr, choices))}, got {value!r}")


def checked_flag(name: str, value: Any) -> bool:
    """Return a truth value as bool; anything but a bool is refused."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def checked_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """Return the dtype of parameters and running statistics: native float32 or float64."""
    try:
        result = np.dtype(dtype)
    except TypeError as error:
        raise TypeError(f"dtype must be float32 or float64, got {dtype!r}") from error
    if result not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise TypeError(f"dtype must be float32 or float64, got {dtype!r}")
    return result


def checked_axis(axis: Any) -> int | Shape:
    """Return the feature axis as an int, or the feature axes as a tuple of ints."""
    if isinstance(axis, (tuple, list)):
        axes = tuple(_checked_int("axis", entry, axis, "an int or a tuple of ints") for entry in axis)
        if len(set(axes)) != len(axes):
            raise ValueError(f"axis must not name an axis twice, got {axis!r}")
        return axes
    return _checked_int("axis", axis, axis, "an int or a tuple of ints")


def kept_axes(axis: Axis, ndim: int) -> Shape:
    """Return the feature axes of an array that has them, counted from the first."""
    return tuple(sorted(a % ndim for a in ((axis,) if isinstance(axis, int) else axis)))


def checked_features(num_features: Any, axis: int | Shape) -> Shape | None:
    """Return the shape of the parameters, or None while the number of features is open."""
    if num_features is None:
        return None
    if isinstance(axis, int):
        shape: Shape = (_checked_int("num_features", num_features, num_features, "an int where axis is one"),)
    else:
        rule = f"a tuple of {len(axis)} int(s), one for each axis of {axis}"
        if not isinstance(num_features, (tuple, list)):
            raise TypeError(f"num_features must be {rule}, got {num_features!r}")
        shape = tuple(_checked_int("num_features", entry, num_features, rule) for entry in num_features)
        if len(shape) != len(axis):
            raise ValueError(f"num_features must be {rule}, got {num_features!r}")
    if min(shape, default=0) < 0:
        raise ValueError(f"num_features must be >= 0, got {num_features!r}")
    return shape


def converted(name: str, value: Any) -> npt.NDArray[Any]:
    """Return anything array-like as an array, and an array as it is, of whatever class."""
    if isinstance(value, np.ndarray):
        return value
    try:
        return np.asarray(value)
    except Exception as error:  # __array__ is foreign code: a tensor on another device, say, raises what it likes
        raise TypeError(f"{name} must be convertible to an array, got {type(value).__name__}: {error}") from error


def checked_state(
    state: Any, keys: tuple[str, ...], shape: Shape | None, ndim: int, dtype: np.dtype[Any], strict: bool
) -> tuple[dict[str, npt.NDArray[Any]], IncompatibleKeys]:
    """Return the arrays that a layer may copy from ``state``, cast and checked, and the keys in which the two differ.

    ``shape`` None means any shape of ``ndim`` dimensions, the same for all arrays.
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"state must be a mapping of names to arrays, got {type(state).__name__}")
    differing = IncompatibleKeys([key for key in keys if key not in state], [key for key in state if key not in keys])
    if strict and any(differing):
        raise ValueError(
            f"state must have exactly the keys {list(keys)}, "
            f"got missing {differing.missing_keys}, unexpected {differing.unexpected_keys}"
        )
    arrays: dict[str, npt.NDArray[Any]] = {}
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


def _checked_int(name: str, value: Any, shown: Any, rule: str) -> int:
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError("a bool is no index")
        return operator.index(value)
    except TypeError as error:
        raise TypeError(f"{name} must be {rule}, got {shown!r}") from error


def _checked_numbers(name: str, value: Any) -> npt.NDArray[Any]:
    array = converted(name, value)
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{name} must not be a masked array, got {value!r}")
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}")
    return array


def _checked_counter(name: str, value: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if value.shape != () or value.dtype.kind not in "iu":
        raise TypeError(f"{name} must be one integer, got {value!r}")
    if value < 0:
        raise ValueError(f"{name} must be >= 0, got {value}")
    if int(value) >= 2**63:
        raise ValueError(f"{name} must fit int64, got {value}")
    return value


def _checked_cast(name: str, value: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    with np.errstate(all="ignore"):
        cast = value.astype(dtype)
    lost = np.isfinite(value) & ~np.isfinite(cast)
    if lost.any():
        raise ValueError(f"{name} must fit into {dtype}, got {value[lost][0]}")
    return cast
