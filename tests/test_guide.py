"""Promise: the code in docs/guide.md runs, each section after the first lines alone, and prints what it says."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

GUIDE = Path(__file__).parent.parent / "docs" / "guide.md"
HEAD, *SECTIONS = GUIDE.read_text().split("\n## ")


def code_of(text: str) -> str:
    return "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))


@pytest.mark.parametrize("section", SECTIONS, ids=[section.splitlines()[0] for section in SECTIONS])
def test_the_examples_run(section: str) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code_of(HEAD) + code_of(section), {})
    promised = re.findall(r"^ *print\(.*\)  # (.*)$", code_of(section), re.MULTILINE)
    assert code_of(section).count("print(") == len(promised) > 0
    assert printed.getvalue().split() == " ".join(promised).split()
