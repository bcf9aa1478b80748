"""Batch normalization for NumPy arrays.

Functions and names follow ``torch.nn.functional.batch_norm``; arrays, axes and ``out=`` follow NumPy.

Everything in ``__all__`` is used as ``fastbn.<name>``. The public modules are `fastbn.functional`, `fastbn.results` and
`fastbn.config`, where some of these names are defined, and those that serve another library and need it:
`fastbn.sklearn`, `fastbn.torch`, `fastbn.dask`, `fastbn.mpi` and `fastbn.interop`. All others are private.
"""

import importlib
from typing import TYPE_CHECKING, Any

from fastbn import _pickles
from fastbn._core import version as __version__
from fastbn._folding import fold
from fastbn._layer.batch_norm import BatchNorm
from fastbn._moments.moments import Moments
from fastbn._population import population_statistics
from fastbn.config import (
    PoolInfo,
    clear_pool,
    get_num_threads,
    pool_info,
    set_num_threads,
    set_pool_limit,
    show_config,
)
from fastbn.functional import batch_norm, batch_norm_backward, batch_norm_train, moments, normalize
from fastbn.io.streaming import standardize, stream
from fastbn.results import Gradients, ResidualGradients, TrainResult

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
    "fold",
    "get_num_threads",
    "moments",
    "normalize",
    "pool_info",
    "population_statistics",
    "set_num_threads",
    "set_pool_limit",
    "show_config",
    "standardize",
    "stream",
]

_MODULES = ("config", "functional", "results")
_INTEGRATIONS = ("dask", "interop", "mpi", "sklearn", "torch")  # imported when they are asked for
# What other libraries call their own, and what is meant here.
_ELSEWHERE = {
    **dict.fromkeys(
        ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d"),
        " (fastbn.BatchNorm takes arrays of any rank, fastbn.torch has it for modules of torch)",
    ),
    "SyncBatchNorm": " (fastbn.BatchNorm has comm=, and fastbn.torch.SyncBatchNorm is for modules of torch)",
    "StandardScaler": " (fastbn.sklearn.StandardScaler)",
}

_pickles.name_publicly(BatchNorm, Gradients, Moments, PoolInfo, ResidualGradients, TrainResult)
_pickles.stand_in_for_moved_modules()


def __dir__() -> list[str]:
    """Return the public names and modules."""
    return sorted((*__all__, *_MODULES, *_INTEGRATIONS))


if not TYPE_CHECKING:  # type checkers would take it to mean that every name exists

    def __getattr__(name: str) -> Any:
        """Import an integration that is used without an import of its own."""
        if name not in _INTEGRATIONS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}{_ELSEWHERE.get(name, '')}")
        try:
            return importlib.import_module(f"{__name__}.{name}")
        except ImportError as error:  # the library is not installed, and the message says how to get it
            raise AttributeError(str(error)) from error
