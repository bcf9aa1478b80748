"""The arrays of one case: seeded, the same memory for every peer; knows no library that is measured."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cases import Case
from variants import Variant

Array: TypeAlias = NDArray[Any]

EPS = 1e-5
LINE = 64
NUMPY_OFFSET = 16  # where NumPy's own large arrays begin, past the start of a cache line


def aligned_empty(shape: tuple[int, ...], dtype: DTypeLike, offset: int = 0) -> Array:
    """Return an uninitialised C-ordered array that starts ``offset`` bytes past the start of a cache line."""
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(nbytes + 2 * LINE, np.uint8)
    start = -raw.ctypes.data % LINE + offset
    return raw[start : start + nbytes].view(dtype).reshape(shape)


def aligned_like(x: Array, dtype: DTypeLike | None = None) -> Array:
    """Return a dense array with the shape, memory order and, unless given, dtype of ``x``; its pages are touched.

    It starts as far past the start of a cache line as ``x`` does.
    """
    order = sorted(range(x.ndim), key=lambda a: -abs(x.strides[a]))
    dense = aligned_empty(tuple(x.shape[a] for a in order), x.dtype if dtype is None else dtype, x.ctypes.data % LINE)
    dense[...] = 0
    return dense.transpose(np.argsort(order))


def _lay_out(values: Array, case: Case, offset: int) -> Array:
    """Put ``values`` (of the case's shape) into memory as the case's view asks."""
    if case.view == "transposed":
        out = aligned_empty(case.shape[::-1], values.dtype, offset).T
    elif case.view == "sliced":
        out = aligned_empty((*case.shape[:-1], 2 * case.shape[-1]), values.dtype, offset)[..., ::2]
    else:
        out = aligned_empty(case.shape, values.dtype, offset)
    out[...] = values
    return out


@dataclass(frozen=True)
class Others:
    """Arrays laid out as ``x`` is that not every operation needs: made when asked for, once for all variants."""

    case: Case
    dtype: np.dtype[Any]
    seed: int
    offset: int

    @cached_property
    def dy(self) -> Array:
        """The gradient that arrives from above."""
        return self._noise(1)

    @cached_property
    def residual(self) -> Array:
        """What is added to the result."""
        return self._noise(2)

    def _noise(self, stream: int) -> Array:
        rng = np.random.default_rng((self.seed, stream))
        values = _normal(rng, self.case.shape, self.dtype).astype(self.dtype, copy=False)
        return _lay_out(values, self.case, self.offset)


@dataclass(frozen=True)
class Data:
    """Inputs of every operation on one case.

    ``x`` has means within 1 of zero and standard deviations between 0.5 and 1.5, so that every peer can be right:
    what happens beyond is the business of ``numerics.py``, not of the clock. Integers are the same data at 40 steps to
    the unit, zero at 128. All large arrays start ``offset`` bytes past the start of a cache line.
    """

    case: Case
    variant: Variant
    x: Array
    weight: Array
    bias: Array
    running_mean: Array
    running_var: Array
    others: Others
    seed: int = 0
    offset: int = NUMPY_OFFSET

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of ``x``."""
        return self.x.dtype

    @property
    def dy(self) -> Array:
        """The gradient that arrives from above."""
        return self.others.dy

    @property
    def residual(self) -> Array | None:
        """What is added to the result, if the variant adds anything."""
        return self.others.residual if self.variant.residual else None

    @property
    def reduced(self) -> tuple[int, ...]:
        """The axes that are averaged over."""
        return tuple(a for a in range(self.x.ndim) if a != self.case.axis)

    def spread(self, values: Array) -> Array:
        """View ``(C,)`` values so that they broadcast against ``x``."""
        return values.reshape([-1 if a == self.case.axis else 1 for a in range(self.x.ndim)])

    def result(self) -> Array:
        """Return memory for ``y`` or ``dx``."""
        return aligned_like(self.x, self.variant.result_dtype)

    @cached_property
    def where(self) -> Array | None:
        """The mask, three quarters of it True, in the smallest shape that broadcasts; None where all elements count."""
        ndim = len(self.case.shape)
        kept = {"sample": (0,), "position": self.reduced, "element": range(ndim)}.get(self.variant.mask or "")
        if kept is None:
            return None
        shape = tuple(n if a in kept else 1 for a, n in enumerate(self.case.shape))
        chosen = np.random.default_rng((self.seed, 3)).random(shape, np.float32) < 0.75
        return _lay_out(chosen, self.case, self.offset) if self.variant.mask == "element" else chosen

    @cached_property
    def weights(self) -> Array | None:
        """A weight for every sample or for every element, or None."""
        rng = np.random.default_rng((self.seed, 3))
        if self.variant.mask == "weights":
            shape = (self.case.shape[0], *(1 for _ in self.case.shape[1:]))
            return rng.uniform(0.5, 1.5, shape).astype(np.float32)
        if self.variant.mask == "element weights":
            return _lay_out(rng.random(self.case.shape, np.float32) + np.float32(0.5), self.case, self.offset)
        return None

    def vary(self, variant: Variant) -> Data:
        """Return the same arrays asked for in another way; the types must be the same."""
        return replace(self, variant=variant)


def _normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    kind: Any = np.float64 if dtype == np.float64 else np.float32
    values: Array = rng.standard_normal(shape, dtype=kind)
    return values


def make_data(case: Case, variant: Variant, seed: int = 0, offset: int = NUMPY_OFFSET) -> Data:
    """Return the inputs of a case; the same seed gives the same bits."""
    kind, fine = np.dtype(variant.dtype), np.dtype(variant.parameter_dtype)
    rng = np.random.default_rng((seed, 0))
    feature = tuple(-1 if a == case.axis else 1 for a in range(len(case.shape)))
    means = rng.uniform(-1, 1, case.channels).astype(fine)
    stds = rng.uniform(0.5, 1.5, case.channels).astype(fine)
    if kind.kind == "u":
        means, stds = 128 + 40 * means, 40 * stds
    values = _normal(rng, case.shape, kind)
    values *= stds.reshape(feature)
    values += means.reshape(feature)
    if kind.kind == "u":
        values = np.clip(np.rint(values, out=values), 0, np.iinfo(kind).max, out=values)
    return Data(
        case=case,
        variant=variant,
        x=_lay_out(values.astype(kind, copy=False), case, offset),
        weight=rng.uniform(0.5, 1.5, case.channels).astype(fine),
        bias=rng.uniform(-1, 1, case.channels).astype(fine),
        running_mean=means,
        running_var=stds * stds,
        others=Others(case, np.dtype(variant.result_dtype), seed, offset),
        seed=seed,
        offset=offset,
    )
