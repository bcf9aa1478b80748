"""Promise: half precision and integers are computed as their exact conversions, and y is rounded once, to even."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastbn
import fastbn._core
from support import oracle
from support.assertions import assert_gradients, assert_normalized, assert_rounded, assert_train
from support.bits import bits, bits_of_everything, differing
from support.dtypes import FLOAT_TYPES, HALVES, INTEGERS, TYPES, y_type
from support.isas import using_isa
from support.layouts import LARGE, LAYOUTS, Layout, layout_id
from support.marks import every_half, every_isa, every_layout
from support.random_arrays import parameters, random_values
from support.tolerances import FLOAT64_RTOL

pytestmark = pytest.mark.untraced

SetThreads = Callable[[int | None], None]
NEW = (*HALVES, *INTEGERS)
ISAS = fastbn._core.isas()

# Both half types in every layout, integers in turn; test_combinations.py has every pair.
every_layout_and_type = pytest.mark.parametrize(
    ("layout", "dtype"),
    [
        pytest.param(layout, dtype, id=f"{layout.name}-{dtype}")
        for turn, layout in enumerate(LAYOUTS)
        for dtype in (*HALVES, INTEGERS[turn % len(INTEGERS)])
    ],
)
every_new = pytest.mark.parametrize("dtype", NEW, ids=str)


# Against the oracle, which is given the exact values.


@every_layout_and_type
def test_training(layout: Layout, dtype: Any, rng: np.random.Generator) -> None:
    x = layout.fill(rng, dtype, scale=2, offset=3)
    before = x.tobytes()
    weight, bias = parameters(rng, layout.features)
    result = fastbn.batch_norm_train(x, weight, bias, axis=layout.axis)
    assert_train(x, result, weight, bias, axis=layout.axis)
    assert result.y.strides == np.empty_like(x, dtype=y_type(dtype), subok=False).strides
    assert x.tobytes() == before
    found = fastbn.moments(x, axis=layout.axis)
    np.testing.assert_array_equal(found.mean, result.mean)
    np.testing.assert_allclose(found.var(), result.var, rtol=FLOAT64_RTOL)


@every_layout_and_type
def test_inference(layout: Layout, dtype: Any, rng: np.random.Generator) -> None:
    x = layout.fill(rng, dtype, scale=2, offset=3)
    weight, bias = parameters(rng, layout.features)
    mean, var = 3 + rng.standard_normal(layout.features), rng.uniform(0.5, 2, layout.features)
    y = fastbn.normalize(x, mean, var, weight, bias, axis=layout.axis)
    assert y.dtype == y_type(dtype)
    assert_normalized(x, y, mean, var, weight, bias, axis=layout.axis)
    np.testing.assert_array_equal(fastbn.batch_norm(x, mean, var, weight, bias, axis=layout.axis), y)


@every_layout_and_type
def test_backward(layout: Layout, dtype: Any, rng: np.random.Generator) -> None:
    x = layout.fill(rng, dtype, scale=2, offset=3)
    weight, _ = parameters(rng, layout.features)
    _, mean, _, invstd, _ = fastbn.batch_norm_train(x, axis=layout.axis)
    # dy of x's layout, and of plain C order.
    dys = layout.fill(rng, y_type(dtype), offset=0.5), rng.standard_normal(x.shape).astype(y_type(dtype))
    for dy, training in ((dys[0], True), (dys[1], False), (dys[1], True)):
        saved = {"mean": mean, "invstd": invstd, "axis": layout.axis, "training": training}
        got = fastbn.batch_norm_backward(dy, x, weight, **saved)
        assert_gradients(got, dy, x, weight, **saved)


@every_isa
@pytest.mark.parametrize("x_dtype", TYPES, ids=str)
@pytest.mark.parametrize("y_dtype", FLOAT_TYPES, ids=str)
@pytest.mark.parametrize(("shape", "axis"), [((9, 5, 11), 1), ((9, 11, 5), 2)], ids=["NCL", "NLC"])
def test_any_type_of_y(rng: np.random.Generator, x_dtype: Any, y_dtype: Any, shape: tuple[int, ...], axis: int) -> None:
    x = random_values(rng, shape, x_dtype, 2, 3)
    weight, bias = parameters(rng, (5,))
    result = fastbn.batch_norm_train(x, weight, bias, axis=axis, dtype=y_dtype)
    assert_train(x, result, weight, bias, axis=axis, dtype=y_dtype)
    mean, var = 3 + rng.standard_normal(5), rng.uniform(0.5, 2, 5)
    out = np.empty(shape, y_dtype)
    for y in (
        fastbn.normalize(x, mean, var, weight, bias, axis=axis, dtype=y_dtype),
        fastbn.normalize(x, mean, var, weight, bias, axis=axis, out=out),
        fastbn.batch_norm(x, mean, var, weight, bias, axis=axis, dtype=y_dtype),
        fastbn.batch_norm(x, mean, var, weight, bias, axis=axis, dtype=y_dtype, out=out),
    ):
        assert y.dtype == y_dtype
        assert_normalized(x, y, mean, var, weight, bias, axis=axis)
    assert fastbn.batch_norm_train(x, weight, bias, axis=axis, out=out).y is out
    assert bits(out) == bits(result.y)
    y = fastbn.batch_norm(x, None, None, weight, bias, training=True, axis=axis, dtype=y_dtype)
    assert bits(y) == bits(result.y)
    # Whatever type y has: the statistics are those of x, and the gradient that comes back has it too.
    plain = fastbn.batch_norm_train(x, weight, bias, axis=axis)
    for one, other in zip(result[1:], plain[1:], strict=True):
        np.testing.assert_array_equal(one, other)
    dy = rng.standard_normal(shape).astype(y_dtype)
    for training in (True, False):
        saved = {"mean": result.mean, "invstd": result.invstd, "axis": axis, "training": training}
        got = fastbn.batch_norm_backward(dy, x, weight, **saved)
        assert_gradients(got, dy, x, weight, **saved)
        into = fastbn.batch_norm_backward(dy, x, weight, **saved, out=dy.copy())
        assert bits(into.dx) == bits(got.dx)


# Statistics of half precision are those of the float32 array in the same memory order.


@every_layout
@every_half
def test_statistics_are_those_of_float32(layout: Layout, dtype: Any, rng: np.random.Generator) -> None:
    x = layout.fill(rng, dtype, scale=2, offset=3)
    dy = layout.fill(rng, y_type(dtype))
    wide_x, wide_dy = (layout.place(a.astype(np.float32)) for a in (x, dy))
    weight, bias = parameters(rng, layout.features)
    rounded = {"train.y", "batch_norm.y", "eval.y", "normalize.y", "backward(training=True).dx"}
    rounded |= {"backward(training=False).dx"}
    wanted = bits_of_everything(wide_x, wide_dy, weight, bias, layout.axis)
    assert rounded < wanted.keys()
    for isa in ISAS:
        with using_isa(isa):
            found = bits_of_everything(x, dy, weight, bias, layout.axis)
        assert not set(differing(found, wanted)) - rounded, isa


@every_layout_and_type
def test_same_bits_on_every_isa(layout: Layout, dtype: Any) -> None:
    rng = np.random.default_rng(29)
    x, dy = layout.fill(rng, dtype, 2, 3), layout.fill(rng, y_type(dtype))
    found = []
    for isa in ISAS:
        with using_isa(isa):
            found.append(bits_of_everything(x, dy, *parameters(np.random.default_rng(2), layout.features), layout.axis))
    for other in found[1:]:
        assert differing(other, found[0]) == []


@pytest.mark.parametrize("layout", LARGE, ids=layout_id)
def test_same_bits_of_large_arrays(layout: Layout, threads: SetThreads) -> None:
    """On every instruction set and for any number of threads: each layout with another type."""
    rng = np.random.default_rng(43)
    dtype = NEW[LARGE.index(layout) % len(NEW)]
    x, dy = layout.fill(rng, dtype, 2, 3), layout.fill(rng, y_type(dtype))
    given = (x, dy, *parameters(rng, layout.features), layout.axis)
    found = {}
    for isa, n in [*((isa, 1 + i) for i, isa in enumerate(reversed(ISAS))), (ISAS[-1], 3)]:
        threads(n)
        with using_isa(isa):
            found[isa, n] = bits_of_everything(*given)
    first = next(iter(found.values()))
    assert {key: differing(other, first) for key, other in found.items() if differing(other, first)} == {}


@every_new
def test_same_bits_of_every_size(dtype: Any) -> None:
    rng = np.random.default_rng(37)
    for n in [*range(2, 70), 127, 129, 255, 257, 513]:
        for shape, axis in (((2, 3, n), 1), ((3, n), 0), ((n, 5), 1)):
            x, dy = random_values(rng, shape, dtype, 2, 3), rng.standard_normal(shape).astype(y_type(dtype))
            found = []
            for isa in ISAS:
                with using_isa(isa):
                    found.append(bits_of_everything(x, dy, None, None, axis))
            for other in found[1:]:
                assert differing(other, found[0]) == [], shape


# Parameters and running statistics.


@every_isa
@pytest.mark.parametrize("x_dtype", [np.dtype(np.float32), *HALVES, np.dtype(np.uint8), np.dtype(np.int32)], ids=str)
@pytest.mark.parametrize("kind", HALVES, ids=str)
def test_parameters_of_half_precision(rng: np.random.Generator, x_dtype: Any, kind: Any) -> None:
    """They are what they are when converted to float64."""
    x = random_values(rng, (9, 5, 11), x_dtype, 2, 3)
    dy = rng.standard_normal(x.shape).astype(y_type(x_dtype))
    weight, bias = parameters(rng, (5,), kind)
    mean, var = rng.standard_normal(5).astype(kind), rng.uniform(1, 2, 5).astype(kind)
    plain = [a.astype(np.float64) for a in (mean, var, weight, bias)]
    for training in (True, False):
        got = fastbn.batch_norm(x, mean.copy(), var.copy(), weight, bias, training=training)
        want = fastbn.batch_norm(x, *(a.copy() for a in plain), training=training)
        assert bits(got) == bits(want)
        grad = fastbn.batch_norm_backward(dy, x, weight, mean=mean, invstd=var, training=training)
        assert_gradients(grad, dy, x, weight, mean=mean, invstd=var, training=training)
    assert_normalized(x, fastbn.normalize(x, mean, var, weight, bias), mean, var, weight, bias)
    result = fastbn.batch_norm_train(x, weight, bias)
    assert_train(x, result, weight, bias)


@pytest.mark.parametrize("x_dtype", TYPES, ids=str)
@pytest.mark.parametrize("mean_dtype", FLOAT_TYPES, ids=str)
@pytest.mark.parametrize("var_dtype", FLOAT_TYPES, ids=str)
def test_running_statistics_are_rounded_once(
    rng: np.random.Generator, x_dtype: Any, mean_dtype: Any, var_dtype: Any
) -> None:
    x = random_values(rng, (9, 40, 11), x_dtype, 2, 3)
    running = rng.standard_normal(40).astype(mean_dtype), rng.uniform(1, 2, 40).astype(var_dtype)
    found = oracle.moments(x)
    news = found.mean, found.m2 / (found.count - 1)
    expected = [oracle.updated(old, new, 0.1) for old, new in zip(running, news, strict=True)]
    fastbn.batch_norm(x, *running, training=True)
    assert [a.dtype for a in running] == [mean_dtype, var_dtype]
    # The statistics' own error, and a handful of float64 operations.
    for got, want, old, new in zip(running, expected, (mean_dtype, var_dtype), news, strict=True):
        spread = np.sqrt(np.abs(news[1])) if got is running[0] else np.abs(new)
        rtol = 1.2e-13 if x_dtype in (np.float64, np.int32) else 2e-9
        assert_rounded(got, want, rtol * spread + 1e-15 * (np.abs(new) + 2))
        assert got.dtype == old


@every_half
def test_running_statistics_of_half_precision_do_not_drift(dtype: Any) -> None:
    """A tie goes to the even neighbour, whichever side it is of; momentum 0 changes no bit."""
    ulp = 2.0 ** (1 - oracle.FORMATS[dtype.name][0])
    x = np.array([[1 + ulp, 1 + 3 * ulp]] * 2)
    running_mean, running_var = np.array([1, 1 + 2 * ulp], dtype), np.zeros(2, dtype)
    fastbn.batch_norm(x, running_mean, running_var, training=True, momentum=0.5)
    assert running_mean.astype(float).tolist() == [1, 1 + 2 * ulp]
    assert running_var.astype(float).tolist() == [0, 0]
    before = running_mean.tobytes()
    fastbn.batch_norm(x + 5, running_mean, running_var, training=True, momentum=0)
    assert running_mean.tobytes() == before


def test_running_statistics_of_half_precision_may_overflow() -> None:
    running_mean, running_var = np.zeros(1, np.float16), np.ones(1, np.float16)
    fastbn.batch_norm(np.array([[0.0], [2000.0]]), running_mean, running_var, training=True, momentum=1)
    assert running_mean[0] == 1000
    assert running_var[0] == np.inf
