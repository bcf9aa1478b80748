"""The operations ``torch.ops.fastbn.*``: how compilers, exported programs and tensors without memory see the kernels.

None of them writes to an argument. Running statistics are updated beside them by torch's own operations, which a
compiler can see and fuse.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastbn.torch import _composed, _kernels
from fastbn.torch._kernels import Array, Inputs, Options, Statistics, array_of


def batch_norm(inputs: Inputs, options: Options, training: bool) -> Tensor:
    """Return y, and update running statistics that are given in training."""
    x, weight, bias, _, _, residual, running_mean, running_var = inputs
    if (running_mean is None) is not (running_var is None):
        raise ValueError("running_mean and running_var must either both be None or neither be None")
    _kernels.check_running_dtypes(inputs)
    y: Tensor
    if training:
        y, mean, var, _, count = torch.ops.fastbn.batch_norm_train(*inputs[:6], *options[:3])
        _composed.update_running(inputs, options, _composed.Statistics(mean, var, count))
        return y
    y = torch.ops.fastbn.batch_norm_infer(x, running_mean, running_var, weight, bias, residual, *options[:3])
    return y


def as_wanted(
    gradients: tuple[Tensor | None, ...], dy: Tensor, options: Options, wanted: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Return the gradients of x, weight, bias and residual that are `wanted`; autograd gives them the inputs' types.

    That of the residual is dy where no activation stands between them.
    """
    dx, dweight, dbias, dresidual = gradients
    if options.activation is None:
        dresidual = dy
    return (
        dx if wanted[0] else None,
        dweight if wanted[1] else None,
        dbias if wanted[2] else None,
        dresidual if wanted[3] else None,
    )


# Training.


@torch.library.custom_op(
    "fastbn::batch_norm_train",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor x, Tensor? weight, Tensor? bias, Tensor? where, Tensor? weights, Tensor? residual, float eps,"
    " str? activation, float negative_slope) -> (Tensor y, Tensor mean, Tensor var, Tensor invstd, Tensor count)",
)
def _train(*arguments: Any) -> tuple[Tensor, ...]:
    inputs, options = Inputs(*arguments[:6]), Options(*arguments[6:])
    y, statistics = _kernels.train(inputs, options)
    mean, var, count = _composed.statistics_of(statistics)
    return _strided_like(y, inputs.x), mean, var, torch.from_numpy(statistics.invstd), count


@_train.register_fake
def _(x: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return torch.empty_like(x), *(x.new_empty(x.shape[1], dtype=torch.float64) for _ in range(4))


def _save_training(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, mean, var, invstd, count = output
    ctx.mark_non_differentiable(mean, var, invstd, count)
    ctx.set_materialize_grads(False)
    ctx.options = Options(*inputs[6:])
    ctx.save_for_backward(*_kernels.for_backward(inputs[:6], ctx.options), mean, invstd, count)


def _through_training(ctx: Any, dy: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if dy is None:
        return (None,) * 9
    *inputs, mean, invstd, count = ctx.saved_tensors
    x, weight, bias, _, _, residual, *_ = ctx.needs_input_grad
    wanted = x, weight, bias, residual
    *others, dresidual = _gradients(dy, Inputs(*inputs), ctx.options, (mean, invstd, count), None, wanted)
    return *others, None, None, dresidual, None, None, None


_train.register_autograd(_through_training, setup_context=_save_training)


# Inference.


@torch.library.custom_op(
    "fastbn::batch_norm_infer",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor x, Tensor mean, Tensor var, Tensor? weight, Tensor? bias, Tensor? residual, float eps,"
    " str? activation, float negative_slope) -> Tensor",
)
def _infer(x: Tensor, mean: Tensor, var: Tensor, weight: Any, bias: Any, residual: Any, *options: Any) -> Tensor:
    y, _ = _kernels.infer(Inputs(x, weight, bias, None, None, residual, mean, var), Options(*options))
    return _strided_like(y, x)


@_infer.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


def _save_inference(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, mean, var, weight, bias, residual, *options = inputs
    ctx.options = Options(*options)
    ctx.save_for_backward(*_kernels.for_backward((x, weight, bias, None, None, residual), ctx.options), mean, var)


def _through_inference(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, mean, var = ctx.saved_tensors
    mean, var = mean.to(torch.float64), var.to(torch.float64)
    statistics = mean, _composed.invstd_of(var, ctx.options.eps), None
    x, _, _, *wanted = ctx.needs_input_grad[:6]
    dx, *others = _gradients(dy, Inputs(*inputs), ctx.options, statistics, (mean, var), (x, *wanted))
    return dx, None, None, *others, None, None, None


_infer.register_autograd(_through_inference, setup_context=_save_inference)


# Backward.


def _gradients(
    dy: Tensor,
    inputs: Inputs,
    options: Options,
    statistics: tuple[Tensor | None, ...],
    constants: tuple[Tensor, ...] | None,
    wanted: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """Return those that are `wanted`; `constants` are mean and variance of inference, None in training."""
    if torch.is_grad_enabled():
        found = _composed.backward(dy, inputs, options, constants)
    else:
        x, weight, bias, *others = inputs[:6]
        found = torch.ops.fastbn.batch_norm_backward(
            dy, x, weight, bias, *statistics, *others, constants is None, *options[1:3]
        )
    return as_wanted(found, dy, options, wanted)


@torch.library.custom_op(
    "fastbn::batch_norm_backward",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor dy, Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor invstd, Tensor? count,"
    " Tensor? where, Tensor? weights, Tensor? residual, bool training, str? activation, float negative_slope)"
    " -> (Tensor dx, Tensor dweight, Tensor dbias, Tensor dresidual)",
)
def _backward(dy: Tensor, x: Tensor, weight: Any, bias: Any, *others: Any) -> tuple[Tensor, ...]:
    mean, invstd, count, where, weights, residual, training, *epilogue = others
    options = Options(0.0, *epilogue)
    inputs = Inputs(*_kernels.for_backward((x, weight, bias, where, weights, residual), options))
    mean, invstd, count = map(array_of, (mean, invstd, count))
    dx, dweight, dbias, dresidual = _kernels.backward(
        dy, inputs, Statistics(mean, mean, invstd, count), options, training
    )
    return (
        _strided_like(dx, x),
        torch.from_numpy(dweight),
        torch.from_numpy(dbias),
        dy.new_empty(0) if dresidual is None else _strided_like(dresidual, x),
    )


@_backward.register_fake
def _(dy: Tensor, x: Tensor, *others: Any) -> tuple[Tensor, ...]:
    residual, activation = others[7], others[9]
    has_own = residual is not None and activation is not None
    channels = [x.new_empty(x.shape[1], dtype=torch.float64) for _ in range(2)]
    return torch.empty_like(x), *channels, torch.empty_like(x) if has_own else dy.new_empty(0)


def _strided_like(array: Array, x: Tensor) -> Tensor:
    """Return the array as a tensor with the strides that ``torch.empty_like`` gives, as the fake operations promise."""
    found, wanted = _kernels.tensor_like(array, x), torch.empty_like(x, device="meta").stride()
    if found.stride() == wanted:
        return found
    return found.new_empty_strided(x.shape, wanted).copy_(found)
