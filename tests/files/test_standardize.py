"""Standardized copies of files hold what they should, whole or not at all, and never take the place of a source."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import errno
import gc
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

import fastbn
from fastbn.io.statsfiles import remembering, save_stats
from fastbn.io.writers import _chunks
from support import datafiles, peak_memory
from support.datafiles import ARRAYS, LAYOUTS, LEAST, TABLES, Array, assert_streamed, random_images, save_images
from support.interpreters import run_python

# 16 ulp of float64, of values that are up to 1e4 deviations from zero before the mean is taken off.
CLOSE = {"rtol": 0.0, "atol": 16 * 2.0**-52 * 1e4}
# 16 ulp of float32, of pixels that are up to 2 deviations from zero.
SINGLE = {"rtol": 0.0, "atol": 16 * 2.0**-23 * 2}


@pytest.fixture
def x(rng: np.random.Generator) -> Array:
    return rng.normal([3.0, -1e4, 0.0, 5.0], [1.0, 2.0, 1e3, 1e-2], (8_011, 4))


def standard(x: Array, axis: Any = 1) -> Array:
    """Return (x - mean) / std, in more digits."""
    ndim = x.ndim
    kept = {a % ndim for a in ((axis,) if isinstance(axis, int) else axis)}
    others = tuple(a for a in range(ndim) if a not in kept)
    wide = x.astype(np.longdouble)
    centred = wide - wide.mean(others, keepdims=True)
    return np.asarray(centred / np.sqrt((centred**2).mean(others, keepdims=True)))


def load(path: Path | str) -> Array:
    """Read back what was written, with the libraries that are known for it."""
    name, _, member = str(path).partition(":")
    suffix = Path(name).suffix
    if suffix == ".npz":
        with np.load(name) as file:
            return np.asarray(file[member or next(iter(file))])
    if suffix == ".h5":
        with h5py.File(name) as file:
            return np.asarray(file[member or next(iter(file))][...])
    if suffix == ".zarr":
        return np.asarray(zarr.open(name, mode="r", path=member or None)[...])
    if suffix in (".csv", ".parquet"):
        return np.asarray(pd.read_csv(name) if suffix == ".csv" else pd.read_parquet(name))
    return np.load(path)


ARRAY_OUT = ["y.npy", "y.npz", "y.npz:z", "y.h5", "y.h5:a/b", "y.zarr", "y.zarr:z"]


@pytest.mark.parametrize("save", ARRAYS, ids=lambda save: save.__name__)
def test_arrays_to_arrays(tmp_path: Path, x: Array, save: datafiles.Save) -> None:
    source = save(tmp_path, x)
    moments = fastbn.stream(source)
    for number, name in enumerate(ARRAY_OUT if save is datafiles.save_npy else ARRAY_OUT[::2]):
        (tmp_path / str(number)).mkdir()
        out = f"{tmp_path}/{number}/{name}"
        fastbn.standardize(source, moments, out, memory=LEAST)
        assert load(out).dtype == np.float64
        np.testing.assert_allclose(load(out), standard(x).astype(float), **CLOSE)
        assert not list((tmp_path / str(number)).glob(".*"))


@pytest.mark.parametrize("axis", [0, 1, 3, (0, 2), ()], ids=str)
@pytest.mark.parametrize("save", LAYOUTS, ids=lambda save: save.__name__)
def test_feature_axes(tmp_path: Path, rng: np.random.Generator, save: datafiles.Save, axis: Any) -> None:
    y = rng.normal(5.0, 2.0, (9, 13, 21, 7))
    source = save(tmp_path, y)
    fastbn.standardize(source, fastbn.stream(source, axis=axis), tmp_path / "y.npy", axis=axis, memory=LEAST)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), standard(y, axis).astype(float), **CLOSE)


@pytest.mark.parametrize("special", [np.nan, np.inf])
def test_statistics_that_are_not_finite_are_warned_of(special: float, tmp_path: Path) -> None:
    x = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [1.0, special, 2.0], "void": [np.nan] * 3})
    m, path = fastbn.stream(x), tmp_path / "m.npz"
    m.save(path)
    for number, moments in enumerate((m, path)):
        with pytest.warns(RuntimeWarning, match=r"^no finite statistics, so only NaN is written: b, void \(nan='omit'"):
            fastbn.standardize(x, moments, tmp_path / f"{number}.npy")
        assert np.isnan(np.load(tmp_path / f"{number}.npy")).all(axis=0).tolist() == [False, True, True]
    fastbn.standardize(x, m, tmp_path / "a.npy", columns=["a"])  # without a warning, which would be an error
    with pytest.warns(RuntimeWarning, match="only NaN is written: b, "):
        fastbn.standardize(x, m, tmp_path / "b.npy", columns=[1])  # by number
    finite = fastbn.stream(x, where_finite=True)  # a column of which nothing counts is none that was spoiled
    fastbn.standardize(x, finite, tmp_path / "f.npy")
    np.testing.assert_array_equal(finite.count, [3, 2, 0])


def test_a_variance_beyond_float64_gives_no_zeros(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[1e200, 1.0], [-1e200, 3.0]]))
    with pytest.warns(RuntimeWarning, match="variance of feature 0, for a standard deviation of 1e154 or more"):
        fastbn.standardize(tmp_path / "x.npy", fastbn.stream(tmp_path / "x.npy"), tmp_path / "y.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), [[np.nan, -1.0], [np.nan, 1.0]])


@pytest.mark.parametrize("save", LAYOUTS, ids=lambda save: save.__name__)
def test_columns_of_arrays(tmp_path: Path, x: Array, save: datafiles.Save) -> None:
    source, columns = save(tmp_path, x), [3, 0, 1]
    moments = fastbn.stream(source, columns=columns)
    fastbn.standardize(source, moments, tmp_path / "y.npy", columns=columns, memory=2 * LEAST)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), standard(x)[:, columns].astype(float), **CLOSE)


@pytest.mark.parametrize("save", [datafiles.save_npy, datafiles.save_fortran], ids=lambda save: save.__name__)
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("columns", [[5, 0, 2], [5], [4, 3]], ids=str)
def test_chosen_columns_need_one_row_alone(
    tmp_path: Path, rng: np.random.Generator, save: datafiles.Save, axis: int, columns: list[int]
) -> None:
    y = rng.normal(5.0, 2.0, (20_000, 6) if axis else (6, 20_000))
    source = save(tmp_path, y)
    moments = fastbn.stream(source, axis=axis, columns=columns)
    fastbn.standardize(source, moments, tmp_path / "y.npy", axis=axis, columns=columns, memory=LEAST)
    expected = standard(y if axis else y.T)[:, columns].astype(float)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected if axis else expected.T, **CLOSE)


@pytest.mark.parametrize("save", LAYOUTS, ids=lambda save: save.__name__)
def test_rows_longer_than_a_block(tmp_path: Path, rng: np.random.Generator, save: datafiles.Save) -> None:
    y = rng.normal(5.0, 2.0, (5, 12_000))
    source = save(tmp_path, y)
    moments = fastbn.stream(source)
    for out in ("y.npy", "y.h5"):
        fastbn.standardize(source, moments, tmp_path / out, memory=LEAST)
        np.testing.assert_allclose(load(tmp_path / out), standard(y).astype(float), **CLOSE)
    chosen = fastbn.stream(source, columns=[11_999, 2])
    with pytest.raises(ValueError, match=r"memory must be [0-9]+ MiB or more to choose columns of"):
        fastbn.standardize(source, chosen, tmp_path / "z.npy", columns=[11_999, 2], memory=LEAST)
    assert not (tmp_path / "z.npy").exists()
    fastbn.standardize(source, chosen, tmp_path / "z.npy", columns=[11_999, 2])
    np.testing.assert_allclose(np.load(tmp_path / "z.npy"), standard(y)[:, [11_999, 2]].astype(float), **CLOSE)


def test_an_array_of_one_dimension(tmp_path: Path, x: Array) -> None:
    for save in (datafiles.save_npy, datafiles.save_zarr):
        source = save(tmp_path, x[:, 0])
        for out in ("y.npy", "y.h5"):
            fastbn.standardize(source, fastbn.stream(source), tmp_path / out, memory=LEAST, overwrite=True)
            np.testing.assert_allclose(load(tmp_path / out), standard(x)[:, 0].astype(float), **CLOSE)


@pytest.mark.parametrize(
    ("stored", "asked", "written"),
    [
        ("f4", None, "f4"),
        ("f4", "f8", "f8"),
        ("f8", "f4", "f4"),
        ("u1", None, "f4"),
        ("u1", "f2", "f2"),
        ("i4", None, "f4"),
        ("i8", None, "f8"),
        ("?", None, "f8"),
        (">f4", None, "f4"),
        ("f2", None, "f2"),
    ],
)
def test_types(tmp_path: Path, rng: np.random.Generator, stored: str, asked: str | None, written: str) -> None:
    y = rng.integers(0, 2 if stored == "?" else 100, (2_000, 3)).astype(stored)
    np.save(tmp_path / "x.npy", y)
    fastbn.standardize(tmp_path / "x.npy", fastbn.stream(tmp_path / "x.npy"), tmp_path / "y.npy", dtype=asked)
    found = np.load(tmp_path / "y.npy")
    assert found.dtype == written
    expected = standard(y.astype(np.float64)).astype(float)
    # 16 ulp, of values that are up to 2 deviations from zero.
    np.testing.assert_allclose(found.astype(float), expected, rtol=0, atol=16 * np.finfo(written).eps)


def test_bfloat16_is_written_as_float32(tmp_path: Path, x: Array) -> None:
    half = x[:, :1].astype(ml_dtypes.bfloat16)
    fastbn.standardize(half, fastbn.stream(half), tmp_path / "y.npy")
    assert np.load(tmp_path / "y.npy").dtype == np.float32


def test_arrays_that_come_one_by_one(tmp_path: Path, x: Array) -> None:
    buffer = np.empty((1000, 4))

    def batches() -> Any:
        for start in range(0, len(x), 1000):
            part = x[start : start + 1000]
            buffer[: len(part)] = part
            yield buffer[: len(part)]

    calls: list[tuple[int, int | None]] = []
    fastbn.standardize(batches(), fastbn.stream(x), tmp_path / "y.h5", progress=lambda *call: calls.append(call))
    np.testing.assert_allclose(load(tmp_path / "y.h5"), standard(x).astype(float), **CLOSE)
    assert calls[-1] == (x.nbytes, None)


def test_constant_and_empty_features(tmp_path: Path) -> None:
    y = np.array([[3.0, np.nan, 1.0], [3.0, np.nan, 3.0]])
    moments = fastbn.stream(y, where_finite=True)
    fastbn.standardize(y, moments, tmp_path / "y.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), [[0.0, np.nan, -1.0], [0.0, np.nan, 1.0]])
    fastbn.standardize(y, moments, tmp_path / "z.npy", eps=3.0)
    np.testing.assert_array_equal(np.load(tmp_path / "z.npy"), [[0.0, np.nan, -0.5], [0.0, np.nan, 0.5]])
    for name, shape in (("e.npy", (0, 3)), ("e.h5", (0, 3)), ("e.zarr", (0, 3))):
        fastbn.standardize(np.empty(shape), moments, tmp_path / name)
        assert load(tmp_path / name).shape == shape


# Several sources.


def test_sources_follow_each_other(tmp_path: Path, x: Array) -> None:
    parts = np.array_split(x, 5)
    sources: list[Any] = [
        save(tmp_path, part)
        for save, part in zip([datafiles.save_npy, *TABLES, datafiles.save_zarr], parts, strict=False)
    ]
    sources.append(parts[4])
    for out in ("y.npy", "y.h5", "y.zarr"):
        fastbn.standardize(sources, fastbn.stream(sources), tmp_path / out, memory=LEAST)
        np.testing.assert_allclose(load(tmp_path / out), standard(x).astype(float), **CLOSE)


def test_a_folder_of_one_file_for_each(tmp_path: Path, x: Array) -> None:
    sources: list[Any] = [save(tmp_path, x[:500]) for save in (datafiles.save_npy, *TABLES, datafiles.save_zarr)]
    sources += [datafiles.save_chunked(tmp_path, x[:500]), x[:500]]
    fastbn.standardize(sources, fastbn.stream(x[:500]), tmp_path / "all/", memory=LEAST)
    assert sorted(os.listdir(tmp_path / "all")) == ["c.hdf5", "source[5].npy", "x.csv", "x.npy", "x.parquet", "x.zarr"]
    for name in ("source[5].npy", "x.csv", "x.npy", "x.parquet", "x.zarr"):
        np.testing.assert_allclose(load(tmp_path / "all" / name), standard(x[:500]).astype(float), **CLOSE)
    with h5py.File(tmp_path / "all" / "c.hdf5") as file:
        np.testing.assert_allclose(file["group/data"], standard(x[:500]).astype(float), **CLOSE)
    with pytest.raises(ValueError, match=r"no two files have one name, got 'x.npy' for .*x.npy"):
        fastbn.standardize([sources[0], sources[0]], fastbn.stream(x), tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_what_does_not_go_into_one_file(tmp_path: Path, x: Array) -> None:
    moments = fastbn.stream(x)
    with pytest.raises(ValueError, match=r"one file holds \(4,\) of float64, got \(4,\) of float32 from source\[1\]"):
        fastbn.standardize([x, x.astype(np.float32)], moments, tmp_path / "y.npy")
    with pytest.raises(ValueError, match=r"one file holds \(4, 3\) of float64, got \(4, 5\)"):
        fastbn.standardize([x[:6].reshape(2, 4, 3), x[:10].reshape(2, 4, 5)], moments, tmp_path / "y.npy")
    with pytest.raises(ValueError, match=r"out must be a folder for several arrays with features along axis 0"):
        fastbn.standardize([x[:4], x[4:8]], fastbn.stream(x[:4], axis=0), tmp_path / "y.npy", axis=0)
    with pytest.raises(ValueError, match="out must not be a table for source, which is none"):
        fastbn.standardize(x, moments, tmp_path / "y.csv")


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"x": [1.0], "code": ["A7"]}, "one file holds column 'code' of int64, got (large_)?string from .*b.parquet"),
        ({"x": [1.0], "codes": [2]}, "one file holds columns x, code, got x, codes from .*b.parquet"),
    ],
)
def test_tables_that_do_not_go_into_one_file(other: dict[str, Any], said: str, tmp_path: Path) -> None:
    first, second = tmp_path / "a.parquet", tmp_path / "b.parquet"
    pd.DataFrame({"x": [1.0, 2.0], "code": [1, 2]}).to_parquet(first)
    pd.DataFrame(other).to_parquet(second)
    moments = fastbn.stream(first, columns=["x"])
    with pytest.raises(ValueError, match=f"out must be a folder where columns or types differ: {said}$"):
        fastbn.standardize([first, second], moments, tmp_path / "y.parquet")
    assert sorted(os.listdir(tmp_path)) == ["a.parquet", "b.parquet"]
    (tmp_path / "a.csv").write_text("a,b\n1,x\n2,y\n")
    (tmp_path / "b.csv").write_text("b,a\nx,3\n")
    with pytest.raises(ValueError, match=r"out must be a folder where columns or types differ: .* from .*b.csv"):
        fastbn.standardize(
            [tmp_path / "a.csv", tmp_path / "b.csv"],
            fastbn.stream(tmp_path / "a.csv"),
            tmp_path / "y.csv",
            columns=["a"],
        )
    assert not (tmp_path / "y.csv").exists()


# Tables.


def test_tables_keep_their_other_columns(tmp_path: Path, x: Array) -> None:
    names = ['a "quoted", name', "b"]
    with open(tmp_path / "x.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", names[0], "note", names[1], "flag"])
        rows.writerows(
            [f"{i:07}", value, 'two\nlines, "here"' if i % 3 else "", -value, i % 2] for i, value in enumerate(x[:, 0])
        )
    source = tmp_path / "x.csv"
    moments = fastbn.stream(source, columns=names)
    expected = standard(x[:, [0, 0]] * [1, -1]).astype(float)
    before = pd.read_csv(source, dtype=str, keep_default_na=False)
    for out in ("y.csv", "y.parquet"):
        fastbn.standardize(source, moments, tmp_path / out, columns=names, memory=LEAST)
        after = (
            pd.read_parquet(tmp_path / out)
            if out == "y.parquet"
            else pd.read_csv(tmp_path / out, dtype=dict.fromkeys(("id", "note", "flag"), str), keep_default_na=False)
        )
        assert list(after) == list(before)
        for name in ("id", "note", "flag"):
            assert after[name].astype(str).tolist() == before[name].tolist()
        np.testing.assert_allclose(after[names], expected, **CLOSE)
    fastbn.standardize(source, moments, tmp_path / "y.npy", columns=names)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, **CLOSE)


def test_what_is_missing_stays_missing(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n1,x\n,y\n3,z\n")
    fastbn.standardize(tmp_path / "x.csv", fastbn.stream(tmp_path / "x.csv", nan="omit"), tmp_path / "y.csv")
    assert (tmp_path / "y.csv").read_text().splitlines() == ['"a","b"', '-1,"x"', ',"y"', '1,"z"']


def test_parquet_keeps_types_and_descriptions(tmp_path: Path) -> None:
    frame = pd.DataFrame({"v": [1.0, 3.0], "k": ["a", "b"], "t": pd.to_datetime(["2020", "2021"])}, index=["r", "s"])
    frame.to_parquet(tmp_path / "x.parquet")
    fastbn.standardize(
        tmp_path / "x.parquet", fastbn.stream(tmp_path / "x.parquet"), tmp_path / "y.parquet", dtype="f4"
    )
    found = pd.read_parquet(tmp_path / "y.parquet")
    assert found["v"].tolist() == [-1.0, 1.0]
    assert pq.read_schema(tmp_path / "y.parquet").field("v").type == pa.float32()
    pd.testing.assert_frame_equal(found[["k", "t"]], frame[["k", "t"]])
    empty = pa.table({"v": pa.array([], pa.float64()), "k": pa.array([], pa.string())})
    pq.write_table(empty, tmp_path / "e.parquet")
    fastbn.standardize(tmp_path / "e.parquet", fastbn.stream(frame[["v"]].to_numpy()), tmp_path / "f.parquet")
    assert pq.read_table(tmp_path / "f.parquet").num_rows == 0


INDEXES: list[tuple[pd.Index, list[str]]] = [
    (pd.RangeIndex(3, name="id"), ["id"]),
    (pd.RangeIndex(3), []),
    (pd.RangeIndex(2, 5), [""]),
    (pd.RangeIndex(0, 6, 2), [""]),
    (pd.Index([0, 1, 2]), [""]),
    (pd.Index([7, 5, 6], name="id"), ["id"]),
    (pd.Index(["r", "s", "t"]), [""]),
    (pd.Index(["r", "s", "t"], name="key"), ["key"]),
    (pd.DatetimeIndex(["2024-01-01", "2024-01-03", "2024-01-04"], name="day"), ["day"]),
    (pd.MultiIndex.from_tuples([(0, "a"), (0, "b"), (1, "a")], names=["i", None]), ["i", ""]),
]


@pytest.mark.parametrize(("index", "names"), INDEXES)
def test_a_frame_s_index_is_written_unless_it_numbers_the_rows(
    index: pd.Index, names: list[str], tmp_path: Path
) -> None:
    frame = pd.DataFrame({"v": [1.0, 3.0, 5.0], "k": ["a", "b", "c"]}, index=index)
    expected = frame.assign(v=[-(1.5**0.5), 0.0, 1.5**0.5])
    moments = fastbn.stream(frame)
    fastbn.standardize(frame, moments, tmp_path / "y.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "y.parquet"), expected, check_index_type="equiv")
    fastbn.standardize(frame, moments, tmp_path / "y.csv")
    with open(tmp_path / "y.csv", newline="") as file:
        header, *rows = csv.reader(file)
    with open(tmp_path / "z.csv", "w+", newline="") as file:  # what pandas writes, with the index in front
        frame.to_csv(file, index=bool(names))
        file.seek(0)
        pandas_header, *pandas_rows = csv.reader(file)
    assert header == ["v", "k", *names]
    assert pandas_header == [*names, "v", "k"]
    held = [row[2:] for row in rows]
    if isinstance(index, pd.DatetimeIndex):
        held = [[text.partition(" ")[0] for text in row] for row in held]
    assert held == [row[: len(names)] for row in pandas_rows]


@pytest.mark.parametrize("suffix", ["csv", "parquet", "feather", "orc"])
def test_an_index_that_goes_on_numbers_the_rows(suffix: str, tmp_path: Path) -> None:
    whole = pd.DataFrame({"v": [1.0, 3.0, 5.0, 7.0, 9.0], "k": list("abcde")})
    whole.to_csv(tmp_path / "x.csv", index=False)
    moments, out = fastbn.stream(whole), tmp_path / f"y.{suffix}"
    fastbn.standardize(pd.read_csv(tmp_path / "x.csv", chunksize=2), moments, out)
    read = {"csv": pd.read_csv, "parquet": pd.read_parquet, "feather": pd.read_feather, "orc": pd.read_orc}[suffix]
    expected = whole.assign(v=(whole["v"] - whole["v"].mean()) / whole["v"].std(ddof=0))
    pd.testing.assert_frame_equal(read(out), expected, check_dtype=False)
    fastbn.standardize(iter([whole[:2], whole[2:]]), moments, tmp_path / "folder")  # each has rows of its own there
    with pytest.raises(ValueError, match="one file holds"):
        fastbn.standardize(iter([whole[:2], whole[3:]]), moments, tmp_path / f"z.{suffix}")


@pytest.mark.parametrize("kind", ["parquet", "feather"])
@pytest.mark.parametrize("suffix", ["csv", "orc"])
@pytest.mark.parametrize(
    ("index", "written"),
    [
        (pd.RangeIndex(4), []),
        (pd.RangeIndex(4, name="row"), ["row"]),
        (pd.RangeIndex(5, 9), [""]),
        (pd.RangeIndex(9, 1, -2), [""]),
    ],
)
def test_an_index_that_a_file_describes_is_written(
    kind: str, suffix: str, index: pd.Index, written: list[str], tmp_path: Path
) -> None:
    frame = pd.DataFrame({"v": [1.0, 3.0, 5.0, 7.0], "k": ["a", "b", "c", "d"]}, index=index)
    source, out = tmp_path / f"x.{kind}", tmp_path / f"y.{suffix}"
    if kind == "parquet":
        frame.to_parquet(source, row_group_size=3)
    else:
        with pa.OSFile(str(source), "wb") as file:
            table = pa.Table.from_pandas(frame)
            with pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table, max_chunksize=3)
    moments = fastbn.stream(source)
    assert moments.names == ("v",)
    fastbn.standardize(source, moments, out, columns=[-2])  # by its number among the columns that there are
    found = pd.read_csv(out) if suffix == "csv" else pd.read_orc(out)
    name = {"csv": "Unnamed: 2", "orc": "__index_level_0__"}[suffix]
    assert list(found.columns) == ["v", "k", *(each or name for each in written)]
    np.testing.assert_allclose(found["v"], (frame["v"] - 4) / 5**0.5, **CLOSE)
    for each in found.columns[2:]:
        np.testing.assert_array_equal(found[each], index)


def test_numbers_of_columns_do_not_count_an_index(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [10.0, 30.0]}, index=pd.Index([7, 9], name="id"))
    fastbn.standardize(frame, fastbn.moments(frame[["b"]].to_numpy()), tmp_path / "y.csv", columns=[-1])
    assert (tmp_path / "y.csv").read_text() == '"a","b","id"\n1,-1,7\n2,1,9\n'


# Images.


def test_images_of_one_size_become_one_array(tmp_path: Path, rng: np.random.Generator) -> None:
    images = random_images(rng, 40, (9, 12))
    folder = save_images(tmp_path / "images", images)
    moments = fastbn.stream(folder, scale=255)
    expected = standard(np.stack(images), 3).astype(float).transpose(0, 3, 1, 2)
    for out in ("y.npy", "y.zarr"):
        fastbn.standardize(folder, moments, tmp_path / out, scale=255, memory=LEAST)
        found = load(tmp_path / out)
        assert (found.dtype, found.shape) == (np.float32, (40, 3, 9, 12))
        np.testing.assert_allclose(found, expected, **SINGLE)
    grey = fastbn.stream(folder, mode="L")
    fastbn.standardize(folder, grey, tmp_path / "grey.npy", mode="L", dtype="f8")
    again = fastbn.stream(tmp_path / "grey.npy")
    assert_streamed(again, np.load(tmp_path / "grey.npy").reshape(-1, 1))
    # Values of up to 2 deviations are rounded, as were the mean and the deviation they come from: far below 16 ulp.
    np.testing.assert_allclose([again.mean[0], again.std()[0]], [0.0, 1.0], rtol=0, atol=16 * 2.0**-52)


def test_images_of_many_sizes_become_a_folder(tmp_path: Path, rng: np.random.Generator) -> None:
    images = random_images(rng, 12)
    save_images(tmp_path / "images", images[:7])
    save_images(tmp_path / "images" / "more", images[7:])
    moments = fastbn.stream(tmp_path / "images")
    with pytest.raises(ValueError, match=r"out must be a folder where shapes or types differ: .* from .*0001.png"):
        fastbn.standardize(tmp_path / "images", moments, tmp_path / "y.npy")
    fastbn.standardize(tmp_path / "images", moments, tmp_path / "out")
    flat = datafiles.pixels(images).astype(np.longdouble)
    for number, image in enumerate(images):
        name = f"{number:04}.npy" if number < 7 else f"more/{number - 7:04}.npy"
        expected = ((image - flat.mean(0)) / flat.std(0)).astype(float).transpose(2, 0, 1)
        np.testing.assert_allclose(np.load(tmp_path / "out" / name), expected, **SINGLE)
    save_images(tmp_path / "images", images[:1], "bmp")
    with pytest.raises(ValueError, match=r"no two files have one name, got '0000.npy' for .*0000.png"):
        fastbn.standardize(tmp_path / "images", moments, tmp_path / "again")
    with pytest.raises(ValueError, match=r"out must not be a table for .*images, which is none"):
        fastbn.standardize(tmp_path / "images", moments, tmp_path / "y.parquet")
    files = sorted((tmp_path / "images").glob("*.png"))
    fastbn.standardize(files, moments, tmp_path / "flat")
    assert len(os.listdir(tmp_path / "flat")) == 7


# What cannot be read.


def test_sources_that_cannot_be_read(tmp_path: Path, x: Array, rng: np.random.Generator) -> None:
    good, bad = datafiles.save_npy(tmp_path, x), str(tmp_path / "bad.npy")
    Path(bad).write_text("hello, world")
    for out in ("y.npy", "y/"):
        with pytest.raises(ValueError, match=r"bad.npy cannot be read"):
            fastbn.standardize([good, bad], fastbn.stream(x), tmp_path / out)
        assert not (tmp_path / out).exists()
        with pytest.warns(RuntimeWarning, match=r"left out: .*bad.npy cannot be read"):
            fastbn.standardize([good, bad], fastbn.stream(x), tmp_path / out, on_error="skip")
    assert len(np.load(tmp_path / "y.npy")) == len(x)
    assert os.listdir(tmp_path / "y") == ["x.npy"]
    for out in ("z.npy", "z"):
        with pytest.raises(ValueError, match="source must hold something that can be read, got nothing"):
            fastbn.standardize(bad, fastbn.stream(x), tmp_path / out, on_error=lambda name, error: None)
    folder = save_images(tmp_path / "images", random_images(rng, 5, (4, 4)))
    moments = fastbn.stream(folder)
    (folder / "0001.png").write_text("hello")
    told: list[str] = []
    fastbn.standardize(folder, moments, tmp_path / "i.npy", on_error=lambda name, error: told.append(Path(name).name))
    assert (len(np.load(tmp_path / "i.npy")), told) == (4, ["0001.png"])


def test_a_source_that_breaks_off(tmp_path: Path, x: Array) -> None:
    (tmp_path / "bad.csv").write_text("a,b\n" + "1,2\n" * 15_000 + "1,oops\n")
    (tmp_path / "good.csv").write_text("a,b\n1,2\n")
    sources, moments = [tmp_path / "bad.csv", tmp_path / "good.csv"], fastbn.stream(x[:, :2])
    with pytest.raises(ValueError, match="oops"):  # a part of it is in the file
        fastbn.standardize(sources, moments, tmp_path / "y.npy", memory=LEAST, on_error=lambda name, error: None)
    fastbn.standardize(sources, moments, tmp_path / "y", memory=LEAST, on_error=lambda name, error: None)
    assert os.listdir(tmp_path / "y") == ["good.csv"]
    assert not (tmp_path / "y.npy").exists()


def test_a_source_that_changes(tmp_path: Path, x: Array) -> None:
    source = datafiles.save_npy(tmp_path, np.tile(x, (4, 1)))
    with pytest.raises(ValueError, match=r"x.npy must not change while it is read"):
        fastbn.standardize(
            source, fastbn.stream(x), tmp_path / "y.npy", memory=LEAST, progress=lambda *_: os.truncate(source, 128)
        )
    assert os.listdir(tmp_path) == ["x.npy"]


# What is there already.


def test_nothing_is_replaced_unless_asked_for(tmp_path: Path, x: Array) -> None:
    source, moments = datafiles.save_npy(tmp_path, x), fastbn.stream(x)
    for name in ("y.npy", "y.zarr"):
        out = tmp_path / name
        fastbn.standardize(source, moments, out)
        before = sorted((p, p.stat().st_mtime_ns) for p in [out, *out.rglob("*")])
        with pytest.raises(FileExistsError, match=name):
            fastbn.standardize(source, moments, out)
        assert sorted((p, p.stat().st_mtime_ns) for p in [out, *out.rglob("*")]) == before
        fastbn.standardize(source, moments, out, dtype="f4", overwrite=True)
        assert load(out).dtype == np.float32
    for out in (tmp_path, tmp_path / "sub"):
        (tmp_path / "sub").mkdir(exist_ok=True)
        for overwrite in (False, True):
            with pytest.raises(FileExistsError, match=r"File exists \(a folder is never replaced: remove it first\)"):
                fastbn.standardize(source, moments, out, overwrite=overwrite)
    assert not list(tmp_path.glob(".*"))


def test_a_source_is_never_replaced(tmp_path: Path, x: Array) -> None:
    source = datafiles.save_npy(tmp_path, x)
    os.link(source, tmp_path / "same.npy")
    for out in (source, str(tmp_path / "same.npy"), os.path.relpath(source)):
        with pytest.raises(ValueError, match="out must not be one of the sources"):
            fastbn.standardize(source, fastbn.stream(x), out, overwrite=True)
    np.testing.assert_array_equal(np.load(source), x)


def test_statistics_are_never_replaced(tmp_path: Path, x: Array) -> None:
    source, statistics = datafiles.save_npy(tmp_path, x), tmp_path / "s.npz"
    save_stats(fastbn.stream(x), statistics)
    (tmp_path / "same.npz").symlink_to(statistics)
    before = statistics.read_bytes()
    for out in (statistics, tmp_path / "same.npz", os.path.relpath(statistics), f"{statistics}:y"):
        with pytest.raises(ValueError, match=r"out must not be the file of moments, got '.*npz'"):
            fastbn.standardize(source, statistics, out, overwrite=True)
    assert statistics.read_bytes() == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, MemoryError])
@pytest.mark.parametrize("out", ["y.npy", "y.npz", "y.h5", "y.zarr", "y", "y.csv"])
def test_an_interrupted_run_leaves_nothing(tmp_path: Path, x: Array, out: str, error: type[BaseException]) -> None:
    source = datafiles.save_csv(tmp_path, x) if out == "y.csv" else datafiles.save_npy(tmp_path, x)

    def progress(done: int, total: int | None) -> None:
        assert len(list(tmp_path.glob(".y*"))) >= 1
        raise error

    with pytest.raises(error):
        fastbn.standardize(source, fastbn.stream(x), tmp_path / out, memory=LEAST, progress=progress)
    assert os.listdir(tmp_path) == [Path(source).name]


@contextlib.contextmanager
def full_at(nbytes: int) -> Iterator[None]:
    """Let no file become larger, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("nbytes", [64, 1 << 16])  # where the first bytes are written late, and amid the data
@pytest.mark.parametrize("out", ["y.npy", "y.npz", "y.h5", "y.zarr", "y", "y.csv", "y.parquet"])
def test_a_full_disk(tmp_path: Path, x: Array, out: str, nbytes: int) -> None:
    values = x if nbytes > 64 else x[:3]
    save = datafiles.save_csv if out in ("y.csv", "y.parquet") else datafiles.save_npy
    source, moments = save(tmp_path, values), fastbn.stream(x)
    with full_at(nbytes), pytest.raises(OSError, match=rf"File too large: '.*/{out}.*'"):
        fastbn.standardize(source, moments, tmp_path / out, memory=LEAST)
    gc.collect()  # h5py's file is gone for good, and did not end the process
    assert os.listdir(tmp_path) == [Path(source).name]


def test_chunks_that_are_under_way_are_waited_for(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is written after the store was removed would leave a part of it behind."""
    source = datafiles.save_npy(tmp_path, rng.normal(size=(1 << 17, 8)))
    real = zarr.storage.LocalStore.set
    begun, ended = [], []

    async def slow(store: Any, key: str, value: Any) -> None:
        if key == "c/0/0":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if "json" not in key:
            begun.append(key)
            await asyncio.sleep(0.2)
            ended.append(key)
        await real(store, key, value)

    monkeypatch.setattr(zarr.storage.LocalStore, "set", slow)
    with pytest.raises(OSError, match=r"No space left on device: '.*/y.zarr'"):
        fastbn.standardize(source, fastbn.stream(source), tmp_path / "y.zarr")
    assert begun
    assert sorted(ended) == sorted(begun)
    assert os.listdir(tmp_path) == [Path(source).name]


# Arguments.


@pytest.mark.parametrize(
    ("out", "options", "kind", "message"),
    [
        ("y.txt", {}, ValueError, r"out must be a folder or a file of a known format \(.npy, .*\), got '.*y.txt'"),
        ("no/y.npy", {}, FileNotFoundError, "no'"),
        ("y.npy", {"dtype": "i4"}, TypeError, "dtype must be float16, float32 or float64, got 'i4'"),
        ("y.npy", {"dtype": "nonsense"}, TypeError, "dtype must be float16, float32 or float64, got 'nonsense'"),
        ("y.npy", {"eps": -1}, ValueError, "eps must be finite and >= 0, got -1"),
        ("y.npy", {"scale": 0}, ValueError, "scale must be above 0, got 0"),
        ("y.npy", {"overwrite": 1}, TypeError, "overwrite must be True or False, got 1"),
        (
            "y.npy",
            {"columns": [0]},
            ValueError,
            r"features of source, of shape \(1,\), got \(4,\)",
        ),
        (
            "y.npy",
            {"axis": 0},
            ValueError,
            r"features of source, of shape \(8011,\), got \(4,\)",
        ),
    ],
)
def test_arguments_of_no_meaning(
    tmp_path: Path, x: Array, out: str, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        fastbn.standardize(x, fastbn.stream(x), tmp_path / out, **options)
    assert os.listdir(tmp_path) == []


def test_moments_that_have_seen_nothing(tmp_path: Path, x: Array) -> None:
    with pytest.raises(ValueError, match="moments must have seen something"):
        fastbn.standardize(x, fastbn.Moments(), tmp_path / "y.npy")


def test_statistics_in_a_file_say_how_they_were_made(tmp_path: Path, x: Array) -> None:
    frame = pd.DataFrame(x, columns=["a", "b", "c", "d"])
    frame.to_parquet(tmp_path / "x.parquet")
    stats = tmp_path / "s.npz"
    save_stats(remembering(fastbn.stream(x[:, [3, 1]], scale=2.0), names=("d", "b")), stats)
    fastbn.standardize(tmp_path / "x.parquet", stats, tmp_path / "y.parquet")
    found = pd.read_parquet(tmp_path / "y.parquet")
    np.testing.assert_allclose(found[["b", "d"]], standard(x)[:, [1, 3]].astype(float), **CLOSE)
    np.testing.assert_array_equal(found[["a", "c"]], x[:, [0, 2]])
    fastbn.standardize(tmp_path / "x.parquet", stats, tmp_path / "z.npy", columns=["b"])
    np.testing.assert_allclose(np.load(tmp_path / "z.npy"), standard(x)[:, [1]].astype(float), **CLOSE)
    with pytest.raises(ValueError, match=r"moments must have the features of .*x.parquet, got none of 'a'"):
        fastbn.standardize(tmp_path / "x.parquet", stats, tmp_path / "w.npy", columns=["a"])
    y = x[:4].reshape(2, 2, 4)
    save_stats(fastbn.stream(y, axis=2), tmp_path / "t.json")
    fastbn.standardize(y, tmp_path / "t.json", tmp_path / "w.npy")
    np.testing.assert_allclose(np.load(tmp_path / "w.npy"), standard(y, 2).astype(float), **CLOSE)
    save_stats(remembering(fastbn.stream(y, axis=2, columns=[2, 1]), names=("2", "1")), tmp_path / "u.json")
    fastbn.standardize(y, tmp_path / "u.json", tmp_path / "v.npy")
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), standard(y, 2)[..., [2, 1]].astype(float), **CLOSE)


# Chunks and memory.


@pytest.mark.parametrize(("trailing", "chunks"), [((), (1 << 17,)), ((4,), (1 << 15, 4)), ((3, 0), (43690, 3, 1))])
def test_chunks_of_small_rows(trailing: tuple[int, ...], chunks: tuple[int, ...]) -> None:
    assert _chunks(trailing, np.dtype(np.float64)) == chunks


@pytest.mark.parametrize("trailing", [(1 << 20,), (3, 1 << 20), (1 << 12, 1 << 12), (1 << 20, 3)])
def test_chunks_of_large_rows(trailing: tuple[int, ...]) -> None:
    chunk = _chunks(trailing, np.dtype(np.float64))
    assert 1 << 18 <= np.prod(chunk) * 8 <= 1 << 20


PEAK = """
import numpy as np
import fastbn
folder, memory = {arguments}
small = np.ones((20_000, 64), np.float32)  # of some blocks: pages of the library that come with them do not count
np.save(folder + "/small.npy", small)
moments = fastbn.stream(folder + "/small.npy", memory=memory)
fastbn.standardize(folder + "/small.npy", moments, folder + "/s.npy", memory=memory)
fastbn.moments(np.ones((20000, 64), np.float32))
def needed(call):
    before = resident_from_now()
    result = call()
    print(resident("VmHWM") - before)
    return result
moments = needed(lambda: fastbn.stream(folder + "/x.npy", memory=memory))
needed(lambda: fastbn.standardize(folder + "/x.npy", moments, folder + "/y.npy", memory=memory))
mapped = needed(lambda: fastbn.stream(np.load(folder + "/x.npy", mmap_mode="r"), memory=memory))
assert np.allclose(mapped.mean, moments.mean, rtol=0, atol=1.2e-13)  # cut otherwise; of what the deviation is good to
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the kernel does not tell peaks")
def test_memory_stays_under_the_bound(tmp_path: Path, rng: np.random.Generator) -> None:
    if "san.so" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("a sanitized build has memory of its own")
    memory = 8 << 20
    np.save(tmp_path / "x.npy", rng.standard_normal((300_000, 64), np.float32))  # nine times the bound
    # What is freed goes back to the system at once: else megabytes depend on where in the heap modules were put.
    at_once = {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = run_python(peak_memory.RESIDENT + PEAK.format(arguments=(str(tmp_path), memory)), **at_once)
    assert done.returncode == 0, done.stderr
    # Of four blocks two or three are under way; the kernels' own scratch is below 1 MiB.
    reading, written, mapped = (int(kibibytes) * 1024 for kibibytes in done.stdout.split())
    assert memory // 4 < reading < memory + (1 << 20)
    assert memory // 4 < written < memory + (1 << 20)
    assert memory // 4 < mapped < memory + (1 << 20)
    assert (tmp_path / "y.npy").stat().st_size == (tmp_path / "x.npy").stat().st_size
    for path in tmp_path.iterdir():
        path.unlink()


def test_a_source_of_any_kind_is_never_replaced(tmp_path: Path) -> None:
    x = np.arange(12.0).reshape(6, 2)
    plain, deep, store = tmp_path / "x.npy", tmp_path / "d.h5", tmp_path / "s.zarr"
    np.save(plain, x)
    zarr.save_group(str(store), a=x, b=x)
    with h5py.File(deep, "w") as file:
        file["a"], file["b"] = x, x
    m = fastbn.moments(x)
    with h5py.File(deep, "r") as file:
        for source, out in [
            ((str(plain) for _ in range(1)), plain),
            (np.load(plain, mmap_mode="r"), plain),
            (file["a"], deep),
            (f"{store}:a", store),
            (zarr.open(str(store), mode="r")["a"], store),
        ]:
            with pytest.raises(ValueError, match="out must not be one of the sources"):
                fastbn.standardize(source, m, out, overwrite=True)
    np.testing.assert_array_equal(np.load(plain), x)
    assert sorted(zarr.open(str(store), mode="r").array_keys()) == ["a", "b"]
    with h5py.File(deep) as file:
        assert sorted(file) == ["a", "b"]
