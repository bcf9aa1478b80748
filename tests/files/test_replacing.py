"""Promise: what a copy replaces is no source by any of its names, keeps its mode and its links, and leaves no rest."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
import xarray as xr
import zarr

import fastbn
from support.datafiles import Array

NEW = zarr.__version__ >= "3"
X = np.array([[1.0, 10.0], [3.0, 30.0], [5.0, 20.0]])
MOMENTS = fastbn.moments(X)
REFUSED = "out must not be one of the sources"


def stored(folder: Path) -> None:
    """Return an HDF5 file of which arrays have several names."""
    with h5py.File(folder / "other.h5", "w") as file:
        file["far"] = X
    with h5py.File(folder / "h.h5", "w") as file:
        file["g/x"], file["z"] = X, X[:1]
        file["soft"], file["softer"] = h5py.SoftLink("/g/x"), h5py.SoftLink("soft")
        file["same"], file["group"] = file["g/x"], h5py.SoftLink("/g")
        file["outside"], file["nowhere"] = h5py.ExternalLink("other.h5", "far"), h5py.SoftLink("/none")
        for name, path, of in (("made", ".", "g/x"), ("twice", ".", "made"), ("afar", "other.h5", "far")):
            layout = h5py.VirtualLayout(X.shape, X.dtype)
            layout[:] = h5py.VirtualSource(path, of, X.shape)
            file.create_virtual_dataset(name, layout)


@pytest.mark.parametrize(
    ("source", "out"),
    [
        *[("h.h5:g/x", f"h.h5:{name}") for name in ("./g/x", "g//x", "g/./x", "soft", "softer", "same", "group/x")],
        *[(f"h.h5:{name}", "h.h5:g/x") for name in ("./g/x", "g//x", "soft", "softer", "same", "group/x")],
        *[(f"h.h5:{name}", "h.h5:g/x") for name in ("made", "twice")],
        *[(f"h.h5:{name}", "other.h5:far") for name in ("outside", "afar")],
        *[(f"h.h5:{name}", "other.h5") for name in ("outside", "afar")],
        ("link.h5:g/x", "h.h5:soft"),
        ("h.h5:soft", "link.h5:g/x"),
    ],
)
def test_a_source_of_hdf5_by_another_name(
    source: str, out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(tmp_path)
    (tmp_path / "link.h5").symlink_to("h.h5")
    before = {name: (tmp_path / name).read_bytes() for name in ("h.h5", "other.h5")}
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=REFUSED):
        fastbn.standardize(source, MOMENTS, out, overwrite=True)
    with pytest.raises(ValueError, match=REFUSED):  # nor is one left out and then replaced
        fastbn.standardize(iter([X, source]), MOMENTS, out, overwrite=True, on_error="skip")
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


@pytest.mark.parametrize("source", ["made", "twice", "soft", "g/x", "outside", "afar"])
@pytest.mark.parametrize("out", ["h.h5:z", "h.h5:new", "h.h5:nowhere", "other.h5:z", "new.h5"])
def test_another_array_of_the_file_of_a_source(
    source: str, out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(tmp_path)
    monkeypatch.chdir(tmp_path)
    if out in ("h.h5:z", "h.h5:nowhere"):
        with pytest.raises(FileExistsError):
            fastbn.standardize(f"h.h5:{source}", MOMENTS, out)
    fastbn.standardize(f"h.h5:{source}", MOMENTS, out, overwrite=True)
    with h5py.File("h.h5") as file, h5py.File("other.h5") as other:
        for array in (file["g/x"], file["made"], file["outside"], other["far"]):
            np.testing.assert_array_equal(array[...], X)


def test_a_source_that_is_one_of_many_files_of_a_virtual_array(tmp_path: Path) -> None:
    """They are named by a pattern, and one may be made of others in turn."""
    for number in range(2):
        with h5py.File(tmp_path / f"part-{number}.h5", "w") as file:
            file["far"] = file["z"] = X
    with h5py.File(tmp_path / "h.h5", "w") as file:
        options, whole = h5py.h5p.create(h5py.h5p.DATASET_CREATE), (h5py.h5s.UNLIMITED, X.shape[1])
        spaces = [h5py.h5s.create_simple((0, X.shape[1]), whole) for _ in range(2)]
        spaces[0].select_hyperslab((0, 0), (h5py.h5s.UNLIMITED, 1), stride=X.shape, block=X.shape)
        options.set_virtual(spaces[0], b"part-%b.h5", b"far", h5py.h5s.create_simple(X.shape))
        h5py.h5d.create(file.id, b"v", h5py.h5t.NATIVE_DOUBLE, spaces[1], options)
        assert file["v"].shape == (6, 2)
    for out in ("part-1.h5:far", "part-1.h5"):
        with pytest.raises(ValueError, match=REFUSED):
            fastbn.standardize(f"{tmp_path}/h.h5:v", MOMENTS, f"{tmp_path}/{out}", overwrite=True)
    fastbn.standardize(f"{tmp_path}/h.h5:v", MOMENTS, f"{tmp_path}/h.h5:z")
    np.testing.assert_array_equal(opened(tmp_path / "part-1.h5", "far"), X)


def test_virtual_arrays_of_each_other(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            layout = h5py.VirtualLayout(X.shape, X.dtype)
            layout[:] = h5py.VirtualSource(f"{other}.h5", "v", X.shape)
            file.create_virtual_dataset("v", layout)
    before = (tmp_path / "b.h5").read_bytes()
    refused = r"a\.h5:/v must not be made of itself"
    with pytest.raises(ValueError, match=refused):
        fastbn.standardize(f"{tmp_path}/a.h5:v", MOMENTS, f"{tmp_path}/b.h5:v", overwrite=True)
    with pytest.raises(ValueError, match=refused):
        fastbn.stream(f"{tmp_path}/a.h5")
    assert (tmp_path / "b.h5").read_bytes() == before


def test_a_virtual_array_of_one_that_misses_a_file(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "none")):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            layout = h5py.VirtualLayout(X.shape, X.dtype)
            layout[:] = h5py.VirtualSource(f"{other}.h5", "v", X.shape)
            file.create_virtual_dataset("v", layout)
    with pytest.raises(ValueError, match=r"b\.h5:/v must have all files that it is made of, got none of 'none\.h5'"):
        fastbn.stream(f"{tmp_path}/a.h5")


@pytest.mark.skipif(not NEW, reason="made by functions of version 3")
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("out", ["k.zarr:g//x", "k.zarr:./g/x", "k.zarr:link/x", "real.zarr:g//x", "real.zarr"])
def test_a_source_of_zarr_by_another_name(
    version: Any, out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    zarr.open_group("real.zarr", mode="w", zarr_format=version).create_array("g/x", data=X)
    os.symlink("real.zarr", "k.zarr")
    os.symlink("g", "real.zarr/link")
    for source in ("k.zarr:g/x", "k.zarr:link/x"):
        with pytest.raises(ValueError, match=REFUSED):
            fastbn.standardize(source, MOMENTS, out, overwrite=True)
    np.testing.assert_array_equal(zarr.open_group("real.zarr", mode="r")["g/x"][...], X)


def test_a_source_of_npz_by_another_name(tmp_path: Path) -> None:
    path = tmp_path / "k.npz"
    np.savez(path, **{"x": X, "g/x": X})
    before = path.read_bytes()
    for source, out in (("x", "./x"), ("g/x", "g//x"), ("g/x", "g/./x")):
        with pytest.raises(ValueError, match=REFUSED):
            fastbn.standardize(f"{path}:{source}", MOMENTS, f"{path}:{out}", overwrite=True)
    assert path.read_bytes() == before
    fastbn.standardize(f"{path}:x", MOMENTS, f"{path}:g/../x")  # which is a name of its own, as in HDF5
    with np.load(path) as file:
        assert sorted(file) == ["g/../x", "g/x", "x"]
        np.testing.assert_array_equal(file["x"], X)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def saved(path: Path) -> None:
    if path.suffix == ".npy":
        np.save(path, X)
    elif path.suffix == ".npz":
        np.savez(path, x=X)
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["x"] = X
    else:
        xr.Dataset({"x": (("t", "c"), X)}).to_zarr(path, consolidated=False)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444])
@pytest.mark.parametrize("name", ["k.npy", "k.npz", "k.h5", "k.npz:y", "k.h5:y", "k.zarr", "k.zarr:y"])
def test_the_mode_of_what_is_replaced_stays(name: str, mode: int, tmp_path: Path) -> None:
    path = tmp_path / name.partition(":")[0]
    saved(path)
    mode |= 0o300 if path.is_dir() else 0
    path.chmod(mode)
    fastbn.standardize(X, MOMENTS, f"{tmp_path}/{name}", overwrite=True)
    assert mode_of(path) == mode
    assert os.listdir(tmp_path) == [path.name]


def test_what_replaces_nothing_has_the_mode_of_new_files(tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    fastbn.standardize(X, MOMENTS, tmp_path / "k.npy")
    assert mode_of(tmp_path / "k.npy") == mode_of(tmp_path / "new")


def test_the_mode_of_statistics_stays(tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    MOMENTS.save(path)
    path.chmod(0o600)
    fastbn.io.statsfiles.save_stats(MOMENTS, path)
    assert mode_of(path) == 0o600


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".zarr"])
def test_a_link_to_a_file_stays_one_where_an_array_is_added(suffix: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    real, link = tmp_path / "data" / f"real{suffix}", tmp_path / f"l{suffix}"
    saved(real)
    link.symlink_to(Path("data") / real.name)
    fastbn.standardize(f"{link}:x", MOMENTS, f"{link}:y")
    assert link.is_symlink()
    np.testing.assert_array_equal(opened(real, "x"), X)
    # two passes in float64, over three rows
    np.testing.assert_allclose(opened(real, "y"), (X - X.mean(0)) / X.std(0), rtol=1e-12)
    assert (os.listdir(real.parent), sorted(os.listdir(tmp_path))) == ([real.name], ["data", link.name])


@pytest.mark.parametrize("name", ["k.npy", "k.npz", "k.h5", "k.zarr", "k.csv"])
@pytest.mark.parametrize("there", [True, False])
def test_what_a_link_leads_to_is_replaced(name: str, there: bool, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    real, link = tmp_path / "data" / f"real-{name}", tmp_path / name
    if there:
        fastbn.standardize(X[:1], fastbn.moments(X[:1]), real) if name != "k.csv" else real.touch()
    link.symlink_to(Path("data") / real.name)
    source = pa.table({"a": X[:, 0], "b": X[:, 1]}) if name == "k.csv" else X
    with pytest.raises(FileExistsError):
        fastbn.standardize(source, MOMENTS, link)
    fastbn.standardize(source, MOMENTS, link, overwrite=True)
    fastbn.standardize(source, MOMENTS, tmp_path / f"same-{name}")
    assert link.is_symlink()
    np.testing.assert_array_equal(fastbn.stream(real).mean, fastbn.stream(tmp_path / f"same-{name}").mean)
    assert (os.listdir(real.parent), sorted(os.listdir(tmp_path))) == ([real.name], ["data", name, f"same-{name}"])


def test_a_link_to_statistics_stays_one(tmp_path: Path) -> None:
    (tmp_path / "s.npz").symlink_to("real.npz")
    fastbn.io.statsfiles.save_stats(MOMENTS, tmp_path / "s.npz")
    assert (tmp_path / "s.npz").is_symlink()
    np.testing.assert_array_equal(fastbn.Moments.load(tmp_path / "real.npz").mean, MOMENTS.mean)


def opened(path: Path, name: str) -> Array:
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return np.asarray(arrays[name])
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            return np.asarray(file[name][...])
    return np.asarray(zarr.open_group(path, mode="r")[name][...])


@pytest.mark.parametrize("out", ["k.h5:.", "k.npz:./", "k.zarr:.//.", "k.zarr:zarr.json", "k.zarr:g/.zarray"])
def test_a_name_that_names_nothing(out: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"out must name an array, got '.*{out}'"):
        fastbn.standardize(X, MOMENTS, f"{tmp_path}/{out}")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("suffix", [".h5", ".zarr"])
def test_no_array_is_made_in_an_array(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"k{suffix}"
    saved(path)
    for name in ("x/y", "x/y/z"):
        with pytest.raises(ValueError, match=rf"out must name an array in a group, got '.*k{suffix}:{name}'"):
            fastbn.standardize(X, MOMENTS, f"{path}:{name}", overwrite=True)
    np.testing.assert_array_equal(opened(path, "x"), X)


@pytest.mark.skipif(not NEW, reason="older versions have no tasks of their own")
def test_nothing_is_left_of_a_store_that_is_still_being_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends the wait for what zarr's own thread does, not that."""
    made: list[Any] = []

    async def making(path: str) -> None:
        await asyncio.sleep(0.3)
        os.makedirs(path, exist_ok=True)
        Path(path, "zarr.json").touch()

    def interrupted(path: str, **options: Any) -> None:
        loop = zarr.core.sync._get_loop()
        made.append(asyncio.run_coroutine_threadsafe(making(path), loop))
        raise KeyboardInterrupt

    monkeypatch.setattr(zarr, "create_array", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fastbn.standardize(X, MOMENTS, tmp_path / "k.zarr")
    made[0].result(timeout=30)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("suffix", ["h5", "zarr", "npz"])
@pytest.mark.parametrize("there", [True, False])
def test_arrays_that_others_write_to_the_file_meanwhile_stay(suffix: str, there: bool, tmp_path: Path) -> None:
    source, path = tmp_path / "x.npy", tmp_path / f"y.{suffix}"
    np.save(source, X)
    if there:
        fastbn.standardize(source, MOMENTS, f"{path}:old")

    def write(done: int, total: int | None) -> None:
        if suffix == "npz":
            held = dict(np.load(path)) if path.exists() else {}
            np.savez(path, **held | {"other": X})
        elif suffix == "h5":
            with h5py.File(path, "a") as file:
                file.pop("other", None)
                file["other"] = X
        elif NEW:
            zarr.open_group(path, mode="a").create_array("other", data=X, overwrite=True)
        else:
            zarr.open_group(str(path), mode="a").array("other", X, overwrite=True)

    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match=r"\(another program has written it in the meantime\).*:mine"):
            fastbn.standardize(source, MOMENTS, f"{path}:mine", progress=write, overwrite=overwrite)
        assert sorted(os.listdir(tmp_path)) == ["x.npy", path.name]
    fastbn.standardize(source, MOMENTS, f"{path}:mine")
    for name in ("old", "other", "mine") if there else ("other", "mine"):
        assert fastbn.stream(f"{path}:{name}").count == 3


@pytest.mark.parametrize("name", ["y.npy", "y.csv", "y"])
def test_what_appears_meanwhile_is_not_replaced(name: str, tmp_path: Path) -> None:
    pa.csv.write_csv(pa.table({"a": X[:, 0], "b": X[:, 1]}), tmp_path / "x.csv")

    def write(done: int, total: int | None) -> None:
        (tmp_path / name).write_text("precious")

    with pytest.raises(FileExistsError, match="another program has written it in the meantime"):
        fastbn.standardize(tmp_path / "x.csv", MOMENTS, tmp_path / name, progress=write)
    assert (tmp_path / name).read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == sorted(["x.csv", name])
    if name != "y":
        fastbn.standardize(tmp_path / "x.csv", MOMENTS, tmp_path / name, overwrite=True)


@pytest.mark.parametrize(
    ("name", "overwrite"), [("y.npy", False), ("y.csv", False), ("y.h5:mine", False), ("y.h5:mine", True)]
)
def test_what_appears_while_the_disk_is_written_is_not_replaced(
    name: str, overwrite: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pa.csv.write_csv(pa.table({"a": X[:, 0], "b": X[:, 1]}), tmp_path / "x.csv")
    path, synchronize = tmp_path / name.partition(":")[0], os.fsync

    def write(handle: int) -> None:
        path.write_text("precious")
        synchronize(handle)

    monkeypatch.setattr(os, "fsync", write)
    with pytest.raises(FileExistsError, match="another program has written it in the meantime"):
        fastbn.standardize(tmp_path / "x.csv", MOMENTS, tmp_path / name, overwrite=overwrite)
    assert path.read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == sorted(["x.csv", path.name])


@pytest.mark.parametrize("suffix", ["h5", "npz", "zarr"])
def test_of_runs_at_once_in_one_file_none_loses_what_another_wrote(suffix: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    path = tmp_path / f"y.{suffix}"
    fastbn.standardize(tmp_path / "x.npy", MOMENTS, f"{path}:old")
    program = "import sys, fastbn; fastbn.standardize(sys.argv[1], fastbn.stream(sys.argv[1]), sys.argv[2])"
    arguments = [[str(tmp_path / "x.npy"), f"{path}:n{number}"] for number in range(4)]
    runs = [
        subprocess.Popen([sys.executable, "-c", program, *each], stderr=subprocess.PIPE, text=True)
        for each in arguments
    ]
    done = ["old"]
    for number, run in enumerate(runs):
        said = run.communicate(timeout=120)[1]
        if run.returncode == 0:
            done.append(f"n{number}")
        else:
            assert "in the meantime" in said or "must not change while it is read" in said, said
    assert len(done) > 1
    for each in done:
        assert fastbn.stream(f"{path}:{each}").count == 3


@pytest.mark.parametrize("save", [MOMENTS.save, fastbn.BatchNorm(2).save], ids=["Moments", "BatchNorm"])
def test_no_file_replaces_a_folder(
    save: Callable[[str | Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which would take everything in it away; an empty name is none of the folder that one is in."""
    folder = tmp_path / "folder.npz"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "file").write_text("precious")
    monkeypatch.chdir(folder)
    for path in (folder, f"{folder}/", ".", "inner"):
        with pytest.raises(IsADirectoryError):
            save(path)
    with pytest.raises(FileNotFoundError):
        save("")
    with pytest.raises(ValueError, match=r"out must be a folder or a file of a known format .*, got ''"):
        fastbn.standardize(X, MOMENTS, "")
    for checkpoint in ("", 3):
        with pytest.raises(TypeError, match="checkpoint must be the path of a file, got "):
            fastbn.stream(X, checkpoint=checkpoint)  # type: ignore[arg-type]
    assert (folder / "inner" / "file").read_text() == "precious"
    assert (os.listdir(tmp_path), os.listdir(folder)) == ([folder.name], ["inner"])
