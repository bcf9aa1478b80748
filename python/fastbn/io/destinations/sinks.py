"""What takes the pieces of many sources: one file in which they follow each other, or a folder of one file for each."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np

from fastbn._validation import Shape
from fastbn.io.atomic import removed
from fastbn.io.destinations import ArrayWriter, TableWriter, Target, array_writer, table_writer
from fastbn.io.names import KINDS, TABLES, suffix_of
from fastbn.io.sources.base import Place, Source
from fastbn.io.sources.images import ImageSource


class Piece(NamedTuple):
    """A part of a result: an array and where it begins in that of its source, or rows of a table.

    ``name`` is what it was made from, ``done`` how much of its source is read.
    """

    values: Any
    corner: Shape
    name: str
    done: float


class FileSink:
    """One file. Sources follow each other along axis 0."""

    def __init__(self, target: Target, path: str) -> None:
        self.tabular = target.kind in TABLES.values()
        self._target, self._path = target, path
        self._array: ArrayWriter | None = None
        self._table: TableWriter | None = None
        self._schema: Any = None
        self._dtype: Any = None
        self._trailing: Shape = ()
        self._source: Source | None = None
        self._begin, self._rows = 0, 0  # of this source, and after the last piece

    def begin(self, place: Place, source: Source) -> None:
        """Begin with a source behind those that were written."""
        self._source, self._begin = source, self._rows
        if self._begin and 0 in source.axis:
            raise ValueError(f"out must be a folder for several arrays with features along axis 0, got {source.name}")

    def write(self, piece: Piece) -> None:
        """Write a piece."""
        if self.tabular:
            self._write_rows(piece)
            return
        values, corner = piece.values, piece.corner
        if self._source is not None and self._source.flat:
            values, corner = values[:, 0], corner[:1]
        trailing = self._trailing_of(values.shape)
        if self._array is None:
            self._trailing, self._dtype = trailing, values.dtype
            self._array = array_writer(self._target, self._path, trailing, values.dtype)
        if trailing != self._trailing or values.dtype != self._dtype:
            raise ValueError(
                f"out must be a folder where shapes or types differ: one file holds {self._trailing} of {self._dtype}, "
                f"got {trailing} of {values.dtype} from {piece.name}"
            )
        self._rows = max(self._rows, self._begin + corner[0] + values.shape[0])
        self._array.write((self._begin + corner[0], *corner[1:]), values)

    def end(self) -> None:
        """End a source that is complete."""
        self._begin = self._rows

    def undo(self) -> bool:
        """Whether a source that failed has left nothing behind."""
        return self._rows == self._begin

    def finish(self) -> None:
        """Complete the file."""
        if self._array is not None:
            self._array.finish(self._rows)
        elif self._table is None:
            raise ValueError("source must hold something that can be read, got nothing")

    def close(self) -> None:
        """Let go of the file."""
        for writer in (self._array, self._table):
            if writer is not None:
                writer.close()

    def _trailing_of(self, shape: Shape) -> Shape:
        """Return the shape of a row of the result: a piece may be narrower than its source."""
        if self._source is None or self._source.shape is None or len(shape) < 2:
            return shape[1:]
        whole = list(self._source.shape)
        for axis, size in zip(self._source.axis, self._source.features, strict=True):
            whole[axis] = size
        return tuple(whole[1:])

    def _write_rows(self, piece: Piece) -> None:
        if self._table is None:
            self._schema = piece.values.schema
            self._table = table_writer(self._target, self._path, self._schema)
        if piece.values.schema.names != self._schema.names or piece.values.schema.types != self._schema.types:
            raise ValueError(f"out must be a folder where columns or types differ, got {piece.name}")
        self._rows += piece.values.num_rows
        self._table.write(piece.values)


class FolderSink:
    """A folder: of one file for each source, of its name and kind, and of one .npy file for each image."""

    tabular = False

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: FileSink | None = None
        self._made = ""
        self._root: str | None = None  # of images
        os.mkdir(path)

    def begin(self, place: Place, source: Source) -> None:
        """Begin with a source."""
        self._root = None
        if isinstance(source, ImageSource):
            self._root = place.name if os.path.isdir(place.name) else None
            return
        name = os.path.basename(place.files[0].rstrip(os.sep)) if place.files else f"{place.name}.npy"
        self._made = self._free(name, place.name)
        self._file = FileSink(Target(KINDS[suffix_of(name)], name, place.member or "data"), self._made)
        self._file.begin(place, source)
        self.tabular = self._file.tabular

    def write(self, piece: Piece) -> None:
        """Write a piece of a source, or an image."""
        if self._file is not None:
            self._file.write(piece)
            return
        name = os.path.relpath(piece.name, self._root) if self._root else os.path.basename(piece.name)
        made = self._free(os.path.splitext(name)[0] + ".npy", piece.name)
        os.makedirs(os.path.dirname(made), exist_ok=True)
        np.save(made, piece.values[0])

    def end(self) -> None:
        """Complete the file of a source."""
        if self._file is not None:
            self._file.finish()
        self.close()
        self._made = ""

    def undo(self) -> bool:
        """Remove what a source that failed has left behind, of which images leave nothing."""
        self.close()
        if self._made:
            removed(self._made)
        return True

    def finish(self) -> None:
        """Complete the folder."""
        if not os.listdir(self._path):
            raise ValueError("source must hold something that can be read, got nothing")

    def close(self) -> None:
        """Let go of the file of a source."""
        if self._file is not None:
            self._file.close()
        self._file, self.tabular = None, False

    def _free(self, name: str, source: str) -> str:
        path = os.path.join(self._path, name)
        if os.path.lexists(path):
            raise ValueError(f"out must be a folder in which no two files have one name, got {name!r} for {source}")
        return path
