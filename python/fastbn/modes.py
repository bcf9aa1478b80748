"""The modes of a layer: by which statistics a call normalizes, and what it remembers. Knows no gradient."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

from fastbn import _core
from fastbn.checks import Shape, checked_choice, checked_flag, checked_real
from fastbn.masks import checked_weights, checked_where
from fastbn.state import Array, LayerState

Layer = TypeVar("Layer", bound="LayerModes")

# where, weights, residual, activation and negative_slope, in a row as `_core` takes them.
Extras: TypeAlias = tuple[Any, Any, Array | None, str | None, float]


class Call(NamedTuple):
    """What `fastbn.BatchNorm.backward` needs to know of the last call."""

    x: Array
    used: tuple[Array, Array] | None  # the batch's mean and invstd; None where the running statistics normalized
    extras: Extras
    allow_single: bool
    learns: bool  # whether grad_weight and grad_bias are to be filled

    def overwritten_by(self, out: Array) -> bool:
        """Return whether y was written where backward would read x, or the residual under an activation."""
        _, _, residual, activation, _ = self.extras
        read = (self.x,) if residual is None or activation is None else (self.x, residual)
        return any(np.shares_memory(out, array) for array in read)


class LayerModes(LayerState):
    """The part of `fastbn.BatchNorm` that is different in training, in evaluation and with frozen statistics."""

    _last: Call | None

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
            Whether weight and bias are frozen too: `backward` then leaves ``grad_weight`` and ``grad_bias`` alone.

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

    def _uses_batch(self) -> bool:
        """Return whether a call now normalizes by the batch's own statistics."""
        return (self.training and not self.frozen) or not self.track_running_stats

    def _by_running_statistics(self, x: Array, extras: Extras, out: Array | None) -> tuple[Array, Call]:
        where, weights, *rest = extras
        mean, var = self._require(self.running_mean), self._require(self.running_var)
        if where is not None:
            checked_where(where, x.shape)
        if weights is not None:
            checked_weights(weights, x.shape)
        y = _core.normalize(x, mean, var, self.weight, self.bias, self.eps, self.axis, None, out, *rest)
        return y, Call(x, None, (None, None, *extras[2:]), False, not self.frozen_parameters)

    def _by_batch(self, x: Array, extras: Extras, out: Array | None) -> tuple[Array, Call]:
        skip = checked_choice("on_nonfinite", self.on_nonfinite, ("propagate", "skip")) == "skip"
        single = checked_choice("on_single", self.on_single, ("error", "biased")) == "biased"
        remember = (self._momentum_now(), self.correction, skip, single)
        shape = self._features_of(x) if self.num_features is None else None
        if shape is not None:
            self._decide_features(shape)
        running = self.running_mean, self.running_var
        try:
            y, mean, var, invstd, count = _core.batch_norm_train(
                x, self.weight, self.bias, self.eps, self.axis, None, out, *extras, *running, *remember
            )
        except Exception:
            if shape is not None:
                self._forget_features()
            raise
        least = 0 if single else self.correction
        if self.track_running_stats and _was_remembered(count, least) and (not skip or _all_finite(mean, var)):
            self.num_batches_tracked += 1
        return y, Call(x, (mean, invstd), extras, single, not self.frozen_parameters)

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
        return tuple(x.shape[axis] for axis in sorted(axis % x.ndim for axis in axes))


def _was_remembered(count: Any, least: float) -> bool:
    """Return whether a batch has changed running statistics, of which ``count`` counted (per channel, if an array)."""
    return count > 0 if isinstance(count, int) else bool((count > least).any())


def _all_finite(*arrays: Array) -> bool:
    return all(bool(np.isfinite(array).all()) for array in arrays)
