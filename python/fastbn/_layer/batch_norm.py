"""`BatchNorm`: the layer, with its parameters, running statistics and modes."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from fastbn import _core
from fastbn._layer import synchronized
from fastbn._layer.lengths import where_within
from fastbn._layer.renorm import Renormalization, RenormLimits, checked_limits, limits_at, renormalization
from fastbn._layer.state import COUNTER, PARAMETERS, STATISTICS, IncompatibleKeys, checked_state
from fastbn._moments.moments import Moments
from fastbn._npz import check_kind, not_written, read_npz, save_npz
from fastbn._validation import (
    LARGEST,
    Momentum,
    Shape,
    checked_axis,
    checked_choice,
    checked_dtype,
    checked_features,
    checked_flag,
    checked_momentum,
    checked_real,
    converted,
    kept_axes,
)
from fastbn.functional import batch_norm_train, moments

Array: TypeAlias = npt.NDArray[Any]
L = TypeVar("L", bound="BatchNorm")

_WRITER = "BatchNorm.save"
_MODES = ("training", "frozen", "frozen_parameters")
# Options that came after version 0.1.0, with their defaults. repr and files leave out those that have the default, so
# that version 0.1.0 reads the files of layers that use none of them.
_LATER = {
    "activation": None,
    "negative_slope": 0.01,
    "on_nonfinite": "propagate",
    "on_single": "error",
    "renorm": None,
}
# repr and files leave these out where they equal `affine`.
_PARTS = ("use_weight", "use_bias")


class _LastCall:
    """What `BatchNorm.backward` needs to know of the last call.

    A call fills one of its own and gives it to the layer when it is complete, so that calls in several threads do not
    mix theirs. Its fields are set one by one: arguments of that many names would take a small call 3 to 6 % longer.
    """

    x: Array
    dtype: np.dtype[Any]  # y's
    where: Any = None  # this and weights: None too after a call that the running statistics normalized
    weights: Any = None
    residual: Array | None
    mean: Array | None = None  # the batch's; this and invstd: None after such a call
    invstd: Array | None = None
    count: Array | None = None  # where channels differ in it
    renormalization: Renormalization | None = None  # None: there was none
    total: Array | None = None  # the count over all ranks; None where the rank's own batch normalized
    activation: str | None
    negative_slope: float
    allow_single: bool = False  # whether one value per channel was allowed
    parameters_learn: bool  # whether backward fills grad_weight and grad_bias

    def is_overwritten_by(self, out: Array) -> bool:
        """Whether y went where backward needs what was there before."""
        needed = (self.x,) if self.residual is None or self.activation is None else (self.x, self.residual)
        return any(np.shares_memory(out, array) for array in needed)


class BatchNorm:
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
        first, and returns the weight. A layer with such a function cannot be saved to a file, and can be pickled if the
        function can.
    affine : bool, default True
        Whether the layer has a weight (gamma, starts at 1) and a bias (beta, starts at 0), or neither.
    use_weight, use_bias : bool, default True
        Whether it has the one and the other, where ``affine`` is True. Before a ReLU and a linear map, a weight can be
        left to the map.
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
        its biased variance, 0, remembered; and so is that of channels whose weights sum to no more than ``correction``.
    renorm : tuple of two, optional
        ``(r_max, d_max)``: batch renormalization (Ioffe 2017). In training, y is close to what it is in evaluation::

            r = clip(std / running_std, 1 / r_max, r_max)         std = sqrt(var + eps)
            d = clip((mean - running_mean) / running_std, -d_max, d_max)
            y = weight * (r * xhat + d) + bias

        with the running statistics as they are before the call, and r and d constants for the gradient. Limits are
        numbers, ``r_max >= 1`` and ``d_max >= 0``, or functions of the number of batches tracked, as momentum may be:
        the paper begins with ``(1, 0)``, which is plain batch normalization, and opens them slowly, up to (3, 5).
    comm : communicator, optional
        Statistics in training, and the sums in `backward`, are taken over all ranks of ``comm``: anything with
        ``allgather(obj) -> list``, such as ``mpi4py.MPI.COMM_WORLD``. All ranks must be in the same mode:
        evaluation sends nothing, so one rank in `eval` leaves those in training waiting for ever. See the notes.
    dtype : dtype, default float64
        float32 or float64, of parameters, their gradients and running statistics; independent of x.

    Attributes
    ----------
    weight, bias : ndarray or None
        The parameters; None for what the layer does not have, and while the features are undecided. To set them write
        into them: ``layer.weight[...] = values``.
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

    Threads may share a layer that is in evaluation mode or frozen; `backward` then belongs to the call that ended last.
    What changes a layer (a call in training, `backward`, loading, a change of mode) wants it alone.

    With ``comm``, the ranks' batches are normalized like one batch that holds all of them, of whatever sizes; a rank
    may have one value per channel, or none: then it passes an empty x. Statistics are merged in the order of ranks
    (Chan, Golub & LeVeque 1983, eq. 1.5), with the same bits on every rank. ``grad_weight`` and ``grad_bias`` are the
    rank's own sums, for an optimizer that adds those of all ranks, and dx is exact. Each call in training makes one
    collective of some 40 bytes per channel and rank, and so does its `backward`; evaluation and frozen calls make none.
    All ranks must make the same calls in the same modes. If the arguments of one rank are wrong, or the ranks' options
    or features differ, all ranks raise the same error and none is left waiting. The variance must fit float64, else
    that is an error too. Copies keep ``comm``; files and pickles do not, as it belongs to a process: set
    ``layer.comm`` after loading.

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

    num_features: int | tuple[int, ...] | None
    weight: Array | None
    bias: Array | None
    grad_weight: Array | None
    grad_bias: Array | None
    running_mean: Array | None
    running_var: Array | None
    # "overwritten": the last call's y is where backward needs x; "collecting": inside `population_statistics`.
    _last: _LastCall | Literal["overwritten", "collecting"] | None
    _populations: tuple[Moments, ...] = ()  # those that `population_statistics` collects at the moment

    def __init__(
        self,
        num_features: int | tuple[int, ...] | None = None,
        *,
        axis: int | tuple[int, ...] = 1,
        eps: float = 1e-5,
        momentum: Momentum = 0.1,
        affine: bool = True,
        use_weight: bool = True,
        use_bias: bool = True,
        track_running_stats: bool = True,
        correction: float = 1,
        activation: Literal["relu", "leaky_relu"] | None = None,
        negative_slope: float = 0.01,
        on_nonfinite: Literal["propagate", "skip"] = "propagate",
        on_single: Literal["error", "biased"] = "error",
        renorm: RenormLimits | None = None,
        comm: Any = None,
        dtype: npt.DTypeLike = np.float64,
    ) -> None:
        self.axis = checked_axis(axis)
        self.eps = checked_real("eps", eps, 0, LARGEST)
        self.momentum = checked_momentum(momentum)
        affine = checked_flag("affine", affine)
        self.use_weight = checked_flag("use_weight", use_weight) and affine
        self.use_bias = checked_flag("use_bias", use_bias) and affine
        self.affine = self.use_weight or self.use_bias
        self.track_running_stats = checked_flag("track_running_stats", track_running_stats)
        self.correction = checked_real("correction", correction, 0, LARGEST)
        self.activation = checked_choice("activation", activation)
        self.negative_slope = checked_real("negative_slope", negative_slope, -LARGEST, LARGEST)
        self.on_nonfinite = checked_choice("on_nonfinite", on_nonfinite)
        self.on_single = checked_choice("on_single", on_single)
        self.renorm = checked_limits(renorm)
        if self.renorm is not None and not self.track_running_stats:
            raise ValueError(f"track_running_stats must be True for renorm, got {self.track_running_stats}")
        self.comm = synchronized.checked_comm(comm)
        self.dtype = checked_dtype(dtype)
        shape = checked_features(num_features, self.axis)
        self._forget_features()
        self.num_batches_tracked = 0
        self.training, self.frozen, self.frozen_parameters = True, False, False
        self._last = None
        if shape is not None:
            self._decide_features(shape)

    # Forward and backward.

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
        ``var = sum(p * (x - mean)**2) / P``. Values with p = 0, even NaN, have no influence on them; they are
        normalized all the same.

        Parameters
        ----------
        x : array_like, at least 2-D
            The batch, of any type that `batch_norm_train` takes. The layer keeps a reference to it for `backward`. An
            empty batch gives an empty result and leaves the running statistics alone.
        where : array_like of bool, optional
            Which entries the statistics are taken of; broadcastable to x's shape.
        weights : array_like, optional
            How often each entry enters the statistics: finite and >= 0, fractions too; broadcastable to x's shape.
        lengths : array_like of int, optional
            How many positions of each sequence, from the first, the statistics are taken of: of shape
            ``(x.shape[0],)``, from 0 to x's size along its one reduced axis beside axis 0. With ``where``, the
            positions that both allow.
        residual : array_like, optional
            Added before the activation; of x's shape and y's dtype.
        out : ndarray, optional
            Where y goes: x itself or residual itself, or an array of x's shape that shares no memory with any argument.
            Its dtype, of the four floating ones, is y's. `backward` needs x, and with an activation the residual, as
            they were: it is refused if they were written over.

        Returns
        -------
        ndarray
            y, of x's shape, memory order and dtype (float32 for integers, float64 for those of 64 bits); ``out`` where
            that was given.

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

        Two sequences of one feature, the second padded by a 0 that is left out of the statistics:

        >>> layer = BatchNorm(axis=2, eps=0.0)
        >>> layer(np.array([[[1.0], [3.0]], [[2.0], [0.0]]]), lengths=[2, 1])[0].ravel()
        array([-1.22474487,  1.22474487])
        """
        try:
            batch = converted("x", x)
            self._check_features(batch)
            if lengths is not None:
                where = where_within(lengths, batch.shape, self.axis, where)
            added = None if residual is None else converted("residual", residual)
        except Exception as error:
            if self._is_synchronized():
                synchronized.refuse(self.comm, "forward", error)
            raise
        last = _LastCall()
        if self._populations:  # nothing is kept for backward
            by_batch = self._normalize_first_batch if self.num_features is None else self._normalize_by_batch
            return by_batch(last, batch, where, weights, added, out)
        if self.track_running_stats and (self.frozen or not self.training):
            y = self._normalize_by_running_statistics(batch, where, weights, added, out)
        elif self.num_features is None:
            y = self._normalize_first_batch(last, batch, where, weights, added, out)
        else:
            y = self._normalize_by_batch(last, batch, where, weights, added, out)
        last.x = batch
        last.dtype = y.dtype
        last.residual = added
        last.activation = self.activation
        last.negative_slope = self.negative_slope
        last.parameters_learn = not self.frozen_parameters
        self._last = last if out is None or not last.is_overwritten_by(out) else "overwritten"
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
        The mask and weights, the activation and which statistics normalized are those of the last call, whatever the
        layer's mode is now. The parameters' gradients are overwritten, not accumulated. The formulas are those of
        `fastbn.batch_norm_backward`.

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
        last = self._last
        try:
            last, grad = _checked_gradient(last, dy)
        except Exception as error:
            if last.total is not None if isinstance(last, _LastCall) else self._is_synchronized():
                synchronized.refuse(self.comm, "backward", error)
            raise
        by_batch = last.mean is not None
        weight, bias = self.weight, self.bias
        if last.renormalization is not None:
            weight, bias = last.renormalization.parameters(weight, bias)
        if last.total is not None:
            dx, dweight, dbias, *dresidual = self._backward_over_ranks(grad, weight, bias, last)
        else:
            dx, dweight, dbias, *dresidual = _core.batch_norm_backward(
                grad,
                last.x,
                weight,
                bias,
                mean=last.mean if by_batch else self._require(self.running_mean),
                invstd=last.invstd if by_batch else self._running_invstd(),
                count=last.count,
                axis=self.axis,
                training=by_batch,
                where=last.where,
                weights=last.weights,
                residual=last.residual,
                activation=last.activation,
                negative_slope=last.negative_slope,
                allow_single=last.allow_single,
            )
        if self.affine and last.parameters_learn:
            with np.errstate(all="ignore"):
                if self.grad_weight is not None:
                    factors = last.renormalization
                    self.grad_weight[...] = dweight if factors is None else factors.dweight(dweight, dbias)
                if self.grad_bias is not None:
                    self.grad_bias[...] = dbias
        return (dx, *dresidual) if dresidual else dx

    # Modes.

    def train(self: L, mode: bool = True) -> L:
        """Switch to training mode, or with False to evaluation mode, and return the layer.

        Examples
        --------
        >>> from fastbn import BatchNorm
        >>> BatchNorm(3).eval().train().training
        True
        """
        self.training = checked_flag("mode", mode)
        return self

    def eval(self: L) -> L:
        """Switch to evaluation mode, in which the running statistics normalize, and return the layer.

        Examples
        --------
        >>> from fastbn import BatchNorm
        >>> BatchNorm(3).eval().training
        False
        """
        return self.train(False)

    def freeze(self: L, parameters: bool = False) -> L:
        """Let the running statistics normalize in training mode too, unchanged, and return the layer.

        For training on batches that are too small, or too unlike the data to come, to take statistics from. The
        gradient is then that of constant statistics, ``dx = weight * invstd * dy``. `train` and `eval` do not unfreeze.

        Parameters
        ----------
        parameters : bool, default False
            Whether weight and bias are frozen too: ``grad_weight`` and ``grad_bias`` become 0, and `backward` of later
            calls leaves them 0; that of a call before this one fills them.

        Returns
        -------
        BatchNorm
            The layer itself.

        Raises
        ------
        TypeError, ValueError
            If ``parameters`` is not a bool, or the layer has no running statistics.

        Examples
        --------
        >>> import numpy as np
        >>> from fastbn import BatchNorm
        >>> layer = BatchNorm(1, eps=0.0).freeze()
        >>> layer(np.array([[1.0], [3.0]])).tolist()
        [[1.0], [3.0]]
        >>> print(layer.training, layer.running_mean, layer.num_batches_tracked)
        True [0.] 0
        """
        if not self.track_running_stats:
            raise ValueError(f"track_running_stats must be True for freeze, got {self.track_running_stats}")
        self.frozen_parameters = checked_flag("parameters", parameters)
        self.frozen = True
        if self.frozen_parameters:  # so that an optimizer's steps change nothing
            for gradient in (self.grad_weight, self.grad_bias):
                if gradient is not None:
                    gradient[...] = 0
        return self

    def unfreeze(self: L) -> L:
        """Undo `freeze`, and return the layer.

        Examples
        --------
        >>> from fastbn import BatchNorm
        >>> BatchNorm(3).freeze().unfreeze().frozen
        False
        """
        self.frozen = self.frozen_parameters = False
        return self

    # Parameters and state.

    def parameters(self) -> list[Array]:
        """Return ``[weight, bias]``, or the one the layer has: its own arrays, for an optimizer to change in place.

        The list can be kept: neither these arrays nor those of `gradients` are ever replaced. RuntimeError while the
        features are undecided.

        Examples
        --------
        >>> import numpy as np
        >>> from fastbn import BatchNorm
        >>> layer = BatchNorm(1, eps=0.0)
        >>> y = layer(np.array([[1.0], [3.0]]))
        >>> dx = layer.backward(y)
        >>> for p, g in zip(layer.parameters(), layer.gradients()):
        ...     p -= 0.1 * g
        >>> print(layer.weight, layer.bias)
        [0.8] [0.]
        """
        return [self._require(getattr(self, key)) for key in self._parameter_keys()]

    def gradients(self) -> list[Array]:
        """Return ``[grad_weight, grad_bias]``, in the order of `parameters`; each `backward` overwrites them in place.

        Examples
        --------
        >>> from fastbn import BatchNorm
        >>> BatchNorm(2).gradients()
        [array([0., 0.]), array([0., 0.])]
        """
        return [self._require(getattr(self, f"grad_{key}")) for key in self._parameter_keys()]

    def scale_shift(self) -> tuple[Array, Array]:
        """Return the two arrays of evaluation mode: ``y = scale * x + shift``.

        ::

            scale = weight / sqrt(running_var + eps)        shift = bias - running_mean * scale

        Returns
        -------
        scale, shift : ndarray of float64
            Fresh arrays of the feature shape. Where ``running_var + eps`` is 0, scale is 0 and shift is the bias, as in
            a call.

        Raises
        ------
        ValueError
            If the layer has no running statistics.
        RuntimeError
            While the features are undecided.

        Notes
        -----
        This form loses digits where the mean is large beside the deviation: scale * x and shift are then both near
        mean / std, and y, of size 1, is their difference. At mean / std = 1e4 a float32 y has three right digits. Data
        like these are better normalized by the layer itself or by `fastbn.normalize`, which subtract the mean first.
        The activation comes after this map and is not part of it.

        Examples
        --------
        >>> import numpy as np
        >>> from fastbn import BatchNorm
        >>> layer = BatchNorm(1, eps=0.0, momentum=1.0, correction=0)
        >>> y = layer(np.array([[1.0], [5.0]]))
        >>> layer.scale_shift()
        (array([0.5]), array([-1.5]))
        """
        if not self.track_running_stats:
            raise ValueError(f"track_running_stats must be True for scale_shift, got {self.track_running_stats}")
        mean = self._require(self.running_mean).astype(np.float64)
        scale = self._running_invstd() * (1.0 if self.weight is None else self.weight)
        with np.errstate(all="ignore"):
            # Where scale is 0 the shift is the bias, even if the mean is infinite.
            offset = np.where(scale == 0, 0.0, mean * scale)
            return scale, np.asarray((0.0 if self.bias is None else self.bias) - offset)

    def state_dict(self) -> dict[str, Array]:
        """Return copies of parameters and running statistics under PyTorch's keys.

        ``{key: torch.from_numpy(value) for key, value in state.items()}`` is what ``torch.nn.BatchNorm2d`` loads.
        Unlike PyTorch's, the arrays do not follow the layer: a kept state is a snapshot.

        Returns
        -------
        dict of str to ndarray
            In the layer's dtype; ``num_batches_tracked`` is an int64.

        Raises
        ------
        RuntimeError
            While the features are undecided.

        Examples
        --------
        >>> from fastbn import BatchNorm
        >>> BatchNorm(1, affine=False).state_dict()
        {'running_mean': array([0.]), 'running_var': array([1.]), 'num_batches_tracked': array(0)}
        """
        counter = {COUNTER: np.array(self.num_batches_tracked, dtype=np.int64)}
        kept = {key: self._require(getattr(self, key)).copy() for key in self._state_keys() if key not in counter}
        return kept | counter if self.track_running_stats else kept

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Copy parameters and running statistics from ``state`` into the layer's arrays.

        Parameters
        ----------
        state : mapping of str to array_like
            As `state_dict` gives it, or ``torch.nn.BatchNorm2d(...).state_dict()``. Values are cast to the layer's
            dtype. A layer whose features are undecided takes them from here.
        strict : bool, default True
            Whether the keys must be exactly the layer's; else those of the layer that are there are taken.

        Returns
        -------
        IncompatibleKeys(missing_keys, unexpected_keys)
            Two lists, empty where ``strict``.

        Raises
        ------
        TypeError, ValueError
            Where a key is missing or too many, or a value has the wrong kind, shape or range; nothing is loaded then.

        Examples
        --------
        >>> from fastbn import BatchNorm
        >>> layer = BatchNorm(affine=False)
        >>> layer.load_state_dict({"running_mean": [1, 2], "running_var": [3, 4], "num_batches_tracked": 5})
        IncompatibleKeys(missing_keys=[], unexpected_keys=[])
        >>> print(layer.num_features, layer.running_var)
        2 [3. 4.]
        """
        ndim = 1 if isinstance(self.axis, int) else len(self.axis)
        strict = checked_flag("strict", strict)
        arrays, differing = checked_state(state, self._state_keys(), self._shape(), ndim, self.dtype, strict)
        tracked = int(arrays.pop(COUNTER, self.num_batches_tracked))
        if self.num_features is None and arrays:
            self._decide_features(next(iter(arrays.values())).shape)
        targets = {key: self._require(getattr(self, key)) for key in arrays}
        for key, target in targets.items():
            if not target.flags.writeable:
                raise ValueError(f"{key} must be writable to be loaded into, got a read-only array")
        self.num_batches_tracked = tracked
        for key, target in targets.items():
            target[...] = arrays[key]
        self._last = None
        return differing

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the whole layer, options and mode included, to exactly this path, in NumPy's .npz format.

        Parameters
        ----------
        path : path
            Of any suffix but .json; a file that is there is replaced.

        Raises
        ------
        RuntimeError, ValueError, OSError
            While the features are undecided; if momentum or a limit of renorm is a function, which no file can hold; if
            the name ends in .json; if the file cannot be written.

        Examples
        --------
        >>> import pathlib, tempfile
        >>> from fastbn import BatchNorm
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "layer.npz")
        ...     BatchNorm(3, eps=0.001).eval().save(path)
        ...     layer = BatchNorm.load(path)
        >>> layer.num_features, layer.eps, layer.training
        (3, 0.001, False)
        """
        if callable(self.momentum):
            raise ValueError(f"momentum must be a number or None to be saved, got {self.momentum!r}")
        if self.renorm is not None and any(map(callable, self.renorm)):
            raise ValueError(f"renorm must be two numbers or None to be saved, got {self.renorm!r}")
        arrays = self.state_dict()
        modes = _MODES if self.frozen else _MODES[:1]
        config = self._options() | {name: getattr(self, name) for name in modes}
        save_npz(path, config, arrays, "state_dict gives arrays for JSON")

    @classmethod
    def load(cls: type[L], path: str | os.PathLike[str]) -> L:
        """Return the layer written by `save`; see there for an example.

        No code in the file is run (nothing is unpickled).

        Parameters
        ----------
        path : path
            Of a file that `save` wrote.

        Returns
        -------
        BatchNorm
            In the mode in which it was saved.

        Raises
        ------
        ValueError, OSError
            If the file is not a saved layer, or cannot be read.
        """
        shown = repr(os.fspath(path))
        with open(path, "rb") as file:
            config, arrays = read_npz(file, _WRITER, shown)
        check_kind("BatchNorm", config, _WRITER, shown)
        try:
            modes = {
                name: checked_flag(name, config.pop(name)) for name in _MODES if name in config or name == "training"
            }
            layer = cls(**config)
            layer.load_state_dict(arrays)
            vars(layer).update(modes)
        except (TypeError, ValueError, KeyError, MemoryError) as error:
            raise not_written(_WRITER, shown, error) from error
        return layer

    def load_moments(self: L, moments: Moments) -> L:
        """Make statistics of a population the running ones, and return the layer.

        The paper takes them over the whole training set once training is done (Ioffe & Szegedy 2015, Algorithm 2, lines
        9-11), as the average of batches' variances; that leaves out how far the batches' means lie apart. Statistics
        that merge do not::

            running_mean = mean        running_var = m2 / (N - correction)

        Parameters
        ----------
        moments : Moments
            Of the layer's input, of its feature shape; with more than ``correction`` values in every channel. A layer
            whose features are undecided takes them from here. The layer keeps no units: after statistics that
            `fastbn.stream` took with ``scale=255``, every x must be the pixels divided by 255, and pixels that are not
            divided, of integers too, are normalized without an error, and wrongly.

        Returns
        -------
        BatchNorm
            The layer itself; ``num_batches_tracked`` stays as it is.

        Raises
        ------
        TypeError, ValueError
            If moments are something else, of another shape, or not finite in every channel, or the layer has no running
            statistics. Nothing is changed then.

        Examples
        --------
        >>> import numpy as np
        >>> from fastbn import BatchNorm, Moments
        >>> batches = np.array([[[1.0], [3.0]], [[11.0], [13.0]]])
        >>> population = Moments()
        >>> for batch in batches:
        ...     population = population.update(batch)
        >>> layer = BatchNorm(1, correction=0).load_moments(population)
        >>> print(layer.running_mean, layer.running_var)
        [7.] [26.]
        """
        if not isinstance(moments, Moments):
            hint = " (fastbn.Moments.load reads a file)" if isinstance(moments, (str, os.PathLike)) else ""
            raise TypeError(f"moments must be Moments{hint}, got {type(moments).__name__}")
        if not self.track_running_stats:
            raise ValueError(f"track_running_stats must be True for load_moments, got {self.track_running_stats}")
        moments = moments.copy()  # others may update them meanwhile
        mean, var = moments.mean, moments.var(self.correction)
        if moments.shape is None or not (np.isfinite(mean) & np.isfinite(var)).all():
            hint = ""
            if np.isnan(mean).any() and moments.nan != "omit":
                hint = " (nan='omit' of moments and stream leaves NaN out)"
            elif moments.shape is not None and np.any(np.asarray(moments.count) <= self.correction):
                hint = f" (which takes more than correction={self.correction} values)"
            raise ValueError(f"moments must have a finite mean and variance in every channel{hint}, got {moments!r}")
        expected = self._shape()
        if expected is not None and moments.shape != expected:
            raise ValueError(f"moments must have features of shape {expected}, as the layer has, got {moments.shape}")
        self.load_state_dict({"running_mean": mean, "running_var": var}, strict=False)
        return self

    def init_identity(self: L, x: npt.ArrayLike) -> L:
        """Set weight to sqrt(var + eps) and bias to the mean of x, and return the layer.

        In training mode the layer then gives back this x (before the activation), to the rounding of ``dtype`` and of
        x. The running statistics stay as they are.

        Parameters
        ----------
        x : array_like
            As for a call; its features are taken where the layer's are undecided.

        Returns
        -------
        BatchNorm
            self

        Raises
        ------
        TypeError, ValueError
            Without affine, where x is not what a call takes, or where a channel's mean or deviation is not finite in
            ``dtype``. Nothing is set then.

        Examples
        --------
        >>> import numpy as np
        >>> from fastbn import BatchNorm
        >>> x = np.array([[1.0, 10.0], [2.0, 20.0], [6.0, 60.0]])
        >>> bool(np.allclose(BatchNorm().init_identity(x)(x), x, rtol=1e-14))
        True
        """
        mean, invstd, values = self._statistics_for_identity(x)
        with np.errstate(all="ignore"):
            # Unlike sqrt(var + eps), this is finite also where var is not: in float64 at 1e200.
            weight = np.where(invstd == 0, 0.0, 1.0 / invstd).astype(self.dtype)
            bias = mean.astype(self.dtype)
        bad = ~(np.isfinite(weight) & np.isfinite(bias))
        if bad.any():
            got = f"{bias[bad][0]} and {weight[bad][0]} from {values} value(s)"
            raise ValueError(f"x must have a finite mean and deviation in {self.dtype} in every channel, got {got}")
        self.load_state_dict({"weight": weight, "bias": bias}, strict=False)
        return self

    def __repr__(self) -> str:
        """Return the expression that makes such a layer, with its mode unless that is training."""
        features, *options = self._options().items()
        if self.comm is not None:
            options.append(("comm", self.comm))
        mode = "" if self.training else ".eval()"
        if self.frozen:
            mode += ".freeze(parameters=True)" if self.frozen_parameters else ".freeze()"
        given = ", ".join(f"{name}={value!r}" for name, value in options)
        return f"{type(self).__name__}({features[1]}, {given}){mode}"

    def __copy__(self: L) -> L:
        """Return a layer that shares the arrays and the communicator."""
        result = type(self).__new__(type(self))
        result.__setstate__(self.__getstate__() | {"comm": self.comm})
        return result

    def __deepcopy__(self: L, memo: dict[int, Any]) -> L:
        """Return an independent layer of the same communicator."""
        result = type(self).__new__(type(self))
        memo[id(self)] = result  # what the layer holds may lead back to it
        result.__setstate__(copy.deepcopy(self.__getstate__(), memo) | {"comm": self.comm})
        return result

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the last batch, which may be large, and what belongs to this process."""
        left_out = ("_populations", "comm")
        return {key: value for key, value in self.__dict__.items() if key not in left_out} | {"_last": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what `__getstate__` gave, in version 0.1.0 too, where some options did not exist."""
        parts = dict.fromkeys(_PARTS, state.get("affine", True))
        self.__dict__.update(_LATER | {"comm": None, "frozen": False, "frozen_parameters": False} | parts | state)

    # Private.

    def _normalize_by_running_statistics(
        self, x: Array, where: Any, weights: Any, residual: Array | None, out: Array | None
    ) -> Array:
        mean, var = self._require(self.running_mean), self._require(self.running_var)
        if where is not None or weights is not None:
            _core.check_weights(x, axis=self.axis, where=where, weights=weights)
        return _core.normalize(
            x,
            mean,
            var,
            self.weight,
            self.bias,
            eps=self.eps,
            axis=self.axis,
            out=out,
            residual=residual,
            activation=self.activation,
            negative_slope=self.negative_slope,
        )

    def _normalize_first_batch(
        self, last: _LastCall, x: Array, where: Any, weights: Any, residual: Array | None, out: Array | None
    ) -> Array:
        """Decide the features by x; they are undecided again if the call fails."""
        shape = self._features_of(x)
        if shape is not None:
            self._decide_features(shape)
        try:
            return self._normalize_by_batch(last, x, where, weights, residual, out)
        except Exception:
            self._forget_features()
            raise

    def _normalize_by_batch(
        self, last: _LastCall, x: Array, where: Any, weights: Any, residual: Array | None, out: Array | None
    ) -> Array:
        if self.comm is not None:
            return self._normalize_over_ranks(last, x, where, weights, residual, out)
        # Comparing with the default takes less time than the check.
        skip = self.on_nonfinite != "propagate" and checked_choice("on_nonfinite", self.on_nonfinite) == "skip"
        single = self.on_single != "error" and checked_choice("on_single", self.on_single) == "biased"
        measured = factors = None
        if self.renorm is not None or self._populations:
            measured = moments(x, axis=self.axis, where=where, weights=weights)
        weight, bias = self.weight, self.bias
        if self.renorm is not None and measured is not None:
            factors = self._renormalization(measured)
            weight, bias = factors.parameters(weight, bias)
        collects = bool(self._populations)
        # By position as far as parameters follow each other: where the values by position and twice the keywords are
        # more than thirty, CPython makes a dict, which takes half a microsecond.
        y, mean, var, invstd, count = _core.batch_norm_train(
            x,
            weight,
            bias,
            self.eps,
            self.axis,
            out=out,
            where=where,
            weights=weights,
            residual=residual,
            activation=self.activation,
            negative_slope=self.negative_slope,
            running_mean=None if collects else self.running_mean,
            running_var=None if collects else self.running_var,
            momentum=self.momentum if isinstance(self.momentum, float) else self._momentum_now(),
            correction=self.correction,
            skip_nonfinite=skip,
            allow_single=single,
        )
        if collects and measured is not None:
            if not (skip and not _all_finite(mean, var)):
                for population in self._populations:
                    population.merge(measured)
            return y
        if isinstance(count, int):
            updates = count > 0
        else:
            last.count, updates = count, bool((count > (0 if single else self.correction)).any())
        if self.track_running_stats and updates and not (skip and not _all_finite(mean, var)):
            self.num_batches_tracked += 1
        last.mean, last.invstd, last.renormalization = mean, invstd, factors
        last.where, last.weights = where, weights
        last.allow_single = single
        return y

    def _momentum_now(self) -> float:
        if self.momentum is None:
            return 1.0 / (self.num_batches_tracked + 1)
        if not callable(self.momentum):
            return self.momentum
        if not self.track_running_stats or self._populations:
            return 0.0  # there is nothing to update, so the function is not called
        return checked_real("momentum(step)", self.momentum(self.num_batches_tracked), 0, 1)

    def _statistics_for_identity(self, x: npt.ArrayLike) -> tuple[Array, Array, Any]:
        """Return mean and invstd of x, and how many values a channel has: of all ranks where there is a `comm`."""

        def checked() -> Array:
            for name in ("affine", *_PARTS):
                if not getattr(self, name):
                    raise ValueError(f"{name} must be True for init_identity, got {getattr(self, name)}")
            batch = converted("x", x)
            self._check_features(batch)
            return batch

        if self.comm is None:
            result = batch_norm_train(checked(), eps=self.eps, axis=self.axis)
            return result.mean, result.invstd, result.count

        def offer() -> dict[str, Any]:
            batch = checked()
            same = {"the features' shape": self._features_of(batch), "eps": self.eps, "dtype": self.dtype.name}
            return synchronized.statistics_offer(batch, self.axis, None, None, self.eps) | {"same": same}

        offers = synchronized.gathered(self.comm, "init_identity", offer)
        found = synchronized.statistics_of(offers, self.eps)
        synchronized.check_trainable(found, correction=None, single=False)
        return found.mean, found.invstd, found.values

    def _is_synchronized(self) -> bool:
        by_running_statistics = self.track_running_stats and (self.frozen or not self.training)
        return self.comm is not None and (bool(self._populations) or not by_running_statistics)

    def _normalize_over_ranks(
        self, last: _LastCall, x: Array, where: Any, weights: Any, residual: Array | None, out: Array | None
    ) -> Array:
        """Do what `_normalize_by_batch` does, by the statistics of the batches of all ranks."""
        running = [array for array in (self.running_mean, self.running_var) if array is not None]
        epilogue = {"residual": residual, "activation": self.activation, "negative_slope": self.negative_slope}
        epilogue["out"] = out
        renorm = None

        def offer() -> dict[str, Any]:
            nonlocal renorm
            found = synchronized.statistics_offer(x, self.axis, where, weights, self.eps)
            synchronized.check_output(x, out, residual, (where, weights, self.weight, self.bias, *running))
            synchronized.check_parameters(x, self.weight, self.bias, running, eps=self.eps, axis=self.axis, **epilogue)
            renorm = None if self.renorm is None else limits_at(self.renorm, self.num_batches_tracked)
            same: dict[str, Any] = {
                "the features' shape": self._shape(),
                "eps": self.eps,
                "momentum": self._momentum_now(),
            }
            same |= {"correction": self.correction, "dtype": self.dtype.name, "renorm": renorm}
            same |= {"track_running_stats": self.track_running_stats}
            same |= {name: checked_choice(name, getattr(self, name)) for name in ("on_nonfinite", "on_single")}
            return found | {"same": same}

        offers = synchronized.gathered(self.comm, "forward", offer)
        momentum: float = offers[0]["same"]["momentum"]
        skip, single = self.on_nonfinite == "skip", self.on_single == "biased"
        found = synchronized.statistics_of(offers, self.eps)
        remembers = self.track_running_stats and not self._populations
        synchronized.check_trainable(found, correction=self.correction if remembers else None, single=single)
        factors, weight, bias = None, self.weight, self.bias
        if renorm is not None:
            factors = self._renormalization(Moments._of(found.merged, None), renorm)
            weight, bias = factors.parameters(weight, bias)
        y = synchronized.transformed(x, found, weight, bias, eps=self.eps, axis=self.axis, **epilogue)
        last.mean, last.invstd, last.renormalization, last.total = found.mean, found.invstd, factors, found.total
        last.where, last.weights, last.allow_single = where, weights, True
        if not (skip and not _all_finite(found.mean, found.var)):
            for population in self._populations:
                population.merge(Moments._of(found.merged, None))
            if remembers:
                self._remember(found, momentum, single)
        return y

    def _remember(self, found: synchronized.RankStatistics, momentum: float, single: bool) -> None:
        unbiased = found.total > self.correction
        remembered = (found.total > 0) & (unbiased | single)
        if not remembered.any():
            return
        with np.errstate(all="ignore"):
            var = np.where(unbiased, found.var * (found.total / (found.total - self.correction)), found.var)
        running_mean, running_var = self._require(self.running_mean), self._require(self.running_var)
        with np.errstate(all="ignore"):
            running_mean[...] = synchronized.updated(running_mean, found.mean, momentum, remembered)
            running_var[...] = synchronized.updated(running_var, var, momentum, remembered)
        self.num_batches_tracked += 1

    def _backward_over_ranks(
        self, dy: Array, weight: Array | None, bias: Array | None, last: _LastCall
    ) -> tuple[Array, ...]:
        """Return what the engine's backward does, dx by the sums of all ranks and the other two by the rank's own."""
        assert last.total is not None
        call = {"mean": last.mean, "invstd": last.invstd, "axis": self.axis}
        call |= {name: getattr(last, name) for name in ("where", "weights", "residual", "activation", "negative_slope")}
        own: list[Array] = []

        def offer() -> dict[str, Any]:
            own.extend(_core.gradient_sums(dy, last.x, weight, bias, **call))
            return {"sums": tuple(own), "same": {"the features' shape": self._shape()}}

        offers = synchronized.gathered(self.comm, "backward", offer)
        mean_dy, mean_dy_xhat = synchronized.means_of(offers, last.total)
        dx, *dresidual = _core.input_gradient(
            dy, last.x, weight, bias, mean_dy=mean_dy, mean_dy_xhat=mean_dy_xhat, **call
        )
        return (dx, *own, *dresidual)

    def _renormalization(self, batch: Moments, limits: tuple[float, float] | None = None) -> Renormalization:
        running_mean, running_var = self._require(self.running_mean), self._require(self.running_var)
        now = limits_at(self.renorm, self.num_batches_tracked) if limits is None else limits
        return renormalization(batch, running_mean, running_var, self.eps, now)

    def _running_invstd(self) -> Array:
        running_var = self._require(self.running_var)
        if (running_var < 0).any():
            raise ValueError(f"running_var must not be negative, got {np.nanmin(running_var)}")
        shifted = running_var.astype(np.float64) + self.eps
        with np.errstate(divide="ignore"):
            return np.where(shifted == 0, 0.0, 1.0 / np.sqrt(shifted))

    def _features_of(self, x: Array) -> Shape | None:
        """Return x's sizes along the feature axes, None if it has no such axes: the engine's error is better then."""
        axes = (self.axis,) if isinstance(self.axis, int) else self.axis
        if not all(-x.ndim <= axis < x.ndim for axis in axes):
            return None
        return tuple(x.shape[axis] for axis in kept_axes(axes, x.ndim))

    def _check_features(self, x: Array) -> None:
        axis = self.axis
        if isinstance(axis, int) and -x.ndim <= axis < x.ndim and x.shape[axis] == self.num_features:
            return  # the usual case, quickly decided
        got = self._features_of(x)
        if self.num_features is not None and got is not None and got != self._shape():
            rule = f"{self.num_features} channels along axis {self.axis}"
            raise ValueError(f"x must have {rule}, got {got[0] if len(got) == 1 else got} (shape {x.shape})")

    def _options(self) -> dict[str, Any]:
        names = ["num_features", "axis", "eps", "momentum", "affine", "track_running_stats", "correction"]
        names += [name for name in _PARTS if getattr(self, name) != self.affine]
        names += [name for name, default in _LATER.items() if getattr(self, name) != default]
        return {name: getattr(self, name) for name in names} | {"dtype": self.dtype.name}

    def _state_keys(self) -> tuple[str, ...]:
        return self._parameter_keys() + ((*STATISTICS, COUNTER) if self.track_running_stats else ())

    def _parameter_keys(self) -> tuple[str, ...]:
        return tuple(key for key, used in zip(PARAMETERS, (self.use_weight, self.use_bias), strict=True) if used)

    def _shape(self) -> Shape | None:
        return (self.num_features,) if isinstance(self.num_features, int) else self.num_features

    def _require(self, array: Array | None) -> Array:
        if array is None:
            rule = "be known (give it, or call the layer once in training mode)"
            raise RuntimeError(f"num_features must {rule}, got None")
        return array

    def _decide_features(self, shape: Shape) -> None:
        self.num_features = shape[0] if isinstance(self.axis, int) else shape
        if self.use_weight:
            self.weight, self.grad_weight = np.ones(shape, self.dtype), np.zeros(shape, self.dtype)
        if self.use_bias:
            self.bias, self.grad_bias = np.zeros(shape, self.dtype), np.zeros(shape, self.dtype)
        if self.track_running_stats:
            self.running_mean, self.running_var = np.zeros(shape, self.dtype), np.ones(shape, self.dtype)

    def _forget_features(self) -> None:
        self.num_features = None
        self.weight = self.bias = self.grad_weight = self.grad_bias = None
        self.running_mean = self.running_var = None


def _all_finite(*arrays: Array) -> bool:
    return all(bool(np.isfinite(array).all()) for array in arrays)


def check_is_layer(name: str, layer: Any) -> None:
    """Raise TypeError for what is no `BatchNorm`, and say what makes one of it."""
    if isinstance(layer, BatchNorm):
        return
    hint = ""
    if any(base.__module__.partition(".")[0] == "torch" for base in type(layer).__mro__):
        hint = " (fastbn.interop.from_torch makes one of a module of torch)"
    elif isinstance(layer, (list, tuple)) and name.startswith("layers"):
        hint = " (a list of layers is given as *layers)"
    raise TypeError(f"{name} must be a fastbn.BatchNorm{hint}, got {type(layer).__name__}")


def _checked_gradient(
    last: _LastCall | Literal["overwritten", "collecting"] | None, dy: npt.ArrayLike
) -> tuple[_LastCall, Array]:
    if last is None:
        raise RuntimeError("backward needs a call of the layer before it, got none")
    if last == "collecting":
        raise RuntimeError("backward must not be called inside population_statistics, which keeps nothing for it")
    if last == "overwritten":
        raise RuntimeError("backward needs x, and with an activation the residual, but the call's out= wrote over it")
    grad = converted("dy", dy)
    if grad.dtype != last.dtype:
        raise TypeError(f"dy must have y's dtype {last.dtype}, got {grad.dtype}")
    return last, grad
