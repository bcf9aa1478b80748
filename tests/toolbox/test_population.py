"""Promise: `population_statistics` leaves layers the exact statistics of what they were given, and else as before."""

from __future__ import annotations

import copy
import importlib
import pickle
import warnings
from typing import Any

import numpy as np
import pytest

from fastbn import BatchNorm, population_statistics
from support import oracle
from support.oracle import Array
from support.random_arrays import batch
from support.tolerances import CLOSE

MODES = [lambda layer: layer.train(), lambda layer: layer.eval(), lambda layer: layer.freeze()]


def used() -> BatchNorm:
    layer = BatchNorm(3)
    layer(batch(6, 3, 4))
    layer.backward(batch(6, 3, 4, seed=1))
    return layer


def unlike(n: int) -> list[Array]:
    """Return batches of unequal sizes and far means."""
    return [1e3 * seed + batch(3 + 4 * seed, 3, 4, seed=seed) for seed in range(n)]


def everything(layer: BatchNorm) -> dict[str, Any]:
    parts = ("num_features", "training", "frozen", "frozen_parameters", "num_batches_tracked", "grad_weight")
    arrays = ("grad_bias", "weight", "bias", "running_mean", "running_var")
    return {name: copy.deepcopy(getattr(layer, name)) for name in (*parts, *arrays)}


def measure(*calls: tuple[BatchNorm, Array]) -> None:
    with population_statistics(*(layer for layer, _ in calls)):
        for layer, x in calls:
            layer(x)


@pytest.mark.parametrize("mode", MODES, ids=["training", "evaluation", "frozen"])
@pytest.mark.parametrize("correction", [0, 1, 2.5])
def test_exact_over_unlike_batches(mode: Any, correction: float) -> None:
    layer = used()
    layer.correction = correction
    mode(layer)
    before = everything(layer)
    with population_statistics(layer):
        for x in unlike(4):
            np.testing.assert_allclose(layer(x), oracle.train(x).y, rtol=1e-12, atol=1e-9)
        np.testing.assert_equal(everything(layer), before)
    want = oracle.moments(np.concatenate(unlike(4)))
    np.testing.assert_allclose(layer.running_mean, want.mean, rtol=1e-15)
    np.testing.assert_allclose(layer.running_var, want.m2 / (want.count - correction), rtol=1e-14)
    after = everything(layer)
    for name in ("running_mean", "running_var"):
        before[name] = after[name]
    np.testing.assert_equal(after, before)


def test_averages_are_not_exact() -> None:
    averaged, exact = BatchNorm(3, momentum=None), BatchNorm(3)
    with population_statistics(exact):
        for x in unlike(4):
            averaged(x)
            exact(x)
    assert (averaged.running_var < 1e-3 * exact.running_var).all()


def test_masks_and_weights() -> None:
    layer, rng, p = BatchNorm(3), np.random.default_rng(0), []
    with population_statistics(layer):
        for x in unlike(3):
            where, weights = rng.random(x.shape) < 0.6, rng.random((len(x), 1, 1))
            p.append(oracle.element_weights(x.shape, where, weights))
            layer(x, where=where, weights=weights)
        lengths = np.array([1, 2])
        x = batch(2, 5, 3, seed=8)
    want = oracle.moments(np.concatenate(unlike(3)), p=np.concatenate(p))
    np.testing.assert_allclose(layer.running_mean, want.mean, rtol=1e-14)
    np.testing.assert_allclose(layer.running_var, want.m2 / (want.count - 1), rtol=1e-13)
    sequences = BatchNorm(3, axis=-1)
    with population_statistics(sequences):
        sequences(x, lengths=lengths)
    kept = np.concatenate([x[0, :1], x[1, :2]])
    np.testing.assert_allclose(sequences.running_mean, kept.mean(0), **CLOSE)
    np.testing.assert_allclose(sequences.running_var, kept.var(0, ddof=1), **CLOSE)


def test_a_channel_without_values_keeps_its_statistics() -> None:
    layer = used()
    before = everything(layer)
    x = batch(6, 3, 4, seed=5)
    with population_statistics(layer):
        layer(x, where=np.array([True, False, True])[:, None])
    assert layer.running_mean[1] == before["running_mean"][1]
    assert layer.running_var[1] == before["running_var"][1]
    np.testing.assert_allclose(layer.running_mean[[0, 2]], x.mean((0, 2))[[0, 2]], **CLOSE)


def test_one_value_is_an_error_unless_it_is_allowed() -> None:
    with pytest.raises(ValueError, match="more than one value per channel"), population_statistics(layer := used()):
        layer(batch(1, 3))
    layer = BatchNorm(3, on_single="biased")
    with population_statistics(layer):
        layer(np.array([[1.0, 2.0, 3.0]]))
    np.testing.assert_array_equal(layer.running_mean, [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(layer.running_var, 0.0)


def test_shared_nested_and_several_layers() -> None:
    one, other = BatchNorm(3), BatchNorm(3)
    first, second, third = unlike(3)
    with population_statistics(one, other, one):
        other(one(first))
        with population_statistics(one):
            other(one(second))
        inner = one.running_mean.copy()
        y = one(third)
        other(y)
        other(one(y))
    np.testing.assert_allclose(inner, second.mean((0, 2)), **CLOSE)
    seen = np.concatenate([first, second, third, y])
    np.testing.assert_allclose(one.running_mean, seen.mean((0, 2)), **CLOSE)
    np.testing.assert_allclose(one.running_var, oracle.moments(seen).m2 / (seen.size / 3 - 1), **CLOSE)
    assert other.num_batches_tracked == one.num_batches_tracked == 0
    np.testing.assert_allclose(one(third), oracle.train(third).y, rtol=1e-12, atol=1e-9)
    assert one.num_batches_tracked == 1


def test_what_raises_inside_leaves_everything_as_it_was() -> None:
    layer, other, undecided = used(), used().eval(), BatchNorm()
    x, dy = batch(6, 3, 4), batch(6, 3, 4, seed=9)
    layer(x)
    dx, before = layer.backward(dy), [everything(each) for each in (layer, other, undecided)]

    class Unforeseen(BaseException):
        pass

    def run() -> None:
        with population_statistics(layer, other, undecided):
            for each in (layer, other, undecided):
                with population_statistics(each):
                    each(unlike(2)[1])
            layer.eval()
            other.train().num_batches_tracked = 7
            raise Unforeseen

    with pytest.raises(Unforeseen):
        run()
    for each, was in zip((layer, other, undecided), before, strict=True):
        np.testing.assert_equal(everything(each), was)
    np.testing.assert_array_equal(layer.backward(dy), dx)


def test_what_is_not_finite_leaves_everything_as_it_was() -> None:
    good, bad = used(), used()
    before = [everything(each) for each in (good, bad)]
    x = batch(6, 3, 4)
    x[0, 1, 0] = np.nan
    message = r"layers\[1\] must be given a finite mean and variance in every channel, got Moments\("
    with pytest.raises(ValueError, match=message):
        measure((good, batch(6, 3, 4)), (bad, x))
    for each, was in zip((good, bad), before, strict=True):
        np.testing.assert_equal(everything(each), was)
    skipping = BatchNorm(3, on_nonfinite="skip")
    with population_statistics(skipping):
        assert np.isnan(skipping(x)[:, 1]).all()
        skipping(batch(6, 3, 4))
    np.testing.assert_allclose(skipping.running_mean, batch(6, 3, 4).mean((0, 2)), **CLOSE)


def test_a_result_that_does_not_fit_leaves_everything_as_it_was() -> None:
    first, layer = used(), BatchNorm(1, dtype=np.float32)
    before = everything(first)
    with pytest.raises(ValueError, match="must fit into float32"):
        measure((first, batch(6, 3, 4, seed=3)), (layer, np.array([[1e30], [-1e30]])))
    np.testing.assert_equal(everything(first), before)
    assert layer.running_var[0] == 1


def test_a_layer_that_was_given_nothing_is_named() -> None:
    called, idle, empty = used(), used(), used()
    before = [everything(each) for each in (idle, empty)]
    with warnings.catch_warnings(record=True) as caught, population_statistics(called, idle, empty):
        warnings.simplefilter("always")
        called(batch(6, 3, 4))
        assert empty(np.empty((0, 3))).shape == (0, 3)
    assert all(
        "was given no values and keeps its running statistics: BatchNorm(3, " in str(each.message) for each in caught
    )
    assert {each.category for each in caught} == {UserWarning}
    assert [str(each.message)[:9] for each in caught] == ["layers[1]", "layers[2]"]
    assert {each.filename for each in caught} == {__file__}
    for each, was in zip((idle, empty), before, strict=True):
        np.testing.assert_equal(everything(each), was)


def test_features_are_decided_inside() -> None:
    layer = BatchNorm()
    with pytest.raises(TypeError, match="x must"), population_statistics(layer):
        layer(np.full((4, 3), "a"))
    assert layer.num_features is None
    with population_statistics(layer):
        layer(batch(6, 3))
    np.testing.assert_allclose(layer.running_mean, batch(6, 3).mean(0), **CLOSE)


def test_backward_is_refused_inside() -> None:
    layer, x = used(), batch(6, 3, 4)
    layer(x)
    want = layer.backward(x)
    with population_statistics(layer):
        layer(x)
        with pytest.raises(RuntimeError, match="backward must not be called inside population_statistics"):
            layer.backward(x)
    np.testing.assert_array_equal(layer.backward(x), want)


def test_renormalization_and_momentum_functions_are_as_in_training() -> None:
    calls: list[int] = []
    layer = BatchNorm(3, renorm=(2.0, 1.0), momentum=lambda step: calls.append(step) or 0.1)
    plain, x = copy.deepcopy(layer), batch(6, 3)
    calls.clear()
    with population_statistics(layer):
        np.testing.assert_array_equal(layer(x), plain(x))
    assert calls == [0]  # plain's
    np.testing.assert_allclose(layer.running_mean, x.mean(0), **CLOSE)


def test_epilogue_and_out() -> None:
    layer, plain = (BatchNorm(3, activation="relu") for _ in range(2))
    x, residual = batch(6, 3), batch(6, 3, seed=1)
    want = plain(x, residual=residual)
    with population_statistics(layer):
        assert layer(x, residual=residual, out=residual) is residual
    np.testing.assert_array_equal(residual, want)


def test_pickles_and_copies_made_inside_are_called_as_usual() -> None:
    layer = used()
    with population_statistics(layer):
        layer(batch(6, 3, 4))
        others = [pickle.loads(pickle.dumps(layer)), copy.copy(layer), copy.deepcopy(layer)]
    for other in others:
        tracked = other.num_batches_tracked
        other(batch(6, 3, 4))
        assert other.num_batches_tracked == tracked + 1


class OfTorch:
    """What says that it is of torch, as torch's modules and those of fastbn.torch do."""

    __module__ = "torch.nn.modules.batchnorm"


def test_wrong_layers() -> None:
    for layers, error, message in (
        ((), TypeError, "layers must be at least one BatchNorm, got none"),
        ((BatchNorm(3), 5), TypeError, r"layers\[1\] must be a fastbn\.BatchNorm, got int"),
        (([BatchNorm(3)],), TypeError, r"layers\[0\] must be a fastbn\.BatchNorm \(.* given as \*layers\), got list"),
        ((OfTorch(),), TypeError, r"layers\[0\] must be .* \(fastbn\.interop\.from_torch makes one .*\), got OfTorch"),
        ((BatchNorm(3, track_running_stats=False),), ValueError, r"layers\[0\] must have running statistics, got one"),
    ):
        with pytest.raises(error, match=message), population_statistics(*layers):
            pass


def test_a_call_before_the_block_can_be_differentiated_after_it() -> None:
    layer, alone = BatchNorm(3), BatchNorm(3)
    x, dy = batch(6, 3, 4), batch(6, 3, 4, seed=1)
    for each in (layer, alone):
        each(x)
    with population_statistics(layer):
        layer(batch(9, 3, 4, seed=2) + 5)
    np.testing.assert_array_equal(layer.backward(dy), alone.backward(dy))
    np.testing.assert_array_equal(layer.grad_weight, alone.grad_weight)


def test_a_call_by_running_statistics_cannot_when_they_are_others() -> None:
    layer = BatchNorm(3).eval()
    layer(batch(6, 3, 4))
    with population_statistics(layer):
        layer(batch(9, 3, 4, seed=2) + 5)
    with pytest.raises(RuntimeError, match="backward needs a call of the layer before it"):
        layer.backward(batch(6, 3, 4))


def test_a_call_that_wrote_over_x_stays_without_backward() -> None:
    layer, x = BatchNorm(3), batch(6, 3, 4)
    layer(x, out=x)
    with population_statistics(layer):
        layer(batch(9, 3, 4, seed=2) + 5)
    with pytest.raises(RuntimeError, match="backward needs"):
        layer.backward(batch(6, 3, 4))


def test_with_renorm_a_batch_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("fastbn._layer.batch_norm")
    measured, original = [], module.moments
    monkeypatch.setattr(module, "moments", lambda *args, **options: measured.append(1) or original(*args, **options))
    layer, plain = BatchNorm(3, renorm=(3.0, 5.0)), BatchNorm(3)
    with population_statistics(layer, plain):
        layer(batch(6, 3, 4))
        assert len(measured) == 1
        plain(batch(6, 3, 4))
    np.testing.assert_array_equal(layer.running_mean, plain.running_mean)
    np.testing.assert_array_equal(layer.running_var, plain.running_var)


def test_a_state_that_is_loaded_inside_ends_what_came_before() -> None:
    x = batch(6, 3)
    for fails in (False, True):
        layer = BatchNorm(3)
        layer(x)
        try:
            with population_statistics(layer), population_statistics(layer):
                layer(x)
                layer.load_state_dict({"weight": [2.0, 3.0, 4.0]}, strict=False)
                if fails:
                    raise KeyError("x")
        except KeyError:
            pass
        with pytest.raises(RuntimeError, match="backward needs a call of the layer before it"):
            layer.backward(x)
