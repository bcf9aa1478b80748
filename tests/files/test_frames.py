"""Data frames of which some columns are no numbers: what counts, what stays, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import fastbn
from support.datafiles import Array

MAKERS = pytest.mark.parametrize(
    "make", [pd.DataFrame, lambda held: pl.DataFrame(held), pa.table], ids=["pandas", "polars", "pa"]
)


CLOSE: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}


def standard(x: Array) -> Array:
    return np.asarray((x - x.mean(axis=0)) / x.std(axis=0))


@pytest.fixture
def x() -> Array:
    return np.random.default_rng(3).normal([5.0, -2.0], [2.0, 0.5], (50, 2))


def _held(x: Array) -> dict[str, Any]:
    return {"name": [f"n{i}" for i in range(len(x))], "b": x[:, 1], "a": x[:, 0], "n": np.arange(len(x))}


@MAKERS
def test_columns_that_are_no_numbers_are_left_out(x: Array, make: Callable[[Any], Any]) -> None:
    found = fastbn.stream(make(_held(x)))
    assert found.names == ("b", "a", "n")
    np.testing.assert_allclose(found.mean, [x[:, 1].mean(), x[:, 0].mean(), (len(x) - 1) / 2], rtol=1e-14)
    for columns in (["a", "b"], [2, 1], [-2, "b"]):
        found = fastbn.stream(make(_held(x)), columns=columns, nodata={2: x[0, 0], "name": 1})
        assert found.names == ("a", "b")
        assert np.asarray(found.count).tolist() == [len(x) - 1, len(x)]
        np.testing.assert_allclose(found.mean, [x[1:, 0].mean(), x[:, 1].mean()], rtol=1e-14)
    found = fastbn.stream(make(_held(x)), columns=["a", "b"], nodata=x[0, 0])
    assert np.asarray(found.count).tolist() == [len(x) - 1, len(x)]
    with pytest.raises(ValueError, match=r"columns must name columns of numbers, got 'name' of source, which"):
        fastbn.stream(make(_held(x)), columns=["name", "a"])
    with pytest.raises(ValueError, match=r"source must have a column of numbers, got name \("):
        fastbn.stream(make({"name": ["a", "b"]}))


@MAKERS
@pytest.mark.parametrize("suffix", ["npy", "csv", "parquet"])
def test_other_columns_of_frames_stay(tmp_path: Path, x: Array, make: Callable[[Any], Any], suffix: str) -> None:
    frame, out = make(_held(x)), tmp_path / f"y.{suffix}"
    fastbn.standardize(frame, fastbn.stream(frame, columns=["a", "b"]), out)
    if suffix == "npy":
        np.testing.assert_allclose(np.load(out), standard(x), **CLOSE)
        return
    found = pd.read_csv(out) if suffix == "csv" else pd.read_parquet(out)
    assert list(found) == ["name", "b", "a", "n"]
    np.testing.assert_allclose(found[["a", "b"]], standard(x), **CLOSE)
    assert (found["name"].tolist(), found["n"].tolist()) == (_held(x)["name"], list(range(len(x))))


def test_a_frame_of_text_and_float32_stays_float32(tmp_path: Path, x: Array) -> None:
    frame = pd.DataFrame(x.astype(np.float32), columns=["a", "b"]).assign(t="text")
    fastbn.standardize(frame, fastbn.stream(frame), tmp_path / "y.npy")
    assert np.load(tmp_path / "y.npy").dtype == np.float32


def test_objects_of_a_frame_count_where_all_are_numbers() -> None:
    frame = pd.DataFrame({"a": pd.Series([1, None, pd.NA, 4.0], dtype=object), "t": list("wxyz"), "e": [None] * 4})
    found = fastbn.stream(frame, nan="omit")
    assert (found.names, found.mean.tolist()) == (("a",), [2.5])
    mixed = frame.assign(m=pd.Series([1, "two", 3, None], dtype=object))
    with pytest.warns(RuntimeWarning, match=r"column 'm' of source is left out, .* numbers: 'two'$"):
        assert fastbn.stream(mixed).names == ("a",)


def test_dates_are_left_out_and_rows_can_be_features() -> None:
    frame = pd.DataFrame({"t": pd.date_range("2020", periods=2), "v": [1.0, 2.0], "w": [3, 5]})
    assert fastbn.stream(frame).names == ("v", "w")
    assert fastbn.stream(frame[["v", "w"]], axis=0).mean.tolist() == [2.0, 3.5]
    with pytest.raises(ValueError, match=r"source must hold real numbers, got Timestamp"):
        fastbn.stream(frame, axis=0)


def test_a_record_batch_is_read_as_a_table_is(x: Array, tmp_path: Path) -> None:
    table = pa.table(_held(x))
    (batch,) = table.to_batches()
    moments = fastbn.stream(batch)
    assert moments == fastbn.stream(table)
    for frame, name in ((table, "table.csv"), (batch, "batch.csv")):
        fastbn.standardize(frame, moments, tmp_path / name)
    assert (tmp_path / "batch.csv").read_bytes() == (tmp_path / "table.csv").read_bytes()


def test_numbers_that_arrow_has_no_type_for_count() -> None:
    frame = pd.DataFrame(
        {
            "sparse": pd.arrays.SparseArray([0, 1, 5]),
            "large": [2**70, None, 2],
            "complex": [1j, 2j, 3j],
            "mixed": [Decimal("1.5"), 2.5, None],
            "fractions": [Fraction(1, 3), None, Fraction(10**20, 3)],
        }
    ).astype({"large": object, "mixed": object})
    found = fastbn.stream(frame, nan="omit")
    assert found.names == ("sparse", "large", "mixed", "fractions")
    assert found.mean.tolist() == [2.0, 2.0**69 + 1, 2.0, float(Fraction(10**20 + 1, 6))]


def test_fractions_beside_infinity_count() -> None:
    found = fastbn.stream(pd.DataFrame({"a": [Fraction(1, 2), float("inf")]}))
    assert found.count == 2
    assert np.isnan(found.mean).all()
