"""A user's own list of names as a terminology: TSV, CSV, JSONL, a workbook, Parquet, or the `id||name` lines of the original SapBERT code.

A list has one name per row. Its columns are named like the terminology's (xsap.terms.terminology), or mapped to them by `columns`; other columns
and rows without any cell are ignored. A row without an identifier or in an unknown language is dropped and counted. A line of JSONL may also be a concept with
all its names, as in the dictionaries of scispaCy (https://github.com/allenai/scispacy, `Entity` of its linking_utils) and xMEN
(https://github.com/hpi-dhc/xmen, xmen/kb.py); each name then counts as a row. A row may also have a definition of its concept, in the row's
language, and the identifiers of broader concepts, separated by bars; where several rows of a concept have the same, it counts once.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_prep.accounting import Rejects, check_choice, reject, rejected_rows
from data_prep.ontology_model import parse_language, relations_table
from xsap.artifacts import sha256_of
from xsap.errors import ConfigError, DataError
from xsap.files import RowCounts, file_ending, numbered_lines, parse_json
from xsap.languages import ENGLISH, to_iso
from xsap.tabular.cells import to_cells, to_text
from xsap.tabular.delimited_text import open_delimited
from xsap.tabular.readers import open_table
from xsap.tabular.workbooks import WORKBOOK_ENDINGS
from xsap.terms.concept_details import DEFINITIONS_SCHEMA
from xsap.terms.terminology import CONCEPT_LISTS, NAME_KINDS, NAMES_SCHEMA, Terminology
from xsap.text import TextPolicy, normalize

ID, LANGUAGE_COLUMN, NAME, KIND_COLUMN, SOURCE_COLUMN = NAMES_SCHEMA.names[:5]
TYPES = CONCEPT_LISTS[0]
DEFINITION_COLUMN, PARENTS = "definition", "parents"
FIELDS = (*NAMES_SCHEMA.names, *CONCEPT_LISTS, DEFINITION_COLUMN, PARENTS)
_ROWS_PER_CHUNK = 10_000
_COLUMN_REMEDY = f"; name the file's own with --column, such as --column {ID}=HEADER"
NAMES_PER_BATCH = 100_000  # Python objects held before they become an Arrow table

# Keys of a JSON line that is a concept: scispaCy's and xMEN's, and those of dictionaries in the UMLS's terms.
_CONCEPT_IDS, _TYPES = ("cui",), ("types", "type")
_PREFERRED_NAMES, _SYNONYMS = ("canonical_name", "canonical"), ("aliases", "synonyms")

NumberedRows = Iterator[tuple[int, dict[str, str]]]  # line number, column → cell


def read_list(
    path: Path,
    *,
    columns: Mapping[str, str] | None = None,
    language: str | None = None,
    source: str | None = None,
    sheet: str | None = None,
    encoding: str | None = None,
    header_row: int = 1,
    rejects: Rejects | None = None,
    names_per_batch: int = NAMES_PER_BATCH,
) -> tuple[Terminology, RowCounts]:
    """Read a list of names.

    Args:
        path: A .tsv, .csv, .jsonl, .parquet, .xlsx, .xlsm, .xlsb, .xls or .ods file, or one of `id||name` lines.
        columns: Field of FIELDS → the file's header for it, where they differ.
        language: The language of rows without one.
        source: The source of rows without one; by default the file's name.
        sheet: The sheet of a workbook; the first visible one by default.
        encoding: The encoding of a .tsv or .csv file, if it is not UTF-8.
        header_row: The row of the header, from 1, in a .tsv or .csv file or a workbook.
        rejects: Collects malformed rows, which otherwise are an error.
        names_per_batch: Names held as Python objects at a time.

    Returns:
        The terminology, and what happened to each row. `remarks` in its metadata says what was chosen and repaired.

    Raises:
        DataError: With file and line.
        ConfigError: For an option that does not belong to the kind of file.
    """
    columns = columns or {}
    check_choice(columns, FIELDS, "field", "a terminology")
    headers = {field: columns.get(field, field) for field in FIELDS}
    layout = Layout(sheet, encoding, header_row)
    remarks: list[str] = []
    read, is_id_names = _reader(path, headers, layout, remarks, rejects)
    if language is None and is_id_names:
        language = ENGLISH  # the original code's dictionaries are English and do not say so
    defaults = {
        LANGUAGE_COLUMN: to_iso(language) if language else "",
        SOURCE_COLUMN: source or path.name.split(".")[0],
        KIND_COLUMN: "synonym",
    }
    concepts = _ConceptRows()
    unusable, first_unusable = Counter[str](), 0

    def checked_rows() -> Iterator[dict[str, str | None]]:
        nonlocal first_unusable
        for number, cells in read(path, sorted({headers[ID], headers[NAME], *columns.values()})):
            if not any(cell.strip() for cell in cells.values()):
                continue
            row = {field: cells.get(header, "").strip() or defaults.get(field, "") for field, header in headers.items()}
            try:
                row, reason = _check_row(row, f"{path}:{number}")
            except DataError as error:
                if not row[LANGUAGE_COLUMN]:
                    raise  # what is missing is an option
                reject(rejects, path, number, error)
                continue
            if reason:
                first_unusable = first_unusable or number
                unusable[reason] += 1
                continue
            concepts.add(row)
            yield {f.name: row[f.name] or (None if f.nullable else "") for f in NAMES_SCHEMA}

    rows, parts = checked_rows(), [NAMES_SCHEMA.empty_table()]
    while part := list(islice(rows, names_per_batch)):
        parts.append(pa.Table.from_pylist(part, NAMES_SCHEMA))
    names, malformed = pa.concat_tables(parts), rejected_rows(rejects, [path])
    if unusable and not names.num_rows:
        reasons = ", ".join(f"{reason}: {count:,}" for reason, count in unusable.items())
        raise DataError(
            f"{path}:{first_unusable}: expected rows with an identifier and a known language, found none ({reasons})"
        )
    metadata = {"reader": "table", "files": {path.name: sha256_of(path)}, "remarks": remarks}
    terminology, dropped = Terminology.build(names, concepts.lists(), metadata)
    rows_in = names.num_rows + unusable.total()
    counts = RowCounts(rows_in, terminology.names.num_rows, dropped + unusable)
    return concepts.complete(terminology), counts + malformed


class _ConceptRows:
    """What the rows say of concepts beside their names."""

    def __init__(self) -> None:
        self._lists: dict[str, dict[str, set[str]]] = {}
        self._definitions: dict[tuple[str, ...], None] = {}  # DEFINITIONS_SCHEMA, each once
        self._parents: dict[tuple[str, str], None] = {}

    def add(self, row: Mapping[str, str]) -> None:
        """Add what a row says."""
        concept_id = row[ID]
        for field in CONCEPT_LISTS:
            if values := _parts(row[field]):
                self._lists.setdefault(concept_id, {field: set() for field in CONCEPT_LISTS})[field] |= set(values)
        if text := normalize(row[DEFINITION_COLUMN], TextPolicy()):
            self._definitions[concept_id, row[LANGUAGE_COLUMN], text, row[SOURCE_COLUMN]] = None
        self._parents.update({(concept_id, one): None for one in _parts(row[PARENTS])})

    def lists(self) -> pa.Table:
        """Concepts with their lists, for `Terminology.build`."""
        columns = {
            field: pa.array([sorted(found[field]) for found in self._lists.values()], pa.list_(pa.string()))
            for field in CONCEPT_LISTS
        }
        return pa.table({ID: pa.array(list(self._lists), pa.string())} | columns)

    def complete(self, terminology: Terminology) -> Terminology:
        """The terminology with the definitions and parents of its concepts, which its metadata account for."""
        columns = zip(*self._definitions, strict=True) if self._definitions else [()] * len(DEFINITIONS_SCHEMA)
        defined = pa.table([pa.array(column, pa.string()) for column in columns], schema=DEFINITIONS_SCHEMA)
        found, counts = terminology.with_details(defined, relations_table(list(self._parents)))
        return replace(found, metadata=found.metadata | counts.to_metadata())


def _parts(cell: str) -> list[str]:
    return [part.strip() for part in cell.split("|") if part.strip()]


@dataclass(frozen=True, slots=True)
class Layout:
    """How the rows of a table are found in its file: arguments of `xsap.tabular.readers.open_table`."""

    sheet: str | None = None
    encoding: str | None = None
    header_row: int = 1


def _check_row(row: dict[str, str], where: str) -> tuple[dict[str, str], str | None]:
    """A row with normalized name and ISO language code, and why it is dropped, if it is.

    Raises DataError without a language, or for an unknown kind.
    """
    if not row[ID]:
        return row, f"no identifier in '{ID}'"
    if not row[LANGUAGE_COLUMN]:
        raise DataError(
            f"{where}: expected a language in '{LANGUAGE_COLUMN}', found none; name the language of the whole file with --language"
        )
    try:
        check_choice([row[KIND_COLUMN]], NAME_KINDS, "kind", "a name")
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    language, unknown = parse_language(row[LANGUAGE_COLUMN])
    return row | {LANGUAGE_COLUMN: language, NAME: normalize(row[NAME], TextPolicy())}, unknown


def _reader(
    path: Path, headers: Mapping[str, str], layout: Layout, remarks: list[str], rejects: Rejects | None
) -> tuple[Callable[[Path, Sequence[str]], NumberedRows], bool]:
    """The reader for a file, by its suffix, and whether it is that of `id||name` lines: for any other suffix, if the first line is one."""
    ending = file_ending(path)
    if ending in (".csv", ".tsv"):
        if layout.sheet:
            raise ConfigError(f"--sheet '{layout.sheet}' is for workbooks, found {path}; remove it")
        return partial(_read_text_rows, layout, remarks, rejects), False
    if ending in (".parquet", *WORKBOOK_ENDINGS):
        return partial(_read_table_rows, layout, remarks), False
    if layout != Layout():
        raise ConfigError(
            f"--sheet, --encoding and --header-row are for tables with columns, found {path}; remove them"
        )
    if ending == ".jsonl":
        return partial(_read_jsonl_rows, headers, rejects), False
    _, first = next(numbered_lines(path), (1, ""))
    if "||" not in first:
        known = ".tsv, .csv, .jsonl, .parquet or workbook"
        raise DataError(f"{path}: expected a {known} file, or lines id||name; found '{first[:80]}'")
    return partial(_read_id_names, rejects), True


def _read_text_rows(
    layout: Layout, remarks: list[str], rejects: Rejects | None, path: Path, required: Sequence[str]
) -> NumberedRows:
    text = open_delimited(
        path, encoding=layout.encoding, header_row=layout.header_row, on_long_row=partial(reject, rejects, path)
    )
    yield from _with_header(path, text.rows, required, rejects, _COLUMN_REMEDY)
    remarks += [*text.notes, *(f"{reason}: {count:,}" for reason, count in text.repairs.items())]


def _read_table_rows(layout: Layout, remarks: list[str], path: Path, required: Sequence[str]) -> NumberedRows:
    table = open_table(path, sheet=layout.sheet, encoding=layout.encoding, header_row=layout.header_row)
    try:
        columns = {name: table.column_index(name) for name in required}
    except DataError as error:
        raise DataError(f"{error}{_COLUMN_REMEDY}") from None
    columns |= {name: at for at, name in enumerate(table.header) if table.header.count(name) == 1}
    number = layout.header_row
    for chunk in table.chunks(_ROWS_PER_CHUNK):
        cells = {name: list(map(to_text, to_cells(chunk.column(at)))) for name, at in columns.items()}
        for row in zip(*cells.values(), strict=True):
            number += 1
            yield number, dict(zip(cells, row, strict=True))
    remarks += table.remarks()


def read_tsv_rows(path: Path, required: Sequence[str], rejects: Rejects | None = None) -> NumberedRows:
    """The rows of a tab-separated file with a header; quotes are data. Raises DataError, also if a required column is missing."""
    cells = ((number, line.split("\t")) for number, line in numbered_lines(path) if line.strip())
    return _with_header(path, cells, required, rejects)


def _with_header(
    path: Path,
    rows: Iterator[tuple[int, list[str]]],
    required: Sequence[str],
    rejects: Rejects | None,
    remedy: str = "",
) -> NumberedRows:
    at, header = next(rows, (1, []))
    missing = [column for column in required if column not in header]
    if missing:
        found = ", ".join(header) + remedy if header else "an empty file"
        raise DataError(f"{path}:{at}: expected a header with the column '{missing[0]}', found {found}")
    for number, row in rows:
        if len(row) == len(header):
            yield number, dict(zip(header, row, strict=True))
        else:
            expected = f"expected {len(header)} field(s) as in the header"
            reject(rejects, path, number, DataError(f"{path}:{number}: {expected}, found {len(row)}"))


def _read_id_names(rejects: Rejects | None, path: Path, required: Sequence[str]) -> NumberedRows:
    if unknown := sorted(set(required) - {ID, NAME}):
        raise DataError(
            f"{path}: lines id||name have no headers, so there is no column '{unknown[0]}'; leave --column out"
        )
    for number, line in numbered_lines(path):
        if line.strip():
            parts = line.split("||")
            if len(parts) == 2:
                yield number, dict(zip((ID, NAME), parts, strict=True))
            else:
                error = DataError(f"{path}:{number}: expected id||name, found {len(parts)} field(s)")
                reject(rejects, path, number, error)


def _read_jsonl_rows(
    headers: Mapping[str, str], rejects: Rejects | None, path: Path, required: Sequence[str]
) -> NumberedRows:
    for number, line in numbered_lines(path):
        if line.strip():
            try:
                rows = _rows_of_json(line, headers, required, f"{path}:{number}")
            except DataError as error:
                reject(rejects, path, number, error)
            else:
                yield from ((number, cells) for cells in rows)


def _rows_of_json(line: str, headers: Mapping[str, str], required: Sequence[str], where: str) -> list[dict[str, str]]:
    """The rows in a line of JSON: one, or each name of a concept. Raises DataError."""
    row = parse_json(line, where, "one JSON object per line")
    is_concept = isinstance(row, dict) and _is_concept(row)
    needed = set(required) - {headers[ID], headers[NAME]} if is_concept else required
    if not isinstance(row, dict) or any(row.get(key) is None for key in needed):
        remedy = _COLUMN_REMEDY if isinstance(row, dict) else ""
        raise DataError(f"{where}: expected a JSON object with {', '.join(required)}, found {line[:80]}{remedy}")
    cells = {h: (_text if h == headers[ID] else _cell)(row.get(h), h, where) for h in headers.values()}
    return [cells | name_cells for name_cells in (_names_of_concept(row, headers, where) if is_concept else [{}])]


def _is_concept(row: dict[str, Any]) -> bool:
    return any(key in row for key in _PREFERRED_NAMES) or any(
        isinstance(row.get(key), list) for key in (NAME, *_SYNONYMS)
    )


def _names_of_concept(row: dict[str, Any], headers: Mapping[str, str], where: str) -> Iterator[dict[str, str]]:
    """For each name of a concept the cells that differ from those of its line; one empty name if there is none."""
    concept_id = next(
        (_text(row[key], key, where) for key in (headers[ID], *_CONCEPT_IDS) if row.get(key) is not None), ""
    )
    types = [_cell(row.get(key), key, where) for key in (headers[TYPES], *_TYPES)]
    preferred = [
        _text(name, key, where) for key in (*_PREFERRED_NAMES, headers[NAME]) for name in _as_list(row.get(key))
    ]
    synonyms = [_text(name, key, where) for key in _SYNONYMS for name in _as_list(row.get(key))]
    for i, name in enumerate([*preferred, *synonyms] or [""]):
        yield {
            headers[ID]: concept_id,
            headers[NAME]: name,
            headers[KIND_COLUMN]: "preferred" if i == 0 and preferred else "synonym",
            headers[TYPES]: "|".join(filter(None, types)),
        }


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _cell(value: Any, key: str, where: str) -> str:
    """A JSON value, or a list of them, as a cell with values separated by a bar. Raises DataError."""
    return "|".join(_text(part, key, where) for part in _as_list(value))


def _text(value: Any, key: str, where: str) -> str:
    """A JSON string, number or null as text. Raises DataError for any other value."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | None):
        raise DataError(f"{where}: expected a text in '{key}', found true, false, a list or an object")
    return "" if value is None else str(value)
