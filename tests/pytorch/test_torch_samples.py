"""Promise: PyTorch's own samples for its batch-norm modules and operations give with ours what they give with its own.

Half types are held against torch's results in float64 at the same values: its own gradients in these types are far off
where there are few values per channel.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F  # noqa: N812
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import ModuleErrorEnum, module_db
from torch.testing._internal.jit_metaprogramming_utils import get_nn_functional_tests

import fastbn.torch

MODULES = {
    getattr(torch.nn, name): getattr(fastbn.torch, name)
    for name in fastbn.torch.__all__
    if name.startswith("BatchNorm")
}
TYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# Of the largest value. torch sums float32 in float32; half types are rounded once, parameters' gradients after sums of
# rounded values.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 2**-8, torch.float16: 2**-11}
HALVES = (torch.bfloat16, torch.float16)

module_infos = [info for info in module_db if info.module_cls in MODULES]
OPERATIONS = (
    "nn.functional.batch_norm",
    "native_batch_norm",
    "_native_batch_norm_legit",
    "_batch_norm_with_update",
)
op_infos = [info for info in op_db if info.name in OPERATIONS and not info.variant_test_name]


def assert_same(got: Any, want: Any, dtype: torch.dtype) -> None:
    assert (got is None) == (want is None)
    if want is None:
        return
    assert got.shape == want.shape
    assert got.dtype == (dtype if dtype in HALVES and want.dtype.is_floating_point else want.dtype)
    scale = max([1.0, *want.detach().double().abs().flatten().tolist()])
    torch.testing.assert_close(got.double(), want.double(), rtol=0, atol=TOLERANCE[dtype] * scale)


def test_all_of_pytorchs_entries_are_here() -> None:
    assert len(module_infos) == 3
    assert {info.name for info in op_infos} == set(OPERATIONS)
    assert len(JIT_SAMPLES) == 10


def steps(y: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return a gradient for y, of values that the type holds."""
    return torch.linspace(-1, 2, y.numel(), dtype=dtype).reshape(y.shape)


@pytest.fixture(autouse=True)
def _same_samples() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("info", module_infos, ids=lambda info: info.name)
def test_modules(info: Any, dtype: torch.dtype, training: bool) -> None:
    samples = info.module_inputs_func(info, "cpu", dtype, requires_grad=True, training=training)
    assert samples
    judge = torch.float64 if dtype in HALVES else dtype
    for sample in samples:
        made = sample.constructor_input
        results = []
        for cls, of in ((MODULES[info.module_cls], dtype), (info.module_cls, judge)):
            module = cls(*made.args, **made.kwargs).to(of).train(training)
            (x,) = (value.detach().to(of).clone().requires_grad_() for value in sample.forward_input.args)
            y = module(x)
            y.backward(steps(y, dtype).to(of))
            results.append([y, x.grad, *(p.grad for p in module.parameters()), *module.buffers()])
        for got, want in zip(*results, strict=True):
            assert_same(got, want, dtype)


@pytest.mark.parametrize("info", module_infos, ids=lambda info: info.name)
def test_errors_of_modules(info: Any) -> None:
    samples = info.module_error_inputs_func(info, "cpu", torch.float32, requires_grad=False, training=True)
    assert samples
    for sample in samples:
        assert sample.error_on is ModuleErrorEnum.FORWARD_ERROR
        made, given = sample.module_error_input.constructor_input, sample.module_error_input.forward_input
        module = MODULES[info.module_cls](*made.args, **made.kwargs)
        with pytest.raises(sample.error_type, match=sample.error_regex):
            module(*given.args, **given.kwargs)


def copied(value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return value.detach().to(dtype).clone().requires_grad_(value.requires_grad)


def calls(info: Any, dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    """Yield the samples' arguments by name."""
    for sample in info.sample_inputs_func(info, "cpu", dtype, requires_grad=True):
        args = sample.args
        if info.name == "nn.functional.batch_norm":
            names = ("running_mean", "running_var", "weight", "bias")
        elif info.name == "_batch_norm_with_update":
            names = ("weight", "bias", "running_mean", "running_var", "momentum", "eps")
        elif len(args) == 7:
            names = ("weight", "bias", "running_mean", "running_var", "training", "momentum", "eps")
        else:
            names = ("weight", "bias", "training", "momentum", "eps")
        always = {"running_mean": None, "running_var": None}
        if info.name == "_batch_norm_with_update":
            always["training"] = True
        yield always | dict(zip(names, args, strict=True)) | sample.kwargs | {"input": sample.input}


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("info", op_infos, ids=lambda info: info.name)
def test_operations(info: Any, dtype: torch.dtype) -> None:
    count, judge = 0, torch.float64 if dtype in HALVES else dtype
    for given in calls(info, dtype):
        results = []
        for function, of in ((fastbn.torch.batch_norm, dtype), (F.batch_norm, judge)):
            own = {name: copied(value, of) if torch.is_tensor(value) else value for name, value in given.items()}
            y = function(**own)
            leaves = [value for value in own.values() if torch.is_tensor(value) and value.requires_grad]
            gradients = torch.autograd.grad(y, leaves, steps(y, dtype).to(of)) if y.requires_grad else []
            results.append([y, own["running_mean"], own["running_var"], *gradients])
        for got, want in zip(*results, strict=True):
            assert_same(got, want, dtype)
        count += 1
    assert count


def assert_differentiable(function: Any, leaves: tuple[torch.Tensor, ...]) -> None:
    """Hold first and second derivatives, and those of forward mode, against differences of function values."""
    assert gradcheck(function, leaves, check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(function, leaves, check_fwd_over_rev=True, fast_mode=True)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("info", module_infos, ids=lambda info: info.name)
def test_derivatives_of_modules(info: Any, training: bool) -> None:
    for sample in info.module_inputs_func(info, "cpu", torch.float64, requires_grad=True, training=training):
        made = sample.constructor_input
        module = MODULES[info.module_cls](*made.args, **made.kwargs).double().train(training)
        parameters = dict(module.named_parameters())

        def call(x: torch.Tensor, *values: torch.Tensor, module: Any = module, names: Any = tuple(parameters)) -> Any:
            return torch.func.functional_call(module, dict(zip(names, values, strict=True)), (x,))

        assert_differentiable(call, (*sample.forward_input.args, *parameters.values()))


@pytest.mark.parametrize("info", op_infos, ids=lambda info: info.name)
def test_derivatives_of_operations(info: Any) -> None:
    for given in calls(info, torch.float64):
        leaves = {name: value for name, value in given.items() if torch.is_tensor(value) and value.requires_grad}

        def call(*values: torch.Tensor, given: Any = given, names: Any = tuple(leaves)) -> torch.Tensor:
            running = {name: given[name] for name in ("running_mean", "running_var")}
            own = {name: None if value is None else value.clone() for name, value in running.items()}
            return fastbn.torch.batch_norm(**given | own | dict(zip(names, values, strict=True)))

        assert_differentiable(call, tuple(leaves.values()))


JIT_SAMPLES = [sample for sample in get_nn_functional_tests() if sample[0] == "batch_norm"]


@pytest.mark.parametrize("sample", JIT_SAMPLES, ids=lambda sample: sample[3] or "plain")
def test_samples_of_the_tests_of_torch_jit(sample: Any) -> None:
    _, shape, given, *_ = sample
    x = torch.randn(shape)
    results = []
    for function in (fastbn.torch.batch_norm, F.batch_norm):
        leaf = x.clone().requires_grad_()
        own = [value.tensor.clone() if hasattr(value, "tensor") else value for value in given]
        y = function(leaf, *own)
        results.append([y, *torch.autograd.grad(y, leaf, steps(y, torch.float32)), *own[:2]])
    for got, want in zip(*results, strict=True):
        assert_same(got, want, torch.float32)
