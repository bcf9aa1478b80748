"""Promise: `fuse` gives a model that computes and trains the same, and leaves the one that it is given as it was."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from fastbn.torch import BatchNorm1d, SyncBatchNorm, convert, fuse


class Net(nn.Module):
    """A batch norm, and whatever follows it."""

    def __init__(self, follow: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.linear, self.norm, self.other = nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)
        self.relu, self.leaky, self.in_place = nn.ReLU(), nn.LeakyReLU(0.3), nn.ReLU(inplace=True)
        self.follow = follow

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's result, activated."""
        h = self.linear(x)
        return self.follow(self, h, x)


def made(follow: Callable[..., torch.Tensor]) -> Net:
    torch.manual_seed(0)
    return Net(follow)


def batch(seed: int = 0) -> torch.Tensor:
    return torch.randn(8, 3, generator=torch.Generator().manual_seed(seed))


def assert_trains_alike(model: nn.Module, want: nn.Module) -> None:
    """Hold outputs, gradients, buffers and evaluation against those of the model as torch computes it."""
    for seed in range(3):
        x = [batch(seed).requires_grad_() for _ in range(2)]
        y = [each(one) for each, one in zip((model, want), x, strict=True)]
        torch.testing.assert_close(*y, rtol=1e-4, atol=1e-5)
        for each in y:
            each.square().sum().backward()
        torch.testing.assert_close(x[0].grad, x[1].grad, rtol=1e-3, atol=1e-4)
    assert model.state_dict().keys() == want.state_dict().keys()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, want.state_dict()[name], rtol=1e-4, atol=1e-5)
    wanted = dict(want.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name].grad, rtol=1e-3, atol=1e-3)
    model.eval()
    want.eval()
    torch.testing.assert_close(model(batch(9)), want(batch(9)), rtol=1e-4, atol=1e-5)


ACTIVATIONS: dict[str, Callable[..., torch.Tensor]] = {
    "module": lambda m, h, x: m.relu(m.norm(h)) + m.other(x),
    "in place": lambda m, h, x: m.in_place(m.norm(h)) + m.other(x),
    "leaky": lambda m, h, x: m.leaky(m.norm(h)) + m.other(x),
    "torch.relu": lambda m, h, x: torch.relu(m.norm(h)) + m.other(x),
    "F.relu": lambda m, h, x: F.relu(m.norm(h), inplace=True) + m.other(x),
    "method": lambda m, h, x: m.norm(h).relu_() + m.other(x),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation(name: str) -> None:
    model, want = made(ACTIVATIONS[name]), made(ACTIVATIONS[name])
    fused = fuse(model)
    assert fused.norm.activation == ("leaky_relu" if name == "leaky" else "relu")
    assert fused.norm.negative_slope == (0.3 if name == "leaky" else 0.01)
    assert "relu" not in fused.code
    assert fused.norm.weight is model.norm.weight
    assert model.norm.activation is None
    assert_trains_alike(fused, want)


def _into_the_residual(m: Net, h: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    other = m.other(x)
    other += m.norm(h)
    return m.relu(other)


ADDITIONS: dict[str, Callable[..., torch.Tensor]] = {
    "before": lambda m, h, x: m.relu(m.other(x) + m.norm(h)),
    "after": lambda m, h, x: m.relu(m.norm(h) + m.other(x)),
    "computed later": lambda m, h, x: (lambda y: torch.relu(torch.add(y, m.other(x))))(m.norm(h)),
    "in place": lambda m, h, x: m.in_place(m.norm(h).add_(m.other(x))),
    "input": lambda m, h, x: F.relu(m.norm(h).add(x)) + m.other(x),
    "into the residual": _into_the_residual,
    "leaky": lambda m, h, x: m.leaky(m.norm(h) + m.other(x)),
}


def _input_changed_before_the_activation(m: Net, h: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    y = m.norm(h)
    h.mul_(100)
    return torch.relu(y) + m.other(x)


@pytest.mark.parametrize("name", ADDITIONS)
def test_an_addition_and_an_activation(name: str) -> None:
    model, want = made(ADDITIONS[name]), made(ADDITIONS[name])
    assert fuse(copy.deepcopy(model)).norm.activation is None  # shapes are not known
    fused = fuse(model, batch())
    assert fused.norm.activation == ("leaky_relu" if name == "leaky" else "relu")
    assert model.norm.num_batches_tracked == 0
    assert_trains_alike(fused, want)


@pytest.mark.parametrize("name", ["computed later", "in place"])
def test_both_models_may_be_used(name: str) -> None:
    model, want = made(ADDITIONS[name]), made(ADDITIONS[name])
    fuse(model, batch())
    assert_trains_alike(model, want)


def _changed_later(m: Net, h: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    other = m.other(x)
    y = m.relu(m.norm(h) + other)
    other.mul_(2)
    return y + other


def _changed_by_function(m: Net, h: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    other = m.other(x)
    y = m.relu(m.norm(h) + other)
    return y + F.relu(other, inplace=True)


def _changed_by_module(m: Net, h: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    other = m.other(x)
    y = m.relu(m.norm(h) + other)
    return y + m.in_place(other)


def _written(m: Net, h: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    other = m.other(x)
    y = m.relu(m.norm(h) + other)
    torch.mul(x, 2, out=other)
    return y + other


def _twice(m: Net, h: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    y = m.norm(h)
    return m.relu(y + y) + m.other(x)


NOT_FUSED: dict[str, Callable[..., torch.Tensor]] = {
    "two uses": lambda m, h, x: (lambda y: m.relu(y) + y + m.other(x))(m.norm(h)),
    "two calls": lambda m, h, x: m.relu(m.norm(m.norm(h))) + m.other(x),
    "no use": lambda m, h, x: m.other(x) + m.norm(h),
    "nothing after": lambda m, h, x: m.norm(m.other(x) + h),
    "other function": lambda m, h, x: torch.sigmoid(m.norm(h)) + m.other(x),
    "scaled": lambda m, h, x: m.relu(torch.add(m.norm(h), m.other(x), alpha=2)),
    "number": lambda m, h, x: m.relu(m.norm(h) + 1) + m.other(x),
    "another type": lambda m, h, x: m.relu(m.norm(h) + m.other(x).double()),
    "broadcast": lambda m, h, x: m.relu(m.norm(h) + m.other(x)[:1]),
    "broadcast norm": lambda m, h, x: m.relu(m.norm(h) + m.other(x)[None]),
    "changed later": _changed_later,
    "changed by a function": _changed_by_function,
    "changed by a module": _changed_by_module,
    "to itself": _twice,
}


@pytest.mark.parametrize("name", NOT_FUSED)
def test_what_is_left_alone(name: str) -> None:
    model, want = made(NOT_FUSED[name]), made(NOT_FUSED[name])
    fused = fuse(model, batch())
    assert fused.norm.activation is None
    if not name.startswith("changed"):  # which torch itself refuses to differentiate, in part
        assert_trains_alike(fused, want)


def _residual_changed_before_the_activation(m: Net, h: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    other = m.other(x)
    y, view = m.norm(h) + other, other.view(-1)
    view.mul_(100)
    return torch.relu(y)


@pytest.mark.parametrize(
    "follow", [_input_changed_before_the_activation, _residual_changed_before_the_activation], ids=["input", "residual"]
)
def test_arguments_may_change_before_the_activation(follow: Callable[..., torch.Tensor]) -> None:
    model, want = (made(follow).eval() for _ in range(2))
    fused = fuse(model, batch())
    assert fused.norm.activation == "relu"
    with torch.no_grad():
        torch.testing.assert_close(fused(batch()), want(batch()))


def test_a_residual_that_out_overwrites_is_left_alone() -> None:
    model = made(_written)
    assert fuse(model, batch()).norm.activation is None


def test_what_has_hooks_or_an_activation_is_left_alone() -> None:
    for which in ("norm", "relu"):
        model = made(ACTIVATIONS["module"])
        getattr(model, which).register_forward_hook(lambda *_: None)
        assert fuse(model).norm.activation is None
    model = made(ACTIVATIONS["leaky"])
    model.norm = BatchNorm1d(3, activation="relu")
    assert fuse(model).norm is model.norm


def test_modes_are_kept() -> None:
    model = made(ADDITIONS["after"])
    model.norm.eval()
    fused = fuse(model, batch())
    assert (fused.training, fused.norm.training, model.norm.training, model.linear.training) == (
        True,
        False,
        False,
        True,
    )
    assert not fuse(made(ADDITIONS["after"]).eval(), batch()).training


def test_a_batch_norm_under_two_names_and_a_call_with_a_residual() -> None:
    class Shared(nn.Module):
        """One batch norm that has two names, and one that is given a residual."""

        def __init__(self) -> None:
            super().__init__()
            self.a = self.b = nn.BatchNorm1d(3)
            self.c, self.d = BatchNorm1d(3), BatchNorm1d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """Return a sum."""
            y = torch.relu(self.a(x)) + torch.relu(self.b(x))
            return torch.relu(self.c(y, x)) + torch.relu(self.d(y, residual=x))

    model = Shared()
    fused = fuse(model, batch())
    assert [each.activation for each in (fused.a, fused.c, fused.d)] == [None] * 3
    want = copy.deepcopy(model)
    torch.testing.assert_close(fused(batch()), want(batch()))


def test_copies_and_pickles() -> None:
    fused = fuse(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU()))
    want = fused(batch())
    for other in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        assert torch.equal(other(batch()), want)
        assert other.get_submodule("1").activation == "relu"


def test_a_model_that_cannot_be_traced() -> None:
    def follow(m: Any, h: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return m.norm(h) if x.sum() > 0 else h

    with pytest.raises(torch.fx.proxy.TraceError):
        fuse(made(follow))


def test_torchs_own_tracer_takes_calls_of_the_modules_as_those_of_its_own() -> None:
    model, want = (made(ADDITIONS["after"]) for _ in range(2))
    traced = torch.fx.symbolic_trace(convert(model))
    assert "self.norm(linear)" in traced.code
    assert_trains_alike(traced, want)
    model = nn.Sequential(SyncBatchNorm(3))
    assert torch.fx.symbolic_trace(model)(batch()).shape == (8, 3)


def test_what_torchs_own_tracer_cannot_take_as_one_call() -> None:
    class Doubled(BatchNorm1d):
        """Another forward, which torch.fx would have to look into."""

        def forward(self, *args: Any) -> torch.Tensor:
            """Return twice the result."""
            return 2 * super().forward(*args)

    hooked = BatchNorm1d(3)
    hooked.register_forward_hook(lambda *_: None)
    for layer in (Doubled(3), hooked):
        with pytest.raises(torch.fx.proxy.TraceError):
            torch.fx.symbolic_trace(nn.Sequential(layer))


class Activated(nn.BatchNorm1d):
    """A batch norm of another library, which asks for its mode."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the result, activated."""
        mean, var = self.running_mean, self.running_var
        return F.gelu(F.batch_norm(input, mean, var, self.weight, self.bias, self.training, 0.1, self.eps))


def test_batch_norms_of_other_libraries_keep_their_modes() -> None:
    def model() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU(), Activated(3))

    fused = fuse(model(), batch())
    assert fused.get_submodule("1").activation == "relu"
    assert type(fused.get_submodule("3")) is Activated
    assert_trains_alike(fused, model())


def _dropout(m: Net, h: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return F.dropout(m.relu(m.norm(h)), 0.5, m.training) + m.other(x)


def _only_in_training(m: Net, h: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    y = m.relu(m.norm(h))
    return y if m.training else y * int(y.sum() > 0)


@pytest.mark.parametrize("follow", [_dropout, _only_in_training], ids=["dropout", "cannot be traced"])
def test_a_model_that_depends_on_its_mode_stays_in_it(follow: Callable[..., torch.Tensor]) -> None:
    model = nn.Sequential(made(follow))  # whose forward function has no annotations, which torch.fx could not pickle
    fused = fuse(model, batch())
    norm = fused.get_submodule("0.norm")
    assert (model.training, fused.training, norm.activation) == (True, True, "relu")
    for each in (fused, copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        assert each.train() is each
        with pytest.raises(RuntimeError, match="traced in training: for evaluation, fuse"):
            each.eval()
        assert (each.training, each.get_submodule("0.norm").training) == (True, True)
        torch.manual_seed(1)
        y = each(batch())
        torch.manual_seed(1)
        torch.testing.assert_close(y, model(batch()) if follow is _dropout else torch.relu(y))


def test_a_model_that_depends_on_its_mode_is_fused_once_in_each() -> None:
    model = made(_dropout).eval()
    fused = fuse(model, batch()).eval()
    torch.testing.assert_close(fused(batch()), model(batch()))
    with pytest.raises(RuntimeError, match="traced in evaluation: for training, fuse"):
        fused.train()


class Noise(nn.Module):
    """What torchvision's and timm's modules for stochastic depth are: in evaluation nothing."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x, with noise in training."""
        return F.dropout(x, 0.5) if self.training else x


def test_modules_that_depend_on_their_modes_are_called() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU(), Noise())
    fused = fuse(model, batch())
    assert (fused.get_submodule("1").activation, type(fused.get_submodule("3"))) == ("relu", Noise)
    for training in (True, False):
        model.train(training)
        fused.train(training)
        torch.manual_seed(1)
        y = fused(batch())
        torch.manual_seed(1)
        torch.testing.assert_close(y, model(batch()))


def test_a_model_of_one_mode_stays_in_it_inside_of_another() -> None:
    fused = fuse(nn.Sequential(fuse(made(_dropout), batch()), nn.Linear(3, 3)), batch())
    with pytest.raises(RuntimeError, match="traced in training: for evaluation, fuse"):
        fused.eval()


def test_looking_for_shapes_changes_nothing_of_the_model() -> None:
    class Functional(nn.Module):
        """Calls functions that update buffers, and makes a tensor."""

        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)
            self.register_buffer("mean", torch.zeros(3))
            self.register_buffer("var", torch.ones(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """Return a sum of two batch norms, activated."""
            y = F.batch_norm(x, self.mean, self.var, training=self.training)
            return torch.relu(self.norm(x) + y) + torch.tensor(1.0)

    model = Functional()
    before, names = copy.deepcopy(model.state_dict()), set(vars(model))
    fused = fuse(model, batch())
    assert fused.norm.activation == "relu"
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert set(vars(model)) == names
    torch.testing.assert_close(fused(batch()), model(batch()))
