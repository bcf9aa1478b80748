"""Promise: `fastbn.torch.batch_norm` is torch's, in every type and memory order, and right where torch's is not."""

from __future__ import annotations

import contextlib
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812
from torch.utils._python_dispatch import TorchDispatchMode

from fastbn import _core
from fastbn.torch import BatchNorm1d, SyncBatchNorm, batch_norm
from support import oracle

TYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# y: a rounding of each type's last place from either side; torch's own sums of float32 are good to some 1e-5.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}
LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "permuted": lambda x: x.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0),
    "every second": lambda x: torch.stack((x, x), -1)[..., 0],
    "expanded": lambda x: x[:, :, :1].expand(x.shape),
}


def tensor(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def parameters(channels: int, dtype: torch.dtype, seed: int = 5) -> list[torch.Tensor]:
    """Return running mean and variance, weight and bias."""
    made = [tensor(channels, dtype=dtype, seed=seed + i) for i in range(4)]
    return [made[0], made[1].square() + 0.5, made[2], made[3]]


def outcome(function: Any, x: torch.Tensor, given: list[torch.Tensor], training: bool, **options: Any) -> list[Any]:
    """Return y, the running statistics after the call, and the gradients of x, weight and bias."""
    x = x.detach().requires_grad_()
    mean, var = (value.clone() for value in given[:2])
    weight, bias = (value.clone().requires_grad_() for value in given[2:])
    y = function(x, mean, var, weight, bias, training, **options)
    dy = tensor(*y.shape, dtype=y.dtype, seed=99)
    return [y.detach(), mean, var, *torch.autograd.grad(y, (x, weight, bias), dy)]


def assert_all_close(got: list[Any], want: list[Any], rtol: float) -> None:
    for one, other in zip(got, want, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=rtol, atol=rtol * max(1.0, float(other.abs().max())))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_agrees_with_torch(dtype: torch.dtype, layout: str, training: bool) -> None:
    x = LAYOUTS[layout](tensor(4, 3, 5, 6, dtype=dtype))
    of_parameters = torch.float64 if dtype == torch.float64 else torch.float32
    given = parameters(3, of_parameters)
    assert_all_close(
        outcome(batch_norm, x, given, training), outcome(F.batch_norm, x, given, training), TOLERANCE[dtype]
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_parameters_of_half_precision(dtype: torch.dtype, training: bool) -> None:
    x, given = tensor(6, 3, 4, dtype=dtype), parameters(3, dtype)
    got = outcome(batch_norm, x, given, training)
    want = outcome(F.batch_norm, x.double(), [value.double() for value in given], training)
    for one, other in zip(got, want, strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one, other.to(dtype), rtol=2 * TOLERANCE[dtype], atol=4 * TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("shape", "memory_format"),
    [
        ((4, 3, 5, 6), torch.channels_last),
        ((4, 3, 1, 1), torch.channels_last),
        ((4, 1, 5, 6), torch.channels_last),
        ((2, 3, 4, 5, 6), torch.channels_last_3d),
        ((2, 3, 1, 5, 1), torch.channels_last_3d),
        ((4, 3, 5, 6), torch.contiguous_format),
        ((4, 3, 1, 1), torch.contiguous_format),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_memory_order_is_kept(shape: tuple[int, ...], memory_format: Any, dtype: torch.dtype) -> None:
    x = tensor(*shape, dtype=dtype).to(memory_format=memory_format)
    residual = x.clone().requires_grad_()
    x.requires_grad_()
    y = batch_norm(x, training=True, residual=residual, activation="relu")
    gradients = torch.autograd.grad(y, (x, residual), x.detach())
    for each in (y, *gradients):
        assert each.stride() == x.stride()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_kernels_compute_it_where_torch_would_too(
    training: bool, activation: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("torch's own operation was called")

    monkeypatch.setattr(F, "batch_norm", refuse)
    for x in (tensor(4, 3), tensor(4, 3).requires_grad_()):
        for residual in (None, tensor(4, 3, seed=1)):
            mean, var, weight, bias = parameters(3, torch.float32)
            batch_norm(x, mean, var, weight, bias, training, residual=residual, activation=activation)


def test_x_is_not_copied_and_y_is_new() -> None:
    x = tensor(4, 3)
    before = x.clone()
    y = batch_norm(x, training=True)
    y.zero_()
    assert torch.equal(x, before)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4, 4), (2, 3, 0), (4, 0)])
def test_empty_batches(shape: tuple[int, ...], training: bool) -> None:
    given = parameters(shape[1], torch.float32)
    got = outcome(batch_norm, tensor(*shape), given, training)
    assert got[0].shape == shape
    assert [torch.equal(one, other) for one, other in zip(got[1:3], given, strict=False)] == [True, True]
    assert all((gradient == 0).all() for gradient in got[3:])


@pytest.mark.parametrize("shape", [(1000, 4), (200, 4, 5), (50, 4, 5, 4)])
@pytest.mark.parametrize("mean", [1e4, 1e6])
def test_is_right_where_the_mean_is_large(shape: tuple[int, ...], mean: float) -> None:
    x = tensor(*shape) + mean
    if len(shape) == 4:
        x = x.to(memory_format=torch.channels_last)
    running = [torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)]
    y = batch_norm(x, *running, training=True, momentum=1.0)
    want = oracle.train(x.numpy())
    torch.testing.assert_close(y, torch.from_numpy(want.y.astype(np.float32)), rtol=1e-6, atol=1e-6)
    n = x.numel() // 4
    np.testing.assert_allclose(running[1].numpy(), (want.biased * n / (n - 1)).astype(float), rtol=2e-9)


@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("counted", [(), ("where",), ("weights",), ("where", "weights")])
def test_masks_weights_residual_and_activation(counted: tuple[str, ...], training: bool, activation: Any) -> None:
    x, dy, residual = (tensor(6, 3, 5, dtype=torch.float64, seed=seed) for seed in range(3))
    mean, var, weight, bias = parameters(3, torch.float64)
    given = {"where": tensor(6, 1, 5, seed=7) > 0, "weights": tensor(6, 3, 1, seed=8).square()}
    options = {name: given[name] for name in counted}
    leaves = [value.requires_grad_() for value in (x, weight, bias, residual)]
    known = (mean.clone(), var.clone())
    y = batch_norm(
        x, *known, weight, bias, training, residual=residual, activation=activation, negative_slope=0.2, **options
    )
    gradients = torch.autograd.grad(y, leaves, dy)

    arrays = {name: value.detach().numpy() for name, value in options.items()}
    p = oracle.element_weights(x.shape, **arrays) if training else None
    xs, w, b, r = (leaf.detach().numpy() for leaf in leaves)
    epilogue = {"residual": r, "activation": activation, "slope": 0.2}
    if training:
        want = oracle.train(xs, w, b, p=p, **epilogue)
        wanted_y, used = want.y, (want.mean, want.invstd)
        unbiased = want.biased * want.count / (want.count - 1)
        for got, old, new in zip(known, (mean, var), (want.mean, unbiased), strict=True):
            np.testing.assert_allclose(got.numpy(), oracle.updated(old.numpy(), new, 0.1).astype(float), rtol=1e-12)
    else:
        wanted_y = oracle.normalize(xs, mean.numpy(), var.numpy(), w, b, **epilogue)
        used = (mean.numpy(), oracle.invstd_of(var.numpy().astype(np.longdouble), 1e-5))
    np.testing.assert_allclose(y.detach().numpy(), wanted_y.astype(float), rtol=1e-12, atol=1e-12)
    back = oracle.backward(
        dy.numpy(), xs, w, *used, training=training, p=p, bias=b, residual=r, activation=activation, slope=0.2
    )
    for got, wanted in zip(gradients, (back.dx, back.dweight, back.dbias, back.dresidual), strict=True):
        np.testing.assert_allclose(got.numpy(), wanted.astype(float), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_tensors_of_many_dimensions(dtype: torch.dtype) -> None:
    x = tensor(3, 2, 1, 1, 1, 2, 1, 1, 1, 1, 2, 1, dtype=dtype)
    given = parameters(2, torch.float64 if dtype == torch.float64 else torch.float32)
    assert_all_close(outcome(batch_norm, x, given, True), outcome(F.batch_norm, x, given, True), TOLERANCE[dtype])


def test_what_is_masked_out_has_no_influence() -> None:
    x, where = tensor(6, 3), torch.tensor([True, True, False, True, True, True]).unsqueeze(1)
    spoilt = x.clone()
    spoilt[2] = float("nan")
    want = batch_norm(x, training=True, where=where)
    got = batch_norm(spoilt, training=True, where=where)
    assert torch.equal(got[where[:, 0]], want[where[:, 0]])


def test_running_statistics_count_as_changed() -> None:
    mean, var = torch.zeros(3), torch.ones(3)
    before = mean._version, var._version
    batch_norm(tensor(4, 3), mean, var, training=True)
    assert (mean._version, var._version) == (before[0] + 1, before[1] + 1)


def test_frozen_statistics_may_change_between_forward_and_backward() -> None:
    x, (mean, var, _, _) = tensor(4, 3).requires_grad_(), parameters(3, torch.float32)
    y = batch_norm(x, mean, var)
    want = (1 / (var + 1e-5).sqrt()).expand(4, 3).clone()
    var.fill_(100)
    (dx,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(dx, want, rtol=1e-6, atol=0)


def test_no_gradient_is_kept_where_none_is_asked_for() -> None:
    weight = torch.ones(3, requires_grad=True)
    with torch.no_grad():
        assert not batch_norm(tensor(4, 3), weight=weight, training=True).requires_grad
    assert batch_norm(tensor(4, 3), weight=weight, training=True).requires_grad
    with torch.inference_mode():
        assert batch_norm(tensor(4, 3), torch.zeros(3), torch.ones(3), weight, training=True).is_inference()


def test_parameters_of_which_no_gradient_is_asked_get_none() -> None:
    x, weight = tensor(4, 3), torch.ones(3, requires_grad=True)
    residual = tensor(4, 3, seed=3)
    batch_norm(x, weight=weight, bias=torch.zeros(3), training=True, residual=residual).square().sum().backward()
    assert weight.grad is not None
    assert x.grad is None
    assert residual.grad is None


def test_tensors_whose_memory_is_not_their_values() -> None:
    # The imaginary part of a conjugate: negated wherever it is read.
    negated = torch.complex(tensor(4, 3, seed=1), tensor(4, 3, seed=2)).conj().imag
    assert negated.is_neg()
    weight = torch.complex(tensor(3, seed=1), tensor(3, seed=2)).conj().imag
    for x, w in ((negated, tensor(3)), (tensor(4, 3), weight)):
        got = batch_norm(x, weight=w, training=True)
        torch.testing.assert_close(got, F.batch_norm(x, None, None, w, None, True), rtol=1e-5, atol=1e-5)


def test_a_tensors_memory_is_an_array() -> None:
    for dtype in TYPES:
        x = tensor(3, 4, dtype=dtype)
        array = _core.from_exchange_api(x[:, 1:])
        assert array is not None
        assert (array.shape, array.strides) == ((3, 3), (4 * x.itemsize, x.itemsize))
        array[0, 0] = 7
        assert x[0, 1] == 7
    for value in (np.zeros(3), 1.0, torch.zeros(2, dtype=torch.complex64)):
        assert _core.from_exchange_api(value) is None
    with pytest.raises(RuntimeError, match="meta"):
        _core.from_exchange_api(torch.empty(3, device="meta"))


PLAIN = (torch.Tensor, torch.nn.Parameter)


def test_several_tensors_memory_at_once() -> None:
    x, weight = tensor(4, 3), torch.nn.Parameter(tensor(3))
    found = _core.exchanged_arrays((x, None, weight), PLAIN)
    assert found is not None
    assert found[1] is None
    for array, each in ((found[0], x), (found[2], weight)):
        assert array is not None
        assert array.__array_interface__["data"][0] == each.data_ptr()
        np.testing.assert_array_equal(array, each.detach().numpy())
    negated = torch.complex(x, x).conj().imag
    for values in ((x.long(),), (x, negated), (x, np.zeros(3)), (x, x.to(torch.complex64))):
        assert _core.exchanged_arrays(values, PLAIN) is None
    assert _core.exchanged_arrays((x, weight), PLAIN[:1]) is None
    with pytest.raises(TypeError, match="value must be a tuple, got None"):
        _core.exchanged_arrays(None, PLAIN)  # type: ignore[arg-type]  # which is the mistake


def test_arrays_as_tensors() -> None:
    x = tensor(4, 1, 3).as_strided((4, 1, 3), (3, 7, 1))
    memory = np.arange(12, dtype=np.float32).reshape(4, 1, 3)
    wide = np.array([1.0, 1 + 2**-40, np.nan, 1e300])
    found = _core.exchanged_objects((memory, None, wide), (x, None, torch.zeros(1).double()))
    assert found is not None
    y, nothing, same = found
    assert nothing is None
    assert (y.stride(), y.data_ptr()) == (x.stride(), memory.__array_interface__["data"][0])
    assert same.dtype == torch.float64
    np.testing.assert_array_equal(same.numpy(), wide)
    del memory, found  # y keeps what it lives on
    assert torch.equal(y.flatten(), torch.arange(12.0))
    assert _core.exchanged_objects((wide,), (torch.zeros(1),)) is None
    assert _core.exchanged_objects((wide,), (wide,)) is None
    with pytest.raises(ValueError, match="value must be as many arrays as likes"):
        _core.exchanged_objects((wide,), ())
    with pytest.raises(TypeError, match="likes must be a tuple"):
        _core.exchanged_objects((wide,), None)  # type: ignore[arg-type]  # which is the mistake


def test_a_number_that_is_counted_up_in_place() -> None:
    counted = torch.tensor(3)
    assert _core.count_exchanged(counted)
    assert counted == 4
    for other in (torch.tensor(3.0), torch.tensor([3]), torch.tensor(3, dtype=torch.int32), np.array(3)):
        assert not _core.count_exchanged(other)
        assert other == 3


def test_gradients_where_a_parameters_memory_is_not_its_values() -> None:
    found = []
    for function in (batch_norm, F.batch_norm):
        x = tensor(4, 3).requires_grad_()
        weight = torch.complex(tensor(3, seed=1), tensor(3, seed=2)).conj().imag.requires_grad_()
        assert weight.is_neg()
        y = function(x, None, None, weight, None, True)
        found.append([y.detach(), *torch.autograd.grad(y, (x, weight), tensor(4, 3, seed=3))])
    assert_all_close(*found, rtol=1e-5)


def test_parameters_of_classes_of_their_own() -> None:
    class Weight(torch.Tensor):
        pass

    weight = tensor(3).as_subclass(Weight)
    got, want = (f(tensor(4, 3), None, None, weight, None, True) for f in (batch_norm, F.batch_norm))
    torch.testing.assert_close(got, want.as_subclass(torch.Tensor), rtol=1e-5, atol=1e-5)


def test_parameters_may_be_freed_and_filled_again_between_forward_and_backward() -> None:
    # As is done with parameters that are sharded over processes.
    x, weight, dy = tensor(4, 3).requires_grad_(), torch.ones(3, requires_grad=True), tensor(4, 3, seed=3)
    want = torch.autograd.grad(F.batch_norm(x, None, None, weight, None, True), (x, weight), dy)
    y = batch_norm(x, weight=weight, training=True)
    memory = weight.untyped_storage()
    size = memory.nbytes()
    memory.resize_(0)
    memory.resize_(size)
    weight.data.fill_(1.0)
    got = torch.autograd.grad(y, (x, weight), dy)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


# What the kernels do not serve, and errors.


def test_other_devices_go_to_torch() -> None:
    x = torch.empty(4, 3, 5, device="meta", requires_grad=True)
    y = batch_norm(x, training=True, activation="leaky_relu", residual=x)
    assert (y.device.type, y.shape) == ("meta", x.shape)
    y = batch_norm(x, training=True, where=torch.ones(4, 1, 1, dtype=torch.bool, device="meta"))
    assert (y.device.type, y.shape) == ("meta", x.shape)


def test_other_layouts_go_to_torch() -> None:
    x, (mean, var, weight, bias) = tensor(2, 3, 4, 4), parameters(3, torch.float32)
    y = batch_norm(x.to_mkldnn(), mean, var, weight, bias)
    torch.testing.assert_close(y.to_dense(), batch_norm(x, mean, var, weight, bias))


class OwnRules(torch.Tensor):
    """Tensors that know torch's operations and no others."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "fastbn" in str(function):
            raise NotImplementedError(f"no rule for {function}")
        return super().__torch_function__(function, types, args, kwargs or {})


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("given", [(), ("where",)], ids=str)
def test_tensors_with_rules_of_their_own_go_to_torch(given: tuple[str, ...], training: bool, grad: bool) -> None:
    x, where = tensor(4, 3), torch.ones(4, 1, dtype=torch.bool)
    found = []
    for function, options in ((batch_norm, dict.fromkeys(given, where)), (F.batch_norm, {})):
        leaf, running = x.clone().requires_grad_(grad), (torch.zeros(3), torch.ones(3))
        y = function(leaf.as_subclass(OwnRules), *running, training=training, **options)
        assert type(y) is OwnRules
        dx = torch.autograd.grad(y.pow(3).sum(), leaf)[0] if grad else x
        found.append([each.as_subclass(torch.Tensor).detach() for each in (y, dx, *running)])
    assert_all_close(*found, rtol=1e-4)  # third powers of float32


def test_momentum_may_be_any_number_as_with_torch() -> None:
    x, given = tensor(4, 3), parameters(3, torch.float32)
    for momentum in (-1.2, 2.0):
        got, want = (outcome(function, x, given, True, momentum=momentum) for function in (batch_norm, F.batch_norm))
        assert_all_close(got, want, 1e-5)


NUMBERS: dict[str, Any] = {
    "int": 1,
    "bool": True,
    "float64": np.float64(0.5),
    "float32": np.float32(0.5),
    "int64": np.int64(1),
    "tensor": torch.tensor(0.5),
    "nan": float("nan"),
    "parameter": torch.nn.Parameter(torch.tensor(0.5)),
    "several": torch.tensor([0.5]),
    "array": np.array(0.5),
    "Decimal": Decimal("0.5"),
    "Fraction": Fraction(1, 2),
    "None": None,
    "text": "0.5",
    "complex": 0.5j,
    "negative": -1.0,
    "infinity": float("inf"),
    "beyond int64": 10**30,
    "beyond float64": 10**400,
    "below float64": -(10**400),
}


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", NUMBERS)
@pytest.mark.parametrize("name", ["eps", "momentum"])
def test_what_is_a_number_to_torch(name: str, kind: str, training: bool, grad: bool) -> None:
    calls: list[Any] = []
    for functions, layers in ((batch_norm, BatchNorm1d), (F.batch_norm, torch.nn.BatchNorm1d)):

        def of_function(function: Any = functions) -> list[torch.Tensor]:
            running = torch.zeros(3), torch.ones(3)
            x = tensor(4, 3).requires_grad_(grad)
            return [function(x, *running, None, None, training, **{name: NUMBERS[kind]}).detach(), *running]

        def of_layer(norm: Any = layers) -> list[torch.Tensor]:
            layer = norm(3).train(training)
            setattr(layer, name, NUMBERS[kind])
            return [layer(tensor(4, 3).requires_grad_(grad)).detach(), layer.running_mean, layer.running_var]

        calls.append((of_function, of_layer))
    for ours, theirs in zip(*calls, strict=True):
        try:
            want = theirs()
        except (TypeError, ValueError, OverflowError) as error:
            with pytest.raises(type(error)):
                ours()
        else:
            torch.testing.assert_close(ours(), want, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize(
    ("x", "given", "options"),
    [
        (tensor(1, 3), {}, {"training": True}),
        (tensor(1, 3, 1, 1), {}, {"training": True}),
        (tensor(4, 3), {}, {"training": False}),
        (tensor(4, 3), {"running_mean": torch.zeros(2), "running_var": torch.ones(2)}, {}),
        (tensor(4, 3), {"running_mean": torch.zeros(3), "running_var": torch.ones(2)}, {}),
        (tensor(4, 3), {"running_mean": torch.zeros(2), "running_var": torch.ones(2)}, {"training": True}),
        (tensor(4, 3), {"weight": torch.ones(2)}, {"training": True}),
        (tensor(4, 3), {"bias": torch.ones(4)}, {"training": True}),
        (tensor(4, 3), {"running_mean": torch.zeros(3)}, {"training": True}),
        (tensor(4, 3), {}, {"training": True, "eps": 0.0}),
        (tensor(4, 3), {"running_mean": torch.zeros(3), "running_var": torch.ones(3)}, {"eps": -1.0}),
        (tensor(4), {}, {"training": True}),
        (torch.ones(4, 3, dtype=torch.int32), {}, {"training": True}),
        (torch.ones(4, 3, dtype=torch.complex64), {}, {"training": True}),
    ],
)
@pytest.mark.parametrize("momentum", [0.1, 1.5, float("nan")])
@pytest.mark.parametrize("grad", [True, False])
def test_errors_are_torchs(
    x: torch.Tensor, given: dict[str, Any], options: dict[str, Any], grad: bool, momentum: float
) -> None:
    assert_errors_are_torchs(x, given, options | {"momentum": momentum}, grad)


def assert_errors_are_torchs(x: torch.Tensor, given: dict[str, Any], options: dict[str, Any], grad: bool) -> None:
    x = x.clone().requires_grad_(grad and x.is_floating_point())
    given = {"running_mean": None, "running_var": None} | given
    found = []
    for function in (F.batch_norm, batch_norm):
        with pytest.raises((ValueError, RuntimeError, IndexError)) as raised:
            function(x, **given, **options)
        found.append((raised.type, str(raised.value)))
    assert found[1] == found[0]


@pytest.mark.parametrize("momentum", [0.1, -0.1, 1.5, float("nan")])
def test_what_torch_takes_beside_is_taken_with_any_momentum(momentum: float) -> None:
    cases = [
        (tensor(4, 3), 3, {"eps": float("inf")}),  # y is the bias
        (tensor(0, 3), 2, {}),  # of an empty batch torch compares nothing
        (tensor(0, 3), 2, {"weight": torch.ones(4), "bias": torch.ones(4)}),
    ]
    for x, channels, options in cases:
        found = []
        for function in (batch_norm, F.batch_norm):
            running = torch.zeros(channels), torch.ones(channels)
            found.append([function(x, *running, training=True, momentum=momentum, **options), *running])
        torch.testing.assert_close(*found, equal_nan=True)


@pytest.mark.parametrize("sizes", [(3, 4), (3, 1), (4, 3)])
@pytest.mark.parametrize("options", [{"momentum": 0.1}, {"momentum": 1.5}, {"momentum": -0.1}, {"eps": 0.0}], ids=str)
def test_running_statistics_of_other_sizes_are_not_half_written(
    options: dict[str, float], sizes: tuple[int, int]
) -> None:
    mean, var = torch.zeros(sizes[0]), torch.ones(sizes[1])
    with pytest.raises((ValueError, RuntimeError), match=r"running_(mean|var) must have shape \(3,\)"):
        batch_norm(tensor(4, 3), mean, var, training=True, where=torch.ones(4, 1) > 0, **options)
    assert torch.equal(mean, torch.zeros(sizes[0]))
    with Passing(), pytest.raises(RuntimeError, match=r"running_(mean|var) should contain 3 elements not"):
        batch_norm(tensor(4, 3), mean, var, training=True)
    assert torch.equal(mean, torch.zeros(sizes[0]))


@pytest.mark.parametrize("name", ["running_mean", "running_var"])
def test_running_statistics_of_two_dimensions_are_refused_before_they_are_written(name: str) -> None:
    running = {"running_mean": torch.zeros(3), "running_var": torch.ones(3)}
    running[name] = running[name].reshape(1, 3)
    before = {key: value.clone() for key, value in running.items()}
    for mode in contextlib.nullcontext(), Passing():
        with mode, pytest.raises((ValueError, RuntimeError), match=rf"{name} must have shape \(3,\), got \(1, 3\)"):
            batch_norm(tensor(4, 3), **running, training=True, where=torch.ones(4, 1) > 0)
        for key, value in running.items():
            assert torch.equal(value, before[key])


class Passing(TorchDispatchMode):
    """Does what it sees, but has to see it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the operation."""
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["weight", "bias"])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_parameters_of_other_sizes_are_refused_where_operations_would_broadcast_them(name: str, size: int) -> None:
    def call(function: Any) -> Any:
        return lambda x: function(x, None, None, training=True, **{name: torch.ones(size)})

    x = tensor(4, 3)
    for function in (F.batch_norm, batch_norm):
        with pytest.raises(RuntimeError, match=f"^{name} should contain 3 elements not {size}"):
            torch.func.vmap(call(function))(x[None])
        with pytest.raises(RuntimeError, match=f"^{name} should contain 3 elements not {size}"):
            torch.func.jvp(call(function), (x,), (x,))


@pytest.mark.parametrize(
    "given", [{"where": torch.ones(1, 3) > 0}, {"weights": torch.ones(1, 3)}], ids=["where", "weights"]
)
def test_one_value_is_refused_in_the_same_words_where_it_is_weighted(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^Expected more than 1 value per channel when training, got input size"):
        batch_norm(tensor(1, 3), training=True, **given)


def test_tensors_that_are_negated_where_they_are_read() -> None:
    def negated(values: torch.Tensor) -> torch.Tensor:
        found = torch.complex(torch.zeros_like(values), -values).conj().imag
        assert found.is_neg()
        return found

    x = tensor(8, 3, 5) * 2 + 100
    options = {"weights": tensor(8, 3, 1, seed=1).square(), "residual": tensor(8, 3, 5, seed=2)}
    given = parameters(3, torch.float32)
    for training in (False, True):
        for names in ((), ("residual",), ("weights",)):
            plain = {name: options[name] for name in names}
            want = outcome(batch_norm, x, given, training, **plain)
            got = outcome(batch_norm, negated(x), given, training, **{name: negated(plain[name]) for name in names})
            for one, other in zip(got, want, strict=True):
                assert torch.equal(one, other)
    # What torch does with these is to leave them as they are.
    mean, var = given[0].clone(), given[1].clone()
    batch_norm(x, mean, var, training=True)
    other_mean, other_var = negated(given[0]), negated(given[1])
    batch_norm(x, other_mean, other_var, training=True)
    torch.testing.assert_close(torch.stack((other_mean, other_var)), torch.stack((mean, var)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"activation": "gelu"}, ValueError, "activation must be None, 'relu' or 'leaky_relu', got 'gelu'"),
        ({"residual": torch.ones(3)}, ValueError, r"residual must have input's shape \(4, 3\), got \(3,\)"),
        ({"where": torch.ones(5, 3, dtype=torch.bool)}, ValueError, "where must"),
        ({"where": torch.ones(4, 3)}, TypeError, "where must"),
        ({"weights": -torch.ones(4, 3)}, ValueError, "weights must"),
        ({"activation": "leaky_relu", "negative_slope": float("nan")}, ValueError, "negative_slope must be finite"),
        ({"activation": "leaky_relu", "negative_slope": 1e39}, ValueError, "negative_slope must be finite"),
        ({"activation": "leaky_relu", "negative_slope": 10**400}, ValueError, "negative_slope must be finite"),
    ],
)
def test_errors_of_what_torch_does_not_have(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        batch_norm(tensor(4, 3), training=True, **options)


@pytest.mark.parametrize("kind", [np.ones, list, bool])
@pytest.mark.parametrize("name", ["running_mean", "running_var", "weight", "bias", "where", "weights", "residual"])
@pytest.mark.parametrize("training", [False, True])
def test_arguments_that_are_no_tensors_are_named(name: str, kind: Any, training: bool) -> None:
    value = [1.0, 2.0, 3.0] if kind is list else kind(3)
    given = {"running_mean": torch.zeros(3), "running_var": torch.ones(3)} | {name: value}
    message = f"^{name} must be a torch.Tensor, got {type(value).__name__}$"
    with pytest.raises(TypeError, match=message):
        batch_norm(tensor(4, 3), **given, training=training)
    if name in ("where", "weights", "residual"):
        layer = BatchNorm1d(3).train(training)
        with pytest.raises(TypeError, match=message):
            layer(tensor(4, 3), **{name: value})
        assert layer.num_batches_tracked == 0


@pytest.mark.parametrize("value", [np.ones((4, 3)), [[1.0], [2.0]], None], ids=["array", "list", "None"])
def test_input_that_is_no_tensor_is_named(value: Any) -> None:
    message = f"^input must be a torch.Tensor, got {type(value).__name__}$"
    for call in (batch_norm, BatchNorm1d(3), SyncBatchNorm(3)):
        with pytest.raises(TypeError, match=message):
            call(value)


def test_errors_where_the_kernels_are_not_called() -> None:
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        batch_norm(tensor(1, 3), training=True, weights=torch.ones(1, 1, requires_grad=True))
    with pytest.raises(RuntimeError, match="running_mean must be defined in evaluation mode"):
        torch.func.jvp(batch_norm, (tensor(4, 3),), (tensor(4, 3),))


def test_a_failed_call_changes_nothing() -> None:
    mean, var = torch.zeros(3), torch.ones(3)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        batch_norm(tensor(1, 3), mean, var, training=True)
    with pytest.raises(ValueError, match="weights must"):
        batch_norm(tensor(4, 3), mean, var, training=True, weights=torch.full((4, 1), float("nan")))
    assert torch.equal(mean, torch.zeros(3))
    assert torch.equal(var, torch.ones(3))


@pytest.mark.parametrize(
    "options",
    [
        {"input": tensor(1, 3)},
        {"input": tensor(4, 3), "weight": torch.ones(2)},
        {"input": tensor(4, 3), "eps": 0.0},
        {"input": tensor(4, 3), "where": torch.ones(5, 3, dtype=torch.bool)},
        {"input": tensor(4, 3), "weights": torch.full((4, 1), float("nan"))},
        {"input": tensor(4, 3), "weights": torch.full((4, 1), 0.25)},
        {"input": tensor(4, 3), "residual": tensor(3, 4)},
    ],
    ids=["one value", "weight", "eps", "where", "NaN", "a sum of 1", "residual"],
)
def test_a_refused_call_does_not_count_as_a_change(options: dict[str, Any]) -> None:
    mean, var = torch.zeros(3), torch.ones(3)
    with pytest.raises((ValueError, RuntimeError)):
        batch_norm(running_mean=mean, running_var=var, training=True, **options)
    assert (mean._version, var._version) == (0, 0)
    assert torch.equal(mean, torch.zeros(3))


@pytest.mark.parametrize("which", ["running_mean", "running_var"])
def test_masked_calls_do_not_change_running_statistics_of_inference_mode(which: str) -> None:
    running = {"running_mean": torch.zeros(3), "running_var": torch.ones(3)}
    with torch.inference_mode():
        running[which] = running[which].clone()
    x, where = tensor(4, 3), torch.ones(4, 1, dtype=torch.bool)
    with pytest.raises(
        RuntimeError, match=r"running_mean and running_var must be made outside of torch\.inference_mode"
    ):
        batch_norm(x, **running, training=True, where=where)
    assert torch.equal(running["running_mean"], torch.zeros(3))
    with torch.inference_mode():
        batch_norm(x, **running, training=True, where=where, momentum=1.0)
    # the batch's mean, in float32
    torch.testing.assert_close(running["running_mean"], x.mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["integers", "one dimension", "layout"])
def test_masks_want_input_that_can_be_read(kind: str) -> None:
    x, where = {
        "integers": (torch.ones(4, 3, dtype=torch.int32), torch.ones(4, 1, dtype=torch.bool)),
        "one dimension": (tensor(3), torch.ones(3, dtype=torch.bool)),
        "layout": (tensor(4, 3, 2, 2).to_mkldnn(), torch.ones(4, 1, 1, 1, dtype=torch.bool)),
    }[kind]
    with pytest.raises((TypeError, ValueError), match=r"of a floating-point type and of two dim|at least 2 dimensions"):
        batch_norm(x, torch.zeros(3), torch.ones(3), training=True, where=where)


def test_a_residual_of_another_type_is_cast() -> None:
    x, residual = tensor(4, 3, dtype=torch.bfloat16), tensor(4, 3, seed=1).requires_grad_()
    y = batch_norm(x, training=True, residual=residual)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert residual.grad.dtype == torch.float32


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), 0.1])
def test_wrong_weights_are_the_same_errors_where_they_want_a_gradient(value: float) -> None:
    errors = []
    for wanted in (False, True):
        mean, var = torch.zeros(3), torch.ones(3)
        weights = torch.full((4, 1), value, requires_grad=wanted)
        with pytest.raises(ValueError, match="weights must") as raised:
            batch_norm(tensor(4, 3), mean, var, training=True, weights=weights)
        errors.append(str(raised.value))
        assert torch.equal(mean, torch.zeros(3))
        assert torch.equal(var, torch.ones(3))
    assert errors[0] == errors[1]


@pytest.mark.parametrize("given", ["input", "residual", "where", "weights"])
def test_tensors_of_inference_mode_are_refused_before_anything_is_written(given: str) -> None:
    with torch.inference_mode():
        made = {
            "input": tensor(4, 3),
            "residual": tensor(4, 3),
            "where": tensor(4, 3) > -1,
            "weights": torch.ones(4, 1),
        }
    options: dict[str, Any] = {"input": tensor(4, 3), "where": torch.ones(4, 1, dtype=torch.bool), given: made[given]}
    mean, var, weight = torch.zeros(3), torch.ones(3), torch.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="inference"):
        batch_norm(options.pop("input"), mean, var, weight, training=True, **options)
    if given == "input":
        with pytest.raises(RuntimeError, match="inference"):
            batch_norm(made["input"], mean, var, weight, training=True)
    assert torch.equal(mean, torch.zeros(3))
    assert torch.equal(var, torch.ones(3))


@pytest.mark.parametrize("which", ["running_mean", "running_var"])
def test_running_statistics_that_want_a_gradient_are_torchs(which: str) -> None:
    given = {"running_mean": torch.zeros(3), "running_var": torch.ones(3)}
    given[which].requires_grad_()
    errors = []
    for function in (F.batch_norm, batch_norm):
        with pytest.raises(RuntimeError) as raised:
            function(tensor(4, 3), **given)
        errors.append(str(raised.value))
    assert errors[0] == errors[1]
    assert which in errors[0]


def test_empty_results_have_strides_of_their_shape() -> None:
    for shape in ((0, 3, 5), (0, 3), (2, 3, 0)):
        y = batch_norm(torch.empty(shape), torch.zeros(3), torch.ones(3))
        assert y.stride() == torch.empty(shape).stride()


def test_exchanged_objects_are_made_of_arrays() -> None:
    like = torch.zeros(2, 3)
    with pytest.raises(TypeError, match="value must hold arrays, got"):
        _core.exchanged_objects(([1.0],), (like,))
    strided = np.arange(12.0).reshape(2, 6)[:, ::2]
    (same,) = _core.exchanged_objects((strided,), (like.double(),))
    np.testing.assert_array_equal(same.numpy(), strided)


def test_a_mode_sees_the_backward_pass() -> None:
    seen = []

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    x = torch.randn(30, 4, requires_grad=True)
    dy = torch.randn(30, 4)
    y = batch_norm(x, None, None, training=True)
    with Mode():
        y.backward(dy)
    assert len(seen) > 3  # the pass is composed of torch's operations
    wide = x.detach().double().requires_grad_()
    F.batch_norm(wide, None, None, training=True).backward(dy.double())
    torch.testing.assert_close(x.grad.double(), wide.grad, rtol=1e-4, atol=1e-5)
