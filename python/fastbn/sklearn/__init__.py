"""`StandardScaler`: scikit-learn's, with fastbn's passes over dense data. Knows no kernel.

What is not arithmetic on dense arrays is scikit-learn's own: validation, names, sparse matrices, containers, metadata.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

try:
    from sklearn import get_config
    from sklearn.utils.metadata_routing import UNUSED
    from sklearn.utils.validation import check_is_fitted
except ImportError as error:
    raise ImportError('fastbn.sklearn needs scikit-learn: pip install "fastbn[sklearn]"') from error

from fastbn._scaling import affine
from fastbn.sklearn.fitting import LearningScaler
from fastbn.sklearn.onnx import register_if_imported, register_with_skl2onnx
from fastbn.sklearn.tables import axis_of, clipped_foreign, features_of, is_own, read, refuse_infinity, takes_sparse

__all__ = ["StandardScaler", "register_with_skl2onnx"]

Array = npt.NDArray[Any]

_STEPS = ("fit", "partial_fit", "transform")


class StandardScaler(LearningScaler):
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

    def __sklearn_tags__(self) -> Any:
        """Return what scikit-learn's checks and meta-estimators ask for."""
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = self.axis is not None
        tags.input_tags.sparse &= takes_sparse(self)
        tags.array_api_support &= not self.correction
        return tags

    def _map(self, X: Any, copy: bool | None, out: Array | None, inverse: bool = False, checked: bool = False) -> Any:
        if "n_samples_seen_" not in self.__dict__:
            check_is_fitted(self)
        copy = self.copy if copy is None else copy
        clip = None if inverse else self._checked_clip()  # which may have been set since the fit
        used = {"mean": self.mean_} if self.with_mean else {}
        used |= {"scale": self.scale_} if self.with_std else {}
        x = read(self, X, inverse=inverse, writable=not copy)
        axis = axis_of(self)
        shape = () if x is None else features_of(x, axis)
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


register_if_imported()
