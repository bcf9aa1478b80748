"""Promise: a scaler goes to ONNX by skl2onnx, alone and in a pipeline, and through skops with one name trusted."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline

import fastbn.sklearn
from fastbn.sklearn import StandardScaler

Array = np.ndarray[Any, np.dtype[Any]]

OPTIONS: list[dict[str, Any]] = [
    {},
    {"clip": 1.0},
    {"with_mean": False},
    {"with_std": False, "clip": 0.5},
    {"with_mean": False, "with_std": False},
    {"axis": -1, "correction": 1},
]


@pytest.fixture
def skl2onnx() -> Any:
    module = pytest.importorskip("skl2onnx")
    pytest.importorskip("onnxruntime")
    fastbn.sklearn.register_with_skl2onnx()
    fastbn.sklearn.register_with_skl2onnx()
    return module


def run(model: Any, *inputs: Array) -> Array:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    result: Array = session.run(None, dict(zip(names, inputs, strict=True)))[0]
    return result


def table(dtype: Any, offset: float = 0.0) -> Array:
    x = np.random.default_rng(0).normal(offset, 10.0, (50, 3)).round() + offset
    return x.astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
@pytest.mark.parametrize("options", OPTIONS)
def test_onnx_runtime_gives_what_fastbn_gives(skl2onnx: Any, options: dict[str, Any], dtype: Any) -> None:
    for offset in (0.0, 1e5):  # where scikit-learn's converter rounds the mean to float32
        x = table(dtype, offset)
        scaler = StandardScaler(**options).fit(x)
        y = run(skl2onnx.to_onnx(scaler, x), x)
        assert y.dtype == (np.float64 if dtype == np.float64 else np.float32)
        # One rounding to y's type; fastbn multiplies by the reciprocal of scale_ where ONNX divides.
        np.testing.assert_allclose(y, scaler.transform(x), rtol=4 * np.finfo(y.dtype).eps, atol=4e-16)


def test_in_a_pipeline_and_of_several_columns(skl2onnx: Any) -> None:
    x = table(np.float32)
    pipeline = make_pipeline(StandardScaler(clip=1.0), LinearRegression()).fit(x, x.sum(axis=1))
    np.testing.assert_allclose(run(skl2onnx.to_onnx(pipeline, x), x).ravel(), pipeline.predict(x), rtol=1e-4, atol=1e-3)
    columns = ColumnTransformer([("scaled", StandardScaler(), [0, 2])], remainder="passthrough").fit(x)
    np.testing.assert_allclose(run(skl2onnx.to_onnx(columns, x), x), columns.transform(x), rtol=1e-6)
    kinds = [(name, skl2onnx.common.data_types.FloatTensorType([None, 1])) for name in "abc"]
    scaler = StandardScaler().fit(x)
    model = skl2onnx.convert_sklearn(scaler, initial_types=kinds)
    np.testing.assert_allclose(run(model, *np.split(x, 3, axis=1)), scaler.transform(x), rtol=1e-6)


def test_what_has_been_imported_is_registered(skl2onnx: Any) -> None:
    fastbn.sklearn._onnx.register_if_imported()
    x = table(np.float32)
    assert len(skl2onnx.to_onnx(StandardScaler().fit(x), x).graph.node) > 0


def test_other_axes_are_refused(skl2onnx: Any) -> None:
    scaler = StandardScaler(axis=0).fit(table(np.float32))
    with pytest.raises(ValueError, match=r"axis must be 1 or -1 of a scaler to be converted, got 0"):
        skl2onnx.to_onnx(scaler, table(np.float32))


def test_registered_at_import_where_that_costs_nothing() -> None:
    pytest.importorskip("skl2onnx")
    code = """
import sys, {first}
import numpy as np
import fastbn.sklearn
print("skl2onnx" in sys.modules)
if "skl2onnx" in sys.modules:
    x = np.ones((4, 2), np.float32)
    print(len(skl2onnx.to_onnx(fastbn.sklearn.StandardScaler().fit(x), x).graph.node) > 0)
"""
    for first, printed in (("skl2onnx", ["True", "True"]), ("numpy", ["False"])):
        command = [sys.executable, "-W", "ignore", "-c", code.format(first=first)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.split() == printed


def test_without_skl2onnx_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skl2onnx", None)
    with pytest.raises(ImportError, match=r'needs skl2onnx: pip install "fastbn\[interop\]"'):
        fastbn.sklearn.register_with_skl2onnx()


def test_skops_wants_one_name_trusted() -> None:
    sio = pytest.importorskip("skops.io")
    x = table(np.float64, 1e5)
    scaler = StandardScaler(clip=1.0, correction=1).fit(x)
    data = sio.dumps(make_pipeline(scaler))
    assert sio.get_untrusted_types(data=data) == ["fastbn.sklearn.StandardScaler"]
    (again,) = [step for _, step in sio.loads(data, trusted=["fastbn.sklearn.StandardScaler"]).steps]
    np.testing.assert_array_equal(again.transform(x), scaler.transform(x))
    assert again.moments_.to_bytes() == scaler.moments_.to_bytes()
    assert again.get_params() == scaler.get_params()
