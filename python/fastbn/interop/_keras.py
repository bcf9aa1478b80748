"""Keras 3's ``BatchNormalization``, on any of its backends."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastbn._layer.batch_norm import BatchNorm
from fastbn.interop._common import check_layer, checked_ndim, imported, layer_of, old_weight

_NAMES = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def from_keras(layer: Any) -> BatchNorm:
    """Return a layer that is a Keras layer of batch normalization.

    Keras's ``momentum`` m is the weight of the old statistics, and its ``moving_variance`` is biased: the layer has
    momentum ``1 - m`` and ``correction=0``.

    Parameters
    ----------
    layer : keras.layers.BatchNormalization
        Without ``renorm``, for which Keras keeps a second pair of statistics.

    Returns
    -------
    BatchNorm
        With copies of all arrays, in training mode; frozen, its parameters too, if ``layer.trainable`` is False. Of a
        Keras layer that is not built yet, one whose features are undecided.

    Raises
    ------
    TypeError, ValueError
        If the layer is something else, or has ``renorm``.
    """
    keras = imported("keras")
    if not isinstance(layer, keras.layers.BatchNormalization):
        hint = " (give each of a model's)" if isinstance(layer, keras.Model) else ""
        raise TypeError(f"layer must be a keras.layers.BatchNormalization, got {type(layer).__name__}{hint}")
    if layer.renorm:
        raise ValueError(f"layer must have renorm=False, since Keras keeps other statistics for it, got {layer.renorm}")
    options: dict[str, Any] = {"eps": layer.epsilon, "momentum": old_weight(layer.momentum), "correction": 0}
    if layer.built:
        variables = [getattr(layer, name) for name in _NAMES.values()]
        arrays = [None if each is None else keras.ops.convert_to_numpy(each) for each in variables]
        result = layer_of(*arrays, axis=layer.axis, **options)
    else:
        dtype = np.float64 if layer.variable_dtype == "float64" else np.float32
        options |= {"use_weight": bool(layer.scale), "use_bias": bool(layer.center)}
        result = BatchNorm(axis=layer.axis, dtype=dtype, **options)
    return result if layer.trainable else result.freeze(parameters=True)


def to_keras(layer: BatchNorm, *, ndim: int) -> Any:
    """Return a Keras layer that is a layer.

    Parameters
    ----------
    layer : BatchNorm
        With one feature axis, running statistics, a number for its momentum, and ``correction=0``.
    ndim : int
        How many dimensions x has, for which Keras layers are built: 4 for images.

    Returns
    -------
    keras.layers.BatchNormalization
        Built, with arrays of its own, of the layer's dtype; ``trainable`` is False if the layer is frozen. Modes are
        arguments of its call.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        If Keras has no such layer (see `fastbn.interop`), or the layer is frozen and its parameters are not, or its
        features are undecided.
    """
    check_layer(layer, "Keras", correction=0)
    ndim = checked_ndim(ndim, layer.axis)
    if layer.frozen and not layer.frozen_parameters:
        raise ValueError("layer must be frozen with its parameters for Keras, got frozen_parameters=False")
    keras = imported("keras")
    result = keras.layers.BatchNormalization(
        axis=layer.axis,
        momentum=old_weight(layer.momentum),
        epsilon=layer.eps,
        center=layer.use_bias,
        scale=layer.use_weight,
        dtype=layer.dtype.name,
    )
    features = range(ndim)[layer.axis] if isinstance(layer.axis, int) else None
    result.build(tuple(layer.num_features if a == features else None for a in range(ndim)))
    for key, name in _NAMES.items():
        variable = getattr(result, name)
        if variable is not None:
            variable.assign(getattr(layer, key))
    result.trainable = not layer.frozen
    return result
