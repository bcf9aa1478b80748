"""Masks and weights of many shapes and sizes, and the shapes of x that tests of them go through."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from support.oracle import Array

Weighting = dict[str, Any]  # the arguments where= and weights=, either or both

# One for each way of reading memory: columns of one channel and of many, long and short rows of one channel,
# several channels to a vector, short channels of many rows.
SHAPES = [
    (33, 1),
    (65, 3),
    (33, 20),
    (9, 64),
    (7, 300),
    (6, 5, 9),
    (6, 5, 7, 7),
    (6, 5, 4, 4),
    (6, 5, 3, 3),
    (131, 2, 17),
]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def mask_shapes(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the shapes that a mask of an x of `shape` may have, about 16 of them where there are more.

    A mask has x's length along some of x's axes and 1 along the others.
    """
    long = [a for a, n in enumerate(shape) if n > 1]
    chosen = [kept for size in range(len(long) + 1) for kept in itertools.combinations(long, size)]
    step = max(1, len(chosen) // 16)
    return [tuple(n if a in kept else 1 for a, n in enumerate(shape)) for kept in [*chosen[::step], tuple(long)]]


def random_mask(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.random(shape) < 0.7


def random_weights(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Return weights of any size below 2, a third of them zero."""
    return np.where(rng.random(shape) < 1 / 3, 0, rng.uniform(0, 2, shape))


def random_integer_weights(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.integers(0, 4, shape)


def random_weighting(rng: np.random.Generator, shape: tuple[int, ...], turn: int) -> Weighting:
    """Return a mask, weights, integer weights or a mask and weights, by turns; the first value has a weight."""
    weighting: Weighting = {}
    if turn % 4 in (0, 3):
        weighting["where"] = random_mask(rng, shape)
    if turn % 4 in (1, 3):
        weighting["weights"] = random_weights(rng, shape)
    if turn % 4 == 2:
        weighting["weights"] = random_integer_weights(rng, shape).astype((np.int64, np.uint8, np.int32)[turn // 4 % 3])
    for values in weighting.values():
        values[(0,) * len(shape)] = 1
    return weighting
