"""What every result is compared with before it is timed: two passes in float64, a block of channels at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from cases import Op
from data import EPS, Array, Data

_BLOCK_BYTES = 64 << 20

Arrays = Mapping[str, Array]


def _blocks(data: Data) -> Iterator[tuple[slice, tuple[slice, ...]]]:
    """Yield slices of the channels, and the same as an index of ``x``, small enough to hold in float64."""
    step = max(1, _BLOCK_BYTES // (8 * data.case.count))
    for start in range(0, data.case.channels, step):
        some = slice(start, start + step)
        yield some, tuple(some if a == data.case.axis else slice(None) for a in range(data.x.ndim))


def statistics(data: Data) -> tuple[Array, Array]:
    """Return mean and biased variance of every channel, float64."""
    mean, var = np.empty(data.case.channels), np.empty(data.case.channels)
    for some, index in _blocks(data):
        x = data.x[index].astype(np.float64)
        mean[some] = x.mean(data.reduced)
        x -= data.spread(mean[some])
        var[some] = np.square(x, out=x).mean(data.reduced)
    return mean, var


def _forward(data: Data, mean: Array, var: Array) -> dict[str, Array]:
    y = np.empty_like(data.x)
    for some, index in _blocks(data):
        x = data.x[index].astype(np.float64)
        x -= data.spread(mean[some])
        x *= data.spread(data.weight[some] / np.sqrt(var[some] + EPS))
        x += data.spread(data.bias[some])
        y[index] = x
    return {"y": y}


def _backward(data: Data, mean: Array, var: Array) -> dict[str, Array]:
    dx, n = np.empty_like(data.x), data.case.count
    invstd = 1 / np.sqrt(var + EPS)
    dweight, dbias = np.empty_like(mean), np.empty_like(mean)
    for some, index in _blocks(data):
        xhat = data.x[index].astype(np.float64)
        xhat -= data.spread(mean[some])
        xhat *= data.spread(invstd[some])
        dy = data.dy[index].astype(np.float64)
        dbias[some] = dy.sum(data.reduced)
        dweight[some] = (dy * xhat).sum(data.reduced)
        xhat *= data.spread(dweight[some] / n)
        dy -= data.spread(dbias[some] / n)
        dy -= xhat
        dy *= data.spread(data.weight[some] * invstd[some])
        dx[index] = dy
    return {"dx": dx, "dweight": dweight, "dbias": dbias}


def expected(op: Op, data: Data, mean: Array, var: Array) -> dict[str, Array]:
    """Return what ``op`` must give; ``mean`` and ``var`` are those of :func:`statistics`."""
    if op == "train":
        return _forward(data, mean, var) | {"mean": mean, "var": var}
    if op == "eval":
        return _forward(data, data.running_mean, data.running_var)
    if op == "backward":
        return _backward(data, mean, var)
    return {"mean": mean, "var": var}


def mismatch(got: Arrays, want: Arrays, data: Data) -> str | None:
    """Say where ``got`` leaves ``want`` by more than a plain implementation in x's precision may, or return None.

    The bound is 2e-3 (float32) or 1e-9 (float64) of the largest value, wide enough for naive float32 sums over a
    million rows, plus for the two sums of the backward pass the rounding of ``count`` terms of size one.
    """
    unit = 2e-3 if data.dtype == np.float32 else 1e-9
    for name, array in got.items():
        truth = want[name]
        if array.shape != truth.shape:
            return f"{name} has shape {array.shape}, not {truth.shape}"
        bound = unit * max(1.0, float(np.abs(truth).max(initial=0.0)))
        if name in ("dweight", "dbias"):
            bound += 1e-3 * unit * data.case.count
        error = float(np.abs(array - truth).max(initial=0.0))
        if not error <= bound:
            return f"{name} differs from the reference by {error:.2g}, more than {bound:.2g}"
    return None
