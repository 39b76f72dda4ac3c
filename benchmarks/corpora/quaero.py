"""QUAERO French Medical Corpus: mentions in drug labels (EMEA) and Medline titles in French, with UMLS concepts.

Névéol et al., BioTxtM 2014; https://quaerofrenchmed.limsi.fr, QUAERO_FrenchMed_brat.zip, the release of CLEF eHealth
2015 and 2016. Its texts and brat annotations are in `QUAERO_FrenchMed/corpus/{train,dev,test}/{EMEA,MEDLINE}/`; the
type is a semantic group (ten of them), and the CUIs are in notes: `#1<tab>AnnotatorNotes T1<tab>C0012345`. Of several
CUIs in one note, separated by spaces, any one is right (README of its BRATeval, CompareNotesEHealth); BigBIO's loader
also splits at commas and plus signs. Mentions are nested; one with two groups is annotated twice and gives two
mentions. Tested on a hand-written fragment in the published format, not on the real files.
"""

import re
from pathlib import Path, PurePosixPath
from typing import Literal

import pyarrow as pa

from xsap.terms.brat import read_annotations
from xsap.terms.corpus import Row, check_rows, groups_of, open_corpus, to_table

Part = Literal["EMEA", "MEDLINE"]

_PARTS: tuple[Part, ...] = ("EMEA", "MEDLINE")
_LAYOUT = "QUAERO_FrenchMed/corpus/test/{EMEA,MEDLINE}/<document>.ann with a .txt beside each"
_CUI = re.compile(r"(?<![^\s,;+])C[0-9]+(?![^\s,;+])")
FRENCH = "fr"


def read_quaero(path: Path, part: Part | None = None) -> pa.Table:
    """Mentions (terms.mentions' SCHEMA, and `groups`) of the test split, by part and file, none dropped.

    Args:
        path: The zip, or the folder that it unpacks to.
        part: One part; both by default.

    Returns:
        A table whose `concept_ids` are the CUIs of all notes of a mention, whose `document_id` is such as `EMEA/334_2`,
        and whose `start` and `end` are null where the text differs from the mention at its offsets.

    Raises:
        DataError: With file and line.
    """
    folders = {("test", one) for one in (_PARTS if part is None else (part,))}
    rows: list[Row] = []
    with open_corpus(path, _LAYOUT) as files:
        for name in files.names:
            member = PurePosixPath(name)
            if member.suffix != ".ann" or member.parts[-3:-1] not in folders:
                continue
            document_id = f"{member.parts[-2]}/{member.stem}"
            for found, context, start, end in read_annotations(files, name):
                cuis = list(dict.fromkeys(cui for note in found.notes for cui in _CUI.findall(note)))
                groups = groups_of([found.type])
                rows.append(Row(found.mention, FRENCH, cuis, context, start, end, document_id, groups))
        check_rows(rows, files, "UMLS CUIs in notes of the annotations", with_texts=True)
    return to_table(rows, with_groups=True)
