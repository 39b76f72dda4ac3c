"""brat's standoff format, compared with a naive reader; unusual and malformed lines by hand."""

import re
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.corpora.bronco import read_bronco
from benchmarks.corpora.mantra import read_mantra
from benchmarks.corpora.quaero import read_quaero
from xsap.errors import DataError
from xsap.terms.brat import parse_brat, parse_spans, split_pieces
from xsap.terms.corpus import document_variants, locate
from xsap.terms.mentions import SCHEMA, read_mentions, write_mentions

ODD = (
    "T1\tDISO 3 10;14 19\tdouleur aiguë\r\n"
    "#1\tAnnotatorNotes T1\tC0000001 C0000002\r\n"
    "#2\tAnnotatorNotes T1\tC0000003 \n"
    "T2\tCHEM 10 14\t acide\n"  # the text begins with the space that the annotation took in
    "R1\tOVERLAP Arg1:T1 Arg2:T2\n"
    "#3\tAnnotatorNotes R1\tcontain\n"
    "E1\tDISO:T1\n"
    "A1\tNegation T1\n"
    "M1\tNegation T1\n"
    "*\tEquiv T1 T2\n"
    "\n"
    "N1\tReference T2 ATC:N02BA01\tAcetyl: salicylic acid\n"
    "N2\tReference T2 ATC:N02BA51\n"
    "#4\tAnnotatorNotes T10\t\n"
    "T10\tLIVB 30 32\tun \n"
)


def test_annotations_have_their_notes_and_references():
    assert [tuple(one) for one in parse_brat(ODD, "x")] == [
        (1, "DISO", "douleur aiguë", [(3, 10), (14, 19)], ["douleur", "aiguë"], ["C0000001 C0000002", "C0000003"], []),
        (4, "CHEM", "acide", [(10, 14)], [" acide"], [], ["ATC:N02BA01", "ATC:N02BA51"]),
        (15, "LIVB", "un", [(30, 32)], ["un "], [""], []),
    ]


WORDS = st.lists(st.text(st.sampled_from("abéß'-"), min_size=1, max_size=5), min_size=1, max_size=12)


@st.composite
def annotated(draw):
    """A document and its annotations as brat writes them: pieces in order, each within the text, line ends written as spaces."""
    document = ""
    for word in draw(WORDS):
        document += word + draw(st.sampled_from([" ", "\n", "  ", "\u00a0", ""]))
    annotations = []
    for _ in range(draw(st.integers(0, 4))):
        cuts = sorted(draw(st.sets(st.integers(0, len(document)), min_size=2, max_size=6)))
        spans = list(zip(cuts[::2], cuts[1::2], strict=False))
        if "".join(document[start:end] for start, end in spans).strip():
            annotations.append(
                (
                    draw(st.sampled_from(["DISO", "a_B-9"])),
                    spans,
                    draw(st.lists(st.sampled_from(["C1", "x y", ""]), max_size=2)),
                )
            )
    return document, annotations


def _written(document, annotations):
    lines = []
    for number, (kind, spans, notes) in enumerate(annotations, start=1):
        quoted = " ".join(document[start:end] for start, end in spans).replace("\n", " ")
        lines.append(f"T{number}\t{kind} {';'.join(f'{start} {end}' for start, end in spans)}\t{quoted}")
        lines += [f"#{number}\tAnnotatorNotes T{number}\t{note}" for note in notes]
    return "".join(line + "\n" for line in lines)


def _naively(text):
    out = {}
    for line in text.splitlines():
        first, second, third = line.split("\t")
        if first[0] == "T":
            kind, _, spans = second.partition(" ")
            out[first] = [
                kind,
                " ".join(third.split()),
                [tuple(int(at) for at in span.split()) for span in spans.split(";")],
                [],
            ]
        else:
            out[second.split()[1]][3].append(third)
    return list(out.values())


@given(annotated())
def test_parse_brat_matches_naive_reader_and_pieces_are_located(case):
    document, annotations = case
    text = _written(document, annotations)
    found = parse_brat(text, "x")
    assert [[one.type, one.mention, one.spans, one.notes] for one in found] == _naively(text)
    documents = document_variants(document)
    for one in found:
        start, end = locate(documents, one.spans, one.pieces)
        if all(document[left:right].strip() for left, right in one.spans):
            covered = document[one.spans[0][0] : one.spans[-1][1]]
            assert documents[0].context[start:end] == " ".join(covered.split())
        else:  # a piece of white space has no location
            assert (start, end) == (None, None)


def test_spans_and_pieces_are_split():
    assert parse_spans("12 20;25 30") == [(12, 20), (25, 30)]
    assert parse_spans("25 30;12 20") == [(25, 30), (12, 20)]
    assert [
        parse_spans(text)
        for text in ("", "12", "12 20;", "12  20", "a b", "12 20 25 30", "1 " + "9" * 5000, "-1 3", "١ ٢")
    ] == [None] * 9
    assert split_pieces("ab cde", [(0, 2), (7, 10)]) == ["ab", "cde"]
    assert split_pieces("ab  cde", [(0, 2), (7, 10)]) == split_pieces("ab cd", [(0, 2), (7, 10)]) == []
    assert split_pieces("quoted otherwise", [(0, 2)]) == ["quoted otherwise"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("T2\tDISO 0 4 toux", r"x\.ann:2: expected T1<tab>TYPE start end.* found 'T2"),
        ("T2\tDISO\ttoux", "expected T1<tab>TYPE"),
        ("T2\tDISO 0 4\t ", "expected T1<tab>TYPE"),
        ("T2\tDISO 0 4;\ttoux", "expected T1<tab>TYPE"),
        ("T1\tCHEM 0 4\ttoux", "each T once"),
        ("N1\tReference T1 C0000001\ttoux", "or another kind of line that brat writes; found 'N1"),
        (
            "N1\tReference T9 UMLS:C0000001\ttoux",
            r"x\.ann:2: expected a note or a normalization of an annotation of this file; found no T9",
        ),
        ("#1\tAnnotatorNotes T9\tC0000001", r"x\.ann:2: .* found no T9 in it"),
        ("#1 AnnotatorNotes T1 C0000001", "another kind of line"),
        ("Ein Satz.", "another kind of line"),
        ("word\tNN\tO", "another kind of line"),
        ("<collection>", "another kind of line"),
    ],
)
def test_unknown_line_is_reported(line, message):
    with pytest.raises(DataError, match=message):
        parse_brat(f"T1\tDISO 0 4\ttoux\n{line}\n", "x.ann")


# Mantra GSC's brat zip: a fragment in its published layout, hidden files included, and wrong archives.


GERMAN = "Mantra-GSC/German/Medline_EN_DE_ec22-cui-best_man/0292_d3878997.u1"
DUTCH = "Mantra-GSC/Dutch/EMEA_ec22-cui-best_man/0040_d227.u76"
FILES = {
    "Mantra-GSC/": b"",
    "__MACOSX/Mantra-GSC/German/._German": b"\x00\x05\x16\x07",
    f"__MACOSX/{GERMAN}.ann": b"\x00\x05\x16\x07\x00\x02junk",
    f"{GERMAN}.txt": "Über das  Vorkommen in der Augenhöhle eines Fisches.\n".encode(),
    f"{GERMAN}.ann": (
        'T1\tC0029180 27 37\tAugenhöhle\n#1\tAnnotatorNotes T1\t"C0029180", "Ocular orbit", "Body Space or Junction" ,"ANAT"\n'
        'T4\tC1278884 27 37\tAugenhöhle\n#4\tAnnotatorNotes T4\t"C1278884", "Entire orbital region", "Body Location" ,"ANAT"\n'
    ).encode(),
    f"{DUTCH}.txt": b"nier- of leveraandoeningen",
    f"{DUTCH}.ann": b"T2\tC0022658 0 4;14 26\tnier aandoeningen\r\n\r\n",
    "Mantra-GSC/Dutch/EMEA_ec22-cui-best_man/0041_d1.u1.txt": b"Niets.",
    "Mantra-GSC/Dutch/EMEA_ec22-cui-best_man/0041_d1.u1.ann": b"",
}


def _zip(folder, changes=None):
    path = folder / "Mantra-GSC-brat.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (FILES | (changes or {})).items():
            if content is not None:
                archive.writestr(name, content)
    return path


def test_annotations_become_located_mentions(tmp_path):
    rows = read_mantra(_zip(tmp_path)).to_pylist()
    keys = ("mention", "language", "concept_ids", "document_id", "start", "end")
    assert [tuple(row[key] for key in keys) for row in rows] == [
        ("nier aandoeningen", "nl", ["C0022658"], "EMEA/0040_d227.u76", 0, 26),
        ("Augenhöhle", "de", ["C0029180"], "Medline_EN_DE/0292_d3878997.u1", 26, 36),
        ("Augenhöhle", "de", ["C1278884"], "Medline_EN_DE/0292_d3878997.u1", 26, 36),
    ]
    assert rows[1]["context"] == "Über das Vorkommen in der Augenhöhle eines Fisches."


def test_offsets_survive_tsv_round_trip(tmp_path):
    write_mentions(read_mantra(_zip(tmp_path)), tmp_path / "m.tsv")
    row = read_mentions(tmp_path / "m.tsv").to_pylist()[1]
    assert row["context"][row["start"] : row["end"]] == row["mention"] == "Augenhöhle"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {f"{DUTCH}.ann": b"T2\tC0022658 0 4\tnier\nT3\tC0022658 0 4 nier\n"},
            r"0040_d227\.u76\.ann:2: expected T1<tab>TYPE start end",
        ),
        (
            {f"{DUTCH}.ann": b"T2\tDISO 0 4\tnier\n"},
            r"\.ann:1: expected a CUI as the type of the annotation; found 'DISO'",
        ),
        ({f"{DUTCH}.ann": b"nier\n"}, r"\.ann:1: expected T1<tab>TYPE .* or another kind of line"),
        (
            {f"{DUTCH}.ann": b"T2\tC0022658 1 5\tnier\n"},
            r"\.ann:1: expected 'nier' at 1 5 in the text, found something else",
        ),
        ({f"{DUTCH}.ann": b"T2\tC0022658 14 27\taandoeningen\n"}, r"expected 'aandoeningen' at 14 27"),
        ({f"{DUTCH}.txt": None}, r"0040_d227\.u76\.txt: expected .*found no such file"),
        ({f"{DUTCH}.txt": b"ni\xe9r"}, r"\.txt: expected UTF-8, found byte 0xe9; convert"),
        ({"notes/x.ann": b""}, r"notes/x\.ann: expected Mantra-GSC/<Language>/<Corpus>/<unit>\.ann"),
        ({"Mantra-GSC/Klingon/EMEA/x.ann": b""}, r"Klingon/EMEA/x\.ann: unknown language 'Klingon'"),
    ],
)
def test_wrong_file_in_zip_is_reported(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        read_mantra(_zip(tmp_path, changes))


def test_wrong_archive_is_reported_and_folder_is_read(tmp_path):
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(DataError, match="expected a zip file of Mantra-GSC/<Language>"):
        read_mantra(tmp_path / "text.zip")
    with pytest.raises(
        DataError, match="expected Mantra-GSC.* with annotations whose types are CUIs; found 0 mentions"
    ):
        read_mantra(_zip(tmp_path, dict.fromkeys(FILES)))
    with zipfile.ZipFile(_zip(tmp_path)) as archive:
        archive.extractall(tmp_path / "unpacked")
    assert read_mantra(tmp_path / "unpacked" / "Mantra-GSC").equals(read_mantra(_zip(tmp_path)))
    with pytest.raises(DataError, match="found nothing there"):
        read_mantra(tmp_path / "gone.zip")


# BRONCO150's brat files: a fragment in the inferred layout, with unusual lines and wrong content.


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
BRONCO_FILES = {
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
        for name, content in (BRONCO_FILES | (changes or {})).items():
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
        (
            {name: None for name in BRONCO_FILES if name.endswith(".ann")},
            "with codes in normalizations .*found 0 mentions",
        ),
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


# QUAERO's brat files: a fragment in its published layout, with unusual lines and wrong content.


ROOT = "QUAERO_FrenchMed/corpus"
QUAERO_FILES = {
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


def _quaero_zip(folder, changes=None):
    path = folder / "QUAERO_FrenchMed_brat.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (QUAERO_FILES | (changes or {})).items():
            if content is not None:
                archive.writestr(name, content)
    return path


def _quaero_seen(table):
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
    table = read_quaero(_quaero_zip(tmp_path))
    assert table.schema.names == [*SCHEMA.names, "groups"]
    assert _quaero_seen(table) == EMEA + MEDLINE
    assert set(table["language"].to_pylist()) == {"fr"}
    assert table["context"][0].as_py() == "La toux sèche est traitée par l’ acide doux ."
    assert _quaero_seen(read_quaero(_quaero_zip(tmp_path), "EMEA")) == EMEA
    assert _quaero_seen(read_quaero(_quaero_zip(tmp_path), "MEDLINE")) == MEDLINE


def test_folder_and_zip_give_same_mentions(tmp_path):
    with zipfile.ZipFile(_quaero_zip(tmp_path)) as archive:
        archive.extractall(tmp_path / "out")
    for path in (
        tmp_path / "out",
        tmp_path / "out" / "QUAERO_FrenchMed",
        tmp_path / "out" / "QUAERO_FrenchMed" / "corpus",
    ):
        assert read_quaero(path).equals(read_quaero(_quaero_zip(tmp_path)))


def test_quaero_offsets_survive_tsv_round_trip(tmp_path):
    write_mentions(read_quaero(_quaero_zip(tmp_path)).select(SCHEMA.names), tmp_path / "m.tsv")
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
            {name: None for name in QUAERO_FILES if "/test/" in name},
            "expected QUAERO_FrenchMed/corpus/test/.* with UMLS CUIs .*found 0 mentions",
        ),
        (
            {name: re.sub(rb"C([0-9])", rb"M\1", content) for name, content in QUAERO_FILES.items()},
            "found 9 mentions and no such concept",
        ),
        (
            {f"{ROOT}/test/{name}.txt": b"Autre texte." for name in ("EMEA/9_2", "MEDLINE/100")},
            "whose offsets match the texts; found 0 of 9",
        ),
    ],
)
def test_quaero_wrong_content_is_reported(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        read_quaero(_quaero_zip(tmp_path, changes))
