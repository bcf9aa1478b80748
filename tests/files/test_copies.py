"""Promise: copies hold what was standardized and what described it, and nothing of other files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fastbn

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


def test_netcdf_takes_the_attributes_that_it_can_hold(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "x.zarr", mode="w")
    array = group.create_array("a", data=X)
    array.attrs.update({"units": "K", "valid": True, "ragged": [[1, 2], [3]], "_nc3_strict": 1})
    fastbn.standardize(tmp_path / "x.zarr", MOMENTS, tmp_path / "z.nc")
    fastbn.standardize(tmp_path / "x.zarr", MOMENTS, tmp_path / "z.h5")
    with xr.open_dataset(tmp_path / "z.nc", engine="h5netcdf") as found:
        (variable,) = found.data_vars.values()
        assert variable.attrs == {"units": "K"}
    with h5py.File(tmp_path / "z.h5") as file:
        (variable,) = file.values()
        assert set(variable.attrs) == {"units", "valid"}


def test_a_store_in_which_some_arrays_have_no_names_of_dimensions(tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    xr.Dataset({"a": (("time", "x"), X)}).to_zarr(path, mode="w", zarr_format=2, consolidated=False)
    zarr.open_group(path, mode="r+").create_array("other", data=X)
    fastbn.standardize(f"{path}:a", MOMENTS, tmp_path / "z.zarr")
    # two passes in float64, over three rows
    expected = (X - X.mean(0)) / X.std(0)
    np.testing.assert_allclose(zarr.open(tmp_path / "z.zarr", mode="r")[...], expected, rtol=1e-12)
