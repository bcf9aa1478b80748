"""Promise: what is released says the same everywhere, and is built by actions that nobody can exchange."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def version() -> str:
    found = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found
    return found[1]


def test_changes_begin_with_the_version() -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert re.fullmatch(rf"{re.escape(version())} \(\d{{4}}-\d\d-\d\d\)", headings[0])


def test_the_version_stands_in_one_place() -> None:
    """In no file that would have to be changed with it: those that speak of a version's past are pages and tests."""
    files = ["CITATION.cff", "CMakeLists.txt", "SECURITY.md", "README.md", "docs/conf.py"]
    files += [str(path.relative_to(ROOT)) for path in (ROOT / "python").rglob("*.py")]
    assert [name for name in files if f'"{version()}"' in (ROOT / name).read_text()] == []


@pytest.mark.skipif(not WORKFLOWS, reason="the sdist leaves them out")
@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_held_to_commits(workflow: Path) -> None:
    text = workflow.read_text()
    actions = re.findall(r"uses: (.*)$", text, re.MULTILINE)
    assert actions
    assert [action for action in actions if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", action)] == []
    assert "\npermissions:" in text
