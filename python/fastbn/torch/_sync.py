"""`SyncBatchNorm`: batch normalization by the statistics of all processes of a `torch.distributed` group, on the CPU.

Forward, each process checks its arguments and measures its part of the batch. All learn whether one has found an error
(a collective call of one number), and then all counts, means and m2 (another). They merge these by the formula of
Chan, Golub & LeVeque 1983 (eq. 1.5), in the order of ranks, so that each gets the same bits. So the result is that of
one process with the whole batch, whatever the sizes of the parts; a part may be empty.

Backward, the sums of dy and of dy * xhat are those over all processes (one collective call). Gradients of weight
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
from torch.fx import Proxy
from torch.nn.modules.batchnorm import _BatchNorm

from fastbn._moments.merge import Statistics, merged
from fastbn.torch import _calls, _composed
from fastbn.torch._arrays import array_of, check_running_dtypes, in_order_of, ordered_like, tensor_of
from fastbn.torch._calls import Epilogue, Floats
from fastbn.torch._functional import check_savable, checked_residual, follow_threads, is_served, saved_constants
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
        In all processes, if there is one value per channel in all of them together, or if their numbers of channels
        differ.
    TypeError, ValueError, RuntimeError
        In a process whose input or options are wrong, before anything is written; in all others a RuntimeError.

    Notes
    -----
    All processes of the group must call it in the same mode, and forward and backward as often as each other: one in
    evaluation sends nothing, and the others wait for it until the group's timeout. Under ``torch.compile`` it
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
        if isinstance(input, Proxy):
            return self._node(input, residual=residual, where=where, weights=weights)
        if input.is_cpu:
            group = self._group_of_several()
            if group is None:
                return super().forward(input, residual, where, weights)
            return self._over_processes(input, residual, where, weights, group)
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

    def _group_of_several(self) -> Any | None:
        """Return the group over which a call is made; None where it is this process's alone."""
        if not (self.training and distributed.is_available() and distributed.is_initialized()):
            return None
        group = self.process_group or distributed.group.WORLD
        return group if distributed.get_world_size(group) > 1 else None

    @torch.compiler.disable
    def _over_processes(
        self, x: Tensor, residual: Tensor | None, where: Tensor | None, weights: Tensor | None, group: Any
    ) -> Tensor:
        epilogue = Epilogue(self.activation, self.negative_slope)
        running = (self.running_mean, self.running_var) if self.track_running_stats else (None, None)
        own, error = None, None
        try:
            self._check_input_dim(x)
            if residual is not None:
                residual = checked_residual(residual, x)
            self._check(x, residual, where, weights, running, epilogue)
            follow_threads()
            own = _own_statistics(x, where, weights)
        except Exception as raised:
            error = raised
        found = _statistics_of_all(own, error, group)
        count = np.asarray(found.count)
        if (count == 1).all():
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.size()}")
        # What has no values in any process has xhat = 0, as by an infinite variance.
        var = np.divide(found.m2, count, out=np.full_like(found.m2, np.inf), where=count > 0)
        overflown = (count > 0) & np.isfinite(found.mean) & np.isinf(var)
        if overflown.any():
            raise ValueError(f"input must have a variance that float64 holds, got {var[overflown][0]}")
        momentum = self._count_batch() if self.track_running_stats else 0.0
        statistics = found.mean, found.mean_lo, var, count
        arguments = _Arguments(*running, momentum, self.eps, where, weights, epilogue, group, *statistics)
        y: Tensor = _Function.apply(x, self.weight, self.bias, residual, arguments)
        return y

    def _check(
        self,
        x: Tensor,
        residual: Tensor | None,
        where: Tensor | None,
        weights: Tensor | None,
        running: tuple[Tensor | None, Tensor | None],
        epilogue: Epilogue,
    ) -> None:
        """Raise here, before the collective call, what would otherwise be raised after it in this process alone."""
        if not is_served(x):
            raise TypeError(
                f"input must be a plain strided tensor of a floating-point type, got {type(x)} of {x.dtype}"
            )
        differentiated = (x, self.weight, self.bias, residual)
        if torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in differentiated):
            check_savable(*differentiated, where, weights)
        channels = x.shape[1]
        for each in running:
            if each is None:
                continue
            if each.shape != (channels,):
                raise RuntimeError(
                    f"running_mean and running_var must have shape ({channels},), got {tuple(each.shape)}"
                )
            check_running_dtypes(each)
            if each.is_inference() and not torch.is_inference_mode_enabled():
                raise RuntimeError(
                    "running_mean and running_var must be made outside of torch.inference_mode(), got inference tensors"
                )
        _calls.infer(  # of no values
            array_of(x)[:0],
            np.zeros(channels),
            np.ones(channels),
            array_of(self.weight),
            array_of(self.bias),
            self.eps,
            None if residual is None else array_of(residual)[:0],
            epilogue,
        )


class _Arguments(NamedTuple):
    """A call's arguments that autograd need not know, and the statistics of all processes."""

    running_mean: Tensor | None
    running_var: Tensor | None
    momentum: float
    eps: float
    where: Tensor | None
    weights: Tensor | None
    epilogue: Epilogue
    group: Any
    mean: Floats
    mean_lo: Floats
    var: Floats
    count: Floats  # type: ignore[assignment]  # shadows tuple.count, as meant


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
        mean, var, count = arguments.mean, arguments.var, arguments.count
        y = _calls.infer(
            array_of(x),
            mean,
            var,
            array_of(weight),
            array_of(bias),
            arguments.eps,
            array_of(residual),
            arguments.epilogue,
            mean_lo=arguments.mean_lo,
        )
        if arguments.running_mean is not None and arguments.running_var is not None:
            channels = _composed.Statistics(*map(torch.from_numpy, (mean, var, count)))
            _composed.update_running(arguments.running_mean, arguments.running_var, channels, arguments.momentum)
        ctx.arguments = arguments
        ctx.saved = saved_constants(mean, var, arguments.eps)
        kept = (None, None) if arguments.epilogue.activation is None else (bias, residual)  # only it asks for them
        ctx.save_for_backward(x, weight, *kept, arguments.where, arguments.weights)
        return ordered_like(tensor_of(y), x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, residual, where, weights = ctx.saved_tensors
        arguments: _Arguments = ctx.arguments
        wanted = ctx.needs_input_grad
        arrays = array_of(in_order_of(dy, x)), array_of(x), array_of(weight), array_of(bias)
        own = _calls.gradient_sums(*arrays, ctx.saved, array_of(residual), arguments.epilogue)
        of_all = np.add.reduce(_gathered(np.stack(own), arguments.group))
        means = np.divide(of_all, arguments.count, out=np.zeros_like(of_all), where=arguments.count > 0)
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
            torch.from_numpy(own[0]) if wanted[1] else None,  # which autograd converts
            torch.from_numpy(own[1]) if wanted[2] else None,
            (dy if dresidual is None else ordered_like(tensor_of(dresidual), x)) if wanted[3] else None,
            None,
        )


def _own_statistics(x: Tensor, where: Tensor | None, weights: Tensor | None) -> Floats:
    """Return count, mean, m2 and the low part of mean, each a row."""
    count, *own = _calls.moments(array_of(x), array_of(where), array_of(weights))
    return np.stack([np.broadcast_to(np.float64(count), own[0].shape), *own])


def _statistics_of_all(own: Floats | None, error: Exception | None, group: Any) -> Statistics:
    """Return the statistics of all processes' values; an error in one of them is raised in all, so that none waits."""
    channels = [int(each) for each in _gathered(np.array(-1 if own is None else own.shape[1]), group)]
    if error is not None:
        raise error
    failed = [rank for rank, each in enumerate(channels) if each < 0]
    if own is None or failed:
        raise RuntimeError(
            f"input and its options must be valid in all processes, got errors in those of rank {failed}"
        )
    if len(set(channels)) > 1:
        raise ValueError(f"input must have as many channels in every process, got {channels} in the order of ranks")
    each = (
        Statistics(count, mean, m2, mean_lo, np.zeros_like(m2)) for count, mean, m2, mean_lo in _gathered(own, group)
    )
    return functools.reduce(merged, each)


def _gathered(values: npt.NDArray[Any], group: Any) -> list[npt.NDArray[Any]]:
    """Return the values of all processes, in the order of ranks."""
    sent = torch.from_numpy(values)
    parts = [torch.empty_like(sent) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(parts, sent, group)
    return [part.numpy() for part in parts]
