"""The backward pass in two halves, between which the ranks exchange their sums.

With xhat = (x - mean) * invstd, dz the gradient of the affine map's result, and p the weight of each value::

    sums:      sum(dz * xhat), sum(dz)                                        over the rank's own values
    gradient:  dx = weight * invstd * (dz - p * (mean_dy + xhat * mean_dy_xhat))

where mean_dy and mean_dy_xhat are the sums over all ranks, divided by the sum of p over all ranks. The engine's
functions are used where it has them.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from fastbn import _core
from fastbn._validation import Axis, kept_axes
from fastbn.functional import batch_norm_backward
from fastbn.results import ResidualGradients

Array: TypeAlias = npt.NDArray[Any]

_engine_sums: Any = getattr(_core, "gradient_sums", None)
_engine_gradient: Any = getattr(_core, "input_gradient", None)


class Call(NamedTuple):
    """What the call was given and normalized by, and the gradient of its y."""

    dy: Array
    x: Array
    weight: Array | None
    bias: Array | None
    mean: Array
    invstd: Array
    axis: Axis
    where: Any
    weights: Any
    residual: Array | None
    activation: Any
    negative_slope: float

    def named(self) -> dict[str, Any]:
        """Return all but the four that stand in front, by name."""
        return {name: value for name, value in self._asdict().items() if name not in ("dy", "x", "weight", "bias")}


def gradient_sums(call: Call) -> tuple[Array, Array]:
    """Return sum(dz * xhat) and sum(dz) of each channel over the values of this call, in float64."""
    if _engine_sums is not None:
        sum_dy_xhat, sum_dy = _engine_sums(*call[:4], **call.named())
        return sum_dy_xhat, sum_dy
    # With statistics held fixed, the parameters' gradients are just these sums.
    fixed = batch_norm_backward(*call[:4], training=False, **call.named())
    return fixed.dweight, fixed.dbias


def input_gradient(call: Call, mean_dy: Array, mean_dy_xhat: Array) -> tuple[Array, ...]:
    """Return (dx,), or (dx, dresidual) where the call had a residual, given the means over all ranks."""
    if _engine_gradient is not None:
        given = {"mean_dy": mean_dy, "mean_dy_xhat": mean_dy_xhat, "out": None}
        return tuple(_engine_gradient(*call[:4], **call.named(), **given))
    x, dz = call.x, _affine_gradient(call)
    kept = kept_axes(call.axis, x.ndim)
    shape = [size if a in kept else 1 for a, size in enumerate(x.shape)]
    with np.errstate(all="ignore"):
        scale = call.invstd if call.weight is None else call.weight * call.invstd
        xhat = (x.astype(np.float64) - call.mean.reshape(shape)) * call.invstd.reshape(shape)
        through_statistics = mean_dy.reshape(shape) + xhat * mean_dy_xhat.reshape(shape)
        if call.where is not None or call.weights is not None:
            p = np.asarray(1.0 if call.weights is None else call.weights) * (True if call.where is None else call.where)
            through_statistics = np.where(p > 0, p * through_statistics, 0.0)
        dx = np.empty_like(x, dtype=call.dy.dtype, subok=False)
        dx[...] = scale.reshape(shape) * (dz.astype(np.float64) - through_statistics)
    return (dx,) if call.residual is None else (dx, dz)


def _affine_gradient(call: Call) -> Array:
    """Return dz: dy times the slope of the activation."""
    if call.activation is None:
        return call.dy
    # The gradient of a residual is dz. A residual of zeros changes no sign.
    added = np.zeros_like(call.dy) if call.residual is None else call.residual
    fixed = batch_norm_backward(*call[:4], training=False, **(call.named() | {"residual": added}))
    assert isinstance(fixed, ResidualGradients)
    return fixed.dresidual
