"""Mentions: strings found in text or in a list, with the concepts that they refer to; and the line formats of the original SapBERT code.

A file of mentions is TSV with a header, or Parquet with the same columns. Only the column `mention` is required; `concept_ids` are separated by
`|`, and any one of them is right. SapBERT's lines are `id||name||name` for two names of one concept, and `id||name` for one.
"""

from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from xsap.artifacts import write_atomically
from xsap.errors import DataError
from xsap.files import missing_file, read_lines
from xsap.languages import UNKNOWN, to_iso

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


def build_mentions(
    mentions: list[str], languages: list[str], concept_ids: list[list[str]], **columns: list[object]
) -> pa.Table:
    """A table of SCHEMA from columns of equal length; `columns`: context, start, end, document_id, each null where it is not given."""
    given = {"mention": mentions, "language": languages, "concept_ids": concept_ids, **columns}
    return pa.table({f.name: pa.array(given.get(f.name, [None] * len(mentions)), f.type) for f in SCHEMA}, SCHEMA)


def read_mentions(path: Path | str) -> pa.Table:
    """Read a `.tsv` or `.parquet` file of mentions as SCHEMA. Raises DataError with file and line."""
    path = Path(path)
    if path.suffix == ".parquet":
        return _read_parquet(path)
    rows = [line.split("\t") for line in read_lines(path)]
    if len(rows) < 2:
        raise DataError(f"{path}: expected a header line and at least one mention, found {len(rows)} line(s)")
    header = rows[0]
    unknown = sorted(set(header) - set(SCHEMA.names))
    if "mention" not in header or unknown:
        found = f"the unknown column '{unknown[0]}'" if "mention" in header else "no column 'mention'"
        raise DataError(f"{path}:1: expected columns out of {', '.join(SCHEMA.names)}, tab-separated; found {found}")
    if len(set(header)) < len(header):
        raise DataError(f"{path}:1: expected each column once, found {', '.join(header)}")
    columns: dict[str, list[object]] = {name: [] for name in header}
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise DataError(f"{path}:{number}: expected {len(header)} tab-separated fields, found {len(row)}")
        for name, cell in zip(header, row, strict=True):
            columns[name].append(_parse(name, cell, f"{path}:{number}"))
    mentions = [str(mention) for mention in columns.pop("mention")]
    languages = [str(code) for code in columns.pop("language", [UNKNOWN] * len(mentions))]
    concept_ids: list[list[str]] = columns.pop("concept_ids", [[] for _ in mentions])  # type: ignore[assignment]
    return build_mentions(mentions, languages, concept_ids, **columns)


def _parse(column: str, cell: str, where: str) -> object:
    try:
        if column == "concept_ids":
            return [part for part in cell.split("|") if part]
        if column == "language":
            return to_iso(cell) if cell else UNKNOWN
        if column in ("start", "end"):
            return pa.scalar(int(cell), pa.int64()).as_py() if cell else None
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    except (ValueError, OverflowError):
        raise DataError(f"{where}: expected a whole number in '{column}', found '{cell}'") from None
    return cell if column == "mention" else cell or None


def _read_parquet(path: Path) -> pa.Table:
    if not path.is_file():
        raise missing_file(path)
    try:
        table = pq.read_table(path)
        absent = {"language": UNKNOWN, "concept_ids": []}
        for field in SCHEMA:
            if field.name != "mention" and field.name not in table.column_names:
                table = table.append_column(field, pa.array([absent.get(field.name)] * table.num_rows, field.type))
        table = table.select(SCHEMA.names).cast(SCHEMA)
        languages = pa.array([to_iso(code) if code else UNKNOWN for code in table["language"].to_pylist()], pa.string())
    except (KeyError, ValueError, OSError, pa.ArrowException) as error:
        found = str(error).strip("'").splitlines()[0]
        raise DataError(
            f"{path}: expected a Parquet file with columns out of {', '.join(SCHEMA.names)}; found: {found}"
        ) from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    return table.set_column(SCHEMA.get_field_index("language"), SCHEMA.field("language"), languages)


def write_mentions(table: pa.Table, path: Path | str) -> None:
    """Write mentions as TSV (or Parquet, by the path's ending), all or nothing.

    In TSV columns without a value are left out, and each tab, carriage return and newline becomes a space.
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
    return text.translate(_SPACES)  # one for one, so that start and end still point into the context


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
