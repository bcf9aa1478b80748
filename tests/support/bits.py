"""The bits of results, to compare those of two calls."""

from __future__ import annotations

from typing import Any

import numpy as np

import fastbn
from support.oracle import Array, Axis
from support.weights import Weighting


def bits(array: Array) -> bytes:
    """Return an array's bytes in C order, every NaN written as the same one."""
    absent = np.isnan(array)
    return (np.where(absent, np.asarray(np.nan, array.dtype), array) if absent.any() else array).tobytes()


def bits_of_everything(
    x: Array, dy: Array, weight: Array | None, bias: Array | None, axis: Axis, **options: Any
) -> dict[str, bytes]:
    """Return the bits of every result that every function gives, each with those of the `options` that it knows."""
    weighting = {name: value for name, value in options.items() if name in ("where", "weights")}
    fused = {name: value for name, value in options.items() if name in ("residual", "activation", "negative_slope")}
    chosen = {name: value for name, value in options.items() if name == "dtype"}
    forward: dict[str, Any] = weighting | fused | chosen
    found = fastbn.moments(x, axis=axis, **weighting)
    y, mean, var, invstd, count = fastbn.batch_norm_train(x, weight, bias, axis=axis, **forward)
    running = np.zeros_like(mean), np.ones_like(var)
    remembered = fastbn.batch_norm(x, *running, weight, bias, training=True, axis=axis, **forward)
    arrays = {
        "moments.count": np.asarray(found.count, np.float64),
        "moments.mean": found.mean,
        "moments.m2": found.m2,
        "train.y": y,
        "train.mean": mean,
        "train.var": var,
        "train.invstd": invstd,
        "train.count": np.asarray(count, np.float64),
        "batch_norm.y": remembered,
        "running_mean": running[0],
        "running_var": running[1],
        "eval.y": fastbn.batch_norm(x, *running, weight, bias, axis=axis, **forward),
        "normalize.y": fastbn.normalize(x, mean, var, weight, bias, axis=axis, **fused, **chosen),
    }
    saved: dict[str, Any] = {"mean": mean, "invstd": invstd, "axis": axis} | weighting | fused
    calls: dict[str, dict[str, Any]] = {f"training={training}": {"training": training} for training in (True, False)}
    if weighting:
        calls["count"] = {"count": count}
    for call, more in calls.items():
        got = fastbn.batch_norm_backward(dy, x, weight, bias, **saved, **more)
        arrays |= {f"backward({call}).{name}": array for name, array in got._asdict().items()}
    return {name: bits(array) for name, array in arrays.items()}


def differing(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    """Return the names whose bits differ."""
    assert one.keys() == other.keys()
    return [name for name in one if one[name] != other[name]]


def bits_of_training(x: Array, dy: Array, weight: Any, bias: Any, axis: Any, weighting: Weighting) -> dict[str, bytes]:
    """Return the bits of a training step without running statistics."""
    y, mean, var, invstd, _ = fastbn.batch_norm_train(x, weight, bias, axis=axis, **weighting)
    saved = {"mean": mean, "invstd": invstd, "axis": axis}
    got = fastbn.batch_norm_backward(dy, x, weight, **saved, **weighting)
    found = {"train.y": y, "train.mean": mean, "train.var": var, "train.invstd": invstd}
    found |= {f"backward(training=True).{name}": array for name, array in got._asdict().items()}
    found["moments.mean"] = fastbn.moments(x, axis=axis, **weighting).mean
    return {name: bits(array) for name, array in found.items()}
