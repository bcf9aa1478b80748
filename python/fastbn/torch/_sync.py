"""`SyncBatchNorm`: batch normalization by the statistics of all processes of a `torch.distributed` group, on the CPU.

Forward, each process checks its arguments and measures its part of the batch. All learn whether one has found an error
(a collective call of three numbers), and then all counts, means and m2 (another). They merge these by the formula of
Chan, Golub & LeVeque 1983 (eq. 1.5), in the order of ranks, so that each gets the same bits. So the result is that of
one process with the whole batch, whatever the sizes of the parts; a part may be empty.

Backward, the sums of dy and of dy * xhat are those over all processes (one collective call). Gradients of weight
and bias stay each process's own, for `DistributedDataParallel` to average.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable
from torch.fx import Proxy
from torch.nn.modules.batchnorm import _BatchNorm

from fastbn._moments.statistics import Statistics as Moments
from fastbn._moments.statistics import merged
from fastbn.torch import _composed, _kernels
from fastbn.torch._functional import (
    check_savable,
    check_tensors,
    check_updatable,
    checked_residual,
    is_eager,
    is_plain,
    with_floats,
)
from fastbn.torch._kernels import Floats, Inputs, Options, Statistics, tensor_like
from fastbn.torch._library import as_wanted
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
        In all processes, if there is one value per channel in all of them together, if their weights sum to 1 or less
        where there are running statistics, or if their numbers of channels differ.
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
        if getattr(input, "is_cpu", True):  # what is no tensor at all is an error in every process
            group = self._group_of_several()
            if group is None:
                return super().forward(input, residual, where, weights)
            return self._over_processes(Inputs(input, self.weight, self.bias, where, weights, residual), group)
        if where is not None or weights is not None:
            raise ValueError(
                f"where and weights must be None on other devices than the CPU, got input on {input.device}"
            )
        y = torch.nn.SyncBatchNorm.forward(self, input)
        return _composed.epilogue_of(y, residual, self._options(0.0))

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
    def _over_processes(self, inputs: Inputs, group: Any) -> Tensor:
        tracks = self.track_running_stats
        own, error = None, None
        try:
            check_tensors(inputs)
            self._check_input_dim(inputs.x)
            if inputs.residual is not None:
                inputs = inputs._replace(residual=checked_residual(inputs.residual, inputs.x))
            if tracks:
                inputs = inputs._replace(running_mean=self.running_mean, running_var=self.running_var)
            options = with_floats(self._options(self.momentum or 0.0), training=True)
            _check(inputs, options)
            own = _kernels.moments(inputs)
        except Exception as raised:
            error = raised
        found = _moments_of_all(own, error, inputs, tracks, group)
        # What has no values in any process has xhat = 0, as by an infinite variance.
        count = np.asarray(found.count)
        var = np.divide(found.m2, count, out=np.full_like(found.m2, np.inf), where=count > 0)
        overflown = (count > 0) & np.isfinite(found.mean) & np.isinf(var)
        if overflown.any():
            raise ValueError(f"input must have a variance that float64 holds, got {var[overflown][0]}")
        if tracks:
            options = options._replace(momentum=float(self._count_batch()))
        statistics = Statistics(found.mean, var, _kernels.invstd_of(var, options.eps), count)
        y: Tensor = _Function.apply((statistics, found.mean_lo, options, group), *inputs)
        return y


def _check(inputs: Inputs, options: Options) -> None:
    """Raise here, before the collective call, what would otherwise be raised after it in this process alone."""
    x, weight, bias, _, _, residual, *running = inputs
    if not (is_plain(x) and is_eager()):
        raise TypeError(f"input must be a plain strided tensor of a floating-point type, got {type(x)} of {x.dtype}")
    if torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in (x, weight, bias, residual)):
        check_savable(inputs)
    channels = x.shape[1]
    for each in running:
        if each is not None and each.shape != (channels,):
            raise RuntimeError(f"running_mean and running_var must have shape ({channels},), got {tuple(each.shape)}")
    _kernels.check_running_dtypes(inputs)
    check_updatable(inputs)
    nothing = None if residual is None else residual[:0]
    _kernels.infer(Inputs(x[:0], weight, bias, None, None, nothing, *torch.ones(2, channels, device=x.device)), options)


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: tuple[Statistics, Floats, Options, Any], *tensors: Tensor | None) -> Tensor:
        ctx.statistics, mean_lo, ctx.options, ctx.group = call
        inputs = Inputs(*tensors)
        mean, var, _, count = (torch.from_numpy(each) for each in ctx.statistics)
        y, _ = _kernels.infer(inputs._replace(running_mean=mean, running_var=var), ctx.options, mean_lo)
        _composed.update_running(inputs, ctx.options, _composed.Statistics(mean, var, count))
        ctx.save_for_backward(*_kernels.for_backward(inputs, ctx.options))
        return tensor_like(y, inputs.x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        call = dy, Inputs(*ctx.saved_tensors), ctx.statistics, ctx.options
        x, count = call[1].x, ctx.statistics.count
        own = _kernels.gradient_sums(*call)
        of_all = np.add.reduce(_gathered(np.stack(own), ctx.group))
        means = np.divide(of_all, count, out=np.zeros_like(of_all), where=count > 0)
        dx, dresidual = _kernels.input_gradient(*call, *means)
        own_residual = None if dresidual is None else tensor_like(dresidual, x)
        found = tensor_like(dx, x), *map(torch.from_numpy, own), own_residual
        _, *wanted, _, _, residual, _, _ = ctx.needs_input_grad
        *gradients, last = as_wanted(found, dy, ctx.options, (*wanted, residual))
        return None, *gradients, None, None, last, None, None


def _moments_of_all(own: Floats | None, error: Exception | None, inputs: Inputs, tracks: bool, group: Any) -> Moments:
    """Return the moments of all processes' values; an error in one of them is raised in all, so that none waits."""
    weighted = inputs.weights is not None
    values = 0 if own is None else inputs.x.numel() // own.shape[1]
    each = _gathered(np.array([-1 if own is None else own.shape[1], values, weighted]), group)
    channels, numbers, are_weighted = (list(map(int, part)) for part in zip(*each, strict=True))
    if error is not None:
        raise error
    failed = [rank for rank, each in enumerate(channels) if each < 0]
    if own is None or failed:
        raise RuntimeError(
            f"input and its options must be valid in all processes, got errors in those of rank {failed}"
        )
    if len(set(channels)) > 1:
        raise ValueError(f"input must have as many channels in every process, got {channels} in the order of ranks")
    if sum(numbers) == 1 and not any(are_weighted):
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {inputs.x.size()}")
    found = functools.reduce(
        merged,
        (Moments(count, mean, m2, mean_lo, np.zeros_like(m2)) for count, mean, m2, mean_lo in _gathered(own, group)),
    )
    most = np.max(found.count)
    if tracks and 0 < most <= 1:
        raise ValueError(
            "where and weights must leave a sum of more than 1 in all processes together where running statistics are"
            f" given, got {most}"
        )
    return found


def _gathered(values: npt.NDArray[Any], group: Any) -> list[npt.NDArray[Any]]:
    """Return the values of all processes, in the order of ranks."""
    sent = torch.from_numpy(values)
    parts = [torch.empty_like(sent) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(parts, sent, group)
    return [part.numpy() for part in parts]
