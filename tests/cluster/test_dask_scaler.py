"""Promise: the scaler of dask collections finds what scikit-learn's finds, and gives back what it was given."""

from __future__ import annotations

import pickle
from typing import Any

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import preprocessing
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline

import fastbn.sklearn
from fastbn import Moments
from fastbn.dask import StandardScaler

Array = np.ndarray[Any, np.dtype[Any]]

# scikit-learn sums in float64, a few thousand values of one size here, and rounds the mean to X's type before it
# subtracts; its float32 results are that much further off.
ATTRIBUTES = {"rtol": 1e-12, "atol": 1e-14}
SCALED = {np.dtype(np.float64): {"rtol": 1e-11, "atol": 1e-12}, np.dtype(np.float32): {"rtol": 1e-5, "atol": 1e-5}}


def data(*shape: int, dtype: Any = np.float64) -> Array:
    rng = np.random.default_rng(0)
    if np.dtype(dtype).kind in "iu":
        return rng.integers(0, 100, shape).astype(dtype)
    x = rng.normal(3.0, 2.0, shape).astype(dtype)
    x[..., 0] = 0.1
    return x


def with_gaps(x: Array) -> Array:
    x[np.random.default_rng(1).random(x.shape) < 0.1] = np.nan
    return x


def frame(dtype: Any = np.float64, rows: int = 60) -> pd.DataFrame:
    index = pd.date_range("2020-01-01", periods=rows, name="day")
    return pd.DataFrame(data(rows, 3, dtype=dtype), index=index, columns=["a", "b", "c"])


def assert_fitted(scaler: Any, wanted: Any) -> None:
    """Assert that two scalers have the same attributes."""
    for name in ("mean_", "var_", "scale_", "n_samples_seen_"):
        found, expected = getattr(scaler, name), getattr(wanted, name)
        assert (found is None) == (expected is None), name
        if expected is not None:
            assert np.shape(found) == np.shape(expected), name
            np.testing.assert_allclose(found, expected, **ATTRIBUTES)
    assert scaler.n_features_in_ == wanted.n_features_in_
    names = getattr(scaler, "feature_names_in_", None), getattr(wanted, "feature_names_in_", None)
    np.testing.assert_array_equal(*names)


def assert_scaled(y: Any, wanted: Any) -> None:
    computed = y.compute(scheduler="synchronous")
    assert np.asarray(computed).dtype == np.asarray(wanted).dtype
    np.testing.assert_allclose(computed, wanted, **SCALED[np.asarray(wanted).dtype])


@settings(max_examples=25)
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=4).map(tuple),
    st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple).filter(sum),
    st.sampled_from([np.float32, np.float64, np.uint8, np.int64]),
    st.booleans(),
    st.booleans(),
)
def test_any_chunks(rows: tuple[int, ...], columns: tuple[int, ...], dtype: Any, mean: bool, std: bool) -> None:
    x = data(sum(rows), sum(columns), dtype=dtype)
    lazy = da.from_array(x, (rows, columns))
    options = {"with_mean": mean, "with_std": std}
    scaler, wanted = StandardScaler(**options).fit(lazy), preprocessing.StandardScaler(**options).fit(x)
    assert_fitted(scaler, wanted)
    y = scaler.transform(lazy)
    assert y.chunks == (rows, columns)
    assert_scaled(y, wanted.transform(x))
    assert_scaled(scaler.inverse_transform(y), wanted.inverse_transform(wanted.transform(x)))


def test_nan_is_left_out_and_stays() -> None:
    x = with_gaps(data(200, 4))
    lazy = da.from_array(x, (30, 3))
    scaler, wanted = StandardScaler().fit(lazy), preprocessing.StandardScaler().fit(x)
    assert_fitted(scaler, wanted)
    assert_scaled(scaler.transform(lazy), wanted.transform(x))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_dataframe_stays_one(dtype: Any) -> None:
    x = frame(dtype)
    lazy = dd.from_pandas(x, npartitions=4)
    scaler, wanted = StandardScaler().fit(lazy), preprocessing.StandardScaler().fit(x)
    assert_fitted(scaler, wanted)
    for y, expected in (
        (scaler.transform(lazy), wanted.transform(x)),
        (scaler.inverse_transform(lazy), wanted.inverse_transform(x)),
    ):
        assert isinstance(y, dd.DataFrame)
        assert y.divisions == lazy.divisions
        assert list(y.dtypes) == [dtype] * 3
        assert_scaled(y, expected)
        computed = y.compute(scheduler="synchronous")
        pd.testing.assert_index_equal(computed.index, x.index, exact="equiv", check_names=True)
        assert list(computed.columns) == list(x.columns)


def test_a_dataframe_of_several_types() -> None:
    x = pd.DataFrame({"a": [1, 2, 6, 3], "b": pd.array([1, None, 3, 8], "Int32"), "c": np.float32([1, 2, 3, 5])})
    lazy = dd.from_pandas(x, npartitions=2)
    scaler, wanted = StandardScaler().fit(lazy), preprocessing.StandardScaler().fit(x)
    assert_fitted(scaler, wanted)
    assert_scaled(scaler.transform(lazy), wanted.transform(x))
    mixed = lazy.assign(d="text")
    with pytest.raises(TypeError, match=r"X must have columns, all of real numbers, got \['d'\]"):
        StandardScaler().fit(mixed)


def test_parts_in_memory_and_not() -> None:
    x = with_gaps(data(300, 3))
    scaler = StandardScaler()
    scaler.partial_fit(x[:100]).partial_fit(da.from_array(x[100:150], (20, 2))).partial_fit(x[150:])
    assert_fitted(scaler, preprocessing.StandardScaler().fit(x))
    scaler.fit(da.from_array(x[:50], (20, 2)))
    assert_fitted(scaler, preprocessing.StandardScaler().fit(x[:50]))
    scaler.merge(fastbn.sklearn.StandardScaler().fit(x[50:]))
    assert_fitted(scaler, preprocessing.StandardScaler().fit(x))
    assert isinstance(scaler.moments_, Moments)
    assert_scaled(scaler.transform(da.from_array(x, (20, 2))), scaler.transform(x))


@pytest.mark.parametrize("how", ["array", "other chunks", "memory", "list", "number"])
@pytest.mark.parametrize("options", [{}, {"with_mean": False, "with_std": False}])
def test_sample_weights(how: str, options: dict[str, Any]) -> None:
    x, weights = with_gaps(data(90, 3)), np.random.default_rng(2).random(90)
    given = {
        "array": da.from_array(weights, 20),
        "other chunks": da.from_array(weights, 7),
        "memory": weights,
        "list": weights.tolist(),
        "number": 2.0,
    }[how]
    scaler = StandardScaler(**options).fit(da.from_array(x, (20, 2)), sample_weight=given)
    wanted = preprocessing.StandardScaler(**options).fit(x, sample_weight=2.0 if how == "number" else weights)
    assert_fitted(scaler, wanted)


@pytest.mark.parametrize("how", ["column", "array of a column", "memory"])
def test_sample_weights_of_a_dataframe(how: str) -> None:
    # scikit-learn's weighted variance of a constant column may come out negative.
    x = frame().assign(a=np.arange(60.0), weight=np.random.default_rng(2).random(60))
    lazy = dd.from_pandas(x, npartitions=4)
    given = {
        "column": lazy["weight"],
        "array of a column": lazy["weight"].to_dask_array(),
        "memory": x["weight"],
    }[how]
    scaler = StandardScaler().fit(lazy[["a", "b", "c"]], sample_weight=given)
    assert_fitted(scaler, preprocessing.StandardScaler().fit(x[["a", "b", "c"]], sample_weight=x["weight"]))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(89), r"sample_weight must have one entry for each of X's samples, 90 \(nan is .*\), got 89$"),
        (np.ones((90, 1)), r"sample_weight must have one dimension, got 2$"),
        (da.ones(1), r"sample_weight must have one entry for each of X's samples, 90 \(nan is .*\), got 1$"),
        (-np.ones(90), r"weights must be finite and not negative"),
    ],
)
def test_wrong_sample_weights(weights: Any, message: str) -> None:
    scaler = StandardScaler()
    with pytest.raises(ValueError, match=message):
        scaler.fit(da.from_array(data(90, 3), (20, 2)), sample_weight=weights)
    with pytest.raises(NotFittedError):
        scaler.transform(data(90, 3))


@pytest.mark.parametrize("weights", [np.zeros(90), da.zeros(90, chunks=7), 0])
@pytest.mark.parametrize("options", [{}, {"with_mean": False, "with_std": False}])
def test_some_sample_must_have_a_weight(weights: Any, options: dict[str, bool]) -> None:
    x = da.from_array(data(90, 3), (20, 2))
    scaler = StandardScaler(**options).fit(x)
    before = pickle.dumps(scaler)
    with pytest.raises(ValueError, match="sample_weight must hold a number that is not 0, got none"):
        scaler.partial_fit(x, sample_weight=weights)
    assert pickle.dumps(scaler) == before


@pytest.mark.parametrize("axis", [-1, 0, (1, 2), (0, 1, 2)])
def test_axes_of_arrays(axis: Any) -> None:
    x = data(6, 5, 4)
    lazy = da.from_array(x, (4, 3, 3))
    parent = fastbn.sklearn.StandardScaler(axis=axis, correction=1).fit(np.concatenate([x, x]) if axis == -1 else x)
    scaler = StandardScaler(axis=axis, correction=1).fit(lazy)
    if axis == -1:
        scaler.partial_fit(lazy)
    assert_fitted(scaler, parent)
    assert_scaled(scaler.transform(lazy), parent.transform(x))
    if axis == (0, 1, 2):
        with pytest.raises(ValueError, match="axis must leave an axis of samples where sample_weight is given"):
            scaler.partial_fit(lazy, sample_weight=np.ones(6))
    else:
        weights = np.arange(float(x.shape[1 if axis == 0 else 0]))
        scaler.fit(lazy, sample_weight=weights)
        assert_fitted(scaler, parent.fit(x, sample_weight=weights))
    with pytest.raises(ValueError, match=r"X (must have features of shape|has \d features, but StandardScaler)"):
        scaler.transform(da.ones((7, 8, 9)))
    with pytest.raises(ValueError, match="X must have features of shape"):
        scaler.inverse_transform(da.ones((7, 8, 9)))


def test_computes_once_to_fit_and_nothing_to_transform() -> None:
    seen: list[int] = []

    def load(block_info: Any = None) -> Array:
        seen.append(block_info[None]["chunk-location"][0])
        return data(10, 3)

    x = da.map_blocks(load, chunks=((10,) * 5, (3,)), dtype=np.float64, meta=np.empty((0, 0)))
    scaler = StandardScaler().fit(x)
    assert sorted(seen) == list(range(5))
    y = scaler.inverse_transform(scaler.transform(x))
    assert len(seen) == 5
    y.compute(scheduler="synchronous")
    assert len(seen) == 10


def test_a_refused_part_leaves_the_scaler_alone() -> None:
    x = data(40, 3)
    infinite = x.copy()
    infinite[7, 1] = -np.inf
    scaler = StandardScaler().fit(da.from_array(x, 9))
    before = pickle.dumps(scaler)
    for bad, message in (
        (da.from_array(infinite, 9), r"X must not hold infinity, got it in feature \[1\]"),
        (da.from_array(x[:, :2], 9), "X has 2 features, but StandardScaler is expecting 3 features as input"),
        (da.from_array(x[:0], 9), r"X must not be empty, got shape \(0, 3\)"),
        (da.from_array(x[:, :0], 9), r"X must not be empty, got shape \(40, 0\)"),
        (da.from_array(x, 9)[da.zeros(40, dtype=bool, chunks=9)], r"X must not be empty, got shape \(nan, 3\)"),
        (
            da.from_array(x, 9)[:, da.ones(3, dtype=bool, chunks=9)],
            "X must have known chunk sizes along feature axis 1",
        ),
        (da.ones((4, 3, 2)), "X must have 2 dimensions where axis is not given, got 3"),
    ):
        with pytest.raises(ValueError, match=message):
            scaler.partial_fit(bad)
        assert pickle.dumps(scaler) == before
    for bad in da.from_array(x.astype(object), 9), da.from_array(x.astype(complex), 9):
        with pytest.raises(TypeError, match="X must hold real numbers, got dtype"):
            scaler.partial_fit(bad)
    with pytest.raises(TypeError, match="X must be a dask array or dataframe, got Series"):
        scaler.partial_fit(dd.from_pandas(frame(), npartitions=2)["a"])
    with sklearn.config_context(assume_finite=True):
        assert np.isnan(scaler.partial_fit(da.from_array(infinite, 9)).mean_[1])


@pytest.mark.parametrize("columns", [["a", 0], [0, "a"]])
def test_a_refused_first_part_leaves_the_scaler_unfitted(columns: list[Any]) -> None:
    x = pd.DataFrame(data(40, 2), columns=columns)
    for scaler, part in (fastbn.sklearn.StandardScaler(), x), (StandardScaler(), dd.from_pandas(x, npartitions=2)):
        before = vars(scaler).copy()
        with pytest.raises(TypeError, match="Feature names are only supported if all input features have string names"):
            scaler.partial_fit(part)
        assert vars(scaler) == before


def test_features_are_known_by_name() -> None:
    x = dd.from_pandas(frame(), npartitions=2)
    scaler = StandardScaler().fit(x)
    with pytest.raises(ValueError, match="The feature names should match those that were passed during fit"):
        scaler.transform(x[["b", "a", "c"]])
    with pytest.raises(ValueError, match="The feature names should match those that were passed during fit"):
        scaler.partial_fit(x.rename(columns={"a": "z"}))
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        y = scaler.transform(x.to_dask_array())
    assert_scaled(y, scaler.transform(frame()))
    assert scaler.get_feature_names_out().tolist() == ["a", "b", "c"]
    scaler.fit(x.to_dask_array())
    assert not hasattr(scaler, "feature_names_in_")


def test_pixels_do_not_go_with_statistics_of_other_units() -> None:
    moments = Moments.from_dict({"count": 4, "mean": [0.5, 0.25], "m2": [1.0, 2.0], "scale": 255})
    pixels = np.array([[0, 255], [51, 102]], np.uint8)
    scaler = StandardScaler().merge(moments)
    before = pickle.dumps(scaler)
    csr, named = sp.csr_array(pixels), pd.DataFrame(pixels, columns=["a", "b"])
    some = [pixels, pixels.tolist(), csr, named, da.from_array(pixels, 1), dd.from_pandas(named, npartitions=2)]
    some += [pixels.astype(np.int64), da.from_array(pixels.astype(np.int64), 1)]
    for x in some:
        for call in scaler.partial_fit, scaler.transform:
            with pytest.raises(ValueError, match="X must be in the units of the statistics, which are of values divid"):
                call(x)
        assert pickle.dumps(scaler) == before
    scaler.inverse_transform(pixels)  # which are in units of the deviation
    for x in pixels / 255, da.from_array(pixels / 255, 1):
        assert_scaled(da.asarray(scaler.transform(x)), (pixels / 255 - [0.5, 0.25]) / np.sqrt([0.25, 0.5]))
    # Two values of mean 0.1, 0.7 beside four of mean 0.5, 0.25.
    np.testing.assert_allclose(scaler.partial_fit(pixels / 255).mean_, [2.2 / 6, 2.4 / 6], rtol=1e-15)
    scaler.mean_ = np.zeros(2)  # whose units are the caller's
    assert scaler.transform(pixels).max() > 255


def test_what_is_not_dask_is_the_parent_s() -> None:
    for x in data(50, 3), frame(), data(50, 3).tolist():
        scaler, parent = StandardScaler().fit(x), fastbn.sklearn.StandardScaler().fit(x)
        assert_fitted(scaler, parent)
        np.testing.assert_array_equal(scaler.transform(x), parent.transform(x))
        np.testing.assert_array_equal(scaler.inverse_transform(x), parent.inverse_transform(x))
    x = data(50, 3)
    assert scaler.transform(x, out=x) is x
    assert isinstance(StandardScaler().set_output(transform="pandas").fit_transform(frame()), pd.DataFrame)


def test_options_that_need_memory_are_refused() -> None:
    x = da.from_array(data(50, 3), 20)
    scaler = StandardScaler()
    with pytest.raises(NotFittedError):
        scaler.transform(x)
    scaler.fit(x)
    with pytest.raises(ValueError, match="out must be None for dask's X, got ndarray"):
        scaler.transform(x, out=np.empty((50, 3)))
    with pytest.raises(ValueError, match="set_output must be left at 'default' for dask's X, got 'pandas'"):
        scaler.set_output(transform="pandas").transform(x)
    with pytest.raises(ValueError, match="The 'with_mean' parameter of StandardScaler must be an instance of 'bool'"):
        StandardScaler(with_mean="yes").fit(x)


def test_in_a_pipeline_cloned_and_pickled() -> None:
    x = with_gaps(data(80, 3))
    lazy = da.from_array(x, (30, 2))
    pipeline = make_pipeline(StandardScaler(with_mean=False), StandardScaler())
    wanted = make_pipeline(preprocessing.StandardScaler(with_mean=False), preprocessing.StandardScaler())
    y = pipeline.fit_transform(lazy)
    assert isinstance(y, da.Array)
    assert_scaled(y, wanted.fit_transform(x))
    again = pickle.loads(pickle.dumps(pipeline))
    assert_fitted(again[1], pipeline[1])
    assert_scaled(again.transform(lazy), wanted.transform(x))
    fresh = clone(pipeline[0])
    assert type(fresh) is StandardScaler
    assert not fresh.with_mean
    assert_fitted(fresh.fit(lazy), wanted[0])
