"""What statistics remember so that other numbers are not standardized without a word: coordinates, no data, texts."""

from __future__ import annotations

import copy
import json
import math
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
import xarray as xr

import fastbn
from fastbn.__main__ import main
from fastbn.io.statsfiles import load_stats, merged_stats, save_stats

CLOSE: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}
LATITUDES = [-60.0, -20.1, 20.1, 60.0]

Way = Callable[[fastbn.Moments, Path], fastbn.Moments]


def _saved(m: fastbn.Moments, folder: Path) -> fastbn.Moments:
    m.save(folder / "m.npz")
    return fastbn.Moments.load(folder / "m.npz")


def _in_the_commands_file(suffix: str) -> Way:
    def way(m: fastbn.Moments, folder: Path) -> fastbn.Moments:
        save_stats(m, folder / f"s{suffix}")
        return load_stats(folder / f"s{suffix}")

    return way


def _json_of_a_dict(m: fastbn.Moments, folder: Path) -> fastbn.Moments:
    text = json.dumps({key: np.asarray(value).tolist() for key, value in m.to_dict().items()}, allow_nan=False)
    return fastbn.Moments.from_dict(json.loads(text))


WAYS: list[Way] = [
    _saved,
    _in_the_commands_file(".npz"),
    _in_the_commands_file(".json"),
    _json_of_a_dict,
    lambda m, folder: pickle.loads(pickle.dumps(m)),
    lambda m, folder: copy.deepcopy(m),
    lambda m, folder: sum([m], start=fastbn.Moments()),
    lambda m, folder: fastbn.Moments().merge(m),
]


# Coordinates.


def field(rng: np.random.Generator, lat: Any, scale: float = 1.0) -> xr.DataArray:
    """Return values at some latitudes, of another mean and deviation at each."""
    x = rng.normal(100 * np.arange(len(lat)), 1 + np.arange(len(lat)), (50, len(lat))) * scale
    return xr.DataArray(x, {"lat": lat, "time": np.arange(50)}, ("time", "lat"), "t")


def written(data: xr.DataArray, kind: str, folder: Path, name: str = "x") -> Any:
    """Return data as a source of a kind."""
    path = folder / f"{name}{kind}"
    if kind == "memory":
        return data
    if kind == ".zarr":
        data.to_dataset().to_zarr(path, consolidated=False)
    elif kind == ".h5":
        with h5py.File(path, "w") as file:
            for dim in ("time", "lat"):
                labels = data[dim].values
                file[dim] = labels.astype("S") if labels.dtype.kind == "U" else labels
                file[dim].make_scale(dim)
            file["t"] = data.values
            for number, dim in enumerate(("time", "lat")):
                file["t"].dims[number].attach_scale(file[dim])
    else:
        data.to_netcdf(path, engine="h5netcdf")
    return path


def standard(data: xr.DataArray) -> xr.DataArray:
    """Return what xarray makes of it, which goes by labels."""
    return (data - data.mean("time")) / data.std("time")


KINDS = ["memory", ".nc", ".zarr", ".h5"]


@pytest.mark.parametrize("way", WAYS)
def test_coordinates_are_found_in_another_order_after_any_way(
    way: Way, tmp_path: Path, rng: np.random.Generator
) -> None:
    data = field(rng, LATITUDES)
    m = way(fastbn.stream(data), tmp_path)
    turned = data.sel(lat=LATITUDES[::-1])
    fastbn.standardize(turned, m, tmp_path / "y.nc")
    with xr.open_dataarray(tmp_path / "y.nc") as y:
        xr.testing.assert_allclose(y, standard(turned), **CLOSE)
        assert y["lat"].values.tolist() == LATITUDES[::-1]


@pytest.mark.parametrize("measured", KINDS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0], [1, 1]], ids=["alike", "turned", "fewer", "twice"]
)
def test_coordinates_of_every_kind_of_source(
    measured: str, kind: str, order: list[int], tmp_path: Path, rng: np.random.Generator
) -> None:
    data = field(rng, LATITUDES)
    m = fastbn.stream(written(data, measured, tmp_path, "measured"))
    other = data.isel(lat=order)
    fastbn.standardize(written(other, kind, tmp_path), m, tmp_path / "y.npy")
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), standard(other).values, **CLOSE)


@pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification")  # of texts
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("labels", "others", "got"),
    [
        (LATITUDES, [-60.0, -20.1, 20.1, 61.0], "61.0"),
        (LATITUDES, [-60.0, -20.1, 20.2, 60.0], "20.2"),
        ([1, 2, 3, 4], [1, 2, 3, 5], "5"),
        ([2**60, 1, 2, 3], [2**60 + 1, 1, 2, 3], str(2**60 + 1)),
        ([1.0, 1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 1.0], "1.0"),
        (["a", "b", "c", "d"], ["a", "b", "c", "e"], "e"),
        ([1.0, 2.0, 3.0, 1e300], [1.0, 2.0, 3.0, 1e299], r"1e\+299"),
    ],
    ids=str,
)
def test_other_coordinates_are_refused(
    kind: str, labels: Any, others: Any, got: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    m = fastbn.stream(written(field(rng, labels), kind, tmp_path, "measured"))
    other = field(rng, others)
    name = "source" if kind == "memory" else rf".*x{kind}"
    hint = r"\(those without, xarray's drop_vars, go by position\)"
    said = rf"^{name} must have coordinates along lat that the statistics have once, got {got} {hint}$"
    with pytest.raises(ValueError, match=said):
        fastbn.standardize(written(other, kind, tmp_path), m, tmp_path / "y.npy")
    assert not (tmp_path / "y.npy").exists()
    for without in (other.drop_vars("lat"), other.values):
        fastbn.standardize(without, m, tmp_path / "y.npy", overwrite=True)
        x, mean, std = other.values, m.mean, m.std()
        np.testing.assert_allclose(np.load(tmp_path / "y.npy"), (x - mean) / std, **CLOSE)


@pytest.mark.parametrize(
    ("labels", "others"),
    [
        (LATITUDES, np.array(LATITUDES, np.float32)),
        (np.array(LATITUDES, np.float32), LATITUDES),
        ([1.0, np.nan, 2.0, 3.0], [1.0, np.nan, 2.0, 3.0]),
        ([1, 2, 3, 4], [1.0, 2.0, 3.0, 4.0]),
        (["a", "b", "c", "d"], np.array(["a", "b", "c", "d"], object)),
        (["inf", "1.5", "c", "d"], ["inf", "1.5", "c", "d"]),
        (pd.date_range("2020", periods=4), pd.date_range("2020", periods=4, unit="s")),
        (pd.to_timedelta([1, 2, 3, 4], "s"), np.array([1, 2, 3, 4], "m8[s]")),
        ([1.0, np.inf, -np.inf, 2.0], [1.0, np.inf, -np.inf, 2.0]),
    ],
    ids=str,
)
def test_labels_may_be_of_other_types(labels: Any, others: Any, tmp_path: Path, rng: np.random.Generator) -> None:
    data, other = field(rng, labels), field(rng, others)
    for number, m in enumerate(way(fastbn.stream(data), tmp_path) for way in WAYS):
        fastbn.standardize(other, m, tmp_path / f"{number}.npy")
        x = other.values
        np.testing.assert_allclose(np.load(tmp_path / f"{number}.npy"), (x - m.mean) / m.std(), **CLOSE)
    if not any(label != label for label in np.asarray(others).tolist()):
        turned = other.isel(lat=[3, 2, 1, 0])
        fastbn.standardize(turned, m, tmp_path / "turned.npy")
        expected = (turned.values - m.mean[::-1]) / m.std()[::-1]
        np.testing.assert_allclose(np.load(tmp_path / "turned.npy"), expected, **CLOSE)


def test_times_are_compared_as_they_are_meant(tmp_path: Path, rng: np.random.Generator) -> None:
    """A file has numbers since some time, which another may count from another time on; packed labels likewise."""
    x = rng.normal(np.arange(4.0), 1.0, (50, 4))

    def at(name: str, when: Any, attrs: dict[str, Any], calendar: str = "standard") -> Path:
        data = xr.Dataset({"t": (("member", "when"), x), "when": ("when", when, attrs | {"calendar": calendar})})
        data.to_netcdf(tmp_path / name)
        return tmp_path / name

    days = at("days.nc", [0, 1, 2, 3], {"units": "days since 2020-01-01"})
    hours = at("hours.nc", [-24, 0, 24, 48], {"units": "hours since 2020-01-02"})
    later = at("later.nc", [0, 1, 2, 3], {"units": "days since 2021-01-01"})
    m = fastbn.stream(days)
    fastbn.standardize(hours, m, tmp_path / "y.npy")
    with xr.open_dataset(days) as opened:
        fastbn.standardize(opened["t"], m, tmp_path / "z.npy")
    assert (tmp_path / "y.npy").read_bytes() == (tmp_path / "z.npy").read_bytes()
    with pytest.raises(ValueError, match="must have coordinates along when that the statistics have once, got 2021-01"):
        fastbn.standardize(later, m, tmp_path / "u.npy")
    with pytest.raises(ValueError, match=r"coordinates of those before it along when, 2020-01-01.* at 0, got 2021-01"):
        fastbn.stream([days, later])
    packed = [at(f"{add}.nc", [0, 1, 2, 3], {"scale_factor": 0.5, "add_offset": add}) for add in (0.0, 0.5)]
    with pytest.raises(ValueError, match=r"along when, 0\.0 at 0, got 0\.5"):
        fastbn.stream(packed)
    unknown = at("unknown.nc", [0, 1, 2, 3], {"units": "days since 2020-01-01"}, "of its own")
    assert fastbn.stream([unknown, unknown]).count == 100  # whose labels are their numbers


def test_several_axes_and_chosen_features(tmp_path: Path, rng: np.random.Generator) -> None:
    x = rng.normal(10 * np.arange(12.0).reshape(3, 4), 1.0, (40, 3, 4))
    data = xr.DataArray(x, {"lat": [1.0, 2.0, 3.0], "lon": list("abcd")}, ("time", "lat", "lon"))
    m = fastbn.stream(data, dim="time")
    turned = data.isel(lat=[2, 1, 0], lon=[3, 1])
    fastbn.standardize(turned, m, tmp_path / "y.npy", dim="time")
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), standard(turned).values, **CLOSE)
    swapped = data.isel(lon=[0, 1, 2]).transpose("time", "lon", "lat")
    said = "must have its features along lat, as the statistics have, got lon .xarray's transpose swaps them"
    with pytest.raises(ValueError, match=said):
        fastbn.standardize(swapped, m, tmp_path / "z.npy", dim="time")
    for known, dim in ((data.drop_vars("lat"), "lon"), (data.drop_vars("lon"), "lat")):  # of one axis alone
        m = fastbn.stream(known, dim="time")
        other = data.isel({dim: [1, 0]})
        if dim == "lon":
            fastbn.standardize(other, m, tmp_path / "one.npy", dim="time")
            np.testing.assert_allclose(np.load(tmp_path / "one.npy"), standard(other).values, **CLOSE)
    m = fastbn.stream(data[:, 0], columns=[3, 0])
    fastbn.standardize(data[:, 0].isel(lon=[0, 2, 3]), m, tmp_path / "u.npy", columns=[0, 2])
    np.testing.assert_allclose(np.load(tmp_path / "u.npy"), standard(data[:, 0]).values[:, [0, 3]], **CLOSE)


def test_dimensions_of_netcdf_without_coordinates_have_none(tmp_path: Path, rng: np.random.Generator) -> None:
    """HDF5 has a scale of zeros in the place of each."""
    data = field(rng, LATITUDES)
    data.drop_vars("lat").to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
    os.rename(tmp_path / "x.nc", tmp_path / "x.h5")
    assert "coords" not in fastbn.stream(f"{tmp_path}/x.h5:t").to_dict()
    fastbn.standardize(f"{tmp_path}/x.h5:t", fastbn.stream(data), tmp_path / "y.npy")
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), standard(data).values, **CLOSE)


@pytest.mark.parametrize("copied", [False, True])
def test_a_scale_of_hdf5_that_was_removed_is_none(copied: bool, tmp_path: Path, rng: np.random.Generator) -> None:
    data = field(rng, LATITUDES)
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["lat"] = LATITUDES
        file["lat"].make_scale("lat")
        file["t"] = data.values
        file["t"].dims[1].attach_scale(file["lat"])
        file["t"].dims[1].label = "lat"
        del file["lat"]
        if copied:
            path = tmp_path / "copy.h5"
            with h5py.File(path, "w") as copy_of_file:
                file.copy("t", copy_of_file)
    m = fastbn.stream(path)
    assert "coords" not in m.to_dict()
    fastbn.standardize(path, m, tmp_path / "y.h5")
    with h5py.File(tmp_path / "y.h5") as file:
        np.testing.assert_allclose(file["t"][...], standard(data).values, **CLOSE)
        assert [dim.label for dim in file["t"].dims] == ["", "lat"]


def test_statistics_of_other_coordinates_do_not_merge(tmp_path: Path, rng: np.random.Generator) -> None:
    data = field(rng, LATITUDES)
    one, turned = fastbn.stream(data), fastbn.stream(data.sel(lat=LATITUDES[::-1]))
    with pytest.raises(
        ValueError, match=r"^other must have the coordinates of the statistics along lat, -60.0 at 0, got 60"
    ):
        one + turned
    for number, m in enumerate((one, turned)):
        save_stats(m, tmp_path / f"{number}.json")
    with pytest.raises(ValueError, match=r"1\.json must have the coordinates of the statistics along lat, -60.0 at 0"):
        merged_stats([tmp_path / "0.json", tmp_path / "1.json"])
    plain = fastbn.stream(data.values)
    for merged in (one + plain, plain + one, one + one, merged_stats([tmp_path / "0.json"] * 2)):
        assert merged.to_dict()["coords"] == {"dims": ["lat"], "labels": [LATITUDES]}
    both = fastbn.Moments.concatenate([one, fastbn.stream(field(rng, [70.0, 80.0]))])
    assert both.to_dict()["coords"]["labels"] == [[*LATITUDES, 70.0, 80.0]]
    assert "coords" not in fastbn.Moments.concatenate([one, plain]).to_dict()


def test_labels_of_another_axis_are_added(rng: np.random.Generator) -> None:
    data = xr.DataArray(rng.normal(size=(9, 2, 3)), {"lat": [1, 2], "lon": [3, 4, 5]}, ("time", "lat", "lon"))
    parts = [fastbn.stream(data.drop_vars(name), dim="time") for name in ("lat", "lon")]
    assert (parts[0] + parts[1]).to_dict()["coords"]["labels"] == [[1, 2], [3, 4, 5]]
    assert fastbn.stream([data.drop_vars("lat"), data], dim="time").to_dict()["coords"]["labels"] == [[1, 2], [3, 4, 5]]


def test_arrays_of_xarray_in_memory_have_coordinates_too(rng: np.random.Generator) -> None:
    data = field(rng, LATITUDES)
    turned = data.sel(lat=LATITUDES[::-1])
    said = (
        r"^x must have the coordinates of the statistics along lat, -60.0 at 0, got 60.0 "
        r"\(x.sel puts them in order, x.values goes by position\)$"
    )
    for m in (fastbn.moments(data), fastbn.stream(data), fastbn.Moments().update(data)):
        assert m.to_dict()["coords"] == {"dims": ["lat"], "labels": [LATITUDES]}
        y = fastbn.normalize(data, m, eps=0)
        np.testing.assert_allclose(y, standard(data).values, **CLOSE)
        with pytest.raises(ValueError, match=said):
            fastbn.normalize(turned, m)
        with pytest.raises(ValueError, match=said):
            m.update(turned)
        assert m.count == 50
        fastbn.normalize(turned.drop_vars("lat"), m)
        m.update(turned.drop_vars("lat")).update(data).update(data.values)
        assert m.count == 200
    assert "coords" not in fastbn.moments(data.drop_vars("lat")).to_dict()
    with pytest.raises(ValueError, match="at least 2 dimensions"):
        fastbn.normalize(xr.DataArray(1.0), m)


@pytest.mark.parametrize("kind", ["memory", ".nc", ".zarr"])
def test_features_along_another_dimension_of_the_same_size_are_refused(
    kind: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    """Longitudes without coordinates, as many as the latitudes, stand where the statistics have these."""
    x = rng.normal(100 * np.arange(4), 1.0, size=(50, 4, 4))
    data = xr.DataArray(x, {"lat": LATITUDES}, ("time", "lon", "lat"), "t")
    turned = data.transpose("time", "lat", "lon")
    m, z = fastbn.stream(data, dim=("time", "lon")), (x - x.mean(axis=(0, 1))) / x.std(axis=(0, 1))
    source = written(turned, kind, tmp_path)
    must = "must have its features along lat, as the statistics have, got lon"
    for how in ({}, {"axis": 2}, {"dim": ("time", "lat")}):
        with pytest.raises(ValueError, match=f"{must} .dim=, --dim, names the dimensions to reduce"):
            fastbn.standardize(source, m, tmp_path / "y.npy", **how)
    with pytest.raises(ValueError, match=must):
        fastbn.stream([data, source], axis=2)
    assert not (tmp_path / "y.npy").exists()
    fastbn.standardize(source, m, tmp_path / "y.npy", dim=("time", "lon"))
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), z.transpose(0, 2, 1), **CLOSE)
    fastbn.standardize(turned.rename(lat="a", lon="b"), m, tmp_path / "b.npy", axis=2)  # other names go by position

    must = "^x must have its features along lat, as the statistics have, got lon .x.transpose and axis bring them there"
    for wrong in (lambda: fastbn.normalize(turned, m, axis=2), lambda: m.update(turned, axis=2)):
        with pytest.raises(ValueError, match=must):
            wrong()
    np.testing.assert_allclose(fastbn.normalize(turned, m, axis=1, eps=0), z.transpose(0, 2, 1), **CLOSE)


def test_the_command_shows_coordinates(
    tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    times = np.array(["2000-01-01", "2000-01-01T12:00"], "M8[ns]")
    coords = {"time": times, "lat": np.array([-20.1, 1 / 3], np.float32), "site": ["a", "b"]}
    data = xr.DataArray(rng.normal(size=(9, 2, 2, 2, 2)), coords, ("n", "time", "lat", "plain", "site"), "t")
    data.to_netcdf(tmp_path / "x.nc")
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["stats", str(tmp_path / "x.nc"), "--dim", "n"])
    shown = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    times_shown, lats = ("time=2000-01-01", "time=2000-01-01T12:00:00"), ("lat=-20.1", "lat=0.3333333")
    assert shown == [f"{t},{lat},{p},site={s}" for t in times_shown for lat in lats for p in "01" for s in "ab"]


def test_a_run_that_goes_on_remembers_the_same(tmp_path: Path, rng: np.random.Generator) -> None:
    files = []
    for number in range(3):
        data = field(rng, LATITUDES)
        data[number, number] = -999
        files.append(written(data, ".nc", tmp_path, str(number)))

    def stopping(done: int, total: int | None) -> None:
        if done >= os.path.getsize(files[0]) + os.path.getsize(files[1]):
            raise KeyboardInterrupt

    options: dict[str, Any] = {"checkpoint": tmp_path / "c", "every": 0.0, "nodata": {2: -999, 0: [-999, math.nan]}}
    with pytest.raises(KeyboardInterrupt):
        fastbn.stream(files, progress=stopping, **options)
    m = fastbn.stream(files, resume=True, **options)
    assert m.to_bytes() == fastbn.stream(files, nodata=options["nodata"]).to_bytes()
    assert m.to_dict()["coords"]["labels"] == [LATITUDES]
    assert m.to_dict()["nodata"] == {"all": None, "columns": {"2": [-999], "0": [-999, None]}}


# What is no data.


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "nodata", [-999, [-999, np.nan], [np.inf, -999.0], {1: -999}, {0: [], 1: [np.int64(-999)]}], ids=str
)
def test_no_data_is_remembered_after_any_way(way: Way, nodata: Any, tmp_path: Path, rng: np.random.Generator) -> None:
    x = rng.normal(5.0, 2.0, (40, 2))
    x[::4, 1] = -999
    m = way(fastbn.stream(x, nodata=nodata), tmp_path)
    fastbn.standardize(x, m, tmp_path / "y.npy")
    data = np.where(x == -999, np.nan, x)
    expected = (data - np.nanmean(data, axis=0)) / np.nanstd(data, axis=0)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, **CLOSE)


def test_what_is_given_as_no_data_wins(tmp_path: Path, rng: np.random.Generator) -> None:
    x = rng.normal(5.0, 2.0, (40, 2))
    m = fastbn.stream(x, nodata=-999)
    x[0] = -999, -1
    for nodata, gaps in ((None, [True, False]), ([], [False, False]), (-1, [False, True]), ([-1, -999], [True, True])):
        fastbn.standardize(x, m, tmp_path / "y.npy", nodata=nodata, overwrite=True)
        assert np.isnan(np.load(tmp_path / "y.npy")[0]).tolist() == gaps


def test_that_everything_counts_is_remembered(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a"] = [[-1.0, 2.0], [3.0, 4.0]]
        file["a"].attrs["_FillValue"] = -1.0
    for nodata, gap in ((None, True), ([], False)):
        m = fastbn.stream(tmp_path / "x.h5", nodata=nodata)
        fastbn.standardize(tmp_path / "x.h5", m, tmp_path / "y.npy", overwrite=True)
        assert np.isnan(np.load(tmp_path / "y.npy")[0, 0]) == gap


@pytest.mark.parametrize("nodata", [{"b": -1}, {1: -1}, {-2: -1}, {"b": -1, "c": 7}], ids=str)
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_no_data_of_columns_goes_by_their_names(suffix: str, nodata: Any, tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1.0, -1.0, 3.0], "b": [2.0, -1.0, 6.0], "c": [7.0, 8.0, 9.0]})
    other = frame[["c", "b", "a"]]
    for each, name in ((frame, "x"), (other, "other")):
        each.to_csv(tmp_path / f"{name}.csv", index=False)
        each.to_parquet(tmp_path / f"{name}.parquet")
    m = fastbn.stream(tmp_path / f"x.{suffix}", columns=["a", "b"], nodata=nodata)
    assert m.to_dict()["nodata"] == {"all": None, "columns": {"b": [-1]}}
    fastbn.standardize(tmp_path / f"other.{suffix}", m, tmp_path / "y.npy")
    a, b = frame["a"], frame["b"].replace(-1, np.nan)
    expected = np.stack([(each - each.mean()) / each.std(ddof=0) for each in (a, b)], axis=1)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, **CLOSE)


def test_columns_of_one_name_are_remembered_by_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,a\n1,-1\n-1,2\n3,4\n")
    m = fastbn.stream(tmp_path / "x.csv", nodata={1: -1})
    fastbn.standardize(tmp_path / "x.csv", m, tmp_path / "y.npy", columns=[0, 1])
    assert np.isnan(np.load(tmp_path / "y.npy")).tolist() == [[False, True], [False, False], [False, False]]


def test_no_data_of_images_is_remembered(tmp_path: Path) -> None:
    pixels = np.array([[0, 10], [20, 30]], np.uint8)
    tifffile.imwrite(tmp_path / "x.tif", pixels)
    m = fastbn.stream([tmp_path / "x.tif"], nodata={"L": 0})
    fastbn.standardize([tmp_path / "x.tif"], m, tmp_path / "y.npy")
    expected = (np.array([np.nan, 10, 20, 30]) - 20) / np.sqrt(200 / 3)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy").ravel(), expected, rtol=1e-6)


def test_statistics_without_other_values_do_not_merge(tmp_path: Path, rng: np.random.Generator) -> None:
    x = rng.normal(size=(40, 2))
    one, other, none = (fastbn.stream(x, nodata=nodata) for nodata in (-999, -1, None))
    hint = r"\(measure both with all of them\)"
    with pytest.raises(
        ValueError, match=rf"^other must have the nodata of the statistics, .*-999.*, got .*-1.* {hint}$"
    ):
        one + other
    for number, m in enumerate((one, other, none)):
        save_stats(m, tmp_path / f"{number}.npz")
    with pytest.raises(ValueError, match=r"1\.npz must have the nodata of the statistics"):
        merged_stats([tmp_path / "0.npz", tmp_path / "1.npz"])
    for merged in (one + none, none + one, one + one, merged_stats([tmp_path / "0.npz", tmp_path / "2.npz"])):
        assert merged.to_dict()["nodata"] == {"all": [-999], "columns": {}}
    gaps = [_json_of_a_dict(fastbn.stream(x, nodata=np.nan), tmp_path) for _ in range(2)]
    assert (gaps[0] + gaps[1]).count == 80
    assert fastbn.Moments.concatenate([one, one]).to_dict()["nodata"]["all"] == [-999]
    assert "nodata" not in fastbn.Moments.concatenate([one, other]).to_dict()


# How texts were read.


@pytest.mark.parametrize("way", WAYS)
def test_how_a_text_was_read_is_remembered(way: Way, tmp_path: Path) -> None:
    text = "# 2024\nlänge;breite\n1,5;-\n2,5;4\n3,5;8\n"
    for name in ("x.csv", "y.csv"):
        (tmp_path / name).write_bytes(text.encode("latin-1"))
    spelling: dict[str, Any] = {"delimiter": ";", "decimal": ",", "encoding": "latin-1", "comment": "#"}
    m = way(fastbn.stream(tmp_path / "x.csv", nan="omit", null_values="-", **spelling), tmp_path)
    fastbn.standardize(tmp_path / "y.csv", m, tmp_path / "z.csv")
    z = pd.read_csv(tmp_path / "z.csv", sep=";", decimal=",", encoding="latin-1")
    root = math.sqrt(1.5)
    np.testing.assert_allclose(z["länge"], [-root, 0, root], **CLOSE)
    np.testing.assert_allclose(z["breite"], [np.nan, -1, 1], **CLOSE)


def test_numbers_that_would_be_read_in_another_way(tmp_path: Path) -> None:
    """Without the options of then, these would be other numbers, without an error."""
    (tmp_path / "null.csv").write_text("a\n1\n-999\n3\n")
    m = fastbn.stream(tmp_path / "null.csv", nan="omit", null_values="-999")
    fastbn.standardize(tmp_path / "null.csv", m, tmp_path / "null.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "null.npy")[:, 0], [-1, np.nan, 1])
    (tmp_path / "comma.csv").write_text("1,5\n2,5\n3,5\n")
    m = fastbn.stream(tmp_path / "comma.csv", header=False, delimiter=";", decimal=",")
    fastbn.standardize(tmp_path / "comma.csv", m, tmp_path / "comma.npy")
    root = math.sqrt(1.5)
    np.testing.assert_allclose(np.load(tmp_path / "comma.npy")[:, 0], [-root, 0, root], **CLOSE)


def test_what_is_given_of_texts_wins(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a;b\n1,5;2\n2,5;4\n")
    (tmp_path / "y.csv").write_text("a|b\n1.5|2\n2.5|4\n")
    m = fastbn.stream(tmp_path / "x.csv", delimiter=";", decimal=",")
    fastbn.standardize(tmp_path / "y.csv", m, tmp_path / "y.npy", delimiter="|", decimal=".")
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), [[-1, -1], [1, 1]], **CLOSE)


def test_texts_of_two_spellings_merge(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a;b\n1,5;2\n2,5;4\n")
    (tmp_path / "y.csv").write_text("a;b\n1.5;2\n2.5;4\n")
    m = fastbn.stream(tmp_path / "x.csv", delimiter=";", decimal=",", null_values="-")
    other = fastbn.stream(tmp_path / "y.csv", delimiter=";", null_values="-")
    assert (m + other).to_dict()["texts"] == {"delimiter": ";", "null_values": ["-"]}
    with pytest.raises(ValueError, match=r"^other must have the null_values of the statistics, \['-'\], got \['\?'\]"):
        m + fastbn.stream(tmp_path / "y.csv", delimiter=";", null_values="?")


# What a file or a mapping cannot say.


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ({"coords": 3}, "coords must have dims, and labels of features of shape .2,., got 3"),
        ({"coords": {"dims": ["a"], "labels": [[1.0]]}}, "coords must have dims, and labels"),
        ({"coords": {"dims": ["a", "b"], "labels": [[1.0, 2.0]]}}, "coords must have dims, and labels"),
        ({"coords": {"dims": ["a", "b"], "labels": [[1.0, 2.0], [1.0]]}}, "coords must have dims, and labels"),
        ({"coords": {"dims": ["a"], "labels": [7]}}, "coords must have dims, and labels"),
        ({"coords": {"dims": ["a"]}}, "coords must have dims, and labels"),
        ({"nodata": -999}, "nodata must have lists of values, of all and of columns, got -999"),
        ({"nodata": {"all": 3, "columns": {}}}, "nodata must have lists of values"),
        ({"nodata": {"all": None}}, "nodata must have lists of values"),
        ({"texts": 3}, "texts must be a mapping of options to values, got 3"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_with_its_key(rng: np.random.Generator, wrong: dict[str, Any], rule: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{rule}"):
        fastbn.Moments.from_dict(fastbn.moments(rng.normal(size=(5, 2))).to_dict() | wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"texts": {"delimiter": 5}},
        {"texts": {"memory": 5}},
        {"texts": {"decimal": ";;"}},
        {"nodata": {"all": ["x"], "columns": {}}},
    ],
    ids=str,
)
def test_a_file_that_cannot_be_is_refused(rng: np.random.Generator, wrong: dict[str, Any], tmp_path: Path) -> None:
    m = fastbn.moments(rng.normal(size=(5, 2)))
    held = {key: np.asarray(value).tolist() for key, value in m.to_dict().items()}
    (tmp_path / "s.json").write_text(json.dumps(held | wrong))
    with pytest.raises(ValueError, match="must name a file written by fastbn stats"):
        load_stats(tmp_path / "s.json")
