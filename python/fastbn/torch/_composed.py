"""Batch normalization composed of torch operations, in float64.

It serves where the compiled kernels do not: for gradients of gradients, in forward mode, under the transforms of
`torch.func`, and for masks and weights on other devices. Whatever torch can do with its own operations works here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_pop_interpreter_stack
from torch.autograd import forward_ad

from fastbn.torch import _kernels
from fastbn.torch._kernels import Inputs, Options


class Statistics(NamedTuple):
    """Mean, biased variance and sum of the weights of each channel, of shape (channels,)."""

    mean: Tensor
    var: Tensor
    count: Tensor  # shadows tuple.count, as meant


def forward(inputs: Inputs, options: Options, training: bool) -> Tensor:
    """Return y, and update running statistics that are given in training."""
    x, weight, bias, where, weights, residual, running_mean, running_var = inputs
    if training:
        mean, var, count = found = statistics(x, where, weights)
        update_running(inputs, options, found)
    else:
        mean, var, count = _wide(running_mean), _wide(running_var), None
    z = _affine(_xhat(x, mean, invstd_of(var, options.eps, count)), weight, bias, residual)
    return _activated(z, options).to(x.dtype)


def backward(
    dy: Tensor, inputs: Inputs, options: Options, constants: tuple[Tensor, ...] | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return dx, dweight, dbias and dresidual (of dy's type, and the second and third float64), for autograd to follow.

    `constants` are the mean and variance of evaluation; None in training, whose own are computed again, as functions
    of x.
    """
    x, weight, bias, where, weights, residual = inputs[:6]
    mean, var, count = (*constants, None) if constants is not None else statistics(x, where, weights)
    invstd = invstd_of(var, options.eps, count)
    xhat = _xhat(x, mean, invstd)
    dz = _wide(dy)
    if options.activation is not None:
        # NaN counts as positive, as it does to the kernels.
        dz = torch.where(_affine(xhat, weight, bias, residual).detach() <= 0, _slope_of(options) * dz, dz)
    axes = _reduced(x)
    dbias, dweight = dz.sum(axes), (dz * xhat).sum(axes)
    dxhat = dz
    if constants is None:
        p = _element_weights(x, where, weights)
        through = _along(dbias, x) + xhat * _along(dweight, x)
        if p is None:
            dxhat = dz - through / (x.numel() // max(1, x.shape[1]))
        else:  # a value of weight 0 may be NaN
            assert count is not None
            fraction = p / _along(torch.where(count > 0, count, 1), x)
            dxhat = dz - torch.where(p > 0, fraction * through, 0)
    scale = invstd if weight is None else invstd * _wide(weight)
    return (_along(scale, x) * dxhat).to(dy.dtype), dweight, dbias, dz.to(dy.dtype)


def statistics(x: Tensor, where: Tensor | None, weights: Tensor | None) -> Statistics:
    """Return the statistics of x, in two passes."""
    wide, axes, p = _wide(x), _reduced(x), _element_weights(x, where, weights)
    if p is None:
        mean = wide.mean(axes)
        count = torch.full_like(mean, math.prod(x.shape[axis] for axis in axes)).detach()
        return Statistics(mean, (wide - _along(mean, x)).square().mean(axes), count)
    count = p.sum(axes)
    divisor = torch.where(count > 0, count, 1)
    wide = torch.where(p > 0, wide, 0)  # a value of weight 0 may be NaN
    mean = (p * wide).sum(axes) / divisor
    return Statistics(mean, (p * (wide - _along(mean, x)).square()).sum(axes) / divisor, count)


def statistics_of(found: _kernels.Statistics) -> Statistics:
    """Return what the kernels have found as tensors."""
    mean, var, count = torch.from_numpy(found.mean), torch.from_numpy(found.var), found.count
    # Without weights it is one number.
    counts = torch.full_like(mean, count) if isinstance(count, int) else torch.from_numpy(count)
    return Statistics(mean, var, counts)


def update_running(inputs: Inputs, options: Options, found: Statistics) -> None:
    """Update running statistics that are given; those of channels without an unbiased variance are left as they are."""
    mean, var, count = (value.detach() for value in found)
    momentum = options.momentum
    for running, new in ((inputs.running_mean, mean), (inputs.running_var, var * (count / (count - 1)))):
        if running is not None:
            old = _wide(running)
            _assign(running, torch.where(count > 1, (1 - momentum) * old + momentum * new, old))


def _assign(running: Tensor, new: Tensor) -> None:
    """Copy into a tensor that may be the caller's own: under `torch.func.grad` methods may not change that."""
    functions = torch._C._functorch
    if not is_transformed() or functions.is_batchedtensor(new):
        running.copy_(new)
        return
    is_functional = torch._is_functional_tensor
    if not torch.compiler.is_compiling() and is_functional(new) and not is_functional(running):
        torch._sync(new)  # to torch.func.functionalize the running statistics are constants
        new = torch._from_functional_tensor(new)
    innermost = running
    while functions.is_gradtrackingtensor(innermost):
        innermost = functions.get_unwrapped(innermost)
    if not functions.is_batchedtensor(innermost):
        torch.add(new, 0, out=running)  # which out= may, but not in a batch
        return
    with temporarily_pop_interpreter_stack():
        _assign(innermost, functions.get_unwrapped(new))


def invstd_of(var: Tensor, eps: float, count: Tensor | None = None) -> Tensor:
    """Return 1 / sqrt(var + eps), and 0 where that sum, or the channel's count, is 0."""
    total = var + eps
    unusable = total == 0
    if count is not None:
        unusable = unusable | (count == 0)
    return torch.where(unusable, 0, torch.where(unusable, 1, total).rsqrt())


def is_transformed() -> bool:
    """Return whether a transform of `torch.func`, or forward mode, is at work."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def epilogue_of(z: Tensor, residual: Tensor | None, options: Options) -> Tensor:
    """Return z with the residual added, activated."""
    return _activated(z if residual is None else z + residual, options)


def _wide(values: Tensor | None) -> Tensor:
    assert values is not None
    # Metal knows no float64.
    return values.to(torch.float32 if values.device.type == "mps" else torch.float64)


def _reduced(x: Tensor) -> list[int]:
    return [axis for axis in range(x.dim()) if axis != 1]


def _along(values: Tensor, x: Tensor) -> Tensor:
    """Return values of the channels in the shape that broadcasts against x."""
    return values.reshape([1, -1] + [1] * (x.dim() - 2))


def _element_weights(x: Tensor, where: Tensor | None, weights: Tensor | None) -> Tensor | None:
    if where is None and weights is None:
        return None
    p = _wide(torch.ones((), device=x.device) if weights is None else weights).expand(x.shape)
    return p if where is None else torch.where(where, p, 0)


def _xhat(x: Tensor, mean: Tensor, invstd: Tensor) -> Tensor:
    return (_wide(x) - _along(mean, x)) * _along(invstd, x)


def _affine(xhat: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None) -> Tensor:
    z = xhat if weight is None else xhat * _along(_wide(weight), xhat)
    if bias is not None:
        z = z + _along(_wide(bias), xhat)
    return z if residual is None else z + _wide(residual)


def _activated(z: Tensor, options: Options) -> Tensor:
    if options.activation is None:
        return z
    if options.activation == "relu":
        return torch.relu(z)
    return torch.nn.functional.leaky_relu(z, _slope_of(options))


def _slope_of(options: Options) -> float:
    """Return the slope of an activation below 0; KeyError for one that is not linear there."""
    return {"relu": 0.0, "leaky_relu": options.negative_slope}[str(options.activation)]
