"""Tensors as NumPy arrays, and back: the same memory in the same order, without a copy."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastbn import _core

# Other classes of tensors have rules of their own.
_PLAIN_TYPES = (Tensor, torch.nn.Parameter)
PLAIN = frozenset(_PLAIN_TYPES)

# torch takes no bfloat16 from NumPy: such an array crosses over as 16-bit integers.
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def check_running_dtypes(*running: Tensor | None) -> None:
    """Refuse running statistics that are not floating, as torch does."""
    for each in running:
        if each is not None and not each.dtype.is_floating_point:
            raise TypeError(f"running_mean and running_var must be of a floating-point type, got {each.dtype}")


def array_of(tensor: Tensor | None) -> Any:
    """Return the tensor's memory as an array, to be used before that is resized or freed; None for None.

    Raises RuntimeError or TypeError where there is no memory to read, or what it holds are not the values themselves.
    """
    if tensor is None:
        return None
    if type(tensor) in PLAIN and not tensor.is_neg():  # a fifth of the time that numpy() takes
        array = _core.from_exchange_api(tensor)
        if array is not None:
            return array
    return tensor.detach().numpy()


def plain_arrays_of(*tensors: Tensor | None) -> tuple[Any, ...] | None:
    """Return `array_of` for each tensor, by one call of the extension: finding functions takes most of the time.

    None where it is not so simple: where one is not plain, or has no memory here, or the first one is not floating.
    """
    try:
        return _core.exchanged_arrays(tensors, _PLAIN_TYPES)
    except (RuntimeError, BufferError):  # a tensor without memory
        return None


def tensors_of(arrays: tuple[Any, ...], likes: tuple[Tensor | None, ...]) -> tuple[Any, ...]:
    """Return each array's memory as a tensor of the type and order of the tensor in its place; None for None."""
    found = _core.exchanged_objects(arrays, likes)
    if found is not None:
        return found
    return tuple(
        None if like is None else ordered_like(tensor_of(array), like).to(like.dtype)
        for array, like in zip(arrays, likes, strict=True)
    )


def count_up(counted: Tensor) -> None:
    """Add 1 to a number of batches, where no transform or mode has to see it."""
    if type(counted) is Tensor and counted.is_cpu and not counted.is_inference() and _core.count_exchanged(counted):
        torch._C._increment_version([counted])  # written behind torch's back, which counts the changes of each tensor
    else:
        counted.add_(1)


def in_order_of(dy: Tensor, x: Tensor) -> Tensor:
    """Return the gradient in x's memory order, or as it is where it is expanded.

    Where the orders differ the kernels read dy one value at a time; torch's copy is several times as fast.
    """
    if dy.stride() == x.stride() or 0 in dy.stride():
        return dy
    return torch.empty_like(x).copy_(dy)


def tensor_of(array: npt.NDArray[Any]) -> Tensor:
    """Return the array's memory as a tensor."""
    if array.dtype == _BFLOAT16:
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def ordered_like(y: Tensor, x: Tensor) -> Tensor:
    """Return y, new memory in x's order, with x's strides where these differ along axes of size 1.

    Such strides address nothing, but torch tells channels-last tensors from others by them.
    """
    if y.stride() == x.stride() or not (
        x.is_contiguous()
        or x.is_contiguous(memory_format=torch.channels_last)
        or x.is_contiguous(memory_format=torch.channels_last_3d)
    ):
        return y
    return y.as_strided(x.shape, x.stride())
