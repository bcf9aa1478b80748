"""Puts a stand-in in the place of `fastbn.torch`, so that the reference shows it where PyTorch is not installed."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import fastbn

if TYPE_CHECKING:
    from sphinx.application import Sphinx

Definition = TypeVar("Definition", ast.ClassDef, ast.FunctionDef)

NAME = "fastbn.torch"


def stand_in() -> ModuleType:
    """Return a module of the public names: their signatures and docstrings, read from the files of the package."""
    files = (Path(fastbn.__file__).parent / "torch").glob("*.py")
    trees = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in files}
    module = ModuleType(NAME, ast.get_docstring(trees["__init__"]))

    def define(name: str, stem: str) -> bool:
        """Define what a file knows by a name; return False where that is not of this package."""
        for each in trees[stem].body:
            if isinstance(each, (ast.ClassDef, ast.FunctionDef)) and each.name == name:
                if isinstance(each, ast.ClassDef):
                    each.bases = [base for base in each.bases if define(ast.unparse(base), stem)]
                exec(compile(ast.Module([bare(each)], []), NAME, "exec"), vars(module))
                return True
            is_inside = isinstance(each, ast.ImportFrom) and (each.module or "").startswith(f"{NAME}.")
            if is_inside and name in [alias.name for alias in each.names]:
                return define(name, each.module.rpartition(".")[2])
        return False

    for each in trees["__init__"].body:
        if isinstance(each, ast.ImportFrom):
            for alias in each.names:
                define(alias.name, "__init__")
    return module


def bare(definition: Definition) -> Definition:
    """Return a class with its methods, or a function, of which nothing but signature and docstring is left."""
    documented = ast.get_docstring(definition) is not None
    body: list[ast.stmt] = [definition.body[0] if documented else ast.Pass(lineno=1, col_offset=0)]
    if isinstance(definition, ast.ClassDef):
        body += [bare(each) for each in definition.body if isinstance(each, ast.FunctionDef)]
    definition.body, definition.decorator_list = body, []
    return definition


def setup(app: Sphinx) -> dict[str, Any]:
    """Put the stand-in where it will be looked for."""
    fastbn.torch = sys.modules[NAME] = stand_in()
    return {"parallel_read_safe": True, "parallel_write_safe": True}
