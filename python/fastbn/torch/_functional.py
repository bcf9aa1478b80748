"""`batch_norm`, and which way a call takes: the compiled kernels, the library's operations, or torch's own.

Most calls never come here: `_core.batch_norm_tensors` and `_core.call_module` (cpp/bindings/tensors.cpp) do them whole,
forward and backward, and return None where a call is not that simple.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.checkpoint import _StopRecomputationError

from fastbn import _core
from fastbn.torch import _composed, _kernels, _library
from fastbn.torch._kernels import PLAIN, Array, Inputs, Options, Statistics, for_backward

_FLOATS = frozenset((torch.float32, torch.float64, torch.bfloat16, torch.float16))
_ACTIVATIONS = (None, "relu", "leaky_relu")
_LARGEST_SLOPE = torch.finfo(torch.float32).max

# Looked up once: after a convolution the caches are cold, and each look into a module's dictionary takes its time.
_is_compiling = torch.compiler.is_compiling
_is_traced = torch.compiler.is_dynamo_compiling  # which cannot see into the extension; others set modes
_strided = torch.strided
_is_grad_enabled = torch.is_grad_enabled
_transforms_are_active = torch._C._are_functorch_transforms_active
_number_of_modes = torch._C._len_torch_dispatch_stack
_tracing_state = torch._C._get_tracing_state
_increment_version = torch._C._increment_version
_saved_tensor_hooks = torch._C._autograd._top_saved_tensors_default_hooks


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
    check_activation(activation, negative_slope)
    inputs = Inputs(input, weight, bias, where, weights, residual, running_mean, running_var)
    return normalized(inputs, Options(eps, activation, negative_slope, momentum), training, is_eager())


def normalized(inputs: Inputs, options: Options, training: bool, eager: bool) -> Tensor:
    """Return y, by the kernels where operations are computed at once (`eager`), and by other ways elsewhere."""
    x, _, _, where, weights, residual, running_mean, running_var = inputs
    check_tensors(inputs)
    if residual is not None:
        inputs = inputs._replace(residual=checked_residual(residual, x))
    if eager and not (type(options.momentum) is float and type(options.eps) is float):
        options = with_floats(options, training)
    if _any_requires_grad(running_mean, running_var) and not _composed.is_transformed():
        # The kernels' gradients end at the running statistics. What becomes of such a call is torch's to say.
        return _by_torch(inputs, options, training)
    # torch refuses such an eps; with masks and weights it may be 0.
    torch_refuses = training and where is None and weights is None and not options.eps > 0
    if eager and is_plain(x) and not torch_refuses and (weights is None or not weights.requires_grad):
        return _by_kernels(inputs, options, training)
    return _without_kernels(inputs, options, training)


def _by_kernels(inputs: Inputs, options: Options, training: bool) -> Tensor:
    x, weight, bias, where, weights, residual, running_mean, running_var = inputs
    before = []
    try:
        wanted = _is_grad_enabled() and _any_requires_grad(x, weight, bias, residual)
        if wanted:
            check_savable(inputs)
        if training:
            check_updatable(inputs)
            if wanted and _saved_tensor_hooks(True) is not None:
                before = [(each, each.clone()) for each in (running_mean, running_var) if each is not None]
            array, statistics = _train(inputs, options)
        else:
            _kernels.check_running_dtypes(inputs)
            array, statistics = _kernels.infer(inputs, options)
    except (TypeError, ValueError, RuntimeError, BufferError):
        # Nothing was written. What torch refuses as well is its error to raise, and what it takes is its work.
        if where is None and weights is None:
            return _by_torch(inputs, options, training)
        check_several(inputs, training)  # in torch's words
        raise
    if training and running_mean is not None:  # written behind torch's back, which counts the changes of each tensor
        _increment_version([running_mean, running_var])
    y = _kernels.tensor_like(array, x)
    if not wanted:
        return y
    try:
        recorded: Tensor = _applied((y, statistics, options, training), *inputs[:6])
    except _StopRecomputationError:  # of a checkpoint, which has all that it wants
        raise
    except BaseException:  # of another hook on saved tensors
        for each, old in before:
            each.copy_(old)
        raise
    return recorded


def _train(inputs: Inputs, options: Options) -> tuple[Array, Statistics]:
    """Return what `_kernels.train` does, of running statistics and a momentum that the kernels do not take either."""
    running = inputs.running_mean, inputs.running_var
    are_plain = not any(each is not None and each.is_neg() for each in running)
    if are_plain and 0 <= options.momentum <= 1:
        return _kernels.train(inputs, options)
    _kernels.check_running_dtypes(inputs)
    mean, var = (None if each is None else each.detach().to(torch.float64, copy=True) for each in running)
    # By these copies the kernels check shapes and weights.
    copied = inputs._replace(running_mean=mean, running_var=var)
    y, statistics = _kernels.train(copied, options._replace(momentum=1.0))
    _composed.update_running(inputs, options, _composed.statistics_of(statistics))
    return y, statistics


# What is asked of arguments.


def check_activation(activation: str | None, negative_slope: float) -> None:
    """Raise ValueError for an activation that there is not, and for a slope that is not finite."""
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation must be None, 'relu' or 'leaky_relu', got {activation!r}")
    if not abs(negative_slope) <= _LARGEST_SLOPE:
        raise ValueError(f"negative_slope must be finite in float32, got {negative_slope}")


def check_tensors(inputs: Inputs) -> None:
    """Raise TypeError for an argument that is no tensor and does not act as one, an array of NumPy for instance."""
    for name, value in zip(("input", *Inputs._fields[1:]), inputs, strict=True):
        is_left_out = value is None and name != "input"
        if not (is_left_out or isinstance(value, Tensor) or hasattr(value, "__torch_function__")):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")


def check_channels(inputs: Inputs) -> None:
    """Raise RuntimeError for parameters and running statistics of another number of channels than the input's.

    Operations of torch's would broadcast them, or fail when the running mean is written and the variance not yet.
    """
    channels = inputs.x.shape[1]
    for name in "weight", "bias", "running_mean", "running_var":
        value = getattr(inputs, name)
        if value is not None and value.numel() != channels:
            raise RuntimeError(f"{name} should contain {channels} elements not {value.numel()}")  # torch's words
        if value is not None and value.dim() != 1 and name.startswith("running"):
            raise RuntimeError(f"{name} must have shape ({channels},), got {tuple(value.shape)}")


def check_several(inputs: Inputs, training: bool) -> None:
    """Raise ValueError, as torch does, where a batch of training has one value per channel."""
    x = inputs.x
    if training and x.dim() >= 2 and x.numel() == x.shape[1] != 0:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.size()}")


def checked_residual(residual: Tensor, x: Tensor) -> Tensor:
    """Return the residual in x's type; raise ValueError if it has another shape."""
    if residual.shape != x.shape:
        raise ValueError(f"residual must have input's shape {tuple(x.shape)}, got {tuple(residual.shape)}")
    return residual if residual.dtype == x.dtype else residual.to(x.dtype)


def with_floats(options: Options, training: bool) -> Options:
    """Return the options with numbers that are floats."""
    momentum, eps = options.momentum, options.eps
    if not all(isinstance(each, float) or (isinstance(each, int) and abs(each) < 2**1023) for each in (momentum, eps)):
        # Which other objects are numbers is torch's to say: this call raises its error for those that are none.
        ones = torch.ones(1)
        torch.nn.functional.batch_norm(torch.empty(0, 1), ones, ones, None, None, training, momentum, eps)
    return options._replace(momentum=float(momentum), eps=float(eps))


def is_plain(x: Tensor) -> bool:
    """Return whether the kernels can read the tensor, as far as nothing else has to see what is done with it."""
    return x.dtype in _FLOATS and type(x) in PLAIN and x.is_cpu and x.layout is _strided


def is_eager() -> bool:
    """Return whether operations are computed at once, with nothing else to see them."""
    return not _is_compiling() and not _is_watched()


def _is_watched() -> bool:
    """Return whether a transform, a mode, forward mode or a tracer has to see all operations."""
    return (
        _transforms_are_active()
        or _number_of_modes() > 0
        or forward_ad._current_level >= 0
        or _tracing_state() is not None
    )


def _any_requires_grad(*tensors: Tensor | None) -> bool:
    for tensor in tensors:  # noqa: SIM110 - any() takes twice the time
        if tensor is not None and tensor.requires_grad:
            return True
    return False


def check_savable(inputs: Inputs) -> None:
    """Raise RuntimeError where autograd, which asks too late, would refuse to keep one of the tensors for backward."""
    for tensor in inputs[:6]:
        if tensor is not None and tensor.is_inference():
            raise RuntimeError(
                "input and its options must be made outside of torch.inference_mode() where gradients are asked for,"
                f" got an inference tensor of shape {tuple(tensor.shape)} (a clone of it is none)"
            )


def check_updatable(inputs: Inputs) -> None:
    """Raise RuntimeError where torch, which asks too late, would refuse to count changes of running statistics."""
    mean, var = inputs.running_mean, inputs.running_var
    are_made_there = (mean is not None and mean.is_inference()) or (var is not None and var.is_inference())
    if are_made_there and not torch.is_inference_mode_enabled():
        raise RuntimeError(
            "running_mean and running_var must be made outside of torch.inference_mode(), got inference tensors"
        )


# Gradients.


class _Function(torch.autograd.Function):
    """A call that was made already, of which gradients may be asked."""

    @staticmethod
    def forward(ctx: Any, done: tuple[Tensor, Statistics, Options, bool], *inputs: Tensor | None) -> Tensor:
        y, statistics, options, training = done
        ctx.call = statistics, options, training
        ctx.save_for_backward(*for_backward(inputs, options))
        ctx.set_materialize_grads(False)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return (None,) * 7
        statistics, options, training = ctx.call
        _, x, weight, bias, _, _, residual = ctx.needs_input_grad
        wanted = x, weight, bias, residual
        found = _gradients(dy, Inputs(*ctx.saved_tensors), statistics, options, training, wanted)
        return None, found[0], found[1], found[2], None, None, found[3]


class _Recorded(torch.autograd.Function):
    """The same of a call that the extension has made."""

    forward = staticmethod(_core.recorded_forward)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, saved: tuple[Tensor, ...] | None = None) -> tuple[Tensor | None, ...]:
        """Return what `recorded_backward` of the extension does, which asks here where that is not so simple.

        It has asked for the saved tensors then, which a checkpoint gives once.
        """
        statistics, *options, training, _ = ctx.call
        x, weight, bias, residual = ctx.saved_tensors if saved is None else saved
        call = Inputs(x, weight, bias, residual=residual), Statistics(*statistics), Options(*options), training
        return None, *_gradients(dy, *call, ctx.needs_input_grad[1:])


def _gradients(
    dy: Tensor, inputs: Inputs, statistics: Statistics, options: Options, training: bool, wanted: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Return the gradients of x, weight, bias and residual, of which those that are `wanted`."""
    found: tuple[Any, ...] | None = None
    if not _is_grad_enabled() and not _is_watched() and type(dy) in PLAIN:
        try:
            dx, dweight, dbias, dresidual = _kernels.backward(dy, inputs, statistics, options, training)
        except (RuntimeError, BufferError):  # dy has no memory: it is a batch of gradients (is_grads_batched=True), say
            pass
        else:
            x = inputs.x
            found = (
                _kernels.tensor_like(dx, x) if wanted[0] else None,
                torch.from_numpy(dweight),
                torch.from_numpy(dbias),
                _kernels.tensor_like(dresidual, x) if dresidual is not None and wanted[3] else None,
            )
    if found is None:
        constants = None if training else tuple(map(torch.from_numpy, statistics[:2]))
        found = _composed.backward(dy, inputs, options, constants)
    return _library.as_wanted(found, dy, options, wanted)


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
        "get_num_threads": torch.get_num_threads,
        "increment_version": _increment_version,
        "saved_tensor_hooks": _saved_tensor_hooks,
        "rank_checks": tuple(
            each._check_input_dim for each in (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)
        ),
        "record": _direct(_Recorded, _core.as_method(_core.recorded_backward)),
        "backward": _Recorded.backward,
        "memory_errors": (RuntimeError, BufferError),
        "argument_errors": (TypeError, ValueError),
    }
)


# Everything else.


def _without_kernels(inputs: Inputs, options: Options, training: bool) -> Tensor:
    """Return y where the kernels cannot be called at once: by torch, by the library, or composed of operations."""
    x, _, _, where, weights, _, running_mean, running_var = inputs
    on_cpu = x.device.type == "cpu"
    readable = x.dtype in _FLOATS and x.layout is torch.strided and x.dim() >= 2
    # DTensor, say; tensors of torch._subclasses stand for plain ones while something is traced.
    has_own_rules = type(x) not in PLAIN and not type(x).__module__.startswith("torch._subclasses.")
    if not training or (where is None and weights is None):
        refused = not options.eps > 0 if training else running_mean is None or running_var is None
        if refused or not readable or not on_cpu or has_own_rules or _tracing_state() is not None:
            return _by_torch(inputs, options, training)
    elif not readable:
        raise TypeError(
            "input must be strided, of a floating-point type and of two dimensions or more where it has where or"
            f" weights, got {x.dim()} dimensions of {x.dtype} and {x.layout}"
        )
    check_channels(inputs)
    check_several(inputs, training)
    wants_weights = training and weights is not None and weights.requires_grad
    if on_cpu and not (has_own_rules or wants_weights or _composed.is_transformed()):
        return _library.batch_norm(inputs, options, training)
    if training and weights is not None and is_eager() and is_plain(x) and type(weights) in PLAIN:
        # What the kernels raise; nothing is written.
        mean, var = (None if each is None else each.detach().clone() for each in (running_mean, running_var))
        _kernels.train(Inputs(x, None, None, where, weights, None, mean, var), Options(1.0))
    return _composed.forward(inputs, options, training)


def _by_torch(inputs: Inputs, options: Options, training: bool) -> Tensor:
    x, weight, bias, _, _, residual, mean, var = inputs
    y = torch.nn.functional.batch_norm(x, mean, var, weight, bias, training, options.momentum, options.eps)
    return _composed.epilogue_of(y, residual, options)
