"""Promise: Flax's modules, of linen and of nnx, become layers and layers Flax's: the same results and statistics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastbn import BatchNorm
from fastbn.interop import from_flax, to_flax
from support.oracle import Array
from support.random_arrays import batch

linen = pytest.importorskip("flax.linen")
nnx = pytest.importorskip("flax.nnx")
jax = pytest.importorskip("jax")

OPTIONS: list[dict[str, Any]] = [
    {},
    {"use_bias": False},
    {"use_scale": False, "momentum": 0.9, "epsilon": 1e-3},
    {"use_bias": False, "use_scale": False},
    {"axis": 1},
]
# Flax computes in float32: some thirty roundings.
CLOSE: dict[str, Any] = {"rtol": 5e-6, "atol": 5e-6}


def variables_of(module: Any, x: Array) -> dict[str, dict[str, Array]]:
    rng = np.random.default_rng(1)
    made = module.init(jax.random.key(0), x, use_running_average=False)
    return {
        collection: {name: rng.uniform(0.5, 2.0, np.shape(value)).astype(np.float32) for name, value in held.items()}
        for collection, held in made.items()
    }


def assert_alike(layer: BatchNorm, module: Any, variables: Any, x: Array) -> None:
    """Run two training steps and an evaluation of linen's module on both sides."""
    for _ in range(2):
        y, changed = module.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
        variables = {**variables, **changed}
        np.testing.assert_allclose(layer.train()(x), y, **CLOSE)
        np.testing.assert_allclose(layer.running_mean, variables["batch_stats"]["mean"], **CLOSE)
        np.testing.assert_allclose(layer.running_var, variables["batch_stats"]["var"], **CLOSE)
    np.testing.assert_allclose(layer.eval()(x), module.apply(variables, x, use_running_average=True), **CLOSE)
    layer.train()


@pytest.mark.parametrize("options", OPTIONS)
def test_linen_there_and_back(options: dict[str, Any]) -> None:
    x = batch(6, 3, 3, dtype=np.float32)
    module = linen.BatchNorm(use_fast_variance=False, **options)
    variables = variables_of(module, x)
    layer = from_flax(variables, module)
    assert (layer.axis, layer.eps, 1 - layer.momentum) == (module.axis, module.epsilon, module.momentum)
    assert (layer.use_weight, layer.use_bias, layer.correction) == (module.use_scale, module.use_bias, 0)
    back, same = to_flax(layer)
    jax.tree.map(np.testing.assert_array_equal, same, variables)
    assert back.clone(param_dtype=module.param_dtype) == module
    assert_alike(layer, module, variables, x)
    assert_alike(from_flax(same, back), back, same, x)


def test_linen_of_several_axes() -> None:
    x = batch(6, 3, 4, dtype=np.float32)
    module = linen.BatchNorm(axis=(1, 2))
    layer = from_flax(variables_of(module, x), module)
    assert layer.num_features == (3, 4)
    assert_alike(layer, *to_flax(layer), x)
    with pytest.raises(ValueError, match=r"layer's axis must be one int for nnx, got \(1, 2\)"):
        to_flax(layer, "nnx")


def test_variables_alone_have_the_defaults_of_linen() -> None:
    layer = from_flax({"batch_stats": {"mean": np.zeros(3, np.float32), "var": np.ones(3, np.float32)}})
    module = linen.BatchNorm()
    assert (layer.axis, layer.eps, 1 - layer.momentum) == (module.axis, module.epsilon, module.momentum)
    assert layer.parameters() == []


def test_modes_of_linen() -> None:
    variables = {"batch_stats": {"mean": np.zeros(3, np.float32), "var": np.ones(3, np.float32)}}
    assert not from_flax(variables, linen.BatchNorm(use_running_average=True)).training
    assert from_flax(variables, linen.BatchNorm(use_running_average=False)).training
    layer = from_flax(variables)
    assert to_flax(layer)[0].use_running_average is None
    assert to_flax(layer.eval())[0].use_running_average is True
    assert to_flax(layer.train().freeze())[0].use_running_average is True


@pytest.mark.parametrize("options", OPTIONS)
def test_nnx_there_and_back(options: dict[str, Any]) -> None:
    x = batch(6, 3, 3, dtype=np.float32)
    module = nnx.BatchNorm(3, rngs=nnx.Rngs(0), use_fast_variance=False, **options)
    rng = np.random.default_rng(1)
    for name in ("scale", "bias", "mean", "var"):
        if getattr(module, name) is not None:
            getattr(module, name)[...] = jax.numpy.asarray(rng.uniform(0.5, 2.0, 3).astype(np.float32))
    layer = from_flax(module)
    assert (layer.axis, layer.eps, 1 - layer.momentum) == (module.axis, module.epsilon, module.momentum)
    assert layer.training
    assert not from_flax(nnx.view(module, use_running_average=True)).training
    for each, ours in ((module, layer), (to_flax(layer, "nnx"), from_flax(to_flax(layer, "nnx")))):
        for _ in range(2):
            np.testing.assert_allclose(ours.train()(x), each(x, use_running_average=False), **CLOSE)
            np.testing.assert_allclose(ours.running_mean, each.mean[...], **CLOSE)
            np.testing.assert_allclose(ours.running_var, each.var[...], **CLOSE)
        np.testing.assert_allclose(ours.eval()(x), each(x, use_running_average=True), **CLOSE)
    assert to_flax(layer.eval(), "nnx").use_running_average is True
    kinds = {name: type(getattr(to_flax(BatchNorm(3, correction=0), "nnx"), name)) for name in ("scale", "mean")}
    assert kinds == {"scale": nnx.Param, "mean": nnx.BatchStat}


def test_results_are_copies() -> None:
    layer = BatchNorm(3, correction=0)
    _, variables = to_flax(layer)
    variables["params"]["scale"][...] = 7.0
    assert (layer.weight == 1).all()
    from_flax(variables).weight[...] = 8.0
    assert (variables["params"]["scale"] == 7).all()


BAD: list[tuple[Any, type[Exception], str]] = [
    (
        {"params": {"scale": np.ones(3)}},
        ValueError,
        r"source must hold batch_stats of mean and var, got none of \['mean",
    ),
    ({"params": {"kernel": np.ones(3)}}, ValueError, r"source must hold linen's .*, got 'params': \['kernel'\]"),
    ({"params": {"BatchNorm_0": {}}}, ValueError, r"got 'params': \['BatchNorm_0'\]"),
    ({"state": {}}, ValueError, r"got 'state': \[\]"),
    ({"params": 3}, ValueError, "got 'params': int"),
    (3, TypeError, r"source must be variables or a flax\.nnx\.BatchNorm, got int"),
]


@pytest.mark.parametrize(("source", "error", "message"), BAD)
def test_what_is_no_batch_normalization(source: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        from_flax(source)


def test_wrong_arguments() -> None:
    module = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match="module must be None where source is a module itself, got BatchNorm"):
        from_flax(module, linen.BatchNorm())
    with pytest.raises(TypeError, match="api must be 'linen' or 'nnx', got 2"):
        to_flax(BatchNorm(3, correction=0), 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="api must be 'linen' or 'nnx', got 'haiku'"):
        to_flax(BatchNorm(3, correction=0), "haiku")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="layer's correction must be 0 for Flax, which remembers the biased variance"):
        to_flax(BatchNorm(3))
