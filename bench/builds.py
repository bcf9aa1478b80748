"""Two builds of fastbn in one process, each with its own modules and its own extension.

Python knows a module by its name alone, so each build is imported in its turn and its modules are taken out of
``sys.modules`` again; their objects live on, and so do both extensions, which share the OpenMP library. What a function
imports when it is called is looked up in ``sys.modules`` once more: therefore every call is made inside `Build.active`,
which puts the build's own modules back, and outside of it importing fastbn is an error rather than the wrong build.
"""

from __future__ import annotations

import ctypes
import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

NAME = "fastbn"


class BuildError(Exception):
    """A folder that holds no usable build, or two builds that are not apart."""


class Build:
    """One build, imported from a folder.

    Parameters
    ----------
    label : str
        What it is called in reports.
    folder : Path
        What holds the package ``fastbn``: a folder of installed packages, or ``python/`` of a checkout that was built.
    """

    def __init__(self, label: str, folder: Path) -> None:
        self.label, self.folder = label, folder.resolve()
        if not (self.folder / NAME / "__init__.py").is_file():
            raise BuildError(f"{label} must be a folder that holds the package {NAME}, got {folder}")
        self._modules: dict[str, ModuleType] = {}
        sys.path.insert(0, str(self.folder))
        try:
            with self.active():
                self.package: Any = importlib.import_module(NAME)
                self.core: Any = importlib.import_module(f"{NAME}._core")
        except ImportError as error:
            raise BuildError(f"{label} cannot be imported from {self.folder}: {error}") from error
        finally:
            sys.path.remove(str(self.folder))
            _forget_extensions()

    @property
    def extension(self) -> Path:
        """The file of the compiled module."""
        return Path(self.core.__file__)

    @property
    def description(self) -> str:
        """Where it came from and what it is, as one line."""
        config = self.package.show_config("dicts")
        return f"{self.label}: {self.folder}, {config['version']}, {config['compiler']}, {config['build_type']}"

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make this build the one that ``import fastbn`` finds."""
        sys.modules.update(self._modules)
        try:
            yield
        finally:
            for name in [name for name in sys.modules if name.partition(".")[0] == NAME]:
                module = sys.modules.pop(name)
                if name not in self._modules:
                    self._check_origin(module)
                    self._modules[name] = module

    def _check_origin(self, module: ModuleType) -> None:
        origin = getattr(module, "__file__", None)
        if origin is not None and not Path(origin).resolve().is_relative_to(self.folder):
            raise BuildError(f"{self.label} must come from {self.folder}, got {module.__name__} of {origin}")

    def use(self, isa: str, threads: int) -> None:
        """Choose the instruction set and the number of threads of the calls that follow."""
        self.core.set_isa(isa)
        self.core.set_num_threads(threads)


def _forget_extensions() -> None:
    """Make pybind11 forget what it has loaded under our name, or it would give the next build this one's extension.

    It keeps the modules it made by name, in the dictionary that the interpreter has for extensions.
    """
    api = ctypes.pythonapi
    api.PyInterpreterState_Get.restype = ctypes.c_void_p
    api.PyInterpreterState_GetDict.argtypes = [ctypes.c_void_p]
    # A borrowed reference: returned as py_object it would be given back once too often.
    api.PyInterpreterState_GetDict.restype = ctypes.c_void_p
    address = api.PyInterpreterState_GetDict(api.PyInterpreterState_Get())
    known: dict[str, Any] = ctypes.cast(address, ctypes.py_object).value
    modules = known.get("__pybind11_module_cache", {})
    for name in [name for name in modules if name.partition(".")[0] == NAME]:
        del modules[name]


class _OutsideOfBuilds(MetaPathFinder):
    """Refuses to import fastbn where none of the builds is active."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Let the usual finders look for all but the package itself."""
        if fullname == NAME:
            raise ImportError(f"{NAME} was imported outside of the builds that are compared")
        return None


def load_one(folder: Path) -> tuple[Build]:
    """Import a single build.

    Raises
    ------
    BuildError
        If the folder has none.
    """
    one = Build("NEW", folder)
    sys.meta_path.insert(0, _OutsideOfBuilds())
    return (one,)


def load(old: Path, new: Path) -> tuple[Build, Build]:
    """Import both builds and make sure that they are two.

    Raises
    ------
    BuildError
        If a folder has no build, or both lead to the same files or share state.
    """
    if any(name.partition(".")[0] == NAME for name in sys.modules):
        raise BuildError(f"{NAME} must not be imported before the builds are")
    builds = Build("OLD", old), Build("NEW", new)
    sys.meta_path.insert(0, _OutsideOfBuilds())
    first, second = builds
    for one, other in (
        (Path(first.package.__file__), Path(second.package.__file__)),
        (first.extension, second.extension),
    ):
        if one.samefile(other):
            raise BuildError(f"OLD and NEW must be two builds, got the same file twice: {one}")
    _check_apart(first, second)
    return builds


def _check_apart(first: Build, second: Build) -> None:
    """Make sure that neither extension uses the other's variables."""
    for k, build in enumerate((first, second)):
        build.core.set_num_threads(k + 1)
    if [b.core.get_num_threads() for b in (first, second)] != [1, 2]:
        raise BuildError("OLD and NEW must not share state, got one number of threads for both")
    for build in (first, second):
        build.core.set_num_threads(None)


def same_extension(first: Build, second: Build) -> bool:
    """Whether both were compiled to the same bytes."""
    return first.extension.read_bytes() == second.extension.read_bytes()


def openmp_libraries() -> list[str]:
    """Return the OpenMP libraries that this process has loaded; empty where the system does not tell."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    names = {line.split()[-1] for line in lines if "/" in line}
    return sorted(name for name in names if any(part in Path(name).name for part in ("libgomp", "libomp", "libiomp")))
