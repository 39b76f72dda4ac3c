"""QUAERO French Medical Corpus: mentions in drug labels (EMEA) and Medline titles in French, annotated with UMLS concepts.

Névéol et al., BioTxtM 2014; https://quaerofrenchmed.limsi.fr, QUAERO_FrenchMed_brat.zip, the release of CLEF eHealth 2015 and 2016. Its texts and
brat annotations lie in `QUAERO_FrenchMed/corpus/{train,dev,test}/{EMEA,MEDLINE}/`; the type is a semantic group (ten of them), the CUIs
stand in notes: `#1<tab>AnnotatorNotes T1<tab>C0012345`. Of several CUIs in one note, separated by spaces, a match with one is a hit (README of
its BRATeval, CompareNotesEHealth); BigBIO's loader also splits at commas and plus signs. Mentions are nested, and one that has two groups is
annotated twice, and is two mentions here. Tested on a hand-written fragment in the published format, not on the real files.
"""

import re
from pathlib import Path, PurePosixPath
from typing import Literal

import pyarrow as pa

from benchmarks.corpora.brat import parse_brat
from benchmarks.corpora.corpus import Row, check_rows, documents_of, groups_of, open_corpus, place, to_table

Part = Literal["EMEA", "MEDLINE"]

_PARTS: tuple[Part, ...] = ("EMEA", "MEDLINE")
_CUI = re.compile(r"C[0-9]+")
FRENCH = "fr"


def read_quaero(path: Path, part: Part | None = None) -> pa.Table:
    """Mentions (terms.mentions' SCHEMA, and `groups`) of the test split, by part and file, in the order of annotation, nothing dropped.

    path: the zip, or the folder that it unpacks to. part: both if None. concept_ids: the CUIs of all notes of the mention; what else a note
    says is passed over. document_id: `EMEA/334_2`. A mention whose text is not what stands at its offsets has no start and end. Raises
    DataError with file and line.
    """
    parts = _PARTS if part is None else (part,)
    rows: list[Row] = []
    with open_corpus(
        path, "QUAERO_FrenchMed/corpus/test/{EMEA,MEDLINE}/<document>.ann with a .txt beside each"
    ) as files:
        for name in files.names:
            member = PurePosixPath(name)
            if member.suffix != ".ann" or member.parts[-3:-1] not in {("test", one) for one in parts}:
                continue
            documents = documents_of(files.text(str(member.with_suffix(".txt"))))
            for found in parse_brat(files.text(name), files.where(name)):
                cuis = list(
                    dict.fromkeys(
                        cui for note in found.notes for cui in re.split(r"[\s,;+]+", note) if _CUI.fullmatch(cui)
                    )
                )
                context, at = documents[0].context, place(documents, found.spans, found.pieces)
                rows.append(
                    Row(
                        found.mention,
                        FRENCH,
                        cuis,
                        context,
                        *at,
                        f"{member.parts[-2]}/{member.stem}",
                        groups_of([found.type]),
                    )
                )
        check_rows(rows, files, "UMLS CUIs in notes of the annotations", with_texts=True)
    return to_table(rows, with_groups=True)
