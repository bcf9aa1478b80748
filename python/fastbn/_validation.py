"""Checks of arguments: each returns a value in one known form, or raises an error that names the argument. Warnings."""

from __future__ import annotations

import math
import numbers
import operator
import os
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fastbn import _core

LARGEST = sys.float_info.max
INT_END = 2**63  # files and other libraries hold no larger integer; a count from here on is an array of float64
CHOICES: dict[str, tuple[str | None, ...]] = {
    "activation": (None, "relu", "leaky_relu"),
    "nan": ("propagate", "omit"),
    "on_nonfinite": ("propagate", "skip"),
    "on_single": ("error", "biased"),
}

Shape = tuple[int, ...]
Axis: TypeAlias = int | Shape
Momentum: TypeAlias = float | Callable[[int], float] | None

# Merging leaves the low part of a double-double within half a unit in the last place of the high part. Where a caller
# has multiplied both by a number, rounding and a smaller unit can make that a few units.
_LOW_PART_ULPS = 4
_SHOWN = 80  # characters of a value in an error
_PACKAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")


def warn(text: str) -> None:
    """Warn at the line that called into the package, from however deep inside."""
    frame: types.FrameType | None = sys._getframe()
    level = 1
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, RuntimeWarning, stacklevel=level)


def abridged(value: Any) -> str:
    """Return a value as Python shows it, in one line and not much longer than one."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


# Options.


def checked_real(name: str, value: Any, low: float, high: float) -> float:
    """Return a real number in [low, high] as a Python number; an integer stays an int."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a real number, got {abridged(value)}")
    try:
        number = float(value)
    except OverflowError:  # an int beyond float64
        number = math.inf
    if not low <= number <= high:
        rule = f"in [{low:g}, {high:g}]" if high <= 1 else "finite" if low < 0 else f"finite and >= {low:g}"
        raise ValueError(f"{name} must be {rule}, got {abridged(value)}")
    return int(value) if isinstance(value, numbers.Integral) else number


def checked_momentum(momentum: Any) -> Momentum:
    """Return a number in [0, 1], or the function or None that were given instead."""
    return momentum if momentum is None or callable(momentum) else checked_real("momentum", momentum, 0, 1)


def checked_choice(name: str, value: Any) -> Any:
    """Return the entry of `CHOICES[name]` that equals the value."""
    choices = CHOICES[name]
    if (value is None or isinstance(value, str)) and value in choices:
        return choices[choices.index(value)]
    error = ValueError if isinstance(value, str) else TypeError
    raise error(f"{name} must be {' or '.join(map(repr, choices))}, got {abridged(value)}")


def checked_flag(name: str, value: Any) -> bool:
    """Return True or False, given as Python's or NumPy's bool, as Python's."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {abridged(value)}")
    return bool(value)


def checked_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """Return the dtype of parameters and running statistics: float32 or float64 in native byte order."""
    try:
        result = np.dtype(dtype)
    except TypeError as error:
        raise TypeError(f"dtype must be float32 or float64, got {abridged(dtype)}") from error
    if result not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise TypeError(f"dtype must be float32 or float64, got {abridged(dtype)}")
    return result


# Axes and shapes.


def checked_axis(axis: Any) -> Axis:
    """Return the feature axis as an int, or the feature axes as a tuple of ints."""
    if isinstance(axis, (tuple, list)):
        axes = tuple(checked_int("axis", entry, "an int or a tuple of ints", axis) for entry in axis)
        if len(set(axes)) != len(axes):
            raise ValueError(f"axis must not name an axis twice, got {abridged(axis)}")
        return axes
    return checked_int("axis", axis, "an int or a tuple of ints")


def kept_axes(axis: Axis, ndim: int) -> Shape:
    """Return the feature axes of an array of `ndim` dimensions, not negative and in ascending order."""
    return tuple(sorted(a % ndim for a in ((axis,) if isinstance(axis, int) else axis)))


def checked_features(num_features: Any, axis: Axis) -> Shape | None:
    """Return the shape of the parameters, or None where `num_features` is None."""
    if num_features is None:
        return None
    if isinstance(axis, int):
        shape: Shape = (checked_int("num_features", num_features, "an int where axis is one"),)
    else:
        rule = f"a tuple of {len(axis)} int(s), one for each axis of {axis}"
        if not isinstance(num_features, (tuple, list)):
            raise TypeError(f"num_features must be {rule}, got {abridged(num_features)}")
        shape = tuple(checked_int("num_features", entry, rule, num_features) for entry in num_features)
        if len(shape) != len(axis):
            raise ValueError(f"num_features must be {rule}, got {abridged(num_features)}")
    if min(shape, default=0) < 0:
        raise ValueError(f"num_features must be >= 0, got {abridged(num_features)}")
    return shape


def checked_int(name: str, value: Any, rule: str = "an int", whole: Any = None) -> int:
    """Return an integer as Python's; an error shows `whole`, of which it may be one entry."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError("a bool is no index")
        return operator.index(value)
    except TypeError as error:
        raise TypeError(f"{name} must be {rule}, got {abridged(value if whole is None else whole)}") from error


# Arrays.


def converted(name: str, value: Any) -> npt.NDArray[Any]:
    """Return the array that DLPack or NumPy makes of the value; an array, of any subclass, is returned as it is."""
    return value if isinstance(value, np.ndarray) else _core.as_array(value, name)


def refuse_masked(name: str, array: npt.NDArray[Any]) -> None:
    """Raise TypeError for a masked array, whose mask would be ignored."""
    if isinstance(array, np.ma.MaskedArray):
        hint = " (fastbn.moments takes x.data and where=~x.mask)" if name.startswith("source") else ""
        raise TypeError(f"{name} must not be a masked array{hint}, got MaskedArray")


def is_floating(dtype: np.dtype[Any]) -> bool:
    """Whether a dtype is one of NumPy's floating-point types or ml_dtypes' bfloat16."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


def checked_floats(name: str, value: Any) -> npt.NDArray[np.float64]:
    """Return real numbers as a new array of float64."""
    array = converted(name, value)
    if array.dtype.kind not in "iu" and not is_floating(array.dtype) and array.size:
        raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}")
    return array.astype(np.float64)


# Statistics that a caller gives to `Moments`.


def checked_statistics(
    count: Any, mean: Any, m2: Any
) -> tuple[int | npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]] | None:
    """Return count, mean and m2; None where nothing, or only a count of 0 was given."""
    if mean is None and m2 is None:
        if count is None:
            return None
        if isinstance(count, (list, tuple)) or getattr(count, "shape", ()) != ():
            rule = "be given with mean and m2 (fastbn.moments(x) or Moments().update(x) measures an array)"
            raise ValueError(f"count must {rule}, got {type(count).__name__} alone")
        if isinstance(count, (bool, np.bool_)) or count != 0:
            raise ValueError(f"count must be 0 without mean and m2, got {abridged(count)}")
        return None
    if mean is None or m2 is None:
        raise ValueError(f"mean and m2 must both be given, got {'m2' if mean is None else 'mean'} alone")
    if count is None:
        raise ValueError("count must be given with mean and m2, got mean and m2 alone")
    mean, m2 = checked_floats("mean", mean), checked_floats("m2", m2)
    _check_mean_shape("m2", m2, mean.shape)
    if (m2 < 0).any():
        raise ValueError(f"m2 must be >= 0, got {m2[m2 < 0][0]}")
    return _checked_count(count, mean.shape), mean, m2


def checked_low_part(name: str, low: Any, high: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the low part of the double-double numbers whose high part is `high`; any is right beside NaN or infinity.

    `name` is mean_lo or m2_lo.
    """
    array = checked_floats(name, low)
    _check_mean_shape(name, array, high.shape)
    with np.errstate(invalid="ignore"):
        wrong = np.isfinite(high) & ~(np.abs(array) <= _LOW_PART_ULPS * np.spacing(np.abs(high)))
    if wrong.any():
        rule = f"what float64 rounds off {name.removesuffix('_lo')}, {high[wrong][0]}"
        raise ValueError(f"{name} must be {rule}, got {array[wrong][0]}")
    return array


def checked_extremes(
    low: Any, high: Any, shape: Shape | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None:
    """Return min and max of each feature; None where neither was given. `shape` is mean's, None without one."""
    if low is None and high is None:
        return None
    if low is None or high is None or shape is None:
        given = [name for name, value in (("min", low), ("max", high)) if value is not None]
        raise ValueError(f"min and max must be given together, and with mean and m2, got {' and '.join(given)} alone")
    low, high = checked_floats("min", low), checked_floats("max", high)
    _check_mean_shape("min", low, shape)
    _check_mean_shape("max", high, shape)
    return low, high


def _checked_count(count: Any, shape: Shape) -> int | npt.NDArray[np.float64]:
    if isinstance(count, int) and abs(count) >= INT_END:  # NumPy would make an array of objects of it
        count = float(checked_real("count", count, 0, LARGEST))
    array = np.asarray(count) if np.isscalar(count) else converted("count", count)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"count must hold real numbers, got {abridged(count)}")
    with np.errstate(over="ignore"):  # longdouble holds numbers that float64 does not
        floats = array.astype(np.float64)
    if not ((array >= 0) & np.isfinite(floats)).all():
        raise ValueError(f"count must be finite and >= 0, got {abridged(count)}")
    if array.ndim == 0 and array.dtype.kind in "iu" and array < INT_END:
        return int(array)
    if array.ndim != 0:
        _check_mean_shape("count", array, shape)
    return np.broadcast_to(floats, shape)


def _check_mean_shape(name: str, array: npt.NDArray[Any], shape: Shape) -> None:
    if array.shape != shape:
        raise ValueError(f"{name} must have mean's shape {shape}, got {array.shape}")
