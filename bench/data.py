"""The arrays of one case: seeded, aligned, the same memory for every peer; knows no library that is measured."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cases import Case

Array: TypeAlias = NDArray[Any]

EPS = 1e-5
LINE = 64


def aligned_empty(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Return an uninitialised C-ordered array that starts on a cache line."""
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(nbytes + LINE, np.uint8)
    start = -raw.ctypes.data % LINE
    return raw[start : start + nbytes].view(dtype).reshape(shape)


def aligned_like(x: Array) -> Array:
    """Return a dense array with the shape, dtype and memory order of ``x``; its pages are touched."""
    order = sorted(range(x.ndim), key=lambda a: -abs(x.strides[a]))
    dense = aligned_empty(tuple(x.shape[a] for a in order), x.dtype)
    dense[...] = 0
    return dense.transpose(np.argsort(order))


def _lay_out(values: Array, case: Case) -> Array:
    """Put ``values`` (of the case's shape) into memory as the case's view asks."""
    if case.view == "transposed":
        out = aligned_empty(case.shape[::-1], values.dtype).T
    elif case.view == "sliced":
        out = aligned_empty((*case.shape[:-1], 2 * case.shape[-1]), values.dtype)[..., ::2]
    else:
        out = aligned_empty(case.shape, values.dtype)
    out[...] = values
    return out


@dataclass(frozen=True)
class Data:
    """Inputs of every operation on one case.

    ``x`` has means within 1 of zero and standard deviations between 0.5 and 1.5, so that every peer can be right:
    what happens beyond is the business of ``numerics.py``, not of the clock.
    """

    case: Case
    dtype: np.dtype[Any]
    x: Array
    weight: Array
    bias: Array
    running_mean: Array
    running_var: Array
    seed: int = field(default=0)

    @property
    def reduced(self) -> tuple[int, ...]:
        """The axes that are averaged over."""
        return tuple(a for a in range(self.x.ndim) if a != self.case.axis)

    def spread(self, values: Array) -> Array:
        """View ``(C,)`` values so that they broadcast against ``x``."""
        return values.reshape([-1 if a == self.case.axis else 1 for a in range(self.x.ndim)])

    @cached_property
    def dy(self) -> Array:
        """The gradient that arrives from above, laid out as ``x`` is."""
        rng = np.random.default_rng((self.seed, 1))
        return _lay_out(_normal(rng, self.case.shape, self.dtype), self.case)


def _normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    kind: Any = np.float32 if dtype == np.float32 else np.float64
    values: Array = rng.standard_normal(shape, dtype=kind)
    return values


def make_data(case: Case, dtype: DTypeLike, seed: int = 0) -> Data:
    """Return the inputs of a case; the same seed gives the same bits."""
    kind = np.dtype(dtype)
    rng = np.random.default_rng((seed, 0))
    feature = tuple(-1 if a == case.axis else 1 for a in range(len(case.shape)))
    means = rng.uniform(-1, 1, case.channels).astype(kind)
    stds = rng.uniform(0.5, 1.5, case.channels).astype(kind)
    values = _normal(rng, case.shape, kind)
    values *= stds.reshape(feature)
    values += means.reshape(feature)
    return Data(
        case=case,
        dtype=kind,
        x=_lay_out(values, case),
        weight=rng.uniform(0.5, 1.5, case.channels).astype(kind),
        bias=rng.uniform(-1, 1, case.channels).astype(kind),
        running_mean=means,
        running_var=stds * stds,
        seed=seed,
    )
