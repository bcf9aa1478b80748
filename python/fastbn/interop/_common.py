"""What all conversions share: a layer made of arrays, and checks that another library can express a layer."""

from __future__ import annotations

import importlib
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fastbn._layer.batch_norm import BatchNorm, check_is_layer
from fastbn._validation import checked_int

Array: TypeAlias = npt.NDArray[Any]


def imported(name: str) -> Any:
    """Return a library's module, or say how to get it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        library = name.partition(".")[0]
        raise ImportError(f'fastbn.interop needs {library} for this: pip install "fastbn[interop]"') from error


def layer_of(
    weight: Array | None,
    bias: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    *,
    axis: int | tuple[int, ...] = 1,
    tracked: int = 0,
    **options: Any,
) -> BatchNorm:
    """Return a layer of these arrays, in float64 if one of them is, else in float32."""
    state = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}
    given = {key: value for key, value in state.items() if value is not None}
    dtype = np.float64 if any(value.dtype == np.float64 for value in given.values()) else np.float32
    features = next((value.shape if isinstance(axis, tuple) else value.shape[0] for value in given.values()), None)
    parts = {"use_weight": weight is not None, "use_bias": bias is not None}
    track = running_mean is not None
    options |= parts
    layer = BatchNorm(features, axis=axis, track_running_stats=track, dtype=dtype, **options)
    wide = {
        key: value if value.dtype in (np.float32, np.float64) else value.astype(dtype) for key, value in given.items()
    }
    layer.load_state_dict(wide | ({"num_batches_tracked": tracked} if track else {}))
    return layer


def check_layer(
    layer: Any, library: str, *, correction: float | None = None, axis: int | None = None, activation: bool = False
) -> None:
    """Raise unless the layer has features, and nothing but what the library has too.

    `correction` and `axis` are the library's only ones, where it has no others; `activation` says whether it has those.
    """
    check_is_layer("layer", layer)
    if layer.num_features is None:
        raise RuntimeError("layer must have its features decided by a batch or a state, got None")
    if isinstance(layer.axis, tuple) and library != "Flax":
        raise ValueError(f"layer's axis must be one int for {library}, got {layer.axis}")
    if axis is not None and layer.axis != axis:
        raise ValueError(f"layer's axis must be {axis} for {library}, got {layer.axis}")
    if callable(layer.momentum) or (layer.momentum is None and library != "PyTorch"):
        raise ValueError(f"layer's momentum must be a number for {library}, got {layer.momentum!r}")
    if layer.renorm is not None:
        raise ValueError(f"layer's renorm must be None for {library}, got {layer.renorm!r}")
    if layer.activation is not None and not activation:
        raise ValueError(f"layer's activation must be None for {library}, got {layer.activation!r}")
    if not layer.track_running_stats and library != "PyTorch":
        raise ValueError(f"layer's track_running_stats must be True for {library}, got {layer.track_running_stats}")
    if correction is not None and layer.track_running_stats and layer.correction != correction:
        kind = "unbiased" if correction else "biased"
        rule = f"be {correction} for {library}, which remembers the {kind} variance"
        raise ValueError(f"layer's correction must {rule}, got {layer.correction}: set it if that is meant")


def checked_ndim(ndim: Any, axis: int | tuple[int, ...]) -> int:
    """Return a number of dimensions, if arrays of so many have this feature axis."""
    number = checked_int("ndim", ndim)
    if number < 2 or axis not in range(-number, number):
        raise ValueError(f"ndim must be at least 2 and have {axis} as an axis, got {ndim!r}")
    return number


def old_weight(momentum: Any) -> float:
    """Return the weight of the old running statistics; and the other way round."""
    return 1.0 - float(momentum)
