"""Pages of docs/ as the code they show, and what each of its prints promises."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

BLOCK = re.compile(r"```(python|console)\n(.*?)```", re.DOTALL)


def sections_of(page: Path) -> list[Any]:
    """Return (the page's first lines, a section) for every section that shows what to do."""
    head, *shown = page.read_text().split("\n## ")
    return [pytest.param(head, text, id=f"{page.stem}: {text.splitlines()[0]}") for text in shown if BLOCK.search(text)]


def promised(code: str) -> list[str]:
    """Return the words behind each print."""
    lines = re.findall(r"^ *print\(.*\)  # (.*)$", code, re.MULTILINE)
    assert code.count("print(") == len(lines)
    return " ".join(lines).split()


def assert_prints(code: str, names: dict[str, object]) -> int:
    """Run Python, assert that it prints what it says, and return how many words that are."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, names)
    assert printed.getvalue().split() == promised(code)
    return len(promised(code))
