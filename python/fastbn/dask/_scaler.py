"""`StandardScaler` for dask arrays and dataframes: what `fastbn.sklearn`'s is for arrays in memory."""

from __future__ import annotations

import functools
import math
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.base import is_dask_collection
from dask.utils import is_series_like
from sklearn import get_config
from sklearn.utils.validation import check_is_fitted

from fastbn._pickles import name_publicly
from fastbn._validation import Axis, Shape, checked_axis, converted
from fastbn.dask import moments
from fastbn.dask._blocks import scaled, scaled_part
from fastbn.dask._inputs import (
    checked_array,
    checked_axes,
    empty_like,
    features_of,
    is_frame,
    numbers_of,
    of_features,
    over_blocks,
    over_partitions,
)
from fastbn.sklearn import StandardScaler as ScalerInMemory
from fastbn.sklearn._tables import READ, check_features, remember, sample_axis, weights_along

__all__ = ["StandardScaler"]


class StandardScaler(ScalerInMemory):
    """`fastbn.sklearn.StandardScaler` that takes dask arrays and dataframes too, and gives them back.

    ``fit`` and ``partial_fit`` compute the statistics, in one pass over X, on the scheduler that is in use;
    ``transform`` and ``inverse_transform`` are lazy. All else, and everything about arrays in memory, is as in the
    parent class: parameters, attributes, NaN that is left out, constant features, ``merge``.

    Parameters
    ----------
    copy, with_mean, with_std, axis, clip, correction
        As in `fastbn.sklearn.StandardScaler`; dask arrays are never written over.

    Notes
    -----
    Of a dataframe the columns are the features, all of them numbers. They are converted to one type: their own if they
    share it and it is a floating one, otherwise one that holds all of them, float64 for integers. Integer arrays become
    float64 as well.

    Only ``fit`` looks for infinity, which is an error. What a column of integers misses (pandas' NA) is NaN.

    Examples
    --------
    >>> import dask.array as da
    >>> from fastbn.dask import StandardScaler
    >>> x = da.arange(6.0, chunks=4).reshape(3, 2)
    >>> scaler = StandardScaler().fit(x)
    >>> scaler.mean_
    array([2., 3.])
    >>> scaler.transform(x)
    dask.array<fastbn-scaled, shape=(3, 2), dtype=float64, chunksize=(2, 2), chunktype=numpy.ndarray>
    """

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> StandardScaler:
        """Take in more samples, as in `fastbn.sklearn.StandardScaler`; X and the weights may be dask's too.

        Parameters
        ----------
        X : dask array or dataframe, or what the parent class takes
            Dask arrays may have any chunks; the number of features must be known.
        y : None
            Ignored.
        sample_weight : array_like, dask array or dask series of shape (n_samples,), optional
            Not negative, and not all 0. Where X's chunk sizes are unknown, a dask one in X's chunks. Of a dataframe the
            rows are counted first if the weights are in memory, which takes a pass of its own.

        Returns
        -------
        StandardScaler
            self

        Raises
        ------
        TypeError, ValueError
            If X is empty, holds infinity or has other features than before. Nothing is taken in then.
        """
        if not is_dask_collection(X):
            super().partial_fit(X, y, sample_weight)
            return self
        self._validate_params()
        first = not hasattr(self, "n_samples_seen_")
        x = _read(X, exact_sizes=sample_weight is not None and not is_dask_collection(sample_weight))
        axis = self._feature_axis(x)
        kept = checked_axes(axis, x)
        shape, _ = features_of(x, kept, "X")
        if 0 in x.shape:
            raise ValueError(f"X must not be empty, got shape {x.shape}")
        example = _example(X, shape)
        if not first:
            self._check_units(example)
            check_features(self, example, x.ndim, shape, inverse=False)
        weights = None if sample_weight is None else _broadcastable(sample_weight, x, sample_axis(self, x.ndim))
        used = weights if self.with_mean or self.with_std else None  # otherwise scikit-learn counts samples
        lazy = moments(x, axis=axis, weights=used, nan="omit")
        found, counted = dask.compute(lazy, weights is None or (weights != 0).any())
        if not counted:
            raise ValueError("sample_weight must hold a number that is not 0, got none")
        if isinstance(found.count, int) and found.count == 0:
            raise ValueError(f"X must not be empty, got shape {x.shape}")
        bad = np.isnan(found.mean) & (np.asarray(found.count) > 0)
        if bad.any() and not get_config()["assume_finite"]:
            raise ValueError(f"X must not hold infinity, got it in feature {np.argwhere(bad)[0].tolist()}")
        if first:
            remember(self, example, x)
        self._publish(found if first else self._grown(found), None if weights is None else np.float64)
        return self

    def transform(self, X: Any, copy: bool | None = None, *, out: Any = None) -> Any:
        """Standardize, lazily: ``(X - mean_) / scale_``.

        Parameters
        ----------
        X : dask array or dataframe, or what the parent class takes
            With the features of the fit.
        copy, out
            Of the parent class; not for dask.

        Returns
        -------
        dask array or dataframe, or what the parent class returns
            What X is: with its chunks, or with its columns, index and divisions; of X's type if that is a floating one,
            else of float64.

        Raises
        ------
        NotFittedError, TypeError, ValueError
            As in the parent class, at once; also if ``set_output`` asks for containers that are in memory.
        """
        return self._scaled(X, out) if is_dask_collection(X) else super().transform(X, copy, out=out)

    def inverse_transform(self, X: Any, copy: bool | None = None, *, out: Any = None) -> Any:
        """Undo `transform`, lazily: ``X * scale_ + mean_``; parameters and result as there."""
        if not is_dask_collection(X):
            return super().inverse_transform(X, copy, out=out)
        return self._scaled(X, out, inverse=True)

    def _scaled(self, X: Any, out: Any, inverse: bool = False) -> Any:
        check_is_fitted(self)
        if out is not None:
            raise ValueError(f"out must be None for dask's X, got {type(out).__name__}")
        container = getattr(self, "_sklearn_output_config", {}).get("transform", get_config()["transform_output"])
        if container != "default":
            raise ValueError(f"set_output must be left at 'default' for dask's X, got {container!r}")
        x = _read(X)
        axis = self._feature_axis(x)
        kept = checked_axes(axis, x)
        shape, chunks = features_of(x, kept, "X")
        if not inverse:
            self._check_units(_example(X, shape))
        check_features(self, _example(X, shape), x.ndim, shape, inverse)
        used = {"mean": self.mean_ if self.with_mean else None, "scale": self.scale_ if self.with_std else None}
        values = {name: of_features(f"{name}_", value, shape, chunks) for name, value in used.items()}
        clip = None if inverse else self._checked_clip()  # which may have been set since the fit
        options: dict[str, Any] = {"axis": axis, "inverse": inverse, "clip": clip}
        result = scaled(empty_like(x), None, None, **options)
        if is_frame(X):
            return over_partitions(scaled_part, numbers_of(X, "X"), values, result.dtype, options)
        return over_blocks(functools.partial(scaled, **options), x, kept, values, result, "fastbn-scaled")

    def _feature_axis(self, x: Any) -> Axis:
        if self.axis is None and x.ndim != 2:
            raise ValueError(f"X must have 2 dimensions where axis is not given, got {x.ndim}")
        return 1 if self.axis is None else checked_axis(self.axis)


def _example(X: Any, shape: Shape) -> Any:
    """Return what X is without samples, in memory, with the features, their names and its type."""
    return X._meta if is_frame(X) else np.empty((0, *shape), X.dtype)


def _read(X: Any, exact_sizes: bool = False) -> Any:
    """Return X as a dask array of a type that is scaled as it is."""
    if is_frame(X):
        return numbers_of(X, "X").to_dask_array(lengths=exact_sizes or None)
    x = checked_array(X, "X")
    if x.dtype.kind not in "fiub":
        raise TypeError(f"X must hold real numbers, got dtype {x.dtype}")
    return x if x.dtype in READ else x.astype(np.float64)


def _broadcastable(sample_weight: Any, x: Any, along: int) -> Any:
    """Return weights of samples, which are along an axis, such that they can be broadcast to x."""
    if is_series_like(sample_weight) and is_dask_collection(sample_weight):
        weights = sample_weight.astype(np.float64).to_dask_array()
    else:
        weights = sample_weight if isinstance(sample_weight, da.Array) else converted("sample_weight", sample_weight)
    if weights.ndim == 0:
        return weights
    if weights.ndim != 1:
        raise ValueError(f"sample_weight must have one dimension, got {weights.ndim}")
    if not math.isnan(weights.shape[0]) and weights.shape[0] != x.shape[along]:
        sizes = f"{x.shape[along]} (nan is for unknown chunk sizes)"
        raise ValueError(f"sample_weight must have one entry for each of X's samples, {sizes}, got {weights.shape[0]}")
    return weights_along(along, weights, x.ndim)


name_publicly(StandardScaler, module="fastbn.dask")
__test__ = {"StandardScaler": StandardScaler}  # where doctests are looked for, which goes by the module of a class
