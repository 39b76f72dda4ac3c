"""DisTEMIST, SympTEMIST and MedProcNER: diseases, symptoms and procedures in Spanish case reports, linked to SNOMED CT.

Miranda-Escalada et al. (CLEF 2022), Lima-López et al. (BioCreative VIII and CLEF 2023), Barcelona Supercomputing Center; zips at Zenodo 7614764,
10635215 and 8224056. Each holds a TSV file with a header for every task; that of linking is read:

    DisTEMIST    test_annotated/subtrack2_linking/distemist_subtrack2_test_linking.tsv, texts in test_annotated/text_files
    SympTEMIST   symptemist_test/subtask2-linking/symptemist_tsv_test_subtask2.tsv, texts in symptemist_test/subtask1-ner/txt
    MedProcNER   medprocner_test/tsv/medprocner_tsv_test_subtask2.tsv, texts in medprocner_test/txt

with columns filename, label, the mention and its offsets under three sets of names (off0 off1 span; span_ini span_end text; start_span end_span
text), and code. Columns are told from the task pages (https://temu.bsc.es/distemist), MedProcNER's README and BigBIO's loaders. A code is a
SNOMED CT identifier, several joined by `+` for a composite mention, or NO_CODE (DisTEMIST: NOMAP). A few were spoilt by a spreadsheet
(`1.66753E+16`) or mistyped (`N+O`): what they meant can't be told, so they are none. SympTEMIST's official test file leaves composite
mentions out; `…_subtask2+COMPOSITE.tsv` has them. Cells with quotes are quoted as pandas does. SympTEMIST's experimental subtask 3 has
translated mentions, a file a language. Tested on hand-written fragments in the published formats, not on the real files.

CANTEMIST and CodiEsp: Spanish case reports with codes of ICD-O-3 and ICD-10, each code with the words that give rise to it.

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
from typing import NamedTuple

import pyarrow as pa

from benchmarks.corpora.brat import parse_brat, parse_spans, pieces_of
from benchmarks.corpora.corpus import (
    CorpusFiles,
    Document,
    Row,
    check_rows,
    documents_of,
    open_corpus,
    place,
    to_table,
    tsv_rows,
)
from xsap.errors import DataError
from xsap.languages import to_iso

SPANISH = "es"


class _Layout(NamedTuple):
    file: str
    texts: str  # from the folder above the file's


_DISTEMIST = _Layout("distemist_subtrack2_test_linking.tsv", "text_files")
_SYMPTEMIST = _Layout("symptemist_tsv_test_subtask2.tsv", "subtask1-ner/txt")
_MEDPROCNER = _Layout("medprocner_tsv_test_subtask2.tsv", "txt")

_COLUMNS = (
    ("filename",),
    ("label",),
    ("off0", "span_ini", "start_span"),
    ("off1", "span_end", "end_span"),
    ("span", "text"),
    ("code",),
)
_GROUPS = {"ENFERMEDAD": "DISO", "SINTOMA": "DISO", "PROCEDIMIENTO": "PROC"}
_CODE = r"(?:[0-9]+(?:[.,][0-9]+)?E\+?[0-9]+|[0-9]+|NO_CODE|NOMAP|N\+O)"
_CODES = re.compile(rf"(?:{_CODE}(?:\s*\+\s*{_CODE})*)?")
_MULTILINGUAL = re.compile(r"symptemist_test/subtask3[^/]*/[^/]*\.tsv$")
_LANGUAGE = re.compile(r"[-_]([a-z]{2,3})(?:_test)?\.tsv$")


def read_distemist(path: Path) -> pa.Table:
    """Mentions (terms.mentions' SCHEMA, and `groups`) of the test set's linking file, in its order, nothing dropped.

    path: the zip, the folder that it unpacks to, or a file of this format, such as the training set's (its texts are found where the layout
    has them beside it). concept_ids: every code of a composite mention; so several of them mean that it names several concepts. Context and
    place are null where the text is not there, the place alone where the text says something else at the offsets. Raises DataError with
    file and line.
    """
    return _read(path, _DISTEMIST)


def read_symptemist(path: Path) -> pa.Table:
    """`read_distemist` for SympTEMIST's subtask 2."""
    return _read(path, _SYMPTEMIST)


def read_medprocner(path: Path) -> pa.Table:
    """`read_distemist` for MedProcNER's subtask 2."""
    return _read(path, _MEDPROCNER)


def read_symptemist_multilingual(path: Path) -> pa.Table:
    """SympTEMIST's subtask 3: mentions as translated, by file; path: as above, or one of its files.

    A file says its language only in its name: `symptemist_task3_pt_test.tsv`. Neither contexts nor places: the offsets are the Spanish text's.
    """
    layout = "symptemist_test/subtask3-experimental_multilingual/symptemist_task3_<language>_test.tsv"
    rows: list[Row] = []
    with open_corpus(path, layout) as files:
        for name in (
            files.names if files.is_one_file else [name for name in files.names if _MULTILINGUAL.search(f"/{name}")]
        ):
            match = _LANGUAGE.search(name)
            try:
                language = to_iso(match[1] if match else "")
            except DataError as error:
                expected = "expected a name that ends in a language, as symptemist_task3_pt_test.tsv does"
                raise DataError(f"{files.where(name)}: {expected}; {error}") from None
            rows += _rows(files, name, language, None)
        check_rows(rows, files, "SNOMED CT codes", with_texts=False)
    return to_table(rows, with_groups=True)


def _read(path: Path, layout: _Layout) -> pa.Table:
    with open_corpus(path, f"{layout.file}, and the texts in {layout.texts}") as files:
        name = files.the(layout.file)
        rows = _rows(files, name, SPANISH, str(PurePosixPath(name).parent.parent / layout.texts))
        check_rows(rows, files, "SNOMED CT codes", with_texts=False)
    return to_table(rows, with_groups=True)


def _rows(files: CorpusFiles, name: str, language: str, texts: str | None) -> list[Row]:
    where = files.where(name)
    lines = tsv_rows(files.text(name), where)
    at = _positions(lines[0][1] if lines else [], where)
    documents: dict[str, list[Document]] = {}
    rows = []
    for number, cells in lines[1:]:
        if len(cells) != len(lines[0][1]):
            raise DataError(f"{where}:{number}: expected {len(lines[0][1])} tab-separated cells, found {len(cells)}")
        document_id, label, start, end, mention, code = (cells[column] for column in at)
        if not (re.fullmatch("[0-9]{1,9}", start) and re.fullmatch("[0-9]{1,9}", end) and mention.split()):
            raise DataError(
                f"{where}:{number}: expected two offsets and a mention; found '{start}', '{end}', '{mention[:60]}'"
            )
        if texts is not None and document_id not in documents:
            text = files.text_if_there(f"{texts}/{document_id}.txt")
            documents[document_id] = [] if text is None else documents_of(text)
        read = documents.get(document_id, [])
        context, (first, last) = read[0].context if read else None, place(read, [(int(start), int(end))], [mention])
        ids, groups = _ids(code, f"{where}:{number}"), [_GROUPS[label]] if label in _GROUPS else []
        rows.append(Row(" ".join(mention.split()), language, ids, context, first, last, document_id, groups))
    return rows


def _positions(header: list[str], where: str) -> list[int]:
    found = [[at for at, column in enumerate(header) if column in names] for names in _COLUMNS]
    if any(len(at) != 1 for at in found):
        expected = ", ".join("/".join(names) for names in _COLUMNS)
        raise DataError(
            f"{where}:1: expected a header with {expected}, tab-separated; found {', '.join(header)[:200] or 'an empty file'}"
        )
    return [at[0] for at in found]


def _ids(code: str, where: str) -> list[str]:
    if not _CODES.fullmatch(code.strip()):
        raise DataError(f"{where}: expected SNOMED CT identifiers joined by +, NO_CODE or NOMAP; found '{code[:60]}'")
    return list(dict.fromkeys(one for one in re.findall(_CODE, code) if one.isdigit()))


_SPANISH_LANGUAGE = "es"
_MORPHOLOGY = re.compile(r"[0-9]{4}/[0-9]+(?:/[A-Z])?")
_CODE_GROUPS = {"MORFOLOGIA_NEOPLASIA": "DISO", "DIAGNOSTICO": "DISO", "PROCEDIMIENTO": "PROC"}


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
                codes = list(
                    dict.fromkeys(code for note in found.notes for code in note.split() if _MORPHOLOGY.fullmatch(code))
                )
                context, at = documents[0].context, place(documents, found.spans, found.pieces)
                rows.append(
                    Row(found.mention, _SPANISH_LANGUAGE, codes, context, *at, member.stem, _groups(found.type))
                )
        check_rows(rows, files, "eCIE-O codes in notes of the annotations", with_texts=True)
    return to_table(rows, with_groups=True)


def read_codiesp(path: Path) -> pa.Table:
    """Mentions (terms.mentions' SCHEMA, and `groups`) of CodiEsp-X's test set, in the file's order, nothing dropped; codes as they stand there.

    path: the zip, the folder that it unpacks to, or a file such as devX.tsv (its texts are found beside it). DISO are diagnoses, PROC procedures:
    two vocabularies. Words apart are joined by a space; the place reaches from the first of them in the text to the last. Context and place
    are null where the text is not there, the place alone where it says something else at the offsets. Raises DataError with file and line.
    """
    with open_corpus(
        path, "final_dataset_v4_to_publish/test/testX.tsv, and the texts in text_files beside it"
    ) as files:
        rows = _codiesp_rows(files, files.the("testX.tsv"))
        check_rows(rows, files, "ICD-10 codes", with_texts=False)
    return to_table(rows, with_groups=True)


def _codiesp_rows(files: CorpusFiles, name: str) -> list[Row]:
    texts = PurePosixPath(name).parent / "text_files"
    documents: dict[str, list[Document]] = {}
    rows = []
    for number, cells in tsv_rows(files.text(name), files.where(name)):
        spans = parse_spans(cells[4].strip()) if len(cells) == 5 else None
        if spans is None or not cells[2].strip() or not cells[3].split():
            expected = "document, type, code, words and offsets such as 12 20;25 30, tab-separated, as in testX.tsv"
            hint = "; files of D and P don't tell the words" if len(cells) == 2 else ""
            raise DataError(
                f"{files.where(name)}:{number}: expected {expected}{hint}; found '{' | '.join(cells)[:80]}'"
            )
        document_id, label, code, words, _ = cells
        if document_id not in documents:
            text = files.text_if_there(str(texts / f"{document_id}.txt"))
            documents[document_id] = [] if text is None else documents_of(text)
        read = documents[document_id]
        context, at = read[0].context if read else None, place(read, spans, pieces_of(words, spans))
        rows.append(
            Row(" ".join(words.split()), _SPANISH_LANGUAGE, [code.strip()], context, *at, document_id, _groups(label))
        )
    return rows


def _groups(label: str) -> list[str]:
    return [_CODE_GROUPS[label]] if label in _CODE_GROUPS else []
