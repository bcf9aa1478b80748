"""Tables in .csv files: cut into blocks of whole lines here, so that a place in the file is a number of bytes.

Each block is parsed by pyarrow. The first one says which columns hold numbers.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, BinaryIO

from fastbn.io.optional import needed
from fastbn.io.sources.base import Place, Reading, UnreadableError
from fastbn.io.sources.tables import Batch, Field, TableSource, field_of

# An entry of two characters, its comma included, becomes 8 bytes in pyarrow's column and 8 in ours, twice while it is
# converted.
_GROWTH = 12
_BOM = b"\xef\xbb\xbf"


def opened(place: Place, reading: Reading) -> TableSource:
    """Open a .csv file, of which the first line has the names unless the options say otherwise."""
    needed("pyarrow.csv", "Tables")
    with ExitStack() as stack:
        file = stack.enter_context(open(place.files[0], "rb"))
        table = _Table(
            place.name, file, reading.block_bytes // (_GROWTH * (2 if reading.beside else 1)), reading.header
        )
        source = TableSource(place.name, table.fields, table.batches, reading, named=reading.header)
        source.close = stack.pop_all().close
        return source


class _Table:
    """A .csv file: its columns, and its rows in blocks."""

    def __init__(self, name: str, file: BinaryIO, size: int, header: bool) -> None:
        self._name, self._file, self._size = name, file, size
        self._bytes = os.fstat(file.fileno()).st_size
        begin = len(_BOM) if file.read(len(_BOM)) == _BOM else 0
        names, after = _first_row(name, file, begin, size)
        if not names:
            raise UnreadableError(f"{name} must begin with a line of {'names' if header else 'values'}, got nothing")
        if header and all(map(_is_fraction, names)):
            raise UnreadableError(f"{name} must begin with the columns' names (or be read without), got {names}")
        self._begin = after if header else begin
        self._names = names if header else [str(i) for i in range(len(names))]
        sample = next(_lines(name, file, self._begin, size), (b"", 0))[0]
        self._types: dict[str, Any] = {str(i): kind for i, kind in enumerate(self._parsed(sample).schema.types)}
        found = [field_of(name, self._types[str(i)]) for i, name in enumerate(self._names)]
        # What is empty so far may have numbers later, and is not left out silently.
        self.fields: list[Field] = [field._replace(numeric=field.numeric or field.empty) for field in found]

    def batches(self, start: int, chosen: Sequence[int], everything: bool) -> Iterator[Batch]:
        """Yield the rows that begin at a place in the file or behind it."""
        numeric = {str(i): self._numeric(self._types[str(i)]) for i in chosen}
        types = {**dict.fromkeys(self._types, needed("pyarrow", "Tables").string()), **numeric}
        columns = list(types if everything else numeric)
        lines = b""
        for lines, after in _lines(self._name, self._file, start or self._begin, self._size):
            yield Batch(self._parsed(lines, types, columns), after, after / self._bytes)
        if not lines:
            yield Batch(self._parsed(b"", types, columns), max(start, self._begin), 1.0)

    def _numeric(self, kind: Any) -> Any:
        """Return how a column of numbers is parsed: as float64, for a later block may have fractions."""
        pa = needed("pyarrow", "Tables")
        return kind if pa.types.is_boolean(kind) else pa.float64()

    def _parsed(self, lines: bytes, types: dict[str, Any] | None = None, columns: list[str] | None = None) -> Any:
        pa, csv_of = needed("pyarrow", "Tables"), needed("pyarrow.csv", "Tables")
        numbers = [str(i) for i in range(len(self._names))]
        if lines.count(b'"') % 2:
            _check_quotes(self._name, lines)
        if not lines.strip():
            return pa.schema([(n, types[n] if types else pa.null()) for n in columns or numbers]).empty_table()
        # With threads of its own pyarrow aborts now and then as the interpreter ends:
        # https://github.com/apache/arrow/issues/34314.
        read = csv_of.ReadOptions(column_names=numbers, block_size=max(1, len(lines)), use_threads=False)
        try:
            return csv_of.read_csv(
                pa.BufferReader(lines),
                read_options=read,
                parse_options=csv_of.ParseOptions(newlines_in_values=b'"' in lines),
                convert_options=csv_of.ConvertOptions(column_types=types, include_columns=columns),
            )
        except pa.ArrowInvalid as error:
            said = re.sub(r"column #(\d+)", lambda found: f"column {self._names[int(found[1])]!r}", str(error))
            said = re.sub(r"Row #\d+: ", "", said)  # counted from where the block begins
            raise UnreadableError(f"{self._name} cannot be read: {said.splitlines()[0]}") from error


def _is_fraction(text: str) -> bool:
    """Whether a text is a number and no name: whole numbers may name columns, years for instance."""
    try:
        float(text)
    except ValueError:
        return False
    return not text.strip().isdecimal()


def _first_row(name: str, file: BinaryIO, begin: int, size: int) -> tuple[list[str], int]:
    """Return the entries of the first row, and where the next one begins."""
    file.seek(begin)
    data = file.read(size)
    lines = io.BytesIO(data)
    try:
        row = next(csv.reader((line.decode(errors="replace") for line in lines), strict=True), [])
    except csv.Error as error:
        raise UnreadableError(f"{name} must begin with a whole row of entries, got {error}") from None
    if lines.tell() == size and not data.endswith(b"\n"):
        raise _too_long(name, size)
    return row, begin + lines.tell()


def _check_quotes(name: str, lines: bytes) -> None:
    """Refuse the end of a file in quotes, all of which pyarrow takes for one entry; one within an entry is just that.

    Blocks of lines before the last one have an even number of quotes.
    """
    texts = io.StringIO(lines.decode(errors="replace"), newline="")
    try:
        for _ in csv.reader(texts, strict=True):
            pass
    except csv.Error as error:
        raise UnreadableError(f"{name} must close the quotes it opens, got {error}") from None


def _too_long(name: str, size: int) -> UnreadableError:
    return UnreadableError(
        f"{name} must have lines of at most {size} bytes (memory / {4 * _GROWTH}), and close the quotes it opens, "
        "got a longer one"
    )


def _lines(name: str, file: BinaryIO, start: int, size: int) -> Iterator[tuple[bytes, int]]:
    """Yield (whole lines, where the next begin) in blocks of at most ``size`` bytes; a quoted line end ends no line."""
    file.seek(start)
    rest = b""
    while True:
        data = rest + file.read(size - len(rest))
        if not data:
            return
        end = len(data) if len(data) < size else _last_end(data)
        if not end:
            raise _too_long(name, size)
        start += end
        yield data[:end], start
        rest = data[end:]


def _last_end(data: bytes) -> int:
    end = data.rfind(b"\n") + 1
    odd = data.count(b'"', 0, end) % 2
    while end and odd:
        before = data.rfind(b"\n", 0, end - 1) + 1
        odd ^= data.count(b'"', before, end) % 2
        end = before
    return end
