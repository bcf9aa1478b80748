"""Promise: every value of half precision and of integers comes in as it is, and goes out rounded once, to even."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fastbn
import fastbn._core
from support import oracle
from support.assertions import assert_normalized, assert_rounded, assert_train, assert_y
from support.dtypes import FLOATS, HALVES, INTEGERS
from support.layouts import dense, fortran, misaligned, permuted, stepped
from support.marks import every_half, every_isa
from support.random_arrays import parameters, random_values

pytestmark = pytest.mark.untraced
NEW = (*HALVES, *INTEGERS)

every_new = pytest.mark.parametrize("dtype", NEW, ids=str)


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
    np.testing.assert_array_equal(unchanged(x), oracle.rounded(x.astype(np.longdouble), np.float32))


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
            oracle.rounded(values.astype(np.longdouble), dtype), values.astype(dtype).astype(np.longdouble)
        )
        wide = np.concatenate([near_ties(np.float64, dtype), np.random.default_rng(5).standard_normal(1000)])
        np.testing.assert_array_equal(
            oracle.rounded(wide.astype(np.longdouble), np.float32), wide.astype(np.float32).astype(np.longdouble)
        )


@every_isa
@every_half
def test_float64_is_rounded_once(dtype: Any) -> None:
    """By way of float32 this would first become a tie, and then the even neighbour below."""
    ulp = 2.0 ** (1 - oracle.FORMATS[dtype.name][0])
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
    """Half precision's subnormal numbers are read and written like any others."""
    x = np.resize(rng.permutation(all_of(dtype)[1:100]), (33, 3, 9)).copy()
    x[::2] *= -1
    result = fastbn.batch_norm_train(x, eps=0, axis=axis)
    assert_train(x, result, eps=0, axis=axis)
    # And come out: y of about their own size.
    weight = np.full(x.shape[axis], float(all_of(dtype)[50]))
    y = fastbn.batch_norm_train(x, weight, eps=0, axis=axis).y
    assert_y(y, oracle.train(x, weight, eps=0, axis=axis).y, weight[0], dtype)
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
