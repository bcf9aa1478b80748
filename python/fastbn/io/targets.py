"""What `out` names: a file, one array of a file, or a folder."""

from __future__ import annotations

import os
import zipfile
from typing import Any, NamedTuple

from fastbn.io.arrays import data_sets
from fastbn.io.options import Path
from fastbn.io.places import FORMATS, Place, split, suffix_of
from fastbn.io.sources import needed


class Target(NamedTuple):
    """A file, or a folder (``format`` "folder") of one file for each that is read; ``member`` names the array in it.

    Where the name was given (``named``), the other arrays of the file stay.
    """

    format: str
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
        if self.format == "npz":
            with zipfile.ZipFile(self.path) as archive:
                return f"{self.member}.npy" in archive.namelist()
        if self.format == "hdf5":
            with needed("h5py", "HDF5 files").File(self.path, "r") as file:
                # A link that leads nowhere is something too.
                return self._is_in(file) or file.get(self.member, getlink=True) is not None
        if self.format == "zarr":
            return self._is_in(needed("zarr", "Zarr stores").open(self.path, mode="r"))
        raise ValueError(f"out must be a new file where it is NetCDF, got {self.name!r}, in a file that is there")

    def _is_in(self, file: Any) -> bool:
        """Whether an opened file has the array; ValueError where it cannot, or has a group of that name."""
        found = file
        for part in self.member.split("/"):
            if hasattr(found, "dtype"):
                raise ValueError(f"out must name an array in a group, got {self.name!r}, which is in an array")
            found = found.get(part, None)
            if found is None:
                return False
        if not hasattr(found, "dtype"):
            raise ValueError(f"out must name an array, got the group {self.name!r}")
        return True

    def spares(self, place: Place) -> bool:
        """Whether a place is another array of the file by its name, which stays."""
        if not self.named or place.array is not None or place.format != self.format or not place.member:
            return False
        one, other = (_plain(member) for member in (self.member, place.member))
        if self.format == "zarr":  # where folders may be links
            one, other = (os.path.realpath(os.path.join(self.path, each)) for each in (one, other))
        return not f"{other}/".startswith(f"{one}/")

    def takes(self, array: Any) -> bool:
        """Whether an open data set of HDF5 goes with what is replaced, or another that it is made of.

        Links may have led to it, from another name or another file than the one that was named.
        """
        return os.path.exists(self.path) and any(
            os.path.samefile(file, self.path) and (not self.named or self._is(name)) for file, name in data_sets(array)
        )

    def _is(self, name: str) -> bool:
        with needed("h5py", "HDF5 files").File(self.path, "r") as file:
            found = file.get(self.member)
            return found is not None and ("%" in name or found == file.get(name))


def _plain(member: str) -> str:
    """Return an array's name without what HDF5, Zarr and archives skip in it."""
    return "/".join(part for part in member.split("/") if part not in ("", "."))


def target_of(out: Path) -> Target:
    """Return what a path names; ValueError if its name says nothing that is known."""
    path = os.fspath(out)
    bare, member = split(path)
    if member:
        if not _plain(member):
            raise ValueError(f"out must name an array, got {path!r}")
        return Target(FORMATS[suffix_of(bare)], bare, _plain(member), True)
    suffix = suffix_of(path)
    if suffix in FORMATS:
        return Target(FORMATS[suffix], path.rstrip(os.sep))
    if suffix and not path.endswith(os.sep):
        raise ValueError(f"out must be a folder or a file of a known format ({', '.join(FORMATS)}), got {path!r}")
    return Target("folder", path.rstrip(os.sep) or os.sep)
