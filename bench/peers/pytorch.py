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
    """PyTorch with channels second, as it wants them; NHWC memory is what it calls channels_last."""

    name = "PyTorch"

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        torch.autograd.set_grad_enabled(False)
        self.version = str(torch.__version__)

    def prepare(self, op: Op, output: Output, data: Data) -> Contestant | None:
        """See :meth:`peers.base.Peer.prepare`; the backward pass has no variant that writes into given memory."""
        x = _second(data.x, data)
        if op == "moments":
            return _moments(x)
        if op == "backward":
            return _backward(x, data) if output == "fresh" else None
        affine = torch.from_numpy(data.weight), torch.from_numpy(data.bias)
        known: tuple[Tensor, Tensor] | tuple[None, None] = (None, None)
        if op == "eval":
            known = torch.from_numpy(data.running_mean), torch.from_numpy(data.running_var)
        arguments = (x, *affine, *known, op == "train", 0.1, EPS)
        call: Callable[[], Any]
        if output == "fresh":
            call = partial(torch.native_batch_norm, *arguments)
        else:
            saved = torch.empty(data.case.channels if op == "train" else 0, dtype=x.dtype)
            out = (_second(aligned_like(data.x), data), saved, saved.clone())
            call = partial(torch.native_batch_norm, *arguments, out=out)
        return Contestant(call, lambda r: _forward_arrays(op, r, data))


def _second(array: Array, data: Data) -> Tensor:
    return torch.from_numpy(np.moveaxis(array, data.case.axis, 1))


def _home(tensor: Tensor, data: Data) -> Array:
    array: Array = tensor.numpy()
    return np.moveaxis(array, 1, data.case.axis)


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
    _, mean, invstd = torch.native_batch_norm(x, weight, None, None, None, True, 0.1, EPS)
    backward = torch.ops.aten.native_batch_norm_backward.default
    mask = [True, True, True]

    def call() -> Any:
        return backward(dy, x, weight, None, None, mean, invstd, True, EPS, mask)

    def arrays(result: Any) -> dict[str, Array]:
        return {"dx": _home(result[0], data), "dweight": result[1].numpy(), "dbias": result[2].numpy()}

    return Contestant(call, arrays)


def load(threads: int) -> list[Peer]:
    """Return the peer."""
    return [PyTorch(threads)]
