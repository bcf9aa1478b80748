"""Promise: x, dy, masks, weights and parameters are whatever NumPy makes an array of, or DLPack; nothing is copied."""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pytest

import fastbn
from support.bits import bits
from support.dtypes import BFLOAT16, TYPES, y_type
from support.interpreters import run_python
from support.layouts import dense, fortran, misaligned, padded, permuted, stepped
from support.marks import every_isa
from support.oracle import Array
from support.random_arrays import parameters, random_values

pytestmark = pytest.mark.untraced

SWAPPED = "S"
WIDE = (np.dtype(np.int64), np.dtype(np.uint64))
EVERY_TYPE = (*TYPES, np.dtype(np.uint32), *WIDE, np.dtype(bool))


def values_of(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
    """Return random numbers of any type, bool too."""
    if np.dtype(dtype) == bool:
        return rng.integers(0, 2, shape).astype(bool)
    return random_values(rng, shape, dtype, 2, 3)


def swapped(array: Array) -> Array:
    """Return the same values in the other byte order."""
    return array.astype(array.dtype.newbyteorder(SWAPPED))


def everything(x: Any, dy: Any, weight: Any, bias: Any, axis: int = 1, **weighting: Any) -> list[bytes]:
    """Return the bits of all results of the functions on x."""
    trained = fastbn.batch_norm_train(x, weight, bias, axis=axis, **weighting)
    saved = {"mean": trained.mean, "invstd": trained.invstd, "axis": axis}
    found = fastbn.Moments(extremes=True).update(x, axis=axis, **weighting)
    arrays: list[Any] = [
        *trained,
        fastbn.normalize(x, trained.mean, trained.var, weight, bias, axis=axis),
        fastbn.batch_norm(x, trained.mean, trained.var, weight, bias, axis=axis),
        *fastbn.batch_norm_backward(dy, x, weight, **saved, **weighting),
        *fastbn.batch_norm_backward(dy, x, weight, **saved, training=False),
        *(found.mean, found.m2, found.min, found.max),
    ]
    return [bits(np.asarray(array)) for array in arrays]


# Types.


@every_isa
@pytest.mark.parametrize("dtype", [np.dtype(np.uint32), np.dtype(bool)], ids=str)
@pytest.mark.parametrize(("shape", "axis"), [((9, 5, 11), 1), ((9, 11, 5), 2), ((300, 3), 1)], ids=str)
def test_uint32_and_bool(dtype: Any, shape: tuple[int, ...], axis: int, rng: np.random.Generator) -> None:
    """They are what they are in a type that holds them and is computed in the same precision."""
    x = values_of(rng, shape, dtype)
    plain = x.astype(np.float64 if dtype == np.uint32 else np.uint8)
    dy = rng.standard_normal(shape).astype(np.float32)
    weight, bias = parameters(rng, (shape[axis],))
    got, want = (
        fastbn.batch_norm_train(x, weight, bias, axis=axis),
        fastbn.batch_norm_train(plain, weight, bias, axis=axis, dtype=np.float32),
    )
    assert got.y.dtype == np.float32
    np.testing.assert_allclose(got.y, want.y, rtol=1e-6, atol=1e-6)
    for name in ("mean", "var", "invstd"):
        np.testing.assert_allclose(getattr(got, name), getattr(want, name), rtol=1e-12)
    saved = {"mean": got.mean, "invstd": got.invstd, "axis": axis}
    for one, other in zip(
        fastbn.batch_norm_backward(dy, x, weight, **saved),
        fastbn.batch_norm_backward(dy, plain, weight, **saved),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_any_byte_but_zero_is_true() -> None:
    x = np.array([[0, 1], [2, 255], [0, 0]], np.uint8)
    found = fastbn.moments(x.view(bool))
    np.testing.assert_array_equal(found.mean, (x != 0).mean(0))


@pytest.mark.parametrize("dtype", EVERY_TYPE, ids=str)
def test_the_type_of_results(dtype: Any, rng: np.random.Generator) -> None:
    """A floating x's own; float64 for integers of 64 bits; float32 for other integers and bool."""
    x = values_of(rng, (6, 3), dtype)
    wanted = np.float64 if dtype in WIDE else np.float32 if dtype.kind in "biu" else dtype
    assert fastbn.batch_norm_train(x).y.dtype == wanted
    assert fastbn.batch_norm(x, training=True).dtype == wanted
    assert fastbn.normalize(x, np.zeros(3), np.ones(3)).dtype == wanted
    assert fastbn.BatchNorm(3)(x).dtype == wanted
    # dx has dy's type by the same rule.
    saved = {"mean": np.zeros(3), "invstd": np.ones(3)}
    assert fastbn.batch_norm_backward(x, x, **saved).dx.dtype == wanted
    for training in (True, False):
        got = fastbn.batch_norm_backward(
            x, x, **saved, training=training, residual=np.ones(x.shape, wanted), activation="relu"
        )
        assert (got.dx.dtype, got.dresidual.dtype) == (wanted, wanted)
        got = fastbn.batch_norm_backward(x, x, **saved, training=training, residual=np.ones(x.shape, wanted))
        assert got.dresidual.dtype == wanted
        np.testing.assert_array_equal(got.dresidual, x.astype(wanted))


@pytest.mark.parametrize("dtype", [d for d in EVERY_TYPE if d.kind in "biu"], ids=str)
def test_gradients_of_integers(dtype: Any, rng: np.random.Generator) -> None:
    x, dy = rng.standard_normal((7, 4, 6)), rng.integers(0, 2, (7, 4, 6)).astype(dtype)
    saved = {"mean": np.zeros(4), "invstd": np.ones(4)}
    for one, other in zip(
        fastbn.batch_norm_backward(dy, x, **saved),
        fastbn.batch_norm_backward(dy.astype(np.float64), x, **saved),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other.astype(one.dtype))


@every_isa
@pytest.mark.parametrize("dtype", [np.dtype(np.int32), np.dtype(np.uint32), *WIDE], ids=str)
@pytest.mark.parametrize("x_dtype", [np.float32, np.float16, np.int8])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_gradients_of_integers_that_float32_does_not_hold(
    dtype: Any, x_dtype: Any, activation: Any, rng: np.random.Generator
) -> None:
    """Each of the sums and dx is rounded as float64 is, and dx of 32 bits once more."""
    x = rng.integers(-20, 20, (50, 6)).astype(x_dtype)
    dy = (2 * rng.integers(1 << 24, 1 << 29, (50, 6)) + 1).astype(dtype)
    mean, invstd, bias = x.mean(0, np.float64), 1 / x.std(0, dtype=np.float64), rng.standard_normal(6)
    got = fastbn.batch_norm_backward(dy, x, None, bias, mean=mean, invstd=invstd, activation=activation)
    xhat = (x.astype(np.longdouble) - mean) * invstd
    dz = np.where(xhat + bias > 0, dy, 0) if activation else dy
    dbias, dweight = dz.astype(np.longdouble).sum(0), (dz * xhat).sum(0)
    dx = invstd * (dz - dbias / 50 - xhat * dweight / 50)
    # Sums of 50 numbers below 2**31 in size may lose half a unit in the last place of their own size with each; dx half
    # a unit in its own last place. Rounded to float32, each dy would be off by up to 32.
    np.testing.assert_array_equal(got.dbias, dbias.astype(np.float64))
    np.testing.assert_allclose(got.dweight, dweight.astype(np.float64), rtol=0, atol=50 * 50 * 2**31 * 2**-53)
    once = np.abs(dx) * np.finfo(got.dx.dtype).eps / 2
    assert (np.abs(got.dx - dx) <= once + 2**33 * 1e-15).all()


@pytest.mark.parametrize("dtype", EVERY_TYPE, ids=str)
@pytest.mark.parametrize("order", ["native", "swapped"])
def test_parameters_of_any_type(dtype: Any, order: str, rng: np.random.Generator) -> None:
    """Of the same values, the same bits."""
    x, dy = rng.standard_normal((2, 9, 5, 4))
    weight, bias, mean, var = (rng.integers(0, 2, 5) for _ in range(4))

    def of(values: Array) -> Array:
        array = values.astype(dtype)
        return swapped(array) if order == "swapped" else array

    assert bits(fastbn.normalize(x, of(mean), of(var), of(weight), of(bias))) == bits(
        fastbn.normalize(x, *(a.astype(float) for a in (mean, var, weight, bias)))
    )
    for one, other in zip(
        fastbn.batch_norm_backward(dy, x, of(weight), mean=of(mean), invstd=of(var)),
        fastbn.batch_norm_backward(dy, x, weight.astype(float), mean=mean.astype(float), invstd=var.astype(float)),
        strict=True,
    ):
        assert bits(one) == bits(other)
    weights = rng.integers(0, 2, (9, 1, 4))
    weights[0] = 1
    assert everything(x, dy, None, None, weights=of(weights)) == everything(
        x, dy, None, None, weights=weights.astype(float)
    )


# Byte orders, strides, alignment.


PLACES: dict[str, Callable[[Array], Array]] = {
    "dense": dense,
    "fortran": fortran,
    "permuted": permuted(0, 2, 1),
    "stepped": stepped(2, -1, 3),
    "padded": padded(1, 2, 3),
    "misaligned": misaligned,
}


@every_isa
@pytest.mark.parametrize("dtype", [d for d in EVERY_TYPE if d.itemsize > 1 and d != BFLOAT16], ids=str)
@pytest.mark.parametrize("place", PLACES)
def test_the_other_byte_order(dtype: Any, place: str, rng: np.random.Generator) -> None:
    x = PLACES[place](swapped(values_of(rng, (9, 5, 12), dtype)))
    dy = PLACES[place](swapped(rng.standard_normal((9, 5, 12)).astype(y_type(dtype))))
    assert x.dtype.byteorder not in "=|"
    weight, bias = parameters(rng, (5,))
    native = np.empty_like(x, dtype=dtype)  # in the same memory order
    native[...] = x
    got = fastbn.batch_norm_train(x, weight, bias)
    want = fastbn.batch_norm_train(PLACES[place](native), weight, bias)
    assert got.y.dtype == want.y.dtype
    assert got.y.dtype.isnative
    limit = 1e-12 if dtype.itemsize == 8 else 1e-6 if dtype.itemsize == 4 else 1e-3
    np.testing.assert_allclose(got.y, want.y, rtol=limit, atol=limit)
    np.testing.assert_allclose(got.mean, want.mean, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(got.var, want.var, rtol=2e-9)
    saved = {"mean": want.mean, "invstd": want.invstd}
    dx = fastbn.batch_norm_backward(dy, x, weight, **saved).dx
    assert dx.dtype == dy.dtype.newbyteorder("=")
    wanted = fastbn.batch_norm_backward(dy.astype(dx.dtype), native, weight, **saved).dx
    np.testing.assert_allclose(dx, wanted, rtol=10 * limit, atol=10 * limit)


def test_values_out_of_range_in_the_other_byte_order() -> None:
    """A channel that is read once more, divided by a power of two."""
    x = np.array([[1e200], [3e200], [-2e200]])
    assert everything(swapped(x), swapped(x), None, None) == everything(x, x, None, None)


def test_written_arrays_have_the_byte_order_of_the_machine() -> None:
    x = np.ones((4, 3))
    for options in ({"out": swapped(x)}, {"running_mean": swapped(np.zeros(3)), "running_var": np.ones(3)}):
        with pytest.raises(TypeError, match=r"(out|running_mean) must have this machine's byte order, got [<>]f8"):
            fastbn.batch_norm(x, training=True, **options)


def test_read_only_memory(rng: np.random.Generator) -> None:
    x = rng.standard_normal((6, 3))
    frozen = x.copy()
    frozen.flags.writeable = False
    assert everything(frozen, frozen, None, None) == everything(x, x, None, None)
    assert everything(np.frombuffer(x.tobytes()).reshape(6, 3), x, None, None) == everything(x, x, None, None)


def test_lists_of_integers() -> None:
    found = fastbn.moments([[1, 2], [3, 4]])
    assert (found.count, found.mean.tolist(), found.var().tolist()) == (2, [2.0, 3.0], [1.0, 1.0])
    assert fastbn.batch_norm([[1, 2], [3, 4]], [2, 3], [1, 1], eps=0).tolist() == [[-1, -1], [1, 1]]


def test_data_frames(rng: np.random.Generator) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": rng.integers(0, 9, 6), "b": rng.integers(0, 9, 6)})
    mixed = frame.assign(c=rng.standard_normal(6), d=frame["a"] > 4)
    for table in (frame, mixed[["a", "b", "c"]]):
        x = table.to_numpy()
        assert everything(table, x, None, None) == everything(x, x, None, None)


def test_columns_of_text_are_an_error_that_says_what_to_do() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"name": ["Ann", "Bob"], "age": [30.0, 50.0]})
    for call in fastbn.moments, fastbn.Moments().update, fastbn.BatchNorm():
        with pytest.raises(TypeError, match=r"got object \(of a data frame select the columns of numbers, or use"):
            call(frame)


@pytest.mark.parametrize("kind", ["Float64", "boolean", "object"])
def test_numbers_of_other_kinds_are_an_error_that_says_what_to_do(kind: str, rng: np.random.Generator) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": rng.normal(size=9), "b": rng.normal(size=9)})
    frame["b"] = (frame["b"] > 0).astype(kind) if kind == "boolean" else frame["b"].astype(kind)
    for table in frame, frame.to_numpy():
        with pytest.raises(TypeError, match=r"got object \(.* if all are numbers.* give \.astype\(float\)\)$"):
            fastbn.moments(table)
        expected = np.array([math.fsum(frame[name]) / 9 for name in frame])
        np.testing.assert_allclose(fastbn.moments(table.astype(float)).mean, expected, rtol=1e-14, atol=1e-15)


# Integers of 64 bits.


class Exact(NamedTuple):
    mean: Fraction
    m2: Fraction
    y: Array


def exact(values: Array, counted: Array, eps: float = 1e-5) -> Exact:
    """Return what one channel's statistics are, and each value normalized by them."""
    kept = [int(v) for v, c in zip(values, counted, strict=True) if c]
    mean = Fraction(sum(kept), len(kept))
    m2 = sum((v - mean) ** 2 for v in kept)
    deviation = (float(m2 / len(kept)) + eps) ** 0.5
    return Exact(mean, Fraction(m2), np.array([float(int(v) - mean) / deviation for v in values]))


def far_out(rng: np.random.Generator, shape: tuple[int, ...], axis: int, dtype: Any, spread: int) -> Array:
    """Return integers that float64 does not hold, in each channel near another number."""
    centers = [2**62, -(2**62), 2**63 - 2 * spread] if dtype == np.int64 else [2**62, 2**63, 2**64 - 2 * spread]
    near = rng.integers(-spread, spread, shape).astype(object)
    spread_out = [1] * len(shape)
    spread_out[axis] = shape[axis]
    return (near + np.array(centers, object).reshape(spread_out)).astype(dtype)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("place", [0, 4500, -1])
def test_a_light_outlier_does_not_hide_the_other_integers(dtype: Any, place: int) -> None:
    x = (np.arange(9000) % 7 + 50).astype(dtype)
    x[place] = 9 * 10**18
    weights = np.ones(9000)
    weights[place] = 2.0**-66
    total = sum(map(Fraction, weights))
    mean = sum(Fraction(w) * int(v) for w, v in zip(weights, x, strict=True)) / total
    var = sum(Fraction(w) * (int(v) - mean) ** 2 for w, v in zip(weights, x, strict=True)) / total
    result = fastbn.batch_norm_train(x[:, np.newaxis], eps=0.0, weights=weights[:, np.newaxis])
    # float64's digits are lost to differences of 9e18 by their weight alone, 2^-66.
    np.testing.assert_allclose(result.mean, float(mean), rtol=1e-14)
    np.testing.assert_allclose(result.var, float(var), rtol=1e-12)
    wanted = [float(int(v) - mean) / float(var) ** 0.5 for v in x]
    np.testing.assert_allclose(result.y[:, 0], wanted, rtol=1e-9)


@every_isa
@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("spread", [2, 1000, 2**40])
@pytest.mark.parametrize("weighting", ["none", "where", "rows"])
@pytest.mark.parametrize("kind", ["dense", "fortran", "misaligned", "swapped"])
@pytest.mark.parametrize(("shape", "axis"), [((40, 3), 1), ((3, 40), 0), ((5, 3, 60), 1), ((5, 60, 3), 2)], ids=str)
def test_differences_of_wide_integers_are_exact(
    dtype: Any, spread: int, weighting: str, kind: str, shape: tuple[int, ...], axis: int, rng: np.random.Generator
) -> None:
    x = far_out(rng, shape, axis, dtype, spread)
    options: dict[str, Any] = {}
    counted = np.ones(shape, bool)
    if weighting == "where":
        counted = options["where"] = rng.random(shape) < 0.7
        x[~counted] = 7  # far from all others, and the first of its channel
    elif weighting == "rows":
        along = 0 if axis != 0 else 1
        counted = np.moveaxis(counted, along, 0)
        counted[0] = False
        counted = np.moveaxis(counted, 0, along)
        options["weights"] = 2.0 * counted
    placed = (
        swapped(x) if kind == "swapped" else {"dense": dense, "fortran": fortran, "misaligned": misaligned}[kind](x)
    )
    result = fastbn.batch_norm_train(placed, axis=axis, **options)
    found = fastbn.moments(placed, axis=axis, **options).to_dict()
    assert result.y.dtype == np.float64
    for c, (column, seen, y) in enumerate(
        zip(*(np.moveaxis(a, axis, 0).reshape(3, -1) for a in (x, counted, result.y)), strict=True)
    ):
        want = exact(column, seen)
        factor = 2 if weighting == "rows" else 1
        assert abs(Fraction(found["mean"][c]) + Fraction(found["mean_lo"][c]) - want.mean) < Fraction(spread, 10**9)
        assert result.mean[c] == found["mean"][c] == float(want.mean)
        assert found["m2"][c] == pytest.approx(float(want.m2) * factor, rel=1e-13)
        np.testing.assert_allclose(y[seen], want.y[seen], rtol=1e-12, atol=1e-12)


@every_isa
@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_the_whole_range(dtype: Any, rng: np.random.Generator) -> None:
    info = np.iinfo(dtype)
    x = rng.integers(info.min, info.max, (50, 4), dtype, endpoint=True)
    x[0], x[1] = info.min, info.max
    x[2:, 3] = 3
    result = fastbn.batch_norm_train(x)
    total = fastbn.Moments(extremes=True).update(x)
    for c in range(4):
        want = exact(x[:, c], np.ones(50, bool))
        assert float(abs(Fraction(result.mean[c]) - want.mean)) <= 1e-15 * float(want.m2 / 50) ** 0.5
        assert result.var[c] == pytest.approx(float(want.m2 / 50), rel=1e-14)
        np.testing.assert_allclose(result.y[:, c], want.y, rtol=1e-13, atol=1e-13)
    assert total.min.tolist() == [float(info.min)] * 4
    assert total.max.tolist() == [float(info.max)] * 4


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_the_least_and_the_largest_are_rounded_once(dtype: Any) -> None:
    x = np.array([[2**62], [3], [2**53 + 1]], dtype)
    total = fastbn.Moments(extremes=True).update(x)
    assert (total.min.tolist(), total.max.tolist()) == ([3.0], [2.0**62])


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_constant_channels(dtype: Any) -> None:
    x = np.full((9, 2), [2**62 + 1, 5]).astype(dtype)
    total = fastbn.moments(x).to_dict()
    assert total["m2"].tolist() == [0.0, 0.0]
    assert [int(a) + int(b) for a, b in zip(total["mean"], total["mean_lo"], strict=True)] == [2**62 + 1, 5]
    assert (fastbn.batch_norm_train(x).y == 0).all()


def test_channels_of_which_nothing_counts() -> None:
    x = np.array([[2**62, 1], [2**62 + 2, 2]])
    where = np.array([[False, True], [False, True]])
    result = fastbn.batch_norm(x, np.zeros(2), np.ones(2), training=True, where=where)
    np.testing.assert_allclose(result[:, 1], [-1, 1], rtol=1e-4)
    found = fastbn.moments(x, where=where)
    assert np.isnan(found.mean[0])
    assert found.mean[1] == 1.5


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_parts_of_wide_integers_merge(dtype: Any, rng: np.random.Generator) -> None:
    x = far_out(rng, (600, 3), 1, dtype, 1000)
    total = fastbn.Moments()
    for begin in range(0, 600, 7):
        total.update(x[begin : begin + 7])
    for c in range(3):
        want = exact(x[:, c], np.ones(600, bool))
        assert total.var()[c] == pytest.approx(float(want.m2 / 600), rel=1e-12)


@every_isa
@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_inference_and_gradients_see_exact_differences(dtype: Any, rng: np.random.Generator) -> None:
    x = far_out(rng, (30, 3), 1, dtype, 1000)
    mean, near = x[4].astype(float), np.empty((30, 3))
    for c in range(3):
        near[:, c] = [int(v) - int(mean[c]) for v in x[:, c]]
    invstd, zero = np.full(3, 1e-3), np.zeros(3)
    y = fastbn.normalize(x, mean, np.full(3, 1e6), eps=0)
    np.testing.assert_allclose(y, near / 1e3, rtol=1e-15)
    dy = rng.standard_normal(x.shape)
    for training in (True, False):
        got = fastbn.batch_norm_backward(dy, x, mean=mean, invstd=invstd, training=training)
        want = fastbn.batch_norm_backward(dy, near, mean=zero, invstd=invstd, training=training)
        for one, other in zip(got, want, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("mean", [np.nan, np.inf, -np.inf, 1e300, -1e300, 2.0**64, -(2.0**63), 0.25])
@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_means_that_are_no_such_integer(mean: float, dtype: Any) -> None:
    x = np.array([[0, 1], [5, 2**62]], dtype)
    given = [mean, mean], [1.0, 4.0]
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(
            fastbn.normalize(x, *given, eps=0), fastbn.normalize(x.astype(float), *given, eps=0), rtol=1e-15
        )


def test_the_layer_takes_wide_integers(rng: np.random.Generator) -> None:
    x = far_out(rng, (60, 3), 1, np.int64, 1000)
    layer = fastbn.BatchNorm(3, momentum=1.0)
    y = layer(x)
    for c in range(3):
        want = exact(x[:, c], np.ones(60, bool))
        np.testing.assert_allclose(y[:, c], want.y, rtol=1e-12, atol=1e-12)
        assert layer.running_var[c] == pytest.approx(float(want.m2 / 59), rel=1e-13)
    assert layer.backward(np.ones_like(y)).dtype == np.float64
    layer.eval()
    assert layer(x).dtype == np.float64


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_the_same_bits_whatever_the_threads(dtype: Any, threads: Callable[[int | None], None]) -> None:
    rng = np.random.default_rng(5)
    for shape, axis in (((3, 200_000), 0), ((200_000, 3), 1)):
        x = far_out(rng, shape, axis, dtype, 1000)
        found = []
        for n in (1, 2, 3):
            threads(n)
            found.append(everything(x, x, None, None, axis))
        assert found[1] == found[0]
        assert found[2] == found[0]


PEAK = """
import numpy as np, fastbn

def peak():
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))

for dtype in ("i8", "u8", ">f4", "?"):
    x = np.ones((800_000, 8), dtype)
    fastbn.moments(x[:100_000])
    before = peak()
    fastbn.moments(x)
    assert peak() - before < x.nbytes / 5, (dtype, peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_is_copied() -> None:
    """A call takes less than a fifth of the memory that a copy of x would."""
    done = run_python(PEAK)
    assert done.returncode == 0, done.stderr


# DLPack.


class Exporter:
    """Has no more than the two methods of the protocol, and NumPy's own capsule."""

    def __init__(self, array: Array, device: tuple[int, int] = (1, 0), versions: bool = True) -> None:
        self.array, self.device, self.versions = array, device, versions
        self.asked: list[dict[str, Any]] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, **options: Any) -> Any:
        self.asked.append(options)
        if not self.versions and options:
            raise TypeError("__dlpack__() got an unexpected keyword argument 'max_version'")
        return self.array.__dlpack__(**options)


EXPORTED = [d for d in EVERY_TYPE if d != BFLOAT16]


@pytest.mark.parametrize("versions", [True, False])
@pytest.mark.parametrize("dtype", EXPORTED, ids=str)
def test_exported_arrays(dtype: Any, versions: bool, rng: np.random.Generator) -> None:
    weight, bias = parameters(rng, (5,))
    for place in (dense, fortran, stepped(2, -1, 3), padded(1, 2, 3), permuted(2, 0, 1)):
        x, dy = place(values_of(rng, (9, 5, 12), dtype)), rng.standard_normal((9, 5, 12))
        where = rng.random((9, 1, 12)) < 0.8

        def out(array: Array) -> Exporter:
            return Exporter(array, versions=versions)

        assert everything(out(x), out(dy), out(weight), out(bias), where=out(where)) == everything(
            x, dy, weight, bias, where=where
        )
    assert fastbn.BatchNorm(5)(out(x)).dtype == y_type(dtype) if dtype not in (*WIDE, bool) else True


def test_the_capsule_is_taken_over_and_given_back(rng: np.random.Generator) -> None:
    name_of = ctypes.pythonapi.PyCapsule_GetName
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
    taken = []

    class Watched(Exporter):
        def __dlpack__(self, **options: Any) -> Any:
            taken.append(super().__dlpack__(**options))
            return taken[-1]

    for versions, name in ((True, b"used_dltensor_versioned"), (False, b"used_dltensor")):
        x = Watched(rng.standard_normal((6, 3)), versions=versions)
        fastbn.moments(x)
        assert name_of(taken[-1]) == name


class Managed(ctypes.Structure):
    """DLPack's DLManagedTensor, without versions."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32 * 2),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.CFUNCTYPE(None, ctypes.c_void_p)),
    )


def test_a_deleter_that_runs_python_leaves_an_error_as_it_is() -> None:
    values, shape, deleted = (ctypes.c_double * 3)(1.0, 2.0, 3.0), (ctypes.c_int64 * 1)(3), []
    managed = Managed(ctypes.addressof(values), (1, 0), 1, 2, 64, 1, shape, None, 0, None)
    managed.deleter = Managed._fields_[-1][1](deleted.append)
    make = ctypes.pythonapi.PyCapsule_New
    make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]

    class Lent:
        def __dlpack_device__(self) -> tuple[int, int]:
            return (1, 0)

        def __dlpack__(self, **options: Any) -> Any:
            return make(ctypes.addressof(managed), b"dltensor", None)

    with pytest.raises(ValueError, match="x must have at least 2 dimensions"):
        fastbn.moments(Lent())  # type: ignore[arg-type]
    assert deleted == [ctypes.addressof(managed)]


def test_memory_is_kept_alive_as_long_as_it_is_needed(rng: np.random.Generator) -> None:
    dy = rng.standard_normal((6, 3))
    kept = dy.copy()
    # Without an activation the residual's gradient is dy itself.
    got = fastbn.batch_norm_backward(Exporter(dy), dy.copy(), mean=np.zeros(3), invstd=np.ones(3), residual=dy.copy())
    del dy
    np.testing.assert_array_equal(got.dresidual, kept)


def test_exporters_that_fail_may_be_arrays_all_the_same(rng: np.random.Generator) -> None:
    """What NumPy can make an array of is taken: other devices, types and errors do not matter then."""
    x = rng.standard_normal((6, 3))
    expected = everything(x, x, None, None)

    class Failing(Exporter):
        def __dlpack__(self, **options: Any) -> Any:
            raise BufferError("no")

        def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
            return self.array

    class NoCapsule(Failing):
        def __dlpack__(self, **options: Any) -> Any:
            return 3

    assert everything(Failing(x), x, None, None) == expected
    assert everything(Failing(x, device=(2, 0)), x, None, None) == expected
    assert everything(NoCapsule(x), x, None, None) == expected
    with pytest.raises(TypeError, match=r"^x must "):
        fastbn.moments(Exporter(x, device=(2, 0)))
    with pytest.raises(TypeError, match=r"^x must .*got complex128"):
        fastbn.moments(Exporter(x.astype(complex)).array)


def test_interrupts_are_not_swallowed() -> None:
    class Interrupted(Exporter):
        def __dlpack__(self, **options: Any) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fastbn.moments(Interrupted(np.ones((2, 2))))


@pytest.mark.parametrize("shape", [(0, 3), (4, 0)])
def test_exported_arrays_without_values(shape: tuple[int, ...]) -> None:
    assert fastbn.batch_norm(Exporter(np.empty(shape)), np.zeros(shape[1]), np.ones(shape[1])).shape == shape


# Refusals.


def test_sparse_matrices_are_refused() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    for x in (sparse.csr_matrix(np.eye(3)), sparse.coo_array(np.eye(3))):
        for call in (fastbn.moments, fastbn.batch_norm_train, fastbn.BatchNorm(3), fastbn.Moments().update):
            with pytest.raises(TypeError, match=r"x must be dense.*sparse"):
                call(x)


@pytest.mark.parametrize("dtype", ["g", "F", "D", "O", "M8[s]", "m8[s]", "U1"])
def test_other_types_are_refused_by_name(dtype: str) -> None:
    x = np.ones((4, 3), int).astype(dtype)
    if x.dtype == np.float64:
        pytest.skip("long double is float64 here")
    for call in (fastbn.moments, fastbn.batch_norm_train, fastbn.BatchNorm(3), fastbn.Moments().update):
        with pytest.raises(TypeError, match=r"^x must have dtype .*uint64 or bool, got "):
            call(x)
    with pytest.raises(TypeError, match=r"^dy must"):
        fastbn.batch_norm_backward(x, np.ones((4, 3)), mean=np.zeros(3), invstd=np.ones(3))


# PyTorch's tensors.


def test_tensors() -> None:
    torch = pytest.importorskip("torch")
    values = 10 * torch.rand(9, 5, 12)
    names = ["float32", "float64", "float16", "bfloat16", "bool"]
    names += [f"{sign}int{n}" for sign in ("", "u") for n in (8, 16, 32, 64)]
    for name in names:
        x = values.to(getattr(torch, name))
        for view in (x, x.permute(2, 1, 0), x[::2], x[:, :, 3:]):
            array = view.view(torch.int16).numpy().view(BFLOAT16) if name == "bfloat16" else view.numpy()
            dy = torch.ones(view.shape)
            assert everything(view, dy, None, None) == everything(array, dy.numpy(), None, None)
            assert fastbn.BatchNorm(5)(view).dtype == fastbn.batch_norm_train(array).y.dtype
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.ones(4, 3, dtype=dtype, requires_grad=True)
        with pytest.raises(TypeError, match=r"x must not require a gradient.*\.detach\(\)"):
            fastbn.moments(x)
        assert fastbn.moments(x.detach()).mean.tolist() == [1, 1, 1]
    with pytest.raises(TypeError, match=r"x must be dense.*sparse"):
        fastbn.moments(torch.eye(3).to_sparse())
    with pytest.raises(TypeError, match=r"(?s)x must be an array.*negative bit"):
        fastbn.moments(torch.ones(4, 3, dtype=torch.complex64).conj().imag)
    assert fastbn.normalize(torch.empty(0, 3), torch.zeros(3), torch.ones(3)).shape == (0, 3)
