"""Promise: a layer's state goes out and in whole, through dicts, PyTorch, .npz, pickle and copy, or not at all."""

from __future__ import annotations

import copy
import json
import os
import pickle
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastbn
from fastbn import BatchNorm
from fastbn.io.statsfiles import save_stats
from support.oracle import Array
from support.random_arrays import batch

KEYS = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]

VARIANTS = [
    {},
    {"affine": False},
    {"track_running_stats": False},
    {"affine": False, "track_running_stats": False},
    {"dtype": np.float32, "axis": -1, "eps": 1e-3, "momentum": None, "correction": 0},
    {"axis": (2, 1), "momentum": 1, "correction": 0.5},
    {"axis": ()},
]


def used(**options: Any) -> BatchNorm:
    """Return a layer with no number in its default state, after two batches of shape (6, 3, 3) and one backward."""
    layer = BatchNorm(**options)
    layer(batch(6, 3, 3))
    layer(batch(6, 3, 3, seed=1))
    layer.backward(batch(6, 3, 3, seed=2))
    for parameter, grad in zip(layer.parameters(), layer.gradients(), strict=True):
        parameter -= 0.01 * grad
    return layer


def good_state() -> dict[str, Any]:
    """Return a state of two channels, made by hand."""
    return {
        "weight": np.array([1.5, 2.5]),
        "bias": np.array([-1.0, 1.0]),
        "running_mean": np.array([3.0, 4.0]),
        "running_var": np.array([0.25, 9.0]),
        "num_batches_tracked": np.array(7),
    }


def assert_same_layer(one: BatchNorm, other: BatchNorm) -> None:
    assert repr(one) == repr(other)
    assert one.training is other.training
    assert type(one.num_batches_tracked) is int
    assert one.num_batches_tracked == other.num_batches_tracked
    assert list(one.state_dict()) == list(other.state_dict())
    for key, value in other.state_dict().items():
        assert one.state_dict()[key].dtype == value.dtype
        np.testing.assert_array_equal(one.state_dict()[key], value, err_msg=key)
    x = batch(5, 3, 3, seed=3)
    np.testing.assert_array_equal(copy.deepcopy(one)(x), copy.deepcopy(other)(x))


# State dicts.


@pytest.mark.parametrize(("affine", "track"), [(True, True), (True, False), (False, True), (False, False)])
def test_keys_are_those_of_pytorch(affine: bool, track: bool) -> None:
    layer = BatchNorm(3, affine=affine, track_running_stats=track)
    assert list(layer.state_dict()) == KEYS[: 2 * affine] + KEYS[2:] * track


def test_state_dict_is_a_snapshot_of_arrays() -> None:
    layer = used()
    state = layer.state_dict()
    assert all(type(value) is np.ndarray for value in state.values())
    assert state["num_batches_tracked"].dtype == np.int64
    assert state["num_batches_tracked"] == 2
    before = copy.deepcopy(state)
    layer(batch(6, 3, 3, seed=4))
    layer.weight[...] = 9.0
    for key, value in state.items():
        np.testing.assert_array_equal(value, before[key])
    state["running_var"][...] = -1.0
    assert (layer.running_var > 0).all()


@pytest.mark.parametrize("options", VARIANTS)
def test_round_trip(options: dict[str, Any]) -> None:
    layer = used(**options)
    other = BatchNorm(layer.num_features, **options)
    assert other.load_state_dict(layer.state_dict()) == ([], [])
    assert_same_layer(other, layer)


@pytest.mark.parametrize("options", [v for v in VARIANTS if v.get("affine", True)])
def test_a_state_decides_the_features(options: dict[str, Any]) -> None:
    layer, other = used(**options), BatchNorm(**options)
    other.load_state_dict(layer.state_dict())
    assert_same_layer(other, layer)


def test_load_copies_in_place_and_casts() -> None:
    layer, state = BatchNorm(2, dtype=np.float32), good_state()
    state["weight"], state["bias"], state["num_batches_tracked"] = [1, 2], np.array([0.5, 1.5], np.float16), 7
    arrays = [layer.weight, layer.bias, layer.running_mean, layer.running_var]
    layer.load_state_dict(OrderedDict(state))
    for array, key in zip(arrays, KEYS, strict=False):
        assert array is getattr(layer, key)
        assert array.dtype == np.float32
        assert array.tolist() == list(state[key])
    assert layer.num_batches_tracked == 7
    assert type(layer.num_batches_tracked) is int
    state["running_mean"][...] = 0.0
    assert layer.running_mean.tolist() == [3.0, 4.0]


def test_load_may_exchange_the_layers_own_arrays() -> None:
    layer = BatchNorm(2)
    layer.load_state_dict({"weight": layer.bias, "bias": layer.weight}, strict=False)
    assert layer.weight.tolist() == [0.0, 0.0]
    assert layer.bias.tolist() == [1.0, 1.0]


def test_not_strict_takes_what_is_there() -> None:
    layer = BatchNorm(2)
    differing = layer.load_state_dict({"bias": [1.0, 2.0], "scale": 3, 4: 5}, strict=False)
    assert differing.missing_keys == ["weight", "running_mean", "running_var", "num_batches_tracked"]
    assert differing.unexpected_keys == ["scale", 4]
    assert layer.bias.tolist() == [1.0, 2.0]
    assert layer.weight.tolist() == [1.0, 1.0]
    late = BatchNorm()
    late.load_state_dict({"num_batches_tracked": 3}, strict=False)
    assert late.num_features is None
    assert late.num_batches_tracked == 3


def test_nan_and_inf_are_loaded() -> None:
    layer = BatchNorm(2, dtype=np.float32)
    layer.load_state_dict(good_state() | {"running_var": [np.nan, np.inf]})
    np.testing.assert_array_equal(layer.running_var, [np.nan, np.inf])


def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "layer.npz"
    layer = BatchNorm(3)
    layer.save(path)
    fastbn.moments(np.ones((2, 3))).save(tmp_path / "moments.npz")
    before = {name: (tmp_path / name).read_bytes() for name in ("layer.npz", "moments.npz")}
    layer.momentum = np.float32(0.1)  # type: ignore[assignment]  # which JSON does not have
    with pytest.raises(TypeError, match="float32"):
        layer.save(path)

    def full(file: Any, **members: Any) -> None:
        file.write(b"PK")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    for save, name in ((BatchNorm(3).save, "layer.npz"), (fastbn.Moments(2, [1.0], [2.0]).save, "moments.npz")):
        with pytest.raises(OSError, match="No space left"):
            save(tmp_path / name)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_save_to_a_pipe_writes_to_it(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor() as pool:
        read = pool.submit(pipe.read_bytes)
        fastbn.moments(np.array([[1.0], [3.0]])).save(pipe)
        assert fastbn.Moments.from_bytes(read.result(timeout=20)).mean.tolist() == [2.0]
    assert pipe.is_fifo()
    assert [entry.name for entry in tmp_path.iterdir()] == ["pipe"]


def test_negative_variances_are_refused_in_evaluation_folding_and_backward() -> None:
    layer = BatchNorm(2).eval()
    x = np.array([[1.0, 2.0], [3.0, 4.0]])
    layer(x)
    layer.running_var[1] = -3.0
    for call in (
        lambda: layer(x),
        layer.scale_shift,
        lambda: fastbn.fold(layer, np.ones((2, 4))),
        lambda: layer.backward(x),
    ):
        with pytest.raises(ValueError, match="var must not be negative, got -3"):
            call()


def test_load_forgets_the_last_call() -> None:
    layer = BatchNorm(2)
    layer(batch(5, 2))
    layer.load_state_dict(good_state())
    with pytest.raises(RuntimeError, match="backward needs a call"):
        layer.backward(batch(5, 2))


class Elsewhere:
    """An array that does not come to NumPy, like a tensor on another device."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        raise RuntimeError("not in this memory")


BAD_CHANGES = [
    ({"weight": [1.0, 2.0, 3.0]}, ValueError, r"state\['weight'\] must have shape \(2,\), got \(3,\)"),
    ({"running_var": [[1.0, 2.0]]}, ValueError, r"state\['running_var'\] must have shape \(2,\), got \(1, 2\)"),
    ({"bias": 1.0}, ValueError, r"state\['bias'\] must have shape \(2,\), got \(\)"),
    ({"running_var": [1.0, -2.0]}, ValueError, r"state\['running_var'\] must be >= 0, got -2.0"),
    ({"running_var": [np.nan, -2.0]}, ValueError, r"state\['running_var'\] must be >= 0, got -2.0"),
    ({"running_mean": [1e300, 0.0]}, ValueError, r"state\['running_mean'\] must fit into float32, got 1e\+300"),
    ({"bias": ["a", "b"]}, TypeError, r"state\['bias'\] must hold real numbers, got dtype <U1"),
    ({"bias": [1j, 2j]}, TypeError, r"state\['bias'\] must hold real numbers, got dtype complex128"),
    ({"bias": None}, TypeError, r"state\['bias'\] must be an array, got None"),
    ({"bias": [[1.0], 2.0]}, TypeError, r"state\['bias'\] must be an array, got \[\[1.0\], 2.0\] \("),
    ({"bias": Elsewhere()}, TypeError, r"state\['bias'\] must be an array, got <.*Elsewhere.*> \(not in this memory\)"),
    ({"bias": np.ma.masked_array([1.0, 2.0])}, TypeError, r"state\['bias'\] must not be a masked array"),
    ({"num_batches_tracked": -1}, ValueError, r"state\['num_batches_tracked'\] must be >= 0, got -1"),
    ({"num_batches_tracked": 1.0}, TypeError, r"state\['num_batches_tracked'\] must be one integer, got"),
    ({"num_batches_tracked": [1]}, TypeError, r"state\['num_batches_tracked'\] must be one integer, got"),
    ({"gamma": [1.0, 2.0]}, ValueError, r"state must have exactly the keys.*missing \[\], unexpected \['gamma'\]"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD_CHANGES)
def test_bad_state_loads_nothing(change: dict[str, Any], error: type[Exception], message: str) -> None:
    layer, x = BatchNorm(2, dtype=np.float32), batch(5, 2)
    layer(x)
    before, dx = layer.state_dict(), layer.backward(x)
    with pytest.raises(error, match=message):
        layer.load_state_dict(good_state() | change)
    for key, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, before[key])
    np.testing.assert_array_equal(layer.backward(x), dx)


@pytest.mark.parametrize(("change", "error"), [bad[:2] for bad in BAD_CHANGES])
def test_bad_state_decides_nothing(change: dict[str, Any], error: type[Exception]) -> None:
    layer = BatchNorm(dtype=np.float32)
    with pytest.raises(error, match="state"):
        layer.load_state_dict(good_state() | change)
    assert layer.num_features is layer.weight is layer.running_var is None
    assert layer.num_batches_tracked == 0


@pytest.mark.parametrize("key", KEYS)
def test_missing_key(key: str) -> None:
    state = good_state()
    del state[key]
    with pytest.raises(ValueError, match=rf"got missing \['{key}'\], unexpected \[\]"):
        BatchNorm(2).load_state_dict(state)


def test_state_of_the_wrong_rank_decides_nothing() -> None:
    layer = BatchNorm(axis=(1, 2))
    with pytest.raises(ValueError, match=r"state\['weight'\] must have 2 dimension\(s\), got \(2,\)"):
        layer.load_state_dict(good_state())
    assert layer.num_features is None


def test_wrong_arguments_of_load_state_dict() -> None:
    with pytest.raises(TypeError, match="state must be a mapping of names to arrays, got list"):
        BatchNorm(2).load_state_dict([1, 2])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="strict must be True or False, got 1"):
        BatchNorm(2).load_state_dict(good_state(), strict=1)  # type: ignore[arg-type]


# PyTorch.


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("features", [3, None])
def test_from_pytorch(dtype: type, affine: bool, features: int | None) -> None:
    torch = pytest.importorskip("torch")
    theirs = torch.nn.BatchNorm2d(3, affine=affine, dtype=torch.float64)
    x = batch(4, 3, 2, 2)
    theirs(torch.from_numpy(x))
    if affine:
        torch.nn.init.normal_(theirs.weight)
        torch.nn.init.normal_(theirs.bias)
    ours = BatchNorm(features, affine=affine, dtype=dtype).eval()
    assert ours.load_state_dict(theirs.state_dict()) == ([], [])
    assert ours.num_features == 3
    assert ours.num_batches_tracked == 1
    assert type(ours.num_batches_tracked) is int
    for key, value in ours.state_dict().items():
        np.testing.assert_array_equal(value, theirs.state_dict()[key].numpy().astype(value.dtype))
    want = theirs.eval()(torch.from_numpy(x)).detach().numpy()
    # state in float32: half an ulp in each of four numbers, of values up to 10
    np.testing.assert_allclose(ours(x), want, rtol=1e-12, atol=20 * np.finfo(dtype).eps + 1e-12)


def test_to_pytorch() -> None:
    torch = pytest.importorskip("torch")
    ours, theirs = used(), torch.nn.BatchNorm1d(3, dtype=torch.float64)
    theirs.load_state_dict({key: torch.from_numpy(value) for key, value in ours.state_dict().items()})
    x = batch(4, 3, 5)
    want = theirs.eval()(torch.from_numpy(x)).detach().numpy()
    # float64 throughout: a handful of roundings of values up to 10, and x * scale + shift cancels in PyTorch
    np.testing.assert_allclose(ours.eval()(x), want, rtol=1e-12, atol=1e-12)
    assert theirs.num_batches_tracked == 2


def test_tensor_that_needs_a_gradient_is_refused_by_name() -> None:
    torch = pytest.importorskip("torch")
    layer = BatchNorm(3)
    with pytest.raises(TypeError, match=r"state\['weight'\] must not require a gradient: give .detach\(\) of it"):
        layer.load_state_dict(dict(torch.nn.BatchNorm1d(3).named_parameters()), strict=False)


# Files.


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("training", [True, False])
def test_save_and_load(tmp_path: Path, options: dict[str, Any], training: bool) -> None:
    layer = used(**options).train(training)
    layer.save(tmp_path / "layer")  # exactly this name, nothing appended
    loaded = BatchNorm.load(str(tmp_path / "layer"))
    assert type(loaded) is BatchNorm
    assert_same_layer(loaded, layer)
    with pytest.raises(RuntimeError, match="backward needs a call"):
        loaded.backward(batch(6, 3, 3))


def test_file_is_plain_npz(tmp_path: Path) -> None:
    layer = used()
    layer.save(tmp_path / "layer.npz")
    with np.load(tmp_path / "layer.npz", allow_pickle=False) as archive:
        assert set(archive) == {"config", *KEYS}
        np.testing.assert_array_equal(archive["weight"], layer.weight)
        other = BatchNorm()
        assert other.load_state_dict(archive, strict=False) == ([], ["config"])
    np.testing.assert_array_equal(other.running_var, layer.running_var)


def test_undecided_layer_is_not_saved(tmp_path: Path) -> None:
    path = tmp_path / "layer.npz"
    used().save(path)
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="num_features must be known"):
        BatchNorm().save(path)
    assert path.read_bytes() == before


def test_load_of_a_subclass_gives_the_subclass(tmp_path: Path) -> None:
    class Mine(BatchNorm):
        pass

    used().save(tmp_path / "layer.npz")
    assert type(Mine.load(tmp_path / "layer.npz")) is Mine


def rewritten(path: Path, **changes: Any) -> None:
    """Change members of a saved layer, or options in its configuration; None removes them."""
    with np.load(path) as archive:
        members = dict(archive)
    config = json.loads(str(members["config"]))
    for name, value in changes.items():
        place = members if name in members else config
        place[name] = value
        if value is None:
            del place[name]
    if "config" not in changes:
        members["config"] = np.array(json.dumps(config))
    with path.open("wb") as file:
        np.savez(file, **members)


@pytest.mark.parametrize(
    "changes",
    [
        {"config": None},
        {"config": np.array("{")},
        {"config": np.array("[]")},
        {"config": np.array([1, 2])},
        {"format": 2},
        {"format": None},
        {"training": None},
        {"training": 1},
        {"eps": "small"},
        {"eps": -1},
        {"colour": "red"},
        {"weight": None},
        {"weight": np.ones(4)},
        {"weight": np.array(["a", "b", "c"])},
        {"weight": np.array([{}, {}, {}])},  # a pickle
        {"num_features": 4},
    ],
)
def test_file_that_is_not_a_saved_layer(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "layer.npz"
    used().save(path)
    rewritten(path, **changes)
    with pytest.raises(ValueError, match=r"path must name a file written by BatchNorm.save, got '.*layer.npz': "):
        BatchNorm.load(path)


def truncated(whole: bytes) -> bytes:
    return whole[: len(whole) // 2]


def flipped(whole: bytes) -> bytes:
    at = whole.index(np.array([1.5, 2.5]).tobytes())
    return whole[:at] + b"\xff" + whole[at + 1 :]


@pytest.mark.parametrize(
    "spoil", [truncated, flipped, lambda whole: b"", lambda whole: b"words", lambda whole: pickle.dumps([1])]
)
def test_spoilt_file(tmp_path: Path, spoil: Any) -> None:
    path, layer = tmp_path / "layer.npz", BatchNorm()
    layer.load_state_dict(good_state())
    layer.save(path)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match="path must name a file written by BatchNorm"):
        BatchNorm.load(path)


def test_npy_file_and_no_file(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones(3))
    with pytest.raises(ValueError, match="path must name a file written by BatchNorm"):
        BatchNorm.load(tmp_path / "x.npy")
    with pytest.raises(FileNotFoundError):
        BatchNorm.load(tmp_path / "nothing.npz")


# Copies.


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(options: dict[str, Any], protocol: int) -> None:
    layer = used(**options).eval()
    other = pickle.loads(pickle.dumps(layer, protocol))
    assert_same_layer(other, layer)
    for one, same in zip(other.gradients(), layer.gradients(), strict=True):
        np.testing.assert_array_equal(one, same)


def test_undecided_layer_is_pickled_and_copied() -> None:
    for other in pickle.loads(pickle.dumps(BatchNorm(axis=-1))), copy.copy(BatchNorm(axis=-1)):
        other(batch(4, 3, 2))
        assert other.num_features == 2


def test_pickle_leaves_the_batch_behind() -> None:
    layer = BatchNorm(3)
    size = len(pickle.dumps(layer))
    x = batch(10000, 3)
    layer(x)
    assert len(pickle.dumps(layer)) < size + 100
    layer.backward(x)  # this one has kept it


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_have_not_been_called(copied: Any) -> None:
    with pytest.raises(RuntimeError, match="backward needs a call"):
        copied(used()).backward(batch(6, 3, 3))


def test_copy_shares_arrays_and_deepcopy_does_not() -> None:
    layer = used()
    shallow, deep = copy.copy(layer), copy.deepcopy(layer)
    assert_same_layer(shallow, layer)
    assert_same_layer(deep, layer)
    for key in [*KEYS[:4], "grad_weight", "grad_bias"]:
        assert getattr(shallow, key) is getattr(layer, key)
        assert not np.shares_memory(getattr(deep, key), getattr(layer, key))


@pytest.mark.parametrize("options", VARIANTS)
def test_repr_makes_the_same_layer(options: dict[str, Any]) -> None:
    layer = used(**options)
    again = eval(repr(layer), {"BatchNorm": BatchNorm})
    assert vars(again).keys() == vars(layer).keys()
    assert repr(again) == repr(layer)
    assert (again.axis, again.num_features, again.dtype) == (layer.axis, layer.num_features, layer.dtype)


def test_repr() -> None:
    assert repr(BatchNorm()) == (
        "BatchNorm(None, axis=1, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True, correction=1, "
        "dtype='float64')"
    )
    assert repr(fastbn.BatchNorm((3, 4), axis=(2, 1), momentum=None, eps=np.float32(0.5), dtype=np.float32)) == (
        "BatchNorm((3, 4), axis=(2, 1), eps=0.5, momentum=None, affine=True, track_running_stats=True, correction=1, "
        "dtype='float32')"
    )


def test_repr_says_the_mode_unless_it_is_training() -> None:
    modes = ("training", "frozen", "frozen_parameters")
    for change in (
        lambda layer: layer.eval(),
        lambda layer: layer.freeze(),
        lambda layer: layer.freeze(parameters=True).eval(),
        lambda layer: layer.freeze().unfreeze().eval().train(),
    ):
        layer = change(BatchNorm(3))
        again = eval(repr(layer), {"BatchNorm": BatchNorm})
        assert [getattr(again, mode) for mode in modes] == [getattr(layer, mode) for mode in modes]


def test_a_file_of_moments_is_no_layer_and_the_reverse(tmp_path: Path) -> None:
    moments = fastbn.Moments(2, [1.0], [2.0])
    moments.save(tmp_path / "moments.npz")
    save_stats(moments, tmp_path / "stats.npz")
    BatchNorm(1).save(tmp_path / "layer.npz")
    for name in ("moments.npz", "stats.npz"):
        with pytest.raises(
            ValueError, match=rf"BatchNorm.save, got '.*{name}': it holds Moments, which fastbn.Moments."
        ):
            BatchNorm.load(tmp_path / name)
    rule = r"got '.*layer.npz': it holds BatchNorm, which fastbn.BatchNorm.load reads$"
    with pytest.raises(ValueError, match=rule):
        fastbn.Moments.load(tmp_path / "layer.npz")
    with pytest.raises(ValueError, match=rule):
        fastbn.standardize(np.ones((2, 1)), tmp_path / "layer.npz", tmp_path / "y.npy")


def test_a_counter_beyond_int64_is_refused() -> None:
    layer = BatchNorm(2)
    state = layer.state_dict() | {"num_batches_tracked": np.array(2**63, np.uint64)}
    with pytest.raises(ValueError, match="fit int64"):
        layer.load_state_dict(state)
    assert layer.num_batches_tracked == 0


def test_a_read_only_array_stops_loading_before_it_begins() -> None:
    layer = BatchNorm(2)
    assert layer.bias is not None
    layer.bias.flags.writeable = False
    state = {key: value + 1 for key, value in layer.state_dict().items()}
    before = layer.state_dict()
    with pytest.raises(ValueError, match="bias must be writable"):
        layer.load_state_dict(state)
    for key, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


def test_a_file_is_named_by_a_path() -> None:
    with pytest.raises(TypeError):
        BatchNorm.load(5)  # type: ignore[arg-type]
