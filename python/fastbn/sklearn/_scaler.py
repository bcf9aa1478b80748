"""`StandardScaler`: scikit-learn's, fitted by `Moments`, and scaled by one reading of dense data.

What is not arithmetic on dense arrays is scikit-learn's own: validation, names, sparse matrices, containers, metadata.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from scipy.sparse import issparse
from sklearn import get_config
from sklearn.base import _fit_context
from sklearn.preprocessing import StandardScaler as Base
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import check_is_fitted

from fastbn._moments.moments import Moments
from fastbn._moments.provenance import check_units, numbered
from fastbn._scaling import Attributes, affine, attributes, moments_behind, negative, same
from fastbn._validation import LARGEST, checked_real
from fastbn.sklearn._tables import (
    axis_of,
    clipped_foreign,
    feature_shape,
    features_are_columns,
    is_own,
    read,
    refuse_infinity,
    remember,
    weights_of,
)

Array = npt.NDArray[Any]
Scaler = TypeVar("Scaler", bound="StandardScaler")

_CONSTRAINTS = Base._parameter_constraints
_BEYOND = {"axis", "clip", "correction"}
_STEPS = ("fit", "partial_fit", "transform")


class StandardScaler(Base):  # type: ignore[misc]  # of no known type
    """scikit-learn's ``StandardScaler`` with fastbn's kernels: standardize features by their mean and deviation.

    ::

        z = (x - mean_) / scale_        scale_ = sqrt(var_), 1 for constant features

    Drop-in: parameters, attributes, methods and errors are those of the scikit-learn that is installed, and numbers
    agree to rounding. Sparse matrices and array namespaces other than NumPy's are left to it. Dense arrays are read
    once by ``fit``, on all threads, and not copied: float32, float64, float16, and integers of up to 32 bits, in any
    memory order.

    Parameters
    ----------
    copy : bool, default True
        If False, ``transform`` and ``inverse_transform`` write over X, where it is a writable array of a floating type.
    with_mean, with_std : bool, default True
        Whether to subtract the mean, and to divide by the deviation.
    axis : int or tuple of ints, optional
        Not given: X is a table of shape (n_samples, n_features). Else X has two dimensions or more, and this is its
        feature axis or axes, which keep statistics of their own; all others are samples.
    clip : float, optional
        The largest magnitude of what ``transform`` gives; what is beyond becomes this, with its sign, and NaN stays.
        ``inverse_transform`` cannot undo it. Not given: nothing is changed.
    correction : float, optional
        What the divisor N of ``var_`` is reduced by: 1 for the unbiased variance. Not given: 0.

    Attributes
    ----------
    mean_, var_, scale_ : ndarray of float64 or None
        Of shape (n_features,); with a tuple for `axis`, of the shape of X along it.
    n_samples_seen_ : number or ndarray
        Samples so far, or the sum of their weights; an array where NaN made features differ.
    n_features_in_, feature_names_in_
        As in scikit-learn.
    moments_ : fastbn.Moments
        Count, mean and centred sum of squares, from which the others follow.

    Notes
    -----
    The mean is subtracted exactly before anything is rounded, also from float32 at mean 1e5, where scikit-learn rounds
    the mean first. NaN is left out of the statistics and stays NaN; infinity is an error, unless
    ``sklearn.set_config(assume_finite=True)`` promises that there is none. What counts as
    constant is scikit-learn's rule, which grows with the number of samples and the mean.
    A RuntimeWarning says where a variance does not fit float64: for a deviation of 1e154 or more ``var_`` is NaN, for
    one of 1e-154 or less it loses digits, or is 0, as a constant's is.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.sklearn import StandardScaler
    >>> x = np.float32(1e5) + np.array([[0, 0], [0, 0], [1, 2], [1, 2]], np.float32)
    >>> scaler = StandardScaler().fit(x)
    >>> scaler.mean_, scaler.scale_
    (array([100000.5, 100001. ]), array([0.5, 1. ]))
    >>> scaler.transform(x)[1:3]
    array([[-1., -1.],
           [ 1.,  1.]], dtype=float32)
    >>> images = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    >>> StandardScaler(axis=-1).fit(images).mean_
    array([10.5, 11.5, 12.5])
    """

    clip: float | None = None  # pickles of earlier versions have none

    # An array to write to is no metadata that could be routed.
    __metadata_request__transform = {"out": UNUSED}  # noqa: RUF012
    __metadata_request__inverse_transform = {"out": UNUSED}  # noqa: RUF012

    def __init__(
        self,
        *,
        copy: bool = True,
        with_mean: bool = True,
        with_std: bool = True,
        axis: int | tuple[int, ...] | None = None,
        clip: float | None = None,
        correction: float | None = None,
    ) -> None:
        super().__init__(copy=copy, with_mean=with_mean, with_std=with_std)
        self.axis = axis
        self.clip = clip
        self.correction = correction

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name: scikit-learn's, and beyond them those that were given.

        So ``sklearn.preprocessing.StandardScaler(**scaler.get_params())`` works where it can.
        """
        params = super().get_params(deep)
        return {name: value for name, value in params.items() if name not in _BEYOND or value is not None}

    def set_params(self: Scaler, **params: Any) -> Scaler:
        """Set parameters by name, and return self."""
        super().set_params(**{name: value for name, value in params.items() if name not in _BEYOND})
        for name in _BEYOND & params.keys():
            setattr(self, name, params[name])
        return self

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(self: Scaler, X: Any, y: Any = None, sample_weight: Any = None) -> Scaler:
        """Take in more samples: ``fit`` begins anew, this goes on.

        Parameters
        ----------
        X : array_like or sparse matrix
            Of shape (n_samples, n_features), or as `axis` says.
        y : None
            Ignored.
        sample_weight : array_like of shape (n_samples,), optional
            How often each sample enters the statistics.

        Returns
        -------
        StandardScaler
            self

        Raises
        ------
        TypeError, ValueError
            What scikit-learn's own raises; and for integers where `merge` took in statistics of values that were
            divided by a scale. Nothing is taken in then.

        Notes
        -----
        Merging is Chan, Golub & LeVeque 1983, eq. 1.5, with compensation: parts give what one pass gives, to rounding.

        Examples
        --------
        >>> import numpy as np
        >>> from fastbn.sklearn import StandardScaler
        >>> scaler = StandardScaler()
        >>> for batch in np.array([[[1.0], [2.0]], [[np.nan], [6.0]]]):
        ...     scaler = scaler.partial_fit(batch)
        >>> scaler.mean_, scaler.n_samples_seen_.item()
        (array([3.]), 3.0)
        """
        first = not hasattr(self, "n_samples_seen_")
        x = read(self, X, first=first)
        weights = None if x is None else weights_of(self, x, sample_weight)
        if x is None or (self.axis is None and self._knows_negative(weights, first)):
            return self._leave_to_base(X, y, sample_weight)
        told = {"estimator": self, "X": X, "y": y, "metadata": {"sample_weight": sample_weight}}
        # Callbacks came with scikit-learn 1.9, and want to be told by the estimators themselves.
        called_back = "_skl_callbacks" in self.__dict__ or hasattr(self, "_parent_callback_ctx")
        context = self._init_callback_context() if called_back else None
        if context is not None:
            context.call_on_fit_task_begin(**told)
        part = self._part(x, weights)
        if first:
            remember(self, X, x)
        self._publish(part if first else self._grown(part), None if weights is None else np.float64)
        if context is not None:
            context.call_on_fit_task_end(**told, reconstruction_attributes={})
        return self

    def merge(self: Scaler, other: Any) -> Scaler:
        """Take in all that another scaler has seen, as if ``partial_fit`` had seen it, and return self.

        Parameters
        ----------
        other : StandardScaler or Moments
            A fitted scaler, this class's or scikit-learn's, or statistics that were measured in another way. It stays
            as it is.

        Returns
        -------
        StandardScaler
            self

        Raises
        ------
        TypeError, ValueError
            If `other` is neither, is not fitted, or has other features, or another scale (see `fastbn.Moments.merge`).

        Examples
        --------
        >>> import numpy as np
        >>> from fastbn.sklearn import StandardScaler
        >>> a, b = (StandardScaler().fit(np.array(part)) for part in ([[1.0], [2.0]], [[6.0]]))
        >>> a.merge(b).mean_
        array([3.])
        """
        moments = self._seen_by(other)
        shape = moments.shape
        if shape is None:
            return self
        names = getattr(other, "feature_names_in_", None)
        if isinstance(other, Moments) and self.axis is None and not numbered(other.names):
            names = np.array(other.names, object)
        if hasattr(self, "n_samples_seen_"):
            known = getattr(self, "feature_names_in_", None)
            if names is not None and known is not None and list(names) != list(known):
                raise ValueError(f"other must have the features {list(known)}, got {list(names)}")
            moments = self._moments().merge(_named(moments, None) if numbered(moments.names) else moments)
        else:
            self._validate_params()
            axis = axis_of(self)
            if len(shape) != (1 if isinstance(axis, int) else len(axis)):
                raise ValueError(f"other must have features along axis {axis}, got features of shape {shape}")
            self.n_features_in_ = math.prod(shape)
            self.__dict__.pop("feature_names_in_", None)
            if names is not None:
                self.feature_names_in_ = names.copy()
        self._publish(moments)
        return self

    def fit_transform(self, X: Any, y: Any = None, *, out: Array | None = None, **fit_params: Any) -> Any:
        """Return ``fit(X, y, **fit_params).transform(X, out=out)``, without looking for infinity twice.

        Parameters
        ----------
        X, y, **fit_params
            As for ``fit``.
        out : ndarray, optional
            As for `transform`.

        Returns
        -------
        ndarray, sparse matrix or DataFrame
            As of `transform`.

        Raises
        ------
        TypeError, ValueError
            What scikit-learn's own raises.
        """
        changed = any(getattr(type(self), name) is not getattr(StandardScaler, name) for name in _STEPS)
        if changed or get_config()["enable_metadata_routing"]:  # of what is not routed the base class warns
            if out is None:
                return super().fit_transform(X, y, **fit_params)
            return self.fit(X, y, **fit_params).transform(X, out=out)
        self.fit(X, y, **fit_params)
        return self._map(X, None, out, checked=True)

    def transform(self, X: Any, copy: bool | None = None, *, out: Array | None = None) -> Any:
        """Standardize: ``(X - mean_) / scale_``, clipped to [-clip, clip] if there is a `clip`.

        Parameters
        ----------
        X : array_like or sparse matrix
            Of shape (n_samples, n_features), or as `axis` says.
        copy : bool, optional
            Instead of the parameter `copy`.
        out : ndarray, optional
            Where the result goes, of X's shape and a floating type: X itself, or memory that X does not share.

        Returns
        -------
        ndarray, sparse matrix or DataFrame
            Of X's type and memory order, of float64 where X was not floating; `out` where that was given; what
            ``set_output`` asks for.

        Raises
        ------
        NotFittedError, TypeError, ValueError
            What scikit-learn's own raises, and for integers as in `partial_fit`. `out` is then untouched.
        """
        return self._map(X, copy, out)

    def inverse_transform(self, X: Any, copy: bool | None = None, *, out: Array | None = None) -> Any:
        """Undo `transform`: ``X * scale_ + mean_``; parameters and result as there."""
        return self._map(X, copy, out, inverse=True)

    @property
    def moments_(self) -> Moments:
        """Count, mean and centred sum of squares behind the attributes, with the features' names; a copy."""
        moments, names = self._moments(), getattr(self, "feature_names_in_", None)
        return moments if names is None else _named(moments, tuple(map(str, names)))

    def __sklearn_tags__(self) -> Any:
        """Return what scikit-learn's checks and meta-estimators ask for."""
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = self.axis is not None
        tags.input_tags.sparse &= features_are_columns(self)
        tags.array_api_support &= not self.correction
        return tags

    def __getstate__(self) -> Any:
        """Hold the statistics as plain arrays, so that a file names no class of fastbn's but this one."""
        state = super().__getstate__()
        if "_published" in state:
            moments, shown = state["_published"]
            state = state | {"_published": (moments.to_dict(), shown._asdict())}
        return state

    def __setstate__(self, state: Any) -> None:
        """Take what `__getstate__` gives, or gave in earlier versions: `_kept`, of plain arrays or not."""
        state = state.copy()
        if "_kept" in state:
            state["_published"] = state.pop("_kept")
        moments, shown = state.get("_published", (None, None))
        if isinstance(moments, dict):
            state["_published"] = Moments.from_dict(moments), Attributes(**shown)
        super().__setstate__(state)

    def _validate_params(self) -> None:
        flags = (self.copy, self.with_mean, self.with_std)
        # Else it would take a third of a small fit to find that bools are bools.
        if not all(type(flag) is bool for flag in flags) or self._parameter_constraints is not _CONSTRAINTS:
            super()._validate_params()
        axis_of(self)
        if self.correction is not None:
            checked_real("correction", self.correction, 0, LARGEST)
        self._checked_clip()

    def _checked_clip(self) -> float | None:
        return None if self.clip is None else checked_real("clip", self.clip, 0, LARGEST)

    def _map(self, X: Any, copy: bool | None, out: Array | None, inverse: bool = False, checked: bool = False) -> Any:
        if "n_samples_seen_" not in self.__dict__:
            check_is_fitted(self)
        copy = self.copy if copy is None else copy
        clip = None if inverse else self._checked_clip()  # which may have been set since the fit
        used = {"mean": self.mean_} if self.with_mean else {}
        used |= {"scale": self.scale_} if self.with_std else {}
        x = read(self, X, inverse=inverse, writable=not copy)
        axis = axis_of(self)
        shape = () if x is None else feature_shape(x, axis)
        if x is None or not all(isinstance(value, np.ndarray) and value.shape == shape for value in used.values()):
            if out is not None:
                raise ValueError(f"out must be None where X is left to scikit-learn, got X of type {type(X).__name__}")
            base: Any = super()
            return base.inverse_transform(X, copy) if inverse else clipped_foreign(base.transform(X, copy), clip)
        if out is None and x.dtype.kind == "f" and x.flags.writeable and (not copy or (x is not X and is_own(x, X))):
            out = x
        name = "" if inverse else "X"
        # Into memory of its own y can be written while x is looked through; other memory must stay as it is.
        looked = checked or get_config()["assume_finite"]
        if not looked and out is not None:
            refuse_infinity(x, name)
            looked = True
        try:
            return affine(x, axis, shape, inverse=inverse, out=out, refuse_infinity=not looked, clip=clip, **used)
        except ValueError:
            refuse_infinity(x, name)  # in scikit-learn's words
            raise

    def _reset(self) -> None:
        super()._reset()
        self.__dict__.pop("_published", None)

    def _part(self, x: Array, weights: Array | None) -> Moments:
        if not (self.with_mean or self.with_std):
            weights = None  # as in scikit-learn, which counts samples then
        part = Moments(nan="omit").update(x, axis=axis_of(self), weights=weights)
        # Infinity makes a mean NaN, unless it has so small a weight that nobody looked.
        if np.isnan(part.mean).any() or (weights is not None and weights.min() < 1e-20 * weights.max()):
            refuse_infinity(x)
        return part

    def _knows_negative(self, weights: Array | None, first: bool) -> bool:
        """Whether the weights or the statistics so far are negative, which is for scikit-learn's code alone."""
        return (weights is not None and bool(weights.min() < 0)) or (not first and negative(_attributes_of(self)))

    def _publish(self, moments: Moments, count_dtype: Any = None) -> None:
        if count_dtype is None:
            count_dtype = _count_dtype() if self.with_mean or self.with_std else np.int64
        shown = attributes(moments, self.with_mean, self.with_std, self.correction or 0, count_dtype)
        self._published = moments, shown  # a caller may set others
        for name, value in shown._asdict().items():
            setattr(self, name, value.copy() if isinstance(value, np.ndarray) else value)

    def _seen_by(self, other: Any) -> Moments:
        if isinstance(other, Moments):
            return other.copy()
        if not isinstance(other, Base):
            raise TypeError(f"other must be a StandardScaler or Moments, got {type(other).__name__}")
        check_is_fitted(other)
        shown = _attributes_of(other)
        if (self.with_std and shown.var_ is None) or (self.with_mean and shown.mean_ is None):
            raise ValueError("other must have the mean_ and var_ that this scaler uses, got None")
        if isinstance(other, StandardScaler):
            return other._moments()
        return moments_behind(shown, (other.n_features_in_,), 0)

    def _leave_to_base(self: Scaler, X: Any, y: Any, sample_weight: Any) -> Scaler:
        """Fit by scikit-learn's own code: sparse matrices, arrays of other libraries, negative weights."""
        if self.correction and sample_weight is not None and np.less(sample_weight, 0).any():
            raise ValueError("sample_weight must not be negative where correction is given")
        foreign = get_config()["array_api_dispatch"] and not isinstance(X, np.ndarray)
        if self.correction and foreign and hasattr(X, "__array_namespace__"):
            raise TypeError(f"X must be a NumPy array where correction is given, got {type(X).__module__}'s")
        before = vars(self).copy()
        try:
            if self.correction and before.get("var_") is not None:
                self.var_ = self._moments().var()
            super().partial_fit(X, y, sample_weight)
            self.__dict__.pop("_published", None)
            if self.correction and self.var_ is not None:
                moments = moments_behind(_attributes_of(self), self.mean_.shape, 0)
                self._publish(moments, np.asarray(self.n_samples_seen_).dtype)
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise
        return self

    def _moments(self) -> Moments:
        check_is_fitted(self)
        shown = _attributes_of(self)
        moments, published = self.__dict__.get("_published", (None, None))
        if isinstance(moments, Moments) and same(published, shown):
            return moments.copy()
        return moments_behind(shown, (self.n_features_in_,), self.correction or 0)

    def _grown(self, part: Moments) -> Moments:
        """Return what was seen so far and a part of X, which is in the same units, as what `transform` takes is."""
        moments = self._moments()
        told = part._seen.provenance._replace(scale=moments._seen.provenance.scale)
        part._seen = part._seen._replace(provenance=told)
        return moments.merge(part)

    def _check_units(self, X: Any) -> None:
        """Raise ValueError for integers where `merge` took in statistics of values that were divided by a scale."""
        moments, _ = self.__dict__.get("_published", (None, None))
        if moments is not None and moments._seen.provenance.scale is not None:
            check_units(np.empty(0, X.dtype) if issparse(X) else X, self._moments()._seen.provenance.scale, "X")


def _named(moments: Moments, names: tuple[str, ...] | None) -> Moments:
    """Return a copy of statistics with these names of features."""
    return Moments.from_dict(moments.to_dict() | {"names": names})


def _attributes_of(scaler: Any) -> Attributes:
    return Attributes(scaler.n_samples_seen_, scaler.mean_, scaler.var_, scaler.scale_)


@cache
def _count_dtype() -> np.dtype[Any]:
    """Return the type in which the scikit-learn that is installed counts samples; it has changed."""
    return np.asarray(Base().fit([[0.0], [1.0]]).n_samples_seen_).dtype
