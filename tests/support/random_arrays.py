"""Random arrays: parameters, values of any type, batches."""

from __future__ import annotations

from typing import Any

import numpy as np

from support.oracle import Array


def parameters(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any = np.float64) -> tuple[Array, Array]:
    """Return a weight and a bias, neither near zero nor all of one sign."""
    weight = rng.uniform(0.5, 2, shape) * rng.choice([-1.0, 1.0], shape)
    return np.asarray(weight, dtype), np.asarray(rng.uniform(-2, 2, shape), dtype)


def random_values(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: Any, scale: float = 1.0, offset: float = 0.0
) -> Array:
    """Return random numbers of any of TYPES: normal ones or, of integers, any at all."""
    if np.dtype(dtype).kind in "iu":
        return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    return (offset + scale * rng.standard_normal(shape)).astype(dtype)


def batch(*shape: int, seed: int = 0, dtype: Any = np.float64) -> Array:
    return np.random.default_rng(seed).normal(3.0, 2.0, shape).astype(dtype)
