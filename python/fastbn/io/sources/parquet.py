"""Tables in Parquet files, by pyarrow, in record batches. A place in the file is a number of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from fastbn.io.sources.base import Place, Reading
from fastbn.io.sources.optional import needed
from fastbn.io.sources.tables import Batch, TableSource, field_of

# Of the block's bytes: decoded columns, their matrix, and pages that are being decoded.
_COPIES = 3


def opened(place: Place, reading: Reading) -> TableSource:
    """Open a Parquet file."""
    parquet = needed("pyarrow.parquet", "Tables")
    with ExitStack() as stack:
        file = stack.enter_context(parquet.ParquetFile(place.files[0], buffer_size=1 << 20, pre_buffer=False))
        schema = file.schema_arrow

        def batches(start: int, chosen: Sequence[int], everything: bool) -> Iterator[Batch]:
            names = schema.names if everything else [schema.names[i] for i in chosen]
            rows = max(1, reading.block_bytes // ((_COPIES * 8 + reading.beside) * max(1, len(names))))
            return _batches(file, start, names, rows)

        source = TableSource(place.name, [field_of(field.name, field.type) for field in schema], batches, reading)
        source.close = stack.pop_all().close
        return source


def _batches(file: Any, start: int, names: Sequence[str], size: int) -> Iterator[Batch]:
    """Yield the rows behind the first ``start``, group by group, so that batches are the same wherever one starts."""
    total, row = file.metadata.num_rows, 0
    if start >= total:
        yield Batch(file.schema_arrow.empty_table().select(list(names)), start, 1.0)
    for group in range(file.metadata.num_row_groups):
        after = row + file.metadata.row_group(group).num_rows
        if after <= start:
            row = after
            continue
        for rows in file.iter_batches(size, row_groups=[group], columns=list(names), use_threads=False):
            row += rows.num_rows
            if row > start:
                described = rows.replace_schema_metadata(file.schema_arrow.metadata)
                yield Batch(described.select(list(names)), row, row / total)
