"""Promise: half precision and integers are computed as their exact conversions, and y is rounded once, to even."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fastbn
import fastbn._core
import reference
from helpers import (
    BFLOAT16,
    FLOATS,
    HALVES,
    INTEGERS,
    LARGE,
    LAYOUTS,
    TYPES,
    Layout,
    assert_gradients,
    assert_normalized,
    assert_rounded,
    assert_train,
    assert_y,
    bits,
    dense,
    differing,
    everything,
    fortran,
    layout_id,
    misaligned,
    parameters,
    permuted,
    random_values,
    run,
    stepped,
    using_isa,
    y_type,
)

pytestmark = pytest.mark.untraced

SetThreads = Callable[[int | None], None]
FLOAT_TYPES = (*(np.dtype(d) for d in FLOATS), *HALVES)
NEW = (*HALVES, *INTEGERS)
ISAS = fastbn._core.isas()

every_isa = pytest.mark.usefixtures("isa")
every_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=layout_id)
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
every_half = pytest.mark.parametrize("dtype", HALVES, ids=str)


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
    np.testing.assert_allclose(found.var(), result.var, rtol=4e-16)


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
    wanted = everything(wide_x, wide_dy, weight, bias, layout.axis)
    assert rounded < wanted.keys()
    for isa in ISAS:
        with using_isa(isa):
            found = everything(x, dy, weight, bias, layout.axis)
        assert not set(differing(found, wanted)) - rounded, isa


@every_layout_and_type
def test_same_bits_on_every_isa(layout: Layout, dtype: Any) -> None:
    rng = np.random.default_rng(29)
    x, dy = layout.fill(rng, dtype, 2, 3), layout.fill(rng, y_type(dtype))
    found = []
    for isa in ISAS:
        with using_isa(isa):
            found.append(everything(x, dy, *parameters(np.random.default_rng(2), layout.features), layout.axis))
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
            found[isa, n] = everything(*given)
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
                    found.append(everything(x, dy, None, None, axis))
            for other in found[1:]:
                assert differing(other, found[0]) == [], shape


# Conversions, each of them, by an operation that leaves every value what it is.


def all_of(dtype: Any) -> np.ndarray:
    """Return every value of a half type, by bit pattern."""
    return np.arange(1 << 16, dtype=np.uint16).view(dtype)


def unchanged(x: np.ndarray, axis: int = 1, **options: Any) -> np.ndarray:
    """Return x as normalization by mean 0, variance 1 and eps 0 returns it."""
    features = (x.shape[axis],)
    return fastbn.normalize(x, np.zeros(features), np.ones(features), eps=0, axis=axis, **options)


FORMS = {
    "N1": ((1 << 16, 1), dense),
    "NC": ((1 << 12, 16), dense),
    "NC-wide": ((220, 300), dense),
    "NC-fortran": ((1 << 12, 16), fortran),
    "NCHW-7x7": ((192, 7, 7, 7), dense),
    "NCHW-3x3": ((810, 9, 3, 3), dense),
    "channels-last": ((192, 7, 7, 7), permuted(0, 2, 3, 1)),
    "NCL": ((4, 4, 1 << 12), dense),
    "stepped": ((4, 4, 1 << 12), stepped(1, 1, 2)),
    "reversed": ((1 << 12, 16), stepped(1, -1)),
    "misaligned": ((1 << 12, 17), misaligned),
}
every_form = pytest.mark.parametrize("form", FORMS)


def formed(values: np.ndarray, form: str) -> np.ndarray:
    """Return all values, some of them again, in the form asked for."""
    shape, place = FORMS[form]
    rows = -(-values.size // int(np.prod(shape[1:])))
    return place(np.resize(values, (max(shape[0], rows), *shape[1:])))


@every_isa
@every_half
@every_form
def test_every_half_comes_back(dtype: Any, form: str) -> None:
    x = formed(all_of(dtype), form)
    y = unchanged(x)
    with np.errstate(invalid="ignore"):  # a signalling NaN
        nan, zero, same = np.isnan(x), x == 0, y.view(np.uint16) == np.ascontiguousarray(x).view(np.uint16)
    assert same[~nan & ~zero].all()
    assert (y[zero] == 0).all()
    assert np.isnan(y[nan]).all()


@every_isa
@every_half
@pytest.mark.parametrize("to", [np.float32, np.float64])
def test_every_half_is_held_by_wider_types(dtype: Any, to: Any) -> None:
    with np.errstate(invalid="ignore"):
        x = formed(all_of(dtype), "NC-wide")
        np.testing.assert_array_equal(unchanged(x, dtype=to), x.astype(to))


@every_isa
@pytest.mark.parametrize("dtype", INTEGERS[:-1], ids=str)
@every_form
def test_every_integer_of_sixteen_bits(dtype: Any, form: str) -> None:
    info = np.iinfo(dtype)
    x = formed(np.arange(info.min, info.max + 1).astype(dtype), form)
    np.testing.assert_array_equal(unchanged(x), x)


@every_isa
@every_form
def test_integers_of_32_bits(form: str, rng: np.random.Generator) -> None:
    near = np.array([0, 1, 2**24, 2**25, 3 << 24, 2**30, 2**31 - 1])[:, None] + np.arange(-9, 10)
    x = np.concatenate([near.ravel(), -near.ravel(), rng.integers(-(2**31), 2**31, 60_000)])
    x = formed(x[(x >= -(2**31)) & (x < 2**31)].astype(np.int32), form)
    np.testing.assert_array_equal(unchanged(x, dtype=np.float64), x)
    np.testing.assert_array_equal(unchanged(x), reference.rounded(x.astype(np.longdouble), np.float32))


def near_ties(source: Any, target: Any) -> np.ndarray:
    """Return what lies halfway between neighbours of type `target`, those neighbours, and what is next to either."""
    with np.errstate(all="ignore"):
        known = all_of(target).astype(np.float64)
        known = np.sort(known[np.isfinite(known) & (known >= 0)])
        beyond = 2 * known[-1] - known[-2]  # what the next would be, were it finite
        steps = np.append(known, beyond)
        ties = np.concatenate([steps, (steps[1:] + steps[:-1]) / 2]).astype(source)
        up, down = np.nextafter(ties, source(np.inf)), np.nextafter(ties, source(0))
        info = np.finfo(source)
        ends = np.array([info.smallest_subnormal, info.tiny, info.max, np.inf, np.nan], source)
    values = np.concatenate([ties, up, down, ends])
    return np.concatenate([values, -values])


@every_isa
@every_half
@pytest.mark.parametrize("source", FLOATS)
@pytest.mark.parametrize("form", ["NC-wide", "stepped"])
def test_rounding_to_half_is_to_nearest_even(dtype: Any, source: Any, form: str) -> None:
    x = formed(near_ties(source, dtype), form)
    assert_rounded(unchanged(x, dtype=dtype), x.astype(np.longdouble))


@every_half
def test_the_oracle_rounds_as_others_do(dtype: Any) -> None:
    """The conversions of numpy and ml_dtypes from float32, and of float64 to float32, agree with the oracle's."""
    with np.errstate(all="ignore"):
        values = near_ties(np.float32, dtype)
        np.testing.assert_array_equal(
            reference.rounded(values.astype(np.longdouble), dtype), values.astype(dtype).astype(np.longdouble)
        )
        wide = np.concatenate([near_ties(np.float64, dtype), np.random.default_rng(5).standard_normal(1000)])
        np.testing.assert_array_equal(
            reference.rounded(wide.astype(np.longdouble), np.float32), wide.astype(np.float32).astype(np.longdouble)
        )


@every_isa
@every_half
def test_float64_is_rounded_once(dtype: Any) -> None:
    """By way of float32 this would first become a tie, and then the even neighbour below."""
    ulp = 2.0 ** (1 - reference.FORMATS[dtype.name][0])
    x = np.array([[1 + ulp / 2 + 2.0**-40, 1 + ulp / 2 - 2.0**-40, 1 + ulp / 2, 1 + 3 * ulp / 2]] * 3)
    wanted = [1 + ulp, 1, 1, 1 + 2 * ulp]
    for y in (unchanged(x, dtype=dtype), unchanged(x.T, axis=0, dtype=dtype).T):
        assert y.astype(float).tolist() == [wanted] * 3


@every_isa
def test_beyond_the_largest_half() -> None:
    x = np.array([[65519.996, 65520.0, -65519.996, -65520.0, 1e30, 65504.0]] * 3, np.float32)
    y = unchanged(x, dtype=np.float16)
    assert y.astype(float).tolist() == [[65504, np.inf, -65504, -np.inf, np.inf, 65504]] * 3
    halves = np.full((3, 2), 65504, np.float16)
    y = fastbn.normalize(halves, np.zeros(2), np.ones(2), [1.0, 1.001], eps=0)
    assert y.astype(float).tolist() == [[65504, np.inf]] * 3


# Numbers at the ends of their types.


@every_isa
@every_new
@pytest.mark.parametrize("axis", [1, 2])
def test_the_largest_numbers_do_not_overflow(dtype: Any, axis: int, rng: np.random.Generator) -> None:
    info = ml_dtypes.finfo(dtype) if dtype in HALVES else np.iinfo(dtype)
    ends = np.array([info.min, info.max], dtype)
    x = ends[rng.integers(0, 2, (40, 3, 27))]
    result = fastbn.batch_norm_train(x, axis=axis)
    assert np.isfinite(result.y.astype(float)).all()
    assert_train(x, result, axis=axis)
    # All of them the same: no variance at all.
    x = np.full((40, 3, 27), ends[1], dtype)
    result = fastbn.batch_norm_train(x, axis=axis)
    assert not result.var.any()
    assert not result.y.astype(float).any()
    np.testing.assert_array_equal(result.mean, float(ends[1]))


@every_isa
@every_half
@pytest.mark.parametrize("axis", [1, 2])
def test_subnormal_halves(dtype: Any, axis: int, rng: np.random.Generator) -> None:
    """Half precision's smallest numbers count like any others."""
    x = np.resize(rng.permutation(all_of(dtype)[1:100]), (33, 3, 9)).copy()
    x[::2] *= -1
    result = fastbn.batch_norm_train(x, eps=0, axis=axis)
    assert_train(x, result, eps=0, axis=axis)
    # And come out: y of about their own size.
    weight = np.full(x.shape[axis], float(all_of(dtype)[50]))
    y = fastbn.batch_norm_train(x, weight, eps=0, axis=axis).y
    assert_y(y, reference.train(x, weight, eps=0, axis=axis).y, weight[0], dtype)
    assert len(np.unique(y.astype(float))) > 30


@every_isa
@pytest.mark.parametrize(
    ("dtype", "mean", "std"), [("uint16", 60_000, 3), ("int16", -30_000, 2), ("int32", 2_000_000_000, 5)]
)
def test_integers_far_from_zero(dtype: str, mean: int, std: int, rng: np.random.Generator) -> None:
    for shape, axis in (((500, 7), 1), ((20, 7, 25), 1), ((20, 25, 7), 2), ((7, 500), 0)):
        x = (mean + np.rint(std * rng.standard_normal(shape))).astype(dtype)
        weight, bias = parameters(rng, (7,))
        assert_train(x, fastbn.batch_norm_train(x, weight, bias, axis=axis), weight, bias, axis=axis)


@every_isa
@every_half
def test_nan_and_infinity_stay_in_their_channel(dtype: Any, rng: np.random.Generator) -> None:
    for shape, axis in (((31, 5), 1), ((6, 5, 9), 1), ((6, 5, 3, 3), 1), ((6, 9, 5), 2)):
        clean = random_values(rng, shape, dtype, 2, 3)
        x = np.moveaxis(clean.copy(), axis, 1)
        for channel, value in ((0, np.nan), (2, np.inf), (4, -np.inf)):
            x[3, channel] = value
        x = np.moveaxis(x, 1, axis)
        result, before = fastbn.batch_norm_train(x, axis=axis), fastbn.batch_norm_train(clean, axis=axis)
        got, want = (np.moveaxis(r.y.astype(float), axis, 1) for r in (result, before))
        assert np.isnan(got[:, [0, 2, 4]]).all()
        np.testing.assert_array_equal(got[:, [1, 3]], want[:, [1, 3]])
        assert np.isnan(result.var).tolist() == [True, False] * 2 + [True]
        # In inference they are elements like any others.
        y = fastbn.normalize(x, np.ones(5), np.full(5, 4.0), eps=0, axis=axis)
        assert_normalized(x, y, np.ones(5), np.full(5, 4.0), eps=0, axis=axis)


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
    found = reference.moments(x)
    news = found.mean, found.m2 / (found.count - 1)
    expected = [reference.updated(old, new, 0.1) for old, new in zip(running, news, strict=True)]
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
    ulp = 2.0 ** (1 - reference.FORMATS[dtype.name][0])
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


# Which type y has.


def test_the_type_of_y(rng: np.random.Generator) -> None:
    mean, var = np.zeros(3), np.ones(3)
    for dtype in TYPES:
        x = random_values(rng, (6, 3), dtype)
        results = [
            fastbn.batch_norm_train(x).y,
            fastbn.batch_norm(x, training=True),
            fastbn.batch_norm(x, mean, var),
            fastbn.normalize(x, mean, var),
        ]
        assert {y.dtype for y in results} == {y_type(dtype)}


@pytest.mark.parametrize(
    ("spelled", "meant"),
    [
        (np.float16, np.float16),
        ("float16", np.float16),
        ("e", np.float16),
        (np.dtype(np.float32), np.float32),
        ("f4", np.float32),
        (float, np.float64),
        ("=f8", np.float64),
        (ml_dtypes.bfloat16, BFLOAT16),
        (BFLOAT16, BFLOAT16),
        ("bfloat16", BFLOAT16),
        (None, np.float32),
    ],
    ids=str,
)
def test_spellings_of_a_type(spelled: Any, meant: Any) -> None:
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    for y in (
        fastbn.batch_norm_train(x, dtype=spelled).y,
        fastbn.batch_norm(x, training=True, dtype=spelled),
        fastbn.batch_norm(x, np.zeros(3), np.ones(3), dtype=spelled),
        fastbn.normalize(x, np.zeros(3), np.ones(3), dtype=spelled),
    ):
        assert y.dtype == meant
        assert y.dtype.isnative


BAD_TYPES = [
    bool,
    int,
    "int8",
    np.uint8,
    "complex64",
    object,
    "U4",
    "M8[s]",
    np.dtype(np.float32).newbyteorder("S"),
    np.dtype(np.float16).newbyteorder("S"),
    [("value", np.float32)],
    ml_dtypes.float8_e4m3fn,
    ml_dtypes.int4,
    "V2",
    "no type at all",
    3,
    np.zeros(3),
]
if np.dtype(np.longdouble).itemsize > 8:
    BAD_TYPES.append(np.longdouble)


@pytest.mark.parametrize("bad", BAD_TYPES, ids=lambda v: str(v)[:30])
def test_types_that_y_cannot_have(bad: Any) -> None:
    x = np.ones((4, 3))
    running = np.zeros(3), np.ones(3)
    for call in (
        lambda: fastbn.batch_norm_train(x, dtype=bad),
        lambda: fastbn.batch_norm(x, *running, training=True, dtype=bad),
        lambda: fastbn.batch_norm(x, *running, dtype=bad),
        lambda: fastbn.normalize(x, *running, dtype=bad),
    ):
        with pytest.raises(TypeError, match=r"^dtype must .*, got "):
            call()
    assert [a.tolist() for a in running] == [[0.0] * 3, [1.0] * 3]


@pytest.mark.parametrize(("dtype", "out"), [("float32", "float64"), ("float16", BFLOAT16), (BFLOAT16, "float16")])
def test_dtype_and_out_that_differ(dtype: Any, out: Any) -> None:
    x, target = np.ones((4, 3)), np.full((4, 3), 5, out)
    running = np.zeros(3), np.ones(3)
    for call in (
        lambda: fastbn.batch_norm_train(x, dtype=dtype, out=target),
        lambda: fastbn.batch_norm(x, *running, training=True, dtype=dtype, out=target),
        lambda: fastbn.normalize(x, *running, dtype=dtype, out=target),
    ):
        with pytest.raises(TypeError, match=r"^(dtype|out) must .*, got "):
            call()
    assert (target == 5).all()
    assert [a.tolist() for a in running] == [[0.0] * 3, [1.0] * 3]


def test_dx_of_another_type_than_dy() -> None:
    x, dy = np.ones((4, 3)), np.ones((4, 3), np.float16)
    for out in (np.full((4, 3), 5.0), np.full((4, 3), 5, BFLOAT16), np.full((4, 3), 5, np.int16)):
        with pytest.raises(TypeError, match=r"^out must .*, got "):
            fastbn.batch_norm_backward(dy, x, mean=np.zeros(3), invstd=np.ones(3), out=out)
        assert (out == 5).all()


@every_isa
@every_half
@pytest.mark.parametrize("axis", [1, 2])
def test_in_place(dtype: Any, axis: int, rng: np.random.Generator) -> None:
    x, dy = (random_values(rng, (6, 5, 7), dtype, 2, 3) for _ in range(2))
    weight, bias = parameters(rng, (x.shape[axis],))
    expected = fastbn.batch_norm_train(x, weight, bias, axis=axis)
    saved = {"mean": expected.mean, "invstd": expected.invstd, "axis": axis}
    wanted = fastbn.batch_norm_backward(dy, x, weight, **saved)
    for target in ("x", "dy"):
        a, b = x.copy(), dy.copy()
        out = a if target == "x" else b
        got = fastbn.batch_norm_backward(b, a, weight, **saved, out=out)
        assert got.dx is out
        assert bits(out) == bits(wanted.dx)
    inplace = x.copy()
    assert fastbn.batch_norm_train(inplace, weight, bias, axis=axis, out=inplace).y is inplace
    assert bits(inplace) == bits(expected.y)
    y = fastbn.normalize(x, expected.mean, expected.var, weight, bias, axis=axis)
    inplace = x.copy()
    fastbn.normalize(inplace, expected.mean, expected.var, weight, bias, axis=axis, out=inplace)
    assert bits(inplace) == bits(y)


@pytest.mark.parametrize("size", [4, 8])
def test_out_of_another_type_in_the_same_memory(size: int) -> None:
    """An element of y lies where other elements of x do: that is an overlap, though both begin alike."""
    raw = np.zeros(60 * size, np.uint8)
    wide = raw.view(f"f{size}").reshape(12, 5)
    wide[...] = np.random.default_rng(3).standard_normal((12, 5))
    narrow = raw.view(f"f{size // 2}")[:60].reshape(12, 5)
    before = raw.copy()
    for x, out in ((wide, narrow), (narrow.view(np.int16 if size == 4 else np.int32), wide)):
        with pytest.raises(ValueError, match=r"^out must .*, got "):
            fastbn.batch_norm_train(x, out=out)
        np.testing.assert_array_equal(raw, before)
    integers = raw.view(f"i{size}").reshape(12, 5) if size == 4 else raw.view("i4")[:60].reshape(12, 5)
    floats = integers.view(np.float32)
    # The same type of the same size is no overlap but in place; integers and floats of one size are in place as well,
    # or refused: never wrong.
    expected = fastbn.batch_norm_train(integers.copy()).y
    try:
        fastbn.batch_norm_train(integers, out=floats)
    except ValueError:
        np.testing.assert_array_equal(raw, before)
    else:
        np.testing.assert_array_equal(floats, expected)


# Types that are none of these.


REFUSED = [bool, np.int64, np.uint32, np.uint64, np.complex64, ml_dtypes.float8_e5m2, ml_dtypes.int4]


def test_a_byte_order_that_is_spelled_out(rng: np.random.Generator) -> None:
    for dtype in (np.float32, np.float64, np.float16, np.int16):
        x = (100 * rng.standard_normal((6, 3))).astype(dtype)
        spelled = x.view(np.dtype(dtype).newbyteorder("<" if sys.byteorder == "little" else ">"))
        assert spelled.dtype.byteorder in "<>"
        np.testing.assert_array_equal(fastbn.moments(spelled).m2, fastbn.moments(x).m2)
        out = np.empty(x.shape, np.dtype("f4").newbyteorder("<" if sys.byteorder == "little" else ">"))
        assert fastbn.normalize(x, np.zeros(3), np.ones(3), out=out) is out


SWAPPED = [np.dtype(d).newbyteorder("S") for d in (np.float16, np.float32, np.int16, np.uint16, np.int32)]


@pytest.mark.parametrize("dtype", [*REFUSED, *SWAPPED], ids=str)
def test_other_types_of_x(dtype: Any) -> None:
    x = np.ones((4, 3)).astype(dtype)
    one = np.ones(3)
    for call in (
        lambda: fastbn.batch_norm_train(x),
        lambda: fastbn.batch_norm(x, one.copy(), one.copy(), training=True),
        lambda: fastbn.normalize(x, one, one),
        lambda: fastbn.moments(x),
        lambda: fastbn.batch_norm_backward(np.ones((4, 3)), x, mean=one, invstd=one),
    ):
        with pytest.raises(TypeError, match=r"^x must .*, got "):
            call()


@pytest.mark.parametrize("dtype", [*INTEGERS, *REFUSED, *SWAPPED[:2]], ids=str)
def test_other_types_of_everything_else(dtype: Any) -> None:
    """Parameters, gradients and results are floating-point."""
    x, one = np.ones((4, 3), np.float32), np.ones(3)
    features, full = np.ones(3).astype(dtype), np.ones((4, 3)).astype(dtype)
    for name, call in {
        "weight": lambda: fastbn.batch_norm_train(x, features),
        "bias": lambda: fastbn.normalize(x, one, one, one, features),
        "mean": lambda: fastbn.normalize(x, features, one),
        "var": lambda: fastbn.normalize(x, one, features),
        "running_mean": lambda: fastbn.batch_norm(x, features, one.copy(), training=True),
        "running_var": lambda: fastbn.batch_norm(x, one.copy(), features, training=True),
        "invstd": lambda: fastbn.batch_norm_backward(x, x, mean=one, invstd=features),
        "dy": lambda: fastbn.batch_norm_backward(full, x, mean=one, invstd=one),
        "out": lambda: fastbn.normalize(x, one, one, out=full),
    }.items():
        with pytest.raises(TypeError, match=rf"^{name} must .*, got "):
            call()


WITHOUT = """
import sys, numpy as np, fastbn
x = np.arange(12, dtype=np.float32).reshape(4, 3)
assert fastbn.batch_norm_train(x, dtype="float16").y.dtype == np.float16
try:
    fastbn.batch_norm_train(x, dtype="bfloat16")
except TypeError as error:
    assert str(error).startswith("dtype must "), error
else:
    raise SystemExit("bfloat16 without ml_dtypes")
assert "ml_dtypes" not in sys.modules
import ml_dtypes
y = fastbn.batch_norm_train(x, dtype="bfloat16").y
assert y.dtype == ml_dtypes.bfloat16
again = fastbn.batch_norm_train(y)
assert again.y.dtype == ml_dtypes.bfloat16
print(again.y.astype(float).tolist() == y.astype(float).tolist())
"""


def test_ml_dtypes_is_never_imported_and_may_come_later() -> None:
    done = run(WITHOUT)
    assert done.stdout.split() == ["True"], done.stderr[-1000:]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", [(0, 3), (2, 3, 0)])
def test_empty_batch(dtype: Any, shape: tuple[int, ...]) -> None:
    x = np.empty(shape, dtype)
    y, mean, var, invstd, count = fastbn.batch_norm_train(x)
    assert (y.shape, y.dtype, count) == (shape, y_type(dtype), 0)
    assert np.isnan([mean, var, invstd]).all()
    got = fastbn.batch_norm_backward(y, x, mean=np.zeros(3), invstd=np.ones(3))
    assert (got.dx.shape, got.dx.dtype) == (shape, y_type(dtype))
    assert got.dweight.tolist() == got.dbias.tolist() == [0.0] * 3
