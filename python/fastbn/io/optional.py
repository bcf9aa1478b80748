"""Packages that only some files need, imported when one of these is opened."""

from __future__ import annotations

import importlib
from typing import Any


def needed(package: str, what: str) -> Any:
    """Return an optional package; ImportError that says how to get it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        name = package.partition(".")[0].replace("PIL", "pillow")
        raise ImportError(f'{what} need {name}: pip install "fastbn[files]"') from error
