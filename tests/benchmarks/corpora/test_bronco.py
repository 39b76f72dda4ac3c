"""BRONCO150's brat files: a fragment in the inferred layout, with unusual lines and wrong content."""

import zipfile

import pytest

from benchmarks.corpora.bronco import read_bronco
from xsap.errors import DataError
from xsap.terms.mentions import SCHEMA

TEXT = "Kein Satz .\nKein  Anhalt für Leber - und Knochenherde .\nGabe von Testamab 50 mg .\n"


def _at(*words):
    return ";".join(f"{TEXT.index(one)} {TEXT.index(one) + len(one)}" for one in words)


ANN = (
    f"T1\tDIAGNOSIS {_at('Knochenherde')}\tKnochenherde\nN1\tNormalization T1 ICD10GM2017:C79,5+\tHerde: im Knochen\n"
    "A1\tLevelOfTruth T1 negative\nA2\tLocalisation T1 R\n"
    f"T2\tDIAGNOSIS {_at('Leber', 'herde')}\tLeber herde\nN2\tNormalization T2 ICD10GM:C78.7,C22.0\t\n"
    f"T3\tMEDICATION {_at('Testamab')}\tTestamab\nN3\tNormalization T3 ATC:L01XC99\tTestamab\n"
    f"T4\tTREATMENT {_at('Gabe von')}\tGabe von\nN4\tNormalization T4 OPS2017:8-542,0\t\nN5\tNormalization T4 OPS:6-001,8-543.1\t\n"
    f"T5\tOTHER {_at('50 mg')}\t50 mg\nN6\tNormalization T5 ATC:nan\t\n"
    f"T6\tDIAGNOSIS {_at('Anhalt')}\tAnhalts\n"
    f"T7\tDIAGNOSIS {_at('Satz', 'Leber')}\tSatz Leber\nN7\tNormalization T7 ICD10GM:K76.9\t\n"  # in two sentences
)
FILES = {
    "BRONCO150/bratFiles/randomSentSet1.ann": ANN,
    "BRONCO150/textFiles/randomSentSet1.txt": TEXT,
    "BRONCO150/bratFiles/randomSentSet2.ann": "T1\tDIAGNOSIS 0 6\tHusten\nN1\tNormalization T1 ICD10GM:R05\tHusten\n",
    "BRONCO150/textFiles/randomSentSet2.txt": "anderswo",
    "BRONCO150/bratFiles/randomSentSet2.txt": "Husten",  # beside it, so it comes first
    "BRONCO150/conllIOBTags/randomSentSet1.CONLL": "Kein\tPIAT\tO\n",
}
SENTENCES = [" ".join(line.split()) for line in TEXT.splitlines()]


def _publish(folder, changes=None):
    with zipfile.ZipFile(folder / "b.zip", "w") as archive:
        for name, content in (FILES | (changes or {})).items():
            if content is not None:
                archive.writestr(name, content.encode())
    with zipfile.ZipFile(folder / "b.zip") as archive:
        archive.extractall(folder / "b")
    return folder / "b.zip", folder / "b"


def _seen(table):
    keys = ("mention", "concept_ids", "groups", "document_id", "context", "start", "end")
    return [tuple(row[key] for key in keys) for row in table.to_pylist()]


EXPECTED = [
    ("Knochenherde", ["ICD10GM:C79.5"], ["DISO"], "randomSentSet1/2", SENTENCES[1], 28, 40),
    ("Leber herde", ["ICD10GM:C78.7", "ICD10GM:C22.0"], ["DISO"], "randomSentSet1/2", SENTENCES[1], 16, 40),
    ("Testamab", ["ATC:L01XC99"], ["CHEM"], "randomSentSet1/3", SENTENCES[2], 9, 17),
    ("Gabe von", ["OPS:8-542.0", "OPS:6-001", "OPS:8-543.1"], ["PROC"], "randomSentSet1/3", SENTENCES[2], 0, 8),
    ("50 mg", [], [], "randomSentSet1/3", SENTENCES[2], 18, 23),
    ("Anhalts", [], ["DISO"], "randomSentSet1", None, None, None),
    ("Satz Leber", ["ICD10GM:K76.9"], ["DISO"], "randomSentSet1/1", f"{SENTENCES[0]} {SENTENCES[1]}", 5, 33),
    ("Husten", ["ICD10GM:R05"], ["DISO"], "randomSentSet2/1", "Husten", 0, 6),
]


def test_mentions_have_sentence_as_context(tmp_path):
    tables = [read_bronco(path) for path in _publish(tmp_path)]
    assert tables[0].equals(tables[1])
    assert tables[0].schema.names == [*SCHEMA.names, "groups"]
    assert _seen(tables[0]) == EXPECTED
    assert set(tables[0]["language"].to_pylist()) == {"de"}


def test_crlf_texts_give_same_locations(tmp_path):
    assert (
        _seen(
            read_bronco(_publish(tmp_path, {"BRONCO150/textFiles/randomSentSet1.txt": TEXT.replace("\n", "\r\n")})[0])
        )
        == EXPECTED
    )


FIRST = "BRONCO150/bratFiles/randomSentSet1.ann"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({FIRST: "T1\tDIAGNOSIS 0 4 Kein\n"}, r"bratFiles/randomSentSet1\.ann:1: expected T1<tab>TYPE"),
        (
            {FIRST: "\nT1\tDIAGNOSIS 0 4\tKein\nN1\tReference T1 UMLS:C1\t\n"},
            r"randomSentSet1\.ann:2: expected normalizations such as ICD10GM:C22\.0",
        ),
        (
            {"BRONCO150/textFiles/randomSentSet1.txt": None},
            r"textFiles/randomSentSet1\.txt: expected bratFiles/.*found no such file",
        ),
        ({"BRONCO150/textFiles/randomSentSet1.txt": "Anderer Text."}, "whose offsets match the texts; found 1 of 8"),
        ({name: None for name in FILES if name.endswith(".ann")}, "with codes in normalizations .*found 0 mentions"),
        (
            {FIRST: "T1\tDIAGNOSIS 0 4\tKein\n", FIRST.replace("Set1", "Set2"): ""},
            "found 1 mentions and no such concept",
        ),
    ],
)
def test_wrong_content_is_reported(tmp_path, changes, message):
    for path in _publish(tmp_path, changes):
        with pytest.raises(DataError, match=message):
            read_bronco(path)
