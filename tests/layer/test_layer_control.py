"""The layer under control: batches not finite or too small, frozen layers, momentum schedules, and that all is kept."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastbn import BatchNorm
from support import oracle
from support.oracle import Array
from support.random_arrays import batch
from support.tolerances import CLOSE


def used(**options: Any) -> BatchNorm:
    """Return a layer of three features with no number in its default state."""
    layer = BatchNorm(3, **options)
    layer(batch(9, 3, seed=10))
    layer.backward(batch(9, 3, seed=11))
    for array, seed in zip(layer.parameters(), (12, 13), strict=True):
        array[...] = batch(3, seed=seed)
    return layer


def assert_normalized_by_running(layer: BatchNorm, y: Array, x: Array, dy: Array) -> None:
    """Assert that y and the gradient of the layer's last call are those of constant statistics."""
    want = oracle.normalize(x, layer.running_mean, layer.running_var, layer.weight, layer.bias)
    np.testing.assert_allclose(y, want, **CLOSE)
    invstd = 1 / np.sqrt(layer.running_var + layer.eps)
    gradients = oracle.backward(dy, x, layer.weight, layer.running_mean, invstd, training=False)
    np.testing.assert_allclose(layer.backward(dy), gradients.dx, **CLOSE)


# Batches that are not finite.


def spoiled(value: float) -> Array:
    x = batch(9, 3)
    x[4, 1] = value
    return x


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_batch_that_is_not_finite_is_skipped_as_a_whole(value: float, momentum: float | None) -> None:
    layer, plain = used(on_nonfinite="skip", momentum=momentum), used(momentum=momentum)
    before = layer.state_dict()
    y = layer(spoiled(value))
    np.testing.assert_equal(layer.state_dict(), before)
    np.testing.assert_array_equal(y, plain(spoiled(value)))  # promised: y is computed all the same
    dy = batch(9, 3, seed=1)
    np.testing.assert_array_equal(layer.backward(dy), plain.backward(dy))
    assert plain.num_batches_tracked == 2
    assert not np.isfinite(plain.running_var[1])
    x = batch(8, 3, seed=2)
    layer(x)
    rate = 0.1 if momentum else 0.5  # the second batch, not the third
    want = oracle.updated(before["running_var"], x.var(axis=0, ddof=1), rate)
    np.testing.assert_allclose(layer.running_var, want, **CLOSE)
    assert layer.num_batches_tracked == 2


def test_finite_batches_are_not_skipped() -> None:
    layer, plain = BatchNorm(3, on_nonfinite="skip"), BatchNorm(3)
    for seed in range(3):
        np.testing.assert_array_equal(layer(batch(9, 3, seed=seed)), plain(batch(9, 3, seed=seed)))
    np.testing.assert_equal(layer.state_dict(), plain.state_dict())


def test_masked_values_cannot_make_a_batch_be_skipped() -> None:
    layer = BatchNorm(3, on_nonfinite="skip", momentum=1.0)
    layer(spoiled(np.nan), where=(np.arange(9) != 4)[:, None])
    assert layer.num_batches_tracked == 1
    np.testing.assert_allclose(layer.running_mean, np.delete(batch(9, 3), 4, axis=0).mean(axis=0), **CLOSE)
    where = np.ones((9, 3), bool)
    where[:, 1] = False  # a channel that is masked whole is no reason either
    layer(spoiled(np.inf), where=where)
    assert layer.num_batches_tracked == 2


def test_without_running_statistics_there_is_nothing_to_skip() -> None:
    layer = BatchNorm(3, on_nonfinite="skip", track_running_stats=False)
    y = layer(spoiled(np.nan))
    assert np.isnan(y).all(axis=0).tolist() == [False, True, False]
    assert layer.num_batches_tracked == 0


# Batches of one value.


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)])
def test_one_value_is_normalized_to_the_bias(shape: tuple[int, ...]) -> None:
    layer = used(on_single="biased")
    x, mean, var = batch(*shape), layer.running_mean.copy(), layer.running_var.copy()
    np.testing.assert_array_equal(layer(x), layer.bias.reshape(shape))
    np.testing.assert_allclose(layer.running_mean, oracle.updated(mean, x.ravel(), 0.1), **CLOSE)
    np.testing.assert_allclose(layer.running_var, oracle.updated(var, 0.0, 0.1), **CLOSE)
    assert layer.num_batches_tracked == 2
    dy = batch(*shape, seed=1)
    assert layer.backward(dy).tolist() == np.zeros(shape).tolist()  # mean is x: no x makes another y
    assert layer.grad_weight.tolist() == [0.0] * 3
    np.testing.assert_array_equal(layer.grad_bias, dy.ravel())


def test_one_value_is_an_error_otherwise() -> None:
    layer = used()
    before = layer.state_dict()
    with pytest.raises(ValueError, match="x must"):
        layer(batch(1, 3))
    np.testing.assert_equal(layer.state_dict(), before)


@pytest.mark.parametrize("on_single", ["error", "biased"])
def test_larger_batches_remember_the_unbiased_variance(on_single: Any) -> None:
    layer = BatchNorm(3, on_single=on_single, momentum=1.0)
    layer(batch(2, 3))
    np.testing.assert_allclose(layer.running_var, batch(2, 3).var(axis=0, ddof=1), **CLOSE)


@pytest.mark.parametrize("on_single", ["error", "biased"])
def test_channels_with_one_unmasked_value(on_single: Any) -> None:
    layer = BatchNorm(3, on_single=on_single, momentum=1.0)
    x, where = batch(9, 3), np.ones((9, 3), bool)
    where[1:, 1] = False  # one value
    where[:, 2] = False  # none
    layer(x, where=where)
    assert layer.num_batches_tracked == 1
    np.testing.assert_allclose(layer.running_var[0], x[:, 0].var(ddof=1), **CLOSE)
    biased = on_single == "biased"
    np.testing.assert_allclose(layer.running_mean[1], x[0, 1] if biased else 0.0, **CLOSE)
    assert layer.running_var[1] == (0.0 if biased else 1.0)
    assert (layer.running_mean[2], layer.running_var[2]) == (0.0, 1.0)


def test_light_weights_remember_the_biased_variance() -> None:
    layer = BatchNorm(3, on_single="biased", momentum=1.0)
    layer(batch(9, 3), weights=np.full((9, 1), 1 / 16))
    np.testing.assert_allclose(layer.running_var, batch(9, 3).var(axis=0), **CLOSE)
    assert layer.num_batches_tracked == 1


def test_a_correction_as_large_as_the_batch() -> None:
    layer = BatchNorm(3, on_single="biased", momentum=1.0, correction=9)
    layer(batch(9, 3))
    np.testing.assert_allclose(layer.running_var, batch(9, 3).var(axis=0), **CLOSE)


# Frozen.


@pytest.mark.parametrize("parameters", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_frozen_statistics_normalize_and_stay(parameters: bool, training: bool) -> None:
    layer = used().train(training)
    assert layer.frozen is False
    assert layer.freeze(parameters) is layer
    assert (layer.frozen, layer.frozen_parameters, layer.training) == (True, parameters, training)
    before, gradients = layer.state_dict(), [g.copy() for g in layer.gradients()]
    x, dy = batch(7, 3), batch(7, 3, seed=1)
    assert_normalized_by_running(layer, layer(x), x, dy)
    np.testing.assert_equal(layer.state_dict(), before)
    if parameters:
        np.testing.assert_array_equal(layer.gradients(), gradients)
    else:
        np.testing.assert_allclose(layer.grad_bias, dy.sum(axis=0), **CLOSE)
    assert layer(batch(1, 3)).shape == (1, 3)  # one value per channel is enough here


def test_modes_and_freezing_do_not_undo_each_other() -> None:
    layer = used().freeze(parameters=True).eval().train()
    assert layer.frozen
    assert layer.frozen_parameters
    assert not layer.freeze().frozen_parameters
    assert layer.freeze(True).unfreeze() is layer
    assert (layer.frozen, layer.frozen_parameters) == (False, False)
    assert layer.unfreeze().frozen is False


def test_after_unfreeze_the_batch_normalizes_again() -> None:
    layer, x = used().freeze(), batch(7, 3)
    layer(x)
    y = layer.unfreeze()(x)
    np.testing.assert_allclose(y, oracle.train(x, layer.weight, layer.bias).y, **CLOSE)
    assert layer.num_batches_tracked == 2


def test_the_call_decides_what_backward_does_not_the_freezing_of_now() -> None:
    layer, x, dy = used(), batch(7, 3), batch(7, 3, seed=1)
    layer(x)
    training = layer.backward(dy)
    layer.gradients()[0][...] = 0.0
    np.testing.assert_array_equal(layer.freeze(parameters=True).backward(dy), training)
    assert layer.grad_weight.all()
    y, gradients = layer(x), [g.copy() for g in layer.gradients()]
    assert_normalized_by_running(layer.unfreeze(), y, x, dy)
    np.testing.assert_array_equal(layer.gradients(), gradients)


def test_a_frozen_layer_learns_its_parameters() -> None:
    layer, x, target = used().freeze(), batch(64, 3), batch(64, 3) * [5.0, -3.0, 1.0] + 1.0
    mean, var = layer.running_mean.copy(), layer.running_var.copy()
    for _ in range(300):
        layer.backward((layer(x) - target) / len(x))
        for parameter, grad in zip(layer.parameters(), layer.gradients(), strict=True):
            parameter -= 0.15 * grad
    # Each step leaves 0.85 of what is missing or, where the statistics fit less well, a little more: 300 leave nothing.
    np.testing.assert_allclose(layer(x), target, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal([layer.running_mean, layer.running_var], [mean, var])


def test_freezing_refused() -> None:
    with pytest.raises(ValueError, match="track_running_stats must be True for freeze, got False"):
        BatchNorm(3, track_running_stats=False).freeze()
    layer = BatchNorm(3)
    with pytest.raises(TypeError, match="parameters must be True or False, got 1"):
        layer.freeze(1)  # type: ignore[arg-type]
    assert layer.frozen is False


def test_a_frozen_layer_whose_features_are_undecided() -> None:
    layer = BatchNorm().freeze()
    with pytest.raises(RuntimeError, match="num_features must be known"):
        layer(batch(9, 3))
    assert layer.num_features is None
    layer.unfreeze()(batch(9, 3))
    assert layer.num_features == 3


# Momentum as a function of the step.


def test_momentum_follows_its_schedule() -> None:
    steps: list[int] = []

    def momentum(step: int) -> float:
        steps.append(step)
        return 1.0 / (step + 2) ** 0.5

    layer, mean = BatchNorm(3, momentum=momentum), np.zeros(3)
    for seed in range(4):
        layer(batch(9, 3, seed=seed))
        layer.eval()(batch(9, 3))
        layer.train().freeze()(batch(9, 3))
        layer.unfreeze()
        mean = oracle.updated(mean, batch(9, 3, seed=seed).mean(axis=0), 1.0 / (seed + 2) ** 0.5)
    assert steps == [0, 1, 2, 3]  # and not in evaluation, nor frozen
    np.testing.assert_allclose(layer.running_mean, mean, **CLOSE)


@pytest.mark.parametrize("value", [0, 1, 0.5, np.float32(0.25)])
def test_momentum_may_return_any_real_number(value: Any) -> None:
    layer = BatchNorm(3, momentum=lambda step: value)
    layer(batch(9, 3))
    want = oracle.updated(np.zeros(3), batch(9, 3).mean(axis=0), value)
    np.testing.assert_allclose(layer.running_mean, want, **CLOSE)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (1.5, ValueError, r"momentum\(step\) must be in \[0, 1\], got 1.5"),
        (-0.1, ValueError, r"momentum\(step\) must be in \[0, 1\], got -0.1"),
        (np.nan, ValueError, r"momentum\(step\) must be in \[0, 1\], got nan"),
        (None, TypeError, r"momentum\(step\) must be a real number, got None"),
        (True, TypeError, r"momentum\(step\) must be a real number, got True"),
        ("0.1", TypeError, r"momentum\(step\) must be a real number, got '0.1'"),
    ],
)
@pytest.mark.parametrize("features", [3, None])
def test_momentum_that_returns_nonsense(value: Any, error: type[Exception], message: str, features: int | None) -> None:
    layer = BatchNorm(features, momentum=lambda step: value)
    with pytest.raises(error, match=message):
        layer(batch(9, 3))
    assert (layer.num_features, layer.num_batches_tracked) == (features, 0)
    assert features is None or layer.running_mean.tolist() == [0.0] * 3


def test_an_error_of_the_schedule_is_passed_on_and_changes_nothing() -> None:
    def momentum(step: int) -> float:
        if step > 0:
            raise KeyError("no more steps")
        return 0.5

    layer, dy = BatchNorm(3, momentum=momentum), batch(9, 3, seed=1)
    layer(batch(9, 3))
    dx, before = layer.backward(dy), layer.state_dict()
    with pytest.raises(KeyError, match="no more steps"):
        layer(batch(9, 3))
    np.testing.assert_equal(layer.state_dict(), before)
    np.testing.assert_array_equal(layer.backward(dy), dx)


def test_without_running_statistics_the_schedule_is_not_asked() -> None:
    def momentum(step: int) -> float:
        raise AssertionError

    BatchNorm(3, momentum=momentum, track_running_stats=False)(batch(9, 3))


# Options refused.


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"activation": "gelu"}, ValueError, "activation must be None or 'relu' or 'leaky_relu', got 'gelu'"),
        ({"activation": 1}, TypeError, "activation must be None or 'relu' or 'leaky_relu', got 1"),
        ({"activation": np.array(["relu"])}, TypeError, "activation must be None or 'relu'"),
        ({"negative_slope": np.inf}, ValueError, "negative_slope must be finite, got inf"),
        ({"negative_slope": -np.inf}, ValueError, "negative_slope must be finite, got -inf"),
        ({"negative_slope": np.nan}, ValueError, "negative_slope must be finite, got nan"),
        ({"negative_slope": "0.1"}, TypeError, "negative_slope must be a real number, got '0.1'"),
        ({"on_nonfinite": "ignore"}, ValueError, "on_nonfinite must be 'propagate' or 'skip', got 'ignore'"),
        ({"on_nonfinite": None}, TypeError, "on_nonfinite must be 'propagate' or 'skip', got None"),
        ({"on_single": "skip"}, ValueError, "on_single must be 'error' or 'biased', got 'skip'"),
        ({"on_single": True}, TypeError, "on_single must be 'error' or 'biased', got True"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        BatchNorm(3, **options)
    layer, ((name, value),) = used(), options.items()
    setattr(layer, name, value)
    if name == "negative_slope":
        layer.activation = "leaky_relu"
    before = layer.state_dict()
    with pytest.raises(error, match=f"{name} must"):
        layer(batch(9, 3))
    np.testing.assert_equal(layer.state_dict(), before)


def test_words_are_kept_as_plain_words() -> None:
    layer = BatchNorm(3, activation=np.str_("relu"), on_single=np.str_("biased"))  # type: ignore[arg-type]
    assert (type(layer.activation), type(layer.on_single)) == (str, str)


# Saved, loaded, pickled, copied and shown.

NEW = {"activation": "leaky_relu", "negative_slope": 0.25, "on_nonfinite": "skip", "on_single": "biased"}
VARIANTS = [{}, *({name: value} for name, value in NEW.items()), NEW]
WAYS: dict[str, Callable[[BatchNorm], BatchNorm]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
}


def assert_same_layer(one: BatchNorm, other: BatchNorm) -> None:
    assert repr(one) == repr(other)
    for name in ("training", "frozen", "frozen_parameters", *NEW):
        assert getattr(one, name) == getattr(other, name)
        assert type(getattr(one, name)) is type(getattr(other, name))
    np.testing.assert_equal(one.state_dict(), other.state_dict())
    x = batch(5, 3)
    np.testing.assert_array_equal(copy.deepcopy(one)(x), copy.deepcopy(other)(x))


def frozen(layer: BatchNorm, how: bool | None) -> BatchNorm:
    return layer if how is None else layer.freeze(how)


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("how", [None, False, True])
@pytest.mark.parametrize("training", [True, False])
def test_options_and_modes_are_saved(tmp_path: Path, options: dict[str, Any], how: bool | None, training: bool) -> None:
    layer = frozen(used(**options), how).train(training)
    layer.save(tmp_path / "layer.npz")
    assert_same_layer(BatchNorm.load(tmp_path / "layer.npz"), layer)


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("how", [None, False, True])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_options_and_modes_are_copied(
    options: dict[str, Any], how: bool | None, way: Callable[[BatchNorm], BatchNorm]
) -> None:
    layer = frozen(used(**options), how)
    assert_same_layer(way(layer), layer)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_copies_leave_the_last_batch_behind(way: Callable[[BatchNorm], BatchNorm]) -> None:
    layer, x = BatchNorm(3, activation="relu"), batch(999, 3)
    size = len(pickle.dumps(layer))
    layer(x, residual=x, where=np.ones((999, 3), bool), weights=np.ones((999, 3)))
    assert len(pickle.dumps(layer)) < size + 100
    with pytest.raises(RuntimeError, match="backward needs a call"):
        way(layer).backward(x)


def test_repr_shows_the_options_that_were_given() -> None:
    old = "BatchNorm(3, axis=1, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True, correction=1, "
    assert repr(BatchNorm(3)) == old + "dtype='float64')"
    assert repr(BatchNorm(3, on_single="biased")) == old + "on_single='biased', dtype='float64')"
    assert repr(BatchNorm(3, **NEW)) == (
        old + "activation='leaky_relu', negative_slope=0.25, on_nonfinite='skip', on_single='biased', dtype='float64')"
    )


@pytest.mark.parametrize("options", VARIANTS)
def test_repr_makes_the_same_layer(options: dict[str, Any]) -> None:
    again = eval(repr(used(**options)), {"BatchNorm": BatchNorm})
    assert {name: getattr(again, name) for name in options} == options


def halved(step: int) -> float:
    return 0.5


def test_a_schedule_is_pickled_but_not_saved(tmp_path: Path) -> None:
    layer = used(momentum=halved)
    for way in WAYS.values():
        other = way(layer)
        assert other.momentum is halved
        other(batch(9, 3))
    path = tmp_path / "layer.npz"
    used().save(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="momentum must be a number or None to be saved, got <function halved"):
        layer.save(path)
    assert path.read_bytes() == before
    assert "momentum=<function halved" in repr(layer)
    np.testing.assert_array_equal(BatchNorm(momentum=halved).freeze().frozen, True)


# What version 0.1.0 wrote, and can read.

OLD_OPTIONS = {
    "num_features": 3,
    "axis": -1,
    "eps": 0.001,
    "momentum": None,
    "affine": True,
    "track_running_stats": True,
    "correction": 0,
    "dtype": "float32",
}


def old_file(path: Path, **config: Any) -> dict[str, Array]:
    """Write a file as version 0.1.0 did: arrays under PyTorch's keys, and all else as JSON in "config"."""
    arrays = {
        "weight": np.array([1.0, 2.0, 3.0], np.float32),
        "bias": np.array([-1.0, 0.0, 1.0], np.float32),
        "running_mean": np.array([0.5, 1.5, 2.5], np.float32),
        "running_var": np.array([0.25, 1.0, 4.0], np.float32),
        "num_batches_tracked": np.array(5),
    }
    with path.open("wb") as file:
        np.savez(file, config=np.array(json.dumps(config)), **arrays)
    return arrays


@pytest.mark.parametrize("training", [True, False])
def test_files_of_the_first_version_are_loaded(tmp_path: Path, training: bool) -> None:
    arrays = old_file(tmp_path / "old.npz", format=1, **OLD_OPTIONS, training=training)
    layer = BatchNorm.load(tmp_path / "old.npz")
    np.testing.assert_equal(layer.state_dict(), arrays)
    assert layer.training is training
    assert {name: getattr(layer, name) for name in OLD_OPTIONS} == OLD_OPTIONS
    assert (layer.activation, layer.negative_slope, layer.frozen) == (None, 0.01, False)
    x = batch(4, 3)
    want = oracle.normalize(x, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=0.001)
    np.testing.assert_allclose(layer.eval()(x), want, **CLOSE)


def config_of(layer: BatchNorm, path: Path) -> dict[str, Any]:
    layer.save(path)
    with np.load(path) as archive:
        config: dict[str, Any] = json.loads(str(archive["config"]))
    return config


def test_layers_that_use_nothing_new_are_written_as_before(tmp_path: Path) -> None:
    layer = BatchNorm(3, axis=-1, eps=0.001, momentum=None, correction=0, dtype=np.float32)
    assert config_of(layer, tmp_path / "layer") == {"format": 1, **OLD_OPTIONS, "training": True}
    assert config_of(BatchNorm(3, **NEW), tmp_path / "layer").items() >= NEW.items()


@pytest.mark.parametrize(
    "changes",
    [
        {"activation": "gelu"},
        {"negative_slope": None},
        {"on_single": 1},
        {"frozen": 1},
        {"frozen": True, "frozen_parameters": "no"},
        {"momentum": "function"},
    ],
)
def test_files_with_options_of_no_meaning(tmp_path: Path, changes: dict[str, Any]) -> None:
    old_file(tmp_path / "layer.npz", **{"format": 1, **OLD_OPTIONS, "training": True} | changes)
    with pytest.raises(ValueError, match=r"path must name a file written by BatchNorm.save, got '.*layer.npz': "):
        BatchNorm.load(tmp_path / "layer.npz")


def test_pickles_of_the_first_version_are_loaded() -> None:
    layer = used()
    state = {k: v for k, v in layer.__getstate__().items() if k not in (*NEW, "frozen", "frozen_parameters")}
    old = BatchNorm.__new__(BatchNorm)
    old.__setstate__(state)
    assert_same_layer(old, layer)
