"""Arrays of Zarr stores in folders, by zarr."""

from __future__ import annotations

from fastbn.io.sources.arrays import ArraySource, sliced
from fastbn.io.sources.base import Place, Reading, only_member
from fastbn.io.sources.optional import needed


def opened(place: Place, reading: Reading) -> ArraySource:
    """Open the array that is named, or the only one of the store."""
    zarr = needed("zarr", "Zarr stores")
    found = zarr.open(place.files[0], mode="r")
    if not isinstance(found, zarr.Array):
        arrays = {name: item for name, item in found.members(max_depth=None) if isinstance(item, zarr.Array)}
        found = arrays[only_member(place, list(arrays), place.member if place.member in arrays else None)]
    return sliced(place.name, found, reading)
