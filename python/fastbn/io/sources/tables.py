"""Blocks of a table's numeric columns. Knows how columns become a matrix; files are read by `csv` and `parquet`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastbn._validation import Shape
from fastbn.io.optional import needed
from fastbn.io.sources.base import Array, Block, Reading, Ring, UnreadableError, chosen_columns


class Field(NamedTuple):
    """A column of a table: its name, and its type, if it is one of numbers or one without any entry."""

    name: str
    type: str
    numeric: bool
    empty: bool = False


class Batch(NamedTuple):
    """Rows of a table as pyarrow has them; as in `Block`, what follows and how much is done.

    ``first`` is the number, among the chosen, of its first column.
    """

    rows: Any
    following: int
    done: float
    first: int = 0


# Yields batches from a place on, with the columns of these numbers in that order; or, if the flag is set, with all
# columns in theirs, of which these are to be numbers and all others to stay what they are.
Batches: TypeAlias = Callable[[int, Sequence[int], bool], Iterator[Batch]]


class TableSource:
    """The numeric columns of a table or those asked for; entries that are missing are NaN."""

    overlaps = True
    close: Callable[[], None] = staticmethod(lambda: None)
    axis: Shape = (1,)
    shape: Shape | None = None
    flat = False
    order: tuple[int, ...] | None = None

    def __init__(
        self,
        name: str,
        fields: Sequence[Field],
        batches: Batches,
        reading: Reading,
        *,
        named: bool = True,
    ) -> None:
        if reading.axis not in (1, -1):
            raise UnreadableError(f"axis must be 1 for tables, got {reading.axis} for {name}")
        self.name, self._batches, self.fields = name, batches, tuple(fields)
        self.chosen = self._chosen(reading, named)
        taken = [self.fields[i] for i in self.chosen]
        names = tuple(field.name if named else str(i) for i, field in zip(self.chosen, taken, strict=True))
        self.names: tuple[str, ...] | None = names
        self.features: Shape = (len(taken),)
        self.more: Sequence[str] = sorted(
            {field.name for field in fields if field.numeric and not field.empty} - set(names)
        )
        single = reading.dtype is None and all(field.type in ("float", "halffloat") for field in taken)
        self.dtype = np.dtype(np.float32) if single else reading.dtype or np.dtype(np.float64)
        self._ring = Ring(reading)

    def blocks(self, start: int = 0) -> Iterator[Block]:
        """Yield the chosen columns of each batch as a matrix of one row per row."""
        row = 0
        for batch in self._batches(start, self.chosen, False):
            yield Block(self.matrix(batch.rows), (row, batch.first), batch.following, batch.done)
            row += batch.rows.num_rows

    def batches(self) -> Iterator[Batch]:
        """Yield the rows with all their columns."""
        return self._batches(0, self.chosen, True)

    def matrix(self, rows: Any) -> Array:
        """Return columns as a matrix, in which a column is one piece of memory."""
        pa = needed("pyarrow", "Tables")
        columns = self._ring.take((rows.num_columns, rows.num_rows), self.dtype)
        for target, column in zip(columns, rows.columns, strict=True):
            numbers = column if pa.types.is_floating(column.type) else column.cast(pa.float64(), safe=False)
            chunks = numbers.chunks if isinstance(numbers, pa.ChunkedArray) else [numbers]
            begin = 0
            with np.errstate(all="ignore"):
                for chunk in chunks:
                    target[begin : begin + len(chunk)] = chunk.to_numpy(zero_copy_only=False)
                    begin += len(chunk)
        return columns.T

    def _chosen(self, reading: Reading, named: bool) -> list[int]:
        if reading.columns is None:
            found = [i for i, field in enumerate(self.fields) if field.numeric]
            if not found:
                kinds = ", ".join(f"{field.name} ({field.type})" for field in self.fields) or "no column"
                raise UnreadableError(f"{self.name} must have a column of numbers, got {kinds}")
            return found
        names = [field.name for field in self.fields] if named else None
        found = chosen_columns(self.name, reading.columns, names, len(self.fields))
        for field in (self.fields[i] for i in found):
            if not (field.numeric or field.empty):
                raise UnreadableError(
                    f"columns must name columns of numbers, got {field.name!r} of {self.name}, which holds {field.type}"
                )
        return found


def field_of(name: str, kind: Any) -> Field:
    """Return a column's description, from its type in pyarrow."""
    types = needed("pyarrow", "Tables").types
    numeric = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind)
    return Field(name, str(kind), numeric, types.is_null(kind))
