"""Promise: the errors in docs/toolbox.md's table are bounds that hold, for every row that the script prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import worst_errors

DOC = Path(__file__).parents[2] / "docs" / "toolbox.md"


@pytest.mark.filterwarnings("default")  # other libraries' own
@pytest.mark.parametrize("section", worst_errors.SECTIONS, ids=lambda section: section.__name__)
def test_errors_are_within_their_bounds(section: object) -> None:
    shown = {
        tuple(cells[:3]): float(cells[4])
        for line in re.findall(r"^\| (.*) \|$", DOC.read_text(), re.MULTILINE)
        if len(cells := line.split(" | ")) == 5 and re.fullmatch(r"\d+e-\d+", cells[4])
    }
    rows = list(section())  # type: ignore[operator]
    if not rows:
        pytest.skip("no other library is installed")
    for row in rows:
        assert row.error <= row.bound, row
        assert shown[row[:3]] == row.bound
