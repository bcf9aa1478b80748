"""Errors of beginners: what they say names the argument and what would help."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fastbn
from fastbn.__main__ import main
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
        with pytest.raises(ValueError, match=r"as those before it, got (I;16|L)$"):
            fastbn.stream(pair)


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
