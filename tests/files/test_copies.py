"""Promise: copies hold what was standardized and what described it, and nothing of other files."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import fastbn
from support.datafiles import LEAST, Array

h5py = pytest.importorskip("h5py")
zarr = pytest.importorskip("zarr")
pytest.importorskip("h5netcdf")
xr = pytest.importorskip("xarray")

X = np.array([[1.0, 10.0], [3.0, 30.0], [5.0, 20.0]])
MOMENTS = fastbn.moments(X)


@pytest.mark.parametrize("name", ["x.h5", "x.npz", "x.zarr"])
def test_a_folder_takes_nothing_from_a_file_of_that_name_nearby(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    if name.endswith("npz"):
        np.savez(path, a=X, other=X)
    elif name.endswith("h5"):
        with h5py.File(path, "w") as file:
            file["a"], file["other"] = X, X
    else:
        group = zarr.open_group(path, mode="w")
        for key in ("a", "other"):
            group.create_array(key, data=X)
    monkeypatch.chdir(tmp_path)
    fastbn.standardize(f"{name}:a", MOMENTS, "out/")
    if name.endswith("npz"):
        names = list(np.load(tmp_path / "out" / name))
    elif name.endswith("h5"):
        with h5py.File(tmp_path / "out" / name) as file:
            names = list(file)
    else:
        names = list(zarr.open_group(tmp_path / "out" / name, mode="r").array_keys())
    assert names == ["a"]


def test_arrays_keep_their_names_where_the_format_has_them(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **{"raw": X, "deep/er": X})
    np.save(tmp_path / "x.npy", X)
    for source, name in (("x.npz:raw", "raw"), ("x.npz:deep/er", "er"), ("y.h5", "er"), ("x.npy", "data")):
        for out in ("y.h5", "y.nc", "y.npz"):
            if source != out:
                fastbn.standardize(tmp_path / source, MOMENTS, tmp_path / out, overwrite=True)
        with (
            h5py.File(tmp_path / "y.h5") as file,
            xr.open_dataset(tmp_path / "y.nc", engine="h5netcdf") as variables,
            np.load(tmp_path / "y.npz") as arrays,
        ):
            assert [*file] == [*variables.data_vars] == [*arrays] == [name]


def test_netcdf_takes_the_attributes_that_it_can_hold(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "x.zarr", mode="w")
    array = group.create_array("a", data=X)
    array.attrs.update({"units": "K", "valid": True, "ragged": [[1, 2], [3]], "_nc3_strict": 1})
    fastbn.standardize(tmp_path / "x.zarr", MOMENTS, tmp_path / "z.nc")
    fastbn.standardize(tmp_path / "x.zarr", MOMENTS, tmp_path / "z.h5")
    with xr.open_dataset(tmp_path / "z.nc", engine="h5netcdf") as found:
        (variable,) = found.data_vars.values()
        assert variable.attrs == {"units": "1"}
    with h5py.File(tmp_path / "z.h5") as file:
        (variable,) = file.values()
        assert set(variable.attrs) == {"units", "valid"}


@pytest.mark.parametrize("suffix", ["h5", "nc"])
def test_attributes_keep_their_types(suffix: str, tmp_path: Path) -> None:
    told = {"flags": np.array([1, 2], "i1"), "first": np.float32(0.1), "count": np.uint16(3), "units": "K", "half": 0.5}
    path = tmp_path / f"x.{suffix}"
    if suffix == "nc":
        xr.DataArray(X, dims=("t", "k"), name="a", attrs=told).to_netcdf(path, engine="h5netcdf")
    else:
        with h5py.File(path, "w") as file:
            file["a"] = X
            file["a"].attrs.update({**told, "half": np.float16(0.5)})
    fastbn.standardize(path, MOMENTS, tmp_path / f"z.{suffix}")
    with h5py.File(tmp_path / f"z.{suffix}") as file:
        found = dict(file["a"].attrs)
    for name, value in (told | {"units": "1"}).items():
        np.testing.assert_array_equal(found[name], value)
        assert np.asarray(found[name]).dtype == np.asarray(value).dtype


@pytest.mark.parametrize("out", ["y.nc", "y.h5", "y.zarr", "x.h5:z"])
@pytest.mark.parametrize("source", ["x.nc", "x.h5", "x.zarr", "memory"])
def test_nothing_is_said_of_the_old_numbers(source: str, out: str, tmp_path: Path) -> None:
    """Units (of CF, section 3.1: "1" is none), ranges, flags and what packed numbers were unpacked by."""
    old = {"valid_min": -9.0, "valid_range": [-9.0, 9.0], "actual_range": [-1.0, 5.0], "missing_value": -7.0}
    old |= {"flag_values": [1.0, 2.0], "flag_meanings": "good bad", "least_significant_digit": 2, "scale_factor": 1.0}
    units, kept = {"units": "K", "Unit": "m", "GRIB_units": "K"}, {"long_name": "warmth", "standard_name": "warm"}
    told = {**old, **units, **kept}
    h5py.File(tmp_path / "x.h5", "w").close()
    given: Any = xr.DataArray(X, dims=("t", "k"), name="a", attrs=told)
    if source == "x.h5":
        with h5py.File(tmp_path / source, "w") as file:
            file["a"] = X
            file["a"].attrs.update(told)
    elif source == "x.zarr":
        zarr.open_group(tmp_path / source, mode="w").create_array("a", data=X).attrs.update(told)
    elif source == "x.nc":
        given.to_netcdf(tmp_path / source, engine="h5netcdf")
    given = given if source == "memory" else f"{tmp_path}/{source}:a"
    fastbn.standardize(given, MOMENTS, f"{tmp_path}/{out}")
    if out == "y.zarr":
        opened: Any = zarr.open(tmp_path / out, mode="r")
        found = dict((opened if hasattr(opened, "dtype") else opened["a"]).attrs)
    else:
        with h5py.File(tmp_path / out.partition(":")[0]) as file:
            name = next(name for name in file if name in (("z",) if ":" in out else ("a", "data")))
            found = {key: file[name].attrs[key] for key in file[name].attrs}
    assert {key: found[key] for key in units} == {"units": "1", "Unit": "1", "GRIB_units": "1"}
    assert {key: found[key] for key in kept} == kept
    assert not found.keys() & old.keys()


def test_a_store_in_which_some_arrays_have_no_names_of_dimensions(tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    xr.Dataset({"a": (("time", "x"), X)}).to_zarr(path, mode="w", zarr_format=2, consolidated=False)
    zarr.open_group(path, mode="r+").create_array("other", data=X)
    fastbn.standardize(f"{path}:a", MOMENTS, tmp_path / "z.zarr")
    # two passes in float64, over three rows
    expected = (X - X.mean(0)) / X.std(0)
    np.testing.assert_allclose(zarr.open(tmp_path / "z.zarr", mode="r")[...], expected, rtol=1e-12)


# What is computed is data, zeros too.

NEW = zarr.__version__ >= "3"
# Column 1 is constant, so that all of its copy is 0.
CONSTANT = np.array([[1.0, 5.0, 0.0], [2.0, 5.0, 1.0], [3.0, 5.0, 5.0]])


def save(form: str, folder: Path, x: Array) -> str:
    """Return the path of a variable that xarray has written, in chunks of one column."""
    data = xr.Dataset({"v": (("t", "c"), x)}, coords={"c": np.arange(x.shape[1])})
    if form == "netcdf":
        data.to_netcdf(folder / "x.nc", engine="h5netcdf", encoding={"v": {"_FillValue": None}})
        return f"{folder}/x.nc:v"
    how: Any = {"zarr_format": int(form[-1]), "consolidated": False}
    data.to_zarr(folder / "x.zarr", encoding={"v": {"chunks": (len(x) // 3, 1)}}, **how)
    return f"{folder}/x.zarr:v"


def read(path: str, name: str) -> Array:
    """Return a variable as xarray reads it, with NaN for what is no data."""
    if path.endswith(".zarr"):
        return np.asarray(xr.open_zarr(path, consolidated=False)[name])
    with xr.open_dataset(path, engine="h5netcdf") as file:
        return np.asarray(file[name])


@pytest.mark.skipif(not NEW, reason="made by functions of version 3")
@pytest.mark.parametrize("form", ["zarr2", "zarr3", "netcdf"])
@pytest.mark.parametrize("out", ["z.zarr", "z.nc", "folder/", "x.zarr:w", "v2.zarr:w", "v3.zarr:w"])
@pytest.mark.parametrize("spoiled", [False, True])
def test_zeros_of_copies_are_data(form: str, out: str, spoiled: bool, tmp_path: Path) -> None:
    x = CONSTANT.copy()
    x[2, 0] = np.nan if spoiled else x[2, 0]
    source = save(form, tmp_path, x)
    for version in (2, 3):
        zarr.open_group(tmp_path / f"v{version}.zarr", mode="w", zarr_format=version)
    mean, std = CONSTANT.mean(0), np.array([CONSTANT.std(0)[0], 1, CONSTANT.std(0)[2]])
    fastbn.standardize(source, fastbn.moments(CONSTANT), f"{tmp_path}/{out}")
    path, _, name = out.partition(":")
    path = f"{tmp_path}/folder/{Path(source).name.partition(':')[0]}" if path == "folder/" else f"{tmp_path}/{path}"
    # two passes in float64, over three rows; assert_allclose takes NaN for equal to NaN alone
    np.testing.assert_allclose(read(path, name or "v"), (x - mean) / std, rtol=1e-12)
    found = fastbn.stream(f"{path}:{name or 'v'}")
    assert found.count == 3
    assert np.isnan(found.mean).tolist() == [spoiled, False, False]


@pytest.mark.skipif(not NEW, reason="made by functions of version 3")
@pytest.mark.parametrize("resume", [False, True])
def test_chunks_of_zeros_are_written_where_there_is_no_fill_value(resume: bool, tmp_path: Path) -> None:
    """Zarr's version 2 does not say what a chunk holds that is not there."""
    x = np.stack([np.arange(6000.0), np.full(6000, 5.0)], axis=1)
    source, out = save("zarr2", tmp_path, x), tmp_path / "z.zarr"
    moments, stopped = fastbn.moments(x), []

    def stopping(done: int, total: int | None) -> None:
        if resume and not stopped:
            stopped.append(done)
            raise KeyboardInterrupt

    for _ in range(1 + resume):
        with suppress(KeyboardInterrupt):
            fastbn.standardize(source, moments, out, resume=resume, every=0.0, memory=LEAST, progress=stopping)
    assert len(stopped) == resume
    array = zarr.open_group(out, mode="r")["v"]
    assert array.fill_value is None
    assert {file.name for file in (out / "v").iterdir()} >= {f"{row}.{column}" for row in range(3) for column in (0, 1)}
    np.testing.assert_array_equal(array[:, 1], 0)


def test_version_3_of_zarr_says_what_is_no_data_by_attributes(tmp_path: Path) -> None:
    """Whatever else is there: xarray reads the zeros."""
    if not NEW:
        pytest.skip("made by functions of version 3")
    array = zarr.open_group(tmp_path / "x.zarr", mode="w").create_array("v", data=CONSTANT, dimension_names=("t", "c"))
    array.attrs["_ARRAY_DIMENSIONS"] = ["t", "c"]
    assert array.fill_value == 0
    np.testing.assert_array_equal(read(f"{tmp_path}/x.zarr", "v"), CONSTANT)
    assert fastbn.stream(f"{tmp_path}/x.zarr:v").count == 3


# What a file cannot hold is said.


@pytest.mark.parametrize(
    ("column", "how", "said"),
    [
        (pa.array([1, 2], pa.uint64()), {}, "uint64 (column 'b')"),
        (pa.array([1, 2], pa.uint8()), {}, "uint8 (column 'b')"),
        (pa.array([1, 2], pa.time32("s")), {}, "(column 'b')"),
        (pa.array(["x", "y"]), {"dtype": "float16"}, "halffloat (column 'a')"),
    ],
)
def test_types_that_orc_has_not(column: Any, how: Any, said: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1.0, 3.0], "i": pa.array([1, 2], pa.int8()), "b": column}), tmp_path / "x.parquet")
    moments = fastbn.stream(tmp_path / "x.parquet", columns=["a"])
    with pytest.raises(
        ValueError, match=r"out must be of a format that holds what is in .*x.parquet, got .*z.orc"
    ) as info:
        fastbn.standardize(tmp_path / "x.parquet", moments, tmp_path / "z.orc", **how)
    assert str(info.value).endswith(said)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.parquet"]


@pytest.mark.parametrize("name", ["z.nc", "z.zarr"])
def test_an_index_of_several_levels(name: str, tmp_path: Path) -> None:
    levels = pd.MultiIndex.from_product([["a"], range(3)], names=["p", "q"])
    coords = xr.Coordinates.from_pandas_multiindex(levels, "t")
    with pytest.raises(
        ValueError, match=r"out must be of a format that holds what is in source, got .*'t' is a MultiIndex"
    ):
        fastbn.standardize(xr.DataArray(X, coords, ("t", "c")), MOMENTS, tmp_path / name)
    assert list(tmp_path.iterdir()) == []
