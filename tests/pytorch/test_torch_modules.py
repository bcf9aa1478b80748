"""Promise: the modules are torch's in all but speed and accuracy, and take an activation, a residual and masks."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import numpy as np
import pytest
import torch

import fastbn.torch
from support import oracle

PAIRS = [
    (getattr(fastbn.torch, name), getattr(torch.nn, name)) for name in ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d")
]
LAZY = [(getattr(fastbn.torch, f"Lazy{theirs.__name__}"), ours, theirs) for ours, theirs in PAIRS]
SHAPES = {"BatchNorm1d": (6, 3, 5), "BatchNorm2d": (4, 3, 5, 6), "BatchNorm3d": (2, 3, 4, 3, 2)}
CONSTRUCTIONS: list[dict[str, Any]] = [
    {},
    {"eps": 1e-3, "momentum": 0.3},
    {"momentum": None},
    {"affine": False},
    {"bias": False},
    {"track_running_stats": False},
    {"dtype": torch.float64, "device": "cpu"},
]

every_pair = pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=[pair[1].__name__ for pair in PAIRS])


def batch(theirs: type[Any], seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    shape = SHAPES[theirs.__name__.removeprefix("Lazy")]
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype) * 3 + 1


def assert_same_state(got: torch.nn.Module, want: torch.nn.Module) -> None:
    found, wanted = got.state_dict(), want.state_dict()
    assert list(found) == list(wanted)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@every_pair
@pytest.mark.parametrize("options", CONSTRUCTIONS, ids=str)
def test_trains_and_evaluates_as_torchs(ours: type[Any], theirs: type[Any], options: dict[str, Any]) -> None:
    got, want = ours(3, **options), theirs(3, **options)
    assert isinstance(got, theirs)
    assert got.extra_repr() == want.extra_repr()
    dtype = options.get("dtype", torch.float32)
    for step in range(4):
        for module in (got, want):
            module.train(step != 2)
        x = [batch(theirs, step, dtype).requires_grad_() for _ in range(2)]
        y = [module(each) for module, each in zip((got, want), x, strict=True)]
        dy = batch(theirs, 50 + step, dtype)
        for each in y:
            each.backward(dy)
        torch.testing.assert_close(y[0], y[1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(x[0].grad, x[1].grad, rtol=1e-4, atol=1e-4)
        assert_same_state(got, want)
    for one, other in zip(got.parameters(), want.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4)


@every_pair
def test_other_ranks_and_single_values_are_refused_as_by_torch(ours: type[Any], theirs: type[Any]) -> None:
    rank = len(SHAPES[theirs.__name__])
    for shape in [(3,), (4, 3, 2, 2, 2, 2), (1, 3, *[1] * (rank - 2))]:
        found = []
        for module in (theirs(3), ours(3)):
            with pytest.raises(ValueError, match="xpected") as raised:
                module(torch.ones(shape))
            found.append(str(raised.value))
        assert found[0] == found[1]


@pytest.mark.parametrize(("lazy", "ours", "theirs"), LAZY, ids=[pair[2].__name__ for pair in LAZY])
def test_lazy_modules_become_the_others(lazy: type[Any], ours: type[Any], theirs: type[Any]) -> None:
    module = lazy(eps=1e-3, activation="relu")
    assert isinstance(module, getattr(torch.nn, f"Lazy{theirs.__name__}"))
    with torch.no_grad():
        y = module(batch(theirs))
    assert type(module) is ours
    assert (module.num_features, module.activation, module.eps) == (3, "relu", 1e-3)
    torch.testing.assert_close(y, torch.relu(theirs(3, eps=1e-3)(batch(theirs))), rtol=1e-5, atol=1e-5)


def test_options_of_the_call() -> None:
    module = fastbn.torch.BatchNorm2d(3, activation="leaky_relu", negative_slope=0.3, dtype=torch.float64)
    x, residual = batch(torch.nn.BatchNorm2d, 0, torch.float64), batch(torch.nn.BatchNorm2d, 1, torch.float64)
    where, weights = x[:, :1] > 0, x[:, :, :1].abs()
    y = module(x, residual, where=where, weights=weights)
    p = oracle.element_weights(x.shape, where.numpy(), weights.numpy())
    want = oracle.train(x.numpy(), p=p, residual=residual.numpy(), activation="leaky_relu", slope=0.3)
    np.testing.assert_allclose(y.detach().numpy(), want.y.astype(float), rtol=1e-12, atol=1e-12)
    expected = oracle.updated(np.zeros(3), want.mean, 0.1)
    np.testing.assert_allclose(module.running_mean.numpy(), expected.astype(float), rtol=1e-12)


@pytest.mark.parametrize("options", [{"activation": "gelu"}, {"negative_slope": float("nan")}], ids=str)
def test_an_activation_that_there_is_not_is_an_error_when_a_layer_is_made(options: dict[str, Any]) -> None:
    for made in (*(ours for ours, _ in PAIRS), fastbn.torch.SyncBatchNorm):
        with pytest.raises(ValueError, match=r"activation must be|negative_slope must be"):
            made(3, **options)


def test_state_dicts_go_both_ways() -> None:
    theirs, ours = torch.nn.BatchNorm2d(3), fastbn.torch.BatchNorm2d(3, activation="relu")
    theirs(batch(torch.nn.BatchNorm2d))
    ours.load_state_dict(theirs.state_dict())
    assert_same_state(ours, theirs)
    torch.nn.BatchNorm2d(3).load_state_dict(ours.state_dict())


def test_a_state_dict_without_a_counter_is_read_as_by_torch() -> None:
    state = torch.nn.BatchNorm2d(3).state_dict()
    del state["num_batches_tracked"], state._metadata
    fastbn.torch.BatchNorm2d(3).load_state_dict(state)


def copies_of(module: torch.nn.Module) -> list[Any]:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return [
        copy.deepcopy(module),
        pickle.loads(pickle.dumps(module)),
        torch.load(file, weights_only=False),
    ]


def test_copies_and_files() -> None:
    module = fastbn.torch.BatchNorm2d(3, activation="leaky_relu", negative_slope=0.2)
    x = batch(torch.nn.BatchNorm2d)
    module(x)
    assert b"fastbn.torch\nBatchNorm2d" in pickle.dumps(module, protocol=0)
    for other in copies_of(module):
        assert type(other) is fastbn.torch.BatchNorm2d
        assert repr(other) == repr(module)
        assert_same_state(other, module)
        assert torch.equal(other(x), copy.deepcopy(module)(x))
        assert other.running_mean.data_ptr() != module.running_mean.data_ptr()


def test_hooks_see_input_and_output() -> None:
    module, seen = fastbn.torch.BatchNorm1d(3), []
    module.register_forward_pre_hook(lambda module, args: seen.append("pre"))
    module.register_forward_hook(lambda module, args, y: seen.append("post"))
    module.register_full_backward_hook(lambda module, dx, dy: seen.append("backward"))
    x = batch(torch.nn.BatchNorm1d).requires_grad_()
    y = module(x)
    y.register_hook(lambda dy: seen.append("tensor"))
    y.sum().backward()
    assert seen == ["pre", "post", "tensor", "backward"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_as_torchs(dtype: torch.dtype) -> None:
    x = batch(torch.nn.BatchNorm2d)
    found = []
    for norm in (fastbn.torch.BatchNorm2d, torch.nn.BatchNorm2d):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), norm(4), torch.nn.ReLU())
        with torch.autocast("cpu", dtype):
            y = model(x)
        y.float().square().sum().backward()
        found.append((y, *(parameter.grad for parameter in model.parameters())))
    for got, want in zip(*found, strict=True):
        assert got.dtype == want.dtype
        scale = float(want.detach().abs().max())
        torch.testing.assert_close(got, want, rtol=0.02, atol=0.02 * scale)


def test_half_and_double_models() -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        module = fastbn.torch.BatchNorm2d(3).to(dtype)
        y = module(batch(torch.nn.BatchNorm2d, dtype=dtype))
        y.sum().backward()
        assert {value.dtype for value in (y, module.running_var, module.weight.grad, module.bias.grad)} == {dtype}


def test_modules_on_the_meta_device() -> None:
    module = fastbn.torch.BatchNorm2d(3, device="meta")
    assert module(torch.empty(2, 3, 4, 4, device="meta")).device.type == "meta"
    assert module.to_empty(device="cpu").running_mean.device.type == "cpu"


def test_evaluation_without_running_statistics_uses_the_batchs() -> None:
    module = fastbn.torch.BatchNorm1d(3, track_running_stats=False).eval()
    x = batch(torch.nn.BatchNorm1d)
    torch.testing.assert_close(module(x), torch.nn.BatchNorm1d(3)(x), rtol=1e-5, atol=1e-5)


def test_functional_calls() -> None:
    module, x = fastbn.torch.BatchNorm1d(3), batch(torch.nn.BatchNorm1d)
    weight = torch.full((3,), 2.0)
    y = torch.func.functional_call(module, {"weight": weight}, (x,))
    torch.testing.assert_close(y, 2 * torch.nn.BatchNorm1d(3)(x), rtol=1e-5, atol=1e-5)
    assert module.num_batches_tracked == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"input": torch.ones(4, 5)},
        {"input": torch.ones(1, 3)},
        {"where": torch.ones(5, 3, dtype=torch.bool)},
        {"weights": -torch.ones(4, 1)},
        {"residual": torch.ones(1, 3)},
        {"where": [True]},
    ],
    ids=["channels", "one value", "where", "weights", "residual", "a list"],
)
@pytest.mark.parametrize("momentum", [None, 0.1])
def test_a_refused_batch_is_not_counted(wrong: dict[str, Any], momentum: float | None) -> None:
    x = torch.arange(12.0).reshape(4, 3)
    layer = fastbn.torch.BatchNorm1d(3, momentum=momentum)
    with pytest.raises((TypeError, ValueError, RuntimeError)):
        layer(**{"input": x} | wrong)
    assert layer.num_batches_tracked == 0
    layer(x)
    torch.testing.assert_close(layer.running_mean, (momentum or 1.0) * x.mean(0), rtol=1e-6, atol=0)


def test_what_counts_batches_may_be_of_any_type_and_counts_as_changed() -> None:
    module = fastbn.torch.BatchNorm1d(3)
    before = module.num_batches_tracked._version
    module(torch.randn(4, 3))
    assert module.num_batches_tracked == 1
    assert module.num_batches_tracked._version > before
    module.num_batches_tracked = torch.tensor(1, dtype=torch.int32)
    module(torch.randn(4, 3))
    assert module.num_batches_tracked == 2
    with torch.inference_mode():
        module.num_batches_tracked = torch.tensor(2)
        module(torch.randn(4, 3))
    assert module.num_batches_tracked == 3


def test_a_parametrized_weight() -> None:
    class Doubled(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    x = torch.randn(6, 3)
    found = []
    for kind in (fastbn.torch.BatchNorm1d, torch.nn.BatchNorm1d):
        module = kind(3)
        torch.nn.utils.parametrize.register_parametrization(module, "weight", Doubled())
        y = module(x)
        y.square().sum().backward()
        found.append([y.detach(), module.running_mean, module.parametrizations.weight.original.grad])
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_the_number_of_batches_may_be_no_buffer() -> None:
    module = fastbn.torch.BatchNorm1d(3, momentum=None)
    del module._buffers["num_batches_tracked"]
    module.__dict__["num_batches_tracked"] = torch.tensor(0)
    batches = [torch.randn(20, 3) for _ in range(4)]
    for x in batches:
        module(x)
    assert module.num_batches_tracked == 4
    means = torch.stack([x.double().mean(0) for x in batches])
    torch.testing.assert_close(module.running_mean.double(), means.mean(0), rtol=1e-5, atol=1e-6)
