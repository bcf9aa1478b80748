"""Promise: fastbn.sklearn.StandardScaler is scikit-learn's: results, attributes, errors, warnings and protocols."""

from __future__ import annotations

import copy
import importlib.util
import pickle
import sys
import warnings
from collections.abc import Callable
from typing import Any

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
import sklearn
from sklearn import preprocessing
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import estimator_checks_generator

import fastbn
import fastbn.sklearn
import fastbn.sklearn._tables
from fastbn.sklearn import StandardScaler

Array = np.ndarray[Any, np.dtype[Any]]
Maker = Callable[[], Any]

Theirs = preprocessing.StandardScaler
NAMES = list("abcd")
# Statistics of 30 float64 numbers of like size: dozens of roundings at most, on either side.
RTOL = 1e-13
# scikit-learn rounds mean and scale to X's type, and its result twice; y and X are within 8 of zero here.
Y_ULPS = 32


def table(rows: int = 30) -> Array:
    return np.random.default_rng(7).normal(3.0, 2.0, size=(rows, 4))


def holes(x: Array) -> Array:
    return np.where(np.random.default_rng(8).random(x.shape) < 0.2, np.nan, x)


def readonly(x: Array) -> Array:
    x.flags.writeable = False
    return x


X = readonly(table())
WHOLE = np.abs(np.rint(10 * X))
INPUTS: dict[str, Maker] = {
    "float64": table,
    "float32": lambda: table().astype(np.float32),
    "float16": lambda: table().astype(np.float16),
    "longdouble": lambda: table().astype(np.longdouble),
    "big-endian": lambda: table().astype(">f8"),
    "big-endian float32": lambda: table().astype(">f4"),
    "uint8": lambda: WHOLE.astype(np.uint8),
    "int8": lambda: WHOLE.astype(np.int8),
    "uint16": lambda: WHOLE.astype(np.uint16),
    "int16": lambda: WHOLE.astype(np.int16),
    "int32": lambda: WHOLE.astype(np.int32),
    "int64": lambda: WHOLE.astype(np.int64),
    "bool": lambda: X > 3,
    "NaN": lambda: holes(X),
    "NaN float32": lambda: holes(X).astype(np.float32),
    "constant": lambda: np.where([True, False, True, False], X, 7.0),
    "all NaN": lambda: np.where([True, False, True, False], X, np.nan),
    "Fortran": lambda: np.asfortranarray(table()),
    "Fortran float32": lambda: np.asfortranarray(table().astype(np.float32)),
    "stepped": lambda: np.repeat(table(), 2, axis=0)[::2],
    "reversed": lambda: table()[::-1, ::-1],
    "read-only": lambda: readonly(table()),
    "broadcast": lambda: np.broadcast_to(X[0], (5, 4)),
    "one sample": lambda: table()[:1],
    "list": lambda: X.tolist(),
    "list of integers": lambda: WHOLE.astype(int).tolist(),
    "tuple": lambda: tuple(map(tuple, X)),
    "objects": lambda: X.astype(object),
    "None in objects": lambda: np.array([[1.0, None, 2, 3], [2, 3, 5, 3]], object),
    "strings of numbers": lambda: X.astype(str),
    "masked": lambda: np.ma.masked_array(table(), X > 4),  # type: ignore[no-untyped-call]
    "DataFrame": lambda: pd.DataFrame(table(), columns=NAMES),
    "DataFrame of float32": lambda: pd.DataFrame(table().astype(np.float32), columns=NAMES),
    "DataFrame of types": lambda: pd.DataFrame({"a": [1, 2, 3], "b": [1.5, 2, 9], "c": [True, True, False], "d": 0}),
    "DataFrame with an index": lambda: pd.DataFrame(table()[:3], columns=NAMES, index=list("xyz")),
    "DataFrame without names": lambda: pd.DataFrame(table()),
    "DataFrame of others": lambda: pd.DataFrame(table(), columns=list("abce")),
    "DataFrame in disorder": lambda: pd.DataFrame(table(), columns=list("badc")),
    "DataFrame with NA": lambda: pd.DataFrame({n: pd.array([1, 2, None], dtype="Int64") for n in NAMES}),
    "sparse DataFrame": lambda: pd.DataFrame.sparse.from_spmatrix(sp.csr_array(WHOLE), columns=NAMES),
    "polars": lambda: pl.DataFrame(table(), schema=NAMES),
    "CSR": lambda: sp.csr_array(WHOLE),
    "CSC": lambda: sp.csc_array(WHOLE),
    "COO": lambda: sp.coo_array(WHOLE),
    "CSR float32": lambda: sp.csr_matrix(WHOLE.astype(np.float32)),
}
WRONG: dict[str, Maker] = {
    "infinity": lambda: np.where(X > 5, np.inf, X),
    "minus infinity": lambda: np.where(X > 5, -np.inf, X),
    "infinity and NaN": lambda: np.where(X > 5, np.inf, holes(X)),
    "infinity in float32": lambda: np.where(X > 5, np.inf, X).astype(np.float32),
    "infinity in float16": lambda: np.where(X > 5, np.inf, X).astype(np.float16),
    "infinity in a list": lambda: np.where(X > 5, np.inf, X).tolist(),
    "infinity in CSR": lambda: sp.csr_array(np.where(X > 5, np.inf, WHOLE)),
    "no samples": lambda: X[:0],
    "no features": lambda: X[:, :0],
    "three features": lambda: X[:, :3],
    "one dimension": lambda: X[0],
    "no dimension": lambda: np.float64(3),
    "three dimensions": lambda: X.reshape(5, 6, 4),
    "empty list": list,
    "Series": lambda: pd.Series(X[0]),
    "None": lambda: None,
    "word": lambda: "abc",
    "words": lambda: [["a", "b"], ["c", "d"]],
    "complex": lambda: X + 1j,
    "dates": lambda: np.zeros((3, 4), "M8[s]"),
    "matrix": lambda: np.asmatrix(X),
    "names of two types": lambda: pd.DataFrame(table(), columns=["a", "b", "c", 3]),
    "the same names": lambda: pd.DataFrame(table(), columns=list("aabb")),
    "other library's sparse": lambda: sp.dok_array((3, 0)),
}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"with_mean": False},
    {"with_std": False},
    {"with_mean": False, "with_std": False},
    {"copy": False},
]
WEIGHTS: dict[str, Any] = {
    "random": np.random.default_rng(9).random(30),
    "integers": np.arange(30),
    "zeros and ones": np.arange(30) % 2,
    "negative": np.linspace(-1, 3, 30),
    "float32": np.random.default_rng(9).random(30).astype(np.float32),
    "list": list(range(30)),
    "number": 2,
    "all zero": np.zeros(30),
    "too few": np.ones(3),
    "two dimensions": np.ones((30, 1)),
    "NaN": np.full(30, np.nan),
    "words": ["a"] * 30,
}


def outcome(act: Callable[[Any], Any], scaler: type[Any]) -> tuple[Any, list[tuple[type[Any], str]]]:
    """Return what an action gives or raises, and its warnings; NumPy's, of divisions by zero, are nobody's promise."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = act(scaler)
        except Exception as error:
            result = error
    return result, [(w.category, str(w.message)) for w in caught if w.category is not RuntimeWarning]


def assert_alike(found: Any, wanted: Any) -> None:
    """Assert the same types, dtypes, shapes, memory orders and names, and values to rounding."""
    assert type(found) is type(wanted), (found, wanted)
    if isinstance(wanted, Exception):
        assert str(found) == str(wanted)
    elif isinstance(wanted, (list, tuple)):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_alike(one, other)
    elif isinstance(wanted, pd.DataFrame):
        assert found.index.equals(wanted.index)
        assert found.columns.equals(wanted.columns)
        assert_alike(found.to_numpy(), wanted.to_numpy())
    elif isinstance(wanted, pl.DataFrame):
        assert found.columns == wanted.columns
        assert_alike(found.to_numpy(), wanted.to_numpy())
    elif sp.issparse(wanted):
        assert_alike(found.toarray(), wanted.toarray())
    elif isinstance(wanted, (np.ndarray, np.generic)):
        assert_arrays_alike(np.asarray(found), np.asarray(wanted))
    else:
        assert found == wanted


def assert_arrays_alike(found: Array, wanted: Array) -> None:
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    if wanted.ndim > 1:
        assert found.flags.c_contiguous == wanted.flags.c_contiguous
        assert found.flags.f_contiguous == wanted.flags.f_contiguous
    if wanted.dtype.kind == "f":
        atol = Y_ULPS * 8 * float(np.finfo(wanted.dtype).eps) if wanted.ndim > 1 else 0.0
        np.testing.assert_allclose(found, wanted, rtol=RTOL, atol=atol)
    else:
        np.testing.assert_array_equal(found, wanted)


def assert_same(act: Callable[[Any], Any]) -> None:
    """Assert that an action does the same with both classes."""
    found, wanted = outcome(act, StandardScaler), outcome(act, Theirs)
    assert_alike(found[0], wanted[0])
    assert found[1] == wanted[1]


def attributes(scaler: Any) -> list[Any]:
    """Return all that a fit leaves behind, and how a scaler describes itself."""
    names = list(getattr(scaler, "feature_names_in_", []))
    statistics = [scaler.mean_, scaler.var_, scaler.scale_, scaler.n_samples_seen_]
    return [*statistics, scaler.n_features_in_, names, list(scaler.get_feature_names_out()), scaler.get_params()]


def fitted(scaler: Any, like: Any, options: dict[str, Any]) -> Any:
    """Return a scaler that was fitted to a table, with names if there are names."""
    named = isinstance(like, (pd.DataFrame, pl.DataFrame)) and next(iter(like.columns)) in NAMES
    return scaler(**options).fit(pd.DataFrame(X, columns=NAMES) if named else X)


def both(*choices: dict[str, Maker]) -> list[Any]:
    return [pytest.param(make, id=name) for chosen in choices for name, make in chosen.items()]


each_option = pytest.mark.parametrize("options", OPTIONS, ids=str)
each_option_of_fit = pytest.mark.parametrize("options", OPTIONS[:-1], ids=str)


@each_option
@pytest.mark.parametrize("make", both(INPUTS, WRONG))
def test_results_and_errors_are_the_same(make: Maker, options: dict[str, Any]) -> None:
    assert_same(lambda scaler: attributes(scaler(**options).fit(make())))
    assert_same(lambda scaler: scaler(**options).fit_transform(make()))
    assert_same(lambda scaler: fitted(scaler, make(), options).transform(make()))
    assert_same(lambda scaler: fitted(scaler, make(), options).inverse_transform(make()))


@each_option_of_fit
@pytest.mark.parametrize("make", both({k: v for k, v in INPUTS.items() if k != "all NaN"}, WRONG))
def test_partial_fits_are_the_same(make: Maker, options: dict[str, Any]) -> None:
    assert_same(lambda scaler: attributes(fitted(scaler, make(), options).partial_fit(make())))
    assert_same(lambda scaler: attributes(scaler(**options).partial_fit(make()).partial_fit(make())))


@each_option_of_fit
@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("kind", ["float64", "NaN", "NaN float32", "float16", "uint8", "DataFrame", "CSR", "infinity"])
def test_weights_do_the_same(kind: str, name: str, options: dict[str, Any]) -> None:
    make, weights = (INPUTS | WRONG)[kind], WEIGHTS[name]
    if not options.get("with_mean", True) and "with_std" in options and kind in ("NaN float32", "float16"):
        pytest.skip("the count has X's type there, in float64 here")
    assert_same(lambda scaler: attributes(scaler(**options).fit(make(), sample_weight=weights)))
    assert_same(lambda scaler: scaler(**options).fit_transform(make(), None, sample_weight=weights))
    if kind not in ("NaN float32", "float16"):  # in whose precision the second call rounds the first's count
        assert_same(
            lambda scaler: attributes(
                scaler(**options).fit(make(), sample_weight=weights).partial_fit(make(), sample_weight=weights)
            )
        )


@pytest.mark.parametrize("weights", [np.linspace(-3, 1, 30), np.where(np.arange(30) == 3, 40.0, -1.0)])
def test_what_negative_weights_left_behind_goes_on_alike(weights: Array) -> None:
    def act(scaler: Any, *later: Any) -> Any:
        scaler = scaler().fit(X, sample_weight=weights)
        assert min(scaler.n_samples_seen_, scaler.var_.min()) < 0
        return attributes(scaler.partial_fit(X[:7], None, *later))

    assert_same(act)
    assert_same(lambda scaler: act(scaler, np.arange(7.0)))
    assert_same(lambda scaler: act(scaler, -np.arange(7.0)))


@pytest.mark.parametrize("how", ["pandas", "polars", "default"])
@pytest.mark.parametrize("make", both(INPUTS))
def test_containers_are_the_same(make: Maker, how: str) -> None:
    assert_same(lambda scaler: scaler().set_output(transform=how).fit_transform(make()))
    assert_same(lambda scaler: fitted(scaler, make(), {}).set_output(transform=how).transform(make()))


@pytest.mark.parametrize("given", [True, False], ids=["copy", "in place"])
@pytest.mark.parametrize("kind", [k for k in INPUTS if k not in ("list", "list of integers", "tuple", "polars")])
def test_in_place_where_scikit_learn_is(kind: str, given: bool) -> None:
    def act(scaler: Any, inverse: bool) -> Any:
        x = INPUTS[kind]()
        fit = fitted(scaler, x, {"with_mean": False})
        result = fit.inverse_transform(x, copy=given) if inverse else fit.transform(x, given)
        if kind == "DataFrame with NA" or sp.issparse(x):
            return result
        return result, x, isinstance(x, np.ndarray) and np.shares_memory(x, np.asarray(result))

    assert_same(lambda scaler: act(scaler, False))
    assert_same(lambda scaler: act(scaler, True))


def test_one_scale_is_spread_by_inverse_transform() -> None:
    assert_same(lambda scaler: scaler().fit(X[:, :1]).inverse_transform(X))
    assert_same(lambda scaler: type(outcome(lambda s: s().fit(X).inverse_transform(X[:, :2]), scaler)[0]))


def test_attributes_that_a_caller_sets_are_used() -> None:
    def act(scaler: Any, name: str, value: Any, fit: bool) -> Any:
        scaler = scaler().fit(X)
        setattr(scaler, name, value)
        return attributes(scaler.partial_fit(2 * X)) if fit else scaler.transform(X)

    for name, value in ("mean_", np.arange(4.0)), ("var_", np.arange(4.0)), ("n_samples_seen_", np.float64(7)):
        assert_same(lambda scaler, name=name, value=value: act(scaler, name, value, True))  # type: ignore[misc]
    for name, value in ("mean_", np.arange(4)), ("scale_", np.array([2], np.float32)), ("mean_", None), ("mean_", 1.0):
        assert_same(lambda scaler, name=name, value=value: act(scaler, name, value, False))  # type: ignore[misc]


def test_made_by_hand() -> None:
    def act(scaler: Any) -> Any:
        made = scaler()
        made.mean_, made.scale_ = np.arange(4.0), np.arange(1.0, 5.0)
        return made.transform(X), made.inverse_transform(X)

    assert_same(act)


def test_parameters_are_checked_alike() -> None:
    for options in {"copy": 1}, {"with_mean": "yes"}, {"with_std": None}, {"with_std": np.bool_(True)}:
        assert_same(lambda scaler, options=options: scaler(**options).fit(X).mean_)  # type: ignore[misc]
        assert_same(lambda scaler, options=options: scaler().set_params(**options).fit(X).mean_)  # type: ignore[misc]
    assert_same(lambda scaler: scaler(other=1))
    with pytest.raises(ValueError, match="Invalid parameter 'other' for estimator StandardScaler"):
        StandardScaler().set_params(other=1, correction=1)
    with sklearn.config_context(skip_parameter_validation=True):
        assert_same(lambda scaler: scaler(with_std=1).fit(X).mean_)


def test_infinity_passes_where_none_was_promised() -> None:
    x = np.where(X > 5, np.inf, X)
    with sklearn.config_context(assume_finite=True):
        found, wanted = (scaler().fit(X).transform(x) for scaler in (StandardScaler, Theirs))
        np.testing.assert_allclose(found, wanted, rtol=RTOL, atol=8 * Y_ULPS * 2.0**-52)
        assert np.isnan(StandardScaler().fit(x).var_).any()


def test_infinity_of_no_weight_is_found() -> None:
    x, weights = X.copy(), np.ones(30)
    x[3, 1], weights[3] = np.inf, 0
    assert_same(lambda scaler: scaler().fit(x, sample_weight=weights))
    assert_same(lambda scaler: scaler().fit(np.where(np.isinf(x), 0, x), sample_weight=weights).var_)


@pytest.mark.parametrize(
    "fail",
    [
        {"X": np.where(X > 5, np.inf, X)},
        {"X": X, "sample_weight": np.ones(3)},
        {"X": pd.DataFrame(table(), columns=["a", "b", "c", 3])},
    ],
    ids=["infinity", "weights", "names"],
)
def test_a_failed_fit_leaves_no_trace(fail: dict[str, Any]) -> None:
    scaler = StandardScaler()
    wrong = pytest.raises((TypeError, ValueError), match=r"Input X|sample_weight|names")
    with wrong:
        scaler.fit(**fail)
    with pytest.raises(NotFittedError):
        scaler.transform(X)
    before = attributes(scaler.fit(X))
    with wrong:
        scaler.partial_fit(**fail)
    assert_alike(attributes(scaler), before)
    np.testing.assert_array_equal(scaler.partial_fit(X).n_samples_seen_, 60)


def test_not_fitted() -> None:
    for name in "transform", "inverse_transform":
        assert_same(lambda scaler, name=name: getattr(scaler(), name)(X))  # type: ignore[misc]
    assert not hasattr(StandardScaler(), "moments_")


@pytest.mark.parametrize("through", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
@pytest.mark.parametrize("weights", [None, np.arange(30.0)], ids=["", "weighted"])
def test_copies_go_on(through: Callable[[Any], Any], weights: Array | None) -> None:
    scaler = StandardScaler(correction=1).fit(holes(X), sample_weight=weights)
    twin = through(scaler).partial_fit(X, sample_weight=weights)
    assert_alike(attributes(twin), attributes(scaler.partial_fit(X, sample_weight=weights)))
    assert twin.moments_ == scaler.moments_


def test_joblib_goes_on(tmp_path: Any) -> None:
    scaler = StandardScaler().fit(X)
    joblib.dump(scaler, tmp_path / "scaler")
    twin = joblib.load(tmp_path / "scaler").partial_fit(X)
    assert twin.moments_ == scaler.partial_fit(X).moments_


def test_clone_and_repr() -> None:
    scaler = StandardScaler(with_mean=False, axis=-1, correction=1).fit(X)
    twin = clone(scaler)
    assert twin.get_params() == scaler.get_params() == {
        "copy": True, "with_mean": False, "with_std": True, "axis": -1, "correction": 1
    }  # fmt: skip
    assert not hasattr(twin, "mean_")
    assert repr(scaler) == "StandardScaler(axis=-1, correction=1, with_mean=False)"
    assert_same(lambda scaler: [repr(scaler()), repr(scaler(copy=False)), scaler().get_params(), clone(scaler()).copy])
    # What scikit-learn does not know is not told it, unless it was asked for.
    assert Theirs(**StandardScaler(with_std=False).get_params()).with_std is False


def test_in_searches_and_pipelines() -> None:
    y = X @ np.arange(4.0)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), Ridge()), {"standardscaler__correction": [0, 1], "ridge__alpha": [1, 10]}, cv=2
    ).fit(X, y)
    assert set(search.best_params_) == {"standardscaler__correction", "ridge__alpha"}
    assert_same(lambda scaler: make_pipeline(scaler(), Ridge()).fit(X, y).predict(X)[:, None])
    columns = [("some", [0, 2]), ("others", [1])]
    assert_same(
        lambda scaler: ColumnTransformer([(name, scaler(), chosen) for name, chosen in columns]).fit_transform(X)
    )


def test_metadata_is_routed_alike() -> None:
    def routed(scaler: Any) -> Any:
        requests = scaler().set_fit_request(sample_weight=True).set_partial_fit_request(sample_weight=False)
        return str(requests.set_transform_request(copy=True).get_metadata_routing())

    with sklearn.config_context(enable_metadata_routing=True):
        assert_same(routed)
        assert_same(lambda scaler: scaler().set_transform_request(out=True))
        assert_same(lambda scaler: scaler().fit_transform(X, sample_weight=np.ones(30)))
        pipeline = make_pipeline(
            StandardScaler().set_fit_request(sample_weight=True), Ridge().set_fit_request(sample_weight=True)
        )
        weights = np.arange(30.0)
        scaler = pipeline.fit(X, X[:, 0], sample_weight=weights)[0]
        assert_alike(scaler.mean_, StandardScaler().fit(X, sample_weight=weights).mean_)


class Recorder:
    """A callback that writes down which of its methods was called."""

    def __init__(self) -> None:
        self.called: list[str] = []

    def setup(self, estimator: Any, context: Any) -> None:
        self.called.append("setup")

    def teardown(self, estimator: Any, context: Any) -> None:
        self.called.append("teardown")

    def on_fit_task_begin(self, estimator: Any, context: Any, **told: Any) -> None:
        self.called.append("begin")

    def on_fit_task_end(self, estimator: Any, context: Any, **told: Any) -> bool:
        self.called.append("end")
        return False


def test_callbacks_are_called() -> None:
    callbacks = pytest.importorskip("sklearn.callback", reason="came with scikit-learn 1.9")

    def act(scaler: Any) -> list[str]:
        recorder = Recorder()
        assert isinstance(recorder, callbacks.FitCallback)
        scaler().set_callbacks(recorder).fit(X).partial_fit(X)
        return recorder.called

    assert_same(act)


def test_a_subclass_is_asked_for_its_own_steps() -> None:
    class Doubling(StandardScaler):
        def transform(self, *args: Any, **options: Any) -> Any:
            return 2 * super().transform(*args, **options)

    wanted = 2 * StandardScaler().fit_transform(X)
    np.testing.assert_array_equal(Doubling().fit_transform(X), wanted)
    np.testing.assert_array_equal(Doubling().fit_transform(X, out=np.empty_like(X)), wanted)
    assert Doubling().set_output(transform="pandas").fit_transform(X).shape == X.shape


def test_other_array_namespaces_are_left_to_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    # Dispatching cannot be turned on after scipy is imported; that it is asked for can be told.
    config = sklearn.get_config() | {"array_api_dispatch": True}
    monkeypatch.setattr(fastbn.sklearn._tables, "get_config", lambda: config)
    called: list[str] = []
    monkeypatch.setattr(Theirs, "partial_fit", lambda self, *args: called.append("partial_fit"))
    monkeypatch.setattr(Theirs, "transform", lambda self, *args: called.append("transform"))
    scaler = StandardScaler().fit(X)
    scaler.transform(X)
    assert not called
    scaler.transform(X.tolist())
    scaler.partial_fit(X.tolist())
    assert called == ["transform", "partial_fit"]


CHECKED = [
    StandardScaler(),
    StandardScaler(with_mean=False),
    StandardScaler(with_std=False),
    StandardScaler(axis=-1),
    StandardScaler(correction=1),
]


# scikit-learn 1.6 asks this of every estimator, and of its own scaler, by a table that subclasses are not in, only
# where that takes sparse matrices. Later releases go by the tags.
OF_SPARSE = "check_sample_weight_equivalence_on_sparse_data"


def checks() -> list[Any]:
    """Return all that check_estimator would do with each scaler, as a list that says what fails."""
    found = []
    for scaler in CHECKED:
        beyond = scaler.get_params().keys() - Theirs().get_params().keys()
        failing = {"check_set_params": "a parameter that is set to None is not listed any more"} if beyond else {}
        failing["check_array_api_same_namespace"] = "scikit-learn's own transform does not look at the namespace either"
        if not scaler.__sklearn_tags__().input_tags.sparse:
            failing[OF_SPARSE] = "scikit-learn 1.6 asks it also where the tags say that no sparse matrix is taken"
        found += estimator_checks_generator(scaler, expected_failed_checks=failing, mark="xfail")
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("estimator", "check"), checks())
def test_every_check_of_check_estimator_passes(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


def test_scikit_learn_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    spec = importlib.util.spec_from_file_location("without", fastbn.sklearn.__file__)
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(ImportError, match=r'pip install "fastbn\[sklearn\]"'):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
