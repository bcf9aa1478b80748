"""The operations ``torch.ops.fastbn.*``: how compilers, exported programs and tensors without memory see the kernels.

None of them writes to an argument. Running statistics are updated beside them by torch's own operations, which a
compiler can see and fuse.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastbn.torch import _calls, _composed
from fastbn.torch._arguments import Arguments
from fastbn.torch._arrays import array_of, check_running_dtypes, tensor_of
from fastbn.torch._calls import Epilogue, Saved
from fastbn.torch._composed import Statistics


def batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, arguments: Arguments
) -> Tensor:
    """Return y, and update running statistics that are given in training."""
    running_mean, running_var, training, momentum, eps, where, weights, epilogue = arguments
    if (running_mean is None) is not (running_var is None):
        raise ValueError("running_mean and running_var must either both be None or neither be None")
    check_running_dtypes(running_mean, running_var)
    if not training:
        y: Tensor = torch.ops.fastbn.batch_norm_infer(
            x, running_mean, running_var, weight, bias, residual, eps, *epilogue
        )
        return y
    y, mean, var, _, count = torch.ops.fastbn.batch_norm_train(
        x, weight, bias, where, weights, residual, eps, *epilogue
    )
    if running_mean is not None and running_var is not None:
        _composed.update_running(running_mean, running_var, Statistics(mean, var, count), momentum)
    return y


# Training.


@torch.library.custom_op(
    "fastbn::batch_norm_train",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor x, Tensor? weight, Tensor? bias, Tensor? where, Tensor? weights, Tensor? residual, float eps,"
    " str? activation, float negative_slope) -> (Tensor y, Tensor mean, Tensor var, Tensor invstd, Tensor count)",
)
def _train(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    where: Tensor | None,
    weights: Tensor | None,
    residual: Tensor | None,
    eps: float,
    activation: str | None,
    negative_slope: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    y, mean, var, invstd, count = _calls.train(
        array_of(x),
        array_of(weight),
        array_of(bias),
        None,
        None,
        0.0,
        eps,
        array_of(where),
        array_of(weights),
        array_of(residual),
        Epilogue(activation, negative_slope),
    )
    channels = torch.from_numpy(mean)
    counts = torch.full_like(channels, count) if isinstance(count, int) else torch.from_numpy(count)
    return _strided_like(y, x), channels, torch.from_numpy(var), torch.from_numpy(invstd), counts


@_train.register_fake
def _(x: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return torch.empty_like(x), *(x.new_empty(x.shape[1], dtype=torch.float64) for _ in range(4))


def _save_training(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, bias, where, weights, residual, ctx.eps, *epilogue = inputs
    bias, residual = (None, None) if epilogue[0] is None else (bias, residual)  # only an activation asks for them
    _, mean, var, invstd, count = output
    ctx.mark_non_differentiable(mean, var, invstd, count)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight, bias, where, weights, residual, mean, invstd, count)
    ctx.epilogue = Epilogue(*epilogue)


def _through_training(ctx: Any, dy: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    x, weight, bias, where, weights, residual, mean, invstd, count = ctx.saved_tensors
    if dy is None:
        return (None,) * 9
    if torch.is_grad_enabled():
        gradients = _composed.backward(dy, x, weight, bias, None, ctx.eps, where, weights, residual, ctx.epilogue)
    else:
        gradients = torch.ops.fastbn.batch_norm_backward(
            dy, x, weight, bias, mean, invstd, count, where, weights, residual, True, *ctx.epilogue
        )
    dx, dweight, dbias, dresidual = _as_wanted(gradients, dy, ctx.needs_input_grad, (0, 1, 2, 5), ctx.epilogue)
    return dx, dweight, dbias, None, None, dresidual, None, None, None


_train.register_autograd(_through_training, setup_context=_save_training)


# Inference.


@torch.library.custom_op(
    "fastbn::batch_norm_infer",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor x, Tensor mean, Tensor var, Tensor? weight, Tensor? bias, Tensor? residual, float eps,"
    " str? activation, float negative_slope) -> Tensor",
)
def _infer(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    eps: float,
    activation: str | None,
    negative_slope: float,
) -> Tensor:
    y = _calls.infer(
        array_of(x),
        array_of(mean),
        array_of(var),
        array_of(weight),
        array_of(bias),
        eps,
        array_of(residual),
        Epilogue(activation, negative_slope),
    )
    return _strided_like(y, x)


@_infer.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


def _save_inference(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, mean, var, weight, bias, residual, ctx.eps, *epilogue = inputs
    bias, residual = (None, None) if epilogue[0] is None else (bias, residual)
    ctx.save_for_backward(x, mean, var, weight, bias, residual)
    ctx.epilogue = Epilogue(*epilogue)


def _through_inference(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, mean, var, weight, bias, residual = ctx.saved_tensors
    constants = mean.to(torch.float64), var.to(torch.float64)
    if torch.is_grad_enabled():
        gradients = _composed.backward(dy, x, weight, bias, constants, ctx.eps, None, None, residual, ctx.epilogue)
    else:
        invstd = _composed.invstd_of(constants[1], ctx.eps)
        gradients = torch.ops.fastbn.batch_norm_backward(
            dy, x, weight, bias, constants[0], invstd, None, None, None, residual, False, *ctx.epilogue
        )
    dx, dweight, dbias, dresidual = _as_wanted(gradients, dy, ctx.needs_input_grad, (0, 3, 4, 5), ctx.epilogue)
    return dx, None, None, dweight, dbias, dresidual, None, None, None


_infer.register_autograd(_through_inference, setup_context=_save_inference)


# Backward.


@torch.library.custom_op(
    "fastbn::batch_norm_backward",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor dy, Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor invstd, Tensor? count,"
    " Tensor? where, Tensor? weights, Tensor? residual, bool training, str? activation, float negative_slope)"
    " -> (Tensor dx, Tensor dweight, Tensor dbias, Tensor dresidual)",
)
def _backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    invstd: Tensor,
    count: Tensor | None,
    where: Tensor | None,
    weights: Tensor | None,
    residual: Tensor | None,
    training: bool,
    activation: str | None,
    negative_slope: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dx, dweight, dbias, dresidual = _calls.backward(
        array_of(dy),
        array_of(x),
        array_of(weight),
        array_of(bias),
        Saved(array_of(mean), array_of(invstd), array_of(count)),
        training,
        array_of(where),
        array_of(weights),
        array_of(residual),
        Epilogue(activation, negative_slope),
    )
    has_own = dresidual is not None and activation is not None
    return (
        _strided_like(dx, x),
        torch.from_numpy(dweight),
        torch.from_numpy(dbias),
        _strided_like(dresidual, x) if has_own else dy.new_empty(0),
    )


@_backward.register_fake
def _(dy: Tensor, x: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    residual, activation = others[7], others[9]
    has_own = residual is not None and activation is not None
    channels = [x.new_empty(x.shape[1], dtype=torch.float64) for _ in range(2)]
    return (torch.empty_like(x), *channels, torch.empty_like(x) if has_own else dy.new_empty(0))


def _as_wanted(
    gradients: tuple[Tensor, ...], dy: Tensor, wanted: tuple[bool, ...], at: tuple[int, ...], epilogue: Epilogue
) -> tuple[Tensor | None, ...]:
    """Return those that are `wanted`; that of the residual is dy where nothing stands between them.

    Autograd gives them the types of their arguments, of which `at` are the places.
    """
    *others, dresidual = gradients
    found = *others, dy if epilogue.activation is None else dresidual
    return tuple(each if wanted[i] else None for each, i in zip(found, at, strict=True))


def _strided_like(array: Any, x: Tensor) -> Tensor:
    """Return the array as a tensor with the strides that ``torch.empty_like`` gives, as the fake operations promise."""
    found, wanted = tensor_of(array), torch.empty_like(x, device="meta").stride()
    if found.stride() == wanted:
        return found
    return found.new_empty_strided(x.shape, wanted).copy_(found)
