"""The operation on arrays, without state: forward, backward, and the statistics alone.

For every channel c, with N values in the batch (Ioffe & Szegedy 2015, Algorithm 1)::

    mean = sum(x) / N        var = sum((x - mean)**2) / N        invstd = 1 / sqrt(var + eps)
    xhat = (x - mean) * invstd                                   y = weight * xhat + bias

With a mask or weights, p = weights * where and P = sum(p)::

    mean = sum(p * x) / P    var = sum(p * (x - mean)**2) / P

With a residual and an activation: ``y = activation(weight * xhat + bias + residual)``.

Data are float32, float64, float16, bfloat16 (of ml_dtypes), integers of 8 to 64 bits, or bool. Results have the data's
type, and are float32 for integers, float64 for those of 64 bits, unless `dtype` or `out` choose another of the four
floating-point types. Statistics are taken in float64 whatever the types are; y and dx are computed in float32, or in
float64 if x or dy is float64 or has integers of 32 bits or more or the result is float64, and rounded once, to nearest
even.

Functions without a body are declared and documented here, and are functions of the extension: a function of Python's
between would take as long as a small call's arithmetic.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastbn import _core
from fastbn._moments.moments import Moments
from fastbn._moments.provenance import provenance_of
from fastbn._moments.statistics import measured
from fastbn._validation import Axis
from fastbn.results import Gradients, ResidualGradients, TrainResult

Activation: TypeAlias = Literal["relu", "leaky_relu"] | None

_core.register_types((TrainResult, Gradients, ResidualGradients, Moments))


@_core.declared
def batch_norm(
    x: ArrayLike,
    running_mean: ArrayLike | None = None,
    running_var: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    axis: Axis = 1,
    correction: float = 1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    residual: ArrayLike | None = None,
    activation: Activation = None,
    negative_slope: float = 0.01,
    dtype: DTypeLike | None = None,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Batch normalization, with arguments in the order and meaning of ``torch.nn.functional.batch_norm``.

    In training, x is normalized by its own mean and biased variance, and running statistics, where given, are
    updated in place::

        running_mean <- (1 - momentum) * running_mean + momentum * mean
        running_var  <- (1 - momentum) * running_var  + momentum * var * N / (N - correction)

    Otherwise x is normalized by the running statistics (Ioffe & Szegedy 2015, Algorithm 2).

    Parameters
    ----------
    x : array_like
        Two dimensions or more, of a floating-point type, integers of 8 to 64 bits or bool, in any memory layout.
    running_mean, running_var : array_like, optional
        Of the feature shape (see `axis`), both or neither. Required unless `training`; in training, writable
        arrays of a floating-point type. `running_var` must not be negative where it is used.
    weight, bias : array_like, optional
        Gamma and beta, of the feature shape; 1 and 0 where not given.
    training : bool, default False
        Whether x's own statistics are used.
    momentum : float, default 0.1
        Weight of the batch's statistics in the running ones, from 0 to 1.
    eps : float, default 1e-5
        Added to the variance; not negative. Where ``var + eps`` is 0, xhat is 0.
    axis : int or tuple of ints, default 1
        The feature axis or axes, which keep statistics of their own; all others are reduced. The feature shape is
        ``(x.shape[axis],)`` for an integer, else the shape of x along `axis` in ascending order.
    correction : float, default 1
        Subtracted from N in the divisor of the remembered variance: 1 remembers the unbiased variance (PyTorch), 0
        the biased one (Keras, ONNX, Flax).
    where : array_like of bool, optional
        Broadcastable to x. In training the statistics are taken of the values where it is True; the others have no
        influence on them, even if they are NaN, and their y is computed all the same. Broadcast masks are not expanded
        in memory.
    weights : array_like of real numbers, optional
        Broadcastable to x; finite and not negative. Frequency weights: a sample of weight 3 enters the statistics as if
        it had been seen three times. With P the sum of a channel's weights, `running_var` therefore takes
        P / (P - correction).
    residual : array_like, optional
        Of x's shape and y's dtype, added before the activation.
    activation : {"relu", "leaky_relu"}, optional
        What y is of the affine map's result z: z where it is positive; elsewhere 0, or ``negative_slope * z``. NaN
        stays NaN.
    negative_slope : float, default 0.01
        Of "leaky_relu".
    dtype : dtype, optional
        Of y: float32, float64, float16 or bfloat16.
    out : ndarray, optional
        Where the result goes: an array of x's shape that is exactly x or `residual`, or shares no memory with any
        argument. Without `dtype`, its type is y's.

    Returns
    -------
    ndarray
        y, of x's shape and memory order; `out` where that was given.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, the rule and the value, if an argument has the wrong type, dtype, shape or value, and if
        in training there is one value per channel. `out` and the running statistics are then untouched.

    See Also
    --------
    batch_norm_train : Returns the batch's statistics too, which the backward pass needs.
    BatchNorm : Keeps parameters and running statistics.

    Notes
    -----
    An empty batch gives an empty result and leaves the running statistics alone. A channel with NaN or infinity in
    it becomes NaN as a whole in training; the other channels do not notice.

    A channel whose weights sum to P = 0 has xhat = 0, and leaves its running statistics alone. So does a channel with
    P <= `correction`, since it has no unbiased variance; but if `where` and `weights` are broadcast over the channels,
    that is a ValueError where running statistics are given, unless P = 0. Weights below 1e-30 of the largest may be
    taken for 0, or lose digits. All weights equal, or all of `where` True, gives the bits of the call without.

    Examples
    --------
    >>> import numpy as np, fastbn
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]], dtype=np.float32)
    >>> running_mean, running_var = np.zeros(2), np.ones(2)
    >>> fastbn.batch_norm(x, running_mean, running_var, training=True, eps=0.0)
    array([[-1., -1.],
           [ 1.,  1.]], dtype=float32)
    >>> running_mean, running_var
    (array([0.2, 2. ]), array([ 1.1, 20.9]))
    >>> fastbn.batch_norm(x, running_mean, running_var).shape
    (2, 2)
    """


@_core.declared
def batch_norm_train(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
    axis: Axis = 1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    residual: ArrayLike | None = None,
    activation: Activation = None,
    negative_slope: float = 0.01,
    dtype: DTypeLike | None = None,
    out: NDArray[Any] | None = None,
) -> TrainResult:
    """Normalize x by its own statistics, and return these as well.

    For every channel, over its N values (Ioffe & Szegedy 2015, Algorithm 1)::

        mean = sum(x) / N        var = sum((x - mean)**2) / N        invstd = 1 / sqrt(var + eps)
        y = weight * (x - mean) * invstd + bias

    Parameters
    ----------
    x : array_like
        Two dimensions or more, of a floating-point type, integers of 8 to 64 bits or bool, in any memory layout.
    weight, bias : array_like, optional
        Gamma and beta, of the feature shape (see `batch_norm`); 1 and 0 where not given.
    eps : float, default 1e-5
        Added to the variance; not negative. Where ``var + eps`` is 0, `invstd` and xhat are 0.
    axis : int or tuple of ints, default 1
        The feature axis or axes.
    where, weights, residual, activation, negative_slope, dtype, out
        As for `batch_norm`.

    Returns
    -------
    TrainResult
        ``(y, mean, var, invstd, count)``: y of x's shape and memory order; fresh float64 statistics, of the feature
        shape; the number of values per channel, or with `where` or `weights` an array of P for each. Where P is 0, so
        are mean, var and invstd; of an empty batch they are NaN.

    Raises
    ------
    TypeError, ValueError
        As for `batch_norm`.

    Notes
    -----
    The variance of float64 data beyond about 1e154 is not representable and comes out as infinity; y and `invstd` are
    right all the same. Where ``sqrt(var + eps)`` is below 5.6e-309, a subnormal number, `invstd` is the largest
    float64, and y smaller than it should be.

    Examples
    --------
    >>> import numpy as np, fastbn
    >>> x = np.array([[1.0, 5.0], [3.0, 5.0]])
    >>> y, mean, var, invstd, count = fastbn.batch_norm_train(x, eps=0.0)
    >>> y
    array([[-1.,  0.],
           [ 1.,  0.]])
    >>> mean, var, count
    (array([2., 5.]), array([1., 0.]), 2)
    """


@_core.declared
def batch_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    mean: ArrayLike,
    invstd: ArrayLike,
    count: ArrayLike | None = None,
    axis: Axis = 1,
    training: bool = True,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    residual: ArrayLike | None = None,
    activation: Activation = None,
    negative_slope: float = 0.01,
    out: NDArray[Any] | None = None,
) -> Gradients | ResidualGradients:
    """Gradients of batch normalization.

    With ``xhat = (x - mean) * invstd`` (Ioffe & Szegedy 2015, section 3)::

        dbias = sum(dy)        dweight = sum(dy * xhat)
        training:  dx = weight * invstd * (dy - dbias / N - xhat * dweight / N)
        frozen:    dx = weight * invstd * dy

    With an activation, dz takes the place of dy: ``dz = dy`` where z > 0, and 0 or ``negative_slope * dy`` elsewhere.
    With a mask or weights, p / P takes the place of 1 / N, for each value its own; the sums still go over all values,
    since each has its y.

    Parameters
    ----------
    dy : array_like
        Gradient with respect to y, of x's shape, in any memory layout; usually of y's type.
    x : array_like
        What the forward pass was given.
    weight, bias : array_like, optional
        Gamma and beta, of the feature shape (see `batch_norm`). Only an activation makes beta matter.
    mean, invstd : array_like
        What the forward pass normalized by: as `batch_norm_train` returns them or, for ``training=False``,
        ``running_mean`` and ``1 / sqrt(running_var + eps)``. `invstd` must not be negative.
    count : array_like of real numbers, optional
        What the forward pass returned with `where` or `weights`, of the feature shape: saves the time of adding the
        weights again. Ignored without either.
    axis : int or tuple of ints, default 1
        The feature axis or axes.
    training : bool, default True
        Whether mean and invstd are functions of x, through which the gradient flows, or constants.
    where, weights, residual, activation, negative_slope
        What the forward pass was given. The sign of z is computed again from x, mean and invstd (and the residual), by
        the same arithmetic.
    out : ndarray, optional
        Where dx goes: exactly dy, x or `residual`, or an array of x's shape and dy's dtype that shares no memory with
        any argument.

    Returns
    -------
    Gradients
        ``(dx, dweight, dbias)``: dx of dy's dtype, and of x's shape and memory order; fresh float64 arrays of the
        feature shape, also where no `weight` was given.
    ResidualGradients
        With a residual: ``(dx, dweight, dbias, dresidual)``; dresidual is dz, or where there was no activation dy
        itself (a copy of it where `out` is dy).

    Raises
    ------
    TypeError, ValueError
        As for `batch_norm`.

    Notes
    -----
    In float64 the forward pass used a mean of more digits than `mean` has. Where z is smaller than
    ``1e-16 * abs(mean) * weight * invstd``, the activation's gradient may be that of the other side of 0.

    Examples
    --------
    >>> import numpy as np, fastbn
    >>> x = np.array([[1.0], [2.0], [6.0]])
    >>> forward = fastbn.batch_norm_train(x)
    >>> dy = np.array([[1.0], [0.0], [0.0]])
    >>> dx, dweight, dbias = fastbn.batch_norm_backward(dy, x, mean=forward.mean, invstd=forward.invstd)
    >>> dbias
    array([1.])
    >>> bool(abs(dx.sum()) < 1e-15)  # adding a constant to x changes nothing
    True
    """


def moments(
    x: ArrayLike,
    *,
    axis: Axis = 1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    nan: Literal["propagate", "omit"] = "propagate",
    extremes: bool = False,
) -> Moments:
    """Count, mean and centred sum of squares of each channel, in one pass over memory.

    Chunks of x are summed about a value of their own and merged by the formula of Chan, Golub & LeVeque 1983
    (eq. 1.5), in float64 whatever x is: the relative error of the variance does not grow with mean / std.

    Parameters
    ----------
    x : array_like
        Two dimensions or more, of a floating-point type, integers of 8 to 64 bits or bool, in any memory layout.
    axis : int or tuple of ints, default 1
        The feature axis or axes, which are kept, unlike numpy.mean's axis (see `batch_norm`).
    where, weights : array_like, optional
        Which values the statistics are taken of, and with what weight: as for `batch_norm`.
    nan : {"propagate", "omit"}, default "propagate"
        What NaN entries do: the channel's statistics become NaN, or the entries are left out.
    extremes : bool, default False
        Whether the least and the largest value are looked for too, in the same reading of x.

    Returns
    -------
    Moments
        count, mean and m2, with methods ``var(correction)`` and ``std(correction)``; it can grow and be merged with
        others. With `where` or `weights`, count is an array of P for each channel and m2 is
        ``sum(p * (x - mean)**2)``. It has the names of a data frame's columns.

    Raises
    ------
    TypeError, ValueError
        As for `batch_norm`.

    Examples
    --------
    >>> import numpy as np, fastbn
    >>> x = np.float32(10_000) + np.array([[-1, 0], [0, 2], [1, 1]], dtype=np.float32)
    >>> m = fastbn.moments(x)
    >>> m.count, m.mean, m.m2
    (3, array([10000., 10001.]), array([2., 2.]))
    >>> fastbn.moments(x, where=[[True], [True], [False]]).mean
    array([ 9999.5, 10001. ])
    >>> fastbn.moments([[1.0, float("nan")], [3.0, 5.0]], nan="omit").mean
    array([2., 5.])
    """
    if not isinstance(nan, str) or nan != "propagate" or extremes is not False:
        return Moments(nan=nan, extremes=extremes).update(x, axis=axis, where=where, weights=weights)
    return Moments._of(*measured(x, axis, where, weights), provenance_of(x, axis))


@_core.declared
def normalize(
    x: ArrayLike,
    mean: ArrayLike | Moments,
    var: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
    axis: Axis = 1,
    out_axis: Axis | None = None,
    residual: ArrayLike | None = None,
    activation: Activation = None,
    negative_slope: float = 0.01,
    dtype: DTypeLike | None = None,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Normalize x by statistics that are given: ``weight * (x - mean) / sqrt(var + eps) + bias``.

    This is batch normalization's inference (Ioffe & Szegedy 2015, Algorithm 2) and, without `weight` and `bias`,
    standardization.

    Parameters
    ----------
    x : array_like
        Two dimensions or more, of a floating-point type, integers of 8 to 64 bits or bool, in any memory layout.
    mean, var : array_like
        Of the feature shape (see `batch_norm`); `var` must not be negative. Instead of both, `Moments`: their mean and
        biased variance. Moments know the mean to more digits than an array holds: where it is large beside the
        deviations, y of float64 and of 64-bit integers is closer. If they have the names of columns, a data frame x
        must have the same columns in the same order.
        x must be in the units of the statistics: those that `fastbn.stream` took with ``scale=255`` are of x / 255.
    weight, bias : array_like, optional
        Gamma and beta, of the feature shape; 1 and 0 where not given.
    eps : float, default 1e-5
        Added to the variance; not negative. Where ``var + eps`` is 0, y is `bias`.
    axis : int or tuple of ints, default 1
        The feature axis or axes, which have statistics of their own, unlike numpy.mean's axis.
    out_axis : int or tuple of ints, optional
        Where the feature axes stand in the result: y is ``numpy.moveaxis(y, axis, out_axis)``, a fresh C-contiguous
        array, to the same bits. Where not given they stay where they are.
    residual, activation, negative_slope, dtype
        As for `batch_norm`; `residual` has x's shape, whatever `out_axis` is.
    out : ndarray, optional
        As for `batch_norm`. With `out_axis` it has the moved shape, in any memory layout, and may be x or `residual`
        only as ``numpy.moveaxis(x, axis, out_axis)``.

    Returns
    -------
    ndarray
        y, of x's shape and memory order or with its feature axes moved; `out` where that was given.

    Raises
    ------
    TypeError, ValueError
        As for `batch_norm`, and if a data frame has other columns than Moments have names, or x holds integers where
        the values that Moments have seen were divided by a scale.

    Warns
    -----
    RuntimeWarning
        If the variance of Moments does not fit float64: for a standard deviation of 1e154 or more, where y is NaN, or
        with an `eps` of 0 for one of 1e-154 or less, where y loses digits, or is `bias`.

    Examples
    --------
    Standardize new data by the statistics of old:

    >>> import numpy as np, fastbn
    >>> train = np.array([[1.0, 10.0], [3.0, 30.0]])
    >>> fastbn.normalize(np.array([[2.0, 40.0]]), fastbn.moments(train), eps=0.0)
    array([[0., 2.]])

    Images as they are read, (height, width, colour), to what networks take, (colour, height, width):

    >>> pixels = np.array([[[0, 50, 100], [200, 150, 100]]], dtype=np.uint8)
    >>> fastbn.normalize(pixels, [100, 100, 100], [2500, 2500, 2500], eps=0.0, axis=-1, out_axis=0)
    array([[[-2.,  2.]],
    <BLANKLINE>
           [[-1.,  1.]],
    <BLANKLINE>
           [[ 0.,  0.]]], dtype=float32)
    """
