"""Promise: Keras layers become layers and layers Keras's: the same results, and the same running statistics."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from fastbn import BatchNorm
from fastbn.interop import from_keras, to_keras
from support.oracle import Array
from support.random_arrays import batch

pytest.importorskip("torch")
os.environ.setdefault("KERAS_BACKEND", "torch")  # read when Keras is imported
keras = pytest.importorskip("keras")

# Of Keras, which converts PyTorch's tensors so.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

OPTIONS: list[dict[str, Any]] = [
    {},
    {"center": False},
    {"scale": False},
    {"center": False, "scale": False, "momentum": 0.9, "epsilon": 1e-5},
    {"axis": 1, "momentum": 0.0},
]
# Keras computes in float32: some thirty roundings.
CLOSE: dict[str, Any] = {"rtol": 5e-6, "atol": 5e-6}


def keras_layer(shape: tuple[int, ...], **options: Any) -> Any:
    layer = keras.layers.BatchNormalization(**options)
    layer.build((None, *shape[1:]))
    rng = np.random.default_rng(1)
    for variable in layer.variables:
        variable.assign(rng.uniform(0.5, 2.0, variable.shape))
    return layer


def numpy_of(tensor: Any) -> Array:
    array: Array = keras.ops.convert_to_numpy(tensor)
    return array


def assert_alike(layer: BatchNorm, theirs: Any, x: Array) -> None:
    """Run two training steps and an evaluation on both sides."""
    for training in (True, True, False):
        layer.train(training)
        np.testing.assert_allclose(layer(x), numpy_of(theirs(x, training=training)), **CLOSE)
        np.testing.assert_allclose(layer.running_mean, numpy_of(theirs.moving_mean), **CLOSE)
        np.testing.assert_allclose(layer.running_var, numpy_of(theirs.moving_variance), **CLOSE)


@pytest.mark.parametrize("options", OPTIONS)
def test_there_and_back(options: dict[str, Any]) -> None:
    x = batch(6, 3, 4, 3, dtype=np.float32)
    theirs = keras_layer(x.shape, **options)
    layer = from_keras(theirs)
    assert (layer.axis, layer.eps, layer.correction) == (theirs.axis, theirs.epsilon, 0)
    assert 1 - layer.momentum == theirs.momentum
    assert (layer.use_weight, layer.use_bias, layer.dtype) == (theirs.scale, theirs.center, np.float32)
    back = to_keras(layer, ndim=4)
    assert back.get_config() | {"name": ""} == theirs.get_config() | {"name": "", "dtype": back.get_config()["dtype"]}
    for one, other in zip(back.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert_alike(layer, theirs, x)
    assert_alike(from_keras(back), back, x)


def test_ours_there() -> None:
    x = batch(6, 3, 4, dtype=np.float32)
    layer = BatchNorm(3, correction=0, momentum=0.25, dtype=np.float32)
    layer(x)
    assert_alike(layer, to_keras(layer, ndim=3), x)


def test_layers_that_are_not_built() -> None:
    layer = from_keras(keras.layers.BatchNormalization(scale=False, dtype="float64"))
    assert layer.num_features is None
    assert (layer.use_weight, layer.use_bias, layer.dtype, layer.eps) == (False, True, np.float64, 1e-3)
    assert from_keras(keras.layers.BatchNormalization()).dtype == np.float32
    with pytest.raises(RuntimeError, match="layer must have its features decided"):
        to_keras(layer, ndim=2)


def test_frozen_layers() -> None:
    x = batch(6, 3, dtype=np.float32)
    theirs = keras_layer(x.shape)
    theirs.trainable = False
    layer = from_keras(theirs)
    assert (layer.frozen, layer.frozen_parameters) == (True, True)
    np.testing.assert_allclose(layer(x), numpy_of(theirs(x, training=True)), **CLOSE)
    assert to_keras(layer, ndim=2).trainable is False
    with pytest.raises(
        ValueError, match="layer must be frozen with its parameters for Keras, got frozen_parameters=Fal"
    ):
        to_keras(layer.unfreeze().freeze(), ndim=2)


def test_renormalization_by_the_statistics_that_keras_keeps_for_it() -> None:
    """Keras renormalizes by averages of means and of deviations; ours has the variance, and the one pair of both uses.

    Given the same statistics, y is the same; afterwards running deviations differ: the root of an average of variances
    is not the average of roots.
    """
    x = batch(6, 3, dtype=np.float32)
    clipping = {"rmax": 1.5, "rmin": 1 / 1.5, "dmax": 0.3}
    theirs = keras.layers.BatchNormalization(renorm=True, renorm_clipping=clipping, renorm_momentum=0.9, momentum=0.9)
    theirs.build((None, 3))
    rng = np.random.default_rng(2)
    mean, var = rng.normal(3.0, 1.0, 3).astype(np.float32), rng.uniform(1.0, 4.0, 3).astype(np.float32)
    theirs.renorm_mean.assign(mean)
    theirs.renorm_stddev.assign(np.sqrt(var + 1e-3))
    layer = BatchNorm(3, renorm=(1.5, 0.3), momentum=0.1, correction=0, eps=1e-3, axis=-1)
    layer.running_mean[...], layer.running_var[...] = mean, var
    np.testing.assert_allclose(layer(x), numpy_of(theirs(x, training=True)), **CLOSE)
    np.testing.assert_allclose(layer.running_mean, numpy_of(theirs.renorm_mean), **CLOSE)
    stds = np.sqrt(var + 1e-3), np.sqrt(x.var(axis=0, dtype=np.float64) + 1e-3)
    np.testing.assert_allclose(numpy_of(theirs.renorm_stddev), 0.9 * stds[0] + 0.1 * stds[1], **CLOSE)
    np.testing.assert_allclose(
        np.sqrt(layer.running_var + 1e-3), np.sqrt(0.9 * stds[0] ** 2 + 0.1 * stds[1] ** 2), **CLOSE
    )
    with pytest.raises(ValueError, match="layer must have renorm=False, since Keras keeps other statistics for it"):
        from_keras(theirs)


def test_what_is_no_batch_normalization() -> None:
    with pytest.raises(TypeError, match=r"layer must be a keras\.layers\.BatchNormalization, got Dense"):
        from_keras(keras.layers.Dense(3))


REFUSED = [
    (BatchNorm(3), "layer's correction must be 0 for Keras, which remembers the biased variance, got 1: set it"),
    (BatchNorm(3, correction=0, momentum=None), "layer's momentum must be a number for Keras, got None"),
    (BatchNorm(3, correction=0, track_running_stats=False), "layer's track_running_stats must be True for Keras, got"),
    (BatchNorm((3, 2), correction=0, axis=(1, 2)), r"layer's axis must be one int for Keras, got \(1, 2\)"),
]


@pytest.mark.parametrize(("layer", "message"), REFUSED)
def test_what_keras_does_not_have(layer: BatchNorm, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_keras(layer, ndim=4)


@pytest.mark.parametrize(
    ("ndim", "error", "message"),
    [
        (1, ValueError, "ndim must be at least 2 and have 1 as an axis, got 1"),
        (True, TypeError, "ndim must be an int, got True"),
        (2.0, TypeError, r"ndim must be an int, got 2\.0"),
        ("4", TypeError, "ndim must be an int, got '4'"),
    ],
)
def test_what_is_no_number_of_dimensions(ndim: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        to_keras(BatchNorm(3, correction=0), ndim=ndim)
