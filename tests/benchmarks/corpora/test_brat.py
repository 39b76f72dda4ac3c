"""brat's standoff format, compared with a naive reader; unusual and malformed lines by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.corpora.brat import parse_brat, parse_spans, split_pieces
from benchmarks.corpora.corpus import document_variants, locate
from xsap.errors import DataError

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
