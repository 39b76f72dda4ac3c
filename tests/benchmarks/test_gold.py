"""What corpora say of a mention beside its text, as tables of cells; and places in a document, against plain slicing."""

import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from benchmarks.corpora.corpus import Document, Row, gives_ancestors, groups_of, ids_in, to_table
from xsap.terms.mentions import SCHEMA


@pytest.mark.parametrize(
    ("cell", "ids"),
    [
        ("D003924", ["D003924"]),
        (" C0011849 ", ["C0011849"]),
        ("UMLS:C0011849", ["C0011849"]),
        ("MESH:D003924", ["D003924"]),
        ("mesh:D003924", ["D003924"]),
        ("OMIM:222100", ["OMIM:222100"]),
        ("D003924|D006973", ["D003924", "D006973"]),
        ("D003924+D006973", ["D003924", "D006973"]),
        ("MESH:D000001+D000002", ["D000001", "D000002"]),
        ("MESH:D000001,MESH:D000002", ["D000001", "D000002"]),
        ("D000001|OMIM:222100", ["D000001", "OMIM:222100"]),
        ("D000001|D000002+D000001", ["D000001", "D000002"]),
        ("1234;5678", ["1234", "5678"]),
        ("A39.2+", ["A39.2+"]),
        ("D000001|", ["D000001"]),
        ("D000001|-1", ["D000001"]),
        ("HP:0001250", ["HP:0001250"]),
        *(
            (none, [])
            for none in (
                "",
                " ",
                "-",
                "-1",
                "cui-less",
                "CUI-less",
                "CUI_less",
                "CONCEPT_LESS",
                "NULL",
                "None",
                "nan",
                "MESH:",
                "|",
            )
        ),
    ],
)
def test_a_cell_of_identifiers(cell, ids):
    assert ids_in(cell) == ids


@pytest.mark.parametrize(
    ("classes", "ancestors", "groups"),
    [
        (["T116", "T123"], False, ["CHEM"]),
        (["T047", "T033", "T121"], False, ["DISO", "CHEM"]),
        (["T038"], False, ["PHEN"]),
        (["T038"], True, []),
        (["T017", "T033", "T082", "T103"], True, ["CHEM"]),
        (["UnknownType"], False, []),
        (["DISO"], False, ["DISO"]),
        (["SpecificDisease"], False, ["DISO"]),
        ([" Chemical"], False, ["CHEM"]),
        (["Gene"], False, []),
        (["-1"], False, []),
        ([], False, []),
    ],
)
def test_classes_become_groups(classes, ancestors, groups):
    assert groups_of(classes, ancestors=ancestors) == groups


def test_only_the_prefix_of_st21pv_says_that_types_are_ancestors():
    assert [gives_ancestors(cell) for cell in ("UMLS:C0000001", "C0000001", "MESH:D1", "")] == [
        True,
        False,
        False,
        False,
    ]


def test_rows_become_a_table_of_mentions_with_groups_where_they_are_wanted():
    rows = [Row("a", "en", ["1"], "a b", 0, 1, "d", ["DISO"]), Row("b", "fr", [])]
    table = to_table(rows, with_groups=True)
    assert table.schema.equals(SCHEMA.append(pa.field("groups", pa.list_(pa.string()))))
    assert table.to_pylist()[1] == {
        "mention": "b", "language": "fr", "concept_ids": [], "context": None, "start": None, "end": None, "document_id": None, "groups": [],
    }  # fmt: skip
    assert to_table(rows, with_groups=False).schema == SCHEMA


# Places


@given(st.text(alphabet="ab \t\u00a0é\n", max_size=30), st.integers(-2, 32), st.integers(-2, 32))
def test_a_span_that_says_its_piece_is_found_in_the_context(text, start, end):
    piece = text[start:end] if 0 <= start < end <= len(text) else ""
    document = Document.of(text)
    first, last = document.place([(start, end)], [piece])
    assert document.context == " ".join(text.split())
    if piece.strip():
        assert document.context[first:last] == " ".join(piece.split())
    else:
        assert (first, last) == (None, None)


@given(
    st.text(alphabet="abc ", min_size=5, max_size=30),
    st.text(alphabet="abc", min_size=1, max_size=5),
    st.integers(0, 25),
)
def test_a_span_that_says_something_else_has_no_place(text, piece, start):
    end = start + len(piece)
    assume(text[start:end] != piece)
    assert Document.of(text).place([(start, end)], [piece]) == (None, None)


def test_pieces_case_and_numbers_of_them():
    document = Document.of("Renal  and cardiac\nfailure")
    assert document.place([(0, 5), (19, 26)], ["renal", "FAILURE"]) == (0, 25)
    assert document.place([(19, 26), (0, 5)], ["failure", "Renal"]) == (0, 25)
    assert document.place([(11, 18), (19, 26)], ["cardiac", "kidneys"]) == (None, None)
    assert document.place([(11, 18)], ["cardiac", "failure"]) == document.place([], []) == (None, None)
    assert document.place([(6, 10)], ["and"]) == (6, 9)
    assert Document.of("one two three").place([(3, 8)], ["two"]) == (4, 7)
    assert document.place([(11, 99)], ["cardiac\nfailure"]) == document.place([(-7, 26)], ["failure"]) == (None, None)
