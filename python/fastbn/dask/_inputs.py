"""What `fastbn.dask` takes, from shapes, types and chunks: it checks metadata only."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import dask.array as da
import numpy as np
import numpy.typing as npt
from dask.base import is_dask_collection
from dask.utils import is_dataframe_like

import fastbn
from fastbn._validation import Axis, Shape, checked_axis, converted, kept_axes

Array: TypeAlias = npt.NDArray[Any]


def is_frame(x: Any) -> bool:
    """Whether x is a dask dataframe."""
    return bool(is_dask_collection(x) and is_dataframe_like(x))


def checked_array(x: Any, name: str = "x") -> Any:
    """Return a dask array of x, which is one or a dataframe."""
    if is_frame(x):
        return numbers_of(x, name).to_dask_array()
    if not isinstance(x, da.Array):
        raise TypeError(f"{name} must be a dask array or dataframe, got {type(x).__name__}")
    return _of_plain_blocks(name, x)


def numbers_of(frame: Any, name: str = "x") -> Any:
    """Return a dataframe with all columns converted to one floating-point type, missing values to NaN.

    That is the type of the columns if they share one, and otherwise one that holds all of them, float64 for integers.
    """
    dtypes = list(frame.dtypes)
    others = [column for column, dtype in zip(frame.columns, dtypes, strict=True) if dtype.kind not in "fiub"]
    if others or not dtypes:
        raise TypeError(f"{name} must have columns, all of real numbers, got {others or 'none'}")
    floats = [dtype if isinstance(dtype, np.dtype) and dtype.kind == "f" else np.dtype(np.float64) for dtype in dtypes]
    return frame.astype(np.result_type(*floats))


def aligned(name: str, value: Any, x: Any) -> Any:
    """Return an array that broadcasts to x as a dask array, in x's chunks wherever it is not broadcast."""
    if value is None:
        return None
    value = _array(name, value)
    lazy = isinstance(value, da.Array)
    beside = x.chunks[x.ndim - value.ndim :]
    if value.ndim > x.ndim or not all(map(_fits, value.shape, map(sum, beside))):
        raise ValueError(f"{name} must be broadcastable to x's shape {x.shape}, got {value.shape}")
    chunks: list[Any] = []
    for size, own, wanted in zip(value.shape, value.chunks if lazy else value.shape, beside, strict=True):
        known = not math.isnan(size + sum(wanted))
        if not known and size != 1 and not (lazy and len(own) == len(wanted)):
            rule = "be a dask array with x's chunks where their sizes are unknown (see x.compute_chunk_sizes())"
            raise ValueError(f"{name} must {rule}, got chunks {own} beside {wanted}")
        chunks.append((1,) if size == 1 else wanted if known else own)
    return _in_chunks(value, tuple(chunks))


def checked_axes(axis: Axis, x: Any) -> Shape:
    """Return the feature axes in ascending order, if x is such that fastbn takes it with this `axis`."""
    fastbn.moments(empty_like(x), axis=axis)  # raises what it would
    return kept_axes(checked_axis(axis), x.ndim)


def features_of(x: Any, kept: Shape, name: str = "x") -> tuple[Shape, tuple[tuple[int, ...], ...]]:
    """Return the feature shape of x and its chunks."""
    for axis in kept:
        if math.isnan(x.shape[axis]):
            rule = f"have known chunk sizes along feature axis {axis}: call {name}.compute_chunk_sizes() first"
            raise ValueError(f"{name} must {rule}, got {x.chunks[axis]}")
    return tuple(x.shape[a] for a in kept), tuple(x.chunks[a] for a in kept)


def of_features(name: str, value: Any, shape: Shape, chunks: Any) -> Any:
    """Return something of the feature shape as a dask array in chunks."""
    if value is None:
        return None
    value = _array(name, value)
    if value.shape != shape:
        raise ValueError(f"{name} must have the feature shape {shape}, got {value.shape}")
    return _in_chunks(value, chunks)


def over_blocks(function: Any, x: Any, kept: Shape, values: dict[str, Any], result: Array, token: str) -> Any:
    """Apply a function lazily to each block of x and what belongs to its features, which gives arrays like `result`."""
    indices = tuple(range(x.ndim))
    arguments: list[Any] = [x, indices]
    for value in values.values():
        arguments += [value, None if value is None else kept]
    return da.blockwise(function, indices, *arguments, align_arrays=False, dtype=result.dtype, meta=result, token=token)


def over_partitions(function: Any, frame: Any, values: dict[str, Any], dtype: Any, options: dict[str, Any]) -> Any:
    """Apply a function lazily to each partition, which gives frames of this type; `values` are of its columns."""
    # Of arguments map_partitions computes only Delayed ones first; a dask array would be computed for each partition.
    first = {
        name: None if each is None else each.to_delayed(optimize_graph=False).item() for name, each in values.items()
    }
    return frame.map_partitions(function, **first, **options, meta=frame._meta.astype(dtype))


def empty_like(x: Any) -> Array:
    """Return an array of x's type and number of dimensions without a value in it; of no dimensions it has one, 0."""
    return np.zeros((0,) * x.ndim, x.dtype)


def example_of(x: Any) -> Any:
    """Return what a dask dataframe or array holds, without a row or a value of it, in memory."""
    return x._meta if is_frame(x) else empty_like(x)


def wide_axes(mask: Any) -> Shape:
    """Return the axes, counted from the end, along which a mask or weights are not broadcast."""
    return tuple(a - mask.ndim for a, size in enumerate(mask.shape) if size != 1)


def _fits(size: float, into: float) -> bool:
    return size in (1, into) or math.isnan(size) or math.isnan(into)


def _array(name: str, value: Any) -> Any:
    """Return a dask array as it is, and anything else as a NumPy array."""
    return _of_plain_blocks(name, value) if isinstance(value, da.Array) else converted(name, value)


def _in_chunks(value: Any, chunks: Any) -> Any:
    return value.rechunk(chunks) if isinstance(value, da.Array) else da.from_array(value, chunks)


def _of_plain_blocks(name: str, array: Any) -> Any:
    blocks = array._meta  # what a block is like; dask has no public name for it
    if not isinstance(blocks, np.ndarray) or isinstance(blocks, np.ma.MaskedArray):
        raise TypeError(f"{name} must have blocks that are NumPy arrays without masks, got {type(blocks).__name__}")
    return array
