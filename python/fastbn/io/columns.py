"""Columns as pyarrow has them: what they hold, and their numbers as floating-point ones, if that is exact."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np

from fastbn.io.options import INDEX, NO_NUMBERS, Array
from fastbn.io.sources import UnreadableError, needed

pa = needed("pyarrow", "Tables")
_UNITS = (b"unit", b"units")  # of a column, which has none once it is standardized
_PANDAS, _SPARK = b"pandas", b"org.apache.spark.sql.parquet.row.metadata"


def compute() -> Any:
    """Return pyarrow's functions, which take a tenth of a second to import, for what few files need."""
    return needed("pyarrow.compute", "Tables")


class Field(NamedTuple):
    """A column of a table: its name and type, and what keeps it from being counted unless it is asked for.

    ``numeric`` columns can be asked for; of ``empty`` ones nothing is known yet. ``why`` says of a column that is none
    which entry is no number beside others that are, or is a number spelled in another way. ``rounded`` is an integer in
    a column of float64 that this does not hold.
    """

    name: str
    type: str
    numeric: bool
    kept_out: str
    empty: bool = False
    why: str = ""
    rounded: object = None

    @classmethod
    def of(cls, name: str, held: Any, kept_out: str = "") -> Field:
        """Return what a column of a type in pyarrow is."""
        types = pa.types
        value = held.value_type if types.is_dictionary(held) or types.is_run_end_encoded(held) else held
        numbers = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal)
        numeric = any(is_number(value) for is_number in numbers)
        why = kept_out if numeric or kept_out == INDEX else NO_NUMBERS
        return cls(name, str(value if numeric else held), numeric, why, types.is_null(held))

    @property
    def holds(self) -> str:
        """What errors say of its entries."""
        return f"{self.type}, for {self.why}" if self.why else self.type


def fields_of(schema: Any) -> list[Field]:
    """Return the columns of a schema, of which those of pandas' index do not count."""
    index = {name for name in _told(schema, _PANDAS, "columns").get("index_columns", ()) if isinstance(name, str)}
    return [Field.of(each.name, each.type, INDEX if each.name in index else "") for each in schema]


def described(schema: Any, numbers: list[int], dtype: np.dtype[Any]) -> Any:
    """Return a schema in which the columns of these numbers are of a floating-point type, for pandas and Spark too."""
    fields, pandas, spark = list(schema), _told(schema, _PANDAS, "columns"), _told(schema, _SPARK, "fields")
    for number in numbers:
        field = fields[number]
        told = dict(field.metadata or {})
        told |= {key: b"1" for key in told if key.lower() in _UNITS}
        fields[number] = field.with_type(pa.from_numpy_dtype(dtype)).with_nullable(True).with_metadata(told or None)
    names, metadata = {fields[number].name for number in numbers}, dict(schema.metadata or {})
    for column in pandas.get("columns", ()):
        if column.get("field_name", column.get("name")) in names:
            column.update(pandas_type=dtype.name, numpy_type=dtype.name, metadata=None)
    for column in spark.get("fields", ()):
        if column.get("name") in names:
            column.update(type="double" if dtype.itemsize == 8 else "float", nullable=True)
    metadata |= {key: json.dumps(told).encode() for key, told in ((_PANDAS, pandas), (_SPARK, spark)) if told}
    return pa.schema(fields, metadata=metadata or None)


def described_index(schema: Any) -> tuple[str | None, range]:
    """Return name and values of pandas' index where a schema says them and no column has them; else none."""
    for index in _told(schema, _PANDAS, "columns").get("index_columns", ()):
        if isinstance(index, dict) and index.get("kind") == "range":
            return index["name"], range(index["start"], index["stop"], index["step"])
    return None, range(0)


def _told(schema: Any, writer: bytes, columns: str) -> dict[str, Any]:
    """Return what a writer keeps beside Parquet's own types, with a list of columns; empty where it did not."""
    try:
        told = json.loads((schema.metadata or {}).get(writer, b"{}"))
    except ValueError:
        return {}
    whole = isinstance(told, dict) and all(isinstance(column, dict) for column in told.get(columns, ()))
    return told if whole else {}


def decoded(column: Any) -> Any:
    """Return a column of which each entry is there by itself."""
    if pa.types.is_run_end_encoded(column.type):
        return compute().run_end_decode(column)
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def numbers_of(column: Any) -> tuple[Array, Array | None]:
    """Return a column's numbers in the type that it has them in, decimals as float64, and which are missing.

    What is missing is NaN, or any integer; None: nothing is.
    """
    if pa.types.is_decimal(column.type):
        column = pa.chunked_array([_floats(chunk) for chunk in _chunks(column)], pa.float64())
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan), None
    missing = None
    if column.null_count and not pa.types.is_floating(column.type):
        missing = column.is_null().to_numpy(zero_copy_only=False)
        column = column.fill_null(False if pa.types.is_boolean(column.type) else 0)
    return np.asarray(column.to_numpy(zero_copy_only=False)), missing


def _chunks(column: Any) -> list[Any]:
    return column.chunks if isinstance(column, pa.ChunkedArray) else [column]


def _floats(chunk: Any) -> Any:
    """Return the float64 nearest to decimals, which pyarrow's own conversion misses by an ulp."""
    held = chunk.type
    if not (pa.types.is_decimal128(held) and held.precision <= 15 and 0 <= held.scale <= 22):
        return chunk.cast(pa.string()).cast(pa.float64())
    # Its digits, and the power of ten that they are divided by, are exact in float64.
    digits = pa.Array.from_buffers(pa.decimal128(held.precision, 0), len(chunk), chunk.buffers(), offset=chunk.offset)
    return compute().divide(digits.cast(pa.float64()), 10.0**held.scale)


def inexact(column: Any) -> int | None:
    """Return the first integer that float64 does not hold; decimals with places behind the point are no integers."""
    if pa.types.is_decimal(column.type) and column.type.scale <= 0 and column.type.precision > 15:
        for chunk in _chunks(column):
            large = np.abs(_floats(chunk).to_numpy(zero_copy_only=False)) >= 2.0**53
            for value in chunk.filter(pa.array(large)).to_pylist():
                if int(value) != float(value):
                    return int(value)
        return None
    if column.type not in (pa.int64(), pa.uint64()):
        return None
    ends = compute().min_max(column).as_py()
    if ends["min"] is None or -(2**53) <= ends["min"] <= ends["max"] <= 2**53:
        return None
    values = column.drop_null().to_numpy(zero_copy_only=False)
    with np.errstate(invalid="ignore"):  # 2**63 is rounded to one more than int64 holds
        changed = values[values.astype(np.float64).astype(values.dtype) != values]
    return int(changed[0]) if len(changed) else None


def refuse(value: object, table: str, column: str) -> None:
    """Raise UnreadableError for an integer that float64 does not hold, if there is one."""
    if value is not None:
        raise UnreadableError(
            f"{table} must hold integers that float64 holds, got {value} in {column!r}: "
            "dtype=float64 rounds them, columns= leaves out what it does not name, an array of them is read as it is"
        )
