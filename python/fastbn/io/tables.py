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
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np

from fastbn.io.options import FOLDERS, INDEX, NO_NUMBERS, Array, Options
from fastbn.io.places import TEXTS, Place, compression_of, suffix_of
from fastbn.io.sources import Block, NoData, Ring, Source, UnreadableError, chosen_columns, needed

# An entry of two characters, its comma included, becomes 8 bytes in pyarrow's column and 8 in ours, twice while it is
# converted.
_GROWTH = 12
# Of a value: as decoded, in the matrix, and while it is decoded; in a result and while that is encoded.
_COPIES, _REWRITTEN = 3, 6
# Of one column of Parquet, by default of those who write: 1 MiB each of data, as stored and decoded, and of dictionary.
_PAGES = 3 << 20
_BUFFER = 1 << 18  # bytes of a column that are read at a time
_LEAST_ROWS = 1 << 10  # each time is a row group where it is written again
# What is meant as a number and written in another way: 1,000 and 1.000,5 and 10% and $5 and (5) and 5- and 1D+3.
_SPELLED = re.compile(
    r"'?[-+\u2212(]?[$€£¥]?\s?(\d+([.,]\d*)?|[.,]\d+|\d{1,3}([.,'_\u2019\s]\d{3})+([.,]\d+)?)(e[-+]?\d+|d[-+]\d+)?"
    r"\s?[-%$€£¥)]?'?",
    re.I,
)
# How compressed files begin, and what those are called that are read as such.
_PACKED = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ": ".xz", b"(\xb5/\xfd": ".zst", b'\x04"M\x18': ".lz4"}
_ENCODINGS = "'latin-1' or 'utf-16' for instance"
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


class Field(NamedTuple):
    """A column of a table: its name and type, and what keeps it from being counted unless it is asked for.

    ``numeric`` columns can be asked for; of ``empty`` ones nothing is known yet. ``odd`` is the first entry that is no
    number in a column of which others are, or one that is a number spelled in another way; ``why`` says which.
    """

    name: str
    type: str
    numeric: bool
    kept_out: str
    empty: bool = False
    odd: str | None = None
    why: str = ""

    @property
    def counts(self) -> bool:
        """Whether it counts where nothing is asked for."""
        return not self.kept_out

    @property
    def holds(self) -> str:
        """What errors say of its entries."""
        return self.type if self.odd is None else f"{self.type}, {self.odd!r} for instance"


class Batch(NamedTuple):
    """Rows of a table as pyarrow has them; ``following`` and ``done`` as in `Block`.

    ``row`` and ``first`` are the numbers of the first row and, among the chosen, of the first column.
    """

    rows: Any
    following: int
    done: float
    row: int
    first: int = 0


def opened(place: Place, options: Options) -> TableSource:
    """Open a table: what yields batches, and knows its fields and its schema (None where a copy says nothing of it)."""
    with ExitStack() as stack:
        if place.kind == "text":
            table: _TextTable | _ParquetTable | _ArrowTable = _TextTable(place, options)
        elif place.kind == "parquet":
            table = _ParquetTable(place, options, stack)
        else:
            table = _ArrowTable(place, options)
        source = TableSource(place, table, options)
        source.close = stack.pop_all().close
        return source


class TableSource(Source):
    """The numeric columns of a table or those asked for; entries that are missing are NaN.

    Behind the columns of the file are those that the names of its folders give, each of one value, as in year=2024.
    """

    def __init__(self, place: Place, table: Any, options: Options) -> None:
        name = place.name
        if options.axis not in (None, 1, -1, (1,), (-1,)) or options.dim is not None:
            raise UnreadableError(f"axis must be 1 for tables, got {options.dim or options.axis} for {name}")
        self.name, self._table, self.schema = name, table, table.schema
        self._stored = len(table.fields)
        self._labels = _labels(place, table.fields)
        asked = [column for column in options.columns or () if column in self._labels]
        if asked and not options.labels:
            raise UnreadableError(f"out must be one file, got a folder, whose names hold {asked[0]!r} of {name}")
        if not options.labels:
            self._labels = {}
        labels = (_field(key, value.type, FOLDERS) for key, value in self._labels.items())
        self.fields = (*table.fields, *labels)
        named = place.kind != "text" or options.header is not False
        known = [field.name for field in self.fields] if named else None
        self._weights = self._weights_of(options, known)
        self.chosen = self._chosen(options, known)
        chosen = [self.fields[i] for i in self.chosen]
        self.names = tuple(known[i] if known else str(i) for i in self.chosen)
        self.features = (len(chosen),)
        counted = {field.name for field in self.fields if field.counts and not field.empty}
        self.more = sorted(counted - set(self.names) - {self.fields[i].name for i in self._weights})
        default = options.columns is None
        self.suspects = [(field.name, field.why) for field in self.fields if default and field.odd is not None]
        single = options.dtype is None and all(field.type in ("float", "halffloat") for field in chosen)
        self.dtype = np.dtype(np.float32) if single else options.dtype or np.dtype(np.float64)
        self._exact = options.dtype is None
        self.tabular, self._ring = options.tabular, Ring(options)
        self._nodata = NoData(options, name, self.chosen, known, len(self.fields))

    def blocks(self, start: int = 0, row: int = 0) -> Iterator[Block]:
        """Yield the chosen columns of each batch as a matrix, in which a column is one piece of memory."""
        read = [number for number in (*self.chosen, *self._weights) if number < self._stored] or [0]
        for batch in self._table.batches(start, row, read, self.tabular):
            rows = batch.rows
            numbers = range(self._stored) if self.tabular else read[batch.first : batch.first + rows.num_columns]
            labels = {self._stored + i: _repeated(each, len(rows)) for i, each in enumerate(self._labels.values())}
            columns = dict(zip(numbers, rows.columns, strict=True)) | labels
            whole = self.tabular or labels or self._weights
            chosen = self.chosen if whole else self.chosen[batch.first : batch.first + rows.num_columns]
            matrix = self._ring.take((len(chosen), len(rows)), self.dtype)
            for number, target in zip(chosen, matrix, strict=True):
                self._fill(target, number, columns[number])
            weights = np.empty(len(rows)) if self._weights else None
            for number in self._weights:
                self._fill(weights, number, columns[number])
            valid = self._nodata.valid(matrix.T, batch.first)
            yield Block(
                matrix.T,
                (batch.row, batch.first),
                batch.following,
                batch.done,
                valid,
                weights,
                list(columns.values()) if self.tabular else None,
            )

    def _fill(self, target: Any, number: int, column: Any) -> None:
        """Fill an array with a column's numbers, unless these are integers that it does not hold."""
        plain = _plain(column)
        if self._exact and (inexact := _inexact(plain)) is not None:
            raise _rounded(self.name, inexact, self.fields[number].name)
        _fill(target, plain)

    def restored(self, block: Block, values: Array) -> Block:
        """Return all columns, of which the chosen ones have these values, or these alone for an array."""
        if block.rows is None:
            return block._replace(values=values)
        pa = needed("pyarrow", "Tables")
        columns = list(block.rows)
        fields = list(self.schema or [None] * self._stored) + [None] * len(self._labels)
        for number, (field, column) in enumerate(zip(fields, columns, strict=True)):
            fields[number] = field or pa.field(self.fields[number].name, column.type)
        for number, column in zip(self.chosen, values.T, strict=True):
            columns[number] = pa.array(column, from_pandas=True)
        schema = pa.schema(fields, metadata=self.schema and self.schema.metadata)
        return block._replace(
            values=pa.Table.from_arrays(columns, schema=_described(schema, self.chosen, values.dtype))
        )

    def _chosen(self, options: Options, known: list[str] | None) -> list[int]:
        if options.columns is None:
            found = [i for i, field in enumerate(self.fields) if field.counts and i not in self._weights]
            if not found:
                kinds = ", ".join(f"{field.name} ({field.holds})" for field in self.fields) or "no column"
                lone = self.fields[0].name if len(self.fields) == 1 else ""
                hint = next(
                    (f" (delimiter={mark!r} would make more columns of it)" for mark in ";\t|," if mark in lone), ""
                )
                raise UnreadableError(f"{self.name} must have a column of numbers, got {kinds}{hint}")
            return found
        found = chosen_columns(self.name, options.columns, known, len(self.fields))
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


def _labels(place: Place, fields: Sequence[Field]) -> dict[str, Any]:
    """Return the columns that folders name, but for those that the file has itself, each with its value."""
    pa, own = needed("pyarrow", "Tables"), {field.name for field in fields}
    return {
        key: pa.scalar(value, pa.int64() if numeric else pa.string())
        for key, value, numeric in place.labels
        if key not in own
    }


def _repeated(value: Any, count: int) -> Any:
    pa = needed("pyarrow", "Tables")
    return pa.repeat(value, count) if value.is_valid else pa.nulls(count, value.type)


def _rounded(name: str, value: object, column: str) -> UnreadableError:
    return UnreadableError(
        f"{name} must hold integers that float64 holds, got {value} in {column!r}: "
        "dtype=float64 rounds them, an array of them is read as it is"
    )


def _plain(column: Any) -> Any:
    """Return a column of values, which may have been stored by where they are repeated."""
    pa = needed("pyarrow", "Tables")
    if pa.types.is_run_end_encoded(column.type):
        return needed("pyarrow.compute", "Tables").run_end_decode(column)
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _inexact(column: Any) -> int | None:
    """Return the first integer that float64 does not hold."""
    pa, compute = needed("pyarrow", "Tables"), needed("pyarrow.compute", "Tables")
    if column.type not in (pa.int64(), pa.uint64()):
        return None
    ends = compute.min_max(column).as_py()
    if ends["min"] is None or -(2**53) <= ends["min"] <= ends["max"] <= 2**53:
        return None
    values = column.drop_null().to_numpy(zero_copy_only=False)
    with np.errstate(invalid="ignore"):  # 2**63 is rounded to one more than int64 holds
        changed = values[values.astype(np.float64).astype(values.dtype) != values]
    return int(changed[0]) if len(changed) else None


def _fill(target: Array, column: Any) -> Array:
    """Fill an array with a column's numbers."""
    pa, begin = needed("pyarrow", "Tables"), 0
    with np.errstate(all="ignore"):
        for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
            target[begin : begin + len(chunk)] = _numbers(chunk).to_numpy(zero_copy_only=False)
            begin += len(chunk)
    return target


def _numbers(chunk: Any) -> Any:
    """Return floating-point numbers, of decimals the nearest, which pyarrow's own conversion misses by an ulp."""
    pa, kind = needed("pyarrow", "Tables"), chunk.type
    if not pa.types.is_decimal(kind):
        return chunk if pa.types.is_floating(kind) else chunk.cast(pa.float64(), safe=False)
    if not (pa.types.is_decimal128(kind) and kind.precision <= 15 and 0 <= kind.scale <= 22):
        return chunk.cast(pa.string()).cast(pa.float64())
    # Its digits, and the power of ten that they are divided by, are exact in float64.
    digits = pa.Array.from_buffers(pa.decimal128(kind.precision, 0), len(chunk), chunk.buffers(), offset=chunk.offset)
    return needed("pyarrow.compute", "Tables").divide(digits.cast(pa.float64()), 10.0**kind.scale)


def _field(name: str, kind: Any, kept_out: str = "") -> Field:
    """Return a column's description, from its type in pyarrow."""
    types = needed("pyarrow", "Tables").types
    value = kind.value_type if types.is_dictionary(kind) or types.is_run_end_encoded(kind) else kind
    numeric = any(
        is_kind(value) for is_kind in (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal)
    )
    if not (numeric or kept_out == INDEX):
        kept_out = NO_NUMBERS
    return Field(name, str(value if numeric else kind), numeric, kept_out, types.is_null(kind))


def _fields(schema: Any) -> list[Field]:
    index = {name for name in _pandas(schema).get("index_columns", ()) if isinstance(name, str)}
    return [_field(field.name, field.type, INDEX if field.name in index else "") for field in schema]


def _described(schema: Any, numbers: Sequence[int], dtype: np.dtype[Any]) -> Any:
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


# Text.


class _TextTable:
    """Rows of text: of .csv and .tsv files, compressed or not, in any encoding.

    They are cut into blocks of whole lines, each parsed by pyarrow, so that a place in the file is a number of bytes,
    of the text in UTF-8. The first one says which columns hold numbers.
    """

    schema = None

    def __init__(self, place: Place, options: Options) -> None:
        self._csv, self._pa = needed("pyarrow.csv", "Tables"), needed("pyarrow", "Tables")
        self._name, self._path, self._options, self._done = place.name, place.files[0], options, 0.0
        self._size = options.block_bytes // (_GROWTH * (2 if options.beside else 1))
        self._delimiter = options.delimiter or TEXTS[suffix_of(self._path)]
        self._nulls = [*self._csv.ConvertOptions().null_values, *options.null_values]
        names, self._begin = self._first_row()
        if not names:
            kind = "values" if options.header is False else "names"
            raise UnreadableError(f"{place.name} must begin with a line of {kind}, got nothing")
        filled = [entry.strip() for entry in names if entry.strip() not in self._nulls]
        if options.header is None and filled and all(map(self._is_like_number, filled)):
            raise UnreadableError(
                f"{place.name} must begin with the columns' names, or say whether it does by header=True or "
                f"header=False (--header, --no-header), got numbers alone: {names}"
            )
        self._names = [str(i) for i in range(len(names))] if options.header is False else names
        sample = next(self._lines(self._begin), (b"", 0))[0]
        self._types = self._inferred(sample)
        texts: Any = None  # of the sample, if there is a column that holds some
        self.fields = []
        for number, name in enumerate(self._names):
            field = _field(name, self._types[str(number)])
            if not field.numeric and not field.empty:
                texts = texts or self._parsed(sample, dict.fromkeys(self._types, self._pa.string()))
                field = field._replace(**self._odd(texts.column(number).to_pylist()))
            # What is empty so far may have numbers later, and is not left out silently.
            self.fields.append(field._replace(numeric=True, kept_out="") if field.empty else field)

    def batches(self, start: int, row: int, chosen: Sequence[int], everything: bool) -> Iterator[Batch]:
        """Yield what comes behind a place: the columns of these numbers, in that order.

        Or, if the flag is set, all columns, of which these are to be numbers and all others to stay what they are.
        """
        numeric = {str(i): self._as_parsed(self._types[str(i)]) for i in chosen}
        types = {**dict.fromkeys(self._types, self._pa.string()), **numeric}
        columns = list(types if everything else numeric)
        lines = b""
        for lines, after in self._lines(start or self._begin):
            rows = self._parsed(lines, types, columns)
            for number in numeric if self._options.dtype is None else ():
                self._check_integers(lines, number, rows.column(number))
            yield Batch(rows, after, self._done, row)
            row += rows.num_rows
        if not lines:
            yield Batch(self._parsed(b"", types, columns), max(start, self._begin), 1.0, row)

    def _check_integers(self, lines: bytes, number: str, column: Any) -> None:
        """Refuse integers that were rounded as they became float64, of a column by its number."""
        compute, pa = needed("pyarrow.compute", "Tables"), self._pa
        if not pa.types.is_floating(column.type):
            return
        values = np.abs(column.to_numpy())
        large = (values >= 2.0**53) & (values < np.inf)
        if not large.any():
            return
        texts = self._parsed(lines, {number: pa.string()}, [number]).column(0).filter(pa.array(large))
        texts = compute.utf8_trim_whitespace(texts)
        texts = texts.filter(compute.match_substring_regex(texts, r"^[+-]?[0-9]+$"))
        try:
            found = _inexact(texts.cast(pa.int64()))
        except pa.ArrowInvalid:  # beyond 64 bits
            found = next((text for text in texts.to_pylist() if int(text) != float(text)), None)
        if found is not None:
            raise _rounded(self._name, found, self._names[int(number)])

    def _as_parsed(self, kind: Any) -> Any:
        """Return how a column is parsed: numbers as float64, for a later block may have fractions."""
        types = self._pa.types
        numbers = types.is_integer(kind) or types.is_floating(kind) or types.is_null(kind)
        return self._pa.float64() if numbers else kind if types.is_boolean(kind) else self._pa.string()

    def _inferred(self, sample: bytes) -> dict[str, Any]:
        """Return the type of each column; what pyarrow takes for integers and not for numbers is text: 0x1F."""
        types = {str(i): kind for i, kind in enumerate(self._parsed(sample).schema.types)}
        while any(self._pa.types.is_integer(kind) for kind in types.values()):
            try:
                self._parsed(sample, {i: self._as_parsed(kind) for i, kind in types.items()})
            except _ConversionError as error:
                types[str(error.column)] = self._pa.string()
            else:
                break
        return types

    def _odd(self, entries: Sequence[str | None]) -> dict[str, Any]:
        """Return the first entry that is no number, where others are, or one that is meant as a number."""
        texts = [text for text in entries if text and text not in self._nulls]
        point = self._options.decimal
        wrong = [text for text in texts if "." in text.replace(point, "") or not self._is_like_number(text)]
        mixed = 0 < len(wrong) < len(texts)
        odd = wrong[0] if mixed else next(filter(_is_spelled, texts), None)
        if odd is None:
            return {}
        if _is_spelled(odd):
            return {"odd": odd, "why": f"not all of its entries are written as numbers are: {odd!r}"}
        hint = f"(null_values=[{odd!r}], --null, would count the others)"
        return {"odd": odd, "why": f"not all of it are numbers: {odd!r} {hint}"}

    def _is_like_number(self, text: str) -> bool:
        """Whether a text is a number, with a point or the decimal mark."""
        try:
            float(text.replace("_", "no").replace(self._options.decimal, "."))
        except ValueError:
            return False
        return True

    def _parsed(self, lines: bytes, types: dict[str, Any] | None = None, columns: list[str] | None = None) -> Any:
        numbers = [str(i) for i in range(len(self._names))]
        if lines.count(b'"') % 2:  # which pyarrow would take, up to the end, for one entry; blocks before have it even
            list(self._entries(io.StringIO(lines.decode(errors="replace"), newline="")))
        lines = _without_comments(lines, self._options.comment)
        if not lines.strip():
            kinds = [(n, types[n] if types else self._pa.null()) for n in columns or numbers]
            return self._pa.schema(kinds).empty_table()
        convert: dict[str, Any] = {"column_types": types, "include_columns": columns, "null_values": self._nulls}
        try:
            return self._csv.read_csv(
                self._pa.BufferReader(lines),
                # With threads of its own pyarrow aborts now and then as the interpreter ends:
                # https://github.com/apache/arrow/issues/34314.
                self._csv.ReadOptions(column_names=numbers, block_size=max(1, len(lines)), use_threads=False),
                self._csv.ParseOptions(delimiter=self._delimiter, newlines_in_values=b'"' in lines),
                self._csv.ConvertOptions(decimal_point=self._options.decimal, **convert),
            )
        except self._pa.ArrowInvalid as error:
            said = re.sub(r"Row #\d+: ", "", str(error)).splitlines()[0]  # counted from where the block begins
            found = re.search(r"column #(\d+)", said)
            said = said if found is None else said.replace(found[0], f"column {self._names[int(found[1])]!r}")
            if "invalid UTF8" in said:
                raise UnreadableError(
                    f"{self._name} must be read with its encoding ({_ENCODINGS}), got {said}"
                ) from error
            if found is None:
                raise UnreadableError(f"{self._name} cannot be read: {said}") from error
            entry = re.search("invalid value '(.*)'", said)
            hint = f" (null_values=[{entry[1]!r}], --null, would count the others)" if entry else ""
            raise _ConversionError(f"{self._name} cannot be read: {said}{hint}", int(found[1])) from error

    def _entries(self, lines: Iterable[str], must: str = "close the quotes it opens") -> Iterator[list[str]]:
        """Yield rows of entries; UnreadableError where a quote is not closed."""
        try:
            yield from csv.reader(lines, delimiter=self._delimiter, strict=True)
        except csv.Error as error:
            raise UnreadableError(f"{self._name} must {must}, got {error}") from None

    def _first_row(self) -> tuple[list[str], int]:
        """Return the entries of the first row that is no comment, and where the rows of values begin."""
        pieces = self._pieces(0)
        data = next(pieces, b"")
        begin = 0
        for mark, encoding in _BOMS if self._options.encoding == "utf-8" else ():
            if data.startswith(mark):
                begin = len(mark)
                if encoding != "utf-8":
                    raise UnreadableError(f"{self._name} must be read with encoding={encoding!r}, got 'utf-8'")
        while len(data) < begin + self._size and (piece := next(pieces, b"")):
            data += piece
        data = data[begin : begin + self._size]
        if b"\r" in data and b"\n" not in data:
            raise UnreadableError(f"{self._name} must have lines that end in '\\n' or '\\r\\n', got '\\r' alone")
        lines, at = io.BytesIO(data), 0
        texts = (_decoded(self._name, line) for line in lines)
        for _ in self._entries(texts, "begin with a whole row of entries"):
            if lines.tell() == self._size and not data.endswith(b"\n"):
                raise self._too_long()
            row, at = _without_comments(data[at : lines.tell()], self._options.comment), lines.tell()
            if row.strip(b"\r\n"):
                entries = next(self._entries(io.StringIO(row.decode(), newline="")))
                return entries, begin if self._options.header is False else begin + at
        return [], begin

    def _lines(self, start: int) -> Iterator[tuple[bytes, int]]:
        """Yield (whole lines, where the next begin) in blocks of a size; a quoted line end ends no line."""
        pieces, data, piece = self._pieces(start), b"", b" "
        while True:
            while piece and len(data) < self._size:
                piece = next(pieces, b"")
                data += piece
            if not data:
                return
            head = data[: self._size]
            end = len(head) if len(head) < self._size else _last_end(head)
            if not end:
                raise self._too_long()
            start += end
            yield head[:end], start
            data = data[end:]

    def _pieces(self, start: int) -> Iterator[bytes]:
        """Yield the text in UTF-8 from a place on, as it comes."""
        compression, encoding = compression_of(self._path), self._options.encoding
        decode = codecs.getincrementaldecoder(encoding)().decode
        with open(self._path, "rb") as file:
            total, stream = os.fstat(file.fileno()).st_size, _decompressed(file, compression)
            if compression is None and encoding == "utf-8":
                start = file.seek(start) - start
            data = b" "
            while data:
                data = stream.read(self._size)
                piece = data if encoding == "utf-8" else decode(data, final=not data).encode()
                skipped = min(start, len(piece))
                start -= skipped
                self._done = 1.0 if file.closed else file.tell() / max(1, total)
                if skipped < len(piece):
                    yield piece[skipped:]

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


def _is_spelled(text: str) -> bool:
    return _SPELLED.fullmatch(text.strip()) is not None


def _decompressed(file: Any, compression: str | None) -> Any:
    if compression is None:
        return file
    if compression in ("zstd", "lz4"):  # that Python has nothing for
        pa = needed("pyarrow", "Tables")
        return pa.CompressedInputStream(pa.PythonFile(file, mode="r"), compression)
    return needed({"gzip": "gzip", "bz2": "bz2", "xz": "lzma"}[compression], "Compressed texts").open(file)


def _decoded(name: str, line: bytes) -> str:
    packed = next((suffix for mark, suffix in _PACKED.items() if line.startswith(mark)), None)
    if packed is not None:
        raise UnreadableError(f"{name} must have a name that ends in {packed}, for it is compressed")
    with suppress(UnicodeDecodeError):
        if b"\0" not in line:
            return line.decode()
    raise UnreadableError(f"{name} must be in UTF-8, or be read with its encoding ({_ENCODINGS}), got {line[:40]!r}")


def _without_comments(lines: bytes, comment: str | None) -> bytes:
    """Return lines without what follows a comment's mark outside of quotes, and without lines of comments."""
    if comment is None or comment.encode() not in lines:
        return lines
    mark = re.escape(comment.encode())
    kept = re.sub(rb'("(?:[^"]|"")*")|' + mark + rb"[^\r\n]*", lambda found: found[1] or b"", lines)
    return re.sub(rb"(?m)^[ \t]*\r?\n", b"", kept) if re.search(rb"(?m)^[ \t]*" + mark, lines) else kept


def _last_end(data: bytes) -> int:
    """Return where the last whole line ends: behind a line end that an even number of quotes is before."""
    end = data.rfind(b"\n") + 1
    odd = data.count(b'"', 0, end) % 2
    while end and odd:
        before = data.rfind(b"\n", 0, end - 1) + 1
        odd ^= data.count(b'"', before, end) % 2
        end = before
    return end


# Parquet.


class _ParquetTable:
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
        self._labelled = bool(place.labels and options.columns)  # whose columns are put between those of the file
        self.fields = _fields(self.schema)
        self._counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        if sum(self._counts) != metadata.num_rows:
            raise ValueError(f"its row groups must have its {metadata.num_rows} rows, got {sum(self._counts)}")

    def batches(self, start: int, row: int, chosen: Sequence[int], everything: bool) -> Iterator[Batch]:
        """Yield what comes behind a place, so that batches are the same wherever one starts."""
        known = self.schema.names
        names = known if everything else [known[i] for i in chosen]
        # Columns are read by their names.
        for name in sorted(column for column, count in Counter(known).items() if count > 1):
            if name in names:
                raise UnreadableError(f"{self._name} must have columns of different names, got {name!r} more than once")
        options = self._options
        whole = everything or options.rowwise or isinstance(options.weights, str) or self._labelled
        slabs = {0: names} if whole else self._slabs(names)
        size = self._rows(max(1, *map(len, slabs.values())), _REWRITTEN if everything else _COPIES)
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
        pages, memory = min(_PAGES, max(self._columns.values(), default=0)) * columns, self._options.memory
        left = min(self._options.block_bytes, max(memory - pages, memory // 8) // 3)
        return max(_LEAST_ROWS, left // ((copies * 8 + self._options.beside) * columns))


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
        self._options, self._kind = options, {"arrow": "ipc"}.get(place.kind, place.kind)
        odd: dict[str, str] = {}
        if place.array is not None:
            self._held, odd = _arrow(place.array, options)
            self.schema, self._total = self._held.schema, self._held.num_rows
        else:
            with open(place.files[0], "rb") as file:
                if self._kind == "ipc" and file.read(4) == b"\xff\xff\xff\xff":
                    raise UnreadableError(f"{place.name} must be an Arrow file, got a stream (pyarrow.ipc.open_stream)")
            dataset = needed("pyarrow.dataset", "Tables").dataset(place.files[0], format=self._kind)
            self._held = next(dataset.get_fragments())
            self.schema, self._total = self._held.physical_schema, self._held.count_rows()
        self.fields = [
            field._replace(odd=odd[field.name], why=f"not all of it are numbers: {odd[field.name]!r}")
            if field.name in odd
            else field
            for field in _fields(self.schema)
        ]

    def batches(self, start: int, row: int, chosen: Sequence[int], everything: bool) -> Iterator[Batch]:
        """Yield the batches behind so many."""
        wanted = list(range(len(self.fields))) if everything else list(chosen)
        width = max(1, len(wanted)) * (8 * (_REWRITTEN if everything else _COPIES) + self._options.beside)
        found = self._batches(max(_LEAST_ROWS, self._options.block_bytes // width), wanted)
        at, number = 0, 0
        for number, batch in enumerate(found, 1):
            if number > start:
                yield Batch(batch, number, (at + batch.num_rows) / max(1, self._total), at)
            at += batch.num_rows
        if number <= start:
            yield Batch(self.schema.empty_table().select(wanted), start, 1.0, at)

    def _batches(self, rows: int, wanted: Sequence[int]) -> Iterator[Any]:
        if self._kind == "memory":
            yield from (batch.select(wanted) for batch in self._held.to_batches(max_chunksize=rows))
            return
        # To find many columns by name takes longer than to read the others too; and a name with a point would be taken
        # for the path to a member of a struct: "s.p", of ORC.
        known = self.schema.names
        names = [known[i] for i in wanted]
        path = self._kind == "orc" and any("." in name for name in names)
        few = names if 2 * len(names) <= len(known) and not path else None
        how = {"batch_size": rows, "use_threads": False, "batch_readahead": 1, "fragment_readahead": 1}
        yield from (batch.select(names) for batch in self._held.to_batches(columns=few, **how))


def _arrow(frame: Any, options: Options) -> tuple[Any, dict[str, str]]:
    """Return a frame as a table, and of columns that hold numbers and others, which are text in it, the first other."""
    pa = needed("pyarrow", "Tables")
    if isinstance(frame, pa.RecordBatch):
        return pa.Table.from_batches([frame]), {}
    if isinstance(frame, pa.Table) or hasattr(frame, "to_arrow"):
        return frame if isinstance(frame, pa.Table) else frame.to_arrow(), {}
    if options.tabular:
        return pa.Table.from_pandas(frame), {}
    odd: dict[str, str] = {}
    arrays = []
    for name, column in zip(map(str, frame.columns), (frame.iloc[:, i] for i in range(frame.shape[1])), strict=True):
        try:
            arrays.append(pa.array(column, from_pandas=True))
        except (pa.ArrowException, OverflowError):  # of several types, or of one that Arrow has not
            others = [
                entry
                for entry in column.dropna()
                if not isinstance(entry, (int, float, np.bool_, np.integer, np.floating, Decimal))
            ]
            if 0 < len(others) < column.count():
                odd[name] = others[0]
            numbers = None if others else column.to_numpy(np.float64, na_value=np.nan)
            arrays.append(pa.array(list(map(str, column)) if numbers is None else numbers))
    return pa.Table.from_arrays(arrays, names=list(map(str, frame.columns))), odd
