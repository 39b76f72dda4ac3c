"""Mentions: strings found in text or in a list, with the concepts that they refer to; and the line formats of the original SapBERT code.

A file of mentions is any table that `tabular.readers` opens: CSV, TSV, XLSX, JSONL or Parquet. Its columns are named as in SCHEMA, or mapped to
it by `columns`; others are not used, and named in the log. Only `mention` is required. `concept_ids` are a list, or text that is split at `|`,
and any one of them is right; blanks around them do not count. SapBERT's lines are `id||name||name` for two names of one concept, and `id||name`
for one.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from xsap.artifacts import write_atomically
from xsap.errors import ConfigError, DataError, did_you_mean
from xsap.files import read_lines
from xsap.languages import UNKNOWN, to_iso
from xsap.tabular.cells import to_cells, to_text
from xsap.tabular.readers import InputTable, open_table
from xsap.text import EXACT_MATCH, normalize

SCHEMA = pa.schema(
    [
        pa.field("mention", pa.string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        pa.field("concept_ids", pa.list_(pa.string()), nullable=False),
        pa.field("context", pa.string()),
        pa.field("start", pa.int64()),
        pa.field("end", pa.int64()),
        pa.field("document_id", pa.string()),
    ]
)
_SPACES = dict.fromkeys(map(ord, "\t\r\n"), " ")
_ROWS_PER_CHUNK = 1 << 14

logger = logging.getLogger(__name__)


def build_mentions(
    mentions: list[str], languages: list[str], concept_ids: list[list[str]], **columns: list[object]
) -> pa.Table:
    """A table of SCHEMA from columns of equal length; `columns`: context, start, end, document_id, each null where it is not given."""
    given = {"mention": mentions, "language": languages, "concept_ids": concept_ids, **columns}
    return pa.table({f.name: pa.array(given.get(f.name, [None] * len(mentions)), f.type) for f in SCHEMA}, SCHEMA)


def parse_columns(given: Sequence[str]) -> dict[str, str]:
    """Options `FIELD=HEADER` as field → header; a header alone is that of the mentions. Raises ConfigError.

    >>> parse_columns(["Diagnose", "concept_ids=Code"])
    {'mention': 'Diagnose', 'concept_ids': 'Code'}
    """
    columns: dict[str, str] = {}
    for text in given:
        field, equals, header = text.partition("=")
        if not equals:
            field, header = "mention", text
        if field not in SCHEMA.names or not header:
            hint = did_you_mean(field, SCHEMA.names, otherwise=f"fields are {', '.join(SCHEMA.names)}")
            raise ConfigError(f"expected --column FIELD=HEADER such as concept_ids=Code, found '{text}'{hint}")
        if field in columns:
            raise ConfigError(f"--column {field}: expected once, found '{columns[field]}' and '{header}'")
        columns[field] = header
    return columns


def read_mentions(
    path: Path | str,
    *,
    columns: Mapping[str, str] | None = None,
    sheet: str | None = None,
    encoding: str | None = None,
    header_row: int = 1,
) -> pa.Table:
    """Read a table of mentions as SCHEMA.

    What was repaired or not used is logged. A language code that is unknown is read as `und`.

    Args:
        path: A file that `open_table` reads.
        columns: Field of SCHEMA → the file's header for it, where they differ.
        sheet: See `open_table`.
        encoding: See `open_table`.
        header_row: See `open_table`.

    Raises:
        DataError: The file has no mentions, or not these columns, or cells of another kind.
    """
    table = open_table(path, sheet=sheet, encoding=encoding, header_row=header_row)
    places = _places(table, columns or {})
    cells: dict[str, list[Any]] = {name: [] for name in places}
    for chunk in table.chunks(_ROWS_PER_CHUNK):
        for name, place in places.items():
            cells[name] += to_cells(chunk.column(place))
    if not cells["mention"]:
        raise DataError(f"{path}: expected at least one mention under the header, found none")
    unknown = Counter[str]()
    read = {
        name: [_parse(name, cell, path, row, unknown) for row, cell in enumerate(column, start=1)]
        for name, column in cells.items()
    }
    mentions = read.pop("mention")
    languages = read.pop("language", [UNKNOWN] * len(mentions))
    concept_ids = read.pop("concept_ids", [[] for _ in mentions])
    _log_remarks(table, places, unknown)
    return build_mentions(mentions, languages, concept_ids, **read)


def _places(table: InputTable, columns: Mapping[str, str]) -> dict[str, int]:
    """Field → the position of its column, for the fields that the table has."""
    if unknown := sorted(set(columns) - set(SCHEMA.names)):
        raise ConfigError(f"expected fields out of {', '.join(SCHEMA.names)}, found '{unknown[0]}'")
    present = {normalize(name, EXACT_MATCH) for name in table.header}
    places = {}
    for field in SCHEMA.names:
        header = columns.get(field, field)
        if field in columns or normalize(header, EXACT_MATCH) in present:
            places[field] = table.column_index(header, lists=field == "concept_ids")
        elif field == "mention":
            found = ", ".join(table.header[:50]) + (", …" if len(table.header) > 50 else "")
            raise DataError(
                f"{table.where}: expected a column 'mention', found {found}; name the column of the mentions: --column mention=HEADER"
            )
    return places


def _log_remarks(table: InputTable, places: Mapping[str, int], unknown: Counter[str]) -> None:
    remarks = table.remarks()
    if unused := [name for place, name in enumerate(table.header) if place not in places.values()]:
        remarks.append(f"columns not used: {', '.join(unused[:10])}{', …' if len(unused) > 10 else ''}")
    if unknown:
        codes = ", ".join(f"'{code}'" for code, _ in unknown.most_common(5))
        remarks.append(f"mentions with an unknown language ({codes}), read as language unknown: {unknown.total():,}")
    if remarks:
        logger.info("%s: %s", table.where, "; ".join(remarks))


def _parse(field: str, cell: Any, path: Path | str, row: int, unknown: Counter[str]) -> Any:
    """A cell as a value of its field. unknown: counts unknown languages."""
    if field == "concept_ids":
        parts: Iterator[str] = map(to_text, cell) if isinstance(cell, list) else iter(to_text(cell).split("|"))
        return [part for each in parts if (part := each.strip())]
    if isinstance(cell, list | dict):
        kind = "a list" if isinstance(cell, list) else "an object"
        raise DataError(f"{path}: expected one value in column '{field}', found {kind} in row {row:,}")
    text = to_text(cell)
    if field == "language":
        try:
            return to_iso(text) if text.strip() else UNKNOWN
        except DataError:
            unknown[text] += 1
            return UNKNOWN
    if field in ("start", "end"):
        return _position(field, text, path, row)
    return text if field == "mention" else text or None


def _position(field: str, text: str, path: Path | str, row: int) -> int | None:
    try:  # a workbook may have stored 12 as 12.0
        return pa.scalar(int(text.strip().removesuffix(".0")), pa.int64()).as_py() if text.strip() else None
    except (ValueError, OverflowError):
        raise DataError(
            f"{path}: expected a whole number in column '{field}', found '{text}' in row {row:,}; "
            "if it is no position of the mention in its context, rename the column"
        ) from None


def write_mentions(table: pa.Table, path: Path | str) -> None:
    """Write mentions as TSV (or Parquet, by the path's ending), all or nothing.

    In TSV columns without a value are left out, each tab, carriage return and newline becomes a space, and what stands in quotes is quoted.
    """
    if Path(path).suffix == ".parquet":
        with write_atomically(path, binary=True) as stream:
            pq.write_table(table.cast(SCHEMA), stream)
        return
    kept = [
        name
        for name in SCHEMA.names
        if name in ("mention", "language", "concept_ids") or table[name].null_count < table.num_rows
    ]
    with write_atomically(path) as stream:
        stream.write("\t".join(kept) + "\n")
        for row in table.select(kept).to_pylist():
            stream.write("\t".join(_format(row[name]) for name in kept) + "\n")


def _format(value: object) -> str:
    text = "|".join(value) if isinstance(value, list) else "" if value is None else str(value)
    text = text.translate(_SPACES)  # one for one, so that start and end still point into the context
    is_quoted = text.startswith('"') and text.endswith('"')  # a reader would take these quotes for those of the format
    return '"' + text.replace('"', '""') + '"' if is_quoted else text


class Pairs(NamedTuple):
    """Three columns of one length: the concept's identifier, and two of its names."""

    concept_ids: list[str]
    left: list[str]
    right: list[str]


class IdNames(NamedTuple):
    """Two columns of one length: the concept's identifiers as written, and one of its names."""

    concept_ids: list[str]
    names: list[str]


def read_pairs(path: Path | str) -> Pairs:
    """Read training pairs, `id||name||name`, in their order. Raises DataError with file and line."""
    return Pairs(*_columns(path, ("id", "name", "name")))


def read_id_names(path: Path | str) -> IdNames:
    """Read a dictionary or queries of the original evaluation, `id||name`, in their order. Raises DataError with file and line."""
    return IdNames(*_columns(path, ("id", "name")))


def _columns(path: Path | str, form: tuple[str, ...]) -> list[list[str]]:
    """The fields of every line, none of them empty, by column."""
    rows = []
    for number, line in enumerate(read_lines(path), start=1):
        fields = [part.strip() for part in line.split("||")]
        if len(fields) != len(form) or not all(fields):
            found = f"{len(fields)} field(s), {sum(map(bool, fields))} of them not empty"
            raise DataError(f"{path}:{number}: expected {'||'.join(form)}, found {found}")
        rows.append(fields)
    if not rows:
        raise DataError(f"{path}: expected at least one line {'||'.join(form)}, found an empty file")
    return [list(column) for column in zip(*rows, strict=True)]
