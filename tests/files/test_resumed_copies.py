"""A standardized copy that was interrupted goes on to the same bytes, and nothing else goes on from it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import xarray as xr
from PIL import Image

import fastbn
from support import datafiles
from support.datafiles import LEAST
from support.interpreters import run_python

CHILD = """
import os, signal
import fastbn
source, out, moments, limit = {arguments}
calls = []
def progress(done, total):
    calls.append(done)
    if len(calls) == limit:
        os.kill(os.getpid(), signal.SIGKILL)
fastbn.standardize(source, moments, out, resume=True, every=0.0, memory=2**18, progress=progress)
"""


class StopError(Exception):
    pass


def stopping(calls: int) -> Callable[[int, int | None], None]:
    left = iter(range(calls))

    def progress(done: int, total: int | None) -> None:
        if next(left, None) is None:
            raise StopError

    return progress


def contents(path: Path) -> dict[str, bytes]:
    """Return a file's bytes, or those of all files in a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return {os.path.relpath(file, path): file.read_bytes() for file in files}


def arrays(folder: Path, rng: np.random.Generator) -> Any:
    x = rng.normal(size=(9_000, 3))
    return [datafiles.save_npy(folder, x), datafiles.save_csv(folder, x), datafiles.save_fortran(folder, x)]


def tables(folder: Path, rng: np.random.Generator) -> Any:
    x = rng.normal(size=(9_000, 3))
    return [datafiles.save_csv(folder, x), datafiles.save_parquet(folder, x)]


def images(folder: Path, rng: np.random.Generator) -> Any:
    return str(datafiles.save_images(folder / "images", datafiles.random_images(rng, 30, (40, 50))))


def grids(folder: Path, rng: np.random.Generator) -> Any:
    data = xr.DataArray(rng.normal(size=(9_000, 3)), {"lon": [0, 1, 2]}, ("lat", "lon"), "v")
    data.to_netcdf(folder / "x.nc", engine="h5netcdf")
    return str(folder / "x.nc")


CASES = [
    (grids, "y.zarr"),
    (arrays, "y.npy"),
    (arrays, "y.zarr"),
    (arrays, "y"),
    (tables, "y"),
    (images, "y.npy"),
    (images, "y"),
]


@pytest.mark.parametrize("every", [0.0, 1e9])  # 1e9: what is written is far ahead of what is noted
@pytest.mark.parametrize(("make", "out"), CASES, ids=lambda case: getattr(case, "__name__", case))
def test_it_goes_on_to_the_same_bytes(
    tmp_path: Path, rng: np.random.Generator, make: Callable[[Path, np.random.Generator], Any], out: str, every: float
) -> None:
    source = make(tmp_path, rng)
    moments = fastbn.stream(source)
    whole, again = tmp_path / "whole" / out, tmp_path / "again" / out
    whole.parent.mkdir()
    again.parent.mkdir()
    fastbn.standardize(source, moments, whole, memory=LEAST)
    options: dict[str, Any] = {"resume": True, "memory": LEAST, "every": every}
    seen: list[int] = []
    for calls in (1, 4, 2, 7):
        if again.exists():
            break
        try:
            fastbn.standardize(source, moments, again, progress=stopping(calls), **options)
        except StopError:
            assert not again.exists()
            assert len(os.listdir(again.parent)) in (1, 2)
    if not again.exists():
        fastbn.standardize(source, moments, again, progress=lambda done, total: seen.append(done), **options)
        assert seen
    assert contents(again) == contents(whole)
    assert os.listdir(again.parent) == [out]


@pytest.mark.parametrize("every", [0.0, 1e9])
@pytest.mark.parametrize("calls", [3, 8, 13])
def test_many_files_of_a_folder_may_be_done_since_the_last_note(
    tmp_path: Path, rng: np.random.Generator, calls: int, every: float
) -> None:
    source = tmp_path / "x"
    for number in range(8):
        (source / f"{number % 2}").mkdir(parents=True, exist_ok=True)
        np.save(source / f"{number % 2}" / f"{number}.npy", rng.normal(size=(50, 3)))
    (source / "0" / "2.npy").write_bytes(b"not an array")
    moments = fastbn.Moments(2, np.zeros(3), np.ones(3))
    options: dict[str, Any] = {"on_error": lambda name, error: None}
    fastbn.standardize(source, moments, tmp_path / "whole", **options)
    options |= {"resume": True, "every": every}
    with pytest.raises(StopError):
        fastbn.standardize(source, moments, tmp_path / "y", progress=stopping(calls), **options)
    fastbn.standardize(source, moments, tmp_path / "y", **options)
    assert contents(tmp_path / "y") == contents(tmp_path / "whole")


@pytest.mark.parametrize("every", [0.0, 1e9])
@pytest.mark.parametrize("calls", [1, 2, 3, 4])
def test_two_files_of_one_name_are_refused_by_what_goes_on_too(tmp_path: Path, calls: int, every: float) -> None:
    (tmp_path / "x").mkdir()
    for number, name in enumerate(["a.png", "b.bmp", "b.png", "c.png"]):
        Image.new("L", (4, 4), number).save(tmp_path / "x" / name)
    np.save(tmp_path / "z.npy", np.ones((4, 1)))
    (tmp_path / "other").mkdir()
    np.save(tmp_path / "other" / "z.npy", np.ones((4, 1)))
    tifffile.imwrite(tmp_path / "p.tif", np.arange(48, dtype=np.uint8).reshape(3, 4, 4), photometric="minisblack")
    for name in ("q.png", "q-1.png", "p-1.png"):  # of which the last has the name of a page
        Image.new("L", (4, 4), 9).save(tmp_path / name)
    pages = [tmp_path / name for name in ("p.tif", "q.png", "q-1.png", "p-1.png")]
    options: dict[str, Any] = {"resume": True, "every": every}
    for source in (tmp_path / "x", [tmp_path / "z.npy", tmp_path / "other" / "z.npy"], pages):
        moments = fastbn.stream(source)
        with pytest.raises((StopError, ValueError)):
            fastbn.standardize(source, moments, tmp_path / "y", progress=stopping(calls), **options)
        for _ in range(2):
            with pytest.raises(ValueError, match="out must be a folder in which no two files have one name"):
                fastbn.standardize(source, moments, tmp_path / "y", **options)
        for left in tmp_path.glob(".y.*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


@pytest.mark.parametrize("out", ["y.npy", "y.zarr", "y"])
def test_it_goes_on_after_a_kill(tmp_path: Path, rng: np.random.Generator, out: str) -> None:
    source = tables(tmp_path, rng) if out == "y" else arrays(tmp_path, rng)
    moments = fastbn.stream(source)
    stats = str(tmp_path / "s.npz")
    moments.save(stats)
    (tmp_path / "a").mkdir()
    fastbn.standardize(source, stats, tmp_path / "a" / out, memory=LEAST)
    for limit in (3, 5):
        done = run_python(CHILD.format(arguments=(source, str(tmp_path / out), stats, limit)))
        assert done.returncode == -signal.SIGKILL, done.stderr
    done = run_python(CHILD.format(arguments=(source, str(tmp_path / out), stats, -1)))
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / out) == contents(tmp_path / "a" / out)


def test_nothing_else_goes_on_from_it(tmp_path: Path, rng: np.random.Generator) -> None:
    source, out = datafiles.save_npy(tmp_path, rng.normal(size=(9_000, 3))), tmp_path / "y.npy"
    moments = fastbn.stream(source)
    options: dict[str, Any] = {"resume": True, "memory": LEAST, "every": 0.0}
    with pytest.raises(StopError):
        fastbn.standardize(source, moments, out, progress=stopping(3), **options)
    with pytest.raises(ValueError, match=r"checkpoint must be of this run, .*, of another: eps was 0.0 and is 1.0"):
        fastbn.standardize(source, moments, out, eps=1.0, **options)
    with pytest.raises(ValueError, match=r"of another: moments was"):
        fastbn.standardize(source, fastbn.stream(source, columns=[0, 1, 2], nan="omit"), out, **options)
    os.utime(source, ns=(0, 0))
    with pytest.raises(ValueError, match=r"source '.*x.npy' was changed"):
        fastbn.standardize(source, moments, out, **options)
    for name in os.listdir(tmp_path):
        if name.endswith(".part"):
            (tmp_path / name).unlink()
    fastbn.standardize(source, moments, out, **options)  # nothing is there to go on from
    assert sorted(os.listdir(tmp_path)) == ["x.npy", "y.npy"]


@pytest.mark.parametrize(
    ("source", "out", "said"),
    [
        ("array", "y.npy", "resume must come with files, which can be read again, got arrays"),
        ("file", "y.parquet", "resume must come with a new .npy file, Zarr store or folder as out, got .*y.parquet"),
        ("file", "y.h5", "resume must come with a new .npy file"),
    ],
)
def test_what_cannot_go_on(tmp_path: Path, rng: np.random.Generator, source: str, out: str, said: str) -> None:
    x = rng.normal(size=(9, 3))
    given = x if source == "array" else datafiles.save_npy(tmp_path, x)
    with pytest.raises(ValueError, match=said):
        fastbn.standardize(given, fastbn.stream(x), tmp_path / out, resume=True)


@pytest.mark.parametrize("out", ["y.npy", "y.zarr", "y"])
def test_two_runs_at_once(tmp_path: Path, rng: np.random.Generator, out: str) -> None:
    source = datafiles.save_npy(tmp_path, rng.normal(size=(9_000, 3)))
    moments, path = fastbn.stream(source), tmp_path / out
    options: dict[str, Any] = {"resume": True, "memory": LEAST, "every": 0.0}
    seen: list[Any] = []

    def progress(done: int, total: int | None) -> None:
        with pytest.raises(BlockingIOError, match="another run with resume=True is writing it") as refused:
            fastbn.standardize(source, moments, path, **options)
        seen.append(refused.value.filename)

    fastbn.standardize(source, moments, path, progress=progress, **options)
    assert set(seen) == {str(path)}
    assert sorted(os.listdir(tmp_path)) == sorted([out, "x.npy"])
    (tmp_path / "whole").mkdir()
    fastbn.standardize(source, moments, tmp_path / "whole" / out)
    assert contents(path) == contents(tmp_path / "whole" / out)


def test_a_lock_on_a_file_that_was_removed_is_none(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run that had the lock ends, and removes its file, after the next one has opened that and before it locks."""
    source = datafiles.save_npy(tmp_path, rng.normal(size=(9_000, 3)))
    moments, real, ends = fastbn.stream(source), fcntl.flock, ["removed", "made anew"]

    def flock(file: Any, how: int) -> None:
        if ends:
            os.unlink(file.name)
            if ends.pop() == "made anew":
                Path(file.name).touch()
        real(file, how)

    def progress(done: int, total: int | None) -> None:
        with pytest.raises(BlockingIOError, match="another run with resume=True is writing it"):
            fastbn.standardize(source, moments, tmp_path / "y.npy", resume=True, memory=LEAST)

    monkeypatch.setattr(fcntl, "flock", flock)
    fastbn.standardize(source, moments, tmp_path / "y.npy", resume=True, memory=LEAST, progress=progress)
    assert not ends
    assert sorted(os.listdir(tmp_path)) == ["x.npy", "y.npy"]


def test_file_systems_without_locks(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(file: object, how: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", without)
    x = rng.normal(size=(90, 3))
    source = datafiles.save_npy(tmp_path, x)
    fastbn.standardize(source, fastbn.stream(source), tmp_path / "y.npy", resume=True)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), (x - x.mean(0)) / x.std(0), rtol=1e-12, atol=1e-12)


def test_what_another_format_noted_does_not_go_on(tmp_path: Path, rng: np.random.Generator) -> None:
    source = datafiles.save_npy(tmp_path, rng.normal(size=(9_000, 3)))
    moments = fastbn.stream(source)
    options: dict[str, Any] = {"resume": True, "memory": LEAST, "every": 0.0}
    with pytest.raises(StopError):
        fastbn.standardize(source, moments, tmp_path / "y.npy", progress=stopping(3), **options)
    (noted,) = tmp_path.glob(".y.npy.*.json")
    noted.write_text(json.dumps({**json.loads(noted.read_text()), "format": 77}))
    with pytest.raises(ValueError, match="its format is not known to this version"):
        fastbn.standardize(source, moments, tmp_path / "y.npy", **options)
    assert not (tmp_path / "y.npy").exists()
