"""Each option of `stream` and `standardize` is one of the command, which says what was done without being asked."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from PIL import Image

import fastbn
from fastbn.__main__ import main
from fastbn.io.statsfiles import load_stats, read_as

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs the command here, and returns its code and what it printed and said."""

    def call(*arguments: Any) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return call


def found(command: Run, *arguments: Any) -> dict[str, Any]:
    """Return what `fastbn stats --json` finds."""
    code, out, err = command("stats", *arguments, "--json")
    assert (code, err) == (0, "")
    return dict(json.loads(out))


def test_texts(command: Run, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes("# made\nnäme\tb\n1,5\t-\n2,5\t4\n".encode("latin-1"))
    options = ["--delimiter", "tab", "--decimal", ",", "--encoding", "latin-1", "--comment", "#", "--null", "-"]
    held = found(command, tmp_path / "x.csv", "--where-finite", *options)
    assert (held["names"], held["mean"], held["count"]) == (["näme", "b"], [2.0, 4.0], [2.0, 1.0])
    assert command("stats", tmp_path / "x.csv", "--where-finite", *options, "-o", tmp_path / "s.npz")[0] == 0
    arguments = ["standardize", tmp_path / "x.csv", "--stats", tmp_path / "s.npz", "-o", tmp_path / "y.csv", *options]
    assert command(*arguments)[0] == 0
    again = pd.read_csv(tmp_path / "y.csv", sep="\t", decimal=",", encoding="latin-1")
    assert again["näme"].tolist() == [-1.0, 1.0]


def test_a_first_line_that_may_be_data_is_said_once(command: Run, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    for name in ("1.csv", "2.csv"):
        (tmp_path / "x" / name).write_text("Ann,171,60\nBob,180,70\n")
    said = "the first line of texts was taken for the columns' names (--no-header if it is data, --header says so)"
    held = found(command, tmp_path / "x")
    assert (held["notes"], held["names"]) == ([f"{said}: Ann, 171, 60"], ["171", "60"])
    _, out, err = command("stats", tmp_path / "x")
    assert (out.count(said), err) == (1, "")
    assert "notes" not in found(command, tmp_path / "x", "--header")
    assert found(command, tmp_path / "x", "--no-header")["mean"] == [175.5, 65.0]
    (tmp_path / "x.csv").write_text("name,height\nAnn,171\n")
    assert "notes" not in found(command, tmp_path / "x.csv")


def test_names_of_functions_are_told_the_commands(command: Run) -> None:
    for name, meant in (("normalize", "standardize"), ("moments", "stats"), ("stream", "stats")):
        code, _, err = command(name)
        assert (code, f"No such command {name!r}. Did you mean {meant!r}?" in err) == (2, True)
    assert "--stats" not in command("stats", "--help")[1]
    assert "as in --stats" in " ".join(command("standardize", "--help")[1].split())


def test_json_of_a_dict_is_a_file_of_statistics(command: Run, tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1.0, 3.0], "b": [np.nan, 7.0]})
    frame.to_csv(tmp_path / "x.csv", index=False)
    held = fastbn.stream(frame, scale=2).to_dict()
    text = json.dumps({key: np.asarray(value).tolist() for key, value in held.items()})  # as `to_dict` says
    (tmp_path / "s.json").write_text(text)
    out = tmp_path / "y.csv"
    assert command("standardize", tmp_path / "x.csv", "--stats", tmp_path / "s.json", "-o", out)[0] == 0
    expected = (frame["a"] - frame["a"].mean()) / frame["a"].std(ddof=0)
    assert pd.read_csv(out)["a"].tolist() == expected.tolist()
    with pytest.warns(RuntimeWarning, match="^no finite statistics, so only NaN is written: b "):
        fastbn.standardize(frame, tmp_path / "s.json", out, overwrite=True)
    assert pd.read_csv(out)["a"].tolist() == expected.tolist()
    assert command("merge", tmp_path / "s.json", tmp_path / "s.json", "-o", tmp_path / "t.npz")[0] == 0
    assert load_stats(tmp_path / "t.npz").count == 4
    for wrong in ("{}", "[]", '{"count": 3}', '{"kind": "x", "count": 0}'):
        (tmp_path / "s.json").write_text(wrong)
        with pytest.raises(ValueError, match="path must name a file written by fastbn stats, got"):
            load_stats(tmp_path / "s.json")


def test_headers(command: Run, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("1,2\n3,4\n")
    code, _, err = command("stats", tmp_path / "x.csv")
    assert (code, "(--header, --no-header)" in err) == (1, True)
    assert found(command, tmp_path / "x.csv", "--header")["names"] == ["1", "2"]
    assert found(command, tmp_path / "x.csv", "--no-header")["count"] == 2


def test_no_data(command: Run, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n1,2\n-9,4\n0,-9\n")
    assert found(command, tmp_path / "x.csv", "--nodata", -9)["count"] == [2.0, 2.0]
    assert found(command, tmp_path / "x.csv", "--nodata", "a=0", "--nodata", "a=-9")["count"] == [1.0, 3.0]
    code, out, err = command("stats", tmp_path / "x.csv", "--nodata", "x")
    assert (code, "--nodata must be numbers or COLUMN=NUMBER, got 'x'" in " ".join((out + err).split())) == (2, True)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = np.array([[1, 2], [-9, 4]], np.int16)
        file["x"].attrs.update({"_FillValue": np.int16(-9), "scale_factor": 0.5})
    code, out, err = command("stats", tmp_path / "x.h5")
    assert (code, err) == (0, "")
    said = ["left out as no data: -9 (_FillValue)", "unpacked: stored values * 0.5 + 0"]
    assert out.splitlines()[3:] == said
    assert found(command, tmp_path / "x.h5")["notes"] == said
    assert found(command, tmp_path / "x.h5", "--nodata", "none")["count"] == 2


def test_weights_and_dimensions(command: Run, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,w\n1,1\n4,2\n")
    held = found(command, tmp_path / "x.csv", "--weights", "w")
    assert (held["names"], held["mean"], held["count"]) == (["a"], [3.0], [3.0])
    np.save(tmp_path / "w.npy", [1.0, 2.0])
    assert found(command, tmp_path / "x.csv", "--weights", tmp_path / "w.npy", "--columns", "a")["mean"] == [3.0]
    data = xr.DataArray(np.arange(24.0).reshape(4, 3, 2), dims=("time", "lat", "lon"), name="v")
    data.to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
    assert found(command, tmp_path / "x.nc", "--dim", "time, lat")["mean"] == data.mean(["time", "lat"]).values.tolist()
    assert command("stats", tmp_path / "x.nc", "--dim", "time", "-o", tmp_path / "s.npz")[0] == 0
    assert read_as(load_stats(tmp_path / "s.npz")).axis == (1, 2)
    arguments = ["standardize", tmp_path / "x.nc", "--stats", tmp_path / "s.npz", "-o"]
    assert command(*arguments, tmp_path / "y.npy")[0] == 0
    assert command(*arguments, tmp_path / "z.npy", "--dim", "time")[0] == 0
    assert (tmp_path / "y.npy").read_bytes() == (tmp_path / "z.npy").read_bytes()


def test_columns_that_are_left_out_are_said(command: Run, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n1,2\n4,?\n5,6\n")
    code, out, err = command("stats", tmp_path / "x.csv")
    assert (code, out.splitlines()[-1]) == (0, "not numbers, and not read: b")
    assert err == (
        f"fastbn: column 'b' of {tmp_path}/x.csv is left out, for not all of it are numbers: '?' "
        "(null_values=['?'], --null, would count the others)\n"
    )


def test_large_images(command: Run, tmp_path: Path) -> None:
    Image.new("L", (9, 9)).save(tmp_path / "x.png")
    assert command("stats", tmp_path / "x.png", "--max-pixels", 80)[0] == 1
    assert found(command, tmp_path / "x.png", "--max-pixels", 81)["count"] == 81


def test_who_stops_it_is_told_how_to_go_on(
    command: Run, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "x.npy", rng.normal(size=(50_000, 2)))
    calls: list[int] = []

    def stopping(self: object, done: float, nbytes: int = 0) -> None:
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    interrupted = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    arguments = [tmp_path / "x.npy", "--memory", "256K", "--out", tmp_path / "s.npz"]
    try:
        with monkeypatch.context() as context:
            context.setattr("fastbn.io.run.Run._tell", stopping)
            code, _, err = command("stats", *arguments, "--every", 0)
            checkpoint = f"{tmp_path}/s.npz.checkpoint"
            assert err == f"fastbn: stopped; the same command with --resume goes on from {checkpoint}\n"
            assert code == 130
        assert command("stats", *arguments, "--resume")[::2] == (0, "")
        with monkeypatch.context() as context:
            context.setattr("fastbn.io.run.Run._tell", stopping)
            calls.clear()
            code, _, err = command("stats", *arguments, "--force")  # before there is a checkpoint
            assert (code, err) == (130, "fastbn: stopped; nothing of it is kept\n")
        with monkeypatch.context() as context:
            context.setattr("fastbn.io.run.Run._tell", stopping)
            calls.clear()
            copy = ["standardize", tmp_path / "x.npy", "--stats", tmp_path / "s.npz", "--out", tmp_path / "y.npy"]
            code, _, err = command(*copy, "--resume", "--memory", "256K")
            assert (code, err) == (130, "fastbn: stopped; the same command goes on from there\n")
        assert command(*copy, "--resume", "--memory", "256K")[::2] == (0, "")
    finally:
        signal.signal(signal.SIGINT, interrupted)
    assert sorted(os.listdir(tmp_path)) == ["s.npz", "x.npy", "y.npy"]
