"""Annotations in the format of CodiEsp-X (Miranda-Escalada et al., CLEF 2020): a TSV file without a header, and texts in `text_files` beside it.

A line is document, DIAGNOSTICO or PROCEDIMIENTO, code, the words, and their offsets: `12 20;25 30` where they are separate, in the words' order,
which is not always the text's.
"""

from collections.abc import Callable
from functools import cache
from pathlib import PurePosixPath

from xsap.errors import DataError
from xsap.terms.brat import parse_spans, split_pieces
from xsap.terms.corpus import CorpusFiles, Document, Location, Row, document_variants, locate, tsv_rows

CODIESP_GROUPS = {"DIAGNOSTICO": "DISO", "PROCEDIMIENTO": "PROC"}
SPANISH = "es"

Texts = Callable[[str], list[Document]]
"""A document's id → the variants of its text, none where there is no text."""


def texts_in(files: CorpusFiles, folder: PurePosixPath) -> Texts:
    """The texts of a folder, `<id>.txt`, each read once."""

    @cache
    def variants(document_id: str) -> list[Document]:
        text = files.optional_text(str(folder / f"{document_id}.txt"))
        return [] if text is None else document_variants(text)

    return variants


def locate_with_context(
    documents: list[Document], spans: list[tuple[int, int]], pieces: list[str]
) -> tuple[str | None, Location]:
    """The context of a mention, None without a text, and where it is in it."""
    return documents[0].context if documents else None, locate(documents, spans, pieces)


def codiesp_rows(files: CorpusFiles, name: str) -> list[Row]:
    """The mentions of a file, in order, none dropped; separate words are joined by a space. Raises DataError with file and line."""
    texts = texts_in(files, PurePosixPath(name).parent / "text_files")
    rows = []
    for number, cells in tsv_rows(files.text(name), files.path_of(name)):
        spans = parse_spans(cells[4].strip()) if len(cells) == 5 else None
        if spans is None or not cells[2].strip() or not cells[3].split():
            expected = "document, type, code, words and offsets such as 12 20;25 30, tab-separated, as in testX.tsv"
            hint = "; files of D and P don't have the words" if len(cells) == 2 else ""
            found = f"found '{' | '.join(cells)[:80]}'"
            raise DataError(f"{files.path_of(name)}:{number}: expected {expected}{hint}; {found}")
        document_id, label, code, words, _ = cells
        context, location = locate_with_context(texts(document_id), spans, split_pieces(words, spans))
        mention, ids = " ".join(words.split()), [code.strip()]
        groups = [CODIESP_GROUPS[label]] if label in CODIESP_GROUPS else []
        rows.append(Row(mention, SPANISH, ids, context, *location, document_id, groups))
    return rows
