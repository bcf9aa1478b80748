"""Folders whose names hold the values of columns, as in year=2024: Hive's way, which pyarrow.dataset reads too."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.orc
import pyarrow.parquet as pq
import pytest

import fastbn
from fastbn.__main__ import main
from support.datafiles import LEAST, Array, assert_streamed, same_bits

SUFFIXES = ["parquet", "feather", "orc", "csv"]


@pytest.fixture
def table(rng: np.random.Generator) -> pa.Table:
    count = 3_000
    held = {
        "year": rng.integers(2019, 2023, count).astype(np.int32),
        "region": rng.choice(["EU", "a b/c=d", "ü"], count),
        "v": rng.normal(5.0, 2.0, count),
        "w": rng.normal(-1.0, 3.0, count),
    }
    return pa.table(held)


def saved(folder: Path, table: pa.Table, by: list[str], suffix: str = "parquet") -> Path:
    """Write a table as pyarrow does that divides it by some columns."""
    schema = pa.schema([table.schema.field(name) for name in by])
    partitioning = ds.partitioning(schema, flavor="hive")
    form, name = {"feather": "ipc"}.get(suffix, suffix), f"part-{{i}}.{suffix}"
    if suffix == "orc":  # which pyarrow.dataset does not write
        for number, part in enumerate(table.to_pandas().groupby(by)):
            path = folder / "/".join(f"{key}={value}" for key, value in zip(by, part[0], strict=True))
            path.mkdir(parents=True)
            rest = pa.Table.from_pandas(part[1].drop(columns=by), preserve_index=False)
            pyarrow.orc.write_table(rest, path / f"part-{number}.orc")
        return folder
    ds.write_dataset(table, folder, format=form, partitioning=partitioning, basename_template=name)
    return folder


def read(folder: Path) -> pd.DataFrame:
    """Return what pyarrow reads of a folder."""
    return ds.dataset(folder, partitioning="hive").to_table().to_pandas()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_columns_of_folders_can_be_asked_for(tmp_path: Path, table: pa.Table, suffix: str) -> None:
    folder = saved(tmp_path / "in", table, ["year"], suffix)
    expected = table.to_pandas()[["w", "year", "v"]]
    found = fastbn.stream(folder, columns=["w", "year", "v"])
    assert found.names == ("w", "year", "v")
    np.testing.assert_allclose(found.mean, expected.mean(), rtol=1e-13)
    np.testing.assert_allclose(found.std(), expected.std(ddof=0), rtol=1e-12)
    alone = fastbn.stream(folder, columns=["year"])
    assert (alone.count, alone.mean) == (3_000, [expected["year"].mean()])
    assert same_bits(alone, fastbn.stream(folder, columns=[-1]))
    np.testing.assert_allclose(fastbn.stream(folder, columns=["year", "w"], memory=LEAST).mean, found.mean[[1, 0]])


def test_columns_of_folders_count_where_they_are_asked_for(tmp_path: Path, table: pa.Table) -> None:
    folder = saved(tmp_path / "in", table, ["year"])
    with pytest.warns(RuntimeWarning, match=r"columns in the names of folders are not counted .* columns=: year$") as w:
        assert fastbn.stream(folder).names == ("region", "v", "w")[1:]
    assert (len(w), w[0].filename) == (1, __file__)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fastbn.stream(folder, columns=["v"])
        fastbn.stream(saved(tmp_path / "texts", table, ["region"]))


def test_columns_of_folders_that_are_no_numbers(tmp_path: Path, table: pa.Table) -> None:
    folder = saved(tmp_path / "in", table, ["region"])
    with pytest.raises(ValueError, match=r"columns must name columns of numbers, got 'region' of .*, which holds str"):
        fastbn.stream(folder, columns=["region"])
    found = fastbn.stream(folder)
    assert found.names == ("year", "v", "w")
    fastbn.standardize(folder, found, tmp_path / "all.parquet")
    assert sorted(set(pd.read_parquet(tmp_path / "all.parquet")["region"])) == sorted(set(table["region"].to_pylist()))


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_one_file_has_them_as_columns(tmp_path: Path, table: pa.Table, suffix: str) -> None:
    folder = saved(tmp_path / "in", table, ["year", "region"], suffix)
    for columns in (["v"], ["year", "v"]):
        moments = fastbn.stream(folder, columns=columns)
        out = tmp_path / f"{len(columns)}.parquet"
        fastbn.standardize(folder, moments, out)
        expected = read(folder) if suffix == "parquet" else table.to_pandas()[["v", "w", "year", "region"]]
        for name in columns:
            expected[name] = (expected[name] - expected[name].mean()) / expected[name].std(ddof=0)
        found = pd.read_parquet(out).astype({"w": float})
        key = ["w", "v"]
        assert list(found.columns) == ["v", "w", "year", "region"]
        for name in ("v", "w", "year"):
            first, second = (frame.sort_values(key)[name].to_numpy() for frame in (found, expected))
            np.testing.assert_allclose(first, second, rtol=0, atol=1e-11)
        assert found.sort_values(key)["region"].tolist() == expected.sort_values(key)["region"].tolist()


def test_folders_keep_their_names(tmp_path: Path, table: pa.Table) -> None:
    folder = saved(tmp_path / "in", table, ["year", "region"])
    fastbn.standardize(folder, fastbn.stream(folder, columns=["v", "w"]), tmp_path / "out")
    found, before = read(tmp_path / "out"), read(folder)
    assert found.drop(columns=["v", "w"]).equals(before.drop(columns=["v", "w"]))
    np.testing.assert_allclose(found["v"].std(ddof=0), 1.0, rtol=1e-12)
    moments = fastbn.stream(folder, columns=["year", "v"])
    with pytest.raises(ValueError, match=r"out must be one file, got a folder, whose names hold 'year' of .*parquet"):
        fastbn.standardize(folder, moments, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def put(
    folder: Path, values: list[str], key: str = "k", make: Callable[[int], Any] = lambda i: {"v": [float(i)]}
) -> str:
    """Write small files to folders of these names."""
    for number, value in enumerate(values):
        (folder / f"{key}={value}").mkdir(parents=True)
        pq.write_table(pa.table(make(number)), folder / f"{key}={value}" / "x.parquet")
    return str(folder)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1", "2", "3"], [1.0, 2.0, 3.0]),
        (["-1", "007", "0"], [-1.0, 7.0, 0.0]),
        (["1", "__HIVE_DEFAULT_PARTITION__", "3"], [1.0, np.nan, 3.0]),
        (["20240131", "1000000000000000", "5"], [20240131.0, 1e15, 5.0]),
        (["1", "2", "x"], None),
        (["1.5", "2", "3"], None),
        (["1", "2", "1_0"], None),
        (["1", "2", "9" * 19], None),
    ],
)
def test_which_are_numbers(tmp_path: Path, values: list[str], expected: list[float] | None) -> None:
    folder = put(tmp_path / "in", values)
    if expected is None:
        with pytest.raises(ValueError, match="columns must name columns of numbers, got 'k'"):
            fastbn.stream(folder, columns=["k"])
        return
    found = fastbn.stream(folder, columns=["k"], nan="omit")
    np.testing.assert_allclose(found.mean, np.nanmean(expected), rtol=1e-15)
    assert found.count == np.count_nonzero(~np.isnan(expected))
    np.testing.assert_allclose(fastbn.stream(folder, columns=["k"]).mean, np.mean(expected), rtol=1e-15)


def test_a_column_of_the_file_goes_before_that_of_its_folder(tmp_path: Path) -> None:
    folder = put(tmp_path / "in", ["1", "2"], make=lambda i: {"k": [10.0 + i], "v": [1.0]})
    found = fastbn.stream(folder)
    assert (found.names, found.mean.tolist()) == (("k", "v"), [10.5, 1.0])


def test_what_is_no_table_has_no_such_columns(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"k={number}").mkdir()
        np.save(tmp_path / f"k={number}" / "x.npy", np.full((2, 2), number))
    assert fastbn.stream(tmp_path).mean.tolist() == [0.5, 0.5]


def test_weights_may_be_in_the_names_of_folders(tmp_path: Path, rng: np.random.Generator) -> None:
    x = rng.normal(size=(3, 50))
    folder = put(tmp_path / "in", ["1", "2", "5"], "n", lambda i: {"v": x[i], "w": x[i] + 1})
    found = fastbn.stream(folder, weights="n")
    expected = np.average(x.ravel(), weights=np.repeat([1.0, 2.0, 5.0], 50))
    np.testing.assert_allclose(found.mean, [expected, expected + 1], rtol=1e-13)


def test_the_command_says_what_was_not_read_and_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.DataFrame({"v": [1.0, 3.0], "s": ["a", "b"]}, index=pd.Index([0.5, 1.5], name="time"))
    (tmp_path / "in" / "year=2024").mkdir(parents=True)
    frame.to_parquet(tmp_path / "in" / "year=2024" / "x.parquet")

    def lines(*more: str) -> list[str]:
        with pytest.raises(SystemExit, match="0"):
            main(["stats", str(tmp_path / "in"), *more])
        said = capsys.readouterr()
        assert said.err == ""
        return said.out.splitlines()

    assert lines()[2:] == [
        "not numbers, and not read: s",
        "the index of a data frame, and not read: time",
        "in the names of folders, and not read: year",
    ]
    assert [line.split()[0] for line in lines("--columns", "year,time")] == ["feature", "year", "time"]
    assert json.loads(lines("--json", "--columns", "year")[0])["mean"] == [2024.0]


def test_a_run_goes_on_with_what_was_not_read(tmp_path: Path, table: pa.Table) -> None:
    folder, kept = saved(tmp_path / "in", table, ["year"]), tmp_path / "kept.json"
    whole = fastbn.stream(folder, columns=["v", "year"], memory=LEAST)
    for limit in range(1, 5):
        calls: list[int] = []

        def stopping(done: int, total: int | None, calls: list[int] = calls, limit: int = limit) -> None:
            calls.append(done)
            if len(calls) == limit:
                raise KeyboardInterrupt

        options: dict[str, Any] = {"columns": ["v", "year"], "memory": LEAST, "checkpoint": kept}
        with pytest.raises(KeyboardInterrupt):
            fastbn.stream(folder, every=0.0, progress=stopping, **options)
        assert same_bits(fastbn.stream(folder, resume=True, **options), whole)


def test_values_that_are_read_are_those_of_pyarrow(tmp_path: Path, rng: np.random.Generator) -> None:
    x: Array = rng.normal(size=(40, 2))
    held = {"a": x[:, 0], "b": x[:, 1], "day": np.repeat([1, 2], 20), "month": np.tile([3, 4], 20)}
    folder = saved(tmp_path / "in", pa.table(held), ["month", "day"])
    frame = read(folder)
    found = fastbn.stream(folder, columns=list(frame.columns))
    np.testing.assert_allclose(found.mean, frame.mean(), rtol=0, atol=1e-14)
    np.testing.assert_allclose(found.std(), frame.std(ddof=0), rtol=1e-13)


def test_wide_tables_are_read_in_parts(tmp_path: Path, rng: np.random.Generator) -> None:
    x = rng.normal(size=(2, 3_000, 300))
    folder = put(tmp_path / "in", ["1", "2"], make=lambda i: {f"c{j}": x[i, :, j] for j in range(300)})
    expected = x.reshape(-1, 300)
    with pytest.warns(RuntimeWarning, match="in the names of folders"):
        assert_streamed(fastbn.stream(folder, memory=LEAST), expected)
    both = np.concatenate([np.repeat([1.0, 2.0], 3_000)[:, np.newaxis], expected[:, ::-1]], axis=1)
    found = fastbn.stream(folder, columns=["k", *(f"c{j}" for j in reversed(range(300)))], memory=LEAST)
    assert_streamed(found, both)
    with pytest.warns(RuntimeWarning, match="in the names of folders"):
        moments = fastbn.stream(folder)
    fastbn.standardize(folder, moments, tmp_path / "y.npy", memory=LEAST)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy").std(axis=0), 1, rtol=1e-12)


LOGS = ["_delta_log/0.json", ".hoodie/a", "_spark_metadata/0", "_temporary/0/part.parquet", "a/v1.metadata.json"]


@pytest.mark.parametrize("log", LOGS)
def test_folders_of_which_not_all_files_count(tmp_path: Path, log: str) -> None:
    """Delta Lake, Hudi, Iceberg and Spark say in files of their own which they are; a sum of all is no answer."""
    pq.write_table(pa.table({"v": [1.0, 2.0]}), tmp_path / "new.parquet")
    (tmp_path / log).parent.mkdir(parents=True)
    (tmp_path / log).write_text("{}")
    with pytest.raises(ValueError, match=r"source must be a folder of which all files count, got .* with "):
        fastbn.stream(tmp_path)
    batches = ds.dataset([tmp_path / "new.parquet"]).to_batches()
    assert fastbn.stream(batches).mean == fastbn.stream([tmp_path / "new.parquet"]).mean == [1.5]
