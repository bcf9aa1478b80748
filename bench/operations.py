"""The call of fastbn's public functions that does an operation on a case's data; the library itself is an argument."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from data import EPS, Array, Data

# The layer and the function with running statistics, whose cost beside the operation is that of a small call.
STATEFUL = ("batch_norm", "layer train", "layer eval", "layer backward")

Call = Callable[[], Any]


def call_of(library: Any, op: str, data: Data, out: Array | None = None) -> Call:
    """Return a call that is ready to be timed.

    Parameters
    ----------
    library : module
        A fastbn, imported.
    op : str
        One of ``cases.OPS`` or of `STATEFUL`; the latter take no options and allocate their results.
    out : ndarray, optional
        Where y or dx goes.
    """
    if op in STATEFUL:
        return _stateful(library, op, data)
    axis = data.case.axis
    counted = _given({"where": data.where, "weights": data.weights})
    fused = _given({"residual": data.residual, "activation": "relu" if data.variant.relu else None})
    if op == "moments":
        return partial(library.moments, data.x, axis=axis, **counted)
    affine = data.weight, data.bias
    if op == "eval":
        running = data.running_mean, data.running_var
        return partial(library.normalize, data.x, *running, *affine, eps=EPS, axis=axis, out=out, **fused)
    options = {"axis": axis, **counted, **fused}
    train = partial(library.batch_norm_train, data.x, *affine, eps=EPS, **options)
    if op == "train":
        return partial(train, out=out)
    saved = train()
    known = affine if fused else affine[:1]  # the bias is asked for only where an activation follows it
    backward = partial(library.batch_norm_backward, data.dy, data.x, *known, **options)
    return partial(backward, mean=saved.mean, invstd=saved.invstd, out=out)


def arrays_of(op: str, result: Any) -> dict[str, Array]:
    """Return the arrays of what such a call returned, by name."""
    if op in ("eval", "batch_norm", "layer train", "layer eval"):
        return {"y": result}
    if op == "layer backward":
        return {"dx": result}
    if op == "moments":
        return {"count": np.asarray(result.count), "mean": result.mean, "m2": result.m2}
    return {name: np.asarray(value) for name, value in result._asdict().items()}


def _stateful(library: Any, op: str, data: Data) -> Call:
    axis = data.case.axis
    if op == "batch_norm":
        running = np.zeros(data.case.channels), np.ones(data.case.channels)
        return partial(library.batch_norm, data.x, *running, data.weight, data.bias, training=True, eps=EPS, axis=axis)
    layer = library.BatchNorm(data.case.channels, axis=axis, eps=EPS)
    layer(data.x)
    if op == "layer backward":
        return partial(layer.backward, data.dy)
    layer.train(op == "layer train")
    return partial(layer, data.x)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
