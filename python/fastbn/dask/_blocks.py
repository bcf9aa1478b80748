"""What is done to one block, or to a few blocks' statistics, on whatever worker. It does not import dask."""

from __future__ import annotations

import functools
import operator
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from fastbn import _core
from fastbn._moments.moments import Moments
from fastbn._scaling import affine
from fastbn._validation import Axis, Shape, kept_axes

Array: TypeAlias = npt.NDArray[Any]


def measured_block(
    x: Array,
    where: Array | None,
    weights: Array | None,
    wide: dict[str, Shape],
    axis: Axis,
    nan: Literal["propagate", "omit"],
    extremes: bool,
) -> Moments:
    """Return the statistics of a block; `wide` are the axes along which where and weights are not broadcast."""
    weighting: dict[str, Array] = {}
    for name, values in (("where", where), ("weights", weights)):
        if values is None:
            continue
        # One row of unknown number would otherwise be broadcast, silently, to a block of many.
        if any(values.shape[a] != x.shape[a] for a in wide[name]):
            raise ValueError(f"{name} must have x's chunk sizes, got a block of {values.shape} beside {x.shape}")
        weighting[name] = settled(values)
    return Moments(nan=nan, extremes=extremes).update(settled(x), axis=axis, **weighting)


def settled(block: Array) -> Array:
    """Return a block in the memory layout that it has after a journey between processes.

    Summation order depends on memory layout, and dask may serialize any block, so each is measured in the layout that
    serialization would give it: C or Fortran order stays, all else becomes C order.
    """
    return np.require(block, requirements=["F" if np.isfortran(block) else "C", "A"])


def unchanged(part: Moments, axis: Shape, keepdims: bool) -> Moments:
    """Return the statistics of a block as they are: da.reduction wants a first step."""
    return part


def merged(parts: Any, axis: Shape, keepdims: bool) -> Moments:
    """Return the statistics of nested lists of them together, merged in their order."""
    return functools.reduce(operator.add, _flat(parts))


def _flat(parts: Any) -> list[Moments]:
    return [parts] if isinstance(parts, Moments) else [part for some in parts for part in _flat(some)]


def joined(parts: Any, names: tuple[str, ...] | None) -> Moments:
    """Return the statistics of nested lists of them side by side, with these names of the features."""
    whole = _side_by_side(parts, 0)
    return whole if names is None else Moments.from_dict(whole.to_dict() | {"names": names})


def _side_by_side(parts: Any, level: int) -> Moments:
    """Return statistics side by side; there is one level of nesting for each feature axis."""
    if isinstance(parts, Moments):
        return parts
    return Moments.concatenate([_side_by_side(part, level + 1) for part in parts], level)


def statistics(moments: Any, x: Any, axis: Axis, shape: Shape, eps: float, correction: float) -> dict[str, Array]:
    """Return mean, variance and the mean's low part, if they fit x, of which no values are needed."""
    if not isinstance(moments, Moments):
        raise TypeError(f"moments must be fastbn.Moments, or Delayed ones, got {type(moments).__name__}")
    if moments.shape != shape:
        raise ValueError(f"moments must have x's feature shape {shape}, got {moments.shape}")
    mean, var, mean_lo = moments._normalizing(x, axis, eps, correction)
    return {"mean": mean, "var": var, "mean_lo": mean_lo}


def standardized(
    x: Array, mean: Array, var: Array, mean_lo: Array, weight: Array | None, bias: Array | None, **options: Any
) -> Array:
    """Return a block standardized as by `fastbn.normalize` and Moments."""
    return _core.normalize(x, mean, var, weight, bias, mean_lo=mean_lo, **options)


def standardized_part(part: Any, **options: Any) -> Any:
    """Return a pandas dataframe, of one floating-point type, standardized."""
    y = standardized(part.to_numpy(), **options)
    return type(part)(y, index=part.index, columns=part.columns, copy=False)


def scaled(
    x: Array, mean: Array | None, scale: Array | None, axis: Axis, inverse: bool, clip: float | None = None
) -> Array:
    """Return a block as a scaler of these attributes gives it."""
    shape = tuple(x.shape[a] for a in kept_axes(axis, x.ndim))
    return affine(x, axis, shape, mean=mean, scale=scale, inverse=inverse, clip=clip)


def scaled_part(part: Any, **options: Any) -> Any:
    """Return a pandas dataframe, of one floating-point type, as a scaler gives it."""
    y = scaled(part.to_numpy(), **options)
    return type(part)(y, index=part.index, columns=part.columns, copy=False)
