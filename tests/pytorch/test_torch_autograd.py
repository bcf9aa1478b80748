"""Promise: gradients of any order, forward mode, batches of gradients and the transforms of `torch.func` are right."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from fastbn.torch import BatchNorm1d, batch_norm

SHAPE = (4, 3, 2)
OPTIONS = [{}, {"where": True}, {"where": True, "weights": True}]


def made(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def leaves() -> list[torch.Tensor]:
    shapes = (SHAPE, (3,), (3,), SHAPE)
    return [made(*shape, seed=seed).requires_grad_() for seed, shape in enumerate(shapes)]


def function(training: bool, activation: str | None, given: dict[str, bool]) -> Any:
    """Return the function of x, weight, bias and residual."""
    known = {"where": made(4, 1, 2, seed=10) > -0.5, "weights": made(*SHAPE, seed=11).square()}
    options = {name: known[name] for name in given}

    def call(x: torch.Tensor, weight: Any = None, bias: Any = None, residual: Any = None) -> torch.Tensor:
        mean, var = made(3, seed=12), made(3, seed=13).square() + 0.5
        return batch_norm(x, mean, var, weight, bias, training, residual=residual, activation=activation, **options)

    return call


@pytest.mark.parametrize("given", OPTIONS, ids=str)
@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu"])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_every_order_and_mode(training: bool, activation: str | None, given: dict[str, bool]) -> None:
    call = function(training, activation, given)
    assert gradcheck(call, leaves(), check_forward_ad=True, check_batched_grad=True, check_undefined_grad=False)
    assert gradgradcheck(call, leaves())


@pytest.mark.parametrize("training", [True, False])
def test_gradients_without_parameters(training: bool) -> None:
    call = function(training, None, {})
    assert gradcheck(call, leaves()[:1], check_forward_ad=True)
    assert gradgradcheck(call, leaves()[:1], check_fwd_over_rev=True)


def test_weights_that_require_grad_get_it() -> None:
    x, weights = leaves()[0], made(*SHAPE, seed=3).square().add(0.1).requires_grad_()
    assert gradcheck(lambda x, weights: batch_norm(x, training=True, weights=weights), (x, weights))


def test_a_gradient_penalty_is_torchs() -> None:
    found = []
    for norm in (batch_norm, F.batch_norm):
        x, weight, bias, _ = leaves()
        y = norm(x, None, None, weight, bias, True)
        (dx,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
        found.append(torch.autograd.grad(dx.square().sum(), (x, weight, bias), allow_unused=True))
    torch.testing.assert_close(found[0][:2], found[1][:2], rtol=1e-9, atol=1e-9)


def test_gradients_may_be_expanded_and_of_any_order() -> None:
    x, weight, bias, _ = leaves()
    y = batch_norm(x, weight=weight, bias=bias, training=True)
    for dy in (torch.ones((), dtype=torch.float64).expand(SHAPE), made(2, 3, 4).permute(2, 1, 0)):
        got = torch.autograd.grad(y, (x, weight, bias), dy, retain_graph=True)
        want = torch.autograd.grad(F.batch_norm(x, None, None, weight, bias, True), (x, weight, bias), dy)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_transforms_of_torch_func(training: bool) -> None:
    call = function(training, "leaky_relu", {})
    x, weight, bias, _ = (leaf.detach() for leaf in leaves())
    tangent = made(*SHAPE, seed=20)

    def loss(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return call(x, weight, bias).pow(3).sum()

    inputs = x.clone().requires_grad_(), weight.clone().requires_grad_()
    want = torch.autograd.grad(loss(*inputs), inputs)
    torch.testing.assert_close(torch.func.grad(loss, argnums=(0, 1))(x, weight), want)
    _, derivative = torch.func.jvp(lambda x: loss(x, weight), (x,), (tangent,))
    torch.testing.assert_close(derivative, (want[0] * tangent).sum())
    batch = torch.stack((x, x + 1, 2 * x))

    mean, var = (None, None) if training else (made(3), made(3).square())

    def alone(x: torch.Tensor) -> torch.Tensor:
        return batch_norm(x, mean, var, weight, bias, training)

    torch.testing.assert_close(torch.func.vmap(alone)(batch), torch.stack([alone(each) for each in batch]))
    jacobians = [transform(alone)(x) for transform in (torch.func.jacrev, torch.func.jacfwd)]
    torch.testing.assert_close(*jacobians)
    vectorized = torch.autograd.functional.jacobian(alone, x, vectorize=True)
    torch.testing.assert_close(vectorized, jacobians[0])


def test_running_statistics_under_transforms() -> None:
    x, batch = made(4, 3), made(5, 4, 3)

    def assert_updated(transformed: Any) -> None:
        found = []
        for norm in (batch_norm, F.batch_norm):
            running = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
            transformed(norm, running)
            found.append(running)
        torch.testing.assert_close(*found)
        assert (found[0][0] != 0).all()

    assert_updated(lambda norm, known: torch.func.grad(lambda x: norm(x, *known, training=True).sum())(x))
    assert_updated(lambda norm, known: torch.func.jvp(lambda x: norm(x, *known, training=True), (x,), (x,)))

    def call(x: torch.Tensor, mean: torch.Tensor, var: torch.Tensor) -> torch.Tensor:
        return batch_norm(x, mean, var, training=True).pow(3).sum()

    for transformed in (call, torch.func.grad(call)):
        stacked = torch.zeros(5, 3, dtype=torch.float64), torch.ones(5, 3, dtype=torch.float64)
        torch.func.vmap(transformed)(batch, *stacked)
        for i, each in enumerate(batch):
            alone = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
            batch_norm(each, *alone, training=True)
            torch.testing.assert_close((stacked[0][i], stacked[1][i]), alone)


def test_running_statistics_under_functionalize() -> None:
    x, found = made(4, 3).float(), []
    for norm in (BatchNorm1d(3), torch.nn.BatchNorm1d(3)):
        y = torch.func.functionalize(norm)(x)
        buffers = dict(norm.named_buffers())
        z = torch.func.functionalize(torch.func.functional_call, remove="mutations")(norm, buffers, (x,))
        found.append([y, z, *buffers.values()])
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)  # torch's sums are of float32
    assert (found[0][2] != 0).all()


def test_forward_mode_at_a_large_mean() -> None:
    x, tangent = (made(500, 3).float() + 1e4), made(500, 3, seed=1).float()
    with forward_ad.dual_level():
        y = batch_norm(forward_ad.make_dual(x, tangent), training=True)
        got = forward_ad.unpack_dual(y).tangent
        dual = forward_ad.make_dual(x.double(), tangent.double())
        want = forward_ad.unpack_dual(F.batch_norm(dual, None, None, training=True)).tangent
    torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-6)


def test_checkpoints_hooks_on_saved_tensors_and_anomaly_mode() -> None:
    x, weight, bias, _ = leaves()

    def run(call: Any) -> Any:
        return torch.autograd.grad(call().square().sum(), (x, weight, bias))

    def call() -> torch.Tensor:
        return batch_norm(x, weight=weight, bias=bias, training=True, activation="relu")

    want = run(call)
    torch.testing.assert_close(run(lambda: checkpoint(call, use_reentrant=False)), want)
    with torch.autograd.graph.save_on_cpu(), torch.autograd.set_detect_anomaly(True):
        torch.testing.assert_close(run(call), want)


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("given", [(), ("where",)], ids=str)
def test_checkpoints_with_a_gradient_in_another_order_than_the_input(activation: str | None, given: tuple[str]) -> None:
    """A checkpoint gives each tensor that was kept once."""
    x, dy = (made(4, 3, 5, 6, seed=seed).float() for seed in range(2))
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    options = dict.fromkeys(given, torch.ones(4, 1, 1, 1, dtype=torch.bool))
    y = checkpoint(batch_norm, x, training=True, activation=activation, use_reentrant=False, **options)
    wide = x.detach().double().requires_grad_()
    z = F.batch_norm(wide, None, None, training=True)
    want = torch.autograd.grad(z if activation is None else torch.relu(z), wide, dy.double())[0]
    # float32's rounding of some five operations on values of up to 5
    torch.testing.assert_close(torch.autograd.grad(y, x, dy)[0].double(), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("reentrant", [True, False])
def test_running_statistics_of_a_checkpoint_are_torchs(reentrant: bool, activation: str | None) -> None:
    """What a checkpoint ends with is computed once more, up to where all that is kept has been found."""
    found = []
    for norm in (BatchNorm1d(3, activation=activation), torch.nn.BatchNorm1d(3)):
        checkpoint(norm, made(4, 3).float().requires_grad_(), use_reentrant=reentrant).square().sum().backward()
        found.append(dict(norm.named_buffers()))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("options", [{}, {"activation": "relu"}, {"momentum": None}, {"where": True}], ids=str)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_hooks_that_refuse_what_is_kept_leave_running_statistics_alone(number: int, options: dict[str, Any]) -> None:
    """As torch does, which asks hooks for input and weight before it computes."""
    options = dict(options)
    given = {"where": torch.ones(4, 1, dtype=torch.bool)} if options.pop("where", False) else {}
    asked = []

    def pack(kept: torch.Tensor) -> torch.Tensor:
        asked.append(kept)
        if len(asked) == number:
            raise ValueError("not this one")
        return kept

    found = []
    norms = BatchNorm1d(3, **options), torch.nn.BatchNorm1d(3, momentum=options.get("momentum", 0.1))
    for norm in norms:
        call = given if norm is norms[0] else {}
        norm(made(4, 3, seed=1).float(), **call)
        asked.clear()
        try:
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept):
                norm(made(4, 3).float().requires_grad_(), **call)
        except ValueError:
            pass
        found.append((len(asked) == number, dict(norm.named_buffers())))
    ours, theirs = found
    if ours[0]:  # without an activation or a mask there are two tensors to keep
        assert ours[1].pop("num_batches_tracked") == 1  # what is refused is not counted; torch counts it
        assert theirs[1].pop("num_batches_tracked") == 2
        torch.testing.assert_close(ours[1], theirs[1], rtol=1e-5, atol=1e-6)  # torch's sums are of float32
    else:
        assert number == 3


def test_a_changed_input_is_noticed() -> None:
    x = made(4, 3).requires_grad_()
    z = x * 1
    y = batch_norm(z, training=True)
    z.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_gradients_at_nan_are_the_same_by_kernels_and_operations(activation: str) -> None:
    x = made(4, 3)
    x[1, 2] = float("nan")
    x.requires_grad_()
    found = []
    for create_graph in (False, True):
        y = batch_norm(x, torch.zeros(3).double(), torch.ones(3).double(), activation=activation)
        found.append(torch.autograd.grad(y, x, torch.ones_like(y), create_graph=create_graph)[0].detach())
    torch.testing.assert_close(found[0], found[1], equal_nan=True)
