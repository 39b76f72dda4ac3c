"""What a cell is: as JSON has it, as text, and as the one Arrow type that a whole column can take.

A cell comes from CSV, JSON, a workbook or a Parquet file, and goes to any of CSV, TSV, JSONL and Parquet. On the way it is a value that JSON
has, or stays in Arrow; nothing of it is lost, but a column of several kinds of values becomes text where it must have one type.
"""

import json
import math
from typing import Any, TypeAlias

import pyarrow as pa

Column: TypeAlias = list[Any] | pa.ChunkedArray
_EXACT = 2**53  # beyond it not every integer is a float64


def cells_of(column: Column) -> list[Any]:
    """A column's cells as JSON has them: dates, times and decimals as text, bytes as the text they are in UTF-8, else in hexadecimal."""
    if isinstance(column, list):
        return column
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    of = column.type
    if pa.types.is_float32(of):  # as short as it was: 0.1, not 0.10000000149011612
        return [None if shown is None else float(shown) for shown in column.cast(pa.string()).to_pylist()]
    if pa.types.is_timestamp(of) or pa.types.is_date(of) or pa.types.is_time(of) or pa.types.is_decimal(of):
        return list(column.cast(pa.string()).to_pylist())
    values = column.to_pylist()
    simple = pa.types.is_integer(of) or pa.types.is_floating(of) or pa.types.is_boolean(of)
    return values if simple or pa.types.is_string(of) or pa.types.is_large_string(of) else [_as_json(value) for value in values]


def text(cell: object) -> str:
    """A cell as text: nothing for None and NaN, JSON for what is neither text nor a finite number."""
    if isinstance(cell, str):
        return cell
    if cell is None:
        return ""
    if isinstance(cell, float):
        return "" if math.isnan(cell) else repr(cell)
    if type(cell) is int:
        return str(cell)
    return json.dumps(as_finite(cell), ensure_ascii=False)


def as_finite(cell: Any) -> Any:
    """A cell with every NaN in it as None and every infinity as text, because JSON has no such numbers."""
    if isinstance(cell, float) and not math.isfinite(cell):
        return None if math.isnan(cell) else str(cell)
    if isinstance(cell, list):
        return [as_finite(value) for value in cell]
    return {key: as_finite(value) for key, value in cell.items()} if isinstance(cell, dict) else cell


def kind(cell: object) -> str:
    """What a cell is to a column that must have one type."""
    if isinstance(cell, int) and not isinstance(cell, bool):
        return "int" if abs(cell) <= _EXACT else "long" if -(2**63) <= cell < 2**63 else "huge"
    return "none" if cell is None else type(cell).__name__


def type_of(kinds: set[str]) -> pa.DataType:
    """The one type that holds all of these without loss; text where there is none, as `text` writes it."""
    found = kinds - {"none"}
    if found and found <= {"int", "long"}:
        return pa.int64()
    if found and found <= {"int", "float"}:
        return pa.float64()
    return pa.bool_() if found == {"bool"} else pa.string()


def _as_json(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value.hex()
    if isinstance(value, dict):
        return {str(key): _as_json(each) for key, each in value.items()}
    return [_as_json(each) for each in value] if isinstance(value, list | tuple) else str(value)


def writable(value: str) -> str:
    """Text with half surrogate pairs, which UTF-8 can't hold, as `\\udc80`."""
    return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
