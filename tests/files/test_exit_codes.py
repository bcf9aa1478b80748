"""One rule for the command's exit codes: 2 for arguments that cannot be right, 1 for what happens with files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fastbn
from fastbn.__main__ import main
from support.interpreters import environment

READING = [  # of `stats` and of `standardize`: the arguments, and what is said of them
    ("--memory 1", "--memory must be 262144 bytes or more, got 1"),
    ("--memory many", "--memory must be a number of bytes such as 64M or 1G, got 'many'"),
    ("--memory -5M", "--memory must be 262144 bytes or more"),
    ("--axis one", "--axis must be numbers with commas between, got 'one'"),
    ("--axis 1,1", "--axis must not name an axis twice, got (1, 1)"),
    ("--axis 1 --axis 2", "--axis must be given once, got 1 and 2"),
    ("--axis 1 --dim x", "--dim must come without axis"),
    ("--scale 0", "--scale must be above 0, got 0.0"),
    ("--scale -1", "--scale must be finite and >= 0, got -1.0"),
    ("--scale nan", "--scale must be finite and >= 0, got nan"),
    ("--scale x", "'x' is not a valid float"),
    ("--scale 1 --scale 1", "--scale must be given once, got 1.0 and 1.0"),
    ("--mode XYZ", "--mode must be one of L, LA"),
    ("--mode L --mode RGB", "--mode must be given once, got L and RGB"),
    ("--max-pixels 0", "--max-pixels must be finite and >= 1, got 0"),
    ("--max-pixels 1.5", "'1.5' is not a valid integer"),
    ("--nodata x", "--nodata must be numbers or COLUMN=NUMBER, got 'x'"),
    ("--nodata a=x", "--nodata must be numbers or COLUMN=NUMBER, got 'x'"),
    ("--delimiter ;;", "--delimiter must be one ASCII character"),
    ("--delimiter , --delimiter ;", "--delimiter must be given once, got , and ;"),
    ("--decimal é", "--decimal must be one ASCII character"),
    ("--comment ##", "--comment must be one ASCII character"),
    ("--encoding nonsense", "--encoding must be one of texts that Python knows, got 'nonsense'"),
    ("--encoding rot13", "--encoding must be one of texts that Python knows, got 'rot13'"),
    ("--encoding base64", "--encoding must be one of texts that Python knows, got 'base64'"),
    ("--columns=", "--columns must name a column, got ''"),
    ("--decimal 5", "--decimal must be neither a letter nor a digit, got '5'"),
    ("--header --no-header", "--header must come without --no-header, got both"),
    ("--on-error ignore", "'ignore' is not one of"),
    ("--on-error skip --on-error raise", "--on-error must be given once, got skip and raise"),
    ("--dtype int8", "'int8' is not one of"),
    ("--no-such-option", "No such option"),
    ("--memory", "requires an argument"),
]
OTHERS = [
    ("nonsense", "No such command 'nonsense'"),
    ("--nonsense", "No such option"),
    ("stats", "Missing argument 'SOURCE"),
    ("stats x.npy --out zz.txt", "a file of statistics, .npz or .json, got 'zz.txt'"),
    ("stats x.npy --out s.npz --out zz", "a file of statistics, .npz or .json, got 'zz'"),
    ("stats x.npy --resume", "--resume needs --out or --checkpoint"),
    ("stats x.npy --out s.npz --checkpoint ./s.npz", "--checkpoint must not be --out, got './s.npz'"),
    ("stats x.npy --every -1", "--every must be finite and >= 0, got -1.0"),
    ("stats x.npy --nan drop", "'drop' is not one of"),
    ("stats x.npy --checkpoint a --checkpoint b", "--checkpoint must be given once, got a and b"),
    ("stats x.npy --weights a --weights b", "--weights must be given once, got a and b"),
    ("stats x.npy --force=yes", "does not take a value"),
    ("standardize x.npy --out y.npy", "Missing option '--stats'"),
    ("standardize x.npy --stats s.npz", "Missing option '--out'"),
    ("standardize --stats s.npz --out y.npy", "Missing argument 'SOURCE"),
    ("standardize x.npy --stats s.txt --out y.npy", "a file of statistics, .npz or .json, got 's.txt'"),
    ("standardize x.npy --stats s.npz --out y.xyz", "--out must be a folder or a file of a known format"),
    ("standardize x.npy --stats s.npz --out y.npy --eps -1", "--eps must be finite and >= 0, got -1.0"),
    ("standardize x.npy --stats s.npz --out y.csv --resume", "--resume must come with a new .npy file, Zarr store or"),
    ("standardize x.npy --stats s.npz --out y.npy --out z.npy", "--out must be given once, got y.npy and z.npy"),
    ("merge s.npz", "Missing option '--out'"),
    ("merge --out s.npz", "Missing argument 'STATS"),
    ("merge s.npz --out t.txt", "a file of statistics, .npz or .json, got 't.txt'"),
    ("merge s.txt --out t.npz", "a file of statistics, .npz or .json, got 's.txt'"),
    ("info --json=1", "does not take a value"),
    ("info more", "unexpected extra argument"),
]
FILES = [  # what may be right with other files
    ("stats nosuch.npy", "nosuch.npy: No such file or directory"),
    ("stats x.txt", "images), got 'x.txt' (a table in a text is one by the name .csv"),
    ("stats x.xlsx", "images), got 'x.xlsx' (give the data frame that pandas.read_excel makes of it)"),
    ("stats x.xyz", "source must be a folder or a file of a known format"),
    ("stats bad.npy", "bad.npy cannot be read"),
    ("stats empty", "source must hold images or other files of a known format, got the folder 'empty'"),
    ("stats x.npy --axis 7", "axis must name axes among the 2 of x.npy, got 7"),
    ("stats x.npy --columns 9", "columns must be among"),
    ("stats x.npy --dim time", "dim must name dimensions of x.npy"),
    ("stats x.csv --columns z", "columns must be among those of x.csv (a, b), got 'z'"),
    ("stats x.csv --weights z", "weights must be a column of x.csv or a file, got 'z'"),
    ("stats x.csv --encoding utf-16", "x.csv"),
    ("stats n.csv", "header=True or header=False (--header, --no-header)"),
    ("stats x.png --max-pixels 5", "max_pixels"),
    ("stats x.npy y.csv", "y.csv must have the features"),
    ("stats x.npy --out x.npz", "File exists (overwrite=True, --force, replaces it)"),
    ("stats x.npy --out no/s.npz", "no: No such file or directory"),
    ("stats x.npz:a --out x.npz --force", "--out must not be one of the sources, got 'x.npz'"),
    ("stats x.npy --checkpoint x.txt", "checkpoint must name a file that a run left, or none, got 'x.txt'"),
    ("standardize x.npy --stats nosuch.npz --out y.npy", "nosuch.npz: No such file or directory"),
    ("standardize x.npy --stats x.npz --out y.npy", "x.npz"),
    ("standardize x.npy --stats s.npz --out x.csv", "x.csv: File exists"),
    ("standardize x.npy --stats s.npz --out x.npy --force", "out must not be one of the sources, got 'x.npy'"),
    ("standardize x.npy --stats s.npz --out no/y.npy", "no: No such file or directory"),
    ("standardize x.csv --stats s3.npz --out z.csv", "moments must have the features of x.csv"),
    ("merge s.npz s3.npz --out t.npz", "s3.npz must have the features of those before it"),
    ("merge s.npz nosuch.npz --out t.npz", "nosuch.npz: No such file or directory"),
    ("merge x.npz --out t.npz", "x.npz"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a file of each kind, in which the command runs."""
    monkeypatch.chdir(tmp_path)
    x = np.arange(8.0).reshape(4, 2)
    np.save("x.npy", x)
    np.savez("x.npz", a=x, b=x)
    Path("x.csv").write_text("a,b\n1,2\n3,4\n")
    Path("y.csv").write_text("a,b,c\n1,2,3\n")
    Path("n.csv").write_text("1,2\n3,4\n")
    for name in ("x.txt", "x.xlsx", "x.xyz"):
        Path(name).write_text("text")
    Path("bad.npy").write_text("text")
    Path("empty").mkdir()
    Image.new("L", (3, 3)).save("x.png")
    fastbn.stream(x).save("s.npz")
    fastbn.stream(np.zeros((4, 3))).save("s3.npz")
    return tmp_path


def ended(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> tuple[Any, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    out, err = capsys.readouterr()
    return stopped.value.code, out, " ".join(err.split())


def usage() -> list[tuple[str, str]]:
    of_both = [
        (f"{begin} {arguments}", said)
        for arguments, said in READING
        for begin in ("stats x.npy", "standardize x.npy --stats s.npz --out y.npy")
    ]
    return of_both + OTHERS


@pytest.mark.parametrize("there", [True, False], ids=["files", "none"])
@pytest.mark.parametrize(("arguments", "said"), usage(), ids=lambda value: value[:60])
def test_what_cannot_be_right_is_2_whatever_files_there_are(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: str,
    said: str,
    there: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    if there:
        request.getfixturevalue("folder")
    before = sorted(os.listdir())
    code, out, err = ended(capsys, arguments.split(" "))
    assert (code, out) == (2, "")
    assert said in err
    assert err.startswith(("Usage: fastbn", "Error: "))
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize(("arguments", "said"), FILES, ids=lambda value: value[:60])
def test_what_happens_with_files_is_1(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: str, said: str
) -> None:
    before = sorted(os.listdir())
    code, out, err = ended(capsys, arguments.split(" "))
    assert (code, out) == (1, "")
    assert said in err
    assert err.startswith("fastbn: error: ")
    assert sorted(os.listdir()) == before


def test_a_process_ends_with_these_codes(folder: Path) -> None:
    for arguments, code in (("stats x.npy", 0), ("stats bad.npy", 1), ("stats x.npy --memory 1", 2), ("--version", 0)):
        done = subprocess.run([sys.executable, "-m", "fastbn", *arguments.split()], env=environment(), check=False)
        assert done.returncode == code


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(capsys, ["--version"]) == (0, f"fastbn {fastbn.__version__}\n", "")


def test_what_may_be_repeated(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = "stats x.csv --columns b --columns a --null 9 --null 8 --nodata 1 --nodata b=2 --out t.npz --out t.json"
    assert ended(capsys, arguments.split(" "))[::2] == (0, "")
    assert fastbn.Moments.load("t.npz").names == ("b", "a")
    assert ended(capsys, ["stats", "x.npy", "--dim", "time", "--dim", "lat"])[2].endswith("got time, lat")
