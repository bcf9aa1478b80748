"""The compiled extension's functions on arrays: the one file here that knows the lists of their arguments.

Everything is an array or a number; axis 1 holds the channels. What an argument means stands in `fastbn.functional`.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from fastbn import _core

Array: TypeAlias = npt.NDArray[Any]
Floats: TypeAlias = npt.NDArray[np.float64]

_AXIS = 1


class Epilogue(NamedTuple):
    """What follows the affine map, but for the residual."""

    activation: str | None = None
    negative_slope: float = 0.01


class Saved(NamedTuple):
    """What the backward pass needs of the forward one besides its tensors."""

    mean: Floats
    invstd: Floats
    weight_sum: Floats | None  # of each channel; None without weights


def train(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    momentum: float,
    eps: float,
    where: Array | None,
    weights: Array | None,
    residual: Array | None,
    epilogue: Epilogue,
) -> tuple[Array, Floats, Floats, Floats, int | Floats]:
    """Return y, mean, var, invstd and count; update running statistics that are given."""
    return _core.batch_norm_train(
        x,
        weight,
        bias,
        eps,
        _AXIS,
        None,
        None,
        where,
        weights,
        residual,
        *epilogue,
        running_mean,
        running_var,
        momentum,
    )


def infer(
    x: Array,
    mean: Array,
    var: Array,
    weight: Array | None,
    bias: Array | None,
    eps: float,
    residual: Array | None,
    epilogue: Epilogue,
    out: Array | None = None,
    mean_lo: Array | None = None,
) -> Array:
    """Normalize x by statistics that are given."""
    return _core.normalize(x, mean, var, weight, bias, eps, _AXIS, None, out, residual, *epilogue, mean_lo=mean_lo)


def backward(
    dy: Array,
    x: Array,
    weight: Array | None,
    bias: Array | None,
    saved: Saved,
    training: bool,
    where: Array | None,
    weights: Array | None,
    residual: Array | None,
    epilogue: Epilogue,
) -> tuple[Array, Floats, Floats, Array | None]:
    """Return dx, dweight, dbias and dresidual; the last is None without a residual."""
    return _core.batch_norm_backward(
        dy,
        x,
        weight,
        bias,
        *saved,
        _AXIS,
        training,
        None,
        where,
        weights,
        residual,
        *epilogue,
    ) + ((None,) if residual is None else ())  # type: ignore[return-value]


def moments(x: Array, where: Array | None, weights: Array | None) -> tuple[int | Floats, Floats, Floats, Floats]:
    """Return count, mean, m2 and the low part of mean."""
    return _core.moments(x, axis=_AXIS, where=where, weights=weights)[:4]


def gradient_sums(
    dy: Array,
    x: Array,
    weight: Array | None,
    bias: Array | None,
    saved: Saved,
    residual: Array | None,
    epilogue: Epilogue,
) -> tuple[Floats, Floats]:
    """Return sum(dy * xhat) and sum(dy) of each channel, dy behind the activation."""
    return _core.gradient_sums(
        dy,
        x,
        weight,
        bias,
        mean=saved.mean,
        invstd=saved.invstd,
        axis=_AXIS,
        residual=residual,
        **epilogue._asdict(),
    )


def input_gradient(
    dy: Array,
    x: Array,
    weight: Array | None,
    bias: Array | None,
    saved: Saved,
    means: Floats,
    where: Array | None,
    weights: Array | None,
    residual: Array | None,
    epilogue: Epilogue,
) -> tuple[Array, Array | None]:
    """Return dx and dresidual, given what `gradient_sums` returned for all values, divided by their number.

    With p the weight of an element (1 without where and weights) and dz dy behind the activation::

        dx = weight * invstd * (dz - p * (means[1] + xhat * means[0]))

    dresidual is None where it is dy itself, and without a residual.
    """
    dx, *dresidual = _core.input_gradient(
        dy,
        x,
        weight,
        bias,
        mean=saved.mean,
        invstd=saved.invstd,
        mean_dy=means[1],
        mean_dy_xhat=means[0],
        axis=_AXIS,
        where=where,
        weights=weights,
        residual=residual,
        **epilogue._asdict(),
    )
    return dx, dresidual[0] if dresidual and epilogue.activation is not None else None
