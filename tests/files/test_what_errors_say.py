"""Errors of beginners: what they say names the argument and what would help."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from PIL import Image

import fastbn
from fastbn.__main__ import main
from fastbn.io.statsfiles import remembering
from support.datafiles import Array


@pytest.fixture
def x(rng: np.random.Generator) -> Array:
    return rng.normal([3.0, -1e3], [1.0, 2.0], (100, 2))


@pytest.mark.parametrize(
    ("swapped", "said"),
    [
        (lambda m, x, out: (m, x, out), "source must be a path, an array, or an iterable of these, got Moments"),
        (lambda m, x, out: (x, x, out), "moments must be Moments or the path of a file of them, got ndarray"),
        (lambda m, x, out: (x, out, m), "out must be a path, got Moments"),
        (lambda m, x, out: (out, m, x), "out must be a path, got ndarray"),
    ],
)
def test_arguments_of_another_order_are_named(tmp_path: Path, x: Array, swapped: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        fastbn.standardize(*swapped(fastbn.stream(x), x, tmp_path / "o.npy"))
    assert not list(tmp_path.iterdir())


def test_moments_are_no_source(x: Array) -> None:
    with pytest.raises(TypeError, match="source must be a path, an array, or an iterable of these, got Moments"):
        fastbn.stream(fastbn.moments(x))


def test_a_mode_is_named_only_where_it_helps(tmp_path: Path) -> None:
    for name, dtype, shape in (("a", np.uint8, (4, 4, 3)), ("b", np.uint8, (4, 4)), ("c", np.uint16, (4, 4))):
        Image.fromarray(np.ones(shape, dtype)).save(tmp_path / f"{name}.png")
    colour, grey, deep = (tmp_path / f"{name}.png" for name in "abc")
    for pair in ((colour, grey), (grey, colour)):
        with pytest.raises(ValueError, match=r"got (L|RGB) \(or ask for one mode for all: mode='RGB', --mode RGB\)$"):
            fastbn.stream(pair)
        assert fastbn.stream(pair, mode="RGB").count == 32
    for pair in ((colour, deep), (deep, grey)):
        with pytest.raises(ValueError, match=r"as those before it, got (I;16|L) \(no mode converts depths: measure"):
            fastbn.stream(pair)


def test_who_asks_for_a_column_is_said(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("age,income\n1,2\n3,4\n")
    (tmp_path / "less.csv").write_text("age,name\n1,Ann\n")
    for mode in ("L", "RGB"):
        Image.new(mode, (4, 4)).save(tmp_path / f"{mode}.png")
    Image.fromarray(np.ones((4, 4), np.uint16)).save(tmp_path / "deep.png")
    has_not = r"^{} \({}\) has no column '{}', which the statistics have{}$"
    for source, other, said in (
        ("x.csv", "less.csv", ("age, name", "income", "")),
        ("RGB.png", "L.png", ("L", "R", r" \(mode='RGB', --mode RGB, converts\)")),
        ("L.png", "RGB.png", ("R, G, B", "L", r" \(mode='L', --mode L, converts\)")),
        ("RGB.png", "deep.png", ("I", "R", "")),
    ):
        with pytest.raises(ValueError, match=has_not.format(tmp_path / other, *said)):
            fastbn.standardize(tmp_path / other, fastbn.stream(tmp_path / source), tmp_path / "y.npy")


def test_a_text_in_a_column_of_the_statistics_is_named(tmp_path: Path) -> None:
    m = fastbn.stream(pd.DataFrame({"age": [1.0, 2.0]}))
    frame = pd.DataFrame({"age": [1.0, "unknown"]})
    with pytest.raises(
        ValueError,
        match=r"^column 'age' of the data frame cannot be written, for not all of it are numbers: 'unknown'$",
    ):
        fastbn.standardize(frame, m, tmp_path / "y.parquet")
    with pytest.raises(ValueError, match=r"got 'age' of source, which holds string, for .*: 'unknown'$"):
        fastbn.standardize(frame, m, tmp_path / "y.npy")
    with pytest.raises(ValueError, match=r"^source cannot be read: .*Could not convert <object"):
        fastbn.standardize(pd.DataFrame({"age": [1.0], "o": [object()]}), m, tmp_path / "y.parquet")
    frame.to_csv(tmp_path / "x.csv", index=False)
    with pytest.raises(ValueError, match=r"'unknown' \(null_values=\['unknown'\], --null, would count the others\)$"):
        fastbn.standardize(tmp_path / "x.csv", m, tmp_path / "y.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.csv"]


def test_points_and_commas_are_hinted_at(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a;b\n1,5;2\n2,5;3\n")
    also = (
        "delimiter=';', --delimiter, would make more columns of it, and decimal=',', --decimal, numbers of such as 1,5"
    )
    with pytest.raises(ValueError, match=rf"Expected 1 columns, got 2.* \({also}\)$"):
        fastbn.stream(tmp_path / "x.csv")
    with pytest.warns(RuntimeWarning, match=r": '1,5' \(decimal=',', --decimal ',', reads 1\.5\)$"):
        fastbn.stream(tmp_path / "x.csv", delimiter=";")
    assert fastbn.stream(tmp_path / "x.csv", delimiter=";", decimal=",").mean.tolist() == [2.0, 2.5]


def test_columns_without_commas_are_hinted_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.csv").write_text("age,income\n1,2\n")
    x = str(tmp_path / "x.csv")
    for arguments, name, hint in (
        (["--columns", "age", "income", x], "income", " (several: --columns age,income)"),
        ([x, "--columns", "age,", "income,", "taxes"], "income,", " (several: --columns age,income,taxes)"),
        ([x, "--dim", "lat", "lon"], "lon", " (several: --dim lat,lon)"),
        ([x, "income"], "income", ""),
        ([x, "--columns", "age", "--out", str(tmp_path / "no" / "s.npz")], str(tmp_path / "no"), ""),
    ):
        with pytest.raises(SystemExit, match="1"):
            main(["stats", *arguments])
        assert capsys.readouterr().err == f"fastbn: error: {name}: No such file or directory{hint}\n"


def test_a_file_of_other_statistics_is_named(tmp_path: Path, x: Array, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever is wrong with it: its features, its names, how they were measured."""
    (tmp_path / "x.csv").write_text("a,b\n1,2\n3,4\n")
    np.save(tmp_path / "x.npy", x.astype(np.uint8))
    named = fastbn.stream(tmp_path / "x.csv")
    twice = remembering(named, names=("a", "a"))
    cases: list[tuple[str, fastbn.Moments, list[str], str]] = [
        ("x.csv", fastbn.moments(np.eye(3)), [], "must have the features of .*, got [(]3,[)] of {}"),
        ("x.csv", remembering(named, names=("a", "c")), [], "has no column 'c', which the statistics of {} have"),
        ("x.csv", remembering(named, names=("a", "c")), ["--columns", "a,b"], "got none of 'b' among those of {}"),
        ("x.csv", twice, ["--columns", "a"], "must have features of different names for .* of {}"),
        ("x.csv", fastbn.Moments(), [], "moments must have seen something, got empty ones of {}"),
        ("x.npy", fastbn.stream(x, scale=2.0), ["--scale", "1"], "scale must be that of the statistics of {}, 2"),
        ("x.csv", remembering(named, mode="RGB"), ["--mode", "L"], "mode must be that of the statistics of {}, 'RGB'"),
    ]
    for source, moments, options, said in cases:
        moments.save(tmp_path / "s.npz")
        given = ["--stats", str(tmp_path / "s.npz"), "--out", str(tmp_path / "y.npy"), *options]
        with pytest.raises(SystemExit, match="1"):
            main(["standardize", str(tmp_path / source), *given])
        assert re.search(said.format(re.escape(repr(given[1]))), capsys.readouterr().err), said


def test_a_file_of_statistics_is_no_data(tmp_path: Path, x: Array, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", x)
    outputs = [str(tmp_path / "s.npz"), str(tmp_path / "s.json")]
    with pytest.raises(SystemExit, match="0"):
        main(["stats", str(tmp_path / "x.npy"), "-o", outputs[0], "-o", outputs[1]])
    for path, said in zip(
        outputs, ("must hold data, got a file of statistics", "statistics are shown by"), strict=True
    ):
        with pytest.raises(SystemExit, match="1"):
            main(["stats", path])
        error = capsys.readouterr().err
        assert said in error
        assert f"fastbn merge {path} --out" in error
    assert fastbn.stream(f"{outputs[0]}:mean").count == 2  # what is asked for by name


def test_the_command_leaves_out_nan(tmp_path: Path, x: Array, capsys: pytest.CaptureFixture[str]) -> None:
    x[3, 1], x[4, 0] = np.nan, np.inf
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(SystemExit, match="0"):
        main(["stats", str(tmp_path / "x.npy"), "--nan", "omit", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["nan"], found["count"]) == ("omit", [100, 99])
    assert found["mean"][0] is None or found["mean"][0] == "inf"
    assert found["mean"][1] == pytest.approx(np.nanmean(x[:, 1]), rel=1e-13)
    with pytest.raises(SystemExit, match="2"):
        main(["stats", str(tmp_path / "x.npy"), "--nan", "drop"])


def test_the_argument_of_statistics_is_named(
    tmp_path: Path, x: Array, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("s.npz").write_text("no statistics")
    np.save("x.npy", x)
    with pytest.raises(
        ValueError, match=r"^moments, --stats, must name a file written by fastbn stats, got 's\.npz': "
    ):
        fastbn.standardize(x, "s.npz", "y.npy")
    for arguments, code, said in (
        (
            ["standardize", "x.npy", "--stats", "s.npz", "--out", "y.npy"],
            1,
            "moments, --stats, must name a file written",
        ),
        (
            ["standardize", "x.npy", "--stats", "s.txt", "--out", "y.npy"],
            2,
            "--stats must name a file of statistics, .npz",
        ),
        (["stats", "x.npy", "--out", "s.txt"], 2, "--out must name a file of statistics, .npz or .json, got 's.txt'"),
        (["merge", "s.txt", "--out", "all.npz"], 2, "STATS must name a file of statistics, .npz or .json, got 's.txt'"),
        (
            ["merge", "s.npz", "--out", "all.txt"],
            2,
            "--out must name a file of statistics, .npz or .json, got 'all.txt'",
        ),
        (["merge", "s.npz", "--out", "all.npz"], 1, "paths must name a file written by fastbn stats, got 's.npz': "),
        (["stats", "x.npy", "--axis", "lat"], 2, "got 'lat' (--dim names the dimensions to reduce)"),
        (
            ["stats", "*.npy"],
            1,
            "*.npy: No such file or directory (a pattern of 1 file(s): glob.glob, or a shell where",
        ),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert (stopped.value.code, said in capsys.readouterr().err) == (code, True), said


@pytest.mark.parametrize("suffix", ["nc", "zarr"])
def test_dimensions_are_named_where_none_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str, rng: np.random.Generator
) -> None:
    data = xr.DataArray(rng.normal(size=(5, 4, 3)), dims=("time", "lat", "lon"), name="t").to_dataset()
    path = str(tmp_path / f"x.{suffix}")
    if suffix == "nc":
        data.to_netcdf(path)
    else:
        data.to_zarr(path, consolidated=False)
    hint = "(--dim names those to reduce, --axis those of features)"
    note = f"features are along lat, of the dimensions time, lat, lon {hint}"
    for options, noted in (([], True), (["--dim", "time"], False), (["--axis", "1"], False)):
        with suppress(SystemExit):
            main(["stats", path, *options])
        assert (note in capsys.readouterr().out) is noted, options
    with pytest.raises(ValueError, match=r"axis must name axes among the 3 of \S* \(time, lat, lon\), got 3"):
        fastbn.stream(path, axis=3)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda x, r: fastbn.normalize(x, r),
            r"mean must be an array, got a TrainResult \(one of its fields may be: .*'mean'",
        ),
        (lambda x, r: fastbn.normalize(x, r.mean, r), "var must be an array, got a TrainResult"),
        (lambda x, r: fastbn.moments(r), "x must be an array, got a TrainResult"),
        (lambda x, r: fastbn.normalize(pd.Series(x[:, 0]), 0, 1), r"x must have .* of a pandas Series x\.to_frame\(\)"),
        (lambda x, r: fastbn.stream(pd.Series(x[:, 0])), r"source must have two dimensions .*, series\.to_frame\(\)"),
    ],
)
def test_what_is_no_array_of_features_is_named(x: Array, call: Callable[[Any, Any], Any], said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{said}"):
        call(x, fastbn.batch_norm_train(x, None, None))
