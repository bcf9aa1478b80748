"""Promise: the code in docs/distributed.md runs, each section after the first lines alone, and prints what it says."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from test_guide import code_of
from test_mpi import mpirun

HEAD, *SECTIONS = (Path(__file__).parent.parent / "docs" / "distributed.md").read_text().split("\n## ")


def printed_by(section: str) -> str:
    """Return what the code of a section prints: here or, if it says so, on three ranks."""
    if "mpirun -n 3" in section:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
        command = [mpirun(), "-n", "3", sys.executable, "-c", code_of(section)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code_of(HEAD) + code_of(section), {})
    return printed.getvalue()


@pytest.mark.parametrize("section", SECTIONS, ids=[section.splitlines()[0] for section in SECTIONS])
def test_the_examples_run(section: str) -> None:
    promised = re.findall(r"^ *print\(.*\)  # (.*)$", code_of(section), re.MULTILINE)
    assert code_of(section).count("print(") == len(promised) > 0
    assert printed_by(section).split() == " ".join(promised).split()
