"""Promise: a converted model trains as torch's does where torch is right, and stays right where torch is not."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

import fastbn.torch

STEPS = 50


class Residual(nn.Module):
    """The basic block of a ResNet."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output."""
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


def small_resnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        Residual(8),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        Residual(16),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 4),
    )


def perceptron() -> nn.Module:
    layers: list[nn.Module] = []
    for n_in, n_out in ((20, 32), (32, 32)):
        layers += [nn.Linear(n_in, n_out), nn.BatchNorm1d(n_out), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers, nn.Linear(32, 4))


def losses(model: nn.Module, x: torch.Tensor, target: torch.Tensor, steps: int = STEPS) -> list[float]:
    """Train on one batch after the other, and return the loss of each step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    found = []
    for step in range(steps):
        part = slice(32 * (step % 4), 32 * (step % 4) + 32)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x[part]), target[part])
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def problem(*shape: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs of four classes and the classes, which their means tell."""
    target = torch.arange(128) % 4
    x = torch.randn(128, *shape, dtype=torch.float64) + target.reshape(-1, *[1] * len(shape)).double()
    return x.to(dtype), target


@pytest.mark.parametrize("kind", ["resnet", "resnet, channels_last", "perceptron"])
def test_fifty_steps_are_torchs(kind: str) -> None:
    """In float64, where rounding has not grown to a difference by then."""
    torch.manual_seed(0)
    model = (perceptron() if kind == "perceptron" else small_resnet()).double()
    x, target = problem(*((20,) if kind == "perceptron" else (1, 12, 12)), dtype=torch.float64)
    if "channels_last" in kind:
        model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    ours = fastbn.torch.convert(copy.deepcopy(model), fuse_activations=True)
    found, wanted = losses(ours, x, target), losses(model, x, target)
    assert wanted[-1] < 0.5 * wanted[0]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours.state_dict(), dict(model.state_dict()), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.eval()(x), model.eval()(x), rtol=1e-4, atol=1e-4)


def test_fifty_steps_in_float32_are_as_near_to_float64_as_torchs() -> None:
    torch.manual_seed(0)
    model = perceptron()
    x, target = problem(20, dtype=torch.float32)
    wanted = losses(copy.deepcopy(model).double(), x.double(), target)
    theirs = losses(copy.deepcopy(model), x, target)
    ours = losses(fastbn.torch.convert(model), x, target)
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(theirs, wanted, rtol=1e-4, atol=1e-4)


def test_images_of_mean_1e4_are_learned_as_in_float64() -> None:
    """The batch norm stands first, as where data come in unscaled; channels-last, where torch's variance is wrong."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.BatchNorm2d(3),
        nn.Conv2d(3, 8, 4, stride=4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    ).to(memory_format=torch.channels_last)
    x, target = problem(3, 64, 64, dtype=torch.float64)
    x = (x + 1e4).float().to(memory_format=torch.channels_last)
    models = [copy.deepcopy(model).double(), copy.deepcopy(model), fastbn.torch.convert(model)]
    wanted, _, ours = (losses(each, x.to(each[0].weight.dtype), target, 15) for each in models)
    torch.testing.assert_close(ours, wanted, rtol=1e-3, atol=1e-3)
    assert wanted[-1] < wanted[0]
    right = models[0][0].running_var
    off = [float((model[0].running_var / right - 1).abs().max()) for model in models[1:]]
    assert off[1] < 1e-6
    assert off[0] > 1e-3  # from 0.01 to 8, by data and number of threads
