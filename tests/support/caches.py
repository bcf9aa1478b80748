"""The sizes that caches are taken to have."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import fastbn._core

# Caches that hold nothing, so that every result goes past them, and such that hold everything.
NONE = (1, 1)
ENDLESS = (1 << 60, 1 << 60)
# And such that hold a slab, but not a whole array.
SMALL = (1 << 20, 1 << 17)


@contextlib.contextmanager
def using_caches(sizes: tuple[int, int]) -> Iterator[None]:
    """Take the second- and the third-level cache for so many bytes for a while."""
    before = fastbn._core.get_caches()
    fastbn._core.set_caches(*sizes)
    try:
        yield
    finally:
        fastbn._core.set_caches(*before)
