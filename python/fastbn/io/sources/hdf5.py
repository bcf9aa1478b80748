"""Data sets of HDF5 files, by h5py."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from fastbn.io.optional import needed
from fastbn.io.sources.arrays import ArraySource, sliced
from fastbn.io.sources.base import Place, Reading, only_member


def opened(place: Place, reading: Reading) -> ArraySource:
    """Open the data set that is named, or the only one of the file."""
    h5py = needed("h5py", "HDF5 files")
    with ExitStack() as stack:
        file = stack.enter_context(h5py.File(place.files[0], "r"))
        source = sliced(place.name, _dataset(place, file, h5py), reading)
        source.close = stack.pop_all().close
        return source


def _dataset(place: Place, file: Any, h5py: Any) -> Any:
    if place.member and isinstance(file.get(place.member), h5py.Dataset):
        return file[place.member]
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return file[only_member(place, names)]
