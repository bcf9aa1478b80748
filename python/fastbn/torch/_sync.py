"""`SyncBatchNorm`: batch normalization by the statistics of all processes of a `torch.distributed` group, on the CPU.

Forward, each process measures its part of the batch; all learn all counts, means and m2 (one collective call) and merge
them by the formula of Chan, Golub & LeVeque 1983 (eq. 1.5), in the order of ranks, so that each gets the same bits. So
the result is that of one process with the whole batch, whatever the sizes of the parts; a part may be empty.

Backward, the sums of dy and of dy * xhat are those over all processes (another collective call). Gradients of weight
and bias stay each process's own, for `DistributedDataParallel` to average.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from fastbn._moments.merge import Statistics, merged
from fastbn.torch import _calls, _composed
from fastbn.torch._arrays import array_of, channel_tensor, ordered_like, tensor_of
from fastbn.torch._calls import Epilogue
from fastbn.torch._functional import checked_residual, follow_threads, is_served, saved_constants
from fastbn.torch._modules import BatchNormMixin


# Not a subclass of torch.nn.SyncBatchNorm, which DistributedDataParallel refuses on the CPU.
class SyncBatchNorm(BatchNormMixin, _BatchNorm):
    """``torch.nn.SyncBatchNorm`` for the CPU, where torch has none: statistics of the batch of all processes together.

    In training, within a process group of more than one process (gloo is the backend for the CPU), mean and variance
    are those of all values of all processes, whose parts may have different sizes, be a single value, or be empty.
    Otherwise it computes what `fastbn.torch.BatchNorm1d` and its sisters do. Tensors on other devices go to torch's.

    Parameters
    ----------
    num_features, eps, momentum, affine, track_running_stats, process_group, device, dtype, bias
        As for ``torch.nn.SyncBatchNorm``; without `process_group`, all processes.
    activation, negative_slope
        As for `fastbn.torch.BatchNorm1d`.

    Raises
    ------
    ValueError
        In all processes, if there is one value per channel in all of them together.

    Notes
    -----
    All processes of the group must call it, forward and backward, as often as each other. Under ``torch.compile`` it
    breaks the graph. Gradients of gradients are not offered.

    Examples
    --------
    >>> import torch, fastbn.torch
    >>> layer = fastbn.torch.SyncBatchNorm(2)  # without a process group: this process alone
    >>> layer(torch.tensor([[1.0, 10.0], [3.0, 30.0]])).detach().round(decimals=3)
    tensor([[-1., -1.],
            [ 1.,  1.]])
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any | None = None,
        **options: Any,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, **options)
        self.process_group = process_group

    def forward(
        self,
        input: Tensor,
        residual: Tensor | None = None,
        where: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Return the normalized input; the arguments are those of `fastbn.torch.BatchNorm1d`."""
        if input.is_cpu:
            return super().forward(input, residual, where, weights)
        if where is not None or weights is not None:
            raise ValueError(
                f"where and weights must be None on other devices than the CPU, got input on {input.device}"
            )
        y = torch.nn.SyncBatchNorm.forward(self, input)
        return _composed.epilogue_of(y, residual, Epilogue(self.activation, self.negative_slope))

    _check_non_zero_input_channels = torch.nn.SyncBatchNorm._check_non_zero_input_channels

    def _check_input_dim(self, input: Tensor) -> None:
        torch.nn.SyncBatchNorm._check_input_dim(self, input)
        self._check_non_zero_input_channels(input)

    def _normalized(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        residual: Tensor | None,
        where: Tensor | None,
        weights: Tensor | None,
    ) -> Tensor:
        if not (self.training and distributed.is_available() and distributed.is_initialized()):
            return super()._normalized(input, running_mean, running_var, momentum, residual, where, weights)
        group = self.process_group or distributed.group.WORLD
        if distributed.get_world_size(group) == 1:
            return super()._normalized(input, running_mean, running_var, momentum, residual, where, weights)
        epilogue = Epilogue(self.activation, self.negative_slope)
        if residual is not None:
            residual = checked_residual(residual, input)
        arguments = _Arguments(running_mean, running_var, momentum, self.eps, where, weights, epilogue, group)
        return _synchronized(input, self.weight, self.bias, residual, arguments)


class _Arguments(NamedTuple):
    """A call's arguments that autograd need not know."""

    running_mean: Tensor | None
    running_var: Tensor | None
    momentum: float
    eps: float
    where: Tensor | None
    weights: Tensor | None
    epilogue: Epilogue
    group: Any


@torch.compiler.disable
def _synchronized(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, arguments: _Arguments
) -> Tensor:
    if not is_served(x):
        raise TypeError(f"input must be a plain strided tensor of a floating-point type, got {type(x)} of {x.dtype}")
    follow_threads()
    y: Tensor = _Function.apply(x, weight, bias, residual, arguments)
    return y


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        arguments: _Arguments,
    ) -> Tensor:
        found = _statistics_of_all(x, arguments)
        count = np.asarray(found.count)
        if (count == 1).all():
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.size()}")
        # What has no values in any process has xhat = 0, as by an infinite variance.
        var = np.divide(found.m2, count, out=np.full_like(found.m2, np.inf), where=count > 0)
        y = _calls.infer(
            array_of(x),
            found.mean,
            var,
            array_of(weight),
            array_of(bias),
            arguments.eps,
            array_of(residual),
            arguments.epilogue,
        )
        if arguments.running_mean is not None and arguments.running_var is not None:
            channels = _composed.Statistics(*map(torch.from_numpy, (found.mean, var, count)))
            _composed.update_running(arguments.running_mean, arguments.running_var, channels, arguments.momentum)
        ctx.arguments, ctx.count = arguments, count
        ctx.saved = saved_constants(found.mean, var, arguments.eps)
        ctx.save_for_backward(x, weight, bias, residual, arguments.where, arguments.weights)
        return ordered_like(tensor_of(y), x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, residual, where, weights = ctx.saved_tensors
        arguments: _Arguments = ctx.arguments
        wanted = ctx.needs_input_grad
        arrays = array_of(dy), array_of(x), array_of(weight), array_of(bias)
        own = _calls.gradient_sums(*arrays, ctx.saved, array_of(residual), arguments.epilogue)
        of_all = np.add.reduce(_gathered(np.stack(own), arguments.group))
        means = np.divide(of_all, ctx.count, out=np.zeros_like(of_all), where=ctx.count > 0)
        dx, dresidual = _calls.input_gradient(
            *arrays,
            ctx.saved,
            means,
            array_of(where),
            array_of(weights),
            array_of(residual),
            arguments.epilogue,
        )
        return (
            ordered_like(tensor_of(dx), x) if wanted[0] else None,
            channel_tensor(own[0], weight.dtype) if wanted[1] else None,
            channel_tensor(own[1], bias.dtype) if wanted[2] else None,
            (dy if dresidual is None else ordered_like(tensor_of(dresidual), x)) if wanted[3] else None,
            None,
        )


def _statistics_of_all(x: Tensor, arguments: _Arguments) -> Statistics:
    """Return the statistics of all processes' values; an error in one of them is raised in all, so that none waits."""
    error: Exception | None = None
    try:
        count, *own = _calls.moments(array_of(x), array_of(arguments.where), array_of(arguments.weights))
        sent = np.stack([np.broadcast_to(np.float64(count), own[0].shape), *own])
    except (TypeError, ValueError, RuntimeError) as raised:
        error, sent = raised, np.full((4, x.shape[1]), np.nan)
    parts = _gathered(sent, arguments.group)
    if error is not None:
        raise error
    failed = [rank for rank, (count, *_) in enumerate(parts) if np.isnan(count).any()]
    if failed:
        raise RuntimeError(
            f"input and its options must be valid in all processes, got errors in those of rank {failed}"
        )
    each = (Statistics(count, mean, m2, mean_lo, np.zeros_like(m2)) for count, mean, m2, mean_lo in parts)
    return functools.reduce(merged, each)


def _gathered(values: npt.NDArray[np.float64], group: Any) -> list[npt.NDArray[np.float64]]:
    """Return the values of all processes, in the order of ranks."""
    parts = [torch.empty(values.shape, dtype=torch.float64) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(parts, torch.from_numpy(values), group)
    return [part.numpy() for part in parts]
