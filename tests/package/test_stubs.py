"""Type checkers see the module that is there: its stub agrees with it, and the package is marked as typed."""

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest


@pytest.mark.parametrize("name", ["py.typed", "_core.pyi"])
def test_package_carries_its_types(name: str) -> None:
    assert files("fastbn").joinpath(name).is_file()


def test_stub_agrees_with_the_extension(tmp_path: Path) -> None:
    # From an empty folder, so that the stub that was installed is read, not the one in the checkout.
    command = [sys.executable, "-m", "mypy.stubtest", "fastbn._core"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
