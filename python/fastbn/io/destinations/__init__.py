"""Where standardized data go: what a user names becomes a target, and a target a writer. Knows no source."""

from __future__ import annotations

import os
from typing import Any, NamedTuple, Protocol

import numpy as np

from fastbn._validation import Shape
from fastbn.io.names import KINDS, split, suffix_of
from fastbn.io.optional import needed
from fastbn.io.sources.base import Array


class Target(NamedTuple):
    """A file, or a folder (``kind`` "folder") of one file for each that is read; ``member`` names the array in it."""

    kind: str
    path: str
    member: str = "data"


class ArrayWriter(Protocol):
    """Takes an array region by region; how many rows there are shows at the end."""

    def write(self, corner: Shape, values: Array) -> None:
        """Write values to where they begin in the whole array."""
        ...

    def finish(self, rows: int) -> None:
        """Complete the file, of so many rows."""
        ...

    def close(self) -> None:
        """Let go of the file, complete or not."""
        ...


class TableWriter(Protocol):
    """Takes a table some rows at a time."""

    def write(self, rows: Any) -> None:
        """Append rows, a table of pyarrow's with the columns of the first."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


def target_of(out: str | os.PathLike[str]) -> Target:
    """Return what a path names; ValueError if its name says nothing that is known."""
    path = os.fspath(out)
    bare, member = split(path)
    if member:
        return Target(KINDS[suffix_of(bare)], bare, member)
    suffix = suffix_of(path)
    if suffix in KINDS:
        return Target(KINDS[suffix], path.rstrip(os.sep))
    if suffix and not path.endswith(os.sep):
        raise ValueError(f"out must be a folder or a file of a known kind ({', '.join(KINDS)}), got {path!r}")
    return Target("folder", path.rstrip(os.sep) or os.sep)


def array_writer(target: Target, path: str, trailing: Shape, dtype: np.dtype[Any]) -> ArrayWriter:
    """Return a writer of an array of that trailing shape, to a path that need not say of which kind it is."""
    from fastbn.io.destinations import writers  # which takes `ArrayWriter` from here

    return writers.WRITERS[target.kind](path, target.member, trailing, dtype)


def table_writer(target: Target, path: str, schema: Any) -> TableWriter:
    """Return a writer of a table with these columns."""
    writer: TableWriter
    if target.kind == "csv":
        writer = needed("pyarrow.csv", "Tables").CSVWriter(path, schema)
    else:
        writer = needed("pyarrow.parquet", "Tables").ParquetWriter(path, schema)
    return writer
