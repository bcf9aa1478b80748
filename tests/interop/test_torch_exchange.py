"""Promise: PyTorch's modules become layers and layers modules: the same results, and the same running statistics."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from fastbn import BatchNorm
from fastbn.interop import from_torch, to_torch
from support.random_arrays import batch

torch = pytest.importorskip("torch")

KINDS = {"BatchNorm1d": (6, 3), "BatchNorm2d": (4, 3, 5, 2), "BatchNorm3d": (4, 3, 2, 2, 2), "SyncBatchNorm": (6, 3, 4)}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"affine": False},
    {"bias": False},
    {"momentum": None, "eps": 1e-3},
    {"momentum": 0.3},
    {"track_running_stats": False},
    {"affine": False, "track_running_stats": False},
]


def module_of(kind: str, dtype: Any = torch.float64, **options: Any) -> Any:
    if options.get("bias") is False and kind == "SyncBatchNorm":
        pytest.skip("SyncBatchNorm takes no bias=")
    module = getattr(torch.nn, kind)(3, dtype=dtype, **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for each in module.parameters():
            each.normal_(generator=generator)
        if module.running_mean is not None:
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
            module.num_batches_tracked.fill_(4)
    return module


def assert_alike(layer: BatchNorm, module: Any, x: Any, rtol: float = 1e-12) -> None:
    """Run a training step and an evaluation on both sides; leave both as they are then."""
    runs = module
    if isinstance(module, torch.nn.SyncBatchNorm):  # which trains on a GPU alone; its state moves as the others' do
        runs = to_torch(from_torch(module), torch.nn.BatchNorm1d)
    assert layer.training is runs.training
    for training in (True, False):
        layer.train(training)
        runs.train(training)
        tensor = torch.from_numpy(x.copy()).requires_grad_()
        y = runs(tensor)
        np.testing.assert_allclose(layer(x), y.detach().numpy(), rtol=rtol, atol=rtol)
        y.backward(torch.from_numpy(x))
        np.testing.assert_allclose(layer.backward(x), tensor.grad.numpy(), rtol=rtol, atol=10 * rtol)
        for name, value in layer.state_dict().items():
            np.testing.assert_allclose(runs.state_dict()[name].numpy(), value, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back(kind: str, options: dict[str, Any]) -> None:
    module, x = module_of(kind, **options), batch(*KINDS[kind])
    layer = from_torch(module)
    assert (layer.eps, layer.momentum, layer.correction) == (module.eps, module.momentum, 1)
    assert layer.num_batches_tracked == (4 if module.track_running_stats else 0)
    back = to_torch(layer, type(module))
    assert type(back) is type(module)
    for name, value in module.state_dict().items():
        assert back.state_dict()[name].dtype == value.dtype or not layer.state_dict()
        torch.testing.assert_close(back.state_dict()[name], value, rtol=0, atol=0)
    assert back.state_dict().keys() == module.state_dict().keys()
    if layer.state_dict():
        assert_alike(layer, module, x)
        assert_alike(from_torch(back), back, x)


def test_arrays_are_copies() -> None:
    module = module_of("BatchNorm2d")
    layer = from_torch(module)
    layer.weight[...] = 7.0
    back = to_torch(layer)
    layer.running_mean[...] = 8.0
    assert not (module.weight == 7).any()
    assert (back.weight == 7).all()
    assert not (back.running_mean == 8).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_narrow_modules(dtype: Any) -> None:
    module = module_of("BatchNorm2d", dtype=dtype).eval()
    layer = from_torch(module)
    assert layer.dtype == np.float32
    assert not layer.training
    np.testing.assert_array_equal(layer.running_var, module.running_var.float().numpy())
    assert to_torch(layer).running_var.dtype == torch.float32


@pytest.mark.parametrize("training", [True, False])
def test_lazy_modules(training: bool) -> None:
    for options in ({}, {"affine": False}, {"track_running_stats": False}):
        module = torch.nn.LazyBatchNorm2d(eps=1e-3, **options).train(training)
        layer = from_torch(module)
        assert layer.num_features is None
        assert layer.training is training
        assert layer.eps == 1e-3
        x = batch(4, 3, 5, 2, dtype=np.float32)
        module.train()(torch.from_numpy(x))
        layer.train()(x)
        for name, value in layer.state_dict().items():
            np.testing.assert_allclose(module.state_dict()[name].numpy(), value, rtol=1e-6, atol=1e-6)
    with pytest.raises(RuntimeError, match="layer must have its features decided"):
        to_torch(BatchNorm())


class FrozenBatchNorm2d(torch.nn.Module):
    """As torchvision.ops has it."""

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(num_features, generator=torch.Generator().manual_seed(3)) + 0.5)

    def forward(self, x: Any) -> Any:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return x * scale[:, None, None] + (self.bias - self.running_mean * scale)[:, None, None]


def test_frozen_modules_become_frozen_layers() -> None:
    module, x = FrozenBatchNorm2d(3, eps=1e-3), batch(4, 3, 5, 2, dtype=np.float32)
    layer = from_torch(module)
    assert (layer.frozen, layer.frozen_parameters, layer.training, layer.eps) == (True, True, True, 1e-3)
    np.testing.assert_allclose(layer(x), module(torch.from_numpy(x)).numpy(), rtol=1e-5, atol=1e-5)
    back = to_torch(layer)
    assert not back.training
    assert not any(each.requires_grad for each in back.parameters())
    np.testing.assert_allclose(layer(x), back(torch.from_numpy(x)).numpy(), rtol=1e-5, atol=1e-5)
    assert all(each.requires_grad for each in to_torch(layer.unfreeze().freeze()).parameters())


def test_a_bias_alone_has_a_weight_of_ones_that_stays() -> None:
    layer = BatchNorm(3, use_weight=False)
    module = to_torch(layer, torch.nn.BatchNorm1d)
    assert (module.weight == 1).all()
    assert not module.weight.requires_grad
    assert module.bias.requires_grad
    x = batch(6, 3)
    np.testing.assert_allclose(layer(x), module(torch.from_numpy(x)).detach().numpy(), rtol=1e-12, atol=1e-12)


def test_what_is_no_batch_normalization() -> None:
    for module in (torch.nn.InstanceNorm2d(3, affine=True), torch.nn.Linear(3, 3), 5):
        with pytest.raises(TypeError, match=r"module must be a batch normalization of torch\.nn, or a frozen one, got"):
            from_torch(module)
    with pytest.raises(TypeError, match=r"got Sequential .give each of its batch normalizations; fastbn\.torch\."):
        from_torch(torch.nn.Sequential(torch.nn.BatchNorm2d(3)))
    with pytest.raises(TypeError, match=r"got OrderedDict .BatchNorm\(\).load_state_dict takes a state_dict"):
        from_torch(torch.nn.BatchNorm2d(3).state_dict())
    stale = torch.nn.BatchNorm2d(3)
    stale.track_running_stats = False
    with pytest.raises(
        ValueError, match="module must have running statistics exactly if it tracks them, got track_run"
    ):
        from_torch(stale)


REFUSED = [
    (BatchNorm(3, axis=-1), ValueError, r"layer's axis must be 1 for PyTorch, got -1"),
    (BatchNorm((3,), axis=(1,)), ValueError, r"layer's axis must be one int for PyTorch, got \(1,\)"),
    (BatchNorm(3, correction=0), ValueError, "correction must be 1 for PyTorch, which remembers the unbiased.*got 0"),
    (BatchNorm(3, momentum=lambda step: 0.1), ValueError, "layer's momentum must be a number for PyTorch, got <func"),
    (BatchNorm(3, renorm=(3, 5)), ValueError, r"layer's renorm must be None for PyTorch, got \(3, 5\)"),
    (BatchNorm(3, activation="relu"), ValueError, "layer's activation must be None for PyTorch, got 'relu'"),
    (5, TypeError, r"layer must be a fastbn\.BatchNorm, got int"),
]


@pytest.mark.parametrize(("layer", "error", "message"), REFUSED)
def test_what_pytorch_does_not_have(layer: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        to_torch(layer)


def test_other_classes_are_refused() -> None:
    for cls in (torch.nn.Linear, "BatchNorm2d"):
        with pytest.raises(TypeError, match=r"cls must be a batch normalization of torch\.nn, got"):
            to_torch(BatchNorm(3), cls)
    with pytest.raises(TypeError, match="cls must not be lazy, since the layer's features are decided, got"):
        to_torch(BatchNorm(3), torch.nn.LazyBatchNorm2d)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r'fastbn\.interop needs torch for this: pip install "fastbn\[interop\]"'):
        from_torch(None)


@pytest.mark.parametrize(("activation", "negative_slope"), [("relu", 0.01), ("leaky_relu", 0.3)])
def test_fastbns_modules_are_taken_with_their_activation(activation: Any, negative_slope: float) -> None:
    ours = pytest.importorskip("fastbn.torch")
    module = ours.BatchNorm2d(3, activation=activation, negative_slope=negative_slope, dtype=torch.float64).eval()
    layer, x = from_torch(module), batch(4, 3, 5, 2)
    assert (layer.activation, layer.negative_slope) == (activation, negative_slope)
    np.testing.assert_allclose(layer(x), module(torch.from_numpy(x)).detach().numpy(), rtol=1e-12, atol=1e-12)
    assert from_torch(ours.BatchNorm2d(3)).activation is None
    assert from_torch(ours.LazyBatchNorm2d(activation=activation)).activation == activation
