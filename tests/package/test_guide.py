"""Promise: code and commands in docs/ run, each section after its file's first lines, and print what they say."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from fastbn.__main__ import main
from support.interpreters import run_ranks
from support.pages import BLOCK, assert_prints, promised, sections_of

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("start", "operation", "guide", "toolbox", "standardization", "files", "distributed")
# Libraries that layers and scalers are exchanged with.
OTHERS = "torch|keras|flax|onnx|onnxruntime|skl2onnx|skops"


def assert_session(block: str, capsys: pytest.CaptureFixture[str]) -> int:
    """Run commands, assert that each prints the lines under it, and return how many there are."""
    commands = re.findall(r"^\$ fastbn (.*)\n((?:[^$].*\n)*)", block, re.MULTILINE)
    assert commands
    for arguments, wanted in commands:
        with pytest.raises(SystemExit) as ended:
            main(shlex.split(arguments))
        printed = capsys.readouterr()
        assert (ended.value.code, printed.err, printed.out) == (0, "", wanted)
    return len(commands)


def assert_ranks_print(code: str) -> int:
    """Run Python on three MPI ranks, and assert that together they print what it says."""
    assert run_ranks(code).split() == promised(code)
    return len(promised(code))


# Of Keras, which converts PyTorch's tensors so.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
@pytest.mark.parametrize(("head", "section"), [each for name in PAGES for each in sections_of(DOCS / f"{name}.md")])
def test_the_examples_run(
    head: str, section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    for library in re.findall(rf"^(?:import|from) ({OTHERS})\b", section, re.MULTILINE):
        pytest.importorskip(library)
    names: dict[str, object] = {"__name__": "__main__"}
    shown = 0
    for kind, block in BLOCK.findall(head) + BLOCK.findall(section):
        if kind == "console":
            shown += assert_session(block, capsys)
        elif "mpirun -n 3" in section and block in section:
            shown += assert_ranks_print(block)
        else:
            shown += assert_prints(block, names)
    assert shown


def test_the_first_page_s_code_runs() -> None:
    (code,) = [block for kind, block in BLOCK.findall((DOCS / "index.md").read_text()) if kind == "python"]
    names: dict[str, object] = {}
    exec(code, names)
    assert getattr(names["y"], "shape", None) == (1, 64, 28, 28)
