"""Mentions: strings found in text or in a hospital's lists, with the concepts that they stand for.

On disk a TSV file with a header (Parquet alike). Of its columns only `mention` must be there; `concept_ids` are separated by `|`, and
any one of them is right.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from xsap.artifacts import read_lines, write_atomically
from xsap.errors import DataError
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


def build_mentions(mentions: list[str], languages: list[str], concept_ids: list[list[str]], **columns: list[object]) -> pa.Table:
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
            return int(cell) if cell else None
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    except ValueError:
        raise DataError(f"{where}: expected a whole number in '{column}', found '{cell}'") from None
    return cell if column == "mention" else cell or None


def _read_parquet(path: Path) -> pa.Table:
    try:
        return pq.read_table(path, columns=SCHEMA.names).cast(SCHEMA)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise DataError(
            f"{path}: expected a Parquet file with the columns {', '.join(SCHEMA.names)}; found: {str(error).splitlines()[0]}"
        ) from None


def write_mentions(table: pa.Table, path: Path | str) -> None:
    """Write mentions as TSV (or Parquet, by the path's ending). Columns without a value are left out; tabs and line ends become spaces."""
    if Path(path).suffix == ".parquet":
        with write_atomically(path, "wb") as stream:
            pq.write_table(table.cast(SCHEMA), stream)
        return
    kept = [name for name in SCHEMA.names if name in ("mention", "language", "concept_ids") or table[name].null_count < table.num_rows]
    with write_atomically(path) as stream:
        stream.write("\t".join(kept) + "\n")
        for row in table.select(kept).to_pylist():
            stream.write("\t".join(_format(row[name]) for name in kept) + "\n")


def _format(value: object) -> str:
    if isinstance(value, list):
        return "|".join(value)
    return "" if value is None else " ".join(str(value).split()) if isinstance(value, str) else str(value)
