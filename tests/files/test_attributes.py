"""Promise: a copy has the attributes of its source that its format holds, and is a file that others read."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastbn

h5py = pytest.importorskip("h5py")
zarr = pytest.importorskip("zarr")
pytest.importorskip("h5netcdf")
xr = pytest.importorskip("xarray")

X = np.array([[1.0, 10.0], [3.0, 30.0], [5.0, 20.0]])
MOMENTS = fastbn.moments(X)
MISSING = object()
# What an attribute of HDF5 is in copies: in HDF5, NetCDF and Zarr.
ATTRIBUTES: dict[str, tuple[Any, Any, Any, Any]] = {
    "texts": (np.array([b"a", b"bc"]), ["a", "bc"], ["a", "bc"], ["a", "bc"]),
    "old text": (np.bytes_("°C".encode("latin-1")), "°C", "°C", "°C"),
    "text": (np.bytes_("°C".encode()), "°C", "°C", "°C"),
    "matrix": (np.arange(4).reshape(2, 2), [[0, 1], [2, 3]], MISSING, [[0, 1], [2, 3]]),
    "vector": (np.array([1, 2], np.int16), [1, 2], [1, 2], [1, 2]),
    "flag": (True, True, MISSING, True),
    "complex": (1 + 2j, 1 + 2j, MISSING, MISSING),
    "long": (np.longdouble(1.5), 1.5, MISSING, MISSING),
    "pair": (np.array((1, 2.0), [("a", "i4"), ("b", "f8")]), MISSING, MISSING, [1, 2.0]),
    "nothing": (h5py.Empty("f8"), MISSING, MISSING, MISSING),
}


def attributes_of(path: Path) -> Any:
    if path.suffix == ".zarr":
        return dict(zarr.open(path, mode="r").attrs)
    with h5py.File(path, "r") as file:
        (array,) = (file[name] for name in file if file[name].ndim == 2)
        return {key: getattr(value, "tolist", lambda v=value: v)() for key, value in array.attrs.items()}


@pytest.mark.parametrize("key", ATTRIBUTES)
def test_attributes_of_hdf5_are_kept_where_they_can_be(key: str, tmp_path: Path) -> None:
    stored, *wanted = ATTRIBUTES[key]
    with h5py.File(tmp_path / "x.h5", "w") as file:
        array = file.create_dataset("x", data=X)
        array.attrs[key] = file.attrs[key] = stored
        array.attrs["link"] = array.ref
    for suffix, value in zip((".h5", ".nc", ".zarr"), wanted, strict=True):
        out = tmp_path / f"y{suffix}"
        fastbn.standardize(tmp_path / "x.h5", MOMENTS, out)
        found = attributes_of(out)
        if value is MISSING:
            assert key not in found
        elif suffix == ".nc" and isinstance(value, int):  # which has no single numbers
            assert found[key] == [value]
        else:
            assert found[key] == value
        assert "link" not in found


@pytest.mark.parametrize("suffix", [".h5", ".nc"])
def test_attributes_that_only_json_has_stay_in_zarr(suffix: str, tmp_path: Path) -> None:
    attributes = {"mixed": [1, "a"], "nested": {"a": [1]}, "none": None, "ragged": [[1], [2, 3]], "title": "K"}
    zarr.create_array(tmp_path / "x.zarr", data=X, attributes=attributes)
    fastbn.standardize(tmp_path / "x.zarr", MOMENTS, tmp_path / "y.zarr")
    assert attributes_of(tmp_path / "y.zarr") == attributes
    out = tmp_path / f"y{suffix}"
    fastbn.standardize(tmp_path / "x.zarr", MOMENTS, out)
    found = attributes_of(out)
    assert found["title"] == "K"
    assert not {"mixed", "nested", "none", "ragged"} & set(found)


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
@pytest.mark.parametrize("value", [{"a": 1}, None, datetime.date(2020, 1, 1), [1, "a"], True, 1j], ids=repr)
def test_no_attribute_of_a_coordinate_stops_a_copy(value: Any, suffix: str, tmp_path: Path) -> None:
    said = {"odd": value, "units": "m", "scale_factor": 0.5, "levels": np.array([1, 2], np.int16)}
    data = xr.DataArray(X, {"c": ("c", [7, 8], said)}, ("t", "c"), "v", {"odd": value, "units": "K"})
    out = tmp_path / f"y{suffix}"
    fastbn.standardize(data, MOMENTS, out, dim="t")
    with xr.open_dataset(out, engine="zarr" if suffix == ".zarr" else "h5netcdf", mask_and_scale=False) as found:
        assert found["c"].values.tolist() == [7, 8]
        assert found["c"].attrs["scale_factor"] == 0.5
        assert list(found["c"].attrs["levels"]) == [1, 2]
        assert found["c"].attrs["units"] == "m"
    assert data["c"].attrs is not said
    assert list(data["c"].attrs) == list(said)


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_coordinates_that_no_file_holds_are_named(suffix: str, tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    data = xr.DataArray(X, {"c": pd.IntervalIndex.from_breaks([0, 1, 2])}, ("t", "c"), "v")
    with pytest.raises(ValueError, match=r"out must be of a format that holds what is in source, got .*interval"):
        fastbn.standardize(data, MOMENTS, tmp_path / f"y{suffix}", dim="t")
    assert not list(tmp_path.iterdir())


def test_netcdf_is_not_made_of_what_it_has_not(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X.astype(np.float16))
    with pytest.raises(ValueError, match=r"dtype must be float32 or float64 in NetCDF, got float16"):
        fastbn.standardize(tmp_path / "x.npy", MOMENTS, tmp_path / "y.nc")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.npy"]
    fastbn.standardize(tmp_path / "x.npy", MOMENTS, tmp_path / "y.nc", dtype="float32")
    with xr.open_dataset(tmp_path / "y.nc", engine="h5netcdf") as found:
        np.testing.assert_allclose(found["data"], (X - X.mean(0)) / X.std(0), rtol=1e-6)


@pytest.mark.parametrize("unlimited", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_netcdf_is_as_compressed_as_its_source_and_grows_where_it_does(
    packed: bool, unlimited: bool, tmp_path: Path
) -> None:
    data = xr.DataArray(X, {"t": np.arange(3.0), "c": [7, 8]}, ("t", "c"), "v")
    encoding = {"chunksizes": (2, 2)} | ({"zlib": True, "complevel": 7, "shuffle": True} if packed else {})
    how: dict[str, Any] = {"unlimited_dims": ["t"] if unlimited else [], "encoding": {"v": encoding}}
    data.to_dataset().to_netcdf(tmp_path / "x.nc", engine="h5netcdf", **how)
    fastbn.standardize(tmp_path / "x.nc", MOMENTS, tmp_path / "y.nc", dim="t")
    fastbn.standardize(tmp_path / "x.nc", MOMENTS, tmp_path / "y.h5", dim="t")
    for name in ("x.nc", "y.nc", "y.h5"):
        with h5py.File(tmp_path / name, "r") as file:
            found = file["v"]
            assert (found.compression, found.compression_opts) == (("gzip", 7) if packed else (None, None))
            assert (found.chunks, found.shuffle) == ((2, 2), packed)
    with h5py.File(tmp_path / "y.nc", "r") as file:
        assert file["t"].maxshape == ((None,) if unlimited else (3,))
        np.testing.assert_allclose(file["v"], (X - X.mean(0)) / X.std(0), rtol=1e-14)
