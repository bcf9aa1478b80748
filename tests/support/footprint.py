"""What fastbn costs once installed: bytes on disk, and seconds of import beyond numpy's.

    python tests/support/footprint.py dist/*.whl

Builds an environment that holds numpy and the wheel and nothing else; no network is needed.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import venv
from importlib.metadata import distribution
from pathlib import Path

IMPORT_TIMER = """
import time
import numpy
start = time.perf_counter()
import fastbn
print(time.perf_counter() - start)
"""


def bare_environment(folder: Path, wheel: Path) -> Path:
    """Make an environment of numpy and the wheel in `folder`, and return its interpreter.

    numpy is copied from the running environment. pip then installs the wheel with no index to turn to, so a run-time
    requirement beyond numpy makes it fail.
    """
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    site = Path(run(python, "import sysconfig; print(sysconfig.get_path('platlib'))").strip())
    numpy = distribution("numpy")
    for file in numpy.files or []:
        if ".." not in file.parts:
            (site / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(str(numpy.locate_file(file)), site / file)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-index", str(wheel)], check=True)
    return python


def run(python: Path, code: str) -> str:
    """Run `code` in a fresh interpreter that sees its own environment alone, and return what it prints."""
    command = [str(python), "-I", "-c", code]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=python.parent).stdout


def installed_bytes(python: Path) -> int:
    """Return the size of all that installing fastbn put there, compiled bytecode included."""
    site = Path(run(python, "import fastbn; print(fastbn.__path__[0])").strip()).parent
    return sum(file.stat().st_size for file in site.glob("fastbn*/**/*") if file.is_file())


def import_seconds(python: Path, runs: int = 15) -> list[float]:
    """Time `import fastbn` after `import numpy` in fresh processes, and return the times in order of size."""
    return sorted(float(run(python, IMPORT_TIMER)) for _ in range(runs))


def report(python: Path) -> str:
    """Return the two figures in one line."""
    megabytes, seconds = installed_bytes(python) / 1e6, import_seconds(python)
    least, median = 1e3 * seconds[0], 1e3 * statistics.median(seconds)
    times = f"{median:.1f} ms (median of {len(seconds)}; least {least:.1f} ms)"
    return f"installed: {megabytes:.2f} MB; import beyond numpy's: {times}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(report(bare_environment(Path(folder), Path(sys.argv[1]).resolve())))
