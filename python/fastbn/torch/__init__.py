"""Batch normalization for PyTorch on the CPU, by fastbn's kernels: one line, ``model = fastbn.torch.convert(model)``.

Tensors are shared with the kernels without a copy. What these do not serve (other devices, integers, complex numbers)
goes to torch's own operations.
"""

try:
    import ml_dtypes  # noqa: F401
    import torch  # noqa: F401
except ImportError as error:
    raise ImportError('fastbn.torch needs PyTorch and ml_dtypes: pip install "fastbn[torch]"') from error

from fastbn.torch._convert import convert, convert_sync, revert
from fastbn.torch._functional import batch_norm
from fastbn.torch._fuse import fuse
from fastbn.torch._modules import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    LazyBatchNorm1d,
    LazyBatchNorm2d,
    LazyBatchNorm3d,
)
from fastbn.torch._sync import SyncBatchNorm

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "LazyBatchNorm1d",
    "LazyBatchNorm2d",
    "LazyBatchNorm3d",
    "SyncBatchNorm",
    "batch_norm",
    "convert",
    "convert_sync",
    "fuse",
    "revert",
]

# Pickles then do not depend on the files that the classes are in.
for _each in (BatchNorm1d, BatchNorm2d, BatchNorm3d, LazyBatchNorm1d, LazyBatchNorm2d, LazyBatchNorm3d, SyncBatchNorm):
    _each.__module__ = __name__


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
