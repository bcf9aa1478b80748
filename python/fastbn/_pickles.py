"""The names under which pickles find fastbn's classes.

A pickle holds the module and the name of each class. The module of the public classes is made the one that offers them,
so that pickles do not depend on the files that the classes are in. Pickles of earlier versions hold names of modules
that no longer exist. In their places stand modules that find the one class of each where it is now.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any

# Modules of earlier versions whose classes may be in pickles: name, class, and where the class is now.
# `Attributes` are in pickles of `fastbn.sklearn.StandardScaler`, `IncompatibleKeys` are of `BatchNorm.load_state_dict`.
_MOVED = (
    ("fastbn.layer", "BatchNorm", "fastbn"),
    ("fastbn.statistics", "Moments", "fastbn"),
    ("fastbn.pool", "PoolInfo", "fastbn"),
    ("fastbn.memory", "PoolInfo", "fastbn"),
    ("fastbn.scaling", "Attributes", "fastbn._scaling"),
    ("fastbn.checks", "IncompatibleKeys", "fastbn._layer.state"),
    ("fastbn.dask.scaler", "StandardScaler", "fastbn.dask"),
)


class FirstMoments:
    """Makes `Moments` of the named tuple that ``fastbn.results.Moments`` was in version 0.1.0 and its pickles."""

    def __new__(cls, count: Any, mean: Any, m2: Any) -> Any:
        """Return Moments that have seen what the tuple had."""
        return importlib.import_module("fastbn").Moments(count, mean, m2)


def name_publicly(*classes: type, module: str = "fastbn") -> None:
    """Make the public module that of these classes and of their methods, whose doctests it is searched for."""
    for each in classes:
        each.__module__ = module
        for member in vars(each).values():
            function = getattr(member, "__func__", member)  # of a classmethod
            if isinstance(function, types.FunctionType):
                function.__module__ = module


def stand_in_for_moved_modules() -> None:
    """Let pickles of earlier versions find their classes."""
    for name, class_name, module in _MOVED:
        sys.modules.setdefault(name, _stand_in(name, class_name, module))


def _stand_in(name: str, class_name: str, module: str) -> types.ModuleType:
    def find(wanted: str) -> Any:
        if wanted != class_name:
            raise AttributeError(f"module {name!r} has no attribute {wanted!r}")
        return getattr(importlib.import_module(module), class_name)

    stand_in = types.ModuleType(name, f"Where pickles of earlier versions look for {class_name}.")
    stand_in.__dict__["__getattr__"] = find
    return stand_in
