"""scikit-learn's StandardScaler on tables: fit, transform and both; it has neither weight and bias nor a backward."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from cases import Op, Output
from data import EPS, Array, Data
from peers.base import Contestant, Peer

sklearn: Any = importlib.import_module("sklearn")
preprocessing: Any = importlib.import_module("sklearn.preprocessing")


class Sklearn:
    """StandardScaler, spared its search for NaN, which no other peer makes."""

    name = "scikit-learn"

    def __init__(self) -> None:
        sklearn.set_config(assume_finite=True)
        self.version = str(sklearn.__version__)

    def prepare(self, op: Op, output: Output, data: Data) -> Contestant | None:
        """See :meth:`peers.base.Peer.prepare`; only tables (N, C), only fresh results."""
        if data.x.ndim != 2 or data.case.axis != 1 or output == "given" or op == "backward":
            return None
        x = data.x
        if op == "moments":
            return Contestant(lambda: preprocessing.StandardScaler().fit(x), _statistics)
        if op == "eval":
            scaler = preprocessing.StandardScaler().fit(x)
            scaler.mean_ = data.running_mean.astype(np.float64)
            scaler.scale_ = np.sqrt(data.running_var.astype(np.float64) + EPS)
            return Contestant(lambda: scaler.transform(x), lambda z: {"y": _affine(z, data)})

        def train() -> tuple[Any, Array]:
            scaler = preprocessing.StandardScaler()
            return scaler, scaler.fit_transform(x)

        return Contestant(train, lambda r: {"y": _affine(r[1], data), **_statistics(r[0])})


def _statistics(scaler: Any) -> dict[str, Array]:
    return {"mean": scaler.mean_, "var": scaler.var_}


def _affine(standardized: Array, data: Data) -> Array:
    """Apply the weight and bias it does not know, for the comparison only."""
    y: Array = standardized * data.spread(data.weight) + data.spread(data.bias)
    return y


def load(threads: int) -> list[Peer]:
    """Return the peer; it has one thread whatever is asked for."""
    return [Sklearn()]
