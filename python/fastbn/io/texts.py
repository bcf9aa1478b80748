"""Texts as tables: .csv and .tsv files, compressed or not, in any encoding.

They are cut into blocks of whole lines, each parsed by pyarrow, so that memory is bounded and a run can go on from a
place in the file. The first block says which columns hold numbers.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from fastbn.io.columns import Field, compute, inexact, pa, refuse
from fastbn.io.options import Options
from fastbn.io.places import TEXTS, Place, compression_of, suffix_of
from fastbn.io.sources import Block, UnreadableError, needed

# An entry of two characters, its comma included, becomes 8 bytes in pyarrow's column and 8 in ours, twice while it is
# converted.
_GROWTH = 12
# What is meant as a number and written in another way: 1,000 and 1.000,5 and 10% and $5 and (5) and 5- and 1D+3.
_SPELLED = re.compile(
    r"'?[-+\u2212(]?[$€£¥]?\s?(\d+([.,]\d*)?|[.,]\d+|\d{1,3}([.,'_\u2019\s]\d{3})+([.,]\d+)?)(e[-+]?\d+|d[-+]\d+)?"
    r"\s?[-%$€£¥)]?'?",
    re.I,
)
# How compressed files begin, and what those are called that are read as such.
_PACKED = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ": ".xz", b"(\xb5/\xfd": ".zst", b'\x04"M\x18': ".lz4"}
# What is no number though it looks like one (007 and +49), or may not be one of float64, or is no truth (1 and 0).
_CODE, _LONG, _DIGIT = r"^\s*([-+]?0[0-9xX]|\+)", r"^\s*-?[0-9]{16,}\s*$", r"^\s*[01]\s*$"
_NOT_FLOAT64 = "integers that float64 does not hold"  # stands beside the types of a column that has some
_MOST = 8  # names that a note shows
_ENCODINGS = "'latin-1' or 'utf-16' for instance"
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


class TextTable:
    """A text as a table; a place in it is a number of bytes, of the text in UTF-8."""

    def __init__(self, place: Place, options: Options) -> None:
        self._csv = needed("pyarrow.csv", "Tables")
        self._name, self._path, self._options, self._done = place.name, place.files[0], options, 0.0
        self._kept: dict[str, Any] = {}
        growth = _GROWTH * (2 if options.beside else 1)
        self._size, self._most = options.block_bytes // growth, options.memory // (4 * growth)
        self._delimiter, self._decimal = delimiter_of(self._path, options), options.decimal or "."
        self._encoding = options.encoding or "utf-8"
        known = self._csv.ConvertOptions()
        self._nulls, truths = [*known.null_values, *options.null_values], (*known.true_values, *known.false_values)
        names, self._begin = self._first_row()
        if not names:
            what = "values" if options.header is False else "names"
            raise UnreadableError(f"{place.name} must begin with a line of {what}, got nothing")
        filled = [entry.strip() for entry in names if entry.strip() not in self._nulls]
        values = [entry for entry in filled if self._is_like_number(entry) or entry in truths]
        if options.header is None and len(values) == len(filled):
            raise UnreadableError(
                f"{place.name} must begin with the columns' names, or say whether it does by header=True or "
                f"header=False (--header, --no-header), got values alone: {names}"
            )
        self._names = [str(i) for i in range(len(names))] if options.header is False else names
        first = ", ".join(names[:_MOST]) + (", ..." if len(names) > _MOST else "")
        what = "the first line of texts was taken for the columns' names (--no-header if it is data, --header says so)"
        self.notes = [f"{what}: {first}"] if values and options.header is None else []
        self.schema = pa.schema([(name, pa.string()) for name in self._names])  # as those are written that stay
        sample = next(self._lines(self._begin), (b"", 0))[0]
        parsed = self._parsed(sample)
        texts = self._parsed(sample, {name: pa.string() for name in parsed.column_names})
        self.fields, self._types = [], dict[str, Any]()
        for name, number, held, column in zip(self._names, texts.column_names, parsed.schema.types, texts, strict=True):
            # Hexadecimal integers are integers to pyarrow, but no numbers.
            if held == pa.int64() and any("x" in text.lower() for text in column.to_pylist() if text):
                held = pa.string()
            field = Field.of(name, held)
            # What is empty so far may have numbers later, and integers fractions.
            self._types[number] = pa.float64() if field.numeric or field.empty else pa.string()
            if field.type == "bool":
                self._types[number] = held
            if not (field.numeric or field.empty):
                field = field._replace(why=self._odd(column.to_pylist()))
            self.fields.append(field._replace(numeric=True, kept_out="") if field.empty else field)
        self.width = len(self.fields)

    def keep(self, numbers: Sequence[int]) -> dict[int, Any]:
        """Find the types of columns that stay as they are, read them so from now on, and return them by number.

        A type is the one that pyarrow takes all entries for, if it holds them exactly, else text.
        """
        found: dict[str, set[Any]] = {str(i): set() for i in numbers}
        for lines, _ in self._lines(self._begin):
            left = [number for number, types in found.items() if pa.string() not in types]
            if not left:
                break
            texts = self._parsed(lines, dict.fromkeys(left, pa.string()), left)
            for number, column, text in zip(left, self._parsed(lines, None, left), texts, strict=True):
                found[number] |= _types_of(column, text)
        self._kept = {number: _common(types) for number, types in found.items()}
        return {int(number): held for number, held in self._kept.items()}

    def batches(self, start: int, row: int, chosen: Sequence[int], everything: bool, together: bool) -> Iterator[Block]:
        """Yield what comes behind a place: the columns of these numbers, in that order.

        Or, if the flag is set, all columns, of which these are to be numbers and all others to stay what they are.
        """
        numeric = {str(i): self._types[str(i)] for i in chosen}
        types = {**dict.fromkeys(self._types, pa.string()), **self._kept, **numeric}
        columns = list(types if everything else numeric)
        for lines, after in self._lines(start or self._begin):
            rows = self._parsed(lines, types, columns)
            for number in numeric if self._options.exact else ():
                self._check_integers(lines, number, rows.column(number))
            yield Block(rows, (row, 0), after, self._done)
            row += rows.num_rows

    def _check_integers(self, lines: bytes, number: str, column: Any) -> None:
        """Refuse integers that were rounded as they became float64, of a column by its number."""
        if not pa.types.is_floating(column.type):
            return
        values = np.abs(column.to_numpy())
        large = values >= 2.0**53
        if not large.any():
            return
        texts = self._parsed(lines, {number: pa.string()}, [number]).column(0).filter(pa.array(large))
        texts = compute().utf8_trim_whitespace(texts)
        texts = texts.filter(compute().match_substring_regex(texts, r"^[+-]?[0-9]+$"))
        try:
            found = inexact(texts.cast(pa.int64()))
        except pa.ArrowInvalid:  # beyond 64 bits
            found = next((text for text in texts.to_pylist() if int(text) != float(text)), None)
        refuse(found, self._name, self._names[int(number)])

    def _odd(self, entries: Sequence[str | None]) -> str:
        """Say which entry is no number, where others are, or is meant as a number; empty where none is."""
        texts = [text for text in entries if text and text not in self._nulls]
        point = self._decimal
        wrong = [text for text in texts if "." in text.replace(point, "") or not self._is_like_number(text)]
        mixed = 0 < len(wrong) < len(texts)
        spelled = (text for text in texts if _SPELLED.fullmatch(text.strip()))
        odd = wrong[0] if mixed else next(spelled, None)
        if odd is None:
            return ""
        if _SPELLED.fullmatch(odd.strip()):
            # Three digits may be thousands, and a comma in a lone column may be what is between several.
            lone = self._delimiter == "," or delimiter_hint(self._names)
            meant = point == "." and not lone and re.fullmatch(r"\s*[-+]?\d*,(\d{1,2}|\d{4,})\s*", odd)
            hint = f" (decimal=',', --decimal ',', reads {odd.strip().replace(',', '.')})" if meant else ""
            return f"not all of its entries are written as numbers are: {odd!r}{hint}"
        return f"not all of it are numbers: {odd!r} (null_values=[{odd!r}], --null, would count the others)"

    def _is_like_number(self, text: str) -> bool:
        """Whether a text is a number, with a point or the decimal mark."""
        try:
            float(text.replace("_", "no").replace(self._decimal, "."))
        except ValueError:
            return False
        return True

    def _parsed(self, lines: bytes, types: dict[str, Any] | None = None, columns: list[str] | None = None) -> Any:
        numbers = [str(i) for i in range(len(self._names))]
        lines = _without_comments(lines, self._delimiter, self._options.comment)
        if lines.count(b'"') % 2:  # which pyarrow would take, up to the end, for one entry; blocks before have it even
            list(self._entries(lines.decode(errors="replace")))
        if not lines.strip():
            return pa.schema([(n, types[n] if types else pa.null()) for n in columns or numbers]).empty_table()
        convert: dict[str, Any] = {"column_types": types, "include_columns": columns, "null_values": self._nulls}
        try:
            return self._csv.read_csv(
                pa.BufferReader(lines),
                # With threads of its own pyarrow aborts now and then as the interpreter ends:
                # https://github.com/apache/arrow/issues/34314.
                self._csv.ReadOptions(column_names=numbers, block_size=max(1, len(lines)), use_threads=False),
                self._csv.ParseOptions(delimiter=self._delimiter, newlines_in_values=b'"' in lines),
                self._csv.ConvertOptions(decimal_point=self._decimal, **convert),
            )
        except pa.ArrowInvalid as error:
            said = re.sub(r"Row #\d+: ", "", str(error)).splitlines()[0]  # counted from where the block begins
            found = re.search(r"column #(\d+)", said)
            said = said if found is None else said.replace(found[0], f"column {self._names[int(found[1])]!r}")
            if "invalid UTF8" in said:
                raise UnreadableError(
                    f"{self._name} must be read with its encoding ({_ENCODINGS}), got {said}"
                ) from error
            entry = re.search("invalid value '(.*)'", said)
            text = entry is not None and not self._is_like_number(entry[1])
            hint = f" (null_values=[{entry[1]!r}], --null, would count the others)" if entry and text else ""
            hint = hint or (delimiter_hint(self._names, blank=True) if "Expected 1 columns" in said else "")
            raise UnreadableError(f"{self._name} cannot be read: {said}{hint}") from error

    def _entries(self, text: str, must: str = "close the quotes it opens") -> Iterator[list[str]]:
        """Yield rows of entries; UnreadableError where a quote is not closed."""
        try:
            yield from csv.reader(io.StringIO(text, newline=""), delimiter=self._delimiter, strict=True)
        except csv.Error as error:
            raise UnreadableError(f"{self._name} must {must}, got {error}") from None

    def _first_row(self) -> tuple[list[str], int]:
        """Return the entries of the first row that is no comment, and where the rows of values begin."""
        data, begin, marks = next(self._pieces(0), b""), 0, (self._delimiter, self._options.comment)
        for mark, encoding in _BOMS:  # the pieces are in UTF-8 but where that is wrong
            if data.startswith(mark):
                begin = len(mark)
                if encoding != "utf-8":
                    raise UnreadableError(f"{self._name} must be read with encoding={encoding!r}, got 'utf-8'")
        for mark, suffix in _PACKED.items():
            if data.startswith(mark, begin):
                raise UnreadableError(f"{self._name} must have a name that ends in {suffix}, for it is compressed")
        lines, at = next(self._lines(begin), (b"", 0))[0], 0
        for end in itertools.chain(_row_ends(lines, *marks), [len(lines)]):
            row, at = _without_comments(_decoded(self._name, lines[at:end]).encode(), *marks), end
            if row.strip(b"\r\n"):
                entries = next(self._entries(row.decode(), "begin with a whole row of entries"))
                return entries, begin if self._options.header is False else begin + end
        return [], begin

    def _lines(self, start: int) -> Iterator[tuple[bytes, int]]:
        """Yield (whole lines, where the next begin) in blocks of a size; a quoted line end ends no line."""
        pieces, data, piece, size = self._pieces(start), b"", b" ", self._size
        while True:
            while piece and len(data) < size:
                piece = next(pieces, b"")
                data += piece
            if not data:
                return
            head = data[:size]
            if start <= len(codecs.BOM_UTF8) and b"\n" not in head and b"\r" in head:  # the first line
                raise UnreadableError(f"{self._name} must have lines that end in '\\n' or '\\r\\n', got '\\r' alone")
            end = len(head) if len(head) < size else _last_end(head, self._delimiter, self._options.comment)
            if end:
                start += end
                yield head[:end], start
                data, size = data[end:], self._size
            elif size < self._most:
                size = min(2 * size, self._most)
            else:
                most = f"at most {size} bytes (memory / {self._options.memory // size})"
                rule = f"have lines of {most}, and close the quotes it opens"
                raise UnreadableError(f"{self._name} must {rule}, got a longer one")

    def _pieces(self, start: int) -> Iterator[bytes]:
        """Yield the text in UTF-8 from a place on, as it comes."""
        compression, encoding = compression_of(self._path), self._encoding
        decode = codecs.getincrementaldecoder(encoding)().decode
        with pa.OSFile(os.fsencode(self._path)) as file:
            total, stream = file.size(), compressed(file, compression, "rb")
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


def _types_of(column: Any, texts: Any) -> set[Any]:
    """Return the type of entries, in a set: ``column``'s, or text where that would change some; none of no entries.

    ``column`` has them as pyarrow takes them, ``texts`` as they are spelled. `_NOT_FLOAT64` may stand beside int64.
    """

    def some(pattern: str, among: Any = texts) -> bool:
        return bool(compute().any(compute().match_substring_regex(among, pattern)).as_py())

    held, types = column.type, pa.types
    if types.is_null(held):
        return set()
    changed = {pa.int64(): _CODE, pa.float64(): f"{_CODE}|{_LONG}", pa.bool_(): _DIGIT}.get(held)
    if some(changed) if changed else not (types.is_date32(held) or types.is_timestamp(held)):
        return {pa.string()}
    if held == pa.float64():  # which has infinity for 1e400, and 0 for 1e-400
        infinite, zero = (texts.filter(each) for each in (compute().is_inf(column), compute().equal(column, 0.0)))
        if some("[0-9]", infinite) or some("^[^eE]*[1-9]", zero):
            return {pa.string()}
    return {held} if inexact(column) is None else {held, _NOT_FLOAT64}


def _common(types: set[Any]) -> Any:
    """Return the one type for a column whose blocks have these; text if there is no other."""
    known = types - {_NOT_FLOAT64}
    if len(known) == 1:
        return known.pop()
    if types == {pa.int64(), pa.float64()}:
        return pa.float64()
    if all(map(pa.types.is_timestamp, known)) and len({held.tz for held in known}) == 1:
        return pa.timestamp("ns", known.pop().tz)  # of seconds and of fractions
    return pa.string()


def delimiter_of(path: str, options: Options) -> str:
    """Return what is between the columns of a text, which its name says where the options do not."""
    delimiter = options.delimiter or TEXTS[suffix_of(path)]
    for name, value in (("decimal", options.decimal or "."), ("comment", options.comment)):
        if delimiter == value:
            hint = "(delimiter=, --delimiter, says another)"
            raise UnreadableError(f"{name} must not be the delimiter of {path}, got {value!r} for both {hint}")
    return delimiter


def delimiter_hint(names: Sequence[str], blank: bool = False) -> str:
    """Return what to say of a table with one column, whose name looks like those of several; perhaps with blanks."""
    mark = next((each for each in (";\t|, " if blank else ";\t|,") if len(names) == 1 and each in names[0]), "")
    also = ", and decimal=',', --decimal, numbers of such as 1,5" if mark == ";" else ""
    return f" (delimiter={mark!r}, --delimiter, would make more columns of it{also})" if mark else ""


def compressed(file: Any, compression: str | None, mode: str) -> Any:
    """Return what reads ("rb") or writes ("wb") a compressed text through a file of pyarrow's."""
    if compression == "xz":  # which pyarrow has not
        return _XzReader(file) if mode == "rb" else needed("lzma", "Compressed texts").open(file, mode)
    through = pa.CompressedInputStream if mode == "rb" else pa.CompressedOutputStream
    return file if compression is None else through(file, compression)


class _XzReader:
    """Reads an .xz file to its end. Python's lzma takes whatever it cannot read behind a first stream for the end."""

    def __init__(self, file: Any) -> None:
        self._file, self._new_stream = file, needed("lzma", "Compressed texts").LZMADecompressor
        self._stream, self._packed = self._new_stream(), b""

    def read(self, size: int) -> bytes:
        """Return some bytes, ``size`` at most; none at the end."""
        data = b""
        while not data:
            if not self._packed and (self._stream.eof or self._stream.needs_input):
                self._packed = self._file.read(size)
                if not self._packed:
                    if self._stream.eof:
                        break
                    raise EOFError("it is cut short")
            if not self._stream.eof:
                data = self._stream.decompress(self._packed, size)
                self._packed = self._stream.unused_data
            elif packed := self._packed.lstrip(b"\0"):  # of which some may be between two streams
                self._stream, self._packed = self._new_stream(), packed
            else:
                self._packed = b""
        return data


def _decoded(name: str, line: bytes) -> str:
    with suppress(UnicodeDecodeError):
        if b"\0" not in line:
            return line.decode()
    raise UnreadableError(f"{name} must be in UTF-8, or be read with its encoding ({_ENCODINGS}), got {line[:40]!r}")


def _patterns(delimiter: str, comment: str | None) -> tuple[bytes, bytes]:
    """Return patterns of an entry in quotes, which open it at its beginning alone (as in pyarrow), and of a comment."""
    quoted = rb'"(?<![^\r\n' + re.escape(delimiter.encode()) + rb']")[^"]*(?:""[^"]*)*(?:"|\Z)'
    return quoted, rb"(?!)" if comment is None else re.escape(comment.encode()) + rb"[^\r\n]*"


def _without_comments(lines: bytes, delimiter: str, comment: str | None) -> bytes:
    """Return lines without their comments, which a mark outside of quotes begins, and without lines of comments."""
    if comment is None or comment.encode() not in lines:
        return lines
    quoted, remark = _patterns(delimiter, comment)
    # Each alternative begins with a character of its own, which re looks for quickly.
    whole = (end + rb"[ \t]*" + remark for end in (rb"\r\n", rb"\n"))
    found = re.compile(rb"|".join((quoted, *whole, remark)))
    return found.sub(lambda each: each[0] if each[0].startswith(b'"') else b"", b"\n" + lines)[1:]


def _last_end(data: bytes, delimiter: str, comment: str | None) -> int:
    """Return where the last whole line ends: behind the last line end that is not within quotes."""
    if b'"' not in data:
        return data.rfind(b"\n") + 1
    if (comment is None or comment.encode() not in data) and _in_pairs(data, delimiter):
        return _last_even_end(data)
    return max(_row_ends(data, delimiter, comment), default=0)


def _row_ends(data: bytes, delimiter: str, comment: str | None) -> Iterator[int]:
    """Yield where rows end: behind each line end that is in no quotes."""
    for found in re.finditer(b"|".join((*_patterns(delimiter, comment), b"\n")), data):
        if found[0] == b"\n":
            yield found.end()


def _in_pairs(data: bytes, delimiter: str) -> bool:
    """Whether every other quote begins an entry, or is the second of two in one: what is in quotes is then of pairs."""
    characters = np.frombuffer(data, np.uint8)
    quotes = np.flatnonzero(characters == ord('"'))
    opening, closing = quotes[::2], quotes[1::2]
    before = characters[opening - 1]
    begins = (before == ord(delimiter)) | (before == ord("\n")) | (before == ord("\r")) | (opening == 0)
    begins[1:] |= opening[1:] == closing[: len(opening) - 1] + 1
    return bool(begins.all())


def _last_even_end(data: bytes) -> int:
    """Return where the last line end is that an even number of quotes is before, behind it."""
    end = data.rfind(b"\n") + 1
    odd = data.count(b'"', 0, end) % 2
    while end and odd:
        before = data.rfind(b"\n", 0, end - 1) + 1
        odd ^= data.count(b'"', before, end) % 2
        end = before
    return end
