"""What every result is compared with before it is timed: two passes in float64, a block of channels at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from cases import Op
from data import EPS, Array, Data

_BLOCK_BYTES = 64 << 20

Arrays = Mapping[str, Array]

# What a plain implementation may be off by, of the largest value: in float32 enough for naive sums over a million rows,
# in the half types two units in the last place.
_UNITS = {"float64": 1e-9, "float32": 2e-3, "float16": 2e-3, "bfloat16": 1.6e-2}


def _blocks(data: Data) -> Iterator[tuple[slice, tuple[slice, ...]]]:
    """Yield slices of the channels, and the same as an index of ``x``, small enough to hold in float64."""
    step = max(1, _BLOCK_BYTES // (8 * data.case.count))
    for start in range(0, data.case.channels, step):
        some = slice(start, start + step)
        yield some, tuple(some if a == data.case.axis else slice(None) for a in range(data.x.ndim))


def _empty_truth(data: Data) -> Array:
    """Return memory for a result, in float32 where the type of the result is narrower."""
    return np.empty_like(data.x, np.dtype(data.variant.parameter_dtype))


def _shares(data: Data, index: tuple[slice, ...]) -> Array:
    """Return what every element of the block counts in the statistics, 1 where nothing is said."""
    shares = np.ones(()) if data.where is None else data.where
    if data.weights is not None:
        shares = shares * data.weights
    return np.broadcast_to(shares, data.x.shape)[index]


def statistics(data: Data) -> tuple[Array, Array]:
    """Return mean and biased variance of every channel, float64."""
    mean, var = np.empty(data.case.channels), np.empty(data.case.channels)
    for some, index in _blocks(data):
        x, shares = data.x[index].astype(np.float64), _shares(data, index)
        total = shares.sum(data.reduced, dtype=np.float64)
        mean[some] = (x * shares).sum(data.reduced) / total
        x -= data.spread(mean[some])
        np.square(x, out=x)
        x *= shares
        var[some] = x.sum(data.reduced) / total
    return mean, var


def _affine(data: Data, mean: Array, var: Array, some: slice, index: tuple[slice, ...]) -> Array:
    """Return one block of the result before the activation, float64."""
    z = data.x[index].astype(np.float64)
    z -= data.spread(mean[some])
    z *= data.spread(data.weight[some] / np.sqrt(var[some] + EPS))
    z += data.spread(data.bias[some])
    if data.residual is not None:
        z += data.residual[index]
    return z


def _forward(data: Data, mean: Array, var: Array) -> dict[str, Array]:
    y = _empty_truth(data)
    for some, index in _blocks(data):
        z = _affine(data, mean, var, some, index)
        y[index] = np.maximum(z, 0, out=z) if data.variant.relu else z
    return {"y": y}


def settle(data: Data, mean: Array, var: Array) -> None:
    """Set dy to zero where rounding decides what a ReLU lets through: there either side is right."""
    if data.variant.relu:
        for some, index in _blocks(data):
            z = _affine(data, mean, var, some, index)
            data.dy[index][np.abs(z) <= _UNITS[data.variant.result_dtype]] = 0


def _backward(data: Data, mean: Array, var: Array) -> dict[str, Array]:
    truth = {"dx": _empty_truth(data), "dweight": np.empty_like(mean), "dbias": np.empty_like(mean)}
    if data.residual is not None:
        truth["dresidual"] = _empty_truth(data)
    invstd = 1 / np.sqrt(var + EPS)
    for some, index in _blocks(data):
        dz = data.dy[index].astype(np.float64)
        if data.variant.relu:
            dz[_affine(data, mean, var, some, index) <= 0] = 0
        if data.residual is not None:
            truth["dresidual"][index] = dz
        xhat = data.x[index].astype(np.float64)
        xhat -= data.spread(mean[some])
        xhat *= data.spread(invstd[some])
        dbias, dweight = dz.sum(data.reduced), (dz * xhat).sum(data.reduced)
        truth["dbias"][some], truth["dweight"][some] = dbias, dweight
        shares = _shares(data, index)
        total = shares.sum(data.reduced, dtype=np.float64)
        xhat *= data.spread(dweight / total)
        xhat += data.spread(dbias / total)
        xhat *= shares
        dz -= xhat
        dz *= data.spread(data.weight[some] * invstd[some])
        truth["dx"][index] = dz
    return truth


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
    """Say where ``got`` leaves ``want`` by more than a plain implementation may, or return None.

    The bound is the type's unit of the largest value, plus for the two sums of the backward pass the rounding of
    ``count`` terms of size one. Statistics and gradients of parameters are held to the type of the parameters.
    """
    for name, array in got.items():
        truth = want[name]
        if array.shape != truth.shape:
            return f"{name} has shape {array.shape}, not {truth.shape}"
        variant = data.variant
        unit = _UNITS[variant.parameter_dtype if truth.ndim == 1 else variant.result_dtype]
        bound = unit * max(1.0, float(np.abs(truth).max(initial=0.0)))
        if name in ("dweight", "dbias"):
            bound += 1e-3 * unit * data.case.count
        error = float(np.abs(array - truth).max(initial=0.0))
        if not error <= bound:
            return f"{name} differs from the reference by {error:.2g}, more than {bound:.2g}"
    return None
