"""Values count as much as they are said to, by a column, by rows, or by an array, in blocks and where a run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray as xr

import fastbn
from support import datafiles
from support.datafiles import ARRAYS, LEAST, TABLES, Array, same_bits


@pytest.fixture
def x(rng: np.random.Generator) -> Array:
    return rng.normal([3.0, -1e3, 0.0], [1.0, 2.0, 5.0], (9_000, 3))


@pytest.fixture
def w(rng: np.random.Generator) -> Array:
    return rng.uniform(0, 4, 9_000)


def assert_weighted(found: fastbn.Moments, x: Array, w: Array) -> None:
    """Assert weighted statistics by the formula, in more digits."""
    weights = np.broadcast_to(w.reshape(-1, 1) if w.ndim == 1 else w, x.shape).astype(np.longdouble)
    total = weights.sum(0)
    mean = (weights * x).sum(0) / total
    var = (weights * (x - mean) ** 2).sum(0) / total
    np.testing.assert_allclose(found.count, total.astype(float), rtol=1e-12)
    np.testing.assert_allclose(found.mean, mean.astype(float), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.var(), var.astype(float), rtol=1e-12)


@pytest.mark.parametrize("save", ARRAYS + TABLES, ids=lambda save: save.__name__)
def test_one_for_each_row(tmp_path: Path, x: Array, w: Array, save: datafiles.Save) -> None:
    source = save(tmp_path, x)
    for given in (w, w.tolist(), pd.Series(w)):
        assert_weighted(fastbn.stream(source, weights=given, memory=LEAST), x, w)
    np.save(tmp_path / "w.npy", w)
    pd.DataFrame({"w": w}).to_csv(tmp_path / "w.csv", index=False)
    for name in ("w.npy", "w.csv"):
        assert_weighted(fastbn.stream(source, weights=tmp_path / name, memory=LEAST), x, w)
        assert_weighted(
            fastbn.stream(source, weights=str(tmp_path / name), columns=[2, 0], memory=LEAST), x[:, [2, 0]], w
        )


@pytest.mark.parametrize("suffix", ["csv", "parquet", "feather"])
def test_a_column(tmp_path: Path, x: Array, w: Array, suffix: str) -> None:
    frame = pd.DataFrame({"a": x[:, 0], "w": w, "b": x[:, 1], "c": x[:, 2]})
    source = tmp_path / f"x.{suffix}"
    if suffix == "csv":
        frame.to_csv(source, index=False)
    else:
        (frame.to_parquet if suffix == "parquet" else frame.to_feather)(source)
    found = fastbn.stream(source, weights="w", memory=LEAST)
    assert found.names == ("a", "b", "c")
    assert_weighted(found, x, w)
    assert_weighted(fastbn.stream(source, weights="w", columns=["b"], memory=LEAST), x[:, [1]], w)
    assert_weighted(fastbn.stream([source, source], weights="w"), np.tile(x, (2, 1)), np.tile(w, 2))
    with pytest.raises(ValueError, match="weights must not be among the columns, got 'w'"):
        fastbn.stream(source, weights="w", columns=["w", "a"])
    with pytest.raises(ValueError, match=r"weights must be a column of .* or a file, got 'nosuch'"):
        fastbn.stream(source, weights="nosuch")


def test_wide_parquet_with_a_column_of_weights(tmp_path: Path, rng: np.random.Generator) -> None:
    x, w = rng.normal(size=(3_000, 60)), rng.uniform(0, 1, 3_000)
    pd.DataFrame(x).rename(columns=str).assign(w=w).to_parquet(tmp_path / "x.parquet", row_group_size=900)
    assert_weighted(fastbn.stream(tmp_path / "x.parquet", weights="w", memory=LEAST), x, w)
    assert_weighted(fastbn.stream(tmp_path / "x.parquet", weights=w, columns=list(range(60)), memory=LEAST), x, w)
    assert pq.read_metadata(tmp_path / "x.parquet").num_row_groups == 4


def test_rows_of_several_sources(tmp_path: Path, x: Array, w: Array) -> None:
    parts = np.array_split(x, 3)
    sources = [datafiles.save_csv(tmp_path, parts[0]), datafiles.save_npy(tmp_path, parts[1]), parts[2]]
    assert_weighted(fastbn.stream(sources, weights=w, memory=LEAST), x, w)
    with pytest.raises(ValueError, match=r"weights must have one for each row, got 8999, and source\[2\] has more"):
        fastbn.stream(sources, weights=w[:-1])


@pytest.mark.parametrize("save", ARRAYS + TABLES, ids=lambda save: save.__name__)
def test_as_many_as_rows(tmp_path: Path, x: Array, w: Array, save: datafiles.Save) -> None:
    source, said = save(tmp_path, x), "weights must have one for each row, got 9001 for 9000 rows"
    np.save(tmp_path / "w.npy", np.append(w, 1.0))
    for given in (
        np.append(w, 1.0),
        [*w, 1],
        pd.Series(np.append(w, 1.0)),
        tmp_path / "w.npy",
        str(tmp_path / "w.npy"),
    ):
        with pytest.raises(ValueError, match=said):
            fastbn.stream(source, weights=given, memory=LEAST)
    with pytest.raises(ValueError, match="weights must have one for each row, got 18001 for 18000 rows"):
        fastbn.stream([source, source], weights=np.ones(18_001), memory=LEAST)


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_no_rows_are_left_out_where_weights_count_them(tmp_path: Path, bad: int) -> None:
    weights = [1.0, 1, 1, 100, 100, 100, 2, 2, 2]
    np.save(tmp_path / "w.npy", weights)
    files = [tmp_path / f"{number}.csv" for number in range(3)]
    for path in files:
        path.write_text("a,w\n1,2\n2,2\n3,2\n")
    files[bad].write_text("a,w\n1,2\n2,2\nx,y,z\n")
    for given in (weights, tmp_path / "w.npy", weights[:3] + weights[6:]):
        with pytest.raises(ValueError, match=rf"weights must not be one for each row where a file .*{bad}\.csv"):
            fastbn.stream(files, weights=given, on_error=lambda name, error: None)
        with pytest.raises(ValueError, match=f"{bad}.csv cannot be read"):
            fastbn.stream(files, weights=given)
    found = fastbn.stream(files, weights="w", on_error=lambda name, error: None)
    assert (found.count, found.mean.tolist()) == (12.0, [2.0])
    good = [path for path in files if path != files[bad]]
    assert fastbn.stream(good, weights=[1] * 6, columns=["a"], on_error="skip").count == 6


def test_an_array_that_broadcasts(rng: np.random.Generator, tmp_path: Path) -> None:
    x = rng.normal(size=(30, 40, 8))
    lat = np.cos(np.linspace(-1.4, 1.4, 40))
    source = datafiles.save_npy(tmp_path, x)
    for weights in (lat[:, np.newaxis], lat.reshape(1, 40, 1), np.broadcast_to(lat[:, None], x.shape)):
        for axis in (2, 0, (0, 2), ()):
            found = fastbn.stream(source, axis=axis, weights=weights, memory=LEAST)
            expected = fastbn.Moments().update(x, axis=axis, weights=np.broadcast_to(weights, x.shape))
            np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-12, atol=1e-14)
            np.testing.assert_allclose(found.m2, expected.m2, rtol=1e-12)
    np.save(tmp_path / "w.npy", lat.reshape(40, 1))
    assert fastbn.stream(source, axis=2, weights=tmp_path / "w.npy", memory=LEAST) == fastbn.stream(
        source, axis=2, weights=lat.reshape(40, 1), memory=LEAST
    )
    with pytest.raises(ValueError, match=r"weights must have a shape that broadcasts to \(30, 40, 8\), got \(3, 1\)"):
        fastbn.stream(source, weights=np.ones((3, 1)))
    with pytest.raises(ValueError, match="weights must not differ between features where columns are chosen"):
        fastbn.stream(source, weights=np.ones((40, 8)), axis=2, columns=[1])


@pytest.mark.parametrize("save", ARRAYS, ids=lambda save: save.__name__)
def test_an_array_larger_than_a_block(tmp_path: Path, x: Array, rng: np.random.Generator, save: datafiles.Save) -> None:
    w = rng.uniform(0, 4, x.shape)
    assert_weighted(fastbn.stream(x, weights=save(tmp_path, w), memory=LEAST), x, w)
    wide = rng.normal(size=(3, 9_000))  # of which a row is larger than a block
    found = fastbn.stream(wide, axis=0, weights=save(tmp_path, w.T.copy()), memory=LEAST)
    assert_weighted(found, wide.T, w)


def test_an_array_in_fortran_order_larger_than_a_block_of_usual_size(tmp_path: Path, rng: np.random.Generator) -> None:
    x, w = rng.normal(size=(2, 1_100_000, 2))
    np.save(tmp_path / "w.npy", np.asfortranarray(w**2))
    assert_weighted(fastbn.stream(x, weights=tmp_path / "w.npy"), x, w**2)


def test_weights_by_dimension(rng: np.random.Generator, tmp_path: Path) -> None:
    lat = np.linspace(-80, 80, 12)
    data = xr.DataArray(rng.normal(size=(7, 12, 5)), {"lat": lat}, ("time", "lat", "lon"), "v")
    weights = np.cos(np.deg2rad(data["lat"]))
    expected = data.weighted(weights)
    data.to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
    for source in (data, tmp_path / "x.nc", data.transpose("lon", "lat", "time")):
        found = fastbn.stream(source, dim=["lat", "lon"], weights=weights)
        np.testing.assert_allclose(found.mean, expected.mean(["lat", "lon"]), rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(found.std(), expected.std(["lat", "lon"]), rtol=1e-12)
        found = fastbn.stream(source, dim=["time", "lat", "lon"], weights=weights * (data["time"] + 1))
        np.testing.assert_allclose(
            found.mean, data.weighted(weights * (data["time"] + 1)).mean(), rtol=1e-11, atol=1e-13
        )
    with pytest.raises(ValueError, match=r"weights must have dimensions of source \(None\), got \('lat',\)"):
        fastbn.stream(data.values, weights=weights)


@pytest.mark.parametrize("given_as", ["column", "array", "file"])
@pytest.mark.parametrize("save", [datafiles.save_csv, datafiles.save_parquet], ids=lambda save: save.__name__)
def test_runs_go_on_with_their_weights(tmp_path: Path, x: Array, w: Array, given_as: str, save: datafiles.Save) -> None:
    both = np.column_stack([x, w])
    np.save(tmp_path / "w.npy", w.tolist() + w.tolist())
    np.save(tmp_path / "y.npy", w[::-1].tolist() + w.tolist())
    source = save(tmp_path, both)
    given: Any = {"column": "c3", "array": np.tile(w, 2), "file": str(tmp_path / "w.npy")}[given_as]
    options: dict[str, Any] = {"weights": given, "memory": LEAST, "columns": ["c0", "c1", "c2"]}
    sources = [source, source]
    whole = fastbn.stream(sources, **options)
    for stop in (3, 9, 14):

        def stopping(done: int, total: int | None, left: list[int] = [stop]) -> None:  # noqa: B006 (one for each)
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fastbn.stream(sources, checkpoint=tmp_path / "c", every=0.0, progress=stopping, **options)
        assert same_bits(fastbn.stream(sources, checkpoint=tmp_path / "c", resume=True, **options), whole)
    with pytest.raises(KeyboardInterrupt):
        fastbn.stream(sources, checkpoint=tmp_path / "c", every=0.0, progress=stopping_at_once, **options)
    with pytest.raises(ValueError, match=r"weights was .* and is"):
        fastbn.stream(sources, checkpoint=tmp_path / "c", resume=True, **options | {"weights": str(tmp_path / "y.npy")})
    np.save(tmp_path / "w.npy", w[::-1].tolist() + w.tolist())
    if given_as == "file":  # of the same name, that was changed
        with pytest.raises(ValueError, match=r"weights was .*w.npy.* and is .*w.npy"):
            fastbn.stream(sources, checkpoint=tmp_path / "c", resume=True, **options)


def stopping_at_once(done: int, total: int | None) -> None:
    raise KeyboardInterrupt


def test_weights_of_no_meaning(tmp_path: Path, x: Array, w: Array) -> None:
    source = datafiles.save_npy(tmp_path, x)
    pd.DataFrame({"w": w, "v": w, "t": "text"}).to_csv(tmp_path / "w.csv", index=False)
    (tmp_path / "folder").mkdir()
    for number in range(2):
        np.save(tmp_path / "folder" / f"{number}.npy", w)
    for weights, said in (
        (tmp_path / "folder", "weights must be one file, got the folder '.*folder'"),
        (tmp_path / "w.csv", "weights must be a table of one column, got 2 in '.*w.csv'"),
        (np.ones((1, 1, 3)), r"weights must have a shape that broadcasts to \(9000, 3\), got \(1, 1, 3\)"),
    ):
        with pytest.raises(ValueError, match=said):
            fastbn.stream(source, weights=weights)
    with pytest.raises(ValueError, match=r"weights must name a column of numbers, got 't' of .*w.csv"):
        fastbn.stream(tmp_path / "w.csv", weights="t")


def test_weights_that_are_no_numbers(x: Array, w: Array) -> None:
    for given, kind, said in (
        (np.ma.masked_array(w, w < 1), TypeError, "weights must not be a masked array"),
        (w + 0j, ValueError, "weights must hold real numbers, got dtype complex128"),
        (w.astype(str), ValueError, "weights must hold real numbers, got dtype <U"),
    ):
        with pytest.raises(kind, match=said):
            fastbn.stream(x, weights=given)


def test_texts_of_weights_are_read_as_the_source_is(tmp_path: Path, x: Array, w: Array) -> None:
    np.savetxt(tmp_path / "w.csv", w)
    source = datafiles.save_npy(tmp_path, x)
    with pytest.raises(ValueError, match=r"w.csv must begin with the columns' names, or say whether it does"):
        fastbn.stream(source, weights=tmp_path / "w.csv")
    assert_weighted(fastbn.stream(source, weights=tmp_path / "w.csv", header=False), x, w)


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table], ids=["pandas", "polars", "arrow"])
def test_a_column_of_a_frame_of_one_type(x: Array, w: Array, make: Any) -> None:
    columns = {"a": x[:, 0], "w": w, "b": x[:, 1]}
    found = fastbn.stream(make(columns), weights="w")
    assert found.names == ("a", "b")
    assert_weighted(found, x[:, :2], w)


def test_images_have_no_weights(tmp_path: Path, rng: np.random.Generator) -> None:
    folder = datafiles.save_images(tmp_path / "images", datafiles.random_images(rng, 2))
    with pytest.raises(ValueError, match="weights must come with arrays or tables, got the images of"):
        fastbn.stream(folder, weights=[1.0, 2.0])
