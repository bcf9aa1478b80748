"""What `out` names: a file, one array of a file, or a folder."""

from __future__ import annotations

import os
import zipfile
from typing import Any, NamedTuple

from fastbn.io.options import Path
from fastbn.io.places import KINDS, Place, split, suffix_of
from fastbn.io.sources import needed


class Target(NamedTuple):
    """A file, or a folder (``kind`` "folder") of one file for each that is read; ``member`` names the array in it.

    Where the name was given (``named``), the other arrays of the file stay.
    """

    kind: str
    path: str
    member: str = "data"
    named: bool = False

    @property
    def name(self) -> str:
        """What errors call it."""
        return f"{self.path}:{self.member}" if self.named else self.path

    @property
    def within(self) -> bool:
        """Whether it is an array of a file that is there."""
        return self.named and os.path.exists(self.path)

    def is_there(self) -> bool:
        """Whether there is something that would be replaced."""
        if not self.within:
            return os.path.lexists(self.path)
        if self.kind == "npz":
            with zipfile.ZipFile(self.path) as archive:
                return f"{self.member}.npy" in archive.namelist()
        found: Any
        if self.kind == "hdf5":
            with needed("h5py", "HDF5 files").File(self.path, "r") as file:
                found = file.get(self.member)
                array = hasattr(found, "dtype")
        elif self.kind == "zarr":
            found = needed("zarr", "Zarr stores").open(self.path, mode="r")
            if hasattr(found, "array_keys"):
                found = found.get(self.member, None)
            array = hasattr(found, "dtype")
        else:
            raise ValueError(f"out must be a new file where it is NetCDF, got {self.name!r}, in a file that is there")
        if found is not None and not array:
            raise ValueError(f"out must name an array, got the group {self.name!r}")
        return found is not None

    def spares(self, place: Place) -> bool:
        """Whether a place is another array of the file, which stays."""
        inside = f"{place.member}/".startswith(f"{self.member}/")
        return self.named and place.array is None and place.kind == self.kind and bool(place.member) and not inside


def target_of(out: Path) -> Target:
    """Return what a path names; ValueError if its name says nothing that is known."""
    path = os.fspath(out)
    bare, member = split(path)
    if member:
        return Target(KINDS[suffix_of(bare)], bare, member, True)
    suffix = suffix_of(path)
    if suffix in KINDS:
        return Target(KINDS[suffix], path.rstrip(os.sep))
    if suffix and not path.endswith(os.sep):
        raise ValueError(f"out must be a folder or a file of a known kind ({', '.join(KINDS)}), got {path!r}")
    return Target("folder", path.rstrip(os.sep) or os.sep)
