"""Promise: the forward functions compute batch normalization, with PyTorch's words and rules for running statistics."""

from __future__ import annotations

import inspect
import math
import os

import numpy as np
import pytest

import fastbn
from support import oracle
from support.assertions import assert_normalized, assert_train, assert_ulps
from support.dtypes import FLOATS
from support.random_arrays import parameters
from support.tolerances import FLOAT64_RTOL, VAR_RTOL, Y_ULPS

pytestmark = pytest.mark.usefixtures("isa")

# By hand: channel 0 is 1, 3, 5, 7 (mean 4, var 5), channel 1 is 2, 2, 6, 6 (mean 4, var 4).
X = [[1.0, 2.0], [3.0, 2.0], [5.0, 6.0], [7.0, 6.0]]


@pytest.mark.parametrize("dtype", FLOATS)
def test_worked_example(dtype: type) -> None:
    x = np.array(X, dtype)
    y, mean, var, invstd, count = fastbn.batch_norm_train(x, [1.0, 10.0], [0.0, 5.0], eps=0.0)
    assert count == 4
    assert mean.tolist() == [4.0, 4.0]
    assert var.tolist() == [5.0, 4.0]
    np.testing.assert_allclose(invstd, [1 / math.sqrt(5), 0.5], rtol=FLOAT64_RTOL)
    root = math.sqrt(5)
    expected = [[-3 / root, -5.0], [-1 / root, -5.0], [1 / root, 15.0], [3 / root, 15.0]]
    np.testing.assert_allclose(y, expected, rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", FLOATS)
def test_worked_example_of_running_statistics(dtype: type) -> None:
    x = np.array(X, dtype)
    running_mean, running_var = np.zeros(2), np.ones(2)
    fastbn.batch_norm(x, running_mean, running_var, training=True, momentum=0.25)
    np.testing.assert_allclose(running_mean, [1.0, 1.0], rtol=FLOAT64_RTOL)
    # Remembered variance: 20 / 3 and 16 / 3.
    np.testing.assert_allclose(running_var, [0.75 + 0.25 * 20 / 3, 0.75 + 0.25 * 16 / 3], rtol=FLOAT64_RTOL)


def test_order_of_arguments_is_that_of_torch() -> None:
    names = ["x", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"]
    signature = inspect.signature(fastbn.batch_norm).parameters
    assert list(signature)[: len(names)] == names
    assert [signature[n].default for n in names[1:]] == [None, None, None, None, False, 0.1, 1e-5]
    positional = [n for n in signature if signature[n].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert positional == names
    running_mean, running_var = np.zeros(2), np.ones(2)
    y = fastbn.batch_norm(np.array(X), running_mean, running_var, [2.0, 2.0], [1.0, 1.0], True, 1.0, 0.0)
    np.testing.assert_allclose(running_mean, [4, 4])
    assert y[0, 1] == -1.0


def test_fields_of_results() -> None:
    assert fastbn.TrainResult._fields == ("y", "mean", "var", "invstd", "count")
    assert fastbn.Gradients._fields == ("dx", "dweight", "dbias")
    count, mean, m2 = fastbn.moments(X)
    assert (count, mean.shape, m2.shape) == (4, (2,), (2,))
    assert isinstance(fastbn.batch_norm_train(X), fastbn.TrainResult)
    assert isinstance(fastbn.moments(X), fastbn.Moments)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("with_weight", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_train_and_batch_norm_agree_with_the_oracle(
    rng: np.random.Generator, dtype: type, with_weight: bool, with_bias: bool
) -> None:
    x = (3 + 2 * rng.standard_normal((5, 7, 6, 3))).astype(dtype)
    both = parameters(rng, (7,))
    weight = both[0] if with_weight else None
    bias = both[1] if with_bias else None
    result = fastbn.batch_norm_train(x, weight, bias, eps=1e-3)
    assert_train(x, result, weight, bias, eps=1e-3)
    # Without running statistics, the plain function normalizes and remembers nothing.
    y = fastbn.batch_norm(x, None, None, weight, bias, training=True, eps=1e-3)
    np.testing.assert_array_equal(y, result.y)
    y = fastbn.batch_norm(x, np.zeros(7), np.ones(7), weight, bias, training=True, eps=1e-3)
    np.testing.assert_array_equal(y, result.y)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("with_weight", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_inference(rng: np.random.Generator, dtype: type, with_weight: bool, with_bias: bool) -> None:
    x = (3 + 2 * rng.standard_normal((5, 7, 6, 3))).astype(dtype)
    both = parameters(rng, (7,))
    weight = both[0] if with_weight else None
    bias = both[1] if with_bias else None
    mean, var = rng.standard_normal(7), rng.uniform(0.1, 3, 7)
    before = mean.copy(), var.copy()
    y = fastbn.batch_norm(x, mean, var, weight, bias, eps=1e-3)
    assert_normalized(x, y, mean, var, weight, bias, 1e-3)
    np.testing.assert_array_equal(y, fastbn.normalize(x, mean, var, weight, bias, eps=1e-3))
    np.testing.assert_array_equal((mean, var), before)


@pytest.mark.parametrize("momentum", [0, 0.1, 0.7, 1, np.float32(0.25)])
@pytest.mark.parametrize("correction", [0, 1, 0.5, 3])
def test_running_statistics(rng: np.random.Generator, momentum: float, correction: float) -> None:
    x = 3 + 2 * rng.standard_normal((6, 4, 5))
    running_mean, running_var = rng.standard_normal(4), rng.uniform(1, 2, 4)
    expected = oracle.moments(x)
    new_mean = oracle.updated(running_mean, expected.mean, momentum)
    new_var = oracle.updated(running_var, expected.m2 / np.longdouble(30 - correction), momentum)
    fastbn.batch_norm(x, running_mean, running_var, training=True, momentum=momentum, correction=correction)
    # A few float64 operations on numbers of order one.
    np.testing.assert_allclose(running_mean, new_mean.astype(np.float64), rtol=2e-15, atol=2e-15)
    np.testing.assert_allclose(running_var, new_var.astype(np.float64), rtol=2e-15)


def test_running_statistics_converge_to_those_of_the_data(rng: np.random.Generator) -> None:
    x = 3 + 2 * rng.standard_normal((64, 4))
    running_mean, running_var = np.zeros(4), np.ones(4)
    for _ in range(400):
        fastbn.batch_norm(x, running_mean, running_var, training=True)
    # 0.9 ** 400 is 5e-19.
    np.testing.assert_allclose(running_mean, x.mean(0), rtol=1e-13)
    np.testing.assert_allclose(running_var, x.var(0, ddof=1), rtol=1e-13)


def test_momentum_zero_and_one_are_exact(rng: np.random.Generator) -> None:
    x = rng.standard_normal((6, 4, 5))
    found = fastbn.moments(x)
    running_mean, running_var = rng.standard_normal(4), rng.uniform(1, 2, 4)
    before = running_mean.copy(), running_var.copy()
    fastbn.batch_norm(x, running_mean, running_var, training=True, momentum=0.0)
    np.testing.assert_array_equal((running_mean, running_var), before)
    fastbn.batch_norm(x, running_mean, running_var, training=True, momentum=1.0)
    np.testing.assert_array_equal(running_mean, found.mean)
    np.testing.assert_allclose(running_var, found.var(1), rtol=FLOAT64_RTOL)


@pytest.mark.parametrize("dtype", FLOATS)
def test_moments(rng: np.random.Generator, dtype: type) -> None:
    x = (3 + 2 * rng.standard_normal((6, 4, 5))).astype(dtype)
    found, expected = fastbn.moments(x), oracle.moments(x)
    assert found.count == 30
    assert type(found.count) is int
    for ddof in (0, 1, 0.5, 29):
        var = expected.m2 / np.longdouble(30 - ddof)
        np.testing.assert_allclose(found.var(ddof), var.astype(np.float64), rtol=VAR_RTOL[x.dtype])
        np.testing.assert_allclose(found.std(ddof), np.sqrt(found.var(ddof)), rtol=FLOAT64_RTOL)
    np.testing.assert_array_equal(found.var(), found.var(correction=0))
    np.testing.assert_array_equal(found.std(), found.std(correction=0))
    for ddof in (30, 31):
        assert np.isnan(found.var(ddof)).all()
        assert np.isnan(found.std(ddof)).all()
    train = fastbn.batch_norm_train(x)
    np.testing.assert_array_equal(found.mean, train.mean)
    np.testing.assert_allclose(found.var(), train.var, rtol=FLOAT64_RTOL)


def test_moments_of_one_value() -> None:
    found = fastbn.moments(np.array([[2.5, -3.0]]))
    assert found.count == 1
    assert found.mean.tolist() == [2.5, -3.0]
    assert found.m2.tolist() == [0.0, 0.0]
    assert found.var().tolist() == [0.0, 0.0]
    assert np.isnan(found.var(1)).all()


@pytest.mark.parametrize("eps", [0, 1e-12, 1e-5, 0.1, 1.0, 1e10, np.float32(1e-3), np.float64(0.5), np.int64(2)])
def test_eps(rng: np.random.Generator, eps: float) -> None:
    x = rng.standard_normal((9, 3))
    result = fastbn.batch_norm_train(x, eps=eps)
    assert_train(x, result, eps=float(eps))
    y = fastbn.normalize(x, np.zeros(3), np.full(3, 4.0), eps=eps)
    np.testing.assert_allclose(y, x / np.sqrt(4.0 + float(eps)), rtol=Y_ULPS * np.finfo(float).eps)


@pytest.mark.parametrize("dtype", FLOATS)
def test_no_variance_and_no_eps_gives_the_bias(dtype: type) -> None:
    x = np.full((5, 3), 0.1, dtype)
    result = fastbn.batch_norm_train(x, [1.0, 2.0, 3.0], [0.5, -1.0, 0.0], eps=0)
    assert result.invstd.tolist() == [0.0, 0.0, 0.0]
    assert result.y.tolist() == [[0.5, -1.0, 0.0]] * 5
    # In inference too, even where x is not the mean.
    y = fastbn.normalize(x + 1, x[0], np.zeros(3), [1.0, 2.0, 3.0], [0.5, -1.0, 0.0], eps=0)
    assert y.tolist() == [[0.5, -1.0, 0.0]] * 5


def test_axes_in_every_notation(rng: np.random.Generator) -> None:
    x = rng.standard_normal((3, 4, 5, 6))
    expected = fastbn.batch_norm_train(x, axis=(1, 3))
    assert expected.mean.shape == (4, 6)

    class Index:
        def __index__(self) -> int:
            return 1

    for axis in [(3, 1), [1, 3], (-3, -1), (np.int64(1), np.uint8(3)), (-1, 1), (Index(), 3)]:
        for got, want in zip(fastbn.batch_norm_train(x, axis=axis), expected, strict=True):
            np.testing.assert_array_equal(got, want)
    single = fastbn.moments(x, axis=1)
    for one in (-3, (1,), [1], (-3,), np.int64(1), np.int8(-3), Index()):
        np.testing.assert_array_equal(fastbn.moments(x, axis=one).m2, single.m2)
    assert fastbn.moments(x, axis=()).mean.shape == ()


def test_every_axis_is_a_feature(rng: np.random.Generator) -> None:
    x = rng.standard_normal((3, 4))
    mean, var = rng.standard_normal((3, 4)), rng.uniform(1, 2, (3, 4))
    y = fastbn.normalize(x, mean, var, axis=(0, 1))
    assert_ulps(y, oracle.normalize(x, mean, var, axis=(0, 1)))
    found = fastbn.moments(x, axis=(1, 0))
    assert found.count == 1
    np.testing.assert_array_equal(found.mean, x)
    np.testing.assert_array_equal(found.m2, np.zeros((3, 4)))


def test_scalar_features(rng: np.random.Generator) -> None:
    x = rng.standard_normal((3, 4))
    result = fastbn.batch_norm_train(x, 2.0, np.float32(0.5), axis=())
    assert result.mean.shape == result.var.shape == result.invstd.shape == ()
    assert_train(x, result, 2.0, 0.5, axis=())
    gradients = fastbn.batch_norm_backward(x, x, 2.0, mean=result.mean, invstd=result.invstd, axis=())
    assert gradients.dweight.shape == gradients.dbias.shape == ()


# Where results go.


@pytest.mark.parametrize("dtype", FLOATS)
def test_out_given_and_in_place(rng: np.random.Generator, dtype: type) -> None:
    x = rng.standard_normal((6, 5, 7)).astype(dtype)
    weight, bias = parameters(rng, (5,))
    mean, var = rng.standard_normal(5), rng.uniform(1, 2, 5)
    calls = {
        "train": lambda a, out: fastbn.batch_norm_train(a, weight, bias, out=out).y,
        "batch_norm": lambda a, out: fastbn.batch_norm(a, None, None, weight, bias, training=True, out=out),
        "eval": lambda a, out: fastbn.batch_norm(a, mean, var, weight, bias, out=out),
        "normalize": lambda a, out: fastbn.normalize(a, mean, var, weight, bias, out=out),
    }
    for name, call in calls.items():
        before = x.copy()
        fresh = call(x, None)
        np.testing.assert_array_equal(x, before, err_msg=name)
        assert not np.shares_memory(fresh, x)
        out = np.full_like(x, np.nan)
        assert call(x, out) is out
        np.testing.assert_array_equal(out, fresh, err_msg=name)
        np.testing.assert_array_equal(x, before, err_msg=name)
        inplace = x.copy()
        assert call(inplace, inplace) is inplace
        np.testing.assert_array_equal(inplace, fresh, err_msg=name)
        inplace = x.copy()
        view = inplace[:]
        assert call(inplace, view) is view
        np.testing.assert_array_equal(inplace, fresh, err_msg=name)


def test_results_are_the_callers(rng: np.random.Generator) -> None:
    """A fresh result is writable and stays as it is while others are made and thrown away."""
    x = rng.standard_normal((64, 8, 32, 32))  # 4 MiB, so that recycled memory would show
    kept = fastbn.batch_norm_train(x)
    copies = [np.copy(a) for a in kept[:4]]
    for array in kept[:4]:
        assert array.flags.writeable
        assert type(array) is np.ndarray
    part = fastbn.normalize(x, kept.mean, kept.var)[3:5, 2]  # its base is otherwise forgotten
    part_before = part.copy()
    for i in range(5):
        other = fastbn.batch_norm_train(x + i)
        gradients = fastbn.batch_norm_backward(x, x, mean=other.mean, invstd=other.invstd)
        assert not any(np.shares_memory(a, b) for a in kept[:4] for b in (*other[:4], *gradients))
        other.y[...] = np.nan
        gradients.dx[...] = np.nan
    for array, copy in zip(kept[:4], copies, strict=True):
        np.testing.assert_array_equal(array, copy)
    np.testing.assert_array_equal(part, part_before)


# Empty batches.


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(0, 3), (2, 3, 0), (0, 3, 0, 4)])
def test_empty_batch(dtype: type, shape: tuple[int, ...]) -> None:
    x = np.empty(shape, dtype)
    weight, bias = np.ones(3), np.zeros(3)
    y, mean, var, invstd, count = fastbn.batch_norm_train(x, weight, bias)
    assert (y.shape, y.dtype, count) == (shape, x.dtype, 0)
    assert np.isnan([mean, var, invstd]).all()
    running_mean, running_var = np.full(3, 5.0), np.full(3, 7.0)
    y = fastbn.batch_norm(x, running_mean, running_var, weight, bias, training=True)
    assert y.shape == shape
    assert running_mean.tolist() == [5.0] * 3
    assert running_var.tolist() == [7.0] * 3
    assert fastbn.batch_norm(x, running_mean, running_var).shape == shape
    assert fastbn.normalize(x, running_mean, running_var, out=x) is x
    found = fastbn.moments(x)
    assert found.count == 0
    assert np.isnan(found.mean).all()
    assert found.m2.tolist() == [0.0] * 3
    assert np.isnan([found.var(), found.std(), found.var(1)]).all()


@pytest.mark.parametrize(("shape", "count"), [((4, 0), 4), ((4, 0, 5), 20), ((0, 0), 0)])
def test_no_features(shape: tuple[int, ...], count: int) -> None:
    x = np.empty(shape)
    none = np.empty(0)
    result = fastbn.batch_norm_train(x, none, none)
    assert result.y.shape == shape
    assert result.mean.shape == result.var.shape == result.invstd.shape == (0,)
    assert result.count == count
    assert fastbn.batch_norm(x, none.copy(), none.copy(), training=True).shape == shape
    assert fastbn.normalize(x, none, none).shape == shape
    gradients = fastbn.batch_norm_backward(x, x, none, mean=none, invstd=none)
    assert [g.shape for g in gradients] == [shape, (0,), (0,)]


def test_two_values_per_channel() -> None:
    y, mean, var, _, count = fastbn.batch_norm_train(np.array([[1.0], [3.0]]), eps=0)
    assert (y.tolist(), mean.tolist(), var.tolist(), count) == ([[-1.0], [1.0]], [2.0], [1.0], 2)


def test_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    found = fastbn.show_config("dicts")
    keys = ["version", "isa", "isas", "caches", "num_threads", "processors", "openmp", "compiler", "build_type"]
    assert list(found) == keys
    assert found["version"] == fastbn.__version__
    assert found["isa"] == fastbn._core.get_isa()
    assert found["isas"] == list(fastbn._core.isas())
    assert tuple(found["caches"].values()) == fastbn._core.get_caches()
    assert found["num_threads"] == fastbn.get_num_threads()
    assert 1 <= found["processors"] <= (os.cpu_count() or 1)
    assert capsys.readouterr().out == ""
    assert fastbn.show_config() is None
    assert fastbn.__version__ in capsys.readouterr().out
