"""Tables: their columns of numbers as matrices. pyarrow parses and decodes; which rows when is decided here.

A place in a file is kept so that a run can go on from there, and rows are read as memory allows: of Parquet a few
columns at a time where all would be too many.
"""

from __future__ import annotations

import codecs
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np

from fastbn._validation import Shape
from fastbn.io.columns import (
    Field,
    compute,
    decoded,
    described,
    described_index,
    fields_of,
    inexact,
    numbers_of,
    pa,
    refuse,
)
from fastbn.io.options import FOLDERS, INDEX, Array, Options
from fastbn.io.places import Place, compression_of
from fastbn.io.sources import Block, NoData, Ring, Source, UnreadableError, chosen_columns, needed, valid_of
from fastbn.io.texts import TextTable, compressed, delimiter_hint, delimiter_of
from fastbn.io.writers import Target, Writer

# Of a value: as decoded, in the matrix, and while it is decoded; in a result and while that is encoded.
_COPIES, _REWRITTEN = 3, 6
# Of one column of Parquet, by default of those who write: 1 MiB each of data, as stored and decoded, and of dictionary.
_PAGES = 3 << 20
_BUFFER = 1 << 18  # bytes of a column that are read at a time
_LEAST_ROWS = 1 << 10  # each time is a row group where it is written again
# How others of Arrow's formats begin, and what reads them.
_OTHER_ARROW = {b"\xff" * 4: "a stream (pyarrow.ipc.open_stream)", b"FEA1": "version 1 (pyarrow.feather.read_table)"}
_INDEX_LEVEL = re.compile(r"^__index_level_\d+__$")  # what pyarrow calls an index without a name
_NUMBERS = (Real, np.bool_, Decimal)  # of columns of objects


def opened(place: Place, options: Options) -> TableSource:
    """Open a table: what yields blocks of rows as pyarrow has them, and knows its fields and its schema."""
    kinds: dict[str, Any] = {"text": TextTable, "parquet": _ParquetTable}
    table = kinds.get(place.format, _ArrowTable)(place, options)
    source = TableSource(place, table, options)
    source.close = getattr(table, "close", source.close)
    return source


class TableSource(Source):
    """The numeric columns of a table or those asked for; entries that are missing are NaN.

    Behind the columns of the file are those that the names of its folders give, each of one value, as in year=2024, and
    a pandas index of which the file has no column, where what is written could not say it otherwise.
    """

    def __init__(self, place: Place, table: Any, options: Options) -> None:
        name = self.name = place.name
        if options.axis not in (None, 1, -1, (1,), (-1,)) or options.dim is not None:
            raise UnreadableError(f"axis must be 1 for tables, got {options.dim or options.axis} for {name}")
        own = {field.name for field in table.fields}
        partitions = {each: pa.scalar(value, held) for each, value, held in place.partitions if each not in own}
        asked = [column for column in options.columns or () if column in partitions]
        if asked and not options.partitions:
            raise UnreadableError(f"out must be one file, got a folder, whose names hold {asked[0]!r} of {name}")
        partitions = partitions if options.partitions else {}
        added = [(pa.field(each, value.type), FOLDERS, value) for each, value in partitions.items()]
        # An index has no number that columns could be asked for by, for `stream` does not know of it.
        self._count = table.width + len(added)
        if options.tabular in ("text", "orc"):
            index_name, index = described_index(table.schema)
            if index and len(index) == table.rows and _says_something(index, index_name, options.first):
                added.append((pa.field(index_name or "__index_level_0__", pa.int64()), INDEX, index))
        self._table, self._stored, self._added = table, len(table.fields), [values for _, _, values in added]
        self.fields = (*table.fields, *(Field.of(each.name, each.type, why) for each, why, _ in added))
        self._schema = table.schema
        self.notes = getattr(table, "notes", ())
        for each, _, _ in added:
            self._schema = self._schema.append(each)
        known = None if place.format == "text" and options.header is False else [field.name for field in self.fields]
        self._weights = self._weights_of(options, known)
        self.chosen = self._chosen(options, known)
        chosen = [self.fields[i] for i in self.chosen]
        if place.format == "text" and options.typed and options.tabular not in ("", "text"):
            for number, held in table.keep(sorted({*range(self._stored)} - {*self.chosen})).items():
                self._schema = self._schema.set(number, self._schema.field(number).with_type(held))
        self.names = tuple(known[i] if known else str(i) for i in self.chosen)
        self.features = (len(chosen),)
        counted = {field.name for field in self.fields if not (field.kept_out or field.empty)}
        self.more = sorted(counted - set(self.names) - {self.fields[i].name for i in self._weights})
        self.others = {}
        for number, field in enumerate(self.fields):
            if field.kept_out and number not in self._weights:
                self.others.setdefault(field.kept_out, []).append(field.name or f"unnamed {number}")
        if options.columns is None:
            found = [field for field in self.fields if field.why]
            self.suspects = [f"column {each.name!r} of {name} is left out, for {each.why}" for each in found]
        self._exact = options.exact
        for number in (*self.chosen, *self._weights) if options.exact else ():
            refuse(self.fields[number].rounded, name, self.fields[number].name)
        single = options.dtype is None and all(field.type in ("float", "halffloat") for field in chosen)
        self.dtype = np.dtype(np.float32) if single else options.dtype or np.dtype(np.float64)
        self.tabular, self._rowwise, self._ring = bool(options.tabular), options.rowwise, Ring()
        self.nodata = NoData(options, name, self.chosen, known, self._count)

    def blocks(self, start: int = 0, row: int = 0) -> Iterator[Block]:
        """Yield the chosen columns of each batch as a matrix, in which a column is one piece of memory."""
        asked = [*self.chosen, *self._weights]
        read = [number for number in asked if number < self._stored] or [0]
        together = self._rowwise or bool(self._weights) or read != asked
        for block in self._batches(start, row, read, together):
            rows, first = block.values, block.corner[1]
            count, end = rows.num_rows, first + rows.num_columns
            columns = dict(zip(range(self._stored) if self.tabular else read[first:end], rows.columns, strict=True))
            for number, value in enumerate(self._added, self._stored):
                if isinstance(value, range):
                    part = value[block.corner[0] :][:count]
                    columns[number] = pa.array(np.arange(part.start, part.stop, part.step))
                else:
                    columns[number] = pa.repeat(value, count) if value.is_valid else pa.nulls(count, value.type)
            chosen = self.chosen if self.tabular or together else self.chosen[first:end]
            matrix, weights = self._ring.take((len(chosen), count), self.dtype), np.empty((len(self._weights), count))
            valid: Array | None = None
            for at, (number, target) in enumerate(zip((*chosen, *self._weights), (*matrix, *weights), strict=True)):
                column = decoded(columns[number])
                values, missing = numbers_of(column)
                with np.errstate(all="ignore"):
                    np.copyto(target, values, casting="unsafe")
                if missing is not None:
                    target[missing] = np.nan
                nodata = self.nodata.of(first + at) if at < len(chosen) else ()
                data = valid_of(values, nodata, missing)
                if self._exact:
                    counted = column if data is None else column.filter(pa.array(data))
                    refuse(inexact(counted), self.name, self.fields[number].name)
                if data is not None:
                    valid = np.ones(matrix.shape, bool) if valid is None else valid
                    valid[at] = data
            yield block._replace(
                values=matrix.T,
                valid=None if valid is None else valid.T,
                weights=weights[0] if self._weights else None,
                rows=list(columns.values()) if self.tabular else None,
            )

    def _batches(self, start: int, row: int, read: list[int], together: bool) -> Iterator[Block]:
        """Yield blocks of a table's rows; one without any where it has none."""
        block = None
        for block in self._table.batches(start, row, read, self.tabular, together):
            yield block
        if block is None and start == 0:
            none = self._table.schema.empty_table()
            yield Block(none if self.tabular else none.select(read), (0, 0), None, 1.0)

    def restored(self, block: Block, values: Array) -> Block:
        """Return all columns, of which the chosen ones have these values, or these alone for an array."""
        if block.rows is None:
            return block._replace(values=values)
        for number, column in zip(self.chosen, values.T, strict=True):
            block.rows[number] = pa.array(column, from_pandas=True)
        schema = described(self._schema, self.chosen, values.dtype)
        return block._replace(values=pa.Table.from_arrays(block.rows, schema=schema))

    def _chosen(self, options: Options, known: list[str] | None) -> list[int]:
        if options.columns is None:
            found = [i for i, field in enumerate(self.fields) if not field.kept_out and i not in self._weights]
            if not found:
                held = ", ".join(f"{field.name} ({field.holds})" for field in self.fields) or "no column"
                names = [field.name for field in self.fields]
                raise UnreadableError(
                    f"{self.name} must have a column of numbers, got {held}{delimiter_hint(names, blank=True)}"
                )
            return found
        found = chosen_columns(self.name, options.columns, known, self._count, options.asked_by)
        if set(found) & set(self._weights):
            raise UnreadableError(f"weights must not be among the columns, got {options.weights!r} of {self.name}")
        for field in (self.fields[i] for i in found):
            if not (field.numeric or field.empty):
                raise UnreadableError(
                    f"columns must name columns of numbers, got {field.name!r} of {self.name}, "
                    f"which holds {field.holds}"
                )
        return found

    def _weights_of(self, options: Options, known: list[str] | None) -> list[int]:
        if not isinstance(options.weights, str) or known is None or options.weights not in known:
            return []
        (number,) = chosen_columns(self.name, [options.weights], known, len(known))
        if not self.fields[number].numeric:
            raise UnreadableError(f"weights must name a column of numbers, got {options.weights!r} of {self.name}")
        return [number]


# Parquet.


class _ParquetTable:
    """A Parquet file, read row group by row group, and of each so many columns at a time as memory allows.

    A reader keeps a page and a dictionary of each column in memory; columns lie apart in the file, so nothing is read
    twice. A place in the file is a number of rows of such slabs.
    """

    def __init__(self, place: Place, options: Options) -> None:
        parquet = needed("pyarrow.parquet", "Tables")
        file = pa.OSFile(os.fsencode(place.files[0]))  # for pyarrow some names are addresses
        self.close = file.close
        metadata = parquet.read_metadata(file)
        self._columns = _column_bytes(metadata)
        # Columns that are shorter than a buffer are read whole, without one.
        buffer = _BUFFER if max(self._columns.values(), default=0) > _BUFFER else 0
        how: dict[str, Any] = {"metadata": metadata, "buffer_size": buffer, "pre_buffer": False}
        self._file = parquet.ParquetFile(file, **how)
        self._name, self._options, self.schema = place.name, options, self._file.schema_arrow
        self.fields = fields_of(self.schema)
        self.rows, self.width = metadata.num_rows, len(self.fields)
        self._counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        if sum(self._counts) != self.rows:
            raise ValueError(f"its row groups must have its {self.rows} rows, got {sum(self._counts)}")

    def batches(self, start: int, row: int, chosen: Sequence[int], everything: bool, together: bool) -> Iterator[Block]:
        """Yield what comes behind a place, so that batches are the same wherever one starts.

        They have all columns or those of these numbers; ``together``, or some after others.
        """
        known = self.schema.names
        names = known if everything else [known[i] for i in chosen]
        # Columns are read by their names.
        for name in sorted(column for column, count in Counter(known).items() if count > 1):
            if name in names:
                raise UnreadableError(f"{self._name} must have columns of different names, got {name!r} more than once")
        slabs = {0: names} if everything or together else self._slabs(names)
        size = self._rows(max(1, *map(len, slabs.values())), everything)
        pool = pa.default_memory_pool()
        at, begin, total = 0, 0, self.rows * len(slabs)
        for group, count in enumerate(self._counts):
            for first, slab in slabs.items():
                end = at + count
                if end <= start:
                    at = end
                    continue
                for rows in self._file.iter_batches(size, row_groups=[group], columns=slab, use_threads=False):
                    at += rows.num_rows
                    if at > start:
                        number = begin + at - rows.num_rows - (end - count)
                        yield Block(rows.select(slab), (number, first), at, at / total)
                    pool.release_unused()
                if at != end:
                    raise ValueError(f"row group {group} must have {count} rows, got {at - end + count}")
            begin += count

    def _slabs(self, names: Sequence[str]) -> dict[int, list[str]]:
        """Cut columns into slabs of what fits into a block, by the number of their first."""
        slabs: dict[int, list[str]] = {0: []}
        first, held = 0, 0
        for number, name in enumerate(names):
            nbytes = min(_PAGES, self._columns.get(name, _PAGES)) + 256
            if slabs[first] and held + nbytes > self._options.block_bytes:
                first, held = number, 0
                slabs[first] = []
            slabs[first].append(name)
            held += nbytes
        return slabs

    def _rows(self, columns: int, everything: bool) -> int:
        """Return how many rows of so many columns are read at a time; where their pages fill the memory, not many."""
        longest, memory = max(self._columns.values(), default=0), self._options.memory
        left = min(self._options.block_bytes, max(memory - min(_PAGES, longest) * columns, memory // 8) // 3)
        row = ((_REWRITTEN if everything else _COPIES) * 8 + self._options.beside) * columns
        text = longest // max(1, *self._counts) if everything else 0  # bytes of one, if texts are what takes most
        return max(1, min(_LEAST_ROWS, left // (text + 1)), left // (row + _COPIES * text))


def _column_bytes(metadata: Any) -> dict[str, int]:
    """Return the size of each column in the largest row group, decoded or not, whichever is more."""
    groups = (metadata.row_group(group) for group in range(metadata.num_row_groups))
    largest: Any = max(groups, key=lambda group: group.total_byte_size, default=None)
    found: dict[str, int] = {}
    for number in range(largest.num_columns if largest else 0):
        column = largest.column(number)
        name = column.path_in_schema.partition(".")[0]
        found[name] = found.get(name, 0) + max(column.total_uncompressed_size, column.total_compressed_size)
    return found


# Everything else that pyarrow reads.


class _ArrowTable:
    """A Feather (Arrow) or ORC file, by pyarrow.dataset, or a data frame in memory. A place is a number of batches."""

    def __init__(self, place: Place, options: Options) -> None:
        self._options, self._format = options, place.format
        marks: dict[int, dict[str, Any]] = {}
        if place.array is not None:
            self._held, marks = _arrow(place.array, options)
            self.schema, self.rows = self._held.schema, self._held.num_rows
        else:
            file, dataset = pa.OSFile(os.fsencode(place.files[0])), needed("pyarrow.dataset", "Tables")
            self.close = file.close
            head = file.read(4)
            if head in _OTHER_ARROW:
                raise UnreadableError(f"{place.name} must be an Arrow file, got {_OTHER_ARROW[head]}")
            reader = dataset.OrcFileFormat if self._format == "orc" else dataset.IpcFileFormat
            self._held = reader().make_fragment(file)
            self.schema = self._held.physical_schema
            with pa.memory_map(os.fsencode(place.files[0])) as mapped:  # else all values are read to count them
                self.rows = reader().make_fragment(mapped).count_rows()
        fields = enumerate(fields_of(self.schema))
        self.fields = [field._replace(**marks.get(number, {})) for number, field in fields]
        self.width = len(place.array.columns) if hasattr(place.array, "index") else len(self.fields)

    def batches(self, start: int, row: int, chosen: Sequence[int], everything: bool, together: bool) -> Iterator[Block]:
        numbers = list(range(len(self.fields))) if everything else list(chosen)
        width = max(1, len(numbers)) * (8 * (_REWRITTEN if everything else _COPIES) + self._options.beside)
        found = self._batches(max(_LEAST_ROWS, self._options.block_bytes // width), numbers)
        at = 0
        for number, batch in enumerate(found, 1):
            if number > start:
                yield Block(batch, (at, 0), number, (at + batch.num_rows) / max(1, self.rows))
            at += batch.num_rows

    def _batches(self, rows: int, numbers: Sequence[int]) -> Iterator[Any]:
        if self._format == "memory":
            yield from (batch.select(numbers) for batch in self._held.to_batches(max_chunksize=rows))
            return
        # To find many columns by name takes longer than to read the others too; and a name with a point would be taken
        # for the path to a member of a struct: "s.p", of ORC.
        known = self.schema.names
        names = [known[i] for i in numbers]
        path = self._format == "orc" and any("." in name for name in names)
        few = names if 2 * len(names) <= len(known) and not path else None
        how = {"batch_size": rows, "use_threads": False, "batch_readahead": 1, "fragment_readahead": 1}
        yield from (batch.select(names) for batch in self._held.to_batches(columns=few, **how))


def _arrow(frame: Any, options: Options) -> tuple[Any, dict[int, dict[str, Any]]]:
    """Return a frame as a table, and what `Field` says of columns of objects, by their numbers.

    Columns that hold numbers and others are text, those of numbers that Arrow has no type for become float64.
    """
    if isinstance(frame, pa.RecordBatch):
        return pa.Table.from_batches([frame]), {}
    if isinstance(frame, pa.Table) or hasattr(frame, "to_arrow"):
        return frame if isinstance(frame, pa.Table) else frame.to_arrow(), {}
    if options.tabular:
        kept = _says_something(frame.index, frame.index.name, options.first) or None
        try:
            return pa.Table.from_pandas(frame, preserve_index=kept), {}
        except pa.ArrowException:
            for number, mark in _arrow(frame, options.but(tabular=""))[1].items():
                if "why" in mark:
                    what = f"column {str(frame.columns[number])!r} of the data frame"
                    raise UnreadableError(f"{what} cannot be written, for {mark['why']}") from None
            raise
    marks: dict[int, dict[str, Any]] = {}
    arrays = []
    for number in range(len(frame.columns)):
        column = frame.iloc[:, number]
        try:
            arrays.append(pa.array(column, from_pandas=True))
        except (pa.ArrowException, OverflowError):
            held = list(column.dropna())
            others = [entry for entry in held if not isinstance(entry, _NUMBERS)]
            if not others:
                marks[number] = {"rounded": next(filter(_is_rounded, held), None)}
                column = column.map(_nearest, na_action="ignore").to_numpy(np.float64, na_value=np.nan)
            elif len(others) < len(held):
                marks[number] = {"why": f"not all of it are numbers: {others[0]!r}"}
            arrays.append(pa.array(list(map(str, column)) if others else column))
    return pa.Table.from_arrays(arrays, names=list(map(str, frame.columns))), marks


def _says_something(index: Any, name: object, first: int) -> bool:
    """Whether an index of pandas does more than number rows, from 0 on or from the first one's in what is written."""
    return name is not None or getattr(index, "step", None) != 1 or index.start not in (0, first)


def _is_rounded(entry: Any) -> bool:
    """Whether a number is an integer that float64 does not hold."""
    nearest = _nearest(entry)
    whole = int(entry) if np.isfinite(nearest) else entry
    return bool(entry == whole != nearest)


def _nearest(entry: Any) -> float:
    """Return the float64 nearest to a number: infinity where that is beyond all of them, as in texts."""
    try:
        return float(entry)
    except OverflowError:
        return np.inf if entry > 0 else -np.inf


# What is written.


class TableWriter(Writer):
    """A table, to which rows are appended: in Parquet, Feather or ORC as pyarrow writes them, or as text."""

    def __init__(self, target: Target, path: str, schema: Any, options: Options) -> None:
        self._text, self._name = target.format == "text", target.name
        self._decimal, self._single = options.decimal or ".", len(schema) == 1
        with ExitStack() as stack:
            stream = stack.enter_context(pa.OSFile(os.fsencode(path), "wb"))
            if target.format == "parquet":
                self._writer = needed("pyarrow.parquet", "Tables").ParquetWriter(stream, schema)
            elif target.format == "orc":
                self._writer = needed("pyarrow.orc", "ORC tables").ORCWriter(stream)
            elif target.format == "arrow":
                self._writer = pa.ipc.new_file(stream, schema)
            else:
                csv = needed("pyarrow.csv", "Tables")
                stream = stack.enter_context(compressed(stream, compression_of(target.path), "wb"))
                if options.encoding not in (None, "utf-8"):
                    stream = codecs.EncodedFile(stream, "utf-8", options.encoding)
                self._delimiter = delimiter_of(target.path, options)
                how = csv.WriteOptions(include_header=options.header is not False, delimiter=self._delimiter)
                spelled = self._spelled(schema.empty_table()).schema
                self._writer = csv.CSVWriter(stream, spelled, write_options=how)
            stack.callback(self._writer.close)
            self._close = stack.pop_all().close

    def write(self, corner: Shape, values: Any) -> None:
        """Append rows, a table of pyarrow's with the columns of the first."""
        rows = self._spelled(values) if self._text else values
        (self._writer.write_table if hasattr(self._writer, "write_table") else self._writer.write)(rows)

    def close(self) -> None:
        """Let go of the file."""
        self._close()

    def _spelled(self, rows: Any) -> Any:
        """Return rows as they are to be in a text, where an index without a name has an empty one, as in pandas'."""
        names = [_INDEX_LEVEL.sub("", name) for name in rows.column_names]
        columns = (self._entries(name, column) for name, column in zip(names, rows.columns, strict=True))
        return pa.Table.from_arrays(list(columns), names=names)

    def _entries(self, name: str, column: Any) -> Any:
        """Return a column as it is to be in a text: an empty line would be no row, a comma may be the decimal point.

        What the delimiter could be a part of becomes a text, which is in quotes.
        """
        column, types = decoded(column), pa.types
        if types.is_duration(column.type):  # of which pyarrow would write numbers without their unit
            rule = f"be of a format that holds durations, got {self._name!r}: column {name!r} of {column.type}"
            raise ValueError(f"out must {rule} (.parquet and .feather do)")
        if self._single and types.is_floating(column.type):
            column = column.fill_null(np.nan)
        if self._decimal != "." and (types.is_floating(column.type) or types.is_decimal(column.type)):
            return compute().replace_substring(column.cast(pa.string()), ".", self._decimal)
        marks = "+-: " if types.is_temporal(column.type) else "+-"
        within = self._delimiter.isalnum() or self._delimiter in marks
        return column.cast(pa.string()) if within else column
