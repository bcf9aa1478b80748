"""The compiled kernels on tensors, whose memory they share: what a call holds, and the extension's functions of it.

Axis 1 holds the channels. Arguments are tensors; results are arrays, new memory in x's order, and statistics of shape
(channels,). What an argument means stands in `fastbn.functional`.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastbn import _core

Array: TypeAlias = npt.NDArray[Any]
Floats: TypeAlias = npt.NDArray[np.float64]

# Other classes of tensors have rules of their own.
_PLAIN_TYPES = (Tensor, torch.nn.Parameter)
PLAIN = frozenset(_PLAIN_TYPES)

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

_get_num_threads = torch.get_num_threads

# A call is these two, and whether it is one of training.


class Inputs(NamedTuple):
    """The tensors of a call: first those that backward may need."""

    x: Tensor
    weight: Tensor | None = None
    bias: Tensor | None = None
    where: Tensor | None = None
    weights: Tensor | None = None
    residual: Tensor | None = None
    running_mean: Tensor | None = None
    running_var: Tensor | None = None


class Options(NamedTuple):
    """The numbers of a call, and the activation."""

    eps: float
    activation: str | None = None
    negative_slope: float = 0.01
    momentum: float = 0.0


class Statistics(NamedTuple):
    """What x was normalized by."""

    mean: Floats
    var: Floats
    invstd: Floats | None  # None where var was given: it is computed when backward asks for it
    count: int | Floats | None = None  # type: ignore[assignment]  # shadows tuple.count, as meant


def for_backward(inputs: tuple[Tensor | None, ...], options: Options) -> tuple[Tensor | None, ...]:
    """Return the first six, of which backward needs these: only an activation asks for the bias and the residual."""
    x, weight, bias, where, weights, residual = inputs[:6]
    if options.activation is None:
        bias = residual = None
    return x, weight, bias, where, weights, residual


def check_running_dtypes(inputs: Inputs) -> None:
    """Refuse running statistics that are not floating, as torch does."""
    for each in inputs.running_mean, inputs.running_var:
        if each is not None and not each.dtype.is_floating_point:
            raise TypeError(f"running_mean and running_var must be of a floating-point type, got {each.dtype}")


def train(inputs: Inputs, options: Options) -> tuple[Array, Statistics]:
    """Return y and the batch's statistics; update running statistics that are given."""
    x, weight, bias, where, weights, residual, mean, var = _arrays_of(inputs)
    eps, activation, slope, momentum = options
    _core.follow_threads(_get_num_threads())
    y, batch_mean, batch_var, invstd, count = _core.batch_norm_train(
        x, weight, bias, eps, 1, where, weights, residual, activation, slope, None, None, mean, var, momentum
    )
    return y, Statistics(batch_mean, batch_var, invstd, count)


def infer(inputs: Inputs, options: Options, mean_lo: Floats | None = None) -> tuple[Array, Statistics]:
    """Return x normalized by the running statistics, and copies of these, which may change before backward."""
    x, weight, bias, _, _, residual, mean, var = _arrays_of(inputs)
    eps, activation, slope, _ = options
    _core.follow_threads(_get_num_threads())
    y = _core.normalize(x, mean, var, weight, bias, eps, 1, None, residual, activation, slope, mean_lo=mean_lo)
    return y, Statistics(mean.astype(np.float64), var.astype(np.float64), None)


def backward(
    dy: Tensor, inputs: Inputs, statistics: Statistics, options: Options, training: bool
) -> tuple[Array, Floats, Floats, Array | None]:
    """Return dx, dweight, dbias and dresidual; the last is None where it is dy itself, and without a residual."""
    g, x, weight, bias, where, weights, residual = _arrays_for_backward(dy, inputs)
    mean, var, invstd, count = statistics
    eps, activation, slope, _ = options
    if invstd is None:
        invstd = invstd_of(var, eps)
    if isinstance(count, int):  # without weights
        count = None
    dx, dweight, dbias, *dresidual = _core.batch_norm_backward(
        g, x, weight, bias, mean, invstd, count, 1, training, where, weights, residual, activation, slope
    )
    return dx, dweight, dbias, dresidual[0] if dresidual else None


def moments(inputs: Inputs) -> Floats:
    """Return count, mean, m2 and the low part of mean, each a row."""
    x, where, weights = _arrays_of((inputs.x, inputs.where, inputs.weights))
    _core.follow_threads(_get_num_threads())
    count, *others = _core.moments(x, where=where, weights=weights)[:4]
    return np.stack([np.broadcast_to(np.float64(count), others[0].shape), *others])


def gradient_sums(dy: Tensor, inputs: Inputs, statistics: Statistics, options: Options) -> tuple[Floats, Floats]:
    """Return sum(dy * xhat) and sum(dy) of each channel, dy behind the activation."""
    g, x, weight, bias, _, _, residual = _arrays_for_backward(dy, inputs)
    mean, _, invstd, _ = statistics
    return _core.gradient_sums(g, x, weight, bias, mean, invstd, 1, None, None, residual, *options[1:3])


def input_gradient(
    dy: Tensor, inputs: Inputs, statistics: Statistics, options: Options, mean_dy_xhat: Floats, mean_dy: Floats
) -> tuple[Array, Array | None]:
    """Return dx and dresidual, given what `gradient_sums` returned for all values, divided by their number.

    With p the weight of an element (1 without where and weights) and dz dy behind the activation::

        dx = weight * invstd * (dz - p * (mean_dy + xhat * mean_dy_xhat))

    dresidual is None where it is dy itself, and without a residual.
    """
    g, x, weight, bias, where, weights, residual = _arrays_for_backward(dy, inputs)
    mean, _, invstd, _ = statistics
    dx, *dresidual = _core.input_gradient(
        g, x, weight, bias, mean, invstd, mean_dy, mean_dy_xhat, 1, None, where, weights, residual, *options[1:3]
    )
    return dx, dresidual[0] if dresidual else None


def invstd_of(var: Floats, eps: float) -> Floats:
    """Return 1 / sqrt(var + eps), and 0 where that sum is 0."""
    total = var + eps
    with np.errstate(divide="ignore", invalid="ignore"):
        invstd: Floats = np.where(total == 0, 0.0, 1 / np.sqrt(total))
    return invstd


# Tensors as arrays, and back.


def array_of(tensor: Tensor | None) -> Any:
    """Return the tensor's memory as an array, to be used before that is resized or freed; None for None.

    Of a tensor whose memory holds its values negated it is a copy. Raises RuntimeError, BufferError or TypeError where
    there is no memory to read.
    """
    if tensor is None:
        return None
    if tensor.is_neg():  # the imaginary part of a conjugate, say
        tensor = tensor.detach().resolve_neg()
    if type(tensor) in PLAIN:  # a fifth of the time that numpy() takes
        array = _core.from_exchange_api(tensor)
        if array is not None:
            return array
    return tensor.detach().numpy()


def _arrays_of(tensors: tuple[Tensor | None, ...]) -> tuple[Any, ...]:
    """Return `array_of` for each, by one call of the extension where all are simple: finding functions takes longest.

    Tensors of one type should be neighbours: functions are looked for again where the type changes.
    """
    arrays = _core.exchanged_arrays(tensors, _PLAIN_TYPES)
    return tuple(map(array_of, tensors)) if arrays is None else arrays


def _arrays_for_backward(dy: Tensor, inputs: Inputs) -> tuple[Any, ...]:
    """Return the gradient and the inputs, the gradient in x's memory order unless it is expanded.

    Where the orders differ the kernels read dy one value at a time; torch's copy is several times as fast.
    """
    x = inputs.x
    if dy.stride() != x.stride() and 0 not in dy.stride():
        dy = torch.empty_like(x).copy_(dy)
    return _arrays_of((dy, *inputs[:6]))


def tensor_like(array: Array, like: Tensor) -> Tensor:
    """Return the array's memory as a tensor of the type and order of another."""
    found = _core.exchanged_objects((array,), (like,))
    if found is not None:
        tensor: Tensor = found[0]
        return tensor
    if array.dtype == _BFLOAT16:  # which torch takes from NumPy as integers
        tensor = torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    else:
        tensor = torch.from_numpy(array)
    # Strides along axes of size 1 address nothing, but torch tells channels-last tensors from others by them.
    formats = torch.contiguous_format, torch.channels_last, torch.channels_last_3d
    is_ordered = any(like.is_contiguous(memory_format=each) for each in formats)
    return tensor.as_strided(like.shape, like.stride()) if is_ordered else tensor
