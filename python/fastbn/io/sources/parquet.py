"""Tables in Parquet files, by pyarrow, in record batches.

A reader keeps a page and a dictionary of each column in memory, so of wide tables a few columns are read at a time:
they lie apart in the file, and nothing is read twice. A place in the file is a number of rows of such slabs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from fastbn.io.optional import needed
from fastbn.io.sources.base import Place, Reading, UnreadableError
from fastbn.io.sources.tables import Batch, TableSource, field_of

# Of a value: as decoded, in the matrix, and while it is decoded; in a result and while that is encoded.
_COPIES, _REWRITTEN = 3, 6
# Of one column, by default of those who write: 1 MiB each of data, as stored and decoded, and of dictionary.
_PAGES = 3 << 20
_LEAST_ROWS = 1 << 10  # each time is a row group where it is written again


def opened(place: Place, reading: Reading) -> TableSource:
    """Open a Parquet file."""
    parquet = needed("pyarrow.parquet", "Tables")
    with ExitStack() as stack:
        file = stack.enter_context(parquet.ParquetFile(place.files[0], buffer_size=1 << 18, pre_buffer=False))
        schema = file.schema_arrow

        def batches(start: int, chosen: Sequence[int], everything: bool) -> Iterator[Batch]:
            names = schema.names if everything else [schema.names[i] for i in chosen]
            _check_names(place.name, schema.names, names)
            width = len(names) if everything or reading.rowwise else max(1, reading.block_bytes // _PAGES)
            slabs = {first: names[first : first + width] for first in range(0, len(names), max(1, width))}
            rows = _rows(reading, max(1, min(width, len(names))), _REWRITTEN if everything else _COPIES)
            return _batches(file, start, slabs or {0: []}, rows, needed("pyarrow", "Tables").default_memory_pool())

        source = TableSource(place.name, [field_of(field.name, field.type) for field in schema], batches, reading)
        source.close = stack.pop_all().close
        return source


def _check_names(name: str, there: Sequence[str], wanted: Sequence[str]) -> None:
    """Refuse columns that cannot be told apart: they are read by their names."""
    alike = {column for column, count in Counter(there).items() if count > 1}.intersection(wanted)
    if alike:
        raise UnreadableError(f"{name} must have columns of different names, got {min(alike)!r} more than once")


def _rows(reading: Reading, columns: int, copies: int) -> int:
    """Return how many rows of so many columns are read at a time; where their pages fill the memory, not many."""
    left = min(reading.block_bytes, max(reading.memory - columns * _PAGES, reading.memory // 8) // 3)
    return max(_LEAST_ROWS, left // ((copies * 8 + reading.beside) * columns))


def _batches(file: Any, start: int, slabs: dict[int, list[str]], size: int, pool: Any) -> Iterator[Batch]:
    """Yield what comes behind a place, row group by row group, so that batches are the same wherever one starts."""
    counts = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    if sum(counts) != file.metadata.num_rows:
        raise ValueError(f"its row groups must have its {file.metadata.num_rows} rows, got {sum(counts)}")
    at, total = 0, sum(counts) * len(slabs)
    if start >= total:
        for first, names in slabs.items():
            yield Batch(file.schema_arrow.empty_table().select(names), start, 1.0, first)
    for group, count in enumerate(counts):
        for first, names in slabs.items():
            end = at + count
            if end <= start:
                at = end
                continue
            for rows in file.iter_batches(size, row_groups=[group], columns=names, use_threads=False):
                at += rows.num_rows
                if at > start:
                    described = rows.replace_schema_metadata(file.schema_arrow.metadata)
                    yield Batch(described.select(names), at, at / total, first)
                pool.release_unused()
            if at != end:
                raise ValueError(f"row group {group} must have {count} rows, got {at - end + count}")
