"""Promise: the code in docs/torch.md runs, each section after the file's first lines, and prints what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from support.pages import BLOCK, assert_prints, sections_of

PAGE = Path(__file__).parents[2] / "docs" / "torch.md"


@pytest.mark.parametrize(("head", "section"), sections_of(PAGE))
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of torch's own code
def test_the_examples_run(head: str, section: str) -> None:
    torch.compiler.reset()
    names: dict[str, Any] = {"__name__": "__main__"}
    for _, block in BLOCK.findall(head) + BLOCK.findall(section):
        assert_prints(block, names)
