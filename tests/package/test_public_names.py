"""Promise: what `fastbn.<TAB>` offers is what there is to use, and nothing else."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import pkgutil
import re
import subprocess
import sys
import types

import pytest

import fastbn

MODULES = ["config", "dask", "functional", "interop", "mpi", "results", "sklearn", "torch"]
# All libraries that the modules serve are installed where tests run, but for this one.
MISSING = set() if importlib.util.find_spec("torch") else {"torch"}
# Not offered, although their names do not say that they are private.
SERVING = {"io", "command", "__main__"}


def test_dir_shows_public_names_and_modules_alone() -> None:
    assert dir(fastbn) == sorted([*fastbn.__all__, *MODULES])


@pytest.mark.parametrize("package", sorted({"dask", "interop", "mpi", "sklearn", "torch"} - MISSING))
def test_dir_of_integrations_shows_public_names_alone(package: str) -> None:
    module = importlib.import_module(f"fastbn.{package}")
    assert dir(module) == sorted(module.__all__)
    assert all(getattr(module, name).__doc__ for name in module.__all__)


def test_all_other_modules_are_private_by_name() -> None:
    modules = {module.name for module in pkgutil.iter_modules(fastbn.__path__)}
    assert {name for name in modules if not name.startswith("_") or name == "__main__"} == SERVING | set(MODULES)


@pytest.mark.parametrize("package", ["dask", "interop", "sklearn", "torch"])
def test_modules_of_integrations_are_private_by_name(package: str) -> None:
    modules = pkgutil.iter_modules([f"{fastbn.__path__[0]}/{package}"])
    assert all(module.name.startswith("_") for module in modules)


def test_everything_that_is_shown_is_there() -> None:
    shown = dict(inspect.getmembers(fastbn))
    assert shown.keys() == set(dir(fastbn)) - MISSING
    for name in set(MODULES) - MISSING:
        assert shown[name] is importlib.import_module(f"fastbn.{name}")
        assert isinstance(shown[name], types.ModuleType)


def test_functions_and_classes_say_where_they_are() -> None:
    for name in set(fastbn.__all__) - {"__version__"}:
        public = getattr(fastbn, name)
        assert public.__doc__
        if inspect.isclass(public):
            assert public.__module__ == "fastbn"


def test_integrations_are_imported_when_they_are_asked_for() -> None:
    code = """
import sys, fastbn
print(any(f"fastbn.{name}" in sys.modules for name in ("dask", "mpi", "sklearn", "torch")))
print(fastbn.sklearn.StandardScaler, "fastbn.dask" in sys.modules)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n<class 'fastbn.sklearn.StandardScaler'> False\n"


def test_package_works_without_its_documentation() -> None:
    code = """
import inspect, fastbn
assert not fastbn.functional.__doc__
print(fastbn.normalize([[3.0]], [1.0], [4.0], eps=0.0), list(inspect.signature(fastbn.moments).parameters)[0])
"""
    found = subprocess.run([sys.executable, "-OO", "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[[1.]] x\n"


def test_what_is_not_there_is_an_attribute_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AttributeError, match=r"module 'fastbn' has no attribute 'layers'"):
        fastbn.layers  # type: ignore[attr-defined]  # noqa: B018
    for name in ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm", "StandardScaler"):
        with pytest.raises(AttributeError, match=rf"has no attribute '{name}' \(fastbn\.") as missing:
            getattr(fastbn, name)
        for found in re.findall(r"fastbn\.([A-Za-z.]+)", str(missing.value)):
            if found.startswith("torch") and importlib.util.find_spec("torch") is None:
                continue
            assert functools.reduce(getattr, found.rstrip(".").split("."), fastbn) is not None
    monkeypatch.delattr(fastbn, "mpi", raising=False)
    monkeypatch.delitem(sys.modules, "fastbn.mpi", raising=False)
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(AttributeError, match=r"fastbn\.mpi needs mpi4py: pip install"):
        fastbn.mpi  # noqa: B018
