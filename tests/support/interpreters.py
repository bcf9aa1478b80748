"""Python processes of their own: alone, or as MPI ranks."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest


def mpirun() -> str:
    """Return the mpirun beside this Python, as the mpich package installs it, or any other."""
    beside = Path(sys.executable).parent / "mpirun"
    found = str(beside) if beside.exists() else shutil.which("mpirun")
    if found is None:
        pytest.skip("no mpirun on this machine")
    return found
