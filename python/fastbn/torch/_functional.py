"""`batch_norm`, and which way a call takes: the compiled kernels, the library operation, or torch's own operations."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastbn import _core
from fastbn.torch import _calls, _composed, _library
from fastbn.torch._arguments import Arguments
from fastbn.torch._arrays import (
    PLAIN,
    array_of,
    check_running_dtypes,
    in_order_of,
    plain_arrays_of,
    tensors_of,
)
from fastbn.torch._calls import Epilogue, Saved

_FLOATS = frozenset((torch.float32, torch.float64, torch.bfloat16, torch.float16))
_NUMBERS = frozenset((float, int))
_ACTIVATIONS = (None, "relu", "leaky_relu")

# Looked up once: after a convolution the caches are cold, and each look into a module's dictionary takes its time.
_is_compiling = torch.compiler.is_compiling
_is_traced = torch.compiler.is_dynamo_compiling  # which cannot see into the extension; others set modes
_is_grad_enabled = torch.is_grad_enabled
_get_num_threads = torch.get_num_threads
_transforms_are_active = torch._C._are_functorch_transforms_active
_number_of_modes = torch._C._len_torch_dispatch_stack
_tracing_state = torch._C._get_tracing_state
_increment_version = torch._C._increment_version


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
    if where is None and weights is None and not _is_traced():
        y: Tensor | None = _core.batch_norm_tensors(
            input,
            running_mean,
            running_var,
            weight,
            bias,
            training,
            momentum,
            eps,
            residual,
            activation,
            negative_slope,
        )
        if y is not None:
            return y
    epilogue = checked_epilogue(activation, negative_slope)
    return normalized(
        input,
        running_mean,
        running_var,
        weight,
        bias,
        training,
        momentum,
        eps,
        where,
        weights,
        residual,
        epilogue,
        is_eager(),
    )


def normalized(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    where: Tensor | None,
    weights: Tensor | None,
    residual: Tensor | None,
    epilogue: Epilogue,
    eager: bool,
) -> Tensor:
    """Return `batch_norm`'s result; `eager` is what `is_eager` says."""
    if residual is not None:
        residual = checked_residual(residual, x)
    # Which other objects are numbers is torch's to say: this call raises its error for those that are none.
    if eager and not (type(momentum) in _NUMBERS and type(eps) in _NUMBERS):
        torch.nn.functional.batch_norm(torch.empty(0, 1), *(torch.ones(1),) * 2, None, None, training, momentum, eps)
        momentum, eps = float(momentum), float(eps)
    arguments = Arguments(running_mean, running_var, training, momentum, eps, where, weights, epilogue)
    if _any_requires_grad(running_mean, running_var) and not _composed.is_transformed():
        # The kernels' gradients end at the running statistics. What becomes of such a call is torch's to say.
        return _torch_itself(x, weight, bias, residual, arguments)
    served = eager and (not training or (eps > 0 and 0 <= momentum <= 1))
    if not served or (weights is not None and weights.requires_grad):
        return _without_kernels(x, weight, bias, residual, arguments)
    # Tensors of one type are neighbours: the extension looks for a type's functions again where the type changes.
    tensors = x, running_mean, running_var, weight, bias, residual, where, weights
    arrays = plain_arrays_of(*tensors)
    if arrays is None and not is_served(x):
        return _without_kernels(x, weight, bias, residual, arguments)
    follow_threads()
    try:
        if arrays is None:
            arrays = tuple(map(array_of, tensors))
        wanted = _is_grad_enabled() and _any_requires_grad(x, weight, bias, residual)
        if wanted:
            check_savable(x, weight, bias, residual, where, weights)
        done = _trained(arguments, arrays) if training else _inferred(arguments, arrays)
    except (TypeError, ValueError, RuntimeError, BufferError):
        # Nothing was written. What torch refuses as well is its error to raise, and what it takes is its work.
        if where is None and weights is None:
            return _torch_itself(x, weight, bias, residual, arguments)
        raise
    if wanted:
        y: Tensor = _applied(x, weight, bias, residual, arguments, done)
        return y
    return done.y_like(x)


def checked_epilogue(activation: str | None, negative_slope: float) -> Epilogue:
    """Return the epilogue; raise ValueError for an activation that there is not."""
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation must be None, 'relu' or 'leaky_relu', got {activation!r}")
    return Epilogue(activation, negative_slope)


def checked_residual(residual: Tensor, x: Tensor) -> Tensor:
    """Return the residual in x's type; raise ValueError if it has another shape."""
    if residual.shape != x.shape:
        raise ValueError(f"residual must have input's shape {tuple(x.shape)}, got {tuple(residual.shape)}")
    return residual if residual.dtype == x.dtype else residual.to(x.dtype)


def is_served(x: Tensor) -> bool:
    """Return whether the kernels may read the tensor's memory here and now."""
    return type(x) in PLAIN and x.is_cpu and x.dtype in _FLOATS and x.layout is torch.strided and not _is_watched()


def _is_watched() -> bool:
    """Return whether a transform, a mode, forward mode or a tracer has to see all operations."""
    return (
        _transforms_are_active()
        or _number_of_modes() > 0
        or forward_ad._current_level >= 0
        or _tracing_state() is not None
    )


def is_eager() -> bool:
    """Return whether operations are computed at once, with nothing else to see them."""
    return not _is_compiling() and not _is_watched()


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


def follow_threads() -> None:
    """Take over the number of threads that ``torch.set_num_threads`` was given since the last call."""
    _core.follow_threads(_get_num_threads())


# The compiled kernels.


class _Done(NamedTuple):
    """What came of a call: y as an array, and what backward needs beside the tensors."""

    y: Any
    saved: Saved | None  # of training
    constants: tuple[Any, Any] | None  # of evaluation: its mean and variance

    def y_like(self, x: Tensor) -> Tensor:
        """Return y as a tensor of x's type and order."""
        found: Tensor = tensors_of((self.y,), (x,))[0]
        return found


def _inferred(arguments: Arguments, arrays: tuple[Any, ...]) -> _Done:
    check_running_dtypes(arguments.running_mean, arguments.running_var)
    x, mean, var, weight, bias, residual, _, _ = arrays
    y = _calls.infer(x, mean, var, weight, bias, arguments.eps, residual, arguments.epilogue)
    # Copies, since the running statistics may have changed when backward reads them.
    return _Done(y, None, (mean.astype(np.float64), var.astype(np.float64)))


def _trained(arguments: Arguments, arrays: tuple[Any, ...]) -> _Done:
    x, running_mean, running_var, weight, bias, residual, where, weights = arrays
    if running_mean is not None and running_var is not None:
        # Written behind torch's back, which counts the changes of each tensor, and refuses some.
        _increment_version([arguments.running_mean, arguments.running_var])
    y, mean, _, invstd, count = _calls.train(
        x,
        weight,
        bias,
        running_mean,
        running_var,
        arguments.momentum,
        arguments.eps,
        where,
        weights,
        residual,
        arguments.epilogue,
    )
    return _Done(y, Saved(mean, invstd, None if isinstance(count, int) else count), None)


class _Function(torch.autograd.Function):
    """A call that was made already, of which gradients may be asked."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        arguments: Arguments,
        done: _Done,
    ) -> Tensor:
        ctx.arguments = arguments
        ctx.saved = done.saved
        ctx.constants = done.constants
        kept = (None, None) if arguments.epilogue.activation is None else (bias, residual)  # only it asks for them
        ctx.save_for_backward(x, weight, *kept, arguments.where, arguments.weights)
        ctx.set_materialize_grads(False)
        return done.y_like(x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return (None,) * 6
        arguments: Arguments = ctx.arguments
        saved, constants = ctx.saved, ctx.constants
        if constants is not None:
            mean, var = constants
            saved = saved_constants(mean, var, arguments.eps)
        found = _gradients(
            dy, ctx.saved_tensors, ctx.needs_input_grad, arguments.eps, arguments.epilogue, constants, saved
        )
        return *found, None, None


def _gradients(
    dy: Tensor,
    tensors: tuple[Tensor | None, ...],
    wanted: tuple[bool, ...],
    eps: float,
    epilogue: Epilogue,
    constants: tuple[Any, Any] | None,
    saved: Saved,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of x, weight, bias and residual, of which those that are `wanted`.

    `tensors` are these four, where and weights; bias and residual are None without an activation. `constants` are the
    mean and variance of evaluation, None for training. dweight and dbias are float64: autograd converts them.
    """
    x, weight, bias, residual, where, weights = tensors
    assert x is not None
    dweight: Any
    dbias: Any
    arrays = None if _is_grad_enabled() else _arrays_for_backward(dy, x, weight, bias, residual, where, weights)
    if arrays is None:
        given = None if constants is None else tuple(map(torch.from_numpy, constants))
        dx, dweight, dbias, dresidual = _composed.backward(
            dy, x, weight, bias, given, eps, where, weights, residual, epilogue
        )
    else:
        dy_array, x_array, weight_array, bias_array, residual_array, where_array, weights_array = arrays
        dx, *sums, dresidual = _calls.backward(
            dy_array,
            x_array,
            weight_array,
            bias_array,
            saved,
            constants is None,
            where_array,
            weights_array,
            residual_array,
            epilogue,
        )
        likes = x if wanted[0] else None, x if wanted[3] and epilogue.activation is not None else None
        dx, dresidual = tensors_of((dx, dresidual), likes)
        dweight, dbias = map(torch.from_numpy, sums)
    if epilogue.activation is None:  # nothing stands between dy and the residual
        dresidual = dy
    found = dx, dweight, dbias, dresidual
    return tuple(each if is_wanted else None for each, is_wanted in zip(found, wanted, strict=False))


class _Recorded(torch.autograd.Function):
    """A call of the extension, made already, of which gradients may be asked."""

    forward = staticmethod(_core.recorded_forward)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Return what `recorded_backward` of the extension does, which asks here where that is not so simple."""
        (mean, var, invstd), eps, activation, negative_slope, training, _ = ctx.call
        tensors = *ctx.saved_tensors, None, None
        constants = None if training else (mean, var)
        saved, epilogue = Saved(mean, invstd, None), Epilogue(activation, negative_slope)
        return None, *_gradients(dy, tensors, ctx.needs_input_grad[1:], eps, epilogue, constants, saved)


def _direct(function: type[torch.autograd.Function], backward: Any) -> Any:
    """Return the function's `apply` without its questions about transforms, and let its nodes call `backward` at once.

    They would look up in every call whether backward or vjp is overridden.
    """
    function._backward_cls.apply = backward
    return super(torch.autograd.Function, function).apply


_applied = _direct(_Function, _Function.backward)

# What the extension asks in every call is looked up once: after a convolution the caches are cold.
_core.register_torch(
    {
        "tensor": Tensor,
        "parameter": torch.nn.Parameter,
        "is_grad_enabled": _is_grad_enabled,
        "number_of_modes": _number_of_modes,
        "tracing_state": _tracing_state,
        "transforms_are_active": _transforms_are_active,
        "forward_mode": vars(forward_ad),
        "get_num_threads": _get_num_threads,
        "increment_version": _increment_version,
        "rank_checks": tuple(
            each._check_input_dim for each in (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)
        ),
        "record": _direct(_Recorded, _core.as_method(_core.recorded_backward)),
        "backward": _Recorded.backward,
        "memory_errors": (RuntimeError, BufferError),
        "argument_errors": (TypeError, ValueError),
    }
)


def _arrays_for_backward(dy: Tensor, x: Tensor, *others: Tensor | None) -> tuple[Any, ...] | None:
    """Return all as arrays; None where dy has no memory to read (in a batch of gradients, say)."""
    if _is_watched():
        return None
    try:
        tensors = in_order_of(dy, x), x, *others
        arrays = plain_arrays_of(*tensors)
        return tuple(map(array_of, tensors)) if arrays is None and is_served(dy) else arrays
    except (
        RuntimeError,
        BufferError,
    ):  # the batches of torch.autograd.grad(is_grads_batched=True) look like any other tensor
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
    by_torch = (training and not eps > 0) or torch._C._get_tracing_state() is not None or not floats
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
