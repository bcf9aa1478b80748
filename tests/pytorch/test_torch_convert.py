"""Promise: `convert` changes the class of every batch norm and nothing else, and `revert` undoes it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fastbn.torch
from fastbn.torch import convert, revert


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, affine=False), nn.LeakyReLU(0.2)),
        nn.Flatten(),
        nn.Linear(100, 5),
        nn.BatchNorm1d(5),
    )


def images(seed: int = 0) -> torch.Tensor:
    return torch.randn(6, 3, 9, 9, generator=torch.Generator().manual_seed(seed))


def classes(module: nn.Module) -> list[str]:
    return [f"{type(each).__module__}.{type(each).__name__}" for each in module.modules()]


@pytest.mark.parametrize("fuse_activations", [False, True])
def test_a_converted_model_trains_the_same_and_comes_back(fuse_activations: bool) -> None:
    model, want = network(), network()
    before, ids = classes(model), [id(value) for value in model.state_dict(keep_vars=True).values()]
    assert convert(model, fuse_activations=fuse_activations) is model
    assert [type(model[i]) for i in (1, 6)] == [fastbn.torch.BatchNorm2d, fastbn.torch.BatchNorm1d]
    assert (model[1].activation, model[3][1].activation) == (
        ("relu", "leaky_relu") if fuse_activations else (None, None)
    )
    assert [id(value) for value in model.state_dict(keep_vars=True).values()] == ids
    for step in range(3):
        loss = [each(images(step)).square().sum() for each in (model, want)]
        for each in loss:
            each.backward()
        torch.testing.assert_close(*loss, rtol=1e-4, atol=1e-4)
    for one, other in zip(model.parameters(), want.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-2)
    revert(model)
    assert classes(model) == before
    assert repr(model) == repr(want)
    assert "activation" not in model[1].__dict__
    torch.testing.assert_close(model.eval()(images()), want.eval()(images()), rtol=1e-4, atol=1e-4)


def test_mode_hooks_flags_and_references_are_kept() -> None:
    seen: list[str] = []
    layer = nn.BatchNorm2d(4).eval()
    layer.weight.requires_grad_(False)
    layer.register_forward_hook(lambda module, args, y: seen.append("hook"))
    layer.custom = "mine"
    model = nn.ModuleDict({"first": layer, "again": layer})
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    convert(model)
    assert model["first"] is model["again"] is layer
    assert (layer.training, layer.weight.requires_grad, layer.custom) == (False, False, "mine")
    layer(torch.ones(2, 4, 3, 3)).sum().backward()
    assert seen == ["hook"]
    assert optimizer.param_groups[0]["params"][0] is layer.weight


def test_a_batch_norm_alone_and_lazy_ones() -> None:
    layer = nn.LazyBatchNorm2d(eps=1e-3)
    assert type(convert(layer)) is fastbn.torch.LazyBatchNorm2d
    layer(torch.ones(2, 4, 3, 3))
    assert type(layer) is fastbn.torch.BatchNorm2d
    assert type(revert(layer)) is nn.BatchNorm2d
    lazy = convert(nn.LazyBatchNorm1d())
    assert type(revert(lazy)) is nn.LazyBatchNorm1d


@pytest.mark.parametrize("function", [convert, revert, fastbn.torch.convert_sync, fastbn.torch.fuse])
def test_what_is_no_module_is_refused(function: Any) -> None:
    for wrong in (nn.BatchNorm2d, fastbn.BatchNorm(3), [nn.BatchNorm1d(2)]):
        with pytest.raises(TypeError, match=f"^module must be a torch.nn.Module, got {type(wrong).__name__}$"):
            function(wrong)


@pytest.mark.parametrize("module", [nn.BatchNorm2d(4), fastbn.torch.BatchNorm2d(4)])
def test_functions_of_numpy_s_layers_name_what_makes_one(module: nn.Module) -> None:
    weight = np.ones((4, 3))
    with pytest.raises(TypeError, match=r"layer must be a fastbn.BatchNorm \(fastbn.interop.from_torch makes one"):
        fastbn.fold(module, weight)
    rule = r"layers\[0\] must be a fastbn.BatchNorm \(fastbn.interop.from_torch makes"
    with pytest.raises(TypeError, match=rule), fastbn.population_statistics(module):
        pass
    scaled, _ = fastbn.fold(fastbn.interop.from_torch(module), weight)
    np.testing.assert_allclose(scaled, weight / np.sqrt(1 + 1e-5), rtol=1e-6)  # of a new module


def test_other_classes_are_left_alone() -> None:
    class Other(nn.BatchNorm2d):
        pass

    model = nn.Sequential(Other(3), nn.InstanceNorm2d(3), nn.GroupNorm(1, 3))
    before = classes(model)
    assert classes(convert(model)) == before


def test_parametrized_and_pruned_models() -> None:
    layer = nn.BatchNorm1d(3)
    nn.utils.parametrizations.weight_norm(layer, "weight")
    before = type(layer)
    convert(layer)
    assert type(layer) is before  # its class is one that torch made for it alone


@pytest.mark.parametrize("case", ["hook", "shared activation", "shared batch norm", "own activation", "elsewhere"])
def test_what_is_not_fused(case: str) -> None:
    relu, layer = nn.ReLU(), nn.BatchNorm1d(3)
    model: Any = nn.Sequential(layer, relu)
    if case == "hook":
        relu.register_forward_hook(lambda module, args, y: None)
    if case == "shared activation":
        model = nn.Sequential(model, relu)
    if case == "shared batch norm":
        model = nn.Sequential(model, layer)
    if case == "own activation":
        model = nn.Sequential(fastbn.torch.BatchNorm1d(3, activation="leaky_relu"), relu)
    if case == "elsewhere":
        model = nn.ModuleList([layer, relu])
    want = copy.deepcopy(model)
    convert(model, fuse_activations=True)
    assert type(relu) is nn.ReLU
    x = torch.randn(5, 3)
    if case != "elsewhere":
        torch.testing.assert_close(model(x), want(x))


def test_an_activation_of_its_own_cannot_be_reverted() -> None:
    model = nn.Sequential(fastbn.torch.BatchNorm1d(3), fastbn.torch.BatchNorm1d(3, activation="relu"), nn.ReLU())
    with pytest.raises(ValueError, match=r"no activation of its own in its batch norms, got BatchNorm1d\(.*as '1'"):
        revert(model)
    assert type(model[0]) is fastbn.torch.BatchNorm1d
    given = convert(nn.Sequential(nn.BatchNorm1d(3), nn.ReLU()))
    with pytest.raises(ValueError, match=r"\(revert the model that fuse was given\)$"):
        revert(fastbn.torch.fuse(given))
    assert type(revert(given)[0]) is nn.BatchNorm1d


def test_a_fused_model_is_copied_and_reverted() -> None:
    model = copy.deepcopy(convert(network(), fuse_activations=True))
    assert repr(model[2]) == "FusedReLU()"
    assert repr(model[3][2]) == "FusedLeakyReLU(negative_slope=0.2)"
    assert classes(revert(model)) == classes(network())


def test_converting_twice_changes_nothing_more() -> None:
    model = convert(convert(network()), fuse_activations=True)
    assert model[1].activation == "relu"
    assert classes(convert(model, fuse_activations=True)) == classes(model)


@pytest.mark.parametrize("hook", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"])
@pytest.mark.parametrize("which", [0, 1])
def test_what_has_hooks_is_not_fused(which: int, hook: str) -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU())
    getattr(model[which], hook)(lambda *args: None)
    convert(model, fuse_activations=True)
    assert model[0].activation is None
    assert type(model[1]) is nn.ReLU


def test_a_hook_of_the_batch_norm_sees_what_it_saw_before() -> None:
    seen: list[torch.Tensor] = []
    model = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU())
    model[0].register_forward_hook(lambda module, args, y: seen.append(y.detach()))
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    for each in (model, convert(model, fuse_activations=True)):
        each(x)
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-5, atol=1e-6)
    assert (seen[1] < 0).any()
