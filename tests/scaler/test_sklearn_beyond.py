"""Promise: what StandardScaler does beyond scikit-learn's is right: precision, merging, any axes, out=, no copies."""

from __future__ import annotations

import copy
import math
import pickle
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import preprocessing
from sklearn.exceptions import NotFittedError

import fastbn
from fastbn.sklearn import StandardScaler
from support import oracle
from support.assertions import assert_mean_and_var, assert_relative, assert_ulps
from support.layouts import LAYOUTS, Layout, layout_id
from support.oracle import Array
from support.tolerances import VAR_RTOL, Y_ULPS

Theirs = preprocessing.StandardScaler
# What scikit-learn and NumPy sum of thirty terms of one sign: dozens of roundings at most, and as many again.
SUMS_RTOL = 1e-13


def exact(x: Array, axis: Any = 1, correction: float = 0, p: Array | None = None) -> tuple[Array, Array]:
    """Return mean and deviation, in long double."""
    found = oracle.moments(x, axis, p=p)
    return found.mean, np.sqrt(found.m2 / (found.count - correction))


def assert_fitted(scaler: Any, x: Array, axis: Any = 1, correction: float = 0, p: Any = 1.0) -> None:
    """Assert that the attributes are the oracle's, of what is not NaN."""
    known = ~np.isnan(x)
    mean, std = exact(np.where(known, x, x.dtype.type(0)), axis, correction, known * np.asarray(p, np.longdouble))
    rtol = VAR_RTOL[x.dtype]
    assert_mean_and_var(scaler.mean_, scaler.var_, mean, std**2, rtol)
    assert_relative(scaler.scale_, std, rtol)


def parts(x: Array) -> list[Array]:
    return np.array_split(x, [1, 10, 17])


def missing(x: Array, fraction: float = 0.1) -> Array:
    return np.where(np.random.default_rng(3).random(x.shape) < fraction, x.dtype.type(np.nan), x)


# Precision.


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e5, -1e6])
def test_float32_far_from_zero_loses_no_digits(rng: np.random.Generator, offset: float) -> None:
    x = (offset + rng.standard_normal((500, 4))).astype(np.float32)
    mean, std = exact(x)
    wanted = (x - mean) / std
    y = StandardScaler().fit_transform(x)
    assert y.dtype == np.float32
    # Rounded: the mean's low part, the reciprocal, the product and the sum.
    assert_ulps(y, wanted, other=np.float32(1.0), limit=4)


@pytest.mark.parametrize(
    "dtype", [np.float16, np.float32, np.float64, np.uint8, np.int8, np.uint16, np.int16, np.int32]
)
def test_types(rng: np.random.Generator, dtype: Any) -> None:
    x = (rng.random((333, 7)) * 100).astype(dtype)
    scaler = StandardScaler().fit(x)
    mean, std = exact(x)
    rtol = VAR_RTOL[np.dtype(dtype)]
    assert_relative(scaler.mean_, mean, rtol)
    assert_relative(scaler.scale_, std, rtol)
    y = scaler.transform(x)
    assert y.dtype == (dtype if np.dtype(dtype).kind == "f" else np.float64)
    wanted = (x - scaler.mean_.astype(np.longdouble)) / scaler.scale_.astype(np.longdouble)
    assert_ulps(y, wanted, other=1.0, limit=4)
    back = scaler.inverse_transform(y)
    assert_ulps(back, y * scaler.scale_.astype(np.longdouble) + scaler.mean_, other=np.abs(mean) + std, limit=4)
    small = scaler.transform(x, out=np.empty(x.shape, np.float32))
    assert_ulps(small, wanted, other=np.float32(1.0), limit=4)


def test_weights_and_samples_repeated_are_the_same(rng: np.random.Generator) -> None:
    x, times = missing(rng.normal(1e6, 1, (50, 3))), rng.integers(0, 4, 50)
    repeated = np.repeat(x, times, axis=0)
    for scaler in StandardScaler().fit(x, sample_weight=times), StandardScaler().fit(repeated):
        np.testing.assert_array_equal(scaler.n_samples_seen_, (~np.isnan(repeated)).sum(axis=0))
        assert_fitted(scaler, repeated)


def test_a_feature_that_was_missing_at_first(rng: np.random.Generator) -> None:
    x = rng.standard_normal((40, 3))
    x[:20, 1] = np.nan
    scaler = StandardScaler().partial_fit(x[:20]).partial_fit(x[20:])
    np.testing.assert_array_equal(scaler.n_samples_seen_, [40, 20, 40])
    assert_fitted(scaler, x)
    np.testing.assert_array_equal(np.isnan(scaler.transform(x)), np.isnan(x))


def test_a_variance_beyond_float64_is_seen() -> None:
    x = np.array([[1e200, 1.0], [-1e200, 2.0], [3e200, 6.0]])
    with pytest.warns(RuntimeWarning, match="variance of feature 0, for a standard deviation of 1e154 or more"):
        scaler = StandardScaler().fit(x)
    np.testing.assert_array_equal(np.isnan(scaler.transform(x)), [[True, False]] * 3)
    assert np.isnan(scaler.scale_[0])


def test_a_variance_below_float64_is_seen() -> None:
    """It is 0, as a constant's is; of these, of whatever size, nothing is said."""
    x = np.array([[0.0, 5e-200, 1e-200, 3.0], [0.0, 5e-200, -1e-200, 3.0], [0.0, 5e-200, 4e-200, 3.0]])
    with pytest.warns(
        RuntimeWarning, match="variance of feature 2, for a standard deviation of 1e-154 or less"
    ) as seen:
        scaler = StandardScaler(correction=1).fit(x)
    assert len(seen) == 1
    np.testing.assert_array_equal(scaler.scale_, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        StandardScaler().fit(x[:, [0, 1, 3]])


def test_threads_do_not_matter(rng: np.random.Generator, threads: Any) -> None:
    x = rng.standard_normal((50_000, 20)).astype(np.float32)
    threads(1)
    one = StandardScaler().fit_transform(x)
    threads(2)
    np.testing.assert_array_equal(StandardScaler().fit_transform(x), one)


# Correction.


@pytest.mark.parametrize("correction", [0, 1, 1.5])
def test_correction(rng: np.random.Generator, correction: float) -> None:
    x = rng.normal(5, 2, (30, 4))
    scaler = StandardScaler(correction=correction)
    for part in parts(x):
        scaler.partial_fit(part)
    assert_fitted(scaler, x, correction=correction)
    weighted = StandardScaler(correction=correction).fit(x, sample_weight=np.full(30, 2))
    assert_fitted(weighted, np.repeat(x, 2, axis=0), correction=correction)


def test_correction_of_sparse_matrices(rng: np.random.Generator) -> None:
    x = np.where(rng.random((30, 4)) < 0.5, rng.random((30, 4)), 0)
    scaler = StandardScaler(with_mean=False, correction=1)
    for part in parts(x):
        scaler.partial_fit(sp.csr_array(part))
    np.testing.assert_allclose(scaler.var_, x.var(axis=0, ddof=1), rtol=SUMS_RTOL)
    y = scaler.transform(sp.csr_array(x)).toarray()
    np.testing.assert_allclose(y, x / x.std(axis=0, ddof=1), rtol=SUMS_RTOL)
    dense = StandardScaler(with_mean=False, correction=1).partial_fit(sp.csr_array(x[:9])).partial_fit(x[9:])
    np.testing.assert_allclose(dense.var_, x.var(axis=0, ddof=1), rtol=SUMS_RTOL)
    without = StandardScaler(with_mean=False, with_std=False, correction=1).fit(sp.csr_array(x))
    assert without.var_ is None


def test_one_sample_has_no_unbiased_variance() -> None:
    scaler = StandardScaler(correction=1).fit([[3.0, 4.0]])
    np.testing.assert_array_equal(scaler.var_, [np.nan, np.nan])
    np.testing.assert_array_equal(scaler.transform([[3.0, 5.0]]), [[0.0, 1.0]])
    scaler.partial_fit([[5.0, 8.0]])
    np.testing.assert_array_equal(scaler.var_, [2.0, 8.0])


def test_a_refused_sparse_part_leaves_the_scaler_alone(rng: np.random.Generator) -> None:
    x = rng.normal(0.0, 1.0, (20, 4))
    scaler = StandardScaler(with_mean=False, correction=1).fit(sp.csr_array(x[:9]))
    for bad in sp.csr_array(x[:, :2]), sp.csr_array(np.where(x > 1, np.inf, x)):
        before = pickle.dumps(scaler)
        with pytest.raises(ValueError, match=r"X has 2 features, but StandardScaler|Input X contains infinity"):
            scaler.partial_fit(bad)
        assert pickle.dumps(scaler) == before
    assert_fitted(scaler.partial_fit(sp.csr_array(x[9:])), x, correction=1)


def test_correction_wants_weights_that_are_not_negative(rng: np.random.Generator) -> None:
    x, weights = rng.random((30, 4)), np.linspace(-1, 3, 30)
    for data in x, sp.csr_array(x):
        scaler = StandardScaler(with_mean=False, correction=1).fit(data)
        before = pickle.dumps(scaler)
        with pytest.raises(ValueError, match="sample_weight must not be negative where correction is given"):
            scaler.partial_fit(data, sample_weight=weights)
        assert pickle.dumps(scaler) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"correction": -1}, "correction must be finite and >= 0, got -1"),
        ({"correction": "1"}, "correction must be a real number, got '1'"),
        ({"correction": np.nan}, "correction must be finite and >= 0, got nan"),
        ({"axis": True}, "axis must be an int or a tuple of ints, got True"),
        ({"axis": (1, 1)}, "axis must not name an axis twice"),
        ({"axis": 2}, "axis must name axes of X, which has 2 dimensions, got 2"),
        ({"axis": (0, -3)}, "axis must name axes of X, which has 2 dimensions"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        StandardScaler(**options).fit(np.ones((3, 2)), sample_weight=[1, 1, 1])


# Merging.


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("fraction", [0.0, 0.2])
def test_merged_parts_are_the_whole(rng: np.random.Generator, fraction: float, weighted: bool) -> None:
    x = missing(rng.normal(1e8, 1, (200, 5)), fraction)
    weights = rng.random(200) if weighted else None
    total = StandardScaler(correction=1)
    for rows in parts(np.arange(200)):
        other = StandardScaler(with_mean=False).fit(x[rows], sample_weight=None if weights is None else weights[rows])
        before = copy.deepcopy(vars(other))
        assert total.merge(other) is total
        assert before.keys() == vars(other).keys()
        np.testing.assert_array_equal(before["mean_"], other.mean_)
    p = np.ones((200, 1)) if weights is None else weights[:, None]
    assert_fitted(total, x, correction=1, p=p)
    assert np.ndim(total.n_samples_seen_) == (fraction > 0)
    count = (~np.isnan(x) * p.astype(np.longdouble)).sum(axis=0)
    # A sum of positive terms, as the variance.
    assert_relative(total.n_samples_seen_, count if fraction else count[0], VAR_RTOL[x.dtype])


def test_scikit_learns_scalers_and_moments_merge_too(rng: np.random.Generator) -> None:
    x = rng.normal(3, 2, (90, 4))
    frame = pd.DataFrame(x[:30], columns=list("abcd"))
    scaler = StandardScaler().merge(Theirs().fit(frame)).merge(fastbn.Moments())
    scaler.merge(fastbn.moments(x[30:60])).merge(StandardScaler().fit(x[60:]))
    assert list(scaler.get_feature_names_out()) == list("abcd")
    assert (scaler.n_samples_seen_, scaler.n_features_in_) == (90, 4)
    assert_fitted(scaler, x)
    assert_fitted(scaler.partial_fit(frame), np.concatenate([x, x[:30]]))


def test_a_constant_features_variance_is_not_negative() -> None:
    x = np.full((20, 2), 0.6)
    dense, sparse = Theirs().fit(x), Theirs(with_mean=False).fit(sp.csr_array(x))
    for other in dense, sparse:
        other.var_ = np.array([-1e-33, -0.0])  # as weights may leave it, by rounding
        scaler = StandardScaler(with_mean=other.with_mean).merge(other)
        np.testing.assert_array_equal([scaler.var_, scaler.scale_], [[0, 0], [1, 1]])
    dense.var_ = np.array([-1e-20, 0.0])
    with pytest.raises(ValueError, match=r"n_samples_seen_ and var_ must not be negative .* got 20.* and \[-1\.e-20"):
        StandardScaler().merge(dense)
    dense.n_samples_seen_ = -1
    with pytest.raises(ValueError, match=r"n_samples_seen_ and var_ must not be negative .* got -1 and"):
        StandardScaler().merge(dense)


def test_more_samples_than_int64_counts() -> None:
    for count in 2**64, [2.0**64, 1.0]:
        for flag in True, False:
            scaler = StandardScaler(with_mean=flag, with_std=flag)
            scaler.merge(fastbn.Moments(count, [1.0, 2.0], [2.0, 3.0]))
            np.testing.assert_array_equal(scaler.n_samples_seen_, count)


def test_what_does_not_merge(rng: np.random.Generator) -> None:
    x = rng.standard_normal((9, 2))
    scaler = StandardScaler().fit(pd.DataFrame(x, columns=["a", "b"]))
    before = scaler.moments_
    for other, error, message in (
        (3, TypeError, "other must be a StandardScaler or Moments, got int"),
        (preprocessing.MinMaxScaler().fit(x), TypeError, "other must be a StandardScaler or Moments"),
        (StandardScaler(), NotFittedError, "not fitted yet"),
        (StandardScaler(with_std=False).fit(x), ValueError, "other must have the mean_ and var_"),
        (Theirs(with_std=False, with_mean=False).fit(x), ValueError, "other must have the mean_ and var_"),
        (StandardScaler().fit(x[:, :1]), ValueError, r"other must have features of shape \(2,\), got \(1,\)"),
        (fastbn.moments(x[:, :1]), ValueError, r"other must have features of shape \(2,\), got \(1,\)"),
        (StandardScaler().fit(pd.DataFrame(x, columns=["b", "a"])), ValueError, "must have the features"),
    ):
        with pytest.raises(error, match=message):
            scaler.merge(other)
    assert scaler.moments_ == before
    with pytest.raises(ValueError, match="other must have features along axis 1, got features of shape"):
        StandardScaler().merge(fastbn.moments(x[..., None], axis=(0, 1)))
    with pytest.raises(ValueError, match="with_std"):
        StandardScaler(with_std=None).merge(scaler)


def test_moments_are_a_copy_and_feed_the_layer(rng: np.random.Generator) -> None:
    x = rng.normal(5, 3, (100, 4))
    scaler = StandardScaler().fit(x)
    assert scaler.moments_ == fastbn.moments(x)
    scaler.moments_.update(x)
    assert scaler.n_samples_seen_ == 100
    layer = fastbn.BatchNorm(affine=False, eps=0.0, correction=0).load_moments(scaler.moments_).eval()
    # Either is within so many ulp of what it should be, which is below 4 in size.
    np.testing.assert_allclose(layer(x), scaler.transform(x), rtol=0, atol=2 * Y_ULPS * np.spacing(2.0))


def test_a_scaler_without_statistics_goes_on() -> None:
    x = np.arange(12.0).reshape(6, 2)
    scaler = StandardScaler(with_mean=False, with_std=False).partial_fit(x).partial_fit(sp.csr_array(x)).partial_fit(x)
    assert scaler.n_samples_seen_ == 18
    assert scaler.moments_.count == 18
    # Counts were kept all along; so was all else, until scikit-learn's own code took part.
    assert StandardScaler(with_std=False).fit(x).set_params(with_std=True).partial_fit(x).var_ is not None


# Axes.


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", LAYOUTS, ids=layout_id)
def test_any_axes_in_any_layout(rng: np.random.Generator, layout: Layout, dtype: Any) -> None:
    x = layout.fill(rng, dtype, 2.0, 100.0)
    before = x.copy()
    scaler = StandardScaler(axis=layout.axis)
    y = scaler.fit_transform(x)
    assert scaler.mean_.shape == scaler.scale_.shape == layout.features
    assert scaler.n_features_in_ == len(scaler.get_feature_names_out()) == np.prod(layout.features)
    mean, std = exact(x, layout.axis)
    rtol = VAR_RTOL[np.dtype(dtype)]
    assert_relative(scaler.mean_, mean, rtol)
    assert_relative(scaler.scale_, np.where(std == 0, 1, std), rtol)
    wanted = oracle.affine(x, scaler.mean_, 1 / scaler.scale_.astype(np.longdouble), axis=layout.axis)
    assert_ulps(y, wanted, other=1.0, limit=4)
    assert y.dtype == dtype
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(scaler.transform(x), y)
    back = scaler.inverse_transform(y)
    # Rounded, in proportion to x: the product and the sum; and y, of a fiftieth of x's size.
    np.testing.assert_allclose(back, x, rtol=2 * np.finfo(dtype).eps)
    if x.flags.writeable:
        assert scaler.transform(x, copy=False) is x
        np.testing.assert_array_equal(x, y)


def test_weights_belong_to_the_first_axis_of_samples(rng: np.random.Generator) -> None:
    x, weights = rng.standard_normal((4, 5, 6)), rng.random(4)
    scaler = StandardScaler(axis=-1).fit(x, sample_weight=weights)
    assert_fitted(scaler, x, -1, p=weights[:, None, None])
    turned = StandardScaler(axis=0).fit(x.T, sample_weight=weights[:1].repeat(5))
    assert_fitted(turned, x, -1)
    with pytest.raises(ValueError, match="weights must"):
        StandardScaler(axis=-1).fit(x, sample_weight=-weights)
    with pytest.raises(ValueError, match="axis must leave an axis of samples"):
        StandardScaler(axis=(0, 1, 2)).fit(x, sample_weight=weights)


def test_axes_that_do_not_fit(rng: np.random.Generator) -> None:
    x = rng.standard_normal((4, 5, 6))
    scaler = StandardScaler(axis=(1, 2)).fit(x)
    for wrong in x[:, :4], x.reshape(4, 6, 5), x[:, :, :0]:
        for act in scaler.transform, scaler.inverse_transform, scaler.partial_fit:
            with pytest.raises(ValueError, match="X must"):
                act(wrong)
    bare = StandardScaler(axis=(1, 2), with_mean=False, with_std=False).fit(x)
    np.testing.assert_array_equal(bare.transform(x), x)
    with pytest.raises(ValueError, match="X must have features of shape"):
        bare.transform(x[:, :4])
    with pytest.raises(ValueError, match="axis must be 1 for X of type csr_array"):
        StandardScaler(axis=0, with_mean=False).fit(sp.csr_array(np.eye(3)))
    assert StandardScaler(axis=1, with_mean=False).fit(sp.csr_array(np.eye(3))).n_features_in_ == 3
    with pytest.raises(ValueError, match="Expected 2D array"):
        StandardScaler(axis=-1).fit(x[0, 0])


def test_names_where_features_are_columns(rng: np.random.Generator) -> None:
    frame = pd.DataFrame(rng.standard_normal((9, 3)), columns=list("abc"))
    scaler = StandardScaler(axis=-1).set_output(transform="pandas").fit(frame)
    assert list(scaler.transform(frame).columns) == list("abc")
    with pytest.raises(ValueError, match="feature names should match"):
        scaler.transform(frame[["b", "a", "c"]])
    with pytest.warns(UserWarning, match="valid feature names"):
        scaler.transform(frame.to_numpy())
    rows = StandardScaler(axis=0).fit(frame)
    assert (rows.n_features_in_, hasattr(rows, "feature_names_in_")) == (9, False)


def test_statistics_have_the_names_of_the_columns(rng: np.random.Generator, tmp_path: Path) -> None:
    frame = pd.DataFrame(rng.standard_normal((9, 3)), columns=list("abc"))
    scaler = StandardScaler().fit(frame)
    assert scaler.moments_.names == ("a", "b", "c")
    assert StandardScaler().fit(frame.to_numpy()).moments_.names is None
    assert StandardScaler(axis=0).fit(frame).moments_.names is None
    scaler.moments_.save(tmp_path / "stats.npz")
    other = StandardScaler().merge(fastbn.Moments.load(tmp_path / "stats.npz"))
    np.testing.assert_array_equal(other.transform(frame), scaler.transform(frame))
    with pytest.raises(ValueError, match="feature names should match"):
        other.transform(frame[["b", "a", "c"]])

    assert scaler.partial_fit(frame).merge(scaler).moments_.names == ("a", "b", "c")
    by_number = fastbn.Moments.from_dict(fastbn.moments(frame).to_dict() | {"names": ["0", "1", "2"]})
    assert scaler.merge(by_number).moments_.names == ("a", "b", "c")


# out=.


@pytest.mark.parametrize("method", ["transform", "inverse_transform", "fit_transform"])
def test_results_go_where_they_are_asked_to_go(rng: np.random.Generator, method: str) -> None:
    x = rng.normal(3, 2, (50, 4))
    scaler = StandardScaler().fit(x)
    wanted = getattr(scaler, method)(x)
    for out in np.empty_like(x), np.empty_like(x, order="F"), np.empty((50, 8))[:, ::2], x.copy():
        assert getattr(scaler, method)(x, out=out) is out
        np.testing.assert_array_equal(out, wanted)
    half = np.empty(x.shape, np.float16)
    assert getattr(scaler, method)(x, out=half) is half
    np.testing.assert_array_equal(half, wanted.astype(np.float16))
    out = np.empty_like(x)
    framed = getattr(scaler.set_output(transform="pandas"), method)(x, out=out)
    np.testing.assert_array_equal(framed, out)
    assert getattr(scaler.set_output(transform="default"), method)(x, out=x) is x
    np.testing.assert_array_equal(x, wanted)


def test_out_that_cannot_be_written(rng: np.random.Generator) -> None:
    x = rng.standard_normal((9, 2))
    scaler = StandardScaler(with_mean=False).fit(x)
    bad = np.where(x > 1, np.inf, x)
    for out, given_x, message in (
        (np.zeros((9, 3)), x, "out must"),
        (np.zeros((9, 2), int), x, "out must"),
        (np.zeros((9, 2)), bad, "Input X contains infinity"),
        (
            np.zeros((9, 2)),
            sp.csr_array(x),
            "out must be None where X is left to scikit-learn, got X of type csr_array",
        ),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            scaler.transform(given_x, out=out)
        assert not out.any()


# Memory.


def allocated(act: Any) -> int:
    """Return the most bytes that Python and NumPy held at a time during a call, and those of fastbn's own results."""
    act()  # what is loaded or remembered at the first call is no part of it
    fastbn.clear_pool()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        act()
        # Results that nobody kept are in the pool now.
        return tracemalloc.get_traced_memory()[1] - before + fastbn.pool_info().held
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.uint8, np.int32])
@pytest.mark.parametrize("order", ["C", "F", "stepped"])
def test_nothing_is_copied(rng: np.random.Generator, order: str, dtype: Any) -> None:
    x = (rng.random((60_000, 40)) * 100).astype(dtype, order="F" if order == "F" else "C")
    x = x[:, ::2] if order == "stepped" else x
    scaler, out = StandardScaler(), np.empty_like(x, dtype=x.dtype if x.dtype.kind == "f" else np.float64)
    # A few numbers for each feature, and Python's own objects; a byte for each value would be an eighth of x at least.
    assert allocated(lambda: scaler.fit(x)) < 0.01 * x.nbytes
    assert allocated(lambda: scaler.transform(x, out=out)) < 0.01 * x.nbytes
    assert allocated(lambda: scaler.fit_transform(x, out=out)) < 0.01 * x.nbytes
    if x.dtype.kind == "f":
        assert allocated(lambda: scaler.inverse_transform(x, copy=False)) < 0.01 * x.nbytes


def test_missing_values_are_looked_for_in_parts(rng: np.random.Generator) -> None:
    x = missing(rng.standard_normal((400_000, 20)))
    scaler, out = StandardScaler(), np.empty_like(x)
    # A mask is made for one part after the other, and one of the answers to "is it infinite?"; one for all of x would
    # be an eighth of it.
    assert allocated(lambda: scaler.fit(x)) < 0.1 * x.nbytes
    assert allocated(lambda: scaler.transform(x, out=out)) < 0.1 * x.nbytes


def test_what_has_to_be_converted_is_the_result(rng: np.random.Generator) -> None:
    x = rng.integers(0, 100, (100_000, 10))
    scaler = StandardScaler().fit(x)
    # The result is as large as x; the rest as in `test_nothing_is_copied`.
    assert allocated(lambda: scaler.transform(x)) < 1.01 * x.nbytes


# Infinity.


def refused(x: Array) -> bool:
    """Whether `transform` refuses x: with `out` it looks through all of x before it writes anything."""
    features = x.shape[-1]
    scaler = StandardScaler(axis=-1).merge(fastbn.Moments(2, np.zeros(features), np.ones(features)))
    out = np.empty(x.shape, x.dtype if x.dtype.kind == "f" else np.float64)
    try:
        with np.errstate(all="ignore"):  # scikit-learn adds up infinities to find the words of its error
            scaler.transform(x, out=out)
    except ValueError as error:
        if "infinity" not in str(error):
            raise
        return True
    return False


@given(
    hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.float64]),
        hnp.array_shapes(min_dims=2, max_dims=4, max_side=6),
        elements=st.sampled_from([0.0, 1.0, -3.0, 6e4, np.nan, np.inf, -np.inf]),
        fill=st.just(1.0),
    ),
    st.randoms(use_true_random=False),
)
def test_infinity_is_found(x: Array, random: Any) -> None:
    axes = random.sample(range(x.ndim), x.ndim)
    view = x.transpose(axes)[tuple(slice(None, None, random.choice([1, -1, 2])) for _ in axes)]
    wanted = any(math.isinf(value) for value in view.ravel().tolist())
    assert refused(view) == wanted


@pytest.mark.parametrize("value", [np.finfo(np.float64).max, -np.finfo(np.float64).max, np.nan])
def test_what_is_not_infinite(value: float) -> None:
    x = np.full((700, 600), value)
    assert not refused(x)
    assert not refused(x.astype(np.float32) if np.isnan(value) else np.full((9, 9), np.finfo(np.float32).max))
    assert not refused(np.ones((3, 3), np.uint8))
    x[-1, -1] = np.inf
    assert refused(x)
    assert refused(x.T[::-1])


def test_merging_moments_takes_a_copy(rng: np.random.Generator) -> None:
    x, y, z = (rng.standard_normal((n, 2)) + n for n in (50, 30, 20))
    moments = fastbn.moments(x)
    scaler = StandardScaler().merge(moments)
    moments.update(y)
    scaler.partial_fit(z)
    assert scaler.n_samples_seen_ == 70
    assert_fitted(scaler, np.concatenate([x, z]))
