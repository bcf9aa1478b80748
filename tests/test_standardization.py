"""Promise: the code in docs/standardization.md runs, by sections as the guide's, and prints what it says."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from test_guide import code_of

HEAD, *SECTIONS = (Path(__file__).parent.parent / "docs" / "standardization.md").read_text().split("\n## ")
WITH_CODE = [section for section in SECTIONS if code_of(section)]


@pytest.mark.parametrize("section", WITH_CODE, ids=[section.splitlines()[0] for section in WITH_CODE])
def test_the_examples_run(section: str) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code_of(HEAD) + code_of(section), {})
    promised = re.findall(r"^ *print\(.*\)  # (.*)$", code_of(section), re.MULTILINE)
    assert code_of(section).count("print(") == len(promised) > 0
    assert printed.getvalue().split() == " ".join(promised).split()
