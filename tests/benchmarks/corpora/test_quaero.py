"""QUAERO's brat files: a fragment in its published layout, with unusual lines and wrong content."""

import re
import zipfile

import pytest

from benchmarks.corpora.quaero import read_quaero
from xsap.errors import DataError
from xsap.terms.mentions import SCHEMA, read_mentions, write_mentions

ROOT = "QUAERO_FrenchMed/corpus"
FILES = {
    f"{ROOT}/test/EMEA/9_2.txt": "\n\n La toux  sèche \n est traitée par l’ acide doux . \n".encode(),
    f"{ROOT}/test/EMEA/9_2.ann": (
        "T1\tDISO 6 17\ttoux  sèche\n#1\tAnnotatorNotes T1\tC1111111\n"
        "T2\tDISO 6 10\ttoux\n#2\tAnnotatorNotes T2\tC2222222 C3333333\n"
        "T3\tPROC 24 31\ttraitée\n"  # no note
        "T4\tCHEM 38 49\t acide doux\n#4\tAnnotatorNotes T4\tC4444444,C5555555+C4444444\n#5\tAnnotatorNotes T4\tC6666666 \n"
        "T5\tDISO 6 10;24 31\ttoux traitée\n#6\tAnnotatorNotes T5\tC\n"  # seen in a draft of the corpus
        "T6\tDISO 6 10\ttous\n#7\tAnnotatorNotes T6\tC7777777\n"  # the text differs there
    ).encode(),
    f"{ROOT}/test/EMEA/annotation.conf": b"[entities]\nDISO\n",
    f"{ROOT}/test/EMEA/.stats_cache": b"\x80\x02",
    f"{ROOT}/test/MEDLINE/100.txt": b"Toux chez l'enfant.\r\n",
    f"{ROOT}/test/MEDLINE/100.ann": (
        b"T1\tDISO 0 4\tToux\r\n#1\tAnnotatorNotes T1\tC2222222\r\nT2\tPHEN 0 4\tToux\r\n#2\tAnnotatorNotes T2\tC8888888\r\n"
        b"T3\tELSE 12 18\tenfant\r\n#3\tAnnotatorNotes T3\tC9999999\r\nR1\tOVERLAP Arg1:T1 Arg2:T2\r\n"
    ),
    f"{ROOT}/test/MEDLINE/100.ann~": b"T1\tDISO 0 4\tdraft\n",
    f"{ROOT}/test/MEDLINE/200.txt": b"Rien.",
    f"{ROOT}/test/MEDLINE/200.ann": b"",
    f"{ROOT}/train/MEDLINE/1.txt": b"train",
    f"{ROOT}/train/MEDLINE/1.ann": b"T1\tDISO 0 5\ttrain\n#1\tAnnotatorNotes T1\tC0000000\n",
}


def _zip(folder, changes=None):
    path = folder / "QUAERO_FrenchMed_brat.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (FILES | (changes or {})).items():
            if content is not None:
                archive.writestr(name, content)
    return path


def _seen(table):
    return [
        (row["mention"], row["concept_ids"], row["groups"], row["document_id"], row["start"], row["end"])
        for row in table.to_pylist()
    ]


EMEA = [
    ("toux sèche", ["C1111111"], ["DISO"], "EMEA/9_2", 3, 13),
    ("toux", ["C2222222", "C3333333"], ["DISO"], "EMEA/9_2", 3, 7),
    ("traitée", [], ["PROC"], "EMEA/9_2", 18, 25),
    ("acide doux", ["C4444444", "C5555555", "C6666666"], ["CHEM"], "EMEA/9_2", 33, 43),
    ("toux traitée", [], ["DISO"], "EMEA/9_2", 3, 25),
    ("tous", ["C7777777"], ["DISO"], "EMEA/9_2", None, None),
]
MEDLINE = [
    ("Toux", ["C2222222"], ["DISO"], "MEDLINE/100", 0, 4),
    ("Toux", ["C8888888"], ["PHEN"], "MEDLINE/100", 0, 4),
    ("enfant", ["C9999999"], [], "MEDLINE/100", 12, 18),
]


def test_part_selects_mentions_of_test_split(tmp_path):
    table = read_quaero(_zip(tmp_path))
    assert table.schema.names == [*SCHEMA.names, "groups"]
    assert _seen(table) == EMEA + MEDLINE
    assert set(table["language"].to_pylist()) == {"fr"}
    assert table["context"][0].as_py() == "La toux sèche est traitée par l’ acide doux ."
    assert _seen(read_quaero(_zip(tmp_path), "EMEA")) == EMEA
    assert _seen(read_quaero(_zip(tmp_path), "MEDLINE")) == MEDLINE


def test_folder_and_zip_give_same_mentions(tmp_path):
    with zipfile.ZipFile(_zip(tmp_path)) as archive:
        archive.extractall(tmp_path / "out")
    for path in (
        tmp_path / "out",
        tmp_path / "out" / "QUAERO_FrenchMed",
        tmp_path / "out" / "QUAERO_FrenchMed" / "corpus",
    ):
        assert read_quaero(path).equals(read_quaero(_zip(tmp_path)))


def test_offsets_survive_tsv_round_trip(tmp_path):
    write_mentions(read_quaero(_zip(tmp_path)).select(SCHEMA.names), tmp_path / "m.tsv")
    for row in read_mentions(tmp_path / "m.tsv").to_pylist():
        if row["start"] is not None and row["mention"] != "toux traitée":
            assert row["context"][row["start"] : row["end"]] == row["mention"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {f"{ROOT}/test/EMEA/9_2.ann": b"T1\tDISO 6 10 toux\n"},
            r"zip/QUAERO_FrenchMed/corpus/test/EMEA/9_2\.ann:1: expected T1<tab>TYPE",
        ),
        ({f"{ROOT}/test/EMEA/9_2.txt": None}, r"9_2\.txt: expected QUAERO_FrenchMed/corpus/test/.*found no such file"),
        ({f"{ROOT}/test/EMEA/9_2.txt": b"\xe9"}, r"9_2\.txt: expected UTF-8, found byte 0xe9"),
        (
            {name: None for name in FILES if "/test/" in name},
            "expected QUAERO_FrenchMed/corpus/test/.* with UMLS CUIs .*found 0 mentions",
        ),
        (
            {name: re.sub(rb"C([0-9])", rb"M\1", content) for name, content in FILES.items()},
            "found 9 mentions and no such concept",
        ),
        (
            {f"{ROOT}/test/{name}.txt": b"Autre texte." for name in ("EMEA/9_2", "MEDLINE/100")},
            "whose offsets match the texts; found 0 of 9",
        ),
    ],
)
def test_wrong_content_is_reported(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        read_quaero(_zip(tmp_path, changes))
