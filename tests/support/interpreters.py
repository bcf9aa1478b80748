"""Python processes of their own: alone, or as MPI ranks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def environment(**variables: str) -> dict[str, str]:
    """Return an environment whose Python imports what this one does, without settings of fastbn."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("FASTBN_")}
    return known | {"PYTHONPATH": os.pathsep.join(folder for folder in sys.path if folder)} | variables


def run_python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, with variables added to its environment."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def run_ranks(code: str, ranks: int = 3, **variables: str) -> str:
    """Run code on MPI ranks of one thread each, and return what they print; skip the test without MPI."""
    done = subprocess.run(
        [mpirun(), "-n", str(ranks), sys.executable, "-c", code],
        env=environment(OMP_NUM_THREADS="1", **variables),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def mpirun() -> str:
    """Return the mpirun beside this Python, as the mpich package installs it, or any other."""
    beside = Path(sys.executable).parent / "mpirun"
    found = str(beside) if beside.exists() else shutil.which("mpirun")
    if found is None:
        pytest.skip("no mpirun on this machine")
    return found
