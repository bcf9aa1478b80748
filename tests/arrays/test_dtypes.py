"""Promise: float32 and float64, in any mixture of arguments, and anything that NumPy can see as one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastbn
from support import oracle
from support.assertions import assert_gradients, assert_mean_and_var, assert_normalized, assert_train, assert_ulps
from support.dtypes import FLOATS
from support.random_arrays import parameters
from support.tolerances import VAR_RTOL

pytestmark = pytest.mark.usefixtures("isa")
MAYBE = (None, *FLOATS)


def cast(values: np.ndarray, dtype: Any) -> np.ndarray | None:
    return None if dtype is None else values.astype(dtype)


@pytest.mark.parametrize("x_dtype", FLOATS)
@pytest.mark.parametrize("weight_dtype", MAYBE)
@pytest.mark.parametrize("bias_dtype", MAYBE)
@pytest.mark.parametrize("channels_last", [False, True])
def test_parameters_of_either_type(
    rng: np.random.Generator, x_dtype: Any, weight_dtype: Any, bias_dtype: Any, channels_last: bool
) -> None:
    shape, axis = ((9, 11, 5), 2) if channels_last else ((9, 5, 11), 1)
    x = (3 + 2 * rng.standard_normal(shape)).astype(x_dtype)
    dy = rng.standard_normal(shape).astype(x_dtype)
    both = parameters(rng, (5,))
    weight, bias = cast(both[0], weight_dtype), cast(both[1], bias_dtype)
    result = fastbn.batch_norm_train(x, weight, bias, axis=axis)
    assert_train(x, result, weight, bias, axis=axis)
    statistics = rng.standard_normal(5), rng.uniform(1, 2, 5)
    for mean_dtype in FLOATS:
        for var_dtype in FLOATS:
            mean, var = statistics[0].astype(mean_dtype), statistics[1].astype(var_dtype)
            for y in (
                fastbn.normalize(x, mean, var, weight, bias, axis=axis),
                fastbn.batch_norm(x, mean, var, weight, bias, axis=axis),
            ):
                assert y.dtype == x_dtype
                assert_normalized(x, y, mean, var, weight, bias, axis=axis)
            saved = {"mean": mean, "invstd": var, "axis": axis}
            gradients = fastbn.batch_norm_backward(dy, x, weight, **saved)
            assert_gradients(gradients, dy, x, weight, **saved)


@pytest.mark.parametrize("x_dtype", FLOATS)
@pytest.mark.parametrize("mean_dtype", FLOATS)
@pytest.mark.parametrize("var_dtype", FLOATS)
def test_running_statistics_of_either_type(
    rng: np.random.Generator, x_dtype: Any, mean_dtype: Any, var_dtype: Any
) -> None:
    x = (3 + 2 * rng.standard_normal((9, 5, 11))).astype(x_dtype)
    running_mean = rng.standard_normal(5).astype(mean_dtype)
    running_var = rng.uniform(1, 2, 5).astype(var_dtype)
    found = fastbn.moments(x)
    expected = (
        oracle.updated(running_mean, found.mean, 0.1),
        oracle.updated(running_var, found.var(correction=1), 0.1),
    )
    fastbn.batch_norm(x, running_mean, running_var, training=True)
    assert running_mean.dtype == mean_dtype
    assert running_var.dtype == var_dtype
    # Computed in float64 and rounded once: half an ulp in float32, a few where float64 is also what it is computed in.
    for got, want in zip((running_mean, running_var), expected, strict=True):
        limit = 0.501 if got.dtype == np.float32 else 4
        assert_ulps(got, want, np.max(np.abs(want)) if got.dtype == np.float64 else 0, limit=limit)


@pytest.mark.parametrize("dtype", FLOATS)
def test_float64_results_are_not_rounded_through_float32(rng: np.random.Generator, dtype: Any) -> None:
    """Statistics of float32 data are float64 in truth: means of 1e6 are right to far better than float32's 0.06."""
    x = (1e6 + rng.standard_normal((4096, 3))).astype(dtype)
    expected = oracle.moments(x)
    found = fastbn.moments(x)
    assert found.mean.dtype == found.m2.dtype == np.float64
    assert_mean_and_var(found.mean, found.var(), expected.mean, expected.m2 / 4096, VAR_RTOL[x.dtype])


def test_statistics_are_fresh_float64(rng: np.random.Generator) -> None:
    for dtype in FLOATS:
        x = rng.standard_normal((6, 3)).astype(dtype)
        result = fastbn.batch_norm_train(x)
        gradients = fastbn.batch_norm_backward(x, x, mean=result.mean, invstd=result.invstd)
        found = fastbn.moments(x)
        for array in (*result[1:4], *gradients[1:], found.mean, found.m2):
            assert array.dtype == np.float64
            assert array.flags.c_contiguous
        for array in (*result[1:4], *gradients[1:]):
            assert array.flags.writeable
            assert type(array) is np.ndarray
        assert result.y.dtype == gradients.dx.dtype == dtype


class Duck:
    """Not an array, but convertible to one."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.array, dtype=dtype, copy=copy)


class Subclass(np.ndarray):
    """An ndarray subclass that must not come back."""


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # np.matrix
@pytest.mark.parametrize("kind", ["list", "duck", "subclass", "matrix", "memmap", "tensor", "buffer"])
def test_anything_with_an_array_in_it(rng: np.random.Generator, kind: str, tmp_path: Path) -> None:
    x = rng.standard_normal((6, 3))
    weight, bias = parameters(rng, (3,))
    mean, var = rng.standard_normal(3), rng.uniform(1, 2, 3)

    def wrap(array: np.ndarray) -> Any:
        if kind == "list":
            return array.tolist()
        if kind == "duck":
            return Duck(array)
        if kind == "subclass":
            return array.view(Subclass)
        if kind == "matrix":
            return np.asmatrix(array) if array.ndim == 2 else array
        if kind == "memmap":
            path = tmp_path / f"{len(list(tmp_path.iterdir()))}.bin"
            mapped = np.memmap(path, array.dtype, "w+", shape=array.shape)
            mapped[...] = array
            return mapped
        if kind == "tensor":
            return pytest.importorskip("torch").from_numpy(array)
        return memoryview(array)

    arrays = {"x": x, "weight": weight, "bias": bias}
    given = {name: wrap(array) for name, array in arrays.items()}
    expected = fastbn.batch_norm_train(**arrays)
    result = fastbn.batch_norm_train(**given)
    for got, want in zip(result, expected, strict=True):
        np.testing.assert_array_equal(got, want)
    y = fastbn.normalize(given["x"], wrap(mean), wrap(var), given["weight"], given["bias"])
    np.testing.assert_array_equal(y, fastbn.normalize(x, mean, var, weight, bias))
    np.testing.assert_array_equal(fastbn.moments(given["x"]).m2, fastbn.moments(x).m2)
    saved = {"mean": result.mean, "invstd": result.invstd}
    gradients = fastbn.batch_norm_backward(
        wrap(x), given["x"], given["weight"], mean=wrap(result.mean), invstd=wrap(result.invstd)
    )
    for got, want in zip(gradients, fastbn.batch_norm_backward(x, x, weight, **saved), strict=True):
        np.testing.assert_array_equal(got, want)
    for array in (*result[:4], y, *gradients):
        assert type(array) is np.ndarray


def test_out_may_be_a_subclass(rng: np.random.Generator) -> None:
    x = rng.standard_normal((6, 3))
    out = np.empty_like(x).view(Subclass)
    assert fastbn.batch_norm_train(x, out=out).y is out
    np.testing.assert_array_equal(np.asarray(out), fastbn.batch_norm_train(x).y)


def test_native_byte_order_by_another_name(rng: np.random.Generator) -> None:
    native = "<f4" if np.little_endian else ">f4"
    x = rng.standard_normal((6, 3)).astype(np.dtype(native))
    np.testing.assert_array_equal(fastbn.moments(x).mean, fastbn.moments(x.astype(np.float32)).mean)
