"""What the functions return: named tuples of arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastbn import _pickles


class TrainResult(NamedTuple):
    """Result of `batch_norm_train`.

    Attributes
    ----------
    y : ndarray
        The normalized array, of x's shape.
    mean, var, invstd : ndarray of float64
        Mean, biased variance and ``1 / sqrt(var + eps)`` of each channel.
    count : int or ndarray of float64
        Number of values per channel; with a mask or weights, the sum of the weights of each channel.

    Examples
    --------
    >>> import fastbn
    >>> y, mean, var, invstd, count = fastbn.batch_norm_train([[1.0], [3.0]], eps=0.0)
    >>> mean, var, count
    (array([2.]), array([1.]), 2)
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

    Examples
    --------
    >>> import fastbn
    >>> fastbn.batch_norm_backward([[1.0], [0.0]], [[1.0], [3.0]], mean=[2.0], invstd=[1.0])
    Gradients(dx=array([[0.],
           [0.]]), dweight=array([-1.]), dbias=array([1.]))
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
        Gradient with respect to the residual, of dy's dtype and shape; dy itself where there was no activation (a copy
        of it where dx was written over it).

    Examples
    --------
    >>> import fastbn
    >>> x, dy, residual = [[1.0], [3.0]], [[1.0], [1.0]], [[0.0], [0.0]]
    >>> found = fastbn.batch_norm_backward(
    ...     dy, x, mean=[2.0], invstd=[1.0], residual=residual, activation="relu"
    ... )
    >>> found.dresidual  # the first row is one that the ReLU cut
    array([[0.],
           [1.]])
    """

    dx: NDArray[Any]
    dweight: NDArray[np.float64]
    dbias: NDArray[np.float64]
    dresidual: NDArray[Any]


if not TYPE_CHECKING:  # type checkers would take it to mean that every name exists

    def __getattr__(name: str) -> Any:
        """Find the class that pickles of version 0.1.0 look for here."""
        if name == "Moments":
            return _pickles.FirstMoments
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
