"""Any corpus in BigBIO's KB schema, saved from Hugging Face `datasets` as JSON lines or Parquet: one document per row.

Fries et al., NeurIPS 2022 (BigBio); https://github.com/bigscience-workshop/biomedical/blob/main/task_schemas.md. Three
keys are read: `document_id`, `passages` ({text: [str]}) and `entities` ({type, text: [str], offsets: [[start, end]],
normalized: [{db_name, db_id}]}). Offsets count characters in the passages' texts joined by a space, and an entity in
pieces has a text and a pair of offsets for each piece. The schema has one type per entity, so an entity of several types
(MedMentions) is there once for each: those become one mention again. A db_id may hold several identifiers, or -1; a
db_name is upper or lower case, depending on the version of the loader. Tested on a hand-written fragment in the
published format, not on the real files.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from xsap.errors import DataError
from xsap.files import missing_file, numbered_lines, parse_json
from xsap.languages import UNKNOWN, to_iso
from xsap.terms.corpus import Document, Row, groups_of, is_st21pv, parse_ids, to_table
from xsap.text import EXACT_MATCH, normalize

_FORMAT = (
    "a document in BigBIO's KB schema (document_id, passages with text, entities with text, offsets and normalized)"
)
_COLUMNS = ["document_id", "passages", "entities"]


def read_bigbio(path: Path, *, db_name: str | None = None, language: str = UNKNOWN) -> pa.Table:
    """Mentions (terms.mentions' SCHEMA, and `groups`) in the file's order, none dropped.

    Args:
        path: One split, as .parquet or JSON lines.
        db_name: The database whose identifiers are the gold, in upper or lower case; an entity with none of them has no
            gold concept. None for the identifiers of any database.
        language: The language of all documents, as a code or a name.

    Returns:
        A table whose `start` and `end` are null where the text differs from the mention at its offsets.

    Raises:
        DataError: With file and line (in Parquet, the document's number); also if no entity is linked to the database.
    """
    code = language if language == UNKNOWN else to_iso(language)
    rows: list[Row] = []
    databases: Counter[str] = Counter()
    for record, where in _from_parquet(path) if path.suffix == ".parquet" else _from_json(path):
        try:
            entities, passages = record["entities"], record["passages"]
            document = Document.from_text(" ".join(text for passage in passages for text in _texts(passage["text"])))
            databases.update(str(link["db_name"]) for entity in entities for link in entity["normalized"])
            rows += _mentions(entities, document, str(record["document_id"]), db_name, code)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{where}: expected {_FORMAT}; found {type(error).__name__}: {error}") from None
    if not rows:
        raise DataError(f"{path}: expected {_FORMAT} per row, found no entity")
    if not any(db_name is None or _same(db_name, name) for name in databases):
        found = ", ".join(f"{name} ({n:,})" for name, n in databases.most_common()) or "none"
        to = "a database" if db_name is None else f"'{db_name}'"
        raise DataError(f"{path}: expected entities linked to {to}; the databases there are: {found}")
    return to_table(rows, with_groups=True)


def is_bigbio(path: Path) -> bool:
    """Whether a file has documents in BigBIO's KB schema, by its columns or its first line. Raises DataError if it can't be read."""
    keys = set(_COLUMNS)
    if path.suffix == ".parquet":
        try:
            return keys <= set(pq.read_schema(path).names)
        except (OSError, pa.ArrowException):
            return False
    if path.suffix not in (".json", ".jsonl"):
        return False
    line = next((line for _, line in numbered_lines(path) if line.strip()), "")
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(record, dict) and keys <= record.keys()


def _from_json(path: Path) -> Iterator[tuple[Mapping[str, Any], str]]:
    for number, line in numbered_lines(path):
        if line.strip():
            where = f"{path}:{number}"
            yield parse_json(line, where, f"JSON, {_FORMAT} per line"), where


def _from_parquet(path: Path) -> Iterator[tuple[Mapping[str, Any], str]]:
    if not path.is_file():
        raise missing_file(path)
    try:
        with pq.ParquetFile(path) as file:
            if missing := [name for name in _COLUMNS if name not in file.schema_arrow.names]:
                raise DataError(f"{path}: expected {_FORMAT} per row; found no column '{missing[0]}'")
            number = 0
            for batch in file.iter_batches(batch_size=256, columns=_COLUMNS):
                for record in batch.to_pylist():
                    number += 1
                    yield record, f"{path}, document {number}"
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: expected a Parquet file; found: {error}") from None


def _mentions(
    entities: list[Mapping[str, Any]], document: Document, document_id: str, db_name: str | None, language: str
) -> list[Row]:
    rows: list[Row] = []
    types: list[list[str]] = []  # of each row
    last: dict[object, int] = {}  # all of an entity but its type → the last such row
    for entity in entities:
        spans, pieces = [(int(start), int(end)) for start, end in entity["offsets"]], _texts(entity["text"])
        links = [link for link in entity["normalized"] if db_name is None or _same(db_name, str(link["db_name"]))]
        cells = [str(link["db_id"]) for link in links]
        key, name = (tuple(spans), tuple(pieces), tuple(cells)), str(entity["type"])
        i = last.get(key)
        if i is None or name in types[i]:
            i = last[key] = len(rows)
            types.append([])
            ids = list(dict.fromkeys(one for cell in cells for one in parse_ids(cell)))
            mention, location = " ".join(pieces).strip(), document.locate(spans, pieces)
            rows.append(Row(mention, language, ids, document.context, *location, document_id))
        types[i].append(name)
        rows[i] = rows[i]._replace(groups=groups_of(types[i], ancestors=any(map(is_st21pv, cells))))
    return rows


def _texts(value: object) -> list[str]:
    """A list of texts; or one text, as the schema's description has it."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"a text that is {value!r:.40}")
    return texts


def _same(one: str, other: str) -> bool:
    return normalize(one, EXACT_MATCH) == normalize(other, EXACT_MATCH)
