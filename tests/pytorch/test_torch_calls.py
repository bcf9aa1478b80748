"""Promise: calls that the extension takes whole give the bits of those that go through Python, which serves the others.

What both compute is held against torch and NumPy elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import fastbn
import fastbn.torch
from fastbn import _core
from fastbn.torch import _kernels, _modules, batch_norm
from support.interpreters import run_python


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture
def through_python(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function that makes all further calls go through Python."""

    def switch() -> None:
        monkeypatch.setattr(_core, "batch_norm_tensors", lambda *_: None)
        monkeypatch.setattr(_modules, "_call_module", lambda *_: None)

    return switch


ORDERS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "permuted": lambda x: x.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0),
}
RESULTS_OF = {"y": 0, "running_mean": 1, "running_var": 2, "dx": 3, "dweight": 4, "dbias": 5, "dresidual": 6}


def outcome(
    x: torch.Tensor, residual: torch.Tensor | None, dy: torch.Tensor, training: bool, options: dict[str, Any]
) -> list[Any]:
    x = x.detach().requires_grad_()
    residual = None if residual is None else residual.detach().requires_grad_()
    channels, dtype = x.shape[1], torch.float64 if x.dtype == torch.float64 else torch.float32
    mean, var = randn(channels, seed=5, dtype=dtype), 1 + randn(channels, seed=6, dtype=dtype).square()
    weight = (1 + randn(channels, seed=7, dtype=dtype)).requires_grad_()
    bias = randn(channels, seed=8, dtype=dtype).requires_grad_()
    y = batch_norm(x, mean, var, weight, bias, training, residual=residual, **options)
    leaves = (x, weight, bias) if residual is None else (x, weight, bias, residual)
    return [y.detach(), mean, var, *torch.autograd.grad(y, leaves, dy), type(y.grad_fn).__name__]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu"])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_both_ways_have_the_same_bits(
    through_python: Callable[[], None],
    order: str,
    dtype: torch.dtype,
    activation: str | None,
    with_residual: bool,
    training: bool,
) -> None:
    x, dy, residual = (ORDERS[order](randn(6, 5, 4, 7, seed=i, dtype=dtype)) for i in range(3))
    options = {"activation": activation, "negative_slope": 0.2}
    given = x, residual if with_residual else None, dy, training, options
    fast = outcome(*given)
    through_python()
    slow = outcome(*given)
    assert (fast.pop(), slow.pop()) == ("_RecordedBackward", "_FunctionBackward")
    for name, one, other in zip(RESULTS_OF, fast, slow, strict=False):
        assert torch.equal(one, other), name
        assert (one.dtype, one.stride()) == (other.dtype, other.stride()), name


@pytest.mark.parametrize("size", [(3, 4, 1, 1), (20, 4, 130, 130)], ids=["small", "of the pool"])
def test_results_begin_at_cache_lines_and_own_their_memory(size: tuple[int, ...]) -> None:
    x = randn(*size).requires_grad_()
    y = batch_norm(x, training=True)
    (dx,) = torch.autograd.grad(y, x, randn(*size, seed=1))
    want = y.detach().clone(), dx.clone()
    assert (y.data_ptr() % 64, dx.data_ptr() % 64) == (0, 0)
    before = fastbn.pool_info().reused
    del x
    others = [batch_norm(randn(*size, seed=2), training=True) for _ in range(3)]
    assert all(other.data_ptr() not in (y.data_ptr(), dx.data_ptr()) for other in others)
    assert torch.equal(y.detach(), want[0])
    assert torch.equal(dx, want[1])
    del others
    batch_norm(randn(*size, seed=2), training=True)
    assert (fastbn.pool_info().reused > before) == (y.nbytes >= 2**20)


def test_modules_and_functions_go_the_short_way() -> None:
    """What the extension does not take gets a node of another class."""
    for name, shape in (("1d", (4, 3)), ("1d", (4, 3, 5)), ("2d", (4, 3, 5, 5)), ("3d", (4, 3, 2, 2, 2))):
        module = getattr(fastbn.torch, f"BatchNorm{name}")(3)
        before = [each._version for each in module.buffers()]
        y = module(randn(*shape))
        assert type(y.grad_fn).__name__ == "_RecordedBackward"
        assert module.num_batches_tracked == 1
        assert module.running_mean.abs().max() > 0
        assert [each._version for each in module.buffers()] == [version + 1 for version in before]
        with torch.no_grad():
            assert module(randn(*shape)).grad_fn is None
        assert module.num_batches_tracked == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m, "momentum", None),
        lambda m: (
            m.register_parameter("weight", None)
            or m.__dict__["_parameters"].pop("weight")
            or setattr(m, "weight", torch.ones(3))
        ),
        lambda m: setattr(m, "_check_input_dim", lambda x: None),
        lambda m: m.__dict__.pop("eps") and setattr(type(m), "eps", 1e-5),
        lambda m: setattr(m, "num_batches_tracked", torch.tensor(0, dtype=torch.int32)),
        lambda m: setattr(m, "running_mean", torch.zeros(6)[::2]),
        lambda m: setattr(m, "running_mean", m.running_var.zero_()),
    ],
    ids=["average", "computed weight", "own check", "eps of the class", "int32", "strided", "one memory"],
)
def test_modules_that_are_not_simple_go_the_long_way(change: Callable[[Any], Any]) -> None:
    class Own(fastbn.torch.BatchNorm1d):
        """A class whose attributes may be changed."""

    module, x = Own(3), randn(4, 3).requires_grad_()
    change(module)
    y = module(x)
    assert type(y.grad_fn).__name__ != "_RecordedBackward"
    assert module.num_batches_tracked == 1


def test_calls_that_are_not_simple_go_the_long_way() -> None:
    x = randn(4, 3).requires_grad_()
    negated = torch.complex(randn(3), randn(3, seed=1)).conj().imag
    assert type(batch_norm(x[::2], training=True).grad_fn).__name__ == "_FunctionBackward"
    assert type(batch_norm(randn(4, 6).requires_grad_()[:, ::2], training=True).grad_fn).__name__ == "_FunctionBackward"
    assert type(batch_norm(x, weight=negated, training=True).grad_fn).__name__ == "_FunctionBackward"
    assert type(batch_norm(x, training=True, where=torch.ones(4, 1) > 0).grad_fn).__name__ == "_FunctionBackward"
    assert type(batch_norm(x, training=True).grad_fn).__name__ == "_RecordedBackward"
    assert type(batch_norm(x, torch.zeros(3), torch.ones(3)).grad_fn).__name__ == "_RecordedBackward"


def test_a_residual_in_another_order_or_type() -> None:
    x = randn(4, 3, 5, 6).requires_grad_()
    want = batch_norm(x, training=True, residual=randn(4, 3, 5, 6, seed=1), activation="relu")
    last = randn(4, 3, 5, 6, seed=1).to(memory_format=torch.channels_last)
    assert torch.equal(batch_norm(x, training=True, residual=last, activation="relu"), want)
    assert torch.equal(batch_norm(x, training=True, residual=last.double(), activation="relu"), want)


def test_backward_where_dy_is_not_like_x() -> None:
    x = randn(4, 3, 5, 6).requires_grad_()
    dy = randn(4, 3, 5, 6, seed=1)
    want = torch.autograd.grad(batch_norm(x, training=True), x, dy)[0]
    others = {
        "order": dy.to(memory_format=torch.channels_last),
        "every second": torch.stack((dy, dy), -1)[..., 0],
        "negated": torch.complex(dy, -dy).conj().imag,
    }
    for name, other in others.items():
        got = torch.autograd.grad(batch_norm(x, training=True), x, other)[0]
        assert torch.equal(got, want), name
    ones = torch.autograd.grad(batch_norm(x, training=True).sum(), x)[0]
    assert torch.equal(ones, torch.autograd.grad(batch_norm(x, training=True), x, torch.ones_like(x))[0])


def test_the_graph_may_be_kept_and_differentiated() -> None:
    x, dy = randn(6, 3).double().requires_grad_(), randn(6, 3, seed=1).double()
    y = batch_norm(x, training=True, activation="leaky_relu")
    first = torch.autograd.grad(y, x, dy, retain_graph=True)[0]
    again = torch.autograd.grad(y, x, dy, create_graph=True)[0]
    torch.testing.assert_close(again, first, rtol=1e-12, atol=1e-12)
    assert torch.autograd.grad(again.square().sum(), x, retain_graph=True)[0].isfinite().all()
    torch.autograd.grad(y, x, dy)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(y, x, dy)


def test_what_was_saved_must_not_have_changed() -> None:
    x, weight = randn(4, 3).requires_grad_(), torch.ones(3, requires_grad=True)
    y = batch_norm(x, weight=weight, training=True)
    with torch.no_grad():
        weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_an_activation_in_place_may_follow() -> None:
    x = randn(4, 3).requires_grad_()
    y = torch.nn.functional.relu(batch_norm(x, training=True), inplace=True)
    got = torch.autograd.grad(y, x, randn(4, 3, seed=1))[0]
    want = torch.autograd.grad(batch_norm(x, training=True).clamp_min(0), x, randn(4, 3, seed=1))[0]
    torch.testing.assert_close(got, want)


def test_what_fails_after_training_is_not_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("no tensor of it")

    monkeypatch.setattr(_kernels, "tensor_like", fail)
    x = randn(4, 6)[:, ::2]  # which the extension leaves to Python
    mean, var = torch.zeros(3), torch.ones(3)
    with pytest.raises(RuntimeError, match="no tensor of it"):
        batch_norm(x, mean, var, training=True, momentum=0.5)
    np.testing.assert_allclose(mean.numpy(), 0.5 * x.numpy().astype(float).mean(0), rtol=1e-6, atol=1e-7)


BOTH_WAYS = pytest.mark.parametrize("where", [None, torch.ones(4, 1) > 0], ids=["extension", "Python"])


class Subclass(torch.Tensor):
    """A class with rules of its own, as far as anybody knows."""


FORMS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "negated": lambda kept: torch.complex(torch.zeros_like(kept), -kept).conj().imag,
    "strided": lambda kept: torch.stack((kept, kept), -1)[..., 0],
    "subclass": lambda kept: kept.as_subclass(Subclass),
    "another order": lambda kept: kept.transpose(0, -1).contiguous().transpose(0, -1),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_hooks_may_give_back_what_was_kept_in_another_form(form: str, training: bool, activation: str | None) -> None:
    found = []
    for unpack in (FORMS[form], lambda kept: kept):
        x, residual = (randn(4, 3, 5, seed=seed).requires_grad_() for seed in range(2))
        layer = fastbn.torch.BatchNorm1d(3, activation=activation).train(training)
        torch.nn.init.normal_(layer.bias, generator=torch.Generator().manual_seed(2))
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.detach(), unpack):
            y = layer(x, residual)
        y.backward(randn(4, 3, 5, seed=3))
        found.append([x.grad, residual.grad, layer.weight.grad, layer.bias.grad])
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)  # sums of float32 in another order


def test_a_hook_may_give_back_what_was_kept_in_another_type() -> None:
    found = []
    for unpack in (torch.Tensor.double, lambda kept: kept):
        x, layer = randn(4, 3, 5).requires_grad_(), fastbn.torch.BatchNorm1d(3)
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.detach(), unpack):
            y = layer(x)
        y.backward(randn(4, 3, 5, seed=1))
        found.append([x.grad, layer.weight.grad, layer.bias.grad])
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)  # float32's rounding


@BOTH_WAYS
@pytest.mark.parametrize("training", [False, True])
def test_no_gradient_is_not_one_of_zeros(where: torch.Tensor | None, training: bool) -> None:
    class Ended(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *_: torch.Tensor) -> Any:
            return None

    for norm in (torch.nn.BatchNorm1d, fastbn.torch.BatchNorm1d):
        layer, x = norm(3).train(training), randn(4, 3).requires_grad_()
        y = layer(x) if where is None or norm is torch.nn.BatchNorm1d else layer(x, where=where)
        Ended.apply(y).sum().backward()
        assert [each.grad for each in (x, layer.weight, layer.bias)] == [None] * 3


@BOTH_WAYS
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("types", [(torch.float64, torch.float64), (torch.bfloat16, torch.float32)], ids=str)
def test_the_bias_may_change_between_forward_and_backward(
    where: torch.Tensor | None, training: bool, types: tuple[torch.dtype, torch.dtype]
) -> None:
    x, dy = (randn(4, 3, seed=seed, dtype=types[0]).requires_grad_(seed == 0) for seed in range(2))
    for norm in (torch.nn.BatchNorm1d, fastbn.torch.BatchNorm1d):
        layer = norm(3, dtype=types[1]).train(training)
        y = layer(x) if where is None or norm is torch.nn.BatchNorm1d else layer(x, where=where)
        with torch.no_grad():
            layer.bias.add_(1)
        y.backward(dy)
        assert layer.bias.grad.dtype == types[1]
        # to bfloat16's last place, where dy is of that type
        torch.testing.assert_close(layer.bias.grad, dy.sum(0).to(types[1]), rtol=1e-2, atol=1e-2)


def test_a_number_of_batches_of_inference_mode_is_not_counted_outside_of_it() -> None:
    for norm in (torch.nn.BatchNorm1d, fastbn.torch.BatchNorm1d):
        module = norm(3)
        with torch.inference_mode():
            module.num_batches_tracked = torch.tensor(0)
        with pytest.raises(RuntimeError, match="inference tensor"):
            module(randn(4, 3))
        assert torch.equal(module.running_mean, torch.zeros(3))


def test_the_functions_in_c_look_at_what_they_are_given() -> None:
    ctx = type("Ctx", (), {"saved_tensors": (), "call": (), "needs_input_grad": ()})()
    with pytest.raises(TypeError, match="call must be a tuple of y and what is kept, got 3"):
        _core.recorded_forward(ctx, 3, None, None, None, None)
    with pytest.raises(ValueError, match="values to unpack"):  # of Python's own backward, which is asked then
        _core.recorded_backward(ctx, randn(2, 3))
    with pytest.raises(AttributeError, match="__dict__"):
        _core.call_module(3, randn(4, 3))
    assert _core.batch_norm_tensors(3) is None
    assert _core.call_module(torch.nn.Linear(2, 2), randn(4, 3)) is None


def test_the_functions_in_c_want_torch_first() -> None:
    code = """
from fastbn import _core
for function, n in ((_core.batch_norm_tensors, 1), (_core.call_module, 2), (_core.recorded_backward, 2)):
    try:
        function(*(None,) * n)
    except RuntimeError as error:
        print(error)
try:
    _core.register_torch({})
except KeyError as error:
    print(error)
"""
    assert run_python(code).stdout == "fastbn.torch must be imported first\n" * 3 + "'tensor'\n"


def test_saved_weight_with_strides_since_the_forward_pass() -> None:
    x, dy = randn(8, 5).requires_grad_(), randn(8, 5, seed=1)
    layer = fastbn.torch.BatchNorm1d(5)
    y = layer(x)
    wide = randn(5, 2, seed=2)
    layer.weight.data = wide[:, 0]
    y.backward(dy)
    # By the formula in float64: xhat is the forward pass's, the weight the one that is there now.
    exact, weight = x.detach().double(), wide[:, 0].double()
    invstd = (exact.var(0, unbiased=False) + layer.eps).rsqrt()
    xhat, g = (exact - exact.mean(0)) * invstd, dy.double()
    dx = weight * invstd * (g - g.mean(0) - xhat * (g * xhat).mean(0))
    # float32's rounding of some five operations on values of up to 5
    torch.testing.assert_close(x.grad, dx.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer.weight.grad, (g * xhat).sum(0).float(), rtol=1e-5, atol=1e-5)


def test_saved_input_of_another_shape_since_the_forward_pass() -> None:
    x = randn(8, 5).requires_grad_()
    y = fastbn.torch.BatchNorm1d(5)(x)
    x.data = randn(8, 9)
    with pytest.raises(ValueError, match=r"dy must have x's shape \(8, 9\), got \(8, 5\)"):
        y.sum().backward()


def test_saved_statistics_of_other_channels_since_the_forward_pass() -> None:
    x = randn(8, 5).requires_grad_()
    y = fastbn.torch.BatchNorm1d(5, affine=False)(x)
    x.data = randn(8, 9)
    with pytest.raises((ValueError, RuntimeError)):
        y.backward(torch.ones(8, 5))


@pytest.mark.parametrize("yes", [1, np.True_], ids=["1", "np.True_"])
def test_training_is_what_python_takes_for_true(yes: Any) -> None:
    x, mean, var = randn(8, 5), torch.zeros(5), torch.ones(5)
    batch_norm(x, mean, var, training=yes)
    # a tenth of the batch's mean, in float32
    torch.testing.assert_close(mean, 0.1 * x.mean(0), rtol=1e-5, atol=1e-7)
    layer = fastbn.torch.BatchNorm1d(5)
    layer.track_running_stats = yes
    layer(x)
    assert layer.num_batches_tracked == 1
    torch.testing.assert_close(layer.running_mean, mean)


def test_transforms_around_a_module_that_they_do_not_follow() -> None:
    x, layer, peer = randn(8, 3), fastbn.torch.BatchNorm1d(3), torch.nn.BatchNorm1d(3)
    found, expected = (torch.func.vmap(lambda a, m=m: m(x) + a)(torch.arange(3.0)) for m in (layer, peer))
    # torch's own in float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer.running_mean, peer.running_mean)
    assert layer.num_batches_tracked == 1
    frozen = fastbn.torch.BatchNorm1d(3).requires_grad_(False)
    with pytest.raises(RuntimeError):
        torch.func.grad(lambda a: (frozen(x) * a).sum())(torch.tensor(2.0))
    assert frozen.running_mean.abs().sum() == 0


def test_a_number_of_batches_without_memory() -> None:
    layer = fastbn.torch.BatchNorm1d(3)
    layer.num_batches_tracked = torch.tensor(0, device="meta")
    x = randn(8, 3)
    layer(x)
    # a tenth of the batch's mean, in float32
    torch.testing.assert_close(layer.running_mean, 0.1 * x.mean(0), rtol=1e-5, atol=1e-7)


def test_running_statistics_that_ask_for_gradients() -> None:
    mean, var = torch.zeros(3, requires_grad=True), torch.ones(3)
    with pytest.raises(RuntimeError, match="running_mean"):
        batch_norm(randn(8, 3).requires_grad_(), mean, var, training=True)
    assert mean.abs().sum() == 0


@pytest.mark.parametrize("masked", [False, True])
def test_a_residual_is_not_kept_without_an_activation(masked: bool) -> None:
    x, residual = randn(8, 3).requires_grad_(), randn(8, 3, seed=1)
    where = torch.ones(8, 1, dtype=torch.bool) if masked else None
    layer = fastbn.torch.BatchNorm1d(3)
    added = residual.clone().requires_grad_()
    y = layer(x, added * 1, where=where)
    inner = added * 1
    z = layer(x, inner, where=where)
    inner.add_(1)  # an error in backward if it were kept
    dy = randn(8, 3, seed=2)
    (y + z).backward(dy)
    torch.testing.assert_close(added.grad, 2 * dy, rtol=0, atol=0)


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("with_residual", [False, True])
def test_gradients_where_the_input_asks_for_none(activation: str | None, with_residual: bool) -> None:
    x, dy = randn(4, 3, 5), randn(4, 3, 5, seed=1)
    found = []
    for wants in (False, True):
        layer = fastbn.torch.BatchNorm1d(3, activation=activation)
        residual = randn(4, 3, 5, seed=2).requires_grad_() if with_residual else None
        layer(x.clone().requires_grad_(wants), residual).backward(dy)
        found.append([layer.weight.grad, layer.bias.grad, None if residual is None else residual.grad])
    for without, expected in zip(*found, strict=True):
        assert (without is None) == (expected is None)
        if without is not None:
            torch.testing.assert_close(without, expected, rtol=0, atol=0)
