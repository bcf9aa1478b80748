"""Promise: what earlier versions saved is loaded, with the numbers that the oracle finds in what it was made of."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastbn
from fastbn._atomic import replacing
from fastbn.io.statsfiles import load_stats, read_as
from support import oracle
from support.oracle import Array
from support.tolerances import FLOAT64_RTOL, GRAD_RTOL, VAR_RTOL, Y_ULPS

SAMPLES = Path(__file__).parents[1] / "samples"
FLOAT32 = np.dtype(np.float32)
# Four updates of float32 numbers, in each two products and a sum, are twelve roundings of half an ulp.
RUNNING_RTOL = 6 * 2.0**-23
RELEASES = pytest.mark.parametrize("folder", ["0.1.0", "0.1.0+"], indirect=True)


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Path:
    """Return the folder of one version's samples."""
    return SAMPLES / getattr(request, "param", "0.1.0+")


def given(folder: Path, name: str) -> Array:
    array: Array = np.load(folder / "inputs" / f"{name}.npy")
    return array


def unpickled(path: Path) -> Any:
    with warnings.catch_warnings():
        # scikit-learn says so of every estimator that another release of it saved.
        warnings.filterwarnings("ignore", "Trying to unpickle estimator")
        return pickle.loads(path.read_bytes())


def expected_state(folder: Path) -> dict[str, Array]:
    """Return what a layer of momentum 1/4 has seen of the batches, by the formulas of running statistics."""
    mean, var = np.zeros(3, np.longdouble), np.ones(3, np.longdouble)
    for batch in given(folder, "batches"):
        found = oracle.moments(batch)
        mean = oracle.updated(mean, found.mean, 0.25)
        var = oracle.updated(var, found.m2 / (found.count - 1), 0.25)
    counted = {"num_batches_tracked": np.array(len(given(folder, "batches")))}
    return {"weight": given(folder, "weight"), "bias": given(folder, "bias")} | {
        "running_mean": mean.astype(np.float32),
        "running_var": var.astype(np.float32),
        **counted,
    }


def assert_state(state: Any, folder: Path, parameters: tuple[str, ...] = ("weight", "bias")) -> None:
    expected = expected_state(folder)
    assert list(state) == [*parameters, "running_mean", "running_var", "num_batches_tracked"]
    for name, value in state.items():
        assert value.dtype == expected[name].dtype
        np.testing.assert_allclose(value, expected[name], rtol=RUNNING_RTOL, err_msg=name)


def assert_layer(layer: Any, folder: Path) -> None:
    """Assert that a layer has seen the batches, and normalizes the first of them by what it has seen."""
    parameters = ("weight", "bias") if layer.use_bias else ("weight",)
    assert_state(layer.state_dict(), folder, parameters)
    assert (layer.momentum, layer.eps, layer.axis, layer.training) == (0.25, 1e-3, 1, True)
    x = given(folder, "batches")[0]
    mean, var = layer.running_mean, layer.running_var
    want = oracle.normalize(x, mean, var, layer.weight, layer.bias, eps=1e-3)
    got = layer.eval()(x)
    want = oracle.activated(want, layer.activation, layer.negative_slope)
    # The mean is subtracted exactly; what is left is scaled and shifted by numbers of the bias's size at most.
    np.testing.assert_allclose(got, want, rtol=Y_ULPS * 2.0**-23, atol=4 * Y_ULPS * 2.0**-23)


@RELEASES
def test_layers(folder: Path) -> None:
    assert_layer(fastbn.BatchNorm.load(folder / "layer.npz"), folder)
    assert_layer(unpickled(folder / "layer.pickle"), folder)
    state = unpickled(folder / "layer_state.pickle")
    assert_state(state, folder)
    layer = fastbn.BatchNorm(momentum=0.25, eps=1e-3, dtype=np.float32)
    assert layer.load_state_dict(state) == ([], [])
    assert_layer(layer, folder)


def test_layers_with_options(folder: Path) -> None:
    layers = [fastbn.BatchNorm.load(folder / "options.npz"), unpickled(folder / "options.pickle")]
    for layer in layers:
        assert (layer.activation, layer.on_nonfinite, layer.on_single, layer.use_bias) == (
            *("relu", "skip", "biased"),
            False,
        )
        assert_layer(layer, folder)
    assert_state(unpickled(folder / "options_state.pickle"), folder, ("weight",))


def assert_moments(moments: Any, x: Array, extremes: bool = True) -> None:
    found = oracle.moments(x)
    assert moments.count == len(x)
    np.testing.assert_allclose(moments.mean, found.mean.astype(float), rtol=FLOAT64_RTOL)
    np.testing.assert_allclose(moments.m2, found.m2.astype(float), rtol=VAR_RTOL[FLOAT32])
    if extremes:
        np.testing.assert_array_equal([moments.min, moments.max], [x.min(0), x.max(0)])


@RELEASES
def test_what_functions_returned(folder: Path) -> None:
    x, dy = given(folder, "table")[:10], given(folder, "table")[10:20]
    y, mean, var, invstd, count = unpickled(folder / "train_result.pickle")
    found = oracle.train(x)
    assert count == 10
    np.testing.assert_allclose(y, found.y.astype(float), rtol=Y_ULPS * 2.0**-23, atol=Y_ULPS * 2.0**-23)
    np.testing.assert_allclose(mean, found.mean.astype(float), rtol=FLOAT64_RTOL)
    for got, want in ((var, found.biased), (invstd, found.invstd)):
        np.testing.assert_allclose(got, want.astype(float), rtol=VAR_RTOL[FLOAT32])
    gradients = unpickled(folder / "gradients.pickle")
    back = oracle.backward(dy, x, None, mean, invstd)
    assert type(gradients) is fastbn.Gradients
    for name in gradients._fields:
        error = np.abs(getattr(gradients, name) - getattr(back, name))
        assert (error <= GRAD_RTOL[FLOAT32] * getattr(back, f"{name}_scale")).all(), name
    assert type(unpickled(folder / "pool_info.pickle")) is fastbn.PoolInfo


@RELEASES
def test_moments_that_were_returned(folder: Path) -> None:
    moments = unpickled(folder / "moments.pickle")
    assert_moments(moments, given(folder, "table"), extremes=False)
    assert moments.names is None  # whatever an attribute is made of is there
    assert (moments + moments).count == 2 * moments.count
    np.testing.assert_allclose(moments.std(), given(folder, "table").astype(float).std(0), rtol=VAR_RTOL[FLOAT32])


def test_moments_in_files(folder: Path) -> None:
    held = json.loads((folder / "moments_dict.json").read_text())
    for moments in (
        fastbn.Moments.load(folder / "moments.npz"),
        fastbn.Moments.from_bytes((folder / "moments.bytes").read_bytes()),
        fastbn.Moments.from_dict(held),
        fastbn.Moments.from_dict(unpickled(folder / "moments_dict.pickle")),
    ):
        assert_moments(moments, given(folder, "table"))
        assert (moments.nan, moments.extremes) == ("omit", True)


def test_files_of_the_command(folder: Path) -> None:
    for name in ("stats.npz", "stats.json"):
        stats = load_stats(folder / name)
        assert_moments(stats, given(folder, "table"))
        assert read_as(stats)[:4] == (None, 1.0, 1, None)
    assert_moments(fastbn.Moments.load(folder / "stats.npz"), given(folder, "table"))
    assert_moments(fastbn.Moments.from_dict(json.loads((folder / "stats.json").read_text())), given(folder, "table"))


@pytest.mark.parametrize("name", ["scaler", "dask_scaler"])
def test_scalers(folder: Path, name: str) -> None:
    x = given(folder, "table")
    scaler = unpickled(folder / f"{name}.pickle")
    assert type(scaler) is (fastbn.dask if name == "dask_scaler" else fastbn.sklearn).StandardScaler
    found = oracle.moments(x)
    assert_moments(scaler.moments_, x, extremes=False)
    np.testing.assert_allclose(scaler.mean_, found.mean.astype(float), rtol=FLOAT64_RTOL)
    np.testing.assert_allclose(scaler.var_, (found.m2 / len(x)).astype(float), rtol=VAR_RTOL[FLOAT32])
    want = oracle.normalize(x, found.mean, found.m2 / len(x), eps=0.0).astype(float)
    np.testing.assert_allclose(scaler.transform(x), want, rtol=Y_ULPS * 2.0**-23, atol=Y_ULPS * 2.0**-23)
    assert scaler.partial_fit(x).n_samples_seen_ == 2 * len(x)


def test_a_scaler_with_options(folder: Path) -> None:
    x = given(folder, "table")
    scaler = unpickled(folder / "bounded_scaler.pickle")
    np.testing.assert_allclose(scaler.var_, (oracle.moments(x).m2 / (len(x) - 1)).astype(float), rtol=VAR_RTOL[FLOAT32])
    assert np.abs(scaler.transform(x)).max() == 1


@pytest.fixture
def stopped(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the folder in which a run was stopped; the run's source has the time that it had then."""
    shutil.copytree(folder, tmp_path / "there")
    os.utime(tmp_path / "there" / "inputs" / "table.npy", ns=(10**18, 10**18))
    monkeypatch.chdir(tmp_path / "there")
    return tmp_path / "there"


def name_of_a_part(path: str) -> str:
    """Return what this machine calls a copy that is not complete."""
    with suppress(InterruptedError), replacing(path, keep=True) as part:
        raise InterruptedError
    return part


def test_a_copy_that_was_stopped_goes_on(stopped: Path) -> None:
    part = name_of_a_part("copy/table.npy")
    os.rename("copy/part", part)
    os.rename("copy/checkpoint", f"{part}.json")
    reports: list[float] = []
    fastbn.standardize(
        "inputs/table.npy",
        fastbn.Moments.load("moments.npz"),
        "copy/table.npy",
        dtype="float16",
        resume=True,
        memory=2**18,
        progress=lambda done, total: reports.append(done / (total or 1)),
    )
    assert min(reports) > 0.5  # the rest was read, and no more
    x = np.load("inputs/table.npy")
    found = oracle.moments(x)
    want = oracle.normalize(x, found.mean, found.m2 / len(x), eps=0.0)
    y = np.load("copy/table.npy")
    assert y.dtype == np.float16
    np.testing.assert_allclose(y.astype(float), want.astype(float), rtol=2.0**-11, atol=1e-6)


def test_statistics_that_were_stopped_begin_anew(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run ends with the bits of one that was never stopped, which no other version promises."""
    monkeypatch.setattr(fastbn._core, "version", "0.3.0")
    with pytest.raises(ValueError, match=r"of another: version was '0\.1\.0' and is '0\.3\.0'"):
        fastbn.stream("inputs/table.npy", checkpoint="checkpoint", resume=True, memory=2**18)
    assert_moments(
        fastbn.stream("inputs/table.npy", checkpoint="checkpoint", memory=2**18), np.load("inputs/table.npy")
    )
