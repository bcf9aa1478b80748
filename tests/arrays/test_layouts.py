"""Promise: any memory layout of any argument gives the right result, and results keep x's memory order."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import fastbn
from support import oracle
from support.assertions import assert_gradients, assert_normalized, assert_train
from support.layouts import LAYOUTS, Layout, dense, fortran, layout_id, misaligned, padded, permuted, stepped
from support.marks import every_dtype, every_layout
from support.random_arrays import parameters
from support.tolerances import FLOAT64_RTOL

pytestmark = [pytest.mark.usefixtures("isa"), pytest.mark.untraced]

READONLY = re.compile("readonly|repeated")


def memory_order(array: np.ndarray) -> tuple[int, ...]:
    """Return the strides of the axes that have any, as a fresh array of that memory order has them."""
    return tuple(s for s, n in zip(array.strides, array.shape, strict=True) if n > 1)


@every_layout
@every_dtype
def test_training(layout: Layout, dtype: Any, rng: np.random.Generator) -> None:
    x = layout.fill(rng, dtype, scale=2, offset=3)
    before = x.copy()
    weight, bias = parameters(rng, layout.features)
    result = fastbn.batch_norm_train(x, weight, bias, axis=layout.axis)
    assert_train(x, result, weight, bias, axis=layout.axis)
    assert memory_order(result.y) == memory_order(np.empty_like(x, subok=False))
    np.testing.assert_array_equal(x, before)
    found = fastbn.moments(x, axis=layout.axis)
    np.testing.assert_array_equal(found.mean, result.mean)
    np.testing.assert_allclose(found.var(), result.var, rtol=FLOAT64_RTOL)


@every_layout
@every_dtype
def test_inference(layout: Layout, dtype: Any, rng: np.random.Generator) -> None:
    x = layout.fill(rng, dtype, scale=2, offset=3)
    weight, bias = parameters(rng, layout.features)
    mean, var = 3 + rng.standard_normal(layout.features), rng.uniform(0.5, 2, layout.features)
    y = fastbn.normalize(x, mean, var, weight, bias, axis=layout.axis)
    assert_normalized(x, y, mean, var, weight, bias, axis=layout.axis)
    assert memory_order(y) == memory_order(np.empty_like(x, subok=False))
    np.testing.assert_array_equal(fastbn.batch_norm(x, mean, var, weight, bias, axis=layout.axis), y)


@every_layout
@every_dtype
@pytest.mark.parametrize("training", [True, False])
def test_backward(layout: Layout, dtype: Any, training: bool, rng: np.random.Generator) -> None:
    x = layout.fill(rng, dtype, scale=2, offset=3)
    weight, _ = parameters(rng, layout.features)
    _, mean, _, invstd, _ = fastbn.batch_norm_train(x, axis=layout.axis)
    saved = {"mean": mean, "invstd": invstd, "axis": layout.axis, "training": training}
    # dy of x's layout, and of plain C order.
    for dy in (layout.fill(rng, dtype, offset=0.5), rng.standard_normal(x.shape).astype(dtype)):
        got = fastbn.batch_norm_backward(dy, x, weight, **saved)
        assert_gradients(got, dy, x, weight, **saved)
        assert memory_order(got.dx) == memory_order(np.empty_like(x, subok=False))


@pytest.mark.parametrize("layout", [a for a in LAYOUTS if not READONLY.search(a.name)], ids=layout_id)
@every_dtype
def test_in_place(layout: Layout, dtype: Any, rng: np.random.Generator) -> None:
    x = layout.fill(rng, dtype, scale=2, offset=3)
    weight, bias = parameters(rng, layout.features)
    dy = layout.fill(rng, dtype)
    expected = fastbn.batch_norm_train(x, weight, bias, axis=layout.axis)
    saved = {"mean": expected.mean, "invstd": expected.invstd, "axis": layout.axis}
    gradients = fastbn.batch_norm_backward(dy, x, weight, **saved)
    assert fastbn.batch_norm_backward(dy, x, weight, **saved, out=dy).dx is dy
    np.testing.assert_array_equal(dy, gradients.dx)
    result = fastbn.batch_norm_train(x, weight, bias, axis=layout.axis, out=x)
    assert result.y is x
    for got, want in zip(result, expected, strict=True):
        np.testing.assert_array_equal(got, want)
    y = fastbn.normalize(x, saved["mean"], saved["invstd"], weight, bias, axis=layout.axis)
    fastbn.normalize(x, saved["mean"], saved["invstd"], weight, bias, axis=layout.axis, out=x)
    np.testing.assert_array_equal(x, y)


PLACES_4D = {
    "dense": dense,
    "channels-last": permuted(0, 2, 3, 1),
    "fortran": fortran,
    "mixed": permuted(2, 0, 3, 1),
    "stepped": stepped(1, 2, -1, 3),
    "padded": padded(0, 0, 1, 3),
    "misaligned": misaligned,
}


@pytest.mark.parametrize("x_place", PLACES_4D)
@pytest.mark.parametrize("other_place", PLACES_4D)
@every_dtype
def test_every_pair_of_layouts(x_place: str, other_place: str, dtype: Any, rng: np.random.Generator) -> None:
    """One layout for x, another for y, dy and dx in another."""
    for shape in ((3, 19, 6, 7), (5, 6, 2, 2), (9, 33, 1, 1), (131, 3, 1, 1), (133, 5, 2, 2), (4, 9, 5, 5)):
        x = PLACES_4D[x_place]((3 + 2 * rng.standard_normal(shape)).astype(dtype))
        dy = PLACES_4D[other_place](rng.standard_normal(shape).astype(dtype))
        out = PLACES_4D[other_place](np.empty(shape, dtype))
        weight, bias = parameters(rng, shape[1:2])
        result = fastbn.batch_norm_train(x, weight, bias, out=out)
        assert result.y is out
        assert_train(x, result, weight, bias)
        y = fastbn.normalize(x, result.mean, result.var, weight, bias, out=out)
        assert_normalized(x, y, result.mean, result.var, weight, bias)
        saved = {"mean": result.mean, "invstd": result.invstd}
        for training in (True, False):
            # dx in dy's layout while dy has it, then in x's while dy is in the other, then all in the other.
            for target in (out, PLACES_4D[x_place](np.empty(shape, dtype))):
                got = fastbn.batch_norm_backward(dy, x, weight, **saved, training=training, out=target)
                assert_gradients(got, dy, x, weight, **saved, training=training)
            got = fastbn.batch_norm_backward(x, dy, weight, **saved, training=training)
            assert_gradients(got, x, dy, weight, **saved, training=training)


@every_dtype
def test_writes_only_what_is_in_out(dtype: Any, rng: np.random.Generator) -> None:
    """Padding, gaps and margins of out keep what they hold."""
    for shape in ((5, 19), (3, 7, 33), (2, 5, 7, 7), (4, 6, 2, 2), (131, 3), (133, 3, 3)):
        x = rng.standard_normal(shape).astype(dtype)
        for step in (1, 2, -3):
            steps = [1] * (len(shape) - 1) + [step]
            whole = np.full([n * abs(s) + 6 for n, s in zip(shape, steps, strict=True)], 123.0, dtype)
            inside = tuple(slice(3, 3 + n * abs(s)) for n, s in zip(shape, steps, strict=True))
            view = whole[inside][tuple(slice(None, None, s) for s in steps)]
            mask = np.zeros(whole.shape, bool)
            mask[inside][tuple(slice(None, None, s) for s in steps)] = True
            result = fastbn.batch_norm_train(x, out=view)
            assert (whole[~mask] == 123.0).all()
            np.testing.assert_array_equal(view, fastbn.batch_norm_train(x).y)
            fastbn.normalize(x, result.mean, result.var, out=view)
            fastbn.batch_norm_backward(x, x, mean=result.mean, invstd=result.invstd, out=view)
            assert (whole[~mask] == 123.0).all()


@every_dtype
def test_out_between_the_elements_of_x(dtype: Any, rng: np.random.Generator) -> None:
    """Interleaved arrays share a stretch of memory and not one element: that is disjoint."""
    both = rng.standard_normal((6, 5, 14)).astype(dtype)
    x, out = both[:, :, ::2], both[:, :, 1::2]
    before = x.copy()
    result = fastbn.batch_norm_train(x, out=out)
    assert result.y is out
    np.testing.assert_array_equal(x, before)
    assert_train(x, result)


@every_dtype
def test_parameters_of_any_layout(dtype: Any, rng: np.random.Generator) -> None:
    x = rng.standard_normal((6, 5, 4, 3)).astype(dtype)
    for axis in (1, (1, 3)):
        shape = oracle.feature_shape(x.shape, axis)
        plain = [*parameters(rng, shape), rng.standard_normal(shape), rng.uniform(1, 2, shape)]
        ones = (1,) * len(shape)
        places = [stepped(*(-2 * n for n in ones)), stepped(*(3 * n for n in ones)), misaligned, fortran, padded(*ones)]
        for place in places:
            placed = [place(a) for a in plain]
            for training in (True, False):
                running = [a.copy() for a in plain[2:]]
                want = fastbn.batch_norm(x, *running, *plain[:2], training=training, axis=axis)
                strided = [place(a) for a in plain[2:]]
                got = fastbn.batch_norm(x, *strided, *placed[:2], training=training, axis=axis)
                np.testing.assert_array_equal(got, want)
                np.testing.assert_array_equal(strided, running)
            want = fastbn.batch_norm_backward(x, x, plain[0], mean=plain[2], invstd=plain[3], axis=axis)
            got = fastbn.batch_norm_backward(x, x, placed[0], mean=placed[2], invstd=placed[3], axis=axis)
            for one, other in zip(got, want, strict=True):
                np.testing.assert_array_equal(one, other)


def test_running_statistics_in_one_array(rng: np.random.Generator) -> None:
    """Rows, columns and records of one table are as good as arrays of their own."""
    x = rng.standard_normal((6, 5, 4))
    running_mean, running_var = np.zeros(5), np.ones(5)
    fastbn.batch_norm(x, running_mean, running_var, training=True)
    table = np.zeros((5, 3))
    table[:, 2] = 1
    fastbn.batch_norm(x, table[:, 0], table[:, 2], training=True)
    np.testing.assert_array_equal(table.T, [running_mean, np.zeros(5), running_var])


def test_as_many_axes_as_numpy_allows(rng: np.random.Generator) -> None:
    rank = 64
    shape = [1] * rank
    for axis in (0, 7, 20, 33, 40, 63):
        shape[axis] = 2 + axis % 2
    x = 3 + rng.standard_normal(shape)
    for axis in (7, 33, 34, (7, 40, 63), tuple(range(10, rank))):
        result = fastbn.batch_norm_train(x, axis=axis)
        assert_train(x, result, axis=axis)
        assert_train(x.T, fastbn.batch_norm_train(x.T, axis=axis), axis=axis)


@every_dtype
def test_larger_than_the_caches(dtype: Any, rng: np.random.Generator) -> None:
    """Outputs of some 40 MB, where stores may bypass the caches; aligned to nothing in particular."""
    count = 10_000_000 if dtype == np.float32 else 5_000_000
    base = rng.standard_normal(count + 3, dtype=dtype)
    raw = np.empty(count + 3, dtype)
    for start, shape, axis in (
        (0, (4, 25, count // 100), 1),
        (3, (count // 50, 50), 1),
        (1, (4, count // 100, 25), 2),
        (2, (count // 5000, 200, 25), 1),  # several channels to a row
        (1, (count // 5, 5), 1),  # several rows side by side in a vector
        (3, (count // 500, 100, 5), 1),  # several columns to a channel
    ):
        x = base[start : start + count].reshape(shape)
        out = raw[3 - start : 3 - start + count].reshape(shape)
        result = fastbn.batch_norm_train(x, axis=axis, out=out)
        reduced = tuple(a for a in range(x.ndim) if a != axis)
        # Means of 4e5 normal deviates, twice: float64 rounding of some 1e-16 each, far below what is asked here.
        np.testing.assert_allclose(result.mean, x.mean(reduced, dtype=np.float64), rtol=0, atol=1e-9)
        along = oracle.along(result.mean, shape, axis), oracle.along(result.invstd, shape, axis)
        wanted = np.subtract(x, along[0], dtype=np.float64)
        np.testing.assert_allclose(
            result.var, np.square(wanted).mean(reduced), rtol=1e-6 if dtype == np.float32 else 1e-11
        )
        wanted *= along[1]
        np.subtract(wanted, out, out=wanted)
        limit = 16 * np.finfo(dtype).eps * 8  # |y| < 8
        assert np.abs(wanted).max() < limit
        np.testing.assert_array_equal(fastbn.batch_norm_train(x, axis=axis).y, out)
        given = fastbn.normalize(x, result.mean, result.var, axis=axis)
        np.subtract(given, out, out=given)
        assert np.abs(given).max() < limit
        got = fastbn.batch_norm_backward(x, x, mean=result.mean, invstd=result.invstd, axis=axis, out=out)
        # dy = x: all of dx is projected away, but for eps.
        assert got.dx is out
        assert np.abs(out).max() < 1e-4
