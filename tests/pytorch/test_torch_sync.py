"""Promise: `SyncBatchNorm` gives in several processes what one process gives for the whole batch.

The scenarios are those of PyTorch's own tests of its SyncBatchNorm, and parts that are empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch_ranks import Ranks

import fastbn.torch
from fastbn.torch import SyncBatchNorm, _kernels, convert, convert_sync, revert
from support import oracle


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    group = Ranks(request.param, tmp_path_factory.mktemp("ranks"))
    yield group
    group.close()


def tensor(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def state(module: nn.Module) -> list[torch.Tensor]:
    return [module.running_mean, module.running_var, module.num_batches_tracked]


def own_part(rank: int, parts: list[dict[str, Any]], options: dict[str, Any]) -> list[Any]:
    """Train two steps on this rank's part; return the last y, gradients and statistics."""
    module = SyncBatchNorm(3, **options)
    for seed, parameter in enumerate(module.parameters()):
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(seed))
    part = dict(parts[rank])
    dy = part.pop("dy")
    for each in ("input", "residual"):
        if each in part:
            part[each].requires_grad_()
    module(**part)
    y = module(**part)
    y.backward(dy)
    gradients = [part["input"].grad, *([part["residual"].grad] if "residual" in part else [])]
    parameters = [p.grad for p in module.parameters()]
    return [y.detach(), gradients, parameters, state(module) if module.track_running_stats else []]


def assert_as_whole(
    ranks: Ranks,
    sizes: list[int],
    shape: tuple[int, ...],
    options: dict[str, Any],
    given: Any = (),
    rtol: float = 1e-10,
) -> list[Any]:
    """Hold the parts' results against those of one module of ours, which other tests hold against the oracle."""
    dtype = given[-1] if given and isinstance(given[-1], torch.dtype) else torch.float64
    of_parameters = torch.float64 if dtype == torch.float64 else torch.float32
    options = {"dtype": of_parameters, **options}
    precision = 1e-10 if of_parameters == torch.float64 else 1e-5
    n = sum(sizes)
    whole: dict[str, Any] = {
        "input": tensor(n, 3, *shape, dtype=dtype) * 3 + 2,
        "dy": tensor(n, 3, *shape, seed=1, dtype=dtype),
    }
    if "residual" in given:
        whole["residual"] = tensor(n, 3, *shape, seed=2, dtype=dtype)
    if "where" in given:
        whole["where"] = tensor(n, 1, *shape, seed=3) > -0.5
    if "weights" in given:
        whole["weights"] = tensor(n, 3, *[1] * len(shape), seed=4).square()
    for each in given:
        if isinstance(each, dict):
            whole |= each
    if "channels_last" in given:
        whole = {name: value.to(memory_format=torch.channels_last) for name, value in whole.items()}
    pieces = {name: value.split(sizes) for name, value in whole.items()}
    parts = [{name: split[rank].clone() for name, split in pieces.items()} for rank in range(ranks.size)]
    results = ranks.run(own_part, parts, options)
    y, gradients, parameters, running = own_part(0, [whole], options)  # one process: no group here
    joined = [torch.cat([result[0] for result in results])]
    joined += [torch.cat(split) for split in zip(*(result[1] for result in results), strict=True)]
    for got, want in zip(joined, [y, *gradients], strict=True):
        assert got.dtype == want.dtype
        torch.testing.assert_close(got, want, rtol=rtol, atol=rtol * float(want.abs().max()))
    for got, want in zip(zip(*(result[2] for result in results), strict=True), parameters, strict=True):
        torch.testing.assert_close(sum(got), want, rtol=rtol, atol=rtol * float(want.abs().max()))
    for result in results:
        torch.testing.assert_close(result[3], running, rtol=precision, atol=precision)
        for got, other in zip(result[3], results[0][3], strict=True):
            assert torch.equal(got, other)  # the same bits in every process
    return results


def sizes_of(ranks: Ranks, *some: int) -> list[int]:
    return list(some[: ranks.size])


@pytest.mark.parametrize("shape", [(), (5,), (4, 3), (2, 3, 2)])
def test_equal_and_unequal_parts_of_every_rank(ranks: Ranks, shape: tuple[int, ...]) -> None:
    assert_as_whole(ranks, sizes_of(ranks, 4, 4, 4), shape, {})
    assert_as_whole(ranks, sizes_of(ranks, 2, 7, 3), shape, {})


def test_one_value_per_process(ranks: Ranks) -> None:
    assert_as_whole(ranks, sizes_of(ranks, 1, 1, 1), (), {})


@pytest.mark.parametrize("sizes", [(0, 5, 3), (4, 0, 0), (0, 2, 0)])
def test_empty_parts(ranks: Ranks, sizes: tuple[int, ...]) -> None:
    assert_as_whole(ranks, sizes_of(ranks, *sizes), (2, 3), {"momentum": 0.3})


@pytest.mark.parametrize(
    "options",
    [
        {"affine": False},
        {"bias": False},
        {"track_running_stats": False},
        {"momentum": None},
        {"activation": "relu"},
        {"activation": "leaky_relu", "negative_slope": 0.2, "eps": 1e-2},
    ],
    ids=str,
)
@pytest.mark.parametrize("given", [(), ("residual",), ("where", "residual"), ("where", "weights")], ids=str)
def test_options(ranks: Ranks, options: dict[str, Any], given: tuple[str, ...]) -> None:
    assert_as_whole(ranks, sizes_of(ranks, 3, 5, 2), (4,), options, given)


# Weights that are one number in each process, of which the core makes no array.
@pytest.mark.parametrize("sizes", [(4, 3, 5), (1, 6, 2), (3, 0, 1)], ids=str)
@pytest.mark.parametrize("given", [2.0, (2.0, 0.5, 3.0)], ids=["constant", "by process"])
def test_weights_that_are_equal_in_a_process(ranks: Ranks, given: Any, sizes: tuple[int, ...]) -> None:
    own = sizes_of(ranks, *sizes)
    each = [given] * ranks.size if isinstance(given, float) else list(given[: ranks.size])
    weights = torch.repeat_interleave(torch.tensor(each, dtype=torch.float64), torch.tensor(own))
    for shape in ((), (4,)):
        expanded = weights.reshape(-1, 1, *[1] * len(shape))
        assert_as_whole(ranks, own, shape, {"activation": "relu"}, ("residual", {"weights": expanded}))


def test_channels_last(ranks: Ranks) -> None:
    results = assert_as_whole(ranks, sizes_of(ranks, 2, 3, 2), (4, 3), {}, ("channels_last",))
    for y, gradients, *_ in results:
        assert y.is_contiguous(memory_format=torch.channels_last)
        assert gradients[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("dtype", "rtol"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-7), (torch.float16, 2**-10)], ids=str
)
@pytest.mark.parametrize("given", [(), ("residual",), ("weights",)], ids=str)
def test_other_types(ranks: Ranks, dtype: torch.dtype, rtol: float, given: tuple[str, ...]) -> None:
    options = {"activation": "relu"} if given == ("residual",) else {}
    assert_as_whole(ranks, sizes_of(ranks, 3, 4, 5), (4,), options, (*given, dtype), rtol)


def large_mean(rank: int, parts: list[torch.Tensor]) -> Any:
    module = SyncBatchNorm(3, momentum=1.0, affine=False, dtype=torch.float64)
    return module(parts[rank]), module.running_var


def test_statistics_are_right_at_a_large_mean(ranks: Ranks) -> None:
    x = (tensor(600, 3) + 1e6).float()
    results = ranks.run(large_mean, list(x.split([100, 500] if ranks.size == 2 else [100, 200, 300])))
    want = oracle.train(x.numpy())
    np.testing.assert_allclose(results[0][1].numpy(), (want.biased * 600 / 599).astype(float), rtol=2e-9)
    got = torch.cat([y for y, _ in results])
    torch.testing.assert_close(got, torch.from_numpy(want.y.astype(np.float32)), rtol=1e-6, atol=1e-6)


def test_y_has_the_digits_of_float64_at_a_large_mean(ranks: Ranks) -> None:
    x = tensor(60, 3) + 1e8
    results = ranks.run(large_mean, list(x.tensor_split(ranks.size)))
    # What float64 leaves of the deviations is 1.5e-8, of which y is known as exactly as in one process.
    want = oracle.train(x.numpy()).y.astype(np.float64)
    np.testing.assert_allclose(torch.cat([y for y, _ in results]).numpy(), want, rtol=1e-13, atol=1e-13)


def overflown(rank: int, parts: list[torch.Tensor]) -> Any:
    module = SyncBatchNorm(3, dtype=torch.float64)
    try:
        module(parts[rank])
    except ValueError as error:
        return str(error), module.running_mean.sum()
    return "no error", module.running_mean


def test_a_variance_beyond_float64_is_an_error_in_all(ranks: Ranks) -> None:
    parts = [tensor(4, 3, seed=rank) * 1e160 for rank in range(ranks.size)]
    for message, changed in ranks.run(overflown, parts):
        assert message == "input must have a variance that float64 holds, got inf"
        assert changed == 0


def weighted_by_ones(rank: int, parts: list[torch.Tensor], sums: list[float], tracks: bool) -> Any:
    """Train with weights that sum to a number in each process; return y or the error, and what is counted."""
    module = SyncBatchNorm(3, momentum=1.0, track_running_stats=tracks)
    x = parts[rank]
    try:
        y = module(x, weights=torch.full((len(x), 1), sums[rank] / max(1, len(x))))
    except ValueError as error:
        return str(error), module.running_mean, module.num_batches_tracked
    return y.detach(), module.running_mean, module.num_batches_tracked


def test_weights_that_sum_to_one_are_several_values(ranks: Ranks) -> None:
    parts = [tensor(4, 3, seed=rank, dtype=torch.float32) for rank in range(ranks.size)]
    sums = [0.75, 0.25, 0.0][: ranks.size]
    p = np.concatenate([np.full((4, 3), each / 4) for each in sums])
    want = oracle.train(torch.cat(parts).numpy(), p=p).y.astype(float)
    got = torch.cat([each[0] for each in ranks.run(weighted_by_ones, parts, sums, False)])
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-6)  # float32
    # As in one process, running statistics want a sum that has an unbiased variance.
    for total in (1.0, 0.5):
        for message, mean, batches in ranks.run(weighted_by_ones, parts, [total * each for each in sums], True):
            assert message == (
                "where and weights must leave a sum of more than 1 in all processes together where running"
                f" statistics are given, got {total}"
            )
            assert (mean.abs().sum(), batches) == (0, 0)


def test_one_value_of_any_weight_in_all_processes(ranks: Ranks) -> None:
    parts = [torch.ones(int(rank == 0), 3) for rank in range(ranks.size)]
    for y, mean, batches in ranks.run(weighted_by_ones, parts, [5.0] + [0.0] * (ranks.size - 1), True):
        assert (y.abs().sum(), batches) == (0, 1)
        assert torch.equal(mean, torch.ones(3))


def subgroup(rank: int, parts: list[torch.Tensor]) -> Any:
    group = distributed.new_group([0, 1])
    alone = distributed.new_group([2]) if distributed.get_world_size() > 2 else None
    model = convert_sync(nn.Sequential(nn.BatchNorm1d(3)), group if rank < 2 else alone)
    return model(parts[rank]).detach()


def on_another_default_device(rank: int) -> torch.Tensor:
    module, x = SyncBatchNorm(3), tensor(4, 3, seed=rank, dtype=torch.float32)
    with torch.device("meta"):
        return module(x).detach()


def test_another_default_device_is_not_the_inputs(ranks: Ranks) -> None:
    whole = torch.cat([tensor(4, 3, seed=rank, dtype=torch.float32) for rank in range(ranks.size)])
    want = nn.BatchNorm1d(3)(whole).detach()
    torch.testing.assert_close(torch.cat(ranks.run(on_another_default_device)), want)


def test_a_subgroup(ranks: Ranks) -> None:
    parts = [tensor(4 + rank, 3, seed=rank, dtype=torch.float32) for rank in range(ranks.size)]
    results = ranks.run(subgroup, parts)
    want = [fastbn.torch.BatchNorm1d(3)(torch.cat(parts[:2])), *(fastbn.torch.BatchNorm1d(3)(x) for x in parts[2:])]
    for got, wanted in zip([torch.cat(results[:2]), *results[2:]], want, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)


def evaluated(rank: int, x: torch.Tensor) -> Any:
    module = SyncBatchNorm(3)
    module.running_var.fill_(4.0)
    if rank == 0:  # no other process needs to call
        return module.eval()(x).detach()
    return None


def test_evaluation_is_each_processs_own(ranks: Ranks) -> None:
    x = tensor(4, 3, dtype=torch.float32)
    torch.testing.assert_close(ranks.run(evaluated, x)[0], x / (4 + 1e-5) ** 0.5)


def refused(rank: int, parts: list[torch.Tensor], where: list[Any]) -> Any:
    module = SyncBatchNorm(3)
    try:
        module(parts[rank], where=where[rank])
    except (ValueError, RuntimeError) as error:
        return type(error).__name__, str(error), float(module.running_mean.sum())
    return "no error", "", 0.0


def test_an_error_in_one_process_is_one_in_all(ranks: Ranks) -> None:
    nothing = [None] * ranks.size
    parts = [torch.ones(1, 3)] + [torch.ones(0, 3)] * (ranks.size - 1)
    for result in ranks.run(refused, parts, nothing):
        assert result[0] == "ValueError"
        assert result[1].startswith("Expected more than 1 value per channel when training, got input size")
    parts = [torch.ones(2, 3)] * ranks.size
    results = ranks.run(refused, parts, [torch.ones(5, 3, dtype=torch.bool), *nothing[1:]])
    assert results[0][0] == "ValueError"
    assert results[0][1].startswith("where must")
    assert {result[:2] for result in results[1:]} == {
        ("RuntimeError", "input and its options must be valid in all processes, got errors in those of rank [0]")
    }
    assert {result[2] for result in results} == {0.0}


def wrong(rank: int, kind: str, number: int) -> Any:
    """Call with what is wrong in the process of this number alone; return the error and the running statistics."""
    mine = rank == number
    channels = 4 if mine and kind == "channels" else 3
    module, options = SyncBatchNorm(channels), {}
    x = torch.randn(4, channels)
    if kind == "residual":
        options["residual"] = torch.randn(5 if mine else 4, 3)
    elif kind == "weights":
        options["weights"] = torch.full((4, 1), -1.0 if mine else 1.0)
    elif mine and kind == "dimensions":
        x = torch.randn(4)
    elif mine and kind == "type":
        x = torch.ones(4, 3, dtype=torch.int32)
    elif mine and kind == "array":
        x = np.ones((4, 3), np.float32)
    elif mine and kind == "mask of NumPy":
        options["where"] = np.ones((4, 3), bool)
    elif mine and kind == "features":
        x = torch.randn(4, 5)
    elif mine and kind == "parameter":
        module.weight = nn.Parameter(torch.ones(4))
    elif mine and kind == "running":
        module.running_var = torch.ones(4)
    elif mine and kind == "integer statistics":
        module.running_mean = torch.zeros(3, dtype=torch.int64)
    elif mine and kind == "activation":
        module.activation = "tanh"
    elif mine and kind == "momentum":
        module.momentum = 10**400
    elif mine and kind == "inference mode":
        with torch.inference_mode():
            x = torch.randn(4, 3)
    elif mine and kind == "running of inference mode":
        with torch.inference_mode():
            module.running_mean = torch.zeros(3)
    try:
        module(x, **options)
    except Exception as error:
        return type(error).__name__, str(error), float(module.running_mean.sum()), int(module.num_batches_tracked)
    return "no error", "", 0.0, 0


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("residual", "ValueError", "residual must have input's shape"),
        ("weights", "ValueError", "weights must be finite and not negative"),
        ("dimensions", "ValueError", "expected at least 2D input"),
        ("type", "TypeError", "input must be a plain strided tensor"),
        ("array", "TypeError", "input must be a torch.Tensor, got ndarray"),
        ("mask of NumPy", "TypeError", "where must be a torch.Tensor, got ndarray"),
        ("features", "RuntimeError", "running_mean and running_var must have shape"),
        ("parameter", "ValueError", "weight must have shape"),
        ("running", "RuntimeError", "running_mean and running_var must have shape"),
        ("integer statistics", "TypeError", "running_mean and running_var must be of a floating-point type"),
        ("activation", "ValueError", "activation must be"),
        ("momentum", "OverflowError", "int too large to convert to float"),
        ("inference mode", "RuntimeError", "input and its options must be made outside of torch.inference_mode()"),
        ("running of inference mode", "RuntimeError", "running_mean and running_var must be made outside of"),
    ],
)
@pytest.mark.parametrize("number", [0, 1])
def test_what_is_wrong_in_one_process_is_an_error_in_all(
    ranks: Ranks, kind: str, error: str, message: str, number: int
) -> None:
    results = ranks.run(wrong, kind, number)
    assert results[number][0] == error
    assert results[number][1].startswith(message)
    others = f"input and its options must be valid in all processes, got errors in those of rank [{number}]"
    assert {each[:2] for rank, each in enumerate(results) if rank != number} == {("RuntimeError", others)}
    assert {each[2:] for each in results} == {(0.0, 0)}


def test_different_numbers_of_channels_are_an_error_in_all(ranks: Ranks) -> None:
    results = ranks.run(wrong, "channels", 1)
    got = [3, 4, 3][: ranks.size]
    message = f"input must have as many channels in every process, got {got} in the order of ranks"
    assert set(results) == {("ValueError", message, 0.0, 0)}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(54, 4), nn.BatchNorm1d(4)
    ).double()


def trained_in_parallel(rank: int, parts: list[torch.Tensor]) -> Any:
    model = DistributedDataParallel(convert_sync(convert(network(), fuse_activations=True)))
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for _ in range(5):
        optimizer.zero_grad()
        # DistributedDataParallel averages over processes: scaled so that the sum is the whole batch's loss.
        (model(parts[rank]).sin().sum() * len(parts)).backward()
        optimizer.step()
    return {name: value.detach() for name, value in model.module.state_dict().items()}


def test_training_in_distributed_data_parallel_is_that_of_the_whole_batch(ranks: Ranks) -> None:
    parts = list(tensor(9, 3, 5, 5).split(sizes_of(ranks, 4, 5) if ranks.size == 2 else [4, 3, 2]))
    results = ranks.run(trained_in_parallel, parts)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.cat(parts)).sin().sum().backward()
        optimizer.step()
    for result in results:
        torch.testing.assert_close(result, dict(model.state_dict()), rtol=1e-8, atol=1e-8)


def compiled(rank: int, parts: list[torch.Tensor]) -> Any:
    return torch.compile(SyncBatchNorm(3), backend="eager")(parts[rank]).detach()


def test_under_a_compiler(ranks: Ranks) -> None:
    parts = [tensor(3, 3, seed=rank, dtype=torch.float32) for rank in range(ranks.size)]
    want = fastbn.torch.BatchNorm1d(3)(torch.cat(parts)).detach()
    torch.testing.assert_close(torch.cat(ranks.run(compiled, parts)), want, rtol=1e-6, atol=1e-6)


# In one process.


def test_one_process_needs_no_group() -> None:
    x = tensor(4, 3, 2, dtype=torch.float32)
    torch.testing.assert_close(SyncBatchNorm(3)(x), nn.BatchNorm1d(3)(x), rtol=1e-5, atol=1e-5)


def test_wrong_inputs_are_refused_as_by_torch() -> None:
    for x, channels in ((torch.ones(3), 3), (torch.ones(3, 0), 0)):
        found = []
        for module in (nn.SyncBatchNorm(channels), SyncBatchNorm(channels)):
            with pytest.raises(ValueError, match="input") as raised:
                module(x)
            found.append(str(raised.value))
        assert found[0] == found[1]


def test_conversion() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.SyncBatchNorm(3), fastbn.torch.BatchNorm2d(3, activation="relu"))
    keys = list(model.state_dict())
    assert convert_sync(model) is model
    assert [type(each) for each in model] == [SyncBatchNorm] * 3
    assert [each.process_group for each in model] == [None] * 3
    assert model[2].activation == "relu"
    assert list(model.state_dict()) == keys
    model[2] = nn.Identity()
    assert [type(each) for each in revert(model)[:2]] == [nn.SyncBatchNorm] * 2
    assert type(convert(nn.SyncBatchNorm(3))) is SyncBatchNorm
    with pytest.raises(ValueError, match=r"no lazy batch norm that has seen no batch, got \['0'\]"):
        convert_sync(nn.Sequential(nn.LazyBatchNorm1d()))


def of_integers(rank: int) -> Any:
    try:
        SyncBatchNorm(3)(torch.ones(4, 3, dtype=torch.int32))
    except TypeError as error:
        return str(error)
    return "no error"


def test_integers_are_refused_before_anyone_waits(ranks: Ranks) -> None:
    for message in ranks.run(of_integers):
        assert message.startswith("input must be a plain strided tensor of a floating-point type, got")


def test_other_devices_go_to_torch() -> None:
    module = SyncBatchNorm(3, device="meta", activation="relu")
    x = torch.empty(4, 3, device="meta")
    assert module(x, residual=x).device.type == "meta"
    with pytest.raises(ValueError, match="where and weights must be None on other devices than the CPU"):
        module(x, where=x > 0)


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("given", [(), ("residual",), ("where", "weights")], ids=str)
def test_the_halves_of_backward(given: tuple[str, ...], activation: Any) -> None:
    x, dy, residual, weights = (tensor(5, 3, 2, seed=seed) for seed in range(4))
    weight, bias = tensor(3, seed=5), tensor(3, seed=6)
    options = {"where": weights > -1, "weights": weights**2, "residual": residual}
    inputs = _kernels.Inputs(x, weight, bias, *(options[name] if name in given else None for name in options))
    arrays = [None if each is None else each.numpy() for each in inputs[:6]]
    xs, w, b, where, weights, residual = arrays
    p = oracle.element_weights(xs.shape, where, weights) if where is not None else None
    found = oracle.train(xs, w, b, p=p, residual=residual, activation=activation)
    mean, invstd = found.mean.astype(float), found.invstd.astype(float)
    want = oracle.backward(dy.numpy(), xs, w, mean, invstd, p=p, bias=b, residual=residual, activation=activation)
    call_options = _kernels.Options(1e-5, activation)
    call = (
        dy,
        _kernels.Inputs(*_kernels.for_backward(inputs, call_options)),
        _kernels.Statistics(mean, mean, invstd),
        call_options,
    )
    sum_dy_xhat, sum_dy = _kernels.gradient_sums(*call)
    count = np.asarray(found.count, float)
    dx, dresidual = _kernels.input_gradient(*call, sum_dy_xhat / count, sum_dy / count)
    np.testing.assert_allclose(sum_dy_xhat, want.dweight.astype(float), rtol=1e-12)
    np.testing.assert_allclose(sum_dy, want.dbias.astype(float), rtol=1e-12)
    np.testing.assert_allclose(dx, want.dx.astype(float), rtol=1e-10, atol=1e-12)
    if "residual" in given and activation is not None:
        np.testing.assert_allclose(dresidual, want.dresidual.astype(float))
    else:
        assert dresidual is None
