"""One array of several is replaced in one step: the others stay, and how the source was stored is kept."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

import fastbn
from support.datafiles import LEAST, Array
from support.interpreters import run_python

Store = dict[str, Array]
NEW = zarr.__version__ >= "3"  # older ones have other functions to make arrays, and one format

# zarr says of what is consolidated in version 3 that not everybody knows it.
pytestmark = pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")


@pytest.fixture
def x(rng: np.random.Generator) -> Array:
    return rng.normal(5.0, 2.0, (600, 3))


def standard(x: Array) -> Array:
    return np.asarray((x - x.mean(0)) / x.std(0))


def npz(folder: Path, arrays: Store) -> str:
    np.savez_compressed(folder / "k.npz", **{name.replace("/", "_"): value for name, value in arrays.items()})
    return str(folder / "k.npz")


def hdf5(folder: Path, arrays: Store) -> str:
    with h5py.File(folder / "k.h5", "w") as file:
        for name, value in arrays.items():
            file.create_dataset(name, data=value, chunks=(min(50, len(value)), 2), compression="gzip").attrs["unit"] = (
                name
            )
        file.attrs["made"] = "here"
    return str(folder / "k.h5")


def zarr_of(version: int, consolidated: bool) -> Callable[[Path, Store], str]:
    def save(folder: Path, arrays: Store) -> str:
        of_version = {"zarr_format": version} if NEW else {}
        group = zarr.open_group(str(folder / "k.zarr"), mode="w", **of_version)
        for name, value in arrays.items():
            create = group.create_array if NEW else group.create_dataset
            create(name, data=value, chunks=(50, 2)).attrs["unit"] = name
        group.attrs["made"] = "here"
        if consolidated:
            zarr.consolidate_metadata(str(folder / "k.zarr"), **of_version)
        return str(folder / "k.zarr")

    save.__name__ = f"zarr{version}{'c' * consolidated}"
    return save


SAVES = [npz, hdf5, *(zarr_of(version, flag) for version in ((2, 3) if NEW else (2,)) for flag in (False, True))]


def held(path: str) -> Store:
    """Return all arrays of a file, with the libraries that are known for it."""
    if path.endswith(".npz"):
        with np.load(path) as file:
            return dict(file)
    found: Store = {}
    if path.endswith(".h5"):
        with h5py.File(path) as file:
            file.visititems(
                lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
            )
        return found
    group = zarr.open_group(path, mode="r")

    def visit(group: Any, prefix: str) -> None:
        for name in group:
            if isinstance(group[name], zarr.Array):
                found[prefix + name] = np.asarray(group[name][...])
            else:
                visit(group[name], f"{prefix}{name}/")

    visit(group, "")
    return found


@pytest.mark.parametrize("save", SAVES, ids=lambda save: save.__name__)
def test_the_other_arrays_stay(tmp_path: Path, x: Array, save: Callable[[Path, Store], str]) -> None:
    path = save(tmp_path, {"x": x, "z": x[:5], "deep/er": x[:7]})
    before = held(path)
    deep = "deep_er" if save is npz else "deep/er"
    moments = fastbn.stream(f"{path}:x")
    with pytest.raises(FileExistsError, match=r"k.*:z"):
        fastbn.standardize(f"{path}:x", moments, f"{path}:z")
    fastbn.standardize(f"{path}:x", moments, f"{path}:z", overwrite=True, memory=LEAST)
    fastbn.standardize(f"{path}:x", moments, f"{path}:new/one" if save is not npz else f"{path}:new")
    after = held(path)
    assert len(after) == 4
    for name in ("x", deep):
        np.testing.assert_array_equal(after[name], before[name])
    for name in set(after) - {"x", deep}:
        np.testing.assert_allclose(after[name], standard(x), rtol=0, atol=1e-13)
    assert sorted(os.listdir(tmp_path)) == [Path(path).name]
    if save is not npz:
        opened: Any = h5py.File(path) if save is hdf5 else zarr.open_group(path, mode="r")
        assert (opened.attrs["made"], opened["x"].attrs["unit"], opened["z"].attrs["unit"]) == ("here", "x", "1")
        assert opened["z"].chunks == (50, 2)
        if save is hdf5:
            opened.close()


@pytest.mark.parametrize("save", SAVES, ids=lambda save: save.__name__)
def test_a_failure_leaves_the_old_one(tmp_path: Path, x: Array, save: Callable[[Path, Store], str]) -> None:
    path = save(tmp_path, {"x": x, "z": x[:5]})
    before = {file: file.read_bytes() for file in sorted(tmp_path.rglob("*")) if file.is_file()}

    def failing(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fastbn.standardize(f"{path}:x", fastbn.stream(x), f"{path}:z", overwrite=True, progress=failing)
    assert {file: file.read_bytes() for file in sorted(tmp_path.rglob("*")) if file.is_file()} == before


@pytest.mark.parametrize("save", SAVES, ids=lambda save: save.__name__)
def test_what_is_read_is_not_replaced(tmp_path: Path, x: Array, save: Callable[[Path, Store], str]) -> None:
    path = save(tmp_path, {"x": x, "z": x[:5], "deep/er": x[:7]})
    before = held(path)
    for source, out in ((f"{path}:x", f"{path}:x"), (f"{path}:x", path), (f"{path}:x", f"{path}:/x/")):
        with pytest.raises(ValueError, match="out must not be one of the sources"):
            fastbn.standardize(source, fastbn.stream(x), out, overwrite=True)
    if save is not npz:
        with pytest.raises(ValueError, match="out must not be one of the sources"):
            fastbn.standardize(f"{path}:deep/er", fastbn.stream(x), f"{path}:deep", overwrite=True)
        with pytest.raises(ValueError, match=r"out must name an array, got the group '.*:deep'"):
            fastbn.standardize(x, fastbn.stream(x), f"{path}:deep", overwrite=True)
    assert all(np.array_equal(before[name], value) for name, value in held(path).items())


@pytest.mark.parametrize("labels", [("", ""), ("row", ""), ("row", "column")])
@pytest.mark.parametrize("scaled", [False, True])
def test_hdf5_has_the_labels_of_its_source_and_no_others(
    tmp_path: Path, x: Array, labels: tuple[str, str], scaled: bool
) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = x
        for number, label in enumerate(labels):
            if scaled:
                file[f"d{number}"] = np.arange(x.shape[number])
                file[f"d{number}"].make_scale()
                file["x"].dims[number].attach_scale(file[f"d{number}"])
            if label:
                file["x"].dims[number].label = label
        before = set(file["x"].attrs)
    fastbn.standardize(f"{tmp_path}/x.h5:x", fastbn.stream(f"{tmp_path}/x.h5:x"), f"{tmp_path}/y.h5:x")
    with h5py.File(tmp_path / "y.h5") as file:
        assert tuple(dim.label for dim in file["x"].dims) == labels
        assert ("DIMENSION_LABELS" in file["x"].attrs) == ("DIMENSION_LABELS" in before)


def test_hdf5_keeps_how_it_was_stored(tmp_path: Path, x: Array) -> None:
    for name in ("k.h5", "other.h5"):
        with h5py.File(tmp_path / "k.h5", "w") as file:
            options: dict[str, Any] = {
                "chunks": (100, 3),
                "compression": "gzip",
                "compression_opts": 7,
                "shuffle": True,
            }
            data = file.create_dataset("x", data=(x * 100).astype(np.int16), **options)
            time_of = file.create_dataset("time", data=np.arange(600))
            time_of.make_scale("time")
            data.dims[0].attach_scale(time_of)
            data.dims[0].label, data.dims[1].label = "time", "band"
            data.attrs["note"] = np.bytes_(b"by hand")
            data.attrs.update(
                {"units": "K", "long_name": "warmth", "scale_factor": 0.01, "_FillValue": np.int16(-32768)}
            )
        moments = fastbn.stream(tmp_path / "k.h5")  # the only array that is no scale
        assert abs(moments.mean - (x * 100).astype(np.int16).mean(0) / 100).max() < 1e-12
        fastbn.standardize(f"{tmp_path}/k.h5:x", moments, f"{tmp_path}/{name}:z")
        with h5py.File(tmp_path / name) as file:
            z = file["z"]
            assert (z.chunks, z.compression, z.compression_opts, z.shuffle) == ((100, 3), "gzip", 7, True)
            assert dict(z.attrs).keys() & {"units", "long_name", "scale_factor", "_FillValue"} == {"units", "long_name"}
            assert z.attrs["note"] == "by hand"
            assert [dim.label for dim in z.dims] == ["time", "band"]
            assert len(z.dims[0]) == (1 if name == "k.h5" else 0)
            assert z.dtype == np.float64


@pytest.mark.skipif(not NEW, reason="made by functions of version 3")
@pytest.mark.parametrize("version", [2, 3])
def test_zarr_keeps_how_it_was_stored(tmp_path: Path, x: Array, version: int) -> None:
    options: dict[str, Any] = {"dimension_names": ("time", "band"), "shards": (200, 4)} if version == 3 else {}
    codec = zarr.codecs.GzipCodec(level=3) if version == 3 else __import__("numcodecs").GZip(3)
    source = zarr.create_array(
        str(tmp_path / "k.zarr"), name="x", data=x, chunks=(50, 2), compressors=codec, zarr_format=version, **options
    )
    source.attrs.update({"units": "K", "_ARRAY_DIMENSIONS": ["time", "band"]} if version == 2 else {"units": "K"})
    moments = fastbn.stream(f"{tmp_path}/k.zarr:x")
    for out in (f"{tmp_path}/k.zarr:z", f"{tmp_path}/new.zarr:z"):
        fastbn.standardize(f"{tmp_path}/k.zarr:x", moments, out)
        found = zarr.open_group(out.rpartition(":")[0], mode="r")["z"]
        assert found.chunks == (50, 2)
        assert found.compressors == source.compressors
        assert found.attrs["units"] == "1"
        assert found.metadata.zarr_format == version
        if version == 3:
            assert (found.shards, found.metadata.dimension_names) == ((200, 4), ("time", "band"))
        else:
            assert found.attrs["_ARRAY_DIMENSIONS"] == ["time", "band"]
        np.testing.assert_allclose(found[...], standard(x), rtol=0, atol=1e-13)


def test_stores_on_file_systems_without_links(tmp_path: Path, x: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = zarr_of(3 if NEW else 2, True)(tmp_path, {"x": x, "z": x[:5]}), os.link

    def failing(source: Any, target: Any) -> None:
        if str(source).startswith(path):
            raise OSError(95, "not supported")
        real(source, target)  # zarr's own, of what it writes

    monkeypatch.setattr(os, "link", failing)
    fastbn.standardize(f"{path}:x", fastbn.stream(x), f"{path}:z", overwrite=True)
    np.testing.assert_array_equal(held(path)["x"], x)
    np.testing.assert_allclose(held(path)["z"], standard(x), rtol=0, atol=1e-13)


# Killed at any moment.

KILLED = """
import os, signal, threading, time
import fastbn
def kill():
    time.sleep({delay})
    os.kill(os.getpid(), signal.SIGKILL)
moments = fastbn.Moments(2, [0.0] * 3, [2.0] * 3)
source, out = {source!r}, {out!r}
threading.Thread(target=kill, daemon=True).start()
fastbn.standardize(source, moments, out, overwrite=True, memory=2**18)
"""


@pytest.mark.parametrize("save", [npz, hdf5, zarr_of(3 if NEW else 2, True)], ids=lambda save: save.__name__)
def test_a_kill_at_any_moment_leaves_the_old_or_the_new(
    tmp_path: Path, rng: np.random.Generator, save: Callable[[Path, Store], str]
) -> None:
    x = rng.normal(size=(20_000 if save in (npz, hdf5) else 2_000, 3))
    path = save(tmp_path, {"x": x, "z": x[:5]})
    start = time.perf_counter()
    done = run_python(KILLED.format(delay=60, source=f"{path}:x", out=f"{path}:z"))
    assert done.returncode == 0, done.stderr
    save(tmp_path, {"x": x, "z": x[:5]})
    whole = time.perf_counter() - start
    seen: set[tuple[int, ...]] = set()
    for delay in rng.uniform(0, whole / 2, 5):
        done = run_python(KILLED.format(delay=delay, source=f"{path}:x", out=f"{path}:z"))
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        found = held(path)
        np.testing.assert_array_equal(found["x"], x)
        np.testing.assert_array_equal(found["z"], x[:5] if len(found["z"]) == 5 else x)
        seen.add(found["z"].shape)
    assert seen
    fastbn.standardize(f"{path}:x", fastbn.stream(x), f"{path}:z", overwrite=True)
    assert [name for name in os.listdir(tmp_path) if name.endswith(".part")] == []
