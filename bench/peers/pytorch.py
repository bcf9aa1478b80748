"""PyTorch on the CPU: the native functions under F.batch_norm, without autograd, on the memory of the NumPy arrays."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from cases import Op, Output
from data import EPS, Array, Data, aligned_like
from peers.base import Contestant, Peer

torch: Any = importlib.import_module("torch")

Tensor = Any


class PyTorch:
    """PyTorch with channels second, as it wants them; NHWC memory is what it calls channels_last.

    What it has no one function for is done as its users do it: an integer array is converted first, a residual is added
    and the activation applied to the result in place, and a mask is not to be had.
    """

    name = "PyTorch"

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        torch.autograd.set_grad_enabled(False)
        self.version = str(torch.__version__)

    def prepare(self, op: Op, output: Output, data: Data) -> Contestant | None:
        """See :meth:`peers.base.Peer.prepare`; the backward pass has no variant that writes into given memory."""
        if data.variant.mask is not None or (op != "eval" and _is_integer(data)) or not data.dtype.isnative:
            return None
        x = _second(data.x, data)
        if op == "moments":
            return _moments(x)
        if op == "backward":
            return _backward(x, data) if output == "fresh" else None
        return Contestant(_fused(_forward(op, output, x, data), data), lambda r: _forward_arrays(op, r, data))


def _is_integer(data: Data) -> bool:
    return data.dtype.kind in "iub"


def _second(array: Array, data: Data) -> Tensor:
    moved = np.moveaxis(array, data.case.axis, 1)
    if array.dtype.name == "bfloat16":  # a type that PyTorch does not know from NumPy: by its bits
        return torch.from_numpy(moved.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(moved)


def _home(tensor: Tensor, data: Data) -> Array:
    bits = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
    array: Array = bits.numpy().view(data.variant.result_dtype)
    return np.moveaxis(array, 1, data.case.axis)


def _forward(op: Op, output: Output, x: Tensor, data: Data) -> Callable[[], Any]:
    affine = torch.from_numpy(data.weight), torch.from_numpy(data.bias)
    known: tuple[Tensor, Tensor] | tuple[None, None] = (None, None)
    if op == "eval":
        known = torch.from_numpy(data.running_mean), torch.from_numpy(data.running_var)
    source = _second(aligned_like(data.x, data.weight.dtype), data) if _is_integer(data) else x
    call = partial(torch.native_batch_norm, source, *affine, *known, op == "train", 0.1, EPS)
    if output == "given":
        saved = torch.empty(data.case.channels if op == "train" else 0, dtype=affine[0].dtype)
        call = partial(call, out=(_second(data.result(), data), saved, saved.clone()))
    if source is x:
        return call

    def converted() -> Any:
        source.copy_(x)
        return call()

    return converted


def _fused(forward: Callable[[], Any], data: Data) -> Callable[[], Any]:
    """Return ``forward`` with what follows it in the variant, done in place."""
    relu = data.variant.relu
    if not relu and data.residual is None:
        return forward
    residual = None if data.residual is None else _second(data.residual, data)

    def call() -> Any:
        result = forward()
        if residual is not None:
            result[0].add_(residual)
        if relu:
            result[0].relu_()
        return result

    return call


def _forward_arrays(op: Op, result: Any, data: Data) -> dict[str, Array]:
    arrays = {"y": _home(result[0], data)}
    if op == "train":
        invstd = result[2].numpy().astype(np.float64)
        arrays |= {"mean": result[1].numpy(), "var": invstd**-2 - EPS}
    return arrays


def _moments(x: Tensor) -> Contestant:
    axes = [a for a in range(x.ndim) if a != 1]
    return Contestant(
        lambda: torch.var_mean(x, axes, correction=0), lambda r: {"mean": r[1].numpy(), "var": r[0].numpy()}
    )


def _backward(x: Tensor, data: Data) -> Contestant:
    dy, weight = _second(data.dy, data), torch.from_numpy(data.weight)
    y, mean, invstd = _fused(_forward("train", "fresh", x, data), data)()
    backward = torch.ops.aten.native_batch_norm_backward.default
    through = torch.ops.aten.threshold_backward.default
    mask = [True, True, True]

    def plain(dz: Tensor = dy) -> Any:
        return backward(dz, x, weight, None, None, mean, invstd, True, EPS, mask)

    def behind_relu(y: Tensor = y) -> Any:
        dz = through(dy, y, 0)
        return *plain(dz), dz

    def arrays(result: Any) -> dict[str, Array]:
        found = {"dx": _home(result[0], data), "dweight": result[1].numpy(), "dbias": result[2].numpy()}
        return found if data.residual is None else found | {"dresidual": _home(result[3], data)}

    return Contestant(behind_relu if data.variant.relu else plain, arrays)


def load(threads: int) -> list[Peer]:
    """Return the peer."""
    return [PyTorch(threads)]
