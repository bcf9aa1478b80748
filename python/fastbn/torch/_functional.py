"""`batch_norm`, and which way a call takes: the compiled kernels, the library operation, or torch's own operations."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastbn.torch import _calls, _composed, _library
from fastbn.torch._arguments import Arguments
from fastbn.torch._arrays import (
    PLAIN,
    array_of,
    channel_tensor,
    check_running_dtypes,
    in_order_of,
    ordered_like,
    tensor_of,
)
from fastbn.torch._calls import Epilogue, Saved

_FLOATS = frozenset((torch.float32, torch.float64, torch.bfloat16, torch.float16))
_ACTIVATIONS = (None, "relu", "leaky_relu")


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str | None = None,
    negative_slope: float = 0.01,
) -> Tensor:
    """Batch normalization in place of ``torch.nn.functional.batch_norm``, with autograd.

    For every channel c (axis 1), over its N values (Ioffe & Szegedy 2015, Algorithms 1 and 2)::

        y = activation(weight * (input - mean) / sqrt(var + eps) + bias + residual)

    with the batch's own mean and biased variance in training, and the running statistics otherwise.

    Parameters
    ----------
    input : Tensor of shape (N, C) or (N, C, ...)
        Strided, on the CPU, and of float32, float64, bfloat16 or float16, in any memory order. Everything else goes to
        torch's own operation.
    running_mean, running_var : Tensor of shape (C,), optional
        Required unless `training`; in training they are updated in place.
    weight, bias : Tensor of shape (C,), optional
        Gamma and beta; 1 and 0 where not given. float32 parameters go with input of any type.
    training : bool, default False
        Whether input's own statistics are used.
    momentum : float, default 0.1
        Weight of the batch's statistics in the running ones.
    eps : float, default 1e-5
        Added to the variance; positive in training.
    where : Tensor of bool, optional
        Broadcastable to input: the values that the statistics of training are taken of.
    weights : Tensor of real numbers, optional
        Broadcastable to input; finite and not negative: how often each value is seen by the statistics.
    residual : Tensor, optional
        Of input's shape, added before the activation; cast to input's type if it has another.
    activation : {"relu", "leaky_relu"}, optional
        Applied last.
    negative_slope : float, default 0.01
        Of "leaky_relu".

    Returns
    -------
    Tensor
        Of input's shape, type and memory order, in new memory.

    Raises
    ------
    ValueError, RuntimeError
        As ``torch.nn.functional.batch_norm`` raises them; ValueError for a wrong where, weights, residual or
        activation. The values of weights are not looked at on other devices and under transforms. Under
        ``torch.compile``, weights that sum to no more than 1 in every channel are no error: they leave the running
        statistics as they are.

    Notes
    -----
    Gradients reach input, weight, bias and residual. Gradients of gradients, forward mode and the transforms of
    ``torch.func`` are composed of torch operations in float64, and those reach `weights` too.

    Examples
    --------
    >>> import torch, fastbn.torch
    >>> x = torch.tensor([[1.0, 10.0], [3.0, 30.0]], requires_grad=True)
    >>> y = fastbn.torch.batch_norm(x, training=True, activation="relu")
    >>> y.detach().round(decimals=3)
    tensor([[0., 0.],
            [1., 1.]])
    >>> y.sum().backward()
    """
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation must be None, 'relu' or 'leaky_relu', got {activation!r}")
    if residual is not None:
        residual = checked_residual(residual, input)
    arguments = Arguments(
        running_mean, running_var, training, momentum, eps, where, weights, Epilogue(activation, negative_slope)
    )
    if not training and _any_requires_grad(running_mean, running_var) and not _composed.is_transformed():
        # The kernels' gradients end at the running statistics. What becomes of such a call is torch's to say.
        return _torch_itself(input, weight, bias, residual, arguments)
    if torch.compiler.is_compiling():
        return _without_kernels(input, weight, bias, residual, arguments)
    served = is_served(input) and (not training or (eps > 0 and 0 <= momentum <= 1))
    if not served or (weights is not None and weights.requires_grad):
        return _without_kernels(input, weight, bias, residual, arguments)
    follow_threads()
    try:
        if torch.is_grad_enabled() and _any_requires_grad(input, weight, bias, residual):
            check_savable(input, weight, bias, residual, where, weights)
            y: Tensor = _applied(input, weight, bias, residual, arguments)
            return y
        return _inference(input, weight, bias, residual, arguments)
    except (TypeError, ValueError, RuntimeError):
        # Nothing was written. What torch refuses as well is its error to raise, and what it takes is its work.
        if where is None and weights is None:
            return _torch_itself(input, weight, bias, residual, arguments)
        raise


def checked_residual(residual: Tensor, x: Tensor) -> Tensor:
    """Return the residual in x's type; raise ValueError if it has another shape."""
    if residual.shape != x.shape:
        raise ValueError(f"residual must have input's shape {tuple(x.shape)}, got {tuple(residual.shape)}")
    return residual if residual.dtype == x.dtype else residual.to(x.dtype)


def is_served(x: Tensor) -> bool:
    """Return whether the kernels may read the tensor's memory here and now."""
    return (
        type(x) in PLAIN
        and x.is_cpu
        and x.dtype in _FLOATS
        and x.layout is torch.strided
        and not torch._C._are_functorch_transforms_active()
        and torch._C._len_torch_dispatch_stack() == 0
        and forward_ad._current_level < 0
        and torch._C._get_tracing_state() is None
    )


def _any_requires_grad(*tensors: Tensor | None) -> bool:
    for tensor in tensors:  # noqa: SIM110 - any() takes twice the time
        if tensor is not None and tensor.requires_grad:
            return True
    return False


def check_savable(*tensors: Tensor | None) -> None:
    """Raise RuntimeError where autograd, which asks too late, would refuse to keep one of the tensors for backward."""
    for tensor in tensors:
        if tensor is not None and tensor.is_inference():
            raise RuntimeError(
                "input and its options must be made outside of torch.inference_mode() where gradients are asked for,"
                f" got an inference tensor of shape {tuple(tensor.shape)} (a clone of it is none)"
            )


# As long as torch's number of threads stays the same, fastbn's is left to whoever sets it.
_threads_of_torch = torch.get_num_threads()


def follow_threads() -> None:
    """Take over the number of threads that ``torch.set_num_threads`` was given since the last call."""
    global _threads_of_torch
    n = torch.get_num_threads()
    if n != _threads_of_torch:
        _threads_of_torch = n
        _calls.set_num_threads(n)


# The compiled kernels.


def _inference(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, arguments: Arguments
) -> Tensor:
    """Return y where no gradient will be asked for."""
    if arguments.training:
        return _trained(x, weight, bias, residual, arguments)[0]
    check_running_dtypes(arguments.running_mean, arguments.running_var)
    y = _calls.infer(
        array_of(x),
        array_of(arguments.running_mean),
        array_of(arguments.running_var),
        array_of(weight),
        array_of(bias),
        arguments.eps,
        array_of(residual),
        arguments.epilogue,
    )
    return ordered_like(tensor_of(y), x)


def _trained(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, arguments: Arguments
) -> tuple[Tensor, Saved]:
    """Return y and what backward needs."""
    running_mean, running_var, _, momentum, eps, where, weights, epilogue = arguments
    result = _calls.train(
        array_of(x),
        array_of(weight),
        array_of(bias),
        array_of(running_mean),
        array_of(running_var),
        momentum,
        eps,
        array_of(where),
        array_of(weights),
        array_of(residual),
        epilogue,
    )
    if running_mean is not None:  # written behind torch's back, which counts the changes of each tensor
        torch._C._increment_version([running_mean, running_var])
    return ordered_like(tensor_of(result.y), x), result.saved


class _Function(torch.autograd.Function):
    """A call of which gradients may be asked."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        arguments: Arguments,
    ) -> Tensor:
        ctx.arguments = arguments
        ctx.save_for_backward(x, weight, bias, residual, arguments.where, arguments.weights)
        if arguments.training:
            y, ctx.saved = _trained(x, weight, bias, residual, arguments)
            return y
        y = _inference(x, weight, bias, residual, arguments)
        # Copies, since the running statistics may have changed when backward reads them.
        mean, var = array_of(arguments.running_mean), array_of(arguments.running_var)
        ctx.constants = mean.astype(np.float64), var.astype(np.float64)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, residual, where, weights = ctx.saved_tensors
        arguments: Arguments = ctx.arguments
        wanted = ctx.needs_input_grad
        dweight: Any
        dbias: Any
        array = None if torch.is_grad_enabled() else _array_of_gradient(dy, x)
        if array is None:
            constants = None if arguments.training else tuple(map(torch.from_numpy, ctx.constants))
            dx, dweight, dbias, dresidual = _composed.backward(
                dy, x, weight, bias, constants, arguments.eps, where, weights, residual, arguments.epilogue
            )
            dweight = dweight.to(weight.dtype) if wanted[1] else None
            dbias = dbias.to(bias.dtype) if wanted[2] else None
        else:
            if arguments.training:
                saved = ctx.saved
            else:
                mean, var = ctx.constants
                saved = saved_constants(mean, var, arguments.eps)
            dx_array, dweight, dbias, dresidual_array = _calls.backward(
                array,
                array_of(x),
                array_of(weight),
                array_of(bias),
                saved,
                arguments.training,
                array_of(where),
                array_of(weights),
                array_of(residual),
                arguments.epilogue,
            )
            dx = ordered_like(tensor_of(dx_array), x)
            dweight = channel_tensor(dweight, weight.dtype) if wanted[1] else None
            dbias = channel_tensor(dbias, bias.dtype) if wanted[2] else None
            if dresidual_array is None or dresidual_array is array:
                dresidual = dy
            else:
                dresidual = ordered_like(tensor_of(dresidual_array), x)
        return dx if wanted[0] else None, dweight, dbias, dresidual if wanted[3] else None, None


# Function.apply without its questions about transforms, which `is_served` has answered.
_applied = super(torch.autograd.Function, _Function).apply


def _array_of_gradient(dy: Tensor, x: Tensor) -> Any:
    """Return dy as an array; None where it has no memory to read (in a batch of gradients, say)."""
    try:
        return array_of(in_order_of(dy, x)) if is_served(dy) else None
    except RuntimeError:  # the batches of torch.autograd.grad(is_grads_batched=True) look like any other tensor
        return None


def saved_constants(mean: Any, var: Any, eps: float) -> Saved:
    """Return what backward needs of statistics that were given."""
    total = var + eps
    with np.errstate(divide="ignore", invalid="ignore"):
        return Saved(mean, np.where(total == 0, 0.0, 1 / np.sqrt(total)), None)


# Everything else.


def _without_kernels(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, arguments: Arguments
) -> Tensor:
    """Return y where the kernels cannot be called: under a compiler or a transform, or for tensors they cannot read."""
    running_mean, running_var, training, _, eps, where, weights, _ = arguments
    floats = x.dtype in _FLOATS and x.layout is torch.strided and x.dim() >= 2
    weighted = training and (where is not None or weights is not None)
    by_torch = (eps <= 0 and training) or torch._C._get_tracing_state() is not None or not floats
    if weighted or (x.device.type == "cpu" and not by_torch):
        if training:
            check_several_values(x)
        elif running_mean is None or running_var is None:
            return _torch_itself(x, weight, bias, residual, arguments)
        constant = not (training and weights is not None and weights.requires_grad)
        if x.device.type == "cpu" and constant and not _composed.is_transformed():
            return _library.batch_norm(x, weight, bias, residual, arguments)
        if training and weights is not None:
            _check_weights(x, where, weights, running_mean, running_var)
        return _composed.forward(x, weight, bias, residual, arguments)
    return _torch_itself(x, weight, bias, residual, arguments)


def _torch_itself(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, arguments: Arguments
) -> Tensor:
    running_mean, running_var, training, momentum, eps, _, _, epilogue = arguments
    y = torch.nn.functional.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    return _composed.epilogue_of(y, residual, epilogue)


def _check_weights(
    x: Tensor, where: Tensor | None, weights: Tensor, running_mean: Tensor | None, running_var: Tensor | None
) -> None:
    """Raise what the kernels raise in training, where they can read the tensors; nothing is written."""
    if torch.compiler.is_compiling() or not (is_served(x) and type(weights) in PLAIN):
        return
    mean, var = (None if each is None else array_of(each).copy() for each in (running_mean, running_var))
    _calls.train(array_of(x), None, None, mean, var, 0.0, 1.0, array_of(where), array_of(weights), None, Epilogue())


def check_several_values(x: Tensor) -> None:
    """Raise torch's error where training is given one value per channel."""
    if x.numel() == x.shape[1] != 0:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.size()}")
