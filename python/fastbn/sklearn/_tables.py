"""What scikit-learn takes for data, as arrays that the kernels read: its checks, in fewer passes.

scikit-learn's checks read all of X in one thread, and copy what is not floating. Here X is read where it is, and looked
through for infinity by all threads; the errors are scikit-learn's own.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import issparse
from sklearn import get_config
from sklearn.utils import assert_all_finite, check_array
from sklearn.utils.validation import _check_sample_weight, validate_data

from fastbn import _core
from fastbn._scaling import bound_in
from fastbn._validation import Shape, checked_axis, kept_axes

Array = npt.NDArray[Any]

# What the kernels read as it is; check_array converts all other dtypes to the first.
READ = (np.float64, np.float32, np.float16, np.uint8, np.int8, np.uint16, np.int16, np.int32)
_NATIVE = frozenset(map(np.dtype, READ))
_OF_TABLES = (None, 1, -1, (1,), (-1,))


def axis_of(scaler: Any) -> int | Shape:
    """Return the scaler's feature axis or axes."""
    return 1 if scaler.axis is None else checked_axis(scaler.axis)


def features_are_columns(scaler: Any) -> bool:
    """Whether the scaler's features are the columns of a table."""
    return scaler.axis in _OF_TABLES


def feature_shape(x: Any, axis: int | Shape) -> Shape:
    """Return the shape of the statistics of x."""
    return tuple(x.shape[a] for a in _feature_axes(x.ndim, axis))


def read(scaler: Any, X: Any, *, first: bool = False, inverse: bool = False, writable: bool = False) -> Array | None:
    """Return X as an array that the kernels read, not copied if they can; None if it is for scikit-learn.

    Unless `first`, it must have the features of the fit.
    """
    if not (first or inverse):
        scaler._check_units(X)
    if type(X) is np.ndarray and X.ndim == 2 and X.dtype in _NATIVE and X.size and scaler.axis is None:
        # What scikit-learn would find, in a twentieth of the time.
        known = vars(scaler)
        named = "feature_names_in_" in known and not inverse
        if first or (X.shape[1] == known.get("n_features_in_") and not named):
            return X
    if issparse(X) or (get_config()["array_api_dispatch"] and not isinstance(X, np.ndarray)):
        _refuse_axis(scaler, X)
        return None
    wanted = {"accept_sparse": ("csr", "csc"), "dtype": READ, "ensure_all_finite": False}
    wanted |= {"force_writeable": writable, "allow_nd": scaler.axis is not None}
    if inverse:
        x = check_array(X, **wanted)
    elif first or scaler.axis is not None:
        x = check_array(X, **wanted, estimator=scaler, input_name="X")
    else:
        x = validate_data(scaler, X, reset=False, **wanted)
    if issparse(x):  # of a DataFrame of sparse columns
        _refuse_axis(scaler, X)
        return None
    if x.size == 0:
        raise ValueError(f"X must not be empty, got shape {x.shape}")
    if scaler.axis is not None and not first:
        check_features(scaler, X, x.ndim, feature_shape(x, axis_of(scaler)), inverse)
    return np.asarray(x)


def remember(scaler: Any, X: Any, x: Any) -> None:
    """Set n_features_in_ and feature_names_in_ of a first fit."""
    if type(X) is not np.ndarray and x.ndim == 2 and features_are_columns(scaler):
        validate_data(scaler, X, reset=True, skip_check_array=True)
        return
    scaler.n_features_in_ = math.prod(feature_shape(x, axis_of(scaler)))
    vars(scaler).pop("feature_names_in_", None)


def check_features(scaler: Any, X: Any, ndim: int, shape: Shape, inverse: bool) -> None:
    """Raise unless X, of this feature shape, has the features of the fit, and unless `inverse` their names."""
    if ndim == 2 and features_are_columns(scaler) and not inverse:
        validate_data(scaler, X, reset=False, skip_check_array=True)
        return
    shown = scaler.mean_ if scaler.mean_ is not None else scaler.scale_
    known = scaler.moments_.shape if shown is None else shown.shape
    if shape != known:
        raise ValueError(f"X must have features of shape {known} along axis {axis_of(scaler)}, got {shape}")


def weights_of(scaler: Any, x: Array, sample_weight: Any) -> Array | None:
    """Return weights of samples such that they can be broadcast to x."""
    if sample_weight is None:
        return None
    along = sample_axis(scaler, x.ndim)
    # As exact as scikit-learn's, which are of X's type.
    dtype = x.dtype if x.dtype.kind == "f" else np.float64
    try:
        weights = _check_sample_weight(sample_weight, np.moveaxis(x, along, 0), dtype=dtype)
    except (TypeError, ValueError):
        refuse_infinity(x)  # of two errors scikit-learn's first
        raise
    return np.asarray(weights_along(along, weights, x.ndim))


def sample_axis(scaler: Any, ndim: int) -> int:
    """Return the axis of an array along which each sample has its weight: the first that is no feature axis."""
    features = _feature_axes(ndim, axis_of(scaler))
    along = next((a for a in range(ndim) if a not in features), None)
    if along is None:
        raise ValueError(f"axis must leave an axis of samples where sample_weight is given, got {scaler.axis!r}")
    return along


def weights_along(axis: int, weights: Any, ndim: int) -> Any:
    """Return weights of samples such that they can be broadcast to an array."""
    return weights[tuple(slice(None) if a == axis else None for a in range(ndim))]


def refuse_infinity(x: Array, input_name: str = "X") -> None:
    """Raise scikit-learn's error if x holds infinity, unless the user has promised that it does not."""
    if not get_config()["assume_finite"] and _holds_infinity(x):
        assert_all_finite(x, allow_nan=True, input_name=input_name)


def clipped_foreign(y: Any, clip: float | None) -> Any:
    """Return what scikit-learn gave, a sparse matrix or another library's array, clipped to [-clip, clip]."""
    if clip is None:
        return y
    if issparse(y) or isinstance(y, np.ndarray):
        values = y.data if issparse(y) else y
        bound = bound_in(values.dtype, clip)
        np.clip(values, -bound, bound, out=values)
        return y
    if hasattr(y, "__array_namespace__"):
        return y.__array_namespace__().clip(y, -clip, clip)
    return y.clip(-clip, clip)


def is_own(x: Array, X: Any) -> bool:
    """Whether x, made of X, is memory that nobody else sees."""
    return isinstance(X, (list, tuple)) or (isinstance(X, np.ndarray) and not np.may_share_memory(x, X))


def _holds_infinity(x: Array) -> bool:
    if x.dtype.kind != "f":
        return False
    shortest = x.shape.index(min(x.shape))  # any axis would do; this one gives the fewest extremes
    return bool(np.isinf(_core.value_range(x, axis=shortest, omit_nan=True)).any())


def _feature_axes(ndim: int, axis: int | Shape) -> Shape:
    axes = (axis,) if isinstance(axis, int) else axis
    if not all(-ndim <= a < ndim for a in axes):
        raise ValueError(f"axis must name axes of X, which has {ndim} dimensions, got {axis!r}")
    return kept_axes(axes, ndim)


def _refuse_axis(scaler: Any, X: Any) -> None:
    if not features_are_columns(scaler):
        raise ValueError(f"axis must be 1 for X of type {type(X).__name__}, got {scaler.axis!r}")
