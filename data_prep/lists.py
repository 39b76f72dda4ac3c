"""Lists that people keep themselves → a terminology: TSV, CSV, JSONL, and the `id||name` lines of the original SapBERT code; .gz is welcome.

A list has one name a row. Its columns bear the names of the terminology's own (xsap.terms.terminology), or are told to by `columns`; other
columns are ignored, and so are blank lines. TSV has no quoting, so its quotes are data; CSV has that of RFC 4180. A line of JSONL may also
be a concept with all its names, as scispaCy (https://github.com/allenai/scispacy, `Entity` of its linking_utils) and xMEN
(https://github.com/hpi-dhc/xmen, xmen/kb.py) keep dictionaries; each name is then a row. Definitions are ignored.
"""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_prep.accounting import check_choice
from xsap.artifacts import sha256_of
from xsap.errors import DataError
from xsap.files import RowCounts, csv_delimiter, file_ending, numbered_lines, parse_json
from xsap.languages import ENGLISH, to_iso
from xsap.terms.terminology import CONCEPTS_SCHEMA, KINDS, NAMES_SCHEMA, Terminology
from xsap.text import TextPolicy, normalize

ID, LANGUAGE, NAME, KIND, SOURCE = NAMES_SCHEMA.names[:5]
LISTS = tuple(CONCEPTS_SCHEMA.names[2:])  # the columns that hold several values, separated by a bar
TYPES = LISTS[0]
FIELDS = (*NAMES_SCHEMA.names, *LISTS)

# How a line that is a concept calls its parts: in scispaCy's and xMEN's dictionaries, and in those that follow the UMLS's words.
_CONCEPT_IDS, _TYPES = ("cui",), ("types", "type")
_BEST_NAMES, _MORE_NAMES = ("canonical_name", "canonical"), ("aliases", "synonyms")
_PART = 100_000  # rows that are Python objects at a time

Rows = Iterator[tuple[int, dict[str, str]]]  # line number, column → cell


def read_list(
    path: Path, *, columns: Mapping[str, str] | None = None, language: str | None = None, source: str | None = None
) -> tuple[Terminology, RowCounts]:
    """A list of names as a terminology, and what became of each of its rows.

    columns: field of FIELDS → the file's name for it, where they differ. language: of rows that state none. source: what rows without one
    get; the file's name if it is not given. Raises DataError with file and line.
    """
    columns = columns or {}
    check_choice(columns, FIELDS, "field", "a terminology")
    headers = {field: columns.get(field, field) for field in FIELDS}
    read = _reader(path, headers)
    if language is None and read is _read_pairs:
        language = ENGLISH  # the original code's dictionaries are English and do not say so
    defaults = {
        LANGUAGE: to_iso(language) if language else "",
        SOURCE: source or path.name.split(".")[0],
        KIND: "synonym",
    }
    of_concepts: dict[str, dict[str, set[str]]] = {}

    def checked() -> Iterator[dict[str, str | None]]:
        for number, cells in read(path, sorted({headers[ID], headers[NAME], *columns.values()})):
            row = {field: cells.get(header, "").strip() or defaults.get(field, "") for field, header in headers.items()}
            row = _checked(row, f"{path}:{number}")
            for field in LISTS:
                if values := {part.strip() for part in row[field].split("|") if part.strip()}:
                    of_concepts.setdefault(row[ID], {field: set() for field in LISTS})[field] |= values
            yield {f.name: row[f.name] or (None if f.nullable else "") for f in NAMES_SCHEMA}

    rows, parts = checked(), [NAMES_SCHEMA.empty_table()]
    while part := list(islice(rows, _PART)):
        parts.append(pa.Table.from_pylist(part, NAMES_SCHEMA))
    names = pa.concat_tables(parts)
    concepts = {
        field: pa.array([sorted(c[field]) for c in of_concepts.values()], pa.list_(pa.string())) for field in LISTS
    }
    metadata = {"reader": "table", "files": {path.name: sha256_of(path)}}
    terminology, dropped = Terminology.build(
        names, pa.table({ID: pa.array(list(of_concepts), pa.string())} | concepts), metadata
    )
    return terminology, RowCounts(names.num_rows, terminology.names.num_rows, dropped)


def _checked(row: dict[str, str], where: str) -> dict[str, str]:
    """A row with its name normalized and its language as an ISO code. Raises DataError for one without concept, language or right kind."""
    if not row[ID]:
        raise DataError(f"{where}: expected a concept's identifier in '{ID}', found none")
    if not row[LANGUAGE]:
        raise DataError(
            f"{where}: expected a language in '{LANGUAGE}', found none; name the language of the whole file with --language"
        )
    try:
        check_choice([row[KIND]], KINDS, "kind", "a name")
        return row | {LANGUAGE: to_iso(row[LANGUAGE]), NAME: normalize(row[NAME], TextPolicy())}
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def read_tsv(path: Path, needed: Sequence[str]) -> Rows:
    """Each row of a tab-separated file with a header; quotes are data. Raises DataError unless every column of `needed` is there."""
    cells = ((number, line.split("\t")) for number, line in numbered_lines(path) if line.strip())
    return _under_header(path, cells, needed)


def _read_csv(path: Path, needed: Sequence[str]) -> Rows:
    texts = (line + "\n" for _, line in numbered_lines(path))
    first = next(texts, "")
    reader = csv.reader(chain([first], texts), delimiter=csv_delimiter(first), strict=True)
    try:
        yield from _under_header(path, ((reader.line_num, row) for row in reader if row), needed)
    except csv.Error as error:
        raise DataError(
            f"{path}:{reader.line_num}: expected CSV as in RFC 4180: {error}; is a quote inside a cell not doubled?"
        ) from None


def _under_header(path: Path, rows: Iterator[tuple[int, list[str]]], needed: Sequence[str]) -> Rows:
    at, header = next(rows, (1, []))
    missing = [column for column in needed if column not in header]
    if missing:
        raise DataError(
            f"{path}:{at}: expected a header with the column '{missing[0]}', found {', '.join(header) or 'an empty file'}"
        )
    for number, row in rows:
        if len(row) != len(header):
            raise DataError(f"{path}:{number}: expected {len(header)} fields, found {len(row)}")
        yield number, dict(zip(header, row, strict=True))


def _read_jsonl(headers: Mapping[str, str], path: Path, needed: Sequence[str]) -> Rows:
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        row = parse_json(line, where, "one JSON object a line")
        several = isinstance(row, dict) and _is_concept(row)
        required = set(needed) - {headers[ID], headers[NAME]} if several else needed
        if not isinstance(row, dict) or any(row.get(key) is None for key in required):
            raise DataError(f"{where}: expected a JSON object with {', '.join(needed)}, found {line[:80]}")
        cells = {h: (_one if h == headers[ID] else _cell)(row.get(h), h, where) for h in headers.values()}
        for its_own in _names_of(row, headers, where) if several else [{}]:
            yield number, cells | its_own


def _is_concept(row: dict[str, Any]) -> bool:
    return any(key in row for key in _BEST_NAMES) or any(isinstance(row.get(key), list) for key in (NAME, *_MORE_NAMES))


def _names_of(row: dict[str, Any], headers: Mapping[str, str], where: str) -> Iterator[dict[str, str]]:
    """The cells of each name of a concept that differ from those of its line; one without a name if it has none."""
    concept_id = next(
        (_one(row[key], key, where) for key in (headers[ID], *_CONCEPT_IDS) if row.get(key) is not None), ""
    )
    types = [_cell(row.get(key), key, where) for key in (headers[TYPES], *_TYPES)]
    best = [_one(name, key, where) for key in (*_BEST_NAMES, headers[NAME]) for name in _listed(row.get(key))]
    more = [_one(name, key, where) for key in _MORE_NAMES for name in _listed(row.get(key))]
    for i, name in enumerate([*best, *more] or [""]):
        kind = "preferred" if i == 0 and best else "synonym"
        yield {
            headers[ID]: concept_id,
            headers[NAME]: name,
            headers[KIND]: kind,
            headers[TYPES]: "|".join(filter(None, types)),
        }


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _cell(value: Any, key: str, where: str) -> str:
    """A JSON value as a cell: one, or several of them separated by a bar. Raises DataError."""
    return "|".join(_one(part, key, where) for part in _listed(value))


def _one(value: Any, key: str, where: str) -> str:
    """A JSON text, number or null as a text. Raises DataError for any other value."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | None):
        raise DataError(f"{where}: expected a text in '{key}', found true, false, or what holds other values")
    return "" if value is None else str(value)


def _read_pairs(path: Path, needed: Sequence[str]) -> Rows:
    if unknown := sorted(set(needed) - {ID, NAME}):
        raise DataError(
            f"{path}: lines id||name have no headers, so there is no column '{unknown[0]}'; leave --column out"
        )
    for number, line in numbered_lines(path):
        parts = line.split("||")
        if line.strip() and len(parts) != 2:
            raise DataError(f"{path}:{number}: expected id||name, found {len(parts)} field(s)")
        if line.strip():
            yield number, dict(zip((ID, NAME), parts, strict=True))


def _reader(path: Path, headers: Mapping[str, str]) -> Callable[[Path, Sequence[str]], Rows]:
    """The reader for a file, by its ending; any other ending holds `id||name` lines if its first line is one."""
    by_ending: dict[str, Callable[[Path, Sequence[str]], Rows]] = {
        ".tsv": read_tsv,
        ".csv": _read_csv,
        ".jsonl": partial(_read_jsonl, headers),
    }
    if file_ending(path) in by_ending:
        return by_ending[file_ending(path)]
    _, first = next(numbered_lines(path), (1, ""))
    if "||" not in first:
        raise DataError(f"{path}: expected a .tsv, .csv or .jsonl file, or lines id||name; found '{first[:80]}'")
    return _read_pairs
