"""Batch normalization for NumPy arrays.

Functions and names follow ``torch.nn.functional.batch_norm``; arrays, axes and ``out=`` follow NumPy.
"""

from fastbn._core import version as __version__
from fastbn.config import get_num_threads, set_num_threads, show_config
from fastbn.functional import batch_norm, batch_norm_backward, batch_norm_train, moments, normalize
from fastbn.layer import BatchNorm
from fastbn.results import Gradients, Moments, TrainResult

__all__ = [
    "BatchNorm",
    "Gradients",
    "Moments",
    "TrainResult",
    "__version__",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_train",
    "get_num_threads",
    "moments",
    "normalize",
    "set_num_threads",
    "show_config",
]
