"""Batch normalization for NumPy arrays.

Functions and names follow ``torch.nn.functional.batch_norm``; arrays, axes and ``out=`` follow NumPy.
"""

from fastbn._core import version as __version__
from fastbn.config import get_num_threads, set_num_threads, show_config
from fastbn.functional import batch_norm, batch_norm_backward, batch_norm_train, moments, normalize
from fastbn.io.standardizing import standardize
from fastbn.io.streaming import stream
from fastbn.layer import BatchNorm
from fastbn.pool import PoolInfo, clear_pool, pool_info, set_pool_limit
from fastbn.results import Gradients, ResidualGradients, TrainResult
from fastbn.statistics import Moments

__all__ = [
    "BatchNorm",
    "Gradients",
    "Moments",
    "PoolInfo",
    "ResidualGradients",
    "TrainResult",
    "__version__",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_train",
    "clear_pool",
    "get_num_threads",
    "moments",
    "normalize",
    "pool_info",
    "set_num_threads",
    "set_pool_limit",
    "show_config",
    "standardize",
    "stream",
]
