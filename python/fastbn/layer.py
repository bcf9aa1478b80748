"""The layer: modes, forward, backward and running statistics. Leaves the arithmetic on x to `functional`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fastbn import _core
from fastbn.checks import Shape, checked_flag, converted
from fastbn.functional import batch_norm_backward, batch_norm_train, normalize
from fastbn.state import Array, LayerState


class BatchNorm(LayerState):
    """Batch normalization that remembers: parameters, running statistics and what backward needs.

    In training mode each call normalizes by the batch's own mean and (biased) variance and remembers them::

        running <- (1 - momentum) * running + momentum * statistic

    with the variance times N / (N - correction), N values per channel. In evaluation mode the running statistics
    normalize. Names, rules and defaults are those of ``torch.nn.BatchNorm1d/2d/3d``; the algorithm is Ioffe & Szegedy
    (2015), Algorithms 1 and 2.

    Parameters
    ----------
    num_features : int or tuple of int, optional
        Size of the feature axis; where ``axis`` is a tuple, the sizes of those axes in the order in which x has them.
        None (default): decided by the first batch, by `load_state_dict` or by `init_identity`.
    axis : int or tuple of int, default 1
        The axes that keep their own statistics, as in `fastbn.batch_norm`; all others are reduced.
    eps : float, default 1e-5
        Added to the variance; finite, >= 0.
    momentum : float or None, default 0.1
        Weight of the newest batch in the running statistics, in [0, 1]. None: their plain average over all batches,
        that is ``1 / num_batches_tracked``.
    affine : bool, default True
        Whether the layer has a weight (gamma, starts at 1) and a bias (beta, starts at 0).
    track_running_stats : bool, default True
        Whether there are running statistics. Without them the batch's own are used in evaluation mode too.
    correction : float, default 1
        1 remembers the unbiased variance (PyTorch), 0 the biased one (Keras, ONNX, Flax).
    dtype : dtype, default float64
        float32 or float64, of parameters, their gradients and running statistics; independent of x.

    Attributes
    ----------
    weight, bias : ndarray or None
        The parameters; None without ``affine`` and while the features are undecided. To set them write into them:
        ``layer.weight[...] = values``.
    grad_weight, grad_bias : ndarray or None
        Their gradients: zeros until `backward` fills them, and always the same arrays.
    running_mean, running_var : ndarray or None
        The running statistics, which start at 0 and 1; updated in place.
    num_batches_tracked : int
        Training calls that updated them.
    training : bool
        The mode, set by `train` and `eval`; a new layer is in training mode.

    Notes
    -----
    A call keeps a reference to x, in both modes, until the next one; pickling and copying drop it. `backward` reads x
    and the parameters (after a call in evaluation mode: the running statistics too) as they are then, so change none
    of them in between. Inference that keeps nothing is `fastbn.normalize` with the layer's arrays.

    ``copy.copy`` gives a layer that shares the arrays, ``copy.deepcopy`` an independent one. A call that fails changes
    nothing.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn import BatchNorm
    >>> layer = BatchNorm(2)
    >>> layer
    BatchNorm(2, axis=1, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True, correction=1, dtype='float64')
    >>> x = np.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
    >>> print(layer(x).round(3))
    [[-1.225 -1.225]
     [ 0.     0.   ]
     [ 1.225  1.225]]
    >>> print(layer.running_mean, layer.running_var, layer.num_batches_tracked)
    [0.2 2. ] [ 1.  10.9] 1
    """

    def __call__(self, x: npt.ArrayLike) -> Array:
        """Normalize a batch; in training mode update the running statistics too.

        Parameters
        ----------
        x : array_like of float32 or float64, at least 2-D
            The batch. The layer keeps a reference to it for `backward`. An empty batch gives an empty result and leaves
            the running statistics alone.

        Returns
        -------
        ndarray
            y, of x's shape, dtype and memory order.

        Raises
        ------
        TypeError, ValueError
            Where x is not what `fastbn.batch_norm` accepts, does not have ``num_features`` channels or, in training
            mode, has one value per channel.
        RuntimeError
            In evaluation mode, if the features are still undecided.

        Examples
        --------
        >>> import numpy as np
        >>> from fastbn import BatchNorm
        >>> layer = BatchNorm(momentum=1.0, eps=0.0)
        >>> layer(np.array([[1.0, 5.0], [3.0, 5.0]]))
        array([[-1.,  0.],
               [ 1.,  0.]])
        >>> layer.eval()(np.array([[2.0, 5.0]]))
        array([[0., 0.]])
        """
        batch = converted("x", x)
        self._check_features(batch)
        if self.training or not self.track_running_stats:
            return self._normalize_by_batch(batch)
        mean, var = self._require(self.running_mean), self._require(self.running_var)
        y = normalize(batch, mean, var, self.weight, self.bias, eps=self.eps, axis=self.axis)
        self._last = (batch, None)
        return y

    def backward(self, dy: npt.ArrayLike) -> Array:
        """Return the gradient with respect to x of the last call, and fill ``grad_weight`` and ``grad_bias``.

        Parameters
        ----------
        dy : array_like
            Gradient with respect to y, of x's shape and dtype.

        Returns
        -------
        ndarray
            dx, of x's shape, dtype and memory order. It flows through mean and variance where the last call used the
            batch's own (training mode, or ``track_running_stats=False``), else it is ``weight * invstd * dy``.

        Raises
        ------
        TypeError, ValueError
            Where dy has not x's dtype or shape.
        RuntimeError
            If nothing has been called yet, or not since the parameters were loaded or initialized.

        Notes
        -----
        The parameters' gradients are overwritten, not accumulated. See `fastbn.batch_norm_backward` for the formulas.

        Examples
        --------
        >>> import numpy as np
        >>> from fastbn import BatchNorm
        >>> layer = BatchNorm(1, eps=0.0)
        >>> y = layer(np.array([[1.0], [3.0]]))
        >>> dx = layer.backward(np.array([[1.0], [1.0]]))  # a shift of y that moves x nowhere
        >>> print(dx.ravel(), layer.grad_weight, layer.grad_bias)
        [0. 0.] [0.] [2.]
        """
        if self._last is None:
            raise RuntimeError("backward needs a call of the layer on x before it, got none")
        x, used = self._last
        mean, invstd = used or (self._require(self.running_mean), self._running_invstd())
        gradients = batch_norm_backward(
            dy, x, self.weight, mean=mean, invstd=invstd, axis=self.axis, training=used is not None
        )
        if self.affine:
            with np.errstate(all="ignore"):
                self._require(self.grad_weight)[...] = gradients.dweight
                self._require(self.grad_bias)[...] = gradients.dbias
        return gradients.dx

    def train(self, mode: bool = True) -> BatchNorm:
        """Switch to training mode, or with False to evaluation mode, and return the layer.

        Examples
        --------
        >>> from fastbn import BatchNorm
        >>> BatchNorm(3).eval().train().training
        True
        """
        self.training = checked_flag("mode", mode)
        return self

    def eval(self) -> BatchNorm:
        """Switch to evaluation mode, in which the running statistics normalize, and return the layer.

        Examples
        --------
        >>> from fastbn import BatchNorm
        >>> BatchNorm(3).eval().training
        False
        """
        return self.train(False)

    def init_identity(self, x: npt.ArrayLike) -> BatchNorm:
        """Set weight to sqrt(var + eps) and bias to the mean of x, and return the layer.

        In training mode the layer then gives back this x, to the rounding of ``dtype`` and of x. The running statistics
        stay as they are. ValueError without affine, or where a channel's mean or deviation is not finite in ``dtype``.

        Examples
        --------
        >>> import numpy as np
        >>> from fastbn import BatchNorm
        >>> x = np.array([[1.0, 10.0], [2.0, 20.0], [6.0, 60.0]])
        >>> bool(np.allclose(BatchNorm().init_identity(x)(x), x, rtol=1e-14))
        True
        """
        if not self.affine:
            raise ValueError(f"affine must be True for init_identity, got {self.affine}")
        batch = converted("x", x)
        self._check_features(batch)
        result = batch_norm_train(batch, eps=self.eps, axis=self.axis)
        with np.errstate(all="ignore"):
            # 1 / invstd and not sqrt(var + eps): finite also where the square in var is not (float64 at 1e200)
            weight = np.where(result.invstd == 0, 0.0, 1.0 / result.invstd).astype(self.dtype)
            bias = result.mean.astype(self.dtype)
        bad = ~(np.isfinite(weight) & np.isfinite(bias))
        if bad.any():
            got = f"{bias[bad][0]} and {weight[bad][0]} from {result.count} value(s)"
            raise ValueError(f"x must have a finite mean and deviation in {self.dtype} in every channel, got {got}")
        self.load_state_dict({"weight": weight, "bias": bias}, strict=False)
        return self

    def _check_features(self, x: Array) -> None:
        got = self._features_of(x)
        if self.num_features is not None and got is not None and got != self._shape():
            rule = f"{self.num_features} channels along axis {self.axis}"
            raise ValueError(f"x must have {rule}, got {got[0] if len(got) == 1 else got} (shape {x.shape})")

    def _features_of(self, x: Array) -> Shape | None:
        """Return x's sizes along the feature axes; None if it has no such axes, which is for the functions to say."""
        axes = (self.axis,) if isinstance(self.axis, int) else self.axis
        if not all(-x.ndim <= axis < x.ndim for axis in axes):
            return None
        return tuple(x.shape[axis] for axis in sorted(axis % x.ndim for axis in axes))

    def _normalize_by_batch(self, x: Array) -> Array:
        shape = self._features_of(x) if self.num_features is None else None
        if shape is not None:
            self._decide_features(shape)
        momentum = 1.0 / (self.num_batches_tracked + 1) if self.momentum is None else self.momentum
        try:
            y, mean, _, invstd, count = _core.batch_norm_train(
                x,
                self.weight,
                self.bias,
                self.eps,
                self.axis,
                None,
                None,
                None,
                None,
                None,
                None,
                0.01,
                self.running_mean,
                self.running_var,
                momentum,
                self.correction,
                False,
                False,
            )
        except Exception:
            if shape is not None:
                self._forget_features()
            raise
        if self.track_running_stats and count > 0:
            self.num_batches_tracked += 1
        self._last = (x, (mean, invstd))
        return y

    def _running_invstd(self) -> Array:
        shifted = self._require(self.running_var).astype(np.float64) + self.eps
        with np.errstate(divide="ignore"):
            return np.where(shifted == 0, 0.0, 1.0 / np.sqrt(shifted))
