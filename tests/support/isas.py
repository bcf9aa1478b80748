"""The choice of an instruction set."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import fastbn._core


@contextlib.contextmanager
def using_isa(name: str) -> Iterator[None]:
    """Use one instruction set for a while."""
    before = fastbn._core.get_isa()
    fastbn._core.set_isa(name)
    assert fastbn._core.get_isa() == name
    try:
        yield
    finally:
        fastbn._core.set_isa(before)
