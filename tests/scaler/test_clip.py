"""Promise: `clip` bounds what a scaler gives, wherever it goes, and leaves NaN and everything else alone."""

from __future__ import annotations

import pickle
from typing import Any

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
from sklearn import preprocessing, set_config
from sklearn.base import clone

import fastbn.dask
from fastbn._scaling import Attributes, affine
from fastbn.sklearn import StandardScaler
from fastbn.sklearn._tables import clipped_foreign

Array = np.ndarray[Any, np.dtype[Any]]


def table(dtype: Any = np.float64) -> Array:
    x = np.random.default_rng(0).normal(3.0, 2.0, (500, 4))
    return x.astype(dtype)


@pytest.mark.parametrize("clip", [0, 0.1, 1.5, 7, 1e5])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.uint8, np.int64])
def test_clipped_is_the_usual_result_within_bounds(dtype: Any, clip: float) -> None:
    x = table(dtype)
    usual, scaler = StandardScaler().fit_transform(x), StandardScaler(clip=clip)
    y = scaler.fit_transform(x)
    assert y.dtype == usual.dtype
    assert float(np.abs(y).max()) <= clip
    bound = min(clip, float(np.finfo(y.dtype).max))
    within = np.abs(usual).astype(float) < clip
    np.testing.assert_allclose(y, np.clip(usual.astype(float), -bound, bound), rtol=np.finfo(y.dtype).eps)
    np.testing.assert_array_equal(y[within], usual[within])
    np.testing.assert_array_equal(scaler.transform(x), y)
    np.testing.assert_array_equal(scaler.inverse_transform(usual), StandardScaler().fit(x).inverse_transform(usual))


def test_out_in_place_axis_and_layouts() -> None:
    x, scaler = table(), StandardScaler(clip=0.5)
    y = scaler.fit_transform(x)
    out = np.empty_like(x)
    assert scaler.transform(x, out=out) is out
    np.testing.assert_array_equal(out, y)
    assert scaler.fit_transform(x, out=x) is x
    np.testing.assert_array_equal(x, y)
    x = table()
    assert StandardScaler(clip=0.5, copy=False).fit_transform(x) is x
    np.testing.assert_array_equal(x, y)
    np.testing.assert_array_equal(scaler.transform(np.asfortranarray(table())), y)
    images = table().reshape(5, 10, 10, 4)
    np.testing.assert_array_equal(StandardScaler(clip=0.5, axis=-1).fit_transform(images).reshape(-1, 4), y)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.uint8])
def test_every_kernel_clips(isa: str, threads: Any, dtype: Any) -> None:
    threads(2)
    rng = np.random.default_rng(1)
    for shape, axis in [((2000, 7), 1), ((40, 19, 67), 1), ((4000, 130), -1), ((3, 5), 0)]:
        x = (100 * rng.random(shape)).astype(dtype)
        usual = StandardScaler(axis=axis).fit_transform(x)
        y = StandardScaler(axis=axis, clip=0.75).fit_transform(x)
        np.testing.assert_array_equal(y, np.clip(usual, -0.75, 0.75))  # a number of all types
        for out in (np.empty_like(y), np.empty(shape[::-1], y.dtype).T):
            StandardScaler(axis=axis, clip=0.75).fit(x).transform(x, out=out)
            np.testing.assert_array_equal(out, y)


def test_out_of_range_channels_are_clipped() -> None:
    x = np.float32([[3e38, 1.0, 1e-30], [-3e38, 2.0, 2e-30], [1e38, 4.0, 3e-30]])
    usual = StandardScaler().fit_transform(x)
    assert usual.max() > 1.0
    np.testing.assert_array_equal(StandardScaler(clip=1.0).fit_transform(x), np.clip(usual, -1.0, 1.0))


def test_a_bound_is_rounded_to_the_type_of_the_result_towards_zero() -> None:
    x = table()
    out = np.empty(x.shape, np.float16)
    StandardScaler(clip=0.1).fit(x).transform(x, out=out)
    assert float(out.max()) == 1638 / 2**14  # of the multiples of 2^-14 there, the largest below 0.1
    StandardScaler(clip=0.3).fit(x).transform(x, out=out)
    assert float(out.max()) == 1228 / 2**12  # 1229 / 2^12, which is nearer, is above 0.3
    with pytest.raises(TypeError, match="out must"):
        StandardScaler(clip=0.1).fit(x).transform(x, out=np.empty(x.shape, int))
    with pytest.raises(ValueError, match="clip must be >= 0, got -1"):
        fastbn._core.normalize(x, np.zeros(4), np.ones(4), clip=-1)


def test_nan_stays_and_infinity_is_an_error() -> None:
    x = table()
    x[3, 1] = np.nan
    y = StandardScaler(clip=0.5).fit_transform(x)
    assert np.isnan(y[3, 1])
    assert np.isnan(y).sum() == 1
    x[3, 1] = np.inf
    with pytest.raises(ValueError, match="infinity"):
        StandardScaler(clip=0.5).fit(table()).transform(x)


def test_sparse_matrices_and_other_arrays() -> None:
    x = sp.random_array((50, 4), density=0.3, rng=np.random.default_rng(0), format="csr")
    usual = StandardScaler(with_mean=False).fit_transform(x).toarray()
    clipped = StandardScaler(with_mean=False, clip=1.0).fit_transform(x)
    assert sp.issparse(clipped)
    np.testing.assert_array_equal(clipped.toarray(), np.clip(usual, -1.0, 1.0))
    wide = table(np.longdouble)  # scikit-learn's own code
    assert np.abs(StandardScaler(clip=0.5).fit_transform(wide)).max() == 0.5


def test_negative_weights_which_are_left_to_scikit_learn() -> None:
    x, weights = table(), np.where(np.arange(500) == 7, -0.5, 1.0)
    usual = preprocessing.StandardScaler().fit(x, sample_weight=weights).transform(x)
    y = StandardScaler(clip=0.5).fit(x, sample_weight=weights).transform(x)
    np.testing.assert_allclose(y, np.clip(usual, -0.5, 0.5), rtol=1e-12)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # scikit-learn's, in array_api_strict
@pytest.mark.parametrize("library", ["array_api_strict", "torch"])
def test_array_namespaces(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    xp = pytest.importorskip(library)
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    x = xp.asarray(table())
    try:
        set_config(array_api_dispatch=True)
    except (ImportError, RuntimeError) as error:  # SciPy decides at its import whether it can
        pytest.skip(str(error))
    try:
        y = StandardScaler(clip=0.5).fit(x).transform(x)
        if hasattr(x, "__array_namespace__"):
            with pytest.raises(TypeError, match="X must be a NumPy array where correction is given"):
                StandardScaler(correction=1).fit(x)
    finally:
        set_config(array_api_dispatch=False)
    assert type(y) is type(x)
    np.testing.assert_allclose(np.asarray(y), StandardScaler(clip=0.5).fit_transform(table()), atol=1e-14)


def test_arrays_that_clip_themselves() -> None:
    class Tensor:  # as PyTorch's and CuPy's do, which have no __array_namespace__
        def clip(self, low: float, high: float) -> tuple[float, float]:
            return low, high

    assert clipped_foreign(Tensor(), 0.5) == (-0.5, 0.5)
    assert clipped_foreign(untouched := Tensor(), None) is untouched


def test_dask() -> None:
    x = da.from_array(table(), chunks=(100, 4))
    y = fastbn.dask.StandardScaler(clip=0.5).fit(x).transform(x)
    np.testing.assert_allclose(y.compute(), StandardScaler(clip=0.5).fit_transform(table()), rtol=1e-12)
    back = fastbn.dask.StandardScaler(clip=0.5).fit(x).inverse_transform(x)
    np.testing.assert_allclose(back.compute(), table() * table().std(axis=0) + table().mean(axis=0), rtol=1e-12)


def test_it_is_a_parameter_like_the_others() -> None:
    scaler = StandardScaler(clip=2.0)
    assert scaler.get_params()["clip"] == 2.0
    assert "clip" not in StandardScaler().get_params()
    assert clone(scaler).clip == 2.0
    assert "clip=2.0" in repr(scaler)
    assert StandardScaler().set_params(clip=3.0).clip == 3.0
    assert preprocessing.StandardScaler(**StandardScaler().get_params())


@pytest.mark.parametrize(
    ("clip", "error"),
    [
        (-1.0, ValueError),
        (np.nan, ValueError),
        (np.inf, ValueError),
        ("1", TypeError),
        (1j, TypeError),
        (True, TypeError),
    ],
)
def test_what_is_no_bound(clip: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="clip must be"):
        StandardScaler(clip=clip).fit(table())
    sparse = sp.csr_array(np.eye(3))
    for x in (table(), sparse, da.from_array(table(), 100)):
        scaler = fastbn.dask.StandardScaler(with_mean=x is not sparse).fit(x).set_params(clip=clip)
        with pytest.raises(error, match="clip must be"):
            scaler.transform(x)
        scaler.inverse_transform(x)  # does not clip


def test_pickles_hold_plain_arrays() -> None:
    scaler = StandardScaler().partial_fit(1e6 + table()).partial_fit(table())
    pickled = pickle.dumps(scaler)
    assert b"Moments" not in pickled
    again = pickle.loads(pickled)
    assert again.moments_.to_bytes() == scaler.moments_.to_bytes()
    unfitted = pickle.loads(pickle.dumps(StandardScaler(clip=1.0)))
    assert unfitted.clip == 1.0


def test_states_from_before_there_was_a_clip() -> None:
    """Of those there is no sample: they had no `clip`, and held the statistics as objects under another name."""
    scaler = StandardScaler().fit(table())
    old = StandardScaler.__new__(StandardScaler)
    state = {key: value for key, value in vars(scaler).items() if key not in ("clip", "_published")}
    state["_kept"] = (scaler.moments_, Attributes(scaler.n_samples_seen_, scaler.mean_, scaler.var_, scaler.scale_))
    old.__setstate__(state)
    assert old.clip is None
    assert old.moments_.to_bytes() == scaler.moments_.to_bytes()
    np.testing.assert_array_equal(old.transform(table()), scaler.transform(table()))


def test_what_is_scaled_back_is_not_clipped() -> None:
    with pytest.raises(ValueError, match=r"clip must be None with inverse, got 0\.5"):
        affine(table(), 1, (4,), inverse=True, clip=0.5)


def test_what_scikit_learn_gives_back_is_clipped() -> None:
    x = np.array([[0.0], [1.0], [8.0]])
    scaler = StandardScaler(clip=0.5).fit(x)
    wanted = scaler.transform(x)
    scaler.mean_ = scaler.mean_[np.newaxis]  # a shape that only scikit-learn's own code takes
    np.testing.assert_allclose(scaler.transform(x), wanted, rtol=1e-15)
    assert wanted.max() == 0.5
