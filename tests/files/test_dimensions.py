"""Dimensions go by their names, coordinates and descriptions stay: xarray objects, NetCDF, HDF5 and Zarr."""

from __future__ import annotations

import functools
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import numpy as np
import pytest
import xarray as xr
import zarr

import fastbn
from support.datafiles import LEAST, Array, assert_streamed, same_bits


@pytest.fixture
def data(rng: np.random.Generator) -> xr.DataArray:
    """Return a temperature on a grid, over time."""
    values = rng.normal(280.0, 5.0, (40, 6, 8)).astype(np.float32)
    coords = {
        "time": np.datetime64("2020-01-01", "ns") + np.arange(40) * np.timedelta64(86400, "s"),
        "lat": np.linspace(-75, 75, 6),
        "lon": np.linspace(0, 315, 8),
        "mask": (("lat", "lon"), np.arange(48).reshape(6, 8)),
    }
    return xr.DataArray(values, coords, ("time", "lat", "lon"), "t2m", {"units": "K", "long_name": "warmth"})


def standard(x: Array, axis: tuple[int, ...]) -> Array:
    wide = x.astype(np.float64)
    return np.asarray((wide - wide.mean(axis, keepdims=True)) / wide.std(axis, keepdims=True))


# 16 ulp of float32, of values that are up to 5 deviations from zero.
CLOSE = {"rtol": 0.0, "atol": 16 * 2.0**-23 * 5}


@pytest.mark.parametrize(
    ("dim", "axis"),
    [("time", (1, 2)), (["lat", "lon"], 0), (("time", "lat"), 2), (["time", "lat", "lon"], ()), ("lon", (0, 1))],
)
def test_dimensions_are_reduced_by_name(tmp_path: Path, data: xr.DataArray, dim: Any, axis: Any) -> None:
    found = fastbn.stream(data, dim=dim)
    assert_streamed(found, data.values, axis)
    assert_streamed(
        fastbn.stream(data.transpose("lon", "time", "lat"), dim="time"), data.values.transpose(2, 0, 1), (0, 2)
    )
    data.to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
    data.to_dataset().to_zarr(tmp_path / "x.zarr", mode="w", consolidated=False)
    data.to_netcdf(tmp_path / "y.nc", engine="scipy")  # NetCDF 3
    for name in ("x.nc", "x.nc:t2m", "x.zarr:t2m", "x.zarr", "y.nc"):
        assert_streamed(fastbn.stream(f"{tmp_path}/{name}", dim=dim, memory=LEAST), data.values, axis)
    fastbn.standardize(data, found, tmp_path / "z.npy", dim=dim)
    kept = (axis,) if isinstance(axis, int) else axis
    expected = standard(data.values, tuple(a for a in range(3) if a not in kept))
    np.testing.assert_allclose(np.load(tmp_path / "z.npy"), expected, **CLOSE)


def test_dimensions_of_features_are_in_one_order(tmp_path: Path, data: xr.DataArray) -> None:
    square = data[:, :, :6].drop_vars("mask")
    turned = square.transpose("time", "lon", "lat")
    for name, each in (("a", square), ("b", turned), ("c", square)):
        each.to_netcdf(tmp_path / f"{name}.nc", engine="h5netcdf")
    files = [tmp_path / f"{name}.nc" for name in "abc"]
    moments = fastbn.stream(square, dim="time")
    said = r"must have its features along lat, lon, as those before it, got lon, lat$"
    with pytest.raises(ValueError, match=rf"b\.nc {said}"):
        fastbn.stream(files, dim="time")
    with pytest.raises(ValueError, match=rf"b\.nc {said}"):
        fastbn.standardize(files, moments, tmp_path / "y.npy", dim="time")
    with pytest.raises(ValueError, match=rf"source\[1\] {said}"):
        fastbn.stream([square, turned], dim="time")
    with pytest.warns(RuntimeWarning, match=said):
        found = fastbn.stream(files, dim="time", on_error="skip")
    assert_streamed(found, np.concatenate([square, square]), (1, 2))
    # Where they may be in any order: one feature axis, or none.
    for dim in (["time", "lat"], ["time", "lat", "lon"]):
        np.testing.assert_allclose(fastbn.stream(files, dim=dim).mean, square.astype(float).mean(dim), rtol=1e-12)


def test_lazy_arrays_come_in_blocks(tmp_path: Path, data: xr.DataArray) -> None:
    data.to_dataset().to_netcdf(tmp_path / "x.nc", engine="h5netcdf", encoding={"t2m": {"chunksizes": (7, 3, 8)}})
    with xr.open_dataset(tmp_path / "x.nc", engine="h5netcdf", cache=False) as opened:
        assert_streamed(fastbn.stream(opened["t2m"], dim="time", memory=LEAST), data.values, (1, 2))
        assert_streamed(fastbn.stream(opened[["t2m"]], dim="time"), data.values, (1, 2))
        assert_streamed(fastbn.stream(opened["t2m"].chunk({"time": 9, "lat": 2}), dim="time"), data.values, (1, 2))
        with pytest.raises(ValueError, match="out must not be one of the sources"):
            fastbn.standardize(
                opened["t2m"], fastbn.stream(data, dim="time"), tmp_path / "x.nc", dim="time", overwrite=True
            )
    with pytest.raises(ValueError, match=r"source must hold one array, or be one as in data\['NAME'\], got a, b"):
        fastbn.stream(xr.Dataset({"a": data, "b": data}))


@pytest.mark.parametrize("out", ["z.nc", "z.nc:warm", "z.zarr", "z.zarr:warm"])
def test_coordinates_are_kept(tmp_path: Path, data: xr.DataArray, out: str) -> None:
    data.to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
    moments = fastbn.stream(data, dim="time")
    name = out.partition(":")[2] or "t2m"
    for number, source in enumerate((data, f"{tmp_path}/x.nc")):
        (tmp_path / str(number)).mkdir()
        target = f"{tmp_path}/{number}/{out}"
        fastbn.standardize(source, moments, target, dim="time", memory=LEAST)
        path = target if ":" not in out else target.rpartition(":")[0]
        opened = xr.open_zarr(path, consolidated=False) if "zarr" in out else xr.open_dataset(path, engine="h5netcdf")
        with opened:
            found = opened[name].load()
        np.testing.assert_allclose(found.values, standard(data.values, (0,)), **CLOSE)
        assert found.dims == data.dims
        for coord in ("time", "lat", "lon"):
            np.testing.assert_array_equal(found[coord], data[coord])
        np.testing.assert_array_equal(opened["mask"], data["mask"])
        assert found.attrs["units"] == "1"


def test_netcdf_of_many_sources_and_of_none_with_names(
    tmp_path: Path, data: xr.DataArray, rng: np.random.Generator
) -> None:
    x = rng.normal(size=(500, 3))
    fastbn.standardize([x[:200], x[200:]], fastbn.stream(x), tmp_path / "y.nc")
    with xr.open_dataset(tmp_path / "y.nc", engine="h5netcdf") as found:
        np.testing.assert_allclose(found["data"], standard(x, (0,)), rtol=0, atol=1e-13)
    assert fastbn.stream(tmp_path / "y.nc").count == 500
    with pytest.raises(ValueError, match=r"out must hold as many rows as there are coordinates of them, 40, got 80"):
        fastbn.standardize([data, data], fastbn.stream(data, dim="time"), tmp_path / "z.nc", dim="time")
    with pytest.raises(ValueError, match=r"out must be a new file where it is NetCDF, got '.*y.nc:data'"):
        fastbn.standardize(x, fastbn.stream(x), f"{tmp_path}/y.nc:data", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["y.nc"]


@pytest.mark.parametrize("out", ["z.nc", "z.zarr"])
@pytest.mark.parametrize(("axis", "columns"), [(2, [5, 1]), (2, [5, 4, 3, 2, 1, 0]), (0, [30, 7, 8]), (1, [0])])
def test_columns_that_are_chosen_keep_their_coordinates(
    tmp_path: Path, data: xr.DataArray, axis: int, columns: list[int], out: str
) -> None:
    found = fastbn.stream(data, axis=axis, columns=columns)
    assert_streamed(found, np.take(data.values, columns, axis), axis)
    fastbn.standardize(data, found, tmp_path / out, axis=axis, columns=columns)
    others = tuple(each for each in range(3) if each != axis)
    expected = data.copy(data=standard(data.values, others)).isel({data.dims[axis]: columns})
    opened: Any = functools.partial(xr.open_dataset, engine="h5netcdf")
    if "zarr" in out:
        opened = functools.partial(xr.open_zarr, consolidated=False)
    with opened(tmp_path / out) as written:
        (name,) = written.data_vars
        np.testing.assert_allclose(written[name], expected, **CLOSE)
        for coord in data.dims:
            np.testing.assert_array_equal(written[coord], expected[coord])


def test_the_column_of_an_array_of_one_dimension(data: xr.DataArray) -> None:
    found = fastbn.stream(data[:, 0, 0], columns=[0])
    assert_streamed(found, data.values[:, 0, :1])


def test_columns_of_dimensions_without_coordinates(tmp_path: Path, rng: np.random.Generator) -> None:
    data = xr.DataArray(rng.normal(size=(30, 4)), {"time": np.arange(30)}, ("time", "band"), "x")
    fastbn.standardize(data, fastbn.stream(data, columns=[3, 1]), tmp_path / "y.nc", columns=[3, 1])
    with xr.open_dataset(tmp_path / "y.nc", engine="h5netcdf") as found:
        np.testing.assert_allclose(found["x"], standard(data.values, (0,))[:, [3, 1]], rtol=0, atol=1e-13)
        assert found["x"].dims == ("time", "band")


def test_coordinates_of_fewer_rows_than_are_written(tmp_path: Path, data: xr.DataArray) -> None:
    moments = fastbn.stream(data, dim="time")
    with pytest.raises(ValueError, match=r"out must hold as many rows as there are coordinates of them, 40, got 80"):
        fastbn.standardize([data, data], moments, tmp_path / "z.zarr", dim="time")
    assert list(tmp_path.iterdir()) == []


def test_names_of_hdf5_and_zarr(tmp_path: Path, rng: np.random.Generator) -> None:
    x = rng.normal(size=(9, 5, 4))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = x
        for number, name in enumerate(("time", "lat", "lon")):
            file["x"].dims[number].label = name
    array = zarr.open_array(str(tmp_path / "x.zarr"), mode="w", shape=x.shape, dtype=x.dtype, chunks=(3, 5, 4))
    array[...] = x
    array.attrs["_ARRAY_DIMENSIONS"] = ["time", "lat", "lon"]
    for source in (tmp_path / "x.h5", tmp_path / "x.zarr", array):
        assert_streamed(fastbn.stream(source, dim=["lat", "time"]), x, 2)
        with pytest.raises(ValueError, match=r"dim must name dimensions of .* \(time, lat, lon\), got depth"):
            fastbn.stream(source, dim="depth")
    with pytest.raises(ValueError, match=r"dim must name dimensions of source \(none that have names\), got time"):
        fastbn.stream(x, dim="time")
    (tmp_path / "x.csv").write_text("a\n1\n")
    with pytest.raises(ValueError, match=r"axis must be 1 for tables, got \('time',\)"):
        fastbn.stream(tmp_path / "x.csv", dim="time")


def test_variables_have_dimensions_too(tmp_path: Path, data: xr.DataArray) -> None:
    data.to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
    with h5netcdf.File(tmp_path / "x.nc") as file:
        for variable in (data.variable, data.chunk().variable, file[str(data.name)]):
            assert_streamed(fastbn.stream(variable, dim=["lat", "time"]), data.values, 2)


def test_dimensions_are_part_of_a_run(tmp_path: Path, data: xr.DataArray) -> None:
    data.to_netcdf(tmp_path / "x.nc", engine="h5netcdf")

    def stopping(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    options: dict[str, Any] = {"checkpoint": tmp_path / "c", "every": 0.0}
    with pytest.raises(KeyboardInterrupt):
        fastbn.stream(tmp_path / "x.nc", dim="time", progress=stopping, **options)
    with pytest.raises(ValueError, match=r"dim was \['time'\] and is \['lat'\]"):
        fastbn.stream(tmp_path / "x.nc", dim="lat", resume=True, **options)
    whole = fastbn.stream(tmp_path / "x.nc", dim="time")
    assert same_bits(fastbn.stream(tmp_path / "x.nc", dim="time", resume=True, **options), whole)


# Labels along the dimensions of features.


def at(lat: Any, path: Path | None = None) -> Any:
    """Return values at some latitudes, in memory or in a file."""
    data = xr.DataArray(np.arange(20.0 * len(lat)).reshape(20, -1), {"lat": lat}, ("time", "lat"), "t")
    if path is None:
        return data
    data.to_netcdf(path, engine="h5netcdf")
    return str(path)


@pytest.mark.parametrize("options", [{}, {"dim": "time"}, {"columns": [3, 2]}], ids=repr)
@pytest.mark.parametrize("files", [False, True])
def test_sources_have_the_same_labels(tmp_path: Path, files: bool, options: dict[str, Any]) -> None:
    labels = ([10.0, 20.1, 30.0, 40.0], [10.0, 20.1, 40.0, 30.0])
    parts = [at(lat, tmp_path / f"{number}.nc" if files else None) for number, lat in enumerate(labels)]
    name, differs = re.escape(parts[1]) if files else r"source\[1\]", "40.0 at 0, got 30.0"
    if "columns" not in options:
        differs = "30.0 at 2, got 40.0"
    said = rf"^{name} must have the coordinates of those before it along lat, {differs} [(]those without"
    with pytest.raises(ValueError, match=said):
        fastbn.stream(parts, **options)
    moments = fastbn.stream(parts[0], **options)
    with pytest.raises(ValueError, match=said):
        fastbn.standardize(parts, moments, tmp_path / "y.npy", **options)
    left_out: list[str] = []
    found = fastbn.stream([*parts, parts[0]], on_error=lambda name, _: left_out.append(name), **options)
    assert (found.count, len(left_out)) == (40, 1)


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        (np.array([0.1, 0.2]), np.array([0.1, 0.2], np.float32), True),
        (np.array([0.1, np.nan]), np.array([0.1, np.nan]), True),
        (np.array([1, 2]), np.array([1.0, 2.0]), True),
        (np.array([0.1, 0.2]), np.array([0.1, 0.2000001]), False),
        (np.array([2**60, 1]), np.array([2**60 + 1, 1]), False),
        (np.array(["a", "b"]), np.array(["a", "c"]), False),
        (np.array(["2024-01", "2024-02"], "M8[ns]"), np.array(["2024-01", "2024-03"], "M8[ns]"), False),
        (np.array([1, 2, 3]), np.array([1, 2]), None),  # other features: another error
    ],
    ids=str,
)
def test_labels_of_every_kind(one: Array, other: Array, alike: bool | None) -> None:
    for parts in ([at(one), at(other)], [at(other), at(one)]):
        if alike:
            assert fastbn.stream(parts).count == 40
            continue
        with pytest.raises(ValueError, match="must have the features" if alike is None else "must have the coordinat"):
            fastbn.stream(parts)
    unlabelled = at(one).drop_vars("lat")
    assert fastbn.stream([at(one), unlabelled, xr.DataArray(unlabelled.values), unlabelled.values]).count == 80


@pytest.mark.parametrize("group", ["", "g/h"])
@pytest.mark.parametrize("version", [2, 3])
def test_zarr_stores_have_one_set_of_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: Any, group: str
) -> None:
    parts = [f"{tmp_path}/{name}.zarr{f':{group}/t' if group else ''}" for name in "ab"]
    for lat, name in zip(([1.0, 2.0], [1.0, 3.0]), "ab", strict=True):
        how = {"group": group or None, "zarr_format": version, "consolidated": False}
        at(lat).to_dataset().to_zarr(tmp_path / f"{name}.zarr", **how)
    moments = fastbn.stream(parts[0])
    said = r"b\.zarr\S* must have the coordinates of those before it along lat, 2.0 at 1, got 3.0"
    with pytest.raises(ValueError, match=said):
        fastbn.standardize(parts, moments, tmp_path / "y.npy")
    monkeypatch.setitem(sys.modules, "xarray", None)  # which knows them without
    with pytest.raises(ValueError, match=said):
        fastbn.stream(parts)


def test_labels_are_kept_with_how_far_a_run_is(tmp_path: Path) -> None:
    files = [at([1.0, number], tmp_path / f"{number}.nc") for number in (2.0, 3.0)]

    def stopping(done: int, total: int | None) -> None:
        if done >= os.path.getsize(files[0]):
            raise KeyboardInterrupt

    options: dict[str, Any] = {"checkpoint": tmp_path / "c", "every": 0.0}
    with pytest.raises(KeyboardInterrupt):
        fastbn.stream(files, progress=stopping, **options)
    with pytest.raises(ValueError, match=r"3\.0\.nc must have the coordinates of those before it along lat, 2.0 at 1"):
        fastbn.stream(files, resume=True, **options)


# What is packed, and what is no data.


@pytest.mark.parametrize("name", ["x.nc", "y.nc", "x.zarr:v", "z.zarr:v"])
def test_packed_numbers_are_unpacked(tmp_path: Path, rng: np.random.Generator, name: str) -> None:
    values = np.round(rng.normal(10.0, 3.0, (50, 4)), 2)
    values[3, 2] = np.nan
    array = xr.DataArray(values, dims=("row", "col"), name="v").to_dataset()
    encoding = {"v": {"dtype": "int16", "scale_factor": 0.01, "add_offset": 5.0, "_FillValue": -32768}}
    array.to_netcdf(tmp_path / "x.nc", engine="h5netcdf", encoding=encoding)
    array.to_netcdf(tmp_path / "y.nc", engine="scipy", encoding=encoding)
    for store, version in (("x.zarr", 3 if zarr.__version__ >= "3" else 2), ("z.zarr", 2)):
        array.to_zarr(tmp_path / store, mode="w", zarr_format=version, consolidated=False, encoding=encoding)
    found = fastbn.stream(f"{tmp_path}/{name}")
    assert np.asarray(found.count).tolist() == [50, 50, 49, 50]
    np.testing.assert_allclose(found.mean, np.nanmean(values, 0), rtol=1e-12)
    np.testing.assert_allclose(found.std(), np.nanstd(values, 0), rtol=1e-9)
    fastbn.standardize(f"{tmp_path}/{name}", found, tmp_path / "out.npy")
    expected = (values - np.nanmean(values, 0)) / np.nanstd(values, 0)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, rtol=0, atol=1e-12)


def test_unsigned_numbers_of_old_netcdf(tmp_path: Path) -> None:
    array = xr.DataArray(np.array([[0, 200], [255, 100]], np.uint8).view(np.int8), dims=("a", "b"), name="v")
    array.attrs.update({"_Unsigned": "true", "_FillValue": np.int8(-1)})
    array.to_netcdf(tmp_path / "x.nc", engine="scipy")
    found = fastbn.stream(tmp_path / "x.nc")
    assert (np.asarray(found.count).tolist(), found.mean.tolist()) == ([1, 2], [0.0, 150.0])


# What xarray's users expect of a copy.


def described(values: Array) -> xr.Dataset:
    """Return a variable among coordinates of every kind, in a file that says something of itself."""
    coords: Any = {
        "time": ("time", np.arange(40) * 6.0, {"units": "hours since 2020-01-01", "calendar": "standard"}),
        "lat": ("lat", np.linspace(-75, 75, 6), {"units": "degrees_north"}),
        "height": ((), 2.0, {"units": "m"}),
        "zone": ("lat", np.arange(6), {"note": "by hand"}),
    }
    attrs = {"units": "K", "long_name": "warmth", "levels": [1.5, 2.5]}
    about = {"title": "warm", "history": "made, then used", "number": 3, "Conventions": "CF-1.11"}
    return xr.Dataset({"t2m": (("time", "lat"), values, attrs)}, coords, about)


@pytest.mark.parametrize("out", ["y.nc", "y.zarr"])
@pytest.mark.parametrize("source", ["memory", "x4.nc", "x3.nc", "x2.zarr", "x3.zarr", "x4.nc:t2m"])
def test_a_copy_has_what_its_source_has_beside_values(
    tmp_path: Path, rng: np.random.Generator, source: str, out: str
) -> None:
    data = described(rng.normal(280.0, 5.0, (40, 6)))
    data.to_netcdf(tmp_path / "x4.nc", engine="h5netcdf")
    data.to_netcdf(tmp_path / "x3.nc", engine="scipy")
    data.to_zarr(tmp_path / "x2.zarr", zarr_format=2, consolidated=False)
    data.to_zarr(tmp_path / "x3.zarr", **({"zarr_format": 3} if zarr.__version__ >= "3" else {}), consolidated=False)
    given: Any = data if source == "memory" else f"{tmp_path}/{source}"
    moments = fastbn.stream(given, dim="time")
    for target, name in ((f"{tmp_path}/{out}", "t2m"), (f"{tmp_path}/z{out}:warm", "warm")):
        fastbn.standardize(given, moments, target, dim="time", memory=LEAST)
        path = target.removesuffix(":warm")
        how: Any = {"decode_times": False}
        zarrs = out.endswith("zarr")
        with xr.open_zarr(path, **how) if zarrs else xr.open_dataset(path, **how) as opened:
            found = opened.load()
        expected = data.rename({"t2m": name})
        expected[name] = expected[name].copy(data=standard(data["t2m"].values, (0,))).assign_attrs(units="1")
        xr.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
        assert found.attrs == data.attrs
        for each in expected.variables:
            held = {key: np.asarray(value).tolist() for key, value in found[each].attrs.items()}
            assert held == expected[each].attrs, each


def test_a_store_of_one_array_has_none_of_a_name(tmp_path: Path) -> None:
    zarr.save_array(str(tmp_path / "x.zarr"), np.ones((4, 2)))
    assert fastbn.stream(tmp_path / "x.zarr").count == 4
    with pytest.raises(ValueError, match=r"x.zarr:v must name one of its arrays, got none"):
        fastbn.stream(f"{tmp_path}/x.zarr:v")


@pytest.mark.skipif(zarr.__version__ < "3", reason="older ones have no names of dimensions")
def test_arrays_of_a_store_may_have_dimensions_of_other_sizes(tmp_path: Path, rng: np.random.Generator) -> None:
    x = rng.normal(size=(40, 6))
    group = zarr.open_group(tmp_path / "x.zarr", mode="w")
    for name, rows in (("a", 40), ("b", 30)):
        group.create_array(name, data=x[:rows], dimension_names=("time", "lat"))
    fastbn.standardize(f"{tmp_path}/x.zarr:a", fastbn.stream(x), tmp_path / "y.zarr")
    np.testing.assert_allclose(zarr.open_array(tmp_path / "y.zarr")[...], standard(x, (0,)), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ["lat", None])
def test_a_copy_of_what_has_no_name_of_its_own(tmp_path: Path, name: str | None) -> None:
    data = xr.DataArray(np.array([[0.0, 1.0], [2.0, 5.0]]), {"lat": [1.0, 2.0]}, ("time", "lat"), name)
    for out in ("y.nc", "y.zarr"):
        fastbn.standardize(data, fastbn.stream(data), tmp_path / out)
        engine: Any = {"engine": "zarr", "consolidated": False} if "zarr" in out else {}
        with xr.open_dataset(tmp_path / out, **engine) as found:
            assert list(found.data_vars) == ["data"]
            assert found["data"].values.tolist() == [[-1.0, -1.0], [1.0, 1.0]]
            assert found["lat"].values.tolist() == [1.0, 2.0]


def test_a_copy_in_hdf5_has_the_name_of_its_source(tmp_path: Path, rng: np.random.Generator) -> None:
    x = rng.normal(size=(9, 3))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["deep/er"] = x
        file["deep/er"].attrs["unit"] = "K"
        file["deep/er"].attrs["link"] = file["deep"].ref
        file.attrs["made"] = "here"
    fastbn.standardize(tmp_path / "x.h5", fastbn.stream(x), tmp_path / "y.h5")
    with h5py.File(tmp_path / "y.h5") as file:
        assert list(file) == ["er"]
        assert (dict(file.attrs), dict(file["er"].attrs)) == ({"made": "here"}, {"unit": "1"})
        np.testing.assert_allclose(file["er"][...], standard(x, (0,)), rtol=0, atol=1e-13)


@pytest.mark.parametrize("out", ["y.nc", "y.zarr"])
@pytest.mark.parametrize("source", ["x.nc", "x.zarr"])
def test_what_belongs_to_a_variable_is_copied(tmp_path: Path, data: xr.DataArray, source: str, out: str) -> None:
    """The variables that `grid_mapping` and `bounds` name (CF conventions, section 5.6 and chapter 7)."""
    crs = xr.Variable((), np.int32(7), {"grid_mapping_name": "latitude_longitude", "earth_radius": 6371000.0})
    bounds = xr.Variable(("lat", "edges"), np.arange(12.0).reshape(6, 2))
    whole = xr.Dataset({"t2m": data, "crs": crs, "lat_bounds": bounds})
    whole["t2m"].attrs["grid_mapping"], whole["lat"].attrs["bounds"] = "crs", "lat_bounds"
    if source == "x.nc":
        whole.to_netcdf(tmp_path / source, engine="h5netcdf")
    else:
        whole.to_zarr(tmp_path / source, consolidated=False)
    moments = fastbn.stream(tmp_path / source, dim="time")  # it has no other array
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fastbn.standardize(tmp_path / source, moments, tmp_path / out, dim="time")
    how: dict[str, Any] = {"engine": "h5netcdf"} if out == "y.nc" else {"engine": "zarr", "consolidated": False}
    with xr.open_dataset(tmp_path / out, **how) as found:
        assert found["t2m"].attrs["grid_mapping"] == "crs"
        assert found["lat"].attrs["bounds"] == "lat_bounds"
        assert "mask" in found.coords
        xr.testing.assert_identical(found["crs"].variable, crs)
        xr.testing.assert_identical(found["lat_bounds"].variable, bounds)
    with xr.open_dataset(tmp_path / out, decode_coords="all", **how) as found:
        assert {"crs", "lat_bounds", "mask"} <= set(found.coords)


def test_what_belongs_to_a_variable_and_is_missing(tmp_path: Path, data: xr.DataArray) -> None:
    data.attrs["grid_mapping"] = "crs"
    data.to_dataset().to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fastbn.standardize(tmp_path / "x.nc", fastbn.stream(tmp_path / "x.nc"), tmp_path / "y.nc")
    with xr.open_dataset(tmp_path / "y.nc", engine="h5netcdf") as found:
        assert found["t2m"].attrs["grid_mapping"] == "crs"
