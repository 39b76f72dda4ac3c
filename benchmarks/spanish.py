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
"""

import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pyarrow as pa

from benchmarks.corpus import Corpus, check_rows, documents_of, open_corpus, place, tsv_rows
from benchmarks.document import Document
from benchmarks.gold import Row, to_table
from xsap.errors import DataError
from xsap.languages import to_iso

SPANISH = "es"


class _Layout(NamedTuple):
    file: str
    texts: str  # from the folder above the file's


_DISTEMIST = _Layout("distemist_subtrack2_test_linking.tsv", "text_files")
_SYMPTEMIST = _Layout("symptemist_tsv_test_subtask2.tsv", "subtask1-ner/txt")
_MEDPROCNER = _Layout("medprocner_tsv_test_subtask2.tsv", "txt")

_COLUMNS = (("filename",), ("label",), ("off0", "span_ini", "start_span"), ("off1", "span_end", "end_span"), ("span", "text"), ("code",))
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
        for name in files.names if files.is_one_file else [name for name in files.names if _MULTILINGUAL.search(f"/{name}")]:
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


def _rows(files: Corpus, name: str, language: str, texts: str | None) -> list[Row]:
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
            raise DataError(f"{where}:{number}: expected two offsets and a mention; found '{start}', '{end}', '{mention[:60]}'")
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
        raise DataError(f"{where}:1: expected a header with {expected}, tab-separated; found {', '.join(header)[:200] or 'an empty file'}")
    return [at[0] for at in found]


def _ids(code: str, where: str) -> list[str]:
    if not _CODES.fullmatch(code.strip()):
        raise DataError(f"{where}: expected SNOMED CT identifiers joined by +, NO_CODE or NOMAP; found '{code[:60]}'")
    return list(dict.fromkeys(one for one in re.findall(_CODE, code) if one.isdigit()))
