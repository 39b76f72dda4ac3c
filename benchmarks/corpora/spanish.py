"""Spanish case reports: DisTEMIST, SympTEMIST, MedProcNER (SNOMED CT), CANTEMIST (ICD-O-3), CodiEsp (ICD-10).

DisTEMIST, SympTEMIST and MedProcNER, Miranda-Escalada et al. (CLEF 2022), Lima-López et al. (BioCreative VIII and CLEF
2023); zips at Zenodo 7614764, 10635215 and 8224056. Each holds a TSV file with a header for every task; that of linking
is read:

    DisTEMIST    test_annotated/subtrack2_linking/distemist_subtrack2_test_linking.tsv,
                 texts in test_annotated/text_files
    SympTEMIST   symptemist_test/subtask2-linking/symptemist_tsv_test_subtask2.tsv,
                 texts in symptemist_test/subtask1-ner/txt
    MedProcNER   medprocner_test/tsv/medprocner_tsv_test_subtask2.tsv,
                 texts in medprocner_test/txt

with columns filename, label, the mention and its offsets under three sets of names (off0 off1 span; span_ini span_end
text; start_span end_span text), and code; they are described on the task pages (https://temu.bsc.es/distemist), in
MedProcNER's README and in BigBIO's loaders. A code is a SNOMED CT identifier, several joined by `+` for a composite
mention, or NO_CODE (DisTEMIST: NOMAP). A few were damaged by a spreadsheet (`1.66753E+16`) or mistyped (`N+O`); they
cannot be recovered and count as no code. SympTEMIST's official test file leaves composite mentions out;
`…_subtask2+COMPOSITE.tsv` has them. SympTEMIST's experimental subtask 3 has translated mentions, one file per language.

CANTEMIST-NORM, Miranda-Escalada et al., IberLEF 2020; Zenodo 3773228. `test-set/cantemist-norm/` holds texts with brat
annotations of tumor morphology; the eCIE-O-3.1 code is in a note, `#1<tab>AnnotatorNotes T1<tab>8000/6`, with a grade
or `/H` (not in the classification, but built by its rules) after it: `8140/33`, `8010/3/H`.

CodiEsp-X, Miranda-Escalada et al., CLEF 2020; Zenodo 3837305, `final_dataset_v4_to_publish/test/testX.tsv` and, beside
it, `text_files`. No header; a line is document, DIAGNOSTICO or PROCEDIMIENTO, code, the words, and their offsets: `12
20;25 30` where they are separate, in the words' order, which is not always the text's. Codes are CIE-10's, mostly
lower-case: ICD-10-CM for diagnoses, ICD-10-PCS for procedures, cut to four characters where the text does not say more.
testD.tsv and testP.tsv hold documents and codes without the words.

Formats from the evaluation scripts and their samples (https://github.com/TeMU-BSC) and BigBIO's loaders. CodiEsp was
tested on its real training and dev sets, the others on hand-written fragments in the published formats.
"""

import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pyarrow as pa

from xsap.errors import DataError
from xsap.languages import to_iso
from xsap.terms.brat import read_annotations
from xsap.terms.codiesp import CODIESP_GROUPS, SPANISH, Texts, codiesp_rows, locate_with_context, texts_in
from xsap.terms.corpus import CorpusFiles, Row, check_rows, open_corpus, to_table, tsv_rows


class _Layout(NamedTuple):
    file: str
    texts: str  # relative to the folder above the file's


_DISTEMIST = _Layout("distemist_subtrack2_test_linking.tsv", "text_files")
_SYMPTEMIST = _Layout("symptemist_tsv_test_subtask2.tsv", "subtask1-ner/txt")
_MEDPROCNER = _Layout("medprocner_tsv_test_subtask2.tsv", "txt")
_MULTILINGUAL_LAYOUT = "symptemist_test/subtask3-experimental_multilingual/symptemist_task3_<language>_test.tsv"
_CANTEMIST_LAYOUT = "test-set/cantemist-norm/<document>.ann with a .txt beside each"
_CODIESP_FILES = {"testX.tsv", "devX.tsv", "trainX.tsv"}
_CODIESP_LAYOUT = "final_dataset_v4_to_publish/test/testX.tsv, and the texts in text_files beside it"

_COLUMNS = (
    ("filename",),
    ("label",),
    ("off0", "span_ini", "start_span"),
    ("off1", "span_end", "end_span"),
    ("span", "text"),
    ("code",),
)
_GROUPS = {
    "ENFERMEDAD": "DISO",
    "SINTOMA": "DISO",
    "MORFOLOGIA_NEOPLASIA": "DISO",
    **CODIESP_GROUPS,
}
_CODE = r"(?:[0-9]+(?:[.,][0-9]+)?E\+?[0-9]+|[0-9]+|NO_CODE|NOMAP|N\+O)"
_CODES = re.compile(rf"(?:{_CODE}(?:\s*\+\s*{_CODE})*)?")
_MORPHOLOGY = re.compile(r"[0-9]{4}/[0-9]+(?:/[A-Z])?")
_MULTILINGUAL = re.compile(r"symptemist_test/subtask3[^/]*/[^/]*\.tsv$")
_LANGUAGE = re.compile(r"[-_]([a-z]{2,3})(?:_test)?\.tsv$")


def read_distemist(path: Path) -> pa.Table:
    """Mentions (terms.mentions' SCHEMA, and `groups`) of the test set's linking file, in its order, none dropped.

    Args:
        path: The zip, the folder that it unpacks to, or a file of this format, such as the training set's (its texts
            are found where the layout has them beside it).

    Returns:
        A table whose `concept_ids` are all codes of a composite mention. Context and offsets are null where there is no
        text, the offsets alone where the text differs from the mention there.

    Raises:
        DataError: With file and line.
    """
    return _read_linking(path, _DISTEMIST)


def read_symptemist(path: Path) -> pa.Table:
    """`read_distemist` for SympTEMIST's subtask 2."""
    return _read_linking(path, _SYMPTEMIST)


def read_medprocner(path: Path) -> pa.Table:
    """`read_distemist` for MedProcNER's subtask 2."""
    return _read_linking(path, _MEDPROCNER)


def read_symptemist_multilingual(path: Path) -> pa.Table:
    """`read_distemist` for SympTEMIST's subtask 3: translated mentions, by file.

    The language is only in a file's name: `symptemist_task3_pt_test.tsv`. There are no contexts: the offsets refer to
    the Spanish text.
    """
    rows: list[Row] = []
    with open_corpus(path, _MULTILINGUAL_LAYOUT) as files:
        for name in files.names:
            if not (files.is_one_file or _MULTILINGUAL.search(f"/{name}")):
                continue
            match = _LANGUAGE.search(name)
            try:
                language = to_iso(match[1] if match else "")
            except DataError as error:
                expected = "expected a name that ends in a language, as symptemist_task3_pt_test.tsv does"
                raise DataError(f"{files.path_of(name)}: {expected}; {error}") from None
            rows += _linking_rows(files, name, language, lambda _: [])
        check_rows(rows, files, "SNOMED CT codes", with_texts=False)
    return to_table(rows, with_groups=True)


def _read_linking(path: Path, layout: _Layout) -> pa.Table:
    with open_corpus(path, f"{layout.file}, and the texts in {layout.texts}") as files:
        name = files.find(layout.file)
        rows = _linking_rows(files, name, SPANISH, texts_in(files, PurePosixPath(name).parent.parent / layout.texts))
        check_rows(rows, files, "SNOMED CT codes", with_texts=False)
    return to_table(rows, with_groups=True)


def _linking_rows(files: CorpusFiles, name: str, language: str, texts: Texts) -> list[Row]:
    path = files.path_of(name)
    lines = tsv_rows(files.text(name), path)
    header = lines[0][1] if lines else []
    columns = _find_columns(header, path)
    rows = []
    for number, cells in lines[1:]:
        where = f"{path}:{number}"
        if len(cells) != len(header):
            raise DataError(f"{where}: expected {len(header)} tab-separated cells, found {len(cells)}")
        document_id, label, start, end, mention, code = (cells[column] for column in columns)
        if not (re.fullmatch("[0-9]{1,9}", start) and re.fullmatch("[0-9]{1,9}", end) and mention.split()):
            found = f"found '{start}', '{end}', '{mention[:60]}'"
            raise DataError(f"{where}: expected two offsets and a mention; {found}")
        documents = texts(document_id)
        context, location = locate_with_context(documents, [(int(start), int(end))], [mention])
        ids = _parse_snomed_codes(code, where)
        rows.append(Row(" ".join(mention.split()), language, ids, context, *location, document_id, _groups(label)))
    return rows


def _groups(label: str) -> list[str]:
    return [_GROUPS[label]] if label in _GROUPS else []


def _find_columns(header: list[str], path: str) -> list[int]:
    found = [[i for i, column in enumerate(header) if column in names] for names in _COLUMNS]
    if any(len(columns) != 1 for columns in found):
        expected = ", ".join("/".join(names) for names in _COLUMNS)
        names = ", ".join(header)[:200] or "an empty file"
        raise DataError(f"{path}:1: expected a header with {expected}, tab-separated; found {names}")
    return [columns[0] for columns in found]


def _parse_snomed_codes(code: str, where: str) -> list[str]:
    if not _CODES.fullmatch(code.strip()):
        raise DataError(f"{where}: expected SNOMED CT identifiers joined by +, NO_CODE or NOMAP; found '{code[:60]}'")
    return list(dict.fromkeys(one for one in re.findall(_CODE, code) if one.isdigit()))


def read_cantemist(path: Path) -> pa.Table:
    """Mentions (terms.mentions' SCHEMA, and `groups`) of CANTEMIST-NORM's test set, by file, none dropped.

    Args:
        path: The zip, or the folder that it unpacks to.

    Returns:
        A table whose `start` and `end` are null where the text differs from the mention at its offsets.

    Raises:
        DataError: With file and line.
    """
    rows: list[Row] = []
    with open_corpus(path, _CANTEMIST_LAYOUT) as files:
        for name in files.names:
            member = PurePosixPath(name)
            if member.suffix != ".ann" or member.parts[-3:-1] != ("test-set", "cantemist-norm"):
                continue
            for found, context, start, end in read_annotations(files, name):
                codes = (code for note in found.notes for code in note.split() if _MORPHOLOGY.fullmatch(code))
                ids, groups = list(dict.fromkeys(codes)), _groups(found.type)
                rows.append(Row(found.mention, SPANISH, ids, context, start, end, member.stem, groups))
        check_rows(rows, files, "eCIE-O codes in notes of the annotations", with_texts=True)
    return to_table(rows, with_groups=True)


def read_codiesp(path: Path) -> pa.Table:
    """Mentions (terms.mentions' SCHEMA, and `groups`) of CodiEsp-X's test set, in order, none dropped; codes as written.

    Args:
        path: The zip, the folder that it unpacks to, or a file such as devX.tsv (its texts are found beside it). In a
            folder without the test set, such as dev/, its only file of this format is read.

    Returns:
        A table with group DISO for diagnoses and PROC for procedures: two vocabularies. Separate words are joined by a
        space; their offsets are from the first of them in the text to the last. Context and offsets are null where
        there is no text, the offsets alone where the text differs there.

    Raises:
        DataError: With file and line.
    """
    with open_corpus(path, _CODIESP_LAYOUT) as files:
        found = {PurePosixPath(name).name for name in files.names} & _CODIESP_FILES
        only = min(found) if len(found) == 1 else "testX.tsv"
        rows = codiesp_rows(files, files.find(only))
        check_rows(rows, files, "ICD-10 codes", with_texts=False)
    return to_table(rows, with_groups=True)
