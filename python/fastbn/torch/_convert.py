"""`convert`, `convert_sync` and `revert`: the batch norms of a model become fastbn's, and torch's again.

A module is not replaced: its class is. So parameters, buffers, hooks, mode, device and whatever refers to the module
(an optimizer, another module that shares it) stay as they are.
"""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any, TypeVar

import torch

from fastbn.torch import _modules
from fastbn.torch._modules import BatchNormMixin, has_hooks
from fastbn.torch._sync import SyncBatchNorm

RELU = "relu", BatchNormMixin.negative_slope

M = TypeVar("M", bound=torch.nn.Module)

_NAMES = (
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "LazyBatchNorm1d",
    "LazyBatchNorm2d",
    "LazyBatchNorm3d",
)
_OURS: dict[type[Any], type[Any]] = {getattr(torch.nn, name): getattr(_modules, name) for name in _NAMES}
_OURS[torch.nn.SyncBatchNorm] = SyncBatchNorm
_THEIRS = {ours: theirs for theirs, ours in _OURS.items()}
_LAZY = (torch.nn.LazyBatchNorm1d, torch.nn.LazyBatchNorm2d, torch.nn.LazyBatchNorm3d)


def convert(module: M, *, fuse_activations: bool = False) -> M:
    """Make every batch norm of a model fastbn's: ``model = fastbn.torch.convert(model)``.

    Parameters
    ----------
    module : torch.nn.Module
        A model or a batch norm, changed in place. What is swapped: ``torch.nn.BatchNorm1d``, ``BatchNorm2d``,
        ``BatchNorm3d``, their lazy variants and ``SyncBatchNorm``; subclasses of other libraries, which may compute
        something else, are left alone.
    fuse_activations : bool, default False
        Whether a ``ReLU`` or ``LeakyReLU`` that follows a batch norm in a ``torch.nn.Sequential`` becomes part of it.
        What stands in its place passes its input through. A pair of which one has hooks, or appears in the model more
        than once, is left as it is.

    Returns
    -------
    torch.nn.Module
        `module` itself.

    Raises
    ------
    TypeError
        If `module` is no module.

    See Also
    --------
    revert : The way back.
    convert_sync : Batch norms whose statistics are those of all processes.

    Examples
    --------
    >>> import torch, fastbn.torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2), torch.nn.ReLU())
    >>> fastbn.torch.convert(model, fuse_activations=True)
    Sequential(
      (0): Linear(in_features=3, out_features=2, bias=True)
      (1): BatchNorm1d(2, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True, activation='relu')
      (2): FusedReLU()
    )
    """
    _check_module(module)
    for each in module.modules():
        if type(each) in _OURS:
            each.__class__ = _OURS[type(each)]
    if fuse_activations:
        _fuse(module)
    return module


def convert_sync(module: M, process_group: Any | None = None) -> M:
    """Make every batch norm of a model one over all processes: ``model = fastbn.torch.convert_sync(model)``.

    Before the model goes into ``DistributedDataParallel``, whose place it does not take.

    Parameters
    ----------
    module : torch.nn.Module
        A model or a batch norm, changed in place. What is swapped: ``torch.nn.BatchNorm1d``, ``BatchNorm2d``,
        ``BatchNorm3d`` and ``SyncBatchNorm``, and fastbn's, whose activation stays. Lazy ones must have seen a batch.
    process_group : torch.distributed.ProcessGroup, optional
        The processes whose batches are one; all of them unless given. A ``SyncBatchNorm`` that has a group keeps it
        then.

    Returns
    -------
    torch.nn.Module
        `module` itself.

    Raises
    ------
    TypeError, ValueError
        Before anything is changed, if `module` is no module, or has a lazy batch norm.

    Examples
    --------
    >>> import torch, fastbn.torch
    >>> fastbn.torch.convert_sync(torch.nn.Sequential(torch.nn.BatchNorm1d(2)))
    Sequential(
      (0): SyncBatchNorm(2, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)
    )
    """
    _check_module(module)
    lazy = [name for name, each in module.named_modules() if isinstance(each, _LAZY)]
    if lazy:
        raise ValueError(f"module must have no lazy batch norm that has seen no batch, got {lazy}")
    for each in module.modules():
        if type(each) in _OURS or type(each) in _THEIRS:
            each.__class__ = SyncBatchNorm
            each.process_group = process_group or getattr(each, "process_group", None)
    return module


def revert(module: M) -> M:
    """Make every batch norm of a model torch's again: what `convert` did, undone.

    Before a model goes to tools that look for torch's classes (quantization, export to ONNX), say. What `convert_sync`
    made becomes ``torch.nn.SyncBatchNorm``, whatever it was before, which takes no tensors on the CPU in training.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place.

    Returns
    -------
    torch.nn.Module
        `module` itself.

    Raises
    ------
    TypeError, ValueError
        Before anything is changed, if `module` is no module, or a batch norm was made with an activation, which torch's
        has none of.

    Examples
    --------
    >>> import torch, fastbn.torch
    >>> fastbn.torch.revert(fastbn.torch.BatchNorm1d(2))
    BatchNorm1d(2, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)
    """
    _check_module(module)
    fused = {id(batch_norm): activation for batch_norm, activation in _pairs(module) if type(activation) in _UNFUSED}
    ours = [(name, each) for name, each in module.named_modules() if type(each) in _THEIRS]
    for name, each in ours:
        if each.activation is not None and id(each) not in fused:
            hint = " (revert the model that fuse was given)" if isinstance(module, torch.fx.GraphModule) else ""
            raise ValueError(
                f"module must have no activation of its own in its batch norms, got {each} as {name!r}{hint}"
            )
    for _, each in ours:
        if id(each) in fused:
            activation = fused[id(each)]
            activation.__class__ = _UNFUSED[type(activation)]
            del each.activation
        each.__dict__.pop("negative_slope", None)
        each.__class__ = _THEIRS[type(each)]
    return module


class FusedReLU(torch.nn.ReLU):
    """A ReLU that the batch norm before it computes: passes its input through."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the input."""
        return input

    def extra_repr(self) -> str:
        """Return nothing: there is nothing to set."""
        return ""


class FusedLeakyReLU(torch.nn.LeakyReLU):
    """A LeakyReLU that the batch norm before it computes: passes its input through."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the input."""
        return input


_FUSED: dict[type[Any], type[Any]] = {torch.nn.ReLU: FusedReLU, torch.nn.LeakyReLU: FusedLeakyReLU}
_UNFUSED = {fused: plain for plain, fused in _FUSED.items()}


def _check_module(module: Any) -> None:
    """Raise TypeError for what is no module of torch."""
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}")


def _fuse(module: torch.nn.Module) -> None:
    appearances = Counter(id(each) for _, each in module.named_modules(remove_duplicate=False))
    for batch_norm, activation in _pairs(module):
        found = activation_of(activation)
        if found is None or batch_norm.activation is not None:
            continue
        if any(appearances[id(each)] > 1 or has_hooks(each) for each in (batch_norm, activation)):
            continue
        batch_norm.activation, batch_norm.negative_slope = found
        activation.__class__ = _FUSED[type(activation)]


def activation_of(module: torch.nn.Module) -> tuple[str, float] | None:
    """Return the activation that the module computes, and its slope, which only that of "leaky_relu" is."""
    if type(module) is torch.nn.LeakyReLU:
        return "leaky_relu", module.negative_slope
    return RELU if type(module) is torch.nn.ReLU else None


def _pairs(module: torch.nn.Module) -> list[tuple[BatchNormMixin, torch.nn.Module]]:
    """Return each batch norm of ours in a Sequential, and the module after it."""
    found = []
    for each in module.modules():
        if type(each) is torch.nn.Sequential:
            found += [pair for pair in itertools.pairwise(each) if isinstance(pair[0], BatchNormMixin)]
    return found
