"""Promise: statistics and standardization of dask collections are those of the whole, to the bit wherever they run."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from distributed import Client, LocalCluster, wait
from distributed.protocol import deserialize, serialize
from hypothesis import given, settings
from hypothesis import strategies as st

import fastbn.dask
from fastbn import Moments
from fastbn.dask._blocks import measured_block, settled
from fastbn.dask._inputs import empty_like
from support import layouts, oracle
from support.assertions import assert_count, assert_mean_and_var, assert_statistics
from support.dtypes import TYPES, y_type
from support.interpreters import run_python
from support.random_arrays import random_values
from support.tolerances import FLOAT64_RTOL, VAR_RTOL

Array = np.ndarray[Any, np.dtype[Any]]

# In this process, one after the other or in threads.
SCHEDULERS = ["synchronous", "threads"]


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Two worker processes of one thread each, on loopback."""
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def bits(moments: Moments) -> dict[str, Any]:
    """Return all that Moments hold, as bytes."""
    return {name: np.asarray(value).tobytes() for name, value in moments.to_dict().items()}


def data(*shape: int, dtype: Any = np.float32) -> Array:
    return random_values(np.random.default_rng(0), shape, dtype, offset=1e4)


def assert_moments(found: Moments, x: Array, axis: Any = 1, p: Array | None = None) -> None:
    """Assert that Moments are the oracle's, for the data as a whole."""
    expected = oracle.moments(x, axis, p=p)
    assert found.shape == expected.mean.shape
    if not x.size:
        assert np.isnan(found.mean).all()
        assert not np.any(found.m2)
        return
    assert_count(found.count, expected.count)
    mean, m2 = (np.asarray(value, np.float64) for value in (expected.mean, expected.m2))
    mean = np.where(np.asarray(found.count) > 0, mean, np.nan)  # of nothing; the oracle has 0
    count = np.where(np.asarray(found.count) > 0, found.count, np.nan)
    assert_mean_and_var(found.mean, found.m2 / count, mean, m2 / count, VAR_RTOL[x.dtype])


# Chunks.


@st.composite
def chunked(draw: st.DrawFn) -> tuple[Array, tuple[tuple[int, ...], ...], Any]:
    """Draw an array, chunks for it (some of size 0) and a feature axis or some."""
    sizes = st.lists(st.integers(0, 4), min_size=1, max_size=4).map(tuple)
    chunks = draw(st.lists(sizes, min_size=2, max_size=4).map(tuple))
    ndim = len(chunks)
    axis = draw(
        st.integers(-ndim, ndim - 1) | st.lists(st.integers(0, ndim - 1), unique=True, max_size=ndim).map(tuple)
    )
    dtype = draw(st.sampled_from(TYPES))
    return data(*map(sum, chunks), dtype=dtype), chunks, axis


@settings(max_examples=30)
@given(chunked(), st.sampled_from(SCHEDULERS), st.integers(2, 9))
def test_any_chunks_give_the_statistics_of_the_whole(case: Any, scheduler: str, split_every: int) -> None:
    x, chunks, axis = case
    lazy = fastbn.dask.moments(da.from_array(x, chunks), axis=axis, split_every=split_every)
    found = lazy.compute(scheduler=scheduler)
    assert_moments(found, x, axis)
    assert bits(found) == bits(lazy.compute(scheduler="synchronous"))


@settings(max_examples=20)
@given(chunked(), st.booleans())
def test_any_chunks_are_standardized_as_the_whole(case: Any, lazily: bool) -> None:
    x, chunks, axis = case
    moments = fastbn.dask.moments(da.from_array(x, chunks), axis=axis)
    known = moments.compute(scheduler="synchronous")
    y = fastbn.dask.standardize(da.from_array(x, chunks), moments if lazily else known, axis=axis)
    assert y.chunks == chunks
    assert y.dtype == y_type(x.dtype)
    computed = y.compute(scheduler="synchronous")
    assert computed.dtype == y.dtype
    np.testing.assert_array_equal(computed, fastbn.normalize(x, known, axis=axis, eps=0.0))


def test_what_is_checked_first_is_not_other_memory() -> None:
    """It has no values, or without axes one, which must be a variance."""
    x = da.ones((2, 3))
    fastbn.dask.standardize(x, fastbn.dask.moments(x, axis=()), axis=())
    of_no_axes = np.ones(())
    for _ in range(50):
        np.full((), -1.0)  # NumPy keeps its memory for the next one
        assert empty_like(of_no_axes) == 0


def test_affine_parameters_follow_the_features_chunks() -> None:
    x = data(40, 6, 3, dtype=np.float64)
    lazy = da.from_array(x, ((15, 25), (1, 3, 2), (2, 1)))
    weight, bias = np.arange(1.0, 7), np.arange(6, dtype=np.float32)
    options: dict[str, Any] = {"eps": 0.5, "correction": 1, "dtype": np.float32}
    y = fastbn.dask.standardize(
        lazy, fastbn.dask.moments(lazy), weight=da.from_array(weight, 4), bias=bias.tolist(), **options
    )
    along = (slice(None), None)
    want = (x - x.mean((0, 2))[along]) / np.sqrt(x.var((0, 2), ddof=1)[along] + 0.5) * weight[along] + bias[along]
    # y is of size 20 at most, rounded once to float32; its terms are some ulp of float64 at 1e4.
    np.testing.assert_allclose(y.compute(scheduler="synchronous"), want, rtol=2.0**-23, atol=1e-10)


def test_a_constant_feature_becomes_zero() -> None:
    x = da.from_array(np.array([[1.0, 0.1], [3.0, 0.1], [2.0, 0.1]]), (2, 1))
    y = fastbn.dask.standardize(x, fastbn.dask.moments(x)).compute(scheduler="synchronous")
    assert (y[:, 1] == 0).all()
    np.testing.assert_allclose(y[:, 0], [-np.sqrt(1.5), np.sqrt(1.5), 0], rtol=FLOAT64_RTOL)


def test_a_variance_beyond_float64_is_seen() -> None:
    x = da.from_array(np.array([[1e200, 1.0], [-1e200, 2.0], [3e200, 6.0]]), (2, 1))
    for moments in (lazy := fastbn.dask.moments(x)), lazy.compute(scheduler="synchronous"):
        with pytest.warns(RuntimeWarning, match="variance of feature 0"):
            y = fastbn.dask.standardize(x, moments).compute(scheduler="synchronous")
        np.testing.assert_array_equal(np.isnan(y), [[True, False]] * 3)


# Masks and weights.


@pytest.mark.parametrize("wanted", [("where",), ("weights",), ("where", "weights")])
@pytest.mark.parametrize("shape", [(30, 4, 5), (1, 4, 5), (30, 1, 1), (4, 1), (5,), ()])
def test_where_and_weights_of_any_chunks(wanted: tuple[str, ...], shape: tuple[int, ...]) -> None:
    x, rng = data(30, 4, 5), np.random.default_rng(1)
    given: dict[str, Any] = {"where": rng.random(shape) < 0.7, "weights": rng.random(shape)}
    given = {name: np.asarray(given[name]) for name in wanted}
    array = da.from_array(x, (7, 3, 2))
    p = oracle.element_weights(x.shape, **given)
    lazy = {name: da.from_array(value, -1 if value.ndim == 0 else 2) for name, value in given.items()}
    plain = {name: value.tolist() for name, value in given.items()}
    found = [fastbn.dask.moments(array, **some).compute(scheduler="threads") for some in (lazy, given, plain)]
    assert_moments(found[0], x, p=p.astype(np.float64))
    assert bits(found[0]) == bits(found[1]) == bits(found[2])


def test_nan_and_extremes() -> None:
    x = data(50, 6, dtype=np.float64)
    x[np.random.default_rng(2).random(x.shape) < 0.2] = np.nan
    array = da.from_array(x, (8, 4))
    found = fastbn.dask.moments(array, nan="omit", extremes=True).compute(scheduler="threads")
    assert (found.nan, found.extremes) == ("omit", True)
    assert_moments(found, np.nan_to_num(x), p=1.0 * np.isfinite(x))
    np.testing.assert_array_equal(found.count, np.isfinite(x).sum(axis=0))
    np.testing.assert_array_equal([found.min, found.max], [np.nanmin(x, axis=0), np.nanmax(x, axis=0)])
    assert np.isnan(fastbn.dask.moments(array).compute(scheduler="threads").mean).all()


# Sizes that only the blocks know.


def unknown(x: Array, rows: Any, columns: Any) -> Any:
    """Return some rows and columns of a dask array, whose chunk sizes are unknown then."""
    array = da.from_array(x, (10, 3))
    return array[da.from_array(rows, 10)] if columns is None else array[:, da.from_array(columns, 3)]


def test_unknown_numbers_of_rows() -> None:
    x = data(60, 5)
    rows = x[:, 0] > 1e4
    array = unknown(x, rows, None)
    assert np.isnan(array.shape[0])
    moments = fastbn.dask.moments(array)
    assert_moments(moments.compute(scheduler="threads"), x[rows])
    y = fastbn.dask.standardize(array, moments).compute(scheduler="threads")
    assert bits(fastbn.moments(y)) == bits(fastbn.moments(fastbn.normalize(x[rows], moments.compute(), eps=0.0)))
    weights = np.random.default_rng(3).random((60, 1))
    found = fastbn.dask.moments(
        array, weights=da.from_array(weights, 10)[da.from_array(rows, 10)], where=np.ones(5, bool)
    )
    p = oracle.element_weights((rows.sum(), 5), weights=weights[rows])
    assert_moments(found.compute(scheduler="threads"), x[rows], p=p.astype(np.float64))


def test_unknown_numbers_of_features() -> None:
    x = data(60, 7)
    columns = x[0] > 1e4
    array = unknown(x, None, columns)
    assert np.isnan(array.shape[1])
    assert_moments(fastbn.dask.moments(array).compute(scheduler="threads"), x[:, columns])
    with pytest.raises(ValueError, match=r"x must have known chunk sizes along feature axis 1: call x\.compute_chunk"):
        fastbn.dask.standardize(array, fastbn.moments(x[:, columns]))


def test_weights_of_unknown_chunk_sizes_are_not_broadcast() -> None:
    x, rows = data(20, 3), np.arange(20) % 10 != 0
    array = da.from_array(x, (10, 3))
    one = da.from_array(np.ones((20, 1)), (10, 1))[da.from_array(~rows, 10)]  # one row in each block
    with pytest.raises(
        ValueError, match=r"weights must have x's chunk sizes, got a block of \(1, 1\) beside \(10, 3\)"
    ):
        fastbn.dask.moments(array, weights=one).compute(scheduler="synchronous")
    for wrong in np.ones((20, 1)), da.ones((20, 1), chunks=(5, 1)):
        with pytest.raises(ValueError, match=r"weights must be a dask array with x's chunks where their sizes are"):
            fastbn.dask.moments(array[da.from_array(rows, 10)], weights=wrong)


# Dataframes.


def frame(dtype: Any = np.float32) -> pd.DataFrame:
    index = pd.date_range("2020-01-01", periods=30, name="day")
    return pd.DataFrame(data(30, 3, dtype=dtype), index=index, columns=["a", "b", "a"])


@pytest.mark.parametrize("lazily", [False, True])
def test_a_dataframe_stays_one(lazily: bool) -> None:
    given = frame()
    lazy = dd.from_pandas(given, npartitions=4)
    moments = fastbn.dask.moments(lazy)
    known = moments.compute(scheduler="threads")
    assert_moments(known, given.to_numpy())
    options: dict[str, Any] = {"weight": np.array([1.0, 2.0, 3.0]), "bias": da.ones(3)}
    y = fastbn.dask.standardize(lazy, moments if lazily else known, **options)
    assert isinstance(y, dd.DataFrame)
    assert y.divisions == lazy.divisions
    assert list(y.dtypes) == [np.float32] * 3
    want = fastbn.normalize(given.to_numpy(), known, weight=options["weight"], bias=np.ones(3), eps=0.0)
    pd.testing.assert_frame_equal(
        y.compute(scheduler="threads"),
        pd.DataFrame(want, given.index, given.columns),
        check_freq=False,
        check_exact=True,
    )


def test_columns_of_other_types_become_float64() -> None:
    given = pd.DataFrame(
        {
            "int": [1, 2, 6],
            "bool": [True, False, True],
            "single": np.array([1, 2, 4], np.float32),
            "missing": pd.array([1, None, 5], "Int64"),
            "arrow": pd.array([1.5, None, 2.5], "double[pyarrow]"),
        }
    )
    lazy = dd.from_pandas(given, npartitions=2)
    x = given.astype(np.float64).to_numpy()
    moments = fastbn.dask.moments(lazy, nan="omit")
    mean = moments.mean.compute(scheduler="threads")
    np.testing.assert_allclose(mean, np.nanmean(x, axis=0), rtol=FLOAT64_RTOL)
    y = fastbn.dask.standardize(lazy, moments)
    assert list(y.dtypes) == [np.float64] * 5
    want = (x - np.nanmean(x, axis=0)) / np.nanstd(x, axis=0)
    # Half an ulp for each operation, here and in NumPy's; near zero, of the values that were subtracted, 5 at most.
    np.testing.assert_allclose(y.compute(scheduler="threads"), want, rtol=FLOAT64_RTOL, atol=np.spacing(4.0))


def test_columns_are_the_names_of_the_features() -> None:
    lazy = dd.from_pandas(NAMED, npartitions=2)
    moments = fastbn.dask.moments(lazy).compute(scheduler="synchronous")
    assert moments.names == ("a", "b")
    assert moments.count == 3
    np.testing.assert_allclose(moments.mean, [1.0, 7.0], rtol=FLOAT64_RTOL)
    np.testing.assert_allclose(moments.var(), [2 / 3, 8 / 3], rtol=FLOAT64_RTOL)
    assert fastbn.dask.moments(lazy.to_dask_array()).names.compute(scheduler="synchronous") is None
    y = fastbn.dask.standardize(lazy, fastbn.moments(NAMED)).compute(scheduler="synchronous")
    np.testing.assert_allclose(y, np.outer([-1, 0, 1], np.sqrt([1.5, 1.5])), rtol=FLOAT64_RTOL)


def test_partitions_without_rows_change_nothing() -> None:
    lazy = dd.from_pandas(frame(), npartitions=4)
    some = lazy.map_partitions(lambda part: part[part.index < "2020-01-12"], meta=lazy._meta)
    moments = fastbn.dask.moments(some)
    assert_moments(moments.compute(scheduler="threads"), frame().to_numpy()[:11])
    assert fastbn.dask.standardize(some, moments).compute(scheduler="threads").shape == (11, 3)


# Lazily, and where it runs.


def test_nothing_is_computed_before_it_is_asked_for(tmp_path: Path) -> None:
    x = da.map_blocks(logged_block, str(tmp_path), chunks=((10,) * 6, (2, 1)), dtype=np.float32, meta=np.empty((0, 0)))
    moments = fastbn.dask.moments(x, weights=da.ones((60, 1)))
    y = fastbn.dask.standardize(x, moments)
    assert not list(tmp_path.iterdir())
    assert_moments(moments.compute(scheduler="threads"), whole(12), p=np.ones((60, 3)))
    assert len(loads(tmp_path)) == 12
    y.compute(scheduler="threads")  # a block is read again rather than kept until the statistics are there
    assert len(loads(tmp_path)) == 36


def test_partitions_are_computed_once_for_moments_and_once_for_y() -> None:
    loaded: list[int] = []

    def load(number: int) -> pd.DataFrame:
        loaded.append(number)
        return NAMED + number

    lazy = dd.from_map(load, range(5), meta=NAMED)
    y = fastbn.dask.standardize(lazy, fastbn.dask.moments(lazy), bias=da.ones(2))
    assert not loaded
    whole = pd.concat([NAMED + number for number in range(5)])
    want = (whole - whole.mean()) / whole.std(ddof=0) + 1
    # Half an ulp for each operation, here and in pandas; near zero, of the values that were subtracted, 13 at most.
    pd.testing.assert_frame_equal(y.compute(scheduler="synchronous"), want, rtol=FLOAT64_RTOL, atol=np.spacing(13.0))
    assert sorted(loaded) == sorted([*range(5)] * 2)


def test_the_same_call_has_the_same_key() -> None:
    x = da.from_array(data(20, 3), (5, 2))
    keys = [fastbn.dask.moments(x, nan=nan, where=x > 0).key for nan in ("omit", "omit", "propagate")]
    assert keys[0] == keys[1] != keys[2]
    lazily = [fastbn.dask.standardize(x, fastbn.dask.moments(x), eps=eps).name for eps in (0.0, 0.0, 1.0)]
    assert lazily[0] == lazily[1] != lazily[2]
    moments = fastbn.moments(data(20, 3))
    before = fastbn.dask.standardize(x, moments)
    assert before.name == fastbn.dask.standardize(x, moments).name
    want = fastbn.normalize(data(20, 3), moments, eps=0.0)
    moments.update(data(20, 3) + 1)  # later than the call
    np.testing.assert_array_equal(before.compute(scheduler="synchronous"), want)
    assert before.name != fastbn.dask.standardize(x, moments).name


VIEWS: list[Callable[[Array], Array]] = [
    layouts.dense,
    layouts.fortran,
    layouts.permuted(1, 0, 2),
    layouts.permuted(0, 2, 1),
    layouts.stepped(2, -1, 1),
    layouts.padded(0, 1, 2),
    layouts.repeated(0, 2),
    layouts.misaligned,
    lambda values: values[:, :1],
    lambda values: values[:1, ::2, 3:4],
]


@pytest.mark.parametrize("axis", [0, 1, 2, (0, 2)])
@pytest.mark.parametrize("view", VIEWS)
def test_a_block_that_has_travelled_gives_the_same_bits(view: Callable[[Array], Array], axis: Any) -> None:
    x = view(data(40, 7, 30))
    np.testing.assert_array_equal(settled(x), x)
    varied_weights = layouts.repeated(1, 2)(np.random.default_rng(5).random(x.shape))
    for weights, wide in (None, {}), (varied_weights, {"weights": (-3, -2, -1)}):
        arguments: list[Any] = [None, weights, wide, axis, "propagate", False]
        found = measured_block(x, *arguments)
        for travel in lambda block: pickle.loads(pickle.dumps(block)), lambda block: deserialize(*serialize(block)):
            arguments[1] = None if weights is None else travel(weights)
            np.testing.assert_array_equal(travel(x), x)
            assert bits(measured_block(travel(x), *arguments)) == bits(found)


def test_two_processes_give_the_bits_of_one(client: Client) -> None:
    x = da.random.default_rng(0).normal(1e4, 1.0, (600, 30), chunks=(170, 11)).astype(np.float32)
    moments = fastbn.dask.moments(x)
    here = moments.compute(scheduler="synchronous")
    assert_moments(here, x.compute(scheduler="synchronous"))
    assert bits(client.compute(moments).result()) == bits(here)
    kept = client.persist(x.rechunk((170, 30)).rechunk((170, 11)))  # views of larger arrays, some of them sent about
    with client.as_current():
        wait(kept)
    assert len({worker for workers in client.who_has(kept).values() for worker in workers}) == 2
    assert bits(client.compute(fastbn.dask.moments(kept)).result()) == bits(here)
    y = client.compute(fastbn.dask.standardize(x, moments)).result()
    np.testing.assert_array_equal(y, fastbn.dask.standardize(x, here).compute(scheduler="synchronous"))


def test_the_scaler_runs_where_the_data_are(client: Client) -> None:
    x = da.random.default_rng(0).normal(1e4, 1.0, (200, 5), chunks=(17, 2))
    here = x.compute(scheduler="synchronous")
    with client.as_current():
        scaler = fastbn.dask.StandardScaler().fit(x)
        y = scaler.transform(x).compute()
    assert_statistics(here, scaler.mean_, scaler.var_, 1)
    np.testing.assert_array_equal(y, scaler.transform(here))


# Workers that die.


def block(number: int) -> Array:
    return np.random.default_rng(number).normal(1e4, 1.0, (10, 3)).astype(np.float32)


def whole(blocks: int) -> Array:
    return np.concatenate([block(number) for number in range(blocks // 2)])


def logged_block(folder: str, block_info: Any = None) -> Array:
    """Return a block by its place in an array of two columns of blocks, and leave a note of it."""
    row, column = block_info[None]["chunk-location"]
    note(folder, row)
    return block(row)[:, :2] if column == 0 else block(row)[:, 2:]


def deadly_block(folder: str, block_info: Any = None) -> Array:
    """Return a block. The first process to have done three of them says at the fourth who it is, and waits to die."""
    row = block_info[None]["chunk-location"][0]
    note(folder, row)
    if len(rows_of(os.getpid(), Path(folder))) == 4:
        with contextlib.suppress(FileExistsError), open(Path(folder) / "victim", "x") as file:
            file.write(f"{os.getpid()}\n")
            file.flush()
            time.sleep(30)
    return block(row)


def note(folder: str, row: int) -> None:
    with open(Path(folder) / "loads", "a") as file:
        file.write(f"{os.getpid()} {row}\n")


def loads(folder: Path) -> list[list[int]]:
    """Return the process and the row of every block that was computed so far."""
    file = folder / "loads"
    return [[int(word) for word in line.split()] for line in file.read_text().splitlines()] if file.exists() else []


def rows_of(process: int, folder: Path) -> list[int]:
    return [row for who, row in loads(folder) if who == process]


def the_victim(folder: Path) -> int:
    """Wait until a worker has said that it is the one to kill."""
    for _ in range(3000):
        if (folder / "victim").exists() and (said := (folder / "victim").read_text()).endswith("\n"):
            return int(said)
        time.sleep(0.01)
    raise TimeoutError("no worker has done four blocks in half a minute")


def test_a_worker_that_dies_loses_nothing_and_nothing_is_added_twice(client: Client, tmp_path: Path) -> None:
    x = da.map_blocks(deadly_block, str(tmp_path), chunks=((10,) * 12, (3,)), dtype=np.float32, meta=np.empty((0, 0)))
    # No statistics are merged before all are there, so those of the dead worker are lost with it.
    moments = fastbn.dask.moments(x, split_every=12, extremes=True)
    result = client.compute(moments)
    victim = the_victim(tmp_path)
    assert victim != os.getpid()
    lost = rows_of(victim, tmp_path)
    assert len(lost) == 4
    os.kill(victim, signal.SIGKILL)
    found = result.result(timeout=30)
    assert rows_of(victim, tmp_path) == lost
    assert sorted(row for _, row in loads(tmp_path)) == sorted([*range(12), *lost])
    assert found.count == 120
    assert_moments(found, np.concatenate([block(row) for row in range(12)]))
    assert bits(found) == bits(moments.compute(scheduler="synchronous"))


# What cannot be.

SIX = data(20, 6)
X = da.from_array(SIX, (8, 4))
FRAME = dd.from_pandas(frame(), npartitions=2)
MOMENTS = fastbn.moments(SIX)
NAMED = pd.DataFrame({"a": [0.0, 1.0, 2.0], "b": [5.0, 7.0, 9.0]})


def of_bytes(features: int) -> Moments:
    """Return statistics of pixels that were divided by 255."""
    return Moments.from_dict({"count": 3, "mean": [0.5] * features, "m2": [1.0] * features, "scale": 255})


class Other(np.lib.mixins.NDArrayOperatorsMixin):
    """An array that is not NumPy's, as dask sees one."""

    __array_ufunc__ = __array_function__ = lambda *args, **kwargs: NotImplemented
    dtype, ndim, shape = np.dtype(np.float64), 2, (0, 0)


def of_other_blocks() -> Any:
    array = da.ones((20, 6))
    array._meta = Other()
    return array


WRONG: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: fastbn.dask.moments(SIX), TypeError, "x must be a dask array or dataframe, got ndarray"),
    (lambda: fastbn.dask.moments(FRAME["b"]), TypeError, "x must be a dask array or dataframe, got Series"),
    (lambda: fastbn.dask.moments(of_other_blocks()), TypeError, "x must have blocks that are NumPy arrays .* Other$"),
    (lambda: fastbn.dask.moments(da.ma.masked_equal(X, 0)), TypeError, "x must have blocks that .* got MaskedArray$"),
    (lambda: fastbn.dask.moments(X[0]), ValueError, r"x must have at least 2 dimensions .*, got 1"),
    (lambda: fastbn.dask.moments(X.astype(complex)), TypeError, "x must have dtype float32, .* got complex128"),
    (lambda: fastbn.dask.moments(X.astype(object)), TypeError, "x must have dtype float32, .* got object"),
    (lambda: fastbn.dask.moments(X, axis=2), ValueError, "axis must be between -2 and 1 for x of 2 dimensions, got 2"),
    (lambda: fastbn.dask.moments(X, axis=1.0), TypeError, "axis must be an int.* or a tuple of int.*, got 1.0"),
    (lambda: fastbn.dask.moments(X, nan="drop"), ValueError, "nan must be 'propagate' or 'omit', got 'drop'"),
    (lambda: fastbn.dask.moments(X, extremes=2), TypeError, "extremes must be True or False, got 2"),
    (lambda: fastbn.dask.moments(X, split_every=1), ValueError, "split_every must be 2 or more, got 1"),
    (lambda: fastbn.dask.moments(X, split_every="8"), TypeError, "split_every must be an int, got '8'"),
    (lambda: fastbn.dask.moments(X, split_every=2.5), TypeError, r"split_every must be an int, got 2\.5"),
    (lambda: fastbn.dask.moments(X, split_every=True), TypeError, "split_every must be an int, got True"),
    (lambda: fastbn.dask.moments(X, where=np.ones(6)), TypeError, "where must have dtype bool, got float64"),
    (lambda: fastbn.dask.moments(X, where=X), TypeError, "where must have dtype bool, got float32"),
    (lambda: fastbn.dask.moments(X, where=X > [[[0]]]), ValueError, r"where must be broadcastable to x's shape"),
    (
        lambda: fastbn.dask.moments(X, weights=np.ones((20, 5))),
        ValueError,
        r"weights must be .* x's shape \(20, 6\), got",
    ),
    (lambda: fastbn.dask.moments(X, weights=["1"] * 6), TypeError, "weights must have dtype float32"),
    (lambda: fastbn.dask.moments(X, weights=da.ma.masked_equal(X, 0)), TypeError, "weights must have blocks that are"),
    (lambda: fastbn.dask.moments(FRAME[[]]), TypeError, "x must have columns, all of real numbers, got none"),
    (
        lambda: fastbn.dask.moments(FRAME.assign(t="text", c=1j)),
        TypeError,
        r"x must have columns, all of real numbers, got \['t', 'c'\]",
    ),
    (lambda: fastbn.dask.standardize(SIX, MOMENTS), TypeError, "x must be a dask array or dataframe, got ndarray"),
    (
        lambda: fastbn.dask.standardize(X, SIX.mean(axis=0)),
        TypeError,
        "moments must be fastbn.Moments, or Delayed ones",
    ),
    (lambda: fastbn.dask.standardize(X, Moments()), ValueError, r"feature shape \(6,\), got None"),
    (lambda: fastbn.dask.standardize(X, MOMENTS, axis=0), ValueError, r"x's feature shape \(20,\), got \(6,\)"),
    (lambda: fastbn.dask.standardize(X, MOMENTS, axis=-3), ValueError, "axis must be between -2 and 1"),
    (lambda: fastbn.dask.standardize(X, MOMENTS, eps=-1.0), ValueError, "eps must be finite and not negative, got -1"),
    (lambda: fastbn.dask.standardize(X, MOMENTS, correction=-1), ValueError, "correction must be"),
    (lambda: fastbn.dask.standardize(X, MOMENTS, dtype=int), TypeError, "dtype must be"),
    (lambda: fastbn.dask.standardize(X, MOMENTS, weight=1.0), ValueError, r"weight must have the feature shape \(6,\)"),
    (lambda: fastbn.dask.standardize(X, MOMENTS, bias=["a"] * 6), TypeError, "bias must have dtype float32"),
    (lambda: fastbn.dask.standardize(FRAME, MOMENTS, axis=0), ValueError, "axis must be 1 for a dataframe, got 0"),
    (
        lambda: fastbn.dask.standardize(X.astype(np.uint8), of_bytes(6)),
        ValueError,
        "x must be in the units of the statistics, which are of values divided by 255: give x / 255, got uint8",
    ),
    (
        lambda: fastbn.dask.standardize(FRAME.astype(np.int16), of_bytes(3)),
        ValueError,
        "x must be in the units of the statistics, which are of values divided by 255: give x / 255, got int16",
    ),
    (
        lambda: fastbn.dask.standardize(dd.from_pandas(NAMED[["b", "a"]], npartitions=2), fastbn.moments(NAMED)),
        ValueError,
        "x must have 'a' as column 0, as the statistics have, got 'b'",
    ),
    (lambda: fastbn.dask.standardise, AttributeError, "module 'fastbn.dask' has no attribute 'standardise'"),
]


@pytest.mark.parametrize(("call", "error", "message"), WRONG, ids=[message for _, _, message in WRONG])
def test_what_is_wrong_is_said_at_once(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_what_only_values_show_is_said_on_computing() -> None:
    other = fastbn.dask.standardize(X, fastbn.dask.moments(X, axis=0))
    with pytest.raises(ValueError, match=r"moments must have x's feature shape \(6,\), got \(20,\)"):
        other.compute(scheduler="synchronous")
    swapped = dd.from_pandas(NAMED[["b", "a"]], npartitions=2)
    other = fastbn.dask.standardize(swapped, fastbn.dask.moments(dd.from_pandas(NAMED, npartitions=2)))
    with pytest.raises(ValueError, match="x must have 'a' as column 0, as the statistics have, got 'b'"):
        other.compute(scheduler="synchronous")
    other = fastbn.dask.standardize(X.astype(np.uint8), dask.delayed(of_bytes(6)))
    with pytest.raises(ValueError, match="x must be in the units of the statistics"):
        other.compute(scheduler="synchronous")
    with pytest.raises(ValueError, match="weights must be finite and not negative"):
        fastbn.dask.moments(X, weights=da.full(6, -1.0)).compute(scheduler="synchronous")


def test_without_dask_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask.array", None)
    spec = importlib.util.find_spec("fastbn.dask")
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(ImportError, match=r'fastbn\.dask needs dask: pip install "fastbn\[dask\]"'):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_the_functions_need_no_scikit_learn_and_no_dataframes() -> None:
    done = run_python("import sys, fastbn.dask as d; print([m in sys.modules for m in ('sklearn', 'dask.dataframe')])")
    assert done.stdout.strip() == "[False, False]", done.stderr
