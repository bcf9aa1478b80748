"""Promise: the result is right for every size of an axis round every block a kernel may have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastbn
from support import oracle
from support.assertions import assert_gradients, assert_normalized, assert_relative, assert_train, once
from support.marks import every_dtype
from support.random_arrays import parameters
from support.tolerances import VAR_RTOL

pytestmark = [pytest.mark.usefixtures("isa"), pytest.mark.untraced]


SIZES = [*range(1, 71), *range(127, 131), *range(255, 259), *range(1023, 1027), *range(4095, 4099)]
CHANNELS = (1, 3, 15, 16, 17, 255, 256, 257, 600)


@once
def assert_moments(x: np.ndarray, mean: np.ndarray, m2: np.ndarray, axis: int) -> None:
    expected = oracle.moments(x, axis)
    # An ulp of the mean, and the statistics' error of a spread of one.
    tiny = VAR_RTOL[x.dtype]
    assert_relative(mean, expected.mean, 2**-52, atol=tiny)
    # Of two or three values the spread may happen to be small beside the mean: the sums' own rounding, at 600 * 2^-53.
    assert_relative(m2, expected.m2, VAR_RTOL[x.dtype], atol=1e-24)


def check_at(shape: tuple[int, ...], axis: int, dtype: Any) -> None:
    rng = np.random.default_rng(shape)
    # Channels differ in mean, so that one taken for another is seen.
    offsets = oracle.along(np.arange(shape[axis]) % 61 * 10.0, shape, axis)
    x = (offsets + rng.standard_normal(shape)).astype(dtype)
    dy = (0.5 + rng.standard_normal(shape)).astype(dtype)
    weight, bias = parameters(rng, shape[axis : axis + 1])
    count = x.size // shape[axis]
    found = fastbn.moments(x, axis=axis)
    assert found.count == count
    assert_moments(x, found.mean, found.m2, axis)
    saved = {"mean": offsets.ravel()[: shape[axis]], "invstd": rng.uniform(0.5, 2, shape[axis]), "axis": axis}
    y = fastbn.normalize(x, saved["mean"], saved["invstd"], weight, bias, axis=axis)
    assert_normalized(x, y, saved["mean"], saved["invstd"], weight, bias, axis=axis)
    if count > 1:
        result = fastbn.batch_norm_train(x, weight, bias, axis=axis)
        assert_train(x, result, weight, bias, axis=axis)
    for training in (True, False) if count > 1 else (False,):
        got = fastbn.batch_norm_backward(dy, x, weight, **saved, training=training)
        assert_gradients(got, dy, x, weight, **saved, training=training)


@every_dtype
@pytest.mark.parametrize("sizes", [SIZES[:70], SIZES[70:]], ids=["small", "large"])
@pytest.mark.parametrize("form", ["NCL", "CN", "NC", "NC-17", "NLC-1"])
def test_sizes(dtype: Any, sizes: list[int], form: str) -> None:
    """Every inner size, or number of rows, round the blocks."""
    for n in sizes:
        shape, axis = {
            "NCL": ((3, 5, n), 1),
            "CN": ((3, n), 0),
            "NC": ((n, 3), 1),
            "NC-17": ((n, 17), 1),
            "NLC-1": ((2, n, 1), 2),
        }[form]
        check_at(shape, axis, dtype)


@every_dtype
@pytest.mark.parametrize("channels", CHANNELS)
def test_channel_counts(dtype: Any, channels: int) -> None:
    for n in (1, 2, 3, 7, 8, 9, 64, 65, 129):
        check_at((n, channels), 1, dtype)
        check_at((2, channels, n), 1, dtype)
        check_at((2, n, channels), 2, dtype)


@every_dtype
def test_every_channel_count(dtype: Any) -> None:
    for channels in range(1, 71):
        check_at((11, channels), 1, dtype)
        check_at((5, channels, 2), 1, dtype)
