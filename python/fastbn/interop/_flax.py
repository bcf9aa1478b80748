"""Flax: ``nnx.BatchNorm`` modules, and the variables of ``linen.BatchNorm``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from fastbn._layer.batch_norm import BatchNorm
from fastbn.interop._common import check_layer, imported, layer_of, old_weight

# fastbn's names, and where linen's variables hold the same.
_VARIABLES = {
    "weight": ("params", "scale"),
    "bias": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
}


def from_flax(source: Any, module: Any = None) -> BatchNorm:
    """Return a layer that is Flax's batch normalization.

    Flax's ``momentum`` m is the weight of the old statistics, and its variance is biased: the layer has momentum
    ``1 - m`` and ``correction=0``.

    Parameters
    ----------
    source : nnx.BatchNorm or mapping
        A module of nnx; or the variables of one of linen: ``{"params": {"scale", "bias"}, "batch_stats": {"mean",
        "var"}}``, without the names of the modules that it is part of. Without scale and bias, if it has none.
    module : linen.BatchNorm, optional
        With variables: where momentum, epsilon and axis are taken from; linen's defaults (0.99, 1e-5, -1) if not given.

    Returns
    -------
    BatchNorm
        With copies of all arrays. In evaluation mode if the module has ``use_running_average=True``, else in training
        mode.

    Raises
    ------
    TypeError, ValueError
        If `source` is something else, or a variable is missing or unknown.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.interop import from_flax
    >>> layer = from_flax({"batch_stats": {"mean": np.zeros(2), "var": np.ones(2)}})
    >>> layer.affine, layer.axis, round(layer.momentum, 6), layer.correction
    (False, -1, 0.01, 0)
    """
    if isinstance(source, Mapping):
        arrays = _from_variables(source)
    else:
        nnx = imported("flax.nnx")
        if not isinstance(source, nnx.BatchNorm):
            raise TypeError(f"source must be variables or a flax.nnx.BatchNorm, got {type(source).__name__}")
        if module is not None:
            raise TypeError(f"module must be None where source is a module itself, got {type(module).__name__}")
        module = source
        held = {key: getattr(source, name) for key, (_, name) in _VARIABLES.items()}
        arrays = {key: None if value is None else np.asarray(value[...]) for key, value in held.items()}
    axis = getattr(module, "axis", -1)
    layer = layer_of(
        **arrays,
        axis=axis if isinstance(axis, int) else tuple(axis),
        eps=float(getattr(module, "epsilon", 1e-5)),
        momentum=old_weight(getattr(module, "momentum", 0.99)),
        correction=0,
    )
    return layer.train(not getattr(module, "use_running_average", False))


def to_flax(layer: BatchNorm, api: Literal["linen", "nnx"] = "linen") -> Any:
    """Return Flax's batch normalization that is a layer.

    Parameters
    ----------
    layer : BatchNorm
        With running statistics, a number for its momentum, and ``correction=0``.
    api : {"linen", "nnx"}, default "linen"
        Which of Flax's two kinds of modules.

    Returns
    -------
    (linen.BatchNorm, dict) or nnx.BatchNorm
        A module of linen and its variables, which are NumPy arrays of the layer's dtype; or a module of nnx in the
        layer's mode, in float32 unless ``jax_enable_x64`` is set. Both with ``use_fast_variance=False``, since the fast
        variance, E[x**2] - E[x]**2, loses digits. Frozen layers become modules that use their running averages.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        If Flax has no such module (see `fastbn.interop`), or the layer's features are undecided.
    """
    if api not in ("linen", "nnx"):
        error = ValueError if isinstance(api, str) else TypeError
        raise error(f"api must be 'linen' or 'nnx', got {api!r}")
    check_layer(layer, "Flax", correction=0)
    averages = layer.frozen or not layer.training
    options = {"axis": layer.axis, "momentum": old_weight(layer.momentum), "epsilon": layer.eps}
    options |= {"use_bias": layer.use_bias, "use_scale": layer.use_weight, "use_fast_variance": False}
    arrays = {key: value.copy() for key in _VARIABLES if (value := getattr(layer, key)) is not None}
    if api == "linen":
        variables: dict[str, dict[str, Any]] = {}
        for key, value in arrays.items():
            collection, name = _VARIABLES[key]
            variables.setdefault(collection, {})[name] = value
        module = imported("flax.linen").BatchNorm(param_dtype=layer.dtype, **options)
        return module.clone(use_running_average=True) if averages else module, variables
    if not isinstance(layer.num_features, int):
        raise ValueError(f"layer's axis must be one int for nnx, got {layer.axis}")
    nnx, numpy = imported("flax.nnx"), imported("jax.numpy")
    module = nnx.BatchNorm(layer.num_features, use_running_average=averages, rngs=nnx.Rngs(0), **options)
    kinds = {"params": nnx.Param, "batch_stats": nnx.BatchStat}
    wide = imported("jax").config.jax_enable_x64
    for key, value in arrays.items():
        collection, name = _VARIABLES[key]
        setattr(module, name, kinds[collection](numpy.asarray(value if wide else value.astype(np.float32))))
    return module


def _from_variables(source: Mapping[str, Any]) -> dict[str, Any]:
    known: dict[str, set[str]] = {"params": set(), "batch_stats": set()}
    for collection, name in _VARIABLES.values():
        known[collection].add(name)
    for collection, variables in source.items():
        if collection not in known or not isinstance(variables, Mapping) or set(variables) - known[collection]:
            shown = sorted(variables) if isinstance(variables, Mapping) else type(variables).__name__
            raise ValueError(f"source must hold linen's {known}, got {collection!r}: {shown}")
    missing = known["batch_stats"] - set(source.get("batch_stats", ()))
    if missing:
        raise ValueError(f"source must hold batch_stats of mean and var, got none of {sorted(missing)}")
    return {
        key: None if name not in source.get(collection, ()) else np.asarray(source[collection][name])
        for key, (collection, name) in _VARIABLES.items()
    }
