"""Promise: the code in docs/torch.md runs, each section after the file's first lines, and prints what it says.

The pages of the reference, which are built without PyTorch, show the signatures and docstrings that there are.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import fastbn.torch
from support.pages import BLOCK, assert_prints, sections_of

PAGE = Path(__file__).parents[2] / "docs" / "torch.md"


@pytest.mark.parametrize(("head", "section"), sections_of(PAGE))
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of torch's own code
def test_the_examples_run(head: str, section: str) -> None:
    torch.compiler.reset()
    names: dict[str, Any] = {"__name__": "__main__"}
    for _, block in BLOCK.findall(head) + BLOCK.findall(section):
        assert_prints(block, names)


def test_the_reference_shows_what_there_is() -> None:
    path = PAGE.parent / "_extensions" / "torch_reference.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    extension = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(extension)
    shown = extension.stand_in()
    listed = (PAGE.parent / "reference" / "index.rst").read_text(encoding="utf-8").partition("fastbn.torch\n")[2]
    assert sorted(re.findall(r"^   (\w+)$", listed, re.MULTILINE)) == sorted(fastbn.torch.__all__)
    for name in fastbn.torch.__all__:
        ours, theirs = getattr(shown, name), getattr(fastbn.torch, name)
        assert (ours.__doc__, ours.__module__) == (theirs.__doc__, "fastbn.torch")
        if inspect.isclass(theirs):
            assert ours.forward.__doc__ == theirs.forward.__doc__
            ours, theirs = ours.__init__, theirs.__init__
        assert inspect.signature(ours) == inspect.signature(theirs)
