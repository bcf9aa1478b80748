"""Promise: channels-last results are right for every number of columns, wherever arrays begin and however stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fastbn
from support.assertions import assert_gradients, assert_normalized, assert_train
from support.caches import ENDLESS, NONE, using_caches
from support.random_arrays import parameters

pytestmark = pytest.mark.untraced

Array = np.ndarray[Any, np.dtype[Any]]

WIDTHS = range(1, 301)
WIDE = (511, 1023, 1024, 1025, 1500, 2047, 2050, 4099, 9001)
# Where x, dy and the result begin, in elements past the start of a cache line.
OFFSETS = ((0, 0, 0), (4, 4, 4), (1, 3, 0), (0, 0, 5), (2, 9, 15))
TYPES = (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)


@pytest.fixture(params=[ENDLESS, NONE], ids=["cached", "streamed"])
def caches(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run the test with all results written through the caches, and past them."""
    with using_caches(request.param):
        yield


def placed(values: Array, offset: int) -> Array:
    """Return a copy that begins so many elements past the start of a cache line."""
    raw = np.full(values.nbytes + 192, 0x7F, np.uint8)
    start = -raw.ctypes.data % 64 + offset * values.itemsize
    copy = raw[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy


def check(rows: int, width: int, dtype: Any, offsets: tuple[int, int, int]) -> None:
    rng = np.random.default_rng((rows, width))
    # Channels differ in mean, so that one taken for another is seen.
    centers = np.arange(width) % 61 / 4.0
    x = placed((centers + rng.standard_normal((rows, width))).astype(dtype), offsets[0])
    dy = placed((0.5 + rng.standard_normal((rows, width))).astype(dtype), offsets[1])
    weight, bias = parameters(rng, (width,))
    around = placed(np.zeros(rows * width + 64, dtype), offsets[2])
    out = around[: rows * width].reshape(rows, width)
    invstd = rng.uniform(0.5, 2, width)

    y = fastbn.normalize(x, centers, invstd, weight, bias, out=out)
    assert_normalized(x, y, centers, invstd, weight, bias)
    assert_train(x, fastbn.batch_norm_train(x, weight, bias, out=out), weight, bias)
    for training in (True, False):
        saved: dict[str, Any] = {"mean": centers, "invstd": invstd, "training": training}
        got = fastbn.batch_norm_backward(dy, x, weight, **saved, out=out)
        assert_gradients(got, dy, x, weight, **saved)
    assert not around[rows * width :].any()

    expected = fastbn.normalize(x, centers, invstd, weight, bias)
    assert np.array_equal(expected, fastbn.normalize(x, centers, invstd, weight, bias, out=x))


@pytest.mark.usefixtures("isa", "caches")
def test_every_width() -> None:
    for width in WIDTHS:
        check(2 + 600 // width, width, np.float32, OFFSETS[width % len(OFFSETS)])


@pytest.mark.usefixtures("isa", "caches")
@pytest.mark.parametrize("dtype", TYPES)
def test_types(dtype: Any) -> None:
    for k, width in enumerate((1, 2, 7, 15, 16, 17, 24, 31, 32, 33, 37, 48, 63, 100, 129, 250, *WIDE)):
        check(9 if width < 1000 else 5, width, dtype, OFFSETS[k % len(OFFSETS)])


@pytest.mark.usefixtures("isa")
def test_float64_rows_of_whole_lines() -> None:
    """They are taken from a cache line on, behind a short first block, and no place of it changes a bit."""
    for width in (128, 136, 144, 160, 256, 1000, 1032):
        rows = 3 + 20_000 // width
        check(rows, width, np.float64, (width // 8 % 8, 3, 5))
        rng = np.random.default_rng(width)
        x = np.arange(width) % 61 / 4.0 + rng.standard_normal((rows, width))
        with_nan = np.where(rng.random(x.shape) < 0.02, np.nan, x)
        mask, by_row, by_element = rng.random(x.shape) < 0.7, rng.uniform(0.5, 2, (rows, 1)), rng.uniform(0, 2, x.shape)
        options: tuple[tuple[Array, dict[str, Any]], ...] = (
            (x, {}),
            (x, {"where": mask}),
            (x, {"weights": by_row}),
            (x, {"weights": by_element}),
            (with_nan, {"nan": "omit"}),
            (with_nan, {"nan": "omit", "weights": by_row}),
        )
        for values, chosen in options:
            nan = {"nan": chosen["nan"]} if "nan" in chosen else {}
            weights = {name: value for name, value in chosen.items() if name != "nan"}
            expected = fastbn.Moments(**nan).update(placed(values, 0), **weights)
            for offset in range(1, 8):
                assert fastbn.Moments(**nan).update(placed(values, offset), **weights) == expected


@pytest.mark.usefixtures("caches")
@pytest.mark.parametrize("n", [1, 2, 3])
def test_many_rows(n: int, threads: Callable[[int | None], None]) -> None:
    """So many that they are cut into strips, which several threads work on."""
    threads(n)
    for width in (1, 3, 16, 37, 64, 100, 300, *WIDE):
        check(150_000 // width, width, np.float32, OFFSETS[width % len(OFFSETS)])


@pytest.mark.usefixtures("isa", "caches")
def test_unusual_channels_and_options() -> None:
    """Channels out of range, activations, residuals and weights, each of which has loops of its own."""
    for width in (16, 17, 37, 100, 300, 1030):
        rng = np.random.default_rng(width)
        shape = 2 + 3000 // width, width
        scale = np.where(np.arange(width) % 5 == 0, 1e30, 1.0)
        x = placed((scale * rng.standard_normal(shape)).astype(np.float32), 4)
        dy, residual = (placed(rng.standard_normal(shape, np.float32), k) for k in (1, 2))
        weight, bias = parameters(rng, (width,))
        out = placed(np.zeros(shape, np.float32), 4)
        result = fastbn.batch_norm_train(x, weight, bias, out=out)
        assert_train(x, result, weight, bias)
        saved: dict[str, Any] = {"mean": result.mean, "invstd": result.invstd}
        assert_gradients(fastbn.batch_norm_backward(dy, x, weight, **saved, out=out), dy, x, weight, **saved)
        x = placed(rng.standard_normal(shape, np.float32), 4)
        mean, var = rng.standard_normal(width), rng.uniform(0.5, 2, width)
        y = fastbn.normalize(x, mean, var, weight, bias, residual=residual, activation="relu", out=out)
        assert_normalized(x, y, mean, var, weight, bias, residual=residual, activation="relu")


def stored(values: Array, how: str) -> Array:
    """Return a parameter's values as an array of some other storage, which holds them exactly."""
    if how == "float16":
        assert np.array_equal(values, values.astype(np.float16))
        return values.astype(np.float16)
    if how == "reversed":
        return values[::-1].copy()[::-1]
    if how == "swapped":
        return values.astype(values.dtype.newbyteorder())
    return values


@pytest.mark.usefixtures("caches")
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("how", ["float64", "float16", "reversed", "swapped"])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((2, 70_001), np.float32), ((16, 9000), np.float32), ((17, 9000), np.float32), ((3, 66_000), np.float64)],
)
def test_few_long_rows(
    shape: tuple[int, int], dtype: Any, how: str, n: int, threads: Callable[[int | None], None]
) -> None:
    """They go channels by channels, whose parameters are read then, however they are stored; some are out of range."""
    threads(n)
    rng = np.random.default_rng(shape)
    width = shape[1]
    past = 16 // np.dtype(dtype).itemsize
    x, dy, residual = (placed((0.5 + rng.standard_normal(shape)).astype(dtype), past) for _ in range(3))
    x[:, ::1000] *= dtype(2.0**110)
    mean, var, weight, bias = (
        rng.integers(-100, 100, width) / 64,
        rng.integers(16, 200, width) / 64,
        rng.choice([-1.0, 1.0], width) * rng.integers(16, 100, width) / 64,
        rng.integers(-100, 100, width) / 64,
    )
    given = [stored(values, how) for values in (mean, var, weight, bias)]
    epilogue: dict[str, Any] = {"residual": residual, "activation": "relu"}
    out = np.empty_like(x)
    for options in ({}, epilogue):
        y = fastbn.normalize(x, *given, **options, out=out)
        assert_normalized(x, y, mean, var, weight, bias, **options)
        # No column knows of the others.
        narrow = {name: value[:, :100] if name == "residual" else value for name, value in options.items()}
        assert np.array_equal(
            y[:, :100], fastbn.normalize(x[:, :100], *(each[:100] for each in given), **narrow), equal_nan=True
        )
    assert_normalized(x, fastbn.normalize(x, given[0], given[1]), mean, var)
    result = fastbn.batch_norm_train(x, given[2], given[3])
    assert_train(x, result, weight, bias)
    saved: dict[str, Any] = {"mean": result.mean, "invstd": result.invstd}
    for training in (True, False):
        got = fastbn.batch_norm_backward(dy, x, given[2], given[3], **saved, training=training)
        assert_gradients(got, dy, x, weight, bias=bias, **saved, training=training)
    x[:, ::1000] = 0.25 + residual[:, ::1000]
    saved = {"mean": mean, "invstd": weight**2}
    got = fastbn.batch_norm_backward(dy, x, given[2], given[3], mean=given[0], invstd=weight**2, **epilogue)
    assert_gradients(got, dy, x, weight, bias=bias, **saved, **epilogue)


def test_few_long_rows_of_large_integers() -> None:
    """Each channel has an origin of its own, and so has its mean."""
    width = 66_000
    rng = np.random.default_rng(5)
    base = rng.integers(-(2**62), 2**62, width)
    steps = rng.integers(-50, 50, (3, width))
    mean = base.astype(np.float64)
    y = fastbn.normalize(base + steps, mean, np.full(width, 4.0), eps=0)
    assert_normalized(base + steps, y, mean, np.full(width, 4.0), eps=0)
    result = fastbn.batch_norm_train(base + steps)
    centred = steps - steps.mean(0, dtype=np.longdouble)
    var = (centred * centred).mean(0)
    expected = centred / np.sqrt(var + np.longdouble(1e-5))
    assert np.allclose(result.y, expected.astype(np.float64), rtol=0, atol=np.abs(expected).max() * 2**-50)
