"""The modes of a layer: which statistics normalize, what is remembered, what may be taken over. Knows no gradient."""

from __future__ import annotations

from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from fastbn import _core
from fastbn.checks import Shape, checked_choice, checked_flag, checked_real, converted, kept_axes
from fastbn.functional import batch_norm_train
from fastbn.state import Array, LayerState
from fastbn.statistics import Moments

Layer = TypeVar("Layer", bound="LayerModes")

# What `fastbn.BatchNorm.backward` needs to know of the last call: x, y's dtype, the batch's mean, invstd and count per
# channel, if those differ (or None, where the running statistics normalized), where, weights, residual, activation,
# negative_slope, whether one value per channel was allowed, and whether grad_weight and grad_bias are to be filled.
# Named, it would cost a tenth of a small call.
Used: TypeAlias = tuple[Array, Array, Array | None]
Last: TypeAlias = tuple[Array, np.dtype[Any], Used | None, Any, Any, Array | None, str | None, float, bool, bool]


class LayerModes(LayerState):
    """The part of `fastbn.BatchNorm` that is different in training, in evaluation and with frozen statistics."""

    _last: Last | None

    def train(self: Layer, mode: bool = True) -> Layer:
        """Switch to training mode, or with False to evaluation mode, and return the layer.

        Examples
        --------
        >>> from fastbn import BatchNorm
        >>> BatchNorm(3).eval().train().training
        True
        """
        self.training = checked_flag("mode", mode)
        return self

    def eval(self: Layer) -> Layer:
        """Switch to evaluation mode, in which the running statistics normalize, and return the layer.

        Examples
        --------
        >>> from fastbn import BatchNorm
        >>> BatchNorm(3).eval().training
        False
        """
        return self.train(False)

    def freeze(self: Layer, parameters: bool = False) -> Layer:
        """Let the running statistics normalize in training mode too, unchanged, and return the layer.

        For training on batches that are too small, or too unlike the data to come, to take statistics from. The
        gradient is then that of constant statistics, ``dx = weight * invstd * dy``. `train` and `eval` do not unfreeze.

        Parameters
        ----------
        parameters : bool, default False
            Whether weight and bias are frozen too: ``grad_weight`` and ``grad_bias`` become 0, and `backward` leaves
            them so.

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
        if self.frozen_parameters:  # an optimizer that goes on stepping is to find nothing
            for gradient in (self.grad_weight, self.grad_bias):
                if gradient is not None:
                    gradient[...] = 0
        return self

    def unfreeze(self: Layer) -> Layer:
        """Undo `freeze`, and return the layer.

        Examples
        --------
        >>> from fastbn import BatchNorm
        >>> BatchNorm(3).freeze().unfreeze().frozen
        False
        """
        self.frozen = self.frozen_parameters = False
        return self

    def load_moments(self: Layer, moments: Moments) -> Layer:
        """Make statistics of a population the running ones, and return the layer.

        The paper takes them over the whole training set once training is done (Ioffe & Szegedy 2015, Algorithm 2, lines
        9-11), as the average of batches' variances; that leaves out how far the batches' means lie apart. Statistics
        that merge do not::

            running_mean = mean        running_var = m2 / (N - correction)

        Parameters
        ----------
        moments : Moments
            Of the layer's input, of its feature shape; with more than ``correction`` values in every channel. A layer
            whose features are undecided takes them from here.

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
            raise TypeError(f"moments must be Moments, got {type(moments).__name__}")
        if not self.track_running_stats:
            raise ValueError(f"track_running_stats must be True for load_moments, got {self.track_running_stats}")
        mean, var = moments.mean, moments.var(self.correction)
        if moments.shape is None or not (np.isfinite(mean) & np.isfinite(var)).all():
            raise ValueError(f"moments must have a finite mean and variance in every channel, got {moments!r}")
        self.load_state_dict({"running_mean": mean, "running_var": var}, strict=False)
        return self

    def init_identity(self: Layer, x: npt.ArrayLike) -> Layer:
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

    def _by_running_statistics(
        self, x: Array, where: Any, weights: Any, residual: Array | None, out: Array | None
    ) -> Array:
        mean, var = self._require(self.running_mean), self._require(self.running_var)
        if where is not None or weights is not None:
            _core.check_counting(x, self.axis, where, weights)
        activation, slope = self.activation, self.negative_slope
        y = _core.normalize(
            x, mean, var, self.weight, self.bias, self.eps, self.axis, None, out, residual, activation, slope, False
        )
        learns = not self.frozen_parameters
        self._last = (x, y.dtype, None, None, None, residual, activation, slope, False, learns)
        return y

    def _by_first_batch(self, x: Array, where: Any, weights: Any, residual: Array | None, out: Array | None) -> Array:
        shape = self._features_of(x)
        if shape is not None:
            self._decide_features(shape)
        try:
            return self._by_batch(x, where, weights, residual, out)
        except Exception:
            self._forget_features()
            raise

    def _by_batch(self, x: Array, where: Any, weights: Any, residual: Array | None, out: Array | None) -> Array:
        skip = self.on_nonfinite != "propagate" and checked_choice("on_nonfinite", self.on_nonfinite) == "skip"
        single = self.on_single != "error" and checked_choice("on_single", self.on_single) == "biased"
        activation, slope = self.activation, self.negative_slope
        y, mean, var, invstd, count = _core.batch_norm_train(
            x,
            self.weight,
            self.bias,
            self.eps,
            self.axis,
            None,
            out,
            where,
            weights,
            residual,
            activation,
            slope,
            self.running_mean,
            self.running_var,
            self.momentum if isinstance(self.momentum, float) else self._momentum_now(),
            self.correction,
            skip,
            single,
        )
        if isinstance(count, int):
            total, counts = None, count > 0
        else:
            total, counts = count, bool((count > (0 if single else self.correction)).any())
        if self.track_running_stats and counts and not (skip and not _all_finite(mean, var)):
            self.num_batches_tracked += 1
        learns = not self.frozen_parameters
        self._last = (x, y.dtype, (mean, invstd, total), where, weights, residual, activation, slope, single, learns)
        return y

    def _momentum_now(self) -> float:
        if self.momentum is None:
            return 1.0 / (self.num_batches_tracked + 1)
        if not callable(self.momentum):
            return self.momentum
        if not self.track_running_stats:
            return 0.0  # nothing is remembered, nobody asked
        return checked_real("momentum(step)", self.momentum(self.num_batches_tracked), 0, 1)

    def _running_invstd(self) -> Array:
        shifted = self._require(self.running_var).astype(np.float64) + self.eps
        with np.errstate(divide="ignore"):
            return np.where(shifted == 0, 0.0, 1.0 / np.sqrt(shifted))

    def _features_of(self, x: Array) -> Shape | None:
        """Return x's sizes along the feature axes; None if it has no such axes, which is for the functions to say."""
        axes = (self.axis,) if isinstance(self.axis, int) else self.axis
        if not all(-x.ndim <= axis < x.ndim for axis in axes):
            return None
        return tuple(x.shape[axis] for axis in kept_axes(axes, x.ndim))

    def _check_features(self, x: Array) -> None:
        axis = self.axis
        if isinstance(axis, int) and -x.ndim <= axis < x.ndim and x.shape[axis] == self.num_features:
            return  # as nearly always, and quickly seen
        got = self._features_of(x)
        if self.num_features is not None and got is not None and got != self._shape():
            rule = f"{self.num_features} channels along axis {self.axis}"
            raise ValueError(f"x must have {rule}, got {got[0] if len(got) == 1 else got} (shape {x.shape})")


def _all_finite(*arrays: Array) -> bool:
    return all(bool(np.isfinite(array).all()) for array in arrays)
