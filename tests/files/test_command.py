"""The `fastbn` command prints and writes what `stream` and `standardize` find, and says in a line what is wrong."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import fastbn
from fastbn.__main__ import main
from fastbn.command.display import plain_table
from fastbn.io.statsfiles import load_stats, merged_stats, read_as, remembering, save_stats, to_json
from support import datafiles
from support.datafiles import LEAST, Array, random_images, same_bits, save_images
from support.interpreters import environment, run_python

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


@pytest.fixture
def x(rng: np.random.Generator) -> Array:
    return rng.normal([3.0, -1e4, 0.0], [1.0, 2.0, 1e3], (5_000, 3))


@pytest.fixture
def source(tmp_path: Path, x: Array) -> str:
    return datafiles.save_csv(tmp_path, x)


# Statistics.


def test_a_table_for_people(command: Run, source: str, x: Array) -> None:
    code, out, err = command("stats", source)
    assert (code, err) == (0, "")
    head, *rows = [line.split() for line in out.splitlines()]
    assert head == ["feature", "count", "mean", "std", "min", "max"]
    expected = zip(x.mean(0), x.std(0), x.min(0), x.max(0), strict=True)
    assert rows == [[f"c{i}", "5000", *(f"{value:.6g}" for value in values)] for i, values in enumerate(expected)]


def test_a_table_shows_what_tells_far_values_apart(command: Run, tmp_path: Path, rng: np.random.Generator) -> None:
    x = np.column_stack([1.7e9 + rng.normal(0.0, 3.0, 500), np.full(500, 1.7e9), -1e12 + rng.normal(0.0, 1e-3, 500)])
    np.save(tmp_path / "x.npy", x)
    code, out, err = command("stats", tmp_path / "x.npy")
    assert (code, err) == (0, "")
    for (_, count, *shown), column in zip((line.split() for line in out.splitlines()[1:]), x.T, strict=True):
        assert count == "500"
        mean = column[0] + (column - column[0]).mean()
        exact = np.array([mean, column.min(), column.max()])
        assert (abs(np.array([shown[0], *shown[2:]], float) - exact) <= column.std() / 10).all()


def test_json_for_programs(command: Run, source: str) -> None:
    code, out, err = command("stats", source, "--json", "--columns", "c2,c0")
    assert (code, err) == (0, "")
    held, found = json.loads(out), fastbn.stream(source, columns=["c2", "c0"])
    assert (held["names"], held["count"], held["mean"]) == (["c2", "c0"], 5000, found.mean.tolist())
    assert (held["std"], held["min"]) == (found.std().tolist(), found.min.tolist() if found.min is not None else None)
    assert same_bits(fastbn.Moments.from_dict(json.loads(out)), found)


@pytest.mark.parametrize("suffix", ["npz", "json"])
def test_files_of_statistics(command: Run, tmp_path: Path, source: str, suffix: str) -> None:
    out = tmp_path / f"s.{suffix}"
    assert command("stats", source, "--out", out)[0] == 0
    found, stats = fastbn.stream(source), load_stats(out)
    assert read_as(stats) == (("c0", "c1", "c2"), 1.0, 1, None, None, None, None)
    assert same_bits(stats, found)
    if suffix == "npz":
        assert same_bits(fastbn.Moments.load(out), found)
        with np.load(out) as file:
            np.testing.assert_array_equal(file["std"], found.std())
            assert file["names"].tolist() == ["c0", "c1", "c2"]
    code, _, err = command("stats", source, "--out", out)
    assert (code, err) == (1, f"fastbn: error: {out}: File exists (overwrite=True, --force, replaces it)\n")
    code, _, err = command("stats", "nosuch.npy", "--out", tmp_path / "no" / "s.npz")
    assert (code, err) == (1, f"fastbn: error: {tmp_path}/no: No such file or directory\n")
    assert command("stats", source, "--out", out, "--force", "--columns", "c0")[0] == 0
    assert load_stats(out).names == ("c0",)


def test_options_arrive(command: Run, tmp_path: Path, rng: np.random.Generator) -> None:
    y = rng.normal(size=(20, 30, 4, 5))
    y[3, 2, 1, 0] = np.nan
    np.save(tmp_path / "y.npy", y)
    out = tmp_path / "s.npz"
    options = ["--axis", "1,-1", "--where-finite", "--memory", "1M", "--scale", 2, "--dtype", "float32"]
    assert command("stats", tmp_path / "y.npy", "--out", out, *options)[0] == 0
    stats = load_stats(out)
    expected = fastbn.stream(
        tmp_path / "y.npy", axis=(1, -1), where_finite=True, memory=1 << 20, scale=2, dtype=np.float32
    )
    assert same_bits(stats, expected)
    assert (read_as(stats)[1:3], stats.shape) == ((2.0, (1, -1)), (30, 5))
    (tmp_path / "h.csv").write_text("1.5,2.5\n")
    assert json.loads(command("stats", tmp_path / "h.csv", "--no-header", "--json")[1])["mean"] == [1.5, 2.5]
    images = save_images(tmp_path / "images", random_images(rng, 3))
    assert json.loads(command("stats", images, "--mode", "L", "--json")[1])["names"] == ["L"]
    code, table, _ = command("stats", tmp_path / "y.npy", "--axis", ",")
    assert (code, table.splitlines()[1].split()[:2]) == (0, ["all", "12000"])


def test_what_is_not_finite_is_said(command: Run, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b,c\n1,,inf\n2,3,4\n")
    code, out, _ = command("stats", tmp_path / "x.csv")
    assert code == 0
    assert out.splitlines()[-1] == "NaN or infinite values in: b, c (--where-finite leaves them out)"
    assert "nan" in out.splitlines()[2]
    held = json.loads(command("stats", tmp_path / "x.csv", "--json")[1], parse_constant=pytest.fail)
    assert held["mean"][:2] == [1.5, None]
    assert (held["min"][1:], held["max"][1:]) == ([None, 4.0], [None, "inf"])
    out = command("stats", tmp_path / "x.csv", "--where-finite")[1]
    assert [line.split()[1] for line in out.splitlines()] == ["count", "2", "1", "1"]


def test_files_that_cannot_be_read(command: Run, tmp_path: Path, source: str) -> None:
    bad = tmp_path / "bad.npy"
    bad.write_text("hello, world")
    for name in (bad, tmp_path / "nosuch.npy"):
        code, out, err = command("stats", source, name)
        assert (code, out) == (1, "")
        assert err.startswith(f"fastbn: error: {name}")
        assert err.count("\n") == 1
        code, out, err = command("stats", source, name, "--on-error", "skip", "--json")
        assert (code, list(json.loads(out)["skipped"])) == (0, [str(name)])
        assert err.startswith(f"fastbn: left out: {name}")
    code, _, err = command("stats", "nosuch.npy")
    assert err == "fastbn: error: nosuch.npy: No such file or directory\n"


def test_other_files_in_a_folder_of_images(command: Run, tmp_path: Path, rng: np.random.Generator) -> None:
    folder = save_images(tmp_path / "images", random_images(rng, 3))
    assert command("stats", folder)[2] == ""
    (folder / "labels.csv").write_text("a\n1\n")
    (folder / "readme.txt").write_text("hello")
    code, _, err = command("stats", folder)
    assert (code, err) == (
        0,
        f"fastbn: {folder} has 2 file(s) of other formats, which were not read: {folder}/labels.csv, ...\n",
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["stats"], "Missing argument 'SOURCE"),
        (["stats", "x.npy", "--memory", "lots"], "must be a number of bytes such as 64M or 1G, got 'lots'"),
        (["stats", "x.npy", "--memory", ""], "must be a number of bytes such as 64M or 1G, got ''"),
        (["stats", "x.npy", "--axis", "one"], "must be numbers with commas between, got 'one'"),
        (["stats", "x.npy", "--out", "s.txt"], "a file of statistics, .npz or .json, got 's.txt'"),
        (["stats", "x.npy", "--resume"], "--resume needs --out or --checkpoint"),
        (["stats", "x.npy", "--on-error", "ignore"], "'ignore' is not one of"),
        (["standardize", "x.npy", "--out", "y.npy"], "Missing option '--stats'"),
        (["standardize", "x.npy", "--stats", "s.npz"], "Missing option '--out'"),
        (["merge", "s.npz"], "Missing option '--out'"),
    ],
)
def test_wrong_arguments(command: Run, arguments: list[str], said: str) -> None:
    code, out, err = command(*arguments)
    assert code == 2
    assert said in " ".join((out + err).split())


def test_without_arguments_it_says_what_there_is(command: Run) -> None:
    _, out, err = command()
    assert "Usage: fastbn" in out + err
    assert all(name in out + err for name in ("stats", "standardize", "merge", "info"))


def test_help_is_whole_and_says_what_codes_mean(command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = command("--help")[1]
    assert "..." not in out.partition("\n")[2]  # behind its first line, of how it is used
    assert all(f"{code} " in out for code in ("0;", 1, 2, 130, 143))
    for name in ("stats", "merge"):
        assert "may be repeated" in " ".join(command(name, "--help")[1].split())


def test_sizes_of_memory(command: Run, source: str) -> None:
    for text in ("2M", "2m", "2MB", "2MiB", "2048K", "2097152", "0.002G"):
        assert command("stats", source, "--memory", text)[0] == 0
    code, _, err = command("stats", source, "--memory", "2")
    assert (code, err.splitlines()[-1]) == (2, "Error: --memory must be 262144 bytes or more, got 2")


# Killed, and stopped.


# Kills itself, as kill -9 does, once so much progress was shown.
KILLED = """
import contextlib, os, signal
from fastbn.__main__ import main
from fastbn.command import display
calls = []
def report(done, total):
    calls.append(done)
    if len(calls) == {limit}:
        os.kill(os.getpid(), signal.SIGKILL)
display.progress = lambda what: contextlib.nullcontext(report)
main({arguments})
"""


def test_a_killed_command_is_resumed(command: Run, tmp_path: Path, rng: np.random.Generator) -> None:
    np.save(tmp_path / "x.npy", rng.normal(5.0, 2.0, (50_000, 4)))
    whole, out = tmp_path / "whole.npz", tmp_path / "s.npz"
    arguments = ["stats", str(tmp_path / "x.npy"), "--memory", "256K"]
    assert command(*arguments, "--out", whole)[0] == 0
    done = run_python(KILLED.format(arguments=[*arguments, "--out", str(out), "--every", "0"], limit=9))
    assert done.returncode == -signal.SIGKILL, done.stderr
    checkpoint = Path(f"{out}.checkpoint")
    assert json.loads(checkpoint.read_text())["position"] == 9
    assert not out.exists()
    code, _, err = command(*arguments, "--out", tmp_path / "t.npz", "--resume")
    assert (code, err) == (0, f"fastbn: {tmp_path}/t.npz.checkpoint is not there, so this begins at the beginning\n")
    code, _, err = command(*arguments, "--out", out, "--resume", "--axis", "0")
    assert (code, "axis was 1 and is 0" in err) == (1, True)
    code, _, err = command(*arguments, "--out", out, "--resume")
    assert (code, err) == (0, "")
    assert out.read_bytes() == whole.read_bytes()
    assert not checkpoint.exists()


def stopped(source: str, checkpoint: Path) -> None:
    """Leave a checkpoint behind, as the command does that is given LEAST memory."""

    def progress(done: int, total: int | None) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fastbn.stream(source, memory=LEAST, checkpoint=checkpoint, every=0.0, progress=progress)


def test_a_checkpoint_stays_until_the_result_is_written(
    command: Run, tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out, checkpoint = tmp_path / "s.npz", tmp_path / "s.npz.checkpoint"
    stopped(source, checkpoint)
    held = checkpoint.read_bytes()
    arguments = ["stats", source, "--memory", "256K", "--out", out, "--resume", "--every", "1e9"]
    with monkeypatch.context() as context:
        context.setattr("fastbn._atomic._synchronize", full)
        assert command(*arguments)[::2] == (1, f"fastbn: error: {out}: No space left on device\n")
    assert (checkpoint.read_bytes(), out.exists()) == (held, False)
    assert command(*arguments)[::2] == (0, "")
    assert same_bits(load_stats(out), fastbn.stream(source, memory=LEAST))
    assert not checkpoint.exists()


def test_statistics_that_appear_meanwhile_are_not_replaced(
    command: Run, tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "s.npz"

    @contextlib.contextmanager
    def other(what: str) -> Iterator[Any]:
        yield lambda done, total: None
        out.write_text("precious")

    monkeypatch.setattr("fastbn.command.display.progress", other)
    assert command("stats", source, "--out", out)[::2] == (
        1,
        f"fastbn: error: {out}: File exists (overwrite=True, --force, replaces it)\n",
    )
    assert out.read_text() == "precious"
    assert command("stats", source, "--out", out, "--force")[::2] == (0, "")


def test_a_checkpoint_stays_until_the_result_is_printed(
    command: Run, tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "c"
    stopped(source, checkpoint)
    arguments = ["stats", source, "--memory", "256K", "--checkpoint", checkpoint, "--resume", "--every", "1e9"]
    with monkeypatch.context() as context:
        context.setattr("sys.stdout", None)
        assert command(*arguments)[::2] == (1, "fastbn: error: standard output: Bad file descriptor\n")
        sys.stdout.close()
    assert checkpoint.exists()
    assert command(*arguments)[0] == 0
    assert not checkpoint.exists()


def test_a_checkpoint_is_not_begun_over_without_a_word(command: Run, tmp_path: Path, source: str) -> None:
    stopped(source, tmp_path / "c")
    held, arguments = (tmp_path / "c").read_bytes(), ["stats", source, "--checkpoint", tmp_path / "c", "--every", "0"]
    code, _, err = command(*arguments)
    how = "--resume goes on from it, --force begins anew"
    assert (code, err) == (1, f"fastbn: error: {tmp_path}/c is of a run that was interrupted: {how}\n")
    assert (tmp_path / "c").read_bytes() == held
    assert command(*arguments, "--force")[::2] == (0, "")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_command_leaves_no_half_file(
    command: Run, tmp_path: Path, source: str, number: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stats = tmp_path / "s.npz"
    assert command("stats", source, "--out", stats)[0] == 0
    seen: list[int] = []

    def stopping(self: object, done: float, nbytes: int = 0) -> None:
        seen.append(len(list(tmp_path.glob(".y.csv*"))))
        os.kill(os.getpid(), number)

    monkeypatch.setattr("fastbn.io.run.Run._tell", stopping)
    before = signal.getsignal(signal.SIGTERM)
    interrupted = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        assert command("standardize", source, "--stats", stats, "--out", tmp_path / "y.csv")[0] == code
    finally:
        signal.signal(signal.SIGINT, interrupted)
    assert seen == [1]
    assert sorted(os.listdir(tmp_path)) == ["s.npz", "x.csv"]
    assert signal.getsignal(signal.SIGTERM) == before


# Is interrupted while the command is imported, by a module that makes an ImportError of it.
INTERRUPTED = """
import importlib.abc, os, signal, sys
class Interrupt(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "fastbn.command.cli":
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt as error:
                raise ImportError("initialization failed") from error
signal.signal(signal.SIGINT, signal.default_int_handler)
from fastbn.__main__ import main
sys.meta_path.insert(0, Interrupt())
main(["--version"])
"""


def test_a_command_that_is_stopped_while_it_starts_says_nothing() -> None:
    done = run_python(INTERRUPTED)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_columns_that_are_not_numbers_are_named(command: Run, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("name,height,town\nAnn,171,Rome\nBob,180,Oslo\n")
    code, out, err = command("stats", table)
    assert (code, out.splitlines()[-1], err) == (0, "not numbers, and not read: name, town", "")
    assert "not read" not in command("stats", table, "--columns", "height")[1]
    assert json.loads(command("stats", table, "--json")[1])["not_read"] == {"not numbers": ["name", "town"]}
    assert "not_read" not in json.loads(command("stats", table, "--json", "--columns", "height")[1])
    code, out, _ = command("stats", tmp_path / "gone.csv", table, "--on-error", "skip")
    assert (code, out.splitlines()[-1]) == (0, "not numbers, and not read: name, town")


def test_spaces_between_columns(command: Run, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("a,b c,d\n1,2,3\n4,5,6\n")
    assert [line.split()[0] for line in command("stats", table, "--columns", "d, b c")[1].splitlines()[1:]] == [
        "d",
        "b",
    ]


def test_a_store_has_no_files_of_other_kinds(command: Run, tmp_path: Path) -> None:
    zarr.save_array(str(tmp_path / "s.zarr"), np.ones((4, 2)))
    assert command("stats", tmp_path / "s.zarr")[::2] == (0, "")


def test_statistics_that_are_not_finite_are_named(command: Run, tmp_path: Path) -> None:
    table, stats = tmp_path / "t.csv", tmp_path / "s.json"
    table.write_text("a,b\n1,2\n4,\n")
    assert command("stats", table, "--out", stats)[0] == 0
    code, out, err = command("standardize", table, "--stats", stats, "--out", tmp_path / "y.csv")
    assert (code, out, err) == (0, "", "fastbn: no finite statistics, so only NaN is written: b\n")


def test_nothing_but_a_checkpoint_is_written_over(command: Run, tmp_path: Path, source: str) -> None:
    precious, folder = tmp_path / "notes.txt", tmp_path / "models"
    precious.write_text("{")
    (folder / "deep").mkdir(parents=True)
    held = Path(source).read_bytes()
    for path in (precious, folder):
        code, out, err = command("stats", source, "--every", "0", "--checkpoint", path)
        assert (code, out) == (1, "")
        assert err == f"fastbn: error: checkpoint must name a file that a run left, or none, got {str(path)!r}\n"
    stats = tmp_path / "s.npz"
    stats.mkdir()
    assert command("stats", source, "--out", stats, "--force")[2] == f"fastbn: error: {stats}: Is a directory\n"
    np.savez(tmp_path / "x.npz", x=np.ones((4, 2)))
    code, _, err = command("stats", tmp_path / "x.npz", "--out", tmp_path / "x.npz", "--force")
    assert (code, err) == (1, f"fastbn: error: --out must not be one of the sources, got '{tmp_path}/x.npz'\n")
    assert (precious.read_text(), Path(source).read_bytes()) == ("{", held)
    assert (folder / "deep").is_dir()


def test_a_checkpoint_is_no_result(command: Run, tmp_path: Path, source: str) -> None:
    """It is removed at the end, when the result is there."""
    (tmp_path / "link").symlink_to(tmp_path)
    first, second = str(tmp_path / "a.npz"), str(tmp_path / "b.json")
    for path in (second, f"{tmp_path}/./b.json", f"{tmp_path}/link/b.json", os.path.relpath(second)):
        code, out, err = command("stats", source, "--out", first, "--out", second, "--checkpoint", path)
        assert (code, out) == (2, "")
        assert err.endswith(f"Error: --checkpoint must not be --out, got {path!r}\n")
    Path(f"{first}.checkpoint").symlink_to(second)
    assert command("stats", source, "-o", first, "-o", second)[2].endswith(f"got '{first}.checkpoint'\n")
    assert not Path(first).exists()
    assert not Path(second).exists()


def test_a_checkpoint_and_a_result_are_no_sources(command: Run, tmp_path: Path, x: Array) -> None:
    folder, several, kept = tmp_path / "x", tmp_path / "x" / "x.npz", tmp_path / "kept.csv"
    folder.mkdir()
    np.savez(several, a=x, b=x)
    stopped(datafiles.save_npy(tmp_path, np.ones((50_000, 2))), kept)
    before = several.read_bytes(), kept.read_bytes()
    for read in (f"{several}:a", folder):
        assert command("stats", read, "--out", several, "--force") == (
            (1, "", f"fastbn: error: --out must not be one of the sources, got {str(several)!r}\n")
        )
    for read, path in ((folder, several), (f"{several}:a", several), (kept, kept)):
        for more in ([], ["--resume"]):
            assert command("stats", read, "--checkpoint", path, *more) == (
                (1, "", f"fastbn: error: checkpoint must not be one of the sources, got {str(path)!r}\n")
            )
        with pytest.raises(ValueError, match=f"checkpoint must not be one of the sources, got {str(path)!r}"):
            fastbn.stream(read, checkpoint=path)
    assert (several.read_bytes(), kept.read_bytes()) == before


def test_whoever_reads_may_have_enough(tmp_path: Path, source: str) -> None:
    done = run_python(f"""
import os, sys
from fastbn.__main__ import main
read, write = os.pipe()
os.close(read)
os.dup2(write, 1)
main(["stats", {source!r}])
""")
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(
    ("arguments", "code", "out", "err"),
    [
        ("info >&-", 1, "", "fastbn: error: standard output: Bad file descriptor\n"),
        ("--help >&-", 1, "", "fastbn: error: standard output: Bad file descriptor\n"),
        ("info >/dev/full", 1, "", "fastbn: error: standard output: No space left on device\n"),
        ("--help >/dev/full", 1, "", "fastbn: error: standard output: No space left on device\n"),
        ("stats x.csv --columns c0 2>&- <&- | wc -l", 0, "2\n", ""),
        ("stats nosuch.csv 2>&-", 1, "", ""),
    ],
)
def test_streams_that_are_closed_or_full(
    tmp_path: Path, source: str, arguments: str, code: int, out: str, err: str
) -> None:
    shell = ["sh", "-c", f"{shlex.quote(sys.executable)} -m fastbn {arguments}"]
    done = subprocess.run(shell, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.replace(" ", ""), done.stderr) == (code, out, err)


def test_streams_that_are_closed_here(command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, seen from inside."""
    with monkeypatch.context() as context:
        for name in ("stdin", "stderr"):
            context.setattr(f"sys.{name}", None)
        assert command("stats", "nosuch.npy")[::2] == (1, "")
        assert (sys.stdin.read(), sys.stderr.fileno() > 2) == ("", True)
        sys.stdin.close()
        sys.stderr.close()


# Standardized files.


def test_standardize(command: Run, tmp_path: Path, source: str, x: Array) -> None:
    stats, out = tmp_path / "s.npz", tmp_path / "y.csv"
    assert command("stats", source, "--out", stats)[0] == 0
    assert command("standardize", source, "--stats", stats, "--out", out) == (0, "", "")
    found = fastbn.stream(out)
    # 16 ulp of float64, of values that are up to 5e3 deviations from zero before the mean is taken off.
    np.testing.assert_allclose([found.mean, found.std() - 1], np.zeros((2, 3)), rtol=0, atol=16 * 2.0**-52 * 5e3)
    code, _, err = command("standardize", source, "--stats", stats, "--out", out)
    assert (code, err) == (1, f"fastbn: error: {out}: File exists (overwrite=True, --force, replaces it)\n")
    assert command("standardize", source, "--stats", stats, "--out", out, "--force", "--columns", "c1")[0] == 0
    others = np.loadtxt(out, delimiter=",", skiprows=1, usecols=(0, 2), quotechar='"')
    np.testing.assert_array_equal(others, x[:, [0, 2]])  # written as repr has them, and kept as text
    more = ["--dtype", "float32", "--eps", "1e-3", "--axis", "1", "--scale", "1", "--memory", "1M", "--no-header"]
    assert command("standardize", source, "--stats", stats, "--out", tmp_path / "y.npy", *more[:-1])[0] == 0
    assert np.load(tmp_path / "y.npy").dtype == np.float32
    code, _, err = command("standardize", source, "--stats", stats, "--out", source, "--force")
    assert (code, err) == (1, f"fastbn: error: out must not be one of the sources, got {source!r}\n")


def test_standardize_images_as_they_were_counted(command: Run, tmp_path: Path, rng: np.random.Generator) -> None:
    folder = save_images(tmp_path / "images", random_images(rng, 9, (5, 6)))
    assert command("stats", folder, "--scale", 255, "--mode", "L", "--out", tmp_path / "s.json")[0] == 0
    code, _, err = command("standardize", folder, "--stats", tmp_path / "s.json", "--out", tmp_path / "y.npy")
    assert (code, err) == (0, "")
    y = np.load(tmp_path / "y.npy").astype(np.float64)
    assert y.shape == (9, 1, 5, 6)
    # 16 ulp of float32, of pixels that are up to 4 deviations from zero: grey ones mix three.
    np.testing.assert_allclose([y.mean(), y.std()], [0, 1], rtol=0, atol=16 * 2.0**-23 * 4)
    (folder / "0000.png").write_text("hello")
    arguments = ["standardize", folder, "--stats", tmp_path / "s.json", "--out", tmp_path / "z"]
    assert command(*arguments)[0] == 1
    code, _, err = command(*arguments, "--on-error", "skip")
    assert (code, err.startswith(f"fastbn: left out: {folder}/0000.png")) == (0, True)
    assert len(os.listdir(tmp_path / "z")) == 8


# Merged statistics.


def test_merge(command: Run, tmp_path: Path, source: str, x: Array) -> None:
    names, paths = ("c0", "c1", "c2"), [tmp_path / name for name in ("a.npz", "b.json", "c.npz", "d.npz")]
    save_stats(remembering(fastbn.stream(x[:1000]), names=names), paths[0])
    save_stats(remembering(fastbn.stream(x[1000:2000, [2, 0, 1]]), names=("c2", "c0", "c1")), paths[1])
    fastbn.stream(x[2000:]).save(paths[2])
    fastbn.Moments().save(paths[3])
    code, out, err = command("merge", *paths, "-o", tmp_path / "all.json", "-o", tmp_path / "all.npz")
    assert (code, err) == (0, "")
    assert out == command("stats", source)[1]
    for name in ("all.json", "all.npz"):
        stats = load_stats(tmp_path / name)
        assert stats.names == names
        datafiles.assert_streamed(stats, x)
    assert command("merge", *paths, "-o", tmp_path / "all.npz")[0] == 1
    assert command("merge", paths[3], "-o", tmp_path / "none.npz")[:2] == (0, "feature  count  mean  std  min  max\n")
    assert "skipped" not in json.loads(command("merge", *paths, "-o", tmp_path / "all.npz", "--force", "--json")[1])


def test_statistics_without_extremes_show_none(command: Run, tmp_path: Path) -> None:
    fastbn.Moments(2, [1.0], [2.0]).save(tmp_path / "a.npz")
    out = command("merge", tmp_path / "a.npz", "-o", tmp_path / "all.npz")[1]
    assert out == "feature  count  mean  std  min  max\n0            2     1    1    -    -\n"


THREE = fastbn.Moments(1, [1.0] * 3, [0.0] * 3)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (fastbn.Moments(1, [1.0, 2.0], [0.0, 0.0]), r"features of those before it, of shape \(3,\), got \(2,\)"),
        (remembering(THREE, names=("x", "y", "z")), r"features of those before it \(c0, c1, c2\), got x, y, z"),
        (remembering(THREE, scale=255.0), "the scale of the statistics, 1, got 255"),
        (remembering(THREE, axis=2), "the axis of those before it, 1, got 2"),
        (remembering(THREE, mode="L"), "the mode of those before it, None, got"),
    ],
)
def test_statistics_that_do_not_fit(tmp_path: Path, x: Array, other: fastbn.Moments, said: str) -> None:
    save_stats(remembering(fastbn.stream(x), names=("c0", "c1", "c2")), tmp_path / "a.npz")
    save_stats(other, tmp_path / "b.npz")
    with pytest.raises(ValueError, match=rf"b.npz must have {said}|b.npz must have the {said}"):
        merged_stats([tmp_path / "a.npz", tmp_path / "b.npz"])
    with pytest.raises(ValueError, match="paths must name a file at least"):
        merged_stats([])


# Files of statistics.


AWKWARD = [
    fastbn.Moments(),
    fastbn.Moments(
        3,
        [[0.1, -np.inf], [np.nan, 1e308]],
        [[0.2, np.nan], [np.inf, 5e-324]],
        min=[[0, 1], [2, 3]],
        max=[[4, np.inf], [6, 7]],
    ),
    fastbn.Moments([1.5, 0.0], [1 / 3, np.nan], [0.0, 0.0], nan="omit"),
    fastbn.Moments(2**60, 1 / 3, 0.1),
    fastbn.Moments(extremes=True).update(np.random.default_rng(0).normal(1e9, 1.0, (999, 2))),
    fastbn.Moments(5, np.zeros((0,)), np.zeros((0,))),
]


@pytest.mark.parametrize("suffix", ["npz", "json", "NPZ"])
@pytest.mark.parametrize("moments", AWKWARD, ids=lambda moments: str(moments.shape))
def test_statistics_come_back_to_the_bit(tmp_path: Path, moments: fastbn.Moments, suffix: str) -> None:
    for stats in (moments, remembering(moments, scale=0.1, axis=(0, -1), mode="HSV")):
        save_stats(stats, tmp_path / f"s.{suffix}")
        found = load_stats(tmp_path / f"s.{suffix}")
        assert same_bits(found, moments)
        assert read_as(found) == read_as(stats)
        assert (found.nan, found.extremes) == (moments.nan, moments.extremes)


HEAD = '{"kind": "fastbn statistics", "format": 1, "nan": "propagate", "extremes": false, "count": 1, "mean": '


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", '{"kind": "x"}', '{"kind": "fastbn statistics", "format": 2}', "\x00"),
        *("[" * 100_000, f"{HEAD}{'[' * 900}{']' * 900}}}", f"{HEAD}{'9' * 6000}}}", f"{HEAD}[1"),
    ],
    ids=lambda text: text[-9:],
)
def test_files_that_hold_no_statistics(tmp_path: Path, x: Array, text: str) -> None:
    for name in ("s.json", "s.npz"):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=f"path must name a file written by fastbn stats, got '.*{name}'"):
            load_stats(tmp_path / name)
    stats = json.loads(to_json(remembering(fastbn.stream(x), names=("a", "b", "c"))))
    for change in (
        {"names": ["a"]},
        {"m2": [-1.0, 1.0, 1.0]},
        {"mean": ["x"] * 3},
        {"scale": "x"},
        {"axis": "x"},
        {"axis": [1, 1]},
        {"count": {}},
        {"count": -1},
        {"count": 10**400},
        {"mean": [10**400, 0, 0]},
        {"scale": 0},
        {"mode": "X"},
        {"mode": ["L"]},
        {"names": "abc"},
        {"names": {"a": 1, "b": 2, "c": 3}},
        {"names": ["a", "b", 3]},
    ):
        (tmp_path / "s.json").write_text(json.dumps(stats | change))
        with pytest.raises(ValueError, match=r"path must name a file written by fastbn stats, got '.*s.json'"):
            load_stats(tmp_path / "s.json")
    with pytest.raises(ValueError, match=r"path must name a file of statistics, .npz or .json, got 's.txt'"):
        load_stats("s.txt")
    with pytest.raises(FileNotFoundError):
        load_stats(tmp_path / "nosuch.npz")


# What else it shows.


def test_info(command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = command("info", "--json")
    held = json.loads(out)
    assert (code, err, held["version"], held["numpy"]) == (0, "", fastbn.__version__, np.__version__)
    assert held["isa"] in held["isas"]
    assert held["num_threads"] == fastbn.get_num_threads()
    monkeypatch.setattr("fastbn.command.display._PACKAGES", ("numpy", "no-such-package"))
    lines = dict(line.split(maxsplit=1) for line in command("info")[1].splitlines())
    assert (lines["no-such-package"], lines["isa"]) == ("not installed", held["isa"])
    assert lines["isas"] == ", ".join(held["isas"])


def test_terminals_see_tables_and_progress(
    command: Run, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "x.npy", rng.normal(size=(300, 60)))
    plain = command("stats", tmp_path / "x.npy")
    assert (plain[2], len(plain[1].splitlines())) == ("", 61)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    with monkeypatch.context() as context:
        context.setattr("sys.stdout.isatty", lambda: True, raising=False)
        code, out, err = command("stats", tmp_path / "x.npy")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "... and 10 features more (--out, --json or a pipe have all)"
    assert "\u2502" in out
    with monkeypatch.context() as context:
        context.setattr("sys.stderr.isatty", lambda: True, raising=False)
        code, out, err = command("stats", tmp_path / "x.npy")
    assert (code, out) == plain[:2]
    assert "counting" in err


def test_columns_are_aligned() -> None:
    assert plain_table([("a", "bb"), ("ccc", "d")]) == "a    bb\nccc   d"


def test_a_module_that_is_run(tmp_path: Path, source: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fastbn", "stats", source, "--json"],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["names"] == ["c0", "c1", "c2"]


def test_without_click(command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "click", None)
    monkeypatch.delitem(sys.modules, "fastbn.command.cli", raising=False)
    code, out, err = command("info")
    assert (code, out) == (1, "")
    assert err == 'fastbn: error: the command needs click and rich: pip install "fastbn[cli]"\n'


def test_a_module_of_our_own_that_is_missing_is_no_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastbn.command.cli", None)
    with pytest.raises(ModuleNotFoundError):
        main(["info"])


def test_errors_of_the_system_name_the_file(
    command: Run, tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("fastbn._atomic._synchronize", full)
    out = tmp_path / "s.npz"
    code, _, err = command("stats", source, "--out", out)
    assert (code, err) == (1, f"fastbn: error: {out}: No space left on device\n")
    assert sorted(os.listdir(tmp_path)) == ["x.csv"]


def test_importing_takes_no_package_that_is_not_needed() -> None:
    done = run_python("""
import sys, numpy
before = set(sys.modules)
import fastbn
new = {name.partition(".")[0] for name in set(sys.modules) - before} - {"fastbn"}
print(sorted(new & {"json", "zipfile", "threading", "queue", "concurrent", "csv", "socket", "glob", "click", "rich",
    "pyarrow", "h5py", "zarr", "PIL", "hashlib", "base64", "tempfile", "shutil"}))
print(sorted(name for name in sys.modules if name.startswith("fastbn.io.sources") or name == "fastbn.io.arrays"))
""")
    assert done.stdout.splitlines() == ["[]", "[]"]
