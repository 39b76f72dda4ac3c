"""Workbooks for review: what people do to them in openpyxl, which stands for their spreadsheet program, is read back, and nothing else changes."""

import random
from dataclasses import replace
from pathlib import Path

import openpyxl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fixtures.examples import examples
from xsap.errors import ConfigError, DataError
from xsap.exchange.mapping import Equivalence, MappedConcept, Mapping, Signature, Status
from xsap.exchange.review_workbook import read_identity, read_workbook, write_workbook
from xsap.linking.results import Candidate
from xsap.tabular import workbook_writer

CODES = [
    "007",
    "1/2",
    "=1+1",
    "MARCH1",
    "12E5",
    "386661006386661006",
    "-",
    "'x",
    "00:30",
    "TRUE",
    "+49",
    "@a",
    "",
    " 7 ",
    "_x0041_",
]
FEVER = Candidate("HP:1", "Fever", "Fieber", 0.97, "de", "HP", ("T184",), ("HP:1", "MSH:D5"), 0.9)
COUGH = Candidate("HP:2", "=Cough\n1", "x", 0.5)


def term(code="1", name="Fieber", **fields):
    concept = (MappedConcept("HP:1", "Fever", "HP", "HP:1", "T184"),)
    return Mapping(code, name, **{"targets": concept, "candidates": (FEVER, COUGH), "score": 0.97, **fields})


def written(folder: Path, mappings, **identity) -> Path:
    file = folder / "review.xlsx"
    write_workbook(mappings, file, identity=identity)
    return file


def edit(file: Path, change) -> Path:
    """A copy that `change` edited: it gets the sheet and a function (row, column name, value)."""
    book = openpyxl.load_workbook(file)
    sheet = book["review"]

    def put(row, column, value):
        at = [cell.value for cell in sheet[1]].index(column) + 1
        sheet.cell(row, at).value = value

    change(sheet, put)
    edited = file.with_name("edited.xlsx")
    book.save(edited)
    return edited


def error_of(folder: Path, mappings, change) -> str:
    with pytest.raises(DataError) as error:
        read_workbook(edit(written(folder, mappings), change))
    return str(error.value)


# Nothing is lost

TEXT = st.text(st.characters(codec=None, exclude_categories=[]), max_size=12) | st.sampled_from(CODES)
SIGNATURES = st.builds(Signature, TEXT, st.integers(0, 2**45))
CANDIDATES = st.builds(
    Candidate, TEXT, TEXT, TEXT, st.floats(-1, 1), st.sampled_from(["de", "und"]), TEXT, st.lists(TEXT, max_size=2).map(tuple),
    st.lists(TEXT, max_size=2).map(tuple), st.none() | st.floats(0, 1), st.sampled_from(["exact", "similar"]),
)  # fmt: skip
MAPPINGS = st.lists(
    st.builds(
        Mapping, TEXT, TEXT,
        targets=st.lists(st.builds(MappedConcept, TEXT, TEXT, TEXT, TEXT, TEXT, TEXT), max_size=2).map(tuple),
        status=st.sampled_from(Status), equivalence=st.sampled_from(Equivalence), language=st.sampled_from(["de", "und"]),
        frequency=st.none() | st.integers(-1, 2**40), columns=st.dictionaries(TEXT | st.sampled_from(["row", "Status"]), TEXT, max_size=3),
        score=st.none() | st.floats(allow_nan=False), confidence=st.none() | st.floats(0, 1),
        candidates=st.lists(CANDIDATES, max_size=3).map(tuple), created=SIGNATURES, decided=SIGNATURES, confirmed=SIGNATURES,
        assigned_reviewer=TEXT, comment=TEXT,
    ),
    max_size=5,
)  # fmt: skip


@given(MAPPINGS)
@settings(max_examples=examples(20), deadline=None, suppress_health_check=list(HealthCheck))
def test_workbook_without_edits_gives_back_the_mappings(tmp_path, mappings):
    file = written(tmp_path, mappings, index="1a2b", file="terms.xlsx")
    assert read_workbook(file) == mappings
    assert read_workbook(edit(file, lambda sheet, put: None)) == mappings
    assert read_identity(file) == {"index": "1a2b", "file": "terms.xlsx"}


WORDS = {status: status.value.replace("_", " ") for status in Status}


@given(st.lists(st.tuples(st.sampled_from(CODES), st.sampled_from(["approve", "second", "other", "none", "flag", "note", "nothing"])), min_size=1, max_size=12), st.randoms())  # fmt: skip
@settings(max_examples=examples(12), deadline=None, suppress_health_check=list(HealthCheck))
def test_decisions_of_a_person_are_read_whatever_the_order_of_rows(tmp_path, actions, chance):
    """The oracle is the list of actions; rows are put into any order, a column is moved to the end, another is added."""
    mappings = [term(code, f"term {i} {code}", columns={"ward": code}) for i, (code, _) in enumerate(actions)]

    def change(sheet, put):
        for row, (_, action) in enumerate(actions, start=2):
            labels = [sheet.cell(row, at).value for at in range(1, sheet.max_column + 1) if str(sheet.cell(1, at).value).startswith("candidate_")]  # fmt: skip
            cells = {
                "approve": {"status": "Approved ", "equivalence": "equal", "reviewer": "ann"},
                "second": {"status": "approved", "chosen": labels[1], "reviewer": "ann"},
                "other": {"status": "approved", "other_concept_id": "0012|HP:1", "chosen": None},
                "none": {"status": "no match"},
                "flag": {"status": "FLAGGED", "comment": "=1+1?"},
                "note": {"comment": "look\nagain"},
                "nothing": {},
            }[action]
            for column, value in cells.items():
                put(row, column, value)
        rows = [[cell.value for cell in row] for row in sheet.iter_rows()]
        body = rows[1:]
        chance.shuffle(body)
        rows = [
            [*row[1:], row[0], extra] for row, extra in zip([rows[0], *body], ["mine", *"x" * len(body)], strict=True)
        ]
        sheet.delete_rows(1, sheet.max_row)
        for at, row in enumerate(rows, start=1):
            for place, value in enumerate(row, start=1):
                cell = sheet.cell(at, place, value)
                cell.data_type = "s" if isinstance(value, str) else cell.data_type  # as in a cell formatted as text

    edited = edit(written(tmp_path, mappings), change)
    saved = int(edited.stat().st_mtime * 1000)
    fever, cough = mappings[0].targets[0], MappedConcept.from_candidate(COUGH)
    by = Signature("ann", saved)
    results = {
        "approve": {"status": Status.APPROVED, "equivalence": Equivalence.EQUAL, "decided": by},
        "second": {"status": Status.APPROVED, "targets": (cough,), "decided": by},
        "other": {"status": Status.APPROVED, "targets": (MappedConcept("0012"), fever), "decided": Signature("", saved)},
        "none": {"status": Status.NO_MATCH, "targets": (), "equivalence": Equivalence.UNMATCHED, "decided": Signature("", saved)},
        "flag": {"status": Status.FLAGGED, "comment": "=1+1?", "decided": Signature("", saved)},
        "note": {"comment": "look\nagain"},
        "nothing": {},
    }  # fmt: skip
    expected = [replace(mapping, **results[action]) for mapping, (_, action) in zip(mappings, actions, strict=True)]
    assert read_workbook(edited) == expected


def test_deleted_rows_keep_their_mappings_and_are_said(tmp_path, caplog):
    mappings = [term(str(i), f"term {i}") for i in range(5)]
    with caplog.at_level("INFO", "xsap"):
        read = read_workbook(edit(written(tmp_path, mappings), lambda sheet, put: sheet.delete_rows(3, 2)))
    assert read == mappings
    assert "5 rows, 0 of them changed by review; rows deleted, their mappings left as they were: 2" in caplog.text


def test_changed_decision_is_no_longer_confirmed_by_the_second_reviewer(tmp_path):
    done = term(status=Status.APPROVED, decided=Signature("ann", 5), confirmed=Signature("bo", 6))
    flagged = read_workbook(edit(written(tmp_path, [done]), lambda sheet, put: put(2, "status", "flagged")))
    assert flagged[0].confirmed == Signature()
    assert flagged[0].decided.by == "ann"
    noted = read_workbook(edit(written(tmp_path, [done]), lambda sheet, put: put(2, "comment", "ok")))
    assert noted == [replace(done, comment="ok")]
    confirmed = edit(written(tmp_path, [replace(done, confirmed=Signature())]), lambda sheet, put: put(2, "second_reviewer", "cy"))  # fmt: skip
    assert read_workbook(confirmed)[0].confirmed.by == "cy"
    assert read_workbook(confirmed)[0].decided == done.decided


# What spreadsheets could change


def test_codes_are_text_and_what_a_spreadsheet_makes_of_them_does_not_count(tmp_path):
    mappings = [term(code, f"term {i}") for i, code in enumerate(CODES)]
    file = written(tmp_path, mappings)
    sheet = openpyxl.load_workbook(file)["review"]
    shown = [(cell.value, cell.data_type, cell.number_format) for cell in sheet["B"][1:]]
    in_file = [code.replace("_x", "_x005F_x") for code in CODES]  # openpyxl shows escapes as they are in the file
    assert shown == [(code, "s", "@") if code else (None, "n", "General") for code in in_file]

    def change(sheet, put):
        for row in range(2, len(CODES) + 2):
            put(row, "source_code", 7)
            put(row, "candidate_1", "#NAME?")
            put(row, "score", "9,7E-01")
            put(row, "status", "approved")

    assert [each.source_code for each in read_workbook(edit(file, change))] == CODES


def test_no_cell_is_a_formula_or_a_link(tmp_path):
    hostile = ["=HYPERLINK(\"http://x.org\")", "https://x.org", "<r>x</r>", "{=1}", "@SUM(A1)", "\t=1", "<img src=x onerror=y>", "\u202eabc", "x" * 40_000]  # fmt: skip
    candidate = replace(FEVER, name=hostile[0], concept_id=hostile[4])
    mappings = [term(text, text, comment=text, columns={text: text}, candidates=(candidate,)) for text in hostile]
    file = written(tmp_path, mappings)
    for sheet in openpyxl.load_workbook(file).worksheets:
        cells = [cell for row in sheet.iter_rows() for cell in row]
        assert {cell.data_type for cell in cells} <= {"s", "n"}
        assert not any(cell.hyperlink for cell in cells)
    assert read_workbook(file) == mappings


def test_sheet_for_people_has_drop_downs_a_frozen_header_and_a_filter(tmp_path):
    book = openpyxl.load_workbook(written(tmp_path, [term("1"), term("2"), term("3")]))
    sheet = book["review"]
    header = [cell.value for cell in sheet[1]]
    rules = {str(rule.sqref): rule.formula1 for rule in sheet.data_validations.dataValidation}
    assert rules == {
        "D2:D4": '"unreviewed,approved,flagged,no match,rejected"',
        "E2:E4": "$M2:$N2",
        "G2:G4": '"equal,equivalent,wider: the concept is broader,narrower: the concept is narrower,inexact,unmatched,unreviewed"',
    }
    assert [header[3], header[4], header[6], header[12], header[13]] == [
        "status",
        "chosen",
        "equivalence",
        "candidate_1",
        "candidate_2",
    ]
    assert (
        sheet.cell(2, 5).value
        == sheet.cell(2, 13).value
        == "1: Fever | HP:1 | 'Fieber' (de) | 0.970 | T184 | HP:1 | MSH:D5"
    )
    assert (sheet.freeze_panes, sheet.auto_filter.ref) == ("D2", "A1:P4")
    assert book["xsap"].sheet_state == "veryHidden"
    assert book.active.title == "review"


# Refusals


def test_unknown_words_are_refused_with_their_row(tmp_path):
    text = error_of(tmp_path, [term(), term("2", "Husten")], lambda sheet, put: put(3, "status", "aproved"))
    assert text.endswith(
        "row 3: expected a word of the drop-down in 'status', found 'aproved'; did you mean 'approved'?"
    )
    assert "found 'maybe'; choose one of: equal, equivalent" in error_of(
        tmp_path, [term()], lambda sheet, put: put(2, "equivalence", "maybe")
    )
    text = error_of(tmp_path, [term()], lambda sheet, put: put(2, "chosen", "Fever"))
    assert "expected a candidate from 1 to 2 in 'chosen', found 'Fever'; write the id of any other concept" in text


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"status": "approved", "chosen": None}, "expected a concept in a row with the status 'approved', found none"),
        ({"status": "no match", "chosen": 2}, "expected no concept in a row with the status 'no match', found 'HP:2'"),
        ({"status": "approved", "chosen": 2, "other_concept_id": "X"}, "in 'other_concept_id', found both ('X'); empty one"),
        ({"equivalence": "unmatched"}, "expected another equivalence in a row with a concept, found 'unmatched'"),
        ({"source_name": "Husten"}, "expected the source_name 'Fieber' beside the number 1, found 'Husten'; sort whole rows"),
        ({"row": 9}, "expected a number from 1 to 2 in the column 'row', found '9'"),
        ({"row": None}, "expected a number from 1 to 2 in the column 'row', found ''"),
        ({"row": 2, "source_name": "Angst", "status": "flagged"}, "rows 2 and 3: expected one decision on number 2, found two"),
    ],
)  # fmt: skip
def test_contradictions_are_refused_with_their_row(tmp_path, cells, message):
    def change(sheet, put):
        for column, value in cells.items():
            put(2, column, value)

    text = error_of(tmp_path, [term(), term("2", "Angst")], change)
    assert message in text
    assert "\n" not in text


def test_names_sorted_without_their_rows_are_refused(tmp_path):
    mappings = [term(str(i), name) for i, name in enumerate("abcdefgh")]

    def change(sheet, put):
        for row, name in enumerate("hgfedcba", start=2):
            put(row, "source_name", name)

    text = error_of(tmp_path, mappings, change)
    assert text.count("sort whole rows") == 5
    assert text.endswith("(and 3 more rows)")


@pytest.mark.parametrize("damage", ["text", "row", "sheet", "end"])
def test_changed_hidden_sheet_is_refused(tmp_path, damage):
    file = written(tmp_path, [term(), term("2", "Angst")])
    book = openpyxl.load_workbook(file)
    data = book["xsap"]
    if damage == "text":
        data["B2"] = data["B2"].value.replace("Fieber", "Feuer")
    elif damage == "row":
        data.delete_rows(2)
    elif damage == "end":
        data.delete_rows(4)
    else:
        del book["xsap"]
    book.save(file)
    with pytest.raises(DataError, match="hidden sheet 'xsap'|a sheet 'xsap'"):
        read_workbook(file)


def test_rows_of_ones_own_without_a_decision_are_no_fault(tmp_path):
    def change(sheet, put):
        sheet.append([None, None, "total: 2"])

    assert read_workbook(edit(written(tmp_path, [term()]), change)) == [term()]


def test_more_rows_than_a_sheet_has_are_refused_before_writing(tmp_path, monkeypatch):
    monkeypatch.setattr(workbook_writer, "MAX_ROWS", 3)
    with pytest.raises(ConfigError, match="expected at most 2 rows"):
        written(tmp_path, [term()] * 3)
    assert list(tmp_path.iterdir()) == []


def test_workbook_is_the_same_for_equal_mappings(tmp_path):
    (tmp_path / "b").mkdir()
    mappings = [term(str(random.Random(i).random()), f"term {i}") for i in range(20)]
    assert written(tmp_path, mappings).read_bytes() == written(tmp_path / "b", mappings).read_bytes()


def test_candidate_that_is_chosen_brings_its_vocabulary_and_code(tmp_path):
    cough = replace(COUGH, vocabulary="HP", code="HP:2", semantic_types=("T184", "T033"))
    [read] = read_workbook(
        edit(written(tmp_path, [term(candidates=(FEVER, cough))]), lambda sheet, put: put(2, "chosen", 2))
    )
    assert read.targets == (MappedConcept("HP:2", "=Cough\n1", "HP", "HP:2", "T184"),)
    assert read.status is Status.UNREVIEWED


def test_another_ending_than_xlsx_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"must end in \.xlsx, found .*w\.csv"):
        write_workbook([term()], tmp_path / "w.csv")
