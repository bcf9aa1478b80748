"""The layer's options for a call: masks and weights, the residual, the activation, and where y goes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from fastbn import BatchNorm
from fastbn._layer.lengths import where_within
from support import oracle
from support.oracle import Array
from support.random_arrays import batch
from support.tolerances import CLOSE

SHAPES = [((9, 4), 1), ((6, 4, 5), 1), ((6, 5, 4), -1), ((4, 3, 5, 2), (1, 3))]
KINDS = [(None, 0.01), ("relu", 0.01), ("leaky_relu", 0.01), ("leaky_relu", -0.5), ("leaky_relu", 0)]


def with_parameters(layer: BatchNorm) -> BatchNorm:
    rng = np.random.default_rng(7)
    for array in layer.parameters():
        array[...] = rng.normal(0.5, 1.0, array.shape)
    return layer


class Step(NamedTuple):
    """What a call and its backward should give, in long double."""

    y: Array
    mean: Array
    biased: Array
    total: Array
    dx: Array
    dweight: Array
    dbias: Array
    dz: Array


def step(layer: BatchNorm, x: Array, dy: Array, p: Any = 1.0, residual: Any = 0.0, running: bool = False) -> Step:
    """Return what the formulas give for values of weights p; `running`: by the running statistics of now."""

    def columns(values: Any) -> Array:
        return oracle.columns(np.broadcast_to(values, x.shape), layer.axis).astype(np.longdouble)

    values, grad, weights = columns(x), columns(dy), columns(p)
    features = oracle.feature_shape(x.shape, layer.axis)
    weight = 1.0 if layer.weight is None else layer.weight.ravel()
    bias = 0.0 if layer.bias is None else layer.bias.ravel()
    with np.errstate(all="ignore"):
        total = weights.sum(0)
        weighted = np.where(weights > 0, values, 0)
        mean = np.where(total > 0, (weights * weighted).sum(0) / total, 0)
        biased = np.where(total > 0, (weights * np.where(weights > 0, values - mean, 0) ** 2).sum(0) / total, 0)
        centre, spread = (layer.running_mean.ravel(), layer.running_var.ravel()) if running else (mean, biased)
        invstd = np.where((total > 0) | running, 1 / np.sqrt(spread.astype(np.longdouble) + layer.eps), 0)
        xhat = (values - centre) * invstd
        z = weight * xhat + bias + columns(residual)
        slope = {None: 1.0, "relu": 0.0, "leaky_relu": layer.negative_slope}[layer.activation]
        dz = np.where(z > 0, grad, slope * grad)
        dbias, dweight = dz.sum(0), (dz * xhat).sum(0)
        flow = 0.0 if running else np.where(weights > 0, weights / total * (dbias + xhat * dweight), 0)
        shaped = [np.where(z <= 0, slope * z, z), weight * invstd * (dz - flow), dz]
    y, dx, dz = (oracle.from_columns(a, x.shape, layer.axis) for a in shaped)
    statistics = (a.reshape(features) for a in (mean, biased, total))
    return Step(y, *statistics, dx, dweight.reshape(features), dbias.reshape(features), dz)


def assert_step(layer: BatchNorm, want: Step, y: Array, dy: Array, has_residual: bool = False) -> None:
    """Assert y, and the gradients of the layer's last call."""
    np.testing.assert_allclose(y, want.y, **CLOSE)
    dx, dresidual = layer.backward(dy) if has_residual else (layer.backward(dy), None)
    np.testing.assert_allclose(dx, want.dx, **CLOSE)
    if has_residual:
        np.testing.assert_allclose(dresidual, want.dz, **CLOSE)
    if layer.affine:
        np.testing.assert_allclose(layer.grad_weight, want.dweight, **CLOSE)
        np.testing.assert_allclose(layer.grad_bias, want.dbias, **CLOSE)


def snapshot(layer: BatchNorm) -> list[Array]:
    """Return copies of all that a call may change."""
    return [*layer.state_dict().values(), *(g.copy() for g in layer.gradients())]


# Activation and residual.


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize(("activation", "slope"), KINDS)
@pytest.mark.parametrize("has_residual", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_activation_of_the_sum(
    shape: tuple[int, ...], axis: Any, activation: Any, slope: float, has_residual: bool, training: bool
) -> None:
    layer = BatchNorm(axis=axis, activation=activation, negative_slope=slope)
    layer(batch(*shape, seed=1))
    with_parameters(layer).train(training)
    x, dy = batch(*shape), batch(*shape, seed=2)
    residual = batch(*shape, seed=3) - 3 if has_residual else None
    want = step(layer, x, dy, residual=0.0 if residual is None else residual, running=not training)
    assert activation is None or len(np.unique(want.dz == dy)) == 2  # both sides of zero are there
    assert_step(layer, want, layer(x, residual=residual), dy, has_residual)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_activation_without_parameters(activation: Any) -> None:
    layer = BatchNorm(affine=False, activation=activation)
    x, dy = batch(9, 4), batch(9, 4, seed=2)
    assert_step(layer, step(layer, x, dy), layer(x), dy)


def test_relu_of_nothing_but_the_negative() -> None:
    layer = BatchNorm(2, activation="relu", eps=0.0)
    layer.bias[...] = -100.0
    assert layer(batch(5, 2)).tolist() == [[0.0, 0.0]] * 5
    assert layer.backward(np.ones((5, 2))).tolist() == [[0.0, 0.0]] * 5
    assert (layer.grad_weight.tolist(), layer.grad_bias.tolist()) == ([0.0, 0.0], [0.0, 0.0])


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_nan_goes_through_the_activation(activation: Any) -> None:
    layer, x = BatchNorm(2, activation=activation).eval(), batch(3, 2)
    x[1, 0] = np.nan
    assert np.isnan(layer(x)).tolist() == np.isnan(x).tolist()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradient_flows_where_y_is_positive(training: bool, dtype: Any) -> None:
    """The sign of z is found again in backward: also where z is a few roundings from 0."""
    layer = with_parameters(BatchNorm(3, activation="relu", dtype=dtype))
    x = batch(64, 3, dtype=dtype)
    layer(x)
    layer.train(training)
    mean, var = (x.mean(0), x.var(0)) if training else (layer.running_mean, layer.running_var)
    z = layer.weight * (x - mean) / np.sqrt(var + layer.eps) + layer.bias
    residual = (-z).astype(dtype)  # the sum is 0 but for roundings, of either sign
    y = layer(x, residual=residual)
    assert 0 < (y > 0).sum() < y.size
    flows = layer.backward(np.ones_like(x))[1] > 0
    if training and dtype is np.float64:  # whose mean has more digits in forward than backward is given: half an ulp
        assert y[flows != (y > 0)].max(initial=0) < 1e-15
    else:
        np.testing.assert_array_equal(flows, y > 0)


def test_gradients_of_a_residual_block_by_finite_differences() -> None:
    layer = with_parameters(BatchNorm(2, activation="leaky_relu", negative_slope=0.3))
    x, residual, dy = batch(5, 2), batch(5, 2, seed=1) - 3, batch(5, 2, seed=2)
    where = np.array([[True], [True], [False], [True], [True]])

    def slope(array: Array, index: tuple[int, ...], h: float = 1e-5) -> float:
        old, values = array[index], []
        for sign in (1, -1):
            array[index] = old + sign * h
            values.append(np.sum(layer(x, residual=residual, where=where) * dy))
        array[index] = old
        return (values[0] - values[1]) / (2 * h)

    arrays = (x, residual, layer.weight, layer.bias)
    want = [[slope(array, index) for index in np.ndindex(array.shape)] for array in arrays]
    z = layer(x, residual=residual, where=where)
    assert np.abs(z).min() > 1e-3  # no kink within h
    got = (*layer.backward(dy), layer.grad_weight, layer.grad_bias)
    for one, other in zip(got, want, strict=True):
        # central differences: h^2 times a third derivative of order 1, and 1e-16 / h of rounding
        np.testing.assert_allclose(np.ravel(one), other, rtol=1e-6, atol=1e-8)


def test_backward_uses_what_the_call_used() -> None:
    x, residual, dy = batch(6, 4, 5), batch(6, 4, 5, seed=1) - 3, batch(6, 4, 5, seed=2)
    where = np.random.default_rng(5).random((6, 1, 5)) < 0.7
    layer = with_parameters(BatchNorm(4, activation="leaky_relu", negative_slope=0.25))
    want = step(layer, x, dy, p=where, residual=residual)
    y = layer(x, residual=residual, where=where)
    layer.activation, layer.negative_slope = None, 3.0
    layer.eval().freeze(parameters=True)
    assert_step(layer, want, y, dy, has_residual=True)


# Masks and weights.

MASKS = {
    "where": {"where": np.random.default_rng(1).random((6, 4, 5)) < 0.6},
    "where-positions": {"where": np.array([True, False, True, True, False])},
    "where-rows": {"where": np.array([True, True, False, True, True, False])[:, None, None]},
    "weights": {"weights": np.random.default_rng(2).uniform(0.0, 3.0, (6, 4, 5))},
    "weights-float32": {"weights": np.random.default_rng(2).uniform(0.1, 3.0, (6, 1, 1)).astype(np.float32)},
    "weights-integers": {"weights": np.array([3, 0, 1, 2, 2, 1])[:, None, None]},
    "both": {
        "where": np.array([True, False, True, True, True]),
        "weights": np.array([3.0, 0.5, 1.0, 2.5, 2.0, 1.0])[:, None, None],
    },
    "lists": {"where": [[[True]], [[True]], [[False]], [[True]], [[True]], [[True]]], "weights": [1, 2, 3, 4, 5]},
}


def element_weights(given: dict[str, Any]) -> Array:
    """Return the weight of each element of a batch of (6, 4, 5)."""
    where, weights = (np.asarray(given.get(name, 1.0), np.float64) for name in ("where", "weights"))
    return np.broadcast_to(where * weights, (6, 4, 5))


@pytest.mark.parametrize("given", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("correction", [0, 1])
def test_masks_and_weights(given: dict[str, Any], activation: Any, correction: float) -> None:
    layer = with_parameters(BatchNorm(4, activation=activation, correction=correction))
    x, dy = batch(6, 4, 5), batch(6, 4, 5, seed=1)
    want = step(layer, x, dy, element_weights(given))
    assert_step(layer, want, layer(x, **given), dy)
    remembered = want.biased * want.total / (want.total - correction)
    np.testing.assert_allclose(layer.running_mean, oracle.updated(np.zeros(4), want.mean, 0.1), **CLOSE)
    np.testing.assert_allclose(layer.running_var, oracle.updated(np.ones(4), remembered, 0.1), **CLOSE)
    assert layer.num_batches_tracked == 1


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_a_mask_on_any_axis(shape: tuple[int, ...], axis: Any) -> None:
    layer = BatchNorm(axis=axis)
    x, dy, where = batch(*shape), batch(*shape, seed=1), np.random.default_rng(3).random(shape) < 0.7
    y = layer(x, where=where)
    assert_step(layer, step(layer, x, dy, where), y, dy)


def test_what_is_masked_is_not_seen_in_the_statistics() -> None:
    """The mean and variance are NumPy's over the unmasked values alone, whatever lies between them."""
    where = np.random.default_rng(4).random((6, 4, 5)) < 0.6
    for garbage in (0.0, 1e300, np.nan, np.inf):
        layer = BatchNorm(4, momentum=1.0)
        y = layer(np.where(where, batch(6, 4, 5), garbage), where=where)
        for c in range(4):
            values = batch(6, 4, 5)[:, c][where[:, c]]
            np.testing.assert_allclose(layer.running_mean[c], values.mean(), **CLOSE)
            np.testing.assert_allclose(layer.running_var[c], values.var(ddof=1), **CLOSE)
            want = (values - values.mean()) / np.sqrt(values.var() + layer.eps)
            np.testing.assert_allclose(y[:, c][where[:, c]], want, **CLOSE)


def test_a_weight_is_the_number_of_times_a_row_is_there() -> None:
    times = np.array([3, 1, 0, 2, 4])
    layer = BatchNorm(3, momentum=1.0)
    layer(batch(5, 3), weights=times[:, None])
    rows = np.repeat(batch(5, 3), times, axis=0)
    np.testing.assert_allclose(layer.running_mean, rows.mean(axis=0), **CLOSE)
    np.testing.assert_allclose(layer.running_var, rows.var(axis=0, ddof=1), **CLOSE)


def test_all_true_and_all_one_are_the_plain_call() -> None:
    plain, x, dy = BatchNorm(4), batch(6, 4, 5), batch(6, 4, 5, seed=1)
    y, dx = plain(x), plain.backward(dy)
    for given in ({"where": True}, {"weights": 1}, {"weights": np.full((6, 1, 1), 2.5)}, {"lengths": [5] * 6}):
        layer = BatchNorm(4, correction=2.5 if "weights" in given and np.max(given["weights"]) > 1 else 1)
        np.testing.assert_array_equal(layer(x, **given), y)
        np.testing.assert_array_equal(layer.backward(dy), dx)
        np.testing.assert_array_equal(layer.running_mean, plain.running_mean)
        # 2.5 * 30 / (2.5 * 30 - 2.5) is 30 / 29: the same factor, rounded otherwise perhaps
        np.testing.assert_allclose(layer.running_var, plain.running_var, rtol=1e-15)


def test_a_channel_that_is_masked_whole() -> None:
    where = np.ones((6, 4, 5), bool)
    where[:, 2] = False
    layer = with_parameters(BatchNorm(4, activation="leaky_relu"))
    x, residual, dy = batch(6, 4, 5), batch(6, 4, 5, seed=1) - 3, batch(6, 4, 5, seed=2)
    y = layer(x, where=where, residual=residual)
    assert_step(layer, step(layer, x, dy, where, residual), y, dy, has_residual=True)
    assert layer.backward(dy)[0][:, 2].tolist() == np.zeros((6, 5)).tolist()
    assert (layer.running_mean[2], layer.running_var[2]) == (0.0, 1.0)
    assert (np.delete(layer.running_mean, 2) != 0).all()
    assert layer.num_batches_tracked == 1


@pytest.mark.parametrize("where", [np.False_, np.eye(6, 4, dtype=bool)[:, :, None] & (np.arange(5) == 2)])
def test_a_batch_that_updates_nothing_is_not_counted(where: Array) -> None:
    layer = BatchNorm(4, momentum=None)
    y = layer(batch(6, 4, 5), where=where)
    assert np.isfinite(y).all()
    assert layer.num_batches_tracked == 0
    assert (layer.running_mean.tolist(), layer.running_var.tolist()) == ([0.0] * 4, [1.0] * 4)
    layer(batch(6, 4, 5, seed=1))
    want = batch(6, 4, 5, seed=1).mean(axis=(0, 2))  # of one batch, not of two
    np.testing.assert_allclose(layer.running_mean, want, **CLOSE)


# Lengths.


@pytest.mark.parametrize(("shape", "axis"), [((6, 4, 5), 1), ((6, 5, 4), 2), ((6, 3, 5, 4), (1, 3)), ((6, 5), ())])
@pytest.mark.parametrize("dtype", [np.int8, np.uint64, None])
def test_lengths_are_of_the_first_positions(shape: tuple[int, ...], axis: Any, dtype: Any) -> None:
    lengths = [5, 0, 3, 1, 4, 2]
    at = next(a for a in range(1, len(shape)) if a not in np.atleast_1d(axis))
    where = np.zeros(shape, bool)
    for i, length in enumerate(lengths):
        where[(i, *[slice(None)] * (at - 1), slice(length))] = True
    layer, x, dy = BatchNorm(axis=axis), batch(*shape), batch(*shape, seed=1)
    y = layer(x, lengths=lengths if dtype is None else np.array(lengths, dtype))
    assert_step(layer, step(layer, x, dy, where), y, dy)
    also = np.random.default_rng(6).random(shape) < 0.7
    y = layer(x, lengths=lengths, where=also)
    assert_step(layer, step(layer, x, dy, where & also), y, dy)


def test_lengths_and_weights() -> None:
    layer, x, dy = BatchNorm(4), batch(6, 4, 5), batch(6, 4, 5, seed=1)
    lengths, weights = np.array([5, 0, 3, 1, 4, 2]), np.random.default_rng(2).uniform(0.1, 3.0, (6, 1, 1))
    y = layer(x, lengths=lengths, weights=weights)
    p = weights * (np.arange(5) < lengths[:, None, None])
    assert_step(layer, step(layer, x, dy, p), y, dy)


def test_the_mask_of_lengths_is_small() -> None:
    assert where_within([2, 1, 0], (3, 1000, 4), 1).shape == (3, 1, 4)
    assert where_within([2, 1, 0], (3, 4, 1000), -1).shape == (3, 4, 1)
    assert where_within([2, 1, 0], (3, 7, 4, 9), (1, 3)).tolist() == [
        [[[True], [True], [False], [False]]],
        [[[True], [False], [False], [False]]],
        [[[False]] * 4],
    ]
    assert where_within([2, 1, 0], (3, 1000, 4), 1, where=True).shape == (3, 1, 4)


def test_an_empty_batch_of_sequences() -> None:
    layer = BatchNorm(4)
    assert layer(np.empty((0, 4, 5)), lengths=[]).shape == (0, 4, 5)
    assert layer(np.empty((3, 4, 0)), lengths=[0, 0, 0]).shape == (3, 4, 0)
    assert layer.num_batches_tracked == 0


# Evaluation, and frozen statistics.


@pytest.mark.parametrize("given", [*MASKS.values(), {"lengths": [5, 4, 3, 2, 1, 0]}])
@pytest.mark.parametrize("frozen", [False, True])
def test_evaluation_does_not_depend_on_masks_and_weights(given: dict[str, Any], frozen: bool) -> None:
    layer = with_parameters(BatchNorm(4))
    layer(batch(6, 4, 5, seed=3))
    layer.freeze() if frozen else layer.eval()
    x, dy, before = batch(6, 4, 5), batch(6, 4, 5, seed=1), snapshot(layer)[:5]
    assert_step(layer, step(layer, x, dy, running=True), layer(x, **given), dy)
    np.testing.assert_equal(snapshot(layer)[:5], before)


# Where y goes.


@pytest.mark.parametrize("training", [True, False])
def test_out_is_filled_and_returned(training: bool) -> None:
    layer, x, dy = with_parameters(BatchNorm(4)).train(training), batch(6, 4, 5), batch(6, 4, 5, seed=1)
    out = np.full((6, 4, 5), np.nan)
    want = step(layer, x, dy, running=not training)
    assert layer(x, out=out) is out
    assert_step(layer, want, out, dy)


@pytest.mark.parametrize("training", [True, False])
def test_out_may_be_half_of_the_precision(training: bool) -> None:
    layer, x, dy = BatchNorm(4).train(training), batch(6, 4, 5, dtype=np.float32), batch(6, 4, 5, seed=1)
    out = np.empty((6, 4, 5), np.float16)
    want = step(layer, x, dy.astype(np.float16), running=not training)
    layer(x, out=out)
    # one rounding to float16 of a result good to float32's few ulp
    np.testing.assert_allclose(out, want.y, rtol=2**-11 * 1.01, atol=1e-6)
    dx = layer.backward(dy.astype(np.float16))
    assert dx.dtype == np.float16
    np.testing.assert_allclose(dx, want.dx, rtol=2**-11 * 1.01, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_in_place_and_then_no_backward(training: bool) -> None:
    layer, x = BatchNorm(4).train(training), batch(6, 4, 5)
    want = step(layer, x, x, running=not training)
    assert layer(x, out=x) is x
    np.testing.assert_allclose(x, want.y, **CLOSE)
    with pytest.raises(RuntimeError, match=r"backward needs x, and .*, but the call's out= wrote over it"):
        layer.backward(x)


@pytest.mark.parametrize("activation", [None, "relu"])
def test_added_in_place_of_the_residual(activation: Any) -> None:
    layer = BatchNorm(4, activation=activation)
    x, residual, dy = batch(6, 4, 5), batch(6, 4, 5, seed=1) - 3, batch(6, 4, 5, seed=2)
    want = step(layer, x, dy, residual=residual)
    assert layer(x, residual=residual, out=residual) is residual
    if activation is None:  # which does not ask where the sum was negative
        assert_step(layer, want, residual, dy, has_residual=True)
    else:
        np.testing.assert_allclose(residual, want.y, **CLOSE)
        with pytest.raises(RuntimeError, match=r"backward needs x, and .*, but the call's out= wrote over it"):
            layer.backward(dy)


def test_neighbours_in_memory_are_not_overwritten() -> None:
    layer, both, dy = BatchNorm(4), batch(6, 4, 10), batch(6, 4, 5, seed=1)
    x, out = both[..., ::2], both[..., 1::2]
    want = step(layer, x.copy(), dy)
    assert_step(layer, want, layer(x, out=out), dy)


# Other types.


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.int32])
@pytest.mark.parametrize("training", [True, False])
def test_integers_give_float32(dtype: Any, training: bool) -> None:
    layer = BatchNorm(4, activation="relu").train(training)
    x = np.random.default_rng(0).integers(0, 120, (6, 4, 5)).astype(dtype)
    residual, dy = (batch(6, 4, 5, seed=s, dtype=np.float32) for s in (1, 2))
    want = step(layer, x, dy, residual=residual, running=not training)
    y = layer(x, residual=residual)
    dx, dresidual = layer.backward(dy)
    assert y.dtype == dx.dtype == dresidual.dtype == np.float32
    scale = 16 * np.finfo(np.float32).eps  # 16 ulp of the largest term, as in py
    np.testing.assert_allclose(y, want.y, rtol=0, atol=scale * np.abs(want.y).max())
    np.testing.assert_allclose(dx, want.dx, rtol=0, atol=scale * np.abs(want.dx).max())
    np.testing.assert_array_equal(dresidual, want.dz)
    np.testing.assert_allclose(layer.grad_weight, want.dweight, rtol=2e-6, atol=2e-6 * np.abs(want.dweight).max())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype: str) -> None:
    half = np.float16 if dtype == "float16" else pytest.importorskip("ml_dtypes").bfloat16
    layer = BatchNorm(4, momentum=1.0)
    x, dy = batch(6, 4, 5).astype(half), batch(6, 4, 5, seed=1).astype(half)
    want = step(layer, x.astype(np.float64), dy.astype(np.float64))
    y = layer(x)
    dx = layer.backward(dy)
    assert y.dtype == dx.dtype == half
    half_ulp = 2.0**-11 if dtype == "float16" else 2.0**-8  # one rounding, of float32 results
    np.testing.assert_allclose(y.astype(np.float64), want.y, rtol=1.01 * half_ulp, atol=1e-6)
    np.testing.assert_allclose(dx.astype(np.float64), want.dx, rtol=1.01 * half_ulp, atol=1e-6)
    np.testing.assert_allclose(layer.running_mean, want.mean, **CLOSE)
    np.testing.assert_allclose(layer.grad_bias, want.dbias, **CLOSE)


# Calls that fail.

SHAPE = r"\(6, 4, 5\)"
BAD_IN_ANY_MODE = [
    ({"where": np.ones((6, 4, 5))}, TypeError, "where must"),
    (
        {"where": np.ones((6, 3, 1), bool)},
        ValueError,
        rf"where must be broadcastable to x's shape {SHAPE}, got \(6, 3, 1\)",
    ),
    ({"where": np.ones((1, 6, 4, 5), bool)}, ValueError, "where must be broadcastable"),
    ({"where": np.ma.masked_array(np.ones((6, 4, 5), bool))}, TypeError, "where must not be a masked array"),
    ({"where": [[True], [True, False]]}, TypeError, "where must"),
    ({"weights": np.ones((6, 4, 5), complex)}, TypeError, "weights must"),
    ({"weights": np.ones((6, 4, 5), object)}, TypeError, "weights must"),
    ({"weights": np.ones((6, 4, 5), "m8[s]")}, TypeError, "weights must"),
    ({"weights": ["a"]}, TypeError, "weights must"),
    ({"weights": np.ma.masked_array(np.ones((6, 4, 5)))}, TypeError, "weights must not be a masked array"),
    ({"weights": np.ones(4)}, ValueError, rf"weights must be broadcastable to x's shape {SHAPE}, got \(4,\)"),
    ({"weights": -np.ones(5)}, ValueError, "weights must be finite and not negative, got -1"),
    ({"weights": [1.0, 1.0, np.nan, 1.0, 1.0]}, ValueError, "weights must be finite and not negative, got nan"),
    ({"weights": [1.0, 1.0, np.inf, 1.0, 1.0]}, ValueError, "weights must be finite and not negative, got inf"),
    ({"lengths": [5.0] * 6}, TypeError, "lengths must hold integers, got dtype float64"),
    ({"lengths": [True] * 6}, TypeError, "lengths must hold integers, got dtype bool"),
    ({"lengths": [5] * 5}, ValueError, r"lengths must have shape \(6,\), got \(5,\)"),
    ({"lengths": 5}, ValueError, r"lengths must have shape \(6,\), got \(\)"),
    ({"lengths": [5] * 5 + [6]}, ValueError, r"lengths must be in \[0, 5\], up to x's size along axis 2, .*, got 6"),
    ({"lengths": [5, 5, -1, 5, 5, 5]}, ValueError, r"lengths must be in \[0, 5\], .*, got -1"),
    ({"lengths": np.ma.masked_array([5] * 6)}, TypeError, "lengths must not be a masked array"),
    ({"lengths": [5] * 6, "where": np.ones((6, 4, 5))}, TypeError, "where must have dtype bool"),
    ({"lengths": [5] * 6, "where": np.ones(4, bool)}, ValueError, "where must be broadcastable"),
    ({"residual": np.ones((6, 4, 5), np.float32)}, TypeError, "residual must"),
    ({"residual": np.ones((4, 5))}, ValueError, "residual must"),
    ({"residual": [[1.0], [1.0, 2.0]]}, TypeError, "residual must be an array, got"),
    ({"out": np.ones((6, 4, 4))}, ValueError, "out must"),
    ({"out": np.ones((6, 4, 5), int)}, TypeError, "out must"),
    ({"out": [1.0]}, TypeError, "out must"),
]


@pytest.mark.parametrize(("given", "error", "message"), BAD_IN_ANY_MODE)
@pytest.mark.parametrize("training", [True, False])
def test_a_call_that_fails_changes_nothing(
    given: dict[str, Any], error: type[Exception], message: str, training: bool
) -> None:
    layer, dy = with_parameters(BatchNorm(4, activation="relu")), batch(6, 4, 5, seed=1)
    layer(batch(6, 4, 5, seed=2))
    dx, before = layer.backward(dy), snapshot(layer)
    layer.train(training)
    kept = {name: value.copy() for name, value in given.items() if isinstance(value, np.ndarray)}
    with pytest.raises(error, match=message):
        layer(batch(6, 4, 5), **given)
    np.testing.assert_equal(snapshot(layer), before)
    np.testing.assert_equal({name: given[name] for name in kept}, kept)
    np.testing.assert_array_equal(layer.backward(dy), dx)


def test_lengths_that_leave_one_value() -> None:
    with pytest.raises(ValueError, match=r"where must leave more than the correction of 1 .*\(so must lengths, which"):
        BatchNorm(axis=-1)(batch(3, 2, 4), lengths=[1, 0, 0])


@pytest.mark.parametrize(("shape", "axis"), [((6, 4), 1), ((6, 4, 5), 0), ((6, 4, 5, 2), 1), ((6, 4, 5), ())])
def test_lengths_are_for_sequences(shape: tuple[int, ...], axis: Any) -> None:
    layer = BatchNorm(axis=axis)
    with pytest.raises(
        ValueError, match=r"lengths must come with an x of which axis 0 and one other are reduced \(where"
    ):
        layer(batch(*shape), lengths=[1] * 6)
    assert layer.num_features is None


@pytest.mark.parametrize("given", [{"where": np.ones(3)}, {"weights": -np.ones(5)}, {"residual": np.ones(3)}])
def test_a_failed_first_call_decides_nothing(given: dict[str, Any]) -> None:
    layer = BatchNorm()
    with pytest.raises((TypeError, ValueError), match=rf"{next(iter(given))} must"):
        layer(batch(6, 4, 5), **given)
    assert layer.num_features is layer.weight is layer.running_mean is None


def test_weights_too_light_for_the_unbiased_variance() -> None:
    layer = BatchNorm(4)
    before = snapshot(layer)
    with pytest.raises(ValueError, match="weights must"):
        layer(batch(6, 4, 5), weights=np.full((6, 1, 1), 1 / 60))
    np.testing.assert_equal(snapshot(layer), before)
    BatchNorm(4, correction=0)(batch(6, 4, 5), weights=np.full((6, 1, 1), 1 / 60))
    BatchNorm(4, track_running_stats=False)(batch(6, 4, 5), weights=np.full((6, 1, 1), 1 / 60))


@pytest.mark.parametrize("name", ["where", "weights", "lengths", "residual", "out"])
def test_options_of_a_call_are_keywords(name: str) -> None:
    with pytest.raises(TypeError, match="positional"):
        BatchNorm(4)(batch(6, 4, 5), None)  # type: ignore[misc]
    BatchNorm(4)(batch(6, 4, 5), **{name: None})


@pytest.mark.parametrize("y_dtype", [np.float16, np.float32, np.float64])
def test_dy_is_of_the_type_of_y(y_dtype: Any) -> None:
    layer = BatchNorm(4, activation="relu")
    layer(batch(6, 4, 5), residual=batch(6, 4, 5).astype(y_dtype), out=np.empty((6, 4, 5), y_dtype))
    before = snapshot(layer)
    for dtype in {np.float16, np.float32, np.float64, np.int8} - {y_dtype}:
        with pytest.raises(TypeError, match=f"dy must have y's dtype {np.dtype(y_dtype)}, got {np.dtype(dtype)}"):
            layer.backward(np.ones((6, 4, 5), dtype))
    with pytest.raises(ValueError, match="dy must"):
        layer.backward(np.ones((6, 4), y_dtype))
    np.testing.assert_equal(snapshot(layer), before)
    assert [d.dtype for d in layer.backward(np.ones((6, 4, 5), y_dtype))] == [y_dtype, y_dtype]
