"""Values that are no data are left out, whoever says so: the caller, or the file by the rules of its format."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
import xarray as xr
import zarr

import fastbn
from fastbn.io.counting import Counting
from fastbn.io.options import Options
from support import datafiles
from support.datafiles import ARRAYS, LEAST, TABLES, Array, assert_streamed, same_bits


@pytest.fixture
def x(rng: np.random.Generator) -> Array:
    return rng.normal(size=(300, 2))


def spoiled(rng: np.random.Generator, dtype: Any = np.float64) -> tuple[Array, Array]:
    """Return values of which some are -999 or 7777, and where those are."""
    x = rng.integers(0, 100, (9_000, 3)).astype(dtype)
    bad = rng.random(x.shape) < 0.1
    x[bad] = -999
    x[4, 1] = 7777
    bad[4, 1] = True
    return x, bad


def assert_without(found: fastbn.Moments, x: Array, bad: Array) -> None:
    assert np.asarray(found.count).tolist() == (~bad).sum(0).tolist()
    for i in range(x.shape[1]):
        kept = x[~bad[:, i], i].astype(np.float64)
        np.testing.assert_allclose([found.mean[i], found.std()[i]], [kept.mean(), kept.std()], rtol=1e-12)
        assert (found.min[i], found.max[i]) == (kept.min(), kept.max())  # type: ignore[index]


@pytest.mark.parametrize("save", ARRAYS + TABLES, ids=lambda save: save.__name__)
def test_values_that_are_named(tmp_path: Path, rng: np.random.Generator, save: datafiles.Save) -> None:
    x, bad = spoiled(rng)
    source = save(tmp_path, x)
    found = fastbn.stream(source, nodata=[-999, 7777], memory=LEAST)
    assert_without(found, x, bad)
    assert_without(
        fastbn.stream(source, nodata=(-999.0, 7777), columns=[2, 1], memory=LEAST), x[:, [2, 1]], bad[:, [2, 1]]
    )
    out = tmp_path / ("y.parquet" if save in TABLES else "y.npy")
    fastbn.standardize(source, found, out, nodata=[-999, 7777], memory=LEAST)
    y = pd.read_parquet(out).to_numpy() if save in TABLES else np.load(out)
    np.testing.assert_array_equal(np.isnan(y), bad)
    np.testing.assert_allclose(y[~bad], ((x - found.mean) / found.std())[~bad], rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "i8", "u8", "f2", "f4", ">i2", ">f4", "g"])
def test_in_all_types(tmp_path: Path, dtype: str) -> None:
    x = np.array([[1, 2], [100, 4], [3, 100]]).astype(dtype)
    np.save(tmp_path / "x.npy", x)
    found = fastbn.stream(tmp_path / "x.npy", nodata=100)
    assert (np.asarray(found.count).tolist(), found.mean.tolist()) == ([2, 2], [2.0, 3.0])
    assert fastbn.stream(tmp_path / "x.npy", nodata=[-70_000, 1e300, 2.5]).count == 3  # which no type of these holds
    assert same_bits(fastbn.stream(x, nodata=100), found)


def test_by_column(tmp_path: Path, rng: np.random.Generator) -> None:
    x = np.array([[0.0, 0.0, 9.0], [1.0, -1.0, 5.0], [0.0, 7.0, 9.0]])
    for source, names in ((datafiles.save_npy(tmp_path, x), (0, 2)), (datafiles.save_csv(tmp_path, x), ("c0", "c2"))):
        found = fastbn.stream(source, nodata={names[0]: 0, names[1]: [9, -1]})
        assert (np.asarray(found.count).tolist(), found.mean.tolist()) == ([1, 3, 1], [1.0, 2.0, 5.0])
        chosen = fastbn.stream(source, nodata={names[1]: [9]}, columns=[2, 1])
        assert (np.asarray(chosen.count).tolist(), chosen.mean.tolist()) == ([1, 3], [5.0, 2.0])
        with pytest.raises(ValueError, match=r"columns of nodata must be among .*, got 'nosuch'"):
            fastbn.stream(source, nodata={"nosuch": 0})
        with pytest.raises(ValueError, match=r"columns of nodata must not name one of .* twice"):
            fastbn.stream(source, nodata={names[0]: 0, -3: 1})
    frame = pd.DataFrame(x, columns=["a", "b", "c"])
    assert np.asarray(fastbn.stream(frame, nodata={"a": 0}).count).tolist() == [1, 3, 3]
    wide = rng.integers(0, 3, (4, 30_000))  # rows longer than a block
    found = fastbn.stream(datafiles.save_npy(tmp_path, wide), nodata={1: 1, 29_999: 2}, memory=LEAST)
    expected = np.full(30_000, 4)
    expected[1], expected[29_999] = (wide[:, 1] != 1).sum(), (wide[:, 29_999] != 2).sum()
    assert np.asarray(found.count).tolist() == expected.tolist()


@pytest.mark.parametrize("options", [{}, {"dtype": "float64"}, {"dtype": "float32"}], ids=str)
def test_columns_are_compared_as_they_are_stored(tmp_path: Path, options: dict[str, Any]) -> None:
    a = np.array([-999.9, 1, 2], "f4")
    table = pa.table(
        {
            "a": a,
            "whole": [1, 2, 3],
            "half": a.astype("f2"),
            "double": np.array([np.float32(-999.9), -999.9, 2.0]),
            "gaps": pa.array([None, 0, 3]),
            "flags": pa.array([True, None, False]),
            "none": pa.nulls(3),
            "decimals": pa.array([Decimal("-999.9"), None, Decimal(3)], pa.decimal128(6, 1)),
        }
    )
    pq.write_table(table, tmp_path / "x.parquet")
    columns = table.column_names
    for source in (table, table.to_pandas(), tmp_path / "x.parquet"):
        given = options | {"columns": columns}
        found = fastbn.stream(source, nodata=-999.9, nan="omit", **given)
        assert np.asarray(found.count).tolist() == [2, 3, 2, 2, 2, 2, 0, 1]
        found = fastbn.stream(source, nodata=[0, np.nan], **given)  # what is missing is NaN
        assert np.asarray(found.count).tolist() == [3, 3, 3, 3, 1, 1, 0, 2]
        found = fastbn.stream(source, nodata=0, **given)
        assert np.asarray(found.count).tolist() == [3, 3, 3, 3, 2, 2, 3, 3]
        assert np.isnan(found.mean[[4, 5]]).all()
    large = pa.table({"a": [2**53 + 1, 2**53, 0]})
    assert fastbn.stream(large, nodata=2**53 + 1, dtype="float64").count == 2


@pytest.mark.parametrize("dtype", ["int64", "uint64", pa.decimal128(20, 0)], ids=str)
def test_what_stands_for_no_data_need_not_be_held_by_float64(tmp_path: Path, dtype: Any) -> None:
    sentinel = np.iinfo(np.int64).max
    column = pa.array([1, sentinel, None, 2, sentinel], pa.int64()).cast(dtype)
    pq.write_table(pa.table({"a": column, "b": column.dictionary_encode()}), tmp_path / "x.parquet")
    found = fastbn.stream(tmp_path / "x.parquet", nodata=sentinel, nan="omit")
    assert np.broadcast_to(found.count, 2).tolist() == [2, 2]
    assert found.mean.tolist() == [1.5, 1.5]
    with pytest.raises(ValueError, match=rf"x\.parquet must hold integers that float64 holds, got {sentinel} in 'a'"):
        fastbn.stream(tmp_path / "x.parquet", nodata=1)


def test_with_nan_and_infinity() -> None:
    x = np.array([[-1.0, np.nan], [2.0, 4.0], [np.inf, -1.0]])
    assert np.isnan(fastbn.stream(x, nodata=-1).mean).tolist() == [True, True]
    found = fastbn.stream(x, nodata=-1, where_finite=True)
    assert (np.asarray(found.count).tolist(), found.mean.tolist()) == ([1, 1], [2.0, 4.0])
    found = fastbn.stream(x, nodata=[np.nan, np.inf])
    assert (np.asarray(found.count).tolist(), found.mean.tolist()) == ([2, 2], [0.5, 1.5])


# What files say.


def hdf5(folder: Path, x: Array, **attrs: Any) -> str:
    with h5py.File(folder / "x.h5", "w") as file:
        file["x"] = x
        file["x"].attrs.update(attrs)
    return str(folder / "x.h5")


def zarr_(folder: Path, x: Array, **attrs: Any) -> str:
    array = zarr.open_array(str(folder / "x.zarr"), mode="w", shape=x.shape, dtype=x.dtype, fill_value=0)
    array[...] = x
    array.attrs.update({key: np.asarray(value).tolist() for key, value in attrs.items()})
    return str(folder / "x.zarr")


@pytest.mark.parametrize("save", [hdf5, zarr_])
@pytest.mark.parametrize("dtype", ["i2", "f4", "f8"])
def test_fill_values_of_arrays(tmp_path: Path, rng: np.random.Generator, save: Callable[..., str], dtype: str) -> None:
    x, bad = spoiled(rng, dtype)
    stored = np.dtype(dtype).type
    found = fastbn.stream(save(tmp_path, x, _FillValue=stored(-999), missing_value=np.array([7777], dtype)))
    assert_without(found, x, bad)
    assert_streamed(fastbn.stream(save(tmp_path, x, _FillValue=stored(-999)), nodata=[]), x)
    assert_without(fastbn.stream(save(tmp_path, x), nodata=[-999, 7777]), x, bad)
    for other in ("nonsense", ["a", "b"]):
        assert fastbn.stream(save(tmp_path, x, _FillValue=other)).count == len(x)
    assert fastbn.stream(save(tmp_path, np.zeros((4, 2), dtype))).count == 4  # a fill value of Zarr's is no such


@pytest.mark.parametrize(
    ("dtype", "nodata"), [("i2", "-999"), ("f4", "-999"), ("f4", "nan"), ("u1", "77"), ("u1", "-1"), ("f8", "x")]
)
def test_no_data_of_geotiffs(tmp_path: Path, rng: np.random.Generator, dtype: str, nodata: str) -> None:
    x = rng.integers(0, 50, (20, 30)).astype(dtype)
    bad = rng.random(x.shape) < 0.2
    held = nodata not in ("-1", "x")
    if held:
        x[bad] = float(nodata)
    tags = [(42113, "s", 0, nodata, True)]
    tifffile.imwrite(tmp_path / "x.tif", x, extratags=tags)
    found = fastbn.stream(tmp_path / "x.tif")
    kept = x[~bad] if held else x.reshape(-1)
    assert found.count == kept.size
    np.testing.assert_allclose(
        [found.mean[0], found.std()[0]], [kept.mean(dtype=float), kept.std(dtype=float)], rtol=1e-12
    )
    fastbn.standardize(tmp_path / "x.tif", found, tmp_path / "y.npy")
    assert np.isnan(np.load(tmp_path / "y.npy")).sum() == (bad.sum() if held else 0)
    assert fastbn.stream(tmp_path / "x.tif", nodata=[]).count == x.size


def geotiff(path: Path, x: Array, *nodata: str | None) -> Path:
    """Write an image, or one for each text that says what is no data."""
    with tifffile.TiffWriter(path) as file:
        for text in nodata:
            file.write(x, extratags=[(42113, "s", 0, text, True)] if text is not None else (), contiguous=False)
    return path


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [("f4", "-3.4028234663852886e+38"), ("u1", "255.0"), ("i2", "-32768"), ("f8", "nan"), ("u1", "-1")],
)
def test_tiles_that_are_not_stored_are_no_data(tmp_path: Path, dtype: str, nodata: str) -> None:
    tiles = [np.full((16, 16), 7, dtype), None, None, np.full((16, 16), 9, dtype)]
    tags = [(42113, "s", 0, nodata, True)]
    tifffile.imwrite(tmp_path / "x.tif", iter(tiles), shape=(32, 32), dtype=dtype, tile=(16, 16), extratags=tags)
    held = nodata != "-1"  # which no tile of these integers can hold: zeros are then what GDAL gives
    found = fastbn.stream(tmp_path / "x.tif")
    assert (found.count, found.mean[0]) == ((512, 8.0) if held else (1024, 4.0))


@pytest.mark.parametrize("dtype", ["i2", "f4"])
@pytest.mark.parametrize("said", [(None, "-9999"), ("-9999", None), ("-9999", "-1"), ("nan", "-1"), ("-1", "-1")])
def test_every_geotiff_says_what_is_no_data(tmp_path: Path, dtype: str, said: tuple[str | None, ...]) -> None:
    x = np.array([[[-9999, 2, -1, 4]], [[-9999, 6, -1, 8]]], dtype)
    files = [geotiff(tmp_path / f"{i}.tif", each, text) for i, (each, text) in enumerate(zip(x, said, strict=True))]
    bad = np.array([each == float(text or "nan") for each, text in zip(x, said, strict=True)])
    for source in (tmp_path, files):
        for memory in (LEAST, 64 << 20):
            found = fastbn.stream(source, memory=memory)
            assert (found.count, found.mean[0]) == ((~bad).sum(), x[~bad].mean(dtype=float))
        fastbn.standardize(source, found, tmp_path / "y.npy", overwrite=True)
        y = np.load(tmp_path / "y.npy").reshape(x.shape)
        np.testing.assert_array_equal(np.isnan(y), bad)
        assert fastbn.stream(source, nodata=[]).count == x.size
        assert fastbn.stream(source, nodata=[-1, 4]).count == x.size - 3


def test_no_data_of_images_in_many_blocks(tmp_path: Path, rng: np.random.Generator) -> None:
    parts = [rng.integers(0, 9, (60 + 7 * i, 300), np.int16) for i in range(9)]
    for i, part in enumerate(parts):
        geotiff(tmp_path / f"{i}.tif", part, str(i) if i % 2 else None)
    kept = np.concatenate([part[part != i] if i % 2 else part.reshape(-1) for i, part in enumerate(parts)])
    found = fastbn.stream(tmp_path, memory=LEAST)
    assert found.count == len(kept)
    np.testing.assert_allclose([found.mean[0], found.std()[0]], [kept.mean(), kept.std()], rtol=1e-12)


def test_pages_say_the_same_of_no_data(tmp_path: Path) -> None:
    x = np.array([[1, 2, -1]], np.int16)
    assert fastbn.stream(geotiff(tmp_path / "same.tif", x, "-1", "-1")).count == 4
    for said, named in (((None, "-1"), "None and -1"), (("-1", "2"), "-1 and 2")):
        path = geotiff(tmp_path / "other.tif", x, *said)
        with pytest.raises(ValueError, match=rf"other.tif must say of all its pages what is no data, .* got {named}"):
            fastbn.stream(path)
        assert fastbn.stream(path, nodata=-1).count == 4


def test_channels_of_images(tmp_path: Path, rng: np.random.Generator) -> None:
    images = datafiles.random_images(rng, 3, (9, 9))
    folder = datafiles.save_images(tmp_path / "images", images)
    flat = datafiles.pixels(images)
    found = fastbn.stream(folder, nodata={"R": [int(flat[0, 0])], 2: int(flat[5, 2])})
    expected = [(flat[:, 0] != flat[0, 0]).sum(), len(flat), (flat[:, 2] != flat[5, 2]).sum()]
    assert np.asarray(found.count).tolist() == expected


# Ranges that are said to be valid.


def netcdf(folder: Path, x: Array, **attrs: Any) -> str:
    xr.Dataset({"x": (("t", "c"), x, attrs)}).to_netcdf(folder / "x.nc", engine="h5netcdf")
    return str(folder / "x.nc")


@pytest.mark.parametrize("save", [hdf5, zarr_, netcdf])
@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", "f8"])
def test_valid_ranges(tmp_path: Path, rng: np.random.Generator, save: Callable[..., str], dtype: str) -> None:
    x = rng.integers(0, 100, (900, 3)).astype(dtype)
    of = x.dtype.type
    for attrs, bad, note in (
        ({"valid_range": np.array([10, 90], dtype)}, (x < 10) | (x > 90), "below 10 or above 90 (valid_range)"),
        ({"valid_min": of(10)}, x < 10, "below 10 (valid_min)"),
        ({"valid_max": of(90)}, x > 90, "above 90 (valid_max)"),
        ({"valid_min": of(10), "valid_max": of(90), "_FillValue": of(50)}, (x < 10) | (x > 90) | (x == 50), "50 (_Fi"),
        ({"valid_range": np.array([10, 90], dtype), "valid_min": of(20)}, (x < 10) | (x > 90), "(valid_range)"),
    ):
        source = save(tmp_path, x, **attrs)
        counting = Counting(source, Options(memory=LEAST))
        assert_without(counting.moments(), x, bad)
        assert any(each.startswith("left out as no data: ") and note in each for each in counting.state.notes)
        assert_streamed(fastbn.stream(source, nodata=[]), x)
        fastbn.standardize(source, fastbn.stream(source), tmp_path / "y.npy", overwrite=True)
        np.testing.assert_array_equal(np.isnan(np.load(tmp_path / "y.npy")), bad)
    copy = tmp_path / "y.nc"  # whose values are in other units
    fastbn.standardize(source, fastbn.stream(source, columns=[0]), copy, columns=[0])
    assert fastbn.stream(copy, nan="omit").count == (~bad[:, 0]).sum()


def test_ranges_of_stored_numbers_and_of_unpacked_ones(tmp_path: Path) -> None:
    """The NetCDF User's Guide: a range of the type of scale_factor is one of unpacked values."""
    x = np.array([[1, 2], [50, 4], [-3, 60]], np.int16)
    packing: dict[str, Any] = {"scale_factor": 0.5, "add_offset": 10.0}
    stored = np.array([0, 50], np.int16)
    assert np.asarray(fastbn.stream(hdf5(tmp_path, x, valid_range=stored, **packing)).count).tolist() == [2, 2]
    unpacked = np.array([8.6, 34.9])  # -2.8 and 49.8 as they are stored
    assert np.asarray(fastbn.stream(hdf5(tmp_path, x, valid_range=unpacked, **packing)).count).tolist() == [1, 2]
    assert fastbn.stream(hdf5(tmp_path, x, valid_min=-2.5)).count[0] == 2  # type: ignore[index]
    held = np.array([[200, 3], [255, 3], [7, 3]], np.uint8)
    source = hdf5(tmp_path, held.view(np.int8), _Unsigned="true", valid_range=np.array([0, 254], np.uint8).view("i1"))
    assert fastbn.stream(source).mean.tolist() == [103.5, 3.0]


@pytest.mark.parametrize(("key", "given"), [("valid_range", 5.0), ("valid_min", [1.0, 2.0]), ("valid_max", "many")])
def test_ranges_that_are_none(tmp_path: Path, x: Array, key: str, given: Any) -> None:
    counting = Counting(hdf5(tmp_path, x, **{key: given}), Options())
    assert_streamed(counting.moments(), x)
    assert counting.state.notes == [f"not understood, and not applied: {key} = {np.asarray(given)}"]


def test_nan_and_infinity_beside_a_range(tmp_path: Path) -> None:
    source = hdf5(tmp_path, np.array([[1.0, 1.0], [np.nan, 5.0], [3.0, np.inf]]), valid_max=100.0)
    assert np.isnan(fastbn.stream(source).mean).tolist() == [True, False]
    assert np.asarray(fastbn.stream(source, nan="omit").count).tolist() == [2, 2]
    half = np.array([[1.0], [60_000.0]], np.float16)
    assert fastbn.stream(hdf5(tmp_path, half, valid_range=[-1e9, 1e9])).count == 2


def test_objects_of_xarray_may_have_other_numbers_than_their_range(tmp_path: Path) -> None:
    data = xr.DataArray([[1.0, 2.0], [3.0, 4.0]], dims=("t", "c"), attrs={"valid_range": [100, 200]})
    for given in (data, data.variable, data.to_dataset(name="x")):
        assert fastbn.stream(given).count == 2
    with h5py.File(hdf5(tmp_path, data.values, valid_max=2.5)) as file:
        assert np.asarray(fastbn.stream(file["x"]).count).tolist() == [1, 1]


@pytest.mark.parametrize("held", ["double", "single", "logical", None])
def test_empty_arrays_of_matlab(tmp_path: Path, x: Array, held: str | None) -> None:
    attrs: Any = {"MATLAB_empty": np.uint8(1)} | ({} if held is None else {"MATLAB_class": np.bytes_(held)})
    empty = hdf5(tmp_path, np.array([2, 0], np.uint64), **attrs)
    np.save(tmp_path / "x.npy", x)
    assert fastbn.stream(empty).count == 0
    assert_streamed(fastbn.stream([empty, tmp_path / "x.npy"]), x)
    fastbn.standardize(empty, fastbn.stream(x), tmp_path / "y.npy")
    y = np.load(tmp_path / "y.npy")
    assert (y.shape, y.dtype) == ((0, 2), np.float32 if held == "single" else np.float64)
    for shape, kind in (([2, 3], "double"), ([0, 2**60], "double"), ([0, 0], "cell")):
        attrs["MATLAB_class"] = np.bytes_(kind)
        with pytest.raises(ValueError, match=r"x\.h5 (must be an empty array, as MATLAB_empty says|cannot be read)"):
            fastbn.stream(hdf5(tmp_path, np.array(shape, np.uint64), **attrs))


# Signs and factors of stored numbers.

TRUE = ["true", "True", np.bytes_(b"true"), np.array([b"true"]), np.array("true", h5py.string_dtype()), ["true"]]


@pytest.mark.parametrize("said", TRUE, ids=repr)
def test_signs_as_hdf5_may_spell_them(tmp_path: Path, said: Any) -> None:
    x = np.array([[-1, 1], [-2, 3], [-3, 2]], np.int8)
    found = fastbn.stream(hdf5(tmp_path, x, _Unsigned=said, _FillValue=np.int8(-3)))
    np.testing.assert_array_equal(found.mean, [254.5, 2])
    other: Any = "false" if isinstance(said, str) else np.array([b"false"])
    found = fastbn.stream(hdf5(tmp_path, x.view(np.uint8), _Unsigned=other, _FillValue=np.uint8(253)))
    np.testing.assert_array_equal(found.mean, [-1.5, 2])
    assert fastbn.stream(hdf5(tmp_path, x, _Unsigned="perhaps")).min[0] == -3


@pytest.mark.parametrize("engine", ["h5netcdf", "zarr"])
@pytest.mark.parametrize("fill", [None, -2, 254])
@pytest.mark.parametrize(("dtype", "said"), [("u1", "false"), ("i1", "true"), ("<i2", "true"), (">u2", "false")])
def test_signs_are_those_of_xarray(tmp_path: Path, engine: str, fill: int | None, dtype: str, said: str) -> None:
    stored = np.array([[255, 1], [254, 2], [7, 3]]).astype(dtype)
    variable = xr.Variable(("t", "c"), stored, {"_Unsigned": said})
    if fill is not None:
        variable.attrs["_FillValue"] = np.array(fill).astype(dtype)[()]
    if engine == "zarr":
        path = tmp_path / "x.zarr"
        xr.Dataset({"v": variable}).to_zarr(path, zarr_format=2, consolidated=False)
        expected = xr.open_zarr(path, consolidated=False)["v"].to_numpy()
    else:
        path = tmp_path / "x.nc"
        xr.Dataset({"v": variable}).to_netcdf(path, engine="h5netcdf")
        with xr.open_dataset(path, engine="h5netcdf") as file:
            expected = file["v"].to_numpy()
    found = fastbn.stream(f"{path}:v")
    np.testing.assert_array_equal(found.min, np.nanmin(expected, 0))
    np.testing.assert_array_equal(found.max, np.nanmax(expected, 0))
    np.testing.assert_array_equal(np.broadcast_to(found.count, (2,)), np.isfinite(expected).sum(0))


@pytest.mark.parametrize("given", ["-999", np.bytes_(b"-999"), np.array([b"-999"]), "-999.0"], ids=repr)
@pytest.mark.parametrize("dtype", ["i2", "f4", "f8"])
def test_fill_values_that_are_texts_of_numbers(tmp_path: Path, dtype: str, given: Any) -> None:
    x = np.array([[1, 2], [-999, 4], [3, 6]], dtype)
    for key in ("_FillValue", "missing_value"):
        found = fastbn.stream(hdf5(tmp_path, x, **{key: given}))
        assert (found.count[0], found.mean[0], found.mean[1]) == (2, 2, 4)


@pytest.mark.skipif(zarr.__version__ < "3", reason="of version 3")
def test_fill_values_in_the_spelling_of_zarr(tmp_path: Path) -> None:
    """A float is written by xarray as base64 of its bytes."""
    x = xr.DataArray([[1.0, 2.0], [-999.0, 4.0], [3.0, 6.0]], dims=("t", "c"), attrs={"_FillValue": -999.0})
    x.to_dataset(name="v").to_zarr(tmp_path / "x.zarr", zarr_format=3, consolidated=False)
    assert zarr.open_group(tmp_path / "x.zarr", mode="r")["v"].attrs["_FillValue"].endswith("=")
    assert fastbn.stream(f"{tmp_path}/x.zarr:v").mean[0] == 2


@pytest.mark.parametrize("key", ["scale_factor", "add_offset"])
@pytest.mark.parametrize("given", [[1.0, 2.0], np.zeros(0), "0.5", 1j], ids=repr)
def test_factors_that_are_not_one_number(tmp_path: Path, key: str, given: Any) -> None:
    path = hdf5(tmp_path, np.ones((3, 2), np.int16), **{key: given})
    with pytest.raises(ValueError, match=rf"x.h5 must have one number as {key}, got "):
        fastbn.stream(path)
    assert fastbn.stream(hdf5(tmp_path, np.ones((3, 2), np.int16), **{key: [2.0]})).mean[0] in (2, 3)
