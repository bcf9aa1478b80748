"""Compiles a C++ file of this folder at run time and loads it by ctypes; knows nothing of what is in it."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent / "build" / "bench"
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", "-Wall", "-Wextra")


class BuildError(RuntimeError):
    """The compiler is missing, or did not like the source."""


def cpu_model() -> str:
    """Return the processor's name as the kernel tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def processor_flags() -> str:
    """Return what the kernel says this processor can do, as one line; empty if it does not say."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
    return text.partition("\nflags")[2].partition("\n")[0]


def cache_bytes(level: int) -> int:
    """Return the size of a data cache of the first core, 0 if the system does not tell."""
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        kind = (index / "type").read_text(encoding="ascii").strip()
        if kind != "Instruction" and int((index / "level").read_text(encoding="ascii")) == level:
            text = (index / "size").read_text(encoding="ascii").strip()
            return int(text[:-1]) * {"K": 1 << 10, "M": 1 << 20}[text[-1]]
    return 0


def load(source: str, *libraries: str) -> ctypes.CDLL:
    """Compile ``source`` (a file name in this folder) for this processor, once, and load it.

    The result is kept in ``build/bench`` under a hash of the source, the flags and the processor.

    Raises
    ------
    BuildError
        If g++ is missing or fails; the message holds its first error line.
    """
    path = HERE / source
    flags = (*FLAGS, *(f"-l{name}" for name in libraries))
    key = hashlib.sha256(path.read_bytes() + repr((flags, cpu_model(), processor_flags())).encode()).hexdigest()[:12]
    library = BUILD / f"{path.stem}-{key}.so"
    if not library.exists():
        _compile(path, library, flags)
    return ctypes.CDLL(str(library))


def _compile(path: Path, library: Path, flags: tuple[str, ...]) -> None:
    BUILD.mkdir(parents=True, exist_ok=True)
    unfinished = library.with_suffix(f".{os.getpid()}")
    command = [os.environ.get("CXX", "g++"), str(path), "-o", str(unfinished), *flags]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise BuildError(f"no compiler: {error}") from error
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["?"]
        raise BuildError(f"{path.name} does not compile: {errors[0]}")
    unfinished.replace(library)
