"""What the name of a file says: of which kind it is, and which of its arrays is meant. Opens nothing."""

from __future__ import annotations

import os

ARRAYS = {".npy": "npy", ".npz": "npz", ".h5": "hdf5", ".hdf5": "hdf5", ".he5": "hdf5", ".zarr": "zarr"}
TABLES = {".csv": "csv", ".parquet": "parquet", ".pq": "parquet"}
KINDS = ARRAYS | TABLES
# What Pillow reads and data sets are made of; its own list takes a third of a second to make.
IMAGES = frozenset(
    f".{suffix}"
    for suffix in (
        *("png", "jpg", "jpeg", "jpe", "jfif", "jp2", "webp", "avif", "bmp", "dib", "gif", "tif", "tiff"),
        *("ppm", "pgm", "pbm", "pnm", "pcx", "tga", "ico"),
    )
)
_SEVERAL = ("npz", "hdf5", "zarr")  # kinds that hold several arrays


def suffix_of(path: str) -> str:
    """Return the suffix of a file's or folder's name, in small letters."""
    return os.path.splitext(path.rstrip(os.sep))[1].lower()


def kind_of(path: str) -> str | None:
    """Return the kind of a file by its name, None if it is of none."""
    suffix = suffix_of(path)
    return "images" if suffix in IMAGES else KINDS.get(suffix)


def split(path: str) -> tuple[str, str]:
    """Split FILE:NAME, where FILE is of a kind that holds several arrays; the name is empty where none is given."""
    bare, colon, member = path.rpartition(":")
    if colon and kind_of(bare) in _SEVERAL:
        return bare, member.strip("/")
    return path, ""
