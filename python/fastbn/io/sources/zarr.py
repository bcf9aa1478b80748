"""Arrays of Zarr stores in folders, by zarr."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastbn.io.optional import needed
from fastbn.io.sources.arrays import ArraySource, sliced
from fastbn.io.sources.base import Place, Reading, only_member


def opened(place: Place, reading: Reading) -> ArraySource:
    """Open the array that is named, or the only one of the store."""
    zarr = needed("zarr", "Zarr stores")
    found = zarr.open(place.files[0], mode="r")
    if not isinstance(found, zarr.Array):
        names = list(_names(found, zarr))
        found = found[only_member(place, names)]
    return sliced(place.name, found, reading)


def _names(group: Any, zarr: Any, prefix: str = "") -> Iterator[str]:
    """Yield the names of all arrays in a group, by what version 2 of zarr has too."""
    for name in sorted(group):
        item = group[name]
        if isinstance(item, zarr.Array):
            yield prefix + name
        else:
            yield from _names(item, zarr, f"{prefix}{name}/")
