"""Tensors as NumPy arrays, and back: the same memory in the same order, without a copy."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# NumPy has no bfloat16 of its own, and torch knows none from NumPy: such a tensor crosses over as 16-bit integers.
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def check_running_dtypes(*running: Tensor | None) -> None:
    """Refuse running statistics that are not floating, as torch does."""
    for each in running:
        if each is not None and not each.dtype.is_floating_point:
            raise TypeError(f"running_mean and running_var must be of a floating-point type, got {each.dtype}")


def array_of(tensor: Tensor | None) -> Any:
    """Return the tensor's memory as an array; None for None."""
    if tensor is None:
        return None
    if tensor.requires_grad:
        tensor = tensor.detach()
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(_BFLOAT16)
    return tensor.numpy()


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


def channel_tensor(array: npt.NDArray[np.float64], dtype: torch.dtype) -> Tensor:
    """Return values of the channels as a tensor of a parameter's type."""
    if dtype is torch.float32:  # NumPy converts a small array in a quarter of the time that torch takes
        return torch.from_numpy(array.astype(np.float32))
    return torch.from_numpy(array).to(dtype)
