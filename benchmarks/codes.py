"""CANTEMIST and CodiEsp: Spanish case reports with codes of ICD-O-3 and ICD-10, each code with the words that give rise to it.

CANTEMIST-NORM, Miranda-Escalada et al., IberLEF 2020; Zenodo 3773228. `test-set/cantemist-norm/` holds texts with brat annotations of tumour
morphology; the eCIE-O-3.1 code stands in a note, `#1<tab>AnnotatorNotes T1<tab>8000/6`, with a grade or `/H` (not in the classification,
but built by its rules) after it: `8140/33`, `8010/3/H`.

CodiEsp-X, Miranda-Escalada et al., CLEF 2020; Zenodo 3837305, `final_dataset_v4_to_publish/test/testX.tsv` and, beside it, `text_files`. No header;
a line is document, DIAGNOSTICO or PROCEDIMIENTO, code, the words, and their offsets: `12 20;25 30` where they stand apart, in the words' order,
which is not always the text's. Codes are CIE-10's, lower-case but for a few: ICD-10-CM for diagnoses, ICD-10-PCS for procedures, cut to
four characters where the text doesn't say more. testD.tsv and testP.tsv hold documents and codes without the words.

Formats from the evaluation scripts and their samples (https://github.com/TeMU-BSC) and BigBIO's loaders. Tested on hand-written fragments in the
published formats, not on the real files.
"""

import re
from pathlib import Path, PurePosixPath

import pyarrow as pa

from benchmarks.brat import parse_brat, parse_spans, pieces_of
from benchmarks.corpus import Corpus, check_rows, documents_of, open_corpus, place, tsv_rows
from benchmarks.document import Document
from benchmarks.gold import Row, to_table
from xsap.errors import DataError

SPANISH = "es"
_MORPHOLOGY = re.compile(r"[0-9]{4}/[0-9]+(?:/[A-Z])?")
_GROUPS = {"MORFOLOGIA_NEOPLASIA": "DISO", "DIAGNOSTICO": "DISO", "PROCEDIMIENTO": "PROC"}


def read_cantemist(path: Path) -> pa.Table:
    """Mentions (terms.mentions' SCHEMA, and `groups`) of CANTEMIST-NORM's test set, by file, in the order of annotation, nothing dropped.

    path: the zip, or the folder that it unpacks to. A mention whose text is not what stands at its offsets has no start and end. Raises
    DataError with file and line.
    """
    rows: list[Row] = []
    with open_corpus(path, "test-set/cantemist-norm/<document>.ann with a .txt beside each") as files:
        for name in files.names:
            member = PurePosixPath(name)
            if member.suffix != ".ann" or member.parts[-3:-1] != ("test-set", "cantemist-norm"):
                continue
            documents = documents_of(files.text(str(member.with_suffix(".txt"))))
            for found in parse_brat(files.text(name), files.where(name)):
                codes = list(dict.fromkeys(code for note in found.notes for code in note.split() if _MORPHOLOGY.fullmatch(code)))
                context, at = documents[0].context, place(documents, found.spans, found.pieces)
                rows.append(Row(found.mention, SPANISH, codes, context, *at, member.stem, _groups(found.type)))
        check_rows(rows, files, "eCIE-O codes in notes of the annotations", with_texts=True)
    return to_table(rows, with_groups=True)


def read_codiesp(path: Path) -> pa.Table:
    """Mentions (terms.mentions' SCHEMA, and `groups`) of CodiEsp-X's test set, in the file's order, nothing dropped; codes as they stand there.

    path: the zip, the folder that it unpacks to, or a file such as devX.tsv (its texts are found beside it). DISO are diagnoses, PROC procedures:
    two vocabularies. Words apart are joined by a space; the place reaches from the first of them in the text to the last. Context and place
    are null where the text is not there, the place alone where it says something else at the offsets. Raises DataError with file and line.
    """
    with open_corpus(path, "final_dataset_v4_to_publish/test/testX.tsv, and the texts in text_files beside it") as files:
        rows = _codiesp_rows(files, files.the("testX.tsv"))
        check_rows(rows, files, "ICD-10 codes", with_texts=False)
    return to_table(rows, with_groups=True)


def _codiesp_rows(files: Corpus, name: str) -> list[Row]:
    texts = PurePosixPath(name).parent / "text_files"
    documents: dict[str, list[Document]] = {}
    rows = []
    for number, cells in tsv_rows(files.text(name), files.where(name)):
        spans = parse_spans(cells[4].strip()) if len(cells) == 5 else None
        if spans is None or not cells[2].strip() or not cells[3].split():
            expected = "document, type, code, words and offsets such as 12 20;25 30, tab-separated, as in testX.tsv"
            hint = "; files of D and P don't tell the words" if len(cells) == 2 else ""
            raise DataError(f"{files.where(name)}:{number}: expected {expected}{hint}; found '{' | '.join(cells)[:80]}'")
        document_id, label, code, words, _ = cells
        if document_id not in documents:
            text = files.text_if_there(str(texts / f"{document_id}.txt"))
            documents[document_id] = [] if text is None else documents_of(text)
        read = documents[document_id]
        context, at = read[0].context if read else None, place(read, spans, pieces_of(words, spans))
        rows.append(Row(" ".join(words.split()), SPANISH, [code.strip()], context, *at, document_id, _groups(label)))
    return rows


def _groups(label: str) -> list[str]:
    return [_GROUPS[label]] if label in _GROUPS else []
