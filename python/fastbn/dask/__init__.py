"""Statistics and standardization of dask arrays and dataframes, lazily, for any scheduler.

Every block gives `Moments` of its own. Those of blocks that hold the same features are merged in their order, up to
`split_every` at a time, in a tree whose shape follows from the chunks alone; what is left is put side by side::

    blocks  ->  Moments of each block  ->  ... merged ...  ->  Moments of some features  ->  Moments

So the result has the same bits on every scheduler, for any number of workers and whatever finishes first, and a block
that is computed again because its worker died gives again what it gave before.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

import fastbn
from fastbn._moments.provenance import columns_of
from fastbn._validation import Axis, Shape, checked_int
from fastbn.dask._blocks import joined, measured_block, merged, standardized, standardized_part, statistics, unchanged

try:
    import dask.array as da
    from dask.delayed import Delayed, delayed
except ImportError as error:
    raise ImportError('fastbn.dask needs dask: pip install "fastbn[dask]"') from error

from fastbn.dask._inputs import (
    aligned,
    checked_array,
    checked_axes,
    empty_like,
    example_of,
    features_of,
    is_frame,
    numbers_of,
    of_features,
    over_blocks,
    over_partitions,
    wide_axes,
)

if TYPE_CHECKING:
    from fastbn.dask._scaler import StandardScaler

__all__ = ["StandardScaler", "moments", "standardize"]


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)


def moments(
    x: Any,
    *,
    axis: Axis = 1,
    where: Any = None,
    weights: Any = None,
    nan: Literal["propagate", "omit"] = "propagate",
    extremes: bool = False,
    split_every: int = 8,
) -> Any:
    """Statistics of a dask array or dataframe, as a tree of merges over its blocks.

    Each block is measured as by `fastbn.moments`; merging is Chan, Golub & LeVeque 1983, eq. 1.5.

    Parameters
    ----------
    x : dask.array.Array or dask.dataframe.DataFrame
        An array of two dimensions or more, of NumPy blocks of a type that `fastbn.moments` takes, in any chunks, along
        the features too; their sizes need not be known. Of a dataframe the columns are the features, all of them
        numbers.
    axis : int or tuple of ints, default 1
        The feature axis or axes, which keep statistics of their own; all others are reduced.
    where, weights : dask.array.Array or array_like, optional
        Which values the statistics are taken of, and with what weight (see `fastbn.batch_norm`); broadcastable to x,
        and rechunked as it is. Where x's chunk sizes are unknown, a dask array with the same chunks.
    nan : {"propagate", "omit"}, default "propagate"
        Whether a NaN entry makes its feature's statistics NaN, or is left out.
    extremes : bool, default False
        Whether the least and the largest value are looked for too.
    split_every : int, default 8
        About how many statistics are merged at a time, 2 or more: as in dask's own reductions.

    Returns
    -------
    dask.delayed.Delayed
        Its ``compute()`` gives the `fastbn.Moments`. Its attributes and methods are lazy themselves.

    Raises
    ------
    TypeError, ValueError
        As `fastbn.moments`, at once, as far as shapes and types show it; what only the values show (a negative weight,
        say), on computing.

    Examples
    --------
    >>> import dask.array as da, fastbn.dask
    >>> x = da.arange(12.0, chunks=5).reshape(6, 2).rechunk((4, 1))
    >>> lazy = fastbn.dask.moments(x)
    >>> lazy.compute()
    Moments(count=6, mean=[5. 6.], std=[3.416 3.416])
    >>> lazy.var(correction=1).compute()
    array([14., 14.])
    """
    if checked_int("split_every", split_every) < 2:
        raise ValueError(f"split_every must be 2 or more, got {split_every!r}")
    array = checked_array(x)
    kept = checked_axes(axis, array)
    weighting = {"where": aligned("where", where, array), "weights": aligned("weights", weights, array)}
    parts = _measured(array, weighting, axis=axis, nan=nan, extremes=extremes)
    whole = da.reduction(
        parts,
        chunk=unchanged,
        combine=merged,
        aggregate=merged,
        axis=tuple(a for a in range(array.ndim) if a not in kept),
        concatenate=False,
        split_every=split_every,
        dtype=object,
        meta=np.empty((0,) * len(kept), object),
        name="fastbn-merged",
    )
    named = functools.partial(joined, names=columns_of(x, axis))
    side_by_side = da.blockwise(named, (), whole, kept, dtype=object, meta=np.empty((), object), token="fastbn-joined")
    return side_by_side.to_delayed().item()


def standardize(
    x: Any,
    moments: Any,
    *,
    weight: Any = None,
    bias: Any = None,
    eps: float = 0.0,
    correction: float = 0,
    axis: Axis = 1,
    dtype: npt.DTypeLike | None = None,
) -> Any:
    """Standardize a dask array or dataframe by given statistics, lazily: `fastbn.normalize` of each block.

    With the mean and the variance of `moments`::

        y = weight * (x - mean) / sqrt(var(correction) + eps) + bias

    Parameters
    ----------
    x : dask.array.Array or dask.dataframe.DataFrame
        As for `moments`; the chunk sizes along the features must be known.
    moments : fastbn.Moments or dask.delayed.Delayed
        Of x's features; what `moments` returns, or what that gave when it was computed.
    weight, bias : array_like or dask.array.Array, optional
        Of the feature shape; 1 and 0 where not given.
    eps : float, default 0.0
        Added to the variance; not negative. With the default a column has variance 1 to its last digits, and one
        that is constant becomes 0 (`bias`, where that is given): 1/sqrt(0) is taken for 0.
    correction : float, default 0
        As for `fastbn.Moments.var`.
    axis : int or tuple of ints, default 1
        The feature axis or axes.
    dtype : dtype, optional
        Of the result: float32, float64, float16 or bfloat16. Otherwise x's, float32 for an array of integers and
        float64 for a dataframe that has any.

    Returns
    -------
    dask.array.Array or dask.dataframe.DataFrame
        What x is: with its chunks, or with its columns, index and divisions.

    Raises
    ------
    TypeError, ValueError
        As `fastbn.normalize`, at once, and if `moments` are not of x's features; where they are Delayed, on computing.
        So for columns of other names, and integers beside statistics of values that were divided by a scale.

    Notes
    -----
    If x and Delayed `moments` of it are computed in one go, each block of x is computed twice, and none is kept for the
    second time. Only where a block is the input of several tasks (after a rechunk, say) all of them wait in memory for
    the statistics: compute `moments` first if x does not fit there.

    Examples
    --------
    >>> import dask.array as da, fastbn.dask
    >>> x = da.arange(6.0, chunks=4).reshape(3, 2)
    >>> fastbn.dask.standardize(x, fastbn.dask.moments(x)).compute().round(3)
    array([[-1.225, -1.225],
           [ 0.   ,  0.   ],
           [ 1.225,  1.225]])
    """
    frame = numbers_of(x) if is_frame(x) else None
    array = checked_array(x)
    kept = checked_axes(axis, array)
    if frame is not None and kept != (1,):
        raise ValueError(f"axis must be 1 for a dataframe, got {axis!r}")
    shape, chunks = features_of(array, kept)
    values = _statistics(moments, example_of(x), axis, shape, eps, correction) | {"weight": weight, "bias": bias}
    values = {name: of_features(name, value, shape, chunks) for name, value in values.items()}
    like: dict[str, Any] = {name: None if value is None else empty_like(value) for name, value in values.items()}
    options: dict[str, Any] = {"eps": eps, "axis": axis, "dtype": dtype}
    result = standardized(empty_like(array), **like, **options)  # raises what it would
    options["dtype"] = result.dtype
    if frame is not None:
        return over_partitions(standardized_part, frame, values, result.dtype, options)
    function = functools.partial(standardized, **options)
    return over_blocks(function, array, kept, values, result, "fastbn-standardized")


def __getattr__(name: str) -> Any:
    """Import the scaler when it is asked for: it needs scikit-learn, which the functions do not."""
    if name != "StandardScaler":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fastbn.dask._scaler import StandardScaler

    return StandardScaler


def _measured(array: Any, weighting: dict[str, Any], **options: Any) -> Any:
    """Return the statistics of each block, as a dask array of as many objects."""
    known = {name: values for name, values in weighting.items() if values is not None}
    like: dict[str, Any] = {name: empty_like(values) for name, values in known.items()}
    choices = {name: options[name] for name in ("nan", "extremes")}
    fastbn.Moments(**choices).update(empty_like(array), axis=options["axis"], **like)  # raises what it would
    indices = tuple(range(array.ndim))
    arguments: list[Any] = [array, indices]
    for values in weighting.values():
        arguments += [values, None if values is None else indices[array.ndim - values.ndim :]]
    wide = {name: wide_axes(values) for name, values in known.items()}
    return da.blockwise(
        functools.partial(measured_block, wide=wide, **options),
        indices,
        *arguments,
        align_arrays=False,
        adjust_chunks=dict.fromkeys(indices, 1),
        dtype=object,
        meta=np.empty((0,) * array.ndim, object),
        token="fastbn-measured",
    )


def _statistics(moments: Any, x: Any, axis: Axis, shape: Shape, eps: float, correction: float) -> dict[str, Any]:
    """Return mean, variance and the mean's low part in that order, lazily if moments are."""
    if not isinstance(moments, Delayed):
        return statistics(moments, x, axis, shape, eps, correction)
    fastbn.Moments().var(correction)  # raises what it would
    all_three = delayed(statistics, pure=True)(moments, x, axis, shape, eps, correction)
    return {name: da.from_delayed(all_three[name], shape, np.float64) for name in ("mean", "var", "mean_lo")}
