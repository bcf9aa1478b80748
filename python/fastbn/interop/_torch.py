"""PyTorch's modules: BatchNorm1d, 2d and 3d, SyncBatchNorm, lazy ones, and frozen ones as torchvision has them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from fastbn._layer.batch_norm import BatchNorm
from fastbn.interop._common import Array, check_layer, imported, layer_of

_STATISTICS = ("running_mean", "running_var")


def from_torch(module: Any) -> BatchNorm:
    """Return a layer that is a PyTorch module of batch normalization.

    Parameters
    ----------
    module : torch.nn.Module
        ``torch.nn.BatchNorm1d``, ``2d``, ``3d``, ``SyncBatchNorm``, a lazy one of these, or a frozen one: a module
        whose ``weight``, ``bias``, ``running_mean`` and ``running_var`` are buffers, as in
        ``torchvision.ops.FrozenBatchNorm2d``. On any device. Modules of ``fastbn.torch`` are taken with their
        activation.

    Returns
    -------
    BatchNorm
        With copies of all arrays, in float32 where the module's are of half precision, in the module's mode; of a
        frozen module a frozen layer; of a lazy one that has seen nothing, one whose features are undecided. It has no
        `comm`, for `SyncBatchNorm` too: set ``layer.comm``.

    Raises
    ------
    TypeError, ValueError
        If the module is something else, or has running statistics that it does not update.

    Examples
    --------
    >>> import torch  # doctest: +SKIP
    >>> fastbn.interop.from_torch(torch.nn.BatchNorm2d(3))  # doctest: +SKIP
    BatchNorm(3, axis=1, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True, correction=1, dtype='float32')
    """
    torch = imported("torch")
    if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
        return _from_batch_norm(module, torch)
    if isinstance(module, torch.nn.Module) and type(module).__name__.startswith("FrozenBatchNorm"):
        arrays = [_array(getattr(module, name)) for name in ("weight", "bias", *_STATISTICS)]
        layer = layer_of(*arrays, eps=float(getattr(module, "eps", 1e-5)))
        return layer.train(module.training).freeze(parameters=True)
    hint = ""
    if isinstance(module, torch.nn.Module) and any(
        isinstance(each, torch.nn.modules.batchnorm._BatchNorm) for each in module.modules()
    ):
        hint = " (give each of its batch normalizations; fastbn.torch.convert takes a whole model)"
    elif isinstance(module, Mapping):
        hint = " (BatchNorm().load_state_dict takes a state_dict)"
    rule = "be a batch normalization of torch.nn, or a frozen one"
    raise TypeError(f"module must {rule}, got {type(module).__name__}{hint}")


def to_torch(layer: BatchNorm, cls: Any = None) -> Any:
    """Return a PyTorch module that is a layer.

    Parameters
    ----------
    layer : BatchNorm
        With ``axis=1`` and, where it has running statistics, ``correction=1``.
    cls : type, optional
        ``torch.nn.BatchNorm1d``, ``BatchNorm3d`` or ``SyncBatchNorm``; ``torch.nn.BatchNorm2d`` if not given.

    Returns
    -------
    torch.nn.Module
        Of the layer's dtype, with arrays of its own, on the CPU, in the layer's mode. A frozen layer becomes a module
        in evaluation mode, whose parameters want no gradient if they are frozen; its ``train()`` unfreezes it. A layer
        of a bias alone becomes a module with a weight of ones that wants no gradient.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        If PyTorch has no such module (see `fastbn.interop`), or the layer's features are undecided.
    """
    check_layer(layer, "PyTorch", correction=1, axis=1)
    torch = imported("torch")
    chosen = torch.nn.BatchNorm2d if cls is None else cls
    if not (isinstance(chosen, type) and issubclass(chosen, torch.nn.modules.batchnorm._BatchNorm)):
        raise TypeError(f"cls must be a batch normalization of torch.nn, got {chosen!r}")
    if issubclass(chosen, torch.nn.modules.lazy.LazyModuleMixin):
        raise TypeError(f"cls must not be lazy, since the layer's features are decided, got {chosen!r}")
    options: dict[str, Any] = {"eps": layer.eps, "momentum": layer.momentum, "affine": layer.affine}
    options |= {"track_running_stats": layer.track_running_stats, "dtype": getattr(torch, layer.dtype.name)}
    module = chosen(layer.num_features, **options)
    if layer.affine and not layer.use_bias:
        module.register_parameter("bias", None)
    state = {key: torch.from_numpy(value) for key, value in layer.state_dict().items()}
    module.load_state_dict(({} if layer.use_weight or not layer.affine else {"weight": module.weight.data}) | state)
    if layer.affine and not layer.use_weight:
        module.weight.requires_grad_(False)
    if layer.frozen_parameters:
        module.requires_grad_(False)
    return module.train(layer.training and not layer.frozen)


def _from_batch_norm(module: Any, torch: Any) -> BatchNorm:
    options = {"eps": module.eps, "momentum": module.momentum, **_activation_of(module)}
    kept = module.running_mean is not None
    if kept is not bool(module.track_running_stats):
        got = f"track_running_stats={module.track_running_stats} and {'some' if kept else 'none'}"
        raise ValueError(f"module must have running statistics exactly if it tracks them, got {got}")
    if isinstance(module.running_mean if kept else module.weight, torch.nn.parameter.UninitializedTensorMixin):
        layer = BatchNorm(affine=module.affine, track_running_stats=kept, dtype="float32", **options)
        return layer.train(module.training)
    tracked = 0 if module.num_batches_tracked is None else int(module.num_batches_tracked)
    arrays = [_array(getattr(module, name)) for name in ("weight", "bias", *_STATISTICS)]
    if all(each is None for each in arrays):
        layer = BatchNorm(module.num_features, affine=False, track_running_stats=False, dtype="float32", **options)
    else:
        layer = layer_of(*arrays, tracked=tracked, **options)
    return layer.train(module.training)


def _activation_of(module: Any) -> dict[str, Any]:
    """Return the options that a module of ``fastbn.torch`` has and one of torch has not."""
    ours = sys.modules.get("fastbn.torch._modules")  # where it was not imported, the module is torch's
    if ours is None or not isinstance(module, ours.BatchNormMixin):
        return {}
    return {"activation": module.activation, "negative_slope": module.negative_slope}


def _array(tensor: Any) -> Array | None:
    if tensor is None:
        return None
    held = tensor.detach().cpu()
    array: Array = (held if held.dtype.itemsize >= 4 else held.float()).numpy()
    return array
