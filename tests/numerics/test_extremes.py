"""Promise: constants have no variance, and numbers at the ends of their range neither overflow nor vanish."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

import fastbn
from support import oracle
from support.assertions import assert_gradients, assert_relative, assert_ulps
from support.isas import using_isa
from support.layouts import dense, fortran, stepped
from support.marks import every_dtype
from support.random_arrays import parameters
from support.solved_problems import COUNT, Problem, placed, unplaced
from support.tolerances import VAR_RTOL

pytestmark = [pytest.mark.usefixtures("isa"), pytest.mark.untraced]


# Constants.


def constants(dtype: Any) -> np.ndarray:
    rng = np.random.default_rng(5)
    info = np.finfo(dtype)
    special = [0.0, -0.0, 1.0, -1.0, 0.1, 1 / 3, -7.3, 1e6 + 0.3, 1e8 + 1, 16777217.0, np.pi, -1e-5, 2.0**-20]
    extreme = [info.max, info.min, info.tiny, info.smallest_subnormal, -info.smallest_subnormal, info.tiny / 8]
    wide = np.ldexp(rng.uniform(0.5, 1, 120), rng.integers(info.minexp, info.maxexp, 120))
    return np.concatenate([special, extreme, wide, rng.standard_normal(40) * 1e3]).astype(dtype)


@every_dtype
@pytest.mark.parametrize("form", ["NC", "CN", "NCL", "NC-fortran", "NCHW-2x2", "stepped"])
def test_constant_channels(dtype: Any, form: str) -> None:
    """The variance is 0, not small; y is the bias, rounded to x's type and no more."""
    values = constants(dtype)
    rng = np.random.default_rng(9)
    weight, bias = parameters(rng, values.shape)
    wanted = bias.astype(dtype)
    for n in [*range(2, 40), 63, 64, 65, 127, 128, 129, 255, 257, 1023, 1025] + [4097] * (form in ("NC", "CN")):
        block = np.broadcast_to(values, (n, len(values)))
        if form == "NCL":
            x, axis = np.repeat(values[None, :, None], n, axis=2), 1
        elif form == "NCHW-2x2":
            x, axis = np.broadcast_to(values[None, :, None, None], (n, len(values), 2, 2)).copy(), 1
        elif form == "stepped":
            x, axis = stepped(-2, 3)(block), 1
        elif form == "CN":
            x, axis = dense(block.T), 0
        else:
            x, axis = {"NC": dense, "NC-fortran": fortran}[form](block), 1
        result = fastbn.batch_norm_train(x, weight, bias, axis=axis)
        assert not result.var.any(), (n, values[result.var != 0])
        np.testing.assert_array_equal(result.mean, values.astype(float), err_msg=str(n))
        assert (result.y == oracle.along(wanted, x.shape, axis)).all(), n
        assert not fastbn.moments(x, axis=axis).m2.any(), n
        assert not fastbn.batch_norm(x, weight=weight, training=True, axis=axis).any(), n
        y = fastbn.batch_norm_train(x, weight, bias, eps=0, axis=axis).y
        assert (y == oracle.along(wanted, x.shape, axis)).all(), n
        y = fastbn.normalize(x, result.mean, result.var, weight, bias, axis=axis)
        assert (y == oracle.along(wanted, x.shape, axis)).all(), n


# The ends of the exponent range.

EXTREMES = {
    np.float32: (1e30, 1e-30, 3e38, 1e37, 1e-37, 1e-38, 1e-40, 1e-44),
    np.float64: (1e200, 1e-200, 1e307, 1e150, 1e-150, 1e-160, 1e-305, 1e-310, 1e-320),
}
# Without eps, the narrowest channel of float64's smallest sizes has an invstd beyond float64: a test of its own below.
EXTREME_CASES = [
    pytest.param(d, s, e, id=f"{np.dtype(d).name}-{s:g}-{e:g}")
    for d, sizes in EXTREMES.items()
    for s in sizes
    for e in (1e-5, 0.0)
    if d == np.float32 or s > 1e-300 or e
]
EXTREME_PLACES = ("NC", "CN", "NCHW-2x2", "stepped")


@functools.cache
def extreme(dtype: Any, size: float, eps: float) -> Problem:
    """Numbers of this size: round zero, round a mean of 3/4, all but one at one end, and two opposite ones."""
    rng = np.random.default_rng(13)
    n = COUNT // 3
    lone = np.where(np.arange(n) == 5, 1.0, -1.0)
    forms = [
        rng.uniform(-1, 1, n),
        0.75 + 0.25 * rng.uniform(-1, 1, n),
        lone,
        np.where(np.arange(n) % 2, 1.0, -1.0),
        -1 + 1e-3 * rng.uniform(0, 1, n),
    ]
    values = (np.stack(forms, axis=1) * size).astype(dtype)
    return Problem(values, eps)


@pytest.mark.parametrize(("dtype", "size", "eps"), EXTREME_CASES)
@pytest.mark.parametrize("place", EXTREME_PLACES)
def test_extremes_forward(dtype: Any, size: float, eps: float, place: str) -> None:
    problem = extreme(dtype, size, eps)
    x, axis = placed(problem.values, place)
    # A mean is no finer than the smallest number there is, nor what it leaves of x.
    slack = np.longdouble(5e-324) * np.abs(problem.weight) * problem.invstd
    for both in (True, False):
        weight, bias = (problem.weight, problem.bias) if both else (None, None)
        result = fastbn.batch_norm_train(x, weight, bias, eps=eps, axis=axis)
        y = unplaced(result.y, axis)
        assert np.isfinite(y).all()
        assert_ulps(y, problem.y(both, both), problem.bias if both else 0, slack=2 * slack)
    spread = float(np.sqrt(problem.var.max()))
    # An ulp of itself, the sums' 600 roundings of what is spread, and one subnormal.
    assert_relative(result.mean, problem.mean, 2**-52, atol=1e-13 * spread + 5e-324)
    with np.errstate(over="ignore", under="ignore"):
        wanted = problem.var.astype(np.float64)
    # Where the variance is beyond float64 it is inf, and where it is below, 0; invstd is neither.
    normal = np.isfinite(wanted) & (wanted > 1e-290)
    assert_relative(result.var[normal], problem.var[normal], VAR_RTOL[x.dtype])
    assert np.isinf(result.var[np.isinf(wanted)]).all()
    assert (result.var[wanted < 1e-290] < 1e-289).all()
    assert_relative(result.invstd, problem.invstd, VAR_RTOL[x.dtype], atol=5e-324)


@pytest.mark.parametrize(("dtype", "size"), [(d, s) for d, sizes in EXTREMES.items() for s in sizes])
@pytest.mark.parametrize("place", EXTREME_PLACES)
def test_extremes_in_inference(dtype: Any, size: float, place: str) -> None:
    """By a mean and a variance of the data's size where float64 holds them, and by ordinary ones."""
    problem = extreme(dtype, size, 1e-5)
    x, axis = placed(problem.values, place)
    with np.errstate(over="ignore", under="ignore"):
        var = problem.var.astype(np.float64)
    mean = problem.mean.astype(np.float64)
    if np.isfinite(var).all():
        y = unplaced(fastbn.normalize(x, mean, var, problem.weight, problem.bias, axis=axis), axis)
        assert_ulps(y, problem.given(mean, var, True, True), problem.bias)
    if size < 1e37 or (dtype == np.float64 and size < 1e300):
        mean, var = np.full(5, 0.25), np.full(5, 4.0)
        y = unplaced(fastbn.normalize(x, mean, var, problem.weight, problem.bias, axis=axis), axis)
        assert_ulps(y, problem.given(mean, var, True, True), problem.bias)


# Where dx is dy / x and x is below the normal numbers of its type, dx is in range only if dy is below them too.
BACKWARD_CASES = [c for c in EXTREME_CASES if c.values[0] == np.float64 or c.values[1] > 1e-38 or c.values[2]]


@pytest.mark.parametrize(("dtype", "size", "eps"), BACKWARD_CASES)
@pytest.mark.parametrize("place", EXTREME_PLACES)
@pytest.mark.parametrize("training", [True, False])
def test_extremes_backward(dtype: Any, size: float, eps: float, place: str, training: bool) -> None:
    """The gradient is of the size of dy / x; its computation must not form squares of either."""
    problem = extreme(dtype, size, eps)
    x, axis = placed(problem.values, place)
    mean = problem.mean.astype(np.float64)
    with np.errstate(over="ignore"):
        invstd = problem.invstd.astype(np.float64)
    assert np.isfinite(invstd).all()
    rng = np.random.default_rng(17)
    # dy such that dx stays in x's type.
    scale = min(1.0, size) if eps == 0 else 1.0
    dy, _ = placed((scale * rng.standard_normal(problem.values.shape)).astype(dtype), place)
    saved = {"mean": mean, "invstd": invstd, "axis": axis, "training": training}
    got = fastbn.batch_norm_backward(dy, x, problem.weight, **saved)
    assert all(np.isfinite(g).all() for g in got)
    assert_gradients(got, dy, x, problem.weight, **saved)


@pytest.mark.parametrize("size", [1e-305, 1e-310, 1e-320])
@pytest.mark.parametrize("place", EXTREME_PLACES)
def test_a_spread_whose_inverse_is_beyond_float64(size: float, place: str) -> None:
    """Without eps, y can only be what invstd allows: a number, of the right sign and no larger than it should be."""
    problem = extreme(np.float64, size, 0.0)
    x, axis = placed(problem.values, place)
    for both in (True, False):
        weight, bias = (problem.weight, problem.bias) if both else (None, None)
        result = fastbn.batch_norm_train(x, weight, bias, eps=0.0, axis=axis)
        assert np.isfinite(result.invstd).all()
        y, expected = unplaced(result.y, axis), problem.y(both, both)
        assert np.isfinite(y).all()
        if not both:
            assert (y * expected >= 0).all()
            assert (np.abs(y) <= np.abs(expected) * (1 + 1e-6)).all()


@every_dtype
@pytest.mark.parametrize("place", EXTREME_PLACES)
def test_the_whole_range_at_once(dtype: Any, place: str) -> None:
    """The largest number and its negative: their difference is beyond the type, the result is not."""
    top = np.finfo(dtype).max
    n = COUNT // 3
    values = np.full((n, 3), -top, dtype)
    values[::2, 0] = top
    values[7, 1] = top
    values[:, 2] = np.random.default_rng(19).uniform(-1, 1, n).astype(dtype) * top
    problem = Problem(values)
    x, axis = placed(values, place)
    result = fastbn.batch_norm_train(x, problem.weight, problem.bias, axis=axis)
    y = unplaced(result.y, axis)
    assert np.isfinite(y).all()
    assert_ulps(y, problem.y(True, True), problem.bias)
    assert_relative(result.invstd, problem.invstd, VAR_RTOL[x.dtype], atol=5e-324)


@every_dtype
@pytest.mark.parametrize("place", EXTREME_PLACES)
@pytest.mark.parametrize("gain", [1e-30, 1e-6, 1e6, 1e30])
def test_weights_of_any_size(dtype: Any, place: str, gain: float) -> None:
    """Their product with invstd may leave x's type where y does not."""
    for size in (1e30, 1.0, 1e-30):
        if dtype == np.float32 and gain > 1e29 and size < 1:
            size = 1e-5
        problem = extreme(dtype, size, 0.0)
        weight = problem.weight * gain
        x, axis = placed(problem.values, place)
        y = unplaced(fastbn.batch_norm(x, weight=weight, training=True, eps=0.0, axis=axis), axis)
        expected = problem.y(False, False) * weight
        assert_ulps(y, expected)


# Parameters at the ends of the range.


@every_dtype
def test_weights_of_no_size(dtype: Any) -> None:
    """A weight that decays below the normal numbers takes y to the bias, not to NaN."""
    x = np.array([[0.1], [-0.1], [0.05], [-0.05]], dtype)
    trained = fastbn.batch_norm_train(x)
    dy = np.array([[1.0], [2.0], [3.0], [5.0]], dtype)
    for weight in (1e-307, 1e-310, 5e-324, -5e-324, 0.0):
        w = np.array([weight])
        y = fastbn.batch_norm_train(x, w, np.array([2.0])).y
        np.testing.assert_array_equal(y, np.full_like(x, 2.0))
        assert np.isfinite(fastbn.normalize(x, np.zeros(1), np.array([0.01]), w)).all()
        for training in (True, False):
            got = fastbn.batch_norm_backward(dy, x, w, mean=trained.mean, invstd=trained.invstd, training=training)
            assert (np.abs(got.dx.astype(np.float64)) < 1e-300).all()  # |dy| < 6, invstd < 20, weight at most 1e-307


def test_a_constant_channel_is_its_bias_whatever_the_scale() -> None:
    x = np.ones((4, 1), np.float32)
    for weight, eps in ((1.0, 1e-160), (1e76, 1e-5), (-1e300, 1e-300)):
        y = fastbn.batch_norm_train(x, np.array([weight]), np.array([2.0]), eps=eps).y
        np.testing.assert_array_equal(y, np.full_like(x, 2.0))
    np.testing.assert_array_equal(fastbn.normalize(x, np.ones(1), np.array([1e-160]), eps=0.0), np.zeros_like(x))


def test_the_sign_of_zero_is_the_same_on_every_isa() -> None:
    x, w = np.zeros((4, 2, 4, 4), np.float32), np.array([-1.0, 1.0])
    signs = []
    for name in fastbn._core.isas():
        with using_isa(name):
            dx = fastbn.batch_norm_backward(np.ones_like(x), x, w, mean=np.zeros(2), invstd=np.zeros(2)).dx
        signs.append(np.signbit(dx).tobytes())
    assert len(set(signs)) == 1


@pytest.mark.parametrize(
    ("dtype", "size", "offset"),
    [
        (np.float32, 1e-36, 1000.0),
        (np.float32, 1e-37, 100.0),
        (np.float32, 1e-35, 1e4),
        (np.float64, 1e-307, 100.0),
        (np.float64, 1e-306, 1000.0),
    ],
)
def test_gradients_whose_mean_is_far_larger_than_what_is_left_of_them(dtype: Any, size: float, offset: float) -> None:
    """The result is near the largest numbers though dy * weight * invstd is beyond them."""
    rng = np.random.default_rng(61)
    x = (size * rng.standard_normal((64, 3))).astype(dtype)
    dy = (offset + rng.standard_normal((64, 3))).astype(dtype)
    result = fastbn.batch_norm_train(x, eps=0.0)
    saved = {"mean": result.mean, "invstd": result.invstd}
    dx = fastbn.batch_norm_backward(dy, x, **saved).dx
    expected = oracle.backward(dy, x, None, **saved).dx
    # What is left of dy has its rounding errors, and those of sum(dy) / N in dx's type.
    limit = 4 * np.finfo(dtype).eps * offset * np.abs(result.invstd)
    assert (np.abs(dx - expected) <= limit).all()


def test_gradients_of_subnormal_data() -> None:
    x = np.array([[1.4e-45], [2.8e-45], [1.1e-44]], np.float32)
    dy = np.float32(4e37) * np.array([[1.0], [-1.0], [0.5]], np.float32)
    result = fastbn.batch_norm_train(x, eps=0.0)
    saved = {"mean": result.mean, "invstd": result.invstd}
    for weight in (0.0, 1e-50, 1e-46):
        w = np.array([weight])
        dx = fastbn.batch_norm_backward(dy, x, w, **saved).dx
        expected = oracle.backward(dy, x, w, **saved).dx
        # Of the size of what is subtracted from each other.
        np.testing.assert_allclose(dx, expected, rtol=0, atol=1e-6 * weight * result.invstd[0] * 4e37)


def test_a_weight_beyond_the_data_s_type() -> None:
    """Overflow goes to the infinity of the right sign; there is no NaN."""
    x = np.array([[0.1], [0.3], [0.7], [-0.4]], np.float32)
    weight = np.array([1e47])
    wanted = np.array([[-np.inf], [np.inf], [np.inf], [-np.inf]], np.float32)
    result = fastbn.batch_norm_train(x, weight, eps=0.0)
    np.testing.assert_array_equal(result.y, wanted)
    np.testing.assert_array_equal(fastbn.normalize(x, result.mean, result.var, weight, eps=0.0), wanted)
