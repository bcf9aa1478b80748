"""Columns that are not standardized are, in a text, what they were: of every type, or refused."""

from __future__ import annotations

import datetime
import decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

import fastbn

X = [1.0, 2.0, 4.0]
DAY, NOON = datetime.date(2024, 2, 29), datetime.datetime(2024, 2, 29, 12, 0, 0, 250_000)
# Columns of three rows, and the entries of a text that say the same.
KEPT: dict[str, tuple[Any, list[str | None]]] = {
    "integers": (pa.array([2**60 + 1, None, -3]), ["1152921504606846977", None, "-3"]),
    "fractions": (pa.array([0.1, None, 5e-324]), ["0.1", None, "5e-324"]),
    "single": (pa.array([0.1, None, 16777216.0], pa.float32()), ["0.1", None, "16777216"]),
    "decimals": (pa.array([decimal.Decimal("1.50"), None, decimal.Decimal("-0.01")]), ["1.50", None, "-0.01"]),
    "truths": (pa.array([True, None, False]), ["true", None, "false"]),
    "texts": (pa.array(["007", None, 'a,"b"']), ["007", None, 'a,"b"']),
    "categories": (pa.array(["b", None, "a"]).dictionary_encode(), ["b", None, "a"]),
    "levels": (pa.array([1.5, None, 2.5]).dictionary_encode(), ["1.5", None, "2.5"]),
    "dates": (pa.array([DAY, None, DAY]), ["2024-02-29", None, "2024-02-29"]),
    "times": (pa.array([NOON.time(), None, NOON.time()]), ["12:00:00.250000", None, "12:00:00.250000"]),
    "instants": (pa.array([NOON, None, NOON]), ["2024-02-29 12:00:00.250000", None, "2024-02-29 12:00:00.250000"]),
    "zoned": (
        pa.array([NOON, None, NOON], pa.timestamp("ms", "Europe/Berlin")),
        ["2024-02-29 13:00:00.250+0100", None, "2024-02-29 13:00:00.250+0100"],
    ),
    "runs": (pa.RunEndEncodedArray.from_arrays([1, 2, 3], pa.array(["x", None, "y"])), ["x", None, "y"]),
}


def copied(columns: dict[str, Any], tmp_path: Path, **options: Any) -> pa.Table:
    """Return the entries of a standardized copy of a table, as texts; entries that are missing are None."""
    table = pa.table({"x": X, **columns})
    fastbn.standardize(table, fastbn.stream(pa.table({"x": X})), tmp_path / "y.csv", **options)
    parse = pyarrow.csv.ParseOptions(delimiter=options.get("delimiter", ","))
    types = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(table.column_names, pa.string()), strings_can_be_null=True, null_values=[""]
    )
    return pyarrow.csv.read_csv(tmp_path / "y.csv", parse_options=parse, convert_options=types)


@pytest.mark.parametrize("name", KEPT)
def test_entries_say_the_same_in_a_text(name: str, tmp_path: Path) -> None:
    column, entries = KEPT[name]
    assert copied({name: column}, tmp_path)[name].to_pylist() == entries


@pytest.mark.parametrize("name", ["fractions", "single", "decimals", "levels"])
def test_the_decimal_point_is_that_of_all_fractions(name: str, tmp_path: Path) -> None:
    column, entries = KEPT[name]
    found = copied({name: column}, tmp_path, decimal=",", delimiter=";")
    assert found[name].to_pylist() == [entry and entry.replace(".", ",") for entry in entries]


@pytest.mark.parametrize("delimiter", [" ", ":", "-", "+", "e", "0"])
def test_a_delimiter_may_be_a_part_of_entries(delimiter: str, tmp_path: Path) -> None:
    kept = {name: held for name, held in KEPT.items() if delimiter not in name}
    found = copied({name: column for name, (column, _) in kept.items()}, tmp_path, delimiter=delimiter)
    for name, (_, entries) in kept.items():
        assert found[name].to_pylist() == entries, name
    root = np.std(X)
    np.testing.assert_allclose([float(entry) for entry in found["x"].to_pylist()], (X - np.mean(X)) / root, rtol=1e-14)


DURATION = pa.array([1, None, 3], pa.duration("ms"))


@pytest.mark.parametrize("kind", ["plain", "categories", "pandas", "parquet"])
def test_durations_are_no_numbers_without_a_unit(kind: str, tmp_path: Path) -> None:
    table = pa.table({"x": X, "d": DURATION.dictionary_encode() if kind == "categories" else DURATION})
    source: Any = table.to_pandas() if kind == "pandas" else table
    if kind == "parquet":
        source = tmp_path / "x.parquet"
        pq.write_table(table, source)
    m = fastbn.stream(pa.table({"x": X}))
    said = r"^out must be of a format that holds durations, got '.*y\.csv': column 'd' of duration\[\w+\]"
    with pytest.raises(ValueError, match=said):
        fastbn.standardize(source, m, tmp_path / "y.csv")
    assert not (tmp_path / "y.csv").exists()
    fastbn.standardize(source, m, tmp_path / "y.feather")
    found = feather.read_table(tmp_path / "y.feather")["d"].to_pylist()
    assert found == [datetime.timedelta(milliseconds=1), None, datetime.timedelta(milliseconds=3)]
    with pytest.raises(ValueError, match=r"^out must be of a format that holds what is in .*duration"):
        fastbn.standardize(source, m, tmp_path / "y.orc")
