"""Sinks: one file, or a folder of files, that take what is made of many sources, block by block."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from fastbn._atomic import removed
from fastbn.io.checkpoints import Progress
from fastbn.io.options import Options
from fastbn.io.places import FORMATS, TABLES, Place, suffix_of
from fastbn.io.sources import Block, Source, UnreadableError
from fastbn.io.writers import WRITERS, ArraySpec, Target, Writer

Columns = tuple[Sequence[str], Sequence[Any]]  # names and types


def _difference(held: Columns, got: Columns) -> tuple[str, str]:
    """Say of two tables' columns, which differ, what one has and the other has not."""
    if held[0] != got[0]:
        return f"columns {', '.join(held[0])}", ", ".join(got[0])
    name, of, other = next(each for each in zip(held[0], held[1], got[1], strict=True) if each[1] != each[2])
    return f"column {name!r} of {of}", str(other)


class FileSink:
    """One file. Sources follow each other along axis 0, where the state of the run has them.

    ``first`` is the row of the run that it begins with. A run that was stopped may have written a part of it.
    """

    def __init__(
        self, target: Target, path: str, options: Options, state: Progress, first: int = 0, resumed: bool = False
    ) -> None:
        self._tabular = target.format in TABLES.values()
        self._target, self._path, self._options, self._resumed = target, path, options, resumed
        self._state, self._first = state, first
        self._writer: Writer | None = None
        self._schema: tuple[Any, Any] = ((), None)  # shape and type of rows, or names and types of columns

    def begin(self, place: Place, source: Source) -> None:
        """Begin with a source behind those that were written, or go on with one."""
        if self._state.before > self._first and 0 in source.axis:
            raise ValueError(f"out must be a folder for several arrays with features along axis 0, got {source.name}")

    def write(self, block: Block, source: Source) -> None:
        """Write a block of the source that was begun with."""
        values, corner = block.values, block.corner
        if source.flat and not self._tabular:
            values, corner = values[:, 0], corner[:1]
        if self._tabular:
            shape, schema = values.shape, (values.schema.names, values.schema.types)
        else:
            whole = list(source.shape or values.shape)  # of which a block may be a part
            for axis, size in zip(source.axis, source.features, strict=True) if source.shape else ():
                whole[axis] = size
            shape = tuple(whole[: values.ndim])
            schema = (shape[1:], values.dtype)
        if self._writer is None:
            self._schema = schema
            with self._holding(values, block.name or source.name):
                if self._tabular:
                    from fastbn.io.tables import TableWriter  # where pyarrow is needed

                    self._writer = TableWriter(self._target, self._path, values.schema, self._options)
                else:
                    spec = ArraySpec(shape[0], shape[1:], values.dtype, source.origin, self._resumed)
                    self._writer = WRITERS[self._target.format](self._target, self._path, spec)
        if schema != self._schema:
            what, held, got = "shapes", *(f"{shape} of {dtype}" for shape, dtype in (self._schema, schema))
            if self._tabular:
                what, held, got = "columns", *_difference(self._schema, schema)
            raise ValueError(
                f"out must be a folder where {what} or types differ: one file holds {held}, "
                f"got {got} from {block.name or source.name}"
            )
        with self._holding(values, block.name or source.name):
            self._writer.write((self._state.before - self._first + corner[0], *corner[1:]), values)

    @contextmanager
    def _holding(self, values: Any, name: str) -> Iterator[None]:
        """Say in a ValueError what a file cannot hold: lists in a text, types of Arrow's in ORC, levels of an index."""
        try:
            yield
        except (NotImplementedError, TypeError, ValueError) as error:
            if type(error) in (ValueError, UnreadableError):  # which name what is wrong
                raise
            said = str(error).strip().partition("\n")[0]
            fields = values.schema if self._tabular else ()
            of_it = [field for field in fields if re.search(rf"(?<!\w){re.escape(str(field.type))}(?!\w)", said)]
            # Others may be a part of its type.
            longest = max(of_it, key=lambda field: len(str(field.type)), default=None)
            what = "" if longest is None else f" (column {longest.name!r})"
            raise ValueError(
                f"out must be of a format that holds what is in {name}, got {self._target.name!r}: {said}{what}"
            ) from error

    def end(self) -> None:
        """End a source that is complete, which others may follow."""

    def synchronize(self) -> None:
        """Have the system write out what was written."""
        if self._writer is not None:
            self._writer.synchronize(self._state.row - self._first)

    def undo(self) -> bool:
        """Whether a source that failed has left nothing behind."""
        return self._state.row == self._state.before

    def finish(self) -> None:
        """Complete the file."""
        if self._writer is not None:
            self._writer.finish(self._state.row - self._first)
        elif not self._resumed:  # else it was complete when the run was stopped
            raise ValueError("source must hold something that can be read, got nothing")

    def close(self) -> None:
        """Let go of the file."""
        if self._writer is not None:
            self._writer.close()


class FolderSink:
    """A folder: of one file for each source, of its name and format, and of one .npy file for each image.

    Where a run that was stopped goes on, ``places`` are its sources: it may have left more than the state says.
    """

    _file: FileSink | None = None
    _noted: set[str] | None = None  # names of the copies that were there, and of those that were made since

    def __init__(self, path: str, options: Options, state: Progress, places: Sequence[Place] | None = None) -> None:
        self._path, self._options, self._state, self._made = path, options, state, ""
        if places is not None:
            noted = [(place, place.files) for place in places[: state.place]]
            noted += [(place, place.files[: state.position]) for place in places[state.place :][:1]]
            self._noted = {_name_of(place, file) for place, files in noted for file in files}
        os.makedirs(path, exist_ok=places is not None)

    def begin(self, place: Place, source: Source) -> None:
        """Begin with a source."""
        self._place = place
        if place.format != "images":
            name = _name_of(place, place.files[0] if place.files else f"{place.name}.npy")
            self._made = self._free(name, place.name)
            target = Target(FORMATS[suffix_of(name)], self._made, place.member or "data", bool(place.member))
            self._file = FileSink(target, self._made, self._options, self._state, self._state.before)

    def write(self, block: Block, source: Source) -> None:
        """Write a block of a source, or an image."""
        if self._file is not None:
            self._file.write(block, source)
        else:
            np.save(self._free(_name_of(self._place, block.name, block.page), block.name), block.values[0])

    def end(self) -> None:
        """Complete the file of a source."""
        if self._file is not None:
            self._file.finish()
        self.close()
        self._made = ""

    def synchronize(self) -> None:
        """Have the system write out what was written, which is in many files."""
        os.sync()

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
        self._file = None

    def _free(self, name: str, source: str) -> str:
        """Return the path of a new file, in the place of what a run that was stopped may have left of it."""
        path, whole = os.path.join(self._path, name), re.sub(r"-\d+(?=\.npy$)", "", name)
        if self._noted is not None and name not in self._noted:
            paged = self._place.format == "images" and whole in self._noted
            if not paged or os.path.exists(os.path.join(self._path, whole)):  # else it may be a page of a noted image
                removed(path)
            self._noted.add(name)
        if os.path.lexists(path):
            raise ValueError(f"out must be a folder in which no two files have one name, got {name!r} for {source}")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path


def _name_of(place: Place, file: str, page: str = "") -> str:
    file = file.rstrip(os.sep)
    name = os.path.relpath(file, place.root) if place.root else os.path.basename(file)
    return f"{os.path.splitext(name)[0]}{page}.npy" if place.format == "images" else name
