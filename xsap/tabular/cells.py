"""Cells of tables as Arrow columns, as Python values and as text.

Every column is an Arrow array. Cells of several types, or of a type that Arrow lacks, are stored as their JSON text (`MixedType`). `to_cells`
turns any column into Python values for the text formats.
"""

import json
import math
from typing import Any

import pyarrow as pa

_EXACT_FLOAT = 2**53  # beyond it not every integer is a float64


class MixedType(pa.ExtensionType):  # type: ignore[misc]
    """Cells of several types in one Arrow column, each stored as its JSON text."""

    def __init__(self) -> None:
        super().__init__(pa.string(), "xsap.mixed")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> "MixedType":
        return cls()


def to_column(cells: list[Any], of: pa.DataType) -> pa.Array:
    """Cells as a column of type `of`; of MixedType if they don't fit it, such as text with half of a surrogate pair, which Arrow can't hold."""
    if not isinstance(of, MixedType):
        try:
            return pa.array(cells, of)
        except (UnicodeEncodeError, OverflowError, pa.ArrowException):
            pass
    storage = pa.array([None if cell is None else json.dumps(cell) for cell in cells], pa.string())
    return pa.ExtensionArray.from_storage(MixedType(), storage)


def to_cells(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """A column's cells as JSON has them: dates, times and decimals as text; bytes as text if they are UTF-8, else in hexadecimal."""
    of = column.type
    if isinstance(of, MixedType):
        return [None if cell is None else json.loads(cell) for cell in column.to_pylist()]
    if pa.types.is_dictionary(of):
        return to_cells(column.cast(of.value_type))
    if pa.types.is_float32(of):  # as short as it was: 0.1, not 0.10000000149011612
        return [None if shown is None else float(shown) for shown in column.cast(pa.string()).to_pylist()]
    if pa.types.is_timestamp(of) or pa.types.is_date(of) or pa.types.is_time(of) or pa.types.is_decimal(of):
        return list(column.cast(pa.string()).to_pylist())
    values: list[Any] = column.to_pylist()
    simple = pa.types.is_integer(of) or pa.types.is_floating(of) or pa.types.is_boolean(of)
    if simple or pa.types.is_string(of) or pa.types.is_large_string(of):
        return values
    return [_json_value(value) for value in values]


def _json_value(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value.hex()
    if isinstance(value, dict):
        return {str(key): _json_value(each) for key, each in value.items()}
    return [_json_value(each) for each in value] if isinstance(value, list | tuple) else str(value)


def to_text(cell: object) -> str:
    """A cell as text: empty for None and NaN, JSON for what is neither text nor a finite number."""
    if isinstance(cell, str):
        return cell
    if cell is None:
        return ""
    if isinstance(cell, float):
        return "" if math.isnan(cell) else repr(cell)
    if type(cell) is int:
        return str(cell)
    return json.dumps(finite(cell), ensure_ascii=False)


def finite(cell: Any) -> Any:
    """A cell with every NaN in it as None and every infinity as text, because JSON has no such numbers."""
    if isinstance(cell, float) and not math.isfinite(cell):
        return None if math.isnan(cell) else str(cell)
    if isinstance(cell, list):
        return [finite(value) for value in cell]
    return {key: finite(value) for key, value in cell.items()} if isinstance(cell, dict) else cell


def escape_surrogates(value: str) -> str:
    """Text with halves of surrogate pairs, which UTF-8 can't encode, written as `\\udc80`."""
    return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()


def cell_kind(cell: object) -> str:
    """The type of a cell, as `output_type` and `storage_type` distinguish them."""
    if isinstance(cell, int) and not isinstance(cell, bool):
        return "int" if abs(cell) <= _EXACT_FLOAT else "long" if -(2**63) <= cell < 2**63 else "huge"
    return "none" if cell is None else type(cell).__name__


def output_type(kinds: set[str]) -> pa.DataType:
    """The Parquet type that holds cells of all these kinds without loss; text, as `to_text` writes it, where there is none."""
    found = kinds - {"none"}
    if found and found <= {"int", "long"}:
        return pa.int64()
    if found and found <= {"int", "float"}:
        return pa.float64()
    return pa.bool_() if found == {"bool"} else pa.string()


def storage_type(kinds: set[str]) -> pa.DataType:
    """The Arrow type from which cells of all these kinds come back as they were."""
    uniform = any(kinds - {"none"} <= one for one in ({"str"}, {"bool"}, {"float"}, {"int", "long"}))
    return output_type(kinds) if uniform else MixedType()
