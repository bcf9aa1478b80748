"""What counts, for tests of masks and weights: of many shapes and sizes, the shapes of x, the bits of a step with it.

Knows no oracle but the reference, and asserts nothing.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import fastbn
from support import oracle as reference
from support.helpers import FLOATS, bits
from support.layouts import LAYOUTS, layout_id

Array = np.ndarray
Counting = dict[str, Array]

every_isa = pytest.mark.usefixtures("isa")
every_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=layout_id)
every_dtype = pytest.mark.parametrize("dtype", FLOATS)
# One for each way of reading memory: columns of one channel and of many, runs of one, several channels to a vector.
SHAPES = [(33, 1), (65, 3), (33, 20), (9, 64), (7, 300), (6, 5, 9), (6, 5, 7, 7), (6, 5, 4, 4), (6, 5, 3, 3)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


# What is counted. A mask has x's length along some of its axes and 1 along the others.


def subsets(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return every shape that broadcasts to `shape` along some of its axes of more than one element, a few if many."""
    long = [a for a, n in enumerate(shape) if n > 1]
    chosen = [kept for size in range(len(long) + 1) for kept in itertools.combinations(long, size)]
    step = max(1, len(chosen) // 16)
    return [tuple(n if a in kept else 1 for a, n in enumerate(shape)) for kept in [*chosen[::step], tuple(long)]]


def a_mask(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.random(shape) < 0.7


def some_weights(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Return weights of any size below 2, a third of them zero."""
    return np.where(rng.random(shape) < 1 / 3, 0, rng.uniform(0, 2, shape))


def times(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.integers(0, 4, shape)


def some_counting(rng: np.random.Generator, shape: tuple[int, ...], turn: int) -> Counting:
    """Return a mask, weights, integer weights or a mask and weights, by turns, at least one value counted."""
    counting: Counting = {}
    if turn % 4 in (0, 3):
        counting["where"] = a_mask(rng, shape)
    if turn % 4 in (1, 3):
        counting["weights"] = some_weights(rng, shape)
    if turn % 4 == 2:
        counting["weights"] = times(rng, shape).astype((np.int64, np.uint8, np.int32)[turn // 4 % 3])
    for values in counting.values():
        values[(0,) * len(shape)] = 1
    return counting


def weighting(x: Array, counting: Counting) -> Array:
    return reference.weighting(x.shape, **counting)


def bits_of_training(x: Array, dy: Array, weight: Any, bias: Any, axis: Any, counting: Counting) -> dict[str, bytes]:
    """Return the bits of a training step without running statistics."""
    y, mean, var, invstd, _ = fastbn.batch_norm_train(x, weight, bias, axis=axis, **counting)
    saved = {"mean": mean, "invstd": invstd, "axis": axis}
    dx, dweight, dbias = fastbn.batch_norm_backward(dy, x, weight, **saved, **counting)
    names = ("train.y", "train.mean", "train.var", "train.invstd")
    found = dict(zip(names, (y, mean, var, invstd), strict=True))
    found |= {"backward(training=True).dx": dx, "backward(training=True).dweight": dweight}
    found |= {"backward(training=True).dbias": dbias, "moments.mean": fastbn.moments(x, axis=axis, **counting).mean}
    return {name: bits(array) for name, array in found.items()}
