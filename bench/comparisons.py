"""What two builds are compared on: arrays in and beyond the caches, every operation, and data that are special.

Knows no clock, and no library but as an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

import cases
from cases import Case
from data import NUMPY_OFFSET, Array, aligned_empty, aligned_like
from operations import STATEFUL
from variants import Variant

Size = Literal["small", "cache", "memory"]

DTYPES = ("float32", "float64", "bfloat16")
OPS = (*cases.OPS, *STATEFUL)
SPECIAL = "special"

# For float32; float64 has half the samples and bfloat16 twice as many, so that the bytes are the same. 0.4 and 26 MB: a
# call on the latter moves more than a level 3 cache of 32 MB holds.
_SHAPES: tuple[tuple[str, Size, tuple[int, ...], int], ...] = (
    ("nchw", "cache", (8, 64, 14, 14), 1),
    ("inner-3x3", "cache", (88, 128, 3, 3), 1),
    ("nhwc", "cache", (8, 14, 14, 64), 3),
    ("table", "cache", (1024, 96), 1),
    ("small", "small", (32, 64), 1),
    ("nchw", "memory", (32, 64, 56, 56), 1),
    ("nhwc", "memory", (32, 56, 56, 64), 3),
    ("table", "memory", (50_000, 128), 1),
)
NAMES = tuple(name if size == "small" else f"{name}-{size}" for name, size, _, _ in _SHAPES)

# Seconds for one operation in one variant on one array, both builds together: in full, and quick.
BUDGETS: dict[Size, tuple[float, float]] = {"small": (0.06, 0.04), "cache": (0.12, 0.06), "memory": (0.3, 0.18)}

_STATISTICS: tuple[cases.Op, ...] = ("train", "backward", "moments")
_WRITING: tuple[cases.Op, ...] = ("train", "eval", "backward")


def variants(dtype: str) -> tuple[Variant, ...]:
    """Return the ways in which operations on x of this type are asked for, the plain one first."""
    return (
        Variant(dtype=dtype),
        Variant("where, sample", dtype, mask="sample", ops=_STATISTICS),
        Variant("where, element", dtype, mask="element", ops=_STATISTICS),
        Variant("weights, sample", dtype, mask="weights", ops=_STATISTICS),
        Variant("weights, element", dtype, mask="element weights", ops=_STATISTICS),
        Variant("relu", dtype, relu=True, ops=_WRITING),
        Variant("residual + relu", dtype, residual=True, relu=True, ops=_WRITING),
    )


@dataclass(frozen=True)
class Subject:
    """One array that operations are compared on."""

    case: Case
    size: Size
    dtype: str

    def operations(self, variant: Variant, ops: Sequence[str]) -> Iterator[tuple[str, bool]]:
        """Yield what is measured in a variant: the operation, and whether its result goes to given memory.

        Fresh results and those of the calls with state are the plain variant's alone, the latter the small array's.
        """
        plain = variant == Variant(dtype=variant.dtype)
        for op in cases.OPS:
            if op in ops and op in variant.ops:
                if op != "moments":
                    yield op, True
                if plain or op == "moments":
                    yield op, False
        if plain and self.size == "small":
            yield from ((op, False) for op in STATEFUL if op in ops)


def subjects(dtypes: Sequence[str]) -> list[Subject]:
    """Return all arrays in all of these types."""
    found = []
    for name, (_, size, (n, *others), axis) in zip(NAMES, _SHAPES, strict=True):
        for dtype in dtypes:
            samples = n if size == "small" else 4 * n // np.dtype(dtype).itemsize
            found.append(Subject(Case(name, size, (samples, *others), axis), size, dtype))
    return found


@dataclass(frozen=True)
class Special:
    """A call that used to be, or is easily, much slower than an ordinary one of the same build.

    Parameters
    ----------
    at_most : float
        What its time over that of the ordinary call is meant to be.
    calls : callable
        Takes a library and returns the ordinary and the special call.
    """

    title: str
    dtype: str
    at_most: float
    calls: Callable[[Any], tuple[Callable[[], Any], Callable[[], Any]]]


_TABLE = (200_000, 32)


def special(dtypes: Sequence[str]) -> Iterator[Special]:
    """Yield data with constant columns and NaN beside ordinary data, and options beside plain calls."""
    for dtype in dtypes:
        rng = np.random.default_rng(0)
        ordinary = _filled(rng.standard_normal(_TABLE), dtype)
        out = aligned_like(ordinary)
        for name, x in _data(ordinary, rng):
            for label, weights in _weights(rng).items():
                of = f"{name}{label}"
                yield Special(f"moments, {of}", dtype, 1.2, _moments(ordinary, x, weights))
                yield Special(f"train, {of}", dtype, 1.2, _train(ordinary, x, weights, out))
        for label, weights in _weights(rng, of_elements=False).items():
            x = _filled(ordinary, dtype)
            x[rng.random(x.shape) < 0.01] = np.nan
            yield Special(f'nan="omit", 1 % NaN{label}', dtype, 1.8, _growing(ordinary, x, weights, nan="omit"))
            yield Special(f"extremes=True{label}", dtype, 1.5, _growing(ordinary, ordinary, weights, extremes=True))


def _filled(values: Array, dtype: str) -> Array:
    x = aligned_empty(values.shape, dtype, offset=NUMPY_OFFSET)
    x[...] = values
    return x


def _data(ordinary: Array, rng: np.random.Generator) -> Iterator[tuple[str, Array]]:
    for constant in (0.0, 1.5):
        x = _filled(ordinary, ordinary.dtype.name)
        x[:, ::2] = constant
        yield f"half of the columns {constant:g}", x
    x = _filled(ordinary, ordinary.dtype.name)
    x[rng.integers(len(x), size=x.shape[1]), np.arange(x.shape[1])] = np.nan
    yield "one NaN in each column", x


def _weights(rng: np.random.Generator, of_elements: bool = True) -> dict[str, dict[str, Array]]:
    found: dict[str, dict[str, Array]] = {"": {}}
    found[", weights of rows"] = {"weights": rng.uniform(0.5, 1.5, (_TABLE[0], 1)).astype(np.float32)}
    if of_elements:
        found[", weights of elements"] = {"weights": rng.random(_TABLE, np.float32) + np.float32(0.5)}
    return found


Calls = Callable[[Any], tuple[Callable[[], Any], Callable[[], Any]]]


def _moments(ordinary: Array, x: Array, weights: dict[str, Array]) -> Calls:
    return lambda library: (
        lambda: library.moments(ordinary, **weights),
        lambda: library.moments(x, **weights),
    )


def _train(ordinary: Array, x: Array, weights: dict[str, Array], out: Array) -> Calls:
    return lambda library: (
        lambda: library.batch_norm_train(ordinary, out=out, **weights),
        lambda: library.batch_norm_train(x, out=out, **weights),
    )


def _growing(ordinary: Array, x: Array, weights: dict[str, Array], **options: Any) -> Calls:
    return lambda library: (
        lambda: library.Moments().update(ordinary, **weights),
        lambda: library.Moments(**options).update(x, **weights),
    )
