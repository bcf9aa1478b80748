"""A run that was killed goes on from its checkpoint, to the same bits; and nothing else goes on from it."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import itertools
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastbn
from fastbn._atomic import replacing
from support import datafiles
from support.datafiles import LEAST, random_images, same_bits, save_images
from support.interpreters import run_python

# Kills itself, as kill -9 does, once it has reported so often.
CHILD = """
import os, signal
import fastbn
sources, options, limit = {arguments}
calls = []
def progress(done, total):
    calls.append(done)
    if len(calls) == limit:
        os.kill(os.getpid(), signal.SIGKILL)
fastbn.stream(sources, progress=progress, **options)
"""


def killed(sources: Any, limit: int, **options: Any) -> None:
    """Stream in a process that is killed after so many reports."""
    done = run_python(CHILD.format(arguments=(sources, options, limit)))
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.fixture
def files(tmp_path: Path, rng: np.random.Generator) -> list[str]:
    """Return files of every format in which a place is kept differently, of several blocks each."""
    x = rng.normal([1e6, 0.0, -3.0], [1.0, 1e-3, 5.0], (15_000, 3))
    x[::7, 1] = np.nan
    saves = (datafiles.save_npy, datafiles.save_compressed, datafiles.save_csv, datafiles.save_parquet)
    return [save(tmp_path, x * (i + 1)) for i, save in enumerate((*saves, datafiles.save_zarr))]


def killed_and_resumed(sources: Any, limits: list[int], checkpoint: Path, **options: Any) -> tuple[int, set[int]]:
    """Assert that runs killed after so many reports come to the bits of one that was not.

    Return how often the last one reported, and the numbers of the sources at which those before it were killed.
    """
    whole = fastbn.stream(sources, **options)
    at: list[tuple[int, int]] = []
    for limit in limits:
        killed(sources, limit, checkpoint=str(checkpoint), every=0.0, resume=True, **options)
        held = json.loads(checkpoint.read_text())
        at.append((held["place"], held["position"]))
    assert at == sorted(set(at))
    calls: list[int] = []
    last = fastbn.stream(
        sources, checkpoint=checkpoint, resume=True, progress=lambda done, total: calls.append(done), **options
    )
    assert same_bits(last, whole)
    assert not [name for name in os.listdir(checkpoint.parent) if checkpoint.name in name]
    return len(calls), {place for place, _ in at}


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path, files: list[str]) -> None:
    calls: list[int] = []
    fastbn.stream(files, memory=LEAST, progress=lambda done, total: calls.append(done))
    limits = [2, 11, 17]
    last, places = killed_and_resumed(files, limits, tmp_path / "checkpoint", memory=LEAST, nan="omit")
    assert len(places) > 2
    assert last < len(calls) - sum(limits) + 2 * len(limits) + len(files)  # what is in the checkpoint is not read again


def test_a_killed_run_over_images(tmp_path: Path, rng: np.random.Generator) -> None:
    folder = str(save_images(tmp_path / "images", random_images(rng, 200)))
    Path(folder, "0100.png").write_text("not an image")
    whole = fastbn.stream(folder, memory=LEAST, on_error=lambda name, error: None)
    options: dict[str, Any] = {"memory": LEAST, "checkpoint": str(tmp_path / "c"), "every": 0.0}
    killed(folder, 3, on_error="skip", **options)
    assert 0 < json.loads((tmp_path / "c").read_text())["position"] < 200
    found = fastbn.stream(folder, on_error=lambda name, error: None, resume=True, **options)
    assert same_bits(found, whole)


def test_a_row_that_spans_blocks(tmp_path: Path, rng: np.random.Generator) -> None:
    """The features are then read in parts, and all are in the checkpoint."""
    source = datafiles.save_npy(tmp_path, rng.normal(size=(4, 25_000)))
    last, _ = killed_and_resumed(source, [6], tmp_path / "checkpoint", memory=LEAST)
    assert last > 1


# In one process: the run is stopped by an error of the one who is told of its progress.


class StopError(Exception):
    pass


def stopped(source: Any, checkpoint: Path, calls: int = 3, **options: Any) -> None:
    """Leave a checkpoint behind."""
    left = iter(range(calls))

    def progress(done: int, total: int | None) -> None:
        if next(left, None) is None:
            raise StopError

    with pytest.raises(StopError):
        fastbn.stream(source, checkpoint=checkpoint, progress=progress, **{"every": 0.0, "memory": LEAST} | options)


@pytest.fixture
def source(tmp_path: Path, rng: np.random.Generator) -> str:
    return datafiles.save_npy(tmp_path, rng.normal(size=(50_000, 2)))


def resumed(source: Any, checkpoint: Path, **options: Any) -> fastbn.Moments:
    return fastbn.stream(source, checkpoint=checkpoint, resume=True, **{"memory": LEAST} | options)


def test_it_is_written_now_and_then_and_removed_at_the_end(tmp_path: Path, source: str) -> None:
    checkpoint = tmp_path / "checkpoint"
    found = fastbn.stream(source, memory=LEAST, checkpoint=checkpoint, every=0.0)
    assert not checkpoint.exists()
    stopped(source, checkpoint, every=1e9)
    assert not checkpoint.exists()
    stopped(source, checkpoint)
    assert checkpoint.exists()
    assert same_bits(resumed(source, checkpoint), found)
    assert same_bits(resumed(source, checkpoint), found)  # there is none: from the beginning
    assert not list(tmp_path.glob(".*"))


def test_nothing_else_is_removed_at_the_end(tmp_path: Path, source: str) -> None:
    """Whatever came to have the name meanwhile."""
    path = tmp_path / "s.json"
    fastbn.stream(source, checkpoint=path, every=1e9, progress=lambda done, total: path.write_text("{}"))
    assert path.read_text() == "{}"


def test_extremes_and_options_are_kept(tmp_path: Path, source: str) -> None:
    for options in ({"extremes": False}, {"where_finite": True}, {"columns": [1]}, {"axis": (0, 1)}, {"dtype": "f4"}):
        whole = fastbn.stream(source, memory=LEAST, **options)  # type: ignore[arg-type]
        stopped(source, tmp_path / "checkpoint", **options)
        assert same_bits(resumed(source, tmp_path / "checkpoint", **options), whole)


def test_files_left_out_stay_left_out(tmp_path: Path, source: str) -> None:
    (tmp_path / "bad.csv").write_text("a\nx\n")
    sources = [str(tmp_path / "bad.csv"), str(tmp_path / "nosuch.npy"), source]
    told: list[str] = []
    stopped(sources, tmp_path / "checkpoint", calls=5, on_error=lambda name, error: told.append(name))
    found = resumed(sources, tmp_path / "checkpoint", on_error=lambda name, error: told.append(name))
    assert found == fastbn.stream(source, memory=LEAST)
    assert told == sources[:2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"memory": 2 * LEAST}, "memory was 262144 and is 524288"),
        ({"axis": 0}, "axis was 1 and is 0"),
        ({"columns": ["1"]}, r"columns was None and is \['1'\]"),
        ({"where_finite": True}, "where_finite was False and is True"),
        ({"nan": "omit"}, "nan was 'propagate' and is 'omit'"),
        ({"extremes": False}, "extremes was True and is False"),
        ({"on_error": "skip"}, "on_error was 'raise' and is 'skip'"),
    ],
)
def test_other_options_are_another_run(tmp_path: Path, source: str, change: dict[str, Any], message: str) -> None:
    stopped(source, tmp_path / "checkpoint")
    kept = (tmp_path / "checkpoint").read_bytes()
    with pytest.raises(ValueError, match=f"checkpoint must be of this run, got .*checkpoint', of another: {message}"):
        resumed(source, tmp_path / "checkpoint", **change)
    assert (tmp_path / "checkpoint").read_bytes() == kept


def test_other_files_are_another_run(tmp_path: Path, source: str, rng: np.random.Generator) -> None:
    checkpoint = tmp_path / "checkpoint"
    stopped(source, checkpoint)
    other = str(tmp_path / "other.npy")
    np.save(other, np.zeros((50_000, 2)))
    with pytest.raises(ValueError, match=r"name of source '.*other.npy' was '.*x.npy' and is '.*other.npy'"):
        resumed(other, checkpoint)
    with pytest.raises(ValueError, match="it had 1 sources and has 2"):
        resumed([source, other], checkpoint)
    before = os.stat(source)
    os.utime(source, ns=(0, 0))
    with pytest.raises(ValueError, match=r"source '.*x.npy' was changed"):
        resumed(source, checkpoint)
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    resumed(source, checkpoint)
    stopped(source, checkpoint)
    np.save(source, np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"bytes of source '.*x.npy' was 800128 and is 176"):
        resumed(source, checkpoint)


def test_a_store_that_was_changed(tmp_path: Path, rng: np.random.Generator) -> None:
    source = datafiles.save_zarr(tmp_path, rng.normal(size=(15_000, 2)))
    stopped(source, tmp_path / "checkpoint", calls=1)
    os.utime(next(path for path in Path(source).rglob("*") if path.is_file()), ns=(0, 0))
    with pytest.raises(ValueError, match=r"source '.*x.zarr' was changed"):
        resumed(source, tmp_path / "checkpoint")


@pytest.mark.parametrize(
    "text", ["", "hello", "[]", "{}", '{"format": 2}', '{"format": 1}', "[" * 100_000], ids=lambda text: text[:20]
)
def test_files_that_are_no_checkpoints(tmp_path: Path, source: str, text: str) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.write_text(text)
    with pytest.raises(ValueError, match=r"checkpoint must name a file that a run left, got '.*checkpoint': "):
        resumed(source, checkpoint)
    assert checkpoint.read_text() == text


def changed(held: dict[str, Any]) -> list[dict[str, Any]]:
    """Return checkpoints that are others by one thing, of which most would do if nobody looked."""
    identity = held["identity"]
    return [
        *({**held, "place": place} for place in (-1, 1, "a", 10**30, None)),
        *({**held, "position": position} for position in (-1, 5, 1.0, "a", 10**30, None)),
        *({**held, "corners": corners} for corners in ([], [[]], [[5]], [["a"]])),
        {**held, "moments": [held["moments"][0][:40], *held["moments"][1:]]},
        {**held, "moments": held["moments"][:1] * 2},
        {**held, "names": ["a"]},
        {**held, "identity": {**identity, "options": []}},
        {**held, "identity": {**identity, "sources": [5]}},
    ]


def test_checkpoints_that_were_changed(tmp_path: Path, source: str) -> None:
    checkpoint = tmp_path / "checkpoint"
    stopped(source, checkpoint)
    for held in changed(json.loads(checkpoint.read_text())):
        checkpoint.write_text(json.dumps(held))
        with pytest.raises(ValueError, match=r"that a run left, got '.*checkpoint': it was changed or damaged"):
            resumed(source, checkpoint)


def test_a_checkpoint_of_another_version(tmp_path: Path, source: str) -> None:
    stopped(source, tmp_path / "checkpoint")
    held = json.loads((tmp_path / "checkpoint").read_text())
    del held["digest"]
    held["identity"]["options"]["more"] = 1
    digest = hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()
    (tmp_path / "checkpoint").write_text(json.dumps({**held, "digest": digest}))
    with pytest.raises(ValueError, match="it was left by another version"):
        resumed(source, tmp_path / "checkpoint")


# Files that appear whole or not at all.


def test_nothing_is_left_of_what_failed(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    for error in (ValueError, KeyboardInterrupt, SystemExit):
        with pytest.raises(error), replacing(path) as temporary:  # noqa: PT012 (writing is part of the test)
            Path(temporary).write_text("new")
            raise error
    assert os.listdir(tmp_path) == ["x"]
    assert path.read_text() == "old"
    with replacing(path) as temporary:
        Path(temporary).write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_a_folder_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "old").touch()
    real, names = os.rename, iter(["aside", "in place"])

    def failing(source: str, target: str) -> None:
        if next(names, None) == "in place":
            raise OSError(errno.EIO, os.strerror(errno.EIO), source)
        real(source, target)

    monkeypatch.setattr("fastbn._atomic._exchanged", lambda one, other: False)  # as on other systems
    with monkeypatch.context() as context:
        context.setattr(os, "rename", failing)
        with pytest.raises(OSError, match=r"'.*/x'"), replacing(tmp_path / "x") as temporary:
            Path(temporary).mkdir()
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["x", "x/old"]
    with replacing(tmp_path / "x") as temporary:
        Path(temporary).mkdir()
        Path(temporary, "new").touch()
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["x", "x/new"]


def test_what_went_aside_is_not_removed(tmp_path: Path) -> None:
    """A run that is killed between two renames leaves the only copy there is under another name."""
    done = run_python(f"""
import os
from fastbn import _atomic as atomic
from fastbn._atomic import replacing
atomic._exchanged = lambda one, other: False
real = os.rename
def rename(source, target):
    real(source, target)
    os.kill(os.getpid(), 9)
os.mkdir({str(tmp_path / "x")!r})
os.mkdir({str(tmp_path / "x" / "old")!r})
os.rename = rename
with replacing({str(tmp_path / "x")!r}) as temporary:
    os.mkdir(temporary)
""")
    assert done.returncode == -9
    with replacing(tmp_path / "x") as temporary:
        Path(temporary).mkdir()
    left = sorted(path.name for path in tmp_path.iterdir())
    assert (left[0].startswith(".x."), left[1:]) == (True, ["x"])
    assert os.listdir(tmp_path / left[0]) == ["old"]


def test_what_a_killed_run_of_the_same_number_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container the numbers of processes begin anew."""
    monkeypatch.setattr("fastbn._atomic._numbers", itertools.repeat(0))
    with replacing(tmp_path / "x") as temporary:
        os.mkdir(temporary)
    os.rename(tmp_path / "x", temporary)
    Path(temporary, "half").touch()
    with replacing(tmp_path / "x") as again:
        assert again == temporary
        assert os.listdir(tmp_path) == []
        os.mkdir(again)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["x"]


def test_errors_speak_of_the_name_that_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nosuch'"), replacing(tmp_path / "nosuch" / "x"):
        pass
    with pytest.raises(FileNotFoundError, match=r"'.*/x/y'"), replacing(tmp_path / "x") as temporary:
        Path(temporary, "y").touch()
    with pytest.raises(OSError, match=r"No space left on device: '.*/x'"), replacing(tmp_path / "x"):
        Path("/dev/full").write_text("x")


def test_what_killed_runs_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run_python(f"""
import os
from fastbn._atomic import replacing
with replacing({str(tmp_path / "x")!r}) as temporary:
    open(temporary, "w").write("half")
    os.kill(os.getpid(), 9)
""")
    assert done.returncode == -9
    left = os.listdir(tmp_path)
    assert len(left) == 1

    def kill(process: int, number: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    with monkeypatch.context() as context:  # a process of another user
        context.setattr(os, "kill", kill)
        with replacing(tmp_path / "x") as temporary:
            Path(temporary).write_text("whole")
    assert left[0] in os.listdir(tmp_path)
    mine, others = tmp_path / left[0].replace("-", "-1."), tmp_path / ".y.part"
    for path in (mine, others):  # of a process that runs, and of none
        path.write_text("half")
    with replacing(tmp_path / "x") as temporary:
        Path(temporary).write_text("whole")
    assert sorted(os.listdir(tmp_path)) == sorted([mine.name, ".y.part", "x"])


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "syncfs"), reason="the system synchronizes files one by one")
def test_a_folder_of_many_files_is_synchronized_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(os, "fsync", calls.append)
    with replacing(tmp_path / "x") as temporary:
        for number in range(50):
            Path(temporary, str(number % 5)).mkdir(parents=True, exist_ok=True)
            Path(temporary, str(number % 5), str(number)).touch()
    assert len(calls) == 1  # of the folder that has the new name
    monkeypatch.setattr("fastbn._atomic._synchronized_with_others", lambda path: False)  # as on other systems
    with replacing(tmp_path / "y") as temporary:
        (tmp_path / "x").rename(temporary)
    assert len(calls) == 1 + 1 + 5 + 50 + 1


def test_threads_that_write_one_file_leave_one_of_theirs(tmp_path: Path) -> None:
    path, moments = tmp_path / "s.npz", [fastbn.moments(np.full((2, 1000 * n), float(n))) for n in range(1, 9)]

    def save(one: fastbn.Moments) -> None:
        for _ in range(10):
            one.save(path)
            fastbn.Moments.load(path)  # whole, whosever it is

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(save, moments))
    assert os.listdir(tmp_path) == ["s.npz"]
    with replacing(path) as outer:
        Path(outer).write_text("outer")
        with replacing(path) as inner:
            Path(inner).write_text("inner")
        assert path.read_text() == "inner"
    assert path.read_text() == "outer"
