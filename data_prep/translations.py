"""Translation tables of ontologies: Babelon and ROBOT templates, as in https://github.com/obophenotype/hpo-translations.

Babelon (`*.babelon.tsv`) has one translated value per row (https://github.com/monarch-initiative/babelon). A ROBOT template
(`*.synonyms.tsv`) has a second line that defines each column (http://robot.obolibrary.org/template).
"""

import re
from collections.abc import Iterator
from pathlib import Path

from data_prep.accounting import Rejects
from data_prep.lists import read_tsv_rows
from data_prep.ontology_model import DEFINITION, DEFINITIONS, LABEL, NameRecord, expand, parse_language, scope_of
from xsap.errors import DataError
from xsap.languages import ENGLISH

_NOT_TRANSLATED = "NOT_TRANSLATED"
_STATUSES = {"OFFICIAL", "CANDIDATE", "UNDER_REVIEW", _NOT_TRANSLATED}
_NO_NAME = {"", "NA", "N/A"}
# A cell of a template row: LABEL, or an annotation, `A` or `AL`, with a property and perhaps a language, such as `AL rdfs:label@de SPLIT=|`.
_TEMPLATE = re.compile(
    r">*(?P<kind>LABEL|AL?[TI]? )\s*(?P<predicate>[^@]*?)\s*(?:@(?P<language>[A-Za-z-]+))?\s*(?:SPLIT=(?P<split>.+))?"
)
_LABELS = {
    "label": LABEL,
    "exact synonym": "EXACT",
    "alternative term": "EXACT",
    "alternative label": "EXACT",
}  # of properties
_LABELS |= {f"has_{scope.lower()}_synonym": scope for scope in ("EXACT", "NARROW", "RELATED", "BROAD")}
_QUOTE_ENTITY = re.compile(
    r"&?quot;"
)  # tables that went through HTML have quotes as entities, some without their ampersand


def find_tables(folder: Path) -> list[Path]:
    """The translation tables of a folder, sorted. Raises DataError if there is none."""
    found = sorted([*folder.glob("*.babelon.tsv"), *folder.glob("*.synonyms.tsv")]) if folder.is_dir() else []
    if not found:
        raise DataError(
            f"{folder}: expected a folder with translation tables (*.babelon.tsv, *.synonyms.tsv), found none there"
        )
    return found


def read_translations(path: Path, rejects: Rejects | None = None) -> Iterator[NameRecord]:
    """The names and definitions (of scope DEFINITION) of a Babelon table or a ROBOT template, including those that it rules out itself.

    rejects: collects malformed rows, which otherwise are an error. Raises DataError.
    """
    return _robot(path, rejects) if path.name.endswith(".synonyms.tsv") else _babelon(path, rejects)


def _babelon(path: Path, rejects: Rejects | None) -> Iterator[NameRecord]:
    needed = (
        "subject_id",
        "predicate_id",
        "source_language",
        "source_value",
        "translation_language",
        "translation_value",
    )
    for _, row in read_tsv_rows(path, needed, rejects):
        subject, status = row["subject_id"].strip(), row.get("translation_status") or None
        predicate = expand(row["predicate_id"])
        scope = DEFINITION if predicate in DEFINITIONS else scope_of(predicate)
        if scope == LABEL and row["source_value"]:
            yield _record(subject, row["source_language"], row["source_value"], LABEL, None)
        record = _record(subject, row["translation_language"], row["translation_value"], scope or "", status)
        yield record if scope else record._replace(rejection_reason="a comment or another property, not a name")


def _robot(path: Path, rejects: Rejects | None) -> Iterator[NameRecord]:
    rows = iter(read_tsv_rows(path, (), rejects))
    _, template = next(rows, (2, {}))
    columns = {column: found for column, cell in template.items() if (found := _names_in(cell))}
    identifiers = [column for column, cell in template.items() if cell.strip() == "ID"]
    if len(identifiers) != 1 or not columns:
        raise DataError(
            f"{path}:2: expected a ROBOT template row such as 'ID', 'AL oboInOwl:hasExactSynonym@de SPLIT=|'; found none"
        )
    for _, row in rows:
        cells = {column.lower(): cell for column, cell in row.items()}
        status = next(
            (cell for c in ("translation_status", "status", "comment") if (cell := cells.get(c, "")) in _STATUSES), None
        )
        for column, (scope, language, separator) in columns.items():
            # Tables separate several names by a bar even where their template omits SPLIT=|.
            for value in _unquote(row[column]).split(separator):
                yield _record(row[identifiers[0]].strip(), language, value, scope, status)


def _names_in(cell: str) -> tuple[str, str, str] | None:
    """(scope, language, separator) of a template cell whose column holds names; None for any other cell."""
    match = _TEMPLATE.fullmatch(cell.strip())
    if match is None:
        return None
    predicate = match["predicate"]
    is_label = match["kind"] == "LABEL" and not predicate
    scope = LABEL if is_label else scope_of(expand(predicate)) or _LABELS.get(predicate)
    return (scope, match["language"] or ENGLISH, match["split"] or "|") if scope else None


def _record(subject: str, language: str, value: str, scope: str, status: str | None) -> NameRecord:
    name = _unquote(value.strip())
    code, unknown = parse_language(language)
    rejection_reason = unknown or ("no translation" if name in _NO_NAME or status == _NOT_TRANSLATED else None)
    return NameRecord(
        subject,
        code,
        name,
        scope,
        status,
        "preferred" if scope == LABEL else "synonym",
        rejection_reason,
        translated=True,
    )


def _unquote(cell: str) -> str:
    """A cell without the quoting that a program added: quotes around the whole cell, and each quote inside doubled."""
    cell = _QUOTE_ENTITY.sub('"', cell)
    inside = cell[1:-1]
    return (
        inside.replace('""', '"')
        if len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inside.replace('""', "")
        else cell
    )
