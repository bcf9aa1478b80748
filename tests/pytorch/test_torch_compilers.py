"""Promise: compilers and exported programs see whole graphs with fastbn's operations in them, and give the same."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch.library import opcheck
from torch.utils.flop_counter import FlopCounterMode

import fastbn.torch

OPS = torch.ops.fastbn
# What torch says of its own code while it compiles.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(autouse=True)
def _nothing_compiled_before() -> None:
    torch.compiler.reset()
    torch.manual_seed(0)


def made(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype)


CASES: list[tuple[str | None, tuple[str, ...]]] = [
    (None, ()),
    ("relu", ("residual",)),
    (None, ("where", "residual")),
    ("leaky_relu", ("where", "weights", "residual")),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("activation", "given"), CASES)
def test_the_operations_pass_opcheck(activation: str | None, given: tuple[str, ...], dtype: torch.dtype) -> None:
    x = made(4, 3, 5, 2, dtype=dtype).to(memory_format=torch.channels_last)
    known = {"where": x[:, :1] > -1, "weights": x[:, :, :1].float().square(), "residual": torch.randn_like(x)}
    where, weights, residual = (known[name] if name in given else None for name in ("where", "weights", "residual"))
    weight, bias, mean, var = made(3), made(3), made(3), made(3).square()
    count = OPS.batch_norm_train(x, None, None, where, weights, None, 1e-5, None, 0.1)[-1]
    for grad in (False, True):
        leaves = [v.clone().requires_grad_(grad) if v is not None else None for v in (x, weight, bias, residual)]
        x1, w1, b1, r1 = leaves
        opcheck(OPS.batch_norm_train.default, (x1, w1, b1, where, weights, r1, 1e-5, activation, 0.1))
        opcheck(OPS.batch_norm_infer.default, (x1, mean, var, w1, b1, r1, 1e-5, activation, 0.1))
    for training in (True, False):
        statistics = (mean, var.rsqrt(), count if given else None, where, weights, residual)
        opcheck(OPS.batch_norm_backward.default, (x.neg(), x, weight, bias, *statistics, training, activation, 0.1))


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 1, 1), (2, 1, 4, 4)])
def test_the_operations_keep_every_memory_order(shape: tuple[int, ...]) -> None:
    x = made(*shape)
    orders = [x, x.transpose(0, -1).contiguous().transpose(0, -1), x[:1].expand(shape), x[:, :1].expand(shape)]
    if x.dim() == 4:
        orders.append(x.to(memory_format=torch.channels_last))
    for each in orders:
        if each.shape == x.shape:
            given = each, None, None, None, None, None, 1e-5, None, 0.1
            opcheck(OPS.batch_norm_train.default, given)
            assert OPS.batch_norm_train(*given)[0].stride() == torch.empty_like(each).stride()  # which fakes promise


def test_gradients_of_the_operations_themselves() -> None:
    x, weight, bias, residual = (made(*shape).requires_grad_() for shape in ((4, 3, 2), (3,), (3,), (4, 3, 2)))
    mean, var = made(3), made(3).square()

    def train(x: Any, weight: Any, bias: Any, residual: Any) -> Any:
        return OPS.batch_norm_train(x, weight, bias, None, None, residual, 1e-5, "leaky_relu", 0.3)[0]

    def infer(x: Any, weight: Any, bias: Any, residual: Any) -> Any:
        return OPS.batch_norm_infer(x, mean, var, weight, bias, residual, 1e-5, "relu", 0.3)

    for operation in (train, infer):
        assert torch.autograd.gradcheck(operation, (x, weight, bias, residual))
        assert torch.autograd.gradgradcheck(operation, (x, weight, bias, residual))
    statistics = OPS.batch_norm_train(x, None, None, None, None, None, 1e-5, None, 0.1)[1:]
    assert not any(value.requires_grad for value in statistics)


class Block(torch.nn.Module):
    """Two convolutions with a connection around the second."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 6, 3, padding=1)
        self.norm = fastbn.torch.BatchNorm2d(6, activation="relu")
        self.second = torch.nn.Conv2d(6, 6, 3, padding=1)
        self.sum = fastbn.torch.BatchNorm2d(6, activation="leaky_relu", momentum=0.3)

    def forward(self, x: torch.Tensor, where: torch.Tensor | None = None) -> torch.Tensor:
        """Return the sum, activated."""
        x = self.norm(self.first(x), where=where)
        return self.sum(self.second(x), x)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_whole_graphs_train_and_evaluate_the_same(backend: str, channels_last: bool) -> None:
    order = torch.channels_last if channels_last else torch.contiguous_format
    model = Block().to(memory_format=order)
    other = copy.deepcopy(model)
    compiled = torch.compile(other, backend=backend, fullgraph=True)
    where = torch.rand(4, 1, 8, 8) > 0.2
    for step in range(2):
        x = [torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(step)).to(memory_format=order)] * 2
        for call, each in zip((model, compiled), x, strict=True):
            y = call(each, where)
            assert y.is_contiguous(memory_format=order)
            y.square().mean().backward()
    # The convolutions' own sums differ from compiler to compiler in float32's last places.
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(dict(model.named_buffers()), dict(other.named_buffers()), rtol=1e-5, atol=1e-6)
    model.eval()
    other.eval()
    torch.testing.assert_close(model(x[0]), compiled(x[0]), rtol=1e-4, atol=1e-5)


def test_other_batch_sizes_need_no_new_graph_each() -> None:
    model = fastbn.torch.BatchNorm1d(3)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=True)
    for n in (4, 9, 17, 0):
        x = torch.randn(n, 3)
        torch.testing.assert_close(compiled(x), torch.nn.BatchNorm1d(3)(x), rtol=1e-4, atol=1e-5)
    # Of a class that torch.compile chooses.
    with pytest.raises(Exception, match="Expected more than 1 value per channel"):
        torch.compile(model, backend="eager")(torch.randn(1, 3))


@pytest.mark.parametrize("training", [False, True])
def test_the_bias_of_a_compiled_model_may_change_between_forward_and_backward(training: bool) -> None:
    model = fastbn.torch.BatchNorm1d(3, dtype=torch.float32).train(training)
    y = torch.compile(model, backend="aot_eager", fullgraph=True)(torch.randn(4, 3))
    with torch.no_grad():
        model.bias.add_(1)
    y.backward(torch.ones(4, 3))
    assert torch.equal(model.bias.grad, torch.full((3,), 4.0))


@pytest.mark.parametrize("training", [False, True])
def test_an_exported_model_runs(training: bool) -> None:
    model = Block().train(training)
    want = copy.deepcopy(model)
    dimensions = {"x": {0: torch.export.Dim("n", min=2)}, "where": None}
    program = torch.export.export(model, (torch.randn(4, 3, 8, 8), None), dynamic_shapes=dimensions)
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert sum("fastbn.batch_norm" in name for name in names) == 2
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    exported = torch.export.load(file).module()
    x = torch.randn(7, 3, 8, 8)
    torch.testing.assert_close(exported(x, None), want(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(dict(exported.named_buffers()), dict(want.named_buffers()))


def test_modes_see_one_operation() -> None:
    model, x = Block(), torch.randn(2, 3, 8, 8)
    with FlopCounterMode(display=False) as counter:
        model(x).sum().backward()
    assert counter.get_total_flops() > 0
    with torch._subclasses.FakeTensorMode() as mode:
        y = fastbn.torch.batch_norm(mode.from_tensor(x), training=True)
    assert y.shape == x.shape
    graph = torch.fx.experimental.proxy_tensor.make_fx(lambda x: fastbn.torch.batch_norm(x, training=True))(x)
    assert "fastbn.batch_norm_train" in graph.code


def test_tracing_gives_torchs_own_operation() -> None:
    x = torch.randn(4, 3)
    model = fastbn.torch.BatchNorm1d(3, activation="relu").eval()
    traced = torch.jit.trace(model, x)
    assert "aten::batch_norm" in str(traced.inlined_graph)
    torch.testing.assert_close(traced(x), model(x), rtol=1e-5, atol=1e-5)


def test_gradients_under_compiled_autograd_and_transforms_inside_a_graph() -> None:
    x, mean, var = made(4, 3), torch.zeros(3), torch.ones(3)

    def loss(x: torch.Tensor, training: bool = True) -> torch.Tensor:
        return fastbn.torch.batch_norm(x, mean, var, training=training).pow(3).sum()

    want = torch.func.grad(loss)(x)
    for training in (False, True):
        compiled = torch.compile(lambda x, training=training: torch.func.grad(loss)(x, training), backend="aot_eager")
        torch.testing.assert_close(compiled(x), torch.func.grad(loss)(x, training))
    x.requires_grad_()
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
        loss(x).backward()
    torch.testing.assert_close(x.grad, want)


@pytest.mark.parametrize("fullgraph", [False, True])
@pytest.mark.parametrize(
    ("running", "training"),
    [
        ((torch.zeros(3), None), True),
        ((None, torch.ones(3)), True),
        ((torch.zeros(3, dtype=torch.int64), torch.ones(3, dtype=torch.int64)), True),
        ((torch.zeros(3, dtype=torch.int64), torch.ones(3, dtype=torch.int64)), False),
    ],
    ids=["mean alone", "variance alone", "integers in training", "integers"],
)
def test_compiled_calls_refuse_what_others_refuse(running: Any, training: bool, fullgraph: bool) -> None:
    def call(x: torch.Tensor) -> torch.Tensor:
        return fastbn.torch.batch_norm(x, *running, training=training)

    for function in (call, torch.compile(call, backend="aot_eager", fullgraph=fullgraph)):
        with pytest.raises(Exception, match=r"running_mean and running_var must|mixed dtype|both be provided"):
            function(torch.randn(4, 3))


@pytest.mark.parametrize("training", [False, True])
def test_what_traces_without_data_refuses_the_same(training: bool) -> None:
    with torch._subclasses.FakeTensorMode():
        x, floats = torch.ones(4, 3), torch.ones(3)
        with pytest.raises(ValueError, match="running_mean and running_var must either both be None or neither"):
            fastbn.torch.batch_norm(x, floats, None, training=True)
        with pytest.raises(TypeError, match=r"running_mean and running_var must be .* got torch\.int64"):
            fastbn.torch.batch_norm(x, floats.long(), floats.long(), training=training)


def test_compiled_weights_that_are_too_small_leave_running_statistics_alone() -> None:
    mean, var, weights = torch.zeros(3), torch.ones(3), torch.full((4, 1), 0.1)
    x = torch.randn(4, 3)
    compiled = torch.compile(fastbn.torch.batch_norm, backend="aot_eager", fullgraph=True)
    y = compiled(x, mean, var, training=True, weights=weights)
    torch.testing.assert_close(y, fastbn.torch.batch_norm(x, training=True, weights=weights))
    assert torch.equal(mean, torch.zeros(3))
    assert torch.equal(var, torch.ones(3))
