"""Infinity in x is found while y is written, wherever it lies, and nothing else is taken for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastbn import _core
from support.assertions import assert_normalized
from support.dtypes import FLOATS, HALVES
from support.layouts import dense, fortran, padded, permuted, stepped
from support.oracle import Array

FORMS = {
    "table": ((40, 17), 1, dense),
    "wide": ((6, 256), 1, dense),
    "narrow": ((301, 3), 1, dense),
    "columns": ((40, 17), 1, fortran),
    "NCHW": ((2, 3, 7, 7), 1, dense),
    "NHWC": ((2, 3, 7, 7), 1, permuted(0, 2, 3, 1)),
    "stepped": ((9, 35), 1, stepped(2, -3)),
    "corner": ((9, 35), 1, padded(1, 2)),
}
# Of variances far off, coefficients have a power of two taken out, and a loop of their own.
SIZES = {"usual": 1.0, "small": 1e-6, "large": 1e4}


def normalize(x: Array, axis: int, var: float, refuse_infinity: bool, out: Array | None = None) -> Array:
    channels = np.zeros(x.shape[axis])
    return _core.normalize(x, channels, channels + var, eps=0.0, axis=axis, out=out, refuse_infinity=refuse_infinity)


def places(x: Array, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """Return the first element, the last, and some between."""
    between = [tuple(int(rng.integers(n)) for n in x.shape) for _ in range(6)]
    return [(0,) * x.ndim, tuple(n - 1 for n in x.shape), *between]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [*map(np.dtype, FLOATS), *HALVES], ids=str)
def test_infinity_is_found_wherever_it_lies(
    isa: str, dtype: Any, form: str, size: str, rng: np.random.Generator
) -> None:
    shape, axis, place = FORMS[form]
    x = place((rng.standard_normal(shape) * SIZES[size]).astype(dtype))
    var = {"usual": 1.0, "small": 1e-90, "large": 1e90}[size]
    x[places(x, rng)[2]] = np.nan
    with_nan = normalize(x, axis, var, refuse_infinity=True)
    assert with_nan.tobytes() == normalize(x, axis, var, refuse_infinity=False).tobytes()
    if size == "usual" or x.dtype == np.float64:  # others' y is infinite or zero for deviations beyond float32
        channels = np.zeros(x.shape[axis])
        assert_normalized(x, with_nan, channels, channels + var, eps=0.0, axis=axis)
    for at in places(x, rng):
        for infinity in (np.inf, -np.inf):
            before, x[at] = x[at], infinity
            with pytest.raises(ValueError, match="x must not hold infinity"):
                normalize(x, axis, var, refuse_infinity=True)
            normalize(x, axis, var, refuse_infinity=False)
            x[at] = before


def test_what_lies_between_the_elements_is_no_infinity(isa: str, rng: np.random.Generator) -> None:
    whole = np.full((9, 40), np.inf)
    x = whole[1:, 3:36]
    x[...] = rng.standard_normal(x.shape)
    assert np.isfinite(normalize(x, 1, 1.0, refuse_infinity=True)).all()


@pytest.mark.parametrize("n", [1, 2])
def test_infinity_is_found_at_either_end_on_any_number_of_threads(
    n: int, threads: Any, rng: np.random.Generator
) -> None:
    threads(n)
    x = rng.standard_normal((40_000, 64))
    for at in (0, -1):
        x[at, 5] = np.inf
        with pytest.raises(ValueError, match="x must not hold infinity"):
            normalize(x, 1, 1.0, refuse_infinity=True)
        x[at, 5] = 0


def test_an_array_to_write_to_would_be_half_written() -> None:
    x = np.ones((3, 2))
    with pytest.raises(ValueError, match="out must be None where refuse_infinity is True"):
        normalize(x, 1, 1.0, refuse_infinity=True, out=np.empty_like(x))
