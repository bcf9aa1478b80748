"""The layer: modes, running statistics, gradients, features decided late, and calls that fail without a trace."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastbn
from fastbn import BatchNorm
from support import oracle
from support.oracle import Array
from support.random_arrays import batch
from support.tolerances import CLOSE, FLOAT64_RTOL, Y_ULPS


def with_parameters(layer: BatchNorm) -> BatchNorm:
    rng = np.random.default_rng(7)
    for array in layer.parameters():
        array[...] = rng.normal(1.0, 0.5, array.shape)
    return layer


def assert_same_state(layer: BatchNorm, before: dict[str, Array]) -> None:
    assert list(layer.state_dict()) == list(before)
    for key, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, before[key], err_msg=key)


def assert_gradients(layer: BatchNorm, dy: Array, x: Array, mean: Any, invstd: Any, training: bool = True) -> None:
    want = oracle.backward(dy, x, layer.weight, mean, invstd, layer.axis, training)
    np.testing.assert_allclose(layer.backward(dy), want.dx, **CLOSE)
    if layer.affine:
        np.testing.assert_allclose(layer.grad_weight, want.dweight, **CLOSE)
        np.testing.assert_allclose(layer.grad_bias, want.dbias, **CLOSE)


# Forward and running statistics.


@pytest.mark.parametrize("correction", [0, 1, 2.5])
@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0, 1, np.float32(0.25)])
def test_running_statistics_follow_the_formula(momentum: float | None, correction: float) -> None:
    layer = BatchNorm(3, momentum=momentum, correction=correction)
    mean, var = np.zeros(3), np.ones(3)
    for seed in range(4):
        x = batch(5 + seed, 3, 4, seed=seed)
        new = oracle.train(x)
        np.testing.assert_allclose(layer(x), new.y, **CLOSE)
        mean = oracle.updated(mean, new.mean, momentum)
        var = oracle.updated(var, new.biased * new.count / (new.count - correction), momentum)
    np.testing.assert_allclose(layer.running_mean, mean, **CLOSE)
    np.testing.assert_allclose(layer.running_var, var, **CLOSE)
    assert layer.num_batches_tracked == 4
    assert type(layer.num_batches_tracked) is int


def test_momentum_none_is_the_average_over_batches() -> None:
    layer = BatchNorm(2, momentum=None)
    batches = [batch(6, 2, seed=seed) for seed in range(5)]
    for x in batches:
        layer(x)
    np.testing.assert_allclose(layer.running_mean, np.mean([x.mean(axis=0) for x in batches], axis=0), **CLOSE)
    np.testing.assert_allclose(layer.running_var, np.mean([x.var(axis=0, ddof=1) for x in batches], axis=0), **CLOSE)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_same_bits_as_the_function(dtype: type) -> None:
    layer, mean, var = BatchNorm(30, momentum=0.3, dtype=dtype), np.zeros(30, dtype), np.ones(30, dtype)
    for seed in range(3):
        x = batch(8, 30, seed=seed)
        np.testing.assert_array_equal(layer(x), fastbn.batch_norm(x, mean, var, training=True, momentum=0.3))
    np.testing.assert_array_equal(layer.running_mean, mean)
    np.testing.assert_array_equal(layer.running_var, var)
    np.testing.assert_array_equal(layer.eval()(x), fastbn.batch_norm(x, mean, var))


def test_evaluation_uses_and_keeps_the_running_statistics() -> None:
    layer = with_parameters(BatchNorm(3))
    layer(batch(9, 3))
    before = layer.eval().state_dict()
    x = batch(1, 3, seed=1)  # one value per channel is enough here
    want = oracle.normalize(x, layer.running_mean, layer.running_var, layer.weight, layer.bias)
    np.testing.assert_allclose(layer(x), want, **CLOSE)
    assert_same_state(layer, before)


def test_evaluation_before_any_batch_normalizes_by_0_and_1() -> None:
    x = batch(4, 3)
    np.testing.assert_allclose(BatchNorm(3, eps=0.5).eval()(x), x / np.sqrt(1.5), **CLOSE)


def test_without_running_statistics_evaluation_uses_the_batch() -> None:
    layer = BatchNorm(3, track_running_stats=False)
    x = batch(6, 3)
    np.testing.assert_array_equal(layer.eval()(x), layer.train()(x))
    np.testing.assert_allclose(layer(x), oracle.train(x).y, **CLOSE)
    assert layer.running_mean is None
    assert layer.running_var is None
    assert layer.num_batches_tracked == 0
    layer.correction = 100  # of no meaning here, hence no error
    layer(x)


def test_without_affine_there_are_no_parameters() -> None:
    layer = BatchNorm(3, affine=False)
    x = batch(6, 3)
    want = oracle.train(x)
    np.testing.assert_allclose(layer(x), want.y, **CLOSE)
    assert_gradients(layer, batch(6, 3, seed=1), x, want.mean, want.invstd)
    assert layer.parameters() == layer.gradients() == []
    assert layer.weight is layer.bias is layer.grad_weight is layer.grad_bias is None


@pytest.mark.parametrize(
    ("shape", "axis", "features"),
    [
        ((7, 4), 1, 4),
        ((7, 4), -1, 4),
        ((2, 3, 5, 4), -1, 4),
        ((2, 3, 5, 4), 1, 3),
        ((6, 2, 3), 0, 6),
        ((2, 3, 5, 4), (1, 2), (3, 5)),
        ((2, 3, 5, 4), (-1, 1), (3, 4)),
        ((2, 3, 5, 4), (3,), (4,)),
        ((6, 3), (), ()),
    ],
)
def test_any_axis(shape: tuple[int, ...], axis: int | tuple[int, ...], features: Any) -> None:
    x, dy = batch(*shape), batch(*shape, seed=1)
    layer = with_parameters(BatchNorm(features, axis=axis))
    want = oracle.train(x, layer.weight, layer.bias, axis=axis)
    np.testing.assert_allclose(layer(x), want.y, **CLOSE)
    assert_gradients(layer, dy, x, want.mean, want.invstd)
    unbiased = want.biased * want.count / (want.count - 1)
    np.testing.assert_allclose(layer.running_mean, oracle.updated(np.zeros(()), want.mean, 0.1), **CLOSE)
    np.testing.assert_allclose(layer.running_var, oracle.updated(np.ones(()), unbiased, 0.1), **CLOSE)
    y = oracle.normalize(x, layer.running_mean, layer.running_var, layer.weight, layer.bias, axis=axis)
    np.testing.assert_allclose(layer.eval()(x), y, **CLOSE)


def test_axes_may_be_a_list() -> None:
    layer = BatchNorm([3, 5], axis=[2, 1])
    assert (layer.axis, layer.num_features) == ((2, 1), (3, 5))
    layer(batch(2, 3, 5))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("x_dtype", [np.float32, np.float64])
def test_dtype_of_the_layer_is_independent_of_x(dtype: type, x_dtype: type) -> None:
    layer = BatchNorm(3, dtype=dtype)
    x, dy = batch(6, 3, dtype=x_dtype), batch(6, 3, seed=1, dtype=x_dtype)
    assert layer(x).dtype == x_dtype
    assert layer.backward(dy).dtype == x_dtype
    assert layer.eval()(x).dtype == x_dtype
    arrays = [*layer.parameters(), *layer.gradients(), layer.running_mean, layer.running_var]
    assert {array.dtype for array in arrays} == {np.dtype(dtype)}


def test_float32_statistics_are_rounded_once_per_batch() -> None:
    layer, mean = BatchNorm(20, dtype=np.float32), np.zeros(20, np.float32)
    for seed in range(5):
        x = batch(50, 20, seed=seed)
        layer(x)
        mean = oracle.updated(mean, x.mean(axis=0, dtype=np.longdouble), 0.1).astype(np.float32)
    np.testing.assert_array_equal(layer.running_mean, mean)  # float64's last bit decides no rounding among these 100


def test_what_float32_cannot_hold_becomes_inf_without_a_warning() -> None:
    layer = BatchNorm(1, dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(np.array([[1e30], [-1e30]]))
        assert np.isinf(layer.running_var[0])
        layer(np.array([[1e300], [-1e300]]))
        layer.backward(np.array([[1e300], [1e300]]))
    assert np.isinf(layer.grad_bias[0])
    assert layer.grad_weight[0] == 0.0


def test_nan_stays_in_its_channel() -> None:
    x = batch(5, 3)
    x[2, 1] = np.nan
    layer = BatchNorm(3)
    layer(x)
    assert np.isnan(layer.running_mean).tolist() == [False, True, False]
    assert np.isnan(layer.running_var).tolist() == [False, True, False]


@pytest.mark.parametrize("features", [3, None])
def test_empty_batch_leaves_the_statistics_alone(features: Any) -> None:
    layer = BatchNorm(features)
    y = layer(np.empty((0, 3, 2), np.float32))
    assert y.shape == (0, 3, 2)
    assert y.dtype == np.float32
    assert layer.num_features == 3
    assert layer.num_batches_tracked == 0
    assert (layer.running_mean.tolist(), layer.running_var.tolist()) == ([0.0] * 3, [1.0] * 3)
    layer.grad_weight[...] = 5.0
    assert layer.backward(y).shape == y.shape
    assert (layer.grad_weight.tolist(), layer.grad_bias.tolist()) == ([0.0] * 3, [0.0] * 3)
    assert layer.eval()(y).shape == y.shape


# Backward.


def test_gradient_in_evaluation_is_frozen() -> None:
    layer = with_parameters(BatchNorm(3))
    layer(batch(9, 3, 2))
    x, dy = batch(4, 3, 2, seed=1), batch(4, 3, 2, seed=2)
    layer.eval()(x)
    invstd = 1 / np.sqrt(layer.running_var + layer.eps)
    assert_gradients(layer, dy, x, layer.running_mean, invstd, training=False)


def test_gradient_in_evaluation_where_variance_and_eps_are_0() -> None:
    layer = BatchNorm(2, eps=0.0).eval()
    layer.running_var[...] = [0.0, 4.0]
    layer(batch(3, 2))
    assert layer.backward(np.ones((3, 2))).tolist() == [[0.0, 0.5]] * 3


def test_mode_of_the_call_decides_not_the_mode_of_now() -> None:
    layer, x, dy = BatchNorm(3), batch(9, 3), batch(9, 3, seed=1)
    layer(x)
    training = layer.backward(dy)
    np.testing.assert_array_equal(layer.eval().backward(dy), training)
    layer(x)
    frozen = layer.backward(dy)
    np.testing.assert_array_equal(layer.train().backward(dy), frozen)
    assert not np.allclose(training, frozen)


def test_without_running_statistics_the_gradient_is_always_that_of_training() -> None:
    layer, x, dy = BatchNorm(3, track_running_stats=False), batch(9, 3), batch(9, 3, seed=1)
    layer.eval()(x)
    want = oracle.train(x)
    assert_gradients(layer, dy, x, want.mean, want.invstd)


@pytest.mark.parametrize("training", [True, False])
def test_gradients_by_finite_differences(training: bool) -> None:
    layer, x, dy = with_parameters(BatchNorm(2)).train(training), batch(4, 2), batch(4, 2, seed=1)

    def slope(array: Array, index: tuple[int, ...], step: float = 1e-5) -> float:
        values = []
        for sign in (1, -1):
            old = array[index]
            array[index] = old + sign * step
            values.append(np.sum(layer(x) * dy))
            array[index] = old
        return (values[0] - values[1]) / (2 * step)

    want = [[slope(array, index) for index in np.ndindex(array.shape)] for array in (x, layer.weight, layer.bias)]
    layer(x)
    got = layer.backward(dy), layer.grad_weight, layer.grad_bias
    for one, other in zip(got, want, strict=True):
        # central differences: step^2 times a third derivative of order 1, and 1e-16 / step of rounding
        np.testing.assert_allclose(np.ravel(one), other, rtol=1e-6, atol=1e-8)


def test_gradients_are_overwritten_in_the_same_arrays() -> None:
    layer = BatchNorm(3)
    assert [g.tolist() for g in layer.gradients()] == [[0.0] * 3] * 2
    parameters, gradients = layer.parameters(), layer.gradients()
    layer(batch(5, 3))
    layer.backward(np.ones((5, 3)))
    layer.backward(np.ones((5, 3)))
    assert layer.grad_bias.tolist() == [5.0] * 3
    assert parameters[0] is layer.weight
    assert parameters[1] is layer.bias
    assert gradients[0] is layer.grad_weight
    assert gradients[1] is layer.grad_bias


def test_an_optimizer_that_keeps_the_lists_learns() -> None:
    layer, x, target = BatchNorm(2), batch(64, 2), batch(64, 2) * [5.0, -3.0] + 1.0
    steps = list(zip(layer.parameters(), layer.gradients(), strict=True))
    for _ in range(200):
        layer.backward((layer(x) - target) / len(x))
        for parameter, grad in steps:
            parameter -= 0.1 * grad
    np.testing.assert_allclose(layer(x), target, rtol=1e-4, atol=1e-4)  # 0.9^200 of the way is left


def test_x_is_kept_until_the_next_call_not_copied() -> None:
    layer, x = BatchNorm(2), batch(4, 2)
    oracle = weakref.ref(x)
    layer(x)
    del x
    gc.collect()
    assert oracle() is not None
    layer.eval()(batch(4, 2, seed=1))
    gc.collect()
    assert oracle() is None


def test_backward_before_any_call() -> None:
    with pytest.raises(RuntimeError, match="backward needs a call of the layer before it"):
        BatchNorm(3).backward(batch(4, 3))


def test_one_value_per_channel_is_an_error_that_says_what_to_do() -> None:
    instead = r"one is enough with training=False, for a layer after eval\(\) or with on_single='biased'"
    rule = rf"^x must hold more than one value per channel in training \({instead}\), got 1$"
    for train in (fastbn.batch_norm_train, BatchNorm(3)):
        with pytest.raises(ValueError, match=rule):
            train(batch(1, 3))
    for layer in (BatchNorm(3).eval(), BatchNorm(3, on_single="biased")):  # both ways that it names
        assert layer(batch(1, 3)).shape == (1, 3)


# Features decided late.


@pytest.mark.parametrize(("axis", "features"), [(1, 3), (-1, 4), ((2, 1), (3, 4)), ((), ())])
def test_first_batch_decides_the_features(axis: int | tuple[int, ...], features: Any) -> None:
    x, dy = batch(5, 3, 4), batch(5, 3, 4, seed=1)
    late, early = BatchNorm(axis=axis), BatchNorm(features, axis=axis)
    assert late.num_features is None
    assert late.weight is late.running_mean is late.grad_bias is None
    np.testing.assert_array_equal(late(x), early(x))
    np.testing.assert_array_equal(late.backward(dy), early.backward(dy))
    assert late.num_features == features
    assert repr(late) == repr(early)
    assert_same_state(late, early.state_dict())


def test_evaluation_decides_the_features_where_it_uses_the_batch() -> None:
    layer = BatchNorm(track_running_stats=False).eval()
    layer(batch(5, 3))
    assert layer.num_features == 3


@pytest.mark.parametrize(
    "use",
    [lambda layer: layer.eval()(batch(5, 3)), BatchNorm.parameters, BatchNorm.gradients, BatchNorm.state_dict],
)
def test_undecided_features_are_an_error_that_says_so(use: Callable[[BatchNorm], object]) -> None:
    layer = BatchNorm()
    with pytest.raises(RuntimeError, match="num_features must be known"):
        use(layer)
    assert layer.num_features is None


def test_a_failed_first_call_decides_nothing() -> None:
    layer = BatchNorm(correction=5)
    with pytest.raises(ValueError, match="correction must be less than the 4 values per channel"):
        layer(batch(4, 3))
    assert layer.num_features is None
    assert layer.weight is None
    layer(batch(6, 2))
    assert layer.num_features == 2


@pytest.mark.parametrize(
    ("features", "axis", "message"),
    [
        (4, 1, r"x must have 4 channels along axis 1, got 3 \(shape \(5, 3, 2\)\)"),
        (3, -1, r"x must have 3 channels along axis -1, got 2 "),
        ((2, 3), (1, 2), r"x must have \(2, 3\) channels along axis \(1, 2\), got \(3, 2\)"),
    ],
)
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_wrong_number_of_channels(
    features: Any, axis: int | tuple[int, ...], message: str, affine: bool, training: bool
) -> None:
    layer = BatchNorm(features, axis=axis, affine=affine).train(training)
    with pytest.raises(ValueError, match=message):
        layer(batch(5, 3, 2))


@pytest.mark.parametrize(
    ("x", "axis", "message"),
    [
        (batch(5, 3), 2, "axis"),
        (batch(5, 3), (1, 2), "axis"),
        (batch(5, 3), (1, -1), "axis"),
        (np.float64(1.0), 1, "x must"),
        (np.float64(1.0), (0, 1), "x must"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_axis_that_x_does_not_have(x: Any, axis: Any, message: str, training: bool) -> None:
    layer = BatchNorm(3 if isinstance(axis, int) else (3, 3), axis=axis).train(training)
    with pytest.raises(ValueError, match=message):
        layer(x)


# Calls that fail.


@pytest.mark.parametrize(
    ("x", "error"),
    [
        (batch(6, 4), ValueError),
        (batch(1, 3), ValueError),
        (np.ones(3), ValueError),
        (np.float64(1.0), ValueError),
        (np.ones((6, 3), complex), TypeError),
        (np.ma.masked_array(batch(6, 3)), TypeError),
        ([["a", "b", "c"]], TypeError),
        (None, TypeError),
        ([[1.0, 2.0, 3.0], [4.0]], TypeError),
    ],
)
def test_failed_forward_changes_nothing(x: Any, error: type[Exception]) -> None:
    layer, good, dy = with_parameters(BatchNorm(3)), batch(6, 3), batch(6, 3, seed=1)
    layer(good)
    dx, grads, before = layer.backward(dy), [g.copy() for g in layer.gradients()], layer.state_dict()
    with pytest.raises(error, match="x must"):
        layer(x)
    assert_same_state(layer, before)
    np.testing.assert_array_equal(layer.backward(dy), dx)
    np.testing.assert_array_equal(layer.gradients(), grads)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("momentum", 1.5, ValueError),
        ("momentum", "a", TypeError),
        ("correction", 6, ValueError),
        ("correction", -1, ValueError),
        ("eps", -1.0, ValueError),
        ("axis", 2, ValueError),
    ],
)
def test_an_option_changed_to_nonsense_is_refused_in_the_call(name: str, value: Any, error: type[Exception]) -> None:
    layer, x = BatchNorm(3), batch(6, 3)
    layer(x)
    before = layer.state_dict()
    setattr(layer, name, value)
    with pytest.raises(error, match=name):
        layer(x)
    assert_same_state(layer, before)


@pytest.mark.parametrize(("dy", "error"), [(np.ones((5, 3)), ValueError), (np.ones((6, 3), int), TypeError)])
def test_failed_backward_changes_nothing(dy: Array, error: type[Exception]) -> None:
    layer = BatchNorm(3)
    layer(batch(6, 3))
    layer.backward(batch(6, 3, seed=1))
    before = [g.copy() for g in layer.gradients()]
    with pytest.raises(error, match="dy must"):
        layer.backward(dy)
    np.testing.assert_array_equal(layer.gradients(), before)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_features": -1}, ValueError, "num_features must be >= 0, got -1"),
        ({"num_features": 2.0}, TypeError, "num_features must be an int where axis is one, got 2.0"),
        ({"num_features": True}, TypeError, "num_features must be an int where axis is one, got True"),
        ({"num_features": (3,)}, TypeError, r"num_features must be an int where axis is one, got \(3,\)"),
        ({"num_features": 3, "axis": (1, 2)}, TypeError, r"num_features must be a tuple of 2 int\(s\).*got 3"),
        ({"num_features": (3,), "axis": (1, 2)}, ValueError, r"num_features must be a tuple of 2.*got \(3,\)"),
        ({"num_features": (3, "a"), "axis": (1, 2)}, TypeError, "num_features must be a tuple of 2"),
        ({"axis": 1.0}, TypeError, "axis must be an int or a tuple of ints, got 1.0"),
        ({"axis": None}, TypeError, "axis must be an int or a tuple of ints, got None"),
        ({"axis": (1, "a")}, TypeError, r"axis must be an int or a tuple of ints, got \(1, 'a'\)"),
        ({"axis": (1, 1)}, ValueError, r"axis must not name an axis twice, got \(1, 1\)"),
        ({"eps": -1e-5}, ValueError, "eps must be finite and >= 0, got -1e-05"),
        ({"eps": np.inf}, ValueError, "eps must be finite and >= 0, got inf"),
        ({"eps": np.nan}, ValueError, "eps must be finite and >= 0, got nan"),
        ({"eps": 10**400}, ValueError, "eps must be finite and >= 0"),
        ({"eps": "1e-5"}, TypeError, "eps must be a real number, got '1e-5'"),
        ({"eps": None}, TypeError, "eps must be a real number, got None"),
        ({"eps": True}, TypeError, "eps must be a real number, got True"),
        ({"momentum": 1.01}, ValueError, r"momentum must be in \[0, 1\], got 1.01"),
        ({"momentum": 1j}, TypeError, "momentum must be a real number, got 1j"),
        ({"correction": -1}, ValueError, "correction must be finite and >= 0, got -1"),
        ({"affine": 1}, TypeError, "affine must be True or False, got 1"),
        ({"track_running_stats": None}, TypeError, "track_running_stats must be True or False, got None"),
        ({"dtype": np.float16}, TypeError, "dtype must be float32 or float64, got <class 'numpy.float16'>"),
        ({"dtype": ">f8"}, TypeError, "dtype must be float32 or float64, got '>f8'"),
        ({"dtype": "nonsense"}, TypeError, "dtype must be float32 or float64, got 'nonsense'"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        BatchNorm(**options)


def test_modes() -> None:
    layer = BatchNorm(3)
    assert layer.training is True
    assert layer.eval() is layer
    assert layer.training is False
    assert layer.train() is layer
    assert layer.training is True
    assert layer.train(np.False_).training is False
    with pytest.raises(TypeError, match="mode must be True or False, got 'eval'"):
        layer.train("eval")


# Init_identity.


@pytest.mark.parametrize(("axis", "features"), [(1, None), (1, 3), (-1, 4), ((1, 2), None), ((), None)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_identity(axis: int | tuple[int, ...], features: Any, dtype: type) -> None:
    x = batch(5, 3, 4, dtype=dtype)
    layer = BatchNorm(features, axis=axis)
    assert layer.init_identity(x) is layer
    want = oracle.train(x, axis=axis)
    np.testing.assert_allclose(layer.weight, np.sqrt(want.biased + layer.eps), **CLOSE)
    np.testing.assert_allclose(layer.bias, want.mean, **CLOSE)
    assert layer.num_batches_tracked == 0
    np.testing.assert_allclose(layer(x), x, rtol=0, atol=Y_ULPS * np.finfo(dtype).eps * np.abs(x).max())


def test_identity_of_constant_and_of_huge_channels() -> None:
    x = np.array([[5.0, 1e200], [5.0, -3e200]])
    layer = BatchNorm(eps=0.0).init_identity(x)
    assert layer.weight[0] == 0.0
    np.testing.assert_allclose(layer.weight[1], 2e200, rtol=FLOAT64_RTOL)
    np.testing.assert_allclose(layer(x), x, rtol=Y_ULPS * np.finfo(float).eps)


@pytest.mark.parametrize(
    ("options", "x", "message"),
    [
        ({"affine": False}, batch(5, 3), "affine must be True for init_identity, got False"),
        ({}, batch(5, 4), "x must have 3 channels along axis 1, got 4"),
        ({}, np.array([[1.0, 2.0, np.nan], [2.0, 3.0, 4.0]]), "x must have a finite mean and deviation"),
        ({}, np.empty((0, 3)), r"x must have a finite mean and deviation.*from 0 value\(s\)"),
        ({}, batch(1, 3), "x must"),
        ({"dtype": np.float32}, batch(5, 3) * 1e100, "x must have a finite mean and deviation in float32"),
    ],
)
def test_identity_refused(options: dict[str, Any], x: Any, message: str) -> None:
    layer = BatchNorm(3, **options)
    layer(batch(5, 3))
    dx, before = layer.backward(batch(5, 3, seed=1)), layer.state_dict()
    with pytest.raises(ValueError, match=message):
        layer.init_identity(x)
    assert_same_state(layer, before)
    np.testing.assert_array_equal(layer.backward(batch(5, 3, seed=1)), dx)


def test_identity_forgets_the_last_call() -> None:
    layer, x = BatchNorm(3), batch(5, 3)
    layer(x)
    layer.init_identity(x)
    with pytest.raises(RuntimeError, match="backward needs a call"):
        layer.backward(x)


def test_lists_are_batches() -> None:
    layer = BatchNorm(eps=0.0)
    assert layer([[1.0, 2.0], [3.0, 6.0]]).tolist() == [[-1.0, -1.0], [1.0, 1.0]]
    assert layer.backward([[1.0, 1.0], [1.0, 1.0]]).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert BatchNorm(eps=0.0).init_identity([[1.0], [3.0]]).bias.tolist() == [2.0]


# Against PyTorch.


@pytest.mark.parametrize("momentum", [None, 0.1])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("track", [True, False])
@pytest.mark.parametrize(
    ("kind", "shape"), [("1d", (6, 3)), ("1d", (6, 3, 2)), ("2d", (4, 3, 5, 2)), ("3d", (2, 3, 2, 3, 2))]
)
def test_same_as_pytorch(kind: str, shape: tuple[int, ...], track: bool, affine: bool, momentum: float | None) -> None:
    torch = pytest.importorskip("torch")
    options = {"momentum": momentum, "affine": affine, "track_running_stats": track}
    theirs = getattr(torch.nn, f"BatchNorm{kind}")(3, dtype=torch.float64, **options)
    ours = BatchNorm(3, **options)
    for seed, training in enumerate([True, True, False, True, True, False]):
        x, dy = batch(*shape, seed=seed), batch(*shape, seed=seed + 100)
        tensor = torch.tensor(x, requires_grad=True)
        theirs.train(training).zero_grad()
        y = theirs(tensor)
        y.backward(torch.tensor(dy))
        np.testing.assert_allclose(ours.train(training)(x), y.detach().numpy(), **CLOSE)
        np.testing.assert_allclose(ours.backward(dy), tensor.grad.numpy(), **CLOSE)
        for key in ("weight", "bias") if affine else ():
            parameter, grad = getattr(theirs, key), getattr(ours, f"grad_{key}")
            np.testing.assert_allclose(grad, parameter.grad.numpy(), **CLOSE)
            getattr(ours, key)[...] -= 0.1 * grad
            with torch.no_grad():
                parameter -= 0.1 * parameter.grad
    for key, value in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[key], value.numpy(), **CLOSE)
    assert list(theirs.state_dict()) == list(ours.state_dict())


def test_tensors_are_batches() -> None:
    torch = pytest.importorskip("torch")
    x = batch(6, 3)
    got, want = BatchNorm(3), BatchNorm(3)
    np.testing.assert_array_equal(got(torch.from_numpy(x)), want(x))
    np.testing.assert_array_equal(got.backward(torch.from_numpy(x)), want.backward(x))


def test_a_path_is_no_batch() -> None:
    with pytest.raises(TypeError, match=r"x must be an array, got 'x\.npy' \(.*fastbn\.stream"):
        BatchNorm(3)("x.npy")
