"""The layer: what users see of it, and forward and backward put together. Leaves the modes to `modes`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fastbn import _core
from fastbn.checks import converted
from fastbn.masks import where_within
from fastbn.modes import LayerModes
from fastbn.state import Array


class BatchNorm(LayerModes):
    """Batch normalization that remembers: parameters, running statistics and what backward needs.

    In training mode each call normalizes by the batch's own mean and (biased) variance and remembers them::

        running <- (1 - momentum) * running + momentum * statistic

    with the variance times N / (N - correction), N values per channel (or the sum of their weights). In evaluation
    mode, and while frozen, the running statistics normalize. Names, rules and defaults are those of
    ``torch.nn.BatchNorm1d/2d/3d``; the algorithm is Ioffe & Szegedy (2015), Algorithms 1 and 2.

    Parameters
    ----------
    num_features : int or tuple of int, optional
        Size of the feature axis; where ``axis`` is a tuple, the sizes of those axes in the order in which x has them.
        None (default): decided by the first batch, by `load_state_dict` or by `init_identity`.
    axis : int or tuple of int, default 1
        The axes that keep their own statistics, as in `fastbn.batch_norm`; all others are reduced.
    eps : float, default 1e-5
        Added to the variance; finite, >= 0.
    momentum : float, None or callable, default 0.1
        Weight of the newest batch in the running statistics, in [0, 1]. None: their plain average over all batches,
        that is ``1 / num_batches_tracked``. A function is called with the number of batches tracked so far, 0 for the
        first, and returns the weight. A layer with one cannot be saved to a file, and is pickled if the function is.
    affine : bool, default True
        Whether the layer has a weight (gamma, starts at 1) and a bias (beta, starts at 0).
    track_running_stats : bool, default True
        Whether there are running statistics. Without them the batch's own are used in evaluation mode too.
    correction : float, default 1
        1 remembers the unbiased variance (PyTorch), 0 the biased one (Keras, ONNX, Flax).
    activation : {None, "relu", "leaky_relu"}, default None
        What is applied last: ``y = act(weight * xhat + bias + residual)``, with ``relu(z) = 0`` and
        ``leaky_relu(z) = negative_slope * z`` where z <= 0, both z elsewhere.
    negative_slope : float, default 0.01
        Finite; used by "leaky_relu" alone.
    on_nonfinite : {"propagate", "skip"}, default "propagate"
        What a batch does of which a channel's mean or variance is NaN or infinite: its statistics are remembered like
        any other's, or the running statistics of all channels and the counter stay as they are. y is computed either
        way.
    on_single : {"error", "biased"}, default "error"
        What a batch of one value per channel does in training: it is a ValueError, or it is normalized (xhat is 0) and
        its biased variance, 0, remembered; and so is that of channels of which no more than ``correction`` counts.
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
    frozen, frozen_parameters : bool
        Whether running statistics, and parameters too, are frozen; set by `freeze` and `unfreeze`.

    Notes
    -----
    A call keeps a reference to x, and to where, weights and residual, in all modes, until the next one; pickling and
    copying drop them. `backward` reads these and the parameters (where the running statistics normalized: those too) as
    they are then, so change none of them in between. Inference that keeps nothing is `fastbn.normalize` with the
    layer's arrays.

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

    def __call__(
        self,
        x: npt.ArrayLike,
        *,
        where: npt.ArrayLike | None = None,
        weights: npt.ArrayLike | None = None,
        lengths: npt.ArrayLike | None = None,
        residual: npt.ArrayLike | None = None,
        out: Array | None = None,
    ) -> Array:
        """Normalize a batch; in training mode update the running statistics too.

        With ``p = weights * where`` and ``P = sum(p)`` over a channel, its statistics are ``mean = sum(p * x) / P`` and
        ``var = sum(p * (x - mean)**2) / P``. What does not count (p = 0) has no influence on them, be it NaN; it is
        normalized all the same.

        Parameters
        ----------
        x : array_like, at least 2-D
            The batch: float32, float64, float16, bfloat16 or integers of up to 32 bits (int8, uint8, int16, uint16,
            int32). The layer keeps a reference to it for `backward`. An empty batch gives an empty result and leaves
            the running statistics alone.
        where : array_like of bool, optional
            Which entries count; broadcastable to x's shape.
        weights : array_like, optional
            How often each entry counts, finite and >= 0, fractions too; broadcastable to x's shape.
        lengths : array_like of int, optional
            How many positions of each sequence count, from the first: of shape ``(x.shape[0],)``, from 0 to x's size
            along its one reduced axis beside axis 0. With ``where`` both must hold.
        residual : array_like, optional
            Added before the activation; of x's shape and y's dtype.
        out : ndarray, optional
            Where y goes: x itself or residual itself, or an array of x's shape that shares no memory with any argument.
            Its dtype, of the four floating ones, is y's. `backward` needs x, and with an activation the residual, as
            they were: it is refused if they were written over.

        Returns
        -------
        ndarray
            y, of x's shape, memory order and dtype (float32 for integers); ``out`` where that was given.

        Raises
        ------
        TypeError, ValueError
            Where an argument is not what `fastbn.batch_norm` accepts, x does not have ``num_features`` channels or, in
            training mode, has one value per channel (see ``on_single``), or ``lengths`` is given for an x that is not a
            batch of sequences. Where the running statistics normalize, where, weights and lengths are checked and
            of no influence.
        RuntimeError
            In evaluation mode or frozen, if the features are still undecided.

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

        Two sequences of one feature, the second padded by a 0 that does not count:

        >>> layer = BatchNorm(axis=2, eps=0.0)
        >>> layer(np.array([[[1.0], [3.0]], [[2.0], [0.0]]]), lengths=[2, 1])[0].ravel()
        array([-1.22474487,  1.22474487])
        """
        batch = converted("x", x)
        self._check_features(batch)
        if lengths is not None:
            where = where_within(lengths, batch.shape, self.axis, where)
        added = None if residual is None else converted("residual", residual)
        if self.track_running_stats and (self.frozen or not self.training):
            y = self._by_running_statistics(batch, where, weights, added, out)
        elif self.num_features is None:
            y = self._by_first_batch(batch, where, weights, added, out)
        else:
            y = self._by_batch(batch, where, weights, added, out)
        if out is not None:
            read = (batch,) if added is None or self.activation is None else (batch, added)
            if any(np.shares_memory(out, array) for array in read):
                self._last = None
        return y

    def backward(self, dy: npt.ArrayLike) -> Array | Any:
        """Return the gradient with respect to x of the last call, and fill ``grad_weight`` and ``grad_bias``.

        Parameters
        ----------
        dy : array_like
            Gradient with respect to y, of y's shape and dtype.

        Returns
        -------
        ndarray, or a tuple (dx, dresidual) if the last call had a residual
            dx, of x's shape and memory order and dy's dtype. It flows through mean and variance where the last call
            used the batch's own (training mode, or ``track_running_stats=False``), else it is ``weight * invstd * dz``,
            with ``dz = dy`` times the slope of the activation there. dresidual is dz: dy itself without an activation.

        Raises
        ------
        TypeError, ValueError
            Where dy has not y's dtype or shape.
        RuntimeError
            If nothing has been called yet, or not since the parameters were loaded or initialized, or if the last call
            wrote y over what is needed here.

        Notes
        -----
        What counted, the activation and which statistics normalized are those of the last call, whatever the layer's
        mode is now. The parameters' gradients are overwritten, not accumulated. See `fastbn.batch_norm_backward` for
        the formulas.

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
            raise RuntimeError(
                "backward needs a call of the layer on x before it, which out= has overwritten nothing of, got none"
            )
        x, dtype, used, where, weights, residual, activation, slope, single, learns = self._last
        grad = converted("dy", dy)
        if grad.dtype != dtype:
            raise TypeError(f"dy must have y's dtype {dtype}, got {grad.dtype}")
        mean, invstd, count = used or (self._require(self.running_mean), self._running_invstd(), None)
        dx, dweight, dbias, *dresidual = _core.batch_norm_backward(
            grad,
            x,
            self.weight,
            self.bias,
            mean,
            invstd,
            count,
            self.axis,
            used is not None,
            None,
            where,
            weights,
            residual,
            activation,
            slope,
            single,
        )
        if self.affine and learns:
            with np.errstate(all="ignore"):
                self._require(self.grad_weight)[...] = dweight
                self._require(self.grad_bias)[...] = dbias
        return (dx, *dresidual) if dresidual else dx
