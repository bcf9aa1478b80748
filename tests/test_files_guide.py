"""Promise: the code and the commands in docs/files.md run, each section by itself, and print what it says."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from fastbn.__main__ import main

GUIDE = Path(__file__).parent.parent / "docs" / "files.md"
HEAD, *SECTIONS = GUIDE.read_text().split("\n## ")
BLOCK = re.compile(r"```(python|console)\n(.*?)```", re.DOTALL)


def assert_prints(block: str, names: dict[str, object]) -> int:
    """Run Python, assert that it prints what its comments say, and return how many there are."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(block, names)
    promised = re.findall(r"^ *print\(.*\)  # (.*)$", block, re.MULTILINE)
    assert block.count("print(") == len(promised)
    assert printed.getvalue().split() == " ".join(promised).split()
    return len(promised)


def assert_session(block: str, capsys: pytest.CaptureFixture[str]) -> int:
    """Run commands, assert that each prints the lines under it, and return how many there are."""
    commands = re.findall(r"^\$ fastbn (.*)\n((?:[^$].*\n)*)", block, re.MULTILINE)
    assert commands
    for arguments, promised in commands:
        with pytest.raises(SystemExit) as ended:
            main(shlex.split(arguments))
        printed = capsys.readouterr()
        assert (ended.value.code, printed.err, printed.out) == (0, "", promised)
    return len(commands)


@pytest.mark.parametrize("section", SECTIONS, ids=[section.splitlines()[0] for section in SECTIONS])
def test_the_examples_run(
    section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    shown = 0
    for kind, block in BLOCK.findall(HEAD) + BLOCK.findall(section):
        shown += assert_prints(block, names) if kind == "python" else assert_session(block, capsys)
    assert shown or not BLOCK.search(section)
