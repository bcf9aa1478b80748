"""`population_statistics`: running statistics of everything that layers are given, exact, once training is done."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fastbn._layer.batch_norm import BatchNorm, check_is_layer
from fastbn._moments.moments import Moments

Array: TypeAlias = npt.NDArray[Any]

_STATISTICS = ("running_mean", "running_var")
_GRADIENTS = ("grad_weight", "grad_bias")
_FIELDS = ("num_features", "num_batches_tracked", "training", "frozen", "frozen_parameters")


@contextmanager
def population_statistics(*layers: BatchNorm) -> Iterator[None]:
    """Make the running statistics of layers those of all that they are given inside a ``with`` block.

    Inside, each layer normalizes by its batch, as in training and whatever its mode, and every call is measured, with
    the mask and the weights that it has. At the end, over all calls (Ioffe & Szegedy 2015, Algorithm 2, lines 9-11)::

        running_mean = mean        running_var = m2 / (N - correction)

    Statistics of the calls are merged (Chan, Golub & LeVeque 1983, eq. 1.5), so these are exact for batches of unequal
    sizes and of unlike means. The average of the batches' variances, which the paper takes and a momentum of None
    gives, leaves out how far the batches' means lie apart.

    Parameters
    ----------
    *layers : BatchNorm
        With running statistics. A layer may be given twice, and be called several times, in one network or in several:
        all of its calls are measured together.

    Yields
    ------
    None

    Raises
    ------
    TypeError, ValueError
        If one of the layers is something else or has no running statistics, or if, at the end, what one of them was
        given has no finite mean and variance in some channel. An exception from the block is passed on. In all these
        cases every layer is as it was before: statistics, modes, counters, gradients, and features that were undecided.

    Warns
    -----
    UserWarning
        At the end, for each layer that was given no values: it keeps its running statistics.

    Notes
    -----
    Counters, modes, parameters and gradients stay as they are, and `backward` is refused inside. After the block it is
    that of the last call before, unless that call was normalized by running statistics, which the block has replaced.

    A channel keeps its statistics if it was given no more than ``correction`` values (with ``on_single="biased"``:
    none); a batch that ``on_nonfinite="skip"`` leaves out is not measured. Blocks may be nested, with the same layers
    too: then each block has the statistics of what is called within it.

    With ``renorm``, y is corrected inside as in training, by the running statistics as they were before the block.

    Examples
    --------
    >>> import numpy as np, fastbn
    >>> layer = fastbn.BatchNorm(1, correction=0).eval()
    >>> with fastbn.population_statistics(layer):
    ...     for batch in np.array([[[1.0], [3.0]], [[11.0], [13.0]]]):
    ...         y = layer(batch)
    >>> layer.running_mean, layer.running_var, layer.num_batches_tracked
    (array([7.]), array([26.]), 0)
    """
    _check_layers(layers)
    unique = {id(layer): layer for layer in layers}.values()
    collected = [_Collected(layer, layers.index(layer)) for layer in unique]
    try:
        yield
        for each in collected:
            each.stop()
        for each, found in [(each, each.statistics()) for each in collected]:
            if found is not None:
                each.remember(*found)
    except BaseException:
        for each in collected:
            each.undo()
        raise
    for each in collected:
        if not each.has_values():
            name = f"layers[{each.position}]"
            warnings.warn(f"{name} was given no values and keeps its running statistics: {each.layer!r}", stacklevel=3)


class _Collected:
    """A layer, what it is given, and how it was before."""

    def __init__(self, layer: BatchNorm, position: int) -> None:
        self.layer, self.position = layer, position
        self.population = Moments()
        self.fields = {name: getattr(layer, name) for name in _FIELDS}
        self.contents = {name: _copy(getattr(layer, name)) for name in (*_STATISTICS, *_GRADIENTS)}
        layer._populations = (*layer._populations, self.population)
        self.last, self.stopped = layer._last, False
        layer._last = "collecting"

    def stop(self) -> None:
        """Let the layer be called as usual; what it was called on before the block can still be differentiated."""
        layer = self.layer
        layer._populations = tuple(each for each in layer._populations if each is not self.population)
        if not self.stopped:
            if layer._last is None:  # a state was loaded inside, after which no call can be differentiated
                self.last = None
            layer._last, self.stopped = self.last, True

    def remember(self, mean: Array, var: Array) -> None:
        """Give the layer these running statistics."""
        last = self.layer._last
        self.layer.load_state_dict(dict(zip(_STATISTICS, (mean, var), strict=True)), strict=False)
        # A call that was normalized by the old running statistics cannot be differentiated by the new ones.
        self.layer._last = last if isinstance(last, str) or getattr(last, "mean", None) is not None else None

    def undo(self) -> None:
        """Make the layer what it was."""
        self.stop()
        if self.fields["num_features"] is None:
            self.layer._forget_features()
        vars(self.layer).update(self.fields, _last=self.last)
        for name, values in self.contents.items():
            if values is not None:
                getattr(self.layer, name)[...] = values

    def has_values(self) -> bool:
        """Whether there is a channel whose statistics are known."""
        return self.population.shape is not None and bool(self._known().any())

    def statistics(self) -> tuple[Array, Array] | None:
        """Return the mean and the variance to remember, or None if nothing was given."""
        if not self.has_values():
            return None
        layer, population, known = self.layer, self.population, self._known()
        var = population.var(layer.correction)
        if layer.on_single == "biased":
            var = np.where(np.asarray(population.count) > layer.correction, var, population.var())
        if not (np.isfinite(population.mean) & np.isfinite(var))[known].all():
            name = f"layers[{self.position}]"
            raise ValueError(f"{name} must be given a finite mean and variance in every channel, got {population!r}")
        assert layer.running_mean is not None
        assert layer.running_var is not None
        mean = np.where(known, population.mean, layer.running_mean)
        return mean, np.where(known, var, layer.running_var)

    def _known(self) -> Array:
        least = 0 if self.layer.on_single == "biased" else self.layer.correction
        return np.broadcast_to(np.asarray(self.population.count) > least, self.population.mean.shape)


def _check_layers(layers: tuple[Any, ...]) -> None:
    if not layers:
        raise TypeError("layers must be at least one BatchNorm, got none")
    for i, layer in enumerate(layers):
        check_is_layer(f"layers[{i}]", layer)
        if not layer.track_running_stats:
            raise ValueError(f"layers[{i}] must have running statistics, got one with track_running_stats=False")


def _copy(array: Array | None) -> Array | None:
    return None if array is None else array.copy()
