"""Batch normalization for NumPy arrays.

Functions and names follow ``torch.nn.functional.batch_norm``; arrays, axes and ``out=`` follow NumPy.
"""

from fastbn._core import version as __version__
from fastbn.config import get_num_threads, set_num_threads, show_config
from fastbn.functional import batch_norm, batch_norm_backward, batch_norm_train, moments, normalize
from fastbn.layer import BatchNorm
from fastbn.memory import PoolInfo, clear_pool, pool_info, set_pool_limit
from fastbn.results import Gradients, ResidualGradients, TrainResult
from fastbn.standardizing import standardize
from fastbn.statistics import Moments
from fastbn.streaming import stream

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
