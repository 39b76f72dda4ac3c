"""Mantra GSC: mentions in drug labels (EMEA), Medline titles and patents in five languages, with UMLS concepts.

Kors et al., JAMIA 2015 (A multilingual gold-standard corpus for biomedical concept recognition: the Mantra GSC);
https://github.com/mi-erasmusmc/Mantra-Gold-Standard-Corpus. Its brat form, Mantra-GSC-brat.zip, is read: for each unit
of text `Mantra-GSC/<Language>/<Corpus>_ec22-cui-best_man/<unit>.txt`, with an `.ann` file beside it whose types are
CUIs. Its notes (`"CUI", "name", "semantic type" ,"GROUP"`) add nothing and are not used. A span with two concepts is
annotated twice and gives two mentions.
"""

import re
from pathlib import Path, PurePosixPath

import pyarrow as pa

from xsap.errors import DataError
from xsap.languages import to_iso
from xsap.terms.brat import read_annotations
from xsap.terms.corpus import CorpusFiles, Row, check_rows, open_corpus, to_table

_LAYOUT = "Mantra-GSC/<Language>/<Corpus>/<unit>.ann with a .txt beside each"
_CUI = re.compile(r"C\d{7}")
_EDITION = "_ec22-cui-best_man"  # at the end of every corpus folder's name


def read_mantra(path: Path) -> pa.Table:
    """Mentions (terms.mentions' SCHEMA) by language, corpus and unit, in the order of annotation, none dropped.

    A mention in pieces has the text of its pieces, and the offsets of the first one's start and the last one's end.

    Args:
        path: The zip, or the folder that it unpacks to.

    Returns:
        A table with a `document_id` such as `Medline_EN_DE/0292_d3878997.u1`.

    Raises:
        DataError: With file and line; also for a mention whose text differs from the text at its offsets.
    """
    with open_corpus(path, _LAYOUT) as files:
        rows = [row for name in files.names if name.endswith(".ann") for row in _rows(files, name)]
        check_rows(rows, files, "annotations whose types are CUIs", with_texts=True)
    return to_table(rows, with_groups=False)


def _rows(files: CorpusFiles, name: str) -> list[Row]:
    unit = PurePosixPath(name)
    if len(unit.parts) < 3:
        raise DataError(f"{files.path_of(name)}: expected {_LAYOUT}")
    try:
        language = to_iso(unit.parts[-3])
    except DataError as error:
        raise DataError(f"{files.path_of(name)}: {error}") from None
    document_id = f"{unit.parts[-2].removesuffix(_EDITION)}/{unit.stem}"
    rows = []
    for found, context, start, end in read_annotations(files, name):
        where = f"{files.path_of(name)}:{found.line}"
        if not _CUI.fullmatch(found.type):
            raise DataError(f"{where}: expected a CUI as the type of the annotation; found '{found.type[:60]}'")
        if start is None:
            spans = ";".join(f"{left} {right}" for left, right in found.spans)
            raise DataError(
                f"{where}: expected '{found.mention[:60]}' at {spans} in the text, found something else there"
            )
        rows.append(Row(found.mention, language, [found.type], context, start, end, document_id))
    return rows
