"""NumPy: the code everyone writes, and with an output given, the same without temporaries where that is possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cases import Op, Output
from data import EPS, Array, Data, aligned_like
from peers.base import Contestant, Peer


class NumPy:
    """Batch norm in a few lines of NumPy."""

    name = "NumPy"
    version = np.__version__

    def prepare(self, op: Op, output: Output, data: Data) -> Contestant:
        """See :meth:`peers.base.Peer.prepare`."""
        makers: dict[Op, Callable[[Data, Array | None], Contestant]] = {
            "train": _train,
            "eval": _eval,
            "backward": _backward,
            "moments": _moments,
        }
        given = aligned_like(data.x) if output == "given" and op != "moments" else None
        return makers[op](data, given)


def _transform(data: Data, mean: Array, var: Array, out: Array | None) -> Array:
    x, weight, bias = data.x, data.spread(data.weight), data.spread(data.bias)
    if out is None:
        y: Array = (x - mean) / np.sqrt(var + data.dtype.type(EPS)) * weight + bias
        return y
    np.subtract(x, mean, out=out)
    out *= weight / np.sqrt(var + data.dtype.type(EPS))
    out += bias
    return out


def _train(data: Data, out: Array | None) -> Contestant:
    def call() -> tuple[Array, Array, Array]:
        mean = data.x.mean(data.reduced, keepdims=True)
        if out is None:
            var = data.x.var(data.reduced, keepdims=True)
        else:
            var = data.x.var(data.reduced, keepdims=True, mean=mean)
        return _transform(data, mean, var, out), mean, var

    return Contestant(call, lambda r: {"y": r[0], "mean": r[1].ravel(), "var": r[2].ravel()})


def _eval(data: Data, out: Array | None) -> Contestant:
    mean, var = data.spread(data.running_mean), data.spread(data.running_var)
    return Contestant(lambda: _transform(data, mean, var, out), lambda y: {"y": y})


def _moments(data: Data, out: Array | None) -> Contestant:
    def call() -> tuple[Array, Array]:
        mean = data.x.mean(data.reduced, keepdims=True)
        return mean, data.x.var(data.reduced, keepdims=True, mean=mean)

    return Contestant(call, lambda r: {"mean": r[0].ravel(), "var": r[1].ravel()})


def _backward(data: Data, out: Array | None) -> Contestant:
    x, dy, n = data.x, data.dy, data.dtype.type(data.case.count)
    weight = data.spread(data.weight)
    mean = x.mean(data.reduced, keepdims=True)
    invstd = 1 / np.sqrt(x.var(data.reduced, keepdims=True) + data.dtype.type(EPS))

    def call() -> tuple[Array, Array, Array]:
        xhat = (x - mean) * invstd
        dbias = dy.sum(data.reduced, keepdims=True)
        dweight = (dy * xhat).sum(data.reduced, keepdims=True)
        if out is None:
            return weight * invstd * (dy - dbias / n - xhat * (dweight / n)), dweight, dbias
        np.subtract(dy, dbias / n, out=out)
        xhat *= dweight / n
        np.subtract(out, xhat, out=out)
        np.multiply(out, weight * invstd, out=out)
        return out, dweight, dbias

    def arrays(result: Any) -> dict[str, Array]:
        return {"dx": result[0], "dweight": result[1].ravel(), "dbias": result[2].ravel()}

    return Contestant(call, arrays)


def load(threads: int) -> list[Peer]:
    """Return the peer; NumPy has one thread whatever is asked for."""
    return [NumPy()]
