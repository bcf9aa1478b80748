"""Two-dimensional problems with their exact solutions, each solved once, and how they become arrays of many layouts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from support import oracle
from support.layouts import dense, fortran, permuted, stepped
from support.random_arrays import parameters

# A set of problems, each solved once by the oracle and asked of every instruction set.


class Problem:
    """A two-dimensional array (count, channels), its parameters, and the exact solution."""

    def __init__(self, values: np.ndarray, eps: float = 1e-5) -> None:
        self.values, self.eps = values, eps
        self.weight, self.bias = parameters(np.random.default_rng(7), values.shape[1:])
        self.solutions: dict[tuple[bool, bool], np.ndarray] = {}
        self.inferred: dict[tuple[bytes, bytes, bool, bool], np.ndarray] = {}

    @functools.cached_property
    def moments(self) -> list[tuple[Fraction, Fraction]]:
        return [oracle.exact_moments(column) for column in self.values.T]

    @functools.cached_property
    def mean(self) -> np.ndarray:
        return np.array([oracle.longdouble_of(mean) for mean, _ in self.moments])

    @functools.cached_property
    def biased(self) -> list[Fraction]:
        return [m2 / len(self.values) for _, m2 in self.moments]

    @functools.cached_property
    def var(self) -> np.ndarray:
        return np.array([oracle.longdouble_of(var) for var in self.biased])

    @functools.cached_property
    def invstd(self) -> np.ndarray:
        return np.array([oracle.longdouble_of(oracle.exact_invstd(var, self.eps)) for var in self.biased])

    def y(self, weight: bool, bias: bool) -> np.ndarray:
        """Return the exact result, as (count, channels), for the parameters asked for."""
        if (weight, bias) not in self.solutions:
            solved = [
                oracle.exact_train(column, float(w), float(b), self.eps)
                for column, w, b in zip(self.values.T, *self.used(weight, bias), strict=True)
            ]
            self.solutions[weight, bias] = np.stack(solved, axis=1)
        return self.solutions[weight, bias]

    def used(self, weight: bool, bias: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return the parameters, those not asked for as what they are taken to be."""
        return (
            self.weight if weight else np.ones_like(self.weight),
            self.bias if bias else np.zeros_like(self.bias),
        )

    def given(self, mean: np.ndarray, var: np.ndarray, weight: bool, bias: bool) -> np.ndarray:
        """Return the exact result of normalizing by the statistics given."""
        asked = (mean.tobytes(), var.tobytes(), weight, bias)
        if asked not in self.inferred:
            solved = [
                oracle.exact_normalize(column, float(m), float(v), float(w), float(b), self.eps)
                for column, m, v, w, b in zip(self.values.T, mean, var, *self.used(weight, bias), strict=True)
            ]
            self.inferred[asked] = np.stack(solved, axis=1)
        return self.inferred[asked]


# How (count, channels) becomes an array: each exercises another path through the kernels.
Place = tuple[Callable[[np.ndarray], np.ndarray], int]


def images(height: int, width: int) -> Callable[[np.ndarray], np.ndarray]:
    """NCHW with images of this size; count must be a multiple of theirs."""
    return lambda values: dense(values.reshape(-1, height, width, values.shape[1]).transpose(0, 3, 1, 2))


PLACES: dict[str, Place] = {
    "NC": (dense, 1),
    "CN": (lambda v: dense(v.T), 0),
    "NC-fortran": (fortran, 1),
    "NCL": (lambda v: dense(v.reshape(4, -1, v.shape[1]).transpose(0, 2, 1)), 1),
    "NLC": (lambda v: dense(v.reshape(4, -1, v.shape[1])), 2),
    "NCHW-2x2": (images(2, 2), 1),
    "NCHW-7x7": (images(7, 7), 1),
    "NCHW-14x14": (images(14, 14), 1),
    "NHWC-view": (lambda v: permuted(0, 2, 3, 1)(images(7, 7)(v)), 1),
    "stepped": (lambda v: stepped(1, 2, -1, 3)(images(7, 7)(v)), 1),
}
PLAIN = ("NC", "CN", "NCHW-7x7", "stepped")
COUNT = 4 * 14 * 14 * 3  # a multiple of every size above


def placed(values: np.ndarray, place: str) -> tuple[np.ndarray, int]:
    arrange, axis = PLACES[place]
    return arrange(values), axis


def unplaced(array: np.ndarray, axis: int) -> np.ndarray:
    """Return (count, channels) again; `oracle.columns` goes in C order, as the places do."""
    return oracle.columns(array, axis)
