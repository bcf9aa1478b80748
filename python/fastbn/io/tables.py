"""Tables: their columns of numbers as matrices. pyarrow parses and decodes; which rows when is decided here.

A place in a file is kept so that a run can go on from there, and rows are read as memory allows: texts are cut into
blocks of whole lines, of Parquet a few columns are read at a time where all would be too many.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np

from fastbn._validation import Shape
from fastbn.io.options import Array, Options
from fastbn.io.places import TEXTS, Place, compression_of, suffix_of
from fastbn.io.sources import (
    Block,
    NoData,
    Origin,
    Ring,
    UnreadableError,
    chosen_columns,
    needed,
    nodata_of,
)

# An entry of two characters, its comma included, becomes 8 bytes in pyarrow's column and 8 in ours, twice while it is
# converted.
_GROWTH = 12
# Of a value: as decoded, in the matrix, and while it is decoded; in a result and while that is encoded.
_COPIES, _REWRITTEN = 3, 6
# Of one column of Parquet, by default of those who write: 1 MiB each of data, as stored and decoded, and of dictionary.
_PAGES = 3 << 20
_BUFFER = 1 << 18  # bytes of a column that are read at a time
_LEAST_ROWS = 1 << 10  # each time is a row group where it is written again
# What is meant as a number and written in another way: 1,000 and 1.000,5 and 10% and $5.
_SPELLED = re.compile(
    r"[-+]?[$€£¥]?\s?(\d+([.,]\d*)?|[.,]\d+|\d{1,3}([.,'_\u2019\s]\d{3})+([.,]\d+)?)(e[-+]?\d+)?\s?[%$€£¥]?", re.I
)
_ARROW = ("zstd", "lz4")  # that Python has nothing for
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


class Field(NamedTuple):
    """A column of a table: its name and type, and whether it counts unless others are asked for.

    ``numeric`` columns can be asked for; of ``empty`` ones nothing is known yet. ``odd`` is the first entry that is no
    number in a column of text of which others are, or one that is a number ``spelled`` in another way.
    """

    name: str
    type: str
    numeric: bool
    counts: bool
    empty: bool = False
    odd: str | None = None
    spelled: bool = False

    @property
    def why(self) -> str:
        """Why the column is left out, though numbers were meant."""
        if self.spelled:
            return f"not all of its entries are written as numbers are: {self.odd!r}"
        return f"not all of it are numbers: {self.odd!r} (null_values=[{self.odd!r}], --null, would count the others)"


class Batch(NamedTuple):
    """Rows of a table as pyarrow has them; ``following`` and ``done`` as in `Block`.

    ``row`` and ``first`` are the numbers of the first row and, among the chosen, of the first column.
    """

    rows: Any
    following: int
    done: float
    row: int
    first: int = 0


class TableFile(Protocol):
    """A file of rows. ``schema`` is what a copy says of itself, None where it says nothing."""

    fields: list[Field]
    schema: Any

    def batches(self, start: int, row: int, chosen: Sequence[int], everything: bool) -> Iterator[Batch]:
        """Yield what comes after a place: the columns of these numbers, in that order.

        Or, if the flag is set, all columns, of which these are to be numbers and all others to stay what they are.
        """
        ...


def opened(place: Place, options: Options) -> TableSource:
    """Open a table."""
    needed(
        {"text": "pyarrow.csv", "parquet": "pyarrow.parquet", "memory": "pyarrow"}.get(place.kind, "pyarrow.dataset"),
        "Tables",
    )
    with ExitStack() as stack:
        table: TableFile
        if place.kind == "text":
            table = TextTable(place, options, stack)
        elif place.kind == "parquet":
            table = ParquetTable(place, options, stack)
        elif place.array is not None:
            table = FrameTable(place.array, options)
        else:
            table = ArrowTable(place, options)
        source = TableSource(place.name, table, options, named=place.kind != "text" or options.header is not False)
        source.close = stack.pop_all().close
        return source


class TableSource:
    """The numeric columns of a table or those asked for; entries that are missing are NaN."""

    overlaps = True
    close: Callable[[], None] = staticmethod(lambda: None)
    axis: Shape = (1,)
    shape: Shape | None = None
    flat = False
    order: tuple[int, ...] | None = None
    notes: Sequence[str] = ()
    origin = Origin()

    def __init__(self, name: str, table: TableFile, options: Options, *, named: bool = True) -> None:
        if options.axis not in (None, 1, -1) or options.dim is not None:
            raise UnreadableError(f"axis must be 1 for tables, got {options.dim or options.axis} for {name}")
        self.name, self._table, self.fields, self.schema = name, table, tuple(table.fields), table.schema
        known = [field.name for field in self.fields] if named else None
        self._weights = self._weights_of(options, known)
        self.chosen = self._chosen(options, known)
        taken = [self.fields[i] for i in self.chosen]
        self.names: tuple[str, ...] | None = tuple(known[i] if known else str(i) for i in self.chosen)
        self.features: Shape = (len(taken),)
        counted = {field.name for field in self.fields if field.counts and not field.empty}
        weights = {self.fields[i].name for i in self._weights}
        self.more: Sequence[str] = sorted(counted - set(self.names) - weights)
        default = options.columns is None
        self.suspects = [(field.name, field.why) for field in self.fields if default and field.odd is not None]
        single = options.dtype is None and all(field.type in ("float", "halffloat") for field in taken)
        self.dtype = np.dtype(np.float32) if single else options.dtype or np.dtype(np.float64)
        self._ring = Ring(options)
        nodata = nodata_of(options, name, self.chosen, known, len(self.fields))
        self._nodata = NoData(nodata or [()], self.axis)

    def blocks(self, start: int = 0, row: int = 0) -> Iterator[Block]:
        """Yield the chosen columns of each batch as a matrix of one row per row."""
        for batch in self._table.batches(start, row, [*self.chosen, *self._weights], False):
            count = batch.rows.num_columns - len(self._weights)
            weights = _numbers(batch.rows.column(count)) if self._weights else None
            values, valid = self.matrix(batch.rows.columns[:count], batch.rows.num_rows, batch.first)
            yield Block(values, (batch.row, batch.first), batch.following, batch.done, valid, weights)

    def batches(self) -> Iterator[Batch]:
        """Yield the rows with all their columns."""
        return self._table.batches(0, 0, self.chosen, True)

    def matrix(self, columns: Sequence[Any], rows: int, first: int = 0) -> tuple[Array, Array | None]:
        """Return columns as a matrix, in which a column is one piece of memory, and which entries are data."""
        matrix = self._ring.take((len(columns), rows), self.dtype)
        with np.errstate(all="ignore"):
            for target, column in zip(matrix, columns, strict=True):
                begin = 0
                for chunk in _chunks(column):
                    target[begin : begin + len(chunk)] = chunk.to_numpy(zero_copy_only=False)
                    begin += len(chunk)
        return matrix.T, self._nodata.valid(matrix.T, first)

    def _chosen(self, options: Options, known: list[str] | None) -> list[int]:
        if options.columns is None:
            found = [i for i, field in enumerate(self.fields) if field.counts and i not in self._weights]
            if not found:
                kinds = ", ".join(f"{field.name} ({field.type})" for field in self.fields) or "no column"
                raise UnreadableError(f"{self.name} must have a column of numbers, got {kinds}{self._hint()}")
            return found
        found = chosen_columns(self.name, options.columns, known, len(self.fields))
        if set(found) & set(self._weights):
            raise UnreadableError(f"weights must not be among the columns, got {options.weights!r} of {self.name}")
        for field in (self.fields[i] for i in found):
            if not (field.numeric or field.empty):
                odd = "" if field.odd is None else f", {field.odd!r} for instance"
                raise UnreadableError(
                    f"columns must name columns of numbers, got {field.name!r} of {self.name}, "
                    f"which holds {field.type}{odd}"
                )
        return found

    def _hint(self) -> str:
        """Return what may have been meant, where a whole line is one column."""
        separator = next((mark for mark in ";\t|," if len(self.fields) == 1 and mark in self.fields[0].name), None)
        return "" if separator is None else f" (delimiter={separator!r} would make more columns of it)"

    def _weights_of(self, options: Options, known: list[str] | None) -> list[int]:
        if not isinstance(options.weights, str) or known is None or options.weights not in known:
            return []
        (number,) = chosen_columns(self.name, [options.weights], known, len(known))
        if not self.fields[number].numeric:
            raise UnreadableError(f"weights must name a column of numbers, got {options.weights!r} of {self.name}")
        return [number]


def _chunks(column: Any) -> Sequence[Any]:
    """Return a column's pieces, as floating-point numbers."""
    pa = needed("pyarrow", "Tables")
    numbers = column if pa.types.is_floating(column.type) else column.cast(pa.float64(), safe=False)
    chunks: Sequence[Any] = numbers.chunks if isinstance(numbers, pa.ChunkedArray) else [numbers]
    return chunks


def _numbers(column: Any) -> Array:
    chunks = [np.asarray(chunk.to_numpy(zero_copy_only=False), np.float64) for chunk in _chunks(column)]
    return np.concatenate(chunks) if chunks else np.empty(0)


def field_of(name: str, kind: Any, index: bool = False) -> Field:
    """Return a column's description, from its type in pyarrow; what is a frame's index does not count."""
    types = needed("pyarrow", "Tables").types
    kind = kind.value_type if types.is_dictionary(kind) and _is_number(kind.value_type) else kind  # as Parquet says
    numeric = _is_number(kind)
    return Field(name, str(kind), numeric, numeric and not index, types.is_null(kind))


def _is_number(kind: Any) -> bool:
    types = needed("pyarrow", "Tables").types
    checks = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal)
    return any(check(kind) for check in checks)


def described(schema: Any, numbers: Sequence[int], dtype: np.dtype[Any]) -> Any:
    """Return a schema in which the columns of these numbers are of a floating-point type, for pandas too."""
    pa = needed("pyarrow", "Tables")
    fields = list(schema)
    for number in numbers:
        fields[number] = pa.field(fields[number].name, pa.from_numpy_dtype(dtype), metadata=fields[number].metadata)
    schema = pa.schema(fields, metadata=schema.metadata)
    told = _pandas(schema)
    names = {fields[number].name for number in numbers}
    for column in told.get("columns", ()):
        if column.get("field_name", column.get("name")) in names:
            column.update(pandas_type=dtype.name, numpy_type=dtype.name, metadata=None)
    return schema.with_metadata({**schema.metadata, b"pandas": json.dumps(told).encode()}) if told else schema


def _pandas(schema: Any) -> dict[str, Any]:
    """Return what pandas wrote of a frame, empty where it did not."""
    try:
        told = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _fields(schema: Any) -> list[Field]:
    index = {name for name in _pandas(schema).get("index_columns", ()) if isinstance(name, str)}
    return [field_of(field.name, field.type, field.name in index) for field in schema]


# Text.


class TextTable:
    """Rows of text: of .csv and .tsv files, compressed or not, in any encoding.

    They are cut into blocks of whole lines, each parsed by pyarrow, so that a place in the file is a number of bytes.
    The first one says which columns hold numbers.
    """

    schema = None

    def __init__(self, place: Place, options: Options, stack: ExitStack) -> None:
        self._name, self._place, self._options = place.name, place, options
        self._size = options.block_bytes // (_GROWTH * (2 if options.beside else 1))
        self._delimiter = options.delimiter or TEXTS[suffix_of(place.files[0])]
        self._text = _Text(place, options.encoding, stack)
        names, after = self._first_row()
        if not names:
            kind = "values" if options.header is False else "names"
            raise UnreadableError(f"{place.name} must begin with a line of {kind}, got nothing")
        if options.header is None and self._all_numbers(names):
            raise UnreadableError(
                f"{place.name} must begin with the columns' names, or say whether it does by header=True or "
                f"header=False (--header, --no-header), got numbers alone: {names}"
            )
        self._begin = 0 if options.header is False else after
        self._names = [str(i) for i in range(len(names))] if options.header is False else names
        sample = next(self._lines(self._begin), (b"", 0))[0]
        self._types = self._inferred(sample)
        texts: Any = None  # of the sample, if there is a column that holds some
        self.fields = []
        for number, name in enumerate(self._names):
            field = field_of(name, self._types[str(number)])
            if not field.numeric and not field.empty:
                as_text = dict.fromkeys(self._types, needed("pyarrow", "Tables").string())
                texts = self._parsed(sample, as_text) if texts is None else texts
                odd = self._odd(texts.column(number))
                field = field._replace(odd=odd, spelled=odd is not None and _is_spelled(odd))
            # What is empty so far may have numbers later, and is not left out silently.
            self.fields.append(field._replace(numeric=field.numeric or field.empty, counts=field.counts or field.empty))

    def batches(self, start: int, row: int, chosen: Sequence[int], everything: bool) -> Iterator[Batch]:
        """Yield the rows that begin at a place in the text or behind it."""
        pa = needed("pyarrow", "Tables")
        numeric = {str(i): _as_parsed(self._types[str(i)]) for i in chosen}
        types = {**dict.fromkeys(self._types, pa.string()), **numeric}
        columns = list(types if everything else numeric)
        lines = b""
        for lines, after in self._lines(start or self._begin):
            rows = self._parsed(lines, types, columns)
            yield Batch(rows, after, self._text.done(), row)
            row += rows.num_rows
        if not lines:
            yield Batch(self._parsed(b"", types, columns), max(start, self._begin), 1.0, row)

    def _inferred(self, sample: bytes) -> dict[str, Any]:
        """Return the type of each column; what pyarrow takes for integers and not for numbers is text: 0x1F."""
        pa = needed("pyarrow", "Tables")
        types = {str(i): kind for i, kind in enumerate(self._parsed(sample).schema.types)}
        while any(pa.types.is_integer(kind) for kind in types.values()):
            numeric = {i: _as_parsed(kind) if field_of("", kind).numeric else kind for i, kind in types.items()}
            try:
                self._parsed(sample, numeric)
            except _ConversionError as error:
                types[str(error.column)] = pa.string()
            else:
                break
        return types

    def _odd(self, column: Any) -> str | None:
        """Return the first entry that is no number, where others are, or one that is meant as a number."""
        texts: list[str] = [text for text in column.to_pylist() if text and text not in self._nulls()]
        wrong = [text for text in texts if not self._is_number(text)]
        if 0 < len(wrong) < len(texts):
            return wrong[0]
        spelled: Iterator[str] = filter(_is_spelled, texts)
        return next(spelled, None)

    def _nulls(self) -> list[str]:
        return [*needed("pyarrow.csv", "Tables").ConvertOptions().null_values, *self._options.null_values]

    def _is_number(self, text: str) -> bool:
        return "." not in text.replace(self._options.decimal, "") and self._is_like_number(text)

    def _is_like_number(self, text: str) -> bool:
        """Whether a text is a number, with a point or the decimal mark."""
        try:
            float(text.replace("_", "no").replace(self._options.decimal, "."))
        except ValueError:
            return False
        return True

    def _all_numbers(self, entries: Sequence[str]) -> bool:
        filled = [entry.strip() for entry in entries if entry.strip() not in self._nulls()]
        return bool(filled) and all(map(self._is_like_number, filled))

    def _parsed(self, lines: bytes, types: dict[str, Any] | None = None, columns: list[str] | None = None) -> Any:
        pa, csv_of = needed("pyarrow", "Tables"), needed("pyarrow.csv", "Tables")
        numbers = [str(i) for i in range(len(self._names))]
        if lines.count(b'"') % 2:
            _check_quotes(self._name, lines, self._delimiter)
        lines = _without_comments(lines, self._options.comment)
        if not lines.strip():
            return pa.schema([(n, types[n] if types else pa.null()) for n in columns or numbers]).empty_table()
        # With threads of its own pyarrow aborts now and then as the interpreter ends:
        # https://github.com/apache/arrow/issues/34314.
        read = csv_of.ReadOptions(column_names=numbers, block_size=max(1, len(lines)), use_threads=False)
        convert: dict[str, Any] = {"column_types": types, "include_columns": columns, "null_values": self._nulls()}
        try:
            return csv_of.read_csv(
                pa.BufferReader(lines),
                read_options=read,
                parse_options=csv_of.ParseOptions(delimiter=self._delimiter, newlines_in_values=b'"' in lines),
                convert_options=csv_of.ConvertOptions(decimal_point=self._options.decimal, **convert),
            )
        except pa.ArrowInvalid as error:
            said = re.sub(r"Row #\d+: ", "", str(error)).splitlines()[0]  # counted from where the block begins
            found = re.search(r"column #(\d+)", said)
            if found is None:
                raise UnreadableError(f"{self._name} cannot be read: {said}") from error
            said = said.replace(found[0], f"column {self._names[int(found[1])]!r}")
            raise _ConversionError(f"{self._name} cannot be read: {said}", int(found[1])) from error

    def _first_row(self) -> tuple[list[str], int]:
        """Return the entries of the first row that is no comment, and where the next one begins."""
        begin = 0
        while True:
            data = self._text.read(begin, self._size)
            lines = io.BytesIO(data)
            decoded = (_decoded(self._name, line) for line in lines)
            try:
                row = next(csv.reader(decoded, delimiter=self._delimiter, strict=True), None)
            except csv.Error as error:
                raise UnreadableError(f"{self._name} must begin with a whole row of entries, got {error}") from None
            if lines.tell() == self._size and not data.endswith(b"\n"):
                raise self._too_long()
            begin += lines.tell()
            comment = self._options.comment
            if row is None or (row and not (comment and row[0].lstrip().startswith(comment))):
                return row or [], begin

    def _lines(self, start: int) -> Iterator[tuple[bytes, int]]:
        """Yield (whole lines, where the next begin) in blocks of a size; a quoted line end ends no line."""
        rest = b""
        while True:
            data = rest + self._text.read(start + len(rest), self._size - len(rest))
            if not data:
                return
            end = len(data) if len(data) < self._size else _last_end(data)
            if not end:
                raise self._too_long()
            start += end
            yield data[:end], start
            rest = data[end:]

    def _too_long(self) -> UnreadableError:
        return UnreadableError(
            f"{self._name} must have lines of at most {self._size} bytes (memory / {4 * _GROWTH}), and close the "
            "quotes it opens, got a longer one"
        )


class _ConversionError(UnreadableError):
    """An entry that is not of its column's type."""

    def __init__(self, text: str, column: int) -> None:
        super().__init__(text)
        self.column = column


class _Text:
    """The bytes of a text in UTF-8, whatever it is in the file, from any place on."""

    def __init__(self, place: Place, encoding: str, stack: ExitStack) -> None:
        self._path, self._encoding, self._name = place.files[0], encoding, place.name
        self._file = stack.enter_context(open(self._path, "rb"))  # noqa: SIM115 (it is one)
        self._bytes = os.fstat(self._file.fileno()).st_size
        self._compression = compression_of(self._path)
        self._begin = self._at = 0
        self._rest = b""
        self._rewind()
        self._plain = self._compression is None and encoding == "utf-8"

    def read(self, at: int, size: int) -> bytes:
        """Return so many bytes, or what there is, from a place on."""
        if self._plain:
            self._file.seek(self._begin + at)
            plain: bytes = self._file.read(size)
            return plain
        if at < self._at:
            self._rewind()
        while self._at + len(self._rest) < at + size:
            data = self._stream.read(1 << 16)
            self._rest += self._recoded(data)
            skipped = min(len(self._rest), max(0, at - self._at))
            self._rest, self._at = self._rest[skipped:], self._at + skipped
            if not data:
                break
        skipped = min(len(self._rest), at - self._at)
        found = self._rest[skipped : skipped + size]
        self._rest, self._at = self._rest[skipped + len(found) :], at + len(found)
        return found

    def done(self) -> float:
        """Return how much of the file was read."""
        return os.lseek(self._file.fileno(), 0, os.SEEK_CUR) / max(1, self._bytes)

    def _rewind(self) -> None:
        self._file.seek(0)
        # pyarrow's streams close what they read.
        file = self._file if self._compression not in _ARROW else os.fdopen(os.dup(self._file.fileno()), "rb")
        self._stream = _decompressed(file, self._compression)
        self._decoder = codecs.getincrementaldecoder(self._encoding)()
        self._at, self._rest = 0, b""
        head = self._stream.read(max(len(mark) for mark, _ in _BOMS))
        for mark, encoding in _BOMS:
            if head.startswith(mark) and self._encoding == "utf-8":
                if encoding != "utf-8":
                    raise UnreadableError(f"{self._name} must be read with encoding={encoding!r}, got 'utf-8'")
                self._begin, head = len(mark), head[len(mark) :]
        self._rest = self._recoded(head)

    def _recoded(self, data: bytes) -> bytes:
        if self._encoding == "utf-8":
            return data
        return self._decoder.decode(data, final=not data).encode("utf-8")


def _decompressed(file: BinaryIO, compression: str | None) -> Any:
    if compression is None:
        return file
    if compression in _ARROW:
        pa = needed("pyarrow", "Tables")
        return pa.CompressedInputStream(pa.PythonFile(file, mode="r"), compression)
    return needed({"gzip": "gzip", "bz2": "bz2", "xz": "lzma"}[compression], "Compressed texts").open(file)


def _decoded(name: str, line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise UnreadableError(
            f"{name} must be in UTF-8, or be read with its encoding ('latin-1' for instance), got {line[:40]!r}"
        ) from None


def _is_spelled(text: str) -> bool:
    return _SPELLED.fullmatch(text.strip()) is not None


def _as_parsed(kind: Any) -> Any:
    """Return how a column of numbers is parsed: as float64, for a later block may have fractions."""
    pa = needed("pyarrow", "Tables")
    return kind if pa.types.is_boolean(kind) else pa.float64()


def _without_comments(lines: bytes, comment: str | None) -> bytes:
    """Return lines without what follows a comment's mark outside of quotes, and without lines of comments."""
    if comment is None or comment.encode() not in lines:
        return lines
    mark = re.escape(comment.encode())
    kept = re.sub(rb'("(?:[^"]|"")*")|' + mark + rb"[^\r\n]*", lambda found: found[1] or b"", lines)
    return re.sub(rb"(?m)^[ \t]*\r?\n", b"", kept) if re.search(rb"(?m)^[ \t]*" + mark, lines) else kept


def _check_quotes(name: str, lines: bytes, delimiter: str) -> None:
    """Refuse the end of a file in quotes, all of which pyarrow takes for one entry; one within an entry is just that.

    Blocks of lines before the last one have an even number of quotes.
    """
    texts = io.StringIO(lines.decode(errors="replace"), newline="")
    try:
        for _ in csv.reader(texts, delimiter=delimiter, strict=True):
            pass
    except csv.Error as error:
        raise UnreadableError(f"{name} must close the quotes it opens, got {error}") from None


def _last_end(data: bytes) -> int:
    end = data.rfind(b"\n") + 1
    odd = data.count(b'"', 0, end) % 2
    while end and odd:
        before = data.rfind(b"\n", 0, end - 1) + 1
        odd ^= data.count(b'"', before, end) % 2
        end = before
    return end


# Parquet.


class ParquetTable:
    """A Parquet file, read row group by row group, and of each so many columns at a time as memory allows.

    A reader keeps a page and a dictionary of each column in memory; columns lie apart in the file, so nothing is read
    twice. A place in the file is a number of rows of such slabs.
    """

    def __init__(self, place: Place, options: Options, stack: ExitStack) -> None:
        parquet = needed("pyarrow.parquet", "Tables")
        metadata = parquet.read_metadata(place.files[0])
        self._columns = _column_bytes(metadata)
        # Columns that are shorter than a buffer are read whole, without one.
        buffer = _BUFFER if max(self._columns.values(), default=0) > _BUFFER else 0
        how: dict[str, Any] = {"metadata": metadata, "buffer_size": buffer, "pre_buffer": False}
        self._file = stack.enter_context(parquet.ParquetFile(place.files[0], **how))
        self._name, self._options, self.schema = place.name, options, self._file.schema_arrow
        self._names = self.schema.names
        self.fields = _fields(self.schema)
        metadata = self._file.metadata
        self._counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        if sum(self._counts) != metadata.num_rows:
            raise ValueError(f"its row groups must have its {metadata.num_rows} rows, got {sum(self._counts)}")

    def batches(self, start: int, row: int, chosen: Sequence[int], everything: bool) -> Iterator[Batch]:
        """Yield what comes behind a place, so that batches are the same wherever one starts."""
        names = self._names if everything else [self._names[i] for i in chosen]
        self._check_names(names)
        whole = everything or self._options.rowwise or isinstance(self._options.weights, str)
        slabs = {0: names} if whole else self._slabs(names)
        width = max(1, *map(len, slabs.values()))
        size = self._rows(max(1, width), _REWRITTEN if everything else _COPIES)
        pool = needed("pyarrow", "Tables").default_memory_pool()
        at, begin, total = 0, 0, sum(self._counts) * len(slabs)
        if start >= total:
            for first, slab in slabs.items():
                yield Batch(self.schema.empty_table().select(slab), start, 1.0, 0, first)
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
                        yield Batch(rows.select(slab), at, at / total, number, first)
                    pool.release_unused()
                if at != end:
                    raise ValueError(f"row group {group} must have {count} rows, got {at - end + count}")
            begin += count

    def _check_names(self, wanted: Sequence[str]) -> None:
        """Refuse columns that cannot be told apart: they are read by their names."""
        alike = {column for column, count in Counter(self._names).items() if count > 1}.intersection(wanted)
        if alike:
            name = min(alike)
            raise UnreadableError(f"{self._name} must have columns of different names, got {name!r} more than once")

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

    def _rows(self, columns: int, copies: int) -> int:
        """Return how many rows of so many columns are read at a time; where their pages fill the memory, not many."""
        pages = min(_PAGES, max(self._columns.values(), default=0)) * columns
        left = min(self._options.block_bytes, max(self._options.memory - pages, self._options.memory // 8) // 3)
        return max(_LEAST_ROWS, left // ((copies * 8 + self._options.beside) * columns))


def _column_bytes(metadata: Any) -> dict[str, int]:
    """Return the size of each column in the largest row group, decoded or not, whichever is more."""
    if not metadata.num_row_groups:
        return {}
    groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
    largest = max(groups, key=lambda group: group.total_byte_size)
    found: dict[str, int] = {}
    for number in range(largest.num_columns):
        column = largest.column(number)
        name = column.path_in_schema.partition(".")[0]
        found[name] = found.get(name, 0) + max(column.total_uncompressed_size, column.total_compressed_size)
    return found


# Everything else that pyarrow reads.


class ArrowTable:
    """A Feather (Arrow) or ORC file, by pyarrow.dataset. A place in it is a number of batches."""

    def __init__(self, place: Place, options: Options) -> None:
        dataset = needed("pyarrow.dataset", "Tables")
        kind = "orc" if place.kind == "orc" else "ipc"
        self._orc = kind == "orc"
        self._fragment = next(dataset.dataset(place.files[0], format=kind).get_fragments())
        self._options, self.schema = options, self._fragment.physical_schema
        self.fields = _fields(self.schema)

    def batches(self, start: int, row: int, chosen: Sequence[int], everything: bool) -> Iterator[Batch]:
        """Yield the batches behind so many."""
        names = self.schema.names if everything else [self.schema.names[i] for i in chosen]
        width = max(1, len(names)) * (8 * (_REWRITTEN if everything else _COPIES) + self._options.beside)
        rows = max(_LEAST_ROWS, self._options.block_bytes // width)
        # To find many columns by name takes longer than to read the others too.
        few = names if 2 * len(names) <= len(self.schema.names) and not self._paths(names) else None
        options = {"batch_size": rows, "use_threads": False, "batch_readahead": 1, "fragment_readahead": 1}
        total, at, number = self._fragment.count_rows(), 0, 0
        for number, batch in enumerate(self._fragment.to_batches(columns=few, **options), 1):
            if number > start:
                yield Batch(batch.select(names), number, (at + batch.num_rows) / max(1, total), at)
            at += batch.num_rows
        if number <= start:
            yield Batch(self.schema.empty_table().select(names), start, 1.0, at)

    def _paths(self, names: Sequence[str]) -> bool:
        """Whether a name would be taken for the path to a member of a struct: "s.p", of ORC."""
        return self._orc and any("." in name for name in names)


class FrameTable:
    """A data frame in memory: of pyarrow, pandas or polars. A place in it is a number of batches."""

    def __init__(self, frame: Any, options: Options) -> None:
        pa = needed("pyarrow", "Tables")
        if isinstance(frame, pa.RecordBatch):
            frame = pa.Table.from_batches([frame])
        elif not isinstance(frame, pa.Table):
            frame = frame.to_arrow() if hasattr(frame, "to_arrow") else pa.Table.from_pandas(frame)
        self._frame, self._options, self.schema = frame, options, frame.schema
        self.fields = _fields(self.schema)

    def batches(self, start: int, row: int, chosen: Sequence[int], everything: bool) -> Iterator[Batch]:
        """Yield the batches behind so many."""
        numbers = list(range(len(self.fields))) if everything else list(chosen)
        width = max(1, len(numbers)) * (8 * (_REWRITTEN if everything else _COPIES) + self._options.beside)
        rows = max(_LEAST_ROWS, self._options.block_bytes // width)
        at = 0
        found = self._frame.to_batches(max_chunksize=rows) or self.schema.empty_table().to_batches()
        for number, batch in enumerate(found, 1):
            if number > start:
                yield Batch(batch.select(numbers), number, (at + batch.num_rows) / max(1, self._frame.num_rows), at)
            at += batch.num_rows
