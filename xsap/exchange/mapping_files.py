"""Files of mappings of every kind that xsap reads, recognized by their content: the output of `xsap link`, a save file or an export for review of
Usagi, SSSOM, a ConceptMap of FHIR (.json), a review (.sqlite) and a review workbook (.xlsx)."""

import csv
from collections.abc import Mapping as ReadOnlyDict
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from xsap.errors import DataError
from xsap.exchange.fhir import read_concept_map
from xsap.exchange.linked_table import find_term_columns, is_linked, read_linked
from xsap.exchange.mapping import Mapping
from xsap.exchange.review_workbook import DATA_SHEET, read_workbook
from xsap.exchange.sssom import read_sssom
from xsap.exchange.usagi import is_usagi_header, read_usagi
from xsap.exchange.usagi_text import split_record
from xsap.files import file_ending, open_bytes, text_lines
from xsap.server.review_store import read_review
from xsap.tabular.delimited_text import detect_delimiter
from xsap.tabular.readers import ENDINGS, TEXT_ENDINGS, open_table
from xsap.tabular.workbooks import open_workbook_file

LINKED, USAGI, SSSOM, CONCEPT_MAP = "xsap link", "Usagi", "SSSOM", "ConceptMap"
REVIEW, WORKBOOK = "review", "review workbook"
_SQLITE = b"SQLite format 3\0"
_LINES_LOOKED_AT = 500  # of the metadata above the header of an SSSOM file


@dataclass(frozen=True, slots=True)
class MappingFile:
    """Mappings with what is known of their file.

    Attributes:
        mappings: The mappings, in the order of the file.
        kind: LINKED, USAGI, SSSOM, CONCEPT_MAP, REVIEW or WORKBOOK.
        remarks: What was chosen or repaired, as phrases for a summary.
        refused: Of a file of Usagi: what Usagi would not have read → the first line that has it.
    """

    mappings: list[Mapping]
    kind: str
    remarks: list[str]
    refused: dict[str, int] = field(default_factory=dict)


def recognize_mapping_file(path: Path | str, *, encoding: str | None = None) -> str | None:
    """The kind of a file of mappings; None for another file. Raises DataError for one that can't be read."""
    path = Path(path)
    with open_bytes(path) as stream:
        if stream.read(len(_SQLITE)) == _SQLITE:
            return REVIEW
    ending = file_ending(path)
    if ending == ".json":
        return CONCEPT_MAP
    if ending == ".xlsx":
        with open_workbook_file(path) as book:
            if any(sheet.name == DATA_SHEET for sheet in book.sheets):
                return WORKBOOK
    if ending in TEXT_ENDINGS:
        lines = (line.rstrip("\r\n") for _, line in islice(text_lines(path, encoding=encoding), _LINES_LOOKED_AT))
        header = next((line for line in lines if line.strip() and not line.startswith("#")), "")
        delimiter = detect_delimiter([header], ",;\t")
        if is_usagi_header([name.strip('"') for name in split_record(header, delimiter)[0]]):
            return USAGI
        if {"predicate_id", "mapping_justification"} & set(next(csv.reader([header], delimiter=delimiter), [])):
            return SSSOM
    if ending in ENDINGS and is_linked(open_table(path, encoding=encoding if ending in TEXT_ENDINGS else None).header):
        return LINKED
    return None


def read_mappings(
    path: Path | str, *, columns: ReadOnlyDict[str, str] | None = None, encoding: str | None = None
) -> MappingFile:
    """Read a file of mappings of any kind.

    Args:
        path: The file.
        columns: Of the output of `xsap link`: name, code, language or frequency → the column of the source with it, where its name is
            not a usual one.
        encoding: Of a text file, if it is not UTF-8.

    Raises:
        DataError: It can't be read, or is of no kind that is known.
        ConfigError: The column of the terms is not known.
    """
    path = Path(path)
    kind = recognize_mapping_file(path, encoding=encoding)
    if kind is None:
        raise DataError(
            f"{path}: expected mappings: what xsap link --file FILE --out OUT writes, a save file of Usagi, SSSOM, a ConceptMap of FHIR, or a review of xsap; "
            "found none of these"
        )
    if kind == LINKED:
        table = open_table(path, encoding=encoding)
        chosen = find_term_columns(table, columns or {})
        given = {
            "terms": chosen.name,
            "codes": chosen.code,
            "languages": chosen.language,
            "frequencies": chosen.frequency,
        }
        found = [f"{what} from column '{column}'" for what, column in given.items() if column is not None]
        return MappingFile(list(read_linked(table, chosen)), kind, [*found, *table.remarks()])
    if kind == USAGI:
        mappings, repairs = read_usagi(path, encoding=encoding)
        return MappingFile(mappings, kind, repairs.remarks(), repairs.lines)
    if kind in (SSSOM, CONCEPT_MAP):
        mappings, counts, repaired = read_sssom(path) if kind == SSSOM else read_concept_map(path)
        return MappingFile(
            mappings, kind, [f"{reason}: {n:,}" for reason, n in (*counts.dropped.items(), *repaired.items())]
        )
    return MappingFile(read_review(path) if kind == REVIEW else read_workbook(path), kind, [])
