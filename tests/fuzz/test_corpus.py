"""Promise: the files that fuzzing began with and what it found are refused or read, and do no harm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fuzz import targets

CORPUS = Path(__file__).parent / "corpus"
FILES = sorted(CORPUS.glob("*/*"))


@pytest.fixture(autouse=True, scope="module")
def _cleared() -> Iterator[None]:
    targets.FOLDER.mkdir(exist_ok=True)
    yield
    targets.clear()


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_files(path: Path) -> None:
    targets.read(path.parent.name, path.read_bytes())


def test_every_target_has_files() -> None:
    assert {path.parent.name for path in FILES} == set(targets.TARGETS)


def test_seeds_are_read() -> None:
    """A valid file that was refused would leave what comes after the reading untried."""
    for target, name, content in targets.seeds():
        assert (CORPUS / target / name).exists()
        if target != "archive":  # of random members
            targets.TARGETS[target](content)
