"""Annotated corpora as mentions with context: a folder in brat's format, a data set in BigBIO's schema, a file or folder in CodiEsp's.

The context of a mention is a window of the text around it: WINDOW characters to either side, less what remains of a word at its ends. Of a mention
in pieces, start and end are those of all pieces together. In brat an annotation's concepts are those of its normalizations, `N1 Reference T1
RESOURCE:id`, and of notes that are one code, `#1 AnnotatorNotes T1 8000/6`, where there are none. Terminologies write an id with its resource
(HP:0001250) or without (C0011849), so both `RESOURCE:id` and `id` count as the concept's id, but for those of UMLS and MESH, which are written
without.
"""

import re
from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pyarrow as pa

from xsap.errors import DataError
from xsap.files import RowCounts
from xsap.languages import UNKNOWN
from xsap.terms.bigbio import is_bigbio, read_bigbio
from xsap.terms.brat import Annotation, read_annotations
from xsap.terms.codiesp import CODIESP_GROUPS, codiesp_rows
from xsap.terms.corpus import CorpusFiles, Row, check_rows, open_corpus, parse_ids, to_table
from xsap.terms.mentions import SCHEMA

WINDOW = 200  # characters of context on either side of a mention
NO_CODE = "without a normalization or a note that is a code"
_BRAT_LAYOUT = ".ann files in brat's format, each with a .txt beside it"
_CODIESP_LAYOUT = "a file such as trainX.tsv in CodiEsp's format, and the texts in text_files beside it"
_CODE = re.compile(r"[^\s0-9]*[0-9]\S*")
_CODIESP_LINE = re.compile(rf"[^\t\n]+\t(?:{'|'.join(CODIESP_GROUPS)})\t[^\t\n]+\t[^\t\n]+\t[0-9]+ [0-9]+[0-9 ;]*\r?")


class CorpusFormat(StrEnum):
    """Formats of annotated corpora."""

    BRAT = "brat"
    BIGBIO = "BigBIO"
    CODIESP = "CodiEsp"


class AnnotatedCorpus(NamedTuple):
    """Mentions of a corpus, a table of `terms.mentions.SCHEMA`, with what was dropped and what was chosen, as phrases for a summary."""

    mentions: pa.Table
    counts: RowCounts
    remarks: list[str]


def recognize_corpus(path: Path) -> CorpusFormat | None:
    """The format of an annotated corpus, by its files; None for anything else."""
    if path.is_dir() or path.suffix == ".zip":
        with open_corpus(path, _BRAT_LAYOUT) as files:
            if any(name.endswith(".ann") for name in files.names):
                return CorpusFormat.BRAT
            return CorpusFormat.CODIESP if _codiesp_files(files) else None
    if path.suffix == ".tsv" and _is_codiesp(path):
        return CorpusFormat.CODIESP
    return CorpusFormat.BIGBIO if path.is_file() and is_bigbio(path) else None


def read_corpus(path: Path, corpus_format: CorpusFormat, *, whole_texts: bool = False) -> AnnotatedCorpus:
    """Read an annotated corpus.

    Args:
        path: A folder, a zip of it, or a file.
        corpus_format: What `recognize_corpus` found.
        whole_texts: Whether the context of a mention is all of its text instead of a window.

    Raises:
        DataError: It can't be read, or nothing in it has a concept; with file and line.
    """
    read = {CorpusFormat.BRAT: _read_brat, CorpusFormat.BIGBIO: _read_bigbio, CorpusFormat.CODIESP: _read_codiesp}
    rows, dropped = read[corpus_format](path)
    windows = rows if whole_texts else [_in_window(row) for row in rows]
    unlocated = sum(row.start is None for row in windows)
    remarks = [] if whole_texts else [f"context: {WINDOW} characters on either side of a mention"]
    if unlocated:
        remarks.append(f"mentions that are not found in the text at their offsets, so without context: {unlocated:,}")
    counts = RowCounts(len(rows) + dropped.total(), len(rows), dict(dropped))
    return AnnotatedCorpus(to_table(windows, with_groups=False), counts, remarks)


def _read_brat(path: Path) -> tuple[list[Row], Counter[str]]:
    rows, dropped = list[Row](), Counter[str]()
    with open_corpus(path, _BRAT_LAYOUT) as files:
        for name in files.names:
            if not name.endswith(".ann"):
                continue
            for found, context, start, end in read_annotations(files, name):
                ids = _ids_of(found)
                if ids is None:
                    dropped[NO_CODE] += 1
                    continue
                document = str(PurePosixPath(name).with_suffix(""))
                rows.append(Row(found.mention, UNKNOWN, ids, context, start, end, document))
        check_rows(rows, files, "ids in normalizations or notes of the annotations", with_texts=False)
    return rows, dropped


def _ids_of(found: Annotation) -> list[str] | None:
    """The concepts of an annotation, none for one that is annotated to have none; None where nothing says."""
    if found.references:
        return list(dict.fromkeys(one for reference in found.references for one in _forms(reference)))
    codes = [note for note in found.notes if _CODE.fullmatch(note)]
    return list(dict.fromkeys(codes)) or None


def _forms(reference: str) -> Iterator[str]:
    resource, _, identifier = reference.partition(":")
    for one in parse_ids(identifier):
        bare = parse_ids(f"{resource}:{one}")
        yield from bare if bare == [one] else [f"{resource}:{one}", one]


def _read_bigbio(path: Path) -> tuple[list[Row], Counter[str]]:
    rows, dropped = list[Row](), Counter[str]()
    for row in read_bigbio(path).select(SCHEMA.names).to_pylist():
        if row["concept_ids"] and row["mention"]:
            rows.append(Row(**row))
        else:
            dropped["without a concept of any database" if row["mention"] else "no text"] += 1
    return rows, dropped


def _read_codiesp(path: Path) -> tuple[list[Row], Counter[str]]:
    with open_corpus(path, _CODIESP_LAYOUT) as files:
        names = list(files.names) if files.is_one_file else _codiesp_files(files)
        if len(names) != 1:
            shown = ", ".join(names[:5])
            raise DataError(
                f"{path}: expected one file in CodiEsp's format, found {len(names)} ({shown}); give one of them"
            )
        rows = codiesp_rows(files, names[0])
        check_rows(rows, files, "codes", with_texts=False)
    return rows, Counter()


def _codiesp_files(files: CorpusFiles) -> list[str]:
    return [name for name in files.names if name.endswith("X.tsv")]


def _is_codiesp(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8") as stream:
            return _CODIESP_LINE.fullmatch(stream.readline().removesuffix("\n")) is not None
    except (OSError, UnicodeDecodeError):
        return False


def _in_window(row: Row) -> Row:
    """A mention with the window of its text as context."""
    if row.context is None or row.start is None or row.end is None:
        return row._replace(context=None, start=None, end=None)
    first, last = max(0, row.start - WINDOW), min(len(row.context), row.end + WINDOW)
    if first > 0 and not row.context[first - 1].isspace():
        first = min(row.start, next((i + 1 for i in range(first, row.start) if row.context[i].isspace()), row.start))
    if last < len(row.context) and not row.context[last].isspace():
        last = next((i for i in range(last - 1, row.end - 1, -1) if row.context[i].isspace()), row.end)
    while row.context[first].isspace():
        first += 1
    window = row.context[first:last].rstrip()
    return row._replace(context=window, start=row.start - first, end=row.end - first)
