"""What the functions return: named tuples of arrays, and the statistics that follow from them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class TrainResult(NamedTuple):
    """Result of `batch_norm_train`.

    Attributes
    ----------
    y : ndarray
        The normalized array, of x's shape.
    mean, var, invstd : ndarray of float64
        Mean, biased variance and ``1 / sqrt(var + eps)`` of each channel.
    count : int or ndarray of float64
        Number of values per channel; where they differ in how much they count, the sum of that for each channel.
    """

    y: NDArray[Any]
    mean: NDArray[np.float64]
    var: NDArray[np.float64]
    invstd: NDArray[np.float64]
    count: int | NDArray[np.float64]  # type: ignore[assignment]  # shadows tuple.count, as meant


class Gradients(NamedTuple):
    """Result of `batch_norm_backward`.

    Attributes
    ----------
    dx : ndarray
        Gradient with respect to x, of x's shape and dy's dtype.
    dweight, dbias : ndarray of float64
        Gradients with respect to weight (gamma) and bias (beta), one value per channel.
    """

    dx: NDArray[Any]
    dweight: NDArray[np.float64]
    dbias: NDArray[np.float64]


class ResidualGradients(NamedTuple):
    """Result of `batch_norm_backward` where the forward pass added a residual.

    Attributes
    ----------
    dx, dweight, dbias : ndarray
        As in `Gradients`.
    dresidual : ndarray
        Gradient with respect to the residual, of dy's dtype and shape; dy itself where there was no activation.
    """

    dx: NDArray[Any]
    dweight: NDArray[np.float64]
    dbias: NDArray[np.float64]
    dresidual: NDArray[Any]


class Moments(NamedTuple):
    """Count, mean and centred sum of squares of each channel: the result of `moments`.

    Attributes
    ----------
    count : int or ndarray of float64
        Number of values per channel; where they differ in how much they count, the sum of that for each channel.
    mean : ndarray of float64
        Mean of each channel; NaN where ``count`` is 0.
    m2 : ndarray of float64
        ``sum((x - mean)**2)`` of each channel, each value as much as it counts.

    Examples
    --------
    >>> import numpy as np, fastbn
    >>> m = fastbn.moments(np.array([[1.0, 5.0], [3.0, 5.0]]))
    >>> m.var(), m.std(ddof=1)
    (array([1., 0.]), array([1.41421356, 0.        ]))
    """

    count: int | NDArray[np.float64]  # type: ignore[assignment]  # shadows tuple.count, as meant
    mean: NDArray[np.float64]
    m2: NDArray[np.float64]

    def var(self, ddof: float = 0) -> NDArray[np.float64]:
        """Return the variance, ``m2 / (count - ddof)``.

        Parameters
        ----------
        ddof : float, default 0
            0 for the biased variance, which normalizes; 1 for the unbiased one.

        Returns
        -------
        ndarray of float64
            One value per channel; NaN where ``count - ddof`` is not positive.
        """
        freedom = np.asarray(self.count - ddof, np.float64)
        return np.asarray(self.m2 / np.where(freedom > 0, freedom, np.nan))

    def std(self, ddof: float = 0) -> NDArray[np.float64]:
        """Return the standard deviation, the square root of `var`.

        Parameters
        ----------
        ddof : float, default 0
            As for `var`.

        Returns
        -------
        ndarray of float64
            One value per channel; NaN where ``count - ddof`` is not positive.
        """
        return np.asarray(np.sqrt(self.var(ddof)))
