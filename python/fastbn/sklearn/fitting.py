"""The half of `StandardScaler` that learns: `partial_fit` and `merge`, and the attributes that follow from Moments."""

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
from sklearn.utils.validation import check_is_fitted

from fastbn._moments.moments import Moments
from fastbn._moments.provenance import check_units, numbered
from fastbn._scaling import Attributes, attributes, moments_behind, negative, same
from fastbn._validation import LARGEST, checked_real
from fastbn.sklearn.tables import axis_of, read, refuse_infinity, remember, weights_of

Array = npt.NDArray[Any]
Scaler = TypeVar("Scaler", bound="LearningScaler")

_CONSTRAINTS = Base._parameter_constraints
_BEYOND = {"axis", "clip", "correction"}


class LearningScaler(Base):  # type: ignore[misc]  # of no known type
    """scikit-learn's scaler, fitted by fastbn's moments."""

    axis: int | tuple[int, ...] | None
    correction: float | None
    clip: float | None = None  # pickles of earlier versions have none

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
        self._publish(part if first else self._moments().merge(part), None if weights is None else np.float64)
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
            If `other` is neither, is not fitted, or has other features.

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

    @property
    def moments_(self) -> Moments:
        """Count, mean and centred sum of squares behind the attributes, with the features' names; a copy."""
        moments, names = self._moments(), getattr(self, "feature_names_in_", None)
        return moments if names is None else _named(moments, tuple(map(str, names)))

    def _moments(self) -> Moments:
        check_is_fitted(self)
        shown = _attributes_of(self)
        moments, published = self.__dict__.get("_kept", (None, None))
        if isinstance(moments, Moments) and same(published, shown):
            return moments.copy()
        return moments_behind(shown, (self.n_features_in_,), self.correction or 0)

    def _check_units(self, X: Any) -> None:
        """Raise ValueError for integers where `merge` took in statistics of values that were divided by a scale."""
        moments, _ = self.__dict__.get("_kept", (None, None))
        if moments is not None and moments._seen.provenance.scale is not None:
            check_units(np.empty(0, X.dtype) if issparse(X) else X, self._moments()._seen.provenance.scale, "X")

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

    def __getstate__(self) -> Any:
        """Hold the statistics as plain arrays, so that a file names no class of fastbn's but this one."""
        state = super().__getstate__()
        if "_kept" in state:
            moments, shown = state["_kept"]
            state = state | {"_kept": (moments.to_dict(), shown._asdict())}
        return state

    def __setstate__(self, state: Any) -> None:
        """Take what `__getstate__` gave, or gave in earlier versions, where statistics were as they are here."""
        moments, shown = state.get("_kept", (None, None))
        if isinstance(moments, dict):
            state = state | {"_kept": (Moments.from_dict(moments), Attributes(**shown))}
        super().__setstate__(state)

    def _reset(self) -> None:
        super()._reset()
        self.__dict__.pop("_kept", None)

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

    def _publish(self, moments: Moments, counter: Any = None) -> None:
        if counter is None:
            counter = _counter() if self.with_mean or self.with_std else np.int64
        shown = attributes(moments, self.with_mean, self.with_std, self.correction or 0, counter)
        self._kept = moments, shown  # a caller may set others
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
        return (
            other._moments() if isinstance(other, LearningScaler) else moments_behind(shown, (other.n_features_in_,), 0)
        )

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
            self.__dict__.pop("_kept", None)
            if self.correction and self.var_ is not None:
                moments = moments_behind(_attributes_of(self), self.mean_.shape, 0)
                self._publish(moments, np.asarray(self.n_samples_seen_).dtype)
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise
        return self


def _named(moments: Moments, names: tuple[str, ...] | None) -> Moments:
    """Return a copy of statistics with these names of features."""
    copy = moments.copy()
    copy._seen = copy._seen._replace(provenance=copy._seen.provenance._replace(names=names))
    return copy


def _attributes_of(scaler: Any) -> Attributes:
    return Attributes(scaler.n_samples_seen_, scaler.mean_, scaler.var_, scaler.scale_)


@cache
def _counter() -> np.dtype[Any]:
    """Return the type in which the scikit-learn that is installed counts samples; it has changed."""
    return np.asarray(Base().fit([[0.0], [1.0]]).n_samples_seen_).dtype
