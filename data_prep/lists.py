"""Lists that people keep themselves → a terminology: TSV, CSV, JSONL, and the `id||name` lines of the original SapBERT code.

A list has one name a row. Its columns bear the names of the terminology's own (xsap.terms.terminology), or are told to by `columns`; other
columns are ignored, and so are blank lines. TSV has no quoting, so its quotes are data; CSV has that of RFC 4180.
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from data_prep.choice import check_choice
from data_prep.tally import Tally
from xsap.artifacts import csv_delimiter, read_lines, sha256_of
from xsap.errors import DataError
from xsap.languages import ENGLISH, to_iso
from xsap.terms.terminology import CONCEPTS_SCHEMA, KINDS, NAMES_SCHEMA, Terminology
from xsap.text import TextPolicy, normalise

ID, LANGUAGE, NAME, KIND, SOURCE = NAMES_SCHEMA.names[:5]
LISTS = tuple(CONCEPTS_SCHEMA.names[2:])  # the columns that hold several values, separated by a bar
FIELDS = (*NAMES_SCHEMA.names, *LISTS)

Rows = Iterator[tuple[int, dict[str, str]]]  # line number, column → cell


def read_list(
    path: Path, *, columns: Mapping[str, str] | None = None, language: str | None = None, source: str | None = None
) -> tuple[Terminology, Tally]:
    """A list of names as a terminology, and what became of each of its rows.

    columns: field of FIELDS → the file's name for it, where they differ. language: of rows that state none. source: what rows without one
    get; the file's name if it is not given. Raises DataError with file and line.
    """
    columns = columns or {}
    check_choice(columns, FIELDS, "field", "a terminology")
    headers = {field: columns.get(field, field) for field in FIELDS}
    read = _reader(path)
    if language is None and read is _read_pairs:
        language = ENGLISH  # the original code's dictionaries are English and do not say so
    defaults = {LANGUAGE: to_iso(language) if language else "", SOURCE: source or path.name.split(".")[0], KIND: "synonym"}
    rows, of_concepts = [], dict[str, dict[str, set[str]]]()
    for number, cells in read(path, sorted({headers[ID], headers[NAME], *columns.values()})):
        row = {field: cells.get(header, "").strip() or defaults.get(field, "") for field, header in headers.items()}
        rows.append(_checked(row, f"{path}:{number}"))
        for field, values in of_concepts.setdefault(row[ID], {field: set() for field in LISTS}).items():
            values.update(part.strip() for part in row[field].split("|") if part.strip())
    names = pa.table({f.name: pa.array([row[f.name] or (None if f.nullable else "") for row in rows], f.type) for f in NAMES_SCHEMA})
    concepts = pa.table({ID: list(of_concepts)} | {field: [sorted(c[field]) for c in of_concepts.values()] for field in LISTS})
    facts = {"reader": "table", "files": {path.name: sha256_of(path)}}
    terminology, dropped = Terminology.build(names, concepts if rows else None, facts)
    return terminology, Tally(len(rows), terminology.names.num_rows, dropped)


def _checked(row: dict[str, str], where: str) -> dict[str, str]:
    """A row with its name normalised and its language as an ISO code. Raises DataError for one without concept, language or right kind."""
    if not row[ID]:
        raise DataError(f"{where}: expected a concept's identifier in '{ID}', found none")
    if not row[LANGUAGE]:
        raise DataError(f"{where}: expected a language in '{LANGUAGE}', found none; name the language of the whole file with --language")
    try:
        check_choice([row[KIND]], KINDS, "kind", "a name")
        return row | {LANGUAGE: to_iso(row[LANGUAGE]), NAME: normalise(row[NAME], TextPolicy())}
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def read_tsv(path: Path, needed: Sequence[str]) -> Rows:
    """Each row of a tab-separated file with a header; quotes are data. Raises DataError unless every column of `needed` is there."""
    cells = ((number, line.split("\t")) for number, line in enumerate(read_lines(path), start=1) if line.strip())
    return _under_header(path, cells, needed)


def _read_csv(path: Path, needed: Sequence[str]) -> Rows:
    lines = [line + "\n" for line in read_lines(path)]
    reader = csv.reader(lines, delimiter=csv_delimiter(lines[0] if lines else ""), strict=True)
    try:
        yield from _under_header(path, ((reader.line_num, row) for row in reader if row), needed)
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: expected CSV as in RFC 4180: {error}; is a quote inside a cell not doubled?") from None


def _under_header(path: Path, rows: Iterator[tuple[int, list[str]]], needed: Sequence[str]) -> Rows:
    at, header = next(rows, (1, []))
    missing = [column for column in needed if column not in header]
    if missing:
        raise DataError(f"{path}:{at}: expected a header with the column '{missing[0]}', found {', '.join(header) or 'an empty file'}")
    for number, row in rows:
        if len(row) != len(header):
            raise DataError(f"{path}:{number}: expected {len(header)} fields, found {len(row)}")
        yield number, dict(zip(header, row, strict=True))


def _read_jsonl(path: Path, needed: Sequence[str]) -> Rows:
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: expected one JSON object a line: {error}") from None
        if not isinstance(row, dict) or any(row.get(key) is None for key in needed):
            raise DataError(f"{path}:{number}: expected a JSON object with {', '.join(needed)}, found {line[:80]}")
        yield number, {key: _cell(value) for key, value in row.items()}


def _cell(value: object) -> str:
    return "" if value is None else "|".join(map(str, value)) if isinstance(value, list) else str(value)


def _read_pairs(path: Path, needed: Sequence[str]) -> Rows:
    if unknown := sorted(set(needed) - {ID, NAME}):
        raise DataError(f"{path}: lines id||name have no headers, so there is no column '{unknown[0]}'; leave --column out")
    for number, line in enumerate(read_lines(path), start=1):
        parts = line.split("||")
        if line.strip() and len(parts) != 2:
            raise DataError(f"{path}:{number}: expected id||name, found {len(parts)} field(s)")
        if line.strip():
            yield number, dict(zip((ID, NAME), parts, strict=True))


def _reader(path: Path) -> Callable[[Path, Sequence[str]], Rows]:
    """The reader for a file, by its ending; any other ending holds `id||name` lines if its first line is one."""
    by_ending = {".tsv": read_tsv, ".csv": _read_csv, ".jsonl": _read_jsonl}
    if path.suffix.lower() in by_ending:
        return by_ending[path.suffix.lower()]
    first = next(iter(read_lines(path)), "")
    if "||" not in first:
        raise DataError(f"{path}: expected a .tsv, .csv or .jsonl file, or lines id||name; found '{first[:80]}'")
    return _read_pairs
