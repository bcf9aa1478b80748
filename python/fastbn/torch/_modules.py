"""`BatchNorm1d`, `BatchNorm2d` and `BatchNorm3d`: torch's own classes with another forward; their lazy variants too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Proxy
from torch.fx.proxy import TraceError

from fastbn import _core
from fastbn.torch._functional import check_activation, check_tensors, is_eager, normalized
from fastbn.torch._kernels import Inputs, Options

# Looked up once: after a convolution the caches are cold.
_call_module = _core.call_module
_is_traced = torch.compiler.is_dynamo_compiling  # which cannot see into the extension; others set modes


class BatchNormMixin(torch.nn.Module):
    """The forward of all modules here. What it holds beside torch's attributes is the activation."""

    # On the class, so that modules which were made by torch have them too.
    activation: str | None = None
    negative_slope: float = 0.01

    num_features: int
    eps: float
    momentum: float | None
    track_running_stats: bool
    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None
    _check_input_dim: Callable[[Tensor], None]

    def __init__(self, *args: Any, activation: str | None = None, negative_slope: float = 0.01, **options: Any) -> None:
        check_activation(activation, negative_slope)
        super().__init__(*args, **options)
        if activation is not None:
            self.activation = activation
        if negative_slope != 0.01:
            self.negative_slope = negative_slope

    def forward(
        self,
        input: Tensor,
        residual: Tensor | None = None,
        where: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Return the normalized input.

        Parameters
        ----------
        input : Tensor
            Of the ranks that torch's class takes, in any memory order, which y has too.
        residual : Tensor, optional
            Of input's shape, added before the activation.
        where, weights : Tensor, optional
            Broadcastable to input: which values the batch's statistics are taken of, and with what weight.

        Returns
        -------
        Tensor
            y, of input's shape and type.
        """
        if where is None and weights is None and not _is_traced():
            y: Tensor | None = _call_module(self, input, residual)
            if y is not None:
                return y
        if isinstance(input, Proxy):
            return self._node(input, residual=residual, where=where, weights=weights)
        check_tensors(Inputs(input, None, None, where, weights, residual))
        self._check_input_dim(input)
        eager, training = is_eager(), self.training
        counts = training and self.track_running_stats
        momentum = self._count_batch(eager) if counts else self.momentum or 0.0
        # As attributes, torch.nn.Module finds them by a function in Python.
        parameters, buffers = self._parameters, self._buffers
        try:
            weight, bias = parameters["weight"], parameters["bias"]
            running_mean, running_var = buffers["running_mean"], buffers["running_var"]
        except KeyError:  # a parametrization computes them, say
            weight, bias, running_mean, running_var = self.weight, self.bias, self.running_mean, self.running_var
        if training and not self.track_running_stats:
            running_mean = running_var = None
        try:
            return normalized(
                Inputs(input, weight, bias, where, weights, residual, running_mean, running_var),
                self._options(momentum),
                training or (running_mean is None and running_var is None),
                eager,
            )
        except (TypeError, ValueError, RuntimeError):  # a refused batch changes nothing
            if counts and self.num_batches_tracked is not None:
                self.num_batches_tracked.sub_(1)
            raise

    def _options(self, momentum: float) -> Options:
        if self.activation is not None:  # which may have been changed
            check_activation(self.activation, self.negative_slope)
        return Options(self.eps, self.activation, self.negative_slope, momentum)

    def _node(self, input: Any, **options: Any) -> Any:
        """Return the call as a node of the graph that torch.fx traces: so it takes calls of torch's own modules."""
        if has_hooks(self) or type(self).__module__ != "fastbn.torch":  # such a node would call them once more
            raise TraceError(f"a batch norm with hooks or a forward of its own cannot be traced, got {self}")
        tracer, given = input.tracer, {name: value for name, value in options.items() if value is not None}
        return tracer.create_proxy("call_module", tracer.path_of_module(self), (input,), given)

    def _count_batch(self, eager: bool = False) -> float:
        """Count a batch of training, and return the weight of its statistics in the running ones."""
        try:
            counted = self._buffers["num_batches_tracked"]
        except KeyError:  # computed, or no buffer
            counted = self.num_batches_tracked
        momentum = self.momentum
        if counted is not None:
            is_simple = eager and type(counted) is Tensor and counted.is_cpu and not counted.is_inference()
            if is_simple and _core.count_exchanged(counted):
                torch._C._increment_version([counted])  # written behind torch's back, which counts changes
            else:
                counted.add_(1)
            if momentum is None:  # the plain average over all batches
                return 1.0 / float(counted)
        return 0.0 if momentum is None else momentum

    def extra_repr(self) -> str:
        """Return torch's text, and the activation where there is one."""
        text: str = super().extra_repr()
        if self.activation is None:
            return text
        slope = f", negative_slope={self.negative_slope}" if self.activation == "leaky_relu" else ""
        return f"{text}, activation={self.activation!r}{slope}"


def has_hooks(module: torch.nn.Module) -> bool:
    """Return whether anything sees the module's calls or their gradients."""
    return any(
        (
            module._forward_hooks,
            module._forward_pre_hooks,
            module._backward_hooks,
            module._backward_pre_hooks,
        )
    )


class BatchNorm1d(BatchNormMixin, torch.nn.BatchNorm1d):
    """``torch.nn.BatchNorm1d`` by fastbn's kernels: batch normalization of input of shape (N, C) or (N, C, L).

    A subclass of torch's, with its parameters, buffers and keys of ``state_dict``. A call,
    ``layer(input, residual=None, where=None, weights=None)``, takes tensors as `batch_norm` does, and returns::

        y = activation(weight * (input - mean) / sqrt(var + eps) + bias + residual)

    Parameters
    ----------
    num_features, eps, momentum, affine, track_running_stats, device, dtype, bias
        As for ``torch.nn.BatchNorm1d``.
    activation : {"relu", "leaky_relu"}, optional
        Applied last, at no cost. Not part of ``state_dict``.
    negative_slope : float, default 0.01
        Of "leaky_relu".

    See Also
    --------
    fastbn.torch.batch_norm : What it calls; says which tensors go to torch's own operation instead.

    Examples
    --------
    >>> import torch, fastbn.torch
    >>> layer = fastbn.torch.BatchNorm1d(2, activation="relu")
    >>> layer
    BatchNorm1d(2, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True, activation='relu')
    >>> isinstance(layer, torch.nn.BatchNorm1d)
    True
    >>> layer(torch.tensor([[1.0, 10.0], [3.0, 30.0]])).detach().round(decimals=3)
    tensor([[0., 0.],
            [1., 1.]])
    """


class BatchNorm2d(BatchNormMixin, torch.nn.BatchNorm2d):
    """``torch.nn.BatchNorm2d`` by fastbn's kernels, for input of shape (N, C, H, W).

    Parameters, calls and the formula: `BatchNorm1d`.

    Examples
    --------
    A layer and the end of a residual block, whose sum and activation cost no pass over memory of their own:

    >>> import torch, fastbn.torch
    >>> layer, x = fastbn.torch.BatchNorm2d(8, activation="relu"), torch.randn(2, 8, 6, 6)
    >>> y = layer(x, residual=x)
    >>> torch.allclose(y, torch.relu(torch.nn.BatchNorm2d(8)(x) + x), atol=1e-5)
    True
    """


class BatchNorm3d(BatchNormMixin, torch.nn.BatchNorm3d):
    """``torch.nn.BatchNorm3d`` by fastbn's kernels, for input of shape (N, C, D, H, W).

    Parameters, calls and the formula: `BatchNorm1d`.

    Examples
    --------
    >>> import torch, fastbn.torch
    >>> fastbn.torch.BatchNorm3d(8)(torch.randn(2, 8, 3, 4, 5)).shape
    torch.Size([2, 8, 3, 4, 5])
    """


class LazyBatchNorm1d(BatchNormMixin, torch.nn.LazyBatchNorm1d):
    """`BatchNorm1d` whose ``num_features`` the first batch decides, as with ``torch.nn.LazyBatchNorm1d``.

    Parameters
    ----------
    eps, momentum, affine, track_running_stats, device, dtype, bias, activation, negative_slope
        As for `BatchNorm1d`, which it becomes.

    Examples
    --------
    >>> import torch, fastbn.torch
    >>> layer = fastbn.torch.LazyBatchNorm1d()
    >>> y = layer(torch.randn(4, 8))
    >>> layer
    BatchNorm1d(8, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)
    """

    cls_to_become = BatchNorm1d


class LazyBatchNorm2d(BatchNormMixin, torch.nn.LazyBatchNorm2d):
    """`BatchNorm2d` whose ``num_features`` the first batch decides, as with ``torch.nn.LazyBatchNorm2d``.

    Parameters
    ----------
    eps, momentum, affine, track_running_stats, device, dtype, bias, activation, negative_slope
        As for `BatchNorm2d`, which it becomes.

    Examples
    --------
    >>> import torch, fastbn.torch
    >>> layer = fastbn.torch.LazyBatchNorm2d()
    >>> y = layer(torch.randn(2, 8, 6, 6))
    >>> layer
    BatchNorm2d(8, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)
    """

    cls_to_become = BatchNorm2d


class LazyBatchNorm3d(BatchNormMixin, torch.nn.LazyBatchNorm3d):
    """`BatchNorm3d` whose ``num_features`` the first batch decides, as with ``torch.nn.LazyBatchNorm3d``.

    Parameters
    ----------
    eps, momentum, affine, track_running_stats, device, dtype, bias, activation, negative_slope
        As for `BatchNorm3d`, which it becomes.

    Examples
    --------
    >>> import torch, fastbn.torch
    >>> layer = fastbn.torch.LazyBatchNorm3d()
    >>> y = layer(torch.randn(2, 8, 3, 4, 5))
    >>> layer
    BatchNorm3d(8, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)
    """

    cls_to_become = BatchNorm3d
